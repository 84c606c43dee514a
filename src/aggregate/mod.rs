//! Aggregates over windows and groups of a stream, in place of its records: counts, sums, means, extremes, quantiles,
//! distinct subjects. Pure: no clock, no I/O; chance comes through [`Noise`]. Event time and "now" are what the caller
//! says, in milliseconds since the epoch.
//!
//! # Windows
//!
//! Tumbling and sliding windows in event time, aligned to the epoch plus an offset. The watermark of the partition is
//! the largest event time seen minus the lateness; a window is published once, when the watermark reaches its end
//! (Akidau et al., The Dataflow Model, VLDB 2015, with one firing). Thus records that are out of order by no more than
//! the lateness are all counted. Where nothing comes for longer than `longest_wait`, [`Stream::tick`] lets event time
//! go on at the pace of processing time, so that an idle partition publishes too.
//!
//! Each record is counted in each of its windows, or in one of the [`Counters`] for it.
//!
//! # Privacy without noise
//!
//! - A group with fewer than `least` different subjects is not published. Where those suppressed in a window are
//!   together fewer subjects than that, the smallest other group is suppressed with them: otherwise a total known from
//!   elsewhere, minus what was published, would be theirs (complementary suppression: Cox, JASA 75, 1980). No total is
//!   published, and suppressed records are in no other group.
//! - `least` is no protection against differences between what overlaps: between sliding windows, between two views
//!   of a source with other groups or windows, between a window and what somebody knows of all but one in a group;
//!   and an extreme is the value of one subject. Against these only noise helps. Nor does `least` ask how many subjects
//!   have a value in a field: a sum over a group of many is about one of them if only that one has a value.
//! - A subject counts with at most `contributions` records in a window, in the order in which they come, over all
//!   groups. Values are clamped to the bounds of their field.
//!
//! # Differential privacy
//!
//! With [`Privacy`] the rows of one window are (epsilon, delta)-differentially private with regard to everything that
//! one subject contributes to that window: two streams that differ in the records of one subject in that window, by
//! adding or removing them, give any rows with probabilities that differ by a factor of at most e^epsilon, but for
//! delta (Dwork, McSherry, Nissim, Smith 2006). This takes event time as given: that a record moves the watermark, and
//! so makes others late, is not accounted for. All noise is exact: no floating-point number is between a value and its
//! row. What a window spends:
//!
//! - Counts and distinct subjects: discrete Laplace noise with a sensitivity of `contributions`, since so many groups
//!   can change by one each. Sums: times the bound that is farther from 0.
//! - A mean: half of its share for the count, half for the sum of distances from the middle of the bounds
//!   (Li, Lyu, Su, Yang, Differential Privacy, 2016, section 2.3), clamped to the bounds.
//! - A quantile: permute-and-flip (McKenna, Sheldon, NeurIPS 2020), which is never worse than the exponential
//!   mechanism (McSherry, Talwar 2007), over all buckets of the sketch within the bounds, by their distance in rank
//!   (Smith, STOC 2011).
//! - Extremes are refused, those by rank, too: their sensitivity is the whole range, or they are anything beyond all
//!   values. Use a quantile such as 10 or 990 per mille.
//! - Declared groups are always published, whoever is in them. Others only where the noisy number of their subjects is
//!   above a threshold (Korolova et al., WWW 2009; Wilson et al., PETS 2020), which one subject's group passes with a
//!   probability of at most half of delta / `contributions`, since a subject has so many. `least` raises the threshold.
//! - Memory is bounded, and in a full window one subject more would push out another. Whether there is room for all is
//!   therefore asked with noise (propose-test-release: Dwork, Lei, STOC 2009), for a 16th of epsilon; if it seems
//!   not, the window is not published ([`Outcome::Crowded`]). A full window passes with a probability of at most delta, or
//!   half of it where the other half is for groups that are not declared.
//!
//! The rest of epsilon is split evenly; [`Stream::split`] tells how. Composition over windows is for the [`Budget`]: by
//! basic composition each window spends its epsilon and delta in the period in which it starts, or in which it is
//! published, and those that are withheld for want of room or noise spend them, too. A record of sliding windows spends
//! that of each window that it falls into, of which the first may start in the period before. When the rest does not
//! suffice, the window is not published ([`Outcome::Exhausted`]). What is spent is part of the state. Other settings can
//! allow more, and a period of another kind begins anew where the one that has begun ends. Each stream has a budget of its
//! own: for a subject, views of the same source add up.
//!
//! Rows, and the state with what is spent, are to be written together, in one transaction: after an abort a window is
//! published again, with other noise, and whoever has seen both has seen more than is accounted for.
//!
//! Windows without a record are published, too, so that a window does not tell that somebody was there; but where event
//! time goes on by more than [`Settings::most_windows`] windows at once, only those that it had reached. Noisy counts may
//! be negative: if they were raised to 0, their sums would be biased.
//!
//! What is *not* protected: how far event time is, and when records come, hence when a window is published and what comes
//! too late for it; how long publishing takes; the [`Counters`] and the state, which are for the operator alone.
//!
//! A [`Stream`] is of one partition, and so are its rows: whoever wants the whole adds them up. `least`, `contributions`
//! and the budget hold for a subject as long as its records are all in one partition, as they are where it is the key of
//! the topic; else they hold for each partition apart.
//!
//! # State
//!
//! [`Stream::state`] is all that a stream holds, and [`Stream::take_changes`] what changed, by key, for a compacted
//! topic. A stream restored from it goes on as if nothing had happened; of noise, only the distribution is the same. Under
//! settings that limit the contents of windows otherwise, open windows are lost: see [`Stream::restore`].

