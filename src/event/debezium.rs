//! Debezium's change event envelope (Debezium documentation, "Change event values" of each connector).

/// A part of the envelope that the rewrite treats in its own way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Before,
    After,
    Operation,
    /// When the connector saw the change: `ts_ms`, `ts_us`, `ts_ns`.
    Time,
    /// Where in the source database the change stands.
    Source,
    /// Which database transaction it belongs to.
    Transaction,
    /// The embedded schema (Kafka Connect's JsonConverter with `schemas.enable`).
    Schema,
    /// The envelope, beside its schema.
    Payload,
}

impl Part {
    /// A bit for "was there".
    pub fn bit(self) -> u16 {
        1 << self as u16
    }
}

/// The members of the envelope that go on. Everything else at this level is dropped.
pub const ENVELOPE: &[(&str, Part)] = &[
    ("before", Part::Before),
    ("after", Part::After),
    ("source", Part::Source),
    ("op", Part::Operation),
    ("ts_ms", Part::Time),
    ("ts_us", Part::Time),
    ("ts_ns", Part::Time),
    ("transaction", Part::Transaction),
    ("schema", Part::Schema),
    ("payload", Part::Payload),
];

/// The positional part of `source`, over all connectors. What is not here may hold data: `query` is the
/// statement's text, `user_name` a person.
pub const SOURCE: &[&str] = &[
    "version",
    "connector",
    "name",
    "ts_ms",
    "ts_us",
    "ts_ns",
    "snapshot",
    "db",
    "sequence",
    "schema",
    "table",
    "collection",
    "keyspace",
    "shard",
    "cluster",
    // PostgreSQL
    "txId",
    "lsn",
    "xmin",
    // MySQL, MariaDB
    "server_id",
    "gtid",
    "file",
    "pos",
    "row",
    "thread",
    // MongoDB
    "rs",
    "ord",
    "h",
    "tord",
    "stxnid",
    "lsid",
    "txnNumber",
    "wallTime",
    // SQL Server, Db2, Informix
    "change_lsn",
    "commit_lsn",
    "begin_lsn",
    "event_serial_no",
    // Oracle
    "scn",
    "commit_scn",
    "start_scn",
    "lcr_position",
    "rs_id",
    "ssn",
    "redo_thread",
    "commit_ts_ms",
    "start_ts_ms",
    // Vitess
    "vgtid",
];

/// `transaction`.
pub const TRANSACTION: &[&str] =
    &["id", "total_order", "data_collection_order", "transaction_rank", "transaction_epoch"];

/// In place of a large value that did not change and that the database did not tell (Debezium documentation,
/// `unavailable.value.placeholder`), as JSON text. It is no data.
pub const UNAVAILABLE: &str = "\"__debezium_unavailable_value\"";

/// `op`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
    /// A row read by a snapshot.
    Read,
    Truncate,
    /// A logical decoding message: it belongs to no row.
    Message,
}

impl Operation {
    /// From the JSON text of `op`.
    pub fn parse(text: &str) -> Option<Operation> {
        Some(match text {
            r#""c""# => Operation::Create,
            r#""u""# => Operation::Update,
            r#""d""# => Operation::Delete,
            r#""r""# => Operation::Read,
            r#""t""# => Operation::Truncate,
            r#""m""# => Operation::Message,
            _ => return None,
        })
    }
}
