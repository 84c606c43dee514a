//! k-anonymity over a stream: a record is held until it can leave in a group of at least k different subjects, whose
//! quasi-identifiers are published alike and generalized as little as can be. Pure and deterministic: no clock, no
//! I/O, no chance; what the time is, the caller says.
//!
//! # Method
//!
//! CASTLE (Cao, Carminati, Ferrari, Tan, IEEE TDSC 2011) keeps clusters open, and the first records of a cluster
//! decide what it becomes. FADS (Guo, Zhang, Knowledge-Based Systems 2013) keeps none: a record waits alone, and when
//! it is due, it takes its nearest neighbors among those that wait, or goes to a published group that covers it, as
//! in CASTLE. This is FADS with other choices; figures are losses on Adult for k = 10 with 10 000 records held:
//!
//! 1. What comes leaves at once where a published group covers it with a loss of at most a quarter of the usual one
//!    (FAANST, Zakerzadeh, Osborn 2010, has such a threshold), or where k subjects with the same values wait: there is
//!    little to gain by holding it. The threshold alone takes the mean delay from 3 874 records to 2 839.
//! 2. What is due gets its nearest neighbors from an R-tree (exact, so that the outcome does not depend on the tree's
//!    history), and a group is grown out of about 4 k areas, each time by the one that adds least loss: 0.076. To take
//!    the k - 1 nearest as they are, as FADS does: 0.085.
//! 3. A published group is reused where a new one would cost more, all in all: the loss of the due record, and what
//!    the k - 1 others would lose beyond the usual: 0.071. This keeps outliers from dragging others along, and bounds
//!    the search: neighbors that are too far to be worth it are never looked at. Without any reuse: 0.100.
//! 4. Where neither is possible, the record is suppressed.
//!
//! The loss is the normalized certainty penalty ([`Space::loss`]). The cost of a record is that of three searches in
//! trees and of its share in growing one group.
//!
//! # What was changed for subjects
//!
//! - A group is counted in different subjects, not records. Of each subject only the oldest values can be found;
//!   later ones wait behind it, so records of a subject leave in order; equal ones leave together, counted once.
//! - A subject that comes again within the area of the group it was published in last goes there again, at once:
//!   two different groups of a subject that can be recognized would tell what both have in common.
//! - Every published group had k subjects of its own when it was published first; none is a part or the rest of
//!   another, so none follows from others by subtraction. Who joins it later is not needed for k.
//! - l-diversity and t-closeness hold at the first publication; t-closeness against all that was seen until then.
//!
//! What was published stays true when groups are forgotten; only the reuse, and the second of these rules, end.

mod changes;
mod groups;
mod grow;
mod held;
mod sensitive;
mod space;
mod state;
mod stream;
mod subjects;
#[cfg(test)]
mod tests;
mod tree;

use std::sync::Arc;

pub use changes::Changes;
pub(crate) use changes::{Touched, by_key, put};
pub use groups::{Group, KnownGroup};
pub use held::Held;
pub use sensitive::{Distribution, Sensitive, SensitiveValue};
pub use space::{Area, Domain, QuasiIdentifier, Space, Span, Value, covers};
pub use state::{State, Summary};
pub use stream::Stream;
pub use subjects::KnownSubject;

/// A keyed digest of whom a record is about.
pub type Subject = [u8; 16];

#[derive(Debug, Clone)]
pub struct Settings {
    /// The least number of different subjects in a group.
    pub k: usize,
    /// A record waits at most so long, in milliseconds.
    pub delay: i64,
    pub quasi_identifiers: Vec<QuasiIdentifier>,
    /// What is demanded of each sensitive field; empty for k-anonymity alone.
    pub sensitive: Vec<Sensitive>,
    /// Where more records are held, the oldest leave early.
    pub most_held: usize,
    /// So many published groups are kept for reuse.
    pub most_groups: usize,
    /// Of so many subjects it is kept in which group they were published last.
    pub most_subjects: usize,
}

/// What comes: one change of one subject.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    pub id: u64,
    pub subject: Subject,
    /// One for each quasi-identifier.
    pub values: Vec<Value>,
    /// One for each sensitive field.
    pub sensitive: Vec<SensitiveValue>,
}

/// What becomes of a record: exactly one for each that was not refused.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// `reused` where the group was published before, and counted then.
    Released {
        id: u64,
        group: Arc<Group>,
        reused: bool,
    },
    Suppressed {
        id: u64,
    },
}

/// Why settings cannot be used. Fields count from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error("k must be at least 2")]
    K,
    #[error("the delay must not be negative")]
    Delay,
    #[error("at least one quasi-identifier is needed")]
    NoQuasiIdentifiers,
    #[error("the domain of quasi-identifier {0} must go from a number up to a greater one")]
    Domain(usize),
    #[error("of sensitive field {0}, l must be at least 1, and t between 0 and 1")]
    Sensitive(usize),
    #[error("at least one record must be held")]
    MostHeld,
}

/// Why a record is not taken. Fields count from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("one value is needed for each quasi-identifier and each sensitive field")]
    Count,
    #[error("the value of quasi-identifier {0} is not of its hierarchy or domain")]
    QuasiIdentifier(usize),
    #[error("the value of sensitive field {0} is not a finite number")]
    Sensitive(usize),
}
