//! What a group says of somebody although they hide in it: l-diversity and t-closeness.

use std::collections::BTreeSet;
use std::collections::hash_map::Entry;

use rustc_hash::FxHashMap;
use serde::Serialize;

use super::read::{Cell, Kind};
use super::{Bin, as_text, tally::Interner};
use crate::policy::Path;

/// What groups say of one sensitive field.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sensitive {
    #[serde(serialize_with = "as_text")]
    pub path: Path,
    /// Distinct values; null is one.
    pub values: u64,
    /// Distinct l-diversity: the fewest distinct values in a group (Machanavajjhala et al. 2007, section 4). At 1, who
    /// is in that group has no secret. None without a group.
    pub distinct_l: Option<u64>,
    /// Entropy l-diversity: `exp` of the smallest entropy of a group (Machanavajjhala et al. 2007, definition 4.1).
    /// As many values as equally frequent ones would tell as little.
    pub entropy_l: Option<f64>,
    /// t-closeness: the greatest distance from a group's distribution to that of all groups, 0 to 1 (Li et al. 2007).
    pub t: Option<f64>,
    pub distance: Distance,
    /// Groups by their distinct values.
    pub histogram: Vec<Bin>,
}

/// The Earth Mover's Distance, by how far values are from each other (Li et al. 2007, section 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Distance {
    /// All the same: section 4.2, "equal distance".
    Equal,
    /// By their rank, all values being numbers: section 4.1, "ordered distance".
    Ordered,
}

/// The values of one sensitive field in each group.
pub(super) struct Values {
    path: Path,
    names: Interner,
    /// Each value as a number, if it can be one.
    numbers: Vec<f64>,
    /// How many of those that are counted are no numbers.
    words: u64,
    counts: FxHashMap<(usize, usize), u64>,
    /// The last value of each subject in each group, and whether it was a number: a subject counts once, as where groups
    /// are made.
    last: FxHashMap<(usize, usize), (usize, bool)>,
}

impl Values {
    pub fn new(path: Path) -> Values {
        Values {
            path,
            names: Interner::default(),
            numbers: Vec::new(),
            words: 0,
            counts: FxHashMap::default(),
            last: FxHashMap::default(),
        }
    }

    pub fn count(&mut self, group: usize, subject: Option<usize>, cell: &Cell, key: &mut Vec<u8>) {
        key.clear();
        cell.write_key(key);
        let (value, new) = self.names.index(key);
        let number = number(cell);
        if new {
            self.numbers.push(number.unwrap_or_default());
        }
        // A string may look like a number that was met before.
        let is_number = cell.kind == Kind::Number && number.is_some();
        self.words += u64::from(!is_number);
        let last =
            subject.and_then(|subject| self.last.insert((group, subject), (value, is_number)));
        if let Some((before, was_number)) = last
            && let Entry::Occupied(mut count) = self.counts.entry((group, before))
        {
            self.words -= u64::from(!was_number);
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        *self.counts.entry((group, value)).or_default() += 1;
    }

    pub fn figures(self, sizes: &[u64]) -> Sensitive {
        // Those that nobody has in the end are none.
        let counted: BTreeSet<usize> = self.counts.keys().map(|(_, value)| *value).collect();
        let numbers = self.numbers.as_slice();
        let numbers = Some(numbers).filter(|_| self.words == 0 && !counted.is_empty());
        let scale = Scale::new(self.names.len(), numbers, &counted, &self.counts);
        let mut counts: Vec<(usize, Count)> = self
            .counts
            .iter()
            .map(|((group, value), count)| {
                (*group, Count { rank: scale.rank(*value), count: *count as f64 })
            })
            .collect();
        counts.sort_unstable_by_key(|(group, count)| (*group, count.rank));
        let (mut distinct, mut entropy, mut t) = (Vec::new(), None, None);
        for group in counts.chunk_by(|one, other| one.0 == other.0) {
            let size = group.first().and_then(|(group, _)| sizes.get(*group)).copied();
            distinct.push((group.len() as u64, 1, size.unwrap_or_default()));
            let counts: Vec<Count> = group.iter().map(|(_, count)| *count).collect();
            entropy = Some(entropy_of(&counts)).into_iter().chain(entropy).reduce(f64::min);
            t = Some(scale.distance_of(&counts)).into_iter().chain(t).reduce(f64::max);
        }
        Sensitive {
            path: self.path,
            values: counted.len() as u64,
            distinct_l: distinct.iter().map(|(values, _, _)| *values).min(),
            entropy_l: entropy.map(f64::exp),
            t,
            distance: scale.distance,
            histogram: Bin::all(distinct.iter().copied()),
        }
    }
}

fn number(cell: &Cell) -> Option<f64> {
    std::str::from_utf8(&cell.text).ok()?.parse().ok().filter(|number: &f64| number.is_finite())
}

/// How often a value is met in a group.
#[derive(Clone, Copy)]
struct Count {
    rank: usize,
    count: f64,
}

/// In nats.
fn entropy_of(group: &[Count]) -> f64 {
    let all: f64 = group.iter().map(|one| one.count).sum();
    let parts = group.iter().map(|one| one.count / all);
    // No entropy is -0.
    parts.map(|part| part * part.ln()).sum::<f64>().abs()
}

/// The distribution of a field over all groups.
struct Scale {
    distance: Distance,
    ranks: Vec<usize>,
    /// How probable the values of each rank are.
    parts: Vec<f64>,
    /// How probable a value of at most that rank is.
    up_to: Vec<f64>,
    /// `up_to`, added up: of the first 0, 1, 2 ... ranks.
    sums: Vec<f64>,
}

impl Scale {
    fn new(
        values: usize,
        numbers: Option<&[f64]>,
        counted: &BTreeSet<usize>,
        counts: &FxHashMap<(usize, usize), u64>,
    ) -> Scale {
        let (distance, ranks) = match numbers {
            Some(numbers) => {
                let of = |value: &usize| numbers.get(*value).copied().unwrap_or_default();
                let ranked = ranks(&counted.iter().map(of).collect::<Vec<_>>());
                let mut all = vec![0; values];
                for (value, rank) in counted.iter().zip(ranked) {
                    if let Some(place) = all.get_mut(*value) {
                        *place = rank;
                    }
                }
                (Distance::Ordered, all)
            }
            None => (Distance::Equal, (0..values).collect()),
        };
        let mut of_rank = vec![0; ranks.iter().max().map_or(0, |last| last + 1)];
        for ((_, value), count) in counts {
            if let Some(sum) = ranks.get(*value).and_then(|rank| of_rank.get_mut(*rank)) {
                *sum += count;
            }
        }
        let all: u64 = of_rank.iter().sum();
        let parts = of_rank.iter().map(|count| super::share(*count, all)).collect();
        let up_to: Vec<f64> = of_rank
            .iter()
            .scan(0, |sum, count| {
                *sum += count;
                Some(super::share(*sum, all))
            })
            .collect();
        let mut sums = vec![0.0];
        sums.extend(up_to.iter().scan(0.0, |sum, part| {
            *sum += part;
            Some(*sum)
        }));
        Scale { distance, ranks, parts, up_to, sums }
    }

