//! The records that a lane has in hand, and how many of them its next transaction takes.

use crate::config;
use crate::kafka::SourceRecord;
use crate::quarantine::Coordinates;

/// What a batch has to know of a record.
pub trait InHand {
    fn topic(&self) -> &str;
    fn partition(&self) -> i32;
    fn offset(&self) -> i64;
    /// Bytes of key, value and headers.
    fn size(&self) -> usize;
}

impl InHand for SourceRecord<'_> {
    fn topic(&self) -> &str {
        self.topic()
    }

    fn partition(&self) -> i32 {
        self.partition()
    }

    fn offset(&self) -> i64 {
        self.offset()
    }

    fn size(&self) -> usize {
        self.size()
    }
}

/// Polled and not yet committed, in order.
pub struct Batch<R> {
    records: Vec<R>,
    bytes: usize,
    /// Where the broker refused a transaction for what was in it, fewer records go into the next: so the one that
    /// it will not take is found.
    most: Option<usize>,
    /// It was found.
    refused: Option<Coordinates>,
}

impl<R> Default for Batch<R> {
    fn default() -> Self {
        Batch { records: Vec::new(), bytes: 0, most: None, refused: None }
    }
}

impl<R: InHand> Batch<R> {
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    pub fn len(&self) -> usize {
        self.records.len()
    }

    pub fn is_full(&self, bounds: config::Batch) -> bool {
        self.records.len() >= bounds.records.get() || self.bytes >= bounds.bytes.get()
    }

    pub fn push(&mut self, record: R) {
        self.bytes += record.size();
        self.records.push(record);
    }

    /// Drops the records of partitions that went to somebody else.
    pub fn revoke(&mut self, partitions: &[(String, i32)]) {
        let gone = |record: &R| {
            let of = |(topic, partition): &(String, i32)| {
                topic == record.topic() && *partition == record.partition()
            };
            partitions.iter().any(of)
        };
        self.records.retain(|record| !gone(record));
        self.bytes = self.records.iter().map(R::size).sum();
        self.refused = None;
        self.most = self.most.filter(|_| !self.is_empty());
    }

    /// What the next transaction takes.
    pub fn next(&self) -> &[R] {
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
        self.bytes = self.records.iter().map(R::size).sum();
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

pub fn coordinates(record: &impl InHand) -> Coordinates {
    Coordinates {
        topic: record.topic().to_owned(),
        partition: record.partition(),
        offset: record.offset(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fake(i64);

    impl InHand for Fake {
        fn topic(&self) -> &str {
            "raw"
        }

        fn partition(&self) -> i32 {
            (self.0 % 2) as i32
        }

        fn offset(&self) -> i64 {
            self.0
        }

        fn size(&self) -> usize {
            10
        }
    }

    fn batch(count: i64) -> Batch<Fake> {
        let mut batch = Batch::default();
        (0..count).for_each(|offset| batch.push(Fake(offset)));
        batch
    }

    /// Works the batch off with a broker that refuses the `bad` unless they are quarantined; gives the
    /// quarantined, the committed, and how many transactions were refused.
    fn work_off(mut batch: Batch<Fake>, bad: &[i64]) -> (Vec<i64>, Vec<i64>, usize) {
        let (mut quarantined, mut committed, mut refusals) = (Vec::new(), Vec::new(), 0);
        while !batch.is_empty() {
            let told = batch.refused().map(|from| from.offset);
            let taken: Vec<i64> = batch.next().iter().map(|record| record.0).collect();
            if taken.iter().any(|offset| bad.contains(offset) && told != Some(*offset)) {
                refusals += 1;
                assert!(batch.narrow());
            } else {
                quarantined.extend(told);
                batch.done(taken.len());
                committed.extend(taken);
            }
        }
        (quarantined, committed, refusals)
    }

    #[test]
    fn refused_records_are_found_and_the_others_stay_in_order() {
        for bad in [&[][..], &[0], &[5, 700, 701, 999], &[999]] {
            let (quarantined, committed, refusals) = work_off(batch(1000), bad);
            assert_eq!(quarantined, bad);
            assert!(committed.into_iter().eq(0..1000));
            assert!(refusals <= 25 * bad.len(), "{refusals} for {bad:?}");
        }
    }

    #[test]
    fn a_record_that_is_refused_in_quarantine_too_narrows_no_further() {
        let mut batch = batch(2);
        assert!(batch.narrow() && batch.next().len() == 1 && batch.refused().is_none());
        assert!(batch.narrow() && batch.refused().is_some());
        assert!(!batch.narrow());
    }

    #[test]
    fn what_was_revoked_is_dropped_with_what_was_known_of_it() {
        let mut batch = batch(4);
        while batch.refused().is_none() {
            assert!(batch.narrow());
        }
        batch.revoke(&[("raw".into(), 0)]);
        assert!(batch.refused().is_none() && batch.len() == 2 && batch.bytes == 20);
        assert!(batch.next().iter().all(|record| record.partition() == 1));
        batch.revoke(&[("raw".into(), 1)]);
        assert!(batch.is_empty() && batch.most.is_none());
        assert!(!batch.narrow());
    }
}
