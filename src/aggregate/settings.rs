//! What a stream of aggregates is told, and what of it cannot be.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::budget::{Budget, Loss, Period};
use super::figure::Aggregate;
use super::windows::{FARTHEST, Windows};

#[derive(Debug, Clone)]
pub struct Settings {
    pub windows: Windows,
    /// Records that are out of order by so many milliseconds of event time are still counted.
    pub lateness: i64,
    /// Records whose event time is more milliseconds ahead of now are dropped: one wrong clock would close all windows.
    pub ahead: Option<i64>,
    /// When nothing has come for so many milliseconds of processing time, event time goes on without.
    pub longest_wait: Option<i64>,
    pub fields: Vec<Field>,
    pub aggregates: Vec<Aggregate>,
    /// The least number of different subjects in a group that is published; 1 for any. Not all need to have values.
    pub least: u64,
    /// The most records of a subject that count in a window, over all groups.
    pub contributions: u32,
    pub privacy: Option<Privacy>,
    /// Of a window; records of groups beyond go to [`super::Group::Other`].
    pub most_groups: usize,
    /// Of a window; records of subjects beyond are dropped.
    pub most_subjects: usize,
    /// Open at once. Size, slide and lateness must not need more. With [`Privacy`] also how many windows without a record
    /// are published where event time goes on at once.
    pub most_windows: usize,
}

/// A number that records may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Decimal places, at most 18.
    pub places: u32,
    /// The least and the greatest value, in units of the last decimal place; what is beyond counts as the nearer one.
    pub bounds: Option<(i128, i128)>,
}

/// Differential privacy.
#[derive(Debug, Clone)]
pub struct Privacy {
    /// Of each published window.
    pub loss: Loss,
    /// Groups that are published in any case. With as many [`Settings::most_groups`] there are no others but
    /// [`super::Group::Other`], which then counts as declared; else `most_groups` must suffice for whatever
    /// subjects bring.
    pub declared: Vec<Arc<[String]>>,
    pub budget: Budget,
}

/// Why settings, or a state under them, cannot be used. Fields and aggregates count from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error(
        "a window needs a size above 0, a slide from 1 up to its size, and both below 270 000 years"
    )]
    Windows,
    #[error("lateness and waits must not be negative, and below 270 000 years")]
    Waits,
    #[error("at least one aggregate is needed")]
    NoAggregates,
    #[error("aggregate {0} is of a field that there is not, or of more than 1000 per mille")]
    Aggregate(usize),
    #[error(
        "field {0} needs at most 18 places, and a least value below its greatest, of at most 18 digits"
    )]
    Field(usize),
    #[error("`least` must be at least 1")]
    Least,
    #[error("a subject must be allowed at least one contribution")]
    Contributions,
    #[error("room for at least one group and one subject is needed")]
    NoRoom,
    #[error("{0} windows can be open at once: allow so many, or choose a longer slide")]
    MostWindows(i64),
    #[error("the period of a budget must be at least a millisecond, and below 270 000 years")]
    Period,
    #[error("the budget does not suffice for one window")]
    Budget,
    #[error("epsilon is too small to be split among the aggregates")]
    Epsilon,
    #[error("delta must be above 0 and below 1")]
    Delta,
    #[error("aggregate {0} needs bounds of its field: they limit what one subject can change")]
    NoBounds(usize),
    #[error(
        "aggregate {0} is an extreme, the value of one subject: use a quantile, such as 10 or 990 per mille"
    )]
    Extreme(usize),
    #[error(
        "with differential privacy, `most_groups` must be the number of declared groups, or at least {0}: what one subject \
         adds must not push out others"
    )]
    MostGroups(u64),
    #[error("so few subjects have no room that can be told with noise: allow at least {0}")]
    MostSubjects(u64),
    #[error("the state is not one of these settings")]
    State,
}

/// Values have at most so many units: 10^18. Sums of 2^63 of them fit into an `i128`.
pub(super) const MOST_UNITS: i128 = 1_000_000_000_000_000_000;

impl Settings {
    pub(super) fn check(&self) -> Result<(), Unfit> {
        let Windows { size, slide, offset } = self.windows;
        let fits = |span: i64| (0..=FARTHEST).contains(&span);
        if !fits(size) || !(1..=size).contains(&slide) || !fits(offset.saturating_abs()) {
            return Err(Unfit::Windows);
        }
        let waits = [Some(self.lateness), self.ahead, self.longest_wait];
        if !waits.into_iter().flatten().all(fits) {
            return Err(Unfit::Waits);
        }
        self.check_open(self.lateness)?;
        if self.least == 0 {
            return Err(Unfit::Least);
        }
        if self.contributions == 0 {
            return Err(Unfit::Contributions);
        }
        if self.most_groups == 0 || self.most_subjects == 0 {
            return Err(Unfit::NoRoom);
        }
        if let Some(field) = self.fields.iter().position(|field| !field.is_proper()) {
            return Err(Unfit::Field(field));
        }
        self.check_aggregates()?;
        self.privacy.as_ref().map_or(Ok(()), |privacy| self.check_privacy(privacy))
    }

