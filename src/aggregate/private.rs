//! The rows of a window with differential privacy.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use dashu::integer::{IBig, UBig};
use dashu::rational::RBig;

use super::figure::{Aggregate, Figure, MEAN_PLACES, MEAN_UNITS, NoiseUsed, mean_units};
use super::noise::{Noise, NoiseFailed, choose};
use super::open::{Held, Open};
use super::settings::{Field, Privacy, Settings, Unfit};
use super::sketch::{bucket, middle};
use super::tally::Tally;
use super::{Counters, Group, Row};
use crate::operator::decimal_text;

/// How the epsilon of a window is split, in billionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Split {
    /// For whether there was room for all subjects.
    pub room: u64,
    /// For which groups are published, if not only declared ones are.
    pub selection: Option<u64>,
    /// For each aggregate.
    pub each: u64,
}

/// What is drawn for each window, and how.
pub(super) struct Plan {
    pub(super) split: Split,
    room: Threshold,
    selection: Option<Threshold>,
    declared: Vec<Group>,
    /// One for each aggregate.
    mechanisms: Vec<(Mechanism, NoiseUsed)>,
}

/// Passed by a number that is above the margin, noise included.
struct Threshold {
    scale: RBig,
    margin: i128,
}

/// Scales are in units of the field, those of a mean's sum in half units.
enum Mechanism {
    Count(RBig),
    Subjects(RBig),
    Sum { field: usize, scale: RBig },
    Mean { field: usize, bounds: (i128, i128), count: RBig, sum: RBig },
    Quantile { field: usize, bounds: (i128, i128), per_mille: u16, rate: RBig },
}

/// The room takes this part of epsilon.
const ROOM: u64 = 16;
/// Shares of epsilon are in parts of this.
const BILLION: u64 = 1_000_000_000;
const EPSILON_PLACES: u32 = 9;
/// A scale is reported with so many decimal places more than its figure.
const SCALE_PLACES: u32 = 3;
const SCALE_UNITS: u32 = 1000;

impl Plan {
    pub(super) fn new(settings: &Settings, privacy: &Privacy) -> Result<Plan, Unfit> {
        let selects = settings.selects(privacy);
        let split = split(privacy.loss.epsilon, settings.aggregates.len(), selects)?;
        let delta = privacy.loss.delta as f64 / 1e18;
        if privacy.loss.delta == 0 || delta >= 1.0 {
            return Err(Unfit::Delta);
        }
        let delta = if selects { delta / 2.0 } else { delta };
        let contributions = settings.contributions;
        let room = Threshold::new(1, split.room, 0, delta);
        let least = room.margin.saturating_mul(2);
        if (settings.most_subjects as i128) < least {
            return Err(Unfit::MostSubjects(u64::try_from(least).unwrap_or(u64::MAX)));
        }
        let of_group = delta / f64::from(contributions);
        let mechanism = |aggregate| Mechanism::new(aggregate, settings, split.each);
        let mut declared: Vec<Group> = privacy.declared.iter().cloned().map(Group::Of).collect();
        declared.extend((!selects).then_some(Group::Other));
        Ok(Plan {
            split,
            room,
            selection: split
                .selection
                .map(|share| Threshold::new(contributions, share, settings.least, of_group)),
            declared,
            mechanisms: settings.aggregates.iter().filter_map(mechanism).collect(),
        })
    }

    /// None where there may not have been room for all.
    pub(super) fn rows(
        &self,
        settings: &Settings,
        open: &Open,
        noise: &mut dyn Noise,
        counters: &mut Counters,
    ) -> Result<Option<Vec<Row>>, NoiseFailed> {
        let left = settings.most_subjects.saturating_sub(open.subjects.len());
        if !self.room.passes(left as u64, noise)? {
            return Ok(None);
        }
        let nobody = Held::nobody(Group::Other, settings.fields.len());
        let mut groups: BTreeMap<&Group, (&Held, bool)> =
            open.groups.iter().map(|held| (&held.group, (held, false))).collect();
        for group in &self.declared {
            groups.entry(group).or_insert((&nobody, true)).1 = true;
        }
        let mut rows = Vec::new();
        for (group, (held, is_declared)) in groups {
            if is_declared || self.selects(held, noise)? {
                rows.push(Row {
                    group: group.clone(),
                    figures: self.figures(settings, held, noise)?,
                });
            } else {
                counters.suppressed += 1;
            }
        }
        Ok(Some(rows))
    }

