//! `worker.yaml`: what a worker is told. Every option has a default but the addresses of what it works with.
//!
//! The types are the reference: their comments are the descriptions in the JSON Schema and in
//! docs/configuration.md, `x-unit` is the unit, `x-reload` says what a reload takes up.

mod load;
mod reference;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use load::{ConfigError, ENVIRONMENT};
pub use reference::{Reference, schema};

/// The configuration of a veilstream worker
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// A name of this worker that is stable over restarts, such as a StatefulSet's pod name: a restarted worker then
    /// ends the transactions of its predecessor at once. Random at each start if unset.
    #[serde(default)]
    pub name: Option<String>,
    /// The cluster, and how it is talked to.
    pub kafka: Kafka,
    /// What a crash may do to the last batch.
    #[serde(default)]
    pub delivery: Delivery,
    /// Lanes: a consumer, a producer and a thread each. One per core if unset.
    #[serde(default)]
    pub lanes: Option<NonZeroUsize>,
    /// The bounds of a batch, which is one transaction.
    #[serde(default)]
    pub batch: Batch,
    /// Policy files; `*` matches many. A pattern without a match is an error.
    #[schemars(length(min = 1), extend("x-reload" = "content and files: SIGHUP, file change"))]
    pub policies: Vec<String>,
    /// The keyset file, made by `veilstream keys init`. Either it or `key_store`.
    #[serde(default)]
    #[schemars(extend("x-reload" = "content: SIGHUP"))]
    pub keys: Option<PathBuf>,
    /// The key store: keys that a provider seals, and one of its own for each data subject.
    #[serde(default)]
    pub key_store: Option<KeyStore>,
    /// Who may read and reveal what. Without it nobody may reveal anything.
    #[serde(default)]
    pub access: Option<Access>,
    /// Where records go that cannot be sanitized.
    pub quarantine: Quarantine,
    /// Where audit events go.
    pub audit: Audit,
    /// Requests to forget a person, by topic.
    #[serde(default)]
    pub erasure: Option<Erasure>,
    /// What views with `anonymize` hold. Needed where there are any.
    #[serde(default)]
    pub state: Option<State>,
    /// Rate limits of this worker, all lanes together.
    #[serde(default)]
    pub limits: Limits,
    /// Metrics, health, logs and traces.
    #[serde(default)]
    pub telemetry: Telemetry,
    /// What `veilstream topics` makes; the worker itself makes none.
    #[serde(default)]
    pub topics: Topics,
    /// How long a stop may take. What is not committed then is read again.
    #[serde(default = "default_deadline")]
    #[schemars(extend("x-unit" = "seconds"))]
    pub shutdown_deadline_s: u64,
    /// Where the file stood.
    #[serde(skip)]
    pub folder: PathBuf,
    /// The broker is librdkafka's mock cluster: it cannot be asked about topics.
    #[serde(skip)]
    pub embedded: bool,
}

