//! Rows of one view that wait for a group.

use std::sync::Arc;

use super::Fate;
use super::entry::{Entry, Kind, seal};
use super::rows::{Rows, RowsError};
use crate::crypto::ciphertext::SealKey;
use crate::group::{Group, Outcome, Record, SensitiveValue, State, Stream, Subject, Unfit, Value};
use crate::policy::Anonymize;
use crate::rewrite::HeldRow;

pub(super) struct Groups {
    rule: Arc<Anonymize>,
    stream: Stream,
    rows: Rows,
    next_id: u64,
    /// Records with smaller numbers have been written to the changelog.
    written: u64,
    outcomes: Vec<Outcome>,
    /// Rows that the method would not take.
    refused: usize,
}

impl Groups {
    pub(super) fn new(rule: &Arc<Anonymize>, rows: Rows) -> Result<Groups, Unfit> {
        Ok(Groups::with(rule, Stream::new(rule.settings.clone())?, rows))
    }

    /// The rows are those of the state.
    pub(super) fn restore(
        rule: &Arc<Anonymize>,
        state: State,
        rows: Rows,
    ) -> Result<Groups, Unfit> {
        Ok(Groups::with(rule, Stream::restore(rule.settings.clone(), state)?, rows))
    }

    fn with(rule: &Arc<Anonymize>, mut stream: Stream, rows: Rows) -> Groups {
        stream.note_changes();
        Groups {
            rule: Arc::clone(rule),
            next_id: rows.next_id(),
            written: stream.next_record(),
            stream,
            rows,
            outcomes: Vec::new(),
            refused: 0,
        }
    }

    pub(super) fn arrive(
        &mut self,
        row: HeldRow,
        (subject, values, sensitive): (Subject, Vec<Value>, Vec<SensitiveValue>),
        now_ms: i64,
    ) -> Result<(), RowsError> {
        let id = self.next_id;
        self.next_id += 1;
        self.rows.insert(id, row.to_bytes())?;
        let record = Record { id, subject, values, sensitive };
        if self.stream.add(record, now_ms, &mut self.outcomes).is_err() {
            // The rewrite took no value that is not of its domain: this is a defect, and costs the row.
            self.rows.remove(id)?;
            self.refused += 1;
        }
        Ok(())
    }

    pub(super) fn tick(&mut self, now_ms: i64) -> bool {
        self.stream.tick(now_ms, &mut self.outcomes);
        self.due().is_some_and(|due| due <= now_ms)
    }

    pub(super) fn flush(&mut self) -> bool {
        self.stream.flush(&mut self.outcomes);
        self.held() > 0
    }

    pub(super) fn due(&self) -> Option<i64> {
        self.stream.next_deadline()
    }

    pub(super) fn held(&self) -> usize {
        self.stream.held()
    }

    pub(super) fn bytes(&self) -> usize {
        self.rows.bytes()
    }

    fn remove(&mut self, id: u64) -> Result<Option<HeldRow>, RowsError> {
        Ok(self.rows.remove(id)?.as_deref().and_then(HeldRow::from_bytes))
    }

    pub(super) fn settle<E: From<RowsError>>(
        &mut self,
        buffer: &mut Vec<u8>,
        mut each: impl FnMut(Fate<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        for _ in 0..std::mem::take(&mut self.refused) {
            each(Fate::Suppressed)?;
        }
        for outcome in std::mem::take(&mut self.outcomes) {
            match outcome {
                Outcome::Released { id, group, .. } => {
                    let Some(row) = self.remove(id)? else { continue };
                    let loss = self.stream.space().loss(&group.area);
                    let Group { subjects, ref distinct, .. } = *group;
                    let record = row.release(&self.rule.quasi_identifiers, &group, buffer);
                    each(Fate::Released { record, subjects, loss, distinct })?;
                }
                Outcome::Suppressed { id } => {
                    if self.remove(id)?.is_some() {
                        each(Fate::Suppressed)?;
                    }
                }
            }
        }
        Ok(())
    }

    pub(super) fn entries(
        &mut self,
        place: &str,
        key: &Arc<SealKey>,
    ) -> Result<Vec<Entry>, RowsError> {
        let changes = self.stream.take_changes();
        let written = std::mem::replace(&mut self.written, changes.summary.next_record);
        let mut entries = Vec::new();
        for (number, held) in changes.held {
            let value = match &held {
                // It came and went in between.
                None if number >= written => continue,
                None => None,
                Some(held) => {
                    let row = self.rows.get(held.id)?;
                    let Some(row) = row.as_deref().and_then(HeldRow::from_bytes) else { continue };
                    Some((row, postcard::to_allocvec(held).unwrap_or_default()))
                }
            };
            entries.push(Entry::new(place, Kind::Held(number), |place| {
                value.map(|(row, beside)| row.seal(key, place, &beside))
            }));
        }
        for (id, group) in changes.groups {
            entries.push(Entry::new(place, Kind::Group(id), |place| {
                group.map(|group| seal(key, place, &group))
            }));
        }
        for (subject, known) in changes.subjects {
            entries.push(Entry::new(place, Kind::Subject(subject), |place| {
                known.map(|known| seal(key, place, &known))
            }));
        }
        entries.push(Entry::new(place, Kind::Groups, |place| {
            Some(seal(key, place, &changes.summary))
        }));
        Ok(entries)
    }

    /// What the changelog may have.
    pub(super) fn kinds(&mut self) -> Vec<Kind> {
        let (state, changes) = (self.stream.state(), self.stream.take_changes());
        let held = state.held.iter().map(|held| held.number);
        let held = held.chain(changes.held.iter().map(|(number, _)| *number)).map(Kind::Held);
        let groups = state.groups.iter().map(|group| group.id);
        let groups = groups.chain(changes.groups.iter().map(|(id, _)| *id)).map(Kind::Group);
        let subjects = state.subjects.iter().map(|known| known.subject);
        let subjects = subjects.chain(changes.subjects.iter().map(|(subject, _)| *subject));
        held.chain(groups).chain(subjects.map(Kind::Subject)).chain([Kind::Groups]).collect()
    }
}
