//! A lane: one consumer, one transactional producer, its own rewriters. It shares nothing with its neighbours but
//! limits and metrics.
//!
//! The order of a batch is gather, transform, commit, on one thread. Rebalances are served while gathering alone,
//! when no transaction is open: so what is revoked is dropped before anything is made of it.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::account::TopicAccount;
use super::limit::{Gate, Gates};
use super::plans::{Claim, Plans};
use super::topics::{Takes, Topics};
use crate::audit::{Auditor, Change};
use crate::config::{Config, Delivery, GroupProtocol, Oversize};
use crate::crypto::KeyError;
use crate::kafka::{
    ClientSettings, Positions, Rebalanced, Sink, SinkError, Source, SourceError, SourceRecord,
};
use crate::policy::{Plan, ViewPlan};
use crate::quarantine::{Coordinates, Sealing};
use crate::rewrite::{Failure, RawRecord, Reason, Rewriter, Stage};
use crate::telemetry::{Health, Metrics};

/// How long a lane without work waits before it looks at reloads and stops.
const IDLE: Duration = Duration::from_millis(100);
/// A producer without a stable name leaves its transaction to the broker's clock: it is short.
const UNNAMED_TRANSACTION_MS: u32 = 15_000;

/// How long to wait after so many failures in a row: 50 ms to 10 s, with jitter.
fn backoff(failures: u32) -> Duration {
    Duration::from_millis(50 << failures.min(7)).mul_f64(0.5 + rand::random::<f64>())
}

/// What the lanes of a worker have in common.
pub struct LaneShared {
    pub config: Config,
    pub metrics: Arc<Metrics>,
    pub health: Arc<Health>,
    pub gates: Gates,
    plans: Mutex<Arc<Plans>>,
    /// Counts reloads, so that a lane sees one without taking the lock.
    version: AtomicU64,
    stop: AtomicBool,
    /// Changes that the next transaction of the first lane will tell.
    changes: Mutex<Vec<Change>>,
    /// Called with each record and what the first views got: the demo's samples. None otherwise.
    pub observer: Option<Box<dyn Observer>>,
}

