//! The consumer of a lane.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{
    BaseConsumer, CommitMode, Consumer, ConsumerContext, ConsumerGroupMetadata, Rebalance,
};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::statistics::Statistics;
use rdkafka::{ClientContext, Offset, TopicPartitionList};

use super::client::{self, ClientSettings, Connection};
use crate::config::GroupProtocol;
use crate::rewrite::Header;

/// How long the group's coordinator may take to say what is committed, before it is asked again.
const CALL: Duration = Duration::from_secs(2);

/// A partition came or went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rebalanced {
    Assigned(Vec<(String, i32)>),
    Revoked(Vec<(String, i32)>),
}

/// Why a source cannot go on; the lane starts anew.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("the consumer failed: {0}")]
    Kafka(#[from] KafkaError),
    /// No retry mends it.
    #[error("kafka settings: {0}")]
    Settings(String),
    #[error("the broker does not have the consumer group protocol of KIP-848")]
    NoConsumerProtocol,
    #[error("the answer to a heartbeat is lost, and an assignment may be with it")]
    LostHeartbeat,
}

struct SourceContext {
    connection: Arc<Connection>,
    changes: Mutex<Vec<Rebalanced>>,
    changed: AtomicBool,
    /// The partitions that are held, while records are.
    held: Mutex<Option<BTreeSet<(String, i32)>>>,
    /// A heartbeat was sent and not answered in time.
    lost: AtomicBool,
    /// No record was polled since all that were are committed.
    at_rest: AtomicBool,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn partitions<C: FromIterator<(String, i32)>>(list: &TopicPartitionList) -> C {
    list.elements().iter().map(|one| (one.topic().to_owned(), one.partition())).collect()
}

fn list<'p>(partitions: impl IntoIterator<Item = &'p (String, i32)>) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for (topic, partition) in partitions {
        list.add_partition(topic, *partition);
    }
    list
}

/// librdkafka remembers that a partition was paused when it goes to another member and comes back: it would never be
/// read again. And to resume one that is not paused takes it back to where it began, which would double records. So
/// what goes is resumed, what comes is paused while records are held, and nothing else is resumed.
impl SourceContext {
    fn goes(&self, consumer: &BaseConsumer<Self>, gone: &[(String, i32)]) -> KafkaResult<()> {
        let mut held = locked(&self.held);
        let Some(held) = held.as_mut() else { return Ok(()) };
        let paused: Vec<_> = gone.iter().filter(|partition| held.remove(partition)).collect();
        consumer.resume(&list(paused))
    }

    fn comes(&self, consumer: &BaseConsumer<Self>, come: &TopicPartitionList) -> KafkaResult<()> {
        let mut held = locked(&self.held);
        let Some(held) = held.as_mut() else { return Ok(()) };
        consumer.pause(come)?;
        held.extend(partitions::<Vec<_>>(come));
        Ok(())
    }
}

impl ClientContext for SourceContext {
    /// The broker tells a member its new assignment once, in the answer to a heartbeat of KIP-848. A member that
    /// missed an answer has to ask for all of it: librdkafka 2.12 sends the same heartbeat again instead, and never
    /// hears of it; partitions stay with nobody. It says of such a heartbeat that it timed out here and nowhere else.
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        if facility == "REQTMOUT"
            && message.contains("Timed out ConsumerGroupHeartbeatRequest in flight")
        {
            self.lost.store(true, Ordering::Release);
        }
        client::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        client::told(&self.connection, &error, reason);
    }

    fn stats(&self, statistics: Statistics) {
        client::broker_state(&self.connection, &statistics);
        client::lag(&self.connection, &statistics, self.at_rest.load(Ordering::Acquire));
    }
}

impl ConsumerContext for SourceContext {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let change = match rebalance {
            Rebalance::Assign(list) => Rebalanced::Assigned(partitions(list)),
            Rebalance::Revoke(list) => {
                let gone: Vec<_> = partitions(list);
                if let Err(error) = self.goes(consumer, &gone) {
                    tracing::warn!(%error, "partitions that go are not resumed");
                }
                Rebalanced::Revoked(gone)
            }
            Rebalance::Error(error) => {
                tracing::warn!(%error, "rebalance failed");
                return;
            }
        };
        self.connection.down(false);
        locked(&self.changes).push(change);
        self.changed.store(true, Ordering::Release);
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Assign(list) = rebalance
            && let Err(error) = self.comes(consumer, list)
        {
            tracing::warn!(%error, "partitions that come are not held");
        }
    }
}

