//! The worker against a lane that copies bytes, on a real broker, in one run: `make bench`.
//!
//! Both read the same backlog with one lane, the same client settings and the same batches, in transactions.
//! Then views of many against a view of changes, and the restore of what they hold. `VEILSTREAM_BENCH_EVENTS` sets the size of the
//! backlog, and `cargo bench --bench kafka -- lanes` or `-- many` chooses a part. Method and results: docs/benchmarks.md.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a test that fails here fails where it should"
)]

#[allow(dead_code)]
mod adult;
#[allow(dead_code)]
#[path = "../tests/support/broker.rs"]
mod broker;
#[allow(dead_code)]
mod reference;
#[allow(dead_code)]
#[path = "../tests/support/worker.rs"]
mod worker;

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use broker::Broker;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};
use veilstream::config::{Batch, Config, GroupProtocol};
use veilstream::kafka::ClientSettings;
use worker::{Site, WorkerProcess};

const PARTITIONS: i32 = 12;
const CALL: Duration = Duration::from_secs(30);
/// How long anything may take before the benchmark gives up.
const LIMIT: Duration = Duration::from_secs(900);

/// When so many records were committed.
#[derive(Default)]
struct Progress(Vec<(Instant, u64)>);

impl Progress {
    fn note(&mut self, records: u64) {
        if self.0.last().is_none_or(|(_, last)| *last < records) {
            self.0.push((Instant::now(), records));
        }
    }

    /// Records a second between a tenth and nine tenths of the way: joining and ending are left out.
    fn rate(&self, total: u64) -> f64 {
        let at = |share: u64| self.0.iter().find(|(_, records)| *records >= total * share / 10);
        let (Some(from), Some(to)) = (at(1), at(9)) else { return f64::NAN };
        (to.1 - from.1) as f64 / (to.0 - from.0).as_secs_f64()
    }
}

fn main() {
    let asked: Vec<String> =
        std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let is_asked = |part: &str| asked.is_empty() || asked.iter().any(|word| word == part);
    let total = std::env::var("VEILSTREAM_BENCH_EVENTS").ok().and_then(|text| text.parse().ok());
    let broker = Broker::start("bench");
    if is_asked("lanes") {
        lanes(&broker, total.unwrap_or(2_000_000));
    }
    if is_asked("many") {
        many(&broker, total.unwrap_or(1_000_000));
    }
}

fn lanes(broker: &Broker, total: u64) {
    let prefix = format!("bench{}", std::process::id());
    let topic = |name: &str| format!("{prefix}.{name}");
    for name in ["raw", "analytics", "copy"] {
        broker.create_topic(&topic(name), PARTITIONS);
    }
    for name in ["quarantine", "audit"] {
        broker.create_topic(&topic(name), 3);
    }
    let events = reference::events(5_000);
    println!("a backlog of {total} events, {PARTITIONS} partitions");
    produce(broker, &topic("raw"), &events, total);

    let policy = reference::POLICY.replace("crm.customers.raw", &topic("raw"));
    let policy = policy.replace("crm.customers.analytics", &topic("analytics"));
    let site = Site::new(broker.bootstrap(), &prefix, &policy);

    let config = Config::load(&site.configure("settings", worker::free_address()));
    let settings = ClientSettings::new(&config.expect("the configuration")).expect("settings");
    let settings = settings.with_record_limits(1_000_000, 1_000_000);
    let (copied, copy_commit) = copy(&settings, &topic("raw"), &topic("copy"), total);

    let process = site.start("bench");
    let (progress, memory) = follow(&process, total);
    let (worked, copied) = (progress.rate(total), copied.rate(total));
    println!("  copying lane    {copied:>9.0} records/s   commit {copy_commit:.1} ms on average");
    println!(
        "  worker, 1 lane  {worked:>9.0} records/s   commit {:.1} ms, transform {:.1} ms a batch",
        stage(&process, "commit"),
        stage(&process, "transform")
    );
    println!("  worker / copying lane  {:.2}   target 0.6", worked / copied);
    let at = |share: u64| {
        let most = memory.iter().filter(|(records, _)| *records <= total * share / 100);
        most.map(|(_, kib)| *kib).max().unwrap_or(0) / 1024
    };
    println!(
        "  most resident memory up to 10 / 50 / 100 % of the backlog: {} / {} / {} MiB",
        at(10),
        at(50),
        at(100)
    );
    assert!(process.stop().success());
    for share in [16, 4] {
        latency(broker, &format!("{prefix}.paced{share}"), &events, worked, share);
    }
}

