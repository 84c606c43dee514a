//! What a stream holds, as plain data: put back into a stream of the same settings, it goes on as if nothing had
//! happened. Every part carries its key, so a changelog may keep them one by one.

use serde::{Deserialize, Serialize};

use super::budget::Spent;
use super::noise::Noise;
use super::settings::{Settings, Unfit};
use super::stream::Stream;
use super::tally::Tally;
use super::windows::FARTHEST;
use super::{Counters, Group, Subject};

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    pub summary: Summary,
    pub groups: Vec<KnownGroup>,
    pub subjects: Vec<KnownSubject>,
}

/// What is not of one window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Of the settings: a digest of what limits the contents of open windows.
    pub layout: [u8; 32],
    /// None before the first record.
    pub clock: Option<Clock>,
    pub spent: Option<Spent>,
    pub counters: Counters,
}

/// In milliseconds since the epoch; none of them goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock {
    /// The largest event time seen.
    pub largest: i64,
    /// Windows that end up to it are published.
    pub watermark: i64,
    /// Processing time: when the last record came.
    pub arrived: i64,
    /// Processing time: the latest that was told.
    pub now: i64,
}

/// A group of an open window. Its key is the start of the window and its number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KnownGroup {
    pub window: i64,
    /// From 0, without gaps.
    pub number: u32,
    pub group: Group,
    pub subjects: u64,
    pub records: u64,
    /// One for each field.
    pub tallies: Vec<Tally>,
}

/// What a subject contributed to an open window. Its key is the start of the window and the subject.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KnownSubject {
    pub window: i64,
    pub subject: Subject,
    pub records: u32,
    /// Numbers of the groups that it is in, at least one.
    pub groups: Vec<u32>,
}

impl Stream {
    /// In the order of keys.
    pub fn state(&self) -> State {
        let mut groups = Vec::new();
        let mut subjects = Vec::new();
        for (start, open) in &self.open {
            let numbers = (0..).zip(&open.groups).map(|(number, _)| number);
            groups.extend(numbers.filter_map(|number| open.known_group(*start, number)));
            let mut keys: Vec<&Subject> = open.subjects.keys().collect();
            keys.sort_unstable();
            subjects.extend(keys.into_iter().filter_map(|key| open.known_subject(*start, key)));
        }
        State { summary: self.summary, groups, subjects }
    }

    /// A stream that goes on from a state. The order within its lists does not matter. Other settings than it is of can take
    /// over open windows only where what limits their contents is the same, as noise is for what one subject may have
    /// contributed: windows, fields, contributions, how many groups and subjects, of which fields quantiles are asked,
    /// and, where there are no others, which groups are declared. Else the summary alone, with what is spent, can go on.
    pub fn restore(
        settings: Settings,
        mut state: State,
        noise: Box<dyn Noise + Send>,
    ) -> Result<Stream, Unfit> {
        let mut stream = Stream::new(settings, noise)?;
        if let Some(Clock { largest, watermark, .. }) = state.summary.clock {
            let fits = (-FARTHEST..=FARTHEST).contains(&largest)
                && (-2 * FARTHEST..=FARTHEST).contains(&watermark);
            if !fits {
                return Err(Unfit::State);
            }
            // Else a gap would close more windows than may be open.
            stream.settings.check_open((largest - watermark).max(0))?;
        }
        let layout = stream.summary.layout;
        if state.summary.layout != layout && !state.groups.is_empty() {
            return Err(Unfit::State);
        }
        stream.summary = Summary { layout, ..state.summary };
        state.groups.sort_unstable_by_key(|group| (group.window, group.number));
        for group in state.groups {
            if !stream.may_be_open(group.window) {
                return Err(Unfit::State);
            }
            let open = stream.open.entry(group.window).or_default();
            open.restore_group(group, &stream.settings.fields).ok_or(Unfit::State)?;
        }
        for subject in state.subjects {
            let open = stream.open.get_mut(&subject.window).ok_or(Unfit::State)?;
            open.restore_subject(subject).ok_or(Unfit::State)?;
        }
        let fields = &stream.settings.fields;
        if !stream.open.values().all(|open| open.adds_up(&stream.limits, fields)) {
            return Err(Unfit::State);
        }
        Ok(stream)
    }

    fn may_be_open(&self, start: i64) -> bool {
        let windows = &self.settings.windows;
        let is_reached = |clock: Clock| {
            start <= clock.largest && clock.watermark < start.saturating_add(windows.size)
        };
        self.summary.clock.is_some_and(is_reached) && windows.is_aligned(start)
    }
}
