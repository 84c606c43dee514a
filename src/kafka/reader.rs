//! Reading a topic from end to end outside a group, and writing raw records: for `quarantine` and the demo.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, DeliveryResult, Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::{ClientContext, Offset, TopicPartitionList};

use super::client::{self, ClientSettings, KafkaProblem, Logging};

/// librdkafka's own: how much a batch of records holds, and the largest record that it can be told of.
const BATCH_BYTES: usize = 1_000_000;
const LARGEST_RECORD: usize = 1_000_000_000;

const CALL: Duration = Duration::from_secs(10);

/// A record of its own. It has no `Debug`: it may be customer data.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct OwnedRecord {
    pub partition: i32,
    pub offset: i64,
    pub timestamp_ms: Option<i64>,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl OwnedRecord {
    /// The header called `name`, as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let header = self.headers.iter().find(|(known, _)| known == name);
        header.and_then(|(_, value)| std::str::from_utf8(value.as_deref()?).ok())
    }
}

pub(super) fn owned(message: &BorrowedMessage<'_>) -> OwnedRecord {
    let headers = message.headers().into_iter().flat_map(|all| all.iter());
    OwnedRecord {
        partition: message.partition(),
        offset: message.offset(),
        timestamp_ms: message.timestamp().to_millis(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers: headers.map(|one| (one.key.to_owned(), one.value.map(<[u8]>::to_vec))).collect(),
    }
}

/// Where a record stands that is to be deleted: a topic, and the key under which it was read there.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Grave {
    topic: String,
    partition: i32,
    key: Vec<u8>,
}

impl Grave {
    /// Of a record of `topic`; none where it has no key.
    pub fn of(topic: &str, record: &OwnedRecord) -> Option<Grave> {
        let key = record.key.clone()?;
        Some(Grave { topic: topic.to_owned(), partition: record.partition, key })
    }

    pub fn topic(&self) -> &str {
        &self.topic
    }

    pub fn partition(&self) -> i32 {
        self.partition
    }

    pub fn key(&self) -> &[u8] {
        &self.key
    }
}

/// Reads committed records of one topic.
pub struct Reader {
    consumer: BaseConsumer<Logging>,
    topic: String,
    /// Where each partition ended when this was opened.
    ends: HashMap<i32, i64>,
    /// How far one could read when that was last asked.
    stable: HashMap<i32, i64>,
    /// The next offset of each.
    reached: HashMap<i32, i64>,
}

impl Reader {
    /// From the beginning of every partition, to the last record that is committed.
    pub fn open(settings: &ClientSettings, topic: &str) -> Result<Reader, KafkaProblem> {
        Reader::open_at(settings, topic, None, None)
    }

    /// From the beginning of the partitions that `wanted` chooses, told how many there are, to the last record that is
    /// there: transactions that are open are waited for.
    pub fn of_partitions(
        settings: &ClientSettings,
        topic: &str,
        wanted: impl FnOnce(i32) -> BTreeSet<i32>,
    ) -> Result<Reader, KafkaProblem> {
        Reader::open_at(settings, topic, None, Some(Box::new(wanted)))
    }

    /// How many offsets are left to read.
    pub fn left(&self) -> i64 {
        let at = |partition| self.reached.get(partition).copied().unwrap_or(0);
        self.ends.iter().map(|(partition, end)| (end - at(partition)).max(0)).sum()
    }

    /// Another one, from where this one is, to the last record that is there: transactions that are open are waited for.
    pub fn behind(&self, settings: &ClientSettings) -> Result<Reader, KafkaProblem> {
        Reader::open_at(settings, &self.topic, Some(&self.reached), None)
    }

    fn open_at(
        settings: &ClientSettings,
        topic: &str,
        from: Option<&HashMap<i32, i64>>,
        wanted: Option<Box<dyn FnOnce(i32) -> BTreeSet<i32> + '_>>,
    ) -> Result<Reader, KafkaProblem> {
        let mut config = settings.common();
        config
            .set("group.id", "veilstream-reader")
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            // Where retention has moved the beginning meanwhile.
            .set("auto.offset.reset", "earliest")
            .set("enable.partition.eof", "true")
            .set("fetch.wait.max.ms", "20");
        let consumer: BaseConsumer<Logging> = config.create_with_context(Logging)?;
        // A client is told where what it may read ends.
        let all: Option<BaseConsumer<Logging>> = match from.is_some() || wanted.is_some() {
            true => Some(
                config.set("isolation.level", "read_uncommitted").create_with_context(Logging)?,
            ),
            false => None,
        };
        let metadata = consumer.fetch_metadata(Some(topic), CALL)?;
        let found = metadata.topics().first().map(|topic| topic.partitions()).unwrap_or_default();
        if found.is_empty() {
            let unknown = RDKafkaErrorCode::UnknownTopicOrPartition;
            return Err(KafkaError::MetadataFetch(unknown).into());
        }
        let mut list = TopicPartitionList::new();
        let [mut ends, mut stable, mut reached] = [(); 3].map(|()| HashMap::new());
        let wanted = wanted.map(|wanted| wanted(found.len() as i32));
        let is_wanted =
            |partition: &i32| wanted.as_ref().is_none_or(|wanted| wanted.contains(partition));
        for partition in found.iter().map(|partition| partition.id()).filter(is_wanted) {
            let (first, committed) = consumer.fetch_watermarks(topic, partition, CALL)?;
            let end = match &all {
                Some(all) => all.fetch_watermarks(topic, partition, CALL)?.1,
                None => committed,
            };
            let from = from.and_then(|from| from.get(&partition)).copied();
            let at = from.unwrap_or(first).max(first);
            list.add_partition_offset(topic, partition, Offset::Offset(at))?;
            ends.insert(partition, end);
            stable.insert(partition, committed);
            reached.insert(partition, at);
        }
        consumer.assign(&list)?;
        Ok(Reader { consumer, topic: topic.to_owned(), ends, stable, reached })
    }

