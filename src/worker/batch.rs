//! The records that a lane has in hand, and how many of them its next transaction takes.

use crate::config;
use crate::kafka::SourceRecord;
use crate::quarantine::Coordinates;

/// Polled and not yet committed, in order.
#[derive(Default)]
pub struct Batch<'s> {
    records: Vec<SourceRecord<'s>>,
    bytes: usize,
    /// Where the broker refused a transaction for what was in it, fewer records go into the next: so the one that
    /// it will not take is found.
    most: Option<usize>,
    /// It was found.
    refused: Option<Coordinates>,
}

impl<'s> Batch<'s> {
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    pub fn len(&self) -> usize {
        self.records.len()
    }

    pub fn is_full(&self, bounds: config::Batch) -> bool {
        self.records.len() >= bounds.records || self.bytes >= bounds.bytes
    }

    pub fn push(&mut self, record: SourceRecord<'s>) {
        self.bytes += record.size();
        self.records.push(record);
    }

    /// Drops the records of partitions that went to somebody else.
    pub fn revoke(&mut self, partitions: &[(String, i32)]) {
        let gone = |record: &SourceRecord<'_>| {
            let of = |(topic, partition): &(String, i32)| {
                topic == record.topic() && *partition == record.partition()
            };
            partitions.iter().any(of)
        };
        self.records.retain(|record| !gone(record));
        self.bytes = self.records.iter().map(SourceRecord::size).sum();
        self.refused = None;
        self.most = self.most.filter(|_| !self.is_empty());
    }

    /// What the next transaction takes.
    pub fn next(&self) -> &[SourceRecord<'s>] {
        let most = self.most.unwrap_or(usize::MAX).min(self.records.len());
        self.records.get(..most).unwrap_or_default()
    }

    /// The record that the broker refuses whatever is around it: it goes to quarantine.
    pub fn refused(&self) -> Option<&Coordinates> {
        self.refused.as_ref()
    }

    /// The first `count` are committed.
    pub fn done(&mut self, count: usize) {
        self.records.drain(..count.min(self.records.len()));
        self.bytes = self.records.iter().map(SourceRecord::size).sum();
        self.refused = None;
        self.most = self.most.map(|most| most.saturating_mul(2)).filter(|_| !self.is_empty());
    }

    /// The broker refused the last transaction for what was in it. False where that helps no further: the one
    /// record in it was to go to quarantine already.
    pub fn narrow(&mut self) -> bool {
        match (self.next(), &self.refused) {
            ([], _) | ([_], Some(_)) => false,
            ([only], None) => {
                self.refused = Some(coordinates(only));
                true
            }
            (taken, _) => {
                self.most = Some(taken.len() / 2);
                true
            }
        }
    }
}

pub fn coordinates(record: &SourceRecord<'_>) -> Coordinates {
    Coordinates {
        topic: record.topic().to_owned(),
        partition: record.partition(),
        offset: record.offset(),
    }
}
