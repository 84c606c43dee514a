//! The stream itself: what comes is held, what is due leaves.

use std::sync::Arc;

use super::groups::{Group, Groups};
use super::held::{Held, Item, Waiting};
use super::sensitive::{Seen, SensitiveValue, distinct};
use super::space::{Domain, QuasiIdentifier, Space, Span};
use super::subjects::Subjects;
use super::{Outcome, Record, Refusal, Settings, Subject, Unfit};

/// A published group is reused at once where its loss is at most this share of the usual one.
const AT_ONCE: f64 = 0.25;
/// The usual loss is a moving average over so many releases.
const USUAL: f64 = 1024.0;
/// With so many outcomes that nobody has taken yet, nothing more becomes due: it stays so until the next call.
pub(super) const STEP: usize = 10_000;

/// k-anonymity over one stream.
#[derive(Debug)]
pub struct Stream {
    pub(super) settings: Settings,
    pub(super) space: Space,
    /// The latest time that was told; it never goes back.
    pub(super) clock: i64,
    pub(super) waiting: Waiting,
    pub(super) groups: Groups,
    pub(super) subjects: Subjects,
    pub(super) seen: Vec<Seen>,
    pub(super) usual_loss: f64,
}

/// A group that may be published.
pub(super) struct Proposal {
    /// All of different subjects.
    pub(super) items: Vec<u64>,
    pub(super) area: Vec<Span>,
}

impl Stream {
    pub fn new(settings: Settings) -> Result<Stream, Unfit> {
        check(&settings)?;
        let space = Space::new(&settings.quasi_identifiers);
        Ok(Stream {
            clock: i64::MIN,
            waiting: Waiting::new(space.fields()),
            groups: Groups::new(space.fields(), settings.most_groups),
            subjects: Subjects::new(settings.most_subjects),
            seen: vec![Seen::default(); settings.sensitive.len()],
            usual_loss: 0.0,
            space,
            settings,
        })
    }

    /// Takes a record. Adds to `outcomes` what becomes of it, and of those that are due, if that is known by now. A
    /// record that is refused has no outcome.
    pub fn add(
        &mut self,
        record: Record,
        now: i64,
        outcomes: &mut Vec<Outcome>,
    ) -> Result<(), Refusal> {
        self.clock = self.clock.max(now);
        let received = self.receive(record, outcomes);
        self.release_due(outcomes);
        received
    }

    /// Lets go what is due, or a part of it where that is very much: then [`Stream::next_deadline`] is not later than `now`
    /// still, and the next call goes on, with outcomes that were taken.
    pub fn tick(&mut self, now: i64, outcomes: &mut Vec<Outcome>) {
        self.clock = self.clock.max(now);
        self.release_due(outcomes);
    }

    /// Lets go everything, due or not; or a part of it where that is very much, as [`Stream::tick`] does.
    pub fn flush(&mut self, outcomes: &mut Vec<Outcome>) {
        while let Some((oldest, _)) = self.waiting.oldest().filter(|_| outcomes.len() < STEP) {
            self.settle(oldest, outcomes);
        }
    }

    /// When the next record is due, if one is held.
    pub fn next_deadline(&self) -> Option<i64> {
        let (_, oldest) = self.waiting.oldest()?;
        Some(oldest.arrived().saturating_add(self.settings.delay))
    }

    /// How many records are held.
    pub fn held(&self) -> usize {
        self.waiting.records()
    }

    /// The number that the next record gets.
    pub fn next_record(&self) -> u64 {
        self.waiting.next()
    }

    /// The space, with what it has learnt of its domains.
    pub fn space(&self) -> &Space {
        &self.space
    }

    fn receive(&mut self, record: Record, outcomes: &mut Vec<Outcome>) -> Result<(), Refusal> {
        let Record { id, subject, values, sensitive } = record;
        let area = self.space.area(&values)?;
        self.check_sensitive(&sensitive)?;
        if self.space.learn(&area) {
            self.groups.weigh(&self.space);
        }
        for ((demand, seen), value) in
            self.settings.sensitive.iter().zip(&mut self.seen).zip(&sensitive)
        {
            if demand.closeness.is_some() {
                seen.add(value);
            }
        }
        if !self.waiting.holds(&subject)
            && let Some(group) = self.at_once(&subject, &area)
        {
            self.subjects.set(subject, group.id);
            outcomes.push(Outcome::Released { id, group, reused: true });
            return Ok(());
        }
        let number = self.waiting.next();
        let held = Held { number, id, subject, arrived: self.clock, area, sensitive };
        if let Some(item) = self.waiting.hold(&self.space, held) {
            self.release_same(item, outcomes);
        }
        Ok(())
    }

    fn check_sensitive(&self, values: &[SensitiveValue]) -> Result<(), Refusal> {
        if values.len() != self.settings.sensitive.len() {
            return Err(Refusal::Count);
        }
        match values.iter().position(|value| !value.is_finite()) {
            Some(field) => Err(Refusal::Sensitive(field)),
            None => Ok(()),
        }
    }

    /// The published group that need not be waited for.
    fn at_once(&mut self, subject: &Subject, area: &[Span]) -> Option<Arc<Group>> {
        if let Some(last) = self.subjects.group(subject)
            && let Some(group) = self.groups.covering(last, area)
        {
            return Some(group);
        }
        if let Some(group) = self.groups.same(area) {
            return Some(group);
        }
        let (_, slot) = self.groups.tightest(area, self.usual_loss * AT_ONCE)?;
        self.groups.take(slot)
    }