mod budget;
mod changes;
mod figure;
mod noise;
mod open;
mod private;
mod publish;
mod settings;
mod sketch;
mod state;
mod stream;
mod tally;
#[cfg(test)]
mod tests;
mod windows;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use budget::{Budget, Loss, Period, PeriodTime, Spent};
pub use changes::Changes;
pub use figure::{Aggregate, Figure, NoiseUsed};
pub use noise::{Noise, NoiseFailed, SystemNoise};
pub use private::Split;
pub use settings::{Field, Privacy, Settings, Unfit};
pub use sketch::Sketch;
pub use state::{Clock, KnownGroup, KnownSubject, State, Summary};
pub use stream::Stream;
pub use tally::Tally;
pub use windows::{Window, Windows};

/// A keyed digest of whom a record is about.
pub type Subject = [u8; 16];

/// Which group a record or row is of. Groups are ordered, so that rows do not tell who came first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Group {
    /// Of these values, which are sanitized.
    Of(Arc<[String]>),
    /// All that have no group of their own.
    Other,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    pub subject: Subject,
    /// Event time, in milliseconds since the epoch.
    pub time: i64,
    pub group: Arc<[String]>,
    /// One for each field, in units of its last decimal place; none where the record has no value.
    pub values: Vec<Option<i128>>,
}

/// What becomes of a window that the watermark has passed.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// In the order of groups. `loss` is what it took from the budget.
    Published { window: Window, rows: Vec<Row>, loss: Option<Loss> },
    /// The budget does not suffice before `until`.
    Exhausted { window: Window, until: i64 },
    /// So many subjects came that one may have been left out for another.
    Crowded { window: Window },
    /// No random bits were to be had.
    NoNoise { window: Window },
}

#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub group: Group,
    /// One for each aggregate.
    pub figures: Vec<Figure>,
}

/// What became of records, each counted once for each window that it falls into; and of groups. Not for an audience.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    pub counted: u64,
    /// Came when the window was published.
    pub late: u64,
    /// Dropped, for their event time is too far ahead of now.
    pub early: u64,
    /// Dropped, for their subject had its `contributions`.
    pub over_contribution: u64,
    /// Dropped, for no more subjects are tracked in the window.
    pub no_room: u64,
    /// Of those counted: in [`Group::Other`].
    pub other: u64,
    /// Groups of fewer than `least` subjects, or below the noisy threshold.
    pub suppressed: u64,
    /// Groups that were suppressed for the sake of those.
    pub complementary: u64,
    /// Windows that were not published, for want of budget, room or noise.
    pub withheld: u64,
}

impl Counters {
    /// What was counted since others were.
    pub fn since(&self, before: &Counters) -> Counters {
        self.with(before, u64::saturating_sub)
    }

    /// Both together.
    pub fn plus(&self, other: &Counters) -> Counters {
        self.with(other, u64::saturating_add)
    }

    fn with(&self, other: &Counters, of: fn(u64, u64) -> u64) -> Counters {
        Counters {
            counted: of(self.counted, other.counted),
            late: of(self.late, other.late),
            early: of(self.early, other.early),
            over_contribution: of(self.over_contribution, other.over_contribution),
            no_room: of(self.no_room, other.no_room),
            other: of(self.other, other.other),
            suppressed: of(self.suppressed, other.suppressed),
            complementary: of(self.complementary, other.complementary),
            withheld: of(self.withheld, other.withheld),
        }
    }
}

/// Why a record is not taken. Fields count from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("one value is needed for each field")]
    Count,
    #[error("the event time is not within 270 000 years of the epoch")]
    Time,
    #[error("the value of field {0} has more than 18 digits")]
    Digits(usize),
}
