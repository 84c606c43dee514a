//! Whether a worker is allowed what it needs, found by asking for it. Nothing is published.

use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer, PurgeConfig};
use rdkafka::{Offset, TopicPartitionList};

use super::client::{ClientSettings, KafkaProblem};
use crate::config::GroupProtocol;

const CALL: Duration = Duration::from_secs(10);
/// How long the broker has to object to a partition in a transaction.
const OBJECTION: Duration = Duration::from_millis(1500);
/// Records wait for half of this before they would be sent: the transaction is aborted long before.
const LEAST_TIMEOUT_MS: u32 = 10_000;
/// Nor are they sent for their number.
const UNSENT: [(&str, &str); 3] = [
    ("batch.num.messages", "10000"),
    ("batch.size", "1000000"),
    ("queue.buffering.max.messages", "100000"),
];

/// Says nothing of what librdkafka logs: the findings say it.
struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, _: rdkafka::config::RDKafkaLogLevel, _: &str, _: &str) {}
    fn error(&self, _: KafkaError, _: &str) {}
}

impl ConsumerContext for Quiet {}

/// Asks with the settings of a worker.
pub struct Probe<'s> {
    settings: &'s ClientSettings,
}

impl<'s> Probe<'s> {
    pub fn new(settings: &'s ClientSettings) -> Probe<'s> {
        Probe { settings }
    }

    fn consumer(&self) -> Result<BaseConsumer<Quiet>, KafkaProblem> {
        let mut config = self.settings.consumer(GroupProtocol::Classic);
        config.remove("group.instance.id");
        config.set("enable.partition.eof", "true");
        Ok(config.create_with_context(Quiet)?)
    }

    /// Whether the group's offsets may be read. The group is not joined.
    pub fn group(&self, topic: &str) -> Result<(), KafkaProblem> {
        let consumer = self.consumer()?;
        let mut partitions = TopicPartitionList::new();
        partitions.add_partition(topic, 0);
        let deadline = Instant::now() + CALL;
        loop {
            use RDKafkaErrorCode::*;
            let Err(error) = consumer.committed_offsets(partitions.clone(), CALL) else {
                return Ok(());
            };
            // A coordinator that has just been chosen loads its groups.
            let passes = matches!(
                error.rdkafka_error_code(),
                Some(NotCoordinator | CoordinatorLoadInProgress | CoordinatorNotAvailable)
            );
            if !passes || Instant::now() > deadline {
                return Err(error.into());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Whether records of the topic may be read. None is taken.
    pub fn read(&self, topic: &str) -> Result<(), KafkaProblem> {
        let consumer = self.consumer()?;
        let mut partitions = TopicPartitionList::new();
        partitions.add_partition_offset(topic, 0, Offset::End)?;
        consumer.assign(&partitions)?;
        let deadline = Instant::now() + CALL;
        while Instant::now() < deadline {
            let error = match consumer.poll(Duration::from_millis(100)) {
                None => continue,
                Some(Ok(_) | Err(KafkaError::PartitionEOF(_))) => return Ok(()),
                Some(Err(error)) => error,
            };
            use RDKafkaErrorCode::{TopicAuthorizationFailed, UnknownTopicOrPartition};
            let code = error.rdkafka_error_code();
            if matches!(code, Some(TopicAuthorizationFailed | UnknownTopicOrPartition)) {
                return Err(error.into());
            }
        }
        Err(KafkaProblem(format!("no answer within {CALL:?}")))
    }

    /// Whether transactions may be begun under this id, with the configured timeout.
    pub fn transactions(&self, id: &str) -> Result<(), KafkaProblem> {
        self.producer(id, self.settings.transaction_timeout_ms()).map(drop)
    }

    fn producer(
        &self,
        id: &str,
        timeout_ms: u32,
    ) -> Result<BaseProducer<DefaultProducerContext>, KafkaProblem> {
        let mut config = self.settings.producer(Some(id));
        for (name, value) in UNSENT {
            config.set(name, value);
        }
        for name in ["message.timeout.ms", "delivery.timeout.ms"] {
            config.remove(name);
        }
        config.set("transaction.timeout.ms", timeout_ms.to_string());
        config.set("linger.ms", (timeout_ms / 2).to_string());
        let producer: BaseProducer<DefaultProducerContext> = config.create()?;
        producer.init_transactions(CALL)?;
        Ok(producer)
    }

    /// Which of these topics a transaction may not take in.
    pub fn denied<'t>(&self, id: &str, topics: &[&'t str]) -> Result<Vec<&'t str>, KafkaProblem> {
        if self.takes(id, topics)? {
            return Ok(Vec::new());
        }
        let mut denied = Vec::new();
        for topic in topics {
            if !self.takes(id, &[topic])? {
                denied.push(*topic);
            }
        }
        Ok(denied)
    }

    /// A partition joins the transaction when its first record is given to librdkafka; the record itself waits, and is
    /// thrown away with the transaction.
    fn takes(&self, id: &str, topics: &[&str]) -> Result<bool, KafkaProblem> {
        let timeout_ms = self.settings.transaction_timeout_ms().max(LEAST_TIMEOUT_MS);
        let producer = self.producer(id, timeout_ms)?;
        producer.begin_transaction()?;
        let send = |topic: &&str| {
            let record = BaseRecord::<[u8], [u8]>::to(topic).partition(0).key(&[]);
            producer.send(record).map_err(|(error, _)| error)
        };
        let mut sent = topics.iter().try_for_each(send);
        let deadline = Instant::now() + OBJECTION;
        while sent.is_ok() && Instant::now() < deadline {
            producer.poll(Duration::from_millis(50));
            // A transaction that has failed takes no more records.
            sent = topics.first().map_or(Ok(()), send);
        }
        producer.purge(PurgeConfig::default().queue());
        let deadline = Instant::now() + CALL;
        while producer.in_flight_count() > 0 && Instant::now() < deadline {
            producer.poll(Duration::from_millis(10));
        }
        // Where nothing was taken in, there is nothing to abort, and the broker says so.
        let aborted = producer.abort_transaction(CALL);
        use RDKafkaErrorCode::{State, TopicAuthorizationFailed, UnknownTopicOrPartition};
        match sent {
            Ok(()) => aborted.map(|()| true).map_err(KafkaProblem::from),
            Err(error) => match error.rdkafka_error_code() {
                Some(State | TopicAuthorizationFailed | UnknownTopicOrPartition) => Ok(false),
                _ => Err(error.into()),
            },
        }
    }
}
