//! Nothing lost, nothing doubled, nothing raw: two workers on a real broker, while one of them is killed again and
//! again, members come and go, and the broker restarts.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a test that fails here fails where it should"
)]

mod support;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::broker::{Broker, Message, consume_all};
use support::worker::{Site, WorkerProcess};

const CUSTOMERS: u64 = 2_000;
const PARTITIONS: i32 = 12;
/// Stands in every sensitive value. Shorter words turn up in a hundred million characters of ciphertext by chance.
const CANARY: &str = "canarybird";
/// One event in so many is cut off in the middle.
const MALFORMED: u64 = 997;

fn policy(prefix: &str) -> String {
    format!(
        "
policy: customers
version: 7
source: {{ topic: {prefix}.raw, format: debezium }}
subject: customer_id
fields:
  customer_id: identifier
  sequence: public
  email: email
  full_name: name
  card_number: payment_card
  notes: free_text
views:
  analytics:
    topic: {prefix}.analytics
    classes: {{ identifier: keep, public: keep, email: tokenize, name: redact, payment_card: drop, free_text: drop }}
  fraud:
    topic: {prefix}.fraud
    classes: {{ identifier: tokenize, public: keep, email: encrypt, name: encrypt, payment_card: encrypt, free_text: drop }}
"
    )
}

fn event(customer: u64, sequence: u64) -> String {
    let row = format!(
        r#"{{"customer_id":{customer},"sequence":{sequence},"email":"canarybird-{customer}-{sequence}@example.com","full_name":"Canarybird Name {customer}","card_number":"4canarybird{customer}","notes":"canarybird note {sequence}","unknown_field":"canarybird unknown"}}"#
    );
    let event = format!(
        r#"{{"before":null,"after":{row},"source":{{"connector":"postgresql","query":"canarybird query"}},"op":"u","ts_ms":1}}"#
    );
    if (sequence * CUSTOMERS + customer).is_multiple_of(MALFORMED) {
        let cut = event.find("\"op\"").unwrap();
        return event[..cut].to_owned();
    }
    event
}

/// What a read_committed consumer found in a view: how often each event stands there, in order per key.
fn check_view(messages: &[Message], identifier: &str) -> usize {
    let mut last: HashMap<String, i64> = HashMap::new();
    for message in messages {
        let event: Value = serde_json::from_slice(message.payload.as_ref().unwrap()).unwrap();
        let after = &event["after"];
        let id = format!("{}:{}", message.partition, after[identifier]);
        let sequence = after["sequence"].as_i64().unwrap();
        if let Some(before) = last.insert(id.clone(), sequence) {
            assert!(
                before < sequence,
                "key {id}: {sequence} after {before}: doubled or out of order"
            );
        }
        let key: Value = serde_json::from_slice(message.key.as_ref().unwrap()).unwrap();
        assert_eq!(
            key["customer_id"], after[identifier],
            "key and value carry the same identifier"
        );
        let label = message.headers.iter().find(|(name, _)| name == "veilstream-policy").unwrap();
        assert!(label.1.as_ref().unwrap().starts_with(b"customers@7#"));
    }
    messages.len()
}

/// Audit counts that add up, over offsets that follow each other.
fn check_audit(messages: &[Message], expected: u64, malformed: u64) {
    let mut runs: BTreeMap<i64, Vec<(i64, i64)>> = BTreeMap::new();
    let (mut records, mut quarantined, mut listed) = (0, 0, 0);
    let (mut published, mut kinds) = (BTreeMap::new(), HashSet::new());
    let mut sequences: HashMap<String, i64> = HashMap::new();
    for message in messages {
        let event: Value = serde_json::from_slice(message.payload.as_ref().unwrap()).unwrap();
        let lane = event["lane"].as_str().unwrap().to_owned();
        let sequence = event["sequence"].as_i64().unwrap();
        let before = sequences.insert(lane.clone(), sequence).unwrap_or(0);
        assert_eq!(sequence, before + 1, "lane {lane} skips or repeats a number");
        kinds.insert(event["kind"].as_str().unwrap().to_owned());
        match event["kind"].as_str().unwrap() {
            "process" => {
                records += event["records"].as_u64().unwrap();
                quarantined += event["quarantined"].as_u64().unwrap();
                for view in event["views"].as_array().unwrap() {
                    let name = view["view"].as_str().unwrap().to_owned();
                    *published.entry(name).or_insert(0) += view["published"].as_u64().unwrap();
                }
                for run in event["offsets"].as_array().unwrap() {
                    let (first, last) =
                        (run["first"].as_i64().unwrap(), run["last"].as_i64().unwrap());
                    assert_eq!(run["records"].as_i64().unwrap(), last - first + 1);
                    runs.entry(run["partition"].as_i64().unwrap()).or_default().push((first, last));
                }
                assert!(event["policy"]["digest"].as_str().unwrap().len() == 64);
                assert!(event["keys"].as_array().unwrap().iter().all(|key| key["id"].is_string()));
            }
            "failure" => listed += event["quarantined"].as_array().unwrap().len() as u64,
            _ => {}
        }
    }
    assert_eq!((records, quarantined, listed), (expected, malformed, malformed));
    assert!(published.values().all(|count| *count == expected - malformed), "{published:?}");
    for (partition, mut runs) in runs {
        runs.sort_unstable();
        assert_eq!(runs[0].0, 0);
        for pair in runs.windows(2) {
            assert_eq!(
                pair[1].0,
                pair[0].1 + 1,
                "partition {partition}: a gap or an overlap in the audit"
            );
        }
    }
    assert!(kinds.contains("change"));
}

