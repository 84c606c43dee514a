//! Grows a group around a record that is due, from those that wait.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::held::Item;
use super::sensitive::lack;
use super::space::Span;
use super::stream::{Proposal, Stream};
use super::tree::{Found, Wanted};

/// For each subject after the second, a group is grown out of so many areas; the second is simply the nearest.
const CHOICE: usize = 4;
/// Where its sensitive values ask for more, so many further areas are looked at together.
const MORE: usize = 8;
/// A group has at most so many times k subjects.
const MOST: usize = 32;
const ALL_KINDS: u64 = u64::MAX;

impl Stream {
    /// A group around an item whose loss is below `most`. None where there are too few subjects, or where sensitive
    /// values cannot be satisfied.
    pub(super) fn propose(&mut self, item: u64, area: &[Span], most: f64) -> Option<Proposal> {
        if self.waiting.subjects() < self.settings.k {
            return None;
        }
        let count = 2 + CHOICE * (self.settings.k - 2);
        let wanted = Wanted { count, most, kinds: ALL_KINDS };
        let found = self.waiting.nearest(&self.space, area, wanted);
        let proposal = self.grow(item, area.to_vec(), &found, most)?;
        match self.lack(&proposal.items) {
            0.0 => Some(proposal),
            missing => self.complete(proposal, missing, most),
        }
    }

    /// How far items are from what is demanded of their sensitive values.
    pub(super) fn lack(&self, items: &[u64]) -> f64 {
        if self.settings.sensitive.is_empty() {
            return 0.0;
        }
        let items = items.iter().filter_map(|item| self.waiting.item(*item));
        let votes: Vec<_> = items.map(Item::vote).collect();
        lack(&self.settings.sensitive, &self.seen, &votes)
    }

    /// Takes what widens the area least, again and again. As an area grows, no loss becomes less: what was the least
    /// when it was seen last is looked at again, and taken if nothing has changed.
    fn grow(
        &self,
        first: u64,
        mut area: Vec<Span>,
        found: &[Found],
        most: f64,
    ) -> Option<Proposal> {
        let k = self.settings.k;
        let mut items = vec![first];
        let choices = found.iter().enumerate();
        let choices = choices.map(|(index, found)| Reverse((found.loss().to_bits(), index)));
        let mut choices: BinaryHeap<_> = choices.collect();
        while items.len() < k {
            let Reverse((known, index)) = choices.pop()?;
            let cell = found.get(index)?.entry;
            let loss = self.space.merged_loss(&area, self.waiting.area(cell));
            if loss >= most {
                continue;
            }
            if loss.to_bits() > known {
                choices.push(Reverse((loss.to_bits(), index)));
                continue;
            }
            self.space.merge(&mut area, self.waiting.area(cell));
            let room = k - items.len();
            let others = self.waiting.items(cell).map(|(item, _)| item);
            items.extend(others.filter(|item| *item != first).take(room));
        }
        (self.space.loss(&area) < most).then_some(Proposal { items, area })
    }

    /// Adds what brings the sensitive values nearer to what is demanded, the nearest first.
    fn complete(&mut self, proposal: Proposal, missing: f64, most: f64) -> Option<Proposal> {
        let mut draft = Draft { proposal, missing, kinds: ALL_KINDS };
        while draft.proposal.items.len() < MOST * self.settings.k {
            let before = (draft.kinds, draft.missing);
            // The group's own areas are the nearest.
            let count = draft.proposal.items.len() + MORE;
            let wanted = Wanted { count, most, kinds: draft.kinds };
            for found in self.waiting.nearest(&self.space, &draft.proposal.area, wanted) {
                self.add_from(found.entry, &mut draft, most);
                if draft.missing == 0.0 {
                    return Some(draft.proposal);
                }
            }
            if before == (draft.kinds, draft.missing) {
                return None;
            }
        }
        None
    }

    /// Adds what helps from one cell.
    fn add_from(&self, cell: u32, draft: &mut Draft, most: f64) {
        let area = self.waiting.area(cell);
        if self.space.merged_loss(&draft.proposal.area, area) >= most {
            return;
        }
        for (item, kind) in self.waiting.items(cell) {
            if kind & draft.kinds == 0 || draft.proposal.items.contains(&item) {
                continue;
            }
            draft.proposal.items.push(item);
            let missing = self.lack(&draft.proposal.items);
            if missing >= draft.missing {
                draft.proposal.items.pop();
                draft.kinds &= !kind;
                continue;
            }
            self.space.merge(&mut draft.proposal.area, area);
            (draft.missing, draft.kinds) = (missing, ALL_KINDS);
            if missing == 0.0 {
                return;
            }
        }
    }
}

/// A group whose sensitive values do not yet satisfy.
struct Draft {
    proposal: Proposal,
    missing: f64,
    /// Of which something may still help: not those of which one did not since the last that did.
    kinds: u64,
}