    fn selects(&self, held: &Held, noise: &mut dyn Noise) -> Result<bool, NoiseFailed> {
        self.selection
            .as_ref()
            .map_or(Ok(false), |selection| selection.passes(held.subjects, noise))
    }

    fn figures(
        &self,
        settings: &Settings,
        held: &Held,
        noise: &mut dyn Noise,
    ) -> Result<Vec<Figure>, NoiseFailed> {
        let figure = |(mechanism, used): &(Mechanism, NoiseUsed)| {
            let value = Some(mechanism.value(settings, held, noise)?);
            Ok(Figure { value, noise: Some(used.clone()) })
        };
        self.mechanisms.iter().map(figure).collect()
    }
}

fn split(epsilon: u64, aggregates: usize, selects: bool) -> Result<Split, Unfit> {
    let room = epsilon / ROOM;
    let each = (epsilon - room) / (aggregates as u64 + u64::from(selects));
    // Half a share must be left for the count of a mean.
    if room == 0 || each < 2 {
        return Err(Unfit::Epsilon);
    }
    Ok(Split { room, selection: selects.then_some(each), each })
}

impl Threshold {
    /// What one subject can change by 1 in so many groups passes with a probability of at most delta, where there is
    /// nobody else. A group of `least` needs to be above it by chance, too.
    fn new(sensitivity: u32, share: u64, least: u64, delta: f64) -> Threshold {
        let scale = scale(i128::from(sensitivity), share);
        // Of discrete Laplace noise: P(X > k) <= exp(-k / scale) / 2.
        let margin = f64::from(sensitivity) * 1e9 / share as f64 * (0.5 / delta).ln();
        let margin = (margin.max(0.0) * (1.0 + 1e-9)).ceil() as i128;
        Threshold { scale, margin: margin.saturating_add(i128::from(least)) }
    }

    fn passes(&self, number: u64, noise: &mut dyn Noise) -> Result<bool, NoiseFailed> {
        Ok(noisy(i128::from(number), &self.scale, noise)? > self.margin)
    }
}

impl Mechanism {
    /// With what is reported of it; `share` is its part of epsilon in billionths.
    fn new(
        aggregate: &Aggregate,
        settings: &Settings,
        share: u64,
    ) -> Option<(Mechanism, NoiseUsed)> {
        let contributions = i128::from(settings.contributions);
        let field = aggregate.field().and_then(|field| settings.fields.get(field));
        let places = field.map_or(0, |field| field.places);
        let bounds = field.and_then(|field| field.bounds);
        let (mechanism, reported) = match *aggregate {
            Aggregate::Count | Aggregate::Subjects => {
                let scale = scale(contributions, share);
                let text = scale_text(&scale, places);
                let is_count = *aggregate == Aggregate::Count;
                let mechanism =
                    if is_count { Mechanism::Count(scale) } else { Mechanism::Subjects(scale) };
                (mechanism, Some(text))
            }
            Aggregate::Sum(field) => {
                let (least, greatest) = bounds?;
                let scale = scale(contributions * least.abs().max(greatest.abs()), share);
                let text = scale_text(&scale, places);
                (Mechanism::Sum { field, scale }, Some(text))
            }
            Aggregate::Mean(field) => {
                let bounds @ (least, greatest) = bounds?;
                let count = scale(contributions, share / 2);
                let sum = scale(contributions * (greatest - least), share / 2);
                let text = scale_text(&(&sum / RBig::from(2)), places);
                (Mechanism::Mean { field, bounds, count, sum }, Some(text))
            }
            Aggregate::Quantile { field, per_mille } => {
                // Distances in rank are in thousandths, and each counts twice: the nearest one changes too.
                let rate = RBig::from_parts(
                    IBig::from(share),
                    UBig::from(BILLION) * UBig::from(2000 * u64::from(settings.contributions)),
                );
                (Mechanism::Quantile { field, bounds: bounds?, per_mille, rate }, None)
            }
            Aggregate::Min(_) | Aggregate::Max(_) => return None,
        };
        let epsilon = decimal_text(i128::from(share), EPSILON_PLACES);
        Some((mechanism, NoiseUsed { epsilon, scale: reported }))
    }

