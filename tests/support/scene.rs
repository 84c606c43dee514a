//! A scene: topics under a prefix of their own, a site for workers, and what tests ask about both.

use std::collections::BTreeMap;
use std::process::{self, Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use serde_json::Value;

use super::broker::{Broker, Message, wait_until};
use super::worker::{BINARY, Site, WorkerProcess};

pub struct Scene {
    pub broker: Arc<Broker>,
    pub site: Site,
    /// Of every topic; also the group.
    pub prefix: String,
}

impl Scene {
    /// Makes topics `(name, partitions)`, and those for quarantine and audit where they are not
    /// among them. `PREFIX` in the policy stands for the prefix of the topics.
    pub fn new(broker: Arc<Broker>, name: &str, policy: &str, topics: &[(&str, i32)]) -> Scene {
        Scene::new_with(broker, name, policy, topics, &[])
    }

    /// The same, with settings of some topics: name, setting, value.
    pub fn new_with(
        broker: Arc<Broker>,
        name: &str,
        policy: &str,
        topics: &[(&str, i32)],
        settings: &[(&str, &str, &str)],
    ) -> Scene {
        let prefix = format!("w{}-{name}", process::id());
        for (topic, partitions) in topics.iter().chain(&[("quarantine", 1), ("audit", 1)]) {
            let of_topic = settings.iter().filter(|(of, ..)| of == topic);
            let config: Vec<_> = of_topic.map(|(_, key, value)| (*key, *value)).collect();
            broker.create_topic_with(&format!("{prefix}.{topic}"), *partitions, &config);
        }
        let site = Site::new(broker.bootstrap(), &prefix, &policy.replace("PREFIX", &prefix));
        Scene { broker, site, prefix }
    }

    pub fn topic(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    /// Produces records of text.
    pub fn produce(&self, topic: &str, records: &[(Option<&str>, &str)]) {
        let records: Vec<_> = records
            .iter()
            .map(|(key, value)| (key.map(str::as_bytes), Some(value.as_bytes())))
            .collect();
        self.broker.produce(&self.topic(topic), &records);
    }

    pub fn consume(&self, topic: &str) -> Vec<Message> {
        self.broker.consume(&self.topic(topic))
    }

    /// The values of a topic.
    pub fn values(&self, topic: &str) -> Vec<Value> {
        self.consume(topic).iter().map(json).collect()
    }

    /// Audit events of a kind.
    pub fn audit(&self, kind: &str) -> Vec<Value> {
        let mut events = self.values("audit");
        events.retain(|event| event["kind"] == kind);
        events
    }

    /// Changes of a kind in the audit trail.
    pub fn changes(&self, what: &str) -> Vec<Value> {
        let mut events = self.audit("change");
        events.retain(|event| event["change"]["what"] == what);
        events
    }

    /// Waits until so many raw records are accounted for in the audit trail.
    pub fn wait_accounted(&self, records: u64) {
        wait_until(&format!("{records} records in the audit trail"), || {
            let events = self.audit("process");
            events.iter().map(|event| event["records"].as_u64().unwrap()).sum::<u64>() >= records
        });
    }

    /// Every offset of a source topic is in the audit trail once; how many there are.
    pub fn check_audit(&self, topic: &str) -> u64 {
        let mut runs: BTreeMap<i64, Vec<(i64, i64)>> = BTreeMap::new();
        for event in self.audit("process").iter().filter(|e| e["topic"] == self.topic(topic)) {
            for run in event["offsets"].as_array().unwrap() {
                let of = |name: &str| run[name].as_i64().unwrap();
                assert_eq!(of("records"), of("last") - of("first") + 1);
                runs.entry(of("partition")).or_default().push((of("first"), of("last")));
            }
        }
        let mut total = 0;
        for (partition, mut runs) in runs {
            runs.sort_unstable();
            let mut next = 0;
            for (first, last) in runs {
                assert_eq!(first, next, "partition {partition}: a gap or an overlap in the audit");
                next = last + 1;
            }
            total += next.unsigned_abs();
        }
        total
    }

    /// `veilstream quarantine`, with the configuration of the worker of that name. Who the environment says it is does
    /// not count.
    pub fn quarantine(&self, worker: &str, command: &str, arguments: &[&str]) -> Output {
        Command::new(BINARY)
            .args(["quarantine", command, "--config"])
            .arg(self.site.path(&format!("{worker}.yaml")))
            .args(arguments)
            .envs([("SUDO_USER", "somebody"), ("USER", "somebody")])
            .output()
            .unwrap()
    }
}

/// Whom the operating system knows the tests as.
pub fn user() -> String {
    let said = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(said.stdout).unwrap().trim().to_owned()
}

/// The value of a record as JSON.
pub fn json(message: &Message) -> Value {
    serde_json::from_slice(message.payload.as_ref().expect("a value")).unwrap()
}

/// A header as text.
pub fn header<'m>(message: &'m Message, name: &str) -> Option<&'m str> {
    let (_, value) = message.headers.iter().find(|(known, _)| known == name)?;
    str::from_utf8(value.as_ref()?).ok()
}

