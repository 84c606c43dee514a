//! What a worker survives: three brokers in networks of their own, workers under traffic, and one fault after another.
//! After each, every event is accounted for once, stands in every view once and in order, and no canary got out.
//!
//! `make chaos` runs them (as root, a quarter of an hour), and writes `target/chaos/results.md`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a test that fails here fails where it should"
)]

mod support;

use std::fs;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rdkafka::producer::BaseRecord;
use support::broker::{Broker, wait_until};
use support::cluster::{Cluster, NODES, Node};
use support::ledger::{self, event};
use support::postgres::Postgres;
use support::providers::{Faulty, Server};
use support::scene::stdout;
use support::worker::{BINARY, Site, WorkerProcess, repository};

/// Events each second while a fault lasts.
const RATE: u64 = 1_000;
/// Of the group, for the worker that is killed or frozen.
const SESSION: Duration = Duration::from_secs(6);
const PARTITIONS: i32 = 12;
/// What two hours of a hundred events a second leave behind.
const BACKLOG: u64 = 2 * 60 * 60 * 100;

#[test]
#[ignore = "make chaos"]
fn a_leader_is_killed() {
    let ordeal = Ordeal::begin("leader killed", "");
    let workers = ordeal.two_workers();
    let leader = ordeal.leader("raw");
    ordeal.cluster.kill(leader);
    wait_until("another leader", || {
        ordeal.cluster.leader(&ordeal.topic("raw"), 0).is_some_and(|now| now != leader)
    });
    ordeal.goes_on(&workers, 10);
    ordeal.cluster.start_again(leader);
    ordeal.goes_on(&workers, 5);
    ordeal.end(workers, "");
}

#[test]
#[ignore = "make chaos"]
fn a_broker_is_cut_off_from_peers_and_clients() {
    let ordeal = Ordeal::begin("broker cut off", "");
    let workers = ordeal.two_workers();
    let leader = ordeal.leader("raw");
    ordeal.cluster.cut_off(leader);
    wait_until("another leader", || {
        ordeal.cluster.leader(&ordeal.topic("raw"), 0).is_some_and(|now| now != leader)
    });
    ordeal.goes_on(&workers, 20);
    assert!(ordeal.cluster.is_running(leader), "it was cut off, not ended");
    ordeal.cluster.reconnect(leader);
    ordeal.goes_on(&workers, 5);
    ordeal.end(workers, "");
}

#[test]
#[ignore = "make chaos"]
fn the_coordinators_move() {
    let ordeal = Ordeal::begin("coordinators moved", "");
    let workers = ordeal.two_workers();
    // The group's, then those of the workers' transactions.
    let group = partition_of(&ordeal.prefix, 4);
    let transactions = partition_of(&format!("{}-one-0", ordeal.prefix), 4);
    for (topic, partition) in [("__consumer_offsets", group), ("__transaction_state", transactions)]
    {
        let leader = ordeal.cluster.leader(topic, partition).unwrap();
        ordeal.cluster.stop(leader);
        wait_until("another coordinator", || {
            ordeal.cluster.leader(topic, partition).is_some_and(|now| now != leader)
        });
        ordeal.goes_on(&workers, 5);
        ordeal.cluster.start_again(leader);
        ordeal.goes_on(&workers, 5);
    }
    ordeal.end(workers, "");
}

#[test]
#[ignore = "make chaos"]
fn the_disk_of_a_broker_is_full() {
    let ordeal = Ordeal::begin("broker's disk full", "");
    let workers = ordeal.two_workers();
    let leader = ordeal.leader("raw");
    ordeal.cluster.fill_disk(leader);
    wait_until("the broker's end", || !ordeal.cluster.is_running(leader));
    ordeal.goes_on(&workers, 10);
    ordeal.cluster.free_disk(leader);
    ordeal.cluster.start_again(leader);
    ordeal.goes_on(&workers, 5);
    ordeal.end(workers, "");
}

#[test]
#[ignore = "make chaos"]
fn every_broker_goes_at_once() {
    let ordeal = Ordeal::begin("all brokers killed at once", "");
    let workers = ordeal.two_workers();
    for node in NODES {
        ordeal.cluster.kill(node);
    }
    wait_until("the workers' notice", || {
        workers.iter().all(|worker| worker.get("/readyz").is_some_and(|(code, _)| code == 503))
    });
    thread::scope(|scope| {
        for node in NODES {
            let cluster = &ordeal.cluster;
            scope.spawn(move || cluster.start_again(node));
        }
    });
    ordeal.goes_on(&workers, 5);
    ordeal.end(workers, "");
}

