//! What a group must not tell by its sensitive values: l-diversity (Machanavajjhala et al. 2007) and t-closeness
//! (Li, Li, Venkatasubramanian 2007). Each subject of a group has one vote: the value of its last record.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

/// So many different values of a field are counted; a further one counts as its lower neighbor if it is a number,
/// and as never seen if it is a category. Both overstate distances.
const MOST_VALUES: usize = 1024;

/// Demands on one sensitive field.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Sensitive {
    /// Distinct l-diversity: at least so many values.
    pub distinct: Option<u32>,
    /// Entropy l-diversity: entropy at least that of so many equally frequent values.
    pub entropy: Option<f64>,
    /// t-closeness: the earth mover's distance to all values seen so far is at most this; numbers at the distance of
    /// their ranks, categories all at the same distance.
    pub closeness: Option<f64>,
}

impl Sensitive {
    pub(super) fn is_proper(&self) -> bool {
        self.distinct.is_none_or(|least| least >= 1)
            && self.entropy.is_none_or(|least| least >= 1.0 && least.is_finite())
            && self.closeness.is_none_or(|most| (0.0..=1.0).contains(&most))
    }
}

/// A sensitive value: a keyed digest of a category, or a number.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub enum SensitiveValue {
    Category(u64),
    Number(f64),
}

impl PartialEq for SensitiveValue {
    fn eq(&self, other: &SensitiveValue) -> bool {
        self.key() == other.key()
    }
}

impl SensitiveValue {
    pub(super) fn is_finite(&self) -> bool {
        match self {
            SensitiveValue::Category(_) => true,
            SensitiveValue::Number(number) => number.is_finite(),
        }
    }

    fn key(&self) -> (bool, u64) {
        match self {
            SensitiveValue::Category(digest) => (false, *digest),
            SensitiveValue::Number(number) => (true, ordered(*number)),
        }
    }
}

/// How often each value of a field was seen.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Distribution {
    /// Sorted by digest.
    pub categories: Vec<(u64, u64)>,
    /// Sorted by number.
    pub numbers: Vec<(f64, u64)>,
    /// All that were seen, those of values that are not counted among them.
    pub total: u64,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    categories: FxHashMap<u64, u64>,
    numbers: BTreeMap<u64, u64>,
    total: u64,
}

impl Seen {
    pub(super) fn add(&mut self, value: &SensitiveValue) {
        self.total += 1;
        match value {
            SensitiveValue::Category(digest) => {
                if self.categories.len() < MOST_VALUES || self.categories.contains_key(digest) {
                    *self.categories.entry(*digest).or_default() += 1;
                }
            }
            SensitiveValue::Number(number) => {
                let key = self.bin(ordered(*number));
                *self.numbers.entry(key).or_default() += 1;
            }
        }
    }

    pub(super) fn state(&self) -> Distribution {
        let mut categories: Vec<_> = self.categories.iter().map(|(key, n)| (*key, *n)).collect();
        categories.sort_unstable();
        let numbers = self.numbers.iter().map(|(key, n)| (from_ordered(*key), *n)).collect();
        Distribution { categories, numbers, total: self.total }
    }

    pub(super) fn restore(state: &Distribution) -> Seen {
        let numbers = state.numbers.iter().map(|(number, n)| (ordered(*number), *n)).collect();
        Seen { categories: state.categories.iter().copied().collect(), numbers, total: state.total }
    }

    fn bin(&self, key: u64) -> u64 {
        if self.numbers.len() < MOST_VALUES || self.numbers.contains_key(&key) {
            return key;
        }
        let below = self.numbers.range(..key).next_back();
        below.or_else(|| self.numbers.first_key_value()).map_or(key, |(bin, _)| *bin)
    }

