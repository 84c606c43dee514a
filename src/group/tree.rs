//! An index over areas: a tree of bounding areas (Guttman's R-tree), in which all leaves are equally deep.
//!
//! What a search finds never depends on the shape of the tree, and so not on the order in which it was filled.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::space::{Space, Span, covers};

const MOST: usize = 12;
const LEAST: usize = 4;
const NOWHERE: u32 = u32::MAX;

/// What is found: the loss first, then the rank, both the less the better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Found {
    /// Bits of a loss: it is never negative, so they order as it does.
    loss: u64,
    pub(super) rank: u64,
    pub(super) entry: u32,
}

impl Found {
    pub(super) fn loss(&self) -> f64 {
        f64::from_bits(self.loss)
    }
}

/// What is known of an entry beside its area; of a node, what is true of all entries under it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Mark {
    /// What [`Tree::tightest`] goes by; of a node, the least.
    pub(super) loss: f64,
    /// Which of two equally good entries is found first; unused in nodes.
    pub(super) rank: u64,
    /// Bits of the kinds of things that are there.
    pub(super) kinds: u64,
}

impl Mark {
    fn and(self, other: Mark) -> Mark {
        let kinds = self.kinds | other.kinds;
        Mark { loss: self.loss.min(other.loss), rank: 0, kinds }
    }
}

/// What to look for: so many entries, with a loss up to so much, that have one of some kinds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) count: usize,
    pub(super) most: f64,
    pub(super) kinds: u64,
}

/// Entries are numbered by who owns them; numbers should be dense.
#[derive(Debug)]
pub(super) struct Tree {
    fields: usize,
    nodes: Vec<TreeNode>,
    free: Vec<u32>,
    root: u32,
    /// Of each entry: the leaf that holds it.
    homes: Vec<u32>,
}

#[derive(Debug, Default)]
struct TreeNode {
    leaf: bool,
    parent: u32,
    children: Vec<u32>,
    /// The children's areas, one behind the other.
    areas: Vec<Span>,
    marks: Vec<Mark>,
}

impl TreeNode {
    fn areas(&self, fields: usize) -> impl Iterator<Item = &[Span]> {
        self.areas.chunks_exact(fields.max(1))
    }

    fn index_of(&self, child: u32) -> Option<usize> {
        self.children.iter().position(|each| *each == child)
    }

    fn push(&mut self, child: Child) {
        self.children.push(child.number);
        self.areas.extend_from_slice(&child.area);
        self.marks.push(child.mark);
    }

    fn take(&mut self, index: usize, fields: usize) {
        let last = self.children.len() - 1;
        self.children.swap_remove(index);
        self.marks.swap_remove(index);
        self.areas.copy_within(last * fields.., index * fields);
        self.areas.truncate(last * fields);
    }

    fn all(&mut self, fields: usize) -> Vec<Child> {
        let areas: Vec<Box<[Span]>> = self.areas(fields).map(Into::into).collect();
        let numbers = self.children.drain(..).zip(self.marks.drain(..));
        let child = |((number, mark), area)| Child { number, area, mark };
        let all = numbers.zip(areas).map(child).collect();
        self.areas.clear();
        all
    }
}

#[derive(Debug)]
struct Child {
    number: u32,
    area: Box<[Span]>,
    mark: Mark,
}

impl Tree {
    pub(super) fn new(fields: usize) -> Tree {
        let root = TreeNode { leaf: true, parent: NOWHERE, ..TreeNode::default() };
        Tree { fields, nodes: vec![root], free: Vec::new(), root: 0, homes: Vec::new() }
    }

    pub(super) fn insert(&mut self, space: &Space, entry: u32, area: &[Span], mark: Mark) {
        if self.homes.len() <= entry as usize {
            self.homes.resize(entry as usize + 1, NOWHERE);
        }
        self.put(space, Child { number: entry, area: area.into(), mark });
    }

