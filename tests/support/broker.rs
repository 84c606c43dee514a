//! A Kafka broker of a test's own, and what tests do on it: topics, records in, records out.
//!
//! `tests/kafka/broker` does the work. With `KAFKA_BOOTSTRAP` set the tests use that cluster
//! instead; starts and stops then do nothing, and a test that needs them asks
//! [`Broker::is_external`] first.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{env, fs, mem, process, thread};

use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier,
    TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::{ClientConfig, FromClientConfig};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Headers, Message as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::{ClientContext, Timestamp};

/// How long anything here may take before the test fails.
const LIMIT: Duration = Duration::from_secs(60);
/// The pause between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(20);

/// A time that no record gets by itself, in milliseconds since the epoch. Of records that are much older the broker
/// deletes whole segments, half a minute after its start.
pub fn an_hour_ago() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    now.as_millis() as i64 - 3_600_000
}

/// A record to produce: key and value, `None` for null.
pub type Record<'a> = (Option<&'a [u8]>, Option<&'a [u8]>);

/// A consumed record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub partition: i32,
    pub offset: i64,
    /// Milliseconds since the epoch, -1 without a timestamp.
    pub timestamp: i64,
    pub key: Option<Vec<u8>>,
    pub payload: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

/// A running broker, ended and removed when dropped. After a panic its folder stays for a look at
/// the log; a later run removes it.
pub struct Broker {
    bootstrap: String,
    /// `None`: a cluster that is not ours.
    dir: Option<PathBuf>,
    /// Made once: an idempotent producer's first record takes up to a second.
    producer: OnceLock<BaseProducer<Failures>>,
}

impl Broker {
    /// Starts a broker. Brokers of one test binary need different names.
    pub fn start(name: &str) -> Broker {
        Broker::start_with(name, &[])
    }

    /// Starts a broker with server properties; they also hold for later starts of it.
    pub fn start_with(name: &str, properties: &[(&str, &str)]) -> Broker {
        if let Some(bootstrap) = external_bootstrap() {
            return Broker::elsewhere(&bootstrap);
        }
        let run = root().join("target/kafka/run");
        remove_leftovers(&run);
        let dir = run.join(format!("{name}-{}", process::id()));
        assert!(!dir.exists(), "this process has a broker `{name}` already");
        let properties: Vec<String> =
            properties.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let bootstrap = start_script(&dir, &properties);
        Broker { bootstrap, dir: Some(dir), producer: OnceLock::new() }
    }

    /// The broker that the tests of one binary share: the first one starts it, and it ends with the
    /// last one that holds it. A test that stops its broker needs one of its own.
    pub fn shared(name: &str) -> Arc<Broker> {
        static SHARED: Mutex<(u32, Weak<Broker>)> = Mutex::new((0, Weak::new()));
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(broker) = shared.1.upgrade() {
            return broker;
        }
        shared.0 += 1;
        let broker = Arc::new(Broker::start(&format!("{name}-{}", shared.0)));
        shared.1 = Arc::downgrade(&broker);
        broker
    }

    /// A cluster that somebody else starts and stops.
    pub fn elsewhere(bootstrap: &str) -> Broker {
        Broker { bootstrap: bootstrap.into(), dir: None, producer: OnceLock::new() }
    }

    /// `host:port`, the same after a restart.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// Whether this is the cluster of `KAFKA_BOOTSTRAP`, which tests do not stop.
    pub fn is_external(&self) -> bool {
        self.dir.is_none()
    }

    /// Stops the broker in order and starts it again.
    pub fn restart(&self) {
        self.stop();
        self.start_again();
    }

    /// Restarts the broker with one more listener, `NAME://HOST:PORT`, and the settings that it needs.
    pub fn restart_with_listener(&self, listener: &str, properties: &[&str]) {
        let Some(dir) = &self.dir else { return };
        let ports = fs::read_to_string(dir.join("ports")).unwrap();
        let (_, controller) = ports.trim().split_once(' ').unwrap();
        let client = format!("CLIENT://{}", self.bootstrap);
        let mut all = vec![
            format!("listeners={client},CONTROLLER://127.0.0.1:{controller},{listener}"),
            format!("advertised.listeners={client},{listener}"),
        ];
        all.extend(properties.iter().map(|property| (*property).to_owned()));
        self.stop();
        assert_eq!(start_script(dir, &all), self.bootstrap, "a restart keeps the address");
    }

