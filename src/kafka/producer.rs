//! The producer of a lane: what it takes is sanitized, sealed or audit.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext, PurgeConfig};
use rdkafka::statistics::Statistics;

use super::client::{self, ClientSettings, Connection};
use super::reader::Grave;
use super::source::{Generation, Positions};
use crate::audit::AuditRecord;
use crate::hold::Entry;
use crate::quarantine::Sealed;
use crate::rewrite::Sanitized;

/// How long one call to the broker may take before it is taken up again.
const CALL: Duration = Duration::from_secs(2);
/// How long nothing is done where there is nothing to do.
const MOMENT: Duration = Duration::from_millis(1);
/// How long nothing may be delivered before a batch is given up.
const STALL: Duration = Duration::from_secs(15);
/// How long the reason may take why records were purged.
const CAUSE: Duration = Duration::from_millis(200);
/// How long a batch is still waited for once the worker stops.
const GRACE: Duration = Duration::from_secs(5);

/// Why a batch could not be published.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The transaction was aborted; the same batch can be tried again with this sink.
    #[error("the transaction was aborted: {0}")]
    Aborted(KafkaError),
    /// The broker will not take one of the records, whenever it is tried; the transaction was aborted.
    #[error("the broker refuses a record: {0}")]
    Refused(KafkaError),
    /// The sink is of no further use.
    #[error("the producer failed: {0}")]
    Failed(KafkaError),
    /// No retry mends it.
    #[error("kafka settings: {0}")]
    Settings(String),
    #[error("the broker did not answer within {0:?}")]
    TimedOut(Duration),
    #[error("the consumer is not in its group")]
    NoGroup,
}

struct SinkContext {
    connection: Arc<Connection>,
    /// Why a record of the batch was not delivered: the first reason that is one.
    undelivered: Mutex<Option<KafkaError>>,
}

/// The record was not delivered because another was not: librdkafka says so of those that waited, before it says why.
fn is_purged(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{PurgeInflight, PurgeQueue};
    matches!(error.rdkafka_error_code(), Some(PurgeQueue | PurgeInflight))
}

impl SinkContext {
    fn undelivered(&self) -> MutexGuard<'_, Option<KafkaError>> {
        self.undelivered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for SinkContext {
    fn log(&self, level: rdkafka::config::RDKafkaLogLevel, facility: &str, message: &str) {
        client::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        client::told(&self.connection, &error, reason);
    }

    fn stats(&self, statistics: Statistics) {
        client::broker_state(&self.connection, &statistics);
    }
}

impl ProducerContext for SinkContext {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            let mut known = self.undelivered();
            if known.as_ref().is_none_or(is_purged) {
                *known = Some(error.clone());
            }
        }
    }
}

/// Publishes what a lane makes, in transactions where it is exactly-once.
pub struct Sink {
    settings: ClientSettings,
    transactional_id: Option<String>,
    producer: BaseProducer<SinkContext>,
    open: bool,
    /// How many partitions each topic has, for records without a key.
    partitions: HashMap<String, i32>,
    /// How long a batch may take to be published.
    patience: Duration,
    /// The worker stops.
    stop: Arc<AtomicBool>,
}

fn producer(
    settings: &ClientSettings,
    transactional_id: Option<&str>,
) -> Result<BaseProducer<SinkContext>, SinkError> {
    let context =
        SinkContext { connection: Arc::clone(&settings.connection), undelivered: Mutex::default() };
    let config = settings.producer(transactional_id);
    let made = config.create_with_context(context);
    made.map_err(|error| SinkError::Settings(client::refused(error)))
}

/// Until when something is waited for; once the worker stops, not much longer.
struct Deadline<'s> {
    at: Instant,
    stop: &'s AtomicBool,
    stopped: Option<Instant>,
}

impl Deadline<'_> {
    fn is_over(&mut self) -> bool {
        if self.stopped.is_none() && self.stop.load(Ordering::Acquire) {
            self.stopped = Some(Instant::now());
        }
        let grace = self.stopped.map(|stopped| stopped + GRACE);
        Instant::now() > grace.map_or(self.at, |grace| grace.min(self.at))
    }
}

impl Sink {
    /// With `transactional_id`, waits until the broker has ended what a predecessor of that name left open.
    pub fn open(
        settings: &ClientSettings,
        transactional_id: Option<&str>,
        patience: Duration,
        stop: Arc<AtomicBool>,
    ) -> Result<Sink, SinkError> {
        let sink = Sink {
            producer: producer(settings, transactional_id)?,
            settings: settings.clone(),
            transactional_id: transactional_id.map(str::to_owned),
            open: false,
            partitions: HashMap::new(),
            patience,
            stop,
        };
        sink.initialize()?;
        Ok(sink)
    }

