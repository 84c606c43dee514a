//! What a lane holds for views with `anonymize` or `aggregate`: had back when a partition comes, let go when it is due or goes.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use prometheus::IntGauge;

use super::lane::{Lane, LaneError};
use super::topics::Topics;
use crate::crypto::KeySource;
use crate::hold::{Holding, Origin, Orphan, Restore, RestoreError, Restored, Room};
use crate::kafka::{ClientSettings, Positions, Reader, Rebalanced, Source};
use crate::plans::Plans;
use crate::policy::HoldPlan;
use crate::rewrite::Arrival;
use crate::telemetry::Metrics;

/// How often the log says how far it has come.
const PROGRESS: Duration = Duration::from_secs(5);

/// Milliseconds since the epoch.
pub fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

/// A share of a gauge that all lanes have together.
struct Share {
    gauge: IntGauge,
    value: i64,
}

impl Share {
    fn set(&mut self, value: usize) {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        self.gauge.add(value - self.value);
        self.value = value;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.gauge.sub(self.value);
    }
}

/// What one view holds of a partition, with its metrics.
pub struct Held {
    pub holding: Holding,
    /// It is to be empty after the next transaction: other rules come.
    closing: bool,
    /// By which rules the view goes on then.
    pub next: Option<Arc<HoldPlan>>,
    /// What goes on from it then.
    pub heir: Option<Holding>,
    records: Share,
    bytes: Share,
}

impl Held {
    fn new(holding: Holding, metrics: &Metrics) -> Held {
        let HoldPlan { policy, view, .. } = &*holding.plan;
        let labels = [policy.as_str(), view.as_str()];
        let share = |gauge| Share { gauge, value: 0 };
        let records = share(metrics.held_records.with_label_values(&labels));
        let bytes = share(metrics.held_bytes.with_label_values(&labels));
        let mut held = Held { holding, closing: false, next: None, heir: None, records, bytes };
        held.show();
        held
    }

    pub fn show(&mut self) {
        self.records.set(self.holding.held());
        self.bytes.set(self.holding.bytes());
    }

    pub fn is_closing(&self) -> bool {
        self.closing
    }

    fn is_due(&self, now_ms: i64, quiet: Option<i64>) -> bool {
        self.closing || self.holding.due(quiet).is_some_and(|due| due <= now_ms)
    }

    /// What goes on by other rules from how it is left now, if it is to.
    pub fn succeed(
        &mut self,
        lane: &Lane,
        topic: &str,
        partition: i32,
    ) -> Result<Option<&mut Holding>, LaneError> {
        let Some(plan) = &self.next else { return Ok(None) };
        let heir = self.holding.successor(plan, &origin(lane, topic, partition), &room(lane));
        Ok(Some(self.heir.insert(heir.map_err(RestoreError::from)?)))
    }
}

/// One source partition.
pub struct Partition {
    /// The offset that is committed, which every transaction with its state commits again: who lost the partition
    /// cannot. Without one, nothing is held.
    pub position: Option<i64>,
    pub views: Vec<Held>,
    pub orphans: Vec<Orphan>,
}

/// All that a lane holds.
#[derive(Default)]
pub struct Holdings {
    assigned: BTreeSet<(String, i32)>,
    /// Since when, in milliseconds since the epoch, what is there to be read has come without a break: the broker
    /// answered, and no partition has come.
    quiet: Option<i64>,
    pub partitions: HashMap<String, HashMap<i32, Partition>>,
}

impl Holdings {
    /// Partitions came or went.
    pub fn rebalanced(&mut self, change: &Rebalanced) {
        match change {
            Rebalanced::Assigned(partitions) => self.assigned.extend(partitions.iter().cloned()),
            Rebalanced::Revoked(partitions) => {
                for gone in partitions {
                    self.assigned.remove(gone);
                    if let Some(of_topic) = self.partitions.get_mut(&gone.0) {
                        of_topic.remove(&gone.1);
                    }
                }
            }
        }
    }

    /// What was held in a transaction that was aborted is not what the changelog has.
    pub fn forget(&mut self) {
        self.partitions.clear();
    }

