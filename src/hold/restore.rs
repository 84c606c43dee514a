//! From the changelog back to what was held.

use std::collections::HashMap;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::entry::{self, Entry, Kind};
use super::{Holding, Origin};
use crate::crypto::ciphertext::{self, Algorithm, SealKey};
use crate::crypto::{KeyError, KeyId, KeySource};
use crate::group::{Held, KnownGroup, KnownSubject, State, Stream, Subject, Summary, Unfit};
use crate::policy::HoldPlan;
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
}

/// What is read of one view and partition.
#[derive(Default)]
struct Part {
    summary: Option<Summary>,
    held: FxHashMap<u64, (Held, HeldRow)>,
    groups: FxHashMap<u64, KnownGroup>,
    subjects: FxHashMap<Subject, KnownSubject>,
}

/// Reads the changelog of some partitions.
pub struct Restore<'k> {
    keys: &'k dyn KeySource,
    opened: HashMap<(KeyId, u32), SealKey>,
    origins: Vec<Origin>,
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
    pub fn new(origins: Vec<Origin>, keys: &'k dyn KeySource) -> Restore<'k> {
        Restore { keys, opened: HashMap::new(), origins, parts: HashMap::new(), entries: 0 }
    }

    /// The next entry of the changelog; those of others are passed.
    pub fn take(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), RestoreError> {
        let Some(key) = std::str::from_utf8(key).ok() else { return Ok(()) };
        let Some((place, kind)) = key.rsplit_once('/') else { return Ok(()) };
        let Some(kind) = Kind::parse(kind) else { return Ok(()) };
        if !self.parts.contains_key(place) {
            let Some(origin) = self.origin(place) else { return Ok(()) };
            self.parts.insert(place.to_owned(), (origin, Part::default()));
        }
        self.entries += 1;
        let Some((_, part)) = self.parts.get_mut(place) else { return Ok(()) };
        let Some(value) = value else {
            match kind {
                Kind::Summary => part.summary = None,
                Kind::Held(number) => drop(part.held.remove(&number)),
                Kind::Group(id) => drop(part.groups.remove(&id)),
                Kind::Subject(subject) => drop(part.subjects.remove(&subject)),
            }
            return Ok(());
        };
        let wrong = || RestoreError::DoesNotOpen(key.to_owned());
        let label = ciphertext::label(value).map_err(|_| wrong())?;
        let name = (label.key, label.version);
        let seal_key = match self.opened.entry(name) {
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(vacant) => {
                let key = self.keys.find(name.0, name.1)?;
                vacant.insert(SealKey::new(&key, Algorithm::Aes256Gcm))
            }
        };
        match kind {
            Kind::Summary => {
                part.summary = Some(entry::open(seal_key, key, value).ok_or_else(wrong)?)
            }
            Kind::Held(number) => {
                let (row, beside) = HeldRow::open(seal_key, key, value).ok_or_else(wrong)?;
                let held = postcard::from_bytes(&beside).map_err(|_| wrong())?;
                part.held.insert(number, (held, row));
            }
            Kind::Group(id) => {
                part.groups.insert(id, entry::open(seal_key, key, value).ok_or_else(wrong)?);
            }
            Kind::Subject(subject) => {
                part.subjects.insert(subject, entry::open(seal_key, key, value).ok_or_else(wrong)?);
            }
        }
        Ok(())
    }

    /// Which of the origins a place is of.
    fn origin(&self, place: &str) -> Option<usize> {
        let mut parts = place.rsplitn(4, '/');
        let (_fingerprint, _view, _policy) = (parts.next()?, parts.next()?, parts.next()?);
        let origin = parts.next()?;
        let is = |known: &Origin| {
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
            .map(|origin| Restored { origin, holdings: Vec::new(), orphans: Vec::new() })
            .collect();
        for (place, (at, part)) in self.parts {
            let Some(restored) = all.get_mut(at) else { continue };
            let plan = plans(&restored.origin.topic);
            let plan = plan.into_iter().find(|plan| restored.origin.place(plan) == place);
            match plan {
                Some(plan) => restored.holdings.extend(part.holding(plan, place)?),
                None => restored.orphans.extend(part.orphan(place)),
            }
        }
        Ok(all)
    }
}

impl Part {
    fn is_empty(&self) -> bool {
        let Part { summary, held, groups, subjects } = self;
        summary.is_none() && held.is_empty() && groups.is_empty() && subjects.is_empty()
    }

    fn holding(self, plan: &Arc<HoldPlan>, place: String) -> Result<Option<Holding>, RestoreError> {
        if self.is_empty() {
            return Ok(None);
        }
        let Some(summary) = self.summary else { return Err(RestoreError::NotWhole(place)) };
        let (mut held, mut rows) = (Vec::with_capacity(self.held.len()), FxHashMap::default());
        for (one, row) in self.held.into_values() {
            rows.insert(one.id, row);
            held.push(one);
        }
        let groups = self.groups.into_values().collect();
        let subjects = self.subjects.into_values().collect();
        let state = State { summary, held, groups, subjects };
        let stream = Stream::restore(plan.anonymize.settings.clone(), state)?;
        Ok(Some(Holding::with(plan, place, stream, rows)))
    }

    fn orphan(self, place: String) -> Option<Orphan> {
        if self.is_empty() {
            return None;
        }
        let mut names = place.rsplit('/').skip(1);
        let (view, policy) = (names.next()?.to_owned(), names.next()?.to_owned());
        let rows = self.held.len();
        let kinds = self.held.into_keys().map(Kind::Held);
        let kinds = kinds.chain(self.groups.into_keys().map(Kind::Group));
        let kinds = kinds.chain(self.subjects.into_keys().map(Kind::Subject));
        let kinds = kinds.chain([Kind::Summary]).collect();
        Some(Orphan { policy, view, rows, place, kinds })
    }
}
