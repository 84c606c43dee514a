//! A window that is not yet published: its groups, and what each subject contributed.

use std::collections::{HashMap, HashSet};

use rustc_hash::FxHashMap;

use super::settings::{Field, Settings};
use super::state::{KnownGroup, KnownSubject};
use super::tally::Tally;
use super::{Group, Subject};

#[derive(Debug, Default)]
pub(super) struct Open {
    /// By number, which is the order in which they came.
    pub(super) groups: Vec<Held>,
    numbers: HashMap<Group, u32>,
    pub(super) subjects: FxHashMap<Subject, Contribution>,
}

/// A group of a window.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) group: Group,
    pub(super) subjects: u64,
    pub(super) records: u64,
    /// One for each field.
    pub(super) tallies: Vec<Tally>,
}

/// What a subject contributed to a window. Most are in one group only, and need no list.
#[derive(Debug)]
pub(super) struct Contribution {
    records: u32,
    first: u32,
    /// Other groups, in order.
    others: Vec<u32>,
}

/// What limits a window.
#[derive(Debug)]
pub(super) struct Limits {
    contributions: u32,
    most_subjects: usize,
    most_groups: usize,
    /// Where no other groups are published.
    declared: Option<HashSet<Group>>,
    sketched: Vec<bool>,
}

/// A record whose values are clamped.
pub(super) struct Clamped {
    pub(super) subject: Subject,
    pub(super) group: Group,
    pub(super) values: Vec<Option<i64>>,
}

pub(super) enum Placed {
    In { number: u32, other: bool },
    OverContribution,
    NoRoom,
}

impl Limits {
    pub(super) fn new(settings: &Settings) -> Limits {
        let privacy = settings.privacy.as_ref().filter(|privacy| !settings.selects(privacy));
        Limits {
            contributions: settings.contributions,
            most_subjects: settings.most_subjects,
            most_groups: settings.most_groups,
            declared: privacy
                .map(|privacy| privacy.declared.iter().cloned().map(Group::Of).collect()),
            sketched: settings.sketched(),
        }
    }
}

impl Open {
    pub(super) fn add(&mut self, record: &Clamped, limits: &Limits) -> Placed {
        match self.subjects.get(&record.subject) {
            Some(known) if known.records >= limits.contributions => {
                return Placed::OverContribution;
            }
            None if self.subjects.len() >= limits.most_subjects => return Placed::NoRoom,
            _ => {}
        }
        let number = self.number(&record.group, limits);
        let contribution = self.subjects.entry(record.subject);
        let mut is_new = false;
        let contribution = contribution.or_insert_with(|| {
            is_new = true;
            Contribution { records: 0, first: number, others: Vec::new() }
        });
        is_new |= contribution.enter(number);
        contribution.records += 1;
        let Some(held) = self.groups.get_mut(number as usize) else { return Placed::NoRoom };
        held.subjects += u64::from(is_new);
        held.add(&record.values, &limits.sketched);
        Placed::In { number, other: held.group == Group::Other }
    }

    /// The number of the group that a record goes to.
    fn number(&mut self, group: &Group, limits: &Limits) -> u32 {
        if let Some(number) = self.numbers.get(group) {
            return *number;
        }
        let others = usize::from(self.numbers.contains_key(&Group::Other));
        let is_full = self.groups.len() - others >= limits.most_groups;
        let is_declared = limits.declared.as_ref().is_none_or(|declared| declared.contains(group));
        let group = if is_full || !is_declared { &Group::Other } else { group };
        if let Some(number) = self.numbers.get(group) {
            return *number;
        }
        self.push(Held::nobody(group.clone(), limits.sketched.len()))
    }

    fn push(&mut self, held: Held) -> u32 {
        let number = u32::try_from(self.groups.len()).unwrap_or(u32::MAX);
        self.numbers.insert(held.group.clone(), number);
        self.groups.push(held);
        number
    }

