//! What views hold that publish what many people have in common: rows that wait for a group, and windows that are open.
//! One [`Holding`] for each view and source partition, and its changelog.
//!
//! Pure but for the keys of a restart: no Kafka, no clock. The changelog, a compacted topic, has all of it sealed, entry
//! by entry, and is what another worker goes on from.

mod entry;
mod groups;
mod restore;
mod rows;
mod windows;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

pub use entry::Entry;
pub use restore::{Orphan, Restore, RestoreError, Restored, Unfit};
pub use rows::RowsError;

use crate::aggregate::Counters;
use crate::crypto::ciphertext::SealKey;
use crate::policy::{HoldPlan, Rule};
use crate::rewrite::{Arrival, Sanitized};
use groups::Groups;
use rows::Rows;
use windows::Windows;

/// Where rows come from: the consumer group, the source topic, and the partition of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    pub group: String,
    pub topic: String,
    pub partition: i32,
}

impl Origin {
    /// The beginning of the keys of a view's entries. Neither names of topics nor of policies and views have a slash.
    fn place(&self, plan: &HoldPlan) -> String {
        let Origin { group, topic, partition } = self;
        let HoldPlan { policy, view, fingerprint, .. } = plan;
        format!("{group}/{topic}/{partition}/{policy}/{view}/{fingerprint}")
    }
}

/// Where rows wait: so many bytes of them in memory, of each view and partition, and what is more in a file in a folder,
/// where one is named.
#[derive(Debug, Clone, Default)]
pub struct Room {
    pub memory: usize,
    pub folder: Option<PathBuf>,
}

impl Room {
    fn rows(&self) -> Rows {
        Rows::new(self.memory, self.folder.clone())
    }
}

/// What becomes of what was held.
pub enum Fate<'r> {
    /// A row leaves in a group.
    Released {
        record: Sanitized<'r>,
        /// How many people there were in the group when it was published first.
        subjects: usize,
        /// The share of what could have been said that its group does not say, from 0 to 1.
        loss: f64,
        /// How many different values of each sensitive field there were.
        distinct: &'r [u32],
    },
    /// No group was found for it in time.
    Suppressed,
    /// A row of figures over a window.
    Figures(Sanitized<'r>),
    /// What became of a window, and what stands in its place where it is not published.
    Window(WindowFate, Option<Sanitized<'r>>),
}

/// What becomes of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WindowFate {
    Published,
    /// The budget of privacy is spent.
    Exhausted,
    /// So many people came that one may have been left out for another.
    Crowded,
    /// No random bits were to be had.
    NoNoise,
    /// Other rules came while it was open.
    Dropped,
}

impl WindowFate {
    pub fn code(self) -> &'static str {
        match self {
            WindowFate::Published => "published",
            WindowFate::Exhausted => "budget_spent",
            WindowFate::Crowded => "crowded",
            WindowFate::NoNoise => "no_noise",
            WindowFate::Dropped => "other_rules",
        }
    }
}

/// What one view holds of one source partition.
pub struct Holding {
    pub plan: Arc<HoldPlan>,
    place: String,
    method: Method,
    /// Something is other than the changelog has it.
    touched: bool,
    buffer: Vec<u8>,
}

enum Method {
    Groups(Box<Groups>),
    Windows(Box<Windows>),
}

impl Holding {
    pub fn new(plan: &Arc<HoldPlan>, origin: &Origin, room: &Room) -> Result<Holding, Unfit> {
        let method = match &plan.rule {
            Rule::Groups(rule) => Method::Groups(Box::new(Groups::new(rule, room.rows())?)),
            Rule::Windows(rule) => Method::Windows(Box::new(Windows::new(rule)?)),
        };
        Ok(Holding::with(plan, origin.place(plan), method))
    }

    fn with(plan: &Arc<HoldPlan>, place: String, method: Method) -> Holding {
        Holding { plan: Arc::clone(plan), place, method, touched: false, buffer: Vec::new() }
    }

    /// What goes on under other rules of the same view: of windows, how far time is, and what is spent of the budget.
    pub fn successor(
        &self,
        plan: &Arc<HoldPlan>,
        origin: &Origin,
        room: &Room,
    ) -> Result<Holding, Unfit> {
        match (&self.method, &plan.rule) {
            (Method::Windows(windows), Rule::Windows(rule)) => {
                let method = Method::Windows(Box::new(Windows::inherit(rule, windows.summary())?));
                Ok(Holding { touched: true, ..Holding::with(plan, origin.place(plan), method) })
            }
            _ => Holding::new(plan, origin, room),
        }
    }

