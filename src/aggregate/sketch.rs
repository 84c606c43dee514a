//! A sketch of a distribution of integers, for quantiles.

use serde::{Deserialize, Serialize};

/// Magnitudes below twice this have a bucket each; above, each power of two has so many buckets.
const PER_POWER: u32 = 64;

/// DDSketch (Masson, Rim, Lee, VLDB 2019) with buckets that are linear within each power of two, as in its fast mapping
/// and in HdrHistogram: any quantile is off by less than 1/128 of its value, and exact below 128 units. A sketch of
/// another part of the data can be merged. Exact quantiles would need all values; this has at most 7 040 buckets, and
/// only those that are not empty are kept. There is no logarithm in it, so that every machine has the same buckets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sketch {
    /// Bucket and how many values are in it; in order.
    buckets: Vec<(i16, u64)>,
}

impl Sketch {
    pub fn add(&mut self, value: i64) {
        self.put(bucket(value), 1);
    }

    pub fn merge(&mut self, other: &Sketch) {
        for (bucket, count) in &other.buckets {
            self.put(*bucket, *count);
        }
    }

    /// The value at a rank that counts from 0, in the middle of its bucket.
    pub fn at(&self, rank: u64) -> Option<i64> {
        let mut below = 0_u64;
        let found = self.buckets.iter().find(|(_, count)| {
            below = below.saturating_add(*count);
            below > rank
        });
        found.map(|(bucket, _)| middle(*bucket))
    }

    /// Buckets that are not empty, in the order of their values, and how many values each has.
    pub fn buckets(&self) -> &[(i16, u64)] {
        &self.buckets
    }

    /// The sketch of such buckets; the order does not matter.
    pub fn from_buckets(buckets: impl IntoIterator<Item = (i16, u64)>) -> Sketch {
        let mut sketch = Sketch::default();
        for (bucket, count) in buckets {
            sketch.put(bucket, count);
        }
        sketch
    }

    /// How many values there are; none if a bucket is empty, out of order, or not from `first` to `last`.
    pub(super) fn count_within(&self, first: i16, last: i16) -> Option<u128> {
        let is_one = |(bucket, count): &(i16, u64)| *count > 0 && (first..=last).contains(bucket);
        let are_sorted = self.buckets.is_sorted_by(|(one, _), (other, _)| one < other);
        let counts = self.buckets.iter().map(|(_, count)| u128::from(*count));
        (are_sorted && self.buckets.iter().all(is_one)).then(|| counts.sum())
    }

    fn put(&mut self, bucket: i16, more: u64) {
        match self.buckets.binary_search_by_key(&bucket, |(known, _)| *known) {
            Ok(place) => {
                if let Some((_, count)) = self.buckets.get_mut(place) {
                    *count = count.saturating_add(more);
                }
            }
            Err(place) => self.buckets.insert(place, (bucket, more)),
        }
    }
}

/// The bucket of a value: those of negative values are negative.
pub(super) fn bucket(value: i64) -> i16 {
    let magnitude = value.unsigned_abs();
    let power = (u64::BITS - magnitude.leading_zeros()).saturating_sub(PER_POWER.ilog2() + 1);
    let number = u64::from(PER_POWER * power) + (magnitude >> power);
    // At most 64 * 58 + 64.
    let number = i16::try_from(number).unwrap_or(i16::MAX);
    if value < 0 { -number } else { number }
}

/// The value in the middle of a bucket.
pub(super) fn middle(bucket: i16) -> i64 {
    let number = u32::from(bucket.unsigned_abs());
    let power = (number / PER_POWER).saturating_sub(1).min(57);
    let low = i64::from(number - PER_POWER * power) << power;
    let value = low + ((1_i64 << power) - 1) / 2;
    if bucket < 0 { -value } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn buckets_follow_one_another() {
        assert_eq!(
            (-127..=127).map(|value| middle(bucket(value))).collect::<Vec<_>>(),
            (-127..=127).collect::<Vec<_>>()
        );
        let mut last = bucket(0);
        for value in 1..100_000 {
            let next = bucket(value);
            assert!(next == last || next == last + 1, "{value}");
            last = next;
        }
        assert_eq!(bucket(1_000_000_000_000_000_000), 53 * 64 + 111);
    }

    proptest! {
        #[test]
        fn quantiles_are_within_the_stated_error(
            mut values in proptest::collection::vec(
                prop_oneof![-200_i64..200, -1_000_000_000_000_000_000_i64..=1_000_000_000_000_000_000], 1..100),
            cut in 0_usize..100,
        ) {
            let (mut one, mut other) = (Sketch::default(), Sketch::default());
            for (index, value) in values.iter().enumerate() {
                if index < cut { one.add(*value) } else { other.add(*value) }
            }
            one.merge(&other);
            values.sort_unstable();
            for (rank, value) in values.iter().enumerate() {
                let found = one.at(rank as u64).unwrap();
                prop_assert!(i128::from(found - value).abs() * 128 <= i128::from(value.abs()), "{value} {found}");
            }
            prop_assert_eq!(one.at(values.len() as u64), None);
            prop_assert_eq!(Sketch::from_buckets(one.buckets().iter().copied()), one);
        }
    }
}