    /// Releases those that have the same values as an item, if they are enough: no group can be narrower.
    fn release_same(&mut self, item: u64, outcomes: &mut Vec<Outcome>) {
        let Some(area) = self.waiting.item(item).map(|item| &item.area) else { return };
        let Some(same) = self.waiting.same(area) else { return };
        // Where their sensitive values do not satisfy, they are not looked at again with each that comes.
        let times = same.len() / self.settings.k;
        if times * self.settings.k != same.len() || !times.is_power_of_two() {
            return;
        }
        let items: Vec<u64> = same.collect();
        if self.lack(&items) == 0.0 {
            let area = area.to_vec();
            self.publish(Proposal { items, area }, outcomes);
        }
    }

    fn release_due(&mut self, outcomes: &mut Vec<Outcome>) {
        while let Some((oldest, item)) = self.waiting.oldest() {
            let due = item.arrived().saturating_add(self.settings.delay) <= self.clock;
            let due = due && outcomes.len() < STEP;
            if !due && self.waiting.records() <= self.settings.most_held {
                return;
            }
            self.settle(oldest, outcomes);
        }
    }

    /// Finds a group for an item, or suppresses it.
    fn settle(&mut self, item: u64, outcomes: &mut Vec<Outcome>) {
        let Some(area) = self.waiting.item(item).map(|item| item.area.clone()) else { return };
        let known = self.groups.tightest(&area, f64::INFINITY);
        let most = known.map_or(f64::INFINITY, |(loss, _)| self.worthwhile(loss));
        if let Some(proposal) = self.propose(item, &area, most) {
            self.publish(proposal, outcomes);
        } else if let Some((loss, slot)) = known
            && let Some(group) = self.groups.take(slot)
        {
            self.get_used_to(loss);
            self.release(item, &group, true, outcomes);
        } else {
            let next = self.take(item, |id| Outcome::Suppressed { id }, outcomes);
            self.follow(next.1, outcomes);
        }
    }

    /// A new group must lose less than this to be worth more than one that is known: `known` is to exceed its loss,
    /// and what it exceeds the usual loss by for each of the k - 1 others.
    fn worthwhile(&self, known: f64) -> f64 {
        let others = (self.settings.k - 1) as f64;
        if known <= self.usual_loss {
            known
        } else {
            (known + others * self.usual_loss) / (1.0 + others)
        }
    }

    fn publish(&mut self, proposal: Proposal, outcomes: &mut Vec<Outcome>) {
        let Proposal { items, area } = proposal;
        let loss = self.space.loss(&area);
        let votes = items.iter().filter_map(|item| self.waiting.item(*item).map(Item::vote));
        let distinct = distinct(&votes.collect::<Vec<_>>(), self.settings.sensitive.len());
        let group = self.groups.publish(&self.space, area.into(), items.len(), distinct);
        for item in items {
            self.get_used_to(loss);
            self.release(item, &group, false, outcomes);
        }
    }

    fn get_used_to(&mut self, loss: f64) {
        self.usual_loss += (loss - self.usual_loss) / USUAL;
    }

    fn release(
        &mut self,
        item: u64,
        group: &Arc<Group>,
        reused: bool,
        outcomes: &mut Vec<Outcome>,
    ) {
        let released = |id| Outcome::Released { id, group: group.clone(), reused };
        let (subject, next) = self.take(item, released, outcomes);
        if let Some(subject) = subject {
            self.subjects.set(subject, group.id);
        }
        self.follow(next, outcomes);
    }

    /// Whose item it was, and which item of the same subject waited behind it.
    fn take(
        &mut self,
        item: u64,
        outcome: impl Fn(u64) -> Outcome,
        outcomes: &mut Vec<Outcome>,
    ) -> (Option<Subject>, Option<u64>) {
        let Some((item, next)) = self.waiting.take(&self.space, item) else { return (None, None) };
        outcomes.extend(item.records.iter().map(|record| outcome(record.id)));
        (Some(item.subject), next)
    }

    /// Lets go what waited behind an item, or lets it be found.
    fn follow(&mut self, mut next: Option<u64>, outcomes: &mut Vec<Outcome>) {
        while let Some(number) = next
            && let Some(item) = self.waiting.item(number)
        {
            let (subject, area) = (item.subject, item.area.clone());
            let Some(group) = self.at_once(&subject, &area) else {
                self.waiting.show(&self.space, number);
                return;
            };
            self.subjects.set(subject, group.id);
            let released = |id| Outcome::Released { id, group: group.clone(), reused: true };
            next = self.take(number, released, outcomes).1;
        }
    }
}

fn check(settings: &Settings) -> Result<(), Unfit> {
    if settings.k < 2 {
        return Err(Unfit::K);
    }
    if settings.delay < 0 {
        return Err(Unfit::Delay);
    }
    if settings.quasi_identifiers.is_empty() {
        return Err(Unfit::NoQuasiIdentifiers);
    }
    if settings.most_held == 0 {
        return Err(Unfit::MostHeld);
    }
    if let Some(field) = settings.quasi_identifiers.iter().position(|field| !is_proper(field)) {
        return Err(Unfit::Domain(field));
    }
    match settings.sensitive.iter().position(|demand| !demand.is_proper()) {
        Some(field) => Err(Unfit::Sensitive(field)),
        None => Ok(()),
    }
}

fn is_proper(field: &QuasiIdentifier) -> bool {
    match field {
        QuasiIdentifier::Numeric(Domain::Declared { least, most }) => {
            least < most && Space::is_measurable(*least) && Space::is_measurable(*most)
        }
        _ => true,
    }
}