/// Until so many records are consumed: when how many were, and how much memory was taken by then.
fn follow(process: &WorkerProcess, total: u64) -> (Progress, Vec<(u64, u64)>) {
    let (mut progress, mut memory) = (Progress::default(), Vec::new());
    let began = Instant::now();
    while progress.0.last().is_none_or(|(_, records)| *records < total) {
        assert!(began.elapsed() < LIMIT, "the worker is too slow");
        progress.note(process.metric("veilstream_consumed_records_total", "") as u64);
        memory.push((progress.0.last().map_or(0, |(_, records)| *records), resident(process.id())));
        std::thread::sleep(Duration::from_millis(20));
    }
    (progress, memory)
}

/// Milliseconds of a stage for a batch, on average.
fn stage(process: &WorkerProcess, stage: &str) -> f64 {
    let label = format!("stage=\"{stage}\"");
    let sum = process.metric("veilstream_stage_seconds_sum", &label);
    1e3 * sum / process.metric("veilstream_stage_seconds_count", &label)
}

/// Views of many beside a view of changes of the same events, one after the other; then a million rows that wait, and
/// how they are had back.
fn many(broker: &Broker, total: u64) {
    let prefix = format!("many{}", std::process::id());
    let raw = format!("{prefix}.raw");
    broker.create_topic(&raw, PARTITIONS);
    println!(
        "a backlog of {total} events of Adult, each of another person, {PARTITIONS} partitions"
    );
    let events = adult::events(total as usize);
    produce(broker, &raw, &events, total);
    drop(events);
    // The largest number of rows that wait counts for each partition.
    let few = 10_000 / PARTITIONS as usize;
    let mut first = None;
    for (name, view) in [
        ("changes", adult::CHANGES.to_owned()),
        ("k2", adult::groups(2, few)),
        ("k10", adult::groups(10, few)),
        ("k50", adult::groups(50, few)),
        ("windows", adult::windows("")),
        ("private", adult::windows(adult::PRIVACY)),
    ] {
        let site = of_many(broker, &prefix, name, &view);
        let process = site.start("bench");
        let (progress, _) = follow(&process, total);
        let rate = progress.rate(total);
        let first = *first.get_or_insert(rate);
        println!(
            "  {name:8} {rate:>9.0} records/s   {:.2} of the view of changes   commit {:.1} ms, transform {:.1} ms a batch",
            rate / first,
            stage(&process, "commit"),
            stage(&process, "transform")
        );
        assert!(process.stop().success());
    }

    // So many people are never alike: all wait.
    let site = of_many(broker, &prefix, "held", &adult::groups(100_000, 100_000_000));
    let process = site.start("bench");
    let (progress, memory) = follow(&process, total);
    let of_file = resident(process.id());
    println!(
        "  {total} rows that wait: {:.0} records/s; {} MiB resident before, {} MiB then",
        progress.rate(total),
        memory.first().map_or(0, |(_, kib)| *kib) / 1024,
        of_file / 1024
    );
    assert!(process.stop().success());
    let (mut entries, mut bytes) = (0_u64, 0);
    broker::consume_each(broker.bootstrap(), &format!("{prefix}.held.state"), |entry| {
        entries += 1;
        bytes += [entry.key, entry.payload].iter().flatten().map(Vec::len).sum::<usize>();
    });
    println!(
        "  {entries} entries of the changelog, {:.0} bytes a row",
        bytes as f64 / total as f64
    );
    let process = site.start("bench");
    let began = Instant::now();
    while process.metric("veilstream_held_records", "") < total as f64 {
        assert!(began.elapsed() < LIMIT, "the restore is too slow");
        std::thread::sleep(Duration::from_millis(20));
    }
    println!(
        "  restored in {:.1} s, by the worker's metric; {:.1} s from its start; {} MiB resident",
        process.metric("veilstream_restore_seconds_sum", ""),
        began.elapsed().as_secs_f64(),
        resident(process.id()) / 1024
    );
    assert!(process.stop().success());
}

