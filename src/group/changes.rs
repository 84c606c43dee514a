//! What has changed in a stream since it was asked last, for a changelog that keeps the last entry of each key.

use std::collections::BTreeMap;
use std::hash::Hash;

use rustc_hash::FxHashSet;

use super::Subject;
use super::groups::KnownGroup;
use super::held::Held;
use super::state::{State, Summary};
use super::stream::Stream;
use super::subjects::KnownSubject;

/// By key, in its order: what is there now, or none where it is no more.
#[derive(Debug, Clone, PartialEq)]
pub struct Changes {
    pub summary: Summary,
    /// By [`Held::number`].
    pub held: Vec<(u64, Option<Held>)>,
    /// By [`KnownGroup::id`].
    pub groups: Vec<(u64, Option<KnownGroup>)>,
    pub subjects: Vec<(Subject, Option<KnownSubject>)>,
}

/// Keys that were touched, if anybody wants to know.
#[derive(Debug)]
pub(crate) struct Touched<K>(Option<FxHashSet<K>>);

impl<K: Hash + Ord> Touched<K> {
    pub(crate) fn new() -> Touched<K> {
        Touched(None)
    }

    pub(crate) fn note(&mut self, key: K) {
        if let Some(keys) = &mut self.0 {
            keys.insert(key);
        }
    }

    pub(crate) fn is_noted(&self) -> bool {
        self.0.is_some()
    }

    /// Forgets what was noted, and notes from now on.
    pub(crate) fn start(&mut self) {
        self.0 = Some(FxHashSet::default());
    }

    pub(crate) fn take(&mut self) -> Vec<K> {
        let mut keys: Vec<K> = self.0.iter_mut().flat_map(FxHashSet::drain).collect();
        keys.sort_unstable();
        keys
    }
}

impl Stream {
    /// From now on changes are noted; whoever starts this has to take them.
    pub fn note_changes(&mut self) {
        self.waiting.touched.start();
        self.groups.touched.start();
        self.subjects.touched.start();
    }

    /// What has changed since this was called last, or since [`Stream::note_changes`].
    pub fn take_changes(&mut self) -> Changes {
        let held = self.waiting.touched.take().into_iter();
        let held = held.map(|(number, item)| (number, self.waiting.record(item, number)));
        let groups = self.groups.touched.take().into_iter();
        let groups = groups.map(|id| (id, self.groups.known(id)));
        let subjects = self.subjects.touched.take().into_iter();
        let subjects = subjects.map(|subject| (subject, self.subjects.known(&subject)));
        Changes {
            held: held.collect(),
            groups: groups.collect(),
            subjects: subjects.collect(),
            summary: self.summary(),
        }
    }
}

impl State {
    /// The state after changes. To be called for all changes of a changelog together: it sorts.
    pub fn change(self, changes: impl IntoIterator<Item = Changes>) -> State {
        let mut summary = self.summary;
        let mut held = by_key(self.held, |record| record.number);
        let mut groups = by_key(self.groups, |group| group.id);
        let mut subjects = by_key(self.subjects, |subject| subject.subject);
        for change in changes {
            summary = change.summary;
            put(&mut held, change.held);
            put(&mut groups, change.groups);
            put(&mut subjects, change.subjects);
        }
        let mut subjects: Vec<_> = subjects.into_values().collect();
        subjects.sort_unstable_by_key(|subject| subject.number);
        let (held, groups) = (held.into_values().collect(), groups.into_values().collect());
        State { summary, held, groups, subjects }
    }
}

pub(crate) fn by_key<K: Ord, V>(values: Vec<V>, key: impl Fn(&V) -> K) -> BTreeMap<K, V> {
    values.into_iter().map(|value| (key(&value), value)).collect()
}

pub(crate) fn put<K: Ord, V>(known: &mut BTreeMap<K, V>, changes: Vec<(K, Option<V>)>) {
    for (key, change) in changes {
        match change {
            Some(value) => known.insert(key, value),
            None => known.remove(&key),
        };
    }
}