/// Sees what the rewrite makes, before and after; for the demo alone.
pub trait Observer: Send + Sync {
    fn published(&self, raw: &RawRecord<'_>, out: &crate::rewrite::Rewritten<'_>);
    fn quarantined(&self, failure: &Failure);
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LaneShared {
    pub fn new(
        config: Config,
        plans: Plans,
        metrics: Arc<Metrics>,
        health: Arc<Health>,
    ) -> LaneShared {
        LaneShared {
            gates: Gates::new(&config.limits),
            config,
            metrics,
            health,
            plans: Mutex::new(Arc::new(plans)),
            version: AtomicU64::new(1),
            stop: AtomicBool::new(false),
            changes: Mutex::default(),
            observer: None,
        }
    }

    pub fn plans(&self) -> Arc<Plans> {
        Arc::clone(&locked(&self.plans))
    }

    /// Other policies are in force from each lane's next batch on.
    pub fn replace(&self, plans: Plans) {
        *locked(&self.plans) = Arc::new(plans);
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Enters a change into the audit trail, with the next transaction.
    pub fn tell(&self, change: Change) {
        locked(&self.changes).push(change);
    }

    pub fn not_ready(&self, lane: usize) {
        self.health.set_ready(lane, false);
        self.metrics.ready.with_label_values(&[lane.to_string().as_str()]).set(0);
    }

    pub fn stop(&self) {
        self.health.stopping();
        self.stop.store(true, Ordering::Release);
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}

/// Why a lane's session ended.
#[derive(Debug, thiserror::Error)]
pub enum LaneError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Sink(#[from] SinkError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("more than one policy claims the topic {0}: mend their patterns, and reload (SIGHUP)")]
    ManyPolicies(String),
    #[error("the record {0} is too large for quarantine, and `quarantine.oversize` is `halt`")]
    Halted(Coordinates),
    #[error("stopped")]
    Stopped,
}

impl LaneError {
    /// To begin anew would not help.
    fn is_final(&self) -> bool {
        self.is_configuration() || matches!(self, LaneError::Halted(_))
    }

    pub fn is_configuration(&self) -> bool {
        let settings = matches!(self, LaneError::Source(SourceError::Settings(_)));
        settings || matches!(self, LaneError::Sink(SinkError::Settings(_)) | LaneError::Key(_))
    }
}

/// One topic at work in this lane.
struct Work {
    rewriter: Rewriter,
    account: TopicAccount,
    gate: Option<Arc<Gate>>,
    targets: Vec<Target>,
}

/// Where a view goes.
struct Target {
    topic: String,
    takes: Takes,
    gate: Option<Arc<Gate>>,
}

impl Work {
    fn new(topic: &str, plan: &Arc<Plan>, gates: &Gates, topics: &Topics) -> Work {
        let target = |view: &ViewPlan| Target {
            topic: view.topic.clone(),
            takes: topics.of(&view.topic),
            gate: gates.view(&plan.policy.name, &view.name),
        };
        Work {
            rewriter: Rewriter::new(Arc::clone(plan)),
            account: TopicAccount::new(topic, plan),
            gate: gates.source(topic),
            targets: plan.views.iter().map(target).collect(),
        }
    }
}

/// One lane, to be run on a thread of its own.
pub struct Lane {
    number: usize,
    shared: Arc<LaneShared>,
    settings: ClientSettings,
    transactional_id: Option<String>,
    name: String,
    protocol: GroupProtocol,
}

impl Lane {
    pub fn new(number: usize, shared: Arc<LaneShared>, settings: ClientSettings) -> Lane {
        let config = &shared.config;
        let name = config.name.clone().unwrap_or_else(random_name);
        let transactional_id = match config.delivery {
            Delivery::ExactlyOnce => Some(format!("{}-{name}-{number}", config.kafka.group)),
            Delivery::AtLeastOnce => None,
        };
        let settings = match (config.name.is_some(), settings.for_lane()) {
            (true, settings) => settings,
            (false, settings) => settings.with_transaction_timeout_at_most(UNNAMED_TRANSACTION_MS),
        };
        let protocol = settings.protocol();
        Lane { number, shared, settings, transactional_id, name, protocol }
    }

    pub fn connection(&self) -> Arc<crate::kafka::Connection> {
        Arc::clone(&self.settings.connection)
    }

    /// Works until the worker stops. Errors are waited out, but for a halt.
    pub fn run(mut self) -> Result<(), LaneError> {
        let label = self.number.to_string();
        let mut failures = 0_u32;
        loop {
            let began = Instant::now();
            let error = match self.session() {
                Ok(()) | Err(LaneError::Stopped) => return Ok(()),
                Err(error) => error,
            };
            self.shared.not_ready(self.number);
            if let LaneError::Source(SourceError::NoConsumerProtocol) = error
                && self.shared.config.kafka.group_protocol == GroupProtocol::Auto
            {
                tracing::info!(lane = self.number, "{error}; using the classic protocol");
                self.protocol = GroupProtocol::Classic;
                continue;
            }
            if error.is_final() {
                tracing::error!(lane = self.number, "{error}");
                return Err(error);
            }
            // A session that worked for a while begins the backoff anew.
            failures = if began.elapsed() > Duration::from_secs(60) { 0 } else { failures };
            let pause = backoff(failures);
            failures += 1;
            self.shared.metrics.restarts.with_label_values(&[label.as_str()]).inc();
            tracing::warn!(
                lane = self.number,
                pause_ms = pause.as_millis() as u64,
                "{error}; beginning anew"
            );
            if self.pause(pause).is_err() {
                return Ok(());
            }
        }
    }

    /// Sleeps, unless the worker stops.
    fn pause(&self, time: Duration) -> Result<(), LaneError> {
        let until = Instant::now() + time;
        loop {
            if self.shared.stopping() {
                return Err(LaneError::Stopped);
            }
            match until.checked_duration_since(Instant::now()) {
                Some(left) if !left.is_zero() => std::thread::sleep(left.min(IDLE)),
                _ => return Ok(()),
            }
        }
    }

    /// From joining the group to the next error.
    fn session(&self) -> Result<(), LaneError> {
        let shared = Arc::clone(&self.shared);
        let mut version = shared.version.load(Ordering::Acquire);
        let mut plans = shared.plans();
        let mut topics = Topics::ask(&self.settings, &shared.config, &plans);
        let settings = topics.fit(self.settings.clone());
        let mut sealing = Sealing::new(plans.keys.as_ref())?;
        let patience = Duration::from_millis(u64::from(settings.transaction_timeout_ms()));
        let mut sink = Sink::open(&settings, self.transactional_id.as_deref(), patience)?;
        let mut subscription: Vec<String> = owned(&plans.subscription());
        let source = Source::open(&settings, self.protocol, &plans.subscription())?;
        let mut works: HashMap<String, Work> = HashMap::new();
        let mut pending: Vec<SourceRecord<'_>> = Vec::new();
        let mut assigned = 0_usize;
        // Its numbers begin anew with each session: whether the last commit of the one before came through is
        // not always known.
        let mut auditor = Auditor::new(format!("{}-{}-{}", self.name, self.number, random_name()));
        let mut aborts = 0_u32;
        let label = self.number.to_string();
        while !shared.stopping() {
            if shared.version.load(Ordering::Acquire) != version {
                version = shared.version.load(Ordering::Acquire);
                plans = shared.plans();
                sealing = Sealing::new(plans.keys.as_ref())?;
                works.clear();
                let asked = Topics::ask(&settings, &shared.config, &plans);
                topics = asked.at_most(settings.record_limit());
                if owned(&plans.subscription()) != subscription {
                    source.subscribe(&plans.subscription())?;
                    subscription = owned(&plans.subscription());
                }
            }
            let up = aborts == 0 && !settings.connection.is_down();
            shared.health.set_ready(self.number, up);
            shared.metrics.ready.with_label_values(&[label.as_str()]).set(i64::from(up));

            let began = Instant::now();
            self.gather(&source, &mut pending, &mut assigned)?;
            let changes = match self.number {
                0 => std::mem::take(&mut *locked(&shared.changes)),
                _ => Vec::new(),
            };
            if pending.is_empty() && changes.is_empty() {
                continue;
            }
            shared
                .metrics
                .stages
                .with_label_values(&["gather"])
                .observe(began.elapsed().as_secs_f64());
            // Taken before anything is made: what a later generation owns is not ours to commit.
            let generation = source.generation();
            let mark = auditor.mark();
            let done = self
                .transform(
                    &plans,
                    &sealing,
                    &topics,
                    &mut works,
                    &mut sink,
                    &mut auditor,
                    &pending,
                    &changes,
                )
                .and_then(|positions| {
                    let began = Instant::now();
                    sink.commit(&positions, generation.as_ref())?;
                    match self.transactional_id {
                        _ if positions.0.is_empty() => {}
                        Some(_) => source.committed(&positions),
                        None => source.commit(&positions)?,
                    }
                    let time = began.elapsed().as_secs_f64();
                    shared.metrics.stages.with_label_values(&["commit"]).observe(time);
                    Ok(())
                });
            match done {
                Ok(()) => {
                    aborts = 0;
                    shared.metrics.transactions.with_label_values(&["committed"]).inc();
                    for work in works.values_mut() {
                        work.account.publish(work.rewriter.plan(), &shared.metrics);
                        work.account = TopicAccount::new(&work.account.topic, work.rewriter.plan());
                    }
                    pending.clear();
                }
                Err(error) => {
                    shared.metrics.transactions.with_label_values(&["aborted"]).inc();
                    auditor.rewind(mark);
                    works.clear();
                    locked(&shared.changes).extend(changes);
                    sink.abort()?;
                    let LaneError::Sink(SinkError::Aborted(cause)) = error else {
                        return Err(error);
                    };
                    // The records are still in hand. Before they are tried again, the next gathering drops
                    // those of partitions that went to somebody else.
                    let pause = backoff(aborts);
                    aborts += 1;
                    let pause_ms = pause.as_millis() as u64;
                    tracing::warn!(
                        lane = self.number,
                        records = pending.len(),
                        pause_ms,
                        "aborted: {cause}"
                    );
                    self.pause(pause)?;
                }
            }
        }
        Ok(())
    }

    /// Fills `pending` to the bounds of a batch, and serves rebalances.
    fn gather<'s>(
        &self,
        source: &'s Source,
        pending: &mut Vec<SourceRecord<'s>>,
        assigned: &mut usize,
    ) -> Result<(), LaneError> {
        let bounds = self.shared.config.effective_batch();
        let mut bytes: usize = pending.iter().map(SourceRecord::size).sum();
        let mut deadline = Instant::now() + IDLE;
        let mut retry = !pending.is_empty();
        loop {
            let left = match retry {
                true => Duration::ZERO,
                false => deadline.saturating_duration_since(Instant::now()),
            };
            let polled = source.poll(left)?;
            self.rebalanced(source, pending, assigned);
            let Some(record) = polled else { return Ok(()) };
            if pending.is_empty() {
                deadline = Instant::now() + Duration::from_millis(bounds.time_ms);
            }
            retry = false;
            bytes += record.size();
            pending.push(record);
            let full = pending.len() >= bounds.records || bytes >= bounds.bytes;
            if full || Instant::now() >= deadline || self.shared.stopping() {
                return Ok(());
            }
        }
    }

    /// Drops what was revoked; nothing has been made of it yet.
    fn rebalanced(
        &self,
        source: &Source,
        pending: &mut Vec<SourceRecord<'_>>,
        assigned: &mut usize,
    ) {
        for change in source.rebalances() {
            match &change {
                Rebalanced::Assigned(partitions) => *assigned += partitions.len(),
                Rebalanced::Revoked(partitions) => {
                    *assigned = assigned.saturating_sub(partitions.len());
                    pending.retain(|record| {
                        let of = |(topic, partition): &(String, i32)| {
                            topic == record.topic() && *partition == record.partition()
                        };
                        !partitions.iter().any(of)
                    });
                }
            }
            tracing::info!(lane = self.number, ?change, "rebalanced");
            let label = self.number.to_string();
            self.shared
                .metrics
                .partitions
                .with_label_values(&[label.as_str()])
                .set(*assigned as i64);
        }
    }

    /// Makes and publishes everything of a batch but its positions, which it gives.
    #[allow(clippy::too_many_arguments)]
    fn transform(
        &self,
        plans: &Plans,
        sealing: &Sealing,
        topics: &Topics,
        works: &mut HashMap<String, Work>,
        sink: &mut Sink,
        auditor: &mut Auditor,
        pending: &[SourceRecord<'_>],
        changes: &[Change],
    ) -> Result<Positions, LaneError> {
        let shared = Arc::clone(&self.shared);
        let began = Instant::now();
        sink.begin()?;
        for record in pending {
            if !works.contains_key(record.topic()) {
                let plan = match plans.of_topic(record.topic()) {
                    Claim::One(plan) => plan,
                    // A reload gave the topic up and its last records are still on their way: their offsets are
                    // not committed.
                    Claim::None => continue,
                    Claim::Many => return Err(LaneError::ManyPolicies(record.topic().to_owned())),
                };
                let work = Work::new(record.topic(), plan, &shared.gates, topics);
                works.insert(record.topic().to_owned(), work);
            }
            if let Some(work) = works.get_mut(record.topic()) {
                self.record(work, sealing, topics, sink, record)?;
            }
        }
        let mut positions = Positions::default();
        let audit = &shared.config.audit.topic;
        for work in works.values_mut() {
            let reached = work.account.positions();
            if reached.0.is_empty() {
                continue;
            }
            work.account.tally = work.rewriter.take_tally();
            work.account.discovered = work.rewriter.take_discovered();
            let plan = Arc::clone(work.rewriter.plan());
            for event in work.account.audit(&plan, auditor) {
                sink.audit(audit, &event)?;
            }
            positions.0.extend(reached.0);
        }
        for change in changes {
            sink.audit(audit, &auditor.changed(change))?;
        }
        let time = began.elapsed().as_secs_f64();
        self.shared.metrics.stages.with_label_values(&["transform"]).observe(time);
        Ok(positions)
    }

    /// Publishes what the views get of one record, or its quarantine.
    fn record(
        &self,
        work: &mut Work,
        sealing: &Sealing,
        topics: &Topics,
        sink: &mut Sink,
        record: &SourceRecord<'_>,
    ) -> Result<(), LaneError> {
        let shared = &self.shared;
        let headers: Vec<(&str, Option<&[u8]>)> = record.headers().collect();
        let raw = RawRecord { key: record.key(), value: record.value(), headers: &headers };
        let (partition, offset) = (record.partition(), record.offset());
        let Work { rewriter, account, gate, targets } = work;
        self.pass(gate.as_deref(), record.size())?;
        let plan = Arc::clone(rewriter.plan());
        let mut panicked = false;
        // A defect in the rewrite must not cost the partition: the record goes to quarantine.
        let work = AssertUnwindSafe((&mut *rewriter, &raw));
        let rewritten = catch_unwind(move || {
            let work = work;
            work.0.0.rewrite(work.0.1)
        });
        let rewritten = rewritten.unwrap_or_else(|_| {
            panicked = true;
            Err(Failure::new(Stage::Transform, Reason::Internal))
        });
        let failure = match rewritten {
            Ok(out) => {
                let refused = targets.iter().enumerate().find_map(|(view, target)| {
                    out.records(view).find_map(|sanitized| target.takes.refuses(&sanitized))
                });
                if let Some(reason) = refused {
                    rewriter.discount();
                    Some(Failure::new(Stage::Publish, reason))
                } else {
                    if let Some(observer) = &shared.observer {
                        observer.published(&raw, &out);
                    }
                    for ((view, disposition), target) in
                        out.dispositions().iter().enumerate().zip(targets.iter())
                    {
                        let (mut records, mut bytes) = (0, 0);
                        for sanitized in out.records(view) {
                            let size = sanitized.size();
                            self.pass(target.gate.as_deref(), size)?;
                            sink.publish(
                                &target.topic,
                                &sanitized,
                                record.timestamp_ms(),
                                partition,
                            )?;
                            records += 1;
                            bytes += size as u64;
                        }
                        account.viewed(view, *disposition, records, bytes);
                    }
                    None
                }
            }
            Err(failure) => Some(failure),
        };
        if panicked {
            *rewriter = Rewriter::new(Arc::clone(&plan));
        }
        if let Some(failure) = failure {
            let from = Coordinates { topic: record.topic().to_owned(), partition, offset };
            tracing::debug!(%from, %failure, "quarantined");
            let topic = &shared.config.quarantine.topic;
            let mut sealed =
                sealing.seal(&raw, record.timestamp_ms(), &from, &failure, &plan.label);
            if !topics.of(topic).size(sealed.size()) {
                if shared.config.quarantine.oversize == Oversize::Halt {
                    return Err(LaneError::Halted(from));
                }
                sealed = sealing.account(&raw, &from, &failure, &plan.label);
            }
            sink.quarantine(topic, &sealed, record.timestamp_ms())?;
            if let Some(observer) = &shared.observer {
                observer.quarantined(&failure);
            }
            account.quarantined.push(crate::audit::Quarantined::new(partition, offset, &failure));
        }
        account.consumed(partition, offset, record.size(), record.timestamp_ms());
        Ok(())
    }

    /// Waits until a limit lets a record through. The batch is small enough for its transaction to stay open
    /// meanwhile.
    fn pass(&self, gate: Option<&Gate>, bytes: usize) -> Result<(), LaneError> {
        let Some(gate) = gate else { return Ok(()) };
        let mut began = None;
        let takes: [&dyn Fn() -> Result<(), Duration>; 2] =
            [&|| gate.record(), &|| gate.bytes(bytes)];
        for take in takes {
            while let Err(wait) = take() {
                began.get_or_insert_with(Instant::now);
                self.pause(wait)?;
            }
        }
        if let Some(began) = began {
            let waits = self.shared.metrics.limit_waits.with_label_values(&[gate.name.as_str()]);
            waits.observe(began.elapsed().as_secs_f64());
        }
        Ok(())
    }
}

fn random_name() -> String {
    rand::random::<[u8; 6]>().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}