    /// Stops the broker in order: SIGTERM.
    pub fn stop(&self) {
        if let Some(dir) = &self.dir {
            script("stop", dir, &[]);
        }
    }

    /// Ends the broker at once: SIGKILL.
    pub fn kill(&self) {
        if let Some(dir) = &self.dir {
            script("kill", dir, &[]);
        }
    }

    /// Starts the broker after [`stop`](Broker::stop) or [`kill`](Broker::kill), with its data and
    /// its address. After a kill it takes some seconds: the controller waits for the session's end.
    pub fn start_again(&self) {
        if let Some(dir) = &self.dir {
            assert_eq!(start_script(dir, &[]), self.bootstrap, "a restart keeps the address");
        }
    }

    /// Client settings that reach this broker.
    pub fn client(&self) -> ClientConfig {
        client(&self.bootstrap)
    }

    /// Creates a topic and waits until every partition has a leader.
    pub fn create_topic(&self, name: &str, partitions: i32) {
        self.create_topic_with(name, partitions, &[]);
    }

    /// Creates a topic with topic settings and waits until every partition has a leader.
    pub fn create_topic_with(&self, name: &str, partitions: i32, config: &[(&str, &str)]) {
        let admin: AdminClient<DefaultClientContext> = create(&self.client());
        let topic = config.iter().fold(
            NewTopic::new(name, partitions, TopicReplication::Fixed(1)),
            |topic, (key, value)| topic.set(key, value),
        );
        let options =
            AdminOptions::new().request_timeout(Some(LIMIT)).operation_timeout(Some(LIMIT));
        let results = block_on(admin.create_topics([&topic], &options));
        let result = results.unwrap_or_else(|e| panic!("create topic {name}: {e}"));
        for topic in result {
            topic.unwrap_or_else(|(name, code)| panic!("create topic {name}: {code}"));
        }
        let consumer: BaseConsumer = create(&self.client());
        let found = partitions_of(&consumer, name);
        assert_eq!(found.len(), usize::try_from(partitions).unwrap(), "partitions of {name}");
    }

    /// Gives a topic more partitions: so many in all.
    pub fn add_partitions(&self, name: &str, partitions: usize) {
        let admin: AdminClient<DefaultClientContext> = create(&self.client());
        let options =
            AdminOptions::new().request_timeout(Some(LIMIT)).operation_timeout(Some(LIMIT));
        let asked = [NewPartitions::new(name, partitions)];
        let done = block_on(admin.create_partitions(&asked, &options)).unwrap();
        assert!(done.iter().all(Result::is_ok), "{done:?}");
        wait_until("the partitions", || {
            (0..partitions).all(|number| self.leader(name, number as i32).is_some())
        });
    }

    /// Gives a topic this setting, and no other.
    pub fn set(&self, name: &str, key: &str, value: &str) {
        let admin: AdminClient<DefaultClientContext> = create(&self.client());
        let config = AlterConfig::new(ResourceSpecifier::Topic(name)).set(key, value);
        let done = block_on(admin.alter_configs(&[config], &AdminOptions::new())).unwrap();
        assert!(done.iter().all(Result::is_ok), "{done:?}");
    }

    /// Produces outside of a transaction, partitions by key, and waits for every acknowledgement.
    pub fn produce(&self, topic: &str, records: &[Record<'_>]) {
        self.send(records.iter().map(|(key, value)| {
            let mut record = BaseRecord::to(topic);
            (record.key, record.payload) = (*key, *value);
            record
        }));
    }

    /// The same for records with whatever else they have: headers, a timestamp, a partition.
    pub fn send<'r>(&self, records: impl Iterator<Item = BaseRecord<'r, [u8], [u8]>>) {
        self.enqueue(records);
        self.settle();
    }

