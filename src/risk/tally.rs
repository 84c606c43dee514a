//! Rows, counted. What is held grows with the groups, and with the subjects where they count, not with the rows.

use rustc_hash::{FxHashMap, FxHashSet};

use super::read::{Kind, Row};
use super::sensitive::Values;
use super::{Bin, Figures, Part, Population, Quasi, Question, Risk, Risks, Size, share};

/// Groups as they are counted.
pub struct Tally {
    threshold: u64,
    quasi: Vec<Quasi>,
    sensitive: Vec<Values>,
    subjects: Option<Subjects>,
    groups: Interner,
    sizes: Vec<u64>,
    rows: u64,
    suppressed: u64,
    population: Option<Everybody>,
    key: Vec<u8>,
}

#[derive(Default)]
struct Subjects {
    names: Interner,
    /// Who is in which group.
    seen: FxHashSet<(usize, usize)>,
    without: u64,
}

/// How many people of a population are like each group.
struct Everybody {
    rows: u64,
    sizes: Vec<u64>,
}

/// Texts, numbered in the order in which they come.
#[derive(Default)]
pub(super) struct Interner(FxHashMap<Box<[u8]>, usize>);

impl Interner {
    /// The number of a text, and whether it is new.
    pub fn index(&mut self, text: &[u8]) -> (usize, bool) {
        if let Some(index) = self.0.get(text) {
            return (*index, false);
        }
        let index = self.0.len();
        self.0.insert(text.into(), index);
        (index, true)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl Tally {
    pub fn new(question: &Question) -> Tally {
        let quasi = question.quasi.iter().cloned();
        Tally {
            threshold: question.threshold,
            quasi: quasi.map(|path| Quasi { path, absent: 0 }).collect(),
            sensitive: question.sensitive.iter().cloned().map(Values::new).collect(),
            subjects: question.subject.as_ref().map(|_| Subjects::default()),
            groups: Interner::default(),
            sizes: Vec::new(),
            rows: 0,
            suppressed: 0,
            population: None,
            key: Vec::new(),
        }
    }

    /// Takes in a row of the values of [`Question::paths`].
    pub fn count(&mut self, row: &Row) {
        self.rows += 1;
        for (quasi, cell) in self.quasi.iter_mut().zip(row.cells()) {
            quasi.absent += u64::from(cell.kind == Kind::Null);
        }
        if self.read_key(row) == Says::Nothing {
            self.suppressed += 1;
            return;
        }
        let (group, new) = self.groups.index(&self.key);
        if new {
            self.sizes.push(0);
        }
        let (quasi, sensitive) = (self.quasi.len(), self.sensitive.len());
        let mut subject = None;
        let mut counts = true;
        if let (Some(subjects), Some(cell)) =
            (&mut self.subjects, row.cells().get(quasi + sensitive))
        {
            self.key.clear();
            cell.write_key(&mut self.key);
            let (number, _) = subjects.names.index(&self.key);
            subjects.without += u64::from(cell.kind == Kind::Null);
            counts = subjects.seen.insert((group, number));
            subject = Some(number);
        }
        if let (true, Some(size)) = (counts, self.sizes.get_mut(group)) {
            *size += 1;
        }
        for (values, cell) in self.sensitive.iter_mut().zip(row.cells().iter().skip(quasi)) {
            values.count(group, subject, cell, &mut self.key);
        }
    }

    /// Takes in a row of the population, of the quasi-identifiers alone, after the last row was counted.
    pub fn populate(&mut self, row: &Row) {
        self.read_key(row);
        let groups = self.sizes.len();
        let population =
            self.population.get_or_insert_with(|| Everybody { rows: 0, sizes: vec![0; groups] });
        population.rows += 1;
        let group = self.groups.0.get(self.key.as_slice());
        if let Some(size) = group.and_then(|group| population.sizes.get_mut(*group)) {
            *size += 1;
        }
    }

    /// The group of a row, into `key`.
    fn read_key(&mut self, row: &Row) -> Says {
        self.key.clear();
        let mut says = Says::Nothing;
        for cell in row.cells().iter().take(self.quasi.len()) {
            cell.write_key(&mut self.key);
            if cell.kind != Kind::Null && cell.text != b"*" {
                says = Says::Something;
            }
        }
        says
    }

    /// What was counted. `without_row` are events that had none.
    pub fn figures(self, without_row: u64) -> Figures {
        let sizes = by_size(&self.sizes);
        let records: u64 = self.sizes.iter().sum();
        let groups = self.sizes.len() as u64;
        let part =
            |records_of: u64| Part { records: records_of, share: share(records_of, records) };
        let below = |least: u64| {
            let small = sizes.iter().take_while(|size| size.size < least);
            small.map(|size| size.size * size.groups).sum::<u64>()
        };
        let k = sizes.first().map(|size| size.size);
        let prosecutor = Risk {
            highest: k.map_or(0.0, |k| share(1, k)),
            average: share(groups, records),
            at_risk: share(below(self.threshold), records),
        };
        let population = self.population.as_ref().map(|all| all.beside(&self.sizes));
        let journalist =
            self.population.as_ref().map(|all| all.risk(&self.sizes, records, self.threshold));
        let marketer = self.population.as_ref().map(|all| all.mean_risk(&self.sizes, records));
        let binned = sizes.iter().map(|one| (one.size, one.groups, one.size * one.groups));
        let mut subjects = records;
        let mut without_subject = 0;
        if let Some(named) = &self.subjects {
            (subjects, without_subject) = (named.names.len() as u64, named.without);
        }
        Figures {
            rows: self.rows,
            without_row,
            suppressed_rows: self.suppressed,
            subjects,
            without_subject,
            records,
            groups,
            k,
            mean_group: share(records, groups),
            median_group: median(&sizes, groups),
            unique: part(below(2)),
            threshold: self.threshold,
            below_threshold: part(below(self.threshold)),
            quasi: self.quasi,
            histogram: Bin::all(binned),
            sensitive: self
                .sensitive
                .into_iter()
                .map(|values| values.figures(&self.sizes))
                .collect(),
            risks: Risks {
                prosecutor,
                journalist,
                marketer: marketer.unwrap_or(prosecutor.average),
            },
            population,
            sizes,
        }
    }
}

/// What quasi-identifiers say of a person.
#[derive(PartialEq, Eq)]
enum Says {
    Nothing,
    Something,
}

impl Everybody {
    /// How many there are of a group, and how many people are like it.
    fn pairs<'s>(&'s self, sizes: &'s [u64]) -> impl Iterator<Item = (u64, u64)> + 's {
        let pairs = sizes.iter().zip(&self.sizes);
        pairs.map(|(size, people)| (*size, *people.max(size)))
    }

    fn beside(&self, sizes: &[u64]) -> Population {
        Population {
            rows: self.rows,
            k_map: self.pairs(sizes).map(|(_, people)| people).min(),
            short_groups: sizes.iter().zip(&self.sizes).filter(|(size, all)| all < size).count()
                as u64,
        }
    }

    fn risk(&self, sizes: &[u64], records: u64, threshold: u64) -> Risk {
        let people: u64 = self.pairs(sizes).map(|(_, people)| people).sum();
        let least = self.pairs(sizes).map(|(_, people)| people).min();
        let at_risk = self.pairs(sizes).filter(|(_, people)| *people < threshold);
        Risk {
            highest: least.map_or(0.0, |least| share(1, least)),
            average: share(sizes.len() as u64, people).max(self.mean_risk(sizes, records)),
            at_risk: share(at_risk.map(|(size, _)| size).sum(), records),
        }
    }

    fn mean_risk(&self, sizes: &[u64], records: u64) -> f64 {
        let sum: f64 = self.pairs(sizes).map(|(size, people)| share(size, people)).sum();
        if records == 0 { 0.0 } else { sum / records as f64 }
    }
}

fn by_size(sizes: &[u64]) -> Vec<Size> {
    let mut sorted = sizes.to_vec();
    sorted.sort_unstable();
    let runs = sorted.chunk_by(|one, other| one == other);
    let size = |run: &[u64]| Some(Size { size: run.first().copied()?, groups: run.len() as u64 });
    runs.filter_map(size).collect()
}

fn median(sizes: &[Size], groups: u64) -> f64 {
    let at = |place: u64| {
        let mut passed = 0;
        let found = sizes.iter().find(|one| {
            passed += one.groups;
            passed > place
        });
        found.map_or(0, |one| one.size)
    };
    let middle = (at(groups.saturating_sub(1) / 2), at(groups / 2));
    (middle.0 + middle.1) as f64 / 2.0
}
