//! Every sensitive value of a corpus is a marker, and no marker leaves: not by a topic, a log, a metric or an error,
//! whatever is wrong with the record and whatever happens to the worker.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a test that fails here fails where it should"
)]

mod support;

use std::io::Write;
use std::process::{Command, Stdio};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::json;
use support::broker::{Broker, consume_all, wait_until};
use support::worker::{BINARY, Site, WorkerProcess};

/// What all markers have in common. Some are written with their first letter escaped, so it is left out here.
/// Shorter ones turn up in ciphertexts by chance.
const MARKER: &str = "anari000";
/// What all numbers that are markers have in common.
const NUMBER: &str = "7730019";

fn policy(prefix: &str) -> String {
    format!(
        "
policy: canaries
version: 1
source: {{ topic: {prefix}.raw, format: debezium }}
subject: id
fields:
  id: identifier
  name: name
  email: email
  phone: phone
  card: payment_card
  birth_date: birth_date
  notes: free_text
  home: place
  'contacts[].name': name
  'labels.*': name
  'deep.**': free_text
  plan: public
views:
  open:
    topic: {prefix}.open
    where: \"row.plan != 'none' && row.email.contains('@')\"
    headers: [traceparent]
    classes: {{ identifier: tokenize, name: redact, email: {{ mask: {{ kind: email, keep_first: 0 }} }}, phone: {{ mask: phone }},
               payment_card: hash, birth_date: {{ generalize: {{ date: year }} }}, free_text: encrypt, place: drop, public: keep }}
  closed:
    topic: {prefix}.closed
    key: tokenize
    classes: {{ identifier: hash, name: encrypt, email: tokenize, phone: drop, payment_card: {{ mask: payment_card }},
               birth_date: 'null', free_text: drop, place: {{ replace: somewhere }}, public: keep }}
"
    )
}

struct Raw {
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    header: Option<String>,
}

/// Makes records of which everything but `plan` and the envelope is a marker.
struct Corpus {
    markers: u32,
    random: StdRng,
    records: Vec<Raw>,
}

impl Corpus {
    fn text(&mut self) -> String {
        self.markers += 1;
        format!("kanari000{:07}", self.markers)
    }

    fn number(&mut self) -> u64 {
        self.markers += 1;
        format!("{NUMBER}{:06}", self.markers).parse().unwrap()
    }

    fn row(&mut self) -> serde_json::Value {
        json!({
            "id": self.number(),
            "name": self.text(),
            "email": format!("{}@example.com", self.text()),
            "phone": format!("+{}", self.number()),
            "card": self.number().to_string(),
            "birth_date": "1985-04-12",
            "notes": format!("\"{}\"\n\\ {}", self.text(), self.number()),
            "home": { "street": self.text(), "zip": [self.number(), self.text()] },
            "contacts": [{ "name": self.text(), "other": self.text() }, self.text(), [self.text()]],
            "labels": { "a": self.text(), (self.text()): [self.number()] },
            "deep": [[{ "x": self.text() }], self.number()],
            "plan": "gold",
            "unknown": self.text(),
            (self.text()): self.number(),
        })
    }

    fn event(&mut self, op: &str) -> String {
        let before = if op == "c" || op == "r" { json!(null) } else { self.row() };
        let after = if op == "d" { json!(null) } else { self.row() };
        json!({
            "before": before, "after": after, "op": op, "ts_ms": 1,
            "source": { "db": "crm", "query": self.text(), "user_name": self.text(), "lsn": 1 },
            "extra": self.text(), (self.text()): { "op": self.text() },
        })
        .to_string()
    }

    fn push(&mut self, value: impl Into<Vec<u8>>) {
        let key = json!({ "id": self.number() }).to_string().into_bytes();
        let header = self.text();
        self.records.push(Raw { key: Some(key), value: Some(value.into()), header: Some(header) });
    }

    fn build() -> Corpus {
        let mut corpus =
            Corpus { markers: 0, random: StdRng::seed_from_u64(3), records: Vec::new() };
        for _ in 0..50 {
            for op in ["c", "r", "u", "d"] {
                let event = corpus.event(op);
                corpus.push(event.replace("kanari", "\\u006banari"));
                corpus.push(event);
            }
        }
        // Cut off anywhere, and damaged anywhere.
        let event = corpus.event("u");
        for end in (0..event.len()).step_by(11) {
            corpus.push(&event.as_bytes()[..end]);
        }
        for _ in 0..300 {
            let mut damaged = event.clone().into_bytes();
            let at = corpus.random.random_range(0..damaged.len());
            damaged[at] = *[0xff, 0, b'"', b'\\', b'{', b'}', b'[', b',', b':', b'1']
                .get(corpus.random.random_range(0..10))
                .unwrap();
            corpus.push(damaged);
        }
        corpus.shapes();
        corpus.keys();
        corpus
    }