/// Topics and a site for one view of the events of Adult.
fn of_many(broker: &Broker, prefix: &str, name: &str, view: &str) -> Site {
    let group = format!("{prefix}.{name}");
    let topic = |name: &str| format!("{group}.{name}");
    for name in ["view", "quarantine", "audit"] {
        broker.create_topic(&topic(name), PARTITIONS);
    }
    broker.create_topic_with(&topic("state"), 3, &[("cleanup.policy", "compact")]);
    let policy = format!("{}{view}", adult::FIELDS);
    let policy = policy.replace("topic: raw", &format!("topic: {prefix}.raw"));
    let policy = policy.replace("topic: view", &format!("topic: {}", topic("view")));
    let mut site = Site::new(broker.bootstrap(), &group, &policy);
    site.extra = format!("state: {{ topic: {}, folder: . }}", topic("state"));
    for file in std::fs::read_dir(adult::FOLDER).expect("the data of Adult") {
        let file = file.expect("a file").path();
        let name = file.file_name().unwrap_or_default();
        std::fs::copy(&file, site.folder.path().join(name)).expect("a copy");
    }
    site
}

/// The latency at a part of what the worker works off alone; the producer takes its share of the cores, too.
fn latency(broker: &Broker, prefix: &str, events: &[String], worked: f64, share: u32) {
    let rate = worked / f64::from(share);
    let topic = |name: &str| format!("{prefix}.{name}");
    for name in ["raw", "view"] {
        broker.create_topic(&topic(name), PARTITIONS);
    }
    for name in ["quarantine", "audit"] {
        broker.create_topic(&topic(name), 3);
    }
    let policy = reference::POLICY.replace("crm.customers.raw", &topic("raw"));
    let policy = policy.replace("crm.customers.analytics", &topic("view"));
    let mut site = Site::new(broker.bootstrap(), prefix, &policy);
    site.kafka = "  consumer: { auto.offset.reset: latest }".into();
    let process = site.start("paced");
    let assigned = || process.metric("veilstream_assigned_partitions", "") as i32;
    let began = Instant::now();
    while assigned() < PARTITIONS {
        assert!(began.elapsed() < LIMIT, "no assignment");
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_secs(2));
    let producer: BaseProducer =
        broker.client().set("linger.ms", "1").create().expect("a producer");
    let (began, mut sent) = (Instant::now(), 0_u64);
    while began.elapsed() < Duration::from_secs(15) {
        while sent < (began.elapsed().as_secs_f64() * rate) as u64 {
            send(&producer, &topic("raw"), events, sent);
            sent += 1;
        }
        producer.poll(Duration::from_millis(1));
    }
    producer.flush(CALL).expect("a flush");
    let began = Instant::now();
    while process.metric("veilstream_consumed_records_total", "") < sent as f64 * 0.99 {
        assert!(began.elapsed() < LIMIT, "the worker lags");
        std::thread::sleep(Duration::from_millis(20));
    }
    let body = process.get("/metrics").map(|(_, body)| body).unwrap_or_default();
    let mut buckets: BTreeMap<u64, f64> = BTreeMap::new();
    for line in body.lines().filter(|line| line.starts_with("veilstream_latency_seconds_bucket")) {
        let le = line.split("le=\"").nth(1).and_then(|rest| rest.split('"').next());
        let micros = le.and_then(|le| le.parse::<f64>().ok()).unwrap_or(f64::INFINITY) * 1e6;
        let count = line.rsplit(' ').next().and_then(|count| count.parse().ok()).unwrap_or(0.0);
        *buckets.entry(micros as u64).or_default() += count;
    }
    let all = buckets.values().next_back().copied().unwrap_or(0.0);
    let below = |share: f64| buckets.iter().find(|(_, count)| **count >= all * share);
    let bound = |share| below(share).map_or(f64::NAN, |(micros, _)| *micros as f64 / 1e3);
    println!(
        "  at 1/{share} of that load, {rate:.0} records/s, from timestamp to commit: \
         p50 below {:.0} ms, p99 below {:.0} ms",
        bound(0.5),
        bound(0.99)
    );
    assert!(process.stop().success());
}

