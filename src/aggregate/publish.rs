//! The rows of a window without noise.

use super::figure::{Aggregate, Figure, MEAN_PLACES, mean_units};
use super::open::{Held, Open};
use super::settings::Settings;
use super::{Counters, Row};
use crate::operator::decimal_text;

impl Open {
    /// Of the groups that have enough subjects.
    pub(super) fn rows(&self, settings: &Settings, counters: &mut Counters) -> Vec<Row> {
        let mut published: Vec<&Held> =
            self.groups.iter().filter(|held| held.subjects >= settings.least).collect();
        counters.suppressed += (self.groups.len() - published.len()) as u64;
        if self.is_told_by_difference(settings, published.len()) {
            published.sort_unstable_by_key(|held| (held.subjects, &held.group));
            counters.complementary += u64::from(!published.is_empty());
            published = published.split_off(published.len().min(1));
        }
        published.sort_unstable_by_key(|held| &held.group);
        published.into_iter().map(|held| row(held, settings)).collect()
    }

    /// Whether the suppressed groups are so few subjects that the rest of a total would be about them.
    fn is_told_by_difference(&self, settings: &Settings, published: usize) -> bool {
        let is_suppressed = |number: u32| {
            self.groups.get(number as usize).is_some_and(|held| held.subjects < settings.least)
        };
        published < self.groups.len() && self.subjects_in(is_suppressed) < settings.least
    }
}

fn row(held: &Held, settings: &Settings) -> Row {
    let figure = |aggregate| Figure { value: value(aggregate, held, settings), noise: None };
    Row { group: held.group.clone(), figures: settings.aggregates.iter().map(figure).collect() }
}

fn value(aggregate: &Aggregate, held: &Held, settings: &Settings) -> Option<String> {
    let Some(index) = aggregate.field() else {
        let count = if *aggregate == Aggregate::Count { held.records } else { held.subjects };
        return Some(count.to_string());
    };
    let places = settings.fields.get(index)?.places;
    let tally = held.tallies.get(index)?;
    let (least, greatest) = tally.range?;
    let text = |units: i64| decimal_text(i128::from(units), places);
    Some(match aggregate {
        Aggregate::Mean(_) => {
            decimal_text(mean_units(tally.sum, i128::from(tally.count)), places + MEAN_PLACES)
        }
        Aggregate::Min(_) => text(least),
        Aggregate::Max(_) => text(greatest),
        Aggregate::Quantile { per_mille, .. } => {
            let rank = u128::from(*per_mille) * u128::from(tally.count - 1) / 1000;
            let found = tally.sketch.at(u64::try_from(rank).ok()?)?;
            text(found.clamp(least, greatest))
        }
        _ => decimal_text(tally.sum, places),
    })
}
