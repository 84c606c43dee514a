//! What a lane holds for views with `anonymize` or `aggregate`: had back when a partition comes, let go when it is due or goes.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use prometheus::{GaugeVec, IntGauge};

use super::lane::{Lane, LaneError};
use super::topics::Topics;
use crate::crypto::KeySource;
use crate::hold::{Holding, Origin, Orphan, Restore, RestoreError, Restored, Room};
use crate::kafka::{ClientSettings, Position, Positions, Reader, Rebalanced, Source};
use crate::plans::Plans;
use crate::policy::HoldPlan;
use crate::rewrite::Arrival;
use crate::telemetry::Metrics;

/// How often the log says how far it has come.
const PROGRESS: Duration = Duration::from_secs(5);
/// How often rebalances are served while what is held is read.
const SERVE: Duration = Duration::from_millis(100);

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

/// The budget that is left of one partition, while it is here.
struct BudgetLeft {
    gauge: GaugeVec,
    labels: [String; 4],
}

impl BudgetLeft {
    fn show(&self, left: Option<f64>) {
        let labels = self.labels.each_ref().map(String::as_str);
        match left {
            Some(left) => self.gauge.with_label_values(&labels).set(left),
            // It may never have been seen.
            None => drop(self.gauge.remove_label_values(&labels)),
        }
    }
}

impl Drop for BudgetLeft {
    fn drop(&mut self) {
        self.show(None);
    }
}

/// By what it is told whether something is due.
#[derive(Clone, Copy)]
pub struct Moment {
    pub now_ms: i64,
    /// Since when, in milliseconds since the epoch, what is there to be read has come without a break.
    quiet: Option<i64>,
    /// Nothing is due but what other rules wait for.
    closing: bool,
}

/// What one view holds of a partition, with its metrics.
pub struct Held {
    pub holding: Holding,
    /// It is to be let go: other rules come.
    closing: bool,
    /// It has been.
    over: bool,
    /// By which rules the view goes on then.
    next: Option<Arc<HoldPlan>>,
    /// What goes on from it then.
    heir: Option<Holding>,
    records: Share,
    bytes: Share,
    budget: BudgetLeft,
}

impl Held {
    fn new(holding: Holding, topic: &str, partition: i32, metrics: &Metrics) -> Held {
        let HoldPlan { policy, view, .. } = &*holding.plan;
        let labels = [policy.as_str(), view.as_str()];
        let share = |gauge| Share { gauge, value: 0 };
        let records = share(metrics.held_records.with_label_values(&labels));
        let bytes = share(metrics.held_bytes.with_label_values(&labels));
        let labels = [policy.clone(), view.clone(), topic.to_owned(), partition.to_string()];
        let budget = BudgetLeft { gauge: metrics.budget_left.clone(), labels };
        let (next, heir) = (None, None);
        let mut held =
            Held { holding, closing: false, over: false, next, heir, records, bytes, budget };
        held.show();
        held
    }

    fn show(&mut self) {
        self.records.set(self.holding.held());
        self.bytes.set(self.holding.bytes());
        self.budget.show(self.holding.budget_left());
    }

    /// All of it is let go, for other rules.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Has what is due leave, or a part of it. True where more is.
    pub fn tick(&mut self, moment: Moment) -> bool {
        if !self.is_due(moment) {
            return false;
        }
        if !self.closing {
            return self.holding.tick(moment.now_ms);
        }
        let more = self.holding.flush();
        self.over = !more;
        more
    }

    fn is_due(&self, moment: Moment) -> bool {
        match moment.closing {
            true => self.closing && !self.over,
            false => self.holding.due(moment.quiet).is_some_and(|due| due <= moment.now_ms),
        }
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
    /// Among so many partitions the state topic spreads it: as many as there were when it was committed first. So it is
    /// found where it is when there are more.
    spread: Option<i32>,
    /// What is held was read: not where no view holds.
    read: bool,
    /// Something is other than it was committed.
    pub unsaved: bool,
}

impl Partition {
    /// Whether something has come, or is due.
    pub fn wants(&self, moment: Moment) -> bool {
        let wants = |view: &Held| view.holding.is_touched() || view.is_due(moment);
        !self.orphans.is_empty() || self.views.iter().any(wants)
    }