    fn value(
        &self,
        settings: &Settings,
        held: &Held,
        noise: &mut dyn Noise,
    ) -> Result<String, NoiseFailed> {
        let of = |index: usize| {
            settings.fields.get(index).zip(held.tallies.get(index)).ok_or(NoiseFailed)
        };
        match self {
            Mechanism::Count(scale) => {
                Ok(noisy(i128::from(held.records), scale, noise)?.to_string())
            }
            Mechanism::Subjects(scale) => {
                Ok(noisy(i128::from(held.subjects), scale, noise)?.to_string())
            }
            Mechanism::Sum { field, scale } => {
                let (field, tally) = of(*field)?;
                Ok(decimal_text(noisy(tally.sum, scale, noise)?, field.places))
            }
            Mechanism::Mean { field, bounds, count, sum } => {
                let (field, tally) = of(*field)?;
                let count = noisy(i128::from(tally.count), count, noise)?;
                let sum = noisy(distances(tally, *bounds), sum, noise)?;
                Ok(decimal_text(mean(count, sum, *bounds), field.places + MEAN_PLACES))
            }
            Mechanism::Quantile { field, bounds, per_mille, rate } => {
                let (field, tally) = of(*field)?;
                quantile(tally, field, *bounds, *per_mille, rate, noise)
            }
        }
    }
}

/// The scale of Laplace noise for what one subject can change.
fn scale(sensitivity: i128, share: u64) -> RBig {
    RBig::from_parts(IBig::from(sensitivity) * IBig::from(BILLION), UBig::from(share))
}

fn scale_text(scale: &RBig, places: u32) -> String {
    let units = (scale * RBig::from(UBig::from(SCALE_UNITS))).ceil();
    decimal_text(i128::try_from(units).unwrap_or(i128::MAX), places + SCALE_PLACES)
}

/// The noisy number, or the end of the range that it is beyond: what becomes of it depends on nothing else, as it would
/// if noise that is too large were an error.
fn noisy(number: i128, scale: &RBig, noise: &mut dyn Noise) -> Result<i128, NoiseFailed> {
    let noisy = noise.laplace(scale)? + IBig::from(number);
    let end = if noisy > IBig::ZERO { i128::MAX } else { i128::MIN };
    Ok(i128::try_from(noisy).unwrap_or(end))
}

/// The sum of the distances from the middle of the bounds, doubled, so that it is an integer.
fn distances(tally: &Tally, (least, greatest): (i128, i128)) -> i128 {
    2 * tally.sum - i128::from(tally.count) * (least + greatest)
}

/// In units of a mean, within the bounds; the middle of them where nobody seems to be there.
fn mean(count: i128, distances: i128, (least, greatest): (i128, i128)) -> i128 {
    let count = count.clamp(1, 1 << 63);
    let most = count * (greatest - least);
    let doubled = (least + greatest) * MEAN_UNITS + mean_units(distances.clamp(-most, most), count);
    (doubled / 2).clamp(least * MEAN_UNITS, greatest * MEAN_UNITS)
}

