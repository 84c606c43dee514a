//! The events of the delivery tests, whose values are all canaries, and what must have become of them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::broker::{Broker, Message, consume_each};
use super::worker::Site;

/// The records of a customer follow each other.
pub const CUSTOMERS: u64 = 2_000;
/// Stands in every sensitive value. Shorter words turn up in a hundred million characters of ciphertext by chance.
const CANARY: &str = "canarybird";
/// One event in so many is cut off in the middle.
const MALFORMED: u64 = 997;

/// What a read_committed consumer found.
pub struct Figures {
    pub quarantined: u64,
    /// The longest time in which nothing was committed, by the timestamps of the audit topic.
    pub longest_pause: Duration,
}

pub fn policy(prefix: &str) -> String {
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

/// Key and value of the event of that number, from 0.
pub fn event(number: u64) -> (String, String) {
    let (customer, sequence) = (number % CUSTOMERS, number / CUSTOMERS);
    let row = format!(
        r#"{{"customer_id":{customer},"sequence":{sequence},"email":"canarybird-{customer}-{sequence}@example.com","full_name":"Canarybird Name {customer}","card_number":"4canarybird{customer}","notes":"canarybird note {sequence}","unknown_field":"canarybird unknown"}}"#
    );
    let mut event = format!(
        r#"{{"before":null,"after":{row},"source":{{"connector":"postgresql","query":"canarybird query"}},"op":"u","ts_ms":1}}"#
    );
    if number.is_multiple_of(MALFORMED) {
        event.truncate(event.find("\"op\"").unwrap());
    }
    (format!(r#"{{"customer_id":{customer}}}"#), event)
}

/// Waits until the audit trail accounts for so many raw records.
pub fn wait_accounted(broker: &Broker, prefix: &str, events: u64, seconds: u64) {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        let found = accounted(broker, prefix);
        if found >= events {
            return;
        }
        assert!(Instant::now() < deadline, "{found} of {events} accounted for after {seconds} s");
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

/// How many raw records the audit trail accounts for.
pub fn accounted(broker: &Broker, prefix: &str) -> u64 {
    let audit = broker.consume(&format!("{prefix}.audit"));
    let records = audit.iter().filter_map(|message| {
        let event: Value = serde_json::from_slice(message.payload.as_ref()?).ok()?;
        event["records"].as_u64()
    });
    records.sum::<u64>()
}

pub fn until(what: &str, seconds: u64, mut reached: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    while !reached() {
        assert!(Instant::now() < deadline, "{what} took more than {seconds} s");
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

/// The first so many events stand in each view once, in order per key, or in quarantine once; the audit trail
/// accounts for every one of them once, without a gap; and no canary is in anything that left, or in a log.
pub fn check(broker: &Broker, prefix: &str, events: u64, site: &Site) -> Figures {
    let malformed = events.div_ceil(MALFORMED);
    let each = |topic: &str, mut look: Box<dyn FnMut(&Message) + '_>| {
        consume_each(broker.bootstrap(), &format!("{prefix}.{topic}"), |message| {
            assert!(!holds_canary(&message), "a canary in {topic}");
            look(&message);
        });
    };
    for view in ["analytics", "fraud"] {
        let mut last = HashMap::new();
        let mut found = 0;
        each(
            view,
            Box::new(|message| {
                check_event(message, &mut last);
                found += 1;
            }),
        );
        assert_eq!(found, events - malformed, "events in {view}");
    }

    let mut coordinates = HashSet::new();
    let mut quarantined = 0;
    each(
        "quarantine",
        Box::new(|message| {
            quarantined += 1;
            coordinates.insert(message.headers[1..3].to_vec());
        }),
    );
    assert_eq!((quarantined, coordinates.len() as u64), (malformed, malformed));

    let mut audit = Vec::new();
    each("audit", Box::new(|message| audit.push(message.clone())));
    check_audit(&audit, events, malformed);

    let logs = site.logs();
    assert!(!logs.is_empty() && !logs.to_lowercase().contains(CANARY), "a canary in a log");

    let mut times: Vec<_> = audit.iter().map(|message| message.timestamp.unsigned_abs()).collect();
    times.sort_unstable();
    let longest = times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
    Figures { quarantined, longest_pause: Duration::from_millis(longest) }
}

fn holds_canary(message: &Message) -> bool {
    let parts = [message.key.as_deref(), message.payload.as_deref()];
    let headers = message.headers.iter().map(|(_, value)| value.as_deref());
    parts
        .into_iter()
        .chain(headers)
        .flatten()
        .any(|part| String::from_utf8_lossy(part).to_lowercase().contains(CANARY))
}

/// An event of a view comes after the last one of its key, and is labelled.
fn check_event(message: &Message, last: &mut HashMap<(i32, String), i64>) {
    let event: Value = serde_json::from_slice(message.payload.as_ref().unwrap()).unwrap();
    let after = &event["after"];
    let id = after["customer_id"].to_string();
    let sequence = after["sequence"].as_i64().unwrap();
    if let Some(before) = last.insert((message.partition, id.clone()), sequence) {
        assert!(before < sequence, "key {id}: {sequence} after {before}: doubled or out of order");
    }
    let key: Value = serde_json::from_slice(message.key.as_ref().unwrap()).unwrap();
    assert_eq!(key["customer_id"], after["customer_id"], "key and value carry one identifier");
    let label = message.headers.iter().find(|(name, _)| name == "veilstream-policy").unwrap();
    assert!(label.1.as_ref().unwrap().starts_with(b"customers@7#"));
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
