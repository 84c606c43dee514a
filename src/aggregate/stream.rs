//! The stream itself: records go into windows, what the watermark passes leaves.

use std::collections::BTreeMap;

use super::budget::{Loss, PeriodTime};
use super::noise::{Noise, NoiseFailed};
use super::open::{Clamped, Limits, Open, Placed};
use super::private::{Plan, Split};
use super::settings::{Settings, Unfit};
use super::state::{Clock, Summary};
use super::windows::{FARTHEST, Window};
use super::{Counters, Group, Outcome, Record, Refusal, Subject};
use crate::group::Touched;

/// Aggregates of one partition for one view.
pub struct Stream {
    pub(super) settings: Settings,
    pub(super) limits: Limits,
    plan: Option<Plan>,
    noise: Box<dyn Noise + Send>,
    pub(super) summary: Summary,
    /// By the start of the window.
    pub(super) open: BTreeMap<i64, Open>,
    pub(super) touched_groups: Touched<(i64, u32)>,
    pub(super) touched_subjects: Touched<(i64, Subject)>,
}

impl Stream {
    /// Without differential privacy no noise is drawn.
    pub fn new(settings: Settings, noise: Box<dyn Noise + Send>) -> Result<Stream, Unfit> {
        settings.check()?;
        let privacy = settings.privacy.as_ref();
        Ok(Stream {
            limits: Limits::new(&settings),
            plan: privacy.map(|privacy| Plan::new(&settings, privacy)).transpose()?,
            noise,
            summary: Summary { layout: settings.layout(), ..Summary::default() },
            open: BTreeMap::new(),
            touched_groups: Touched::new(),
            touched_subjects: Touched::new(),
            settings,
        })
    }

    /// Takes a record that comes at `now` (processing time, in milliseconds since the epoch). Adds to `outcomes` what
    /// becomes of the windows that its event time closes. A record that is refused changes nothing.
    pub fn add(
        &mut self,
        record: Record,
        now: i64,
        outcomes: &mut Vec<Outcome>,
    ) -> Result<(), Refusal> {
        let time = record.time;
        if !(-FARTHEST..=FARTHEST).contains(&time) {
            return Err(Refusal::Time);
        }
        let record = self.clamp(record)?;
        if self.settings.ahead.is_some_and(|ahead| time.saturating_sub(now) > ahead) {
            self.summary.counters.early += self.settings.windows.starts(time).count() as u64;
            return Ok(());
        }
        self.see(time, now, outcomes);
        for start in self.settings.windows.starts(time) {
            self.place(start, &record);
        }
        Ok(())
    }

    /// Lets event time go on where nothing has come for the longest wait. To be called only when there is nothing more to
    /// read: what waits to be read would come too late.
    pub fn tick(&mut self, now: i64, outcomes: &mut Vec<Outcome>) {
        let Some(mut clock) = self.summary.clock else { return };
        clock.now = clock.now.max(now);
        self.summary.clock = Some(clock);
        let Some(wait) = self.settings.longest_wait else { return };
        let beyond = clock.now.saturating_sub(clock.arrived).saturating_sub(wait);
        if beyond > 0 {
            let time = clock.largest.saturating_add(beyond).min(FARTHEST);
            self.advance(clock.largest, time - self.settings.lateness, outcomes);
        }
    }

    /// The windows that are open, in order.
    pub fn open_windows(&self) -> Vec<Window> {
        self.open.keys().map(|start| self.settings.windows.window(*start)).collect()
    }

    /// Whether a record waits in a window.
    pub fn is_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// When [`Stream::tick`] would close a window, if nothing came.
    pub fn next_due(&self) -> Option<i64> {
        let (clock, wait) = (self.summary.clock?, self.settings.longest_wait?);
        let windows = &self.settings.windows;
        let start = match self.plan {
            None => *self.open.keys().next()?,
            Some(_) => windows.ending(clock.watermark, FARTHEST).next()?,
        };
        let ahead =
            windows.window(start).end.saturating_add(self.settings.lateness) - clock.largest;
        Some(clock.arrived.saturating_add(wait).saturating_add(ahead.max(0)))
    }

    /// Counted since the stream began, over restarts.
    pub fn counters(&self) -> Counters {
        self.summary.counters
    }

    /// What of the state is not of one window: the clock, what is spent, the counters.
    pub fn summary(&self) -> Summary {
        self.summary
    }

    /// How the epsilon of a window is split, with differential privacy.
    pub fn split(&self) -> Option<Split> {
        self.plan.as_ref().map(|plan| plan.split)
    }