    /// The next record, waiting at the end of the topic for at most `timeout`.
    pub fn next(&mut self, timeout: Duration) -> Result<Option<OwnedRecord>, KafkaProblem> {
        let deadline = Instant::now() + timeout;
        loop {
            match self.consumer.poll(deadline.saturating_duration_since(Instant::now())) {
                None => return Ok(None),
                Some(Ok(message)) => {
                    self.reached.insert(message.partition(), message.offset() + 1);
                    return Ok(Some(owned(&message)));
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => self.ended(partition)?,
                Some(Err(error)) => return Err(error.into()),
            }
        }
    }

    /// All that could be read of a partition has been. The last offsets may be marks of transactions, which are no records;
    /// or of one that is open, or was: then it goes on where that began.
    fn ended(&mut self, partition: i32) -> Result<(), KafkaProblem> {
        let end = self.ends.get(&partition).copied().unwrap_or(0);
        // So far one could read before this was said, at least.
        let stable = self.stable.entry(partition).or_insert(0);
        let reached = self.reached.entry(partition).or_insert(0);
        *reached = end.min(*stable).max(*reached);
        if *reached < end {
            let (_, now) = self.consumer.fetch_watermarks(&self.topic, partition, CALL)?;
            if now > *stable {
                *stable = now;
                self.consumer.seek(&self.topic, partition, Offset::Offset(*reached), CALL)?;
            }
        }
        Ok(())
    }

    /// All records up to where each partition ended when this was opened: what comes later is not waited for. False
    /// where `each` wanted no more; it is asked with none while nothing comes.
    pub fn to_end(
        &mut self,
        mut each: impl FnMut(Option<OwnedRecord>) -> bool,
    ) -> Result<bool, KafkaProblem> {
        while self.left() > 0 {
            let next = self.next(Duration::from_millis(100))?;
            if !each(next) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Writes raw records to a source topic: a replay out of quarantine, the demo's traffic.
pub struct Writer(BaseProducer<Deliveries>);

/// Remembers the first record that was not delivered.
#[derive(Default)]
struct Deliveries(Mutex<Option<KafkaError>>);

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        client::log(level, facility, message);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            let mut first = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert_with(|| error.clone());
        }
    }
}

impl Writer {
    pub fn open(settings: &ClientSettings) -> Result<Writer, KafkaProblem> {
        // How large a record may be is for the topic to say.
        let settings = settings.clone().with_record_limits(BATCH_BYTES, LARGEST_RECORD);
        Ok(Writer(settings.producer(None).create_with_context(Deliveries::default())?))
    }

    pub fn write(&self, topic: &str, record: &OwnedRecord) -> Result<(), KafkaProblem> {
        let headers = record.headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
            headers.insert(Header { key, value: value.as_deref() })
        });
        let mut message: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic).headers(headers);
        message.key = record.key.as_deref();
        message.payload = record.value.as_deref();
        message.timestamp = record.timestamp_ms;
        loop {
            match self.0.send(message) {
                Ok(()) => {
                    self.0.poll(Duration::ZERO);
                    return Ok(());
                }
                Err((error, back))
                    if error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull) =>
                {
                    message = back;
                    self.0.poll(Duration::from_millis(10));
                }
                Err((error, _)) => return Err(error.into()),
            }
        }
    }

    /// Waits until all is delivered; an error where one record was not.
    pub fn flush(&self) -> Result<(), KafkaProblem> {
        self.0.flush(CALL)?;
        let mut failed = self.0.context().0.lock().unwrap_or_else(PoisonError::into_inner);
        failed.take().map_or(Ok(()), |error| Err(error.into()))
    }
}
