//! A lane: one consumer, one transactional producer, its own rewriters. It shares nothing with its neighbours but
//! limits and metrics.
//!
//! The order of a batch is gather, transform, commit, on one thread. Rebalances are served while gathering alone,
//! when no transaction is open: so what is revoked is dropped before anything is made of it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::batch::Batch;
use super::hold::{Holdings, now_ms};
use super::limit::Gates;
use super::topics::Topics;
use super::transform::Transform;
use crate::audit::{Auditor, Change};
use crate::config::{Config, Delivery, GroupProtocol};
use crate::crypto::KeyError;
use crate::hold::{RestoreError, RowsError};
use crate::kafka::{
    ClientSettings, KafkaProblem, Rebalanced, Sink, SinkError, Source, SourceError, SourceRecord,
};
use crate::plans::Plans;
use crate::quarantine::Coordinates;
use crate::rewrite::{Failure, RawRecord};
use crate::telemetry::{Health, Metrics, Traces, Transaction};

/// After so many records the time is looked at.
const GLANCE: u32 = 64;
/// How long a lane without work waits before it looks at reloads and stops.
const IDLE: Duration = Duration::from_millis(100);
/// How many events are served at once where there is something else to do: a poll without time takes one.
const SERVED: usize = 16;
/// How long what waits to be told may take where nothing else is waited for.
const SERVE: Duration = Duration::from_millis(50);
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
    stop: Arc<AtomicBool>,
    /// Changes that the next transaction of the first lane will tell.
    changes: Mutex<Vec<Change>>,
    /// Called with each record and what the first views got: the demo's samples. None otherwise.
    pub observer: Option<Box<dyn Observer>>,
    /// None unless they are asked for.
    pub traces: Option<Arc<Traces>>,
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
            stop: Arc::default(),
            changes: Mutex::default(),
            observer: None,
            traces: None,
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

    pub(super) fn stopping(&self) -> bool {
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
    #[error(transparent)]
    Restore(#[from] RestoreError),
    #[error(transparent)]
    Rows(#[from] RowsError),
    #[error("the state topic cannot be read: {0}")]
    State(#[from] KafkaProblem),
    #[error(
        "the state topic {topic} has {count} partitions, and had {before} when what is held was written: make it with as many"
    )]
    FewerPartitions { topic: String, count: i32, before: i32 },
    #[error("what is held of {0}/{1} is not known")]
    NotRestored(String, i32),
    #[error("more than one policy claims the topic {0}: mend their patterns, and reload (SIGHUP)")]
    ManyPolicies(String),
    /// A reload gave the topic up while its records were on their way: the next session does not read it.
    #[error("no policy claims the topic {0} any more")]
    NoPolicy(String),
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
        match self {
            LaneError::Sink(SinkError::Settings(_)) => true,
            LaneError::Key(error) => !error.is_passing(),
            _ => settings,
        }
    }
}

