//! What a group keeps of the values of one field.

use serde::{Deserialize, Serialize};

use super::settings::Field;
use super::sketch::{Sketch, bucket};

/// In units of the last decimal place of the field.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// How many records had a value.
    pub count: u64,
    pub sum: i128,
    /// The least and the greatest value.
    pub range: Option<(i64, i64)>,
    /// Empty unless a quantile is asked for.
    pub sketch: Sketch,
}

impl Tally {
    pub(super) fn add(&mut self, value: i64, sketched: bool) {
        self.count += 1;
        self.sum += i128::from(value);
        let (least, greatest) = self.range.unwrap_or((value, value));
        self.range = Some((least.min(value), greatest.max(value)));
        if sketched {
            self.sketch.add(value);
        }
    }

    /// Whether it can be of so many records, with or without a value of a field.
    pub(super) fn is_of(&self, records: u64, field: &Field, sketched: bool) -> bool {
        let Some((least, greatest)) = self.range else { return *self == Tally::default() };
        let is_value = |value| field.clamp(i128::from(value)) == Some(value);
        let count = i128::from(self.count);
        let in_sketch = self.sketch.count_within(bucket(least), bucket(greatest));
        (1..=records).contains(&self.count)
            && is_value(least)
            && is_value(greatest)
            && (count * i128::from(least)..=count * i128::from(greatest)).contains(&self.sum)
            && in_sketch == Some(if sketched { u128::from(self.count) } else { 0 })
    }
}