    /// The partitions of which it is not known what is held.
    fn unknown(&self, plans: &Plans) -> Vec<(String, i32)> {
        let known = |(topic, partition): &(String, i32)| {
            self.partitions.get(topic).is_some_and(|of_topic| of_topic.contains_key(partition))
        };
        let unknown = self.assigned.iter().filter(|partition| !known(partition));
        unknown.filter(|(topic, _)| !plans.holding(topic).is_empty()).cloned().collect()
    }

    pub fn is_unknown(&self, plans: &Plans) -> bool {
        !self.unknown(plans).is_empty()
    }

    /// The broker answers, or does not.
    pub fn answered(&mut self, now_ms: i64, answers: bool) {
        self.quiet = match answers {
            true => self.quiet.or(Some(now_ms)),
            false => None,
        };
    }

    /// Whether something is to be let go, though nothing comes.
    pub fn is_due(&self, now_ms: i64) -> bool {
        let mut all = self.partitions.values().flat_map(HashMap::values);
        all.any(|one| {
            let due = one.views.iter().any(|view| view.is_due(now_ms, self.quiet))
                || !one.orphans.is_empty();
            one.position.is_some() && due
        })
    }

    /// Other plans are to come: what they hold by other rules, or no more, is let go before. True where there is any.
    pub fn close(&mut self, plans: &Plans) -> bool {
        let mut any = false;
        for (topic, of_topic) in &mut self.partitions {
            let kept = plans.holding(topic);
            for partition in of_topic.values_mut().filter(|one| one.position.is_some()) {
                for view in &mut partition.views {
                    let HoldPlan { policy, view: name, fingerprint, .. } = &*view.holding.plan;
                    view.closing = !kept.iter().any(|plan| plan.fingerprint == *fingerprint);
                    any |= view.closing;
                    let same =
                        |plan: &&&Arc<HoldPlan>| plan.policy == *policy && plan.view == *name;
                    let plan = kept.iter().find(same).filter(|_| view.closing);
                    view.next = plan.map(|plan| Arc::clone(plan));
                }
            }
        }
        any
    }

    /// A row for a view.
    pub fn arrive(
        &mut self,
        lane: &Lane,
        (topic, partition): (&str, i32),
        plan: &Arc<HoldPlan>,
        arrival: Arrival,
        now_ms: i64,
    ) -> Result<(), LaneError> {
        let of_topic = self.partitions.get_mut(topic);
        let Some(one) = of_topic.and_then(|of_topic| of_topic.get_mut(&partition)) else {
            return Err(LaneError::NotRestored(topic.to_owned(), partition));
        };
        let known =
            one.views.iter().position(|view| view.holding.plan.fingerprint == plan.fingerprint);
        let view = match known {
            Some(known) => one.views.get_mut(known),
            None => {
                let origin = origin(lane, topic, partition);
                let holding =
                    Holding::new(plan, &origin, &room(lane)).map_err(RestoreError::from)?;
                one.views.push(Held::new(holding, &lane.shared.metrics));
                one.views.last_mut()
            }
        };
        if let Some(view) = view {
            view.holding.arrive(arrival, now_ms)?;
        }
        Ok(())
    }

    /// Has everything that is due leave.
    pub fn tick(&mut self, now_ms: i64, in_batch: impl Fn(&str, i32) -> bool) {
        let quiet = self.quiet;
        for (topic, of_topic) in &mut self.partitions {
            for (number, partition) in of_topic {
                // Without an offset to commit nobody could be kept from doing the same.
                if partition.position.is_none() && !in_batch(topic, *number) {
                    continue;
                }
                for view in &mut partition.views {
                    if view.closing {
                        view.holding.flush();
                    } else if view.is_due(now_ms, quiet) {
                        view.holding.tick(now_ms);
                    }
                }
            }
        }
    }

