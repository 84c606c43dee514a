//! Counts of what was treated: for the audit trail and the metrics.

use crate::policy::{LeafId, Plan};

/// How often each field was treated in each view, since the last look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    leaves: usize,
    /// For events that every view got, by leaf.
    all: Vec<u64>,
    /// For the others, by view and leaf.
    some: Vec<u64>,
    /// Values that the policy does not name.
    pub unclassified: u64,
    /// Conditions that met a missing field or another type, by view.
    pub condition_errors: Vec<u64>,
}

impl Tally {
    pub fn new(plan: &Plan) -> Self {
        let (leaves, views) = (plan.leaves().len(), plan.views.len());
        Tally {
            leaves,
            all: vec![0; leaves],
            some: vec![0; leaves * views],
            unclassified: 0,
            condition_errors: vec![0; views],
        }
    }

    #[inline]
    pub(super) fn count_all(&mut self, journal: &[LeafId], by: u64) {
        for leaf in journal {
            if let Some(count) = self.all.get_mut(leaf.0 as usize) {
                *count = count.wrapping_add(by);
            }
        }
    }

    pub(super) fn count(&mut self, view: usize, journal: &[LeafId], by: u64) {
        for leaf in journal {
            if let Some(count) = self.some.get_mut(view * self.leaves + leaf.0 as usize) {
                *count = count.wrapping_add(by);
            }
        }
    }

    /// How often `view` published the field of `leaf`.
    pub fn fields(&self, view: usize, leaf: usize) -> u64 {
        let some = self.some.get(view * self.leaves + leaf).copied().unwrap_or(0);
        self.all.get(leaf).copied().unwrap_or(0) + some
    }
}