/// A record as it was polled; it borrows librdkafka's memory.
pub struct SourceRecord<'s> {
    message: BorrowedMessage<'s>,
    size: usize,
}

impl<'s> SourceRecord<'s> {
    fn new(message: BorrowedMessage<'s>) -> Self {
        let of = |part: Option<&[u8]>| part.map_or(0, <[u8]>::len);
        let mut record = SourceRecord { message, size: 0 };
        let headers = record.headers().unwrap_or_default();
        let headers = headers.iter().map(|(name, value)| name.len() + of(*value)).sum::<usize>();
        record.size = of(record.key()) + of(record.value()) + headers;
        record
    }

    pub fn topic(&self) -> &str {
        self.message.topic()
    }

    pub fn partition(&self) -> i32 {
        self.message.partition()
    }

    pub fn offset(&self) -> i64 {
        self.message.offset()
    }

    pub fn timestamp_ms(&self) -> Option<i64> {
        self.message.timestamp().to_millis()
    }

    pub fn key(&self) -> Option<&[u8]> {
        self.message.key()
    }

    pub fn value(&self) -> Option<&[u8]> {
        self.message.payload()
    }

    /// None where a name is not UTF-8: rdkafka panics over it.
    pub fn headers(&self) -> Option<Vec<Header<'_>>> {
        let Some(headers) = self.message.headers() else { return Some(Vec::new()) };
        let read = || headers.iter().map(|one| (one.key, one.value)).collect();
        catch_unwind(AssertUnwindSafe(read)).ok()
    }

    /// Bytes of key, value and headers.
    pub fn size(&self) -> usize {
        self.size
    }
}

/// The generation of the group in which records were polled: it fences a lane that lost its partitions
/// (KIP-447).
pub struct Generation(pub(super) ConsumerGroupMetadata);

/// Where a batch ends in one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    pub topic: String,
    pub partition: i32,
    /// The next offset.
    pub next: i64,
    /// Among how many partitions the state topic spreads what is held, where something may be.
    pub spread: Option<i32>,
}

/// Stands in the metadata of a committed offset, before [`Position::spread`].
const SPREAD: &str = "veilstream state partitions=";

/// What is committed of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    pub next: i64,
    pub spread: Option<i32>,
}

/// Where a batch ends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Positions(pub Vec<Position>);

impl Positions {
    pub(super) fn list(&self) -> Result<TopicPartitionList, KafkaError> {
        let mut list = TopicPartitionList::new();
        for Position { topic, partition, next, spread } in &self.0 {
            let mut one = list.add_partition(topic, *partition);
            one.set_offset(Offset::Offset(*next))?;
            if let Some(spread) = spread {
                one.set_metadata(format!("{SPREAD}{spread}"));
            }
        }
        Ok(list)
    }
}

/// A member of the group.
pub struct Source {
    consumer: BaseConsumer<SourceContext>,
}

impl Source {
    /// `protocol` says which one to speak; `Auto` is settled by the caller.
    pub fn open(
        settings: &ClientSettings,
        protocol: GroupProtocol,
        topics: &[&str],
    ) -> Result<Source, SourceError> {
        let context = SourceContext {
            connection: Arc::clone(&settings.connection),
            changes: Mutex::default(),
            changed: AtomicBool::new(false),
            held: Mutex::default(),
            lost: AtomicBool::new(false),
            at_rest: AtomicBool::new(true),
        };
        let consumer: BaseConsumer<SourceContext> = settings
            .consumer(protocol)
            .create_with_context(context)
            .map_err(|error| SourceError::Settings(client::refused(error)))?;
        consumer.subscribe(topics)?;
        Ok(Source { consumer })
    }

    /// Subscribes to these topics and no others.
    pub fn subscribe(&self, topics: &[&str]) -> Result<(), SourceError> {
        Ok(self.consumer.subscribe(topics)?)
    }