    /// All was committed, up to these positions.
    pub fn committed(&mut self, positions: &Positions) {
        for (topic, partition, next) in &positions.0 {
            let of_topic = self.partitions.get_mut(topic);
            if let Some(one) = of_topic.and_then(|of_topic| of_topic.get_mut(partition)) {
                one.position = Some(*next);
            }
        }
        for partition in self.partitions.values_mut().flat_map(HashMap::values_mut) {
            for view in &mut partition.views {
                if let Some(heir) = view.heir.take() {
                    (view.holding, view.closing, view.next) = (heir, false, None);
                }
                view.show();
            }
            partition.views.retain(|view| !view.closing);
        }
    }

    /// Reads what is held of the partitions that have come. No transaction is open.
    pub fn restore(
        &mut self,
        lane: &Lane,
        settings: &ClientSettings,
        plans: &Plans,
        source: &Source,
    ) -> Result<(), LaneError> {
        let unknown = self.unknown(plans);
        let Some(state) = lane.shared.config.state.as_ref().filter(|_| !unknown.is_empty()) else {
            return Ok(());
        };
        self.quiet = None;
        // Whoever had them before may still be about to commit: the offsets are told once that is done.
        let positions = source.committed_offsets(&unknown)?;
        let origins = unknown.iter().map(|(topic, partition)| origin(lane, topic, *partition));
        let began = Instant::now();
        let keys: &dyn KeySource = plans.keys.as_ref();
        let mut restore = Restore::new(origins.collect(), keys, room(lane));
        let numbers: Vec<i32> = unknown.iter().map(|(_, partition)| *partition).collect();
        let mut reader = Reader::of_sources(settings, &state.topic, &numbers)?;
        let (all, mut failure, mut told) = (reader.left(), None, began);
        let partitions = unknown.len();
        let mut read = 0_u64;
        let done = reader.to_end(
            |record| {
                read += 1;
                if read.is_multiple_of(1024) && told.elapsed() > PROGRESS {
                    told = Instant::now();
                    let (number, topic) = (lane.number, state.topic.as_str());
                    tracing::info!(lane = number, topic, read, of = all, "reading what is held");
                }
                let key = record.key.as_deref().unwrap_or_default();
                failure = restore.take(key, record.value.as_deref()).err();
                failure.is_none() && !lane.shared.stopping()
            },
            || !lane.shared.stopping(),
        )?;
        if let Some(failure) = failure {
            return Err(failure.into());
        }
        if !done {
            return Err(LaneError::Stopped);
        }
        let (entries, mut rows) = (restore.entries, 0);
        let restored = restore.finish(|topic| plans.holding(topic))?;
        for (Restored { origin, holdings, orphans }, position) in
            restored.into_iter().zip(positions)
        {
            for Orphan { policy, view, rows, .. } in &orphans {
                tracing::warn!(
                    policy,
                    view,
                    rows,
                    partition = origin.partition,
                    "what was held was made by other rules: it is suppressed; a reload lets it go in groups"
                );
            }
            rows += holdings.iter().map(Holding::held).sum::<usize>();
            let views =
                holdings.into_iter().map(|holding| Held::new(holding, &lane.shared.metrics));
            let one = Partition { position, views: views.collect(), orphans };
            self.partitions.entry(origin.topic).or_default().insert(origin.partition, one);
        }
        let took_s = began.elapsed().as_secs_f64();
        let label = lane.number.to_string();
        lane.shared.metrics.restore.with_label_values(&[label.as_str()]).observe(took_s);
        tracing::info!(
            lane = lane.number,
            partitions,
            entries,
            rows,
            took_ms = began.elapsed().as_millis() as u64,
            "what is held is known"
        );
        Ok(())
    }
}

fn origin(lane: &Lane, topic: &str, partition: i32) -> Origin {
    Origin { group: lane.shared.config.kafka.group.clone(), topic: topic.to_owned(), partition }
}

fn room(lane: &Lane) -> Room {
    let Some(state) = &lane.shared.config.state else { return Room::default() };
    let folder = state.folder.as_ref().map(|folder| lane.shared.config.folder.join(folder));
    Room { memory: state.memory_bytes.get(), folder }
}

/// Whether the state topic takes a row of so many bytes.
pub fn takes(topics: &Topics, lane: &Lane, bytes: usize) -> bool {
    let state = lane.shared.config.state.as_ref();
    state.is_none_or(|state| topics.of(&state.topic).size(bytes))
}