    /// The same, without waiting for acknowledgements.
    pub fn enqueue<'r>(&self, records: impl Iterator<Item = BaseRecord<'r, [u8], [u8]>>) {
        let producer = self.producer.get_or_init(|| self.new_producer());
        let deadline = Instant::now() + LIMIT;
        for mut record in records {
            while let Err((error, unsent)) = producer.send(record) {
                let full = error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull);
                assert!(full && Instant::now() < deadline, "produce to {}: {error}", unsent.topic);
                producer.poll(PAUSE);
                record = unsent;
            }
            producer.poll(Duration::ZERO);
        }
    }

    /// Waits until all that was sent is acknowledged.
    pub fn settle(&self) {
        let Some(producer) = self.producer.get() else { return };
        producer.flush(LIMIT).unwrap_or_else(|e| panic!("flush: {e}"));
        let failures = mem::take(&mut *producer.context().0.lock().unwrap());
        assert!(failures.is_empty(), "not delivered: {failures:?}");
    }

    /// The id of the broker that leads a partition.
    pub fn leader(&self, topic: &str, partition: i32) -> Option<i32> {
        let consumer: BaseConsumer = create(&self.client());
        let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(5)).ok()?;
        let topic = metadata.topics().first()?;
        let found = topic.partitions().iter().find(|found| found.id() == partition)?;
        (found.leader() >= 0).then_some(found.leader())
    }

    /// What a group has committed in a topic, summed over its partitions.
    pub fn committed(&self, group: &str, topic: &str) -> i64 {
        let consumer: BaseConsumer = create(self.client().set("group.id", group));
        let mut asked = TopicPartitionList::new();
        for partition in partitions_of(&consumer, topic) {
            asked.add_partition(topic, partition);
        }
        let found = consumer.committed_offsets(asked, LIMIT).unwrap();
        found.elements().iter().filter_map(|one| one.offset().to_raw()).map(|at| at.max(0)).sum()
    }

    /// Consumes all that is committed in a topic: [`consume_all`].
    pub fn consume(&self, topic: &str) -> Vec<Message> {
        consume_all(&self.bootstrap, topic)
    }

    fn new_producer(&self) -> BaseProducer<Failures> {
        self.client()
            .set("enable.idempotence", "true")
            .set("partitioner", "murmur2_random")
            .set("linger.ms", "2")
            .set("message.max.bytes", "10000000")
            .create_with_context(Failures::default())
            .unwrap_or_else(|e| panic!("producer: {e}"))
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(dir) = &self.dir {
            // Not through `script`: a panic in a drop would abort and hide the test's own.
            let ended = script_command("kill", dir).output().is_ok_and(|o| o.status.success());
            if ended && !thread::panicking() {
                let _ = fs::remove_dir_all(dir);
            }
        }
    }
}

/// Reads every partition of a topic from its beginning to its end as of now, in the order of
/// partitions and offsets. Only what is committed; an open transaction ends its partition.
pub fn consume_all(bootstrap: &str, topic: &str) -> Vec<Message> {
    let mut messages = Vec::new();
    consume_each(bootstrap, topic, |message| messages.push(message));
    messages.sort_by_key(|message| (message.partition, message.offset));
    messages
}

/// The same, one message after another: of one partition in order, partitions as they come.
pub fn consume_each(bootstrap: &str, topic: &str, mut look: impl FnMut(Message)) {
    let mut config = client(bootstrap);
    config
        // librdkafka asks for a group even where the assignment is by hand; it never joins it.
        .set("group.id", "consume-all")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("isolation.level", "read_committed")
        .set("fetch.wait.max.ms", "10");
    let consumer: BaseConsumer = create(&config);

    let mut assignment = TopicPartitionList::new();
    let mut open: HashSet<i32> = partitions_of(&consumer, topic).into_iter().collect();
    for partition in &open {
        assignment.add_partition_offset(topic, *partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&assignment).unwrap();

    let mut progress = Instant::now();
    while !open.is_empty() {
        match consumer.poll(Duration::from_millis(100)) {
            None => {}
            Some(Ok(message)) => {
                look(owned(&message));
                progress = Instant::now();
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                open.remove(&partition);
                progress = Instant::now();
            }
            Some(Err(error)) if is_transient(&error) => {}
            Some(Err(error)) => panic!("consume {topic}: {error}"),
        }
        assert!(progress.elapsed() < LIMIT, "consume {topic}: no end of partitions {open:?}");
    }
}

/// Waits until `condition` holds; panics with `what` after a minute.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {LIMIT:?}: {what}");
        thread::sleep(PAUSE);
    }
}

