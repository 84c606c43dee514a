//! From the changelog back to what was held.

use std::collections::HashMap;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::entry::{self, Entry, Kind};
use super::groups::Groups;
use super::rows::{Rows, RowsError};
use super::windows::Windows;
use super::{Holding, Method, Origin, Room};
use crate::aggregate;
use crate::crypto::ciphertext::{self, Algorithm, SealKey};
use crate::crypto::{KeyError, KeyId, KeySource};
use crate::group::{self, Held, KnownGroup, KnownSubject, Subject, Summary};
use crate::policy::{HoldPlan, Rule};
use crate::rewrite::HeldRow;

/// Why what is held cannot be had back.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("{0}")]
    Key(#[from] KeyError),
    #[error(
        "the state `{0}` was changed, moved, or sealed under another keyset: bring the keyset back, or give up what is held \
         by deleting the records of the state topic"
    )]
    DoesNotOpen(String),
    #[error(
        "the state `{0}` is not whole: give up what is held by deleting the records of the state topic"
    )]
    NotWhole(String),
    #[error("{0}")]
    Unfit(#[from] Unfit),
    #[error(transparent)]
    Rows(#[from] RowsError),
}

/// Why a view's rule cannot be worked by. The policy's parser has found it out before.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    #[error(transparent)]
    Groups(#[from] group::Unfit),
    #[error(transparent)]
    Windows(#[from] aggregate::Unfit),
}

/// What is read of one view and partition.
struct Part {
    summary: Option<Summary>,
    held: FxHashMap<u64, Held>,
    rows: Rows,
    groups: FxHashMap<u64, KnownGroup>,
    subjects: FxHashMap<Subject, KnownSubject>,
    windows: Option<aggregate::Summary>,
    window_groups: FxHashMap<(i64, u32), aggregate::KnownGroup>,
    window_subjects: FxHashMap<(i64, Subject), aggregate::KnownSubject>,
}

/// Reads the changelog of some partitions.
pub struct Restore<'k> {
    keys: &'k dyn KeySource,
    opened: HashMap<(KeyId, u32), SealKey>,
    /// With the partition of the state topic that each is in: what is of it elsewhere is of another time.
    origins: Vec<(Origin, i32)>,
    room: Room,
    /// By place.
    parts: HashMap<String, (usize, Part)>,
    /// Entries that were of them.
    pub entries: u64,
}

/// What was held under rules that are in force no more.
pub struct Orphan {
    pub policy: String,
    pub view: String,
    pub rows: usize,
    place: String,
    kinds: Vec<Kind>,
}

impl Orphan {
    /// What takes it out of the changelog.
    pub fn end(&self) -> impl Iterator<Item = Entry> {
        self.kinds.iter().map(|kind| Entry::new(&self.place, *kind, |_| None))
    }
}

/// One partition as it was.
pub struct Restored {
    pub origin: Origin,
    pub holdings: Vec<Holding>,
    pub orphans: Vec<Orphan>,
}

impl<'k> Restore<'k> {
    /// Origins with the partition of the changelog that each is in.
    pub fn new(origins: Vec<(Origin, i32)>, keys: &'k dyn KeySource, room: Room) -> Restore<'k> {
        Restore { keys, opened: HashMap::new(), origins, room, parts: HashMap::new(), entries: 0 }
    }

    /// The next entry of a partition of the changelog; those of others are passed.
    pub fn take(
        &mut self,
        partition: i32,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<(), RestoreError> {
        let Some(key) = std::str::from_utf8(key).ok() else { return Ok(()) };
        let Some((place, kind)) = key.rsplit_once('/') else { return Ok(()) };
        let Some(kind) = Kind::parse(kind) else { return Ok(()) };
        if !self.parts.contains_key(place) {
            let Some(origin) = self.origin(place) else { return Ok(()) };
            self.parts.insert(place.to_owned(), (origin, Part::new(self.room.rows())));
        }
        let Some((origin, part)) = self.parts.get_mut(place) else { return Ok(()) };
        if self.origins.get(*origin).is_none_or(|(_, home)| *home != partition) {
            return Ok(());
        }
        self.entries += 1;
        let Some(value) = value else {
            return Ok(part.forget(kind)?);
        };
        // Not the entry's own name: it may be the digest of a person.
        let wrong = || RestoreError::DoesNotOpen(place.to_owned());
        let label = ciphertext::label(value).map_err(|_| wrong())?;
        let name = (label.key, label.version);
        let seal_key = match self.opened.entry(name) {
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(vacant) => {
                let key = self.keys.find(name.0, name.1)?;
                vacant.insert(SealKey::new(&key, Algorithm::Aes256Gcm))
            }
        };
        part.take(kind, seal_key, key, value)?.ok_or_else(wrong)
    }

    /// Which of the origins a place is of.
    fn origin(&self, place: &str) -> Option<usize> {
        let mut parts = place.rsplitn(4, '/');
        let (_fingerprint, _view, _policy) = (parts.next()?, parts.next()?, parts.next()?);
        let origin = parts.next()?;
        let is = |(known, _): &(Origin, i32)| {
            let rest =
                origin.strip_prefix(known.group.as_str()).and_then(|rest| rest.strip_prefix('/'));
            let rest = rest.and_then(|rest| rest.strip_prefix(known.topic.as_str()));
            let rest = rest.and_then(|rest| rest.strip_prefix('/'));
            rest.and_then(|partition| partition.parse().ok()) == Some(known.partition)
        };
        self.origins.iter().position(is)
    }

    /// All was read. `plans` are those of a topic's views that hold rows.
    pub fn finish<'p>(
        self,
        plans: impl Fn(&str) -> Vec<&'p Arc<HoldPlan>>,
    ) -> Result<Vec<Restored>, RestoreError> {
        let mut all: Vec<Restored> = self
            .origins
            .into_iter()
            .map(|(origin, _)| Restored { origin, holdings: Vec::new(), orphans: Vec::new() })
            .collect();
        for (place, (at, part)) in self.parts {
            let Some(restored) = all.get_mut(at) else { continue };
            if part.is_empty() {
                continue;
            }
            let plans = plans(&restored.origin.topic);
            let plan = plans.iter().find(|plan| restored.origin.place(plan) == place);
            if let Some(plan) = plan {
                restored.holdings.push(part.holding(plan, place)?);
                continue;
            }
            let Some(mut orphan) = Orphan::new(place, &part) else { continue };
            // What is spent of a budget stays spent.
            let heir =
                plans.iter().find(|plan| plan.view == orphan.view && plan.policy == orphan.policy);
            let heir = heir.filter(|plan| matches!(plan.rule, Rule::Windows(_)));
            if heir.is_none() && part.windows.is_some_and(|summary| summary.spent.is_some()) {
                orphan.kinds.retain(|kind| *kind != Kind::Windows);
            }
            if let (Some(plan), Some(summary)) = (heir, part.windows)
                && let Rule::Windows(rule) = &plan.rule
                && !restored.holdings.iter().any(|known| known.plan.view == plan.view)
            {
                let windows = Windows::inherit(rule, summary).map_err(Unfit::from)?;
                let method = Method::Windows(Box::new(windows));
                let place = restored.origin.place(plan);
                restored
                    .holdings
                    .push(Holding { touched: true, ..Holding::with(plan, place, method) });
            }
            if !orphan.kinds.is_empty() {
                restored.orphans.push(orphan);
            }
        }
        Ok(all)
    }
}

impl Orphan {
    fn new(place: String, part: &Part) -> Option<Orphan> {
        let mut names = place.rsplit('/').skip(1);
        let (view, policy) = (names.next()?.to_owned(), names.next()?.to_owned());
        let (rows, kinds) = (part.held.len(), part.kinds());
        Some(Orphan { policy, view, rows, place, kinds })
    }
}

impl Part {
    fn new(rows: Rows) -> Part {
        Part {
            summary: None,
            held: FxHashMap::default(),
            rows,
            groups: FxHashMap::default(),
            subjects: FxHashMap::default(),
            windows: None,
            window_groups: FxHashMap::default(),
            window_subjects: FxHashMap::default(),
        }
    }

    fn is_empty(&self) -> bool {
        self.kinds().is_empty()
    }

    fn kinds(&self) -> Vec<Kind> {
        let summaries = self.summary.iter().map(|_| Kind::Groups);
        let summaries = summaries.chain(self.windows.iter().map(|_| Kind::Windows));
        let held = self.held.keys().copied().map(Kind::Held);
        let groups = self.groups.keys().copied().map(Kind::Group);
        let subjects = self.subjects.keys().copied().map(Kind::Subject);
        let of_windows =
            self.window_groups.keys().map(|(at, number)| Kind::WindowGroup(*at, *number));
        let people =
            self.window_subjects.keys().map(|(at, subject)| Kind::WindowSubject(*at, *subject));
        summaries
            .chain(held)
            .chain(groups)
            .chain(subjects)
            .chain(of_windows)
            .chain(people)
            .collect()
    }

    fn forget(&mut self, kind: Kind) -> Result<(), RowsError> {
        match kind {
            Kind::Groups => self.summary = None,
            Kind::Held(number) => {
                if let Some(held) = self.held.remove(&number) {
                    self.rows.remove(held.id)?;
                }
            }
            Kind::Group(id) => drop(self.groups.remove(&id)),
            Kind::Subject(subject) => drop(self.subjects.remove(&subject)),
            Kind::Windows => self.windows = None,
            Kind::WindowGroup(at, number) => drop(self.window_groups.remove(&(at, number))),
            Kind::WindowSubject(at, subject) => drop(self.window_subjects.remove(&(at, subject))),
        }
        Ok(())
    }

    /// None where it does not open.
    fn take(
        &mut self,
        kind: Kind,
        with: &SealKey,
        key: &str,
        value: &[u8],
    ) -> Result<Option<()>, RowsError> {
        let Kind::Held(number) = kind else { return Ok(self.take_plain(kind, with, key, value)) };
        let Some((row, beside)) = HeldRow::open(with, key, value) else { return Ok(None) };
        let Ok(held) = postcard::from_bytes::<Held>(&beside) else { return Ok(None) };
        self.rows.insert(held.id, row.to_bytes())?;
        self.held.insert(number, held);
        Ok(Some(()))
    }

    fn take_plain(&mut self, kind: Kind, with: &SealKey, key: &str, value: &[u8]) -> Option<()> {
        match kind {
            Kind::Groups => self.summary = Some(entry::open(with, key, value)?),
            Kind::Held(_) => return None,
            Kind::Group(id) => drop(self.groups.insert(id, entry::open(with, key, value)?)),
            Kind::Subject(subject) => {
                self.subjects.insert(subject, entry::open(with, key, value)?);
            }
            Kind::Windows => self.windows = Some(entry::open(with, key, value)?),
            Kind::WindowGroup(at, number) => {
                self.window_groups.insert((at, number), entry::open(with, key, value)?);
            }
            Kind::WindowSubject(at, subject) => {
                self.window_subjects.insert((at, subject), entry::open(with, key, value)?);
            }
        }
        Some(())
    }

    fn holding(self, plan: &Arc<HoldPlan>, place: String) -> Result<Holding, RestoreError> {
        let method = match &plan.rule {
            Rule::Groups(rule) => {
                let Some(summary) = self.summary else { return Err(RestoreError::NotWhole(place)) };
                let held = self.held.into_values().collect();
                let groups = self.groups.into_values().collect();
                let subjects = self.subjects.into_values().collect();
                let state = group::State { summary, held, groups, subjects };
                Method::Groups(Box::new(
                    Groups::restore(rule, state, self.rows).map_err(Unfit::from)?,
                ))
            }
            Rule::Windows(rule) => {
                let Some(summary) = self.windows else { return Err(RestoreError::NotWhole(place)) };
                let groups = self.window_groups.into_values().collect();
                let subjects = self.window_subjects.into_values().collect();
                let state = aggregate::State { summary, groups, subjects };
                Method::Windows(Box::new(Windows::restore(rule, state).map_err(Unfit::from)?))
            }
        };
        Ok(Holding::with(plan, place, method))
    }
}