/// One lane, to be run on a thread of its own.
pub struct Lane {
    pub(super) number: usize,
    pub(super) shared: Arc<LaneShared>,
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
        let mut settings = settings.for_lane();
        if config.name.is_none() {
            settings = settings.with_transaction_timeout_at_most(UNNAMED_TRANSACTION_MS);
        }
        if config.kafka.static_membership {
            settings = settings.as_static_member(format!("{name}-{number}"));
        }
        let protocol = settings.protocol();
        Lane { number, shared, settings, transactional_id, name, protocol }
    }

    pub fn connection(&self) -> Arc<crate::kafka::Connection> {
        Arc::clone(&self.settings.connection)
    }

    /// Works until the worker stops. Errors are waited out, but for a halt.
    pub fn run(mut self) -> Result<(), LaneError> {
        let label = self.number.to_string();
        // Seen as 0 before the first.
        self.shared.metrics.restarts.with_label_values(&[label.as_str()]);
        let mut failures = 0_u32;
        loop {
            let began = Instant::now();
            let error = match self.session() {
                Ok(()) | Err(LaneError::Stopped) => return Ok(()),
                Err(error) => error,
            };
            self.shared.not_ready(self.number);
            self.settings.connection.forget();
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
    pub(super) fn pause(&self, time: Duration) -> Result<(), LaneError> {
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
        let shared = &self.shared;
        let mut version = shared.version.load(Ordering::Acquire);
        let plans = shared.plans();
        let topics = Topics::ask(&self.settings, &shared.config, &plans);
        let settings = topics.fit(self.settings.clone());
        let patience = Duration::from_millis(u64::from(settings.transaction_timeout_ms()));
        let stop = Arc::clone(&shared.stop);
        let sink = Sink::open(&settings, self.transactional_id.as_deref(), patience, stop)?;
        let mut subscription: Vec<String> = owned(&plans.subscription());
        let source = Source::open(&settings, self.protocol, &plans.subscription())?;
        // Its numbers begin anew with each session: whether the last commit of the one before came through is
        // not always known.
        let auditor = Auditor::new(format!("{}-{}-{}", self.name, self.number, random_name()));
        let mut idle = self.show_missing(&plans, &topics);
        let mut transform = Transform::new(self, plans, topics, sink, auditor)?;
        // A transaction ends well before the broker ends it.
        transform.budget = patience / 3;
        let mut batch = Batch::default();
        let mut assigned = 0_usize;
        let mut aborts = 0_u32;
        // Partitions are held while records are in hand: what waits behind them would keep a rebalance waiting too.
        let mut held = false;
        let mut pause = Duration::ZERO;
        let label = self.number.to_string();
        let ended = |outcome| shared.metrics.transactions.with_label_values(&[outcome]).inc();
        while !shared.stopping() {
            let next = shared.version.load(Ordering::Acquire);
            // What is held by rules that go is let go by them first.
            let plans = shared.plans();
            if next != version && !transform.is_unknown() && !transform.holdings.close(&plans) {
                version = next;
                let asked = Topics::ask(&settings, &shared.config, &plans);
                if owned(&plans.subscription()) != subscription {
                    source.subscribe(&plans.subscription())?;
                    subscription = owned(&plans.subscription());
                }
                idle = self.show_missing(&plans, &asked);
                transform.reload(plans, asked.at_most(settings.record_limit()))?;
            }
            if held && batch.is_empty() {
                // Committed, or all of it went to somebody else.
                source.release()?;
                (held, aborts, pause) = (false, 0, Duration::ZERO);
            }
            let working = aborts == 0 && (assigned > 0 || !idle);
            let up = working && !settings.connection.is_down();
            shared.health.set_ready(self.number, up);
            shared.metrics.ready.with_label_values(&[label.as_str()]).set(i64::from(up));

            let began = Instant::now();
            if batch.is_empty() {
                source.rests();
                self.gather(&source, &mut batch, &mut assigned, &mut transform.holdings)?;
            } else {
                self.hold(&source, &mut batch, &mut assigned, &mut transform.holdings, pause)?;
                if shared.stopping() {
                    // What is in hand is not committed: whoever comes next reads it again.
                    break;
                }
            }
            if transform.plans().hold() && batch.is_empty() && aborts > 0 {
                self.pause(pause)?;
            }
            while transform.is_unknown() {
                shared.not_ready(self.number);
                if !held {
                    source.hold()?;
                    held = true;
                }
                transform.restore(&settings, &source, |holdings| {
                    self.serve(&source, &mut batch, &mut assigned, holdings)
                })?;
                if !transform.is_unknown() && batch.is_empty() {
                    source.release()?;
                    held = false;
                }
            }
            let changes = match self.number {
                0 => std::mem::take(&mut *locked(&shared.changes)),
                _ => Vec::new(),
            };
            transform.holdings.answered(now_ms(), !settings.connection.is_down());
            if batch.is_empty() && changes.is_empty() && !transform.holdings.is_due() {
                transform.sink.idle();
                // What was to be tried again has gone to somebody else.
                (aborts, pause) = (0, Duration::ZERO);
                continue;
            }
            // By the rules of before nothing comes any more.
            let closing = transform.holdings.is_closing();
            let records = if closing { &[] } else { batch.next() };
            let stage = |stage, began: Instant| {
                let time = began.elapsed().as_secs_f64();
                shared.metrics.stages.with_label_values(&[stage]).observe(time);
            };
            stage("gather", began);
            // Taken before anything is made: what a later generation owns is not ours to commit.
            let generation = source.generation();
            let (began, at) = (Instant::now(), SystemTime::now());
            transform.trace =
                shared.traces.as_ref().map(|traces| Transaction::begin(traces, self.number));
            let made = transform.run(records, batch.refused(), &changes);
            stage("transform", began);
            if let Some(trace) = &transform.trace {
                trace.stage("transform", at);
            }
            let (began, at) = (Instant::now(), SystemTime::now());
            let done = made.and_then(|made| {
                transform.sink.commit(&made.positions, generation.as_ref())?;
                match self.transactional_id {
                    _ if made.positions.0.is_empty() => {}
                    Some(_) => source.committed(&made.positions),
                    None => source.commit(&made.positions)?,
                }
                transform.holdings.committed(&made.positions);
                Ok(made.records)
            });
            if let Some(trace) = transform.trace.take() {
                trace.stage("commit", at);
                trace.end(done.as_ref().map_err(|_| ()).copied());
            }
            match done {
                Ok(records) => {
                    stage("commit", began);
                    (aborts, pause) = (0, Duration::ZERO);
                    ended("committed");
                    transform.committed();
                    batch.done(records);
                }
                Err(error) => {
                    ended("aborted");
                    locked(&shared.changes).splice(0..0, changes);
                    let records = batch.len();
                    tracing::info!(lane = self.number, records, "aborting: {error}");
                    if let LaneError::Sink(SinkError::Failed(_) | SinkError::TimedOut(_)) = error {
                        // The beginning of the next session ends the transaction.
                        return Err(error);
                    }
                    transform.abort()?;
                    // The records are still in hand. Before they are tried again, those of partitions that go to
                    // somebody else are dropped.
                    match error {
                        LaneError::Sink(SinkError::Refused(_)) if !closing && batch.narrow() => {
                            pause = Duration::ZERO;
                        }
                        // What is held was taken in by what the topics took then: they are asked anew.
                        LaneError::Sink(SinkError::Refused(_)) if transform.plans().hold() => {
                            return Err(error);
                        }
                        LaneError::Sink(SinkError::Aborted(_) | SinkError::Refused(_))
                        | LaneError::Key(KeyError::Away(_)) => {
                            pause = backoff(aborts);
                            aborts += 1;
                            let pause_ms = pause.as_millis() as u64;
                            tracing::warn!(lane = self.number, records, pause_ms, "trying again");
                        }
                        other => return Err(other),
                    }
                }
            }
            if !held && !batch.is_empty() {
                source.hold()?;
                held = true;
            }
        }
        Ok(())
    }

    /// Says which source topics are not there; true where nothing is left to read.
    fn show_missing(&self, plans: &Plans, topics: &Topics) -> bool {
        // What the policies no longer name is missed no longer.
        self.shared.metrics.source_missing.reset();
        for topic in plans.named() {
            let missing = topics.missing.iter().any(|one| one == topic);
            let metric = &self.shared.metrics.source_missing;
            metric.with_label_values(&[topic]).set(i64::from(missing));
            if missing {
                tracing::warn!(
                    lane = self.number,
                    topic,
                    "the source topic is not there, or may not be described"
                );
            }
        }
        plans.all_missing(&topics.missing)
    }

    /// Fills an empty batch to its bounds, and serves rebalances.
    fn gather<'s>(
        &self,
        source: &'s Source,
        batch: &mut Batch<SourceRecord<'s>>,
        assigned: &mut usize,
        holdings: &mut Holdings,
    ) -> Result<(), LaneError> {
        let bounds = self.shared.config.effective_batch();
        let mut deadline = Instant::now() + IDLE;
        let mut wait = IDLE;
        let mut polled = 0_u32;
        loop {
            let record = source.poll(wait)?;
            self.rebalanced(source, batch, assigned, holdings);
            let Some(record) = record else {
                // Nothing is there just now. The clock is asked seldom: it costs as much as a short field.
                let left = deadline.saturating_duration_since(Instant::now());
                if !wait.is_zero() || left.is_zero() {
                    return Ok(());
                }
                wait = left;
                continue;
            };
            if batch.is_empty() {
                deadline = Instant::now() + Duration::from_millis(bounds.time_ms.get());
            }
            batch.push(record);
            wait = Duration::ZERO;
            polled = polled.wrapping_add(1);
            let over = polled.is_multiple_of(GLANCE) && Instant::now() >= deadline;
            if over || batch.is_full(bounds) || self.shared.stopping() {
                return Ok(());
            }
        }
    }

    /// Waits with what is in hand, and serves all that waits meanwhile: a poll without time takes one event, and where
    /// statistics and logs come faster than it is called, it would never come to the rebalance behind them.
    fn hold<'s>(
        &self,
        source: &'s Source,
        batch: &mut Batch<SourceRecord<'s>>,
        assigned: &mut usize,
        holdings: &mut Holdings,
        pause: Duration,
    ) -> Result<(), LaneError> {
        let until = Instant::now() + pause.max(SERVE);
        while !batch.is_empty() && !self.shared.stopping() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            if let Some(record) = source.poll(left.min(IDLE))? {
                batch.push(record);
            }
            self.rebalanced(source, batch, assigned, holdings);
        }
        Ok(())
    }

    /// Serves what waits just now, where there is something else to do meanwhile.
    fn serve<'s>(
        &self,
        source: &'s Source,
        batch: &mut Batch<SourceRecord<'s>>,
        assigned: &mut usize,
        holdings: &mut Holdings,
    ) -> Result<(), LaneError> {
        for _ in 0..SERVED {
            if let Some(record) = source.poll(Duration::ZERO)? {
                batch.push(record);
            }
            self.rebalanced(source, batch, assigned, holdings);
        }
        Ok(())
    }

    /// Drops what was revoked; nothing has been made of it yet.
    fn rebalanced(
        &self,
        source: &Source,
        batch: &mut Batch<SourceRecord<'_>>,
        assigned: &mut usize,
        holdings: &mut Holdings,
    ) {
        for change in source.rebalances() {
            holdings.rebalanced(&change);
            match &change {
                Rebalanced::Assigned(partitions) => *assigned += partitions.len(),
                Rebalanced::Revoked(partitions) => {
                    *assigned = assigned.saturating_sub(partitions.len());
                    batch.revoke(partitions);
                }
            }
            tracing::info!(lane = self.number, ?change, "rebalanced");
            let label = self.number.to_string();
            let metric = &self.shared.metrics.partitions;
            metric.with_label_values(&[label.as_str()]).set(*assigned as i64);
        }
    }
}

fn random_name() -> String {
    rand::random::<[u8; 6]>().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}