#[test]
#[ignore = "make chaos"]
fn a_worker_is_killed_again_and_again() {
    let ordeal = Ordeal::begin("worker SIGKILL, eight times", "");
    let steady = ordeal.start("one");
    for _ in 0..8 {
        let victim = ordeal.start("two");
        wait_until("the victim's share", || consumed(&victim) > RATE as f64);
        victim.kill();
    }
    let workers = vec![steady, ordeal.start("two")];
    ordeal.goes_on(&workers, 2);
    ordeal.end(workers, "");
}

#[test]
#[ignore = "make chaos"]
fn a_worker_is_frozen_for_longer_than_its_session() {
    let ordeal = Ordeal::begin("worker SIGSTOP for 12 s, session 6 s, three times", "");
    let workers = ordeal.two_workers();
    let (other, frozen) = (&workers[0], &workers[1]);
    let all = f64::from(PARTITIONS);
    let assigned = |worker: &WorkerProcess| worker.metric("veilstream_assigned_partitions", "");
    for _ in 0..3 {
        wait_until("a share for both", || assigned(other) > 0.0 && assigned(frozen) > 0.0);
        frozen.signal("STOP");
        let since = Instant::now();
        wait_until("the other takes all", || assigned(other) == all);
        // What it has in hand now belongs to somebody else.
        while since.elapsed() < SESSION * 2 {
            thread::sleep(Duration::from_millis(100));
        }
        frozen.signal("CONT");
    }
    ordeal.goes_on(&workers, 5);
    ordeal.end(workers, "");
}

#[test]
#[ignore = "make chaos"]
fn the_clock_of_a_worker_jumps() {
    let mut ordeal = Ordeal::begin("worker's clock +1 h, -2 h, +1 h", "");
    let (offset, library) = (ordeal.site.path("offset"), ordeal.site.path("clock.so"));
    let set = |seconds: &str| fs::write(&offset, seconds).unwrap();
    set("0");
    let mut compile = Command::new("cc");
    compile.args(["-shared", "-fPIC", "-Wall", "-Werror", "-o"]).arg(&library);
    stdout(&compile.arg(repository("tests/support/clock.c")).output().unwrap());
    ordeal.site.environment = vec![
        ("LD_PRELOAD", library.display().to_string()),
        ("CLOCK_OFFSET", offset.display().to_string()),
    ];
    let workers = ordeal.two_workers();
    let hour = || workers[0].log().lines().last().map(|line| line[..13].to_owned());
    for seconds in ["3600", "-3600", "0"] {
        let before = hour();
        set(seconds);
        workers[0].signal("HUP");
        wait_until("a line of another hour", || hour() != before);
        ordeal.goes_on(&workers, 8);
    }
    ordeal.end(workers, "");
}

#[test]
#[ignore = "make chaos"]
fn members_join_and_leave_all_the_time() {
    let ordeal = Ordeal::begin("rebalance storm: 40 s, a member comes or goes each 2 s", "");
    let workers = ordeal.two_workers();
    let until = Instant::now() + Duration::from_secs(40);
    let mut guests = Vec::new();
    // Each under the name of one that is gone, as an orchestrator would.
    let mut names = vec!["three", "four", "five"];
    for number in 0.. {
        if Instant::now() > until {
            break;
        }
        match names.pop() {
            Some(name) if number % 4 != 3 => guests.push((name, ordeal.start(name))),
            spare => {
                names.extend(spare);
                let (name, guest) = guests.remove(0);
                names.push(name);
                match number % 8 {
                    3 => guest.kill(),
                    _ => assert!(guest.stop().success()),
                }
            }
        }
        thread::sleep(Duration::from_secs(2));
    }
    for (_, guest) in guests {
        assert!(guest.stop().success());
    }
    ordeal.goes_on(&workers, 5);
    let rebalances = ordeal.site.logs().matches("rebalanced").count();
    assert!(rebalances > 20, "{rebalances} rebalances");
    ordeal.end(workers, &format!("{rebalances} rebalances seen by lanes"));
}

