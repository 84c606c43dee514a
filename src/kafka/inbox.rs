//! A topic of requests: each is read by one member of a group, and is done when that says so.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};

use super::client::{ClientSettings, KafkaProblem, Logging};
use super::reader::{OwnedRecord, owned};

/// A member of the group that reads the requests.
pub struct Inbox {
    consumer: BaseConsumer<Logging>,
    topic: String,
}

impl Inbox {
    pub fn open(
        settings: &ClientSettings,
        topic: &str,
        group: &str,
    ) -> Result<Inbox, KafkaProblem> {
        let mut config = settings.common();
        config
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "earliest")
            .set("isolation.level", "read_committed");
        let consumer: BaseConsumer<Logging> = config.create_with_context(Logging)?;
        consumer.subscribe(&[topic])?;
        Ok(Inbox { consumer, topic: topic.to_owned() })
    }

    /// The next request, waiting for at most `timeout`.
    pub fn next(&self, timeout: Duration) -> Result<Option<OwnedRecord>, KafkaProblem> {
        use RDKafkaErrorCode::{TopicAuthorizationFailed, UnknownTopicOrPartition};
        match self.consumer.poll(timeout) {
            None => Ok(None),
            Some(Ok(message)) => Ok(Some(owned(&message))),
            // The client goes on by itself, but for what somebody has to mend.
            Some(Err(error)) => match error.rdkafka_error_code() {
                Some(UnknownTopicOrPartition | TopicAuthorizationFailed) => Err(error.into()),
                _ => {
                    tracing::debug!("the inbox of {}: {error}", self.topic);
                    Ok(None)
                }
            },
        }
    }

    /// A request is done. Until then it is read again after a restart.
    pub fn done(&self, record: &OwnedRecord) -> Result<(), KafkaProblem> {
        let mut list = TopicPartitionList::new();
        let next = Offset::Offset(record.offset + 1);
        list.add_partition_offset(&self.topic, record.partition, next)?;
        match self.consumer.commit(&list, CommitMode::Sync) {
            // Somebody else has the partition now, and does it again: that changes nothing.
            Err(KafkaError::ConsumerCommit(_)) | Ok(()) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads a request again that could not be done.
    pub fn again(&self, record: &OwnedRecord) -> Result<(), KafkaProblem> {
        let at = Offset::Offset(record.offset);
        let timeout = Duration::from_secs(5);
        Ok(self.consumer.seek(&self.topic, record.partition, at, timeout)?)
    }
}