    fn rank(&self, value: usize) -> usize {
        self.ranks.get(value).copied().unwrap_or_default()
    }

    fn distance_of(&self, group: &[Count]) -> f64 {
        match self.distance {
            Distance::Equal => self.equal(group),
            Distance::Ordered => self.ordered(group),
        }
    }

    /// Half the sum of the differences. What is not in the group differs by all that it is.
    fn equal(&self, group: &[Count]) -> f64 {
        let all: f64 = group.iter().map(|one| one.count).sum();
        let (mut differences, mut rest) = (0.0, 1.0);
        for one in group {
            let part = self.parts.get(one.rank).copied().unwrap_or_default();
            differences += (one.count / all - part).abs();
            rest -= part;
        }
        (differences + rest.max(0.0)) / 2.0
    }

    /// What has to be carried from each rank to the next, added up. Between two values of the group what it has up to
    /// there is the same: such a stretch is taken at once, and a group costs no more than it has values.
    fn ordered(&self, group: &[Count]) -> f64 {
        let last = self.up_to.len().saturating_sub(1);
        if last == 0 {
            return 0.0;
        }
        let all: f64 = group.iter().map(|one| one.count).sum();
        let (mut carried, mut at, mut counted) = (0.0, 0, 0.0);
        for one in group {
            carried += self.stretch(at, one.rank, counted / all);
            (at, counted) = (one.rank, counted + one.count);
        }
        carried += self.stretch(at, self.up_to.len(), counted / all);
        carried / last as f64
    }

    /// The sum of `|level - up_to|` from one rank to before another.
    fn stretch(&self, from: usize, to: usize, level: f64) -> f64 {
        let stretch = self.up_to.get(from..to).unwrap_or_default();
        let turn = from + stretch.partition_point(|up_to| *up_to < level);
        let sum = |from: usize, to: usize| match (self.sums.get(from), self.sums.get(to)) {
            (Some(before), Some(behind)) => behind - before,
            _ => 0.0,
        };
        let below = level * (turn - from) as f64 - sum(from, turn);
        let above = sum(turn, to) - level * (to - turn) as f64;
        below + above
    }
}

/// The rank of each number; equal numbers (`1`, `1.0`) have one.
fn ranks(numbers: &[f64]) -> Vec<usize> {
    let mut sorted = numbers.to_vec();
    // Not total_cmp: 0 and -0 are one number. None is NaN.
    sorted
        .sort_unstable_by(|one, other| one.partial_cmp(other).unwrap_or(std::cmp::Ordering::Equal));
    sorted.dedup();
    numbers.iter().map(|number| sorted.partition_point(|other| other < number)).collect()
}