    pub(super) fn remove(&mut self, space: &Space, entry: u32) {
        let home = self.homes.get_mut(entry as usize);
        let home = home.map_or(NOWHERE, |home| std::mem::replace(home, NOWHERE));
        let fields = self.fields;
        let Some(leaf) = self.nodes.get_mut(home as usize) else { return };
        let Some(index) = leaf.index_of(entry) else { return };
        leaf.take(index, fields);
        if leaf.children.len() >= LEAST || home == self.root {
            return self.tighten(space, home);
        }
        let homeless = leaf.all(fields);
        self.drop_node(space, home);
        for child in homeless {
            self.put(space, child);
        }
    }

    /// Puts one mark in the place of another.
    pub(super) fn set_mark(&mut self, space: &Space, entry: u32, old: Mark, new: Mark) {
        if old == new {
            return;
        }
        let home = self.homes.get(entry as usize).copied().unwrap_or(NOWHERE);
        if let Some(leaf) = self.nodes.get_mut(home as usize)
            && let Some(index) = leaf.index_of(entry)
            && let Some(mark) = leaf.marks.get_mut(index)
        {
            *mark = new;
            if old.loss != new.loss || old.kinds != new.kinds {
                self.tighten(space, home);
            }
        }
    }

    /// The entries whose merging with an area loses least.
    pub(super) fn nearest(
        &self,
        space: &Space,
        area: &[Span],
        wanted: Wanted,
        search: &mut Search,
    ) {
        let Wanted { count, most, kinds } = wanted;
        search.clear();
        search.open(0.0, self.root);
        while let Some((bound, node)) = search.next() {
            let worst = search.worst(count).min(most);
            if worst < f64::from_bits(bound) {
                break;
            }
            let Some(node) = self.nodes.get(node as usize) else { continue };
            let children = node.children.iter().zip(&node.marks).zip(node.areas(self.fields));
            for ((child, mark), area_of_child) in children {
                if mark.kinds & kinds == 0 {
                    continue;
                }
                if !node.leaf {
                    let loss = space.least_merged_loss(area, area_of_child);
                    if loss <= worst {
                        search.open(loss, *child);
                    }
                } else if let Some(loss) = space.merged_loss_within(area, area_of_child, worst) {
                    let found = Found { loss: loss.to_bits(), rank: mark.rank, entry: *child };
                    search.keep(found, count);
                }
            }
        }
    }

    /// The entry of the least loss, up to `most`, that covers an area.
    pub(super) fn tightest(&self, area: &[Span], most: f64, search: &mut Search) -> Option<Found> {
        search.clear();
        search.open(0.0, self.root);
        let mut best: Option<Found> = None;
        while let Some((bound, node)) = search.next() {
            if best.is_some_and(|best| best.loss < bound) {
                break;
            }
            let Some(node) = self.nodes.get(node as usize) else { continue };
            let covering = node.areas(self.fields).zip(&node.marks).zip(&node.children);
            for ((bounds, mark), child) in covering {
                let worst = best.map_or(most, |best| best.loss());
                if mark.loss > worst || !covers(bounds, area) {
                    continue;
                }
                if node.leaf {
                    let found = Found { loss: mark.loss.to_bits(), rank: mark.rank, entry: *child };
                    best = Some(best.map_or(found, |best| best.min(found)));
                } else {
                    search.open(mark.loss, *child);
                }
            }
        }
        best
    }

    fn put(&mut self, space: &Space, child: Child) {
        let mut at = self.root;
        loop {
            let Some(node) = self.nodes.get_mut(at as usize) else { return };
            if node.leaf {
                break;
            }
            let index = nearest_child(space, node, &child.area, self.fields);
            let span = index * self.fields..(index + 1) * self.fields;
            if let Some(area) = node.areas.get_mut(span) {
                space.merge(area, &child.area);
            }
            if let Some(mark) = node.marks.get_mut(index) {
                *mark = mark.and(child.mark);
            }
            at = node.children.get(index).copied().unwrap_or(NOWHERE);
        }
        self.adopt(at, child);
        self.split(space, at);
    }

