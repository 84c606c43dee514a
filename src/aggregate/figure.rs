//! What can be asked of a group, and how the answer is written.

/// Fields count from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aggregate {
    /// How many records.
    Count,
    Sum(usize),
    /// With two decimal places more than the field, rounded half away from 0.
    Mean(usize),
    Min(usize),
    Max(usize),
    /// The value that so many of a thousand are not above: 500 is the median. For its error see [`super::Sketch`].
    Quantile {
        field: usize,
        per_mille: u16,
    },
    /// How many different subjects.
    Subjects,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// A decimal number; none where no record had a value.
    pub value: Option<String>,
    pub noise: Option<NoiseUsed>,
}

/// How much noise is in a figure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoiseUsed {
    /// The figure's share of the epsilon of its window.
    pub epsilon: String,
    /// The scale of the discrete Laplace distribution, in the unit of the figure, rounded up; of a mean, that of the sum of
    /// distances from the middle; none for quantiles.
    pub scale: Option<String>,
}

/// A mean has so many decimal places more than its field, and units that are so many times smaller.
pub(super) const MEAN_PLACES: u32 = 2;
pub(super) const MEAN_UNITS: i128 = 100;

impl Aggregate {
    pub(super) fn field(&self) -> Option<usize> {
        match *self {
            Aggregate::Count | Aggregate::Subjects => None,
            Aggregate::Sum(field)
            | Aggregate::Mean(field)
            | Aggregate::Min(field)
            | Aggregate::Max(field)
            | Aggregate::Quantile { field, .. } => Some(field),
        }
    }

    pub(super) fn is_extreme(&self) -> bool {
        matches!(
            self,
            Aggregate::Min(_) | Aggregate::Max(_) | Aggregate::Quantile { per_mille: 0 | 1000, .. }
        )
    }
}

/// `sum / count` in units of a mean.
pub(super) fn mean_units(sum: i128, count: i128) -> i128 {
    let (whole, rest) = (sum / count, sum % count);
    whole * MEAN_UNITS + half_up(rest * MEAN_UNITS, count)
}

/// Rounds half away from 0; the divisor is above 0.
fn half_up(number: i128, by: i128) -> i128 {
    let (whole, rest) = (number / by, number % by);
    whole + if 2 * rest.abs() >= by { number.signum() } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_are_rounded_half_away_from_zero() {
        for (sum, count, expected) in [
            (7, 2, 350),
            (-7, 2, -350),
            (1, 3, 33),
            (2, 3, 67),
            (1, 200, 1),
            (-1, 200, -1),
            (1, 201, 0),
        ] {
            assert_eq!(mean_units(sum, count), expected, "{sum} / {count}");
        }
    }
}