#[test]
#[ignore = "make chaos"]
fn static_members_are_restarted_in_turn() {
    let ordeal =
        Ordeal::begin("rolling restart of static members, twice", "  static_membership: true\n");
    let mut workers = ordeal.two_workers();
    let rebalances =
        |worker: &WorkerProcess| worker.log().lines().filter(|l| l.contains("rebalanced")).count();
    for _ in 0..2 {
        for name in ["one", "two"] {
            let at = rebalances(&workers[1]);
            let restarted = workers.remove(0);
            assert!(restarted.stop().success());
            workers.push(ordeal.start(name));
            ordeal.goes_on(&workers, 2);
            assert_eq!(rebalances(&workers[0]), at, "the other keeps what it has");
        }
    }
    ordeal.end(workers, "no partition moved");
}

#[test]
#[ignore = "make chaos"]
fn the_database_of_the_keys_is_killed() {
    let mut postgres = Postgres::start();
    let mut ordeal = Ordeal::begin("key store's PostgreSQL killed, three times", "");
    ordeal.keep_keys(&postgres, "{ file: { path: kek.json, passphrase: { file: passphrase } } }");
    let workers = ordeal.two_workers();
    for _ in 0..3 {
        postgres.stop();
        wait_until("the workers' notice", || {
            workers.iter().all(|worker| worker.get("/readyz").is_some_and(|(code, _)| code == 503))
        });
        postgres.resume();
        ordeal.goes_on(&workers, 5);
    }
    ordeal.end(workers, "a key for each of 2 000 people");
}

#[test]
#[ignore = "make chaos"]
fn the_provider_of_the_keys_answers_500() {
    let (postgres, kms) = (Postgres::start(), Server::moto());
    let mut ordeal = Ordeal::begin("AWS KMS (moto) answers 500", "");
    let faulty = Faulty::start(kms.address, "500 Internal Server Error");
    let key = kms.kms("CreateKey", "{}")["KeyMetadata"]["Arn"].as_str().unwrap().to_owned();
    ordeal.site.environment = vec![
        ("AWS_ACCESS_KEY_ID", "test".into()),
        ("AWS_SECRET_ACCESS_KEY", "test".into()),
        ("AWS_EC2_METADATA_DISABLED", "true".into()),
    ];
    let address = faulty.address;
    ordeal.keep_keys(
        &postgres,
        &format!(
            "{{ aws_kms: {{ key: '{key}', region: eu-central-1, endpoint: 'http://{address}' }} }}"
        ),
    );
    let mut workers = ordeal.two_workers();
    // Whoever works goes on with the keys that it has, and new people get theirs.
    faulty.fail(usize::MAX);
    ordeal.goes_on(&workers, 5);
    let rotated = ordeal.keys(&["rotate", "field"]);
    assert_eq!(rotated.status.code(), Some(1), "nothing is rotated while nothing can be sealed");
    // Whoever starts ends, for its orchestrator to try again.
    workers.remove(1).kill();
    assert_eq!(ordeal.start("two").wait().code(), Some(1));
    ordeal.goes_on(&workers, 5);
    faulty.fail(0);
    workers.push(ordeal.start("two"));
    wait_until("both at work", || {
        workers.iter().all(|one| one.get("/readyz").is_some_and(|(code, _)| code == 200))
    });
    stdout(&ordeal.keys(&["rotate", "field"]));
    wait_until("the new key", || workers.iter().all(|one| one.log().contains("keys=true")));
    ordeal.goes_on(&workers, 5);
    ordeal.end(workers, "rotated once it is back");
}

#[test]
#[ignore = "make chaos"]
fn people_are_forgotten_while_workers_are_killed() {
    let postgres = Postgres::start();
    let mut ordeal = Ordeal::begin("forty people forgotten, a worker SIGKILL four times", "");
    ordeal.keep_keys(&postgres, "{ file: { path: kek.json, passphrase: { file: passphrase } } }");
    let steady = ordeal.start("one");
    let mut asked = 0;
    for round in 0..4_u64 {
        let victim = ordeal.start("two");
        wait_until("the victim's share", || consumed(&victim) > RATE as f64);
        for number in 0..10 {
            // None of those of whom there are events: the ledger counts on every one of these.
            let person = format!("nobody-{round}-{number}");
            stdout(&ordeal.command(&["erase", &person, "--reason", "r", "--no-wait"]));
            asked += 1;
        }
        victim.kill();
    }
    let workers = vec![steady, ordeal.start("two")];
    ordeal.goes_on(&workers, 5);
    let left = |worker: &WorkerProcess| worker.metric("veilstream_erasures_unfinished", "");
    ledger::until("the rest of all erasures", 180, || {
        postgres.sql("SELECT COUNT(*) FROM erasures WHERE done_ms IS NULL").trim() == "0"
            && workers.iter().all(|worker| left(worker) == 0.0)
    });
    let count = "SELECT COUNT(DISTINCT subject) FROM erasures WHERE person IS NULL";
    assert_eq!(postgres.sql(count).trim(), asked.to_string());
    ordeal.end(workers, "all of them done");
}