    /// The partition of the state topic.
    pub fn home(&self, number: i32) -> i32 {
        number % self.spread.unwrap_or(1)
    }
}

/// All that a lane holds.
#[derive(Default)]
pub struct Holdings {
    assigned: BTreeSet<(String, i32)>,
    /// Since when, in milliseconds since the epoch, what is there to be read has come without a break: the broker
    /// answered, and no partition has come.
    quiet: Option<i64>,
    /// Other rules wait until what was held by those of before is let go.
    closing: bool,
    /// What is being read, and has not gone since that began.
    reading: BTreeSet<(String, i32)>,
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
                    self.reading.remove(gone);
                    if let Some(of_topic) = self.partitions.get_mut(&gone.0) {
                        of_topic.remove(&gone.1);
                    }
                }
            }
        }
    }

    /// A transaction was aborted: what it changed is not what the changelog has.
    pub fn forget(&mut self) {
        for of_topic in self.partitions.values_mut() {
            of_topic.retain(|_, partition| !partition.unsaved);
        }
    }

    pub fn moment(&self) -> Moment {
        Moment { now_ms: now_ms(), quiet: self.quiet, closing: self.closing }
    }

    /// Among how many partitions the state topic spreads what is held, where that is known.
    pub fn spread(&self, topic: &str, partition: i32) -> Option<i32> {
        self.partitions.get(topic)?.get(&partition)?.spread
    }

    /// The partitions of which it is not known what is held, or where it would be.
    fn unknown(&self, plans: &Plans) -> Vec<(String, i32)> {
        let known = |(topic, partition): &(String, i32)| {
            let one = self.partitions.get(topic).and_then(|of_topic| of_topic.get(partition));
            one.is_some_and(|one| one.read || plans.holding(topic).is_empty())
        };
        self.assigned.iter().filter(|partition| !known(partition)).cloned().collect()
    }

    pub fn is_unknown(&self, lane: &Lane, plans: &Plans) -> bool {
        lane.shared.config.state.is_some() && !self.unknown(plans).is_empty()
    }

    /// Other rules wait until what is held is let go: nothing may come by those of before.
    pub fn is_closing(&self) -> bool {
        self.closing
    }

    /// The broker answers, or does not.
    pub fn answered(&mut self, now_ms: i64, answers: bool) {
        self.quiet = match answers {
            true => self.quiet.or(Some(now_ms)),
            false => None,
        };
    }

    /// Whether something is to be let go, though nothing comes.
    pub fn is_due(&self) -> bool {
        let (moment, mut all) = (self.moment(), self.partitions.values().flat_map(HashMap::values));
        all.any(|one| one.position.is_some() && one.wants(moment))
    }

    /// Other plans are to come: what they hold by other rules, or no more, is let go before. True where there is any;
    /// else they can come at once.
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
        if !any {
            // What could not be let go, without an offset to commit, is to be read anew by the rules that come.
            for of_topic in self.partitions.values_mut() {
                of_topic.retain(|_, one| one.position.is_some());
            }
        }
        self.closing = any;
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
        one.unsaved = true;
        let known =
            one.views.iter().position(|view| view.holding.plan.fingerprint == plan.fingerprint);
        let view = match known {
            Some(known) => one.views.get_mut(known),
            None => {
                let origin = origin(lane, topic, partition);
                let holding =
                    Holding::new(plan, &origin, &room(lane)).map_err(RestoreError::from)?;
                one.views.push(Held::new(holding, topic, partition, &lane.shared.metrics));
                one.views.last_mut()
            }
        };
        if let Some(view) = view {
            view.holding.arrive(arrival, now_ms)?;
        }
        Ok(())
    }

    /// All was committed, up to these positions.
    pub fn committed(&mut self, positions: &Positions) {
        for Position { topic, partition, next, .. } in &positions.0 {
            let of_topic = self.partitions.get_mut(topic);
            if let Some(one) = of_topic.and_then(|of_topic| of_topic.get_mut(partition)) {
                one.position = Some(*next);
            }
        }
        for partition in self.partitions.values_mut().flat_map(HashMap::values_mut) {
            if !std::mem::take(&mut partition.unsaved) {
                continue;
            }
            for view in &mut partition.views {
                if let Some(heir) = view.heir.take() {
                    (view.holding, view.next) = (heir, None);
                    (view.closing, view.over) = (false, false);
                }
            }
            partition.views.retain(|view| !view.over);
            partition.views.iter_mut().for_each(Held::show);
        }
    }

    /// Reads what is held of the partitions that have come. No transaction is open. `serve` serves rebalances meanwhile.
    pub fn restore(
        &mut self,
        lane: &Lane,
        settings: &ClientSettings,
        plans: &Plans,
        source: &Source,
        mut serve: impl FnMut(&mut Holdings) -> Result<(), LaneError>,
    ) -> Result<(), LaneError> {
        let unknown = self.unknown(plans);
        let Some(state) = lane.shared.config.state.as_ref().filter(|_| !unknown.is_empty()) else {
            return Ok(());
        };
        self.quiet = None;
        self.reading = unknown.iter().cloned().collect();
        let began = Instant::now();
        // Whoever had them before may still be about to commit: the offsets are told once that is done.
        let committed = loop {
            if lane.shared.stopping() {
                return Err(LaneError::Stopped);
            }
            if let Some(committed) = source.committed_offsets(&unknown)? {
                break committed;
            }
            serve(self)?;
        };
        let (mut unread, mut wanted) = (Vec::new(), Vec::new());
        for ((topic, partition), committed) in unknown.into_iter().zip(committed) {
            let spread = committed.and_then(|one| one.spread);
            let position = committed.map(|one| one.next);
            match plans.holding(&topic).is_empty() {
                true => unread.push((topic, partition, position, spread)),
                false => wanted.push((origin(lane, &topic, partition), position, spread)),
            }
        }
        for (topic, partition, position, spread) in unread {
            if self.reading.remove(&(topic.clone(), partition)) {
                let (views, orphans) = (Vec::new(), Vec::new());
                let one =
                    Partition { position, views, orphans, spread, read: false, unsaved: false };
                self.partitions.entry(topic).or_default().insert(partition, one);
            }
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let (mut fewer, mut homes) = (None, Vec::new());
        let mut reader = Reader::of_partitions(settings, &state.topic, |count| {
            for (_, _, spread) in &mut wanted {
                fewer = fewer.or(spread.filter(|spread| *spread > count).map(|one| (count, one)));
                spread.get_or_insert(count);
            }
            let home = |(origin, _, spread): &(Origin, _, Option<i32>)| {
                origin.partition % spread.unwrap_or(count)
            };
            homes.extend(wanted.iter().map(home));
            homes.iter().copied().collect()
        })?;
        if let Some((count, before)) = fewer {
            return Err(LaneError::FewerPartitions { topic: state.topic.clone(), count, before });
        }
        let origins = wanted.iter().map(|(origin, ..)| origin.clone()).zip(homes);
        let keys: &dyn KeySource = plans.keys.as_ref();
        let mut restore = Restore::new(origins.collect(), keys, room(lane));
        let (all, mut failure) = (reader.left(), None);
        let (mut told, mut served, mut read) = (began, began, 0_u64);
        let done = reader.to_end(|record| {
            if record.is_none() || read.is_multiple_of(1024) {
                if served.elapsed() > SERVE {
                    served = Instant::now();
                    failure = serve(self).err();
                }
                if told.elapsed() > PROGRESS {
                    told = Instant::now();
                    let (number, topic) = (lane.number, state.topic.as_str());
                    tracing::info!(lane = number, topic, read, of = all, "reading what is held");
                }
            }
            if let Some(record) = record {
                read += 1;
                let key = record.key.as_deref().unwrap_or_default();
                let taken = restore.take(record.partition, key, record.value.as_deref());
                failure = failure.take().or_else(|| Some(taken.err()?.into()));
            }
            failure.is_none() && !self.reading.is_empty() && !lane.shared.stopping()
        })?;
        if let Some(failure) = failure {
            return Err(failure);
        }
        if lane.shared.stopping() {
            return Err(LaneError::Stopped);
        }
        let (entries, mut rows) = (restore.entries, 0);
        // What has gone may have come again, and somebody may have had it in between: it is read anew.
        let reading = std::mem::take(&mut self.reading);
        if !done {
            return Ok(());
        }
        let restored = restore.finish(|topic| plans.holding(topic))?;
        for (Restored { origin, holdings, orphans }, (_, position, spread)) in
            restored.into_iter().zip(wanted)
        {
            let at = (origin.topic, origin.partition);
            if !reading.contains(&at) {
                continue;
            }
            let (topic, partition) = at;
            for Orphan { policy, view, rows, .. } in &orphans {
                tracing::warn!(
                    policy,
                    view,
                    rows,
                    partition,
                    "what was held was made by other rules: it is suppressed; a reload lets it go in groups"
                );
            }
            rows += holdings.iter().map(Holding::held).sum::<usize>();
            let metrics = &lane.shared.metrics;
            let views = holdings.into_iter();
            let views = views.map(|holding| Held::new(holding, &topic, partition, metrics));
            let views = views.collect();
            let one = Partition { position, views, orphans, spread, read: true, unsaved: false };
            self.partitions.entry(topic).or_default().insert(partition, one);
        }
        let took_s = began.elapsed().as_secs_f64();
        let label = lane.number.to_string();
        lane.shared.metrics.restore.with_label_values(&[label.as_str()]).observe(took_s);
        tracing::info!(
            lane = lane.number,
            partitions = reading.len(),
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