fn until(what: &str, seconds: u64, mut reached: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    while !reached() {
        assert!(Instant::now() < deadline, "{what} took more than {seconds} s");
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

#[test]
fn kills_rebalances_and_restarts_lose_and_double_nothing() {
    ordeal("consumer", 100, "");
}

#[test]
fn nor_do_they_under_the_classic_group_protocol() {
    let sessions = "  consumer: { session.timeout.ms: '6000', heartbeat.interval.ms: '1000' }";
    ordeal("classic", 30, sessions);
}

/// `rounds` events for each customer, through workers with these `kafka` settings.
fn ordeal(protocol: &str, rounds: u64, kafka: &str) {
    // A killed member's partitions are free after 6 s, not after the default of 45.
    let sessions = [
        ("group.consumer.min.session.timeout.ms", "6000"),
        ("group.consumer.session.timeout.ms", "6000"),
        ("group.consumer.min.heartbeat.interval.ms", "1000"),
        ("group.consumer.heartbeat.interval.ms", "1000"),
        ("group.min.session.timeout.ms", "6000"),
    ];
    let broker = Broker::start_with(&format!("exactly-once-{protocol}"), &sessions);
    let prefix = format!("eo{}.{protocol}", std::process::id());
    for view in ["raw", "analytics", "fraud"] {
        broker.create_topic(&format!("{prefix}.{view}"), PARTITIONS);
    }
    for topic in ["quarantine", "audit"] {
        broker.create_topic(&format!("{prefix}.{topic}"), 3);
    }
    let mut site = Site::new(broker.bootstrap(), &prefix, &policy(&prefix));
    site.kafka = format!("  group_protocol: {protocol}\n{kafka}");
    // Many small transactions, so that a kill nearly always meets an open one.
    site.extra =
        "batch: { records: 500 }\nlimits: { sources: { RAW: { records_per_second: 12000 } } }"
            .replace("RAW", &format!("{prefix}.raw"));
    let expected = CUSTOMERS * rounds;
    let malformed = (0..expected).filter(|number| number % MALFORMED == 0).count() as u64;

    let raw = format!("{prefix}.raw");
    for sequence in 0..rounds {
        let events: Vec<(String, String)> = (0..CUSTOMERS)
            .map(|customer| (format!(r#"{{"customer_id":{customer}}}"#), event(customer, sequence)))
            .collect();
        let records: Vec<_> = events
            .iter()
            .map(|(key, value)| (Some(key.as_bytes()), Some(value.as_bytes())))
            .collect();
        broker.produce(&raw, &records);
    }

    // The steady one logs all there is to log, for the canaries.
    let steady = WorkerProcess::start(&site, "steady", "debug");
    let consumed = |worker: &WorkerProcess| worker.metric("veilstream_consumed_records_total", "");
    for round in 0..4 {
        let victim = site.start("victim");
        until("the victim's first batches", 90, || {
            consumed(&victim) > 2_000.0 || done(&broker, &prefix, expected)
        });
        victim.kill();
        if round == 1 && !broker.is_external() {
            broker.restart();
        }
        if round == 2 {
            let guest = site.start("guest");
            until("the guest's share", 90, || {
                consumed(&guest) > 500.0 || done(&broker, &prefix, expected)
            });
            assert!(guest.stop().success(), "a graceful stop ends with status 0");
        }
    }
    // Under the name of the killed one: so its open transaction ends at once, and holds up no reader.
    let second = site.start("victim");
    until("all events", 300, || done(&broker, &prefix, expected));
    assert!(steady.stop().success() && second.stop().success());

    let of = |topic: &str| consume_all(broker.bootstrap(), &format!("{prefix}.{topic}"));
    let (analytics, fraud, quarantine, audit) =
        (of("analytics"), of("fraud"), of("quarantine"), of("audit"));
    assert_eq!(check_view(&analytics, "customer_id") as u64, expected - malformed);
    assert_eq!(check_view(&fraud, "customer_id") as u64, expected - malformed);
    let coordinates: HashSet<_> =
        quarantine.iter().map(|message| message.headers[1..3].to_vec()).collect();
    assert_eq!((quarantine.len() as u64, coordinates.len() as u64), (malformed, malformed));
    check_audit(&audit, expected, malformed);

    // No canary in anything that left.
    for (topic, messages) in [
        ("analytics", &analytics),
        ("fraud", &fraud),
        ("quarantine", &quarantine),
        ("audit", &audit),
    ] {
        for message in messages.iter() {
            let parts = [message.key.as_deref(), message.payload.as_deref()];
            let headers = message.headers.iter().map(|(_, value)| value.as_deref());
            for part in parts.into_iter().chain(headers).flatten() {
                let text = String::from_utf8_lossy(part).to_lowercase();
                assert!(!text.contains(CANARY), "a canary in {topic}");
            }
        }
    }
    let logs = site.logs();
    assert!(logs.contains("DEBUG"), "debug logging was on");
    assert!(!logs.to_lowercase().contains(CANARY), "a canary in a log");
}

/// Every raw record has been accounted for.
fn done(broker: &Broker, prefix: &str, expected: u64) -> bool {
    let audit = consume_all(broker.bootstrap(), &format!("{prefix}.audit"));
    let records = audit.iter().filter_map(|message| {
        let event: Value = serde_json::from_slice(message.payload.as_ref()?).ok()?;
        event["records"].as_u64()
    });
    records.sum::<u64>() >= expected
}
