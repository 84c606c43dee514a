//! Records that wait for a group. Those of one subject leave in the order in which they came.

use std::collections::{BTreeMap, VecDeque};

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use super::Subject;
use super::changes::Touched;
use super::sensitive::{SensitiveValue, kind};
use super::space::{Area, Space, Span};
use super::tree::{Found, Mark, Search, Tree, Wanted};

/// A record that waits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Held {
    /// Its place in the order of arrival.
    pub number: u64,
    pub id: u64,
    pub subject: Subject,
    /// In milliseconds.
    pub arrived: i64,
    pub area: Area,
    pub sensitive: Vec<SensitiveValue>,
}

/// Successive records of one subject with the same quasi-identifiers: they leave together and count once.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) subject: Subject,
    pub(super) area: Area,
    /// Never empty.
    pub(super) records: Vec<Held>,
}

impl Item {
    /// The sensitive values that speak for the subject.
    pub(super) fn vote(&self) -> &[SensitiveValue] {
        self.records.last().map_or(&[], |record| record.sensitive.as_slice())
    }

    pub(super) fn arrived(&self) -> i64 {
        self.records.first().map_or(i64::MIN, |record| record.arrived)
    }
}

/// Items of the same area that can be found, with the kind of each vote.
#[derive(Debug, Default)]
struct Cell {
    area: Area,
    items: BTreeMap<u64, u64>,
    /// How many items there are of each kind: at most 64, and mostly few. Never 0.
    kinds: Vec<(u64, usize)>,
}

impl Cell {
    fn mark(&self) -> Mark {
        let first = self.items.first_key_value();
        let kinds = self.kinds.iter().fold(0, |all, (kind, _)| all | kind);
        Mark { loss: 0.0, rank: first.map_or(0, |(number, _)| *number), kinds }
    }

    fn insert(&mut self, number: u64, kind: u64) {
        if let Some(old) = self.items.insert(number, kind) {
            self.drop_kind(old);
        }
        match self.kinds.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, count)) => *count += 1,
            None => self.kinds.push((kind, 1)),
        }
    }

    /// Whether it was there.
    fn remove(&mut self, number: u64) -> bool {
        let kind = self.items.remove(&number);
        kind.map(|kind| self.drop_kind(kind)).is_some()
    }

    fn drop_kind(&mut self, kind: u64) {
        let Some(at) = self.kinds.iter().position(|(known, _)| *known == kind) else { return };
        if let Some((_, count)) = self.kinds.get_mut(at) {
            *count -= 1;
            if *count == 0 {
                self.kinds.swap_remove(at);
            }
        }
    }
}

/// Only the first item of a subject can be found; the others wait behind it. So what is found has as many subjects
/// as items.
#[derive(Debug)]
pub(super) struct Waiting {
    records: usize,
    next: u64,
    items: BTreeMap<u64, Item>,
    by_subject: FxHashMap<Subject, VecDeque<u64>>,
    cells: Vec<Cell>,
    free: Vec<u32>,
    by_area: FxHashMap<Area, u32>,
    heads: usize,
    tree: Tree,
    search: Search,
    /// Numbers of records, each with that of its item.
    pub(super) touched: Touched<(u64, u64)>,
}

impl Waiting {
    pub(super) fn new(fields: usize) -> Waiting {
        Waiting {
            records: 0,
            next: 0,
            items: BTreeMap::new(),
            by_subject: FxHashMap::default(),
            cells: Vec::new(),
            free: Vec::new(),
            by_area: FxHashMap::default(),
            heads: 0,
            tree: Tree::new(fields),
            search: Search::default(),
            touched: Touched::new(),
        }
    }

    pub(super) fn records(&self) -> usize {
        self.records
    }

