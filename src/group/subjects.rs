//! In which group a subject was published last, bounded in number; who was put there first is forgotten first.

use std::collections::VecDeque;

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use super::Subject;
use super::changes::Touched;

/// In which group a subject was published last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownSubject {
    pub subject: Subject,
    pub group: u64,
    /// Its place in the order in which subjects came to the groups they are in.
    pub number: u64,
}

#[derive(Debug)]
pub(super) struct Subjects {
    most: usize,
    /// With the number of the change that put them there.
    groups: FxHashMap<Subject, (u64, u64)>,
    /// One that is not its subject's last is stale.
    changes: VecDeque<(u64, Subject)>,
    pub(super) next: u64,
    pub(super) touched: Touched<Subject>,
}

impl Subjects {
    pub(super) fn new(most: usize) -> Subjects {
        Subjects {
            most,
            groups: FxHashMap::default(),
            changes: VecDeque::new(),
            next: 0,
            touched: Touched::new(),
        }
    }

    pub(super) fn group(&self, subject: &Subject) -> Option<u64> {
        self.groups.get(subject).map(|(group, _)| *group)
    }

    pub(super) fn set(&mut self, subject: Subject, group: u64) {
        if self.group(&subject) == Some(group) {
            return;
        }
        self.touched.note(subject);
        self.groups.insert(subject, (group, self.next));
        self.changes.push_back((self.next, subject));
        self.next += 1;
        if self.groups.len() > self.most {
            self.forget_oldest();
        }
        if self.changes.len() > 2 * self.most.max(16) {
            let groups = &self.groups;
            self.changes.retain(|(change, subject)| is_last(groups, *change, subject));
        }
    }

    /// In the order in which they were put there.
    pub(super) fn state(&self) -> Vec<KnownSubject> {
        let last = self.changes.iter().filter(|(number, who)| is_last(&self.groups, *number, who));
        last.filter_map(|(_, who)| self.known(who)).collect()
    }

    pub(super) fn known(&self, subject: &Subject) -> Option<KnownSubject> {
        let (group, number) = *self.groups.get(subject)?;
        Some(KnownSubject { subject: *subject, group, number })
    }

    /// After those of lower numbers.
    pub(super) fn keep(&mut self, known: KnownSubject) {
        self.next = known.number;
        self.set(known.subject, known.group);
    }

    fn forget_oldest(&mut self) {
        while let Some((change, subject)) = self.changes.pop_front() {
            if is_last(&self.groups, change, &subject) {
                self.touched.note(subject);
                self.groups.remove(&subject);
                return;
            }
        }
    }
}

fn is_last(groups: &FxHashMap<Subject, (u64, u64)>, change: u64, subject: &Subject) -> bool {
    groups.get(subject).is_some_and(|(_, last)| *last == change)
}
