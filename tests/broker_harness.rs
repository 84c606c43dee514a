//! The broker that the other tests rely on: transactions, and data that outlives the process.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a test that fails here fails where it should"
)]

mod support;

use std::time::Duration;

use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use support::broker::{Broker, Message, an_hour_ago, consume_all};

const TIMEOUT: Duration = Duration::from_secs(30);

/// Two records in one transaction, and one that is aborted.
fn produce_in_transactions(broker: &Broker, topic: &str, time: i64) {
    let mut config = broker.client();
    let producer: BaseProducer =
        config.set("transactional.id", format!("{topic}-producer")).create().unwrap();
    producer.init_transactions(TIMEOUT).unwrap();

    producer.begin_transaction().unwrap();
    let headers = OwnedHeaders::new()
        .insert(Header { key: "h", value: Some("1") })
        .insert(Header { key: "none", value: None::<&str> });
    let first = BaseRecord::to(topic).partition(0).timestamp(time);
    producer.send(first.key("k").payload("v").headers(headers)).unwrap();
    producer.send(BaseRecord::<str, str>::to(topic).partition(1).key("tombstone")).unwrap();
    producer.commit_transaction(TIMEOUT).unwrap();

    producer.begin_transaction().unwrap();
    producer.send(BaseRecord::to(topic).partition(0).key("k").payload("aborted")).unwrap();
    producer.flush(TIMEOUT).unwrap();
    producer.abort_transaction(TIMEOUT).unwrap();
}

fn texts(messages: &[Message]) -> Vec<(Option<&str>, Option<&str>)> {
    messages.iter().map(|message| (text(&message.key), text(&message.payload))).collect()
}

fn text(bytes: &Option<Vec<u8>>) -> Option<&str> {
    bytes.as_deref().map(|bytes| str::from_utf8(bytes).unwrap())
}

#[test]
fn committed_records_survive_a_restart_and_a_kill() {
    let broker = Broker::start("harness");
    let topic = format!("harness-{}", std::process::id());
    broker.create_topic(&topic, 3);
    assert_eq!(broker.consume(&topic), []);

    let time = an_hour_ago();
    produce_in_transactions(&broker, &topic, time);
    let committed = consume_all(broker.bootstrap(), &topic);
    assert_eq!(texts(&committed), [(Some("k"), Some("v")), (Some("tombstone"), None)]);
    assert_eq!((committed[0].partition, committed[0].offset), (0, 0));
    assert_eq!(committed[0].timestamp, time);
    assert_eq!(
        committed[0].headers,
        [("h".to_owned(), Some(b"1".to_vec())), ("none".to_owned(), None)]
    );
    assert_eq!(committed[1].partition, 1);

    broker.restart();
    assert_eq!(consume_all(broker.bootstrap(), &topic), committed);

    broker.produce(&topic, &[(Some(b"a"), Some(b"1")), (None, None), (Some(b"a"), Some(b"2"))]);
    let all = consume_all(broker.bootstrap(), &topic);
    assert_eq!(all.len(), 5);

    broker.kill();
    broker.start_again();
    assert_eq!(consume_all(broker.bootstrap(), &topic), all);
}
