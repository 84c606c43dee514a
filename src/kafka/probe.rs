//! Whether a worker is allowed what it needs, found by asking for it. Nothing is published.

use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer, PurgeConfig};
use rdkafka::{Offset, TopicPartitionList};

use super::client::{ClientSettings, refused};
use crate::config::GroupProtocol;

const CALL: Duration = Duration::from_secs(10);
/// How long the broker has to object to a partition in a transaction.
const OBJECTION: Duration = Duration::from_millis(1500);
/// Records wait this long before they would be sent: the transaction is aborted before.
const LINGER_MS: u32 = 30_000;

/// What the cluster says, in its words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Denied(String);

impl From<KafkaError> for Denied {
    fn from(error: KafkaError) -> Self {
        Denied(refused(error))
    }
}

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

    fn consumer(&self) -> Result<BaseConsumer<Quiet>, Denied> {
        let mut config = self.settings.consumer(GroupProtocol::Classic);
        config.remove("group.instance.id");
        config.set("enable.partition.eof", "true");
        Ok(config.create_with_context(Quiet)?)
    }

    /// Whether the group's offsets may be read. The group is not joined.
    pub fn group(&self, topic: &str) -> Result<(), Denied> {
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
    pub fn read(&self, topic: &str) -> Result<(), Denied> {
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
        Err(Denied(format!("no answer within {CALL:?}")))
    }

    /// Whether transactions may be begun under this id, with the configured timeout.
    pub fn transactions(&self, id: &str) -> Result<(), Denied> {
        self.producer(id).map(drop)
    }

    fn producer(&self, id: &str) -> Result<BaseProducer<DefaultProducerContext>, Denied> {
        let mut config = self.settings.producer(Some(id));
        let linger = LINGER_MS.min(self.settings.transaction_timeout_ms() / 2);
        config.set("linger.ms", linger.to_string());
        let producer: BaseProducer<DefaultProducerContext> = config.create()?;
        producer.init_transactions(CALL)?;
        Ok(producer)
    }

    /// Which of these topics a transaction may not take in.
    pub fn denied<'t>(&self, id: &str, topics: &[&'t str]) -> Result<Vec<&'t str>, Denied> {
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
    fn takes(&self, id: &str, topics: &[&str]) -> Result<bool, Denied> {
        let producer = self.producer(id)?;
        producer.begin_transaction()?;
        let record = |topic| BaseRecord::<[u8], [u8]>::to(topic).partition(0).key(&[]);
        let mut taken = topics.iter().all(|topic| producer.send(record(*topic)).is_ok());
        let deadline = Instant::now() + OBJECTION;
        while taken && Instant::now() < deadline {
            producer.poll(Duration::from_millis(50));
            // A transaction that has failed takes no more records.
            taken = topics.first().is_none_or(|topic| producer.send(record(*topic)).is_ok());
        }
        producer.purge(PurgeConfig::default().queue());
        let deadline = Instant::now() + CALL;
        while producer.in_flight_count() > 0 && Instant::now() < deadline {
            producer.poll(Duration::from_millis(10));
        }
        let aborted = producer.abort_transaction(CALL);
        // Where nothing was taken in, there is nothing to abort, and the broker says so.
        if taken {
            aborted?;
        }
        Ok(taken)
    }
}
