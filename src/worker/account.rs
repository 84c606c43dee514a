//! What one batch did, per source topic: the material of its audit events and metrics.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::audit::{self, AuditRecord, Auditor, Offsets, Processed, Quarantined, ViewCounts};
use crate::kafka::Positions;
use crate::policy::Plan;
use crate::rewrite::{Disposition, Tally};
use crate::telemetry::Metrics;

/// One topic's part of a batch.
pub struct TopicAccount {
    pub topic: String,
    partitions: BTreeMap<i32, Offsets>,
    pub views: Vec<ViewCounts>,
    view_bytes: Vec<u64>,
    pub quarantined: Vec<Quarantined>,
    /// Records of those who are forgotten.
    pub erased: u64,
    pub tally: Tally,
    pub discovered: Vec<String>,
    bytes: u64,
    timestamps_ms: Vec<i64>,
}

impl TopicAccount {
    pub fn new(topic: &str, plan: &Plan) -> Self {
        let views = plan.views.iter();
        TopicAccount {
            topic: topic.to_owned(),
            partitions: BTreeMap::new(),
            views: views
                .map(|view| ViewCounts { view: view.name.clone(), ..ViewCounts::default() })
                .collect(),
            view_bytes: vec![0; plan.views.len()],
            quarantined: Vec::new(),
            erased: 0,
            tally: Tally::new(plan),
            discovered: Vec::new(),
            bytes: 0,
            timestamps_ms: Vec::new(),
        }
    }

    /// A record of the source was dealt with, one way or another.
    pub fn consumed(
        &mut self,
        partition: i32,
        offset: i64,
        bytes: usize,
        timestamp_ms: Option<i64>,
    ) {
        let new = Offsets { partition, first: offset, last: offset, records: 0 };
        let run = self.partitions.entry(partition).or_insert(new);
        run.last = offset;
        run.records += 1;
        self.bytes += bytes as u64;
        self.timestamps_ms.extend(timestamp_ms);
    }

    pub fn viewed(&mut self, view: usize, disposition: Disposition, records: u64, bytes: u64) {
        let (Some(counts), Some(total)) = (self.views.get_mut(view), self.view_bytes.get_mut(view))
        else {
            return;
        };
        match disposition {
            Disposition::Publish => counts.published += 1,
            Disposition::Leave | Disposition::Delete => {
                counts.deleted += 1;
                counts.tombstones += records.saturating_sub(1);
            }
            Disposition::Tombstone => counts.tombstones += records,
            Disposition::Held => counts.held += 1,
            Disposition::Filtered(_) => counts.filtered += 1,
        }
        *total += bytes;
    }

    /// A row of `view` that was held has left: with so many bytes, or suppressed.
    pub fn left(&mut self, view: &str, bytes: Option<u64>) {
        let mut views = self.views.iter_mut().zip(&mut self.view_bytes);
        let Some((counts, total)) = views.find(|(counts, _)| counts.view == view) else { return };
        match bytes {
            Some(bytes) => {
                counts.released += 1;
                *total += bytes;
            }
            None => counts.suppressed += 1,
        }
    }

    /// Whether records of a partition came.
    pub fn has(&self, partition: i32) -> bool {
        self.partitions.contains_key(&partition)
    }

    /// Nothing came, and nothing that was held has left.
    pub fn is_idle(&self) -> bool {
        let left = |counts: &ViewCounts| counts.released + counts.suppressed > 0;
        self.partitions.is_empty() && !self.views.iter().any(left)
    }

    /// The next offsets to read.
    pub fn positions(&self) -> Positions {
        let of = |run: &Offsets| (self.topic.clone(), run.partition, run.last + 1);
        Positions(self.partitions.values().map(of).collect())
    }

    /// The events that go into the batch's own transaction.
    pub fn audit(&mut self, plan: &Plan, auditor: &mut Auditor) -> Vec<AuditRecord> {
        for (counts, errors) in self.views.iter_mut().zip(&self.tally.condition_errors) {
            counts.condition_errors = *errors;
        }
        let offsets: Vec<Offsets> = self.partitions.values().copied().collect();
        auditor.processed(&Processed {
            topic: &self.topic,
            plan,
            offsets: &offsets,
            views: &self.views,
            quarantined: &self.quarantined,
            erased: self.erased,
            tally: &self.tally,
            discovered: &self.discovered,
        })
    }

    /// Enters the batch into the metrics, once it is committed.
    pub fn publish(&self, plan: &Plan, metrics: &Metrics) {
        let policy = plan.policy.name.as_str();
        let topic = self.topic.as_str();
        let records: u64 = self.partitions.values().map(|run| run.records).sum();
        metrics.consumed_records.with_label_values(&[topic]).inc_by(records);
        metrics.consumed_bytes.with_label_values(&[topic]).inc_by(self.bytes);
        for (counts, bytes) in self.views.iter().zip(&self.view_bytes) {
            let view = counts.view.as_str();
            let outcomes = [
                ("published", counts.published),
                ("deleted", counts.deleted),
                ("tombstone", counts.tombstones),
                ("filtered", counts.filtered),
                ("held", counts.held),
                ("released", counts.released),
                ("suppressed", counts.suppressed),
            ];
            for (outcome, count) in outcomes {
                metrics.view_records.with_label_values(&[policy, view, outcome]).inc_by(count);
            }
            metrics.view_bytes.with_label_values(&[policy, view]).inc_by(*bytes);
            let errors = metrics.condition_errors.with_label_values(&[policy, view]);
            errors.inc_by(counts.condition_errors);
        }
        metrics.erased_records.with_label_values(&[topic]).inc_by(self.erased);
        for one in &self.quarantined {
            metrics.quarantined.with_label_values(&[topic, one.stage, one.reason]).inc();
        }
        audit::field_counts(plan, &self.tally, |view, class, operator, count| {
            metrics.fields.with_label_values(&[policy, view, class, operator]).inc_by(count);
        });
        metrics.unclassified.with_label_values(&[policy]).inc_by(self.tally.unclassified);
        let names = metrics.unclassified_names.with_label_values(&[policy]);
        names.inc_by(self.discovered.len() as u64);
        for (key, uses) in plan.keys.iter().zip(audit::key_uses(plan, &self.tally)) {
            let (id, version) = (key.id.to_string(), key.version.to_string());
            let labels = [key.purpose.name(), id.as_str(), &version];
            metrics.key_uses.with_label_values(&labels).inc_by(uses);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let latency = metrics.latency.with_label_values(&[topic]).local();
        for timestamp in &self.timestamps_ms {
            let age = (now as i64).saturating_sub(*timestamp).max(0);
            latency.observe(age as f64 / 1000.0);
        }
        latency.flush();
    }
}