    fn adopt(&mut self, parent: u32, child: Child) {
        let Some(node) = self.nodes.get_mut(parent as usize) else { return };
        let number = child.number as usize;
        let leaf = node.leaf;
        node.push(child);
        if leaf {
            if let Some(home) = self.homes.get_mut(number) {
                *home = parent;
            }
        } else if let Some(child) = self.nodes.get_mut(number) {
            child.parent = parent;
        }
    }

    /// Splits a node that is too full, and those above it that are for that.
    fn split(&mut self, space: &Space, mut at: u32) {
        while let Some(node) = self.nodes.get_mut(at as usize)
            && node.children.len() > MOST
        {
            let (leaf, mut parent) = (node.leaf, node.parent);
            let (left, right) = divide(space, node.all(self.fields), self.fields);
            let other = self.make(TreeNode { leaf, parent, ..TreeNode::default() });
            for child in left {
                self.adopt(at, child);
            }
            for child in right {
                self.adopt(other, child);
            }
            if parent == NOWHERE {
                parent = self.make(TreeNode { parent: NOWHERE, ..TreeNode::default() });
                self.root = parent;
            } else if let Some(above) = self.nodes.get_mut(parent as usize)
                && let Some(index) = above.index_of(at)
            {
                above.take(index, self.fields);
            }
            for half in [at, other] {
                if let Some(child) = self.summary(space, half) {
                    self.adopt(parent, child);
                }
            }
            at = parent;
        }
    }

    /// Narrows the bounds above a node to what they hold by now.
    fn tighten(&mut self, space: &Space, mut at: u32) {
        while at != self.root {
            let Some(summary) = self.summary(space, at) else { return };
            let Some(parent) = self.nodes.get(at as usize).map(|node| node.parent) else { return };
            let Some(above) = self.nodes.get_mut(parent as usize) else { return };
            let Some(index) = above.index_of(at) else { return };
            let span = index * self.fields..(index + 1) * self.fields;
            let (Some(area), Some(mark)) = (above.areas.get_mut(span), above.marks.get_mut(index))
            else {
                return;
            };
            let same = mark.loss == summary.mark.loss && mark.kinds == summary.mark.kinds;
            if same && *area == *summary.area {
                return;
            }
            area.copy_from_slice(&summary.area);
            *mark = summary.mark;
            at = parent;
        }
    }

    /// Drops an empty node, and those above it that are empty for that.
    fn drop_node(&mut self, space: &Space, mut at: u32) {
        while at != self.root {
            let Some(parent) = self.nodes.get(at as usize).map(|node| node.parent) else { return };
            self.free.push(at);
            let Some(above) = self.nodes.get_mut(parent as usize) else { return };
            if let Some(index) = above.index_of(at) {
                above.take(index, self.fields);
            }
            if !above.children.is_empty() {
                self.tighten(space, parent);
                break;
            }
            at = parent;
        }
        self.lower_root();
    }

    fn lower_root(&mut self) {
        while let Some(root) = self.nodes.get_mut(self.root as usize)
            && !root.leaf
        {
            match root.children.as_slice() {
                [] => root.leaf = true,
                [only] => {
                    let only = *only;
                    self.free.push(self.root);
                    self.root = only;
                    if let Some(root) = self.nodes.get_mut(only as usize) {
                        root.parent = NOWHERE;
                    }
                }
                _ => return,
            }
        }
    }

    fn make(&mut self, node: TreeNode) -> u32 {
        if let Some(number) = self.free.pop()
            && let Some(old) = self.nodes.get_mut(number as usize)
        {
            *old = node;
            return number;
        }
        self.nodes.push(node);
        (self.nodes.len() - 1) as u32
    }

