//! Settings of the clients: what was measured to be quick, what delivery needs, what the user says.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::statistics::{Broker, Statistics};

use crate::config::{Config, ConfigError, GroupProtocol};

/// What the clients tell beside records.
#[derive(Default)]
pub struct Connection {
    /// Some broker answered since the last time that all were away.
    up: AtomicBool,
    lag: Mutex<BTreeMap<(String, i32), i64>>,
    figures: Mutex<BTreeMap<String, Figures>>,
}

/// The kinds of clients of a lane.
pub const CLIENTS: [&str; 2] = ["consumer", "producer"];

/// How a client fares with its brokers, as of its last statistics. Counts begin anew with each client.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Figures {
    /// librdkafka's name of it, no other's in this process.
    pub client: String,
    pub brokers_up: i64,
    /// Of the slowest broker, the 99th percentile of the last interval, in seconds.
    pub round_trip_s: f64,
    /// Fetched and not polled, or produced and not delivered.
    pub queued_messages: i64,
    /// By name: the label of the metric that shows them.
    pub counts: Vec<(&'static str, u64)>,
}

impl Connection {
    /// No broker can be reached, or none has been reached yet.
    pub fn is_down(&self) -> bool {
        !self.up.load(Ordering::Relaxed)
    }

    /// True where that is news.
    pub(super) fn down(&self, down: bool) -> bool {
        self.up.swap(!down, Ordering::Relaxed) == down
    }

    /// Records behind the end, by topic and partition, as of the last statistics.
    pub fn lag(&self) -> BTreeMap<(String, i32), i64> {
        locked(&self.lag).clone()
    }

    /// The clients are gone: what they said last holds no longer.
    pub fn forget(&self) {
        locked(&self.lag).clear();
        locked(&self.figures).clear();
    }

    /// By kind of client, [`CLIENTS`]. None for one that has told nothing yet.
    pub fn figures(&self) -> BTreeMap<String, Figures> {
        locked(&self.figures).clone()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What librdkafka says of itself, into the log. It never quotes a record.
pub(super) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    use RDKafkaLogLevel::*;
    match level {
        Emerg | Alert | Critical | Error => tracing::error!(facility, "{message}"),
        Warning => tracing::warn!(facility, "{message}"),
        Notice | Info => tracing::info!(facility, "{message}"),
        Debug => tracing::debug!(facility, "{message}"),
    }
}

/// An error that librdkafka tells by the way. That all brokers are away is told again and again: once will do.
pub(super) fn told(connection: &Connection, error: &KafkaError, reason: &str) {
    let all_down = error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown);
    if all_down && !connection.down(true) {
        tracing::debug!(%error, "{reason}");
    } else {
        tracing::warn!(%error, "{reason}");
    }
}

/// Whether a broker answers and how it goes, out of librdkafka's statistics.
pub(super) fn broker_state(connection: &Connection, statistics: &Statistics) {
    // Others are names that librdkafka asked for the cluster, and places for a coordinator.
    let brokers = || statistics.brokers.values().filter(|broker| broker.nodeid >= 0);
    let up = statistics.brokers.values().filter(|broker| broker.state == "UP");
    if up.count() > 0 {
        connection.down(false);
    }
    let sum = |of: fn(&Broker) -> u64| statistics.brokers.values().map(of).sum::<u64>();
    // Each partition tells the length of the one queue of the consumer.
    let fetched = statistics.topics.values().flat_map(|topic| topic.partitions.values());
    let fetched = fetched.map(|partition| partition.fetchq_cnt).max().unwrap_or(0);
    let round_trip_us = brokers().filter_map(|broker| Some(broker.rtt.as_ref()?.p99)).max();
    let figures = Figures {
        client: statistics.name.clone(),
        brokers_up: brokers().filter(|broker| broker.state == "UP").count() as i64,
        round_trip_s: round_trip_us.unwrap_or(0) as f64 / 1e6,
        queued_messages: statistics.msg_cnt as i64 + fetched,
        counts: vec![
            ("sent_bytes", sum(|broker| broker.txbytes)),
            ("received_bytes", sum(|broker| broker.rxbytes)),
            ("requests", sum(|broker| broker.tx)),
            ("errors", sum(|broker| broker.txerrs + broker.rxerrs)),
            ("retries", sum(|broker| broker.txretries)),
            ("timeouts", sum(|broker| broker.req_timeouts)),
            ("disconnects", sum(|broker| broker.disconnects.unwrap_or(0) as u64)),
            ("rebalances", statistics.cgrp.as_ref().map_or(0, |group| group.rebalance_cnt as u64)),
        ],
    };
    locked(&connection.figures).insert(statistics.client_type.clone(), figures);
}