    /// Every field with a value of every other kind.
    fn shapes(&mut self) {
        for field in
            ["id", "name", "email", "phone", "card", "birth_date", "notes", "home", "plan", "deep"]
        {
            let (text, number) = (self.text(), self.number());
            let values = [
                json!(text),
                json!(number),
                json!({ "a": text, (text.clone()): number }),
                json!([text, number, { "b": text }]),
                json!({ "op": "c", "after": { "plan": text } }),
            ];
            for value in values {
                // A `plan` that is text is kept by the policy: it is no secret.
                if field == "plan" && !value.is_object() && !value.is_array() {
                    continue;
                }
                let mut row = self.row();
                row[field] = value;
                self.push(json!({ "op": "c", "after": row }).to_string());
            }
        }
        for image in [json!("text"), json!(7), json!([1]), json!({})] {
            let marker = self.text();
            let image = image.to_string().replace("text", &marker);
            self.push(format!(r#"{{"op":"c","after":{image},"note":"{marker}"}}"#));
        }
        let row = self.row();
        // MongoDB's images, and one that is broken inside.
        self.push(json!({ "op": "c", "after": row.to_string() }).to_string());
        self.push(json!({ "op": "c", "after": row.to_string()[..60] }).to_string());
        let marker = self.text();
        for event in [
            json!({ "op": "m", "message": { "prefix": marker, "content": marker } }),
            json!({ "op": marker, "after": row }),
            json!({ "op": "c", "ts_ms": marker, "after": row }),
            json!({ "op": "t", "before": row, "after": row }),
            json!({ "schema": { "type": marker }, "payload": { "op": "c", "after": row } }),
            json!({ "schema": { "type": "struct", "fields": [
                { "field": "after", "type": "struct", "doc": marker, "fields": [
                    { "field": "name", "type": "string", "default": marker, "doc": marker },
                    { "field": marker, "type": "string" },
                ] }, { "field": marker, "type": "int32" },
            ] }, "payload": { "op": "c", "after": { "name": marker, (marker.clone()): 1 } } }),
            json!(marker),
            json!([marker]),
        ] {
            self.push(event.to_string());
        }
        let deep = format!(r#"{}"{marker}"{}"#, "[".repeat(400), "]".repeat(400));
        self.push(format!(r#"{{"op":"c","after":{{"deep":{deep}}}}}"#));
        self.push(format!(
            r#"{{"op":"c","after":{{"name":"{marker}","name":"{marker}","id":1}}}}"#
        ));
        // Larger than the topic takes, and so large that quarantine does not hold it either.
        for size in [700_000, 900_000] {
            let mut row = self.row();
            row["notes"] = json!(self.text().repeat(size / 13));
            self.push(json!({ "op": "c", "after": row }).to_string());
        }
    }

    /// Keys that are no objects, or hold what no rule names.
    fn keys(&mut self) {
        for _ in 0..20 {
            let (text, event) = (self.text(), self.event("u"));
            let number = self.number();
            let keys = [
                text.clone().into_bytes(),
                json!(text).to_string().into_bytes(),
                json!({ "id": number, (text.clone()): text }).to_string().into_bytes(),
                json!({ "email": text }).to_string().into_bytes(),
                json!({ "id": { "x": text } }).to_string().into_bytes(),
                format!("{{\"id\":\"{text}").into_bytes(),
                [text.as_bytes(), b"\xff"].concat(),
            ];
            for key in keys {
                let value = Some(event.clone().into_bytes());
                self.records.push(Raw { key: Some(key.clone()), value, header: None });
                self.records.push(Raw { key: Some(key), value: None, header: Some(text.clone()) });
            }
            self.records.push(Raw { key: None, value: Some(event.into_bytes()), header: None });
        }
    }
}

fn produce(broker: &Broker, topic: &str, records: &[Raw]) {
    let mut config = broker.client();
    let producer: BaseProducer = config.set("message.max.bytes", "2000000").create().unwrap();
    for record in records {
        let mut headers = OwnedHeaders::new();
        if let Some(marker) = &record.header {
            let value = Some(marker.as_bytes());
            headers = headers.insert(Header { key: "user", value });
            headers = headers.insert(Header { key: marker, value });
        }
        let mut message: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic).headers(headers);
        message.key = record.key.as_deref();
        message.payload = record.value.as_deref();
        producer.send(message).map_err(|(error, _)| error).unwrap();
        producer.poll(std::time::Duration::ZERO);
    }
    producer.flush(std::time::Duration::from_secs(30)).unwrap();
}

/// How many markers stand in a text.
fn markers(text: &[u8]) -> usize {
    let text = String::from_utf8_lossy(text).to_lowercase();
    text.matches(MARKER).count() + text.matches(NUMBER).count()
}

#[test]
fn no_marker_leaves() {
    let broker = Broker::start("canary");
    let prefix = format!("canary{}", std::process::id());
    let of = |name: &str| format!("{prefix}.{name}");
    broker.create_topic_with(&of("raw"), 3, &[("max.message.bytes", "2000000")]);
    for name in ["open", "closed", "quarantine", "audit"] {
        broker.create_topic(&of(name), 3);
    }
    let policy = policy(&prefix);
    let mut site = Site::new(broker.bootstrap(), &prefix, &policy);
    // All that librdkafka has to tell, too.
    site.kafka = "  properties: { debug: all }\n  transaction_timeout_ms: 20000".into();
    site.extra = "batch: { records: 100 }".into();
    let corpus = Corpus::build();
    let total = corpus.records.len();
    let (first, second) = corpus.records.split_at(total / 2);
    produce(&broker, &of("raw"), first);

    let consumed =
        |worker: &WorkerProcess| worker.metric("veilstream_consumed_records_total", "") as usize;
    let victim = WorkerProcess::start(&site, "worker", "trace");
    wait_until("the first batches", || consumed(&victim) > 200);
    let mut metrics = vec![victim.get("/metrics").unwrap().1];
    victim.kill();

    let worker = WorkerProcess::start(&site, "worker", "trace");
    wait_until("a worker that is ready", || {
        worker.get("/readyz").is_some_and(|(status, _)| status == 200)
    });
    std::fs::write(site.path("policy.yaml"), policy.replace("mask: phone", "msak: phone")).unwrap();
    worker.signal("HUP");
    let refused = "outcome=\"refused\"";
    wait_until("a refused policy", || {
        worker.metric("veilstream_policy_reloads_total", refused) > 0.0
    });
    produce(&broker, &of("raw"), second);
    let accounted = || {
        let audit = consume_all(broker.bootstrap(), &of("audit"));
        let events = audit.iter().filter_map(|message| {
            serde_json::from_slice::<serde_json::Value>(message.payload.as_ref()?).ok()
        });
        events.filter_map(|event| event["records"].as_u64()).sum::<u64>() as usize
    };
    wait_until("every record in the audit trail", || accounted() == total);
    metrics.push(worker.get("/metrics").unwrap().1);
    std::fs::write(site.path("policy.yaml"), &policy).unwrap();

    // What commands say of the same events.
    let said = commands(&site, &corpus);
    assert!(worker.stop().success());

    // The markers are there to be found: the test can fail.
    let raw = consume_all(broker.bootstrap(), &of("raw"));
    let here: usize =
        raw.iter().filter_map(|message| message.payload.as_deref()).map(markers).sum();
    assert!(raw.len() == total && here > 10_000, "{here} markers in {} records", raw.len());

    for name in ["open", "closed", "quarantine", "audit"] {
        let messages = consume_all(broker.bootstrap(), &of(name));
        assert!(messages.len() > 20, "{} records in {name}", messages.len());
        for message in &messages {
            let headers = message
                .headers
                .iter()
                .flat_map(|(name, value)| [Some(name.as_bytes()), value.as_deref()]);
            let parts = [message.key.as_deref(), message.payload.as_deref()];
            for part in parts.into_iter().chain(headers).flatten() {
                let place = format!("{name}/{}/{}", message.partition, message.offset);
                assert_eq!(markers(part), 0, "{place}: {}", String::from_utf8_lossy(part));
            }
        }
    }
    let logs = site.logs();
    assert!(logs.contains("TRACE") || logs.contains("DEBUG"), "all is logged");
    assert!(logs.contains("quarantined"), "failures are logged");
    for (what, text) in [("logs", &logs), ("metrics", &metrics.concat()), ("commands", &said)] {
        let line = text.lines().find(|line| markers(line.as_bytes()) > 0);
        assert_eq!(line, None, "a marker in {what}");
    }
}

/// Everything that `quarantine list` and `apply` print, of each record that is one line.
fn commands(site: &Site, corpus: &Corpus) -> String {
    let config = site.path("worker.yaml");
    let mut said = String::new();
    for arguments in [&["quarantine", "list"][..], &["quarantine", "list", "--json"]] {
        let out = Command::new(BINARY).args(arguments).arg("-c").arg(&config).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        said += &String::from_utf8_lossy(&[out.stdout, out.stderr].concat());
    }
    let values = || corpus.records.iter().filter_map(|record| record.value.as_deref());
    let lines: Vec<&[u8]> = values().filter(|value| !value.contains(&b'\n')).collect();
    let mut apply = |lines: &[u8], extra: &[&str]| {
        let mut child = Command::new(BINARY)
            .args(["apply", "--view", "open", "--keys"])
            .arg(site.path("keys.json"))
            .args(extra)
            .arg(site.path("policy.yaml"))
            .current_dir(site.folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let all = std::thread::scope(|scope| {
            scope.spawn(move || {
                let _ = stdin.write_all(lines);
            });
            child.wait_with_output().unwrap()
        });
        said += &String::from_utf8_lossy(&[all.stdout, all.stderr].concat());
        all.status.code()
    };
    // One that cannot be sanitized ends the work; with a quarantine all go through.
    let failures = lines.iter().rev().filter(|line| apply(line, &[]) == Some(1)).take(40).count();
    assert_eq!(failures, 40);
    let status = apply(&lines.join(&b'\n'), &["--quarantine", "quarantine.ndjson"]);
    assert_eq!(status, Some(0));
    said += &std::fs::read_to_string(site.path("quarantine.ndjson")).unwrap();
    said
}
