//! How much privacy may be lost in a period.

use serde::{Deserialize, Serialize};

/// Epsilon and delta. In whole units, so that no sum of them is rounded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// In billionths.
    pub epsilon: u64,
    /// In units of 10^-18.
    pub delta: u64,
}

/// What all windows of a period together may spend, by basic composition (Dwork, Roth, The Algorithmic Foundations of
/// Differential Privacy, 2014, theorem 3.16).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    pub loss: Loss,
    pub period: Period,
    pub time: PeriodTime,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Period {
    /// Of so many milliseconds, aligned to the epoch: 86 400 000 is a day in UTC.
    Every(i64),
    /// A month of the calendar, in UTC.
    Month,
}

/// By which time a window belongs to a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeriodTime {
    /// Where it starts, in event time.
    Event,
    /// When it is published, in processing time.
    Processing,
}

/// What was spent in the period that ends at `until`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    pub until: i64,
    pub loss: Loss,
}

const DAY: i64 = 86_400_000;

impl Period {
    /// When the period that a time is in ends; `i64::MAX` for never.
    pub fn until(&self, time: i64) -> i64 {
        match *self {
            Period::Every(length) => {
                let length = length.max(1);
                time.div_euclid(length).saturating_add(1).saturating_mul(length)
            }
            Period::Month => next_month(time.div_euclid(DAY)).saturating_mul(DAY),
        }
    }
}

impl Loss {
    pub(super) fn plus(self, other: Loss) -> Option<Loss> {
        let epsilon = self.epsilon.checked_add(other.epsilon)?;
        Some(Loss { epsilon, delta: self.delta.checked_add(other.delta)? })
    }

    pub(super) fn is_within(&self, most: &Loss) -> bool {
        self.epsilon <= most.epsilon && self.delta <= most.delta
    }
}

impl Budget {
    /// What will be spent after `loss` at a time, or when there will be something again. A period that has begun ends as it
    /// was said then: neither a clock that goes back nor other settings shorten it.
    pub(super) fn spend(&self, spent: Option<Spent>, time: i64, loss: Loss) -> Result<Spent, i64> {
        let is_of_it = |spent: &Spent| time < spent.until || spent.until == i64::MAX;
        let known = spent.filter(is_of_it);
        let known = known
            .unwrap_or_else(|| Spent { until: self.period.until(time), loss: Loss::default() });
        match known.loss.plus(loss) {
            Some(sum) if sum.is_within(&self.loss) => Ok(Spent { loss: sum, ..known }),
            _ => Err(known.until),
        }
    }
}

/// The first day of the next month, in days since the epoch (Hinnant, chrono-compatible low-level date algorithms).
fn next_month(day: i64) -> i64 {
    let shifted = day + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    // Years begin in March here, so that a leap day is their last.
    let month = (5 * of_year + 2) / 153 + 1;
    let (year, month) = if month == 12 { (year + 1, 0) } else { (year, month) };
    era * 146_097 + 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5
        - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_are_of_the_calendar() {
        // 1970-01-01, 1970-02-28, 2000-02-28, 2000-02-29, 2023-12-31, 2024-02-29, 2100-02-28, 1969-12-31.
        for (day, next) in [
            (0, 31),
            (58, 59),
            (11_015, 11_017),
            (11_016, 11_017),
            (19_722, 19_723),
            (19_782, 19_783),
            (47_540, 47_541),
            (-1, 0),
            (-32, -31),
        ] {
            assert_eq!(next_month(day), next, "{day}");
        }
        let mut starts = vec![0];
        while starts.len() <= 12 * 400 {
            starts.push(next_month(*starts.last().unwrap()));
        }
        assert_eq!(*starts.last().unwrap(), 146_097);
        assert!(starts.windows(2).all(|two| (28..=31).contains(&(two[1] - two[0]))));
    }

    #[test]
    fn far_times_do_not_overflow() {
        for period in [Period::Month, Period::Every(1000)] {
            assert!(period.until(i64::MIN) < 0 && period.until(i64::MAX) > 0);
        }
    }

    #[test]
    fn period_at_the_end_of_time_does_not_start_anew_for_each_window() {
        let loss = Loss { epsilon: 6, delta: 1 };
        for period in [Period::Month, Period::Every(i64::MAX), Period::Every(0)] {
            let most = Loss { epsilon: 10, delta: 9 };
            let budget = Budget { loss: most, period, time: PeriodTime::Processing };
            let spent = budget.spend(None, i64::MAX, loss).unwrap();
            let again = budget.spend(Some(spent), i64::MAX, loss);
            assert_eq!(again, Err(spent.until), "{period:?}");
        }
    }

    #[test]
    fn the_rest_must_suffice_and_a_period_is_not_cut_short() {
        let loss = |epsilon| Loss { epsilon, delta: 1 };
        let mut budget = Budget {
            loss: Loss { epsilon: 10, delta: 9 },
            period: Period::Every(100),
            time: PeriodTime::Event,
        };
        let spent = budget.spend(None, 30, loss(6)).unwrap();
        assert_eq!(spent, Spent { until: 100, loss: loss(6) });
        assert_eq!(budget.spend(Some(spent), 99, loss(5)), Err(100));
        assert_eq!(
            budget.spend(Some(spent), 99, loss(4)),
            Ok(Spent { until: 100, loss: Loss { epsilon: 10, delta: 2 } })
        );
        budget.period = Period::Every(10);
        assert_eq!(budget.spend(Some(spent), -50, loss(5)), Err(100));
        assert_eq!(
            budget.spend(Some(spent), 100, loss(5)),
            Ok(Spent { until: 110, loss: loss(5) })
        );
    }
}
