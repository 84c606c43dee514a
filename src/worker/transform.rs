//! From raw records to what is published of them: views, quarantine, audit.

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::account::TopicAccount;
use super::batch::coordinates;
use super::hold::{self, Holdings, now_ms};
use super::lane::{Lane, LaneError};
use super::limit::{Gate, Gates};
use super::topics::{Takes, Topics};
use crate::audit::{Auditor, Change, Mark, Quarantined};
use crate::config::Oversize;
use crate::crypto::{KeyError, SubjectId, SubjectKeys};
use crate::kafka::{ClientSettings, Position, Positions, Sink, Source, SourceRecord};
use crate::plans::{Claim, Plans};
use crate::policy::{OnErased, Plan, ViewPlan};
use crate::quarantine::{Coordinates, Sealing};
use crate::rewrite::{Failure, Images, RawRecord, Reason, Rewriter, Rewritten, Sanitized, Stage};
use crate::telemetry::Transaction;

/// After so many records the time is looked at.
const GLANCE: usize = 64;

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

/// The plans in force at work, for one session of a lane.
pub struct Transform<'l> {
    lane: &'l Lane,
    plans: Arc<Plans>,
    sealing: Sealing,
    topics: Topics,
    works: HashMap<String, Work>,
    pub sink: Sink,
    auditor: Auditor,
    /// Where the auditor was before the batch.
    mark: Mark,
    /// Audit events of the batch, by kind.
    audited: BTreeMap<&'static str, u64>,
    /// A batch that takes longer, as with a rate limit, is committed in parts.
    pub budget: Duration,
    /// The keys of those whom the batch is about.
    subjects: SubjectKeys,
    /// The spans of the transaction, where it has any.
    pub trace: Option<Transaction>,
    /// What views hold.
    pub holdings: Holdings,
    /// When the batch began to be made, in milliseconds since the epoch.
    now_ms: i64,
}

/// What has been made of the first records of a batch, and waits for the commit.
pub struct Made {
    pub positions: Positions,
    pub records: usize,
}

impl<'l> Transform<'l> {
    pub fn new(
        lane: &'l Lane,
        plans: Arc<Plans>,
        topics: Topics,
        sink: Sink,
        auditor: Auditor,
    ) -> Result<Self, KeyError> {
        Ok(Transform {
            lane,
            sealing: Sealing::new(plans.keys.as_ref())?,
            plans,
            topics,
            works: HashMap::new(),
            sink,
            mark: auditor.mark(),
            audited: BTreeMap::new(),
            auditor,
            budget: Duration::MAX,
            trace: None,
            subjects: SubjectKeys::default(),
            holdings: Holdings::default(),
            now_ms: 0,
        })
    }

    pub fn plans(&self) -> &Plans {
        &self.plans
    }

    /// Whether there are partitions of which it is not known what is held.
    pub fn is_unknown(&self) -> bool {
        self.holdings.is_unknown(self.lane, &self.plans)
    }

    /// Has back what is held of the partitions that have come. `serve` serves rebalances meanwhile; the source is held.
    pub fn restore(
        &mut self,
        settings: &ClientSettings,
        source: &Source,
        serve: impl FnMut(&mut Holdings) -> Result<(), LaneError>,
    ) -> Result<(), LaneError> {
        self.holdings.restore(self.lane, settings, &self.plans, source, serve)
    }

    /// From now on under other plans; nothing is in the making.
    pub fn reload(&mut self, plans: Arc<Plans>, topics: Topics) -> Result<(), KeyError> {
        self.sealing = Sealing::new(plans.keys.as_ref())?;
        self.works.clear();
        self.plans = plans;
        self.topics = topics;
        Ok(())
    }

