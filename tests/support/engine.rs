//! The engine without Kafka, for tests of what it makes of an event.

use std::path::Path;
use std::sync::Arc;

use veilstream::crypto::{KeySource, SubjectKeys};
use veilstream::keys::Keyset;
use veilstream::policy::{Plan, Policy};
use veilstream::rewrite::{Disposition, Failure, RawRecord, Rewriter, Rewritten};

pub struct Engine<K = Keyset> {
    pub keys: K,
    pub rewriter: Rewriter,
}

/// A record as a view gets it: key and value.
pub type Pair = (Option<Vec<u8>>, Option<Vec<u8>>);

pub fn parse(policy: &str) -> Policy {
    let policy = policy.to_owned();
    let read = move |_: &Path| Ok(policy.clone());
    Policy::load_with(Path::new("policy.yaml"), &read).unwrap_or_else(|errors| panic!("{errors}"))
}

pub fn engine(policy: &str) -> Engine {
    engine_with(policy, Keyset::generate())
}

pub fn engine_with<K: KeySource>(policy: &str, keys: K) -> Engine<K> {
    let plan = Plan::compile(Arc::new(parse(policy)), &keys).unwrap();
    Engine { keys, rewriter: Rewriter::new(Arc::new(plan)) }
}

/// What the first view gets of `event`.
pub fn one_view(policy: &str, event: &str) -> String {
    engine(policy).values(event).remove(0)
}

impl<K: KeySource> Engine<K> {
    /// Does with a record what the worker does: its subjects' keys first.
    fn rewrite<T>(
        &mut self,
        record: RawRecord<'_>,
        then: impl FnOnce(Result<Rewritten<'_>, Failure>) -> T,
    ) -> T {
        let subjects = self.rewriter.subjects(record.value);
        let wanted: Vec<_> = subjects.iter().copied().collect();
        let found = match self.keys.has_subjects() {
            true => self.keys.subjects(&wanted).unwrap(),
            false => SubjectKeys::default(),
        };
        let timestamp_ms = Some(1_767_225_600_000);
        let subjects = subjects.with(&found);
        then(self.rewriter.rewrite(&RawRecord { subjects, timestamp_ms, ..record }))
    }

    /// What each view gets of a record.
    pub fn records(&mut self, key: Option<&[u8]>, value: Option<&[u8]>) -> Vec<Vec<Pair>> {
        self.try_records(key, value).unwrap_or_else(|failure| panic!("{failure}"))
    }

    pub fn try_records(
        &mut self,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
    ) -> Result<Vec<Vec<Pair>>, Failure> {
        let views = self.rewriter.plan().views.len();
        let own = |part: Option<&[u8]>| part.map(<[u8]>::to_vec);
        self.rewrite(RawRecord { key, value, ..RawRecord::default() }, |out| {
            let out = out?;
            let of = |view| out.records(view).map(|one| (own(one.key()), own(one.value())));
            Ok((0..views).map(|view| of(view).collect()).collect())
        })
    }

    /// The value that each view gets of an event without a key.
    pub fn values(&mut self, event: &str) -> Vec<String> {
        let text = |pair: &Pair| String::from_utf8(pair.1.clone().unwrap_or_default()).unwrap();
        let records = self.records(None, Some(event.as_bytes()));
        records.iter().map(|view| view.first().map(text).unwrap_or_default()).collect()
    }

    pub fn dispositions(&mut self, key: Option<&[u8]>, value: Option<&[u8]>) -> Vec<Disposition> {
        let record = RawRecord { key, value, ..RawRecord::default() };
        self.rewrite(record, |out| out.unwrap().dispositions().to_vec())
    }

    pub fn headers(
        &mut self,
        value: &[u8],
        headers: &[(&str, Option<&[u8]>)],
    ) -> Vec<(String, String)> {
        let record = RawRecord { value: Some(value), headers, ..RawRecord::default() };
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        self.rewrite(record, |out| {
            let out = out.unwrap();
            let record = out.records(0).next().unwrap();
            record.headers().map(|(name, value)| (name.into(), text(value.unwrap()))).collect()
        })
    }

    pub fn fail(&mut self, event: &str) -> Failure {
        self.fail_record(None, Some(event.as_bytes()))
    }

    pub fn fail_bytes(&mut self, event: &[u8]) -> Failure {
        self.fail_record(None, Some(event))
    }

    pub fn fail_record(&mut self, key: Option<&[u8]>, value: Option<&[u8]>) -> Failure {
        let record = RawRecord { key, value, ..RawRecord::default() };
        self.rewrite(record, |out| out.err().expect("a refusal"))
    }
}