    /// Whether so many windows may be open as can be, where the watermark is so far behind the largest event time.
    pub(super) fn check_open(&self, behind: i64) -> Result<(), Unfit> {
        let open = self.windows.most_open(behind);
        if usize::try_from(open).is_ok_and(|open| open <= self.most_windows) {
            return Ok(());
        }
        Err(Unfit::MostWindows(open))
    }

    fn check_aggregates(&self) -> Result<(), Unfit> {
        if self.aggregates.is_empty() {
            return Err(Unfit::NoAggregates);
        }
        let is_proper = |aggregate: &Aggregate| {
            aggregate.field().is_none_or(|field| field < self.fields.len())
                && !matches!(aggregate, Aggregate::Quantile { per_mille: 1001.., .. })
        };
        match self.aggregates.iter().position(|aggregate| !is_proper(aggregate)) {
            Some(aggregate) => Err(Unfit::Aggregate(aggregate)),
            None => Ok(()),
        }
    }

    fn check_privacy(&self, privacy: &Privacy) -> Result<(), Unfit> {
        for (index, aggregate) in self.aggregates.iter().enumerate() {
            if aggregate.is_extreme() {
                return Err(Unfit::Extreme(index));
            }
            let field = aggregate.field().and_then(|field| self.fields.get(field));
            if field.is_some_and(|field| field.bounds.is_none()) {
                return Err(Unfit::NoBounds(index));
            }
        }
        if matches!(privacy.budget.period, Period::Every(length) if !(1..=FARTHEST).contains(&length))
        {
            return Err(Unfit::Period);
        }
        if !privacy.loss.is_within(&privacy.budget.loss) {
            return Err(Unfit::Budget);
        }
        let brought = (self.most_subjects as u64).saturating_mul(u64::from(self.contributions));
        let needed = privacy.distinct().saturating_add(brought);
        if self.selects(privacy) && (self.most_groups as u64) < needed {
            return Err(Unfit::MostGroups(needed));
        }
        Ok(())
    }

    /// Whether groups that are not declared may be published.
    pub(super) fn selects(&self, privacy: &Privacy) -> bool {
        self.most_groups as u64 != privacy.distinct()
    }

    /// Of each field: whether a quantile is asked of it.
    pub(super) fn sketched(&self) -> Vec<bool> {
        let of = |index| move |aggregate: &Aggregate| matches!(aggregate, Aggregate::Quantile { field, .. } if *field == index);
        (0..self.fields.len()).map(|index| self.aggregates.iter().any(of(index))).collect()
    }
}

impl Settings {
    /// A digest of what limits the contents of open windows: under other limits, other records would be in them.
    pub(super) fn layout(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        let Windows { size, slide, offset } = self.windows;
        for span in [size, slide, offset] {
            digest.update(span.to_be_bytes());
        }
        for most in [self.contributions as u64, self.most_groups as u64, self.most_subjects as u64]
        {
            digest.update(most.to_be_bytes());
        }
        digest.update((self.fields.len() as u64).to_be_bytes());
        for (field, sketched) in self.fields.iter().zip(self.sketched()) {
            let (least, greatest) = field.bounds.unwrap_or_default();
            digest.update(field.places.to_be_bytes());
            digest.update([u8::from(field.bounds.is_some()), u8::from(sketched)]);
            digest.update(least.to_be_bytes());
            digest.update(greatest.to_be_bytes());
        }
        // Which groups are declared matters where all others are one.
        let privacy = self.privacy.as_ref().filter(|privacy| !self.selects(privacy));
        let declared = privacy.map(|privacy| privacy.declared.iter().collect::<BTreeSet<_>>());
        for group in declared.into_iter().flatten() {
            digest.update((group.len() as u64).to_be_bytes());
            for value in group.iter() {
                digest.update((value.len() as u64).to_be_bytes());
                digest.update(value);
            }
        }
        digest.finalize().into()
    }
}

impl Privacy {
    fn distinct(&self) -> u64 {
        self.declared.iter().collect::<HashSet<_>>().len() as u64
    }
}

impl Field {
    fn is_proper(&self) -> bool {
        let most = -MOST_UNITS..=MOST_UNITS;
        self.places <= 18
            && self.bounds.is_none_or(|(least, greatest)| {
                least < greatest && most.contains(&least) && most.contains(&greatest)
            })
    }

    /// The value as it counts; none if it is too large.
    pub(super) fn clamp(&self, value: i128) -> Option<i64> {
        let value = self.bounds.map_or(value, |(least, greatest)| value.clamp(least, greatest));
        i64::try_from(value).ok().filter(|value| i128::from(*value).abs() <= MOST_UNITS)
    }
}
