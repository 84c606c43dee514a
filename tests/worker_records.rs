//! What becomes of records on a real broker: views, keys, quarantine and back, and what the metrics say of it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a test that fails here fails where it should"
)]

mod support;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::{Value, json};
use support::broker::{Broker, an_hour_ago, wait_until};
use support::scene::{self, Scene, header, stdout, wait_consumed};
use support::worker::WorkerProcess;

fn broker() -> Arc<Broker> {
    Broker::shared("records")
}

const CUSTOMERS: &str = "
policy: customers
version: 1
source: { topic: PREFIX.raw, format: json }
subject: id
fields: { id: identifier, n: public, email: email, notes: text }
views:
  out:
    topic: PREFIX.out
    classes: { identifier: tokenize, public: keep, email: { mask: email }, text: keep }
";

/// The same with treatments that take everything, and small records.
fn mended(scene: &Scene) -> String {
    let mended = CUSTOMERS.replace("version: 1", "version: 2").replace("text: keep", "text: drop");
    mended.replace("{ mask: email }", "redact").replace("PREFIX", &scene.prefix)
}

#[test]
fn what_cannot_be_sanitized_is_quarantined_listed_shown_and_replayed() {
    let limits = [
        ("raw", "max.message.bytes", "4000000"),
        ("out", "max.message.bytes", "20000"),
        ("quarantine", "max.message.bytes", "500000"),
    ];
    let topics = [("raw", 1), ("out", 2)];
    let scene = Scene::new_with(broker(), "quarantine", CUSTOMERS, &topics, &limits);
    let raw = scene.topic("raw");
    let key = |id| format!(r#"{{"id":{id}}}"#);
    let good = |id, n| format!(r#"{{"id":{id},"n":{n},"email":"canary-{n}@example.com"}}"#);
    let large =
        |size: usize| format!(r#"{{"id":4,"n":4,"notes":"{}"}}"#, "canary".repeat(size / 6));
    let values = [
        good(1, 0),
        r#"{"id":1,"n":1,"email":"canary"#.to_owned(),
        good(1, 2),
        r#"{"id":2,"n":3,"email":true,"notes":"canary"}"#.to_owned(),
        large(30_000),
        // Too large for quarantine as well.
        large(900_000),
        good(1, 6),
    ];
    let ids = [1, 1, 1, 2, 4, 4, 1].map(key);
    let time = an_hour_ago();
    scene.broker.send(ids.iter().zip(&values).map(|(key, value)| {
        let headers = OwnedHeaders::new().insert(Header { key: "trace", value: Some("t-1") });
        let record = BaseRecord::to(&raw).timestamp(time).headers(headers);
        record.key(key.as_bytes()).payload(value.as_bytes())
    }));
    let worker = scene.site.start("one");
    wait_consumed(&worker, 7);

    let published: Vec<Value> = scene.values("out");
    assert_eq!(published.iter().map(|row| &row["n"]).collect::<Vec<_>>(), [0, 2, 6]);
    assert_eq!(published[0]["email"], "c***@example.com");
    let held = scene.consume("quarantine");
    let of = |at: usize| -> Vec<&str> {
        let headers = &held[at].headers;
        headers.iter().map(|(_, value)| str::from_utf8(value.as_ref().unwrap()).unwrap()).collect()
    };
    let label = header(&scene.consume("out")[0], "veilstream-policy").unwrap().to_owned();
    let names = ["source-topic", "source-partition", "source-offset", "stage", "reason", "policy"];
    let expected = [
        (1, "decode", "invalid_json"),
        (3, "transform", "wrong_type"),
        (4, "publish", "too_large"),
    ];
    for (at, (offset, stage, reason)) in expected.into_iter().enumerate() {
        let offset = offset.to_string();
        assert_eq!(of(at)[..6], [&raw, "0", &offset, stage, reason, &label]);
        for ((name, _), expected) in held[at].headers.iter().zip(names) {
            assert_eq!(name, &format!("veilstream-{expected}"));
        }
        assert!(held[at].payload.as_ref().unwrap().len() > 100);
        assert_eq!(held[at].key, Some(format!("{raw}/0/{offset}").into_bytes()));
        assert!(held[at].timestamp > time, "the time of writing: retention counts from there");
    }
    assert_eq!(held[1].headers[6..], [("veilstream-path".into(), Some(b"email".to_vec()))]);
    // In place of the largest: size and digest.
    let size = (values[5].len() + key(4).len()).to_string();
    assert_eq!(of(3)[..7], [&raw, "0", "5", "publish", "too_large", &label, &size]);
    assert_eq!((of(3)[7].len(), held[3].payload.as_deref()), (64, Some(&b""[..])));
    for topic in ["quarantine", "audit"] {
        for message in scene.consume(topic) {
            let headers = message.headers.into_iter().filter_map(|(_, value)| value);
            for part in [message.key, message.payload].into_iter().flatten().chain(headers) {
                assert!(!part.windows(6).any(|part| part == b"canary"), "a value in {topic}");
            }
        }
    }
    let failures = scene.audit("failure");
    let listed: Vec<&Value> =
        failures.iter().flat_map(|event| event["quarantined"].as_array().unwrap()).collect();
    assert_eq!(listed.len(), 4);
    assert_eq!(
        *listed[1],
        json!({"partition": 0, "offset": 3, "stage": "transform", "reason": "wrong_type", "path": "email"})
    );

    // List: nothing is opened.
    let text = stdout(&scene.quarantine("one", "list", &[]));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[1], format!("{raw}/0/3  wrong_type (transform) email  {label}"));
    assert_eq!(
        (lines.len(), lines[4]),
        (5, &*format!("4 records in {}", scene.topic("quarantine")))
    );
    let text = stdout(&scene.quarantine("one", "list", &["--json"]));
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        lines[0],
        json!({"record": format!("{raw}/0/1"), "stage": "decode", "reason": "invalid_json", "path": null,
            "policy": label, "timestamp_ms": held[0].timestamp})
    );
    assert_eq!((lines.len(), &lines[1]["path"]), (4, &json!("email")));
    assert_eq!(scene.audit("access").len(), 0);

    // Show: the raw record, and who saw it for what.
    let wrong = format!("{raw}/0/3");
    let text = stdout(&scene.quarantine("one", "show", &[&wrong, "--purpose", "ticket 4711"]));
    assert_eq!(text, format!("key: {}\nheader trace: t-1\nvalue: {}\n", ids[3], values[3]));
    let access = scene.audit("access").remove(0);
    assert_eq!(access["actor"], scene::user());
    assert_eq!((&access["by"], &access["what"]), (&json!("user"), &json!("quarantine-show")));
    assert_eq!((&access["purpose"], &access["records"]), (&json!("ticket 4711"), &json!([wrong])));
    for absent in [format!("{raw}/0/0"), format!("{raw}/0/5")] {
        let shown = scene.quarantine("one", "show", &[&absent, "--purpose", "ticket 4711"]);
        assert_eq!(shown.status.code(), Some(1), "{absent}");
    }
    assert_eq!(scene.audit("access").len(), 1, "nothing was opened");

    // Replay, once the policy takes the record.
    fs::write(scene.site.path("policy.yaml"), mended(&scene)).unwrap();
    wait_until("the reload", || !scene.changes("policies-replaced").is_empty());
    let one = scene.quarantine("one", "replay", &[&wrong, "--purpose", "mended"]);
    assert!(stdout(&one).starts_with("1 records published"));
    wait_consumed(&worker, 8);
    let back = scene.consume("raw").remove(7);
    assert_eq!(back.payload.as_deref(), Some(values[3].as_bytes()));
    assert_eq!(
        (header(&back, "trace"), header(&back, "veilstream-replayed")),
        (Some("t-1"), Some(&*wrong))
    );
    let messages = scene.consume("out");
    let found = messages.iter().find(|message| scene::json(message)["n"] == 3).unwrap();
    assert_eq!((found.timestamp, found.headers.len()), (time, 1));
    assert!(header(found, "veilstream-policy").unwrap().starts_with("customers@2#"));
    let row = scene::json(found);
    assert_eq!((&row["email"], row.get("notes")), (&json!("[REDACTED]"), None));
    assert_eq!(scene::json(found)["id"], {
        let key: Value = serde_json::from_slice(found.key.as_ref().unwrap()).unwrap();
        key["id"].clone()
    });

    // All: what is still malformed comes to quarantine again, what was too large passes.
    let text = stdout(&scene.quarantine("one", "replay", &["--all", "--purpose", "the rest"]));
    assert!(text.contains("3 records published") && text.contains("1 were too large to be held"));
    wait_consumed(&worker, 11);
    // A commit is answered before its marks are in every partition.
    wait_until("all in quarantine", || scene.consume("quarantine").len() >= 5);
    wait_until("all in the view", || scene.consume("out").len() >= 3 + 1 + 2);
    assert_eq!(scene.consume("out").len(), 3 + 1 + 2);
    assert_eq!(scene.consume("quarantine").len(), 5);
    let access = scene.audit("access").remove(2);
    assert_eq!(
        (&access["what"], &access["purpose"]),
        (&json!("quarantine-replay"), &json!("the rest"))
    );
    assert_eq!(access["records"].as_array().unwrap().len(), 3);
    assert!(worker.stop().success());
    assert!(!scene.site.logs().contains("canary"));
}

#[test]
fn a_record_larger_than_the_default_limit_comes_back_out_of_quarantine() {
    let limits = ["raw", "quarantine"].map(|topic| (topic, "max.message.bytes", "4000000"));
    let topics = [("raw", 1), ("out", 1)];
    let scene = Scene::new_with(broker(), "large", CUSTOMERS, &topics, &limits);
    let value = format!(r#"{{"id":4,"n":4,"notes":"{}"}}"#, "x".repeat(1_500_000));
    scene.produce("raw", &[(Some(r#"{"id":4}"#), &value)]);
    let worker = scene.site.start("one");
    wait_consumed(&worker, 1);
    let held = scene.consume("quarantine");
    assert_eq!(header(&held[0], "veilstream-reason"), Some("too_large"));
    assert!(held[0].payload.as_ref().unwrap().len() > value.len());

    fs::write(scene.site.path("policy.yaml"), mended(&scene)).unwrap();
    worker.signal("HUP");
    wait_until("the reload", || !scene.changes("policies-replaced").is_empty());
    stdout(&scene.quarantine("one", "replay", &["--all", "--purpose", "mended"]));
    wait_consumed(&worker, 2);
    assert_eq!(scene.values("out")[0]["n"], 4);
    assert!(worker.stop().success());
}

#[test]
fn a_keyless_record_for_a_compacted_view_is_quarantined_and_the_lane_goes_on() {
    let policy = "
policy: keyed
version: 1
source: { topic: PREFIX.raw, format: json }
fields: { id: identifier }
views:
  table: { topic: PREFIX.table, default: keep }
  stream: { topic: PREFIX.stream, default: keep }
";
    let compact = [("table", "cleanup.policy", "compact")];
    let topics = [("raw", 1), ("table", 1), ("stream", 1)];
    let scene = Scene::new_with(broker(), "compact", policy, &topics, &compact);
    scene.produce("raw", &[(Some(r#"{"id":1}"#), r#"{"id":1}"#), (None, r#"{"id":2}"#)]);
    // Neither key nor value: it says nothing, and goes nowhere.
    scene.broker.produce(&scene.topic("raw"), &[(None, None)]);
    scene.produce("raw", &[(Some(r#"{"id":3}"#), r#"{"id":3}"#)]);
    let worker = scene.site.start("one");
    wait_consumed(&worker, 4);
    for view in ["table", "stream"] {
        assert_eq!(scene.values(view), [json!({"id": 1}), json!({"id": 3})], "{view}");
    }
    let held = scene.consume("quarantine");
    assert_eq!(held.len(), 1);
    let of = |name| header(&held[0], name).unwrap();
    assert_eq!((of("veilstream-stage"), of("veilstream-reason")), ("publish", "no_key"));
    assert_eq!(of("veilstream-source-offset"), "1");
    assert_eq!(worker.metric("veilstream_quarantined_records_total", "reason=\"no_key\""), 1.0);
    assert_eq!(worker.metric("veilstream_view_records_total", "published"), 4.0);
    assert_eq!(worker.metric("veilstream_transactions_total", "aborted"), 0.0);
    assert_eq!(worker.metric("veilstream_fields_total", ""), 4.0, "as in what was published");
    assert!(worker.stop().success());
}

#[test]
fn a_row_that_leaves_a_view_is_deleted_under_its_key() {
    let policy = "
policy: plans
version: 1
source: { topic: PREFIX.raw, format: debezium }
subject: id
fields: { id: identifier, plan: public }
views:
  gold:
    topic: PREFIX.gold
    where: row.plan == 'gold'
    headers: [trace]
    classes: { identifier: tokenize, public: keep }
";
    const CUSTOMERS: i64 = 20;
    let topics = [("raw", 3), ("gold", 4), ("probe", 4)];
    let scene = Scene::new(broker(), "leave", policy, &topics);
    let raw = scene.topic("raw");
    let start = an_hour_ago();
    let mut events = Vec::new();
    for (step, (op, plan)) in
        [("c", "gold"), ("u", "silver"), ("u", "gold")].into_iter().enumerate()
    {
        for id in 0..CUSTOMERS {
            let value =
                json!({"before": null, "after": {"id": id, "plan": plan}, "op": op, "ts_ms": 1});
            let time = start + 1000 * step as i64 + id;
            events.push((json!({"id": id}).to_string(), value.to_string(), time));
        }
    }
    scene.broker.send(events.iter().map(|(key, value, time)| {
        let headers = OwnedHeaders::new()
            .insert(Header { key: "secret", value: Some("canary") })
            .insert(Header { key: "trace", value: Some("t-1") })
            .insert(Header { key: "veilstream-policy", value: Some("forged@1#0") });
        let record = BaseRecord::to(&raw).timestamp(*time).headers(headers);
        record.key(key.as_bytes()).payload(value.as_bytes())
    }));
    let worker = scene.site.start("one");
    wait_consumed(&worker, events.len() as u64);
    let outcome = |name: &str| {
        worker.metric("veilstream_view_records_total", &format!("outcome=\"{name}\"")) as i64
    };
    assert_eq!(
        ["published", "deleted", "tombstone", "filtered"].map(outcome),
        [2 * CUSTOMERS, CUSTOMERS, CUSTOMERS, 0]
    );
    assert!(worker.stop().success());

    let messages = scene.consume("gold");
    let mut of_key: BTreeMap<&[u8], Vec<_>> = BTreeMap::new();
    for message in &messages {
        of_key.entry(message.key.as_deref().unwrap()).or_default().push(message);
        assert!(header(message, "veilstream-policy").unwrap().starts_with("plans@1#"));
        let names: Vec<&str> = message.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            (names, header(message, "trace")),
            (vec!["veilstream-policy", "trace"], Some("t-1"))
        );
    }
    assert_eq!(of_key.len() as i64, CUSTOMERS);
    let mut seen = BTreeSet::new();
    for (key, messages) in &of_key {
        let partitions: BTreeSet<i32> = messages.iter().map(|message| message.partition).collect();
        assert_eq!(partitions.len(), 1, "one key, one partition");
        let [created, deleted, tombstone, again] = messages[..] else {
            panic!("{} records of a key", messages.len());
        };
        let token: Value = serde_json::from_slice(key).unwrap();
        for (published, op) in [(created, "c"), (again, "u")] {
            let event = scene::json(published);
            assert_eq!((&event["op"], &event["after"]["plan"]), (&json!(op), &json!("gold")));
            assert_eq!(event["after"]["id"], token["id"]);
        }
        let event = scene::json(deleted);
        assert_eq!(event["op"], "d");
        assert!(event["before"].is_null() && event["after"].is_null());
        assert!(tombstone.payload.is_none());
        let second = created.timestamp + 1000;
        assert_eq!(
            [deleted, tombstone, again].map(|m| m.timestamp),
            [second, second, second + 1000]
        );
        seen.insert(created.timestamp - start);
    }
    assert_eq!(seen, (0..CUSTOMERS).collect());

    // Keys go where another client with the Java partitioner takes them.
    let keys: Vec<_> = of_key.keys().map(|key| (Some(*key), Some(&b"-"[..]))).collect();
    scene.broker.produce(&scene.topic("probe"), &keys);
    let probe = scene.consume("probe");
    for message in &probe {
        let there = of_key[message.key.as_deref().unwrap()][0];
        assert_eq!(there.partition, message.partition);
    }
    assert!(probe.iter().map(|message| message.partition).collect::<BTreeSet<_>>().len() > 1);
}

#[test]
fn two_policies_and_a_pattern_share_a_worker() {
    let policy = |name: &str, source: &str| {
        format!(
            "
policy: {name}
version: 1
source: {{ topic: '{source}', format: json }}
fields: {{ id: identifier }}
views: {{ out: {{ topic: PREFIX-out.{name}, key: drop, default: keep }} }}
"
        )
    };
    let topics = [("eu.de", 2), ("eu.fr", 1), ("us", 1)];
    let scene = Scene::new(broker(), "pattern", &policy("europe", r"^PREFIX\.eu\..*"), &topics);
    for name in ["europe", "states"] {
        scene.broker.create_topic(&format!("{}-out.{name}", scene.prefix), 2);
    }
    let states = policy("states", "PREFIX.us").replace("PREFIX", &scene.prefix);
    fs::write(scene.site.path("policy-states.yaml"), states).unwrap();
    for (topic, id) in [("eu.de", 1), ("eu.fr", 2), ("us", 3)] {
        scene.produce(topic, &[(None, &format!(r#"{{"id":{id}}}"#))]);
    }
    let worker = scene.site.start("one");
    wait_consumed(&worker, 3);
    let ids = |name: &str| {
        let messages = scene.broker.consume(&format!("{}-out.{name}", scene.prefix));
        assert!(messages.iter().all(|message| {
            header(message, "veilstream-policy").unwrap().starts_with(&format!("{name}@1#"))
        }));
        messages.iter().map(|m| scene::json(m)["id"].as_i64().unwrap()).collect::<BTreeSet<_>>()
    };
    assert_eq!((ids("europe"), ids("states")), ([1, 2].into(), [3].into()));
    for topic in ["eu.de", "eu.fr", "us"] {
        let label = format!("topic=\"{}\"", scene.topic(topic));
        assert_eq!(worker.metric("veilstream_consumed_records_total", &label), 1.0);
    }
    assert!(worker.stop().success());
}

/// A sample: name, labels, value.
type Sample = (String, BTreeMap<String, String>, f64);

fn samples(text: &str) -> Vec<Sample> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let sample = |line: &str| {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let labels = labels.strip_suffix('}').unwrap().split("\",").filter(|one| !one.is_empty());
        let pair = |one: &str| {
            let (label, value) = one.split_once("=\"").unwrap();
            (label.to_owned(), value.trim_end_matches('"').to_owned())
        };
        (name.to_owned(), labels.map(pair).collect(), value.parse().unwrap())
    };
    lines.map(sample).collect()
}

#[test]
fn the_metrics_of_a_run_are_all_there_and_hold_no_value() {
    let policy = "
policy: customers
version: 3
source: { topic: PREFIX.raw, format: json }
fields: { id: identifier, email: email, plan: public }
views:
  some:
    topic: PREFIX.some
    where: row.plan != 'internal'
    classes: { identifier: tokenize, email: { mask: email }, public: keep }
  all:
    topic: PREFIX.all
    classes: { identifier: tokenize, email: encrypt, public: keep }
";
    let topics = [("raw", 2), ("some", 1), ("all", 1)];
    let scene = Scene::new(broker(), "metrics", policy, &topics);
    let row = |id: i64, rest: &str| format!(r#"{{"id":{id},"email":"canary@example.com"{rest}}}"#);
    let key = Some(r#"{"id":7}"#);
    let records = [
        (key, row(7, r#","plan":"gold""#)),
        (key, row(7, r#","plan":"gold","canary_name":"canary""#)),
        (None, row(7, r#","plan":"internal""#)),
        (key, row(7, r#","plan":"internal""#)),
        // Without what the condition reads.
        (None, row(7, "")),
        (key, "{canary".to_owned()),
        (key, r#"{"id":7,"email":["canary"]}"#.to_owned()),
    ];
    let records: Vec<_> = records.iter().map(|(key, value)| (*key, value.as_str())).collect();
    scene.produce("raw", &records);
    let worker = scene.site.start("one");
    wait_consumed(&worker, 7);
    let text = worker.get("/metrics").unwrap().1;
    let found = samples(&text);
    let sum = |name: &str, labels: &[(&str, &str)]| {
        let fits = |one: &&Sample| {
            one.0 == format!("veilstream_{name}")
                && labels.iter().all(|(label, value)| one.1.get(*label).is_some_and(|v| v == value))
        };
        found.iter().filter(fits).map(|one| one.2).sum::<f64>()
    };
    let raw = scene.topic("raw");
    let topic = [("topic", raw.as_str())];
    assert_eq!(sum("consumed_records_total", &topic), 7.0);
    let bytes = records.iter().map(|(key, value)| key.map_or(0, str::len) + value.len());
    assert_eq!(sum("consumed_bytes_total", &topic), bytes.sum::<usize>() as f64);
    for (view, expected) in [("some", [2.0, 0.0, 1.0, 2.0]), ("all", [5.0, 0.0, 0.0, 0.0])] {
        let of = |outcome| sum("view_records_total", &[("view", view), ("outcome", outcome)]);
        assert_eq!(["published", "deleted", "tombstone", "filtered"].map(of), expected, "{view}");
        let size = |message: &support::broker::Message| {
            let headers =
                // Ten for the framing of each.
                message.headers.iter().map(|(n, v)| 10 + n.len() + v.as_ref().map_or(0, Vec::len));
            let parts =
                [&message.key, &message.payload].map(|part| part.as_ref().map_or(0, Vec::len));
            headers.sum::<usize>() + parts.iter().sum::<usize>()
        };
        let bytes: usize = scene.consume(view).iter().map(size).sum();
        assert_eq!(sum("view_bytes_total", &[("view", view)]), bytes as f64, "{view}");
    }
    let fields = [
        ("some", "identifier", "tokenize", 2.0),
        ("some", "email", "mask", 2.0),
        ("some", "public", "keep", 2.0),
        ("all", "identifier", "tokenize", 5.0),
        ("all", "email", "encrypt", 5.0),
        ("all", "public", "keep", 4.0),
    ];
    for (view, class, operator, count) in fields {
        let labels = [("view", view), ("class", class), ("operator", operator)];
        assert_eq!(sum("fields_total", &labels), count, "{labels:?}");
    }
    assert_eq!(sum("fields_total", &[("policy", "customers")]), 20.0);
    for (stage, reason) in [("decode", "invalid_json"), ("transform", "wrong_type")] {
        let labels = [("topic", raw.as_str()), ("stage", stage), ("reason", reason)];
        assert_eq!(sum("quarantined_records_total", &labels), 1.0);
    }
    assert_eq!(sum("quarantined_records_total", &[]), 2.0);
    assert_eq!(sum("condition_errors_total", &[("view", "some")]), 1.0);
    assert_eq!(sum("unclassified_fields_total", &[("policy", "customers")]), 1.0);
    assert_eq!(sum("unclassified_names_total", &[("policy", "customers")]), 1.0);
    let uses: Vec<f64> =
        found.iter().filter(|one| one.0 == "veilstream_key_uses_total").map(|one| one.2).collect();
    assert_eq!(uses.iter().copied().sum::<f64>(), 12.0, "tokens and ciphertexts: {uses:?}");
    assert!(uses.contains(&7.0) && uses.contains(&5.0));
    assert_eq!(sum("latency_seconds_count", &topic), 7.0);
    assert_eq!(sum("latency_seconds_bucket", &[("le", "+Inf")]), 7.0);
    let committed = sum("transactions_total", &[("outcome", "committed")]);
    assert!(committed >= 1.0);
    for stage in ["gather", "transform", "commit"] {
        assert_eq!(sum("stage_seconds_count", &[("stage", stage)]), committed, "{stage}");
    }
    assert_eq!(sum("transactions_total", &[("outcome", "aborted")]), 0.0);
    assert_eq!(sum("assigned_partitions", &[("lane", "0")]), 2.0);
    assert_eq!(sum("lane_ready", &[("lane", "0")]), 1.0);
    let label = header(&scene.consume("all")[0], "veilstream-policy").unwrap().to_owned();
    let digest = label.split_once('#').unwrap().1;
    let labels = [("policy", "customers"), ("version", "3"), ("digest", digest)];
    assert_eq!((sum("policy_info", &labels), sum("policy_info", &[])), (1.0, 1.0));

    // Labels are names of the configuration, codes, numbers and opaque ids, and nothing else.
    let names = "customers some all identifier email public tokenize mask encrypt keep published deleted \
        tombstone filtered held released suppressed figures decode transform invalid_json wrong_type gather commit committed aborted +Inf applied refused process failure change \
        consumer producer sent_bytes received_bytes requests errors retries timeouts disconnects rebalances sent failed field token cached read";
    let mut known: BTreeSet<&str> = names.split(' ').filter(|name| !name.is_empty()).collect();
    known.extend([raw.as_str(), digest, env!("CARGO_PKG_VERSION")]);
    let mut hex: HashMap<&str, usize> = HashMap::new();
    for (name, labels, _) in &found {
        let is_ours = name.starts_with("veilstream_");
        assert!(is_ours || name.starts_with("process_") && labels.is_empty(), "{name}");
        for (label, value) in labels {
            if label == "key" {
                assert!(value.len() == 32 && value.bytes().all(|byte| byte.is_ascii_hexdigit()));
                *hex.entry(value).or_default() += 1;
            } else {
                let fits = known.contains(value.as_str()) || value.parse::<f64>().is_ok();
                assert!(fits, "{name}: {label}={value}");
            }
        }
    }
    assert!(hex.len() >= 2 && !text.contains("canary"));
    assert!(worker.stop().success());
}

#[test]
fn the_lag_is_nothing_once_all_is_consumed_and_after_a_restart_as_well() {
    let mut scene = Scene::new(broker(), "lag", CUSTOMERS, &[("raw", 2), ("out", 2)]);
    scene.site.kafka = "  consumer: { statistics.interval.ms: '200' }".into();
    for _ in 0..2 {
        let rows: Vec<_> = (0..50).map(|id| format!(r#"{{"id":{id}}}"#)).collect();
        let records: Vec<_> = rows.iter().map(|row| (Some(row.as_str()), row.as_str())).collect();
        scene.produce("raw", &records);
        let worker = scene.site.start("one");
        wait_consumed(&worker, 50);
        wait_until("no lag in either partition", || {
            let text = worker.get("/metrics").unwrap().1;
            let found = samples(&text).into_iter().filter(|one| one.0 == "veilstream_lag_records");
            found.map(|one| one.2).collect::<Vec<_>>() == [0.0, 0.0]
        });
        assert!(worker.stop().success());
    }
}

/// Behind the records of a transaction stands its mark, which takes an offset and is no record.
#[test]
fn a_source_that_is_written_in_transactions_has_no_lag_once_all_is_consumed() {
    let mut scene = Scene::new(broker(), "marks", CUSTOMERS, &[("raw", 1), ("out", 1)]);
    scene.site.kafka = "  consumer: { statistics.interval.ms: '200' }".into();
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", scene.broker.bootstrap())
        .set("transactional.id", &scene.prefix)
        .create()
        .unwrap();
    let within = Duration::from_secs(30);
    producer.init_transactions(within).unwrap();
    let raw = scene.topic("raw");
    let transaction = |records: i32, commit: bool| {
        producer.begin_transaction().unwrap();
        for id in 0..records {
            let row = format!(r#"{{"id":{id}}}"#);
            producer.send(BaseRecord::to(&raw).key(&row).payload(&row)).unwrap();
        }
        producer.flush(within).unwrap();
        match commit {
            true => producer.commit_transaction(within).unwrap(),
            false => producer.abort_transaction(within).unwrap(),
        }
    };
    let lag = |worker: &WorkerProcess| {
        let text = worker.get("/metrics").map_or(String::new(), |(_, text)| text);
        let found = samples(&text).into_iter().filter(|one| one.0 == "veilstream_lag_records");
        found.map(|one| one.2).collect::<Vec<_>>()
    };
    transaction(10, true);
    let worker = scene.site.start("one");
    wait_consumed(&worker, 10);
    wait_until("no lag behind one mark", || lag(&worker) == [0.0]);
    transaction(10, false);
    transaction(5, true);
    wait_consumed(&worker, 15);
    wait_until("no lag behind three", || lag(&worker) == [0.0]);
    assert!(worker.stop().success());
    transaction(7, false);
    let worker = scene.site.start("one");
    wait_until("nor after a restart", || lag(&worker) == [0.0]);
    assert!(worker.stop().success());
}

#[test]
fn records_that_the_broker_refuses_are_found_and_quarantined() {
    let policy = "
policy: late
version: 1
source: { topic: PREFIX.raw, format: json }
fields: { n: public }
views: { view: { topic: PREFIX.view, key: drop, default: keep } }
";
    const HOUR_MS: i64 = 3_600_000;
    const COUNT: usize = 20_000;
    let settings = [("view", "message.timestamp.before.max.ms", "3600000")];
    let scene = Scene::new_with(broker(), "late", policy, &[("raw", 1), ("view", 1)], &settings);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let now = now.as_millis() as i64;
    let values: Vec<String> = (0..COUNT).map(|n| format!(r#"{{"n":{n}}}"#)).collect();
    // The first while the lane still sends, two beside each other, the last.
    let late = |n: usize| [5, 7_000, 7_001, COUNT - 1].contains(&n);
    let topic = scene.topic("raw");
    let records = values.iter().enumerate().map(|(n, value)| {
        let mut record = BaseRecord::<[u8], [u8]>::to(&topic).payload(value.as_bytes());
        record.timestamp = Some(if late(n) { now - 2 * HOUR_MS } else { now });
        record
    });
    scene.broker.send(records);
    let worker = scene.site.start("one");
    wait_consumed(&worker, COUNT as u64);
    let published: Vec<_> = (0..COUNT).filter(|n| !late(*n)).map(|n| json!({ "n": n })).collect();
    assert_eq!(scene.values("view"), published);
    let held = scene.consume("quarantine");
    let offsets: Vec<_> =
        held.iter().map(|one| header(one, "veilstream-source-offset").unwrap()).collect();
    assert_eq!(offsets, ["5", "7000", "7001", "19999"]);
    for one in &held {
        assert_eq!(header(one, "veilstream-reason").unwrap(), "refused");
        assert!(one.timestamp > now - HOUR_MS, "the time of writing");
    }
    assert_eq!(scene.check_audit("raw"), COUNT as u64);
    assert!(worker.stop().success());
}

#[test]
fn a_source_that_is_not_there_is_told_and_waited_for() {
    let policy = "
policy: absent
version: 1
source: { topic: PREFIX.absent, format: json }
fields: { n: public }
views: { view: { topic: PREFIX.view, key: drop, default: keep } }
";
    let mut scene = Scene::new(broker(), "absent", policy, &[("view", 1)]);
    scene.site.kafka = "  consumer: { topic.metadata.refresh.interval.ms: '500' }".into();
    let worker = scene.site.start("one");
    let missing = || worker.metric("veilstream_source_missing", &scene.topic("absent"));
    wait_until("the missing topic in the metrics", || missing() == 1.0);
    assert_eq!(worker.get("/readyz").unwrap().0, 503);
    scene.broker.create_topic(&scene.topic("absent"), 1);
    scene.produce("absent", &[(None, r#"{"n":1}"#)]);
    wait_consumed(&worker, 1);
    assert_eq!(missing(), 0.0);
    wait_until("a worker that is ready", || worker.get("/readyz").unwrap().0 == 200);
    assert_eq!(scene.values("view"), [json!({ "n": 1 })]);
    assert!(worker.stop().success());
}