    /// A node as its parent sees it; none where it is empty.
    fn summary(&self, space: &Space, number: u32) -> Option<Child> {
        let node = self.nodes.get(number as usize)?;
        let mut areas = node.areas(self.fields);
        let mut area: Box<[Span]> = areas.next()?.into();
        areas.for_each(|other| space.merge(&mut area, other));
        let mark = node.marks.iter().copied().reduce(Mark::and)?;
        Some(Child { number, area, mark })
    }
}

/// The child that an area widens least; of equal ones the narrowest.
fn nearest_child(space: &Space, node: &TreeNode, area: &[Span], fields: usize) -> usize {
    let mut best = (0, f64::INFINITY, f64::INFINITY);
    for (index, bounds) in node.areas(fields).enumerate() {
        let merged = space.merged_loss(bounds, area);
        if merged >= best.1 + best.2 {
            continue;
        }
        let loss = space.loss(bounds);
        if (merged - loss, loss) < (best.1, best.2) {
            best = (index, merged - loss, loss);
        }
    }
    best.0
}

/// Two halves that lose least together: cut along one field, at least [`LEAST`] on each side.
fn divide(space: &Space, children: Vec<Child>, fields: usize) -> (Vec<Child>, Vec<Child>) {
    let mut best: Option<(f64, usize, Vec<usize>)> = None;
    let mut order: Vec<usize> = (0..children.len()).collect();
    let area = |index: &usize| children.get(*index).map_or(&[][..], |child| &child.area);
    for field in 0..fields {
        let key = |index: &usize| area(index).get(field).copied().unwrap_or_default();
        order.sort_by(|one, other| {
            let (one, other) = (key(one), key(other));
            one.low.total_cmp(&other.low).then(one.high.total_cmp(&other.high))
        });
        let from_left = running_losses(space, order.iter().map(area));
        let from_right = running_losses(space, order.iter().rev().map(area));
        for cut in LEAST..=order.len().saturating_sub(LEAST) {
            let left = from_left.get(cut - 1).copied().unwrap_or_default();
            let right = from_right.get(order.len() - cut - 1).copied().unwrap_or_default();
            let loss = left * cut as f64 + right * (order.len() - cut) as f64;
            if best.as_ref().is_none_or(|best| loss < best.0) {
                best = Some((loss, cut, order.clone()));
            }
        }
    }
    let left = best.map_or_else(Vec::new, |(_, cut, order)| order.into_iter().take(cut).collect());
    let mut halves = (Vec::new(), Vec::new());
    for (index, child) in children.into_iter().enumerate() {
        let half = if left.contains(&index) { &mut halves.0 } else { &mut halves.1 };
        half.push(child);
    }
    halves
}

/// The loss of the first area, of the first two, of the first three, and so on.
fn running_losses<'a>(space: &Space, areas: impl Iterator<Item = &'a [Span]>) -> Vec<f64> {
    let mut all: Option<Vec<Span>> = None;
    let mut losses = Vec::with_capacity(MOST + 1);
    for area in areas {
        match &mut all {
            Some(all) => space.merge(all, area),
            None => all = Some(area.into()),
        }
        losses.push(all.as_deref().map_or(0.0, |all| space.loss(all)));
    }
    losses
}

/// What a search needs, kept from one to the next.
#[derive(Debug, Default)]
pub(super) struct Search {
    open: BinaryHeap<Reverse<(u64, u32)>>,
    found: BinaryHeap<Found>,
}

impl Search {
    fn clear(&mut self) {
        self.open.clear();
        self.found.clear();
    }

    fn open(&mut self, bound: f64, node: u32) {
        self.open.push(Reverse((bound.to_bits(), node)));
    }

    fn next(&mut self) -> Option<(u64, u32)> {
        self.open.pop().map(|Reverse(next)| next)
    }