    /// The next record, if one comes within `timeout`. Serves rebalances meanwhile.
    pub fn poll(&self, timeout: Duration) -> Result<Option<SourceRecord<'_>>, SourceError> {
        if self.consumer.context().lost.load(Ordering::Acquire) {
            return Err(SourceError::LostHeartbeat);
        }
        let error = match self.consumer.poll(timeout) {
            None => return Ok(None),
            Some(Ok(message)) => {
                self.consumer.context().at_rest.store(false, Ordering::Release);
                self.consumer.context().connection.down(false);
                return Ok(Some(SourceRecord::new(message)));
            }
            Some(Err(error)) => error,
        };
        if let Some((code, reason)) = self.consumer.client().fatal_error() {
            tracing::warn!(?code, "{reason}");
            return Err(match code {
                RDKafkaErrorCode::UnsupportedFeature | RDKafkaErrorCode::UnsupportedVersion => {
                    SourceError::NoConsumerProtocol
                }
                _ => SourceError::Kafka(error),
            });
        }
        match error.rdkafka_error_code() {
            // librdkafka goes on by itself.
            Some(RDKafkaErrorCode::AllBrokersDown) => {
                self.consumer.context().connection.down(true);
                Ok(None)
            }
            Some(
                RDKafkaErrorCode::PartitionEOF
                | RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::OperationTimedOut
                | RDKafkaErrorCode::Resolve
                | RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic,
            ) => {
                tracing::debug!(%error, "poll");
                Ok(None)
            }
            _ => Err(error.into()),
        }
    }

    /// What came and went since the last call, in order.
    pub fn rebalances(&self) -> Vec<Rebalanced> {
        let context = self.consumer.context();
        if !context.changed.swap(false, Ordering::Acquire) {
            return Vec::new();
        }
        std::mem::take(&mut *locked(&context.changes))
    }

    /// The generation now.
    pub fn generation(&self) -> Option<Generation> {
        self.consumer.group_metadata().map(Generation)
    }

    /// Takes no more records until [`Source::release`]; rebalances are served all the same.
    pub fn hold(&self) -> Result<(), SourceError> {
        let mut held = locked(&self.consumer.context().held);
        let assigned = self.consumer.assignment()?;
        self.consumer.pause(&assigned)?;
        held.get_or_insert_default().extend(partitions::<Vec<_>>(&assigned));
        Ok(())
    }

    /// Takes records again.
    pub fn release(&self) -> Result<(), SourceError> {
        let held = locked(&self.consumer.context().held).take();
        Ok(self.consumer.resume(&list(&held.unwrap_or_default()))?)
    }

    /// All that was polled is committed, or went to somebody else.
    pub fn rests(&self) {
        self.consumer.context().at_rest.store(true, Ordering::Release);
    }

    /// Tells the consumer what a transaction committed: its lag counts from there.
    pub fn committed(&self, positions: &Positions) {
        let stored = positions.list().and_then(|list| self.consumer.store_offsets(&list));
        if let Err(error) = stored {
            // Of partitions that went to another member meanwhile.
            tracing::debug!(%error, "positions are not stored");
        }
    }

    /// What is committed of partitions, where there is anything; none while that is not known, for it waits for
    /// transactions that are about to end.
    pub fn committed_offsets(
        &self,
        partitions: &[(String, i32)],
    ) -> Result<Option<Vec<Option<Committed>>>, SourceError> {
        use RDKafkaErrorCode::{OperationTimedOut, UnstableOffsetCommit};
        let told = match self.consumer.committed_offsets(list(partitions), CALL) {
            Ok(told) => told,
            Err(error) => match error.rdkafka_error_code() {
                Some(OperationTimedOut | UnstableOffsetCommit) => return Ok(None),
                _ => return Err(error.into()),
            },
        };
        let of = |(topic, partition): &(String, i32)| {
            let told = told.find_partition(topic, *partition)?;
            let Offset::Offset(next) = told.offset() else { return None };
            // Somebody else's need not be UTF-8: rdkafka panics over it.
            let metadata = catch_unwind(AssertUnwindSafe(|| told.metadata().to_owned()));
            let spread = metadata.ok().and_then(|text| text.strip_prefix(SPREAD)?.parse().ok());
            Some(Committed { next, spread: spread.filter(|spread| *spread > 0) })
        };
        Ok(Some(partitions.iter().map(of).collect()))
    }

    /// Commits without a transaction, for at-least-once.
    pub fn commit(&self, positions: &Positions) -> Result<(), SourceError> {
        Ok(self.consumer.commit(&positions.list()?, CommitMode::Sync)?)
    }
}
