//! What has changed in a stream since it was asked last, for a changelog that keeps the last entry of each key.

use serde::{Deserialize, Serialize};

use super::Subject;
use super::state::{KnownGroup, KnownSubject, State, Summary};
use super::stream::Stream;
use crate::group::{by_key, put};

/// By key, in its order: what is there now, or none where it is no more. Keys are of a window, given by its start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Changes {
    pub summary: Summary,
    pub groups: Vec<((i64, u32), Option<KnownGroup>)>,
    pub subjects: Vec<((i64, Subject), Option<KnownSubject>)>,
}

impl Stream {
    /// From now on changes are noted; whoever starts this has to take them.
    pub fn note_changes(&mut self) {
        self.touched_groups.start();
        self.touched_subjects.start();
    }

    /// What has changed since this was called last, or since [`Stream::note_changes`].
    pub fn take_changes(&mut self) -> Changes {
        let groups = self.touched_groups.take().into_iter();
        let groups = groups.map(|key| {
            let (window, number) = key;
            (key, self.open.get(&window).and_then(|open| open.known_group(window, number)))
        });
        let subjects = self.touched_subjects.take().into_iter();
        let subjects = subjects.map(|key| {
            let (window, subject) = &key;
            (key, self.open.get(window).and_then(|open| open.known_subject(*window, subject)))
        });
        Changes { summary: self.summary, groups: groups.collect(), subjects: subjects.collect() }
    }
}

impl State {
    /// The state after changes. To be called for all changes of a changelog together: it sorts.
    pub fn change(self, changes: impl IntoIterator<Item = Changes>) -> State {
        let mut summary = self.summary;
        let mut groups = by_key(self.groups, |group| (group.window, group.number));
        let mut subjects = by_key(self.subjects, |subject| (subject.window, subject.subject));
        for change in changes {
            summary = change.summary;
            put(&mut groups, change.groups);
            put(&mut subjects, change.subjects);
        }
        let (groups, subjects) = (groups.into_values(), subjects.into_values());
        State { summary, groups: groups.collect(), subjects: subjects.collect() }
    }
}