/// The standard output of a command that ended well.
pub fn stdout(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{stderr}", output.status);
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Waits until a worker has committed so many raw records, and entered them into its metrics: their
/// latency comes last.
pub fn wait_consumed(worker: &WorkerProcess, records: u64) {
    wait_until(&format!("{records} records consumed"), || {
        worker.metric("veilstream_latency_seconds_count", "") >= records as f64
    });
}

/// Records `{"n":0}`, `{"n":1}` and so on, under keys `{"id":n % 10}`, one small burst after another.
pub struct Traffic {
    shared: Arc<(AtomicBool, AtomicU64)>,
    thread: Option<JoinHandle<()>>,
}

impl Traffic {
    /// What is in a burst.
    pub const BURST: u64 = 20;

    /// Goes on until it is stopped.
    pub fn start(scene: &Scene, topic: &str) -> Traffic {
        let shared = Arc::new((AtomicBool::new(false), AtomicU64::new(0)));
        let (state, broker, topic) =
            (Arc::clone(&shared), Arc::clone(&scene.broker), scene.topic(topic));
        let thread = thread::spawn(move || {
            while !state.0.load(Ordering::Relaxed) {
                let first = state.1.load(Ordering::Relaxed);
                let record = |n| (format!(r#"{{"id":{}}}"#, n % 10), format!(r#"{{"n":{n}}}"#));
                let burst: Vec<_> = (first..first + Traffic::BURST).map(record).collect();
                let bytes = burst.iter().map(|(k, v)| (Some(k.as_bytes()), Some(v.as_bytes())));
                broker.produce(&topic, &bytes.collect::<Vec<_>>());
                state.1.store(first + Traffic::BURST, Ordering::Relaxed);
            }
        });
        Traffic { shared, thread: Some(thread) }
    }

    /// How many records are acknowledged.
    pub fn produced(&self) -> u64 {
        self.shared.1.load(Ordering::Relaxed)
    }

    /// Ends it; how many records there are.
    pub fn stop(mut self) -> u64 {
        self.shared.0.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().expect("all records are acknowledged");
        self.produced()
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.shared.0.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}

/// Every record of [`Traffic`] stands in a view once, and those of one key in order.
pub fn check_traffic(messages: &[Message], total: u64) {
    let mut numbers = Vec::new();
    let mut last: BTreeMap<(i32, &[u8]), u64> = BTreeMap::new();
    for message in messages {
        let n = json(message)["n"].as_u64().unwrap();
        let key = message.key.as_deref().unwrap();
        let before = last.insert((message.partition, key), n);
        assert!(before.is_none_or(|before| before < n), "{n} after {before:?} under one key");
        numbers.push(n);
    }
    numbers.sort_unstable();
    let expected: Vec<u64> = (0..total).collect();
    assert!(numbers == expected, "{} records of {total}: lost or doubled", numbers.len());
}