    fn initialize(&self) -> Result<(), SinkError> {
        match self.transactional_id {
            Some(_) => self.retried(|| self.producer.init_transactions(CALL)),
            None => Ok(()),
        }
    }

    /// Takes in what waits to be told, while there is nothing to publish.
    pub fn idle(&self) {
        self.producer.poll(Duration::ZERO);
    }

    /// Begins a batch.
    pub fn begin(&mut self) -> Result<(), SinkError> {
        if self.transactional_id.is_some() {
            self.producer.begin_transaction().map_err(SinkError::Failed)?;
        }
        self.open = true;
        Ok(())
    }

    /// Publishes a record to a view. `source_partition` orders records without a key.
    pub fn publish(
        &mut self,
        topic: &str,
        record: &Sanitized<'_>,
        timestamp_ms: Option<i64>,
        source_partition: i32,
    ) -> Result<(), SinkError> {
        let partition = match record.key() {
            Some(_) => None,
            None => Some(source_partition % self.partition_count(topic)?),
        };
        let headers = record.headers().fold(OwnedHeaders::new(), |headers, (key, value)| {
            headers.insert(Header { key, value })
        });
        self.send(topic, record.key(), record.value(), timestamp_ms, partition, headers)
    }

    /// Its timestamp is the time of writing: the raw record's may be so old that retention deletes the record at once,
    /// or what the broker refuses. That one stands inside the ciphertext.
    pub fn quarantine(&mut self, topic: &str, sealed: &Sealed) -> Result<(), SinkError> {
        let headers = sealed.headers().iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
            headers.insert(Header { key, value: Some(value) })
        });
        // A key of its own for each, so that a compacted topic keeps all.
        self.send(topic, Some(sealed.key()), Some(sealed.value()), None, None, headers)
    }

    /// Deletes a record that was read from a view: a null under its key, which that view has published before.
    pub fn bury(&mut self, grave: &Grave) -> Result<(), SinkError> {
        let (key, partition) = (Some(grave.key()), Some(grave.partition()));
        self.send(grave.topic(), key, None, None, partition, OwnedHeaders::new())
    }

    /// Writes what a view holds of a source partition.
    pub fn state(&mut self, topic: &str, entry: &Entry, partition: i32) -> Result<(), SinkError> {
        let (key, partition) = (Some(entry.key()), Some(partition));
        self.send(topic, key, entry.value(), None, partition, OwnedHeaders::new())
    }

    pub fn audit(&mut self, topic: &str, record: &AuditRecord) -> Result<(), SinkError> {
        self.send(topic, Some(record.key()), Some(record.json()), None, None, OwnedHeaders::new())
    }

    fn send(
        &self,
        topic: &str,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        timestamp_ms: Option<i64>,
        partition: Option<i32>,
        headers: OwnedHeaders,
    ) -> Result<(), SinkError> {
        let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic).headers(headers);
        record.key = key;
        record.payload = value;
        record.partition = partition;
        record.timestamp = timestamp_ms;
        let mut deadline = None;
        loop {
            let (error, back) = match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err(refused) => refused,
            };
            if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                return Err(self.failed(error));
            }
            if deadline.get_or_insert_with(|| self.deadline()).is_over() {
                return Err(SinkError::TimedOut(self.patience));
            }
            record = back;
            self.serve();
        }
    }

    fn deadline(&self) -> Deadline<'_> {
        Deadline { at: Instant::now() + self.patience, stop: &self.stop, stopped: None }
    }

    fn partition_count(&mut self, topic: &str) -> Result<i32, SinkError> {
        if let Some(count) = self.partitions.get(topic) {
            return Ok(*count);
        }
        let metadata =
            self.producer.client().fetch_metadata(Some(topic), CALL).map_err(SinkError::Aborted)?;
        let count = metadata.topics().first().map_or(0, |topic| topic.partitions().len()) as i32;
        if count > 0 {
            self.partitions.insert(topic.to_owned(), count);
        }
        Ok(count.max(1))
    }

    /// Ends the batch: all of it is published, with the positions, or none of it.
    /// Without transactions it returns when all records are delivered; positions are the caller's to commit.
    pub fn commit(
        &mut self,
        positions: &Positions,
        generation: Option<&Generation>,
    ) -> Result<(), SinkError> {
        self.drain()?;
        if self.transactional_id.is_none() {
            self.open = false;
            return Ok(());
        }
        if !positions.0.is_empty() {
            let generation = generation.ok_or(SinkError::NoGroup)?;
            let list = positions.list().map_err(SinkError::Failed)?;
            self.retried(|| self.producer.send_offsets_to_transaction(&list, &generation.0, CALL))?;
        }
        self.retried(|| self.producer.commit_transaction(CALL))?;
        self.open = false;
        Ok(())
    }

    /// Waits until every record is delivered, or one is not.
    fn drain(&self) -> Result<(), SinkError> {
        if !self.settle() {
            return Err(SinkError::TimedOut(STALL.min(self.patience)));
        }
        let undelivered = self.producer.context().undelivered().take();
        undelivered.map_or(Ok(()), |error| Err(self.classified(error)))
    }

    /// Waits until all is delivered, or why not is known; false where nothing moves any more. `flush` waits in slices
    /// of 100 ms; serving does not.
    ///
    /// What was in flight to a broker that went away may wait for the end of its time, a minute: librdkafka holds it
    /// where the transaction can only be aborted.
    fn settle(&self) -> bool {
        let context = self.producer.context();
        let (mut deadline, mut stalled) = (self.deadline(), Instant::now() + STALL);
        // Logs and statistics that wait to be told count too: only fewer than ever is progress.
        let mut least = self.producer.in_flight_count();
        while self.producer.in_flight_count() > 0 {
            let cause = context.undelivered().as_ref().map(is_purged);
            match cause {
                Some(false) => return true,
                // The reason comes behind.
                Some(true) => stalled = stalled.min(Instant::now() + CAUSE),
                None => {}
            }
            self.serve();
            let left = self.producer.in_flight_count();
            if left < least && cause.is_none() {
                stalled = Instant::now() + STALL;
            }
            least = least.min(left);
            if deadline.is_over() || Instant::now() > stalled {
                return cause.is_some();
            }
        }
        true
    }

    /// Takes in what the broker has answered; where that is nothing, a moment passes. A poll of a millisecond would be
    /// spent spinning: rdkafka waits for what is left of the time in whole milliseconds.
    fn serve(&self) {
        let before = self.producer.in_flight_count();
        self.producer.poll(Duration::ZERO);
        if self.producer.in_flight_count() == before {
            std::thread::sleep(MOMENT);
        }
    }

    /// What is behind a record that cannot be sent: when the broker has refused one before it, the transaction
    /// takes no more, and the one before is what counts.
    fn failed(&self, error: KafkaError) -> SinkError {
        self.settle();
        let undelivered = self.producer.context().undelivered().take();
        self.classified(undelivered.unwrap_or(error))
    }

    /// What it means that a record was not delivered.
    fn classified(&self, error: KafkaError) -> SinkError {
        use RDKafkaErrorCode::*;
        if self.producer.client().fatal_error().is_some() {
            return SinkError::Failed(error);
        }
        match error.rdkafka_error_code() {
            Some(
                MessageSizeTooLarge
                | InvalidTimestamp
                | InvalidRecord
                | InvalidDifferentRecord
                | PolicyViolation,
            ) => SinkError::Refused(error),
            _ => SinkError::Aborted(error),
        }
    }

    /// Takes back what the batch published so far, and goes on with a new producer.
    ///
    /// librdkafka could go on with the old one. But what it purges it counts as if it had never been sent: where the
    /// broker had such a record all the same, it would take the next one for a duplicate, and drop it.
    pub fn abort(&mut self) -> Result<(), SinkError> {
        if !std::mem::take(&mut self.open) {
            return Ok(());
        }
        if self.transactional_id.is_some() {
            // Only to be quick: the beginning of the new one ends what is still open, but asks again after half a second
            // where it finds something.
            self.producer.purge(PurgeConfig::default().queue().non_blocking());
            let until = Instant::now() + CAUSE;
            while self.producer.in_flight_count() > 0 && Instant::now() < until {
                self.serve();
            }
            if self.producer.in_flight_count() == 0 {
                let _ = self.producer.abort_transaction(CALL);
            }
        }
        self.producer = producer(&self.settings, self.transactional_id.as_deref())?;
        self.initialize()
    }

    /// Calls the broker again while it says that it may help.
    fn retried(&self, call: impl Fn() -> Result<(), KafkaError>) -> Result<(), SinkError> {
        let mut deadline = self.deadline();
        loop {
            let error = match call() {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            match &error {
                KafkaError::Transaction(cause) if cause.is_retriable() => {}
                KafkaError::Transaction(cause) if cause.txn_requires_abort() => {
                    return Err(self.failed(error));
                }
                _ => return Err(SinkError::Failed(error)),
            }
            if deadline.is_over() {
                return Err(SinkError::TimedOut(self.patience));
            }
            self.producer.poll(Duration::from_millis(100));
        }
    }
}