#[test]
#[ignore = "make chaos"]
fn two_hours_of_backlog_are_there_at_once() {
    let mut ordeal = Ordeal::begin("backlog of two hours (100 events/s)", "");
    ordeal.traffic.take().unwrap().stop();
    // Transactions as large as they are without anybody's saying so.
    ordeal.site.extra = ordeal.site.extra.replace("batch: { records: 500 }\n", "");
    let raw = ordeal.topic("raw");
    let from = ordeal.produced.load(Ordering::Relaxed);
    for first in (from..BACKLOG).step_by(10_000) {
        send(&ordeal.cluster.broker, &raw, first..BACKLOG.min(first + 10_000));
    }
    ordeal.cluster.broker.settle();
    ordeal.produced.store(BACKLOG, Ordering::Relaxed);
    let began = Instant::now();
    let workers = vec![ordeal.start("one"), ordeal.start("two")];
    let mut largest = 0.0_f64;
    ledger::until("the backlog", 300, || {
        let memory = |worker: &WorkerProcess| worker.metric("process_resident_memory_bytes", "");
        largest = workers.iter().map(memory).fold(largest, f64::max);
        workers.iter().map(consumed).sum::<f64>() >= BACKLOG as f64
    });
    let took = began.elapsed().as_secs_f64();
    // The backlog is not taken into memory.
    assert!(largest < 512.0 * 1024.0 * 1024.0, "{largest} bytes resident");
    let rate = BACKLOG as f64 / took / 1_000.0;
    let memory = largest / 1024.0 / 1024.0;
    ordeal.end(workers, &format!("{rate:.0} 000 events/s, {memory:.0} MiB resident at most"));
}

/// A cluster under traffic, and workers on it.
struct Ordeal {
    fault: &'static str,
    cluster: Arc<Cluster>,
    site: Site,
    prefix: String,
    produced: Arc<AtomicU64>,
    traffic: Option<Traffic>,
}

impl Ordeal {
    /// `kafka` are lines of that section of the workers' configuration.
    fn begin(fault: &'static str, kafka: &str) -> Ordeal {
        let cluster = Arc::new(Cluster::start(
            "chaos",
            &[
                "group.consumer.min.session.timeout.ms=6000",
                "group.consumer.session.timeout.ms=6000",
                "group.consumer.min.heartbeat.interval.ms=1000",
                "group.consumer.heartbeat.interval.ms=1000",
            ],
        ));
        let prefix = "chaos".to_owned();
        let mut site = Site::new(cluster.broker.bootstrap(), &prefix, &ledger::policy(&prefix));
        site.kafka = format!("  transaction_timeout_ms: 20000\n{kafka}");
        // Small transactions, so that a fault nearly always meets an open one. Views are read from their
        // beginning here: nothing of them may be compacted away.
        site.extra = format!(
            "batch: {{ records: 500 }}\n\
             topics:\n  replication_factor: 3\n  each:\n    \
             {prefix}.raw: {{ partitions: {PARTITIONS}, settings: {{ min.insync.replicas: '2' }} }}\n    \
             {prefix}.analytics: {{ settings: {{ cleanup.policy: delete }} }}\n    \
             {prefix}.fraud: {{ settings: {{ cleanup.policy: delete }} }}\n    \
             {prefix}.audit: {{ partitions: 3, settings: {{ message.timestamp.type: LogAppendTime }} }}\n"
        );
        let config = site.configure("topics", "127.0.0.1:9".parse().unwrap());
        let apply =
            Command::new(BINARY).args(["topics", "apply", "--config"]).arg(&config).output();
        stdout(&apply.unwrap());
        let produced = Arc::new(AtomicU64::new(0));
        let traffic = Traffic::start(&cluster, format!("{prefix}.raw"), &produced);
        Ordeal { fault, cluster, site, prefix, produced, traffic: Some(traffic) }
    }