    /// The number that the next record gets.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    pub(super) fn skip_to(&mut self, next: u64) {
        self.next = self.next.max(next);
    }

    /// How many subjects can be found.
    pub(super) fn subjects(&self) -> usize {
        self.heads
    }

    pub(super) fn holds(&self, subject: &Subject) -> bool {
        self.by_subject.contains_key(subject)
    }

    pub(super) fn item(&self, item: u64) -> Option<&Item> {
        self.items.get(&item)
    }

    pub(super) fn oldest(&self) -> Option<(u64, &Item)> {
        self.items.first_key_value().map(|(number, item)| (*number, item))
    }

    /// Puts a record behind those of its subject. Says where it can be found, unless it waits behind others.
    pub(super) fn hold(&mut self, space: &Space, record: Held) -> Option<u64> {
        let number = record.number;
        self.skip_to(number + 1);
        self.records += 1;
        let chain = self.by_subject.entry(record.subject).or_default();
        if let Some(item) = chain.back().and_then(|last| self.items.get_mut(last))
            && item.area == record.area
        {
            let first = item.records.first().map_or(number, |first| first.number);
            self.touched.note((number, first));
            item.records.push(record);
            if chain.len() == 1 {
                self.show_again(space, first);
            }
            return None;
        }
        self.touched.note((number, number));
        chain.push_back(number);
        let first = chain.len() == 1;
        let (subject, area) = (record.subject, record.area.clone());
        self.items.insert(number, Item { subject, area, records: vec![record] });
        first.then(|| self.show(space, number)).flatten()
    }

    /// Takes an item that can be found out. Says which item of its subject is the next.
    pub(super) fn take(&mut self, space: &Space, number: u64) -> Option<(Item, Option<u64>)> {
        let item = self.items.remove(&number)?;
        self.records -= item.records.len();
        for record in &item.records {
            self.touched.note((record.number, number));
        }
        self.hide(space, number, &item.area);
        let chain = self.by_subject.get_mut(&item.subject)?;
        chain.pop_front();
        let next = chain.front().copied();
        if next.is_none() {
            self.by_subject.remove(&item.subject);
        }
        Some((item, next))
    }

    /// Lets an item be found.
    pub(super) fn show(&mut self, space: &Space, number: u64) -> Option<u64> {
        let item = self.items.get(&number)?;
        let kind = kind(item.vote());
        self.heads += 1;
        if let Some(cell) = self.by_area.get(&item.area) {
            let items = self.cells.get_mut(*cell as usize)?;
            let before = items.mark();
            items.insert(number, kind);
            self.tree.set_mark(space, *cell, before, items.mark());
            return Some(number);
        }
        let cell = self.free.pop().unwrap_or(self.cells.len() as u32);
        if self.cells.len() <= cell as usize {
            self.cells.push(Cell::default());
        }
        let items = self.cells.get_mut(cell as usize)?;
        items.area = item.area.clone();
        items.insert(number, kind);
        self.by_area.insert(item.area.clone(), cell);
        self.tree.insert(space, cell, &item.area, items.mark());
        Some(number)
    }

    /// Its vote may have changed.
    fn show_again(&mut self, space: &Space, number: u64) {
        let Some(item) = self.items.get(&number) else { return };
        let kind = kind(item.vote());
        let Some(cell) = self.by_area.get(&item.area) else { return };
        let Some(items) = self.cells.get_mut(*cell as usize) else { return };
        let before = items.mark();
        items.insert(number, kind);
        self.tree.set_mark(space, *cell, before, items.mark());
    }

    /// Not to be found any more.
    fn hide(&mut self, space: &Space, number: u64, area: &[Span]) {
        let Some(cell) = self.by_area.get(area).copied() else { return };
        let Some(items) = self.cells.get_mut(cell as usize) else { return };
        let before = items.mark();
        if !items.remove(number) {
            return;
        }
        self.heads -= 1;
        if items.items.is_empty() {
            self.by_area.remove(area);
            self.free.push(cell);
            self.tree.remove(space, cell);
        } else {
            self.tree.set_mark(space, cell, before, items.mark());
        }
    }

    /// The items of exactly this area, the oldest first.
    pub(super) fn same(&self, area: &[Span]) -> Option<impl ExactSizeIterator<Item = u64>> {
        let cell = self.cells.get(*self.by_area.get(area)? as usize)?;
        Some(cell.items.keys().copied())
    }

    /// The cells whose merging with an area loses least, nearest first.
    pub(super) fn nearest(&mut self, space: &Space, area: &[Span], wanted: Wanted) -> Vec<Found> {
        self.tree.nearest(space, area, wanted, &mut self.search);
        self.search.take()
    }

    /// The items of a cell, the oldest first, with the kinds of their votes.
    pub(super) fn items(&self, cell: u32) -> impl Iterator<Item = (u64, u64)> {
        let cell = self.cells.get(cell as usize).into_iter();
        cell.flat_map(|cell| &cell.items).map(|(number, kind)| (*number, *kind))
    }

    pub(super) fn area(&self, cell: u32) -> &[Span] {
        self.cells.get(cell as usize).map_or(&[], |cell| &cell.area)
    }

    pub(super) fn record(&self, item: u64, number: u64) -> Option<Held> {
        let records = &self.items.get(&item)?.records;
        records.iter().find(|record| record.number == number).cloned()
    }

    /// In the order of their arrival.
    pub(super) fn state(&self) -> Vec<Held> {
        let records = self.items.values().flat_map(|item| &item.records);
        let mut records: Vec<_> = records.cloned().collect();
        records.sort_unstable_by_key(|record| record.number);
        records
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_cell_knows_the_kinds_of_its_items(
            steps in prop::collection::vec((any::<bool>(), 0..12_u64, 0..64_u32), 0..200),
        ) {
            let mut cell = Cell::default();
            for (comes, number, kind) in steps {
                // Few kinds, so that several items are of one.
                let kind = 1 << (kind % 5 * 15);
                let there = cell.items.contains_key(&number);
                if comes {
                    cell.insert(number, kind);
                } else {
                    prop_assert_eq!(cell.remove(number), there);
                }
                let kinds = cell.items.values().fold(0, |all, kind| all | kind);
                prop_assert_eq!(cell.mark().kinds, kinds);
                let counted: usize = cell.kinds.iter().map(|(_, count)| count).sum();
                prop_assert_eq!(counted, cell.items.len());
            }
        }
    }
}
