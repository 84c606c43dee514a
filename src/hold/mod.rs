//! Rows that wait until enough people are alike: one [`Holding`] for each view and source partition, and its changelog.
//!
//! Pure but for the keys of a restart: no Kafka, no clock. What is held lives in memory; the changelog, a compacted
//! topic, has all of it sealed, entry by entry, and is what another worker goes on from.

mod entry;
mod restore;

use std::sync::Arc;

use rustc_hash::FxHashMap;

pub use entry::Entry;
pub use restore::{Orphan, Restore, RestoreError, Restored};

use crate::crypto::ciphertext::SealKey;
use crate::group::{Group, Outcome, Record, Space, Stream, Unfit};
use crate::policy::HoldPlan;
use crate::rewrite::{Arrival, HeldRow, Sanitized};
use entry::Kind;

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

/// What becomes of a row.
pub enum Fate<'r> {
    Released {
        record: Sanitized<'r>,
        /// How many people there were in the group when it was published first.
        subjects: usize,
        /// The share of what could have been said that its group does not say, from 0 to 1.
        loss: f64,
        /// The group was published before.
        reused: bool,
    },
    /// No group was found for it in time.
    Suppressed,
}

/// What one view holds of one source partition.
pub struct Holding {
    pub plan: Arc<HoldPlan>,
    place: String,
    stream: Stream,
    rows: FxHashMap<u64, HeldRow>,
    /// Bytes of the rows.
    bytes: usize,
    next_id: u64,
    /// Records with smaller numbers have been written to the changelog.
    written: u64,
    outcomes: Vec<Outcome>,
    /// Rows that the method would not take.
    refused: usize,
    /// Something is other than the changelog has it.
    touched: bool,
    buffer: Vec<u8>,
}

impl Holding {
    pub fn new(plan: &Arc<HoldPlan>, origin: &Origin) -> Result<Holding, Unfit> {
        let stream = Stream::new(plan.anonymize.settings.clone())?;
        Ok(Holding::with(plan, origin.place(plan), stream, FxHashMap::default()))
    }

    fn with(
        plan: &Arc<HoldPlan>,
        place: String,
        mut stream: Stream,
        rows: FxHashMap<u64, HeldRow>,
    ) -> Holding {
        stream.note_changes();
        Holding {
            plan: Arc::clone(plan),
            place,
            bytes: rows.values().map(HeldRow::size).sum(),
            next_id: rows.keys().max().map_or(0, |id| id + 1),
            written: stream.next_record(),
            stream,
            rows,
            outcomes: Vec::new(),
            refused: 0,
            touched: false,
            buffer: Vec::new(),
        }
    }

    /// Takes a row, at a time in milliseconds since the epoch.
    pub fn arrive(&mut self, arrival: Arrival, now_ms: i64) {
        let Arrival { row, subject, values, sensitive } = arrival;
        let id = self.next_id;
        self.next_id += 1;
        self.touched = true;
        self.bytes += row.size();
        self.rows.insert(id, row);
        let record = Record { id, subject, values, sensitive };
        if self.stream.add(record, now_ms, &mut self.outcomes).is_err() {
            // The rewrite took no value that is not of its domain: this is a defect, and costs the row.
            self.remove(id);
            self.refused += 1;
        }
    }

    /// Lets go what is due.
    pub fn tick(&mut self, now_ms: i64) {
        self.touched = true;
        self.stream.tick(now_ms, &mut self.outcomes);
    }

    /// Lets go everything.
    pub fn flush(&mut self) {
        self.touched = true;
        self.stream.flush(&mut self.outcomes);
    }

    /// When the oldest row is due.
    pub fn due(&self) -> Option<i64> {
        self.stream.next_deadline()
    }

    /// How many rows wait.
    pub fn held(&self) -> usize {
        self.stream.held()
    }

    /// Bytes of the rows that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn is_touched(&self) -> bool {
        self.touched
    }

    fn remove(&mut self, id: u64) -> Option<HeldRow> {
        let row = self.rows.remove(&id)?;
        self.bytes -= row.size();
        Some(row)
    }

    /// What has become of rows since the last call.
    pub fn settle<E>(&mut self, mut each: impl FnMut(Fate<'_>) -> Result<(), E>) -> Result<(), E> {
        for _ in 0..std::mem::take(&mut self.refused) {
            each(Fate::Suppressed)?;
        }
        for outcome in std::mem::take(&mut self.outcomes) {
            match outcome {
                Outcome::Released { id, group, reused } => {
                    let Some(row) = self.remove(id) else { continue };
                    let loss = self.space().loss(&group.area);
                    let Group { subjects, .. } = *group;
                    let record = row.release(&self.plan, &group, &mut self.buffer);
                    each(Fate::Released { record, subjects, loss, reused })?;
                }
                Outcome::Suppressed { id } => {
                    if self.remove(id).is_some() {
                        each(Fate::Suppressed)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn space(&self) -> &Space {
        self.stream.space()
    }

    /// What the changelog has to be told since the last call.
    pub fn entries(&mut self, key: &Arc<SealKey>) -> Vec<Entry> {
        if !std::mem::take(&mut self.touched) {
            return Vec::new();
        }
        let changes = self.stream.take_changes();
        let place = self.place.as_str();
        let written = std::mem::replace(&mut self.written, changes.summary.next_record);
        let mut entries = Vec::new();
        for (number, held) in changes.held {
            let value = match &held {
                // It came and went in between.
                None if number >= written => continue,
                None => None,
                Some(held) => {
                    let Some(row) = self.rows.get(&held.id) else { continue };
                    Some((row, postcard::to_allocvec(held).unwrap_or_default()))
                }
            };
            entries.push(Entry::new(place, Kind::Held(number), |place| {
                value.map(|(row, beside)| row.seal(key, place, &beside))
            }));
        }
        for (id, group) in changes.groups {
            entries.push(Entry::new(place, Kind::Group(id), |place| {
                group.map(|group| entry::seal(key, place, &group))
            }));
        }
        for (subject, known) in changes.subjects {
            entries.push(Entry::new(place, Kind::Subject(subject), |place| {
                known.map(|known| entry::seal(key, place, &known))
            }));
        }
        entries.push(Entry::new(place, Kind::Summary, |place| {
            Some(entry::seal(key, place, &changes.summary))
        }));
        entries
    }

    /// What takes all of it out of the changelog: it is empty, and by other rules from now on.
    pub fn end(&mut self) -> Vec<Entry> {
        let state = self.stream.state();
        let held = state.held.iter().map(|held| Kind::Held(held.number));
        let groups = state.groups.iter().map(|group| Kind::Group(group.id));
        let subjects = state.subjects.iter().map(|known| Kind::Subject(known.subject));
        let changes = self.stream.take_changes();
        let gone = changes.held.iter().map(|(number, _)| Kind::Held(*number));
        let gone = gone.filter(|kind| matches!(kind, Kind::Held(number) if *number < self.written));
        let groups_gone = changes.groups.iter().map(|(id, _)| Kind::Group(*id));
        let subjects_gone = changes.subjects.iter().map(|(subject, _)| Kind::Subject(*subject));
        let mut kinds: Vec<Kind> = held
            .chain(groups)
            .chain(subjects)
            .chain(gone)
            .chain(groups_gone)
            .chain(subjects_gone)
            .chain([Kind::Summary])
            .collect();
        let mut seen = std::collections::HashSet::new();
        kinds.retain(|kind| seen.insert(*kind));
        kinds.into_iter().map(|kind| Entry::new(&self.place, kind, |_| None)).collect()
    }
}
