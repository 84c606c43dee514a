//! A topic read from end to end while others write to it: transactions that are committed, aborted, open.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that fails here fails where it should"
)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use support::broker::{Broker, wait_until};
use veilstream::config::Config;
use veilstream::kafka::{ClientSettings, Reader};

const TIMEOUT: Duration = Duration::from_secs(10);

fn settings(broker: &Broker) -> ClientSettings {
    let text = format!(
        "kafka: {{ bootstrap: '{}' }}\npolicies: [p]\nkeys: k\nquarantine: {{ topic: q }}\naudit: {{ topic: a }}\n",
        broker.bootstrap()
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("worker.yaml");
    std::fs::write(&file, text).unwrap();
    ClientSettings::new(&Config::load(&file).unwrap()).unwrap()
}

struct Transaction(BaseProducer);

impl Transaction {
    fn begin(broker: &Broker, topic: &str, name: &str, values: &[&str]) -> Transaction {
        let mut config = broker.client();
        config.set("transactional.id", format!("{topic}-{name}"));
        let producer: BaseProducer = config.create().unwrap();
        producer.init_transactions(TIMEOUT).unwrap();
        producer.begin_transaction().unwrap();
        for value in values {
            producer.send(BaseRecord::to(topic).partition(0).key("k").payload(*value)).unwrap();
        }
        producer.flush(TIMEOUT).unwrap();
        Transaction(producer)
    }

    fn end(self, commit: bool) {
        match commit {
            true => self.0.commit_transaction(TIMEOUT).unwrap(),
            false => self.0.abort_transaction(TIMEOUT).unwrap(),
        }
    }
}

fn read(reader: &mut Reader) -> Vec<String> {
    let mut values = Vec::new();
    let each = |record: Option<veilstream::kafka::OwnedRecord>| {
        values.extend(record.map(|record| String::from_utf8(record.value.unwrap()).unwrap()));
        true
    };
    assert!(reader.to_end(each).unwrap());
    values
}

#[test]
fn what_is_committed_is_read_and_what_is_open_is_waited_for_where_that_is_said() {
    let broker = Broker::shared("reader");
    let settings = settings(&broker);
    for (number, commit) in [(0, true), (1, false)] {
        let topic = format!("reader-{}-{number}", std::process::id());
        broker.create_topic(&topic, 2);
        assert!(read(&mut Reader::open(&settings, &topic).unwrap()).is_empty());

        Transaction::begin(&broker, &topic, "a", &["1", "2"]).end(true);
        Transaction::begin(&broker, &topic, "b", &["aborted"]).end(false);
        let mut whole = Reader::open(&settings, &topic).unwrap();
        assert_eq!(read(&mut whole), ["1", "2"]);
        assert!(read(&mut whole.behind(&settings).unwrap()).is_empty());

        let open = Transaction::begin(&broker, &topic, "c", &["3"]);
        Transaction::begin(&broker, &topic, "d", &["4"]).end(true);
        // Up to what is open.
        assert_eq!(read(&mut Reader::open(&settings, &topic).unwrap()), ["1", "2"]);
        let (asked, done) = (AtomicBool::new(false), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let (asked, done) = (&asked, &done);
            let mut behind = whole.behind(&settings).unwrap();
            let waiting = scope.spawn(move || {
                let mut values = Vec::new();
                let each = |record: Option<veilstream::kafka::OwnedRecord>| {
                    match record {
                        Some(record) => {
                            values.push(String::from_utf8(record.value.unwrap()).unwrap())
                        }
                        None => asked.store(true, Ordering::SeqCst),
                    }
                    true
                };
                assert!(behind.to_end(each).unwrap());
                done.store(true, Ordering::SeqCst);
                values
            });
            wait_until("it waits", || asked.load(Ordering::SeqCst));
            std::thread::sleep(Duration::from_secs(1));
            assert!(!done.load(Ordering::SeqCst), "a transaction is open");
            open.end(commit);
            let mut values = waiting.join().unwrap();
            // What was met before the end of the transaction may be read twice.
            values.dedup();
            assert_eq!(values, if commit { vec!["3", "4"] } else { vec!["4"] });
        });
    }
}

#[test]
fn a_topic_that_is_written_to_all_the_time_has_an_end() {
    let broker = Broker::shared("reader");
    let settings = settings(&broker);
    let topic = format!("reader-{}-busy", std::process::id());
    broker.create_topic(&topic, 8);
    let stop = Arc::new(AtomicBool::new(false));
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            let mut config = broker.client();
            let producer: BaseProducer = config.set("linger.ms", "0").create().unwrap();
            for number in 0_u64.. {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                let partition = (number % 8) as i32;
                let value = number.to_string();
                let record = BaseRecord::to(&topic).partition(partition).key("k").payload(&value);
                producer.send(record).unwrap();
                producer.poll(Duration::ZERO);
                std::thread::sleep(Duration::from_micros(200));
            }
            producer.flush(TIMEOUT).unwrap();
        });
        wait_until("records", || broker.consume(&topic).len() > 500);
        let mut reader = Reader::open(&settings, &topic).unwrap();
        assert!(read(&mut reader).len() > 500);
        // None is wanted any more.
        let mut reader = Reader::open(&settings, &topic).unwrap();
        assert!(!reader.to_end(|_| false).unwrap());
        stop.store(true, Ordering::SeqCst);
        writing.join().unwrap();
    });
}
