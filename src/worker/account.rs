//! What one batch did, per source topic: the material of its audit events and metrics.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::aggregate::Counters;
use crate::audit::{self, AuditRecord, Auditor, Offsets, Processed, Quarantined, ViewCounts};
use crate::hold::{Fate, WindowFate};
use crate::kafka::{Position, Positions};
use crate::policy::Plan;
use crate::rewrite::{Disposition, Sanitized, Tally};
use crate::telemetry::Metrics;

/// What has become in a batch of what one view held.
#[derive(Default)]
pub struct OfMany {
    released: u64,
    pub suppressed: u64,
    /// Rows of figures.
    rows: u64,
    bytes: u64,
    windows: BTreeMap<&'static str, u64>,
    counted: Counters,
    /// Of each released row: how many people its group had, what it does not say, how many different sensitive values.
    groups: Vec<(usize, f64, Option<u32>)>,
}

impl OfMany {
    /// Counts, and gives what is to be published. What the topic would refuse, which takes less than it did when it came,
    /// is suppressed.
    pub fn take<'f>(
        &mut self,
        fate: &'f Fate<'_>,
        fits: impl Fn(&Sanitized<'_>) -> bool,
    ) -> Option<&'f Sanitized<'f>> {
        let record = match fate {
            Fate::Released { record, .. } | Fate::Figures(record) => Some(record),
            Fate::Window(_, record) => record.as_ref(),
            Fate::Suppressed => None,
        };
        if record.is_some_and(|record| !fits(record)) {
            self.suppressed += 1;
            tracing::warn!(
                "what was held is too large for its topic by now, or lacks a key: it is suppressed"
            );
            return None;
        }
        let record = match fate {
            Fate::Released { record, subjects, loss, distinct } => {
                self.released += 1;
                self.groups.push((*subjects, *loss, distinct.iter().min().copied()));
                record
            }
            Fate::Suppressed => {
                self.suppressed += 1;
                return None;
            }
            Fate::Figures(record) => {
                self.rows += 1;
                record
            }
            Fate::Window(fate, record) => {
                *self.windows.entry(fate.code()).or_default() += 1;
                record.as_ref()?
            }
        };
        self.bytes += record.size() as u64;
        Some(record)
    }

    pub fn counted(&mut self, counters: &Counters) {
        self.counted = self.counted.plus(counters);
    }

    fn published(&self) -> u64 {
        self.windows.get(WindowFate::Published.code()).copied().unwrap_or(0)
    }

    fn withheld(&self) -> u64 {
        self.windows.values().sum::<u64>() - self.published()
    }

    fn is_idle(&self) -> bool {
        self.released + self.suppressed == 0 && self.windows.is_empty()
    }

    fn publish(&self, labels: [&str; 2], metrics: &Metrics) {
        let [policy, view] = labels;
        let sizes = metrics.group_subjects.with_label_values(&labels).local();
        let losses = metrics.group_loss.with_label_values(&labels).local();
        let diversity = metrics.group_distinct.with_label_values(&labels).local();
        for (subjects, loss, distinct) in &self.groups {
            sizes.observe(*subjects as f64);
            losses.observe(*loss);
            distinct.iter().for_each(|distinct| diversity.observe(f64::from(*distinct)));
        }
        [sizes, losses, diversity].iter().for_each(prometheus::local::LocalHistogram::flush);
        for (fate, count) in &self.windows {
            metrics.windows.with_label_values(&[policy, view, fate]).inc_by(*count);
        }
        let Counters { counted, late, early, over_contribution, no_room, other, .. } = self.counted;
        let records = [
            ("counted", counted),
            ("late", late),
            ("early", early),
            ("over_contribution", over_contribution),
            ("no_room", no_room),
            ("other", other),
        ];
        for (outcome, count) in records {
            metrics.window_records.with_label_values(&[policy, view, outcome]).inc_by(count);
        }
        let Counters { suppressed, complementary, .. } = self.counted;
        for (why, count) in [("few", suppressed), ("complementary", complementary)] {
            metrics.window_suppressed.with_label_values(&[policy, view, why]).inc_by(count);
        }
    }
}

/// One topic's part of a batch.
pub struct TopicAccount {
    pub topic: String,
    partitions: BTreeMap<i32, Offsets>,
    pub views: Vec<ViewCounts>,
    view_bytes: Vec<u64>,
    of_many: BTreeMap<String, OfMany>,
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
            of_many: BTreeMap::new(),
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

    /// What has become of what `view` held.
    pub fn of_many(&mut self, view: &str) -> &mut OfMany {
        self.of_many.entry(view.to_owned()).or_default()
    }

    /// Whether records of a partition came.
    pub fn has(&self, partition: i32) -> bool {
        self.partitions.contains_key(&partition)
    }

    /// Nothing came, and nothing that was held has left.
    pub fn is_idle(&self) -> bool {
        self.partitions.is_empty() && self.of_many.values().all(OfMany::is_idle)
    }

    /// The next offsets to read.
    pub fn positions(&self) -> Positions {
        let of = |run: &Offsets| Position {
            topic: self.topic.clone(),
            partition: run.partition,
            next: run.last + 1,
            spread: None,
        };
        Positions(self.partitions.values().map(of).collect())
    }

    /// The events that go into the batch's own transaction.
    pub fn audit(&mut self, plan: &Plan, auditor: &mut Auditor) -> Vec<AuditRecord> {
        for (counts, errors) in self.views.iter_mut().zip(&self.tally.condition_errors) {
            counts.condition_errors = *errors;
        }
        for (counts, bytes) in self.views.iter_mut().zip(&mut self.view_bytes) {
            let Some(left) = self.of_many.get(&counts.view) else { continue };
            (counts.released, counts.suppressed) = (left.released, left.suppressed);
            (counts.rows, counts.windows, counts.withheld) =
                (left.rows, left.published(), left.withheld());
            *bytes += left.bytes;
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
                ("figures", counts.rows),
            ];
            for (outcome, count) in outcomes {
                metrics.view_records.with_label_values(&[policy, view, outcome]).inc_by(count);
            }
            metrics.view_bytes.with_label_values(&[policy, view]).inc_by(*bytes);
            let errors = metrics.condition_errors.with_label_values(&[policy, view]);
            errors.inc_by(counts.condition_errors);
        }
        for (view, left) in &self.of_many {
            left.publish([policy, view], metrics);
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