    /// A loss that the next find must not exceed.
    fn worst(&self, count: usize) -> f64 {
        match self.found.peek() {
            Some(worst) if self.found.len() >= count => worst.loss(),
            _ => f64::INFINITY,
        }
    }

    fn keep(&mut self, found: Found, count: usize) {
        if self.found.len() < count {
            self.found.push(found);
        } else if let Some(mut worst) = self.found.peek_mut()
            && found < *worst
        {
            *worst = found;
        }
    }

    /// What was found, best first.
    pub(super) fn take(&mut self) -> Vec<Found> {
        let mut found: Vec<_> = self.found.drain().collect();
        found.sort_unstable();
        found
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::group::{Domain, QuasiIdentifier, Value};
    use crate::hierarchy::Hierarchy;

    fn space() -> (Space, Arc<Hierarchy>) {
        let text = include_str!("../../tests/data/adult/adult_hierarchy_education.csv");
        let education = Arc::new(Hierarchy::parse(text).unwrap());
        let domain = Domain::Declared { least: 0.0, most: 40.0 };
        let fields =
            [QuasiIdentifier::Numeric(domain), QuasiIdentifier::Categorical(education.clone())];
        (Space::new(&fields), education)
    }

    /// Points, and areas over two of them.
    fn areas() -> impl Strategy<Value = Vec<(bool, [(u32, u32); 2])>> {
        let area = (any::<bool>(), prop::array::uniform2((0..40u32, 0..25u32)));
        prop::collection::vec(area, 1..250)
    }

    proptest! {
        #[test]
        fn searches_find_what_looking_at_all_finds(
            areas in areas(), wide in any::<bool>(), rare in any::<bool>(), count in 1..30usize,
            gone in prop::collection::vec(any::<prop::sample::Index>(), 0..200),
        ) {
            let (space, education) = space();
            let mut tree = Tree::new(2);
            let mut all = BTreeMap::new();
            for (entry, (two, corners)) in areas.iter().enumerate() {
                let [one, other] = corners.map(|(number, node)| {
                    let node = education.node(node % education.nodes() as u32).unwrap();
                    space.area(&[Value::Number(f64::from(number)), Value::Node(node)]).unwrap()
                });
                let mut area = one.to_vec();
                if *two && wide {
                    space.merge(&mut area, &other);
                }
                let kinds = if entry % 7 == 0 { 2 } else { 1 };
                let mark = Mark { loss: space.loss(&area), rank: entry as u64 / 2, kinds };
                tree.insert(&space, entry as u32, &area, mark);
                all.insert(entry as u32, area);
            }
            for index in gone {
                let entry = index.index(areas.len()) as u32;
                tree.remove(&space, entry);
                all.remove(&entry);
            }
            let mut search = Search::default();
            for (entry, area) in all.iter().take(20) {
                let found = |(entry, _): (&u32, &Vec<Span>), loss: f64| Found {
                    loss: loss.to_bits(), rank: u64::from(*entry) / 2, entry: *entry,
                };
                let mut near: Vec<_> = all
                    .iter()
                    .map(|other| found(other, space.merged_loss(area, other.1)))
                    .filter(|found| found.loss() <= 0.6 && (!rare || found.entry % 7 == 0))
                    .collect();
                near.sort_unstable();
                near.truncate(count);
                let wanted = Wanted { count, most: 0.6, kinds: if rare { 2 } else { 3 } };
                tree.nearest(&space, area, wanted, &mut search);
                prop_assert_eq!(search.take(), near, "near {}", entry);
                let over = all.iter().filter(|other| covers(other.1, area));
                let tightest = over.map(|other| found(other, space.loss(other.1))).min();
                prop_assert_eq!(tree.tightest(area, 1.0, &mut search), tightest);
                let narrow = tightest.filter(|found| found.loss() <= 0.3);
                prop_assert_eq!(tree.tightest(area, 0.3, &mut search), narrow);
            }
        }
    }
}