fn default_deadline() -> u64 {
    30
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyStore {
    /// The database file, on a disk of this worker's own. Either it or `postgres`.
    #[serde(default)]
    pub sqlite: Option<PathBuf>,
    /// The URL of a PostgreSQL database, such as `postgres://user:password@host/database`, for several workers. To
    /// another machine it takes TLS, with the server's certificate verified; `?sslrootcert=FILE` names its authority.
    #[serde(default)]
    pub postgres: Option<SecretText>,
    /// The provider of the key that seals what is in the database.
    pub kek: Kek,
    /// How many keys of data subjects are kept ready, in all lanes together.
    #[serde(default = "default_cached_subjects")]
    #[schemars(extend("x-unit" = "keys"))]
    pub cached_subjects: NonZeroU64,
    /// How long one is kept ready: so long after an erasure the key may still seal.
    #[serde(default = "default_cached_s")]
    #[schemars(extend("x-unit" = "seconds"))]
    pub cached_s: NonZeroU64,
}

fn default_cached_subjects() -> NonZeroU64 {
    NonZeroU64::MIN.saturating_add(99_999)
}

fn default_cached_s() -> NonZeroU64 {
    NonZeroU64::MIN.saturating_add(59)
}

/// One of its members names the provider.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Kek {
    /// A key file, made by `veilstream keys init --config`.
    #[serde(default)]
    pub file: Option<KekFile>,
    /// The transit engine of HashiCorp Vault or OpenBao.
    #[serde(default)]
    pub vault_transit: Option<VaultTransit>,
    /// AWS Key Management Service. Credentials come from the environment, a profile, or the machine's or pod's role.
    #[serde(default)]
    pub aws_kms: Option<AwsKms>,
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VaultTransit {
    /// Such as `https://vault.example.com:8200`; plain `http` to this machine alone.
    pub address: String,
    /// The name of a key of a type that takes associated data, such as `aes256-gcm96`.
    pub key: String,
    /// Where the engine is mounted.
    #[serde(default = "default_mount")]
    pub mount: String,
    /// The namespace, where there are any.
    #[serde(default)]
    pub namespace: Option<String>,
    /// A token that may `encrypt` and `decrypt` with the key. It is read at each request: let an agent renew the file.
    pub token: SecretText,
    /// PEM file of the authorities of Vault's certificate. The system's if unset.
    #[serde(default)]
    pub ca: Option<PathBuf>,
}

fn default_mount() -> String {
    "transit".into()
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AwsKms {
    /// The key, by its ARN, its id, or an alias such as `alias/veilstream`: symmetric, for encryption.
    pub key: String,
    /// The region. AWS_REGION or the profile says it if unset.
    #[serde(default)]
    pub region: Option<String>,
    /// Another address than the region's own.
    #[serde(default)]
    pub endpoint: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KekFile {
    /// The file. Keep it apart from the database: together with the passphrase they open everything.
    pub path: PathBuf,
    /// What it is sealed with, by Argon2id: 12 characters or more.
    pub passphrase: SecretText,
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Access {
    /// The file of roles.
    #[schemars(extend("x-reload" = "content: SIGHUP, file change"))]
    pub roles: PathBuf,
    /// Kafka's principal of the worker, such as `User:veilstream`: `veilstream acl` allows it what a worker needs. The
    /// user of `kafka.security.sasl` if unset.
    #[serde(default)]
    pub principal: Option<String>,
    /// Whose tokens are believed over HTTP. Without it there is no `/v1/`.
    #[serde(default)]
    pub tokens: Option<Tokens>,
    /// How many requests one actor may make, of each worker.
    #[serde(default = "default_requests")]
    #[schemars(extend("x-unit" = "requests/minute"))]
    pub requests_per_minute: NonZeroU32,
    /// How many values one request may reveal.
    #[serde(default = "default_values")]
    #[schemars(extend("x-unit" = "values"))]
    pub values_per_request: NonZeroUsize,
}

fn default_requests() -> NonZeroU32 {
    NonZeroU32::MIN.saturating_add(59)
}

fn default_values() -> NonZeroUsize {
    at_least_one(100)
}

/// JSON Web Tokens (RFC 7519) of an OpenID provider.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tokens {
    /// The provider, exactly as it stands in `iss`. Its keys are found by discovery, over TLS, or on this machine.
    pub issuer: String,
    /// What has to stand in `aud`.
    pub audience: String,
    /// A file with the provider's keys (JWKS, RFC 7517), in place of discovery.
    #[serde(default)]
    pub keys: Option<PathBuf>,
    /// How tokens are signed; no other way is believed.
    #[serde(default)]
    pub algorithm: TokenAlgorithm,
    /// The claim that names the roles: a list, or words with spaces between.
    #[serde(default = "default_roles_claim")]
    pub roles_claim: String,
    /// The claim that names the actor, in the audit trail too.
    #[serde(default = "default_actor_claim")]
    pub actor_claim: String,
    /// PEM file of the authorities of the provider's certificate. The system's if unset.
    #[serde(default)]
    pub ca: Option<PathBuf>,
}

fn default_roles_claim() -> String {
    "roles".into()
}

fn default_actor_claim() -> String {
    "sub".into()
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TokenAlgorithm {
    /// RSA with SHA-256.
    #[default]
    RS256,
    /// ECDSA on P-256 with SHA-256.
    ES256,
    /// Ed25519.
    EdDSA,
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Kafka {
    /// `host:port`, several separated by commas.
    pub bootstrap: String,
    /// The consumer group, and the beginning of transactional ids.
    #[serde(default = "default_group")]
    pub group: String,
    /// How members of the group share the partitions.
    #[serde(default)]
    pub group_protocol: GroupProtocol,
    /// A lane is a static member of its group (KIP-345): a restart within the session timeout moves no partition.
    /// Needs `name`.
    #[serde(default)]
    pub static_membership: bool,
    /// After this long the broker aborts what a killed lane left open; and as long a lane waits for the broker before
    /// it begins anew. At most the broker's `transaction.max.timeout.ms`.
    #[serde(default = "default_transaction_timeout")]
    #[schemars(range(min = 1000), extend("x-unit" = "milliseconds"))]
    pub transaction_timeout_ms: u32,
    /// TLS and SASL. Plaintext if unset.
    #[serde(default)]
    pub security: Option<Security>,
    /// librdkafka settings for all clients, by their names. Values are text: quote numbers and `true`.
    #[serde(default)]
    pub properties: BTreeMap<String, String>,
    /// librdkafka settings for consumers; they override `properties`.
    #[serde(default)]
    pub consumer: BTreeMap<String, String>,
    /// librdkafka settings for producers; they override `properties`.
    #[serde(default)]
    pub producer: BTreeMap<String, String>,
}

fn default_group() -> String {
    "veilstream".into()
}

fn default_transaction_timeout() -> u32 {
    60_000
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum GroupProtocol {
    /// `consumer` where the broker has it, else `classic`.
    #[default]
    Auto,
    /// The classic protocol with the cooperative-sticky assignor.
    Classic,
    /// KIP-848, Kafka 4.0 and later.
    Consumer,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Delivery {
    /// Sanitized records, quarantine, audit and offsets are one transaction.
    #[default]
    ExactlyOnce,
    /// A crash may publish the last batch again.
    AtLeastOnce,
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Security {
    /// `plaintext`, `ssl`, `sasl_plaintext` or `sasl_ssl`.
    pub protocol: String,
    /// User and password.
    #[serde(default)]
    pub sasl: Option<Sasl>,
    /// Certificates.
    #[serde(default)]
    pub tls: Option<Tls>,
    /// Any other librdkafka setting that is a secret, such as `sasl.oauthbearer.client.secret`.
    #[serde(default)]
    pub secrets: BTreeMap<String, SecretText>,
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sasl {
    /// `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`.
    pub mechanism: String,
    pub username: SecretText,
    pub password: SecretText,
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// PEM file of the certificate authorities. The system's if unset.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// PEM file of the client's certificate.
    #[serde(default)]
    pub certificate: Option<PathBuf>,
    /// PEM file of its key.
    #[serde(default)]
    pub key: Option<PathBuf>,
    /// The password of that key.
    #[serde(default)]
    pub key_password: Option<SecretText>,
}

/// `{ file: PATH }` or `{ env: NAME }`: a secret never stands in the configuration itself.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
#[schemars(title = "Secret")]
pub enum SecretText {
    /// A file; line ends at its end are cut off.
    File(PathBuf),
    /// An environment variable.
    Env(String),
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Batch {
    /// Records of a batch, at most.
    #[schemars(extend("x-unit" = "records"))]
    pub records: NonZeroUsize,
    /// A batch is full when keys, values and headers reach this.
    #[schemars(extend("x-unit" = "bytes"))]
    pub bytes: NonZeroUsize,
    /// A batch is full this long after its first record.
    #[schemars(extend("x-unit" = "milliseconds"))]
    pub time_ms: NonZeroU64,
}

const fn at_least_one(number: usize) -> NonZeroUsize {
    NonZeroUsize::MIN.saturating_add(number.saturating_sub(1))
}

impl Default for Batch {
    fn default() -> Self {
        Batch {
            records: at_least_one(10_000),
            bytes: at_least_one(8 << 20),
            time_ms: NonZeroU64::MIN.saturating_add(99),
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Quarantine {
    /// The topic of records that cannot be sanitized; they are encrypted.
    pub topic: String,
    /// What happens to a record that is too large for that topic.
    #[serde(default)]
    pub oversize: Oversize,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Oversize {
    /// Its coordinates, size and keyed digest stand for it. The record itself is then in the source topic alone.
    #[default]
    Account,
    /// The lane stops there, and the worker with status 1; the record stays unread.
    Halt,
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// The compacted topic in which rows wait, sealed, until enough people are alike. Deployments may share it.
    pub topic: String,
    /// Where files are made for rows that do not fit into memory; they are encrypted, and gone with the process. Without
    /// it all rows stay in memory, whatever they take.
    #[serde(default)]
    pub folder: Option<PathBuf>,
    /// How many bytes of rows stay in memory, of each view and partition.
    #[serde(default = "default_memory")]
    #[schemars(extend("x-unit" = "bytes"))]
    pub memory_bytes: NonZeroUsize,
}

fn default_memory() -> NonZeroUsize {
    at_least_one(64 << 20)
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Audit {
    /// The topic of audit events. Another one than quarantine's.
    pub topic: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Erasure {
    /// The topic of requests: `{"subject": "...", "population": "...", "reason": "..."}`. Whoever may write to it may have
    /// anybody forgotten.
    pub topic: String,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// By source topic: what is read from it.
    pub sources: BTreeMap<String, Limit>,
    /// By `POLICY/VIEW`: what is published to it.
    pub views: BTreeMap<String, Limit>,
}

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limit {
    /// Records per second. No limit if unset.
    #[schemars(extend("x-unit" = "records/s"))]
    pub records_per_second: Option<NonZeroU32>,
    /// Bytes of keys, values and headers per second. No limit if unset.
    #[schemars(extend("x-unit" = "bytes/s"))]
    pub bytes_per_second: Option<NonZeroU32>,
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Telemetry {
    /// Where `/metrics`, `/healthz` and `/readyz` are served to this machine: a loopback address.
    pub listen: SocketAddr,
    /// Where the same is served to others: over TLS, and `/metrics` to those that show a token.
    pub remote: Option<Remote>,
    /// Traces of OpenTelemetry, sent to a collector. None if unset.
    pub traces: Option<Traces>,
    /// The form of log lines.
    pub log_format: LogFormat,
    /// A level, or a filter such as `info,veilstream=debug`. `VEILSTREAM_LOG` overrides it.
    pub log_level: String,
}

impl Default for Telemetry {
    fn default() -> Self {
        let listen = SocketAddr::from(([127, 0, 0, 1], 9464));
        let log_level = "info".into();
        Telemetry { listen, remote: None, traces: None, log_format: LogFormat::Text, log_level }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Remote {
    /// The address, such as `0.0.0.0:9465`.
    pub listen: SocketAddr,
    /// PEM file of the server's certificate, and of those between it and the authority.
    #[schemars(extend("x-reload" = "content: SIGHUP, file change"))]
    pub certificate: PathBuf,
    /// PEM file of its key.
    #[schemars(extend("x-reload" = "content: SIGHUP, file change"))]
    pub key: PathBuf,
    /// Whoever reads metrics shows it: `Authorization: Bearer TOKEN`.
    #[schemars(extend("x-reload" = "content: SIGHUP, file change"))]
    pub token: SecretText,
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Traces {
    /// Where the collector takes OTLP over HTTP, such as `http://127.0.0.1:4318/v1/traces`.
    pub endpoint: String,
    /// Share of transactions that are traced, from 0 to 1. Records with a sampled `traceparent` are traced all the same.
    #[serde(default = "default_sample")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub sample: f64,
    /// Headers of what is sent, such as `authorization`, by their names. Only over TLS, or to this machine.
    #[serde(default)]
    pub headers: BTreeMap<String, SecretText>,
    /// PEM file of the authorities of the collector's certificate. The system's if unset.
    #[serde(default)]
    pub ca: Option<PathBuf>,
}

fn default_sample() -> f64 {
    0.01
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Topics {
    /// Replicas of each topic. The broker's `default.replication.factor` if unset.
    #[schemars(extend("x-unit" = "replicas"))]
    pub replication_factor: Option<NonZeroU32>,
    /// By topic: what is to be other than `veilstream topics` would have it. A source topic is made only if it
    /// stands here with `partitions`.
    pub each: BTreeMap<String, TopicSettings>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TopicSettings {
    /// Partitions. Of a view: as many as its largest source; else 6 if unset.
    #[schemars(extend("x-unit" = "partitions"))]
    pub partitions: Option<NonZeroU32>,
    /// Settings of the topic by Kafka's names, such as `retention.ms`. Values are text.
    pub settings: BTreeMap<String, String>,
}

impl Config {
    /// The batch bounds, no larger than what a limit lets all lanes through in a second: so a lane never waits
    /// long with a transaction open.
    pub fn effective_batch(&self) -> Batch {
        let lanes = self.lanes();
        let share = |rate: Option<NonZeroU32>, bound: NonZeroUsize| {
            let share = rate.and_then(|rate| NonZeroUsize::new(rate.get() as usize / lanes));
            rate.map_or(bound, |_| bound.min(share.unwrap_or(NonZeroUsize::MIN)))
        };
        let limits = self.limits.sources.values().chain(self.limits.views.values());
        limits.fold(self.batch, |batch, limit| Batch {
            records: share(limit.records_per_second, batch.records),
            bytes: share(limit.bytes_per_second, batch.bytes),
            ..batch
        })
    }

    pub fn lanes(&self) -> usize {
        self.lanes.or(std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get)
    }
}
