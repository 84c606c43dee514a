//! A member of a group that holds its records while partitions come and go.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that fails here fails where it should"
)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use support::broker::Broker;
use veilstream::config::{Config, GroupProtocol};
use veilstream::kafka::{ClientSettings, Rebalanced, Source};

const PARTITIONS: i32 = 4;
const RECORDS: usize = 2_000;

/// A source, with what it was given and what it has read.
struct Member {
    source: Source,
    assigned: BTreeSet<i32>,
    /// The offsets that were read of each partition since it came.
    read: BTreeMap<i32, Vec<i64>>,
}

impl Member {
    fn new(settings: &ClientSettings, topic: &str) -> Member {
        let source = Source::open(settings, GroupProtocol::Consumer, &[topic]).unwrap();
        Member { source, assigned: BTreeSet::new(), read: BTreeMap::new() }
    }

    /// Takes what comes within half a second.
    fn rest(&mut self) {
        let end = Instant::now() + Duration::from_millis(500);
        while Instant::now() < end {
            self.step();
        }
    }

    fn step(&mut self) {
        let record = self.source.poll(Duration::from_millis(20)).unwrap();
        let record = record.map(|record| (record.partition(), record.offset()));
        for change in self.source.rebalances() {
            match change {
                Rebalanced::Assigned(list) => {
                    self.assigned.extend(list.iter().map(|(_, partition)| *partition));
                }
                Rebalanced::Revoked(list) => {
                    for (_, partition) in list {
                        self.assigned.remove(&partition);
                        self.read.remove(&partition);
                    }
                }
            }
        }
        if let Some((partition, offset)) = record {
            self.read.entry(partition).or_default().push(offset);
        }
    }

    fn total(&self) -> usize {
        self.read.values().map(Vec::len).sum()
    }
}

#[test]
fn a_partition_that_comes_back_is_read_from_where_it_was_committed() {
    let broker = Broker::shared("source");
    let topic = format!("source-{}", std::process::id());
    broker.create_topic(&topic, PARTITIONS);
    let records: Vec<_> = (0..RECORDS).map(|number| (format!("{number}"), "x")).collect();
    let records: Vec<_> =
        records.iter().map(|(key, value)| (Some(key.as_bytes()), Some(value.as_bytes()))).collect();
    broker.produce(&topic, &records);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("worker.yaml");
    let text = format!(
        "kafka: {{ bootstrap: '{}', group: {topic} }}\npolicies: [x]\nkeys: x\n\
         quarantine: {{ topic: q }}\naudit: {{ topic: a }}\n",
        broker.bootstrap()
    );
    std::fs::write(&file, text).unwrap();
    let settings = ClientSettings::new(&Config::load(&file).unwrap()).unwrap();

    let mut first = Member::new(&settings, &topic);
    until("a record of each partition", || {
        first.step();
        first.read.len() == PARTITIONS as usize
    });

    // Two of the held partitions go, and come back when nothing is held any more.
    first.source.hold().unwrap();
    let second = share(&mut first, &settings, &topic);
    first.source.release().unwrap();
    second.source.hold().unwrap();
    drop(second);
    all_is_read_once(&mut first);

    // Two that are not held go, and come back while all is held.
    let second = share(&mut first, &settings, &topic);
    let kept = first.assigned.clone();
    first.source.hold().unwrap();
    drop(second);
    until("all partitions", || {
        first.step();
        first.assigned.len() == PARTITIONS as usize
    });
    first.rest();
    let read: BTreeSet<i32> = first.read.keys().copied().collect();
    assert_eq!(read, kept, "what came is read while it should be held");
    first.source.release().unwrap();
    all_is_read_once(&mut first);
    // A release that has nothing to release takes nothing back.
    first.source.release().unwrap();
    all_is_read_once(&mut first);
}

fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !reached() {
        assert!(Instant::now() < deadline, "{what}: not within 60 s");
    }
}

/// Another member, which has taken half of the partitions.
fn share(first: &mut Member, settings: &ClientSettings, topic: &str) -> Member {
    let mut second = Member::new(settings, topic);
    until("the second member's share", || {
        first.step();
        second.step();
        second.assigned.len() == 2 && first.assigned.len() == 2
    });
    second
}

/// Nothing was committed: each partition is read from its beginning.
fn all_is_read_once(member: &mut Member) {
    until("all records", || {
        member.step();
        member.total() >= RECORDS && member.assigned.len() == PARTITIONS as usize
    });
    member.rest();
    assert_eq!(member.total(), RECORDS, "lost or doubled");
    for (partition, offsets) in &member.read {
        assert!(offsets.iter().copied().eq(0..offsets.len() as i64), "partition {partition}");
    }
}