/// A bucket within the bounds, by the distance of its ranks from the one that is asked for.
fn quantile(
    tally: &Tally,
    field: &Field,
    (least, greatest): (i128, i128),
    per_mille: u16,
    rate: &RBig,
    noise: &mut dyn Noise,
) -> Result<String, NoiseFailed> {
    let [first, last] = [least, greatest].map(|end| field.clamp(end).map(bucket));
    let (first, last) = first.zip(last).ok_or(NoiseFailed)?;
    let distances = rank_distances(tally, first..=last, per_mille);
    let chosen = choose(&distances, rate, noise)?.ok_or(NoiseFailed)?;
    let chosen = (first..=last).nth(chosen).ok_or(NoiseFailed)?;
    Ok(decimal_text(i128::from(middle(chosen)).clamp(least, greatest), field.places))
}

/// How many thousandths of a rank each bucket is from a quantile. A value more changes each by at most 1000.
fn rank_distances(tally: &Tally, buckets: RangeInclusive<i16>, per_mille: u16) -> Vec<u128> {
    let rank = u128::from(per_mille) * u128::from(tally.count);
    let mut known = tally.sketch.buckets().iter().peekable();
    let mut below = 0_u128;
    let distance = |bucket: i16| {
        let count = known.next_if(|(known, _)| *known == bucket).map_or(0, |(_, count)| *count);
        let before = below;
        below += 1000 * u128::from(count);
        before.saturating_sub(rank).max(rank.saturating_sub(below))
    };
    buckets.map(distance).collect()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Of discrete Laplace noise: P(X > k) = r^(k + 1) / (1 + r), where r = exp(-1 / scale).
    fn ln_tail(scale: f64, above: f64) -> f64 {
        -(above + 1.0) / scale - (-1.0 / scale).exp().ln_1p()
    }

    #[test]
    fn threshold_is_passed_by_nobody_with_at_most_delta_and_is_not_far_above() {
        for sensitivity in [1, 3, 1000, u32::MAX] {
            for share in [1, 1_000, 100_000_000, 1_000_000_000, 50_000_000_000_u64] {
                for delta in [1e-18, 1e-9, 0.01, 0.49, 0.5, 0.999] {
                    let scale = f64::from(sensitivity) * 1e9 / share as f64;
                    let margin = Threshold::new(sensitivity, share, 0, delta).margin as f64;
                    assert!(ln_tail(scale, margin) <= f64::ln(delta), "{scale} {delta}");
                    let less = ln_tail(scale, margin * (1.0 - 1e-8) - 2.0);
                    assert!(margin == 0.0 || less > f64::ln(delta), "{scale} {delta}");
                    // A subject alone is one above nobody, as `least` is.
                    let least = Threshold::new(sensitivity, share, 1, delta).margin as f64;
                    assert!(least - margin == 1.0 || margin > 1e15);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn one_value_changes_no_distance_in_rank_by_more_than_1000(
            values in vec(-300_i64..300, 0..30), more in -300_i64..300, per_mille in 0_u16..=1000,
        ) {
            let distances = |values: &[i64]| {
                let mut tally = Tally::default();
                values.iter().for_each(|value| tally.add(*value, true));
                rank_distances(&tally, bucket(-300)..=bucket(300), per_mille)
            };
            let (without, with) = (distances(&values), distances(&[&values[..], &[more]].concat()));
            prop_assert!(without.iter().zip(&with).all(|(one, other)| one.abs_diff(*other) <= 1000));
        }

        #[test]
        fn one_value_changes_the_sum_of_distances_by_no_more_than_the_width(
            (least, greatest) in (-1000_i128..1000, 1_i128..1000).prop_map(|(least, width)| (least, least + width)),
            values in vec(-2000_i128..2000, 0..20), more in -2000_i128..2000,
        ) {
            let field = Field { places: 0, bounds: Some((least, greatest)) };
            let mut tally = Tally::default();
            values.iter().for_each(|value| tally.add(field.clamp(*value).unwrap(), false));
            let without = distances(&tally, (least, greatest));
            tally.add(field.clamp(more).unwrap(), false);
            prop_assert!(distances(&tally, (least, greatest)).abs_diff(without) <= (greatest - least) as u128);
        }
    }
}