    /// How many subjects are in at least one of some groups.
    pub(super) fn subjects_in(&self, chosen: impl Fn(u32) -> bool) -> u64 {
        let of = |known: &&Contribution| known.groups().any(&chosen);
        self.subjects.values().filter(of).count() as u64
    }

    pub(super) fn known_group(&self, window: i64, number: u32) -> Option<KnownGroup> {
        let Held { group, subjects, records, tallies } = self.groups.get(number as usize)?;
        let (group, tallies) = (group.clone(), tallies.clone());
        Some(KnownGroup { window, number, group, subjects: *subjects, records: *records, tallies })
    }

    pub(super) fn known_subject(&self, window: i64, subject: &Subject) -> Option<KnownSubject> {
        let known = self.subjects.get(subject)?;
        let groups = known.groups().collect();
        Some(KnownSubject { window, subject: *subject, records: known.records, groups })
    }

    /// Takes back the group of the next number; none if it cannot be.
    pub(super) fn restore_group(&mut self, known: KnownGroup, fields: &[Field]) -> Option<()> {
        let KnownGroup { number, group, subjects, records, tallies, .. } = known;
        let fits = number as usize == self.groups.len()
            && !self.numbers.contains_key(&group)
            && tallies.len() == fields.len();
        fits.then(|| {
            self.push(Held { group, subjects, records, tallies });
        })
    }

    pub(super) fn restore_subject(&mut self, known: KnownSubject) -> Option<()> {
        let mut groups = known.groups.into_iter();
        let first = groups.next()?;
        let mut contribution = Contribution { records: known.records, first, others: Vec::new() };
        for group in groups {
            contribution.enter(group).then_some(())?;
        }
        let is_new = self.subjects.insert(known.subject, contribution).is_none();
        is_new.then_some(())
    }

    /// Whether groups and subjects that were restored are those of each other. A subject that is missing could contribute
    /// once more.
    pub(super) fn adds_up(&self, limits: &Limits, fields: &[Field]) -> bool {
        let mut subjects = vec![0_u64; self.groups.len()];
        let mut contributed = 0;
        for known in self.subjects.values() {
            for number in known.groups() {
                let Some(of_group) = subjects.get_mut(number as usize) else { return false };
                *of_group += 1;
            }
            if known.records > limits.contributions
                || known.groups().count() as u64 > u64::from(known.records)
            {
                return false;
            }
            contributed += u128::from(known.records);
        }
        let counted: u128 = self.groups.iter().map(|held| u128::from(held.records)).sum();
        let mut groups = self.groups.iter().zip(subjects);
        counted == contributed
            && groups
                .all(|(held, subjects)| held.subjects == subjects && held.is_sound(limits, fields))
    }
}

impl Held {
    pub(super) fn nobody(group: Group, fields: usize) -> Held {
        Held { group, subjects: 0, records: 0, tallies: vec![Tally::default(); fields] }
    }

    fn is_sound(&self, limits: &Limits, fields: &[Field]) -> bool {
        let mut tallies = self.tallies.iter().zip(fields.iter().zip(&limits.sketched));
        tallies.all(|(tally, (field, sketched))| tally.is_of(self.records, field, *sketched))
    }

    fn add(&mut self, values: &[Option<i64>], sketched: &[bool]) {
        self.records += 1;
        for ((tally, value), sketched) in self.tallies.iter_mut().zip(values).zip(sketched) {
            if let Some(value) = value {
                tally.add(*value, *sketched);
            }
        }
    }
}

impl Contribution {
    /// Whether the subject had not been in the group.
    fn enter(&mut self, number: u32) -> bool {
        if number == self.first {
            return false;
        }
        match self.others.binary_search(&number) {
            Ok(_) => false,
            Err(place) => {
                self.others.insert(place, number);
                true
            }
        }
    }

    fn groups(&self) -> impl Iterator<Item = u32> {
        std::iter::once(self.first).chain(self.others.iter().copied())
    }
}
