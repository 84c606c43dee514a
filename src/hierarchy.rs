//! Generalization hierarchies: a tree of ever wider groups over the values of a field, read from CSV as the
//! anonymization literature writes it (ARX). It never reads a file, and knows nothing of records.
//!
//! One line per value: the value, then its groups, each wider than the one before.
//!
//! ```text
//! Bachelors;Undergraduate;Higher education;*
//! 11th;High School;Secondary education;*
//! ```

mod lines;

pub use lines::{Lines, Mistake};

use std::fmt;
use std::sync::Arc;

use csv::StringRecord;
use rustc_hash::FxHashMap;

/// A hierarchy has at most so many values.
pub const MOST_LINES: usize = 1_000_000;
/// A line has at most so many fields.
pub const MOST_FIELDS: usize = 32;
/// The text of a root that the file does not have.
pub const ROOT: &str = "*";

/// A value or a group, by its place in a walk that visits a node before its children. The root is 0. Numbers hold
/// for one text of the hierarchy: another file gives others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node(pub u32);

/// A tree of values and groups. All values are at level 0, the root is at the highest level.
#[derive(Clone)]
pub struct Hierarchy {
    nodes: Vec<Entry>,
    texts: Vec<Arc<str>>,
    values: FxHashMap<Arc<str>, Node>,
    levels: usize,
}

#[derive(Clone, Copy)]
struct Entry {
    parent: u32,
    /// One past the last node under this one.
    end: u32,
    leaves: u32,
    level: u32,
}

impl Hierarchy {
    /// Reads the text of a file: fields between `;`, or between `,` where the first line has no `;`.
    pub fn parse(text: &str) -> Result<Hierarchy, Mistake> {
        let mut file = File { lines: Lines::new(text), levels: Vec::new() };
        file.read()?;
        Ok(file.number())
    }

    /// How many levels there are, that of the values and that of the root among them.
    pub fn levels(&self) -> usize {
        self.levels
    }

    /// How many values and groups there are.
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// The group of a value at a level; level 0 is the value itself. None where either is unknown.
    pub fn generalize(&self, value: &str, level: usize) -> Option<&str> {
        let node = self.ancestor(self.leaf(value)?, level)?;
        Some(self.text(node))
    }

    /// The node of a value.
    pub fn leaf(&self, value: &str) -> Option<Node> {
        self.values.get(value).copied()
    }

    /// The node of a number, as kept elsewhere.
    pub fn node(&self, number: u32) -> Option<Node> {
        ((number as usize) < self.nodes.len()).then_some(Node(number))
    }

    pub fn root(&self) -> Node {
        Node(0)
    }

    /// The next wider group; none above the root.
    pub fn parent(&self, node: Node) -> Option<Node> {
        (node != self.root()).then(|| Node(self.entry(node).parent))
    }

    /// The group of a node at a level that is not below its own.
    pub fn ancestor(&self, mut node: Node, level: usize) -> Option<Node> {
        if level >= self.levels || level < self.level(node) {
            return None;
        }
        while self.level(node) < level {
            node = self.parent(node)?;
        }
        Some(node)
    }

    /// 0 for a value.
    pub fn level(&self, node: Node) -> usize {
        self.entry(node).level as usize
    }

    /// How many values stand under a node; 1 for a value.
    pub fn leaves(&self, node: Node) -> u32 {
        self.entry(node).leaves
    }

    /// Empty for a node of another hierarchy.
    pub fn text(&self, node: Node) -> &str {
        self.texts.get(node.0 as usize).map_or("", |text| text)
    }

    /// The length of the longest text, in bytes.
    pub fn longest(&self) -> usize {
        self.texts.iter().map(|text| text.len()).max().unwrap_or(0)
    }

    /// The last node under this one; itself for a value. Everything between the two stands under it as well.
    pub fn last(&self, node: Node) -> Node {
        Node(self.entry(node).end - 1)
    }

    /// Whether `inner` is `outer` or stands under it.
    pub fn covers(&self, outer: Node, inner: Node) -> bool {
        outer <= inner && inner.0 < self.entry(outer).end
    }

    /// The narrowest group over both.
    pub fn lowest_common_ancestor(&self, one: Node, other: Node) -> Node {
        let mut node = one;
        while node != self.root() && !self.covers(node, other) {
            node = Node(self.entry(node).parent);
        }
        node
    }

    /// A node of another hierarchy counts as the root, which covers every node there is.
    fn entry(&self, node: Node) -> Entry {
        const WHOLE: Entry = Entry { parent: 0, end: u32::MAX, leaves: 0, level: 0 };
        self.nodes.get(node.0 as usize).copied().unwrap_or(WHOLE)
    }
}