    /// Makes and publishes everything of a batch but its positions, which it gives.
    pub fn run(
        &mut self,
        batch: &[SourceRecord<'_>],
        refused: Option<&Coordinates>,
        changes: &[Change],
    ) -> Result<Made, LaneError> {
        let began = Instant::now();
        self.mark = self.auditor.mark();
        self.audited.clear();
        self.now_ms = now_ms();
        // What waits for a database does so while no transaction is open.
        let subjects = self.subjects(batch)?;
        self.sink.begin()?;
        let mut records = 0;
        for (at, record) in batch.iter().enumerate() {
            if records % GLANCE == 0 && records > 0 && began.elapsed() > self.budget {
                break;
            }
            self.record(record, subjects.get(at).copied().unwrap_or_default(), refused)?;
            records += 1;
        }
        let mut positions = self.let_go()?;
        let audit = &self.lane.shared.config.audit.topic;
        for work in self.works.values_mut() {
            if work.account.is_idle() {
                continue;
            }
            let reached = work.account.positions();
            work.account.tally = work.rewriter.take_tally();
            work.account.discovered = work.rewriter.take_discovered();
            let plan = Arc::clone(work.rewriter.plan());
            for event in work.account.audit(&plan, &mut self.auditor) {
                self.sink.audit(audit, &event)?;
                *self.audited.entry(event.kind()).or_default() += 1;
            }
            positions.0.extend(reached.0);
        }
        for Position { topic, partition, spread, .. } in &mut positions.0 {
            *spread = self.holdings.spread(topic, *partition);
        }
        for change in changes {
            let event = self.auditor.changed(change);
            self.sink.audit(audit, &event)?;
            *self.audited.entry(event.kind()).or_default() += 1;
        }
        Ok(Made { positions, records })
    }

    /// What was made is committed.
    pub fn committed(&mut self) {
        for (kind, events) in std::mem::take(&mut self.audited) {
            let metric = &self.lane.shared.metrics.audit_events;
            metric.with_label_values(&[kind]).inc_by(events);
        }
        let of_subjects = std::mem::take(&mut self.subjects).keys;
        let of_plans = self.works.values().flat_map(|work| &work.rewriter.plan().sealing);
        let all = of_plans.chain(of_subjects.values()).chain([self.sealing.key()]);
        for key in all {
            let (uses, (id, version)) = (key.take_uses(), key.name());
            if uses > 0 {
                self.plans.keys.used(id, version, uses);
            }
        }
        for work in self.works.values_mut() {
            work.account.publish(work.rewriter.plan(), &self.lane.shared.metrics);
            work.account = TopicAccount::new(&work.account.topic, work.rewriter.plan());
        }
    }

    /// Takes back what was made, with everything that was derived from it.
    pub fn abort(&mut self) -> Result<(), LaneError> {
        self.auditor.rewind(self.mark);
        self.works.clear();
        self.holdings.forget();
        Ok(self.sink.abort()?)
    }

    /// Publishes what is held and due, and writes what is held now. Gives the positions of partitions of which nothing
    /// came, and whose state is another one.
    fn let_go(&mut self) -> Result<Positions, LaneError> {
        let mut holdings = std::mem::take(&mut self.holdings);
        let positions = self.let_go_of(&mut holdings);
        self.holdings = holdings;
        positions
    }

    fn let_go_of(&mut self, holdings: &mut Holdings) -> Result<Positions, LaneError> {
        let mut positions = Positions::default();
        let Some(state) = &self.lane.shared.config.state else { return Ok(positions) };
        let (began, moment) = (Instant::now(), holdings.moment());
        for (topic, of_topic) in &mut holdings.partitions {
            for (number, partition) in of_topic {
                let came = self.works.get(topic).is_some_and(|work| work.account.has(*number));
                // Without an offset to commit nobody could be kept from doing the same.
                if !(came || partition.position.is_some()) || !partition.wants(moment) {
                    continue;
                }
                partition.unsaved = true;
                self.work(topic)?;
                let Some(Work { account, targets, rewriter, .. }) = self.works.get_mut(topic)
                else {
                    continue;
                };
                if let (false, Some(next)) = (came, partition.position) {
                    let (topic, partition) = (topic.clone(), *number);
                    positions.0.push(Position { topic, partition, next, spread: None });
                }
                let home = partition.home(*number);
                for orphan in std::mem::take(&mut partition.orphans) {
                    account.of_many(&orphan.view).suppressed += orphan.rows as u64;
                    for entry in orphan.end() {
                        self.sink.state(&state.topic, &entry, home)?;
                    }
                }
                for held in &mut partition.views {
                    let view = held.holding.plan.view.clone();
                    let plan = rewriter.plan();
                    let target = plan.views.iter().position(|one| one.name == view);
                    let Some(target) = target.and_then(|at| targets.get(at)) else { continue };
                    let figures = account.of_many(&view);
                    let mut more = true;
                    while more {
                        // What is due beyond what a transaction has time for stays due.
                        more = began.elapsed() < self.budget && held.tick(moment);
                        held.holding.settle(|fate| {
                            // The limit of the view was kept when they came: to wait here would keep a transaction open.
                            let fits =
                                |record: &Sanitized<'_>| target.takes.refuses(record).is_none();
                            if let Some(record) = figures.take(&fate, fits) {
                                let now = Some(moment.now_ms);
                                self.sink.publish(&target.topic, record, now, *number)?;
                            }
                            Ok::<(), LaneError>(())
                        })?;
                    }
                    if let Some(counted) = held.holding.counted() {
                        figures.counted(&counted);
                    }
                    let key = self.sealing.key();
                    let entries = match held.is_over() {
                        false => held.holding.entries(key)?,
                        true => {
                            let heir = held.succeed(self.lane, topic, *number)?;
                            let heir = heir.map(|heir| heir.entries(key)).transpose()?;
                            let mut entries = held.holding.end(heir.is_some());
                            entries.extend(heir.unwrap_or_default());
                            entries
                        }
                    };
                    for entry in entries {
                        self.sink.state(&state.topic, &entry, home)?;
                    }
                }
            }
        }
        Ok(positions)
    }

    /// Makes sure that a topic is at work.
    fn work(&mut self, topic: &str) -> Result<(), LaneError> {
        if self.works.contains_key(topic) {
            return Ok(());
        }
        let shared = &self.lane.shared;
        let plan = match self.plans.of_topic(topic) {
            Claim::One(plan) => plan,
            Claim::None => return Err(LaneError::NoPolicy(topic.to_owned())),
            Claim::Many => return Err(LaneError::ManyPolicies(topic.to_owned())),
        };
        let work = Work::new(topic, plan, &shared.gates, &self.topics);
        shared.metrics.source_missing.with_label_values(&[topic]).set(0);
        self.works.insert(topic.to_owned(), work);
        Ok(())
    }

    /// Whom the records of a batch are about, where a plan asks for it; their keys are had.
    fn subjects(
        &mut self,
        batch: &[SourceRecord<'_>],
    ) -> Result<Vec<Images<SubjectId>>, LaneError> {
        let mut found = Vec::new();
        if !self.plans.all().any(|plan| plan.subject.is_some()) {
            return Ok(found);
        }
        let mut wanted = Vec::new();
        for record in batch {
            self.work(record.topic())?;
            let images = match self.works.get_mut(record.topic()) {
                Some(work) if work.rewriter.plan().subject.is_some() => {
                    // A defect costs the record: it is found again in the rewrite, or the record has no key.
                    let find = AssertUnwindSafe(|| work.rewriter.subjects(record.value()));
                    let subjects = catch_unwind(find).unwrap_or_default();
                    wanted.extend(subjects.iter().copied());
                    subjects
                }
                _ => Images::default(),
            };
            found.push(images);
        }
        if !self.plans.keys.has_subjects() {
            return Ok(found);
        }
        wanted.sort_unstable();
        wanted.dedup();
        let began = Instant::now();
        self.subjects = self.plans.keys.subjects(&wanted)?;
        self.returned(batch, &found)?;
        let metrics = &self.lane.shared.metrics;
        metrics.stages.with_label_values(&["keys"]).observe(began.elapsed().as_secs_f64());
        let cached = self.subjects.cached;
        let read = wanted.len().saturating_sub(cached);
        for (found, count) in [("cached", cached), ("read", read)] {
            metrics.subject_keys.with_label_values(&[found]).inc_by(count as u64);
        }
        Ok(found)
    }

    /// Those who are forgotten, and are back in a policy that says so, get another key.
    fn returned(
        &mut self,
        batch: &[SourceRecord<'_>],
        found: &[Images<SubjectId>],
    ) -> Result<(), LaneError> {
        let SubjectKeys { keys, erased, .. } = &self.subjects;
        if erased.is_empty() {
            return Ok(());
        }
        let mut back = Vec::new();
        for (record, images) in batch.iter().zip(found) {
            let plan = self.works.get(record.topic()).map(|work| work.rewriter.plan());
            if let (Some(plan), Some(id)) = (plan, images.newest())
                && !keys.contains_key(id)
                && let Some(since) = erased.get(id)
                && is_back(plan, record, *since)
            {
                back.push((*id, *since));
            }
        }
        back.sort_unstable();
        back.dedup();
        if !back.is_empty() {
            let SubjectKeys { keys, erased, .. } = self.plans.keys.rekey(&back)?;
            self.subjects.keys.extend(keys);
            self.subjects.erased.extend(erased);
        }
        Ok(())
    }

    /// Publishes what the views get of one record, or its quarantine.
    fn record(
        &mut self,
        record: &SourceRecord<'_>,
        subjects: Images<SubjectId>,
        refused: Option<&Coordinates>,
    ) -> Result<(), LaneError> {
        let topic = record.topic();
        self.work(topic)?;
        let shared = &self.lane.shared;
        let now = self.now_ms;
        let Some(Work { rewriter, account, gate, targets }) = self.works.get_mut(topic) else {
            return Ok(());
        };
        pass(self.lane, gate.as_deref(), record.size())?;
        let headers = record.headers();
        // Of those who are forgotten nothing is read: what is left is that the row is no more.
        let SubjectKeys { keys, erased, .. } = &self.subjects;
        let is_erased = |id: &SubjectId| {
            let since = erased.get(id);
            let back = |since| keys.contains_key(id) && is_back(rewriter.plan(), record, since);
            since.is_some_and(|since| !back(*since))
        };
        let erased = subjects.newest().is_some_and(is_erased);
        let mixed = !erased && subjects.iter().any(is_erased);
        // What is older than who has come back must not delete what is theirs now.
        let back = subjects.newest().is_some_and(|id| keys.contains_key(id));
        let silent = erased && back && rewriter.plan().policy.on_erased == OnErased::Rekey;
        account.erased += u64::from(erased);
        let raw = RawRecord {
            key: record.key().filter(|_| !silent),
            value: record.value().filter(|_| !erased),
            headers: headers.as_deref().unwrap_or_default(),
            subjects: subjects.with(&self.subjects),
            timestamp_ms: record.timestamp_ms(),
        };
        let plan = Arc::clone(rewriter.plan());
        let (partition, offset) = (record.partition(), record.offset());
        let timestamp = record.timestamp_ms();
        let refused = refused.is_some_and(|refused| *refused == coordinates(record));
        let traced = self
            .trace
            .as_mut()
            .and_then(|trace| trace.record(topic, partition, offset, raw.headers));
        let parent = traced.as_ref().map(|(parent, _)| parent);
        let mut defect = false;
        let rewritten = match (&headers, refused) {
            (None, _) => Err(Failure::new(Stage::Decode, Reason::HeaderName)),
            (_, true) => Err(Failure::new(Stage::Publish, Reason::Refused)),
            // The row went from somebody who is forgotten to somebody else.
            _ if mixed => Err(Failure::new(Stage::Transform, Reason::Subject)),
            _ => guarded(rewriter, &raw, &mut defect).map(|out| out.traced(parent)),
        };
        let failure = match rewritten {
            Err(failure) => Some(failure),
            Ok(out) => match refuses(targets, &out)
                .or_else(|| unheld(self.lane, &self.topics, targets, &out))
            {
                Some(reason) => {
                    rewriter.discount();
                    Some(Failure::new(Stage::Publish, reason))
                }
                None => {
                    if let Some(observer) = &shared.observer {
                        observer.published(&raw, &out);
                    }
                    let fates = out.dispositions().iter().enumerate();
                    for ((view, disposition), target) in fates.zip(targets.iter()) {
                        let (mut records, mut bytes) = (0, 0);
                        for sanitized in out.records(view) {
                            let size = sanitized.size();
                            pass(self.lane, target.gate.as_deref(), size)?;
                            self.sink.publish(&target.topic, &sanitized, timestamp, partition)?;
                            records += 1;
                            bytes += size as u64;
                        }
                        if let Some((hold, arrival)) = out.held(view) {
                            let size = out.held_size(view).unwrap_or_default();
                            pass(self.lane, target.gate.as_deref(), size)?;
                            let at = (topic, partition);
                            self.holdings.arrive(self.lane, at, hold, arrival, now)?;
                        }
                        account.viewed(view, *disposition, records, bytes);
                    }
                    None
                }
            },
        };
        if defect {
            rewriter.renew();
        }
        if let Some(failure) = &failure {
            let from = coordinates(record);
            tracing::debug!(%from, %failure, "quarantined");
            let topic = &shared.config.quarantine.topic;
            let mut sealed = self.sealing.seal(&raw, timestamp, &from, failure, &plan.label);
            if !self.topics.of(topic).size(sealed.size()) {
                if shared.config.quarantine.oversize == Oversize::Halt {
                    return Err(LaneError::Halted(from));
                }
                sealed = self.sealing.account(&raw, &from, failure, &plan.label);
            }
            self.sink.quarantine(topic, &sealed)?;
            if let Some(observer) = &shared.observer {
                observer.quarantined(failure);
            }
            account.quarantined.push(Quarantined::new(partition, offset, failure));
        }
        if let (Some(trace), Some((_, recorded))) = (&mut self.trace, &traced) {
            trace.fate(recorded, &plan.label, failure.as_ref());
        }
        account.consumed(partition, offset, record.size(), timestamp);
        Ok(())
    }
}

/// Whether an event of somebody who was forgotten at `since` is of their new life: it is younger, and the policy knows of
/// such.
fn is_back(plan: &Plan, record: &SourceRecord<'_>, since: i64) -> bool {
    let younger = record.timestamp_ms().is_some_and(|time| time > since);
    plan.policy.on_erased == OnErased::Rekey && younger
}

/// Rewrites a record. A defect in the rewrite must not cost the partition: the record goes to quarantine.
fn guarded<'r>(
    rewriter: &'r mut Rewriter,
    raw: &RawRecord<'r>,
    defect: &mut bool,
) -> Result<Rewritten<'r>, Failure> {
    let work = AssertUnwindSafe((rewriter, raw));
    let rewritten = catch_unwind(move || {
        let AssertUnwindSafe((rewriter, raw)) = { work };
        rewriter.rewrite(raw)
    });
    rewritten.unwrap_or_else(|_| {
        *defect = true;
        Err(Failure::new(Stage::Transform, Reason::Internal))
    })
}

/// Why one of the topics would not take what its view gets.
fn refuses(targets: &[Target], out: &Rewritten<'_>) -> Option<Reason> {
    targets.iter().enumerate().find_map(|(view, target)| {
        out.records(view).find_map(|sanitized| target.takes.refuses(&sanitized))
    })
}

/// Why a row could not be held, or published later.
fn unheld(lane: &Lane, topics: &Topics, targets: &[Target], out: &Rewritten<'_>) -> Option<Reason> {
    targets.iter().enumerate().find_map(|(view, target)| {
        let size = out.held_size(view)?;
        match target.takes.size(size) && hold::takes(topics, lane, size) {
            true => target.takes.needs_key.then_some(Reason::NoKey),
            false => Some(Reason::TooLarge),
        }
    })
}

/// Waits until a limit lets a record through.
fn pass(lane: &Lane, gate: Option<&Gate>, bytes: usize) -> Result<(), LaneError> {
    let Some(gate) = gate else { return Ok(()) };
    let mut began = None;
    let takes: [&dyn Fn() -> Result<(), Duration>; 2] = [&|| gate.record(), &|| gate.bytes(bytes)];
    for take in takes {
        while let Err(wait) = take() {
            began.get_or_insert_with(Instant::now);
            lane.pause(wait)?;
        }
    }
    if let Some(began) = began {
        let waits = lane.shared.metrics.limit_waits.with_label_values(&[gate.name.as_str()]);
        waits.observe(began.elapsed().as_secs_f64());
    }
    Ok(())
}