    fn clamp(&self, record: Record) -> Result<Clamped, Refusal> {
        let Record { subject, group, values, .. } = record;
        if values.len() != self.settings.fields.len() {
            return Err(Refusal::Count);
        }
        let clamp = |(index, (value, field)): (usize, (Option<i128>, &super::Field))| {
            value.map(|value| field.clamp(value).ok_or(Refusal::Digits(index))).transpose()
        };
        let values = values.into_iter().zip(&self.settings.fields).enumerate().map(clamp);
        Ok(Clamped { subject, group: Group::Of(group), values: values.collect::<Result<_, _>>()? })
    }

    /// Notes when a record is and came, and closes the windows that it passes.
    fn see(&mut self, time: i64, now: i64, outcomes: &mut Vec<Outcome>) {
        let clock = self.summary.clock.get_or_insert(Clock {
            largest: time,
            watermark: time - self.settings.lateness,
            arrived: now,
            now,
        });
        let reached = clock.largest;
        clock.largest = reached.max(time);
        clock.now = clock.now.max(now);
        clock.arrived = clock.now;
        let watermark = clock.largest - self.settings.lateness;
        self.advance(reached, watermark, outcomes);
    }

    fn place(&mut self, start: i64, record: &Clamped) {
        let end = self.settings.windows.window(start).end;
        let counters = &mut self.summary.counters;
        if self.summary.clock.is_some_and(|clock| end <= clock.watermark) {
            counters.late += 1;
            return;
        }
        match self.open.entry(start).or_default().add(record, &self.limits) {
            Placed::In { number, other } => {
                counters.counted += 1;
                counters.other += u64::from(other);
                self.touched_groups.note((start, number));
                self.touched_subjects.note((start, record.subject));
            }
            Placed::OverContribution => counters.over_contribution += 1,
            Placed::NoRoom => counters.no_room += 1,
        }
    }

    /// Closes the windows that end up to a watermark, where records so far reached up to an event time.
    fn advance(&mut self, reached: i64, watermark: i64, outcomes: &mut Vec<Outcome>) {
        let Some(clock) = &mut self.summary.clock else { return };
        let before = clock.watermark;
        if watermark <= before {
            return;
        }
        clock.watermark = watermark;
        for start in self.due(before, reached, watermark) {
            let open = self.open.remove(&start).unwrap_or_default();
            self.note_closed(start, &open);
            outcomes.push(self.close(self.settings.windows.window(start), &open));
        }
    }

    /// With differential privacy also those without a record: that there is none is not to be told. Of too many, those
    /// that a record so far may be in, whether or not one is.
    fn due(&self, before: i64, reached: i64, watermark: i64) -> Vec<i64> {
        let windows = &self.settings.windows;
        if self.plan.is_none() {
            return self.open.range(..=watermark - windows.size).map(|(start, _)| *start).collect();
        }
        let most = self.settings.most_windows;
        let all: Vec<i64> =
            windows.ending(before, watermark).take(most.saturating_add(1)).collect();
        if all.len() <= most {
            return all;
        }
        windows.ending(before, watermark.min(reached + windows.size)).collect()
    }

    fn note_closed(&mut self, start: i64, open: &Open) {
        if !self.touched_groups.is_noted() {
            return;
        }
        for (number, _) in (0..).zip(&open.groups) {
            self.touched_groups.note((start, number));
        }
        for subject in open.subjects.keys() {
            self.touched_subjects.note((start, *subject));
        }
    }

    fn close(&mut self, window: Window, open: &Open) -> Outcome {
        let counters = &mut self.summary.counters;
        let Some(plan) = &self.plan else {
            let rows = open.rows(&self.settings, counters);
            return Outcome::Published { window, rows, loss: None };
        };
        let outcome = match Self::spend(&mut self.summary, &self.settings, window) {
            Err(until) => Outcome::Exhausted { window, until },
            Ok(loss) => {
                let counters = &mut self.summary.counters;
                match plan.rows(&self.settings, open, self.noise.as_mut(), counters) {
                    Ok(Some(rows)) => Outcome::Published { window, rows, loss: Some(loss) },
                    Ok(None) => Outcome::Crowded { window },
                    Err(NoiseFailed) => Outcome::NoNoise { window },
                }
            }
        };
        let is_withheld = !matches!(outcome, Outcome::Published { .. });
        self.summary.counters.withheld += u64::from(is_withheld);
        outcome
    }

    /// Takes from the budget what a window costs, or says when there will be enough.
    fn spend(summary: &mut Summary, settings: &Settings, window: Window) -> Result<Loss, i64> {
        let Some(privacy) = &settings.privacy else { return Ok(Loss::default()) };
        let time = match privacy.budget.time {
            PeriodTime::Event => window.start,
            PeriodTime::Processing => summary.clock.map_or(window.end, |clock| clock.now),
        };
        summary.spent = Some(privacy.budget.spend(summary.spent, time, privacy.loss)?);
        Ok(privacy.loss)
    }
}