    fn topic(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    /// The leader of a topic's first partition.
    fn leader(&self, topic: &str) -> Node {
        self.cluster.leader(&self.topic(topic), 0).unwrap()
    }

    /// Has the workers keep a key of each customer in a database, for a second at a time.
    fn keep_keys(&mut self, postgres: &Postgres, kek: &str) {
        fs::write(self.site.path("passphrase"), "correct horse battery").unwrap();
        postgres.url_file(self.site.folder.path());
        self.site.keys = format!(
            "key_store:\n  postgres: {{ file: postgres-url }}\n  cached_s: 1\n  kek: {kek}"
        );
        self.site.configure("keys", "127.0.0.1:9".parse().unwrap());
        stdout(&self.keys(&["init"]));
    }

    fn keys(&self, arguments: &[&str]) -> Output {
        self.command(&[&["keys"], arguments].concat())
    }

    fn command(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(BINARY);
        command.args(arguments).arg("--config").arg(self.site.path("keys.yaml"));
        command.envs(self.site.environment.iter().map(|(name, value)| (name, value)));
        command.output().unwrap()
    }

    fn start(&self, name: &str) -> WorkerProcess {
        self.site.start(name)
    }

    /// Two workers, both at work.
    fn two_workers(&self) -> Vec<WorkerProcess> {
        let workers = vec![self.start("one"), self.start("two")];
        for worker in &workers {
            wait_until("both at work", || consumed(worker) > RATE as f64);
        }
        workers
    }

    /// Waits until the workers have taken so many seconds' worth of traffic from now on.
    fn goes_on(&self, workers: &[WorkerProcess], seconds: u64) {
        let all = || workers.iter().map(consumed).sum::<f64>();
        let goal = all() + (seconds * RATE) as f64;
        ledger::until("work after the fault", 120, || all() >= goal);
    }

    /// Everything that was produced is where it belongs. Adds a line to the results.
    fn end(mut self, workers: Vec<WorkerProcess>, remark: &str) {
        if let Some(traffic) = self.traffic.take() {
            traffic.stop();
        }
        let events = self.produced.load(Ordering::Relaxed);
        let broker = &self.cluster.broker;
        ledger::wait_accounted(broker, &self.prefix, events, 120);
        for worker in workers {
            assert!(worker.stop().success(), "a worker ends with status 0");
        }
        let figures = ledger::check(broker, &self.prefix, events, &self.site);
        let folder = repository("target/chaos");
        fs::create_dir_all(&folder).unwrap();
        let file = folder.join(format!("{}.row", thread::current().name().unwrap_or("test")));
        let line = format!(
            "| {} | {events} | {events} | {} | {} | 0 | 0 | {:.1} | {remark} |\n",
            self.fault,
            events - figures.quarantined,
            figures.quarantined,
            figures.longest_pause.as_secs_f64(),
        );
        println!("{line}");
        fs::write(file, line).unwrap();
    }
}

/// [`RATE`] events each second, in order, until it is stopped.
struct Traffic {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Traffic {
    fn start(cluster: &Arc<Cluster>, topic: String, produced: &Arc<AtomicU64>) -> Traffic {
        const BURST: u64 = RATE / 50;
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, cluster, produced) =
            (Arc::clone(&stop), Arc::clone(cluster), Arc::clone(produced));
        let thread = thread::spawn(move || {
            let began = Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                let first = produced.load(Ordering::Relaxed);
                let due = began + Duration::from_millis(first * 1_000 / RATE);
                thread::sleep(due.saturating_duration_since(Instant::now()));
                send(&cluster.broker, &topic, first..first + BURST);
                produced.store(first + BURST, Ordering::Relaxed);
            }
            cluster.broker.settle();
        });
        Traffic { stop, thread: Some(thread) }
    }

    fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().expect("all events are acknowledged");
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}

fn send(broker: &Broker, topic: &str, numbers: std::ops::Range<u64>) {
    let events: Vec<_> = numbers.map(event).collect();
    broker.enqueue(events.iter().map(|(key, value)| {
        let mut record = BaseRecord::to(topic);
        (record.key, record.payload) = (Some(key.as_bytes()), Some(value.as_bytes()));
        record
    }));
}

fn consumed(worker: &WorkerProcess) -> f64 {
    worker.metric("veilstream_consumed_records_total", "")
}

/// Where Kafka keeps a group or a transactional id: Java's hash of a string, without its sign.
fn partition_of(id: &str, partitions: i32) -> i32 {
    let hash = id.bytes().fold(0_i32, |hash, b| hash.wrapping_mul(31).wrapping_add(b.into()));
    (hash & i32::MAX) % partitions
}