/// Errors of deliveries.
#[derive(Default)]
struct Failures(Mutex<Vec<KafkaError>>);

impl ClientContext for Failures {}

impl ProducerContext for Failures {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            self.0.lock().unwrap().push(error.clone());
        }
    }
}

fn client(bootstrap: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", bootstrap)
        .set("broker.address.family", "v4")
        .set("reconnect.backoff.ms", "20")
        .set("reconnect.backoff.max.ms", "500")
        .set("topic.metadata.refresh.fast.interval.ms", "50");
    config
}

fn create<T: FromClientConfig>(config: &ClientConfig) -> T {
    config.create().unwrap_or_else(|e| panic!("Kafka client: {e}"))
}

/// The partitions of a topic, once each has a leader.
fn partitions_of(consumer: &BaseConsumer, topic: &str) -> Vec<i32> {
    let mut partitions = Vec::new();
    wait_until(&format!("a leader of every partition of {topic}"), || {
        let Ok(metadata) = consumer.fetch_metadata(Some(topic), Duration::from_secs(5)) else {
            return false;
        };
        let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else {
            return false;
        };
        partitions = found.partitions().iter().map(|partition| partition.id()).collect();
        found.error().is_none()
            && !partitions.is_empty()
            && found.partitions().iter().all(|p| p.error().is_none() && p.leader() >= 0)
    });
    partitions
}

/// Errors that pass by themselves, as after a restart of the broker.
fn is_transient(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::OperationTimedOut
                | RDKafkaErrorCode::NotLeaderForPartition
                | RDKafkaErrorCode::LeaderNotAvailable
                | RDKafkaErrorCode::CoordinatorNotAvailable
                | RDKafkaErrorCode::CoordinatorLoadInProgress
        )
    )
}

fn owned(message: &rdkafka::message::BorrowedMessage<'_>) -> Message {
    let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
    Message {
        partition: message.partition(),
        offset: message.offset(),
        timestamp: match message.timestamp() {
            Timestamp::NotAvailable => -1,
            Timestamp::CreateTime(ms) | Timestamp::LogAppendTime(ms) => ms,
        },
        key: message.key().map(<[u8]>::to_vec),
        payload: message.payload().map(<[u8]>::to_vec),
        headers: headers.map(|h| (h.key.to_owned(), h.value.map(<[u8]>::to_vec))).collect(),
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn external_bootstrap() -> Option<String> {
    env::var("KAFKA_BOOTSTRAP").ok().filter(|bootstrap| !bootstrap.is_empty())
}

fn script_command(command: &str, dir: &Path) -> Command {
    let mut script = Command::new(root().join("tests/kafka/broker"));
    script.arg(command).arg(dir).env("VEILSTREAM_OWNER_PID", process::id().to_string());
    script
}

/// Runs the script to its end; its standard output.
fn script(command: &str, dir: &Path, properties: &[String]) -> String {
    let output = script_command(command, dir)
        .args(properties)
        .output()
        .unwrap_or_else(|e| panic!("tests/kafka/broker: {e}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "tests/kafka/broker {command}: {}\n{stderr}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Starts the broker of `dir`; its address.
fn start_script(dir: &Path, properties: &[String]) -> String {
    let printed = script("start", dir, properties);
    let bootstrap = printed.lines().find_map(|line| line.strip_prefix("BOOTSTRAP="));
    bootstrap.unwrap_or_else(|| panic!("no BOOTSTRAP in {printed:?}")).to_owned()
}

/// Removes the folders of processes that are gone: their brokers were killed with them.
fn remove_leftovers(run: &Path) {
    for entry in fs::read_dir(run).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.rsplit_once('-').and_then(|(_, pid)| pid.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            let _ = script_command("kill", &entry.path()).output();
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