    /// Takes what comes, at a time in milliseconds since the epoch.
    pub fn arrive(&mut self, arrival: Arrival, now_ms: i64) -> Result<(), RowsError> {
        self.touched = true;
        match (&mut self.method, arrival) {
            (Method::Groups(groups), Arrival::Row { row, subject, values, sensitive }) => {
                groups.arrive(row, (subject, values, sensitive), now_ms)?;
            }
            (Method::Windows(windows), Arrival::Record(record)) => windows.arrive(record, now_ms),
            // Arrivals are made by the same rule.
            _ => {}
        }
        Ok(())
    }

    /// Lets go what is due, or a part of it. True where more is: once this has been settled.
    pub fn tick(&mut self, now_ms: i64) -> bool {
        self.touched = true;
        match &mut self.method {
            Method::Groups(groups) => groups.tick(now_ms),
            Method::Windows(windows) => {
                windows.tick(now_ms);
                false
            }
        }
    }

    /// Lets go everything, or a part of it: rows in groups, if there are any; windows unpublished. True where more is to
    /// go: once this has been settled.
    pub fn flush(&mut self) -> bool {
        self.touched = true;
        match &mut self.method {
            Method::Groups(groups) => groups.flush(),
            Method::Windows(windows) => {
                windows.drop_open();
                false
            }
        }
    }

    /// Lets go everything, as if nothing more came, or a part of it: windows are published. True where more is to go: once
    /// this has been settled.
    pub fn finish(&mut self) -> bool {
        self.touched = true;
        match &mut self.method {
            Method::Groups(groups) => groups.flush(),
            Method::Windows(windows) => {
                windows.finish();
                false
            }
        }
    }

    /// When something is to be let go though nothing comes. Windows wait while there may be something to be read, which
    /// would come too late for them: `quiet` is since when that has come without a break, if it does.
    pub fn due(&self, quiet: Option<i64>) -> Option<i64> {
        match &self.method {
            Method::Groups(groups) => groups.due(),
            Method::Windows(windows) => windows.due(quiet?),
        }
    }

    /// How many rows wait, or windows are open.
    pub fn held(&self) -> usize {
        match &self.method {
            Method::Groups(groups) => groups.held(),
            Method::Windows(windows) => windows.open(),
        }
    }

    /// Bytes of the rows that wait.
    pub fn bytes(&self) -> usize {
        match &self.method {
            Method::Groups(groups) => groups.bytes(),
            Method::Windows(_) => 0,
        }
    }

    /// What windows have counted since the last call.
    pub fn counted(&mut self) -> Option<Counters> {
        match &mut self.method {
            Method::Groups(_) => None,
            Method::Windows(windows) => Some(windows.counted()),
        }
    }

    /// The share of a budget of privacy that is left, where there is one.
    pub fn budget_left(&self) -> Option<f64> {
        match &self.method {
            Method::Groups(_) => None,
            Method::Windows(windows) => windows.budget_left(),
        }
    }

    pub fn is_touched(&self) -> bool {
        self.touched
    }

    /// What has become of what was held since the last call.
    pub fn settle<E: From<RowsError>>(
        &mut self,
        each: impl FnMut(Fate<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        match &mut self.method {
            Method::Groups(groups) => groups.settle(&mut self.buffer, each),
            Method::Windows(windows) => windows.settle(&self.plan, &mut self.buffer, each),
        }
    }

    /// What the changelog has to be told since the last call.
    pub fn entries(&mut self, key: &Arc<SealKey>) -> Result<Vec<Entry>, RowsError> {
        match (std::mem::take(&mut self.touched), &mut self.method) {
            (false, _) => Ok(Vec::new()),
            (true, Method::Groups(groups)) => groups.entries(&self.place, key),
            (true, Method::Windows(windows)) => Ok(windows.entries(&self.place, key)),
        }
    }

    /// What takes all of it out of the changelog; but for what is spent of a budget, where nobody goes on with that.
    pub fn end(&mut self, is_inherited: bool) -> Vec<Entry> {
        let kinds = match &mut self.method {
            Method::Groups(groups) => groups.kinds(),
            Method::Windows(windows) => windows.kinds(is_inherited),
        };
        let kinds: HashSet<_> = kinds.into_iter().collect();
        kinds.into_iter().map(|kind| Entry::new(&self.place, kind, |_| None)).collect()
    }
}