/// Never its values: there may be a million.
impl fmt::Debug for Hierarchy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hierarchy")
            .field("levels", &self.levels)
            .field("values", &self.values.len())
            .finish_non_exhaustive()
    }
}

/// A group as it is read: its parent by index in the next level, and the record that named it first.
struct Group {
    text: Arc<str>,
    parent: usize,
    start: usize,
}

#[derive(Default)]
struct Level {
    groups: Vec<Group>,
    by_text: FxHashMap<Arc<str>, usize>,
}

struct File<'t> {
    lines: Lines<'t>,
    levels: Vec<Level>,
}

impl File<'_> {
    fn read(&mut self) -> Result<(), Mistake> {
        self.lines.each(|start, record| self.line(start, record))?;
        if self.levels.is_empty() {
            return Err(self.lines.mistake(0, 0, "an empty file", "one line for each value"));
        }
        Ok(())
    }

    fn line(&mut self, start: usize, record: &StringRecord) -> Result<(), Mistake> {
        self.check(start, record)?;
        if self.levels.is_empty() {
            self.levels.resize_with(record.len(), Level::default);
        }
        let mut parent = 0;
        for field in (0..record.len()).rev() {
            parent = self.group(start, record, field, parent)?;
        }
        Ok(())
    }

    fn check(&self, start: usize, record: &StringRecord) -> Result<(), Mistake> {
        let fields = record.len();
        if fields > MOST_FIELDS {
            let expected = format!("at most {MOST_FIELDS}");
            return Err(self.lines.mistake(
                start,
                MOST_FIELDS,
                format!("{fields} fields"),
                expected,
            ));
        }
        if !self.levels.is_empty() && fields != self.levels.len() {
            let expected = format!("{}, as in the lines before", self.levels.len());
            let field = fields.min(self.levels.len());
            return Err(self.lines.mistake(start, field, format!("{fields} fields"), expected));
        }
        if let Some(field) = (1..fields).find(|field| record.get(*field) == Some("")) {
            return Err(self.lines.mistake(start, field, "an empty field", "the name of a group"));
        }
        if self.levels.first().is_some_and(|values| values.groups.len() >= MOST_LINES) {
            let expected = format!("at most {MOST_LINES} lines");
            return Err(self.lines.mistake(start, 0, "one more line", expected));
        }
        Ok(())
    }

    /// The index of the group that a field names, which is new or has the same parent as before.
    fn group(
        &mut self,
        start: usize,
        record: &StringRecord,
        field: usize,
        parent: usize,
    ) -> Result<usize, Mistake> {
        let text = record.get(field).unwrap_or_default();
        let Some(level) = self.levels.get_mut(field) else { return Ok(0) };
        let Some(index) = level.by_text.get(text).copied() else {
            let text: Arc<str> = text.into();
            level.by_text.insert(text.clone(), level.groups.len());
            level.groups.push(Group { text, parent, start });
            return Ok(level.groups.len() - 1);
        };
        match self.levels.get(field).and_then(|level| level.groups.get(index)) {
            Some(first) if field == 0 => {
                let found = format!("the value of line {} again", self.lines.number(first.start));
                Err(self.lines.mistake(start, field, found, "each value once"))
            }
            Some(first) if first.parent != parent => {
                let line = self.lines.number(first.start);
                let found = format!("the group of line {line} under another one");
                Err(self.lines.mistake(start, field, found, "each group under one"))
            }
            _ => Ok(index),
        }
    }

    /// Numbers the nodes, parents before children, and adds a root where the lines end in different groups.
    fn number(mut self) -> Hierarchy {
        if self.levels.last().is_some_and(|top| top.groups.len() > 1) {
            let root = Group { text: ROOT.into(), parent: 0, start: 0 };
            self.levels.push(Level { groups: vec![root], by_text: FxHashMap::default() });
        }
        let sizes = self.sizes();
        let count = self.levels.iter().map(|level| level.groups.len()).sum();
        let mut nodes = vec![Entry { parent: 0, end: 0, leaves: 0, level: 0 }; count];
        let mut texts: Vec<Arc<str>> = vec![ROOT.into(); count];
        let mut values = FxHashMap::default();
        // Of each group of the level above: its number, and the number that its next child gets.
        let mut above: Vec<(u32, u32)> = vec![(0, 0)];
        for (level, (groups, sizes)) in self.levels.iter().zip(&sizes).enumerate().rev() {
            let mut numbers = Vec::with_capacity(groups.groups.len());
            for (group, (size, leaves)) in groups.groups.iter().zip(sizes) {
                let Some((parent, next)) = above.get_mut(group.parent) else { continue };
                let number = *next;
                *next += size;
                numbers.push((number, number + 1));
                let at = number as usize;
                if let (Some(node), Some(text)) = (nodes.get_mut(at), texts.get_mut(at)) {
                    let end = number + size;
                    *node = Entry { parent: *parent, end, leaves: *leaves, level: level as u32 };
                    *text = group.text.clone();
                }
                if level == 0 {
                    values.insert(group.text.clone(), Node(number));
                }
            }
            above = numbers;
        }
        Hierarchy { nodes, texts, values, levels: self.levels.len() }
    }

    /// Of each group: how many nodes, and how many values, there are under it, itself among them.
    fn sizes(&self) -> Vec<Vec<(u32, u32)>> {
        let mut all: Vec<Vec<(u32, u32)>> = Vec::with_capacity(self.levels.len());
        for (index, level) in self.levels.iter().enumerate() {
            let own = if index == 0 { (1, 1) } else { (1, 0) };
            let mut sizes = vec![own; level.groups.len()];
            if let (Some(below), Some(under)) = (index.checked_sub(1), all.last()) {
                let children = self.levels.get(below).map_or(&[][..], |level| &level.groups);
                for (child, (nodes, leaves)) in children.iter().zip(under) {
                    if let Some(size) = sizes.get_mut(child.parent) {
                        *size = (size.0 + nodes, size.1 + leaves);
                    }
                }
            }
            all.push(sizes);
        }
        all
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EDUCATION: &str = include_str!("../tests/data/adult/adult_hierarchy_education.csv");
    const COUNTRY: &str = include_str!("../tests/data/adult/adult_hierarchy_native-country.csv");

    fn mistake(text: &str) -> (usize, usize, String, String) {
        let Mistake { line, column, found, expected } = Hierarchy::parse(text).unwrap_err();
        (line, column, found, expected)
    }

    #[test]
    fn value_is_generalized_level_by_level() {
        let education = Hierarchy::parse(EDUCATION).unwrap();
        let groups: Vec<_> =
            (0..education.levels()).map(|level| education.generalize("Masters", level)).collect();
        let expected = ["Masters", "Graduate", "Higher education", "*"].map(Some);
        assert_eq!(groups, expected);
        assert_eq!(education.generalize("Masters", 4), None);
        assert_eq!(education.generalize("masters", 1), None);
    }

    #[test]
    fn hierarchies_of_the_literature_are_read() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/adult");
        let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let mut read = 0;
        for path in paths.filter(|path| path.to_string_lossy().contains("_hierarchy_")) {
            let hierarchy = Hierarchy::parse(&std::fs::read_to_string(&path).unwrap()).unwrap();
            assert_eq!(hierarchy.text(hierarchy.root()), ROOT, "{path:?}");
            read += 1;
        }
        assert_eq!(read, 9);
    }

    #[test]
    fn group_covers_its_values_and_counts_them() {
        let country = Hierarchy::parse(COUNTRY).unwrap();
        let poland = country.leaf("Poland").unwrap();
        let europe = country.parent(poland).unwrap();
        assert_eq!(country.text(europe), "Europe");
        assert_eq!(country.leaves(europe), 12);
        assert_eq!(country.leaves(country.root()), 41);
        assert!(country.covers(europe, poland) && !country.covers(poland, europe));
        assert!(!country.covers(europe, country.leaf("Peru").unwrap()));
        assert_eq!(country.parent(country.root()), None);
    }

    #[test]
    fn different_tops_get_a_root() {
        let sizes = Hierarchy::parse("a,small\nb,small\nc,large\n").unwrap();
        assert_eq!(sizes.levels(), 3);
        assert_eq!(sizes.generalize("c", 2), Some("*"));
        let both = sizes.lowest_common_ancestor(sizes.leaf("a").unwrap(), sizes.leaf("c").unwrap());
        assert_eq!(both, sizes.root());
    }

    #[test]
    fn one_text_may_name_groups_of_different_levels() {
        let padded = Hierarchy::parse("India;Asia;Asia;*\nPeru;Peru;America;*").unwrap();
        assert_eq!(padded.generalize("India", 2), Some("Asia"));
        assert_eq!(padded.generalize("Peru", 1), Some("Peru"));
    }

    #[test]
    fn quotes_line_ends_and_a_byte_order_mark_are_understood() {
        let text = "\u{feff}\"a;b\";g;*\r\n\r\n\"say \"\"c\"\"\";g;*\r\n";
        let hierarchy = Hierarchy::parse(text).unwrap();
        assert_eq!(hierarchy.generalize("a;b", 1), Some("g"));
        assert_eq!(hierarchy.generalize("say \"c\"", 0), Some("say \"c\""));
    }

    #[test]
    fn mistakes_say_where_they_are_and_what_was_expected() {
        let owned = |line, column, found: &str, expected: &str| {
            (line, column, found.to_owned(), expected.to_owned())
        };
        assert_eq!(
            mistake("a;g;*\r\nb;g\r\n"),
            owned(2, 4, "2 fields", "3, as in the lines before")
        );
        assert_eq!(mistake("a;g\nb;g;*\n"), owned(2, 5, "3 fields", "2, as in the lines before"));
        assert_eq!(
            mistake("a;g;*\n\nb;g;*\na;g;*"),
            owned(4, 1, "the value of line 1 again", "each value once")
        );
        assert_eq!(
            mistake("a;Asia;*\r\nb;Europe;*\r\nc;Asia;World"),
            owned(3, 3, "the group of line 1 under another one", "each group under one")
        );
        assert_eq!(mistake("a;g;*\nb;;*"), owned(2, 3, "an empty field", "the name of a group"));
        assert_eq!(mistake("\n\n"), owned(1, 1, "an empty file", "one line for each value"));
        let wide = ["x"; 40].join(";");
        assert_eq!(mistake(&wide), owned(1, 65, "40 fields", "at most 32"));
    }

    /// Lines of random trees: of each level, which group of the next it belongs to.
    fn lines() -> impl Strategy<Value = Vec<Vec<String>>> {
        (prop::collection::vec(0..9usize, 1..40), prop::collection::vec(0..4usize, 9)).prop_map(
            |(groups, parents)| {
                let line = |(value, group): (usize, &usize)| {
                    vec![format!("v{value}"), format!("g{group}"), format!("h{}", parents[*group])]
                };
                groups.iter().enumerate().map(line).collect()
            },
        )
    }

    proptest! {
        #[test]
        fn tree_agrees_with_its_lines(lines in lines()) {
            let text: Vec<_> = lines.iter().map(|line| line.join(";")).collect();
            let hierarchy = Hierarchy::parse(&text.join("\n")).unwrap();
            for line in &lines {
                for (level, group) in line.iter().enumerate() {
                    prop_assert_eq!(hierarchy.generalize(&line[0], level), Some(group.as_str()));
                    let node = hierarchy.ancestor(hierarchy.leaf(&line[0]).unwrap(), level).unwrap();
                    let leaves = lines.iter().filter(|other| other[level] == *group).count();
                    prop_assert_eq!(hierarchy.leaves(node) as usize, leaves);
                    prop_assert_eq!(hierarchy.level(node), level);
                }
                prop_assert_eq!(hierarchy.generalize(&line[0], hierarchy.levels()), None);
            }
            prop_assert_eq!(hierarchy.leaves(hierarchy.root()) as usize, lines.len());
        }

        #[test]
        fn lowest_common_ancestor_is_the_first_group_in_common(
            lines in lines(), one in any::<prop::sample::Index>(), other in any::<prop::sample::Index>(),
        ) {
            let text: Vec<_> = lines.iter().map(|line| line.join(",")).collect();
            let hierarchy = Hierarchy::parse(&text.join("\n")).unwrap();
            let (one, other) = (one.get(&lines), other.get(&lines));
            let nodes = [one, other].map(|line| hierarchy.leaf(&line[0]).unwrap());
            let common = hierarchy.lowest_common_ancestor(nodes[0], nodes[1]);
            let level = one.iter().zip(other).position(|(one, other)| one == other);
            prop_assert_eq!(hierarchy.level(common), level.unwrap_or(3));
            prop_assert!(nodes.iter().all(|node| hierarchy.covers(common, *node)));
            prop_assert_eq!(common, hierarchy.lowest_common_ancestor(nodes[1], nodes[0]));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[ab;,\"\r\n*é]{0,40}") {
            if let Err(mistake) = Hierarchy::parse(&text) {
                prop_assert!(mistake.line >= 1 && mistake.column >= 1);
            }
        }

        #[test]
        fn mistakes_hold_no_word(text in "((canary|[ab;,\"\n*]){0,9}\n){0,6}") {
            if let Err(mistake) = Hierarchy::parse(&text) {
                prop_assert!(!mistake.to_string().contains("canary"), "{mistake}");
            }
        }
    }
}