/// The lag of a consumer's partitions, out of librdkafka's statistics. Offsets that a transaction commits are
/// known to the consumer only as stored; before the first, what was committed when it got the partition counts, and
/// else all that is there. What transactions leave behind their records is no record: where all is fetched up to the
/// end, nothing waits to be polled, and all that was polled is committed (`at_rest`), nothing is missing.
pub(super) fn lag(connection: &Connection, statistics: &Statistics, at_rest: bool) {
    let mut lag = locked(&connection.lag);
    lag.clear();
    for (name, topic) in &statistics.topics {
        for (number, partition) in &topic.partitions {
            if *number < 0 || partition.fetch_state != "active" {
                continue;
            }
            if at_rest && partition.fetchq_cnt == 0 && partition.eof_offset == partition.ls_offset {
                lag.insert((name.clone(), *number), 0);
                continue;
            }
            let all = partition.ls_offset - partition.lo_offset.max(0);
            let known = [partition.consumer_lag_stored, partition.consumer_lag, all];
            if let Some(records) = known.into_iter().find(|records| *records >= 0) {
                lag.insert((name.clone(), *number), records);
            }
        }
    }
}

/// The context of clients that only log.
#[derive(Default, Clone)]
pub(super) struct Logging;

impl ClientContext for Logging {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // Who reads to the end asks to be told of it.
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::PartitionEOF) {
            tracing::warn!(%error, "{reason}");
        }
    }
}

impl rdkafka::consumer::ConsumerContext for Logging {}

/// What librdkafka or the cluster objects to, in its words, but for the value of a setting: it may be a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KafkaProblem(pub(super) String);

impl From<KafkaError> for KafkaProblem {
    fn from(error: KafkaError) -> Self {
        KafkaProblem(refused(error))
    }
}

/// What is wrong with a setting; the value may be a secret, and is left out.
pub(super) fn refused(error: KafkaError) -> String {
    match error {
        KafkaError::ClientConfig(_, what, name, _) if what.starts_with("Invalid value") => {
            format!("{name}: invalid value")
        }
        KafkaError::ClientConfig(_, what, name, _) => format!("{name}: {what}"),
        error => error.to_string(),
    }
}

fn set(config: &mut ClientConfig, settings: &BTreeMap<String, String>) {
    for (name, value) in settings {
        config.set(name, value);
    }
}

/// Everything that is needed to make clients.
#[derive(Clone)]
pub struct ClientSettings {
    common: ClientConfig,
    /// What the user says for both; it wins over all but what delivery needs.
    properties: BTreeMap<String, String>,
    consumer: BTreeMap<String, String>,
    producer: BTreeMap<String, String>,
    group: String,
    protocol: GroupProtocol,
    transaction_timeout_ms: u32,
    /// The name of a static member.
    instance: Option<String>,
    pub connection: Arc<Connection>,
}

impl ClientSettings {
    pub fn new(config: &Config) -> Result<ClientSettings, ConfigError> {
        let kafka = &config.kafka;
        let mut common = ClientConfig::new();
        common
            .set("bootstrap.servers", &kafka.bootstrap)
            .set("client.id", config.name.as_deref().unwrap_or("veilstream"));
        if let Some(security) = &kafka.security {
            common.set("security.protocol", &security.protocol);
            if let Some(sasl) = &security.sasl {
                common
                    .set("sasl.mechanism", &sasl.mechanism)
                    .set("sasl.username", sasl.username.read(&config.folder)?.expose())
                    .set("sasl.password", sasl.password.read(&config.folder)?.expose());
            }
            for (name, secret) in &security.secrets {
                common.set(name, secret.read(&config.folder)?.expose());
            }
            // OpenSSL is built in, and its own place for authorities is nowhere: those of the system are looked for.
            let told = security.tls.as_ref().is_some_and(|tls| tls.ca.is_some())
                || security.secrets.contains_key("ssl.ca.pem");
            if security.protocol.to_lowercase().ends_with("ssl") && !told {
                common.set("ssl.ca.location", "probe");
            }
            if let Some(tls) = &security.tls {
                let files = [
                    ("ssl.ca.location", &tls.ca),
                    ("ssl.certificate.location", &tls.certificate),
                    ("ssl.key.location", &tls.key),
                ];
                for (name, file) in files {
                    if let Some(file) = file {
                        common.set(name, config.folder.join(file).to_string_lossy());
                    }
                }
                if let Some(password) = &tls.key_password {
                    common.set("ssl.key.password", password.read(&config.folder)?.expose());
                }
            }
        }
        Ok(ClientSettings {
            common,
            properties: kafka.properties.clone(),
            consumer: kafka.consumer.clone(),
            producer: kafka.producer.clone(),
            group: kafka.group.clone(),
            protocol: kafka.group_protocol,
            transaction_timeout_ms: kafka.transaction_timeout_ms,
            instance: None,
            connection: Arc::default(),
        })
    }

    /// The same cluster for other clients, with a connection state of its own.
    pub fn for_lane(&self) -> ClientSettings {
        ClientSettings { connection: Arc::default(), ..self.clone() }
    }