    /// Earth mover's distance between some values and all that were seen, from 0 to 1.
    fn distance(&self, votes: &[(bool, u64)]) -> f64 {
        let numbers = votes.iter().filter(|(number, _)| *number).count();
        if numbers > 0 && numbers == votes.len() {
            return self.ordered_distance(votes);
        }
        let share = 1.0 / votes.len() as f64;
        let excess = |run: &[(bool, u64)]| {
            let seen = match run.first() {
                Some((false, key)) => self.categories.get(key).copied().unwrap_or_default(),
                _ => 0,
            };
            (run.len() as f64 * share - seen as f64 / self.total as f64).max(0.0)
        };
        votes.chunk_by(|one, other| one == other).map(excess).sum()
    }

    fn ordered_distance(&self, votes: &[(bool, u64)]) -> f64 {
        let mut bins: Vec<u64> = votes.iter().map(|(_, key)| self.bin(*key)).collect();
        bins.sort_unstable();
        let mut bins = bins.into_iter().peekable();
        let (mut taken, mut seen, mut moved) = (0.0, 0.0, 0.0);
        for (key, count) in &self.numbers {
            while bins.next_if(|bin| bin <= key).is_some() {
                taken += 1.0 / votes.len() as f64;
            }
            seen += *count as f64 / self.total as f64;
            moved += f64::abs(taken - seen);
        }
        moved / self.numbers.len().saturating_sub(1).max(1) as f64
    }
}

/// One of 64 kinds, as a bit: equal values are of the same kind, most others of another.
pub(super) fn kind(vote: &[SensitiveValue]) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |hash: u64, value: &SensitiveValue| (hash ^ value.key().1).wrapping_mul(ODD);
    1 << (vote.iter().fold(0, mix) >> 58)
}

/// How far the votes of a group are from what is demanded; 0 where they satisfy it. `votes` has one row per subject.
pub(super) fn lack(demands: &[Sensitive], seen: &[Seen], votes: &[&[SensitiveValue]]) -> f64 {
    let field = |(index, (demand, seen)): (usize, (&Sensitive, &Seen))| {
        if *demand == Sensitive::default() {
            return 0.0;
        }
        let values = votes.iter().filter_map(|vote| vote.get(index));
        let mut keys: Vec<_> = values.map(SensitiveValue::key).collect();
        keys.sort_unstable();
        lack_of(demand, seen, &keys)
    };
    demands.iter().zip(seen).enumerate().map(field).sum()
}

/// How many different values of each field there are.
pub(super) fn distinct(votes: &[&[SensitiveValue]], fields: usize) -> Vec<u32> {
    let of = |field: usize| {
        let values = votes.iter().filter_map(|vote| vote.get(field)).map(SensitiveValue::key);
        values.collect::<std::collections::BTreeSet<_>>().len() as u32
    };
    (0..fields).map(of).collect()
}

fn lack_of(demand: &Sensitive, seen: &Seen, sorted: &[(bool, u64)]) -> f64 {
    let mut lack = 0.0;
    if let Some(least) = demand.distinct {
        let distinct = sorted.chunk_by(|one, other| one == other).count() as f64;
        lack += (f64::from(least) - distinct).max(0.0);
    }
    if let Some(least) = demand.entropy {
        lack += above(least.ln() - entropy(sorted));
    }
    if let Some(most) = demand.closeness {
        lack += above(seen.distance(sorted) - most);
    }
    lack
}

fn entropy(sorted: &[(bool, u64)]) -> f64 {
    let share = |run: &[(bool, u64)]| run.len() as f64 / sorted.len() as f64;
    let part = |run: &[(bool, u64)]| -share(run) * share(run).ln();
    sorted.chunk_by(|one, other| one == other).map(part).sum()
}

/// Rounding is no lack.
fn above(excess: f64) -> f64 {
    if excess > 1e-9 { excess } else { 0.0 }
}

/// Orders as the numbers do.
fn ordered(number: f64) -> u64 {
    let bits = (number + 0.0).to_bits();
    if bits >> 63 == 1 { !bits } else { bits | 1 << 63 }
}

fn from_ordered(key: u64) -> f64 {
    f64::from_bits(if key >> 63 == 1 { key & !(1 << 63) } else { !key })
}
