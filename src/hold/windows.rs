//! Figures of one view over windows that are open.

use std::sync::Arc;

use super::entry::{Entry, Kind, seal};
use super::{Fate, WindowFate};
use crate::aggregate::{
    Counters, Outcome, Record, State, Stream, Summary, SystemNoise, Unfit, Window,
};
use crate::crypto::ciphertext::SealKey;
use crate::policy::{Aggregate, HoldPlan};
use crate::rewrite;

pub(super) struct Windows {
    rule: Arc<Aggregate>,
    stream: Stream,
    outcomes: Vec<Outcome>,
    /// Windows that were open when other rules came.
    dropped: Vec<Window>,
    /// Records that the method would not take.
    refused: u64,
    /// What has been told of the counters.
    told: Counters,
}

impl Windows {
    pub(super) fn new(rule: &Arc<Aggregate>) -> Result<Windows, Unfit> {
        Windows::restore(rule, State::default())
    }

    pub(super) fn restore(rule: &Arc<Aggregate>, state: State) -> Result<Windows, Unfit> {
        let (settings, noise) = (rule.settings.clone(), Box::new(SystemNoise));
        let mut stream = match state == State::default() {
            true => Stream::new(settings, noise)?,
            false => Stream::restore(settings, state, noise)?,
        };
        stream.note_changes();
        let told = stream.counters();
        let (outcomes, dropped) = (Vec::new(), Vec::new());
        Ok(Windows { rule: Arc::clone(rule), stream, outcomes, dropped, refused: 0, told })
    }

    /// What goes on from other rules: how far time is, and what is spent.
    pub(super) fn inherit(rule: &Arc<Aggregate>, mut summary: Summary) -> Result<Windows, Unfit> {
        if let Some(clock) = &mut summary.clock {
            // No window is open any more: none has to be kept open by a longer lateness of before.
            clock.watermark = clock.watermark.max(clock.largest - rule.settings.lateness);
        }
        Windows::restore(rule, State { summary, ..State::default() })
    }

    pub(super) fn summary(&self) -> Summary {
        self.stream.summary()
    }

    pub(super) fn arrive(&mut self, record: Record, now_ms: i64) {
        // The rewrite takes no number or time that is refused here.
        let refused = self.stream.add(record, now_ms, &mut self.outcomes).is_err();
        self.refused += u64::from(refused);
    }

    pub(super) fn tick(&mut self, now_ms: i64) {
        self.stream.tick(now_ms, &mut self.outcomes);
    }

    /// Has event time go on until no window is open.
    pub(super) fn finish(&mut self) {
        while let Some(due) = self.stream.next_due().filter(|_| self.stream.is_open()) {
            self.stream.tick(due, &mut self.outcomes);
        }
    }

    /// What is open will not be published.
    pub(super) fn drop_open(&mut self) {
        // With privacy it is not told which windows had a record.
        if self.rule.settings.privacy.is_none() {
            self.dropped = self.stream.open_windows();
        }
    }

    pub(super) fn due(&self, quiet: i64) -> Option<i64> {
        let wait = self.rule.settings.longest_wait?;
        Some(self.stream.next_due()?.max(quiet.saturating_add(wait)))
    }

    pub(super) fn open(&self) -> usize {
        self.stream.open_windows().len()
    }

    /// What was counted since the last call.
    pub(super) fn counted(&mut self) -> Counters {
        let now = self.stream.counters();
        let before = std::mem::replace(&mut self.told, now);
        now.since(&before)
    }

    /// The share of the budget that is left in the period that was spent from last; none without a budget.
    pub(super) fn budget_left(&self) -> Option<f64> {
        let budget = self.rule.settings.privacy.as_ref()?.budget.loss;
        let spent = self.summary().spent.map(|spent| spent.loss).unwrap_or_default();
        let left = |spent: u64, all: u64| match all {
            0 => 1.0,
            all => 1.0 - spent as f64 / all as f64,
        };
        Some(left(spent.epsilon, budget.epsilon).min(left(spent.delta, budget.delta)))
    }

    pub(super) fn settle<E>(
        &mut self,
        plan: &HoldPlan,
        buffer: &mut Vec<u8>,
        mut each: impl FnMut(Fate<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        for _ in 0..std::mem::take(&mut self.refused) {
            each(Fate::Suppressed)?;
        }
        let dropped = std::mem::take(&mut self.dropped).into_iter();
        let dropped = dropped.map(|window| (window, WindowFate::Dropped, None));
        let mut withheld: Vec<_> = dropped.collect();
        for outcome in std::mem::take(&mut self.outcomes) {
            match outcome {
                Outcome::Published { window, rows, .. } => {
                    for row in &rows {
                        each(Fate::Figures(rewrite::figures(
                            plan, &self.rule, window, row, buffer,
                        )))?;
                    }
                    each(Fate::Window(WindowFate::Published, None))?;
                }
                Outcome::Exhausted { window, until } => {
                    withheld.push((window, WindowFate::Exhausted, Some(until)));
                }
                Outcome::Crowded { window } => withheld.push((window, WindowFate::Crowded, None)),
                Outcome::NoNoise { window } => withheld.push((window, WindowFate::NoNoise, None)),
            }
        }
        for (window, fate, until) in withheld {
            let record = rewrite::withheld(plan, window, fate.code(), until, buffer);
            each(Fate::Window(fate, Some(record)))?;
        }
        Ok(())
    }

    pub(super) fn entries(&mut self, place: &str, key: &Arc<SealKey>) -> Vec<Entry> {
        let changes = self.stream.take_changes();
        let mut entries = Vec::new();
        for ((start, number), group) in changes.groups {
            entries.push(Entry::new(place, Kind::WindowGroup(start, number), |place| {
                group.map(|group| seal(key, place, &group))
            }));
        }
        for ((start, subject), known) in changes.subjects {
            entries.push(Entry::new(place, Kind::WindowSubject(start, subject), |place| {
                known.map(|known| seal(key, place, &known))
            }));
        }
        entries.push(Entry::new(place, Kind::Windows, |place| {
            Some(seal(key, place, &changes.summary))
        }));
        entries
    }

    /// What the changelog may have; without what is spent, where that is not inherited.
    pub(super) fn kinds(&mut self, is_inherited: bool) -> Vec<Kind> {
        let (state, changes) = (self.stream.state(), self.stream.take_changes());
        let groups = state.groups.iter().map(|group| (group.window, group.number));
        let groups = groups.chain(changes.groups.iter().map(|(key, _)| *key));
        let groups = groups.map(|(window, number)| Kind::WindowGroup(window, number));
        let subjects = state.subjects.iter().map(|known| (known.window, known.subject));
        let subjects = subjects.chain(changes.subjects.iter().map(|(key, _)| *key));
        let subjects = subjects.map(|(window, subject)| Kind::WindowSubject(window, subject));
        let spent = self.summary().spent.is_some();
        let summary = (is_inherited || !spent).then_some(Kind::Windows);
        groups.chain(subjects).chain(summary).collect()
    }
}