    /// The same, with transactions that the broker ends sooner.
    pub fn with_transaction_timeout_at_most(mut self, milliseconds: u32) -> ClientSettings {
        self.transaction_timeout_ms = self.transaction_timeout_ms.min(milliseconds);
        self
    }

    /// The same, for a static member of the group (KIP-345).
    pub fn as_static_member(self, instance: String) -> ClientSettings {
        ClientSettings { instance: Some(instance), ..self }
    }

    pub fn transaction_timeout_ms(&self) -> u32 {
        self.transaction_timeout_ms
    }

    /// `Auto` begins as `Consumer`, unless a setting is of use with the classic protocol alone.
    pub fn protocol(&self) -> GroupProtocol {
        let classic =
            ["session.timeout.ms", "heartbeat.interval.ms", "partition.assignment.strategy"];
        let set =
            |name: &&str| self.consumer.contains_key(*name) || self.properties.contains_key(*name);
        match (self.protocol, classic.iter().any(set)) {
            (GroupProtocol::Auto, true) => GroupProtocol::Classic,
            (GroupProtocol::Auto, false) => GroupProtocol::Consumer,
            (chosen, _) => chosen,
        }
    }

    /// What clients are made with that neither consume in a group nor publish what a lane makes.
    pub(super) fn common(&self) -> ClientConfig {
        let mut config = self.common.clone();
        set(&mut config, &self.properties);
        config
    }

    /// What a lane's consumer is made with. `protocol` is no longer `Auto`.
    pub fn consumer(&self, protocol: GroupProtocol) -> ClientConfig {
        let mut config = self.common.clone();
        config
            .set("group.id", &self.group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("isolation.level", "read_committed")
            .set("auto.offset.reset", "earliest")
            .set("statistics.interval.ms", "5000")
            // Measured: the default of 1000 ms costs more than half of the throughput.
            .set("fetch.queue.backoff.ms", "5")
            .set("fetch.wait.max.ms", "20")
            .set("queued.min.messages", "10000")
            .set("queued.max.messages.kbytes", "32768");
        if let Some(instance) = &self.instance {
            config.set("group.instance.id", instance);
        }
        match protocol {
            GroupProtocol::Consumer => config.set("group.protocol", "consumer"),
            _ => config
                .set("group.protocol", "classic")
                .set("partition.assignment.strategy", "cooperative-sticky"),
        };
        // What it tells at this level is listened to (`Source`), however little the log is to hold.
        if (config.log_level as u32) < RDKafkaLogLevel::Info as u32 {
            config.set_log_level(RDKafkaLogLevel::Info);
        }
        set(&mut config, &self.properties);
        set(&mut config, &self.consumer);
        config
    }

    /// What a lane's producer is made with; with `transactional_id` for exactly-once.
    pub fn producer(&self, transactional_id: Option<&str>) -> ClientConfig {
        let mut config = self.common.clone();
        config
            .set("linger.ms", "0")
            .set("batch.num.messages", "1000")
            .set("queue.buffering.max.messages", "100000")
            .set("statistics.interval.ms", "5000")
            // As the Java client: consumers in any language agree where a key belongs.
            .set("partitioner", "murmur2_random")
            // To add offsets to a transaction waits without end for a group coordinator that has left the cluster,
            // until some connection of the producer comes or goes (librdkafka issues 5511 and 5456). Idle ones are
            // closed after this long: so the wait ends, and another coordinator is asked for.
            .set("connections.max.idle.ms", "10000")
            .set("enable.idempotence", "true")
            .set("acks", "all");
        if let Some(id) = transactional_id {
            config
                .set("transactional.id", id)
                .set("transaction.timeout.ms", self.transaction_timeout_ms.to_string());
        }
        set(&mut config, &self.properties);
        set(&mut config, &self.producer);
        config
    }

    /// Whether the user says how large a record may be.
    pub fn has_record_limit(&self) -> bool {
        self.producer.contains_key("message.max.bytes")
            || self.properties.contains_key("message.max.bytes")
    }

    /// The same, for a producer whose topics take records of `smallest` to `largest` bytes.
    pub fn with_record_limits(mut self, smallest: usize, largest: usize) -> ClientSettings {
        // A batch must fit the topic as a record must; a record larger than a batch goes alone.
        self.producer
            .entry("batch.size".into())
            .or_insert(smallest.saturating_sub(BATCH_FRAME).to_string());
        self.producer.entry("message.max.bytes".into()).or_insert(largest.to_string());
        self
    }

    /// What the producer takes for the largest record, in bytes.
    pub fn record_limit(&self) -> usize {
        let name = "message.max.bytes";
        let text = self.producer.get(name).or_else(|| self.properties.get(name));
        text.and_then(|text| text.parse().ok()).unwrap_or(1_000_000)
    }
}

/// What a record batch takes beside its records (61 bytes), and each record beside its parts.
pub const BATCH_FRAME: usize = 128;
