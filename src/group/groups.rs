//! Published groups that later records may join, bounded in number; the one that was longest out of use goes first.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use super::changes::Touched;
use super::space::{Area, Space, Span, covers};
use super::tree::{Mark, Search, Tree};

/// A group of records that are published with the same values.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    pub id: u64,
    pub area: Area,
    /// How many different subjects it had when it was published first.
    pub subjects: usize,
    /// The values of its quasi-identifiers as they are published.
    pub shown: Vec<String>,
    /// How many different values of each sensitive field it had then.
    pub distinct: Vec<u32>,
}

/// A group as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KnownGroup {
    pub id: u64,
    pub area: Area,
    pub subjects: usize,
    pub distinct: Vec<u32>,
    /// When it was used last, counted in uses of groups.
    pub used: u64,
}

#[derive(Debug)]
struct Known {
    group: Arc<Group>,
    used: u64,
}

impl Known {
    fn plain(&self) -> KnownGroup {
        let Group { id, ref area, subjects, ref distinct, .. } = *self.group;
        KnownGroup { id, area: area.clone(), subjects, distinct: distinct.clone(), used: self.used }
    }
}

#[derive(Debug)]
pub(super) struct Groups {
    most: usize,
    pub(super) next: u64,
    pub(super) uses: u64,
    slots: Vec<Option<Known>>,
    free: Vec<u32>,
    by_id: FxHashMap<u64, u32>,
    by_area: FxHashMap<Area, u32>,
    by_use: BTreeMap<u64, u32>,
    tree: Tree,
    search: Search,
    pub(super) touched: Touched<u64>,
}

impl Groups {
    pub(super) fn new(fields: usize, most: usize) -> Groups {
        Groups {
            most: most.max(1),
            next: 0,
            uses: 0,
            slots: Vec::new(),
            free: Vec::new(),
            by_id: FxHashMap::default(),
            by_area: FxHashMap::default(),
            by_use: BTreeMap::new(),
            tree: Tree::new(fields),
            search: Search::default(),
            touched: Touched::new(),
        }
    }

    /// A new group, or the known one of the same area.
    pub(super) fn publish(
        &mut self,
        space: &Space,
        area: Area,
        subjects: usize,
        distinct: Vec<u32>,
    ) -> Arc<Group> {
        if let Some(group) = self.same(&area) {
            return group;
        }
        let group = KnownGroup { id: self.next, area, subjects, distinct, used: self.uses };
        self.next += 1;
        self.uses += 1;
        let group = self.keep(space, group);
        if self.by_id.len() > self.most {
            self.forget_oldest(space);
        }
        group
    }

    /// The group of exactly this area.
    pub(super) fn same(&mut self, area: &[Span]) -> Option<Arc<Group>> {
        let slot = *self.by_area.get(area)?;
        self.take(slot)
    }

    /// The group that covers an area with the least loss, if it is at most `most`.
    pub(super) fn tightest(&mut self, area: &[Span], most: f64) -> Option<(f64, u32)> {
        let found = self.tree.tightest(area, most, &mut self.search)?;
        Some((found.loss(), found.entry))
    }

    /// The group of this number if it is still known and covers an area.
    pub(super) fn covering(&mut self, id: u64, area: &[Span]) -> Option<Arc<Group>> {
        let slot = *self.by_id.get(&id)?;
        let known = self.slots.get(slot as usize)?.as_ref()?;
        if covers(&known.group.area, area) { self.take(slot) } else { None }
    }

    pub(super) fn take(&mut self, slot: u32) -> Option<Arc<Group>> {
        let known = self.slots.get_mut(slot as usize)?.as_mut()?;
        self.by_use.remove(&known.used);
        known.used = self.uses;
        self.touched.note(known.group.id);
        self.by_use.insert(self.uses, slot);
        self.uses += 1;
        Some(known.group.clone())
    }

    /// After losses changed.
    pub(super) fn weigh(&mut self, space: &Space) {
        self.tree = Tree::new(space.fields());
        for (slot, known) in self.slots.iter().enumerate() {
            if let Some(Known { group, .. }) = known {
                let mark = mark(space, &group.area, group.id);
                self.tree.insert(space, slot as u32, &group.area, mark);
            }
        }
    }

    pub(super) fn known(&self, id: u64) -> Option<KnownGroup> {
        self.slots.get(*self.by_id.get(&id)? as usize)?.as_ref().map(Known::plain)
    }

    /// In the order of their numbers.
    pub(super) fn state(&self) -> Vec<KnownGroup> {
        let mut groups: Vec<_> = self.slots.iter().flatten().map(Known::plain).collect();
        groups.sort_unstable_by_key(|group| group.id);
        groups
    }

    pub(super) fn keep(&mut self, space: &Space, known: KnownGroup) -> Arc<Group> {
        let KnownGroup { id, area, subjects, distinct, used } = known;
        let slot = self.free.pop().unwrap_or(self.slots.len() as u32);
        if self.slots.len() <= slot as usize {
            self.slots.push(None);
        }
        self.tree.insert(space, slot, &area, mark(space, &area, id));
        self.touched.note(id);
        self.by_id.insert(id, slot);
        self.by_area.insert(area.clone(), slot);
        self.by_use.insert(used, slot);
        let shown = space.shown(&area);
        let group = Arc::new(Group { id, area, subjects, shown, distinct });
        if let Some(place) = self.slots.get_mut(slot as usize) {
            *place = Some(Known { group: group.clone(), used });
        }
        group
    }

    fn forget_oldest(&mut self, space: &Space) {
        let Some((_, slot)) = self.by_use.pop_first() else { return };
        let Some(known) = self.slots.get_mut(slot as usize).and_then(Option::take) else { return };
        self.tree.remove(space, slot);
        self.touched.note(known.group.id);
        self.by_id.remove(&known.group.id);
        self.by_area.remove(&known.group.area);
        self.free.push(slot);
    }
}

/// The older of two equally narrow groups is found.
fn mark(space: &Space, area: &[Span], id: u64) -> Mark {
    Mark { loss: space.loss(area), rank: id, kinds: 1 }
}