fn send(producer: &BaseProducer, topic: &str, events: &[String], number: u64) {
    let event = &events[number as usize % events.len()];
    let key = format!("{{\"customer_id\":{}}}", number % 100_000);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    loop {
        let record = BaseRecord::to(topic).key(&key).payload(event).timestamp(now as i64);
        if producer.send(record).is_ok() {
            return;
        }
        producer.poll(Duration::from_millis(5));
    }
}

fn produce(broker: &Broker, topic: &str, events: &[String], total: u64) {
    let mut config = broker.client();
    config
        .set("linger.ms", "5")
        .set("compression.type", "lz4")
        .set("queue.buffering.max.kbytes", "65536");
    let producer: BaseProducer = config.create().expect("a producer");
    for number in 0..total {
        send(&producer, topic, events, number);
        if number % 1_000 == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    producer.flush(LIMIT).expect("a flush");
}

/// The lane without the rewrite; gives its progress and the time of a commit in milliseconds.
fn copy(settings: &ClientSettings, raw: &str, to: &str, total: u64) -> (Progress, f64) {
    let mut config = settings.consumer(GroupProtocol::Consumer);
    let consumer: BaseConsumer = config.set("group.id", to).create().expect("a consumer");
    let producer: BaseProducer = settings.producer(Some(to)).create().expect("a producer");
    producer.init_transactions(CALL).expect("transactions");
    consumer.subscribe(&[raw]).expect("a subscription");
    let bounds = Batch::default();
    let (mut progress, mut copied, mut commits) = (Progress::default(), 0, Vec::new());
    let began = Instant::now();
    while copied < total {
        assert!(began.elapsed() < LIMIT, "the copying lane is too slow");
        let (mut pending, mut bytes) = (Vec::new(), 0);
        let mut deadline = Instant::now() + Duration::from_millis(bounds.time_ms.get());
        while let Some(Ok(message)) =
            consumer.poll(deadline.saturating_duration_since(Instant::now()))
        {
            if pending.is_empty() {
                deadline = Instant::now() + Duration::from_millis(bounds.time_ms.get());
            }
            bytes += message.payload_len() + message.key_len();
            pending.push(message);
            if pending.len() >= bounds.records.get()
                || bytes >= bounds.bytes.get()
                || Instant::now() >= deadline
            {
                break;
            }
        }
        if pending.is_empty() {
            continue;
        }
        producer.begin_transaction().expect("a transaction");
        let mut next: BTreeMap<i32, i64> = BTreeMap::new();
        for message in &pending {
            let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(to);
            record.key = message.key();
            record.payload = message.payload();
            record.timestamp = message.timestamp().to_millis();
            while let Err((_, back)) = producer.send(record) {
                record = back;
                producer.poll(Duration::from_millis(5));
            }
            next.insert(message.partition(), message.offset() + 1);
        }
        let began = Instant::now();
        while producer.in_flight_count() > 0 {
            let before = producer.in_flight_count();
            producer.poll(Duration::ZERO);
            if producer.in_flight_count() == before {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        let mut list = TopicPartitionList::new();
        for (partition, offset) in next {
            list.add_partition_offset(raw, partition, Offset::Offset(offset)).expect("an offset");
        }
        let group = consumer.group_metadata().expect("a group");
        producer.send_offsets_to_transaction(&list, &group, CALL).expect("offsets");
        producer.commit_transaction(CALL).expect("a commit");
        commits.push(began.elapsed().as_secs_f64() * 1e3);
        copied += pending.len() as u64;
        progress.note(copied);
    }
    let commit = commits.iter().sum::<f64>() / commits.len() as f64;
    (progress, commit)
}

/// The resident set of a process, in KiB.
fn resident(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
