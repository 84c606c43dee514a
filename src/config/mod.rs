//! `worker.yaml`: what a worker is told. Every field has a default but the addresses of what it works with.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// A worker's configuration. `config/worker.yaml` shows all of it with its defaults.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// A name that is stable over restarts, such as a StatefulSet's pod name: transactions of a killed
    /// predecessor then end at once instead of after `kafka.transaction_timeout_ms`.
    #[serde(default)]
    pub name: Option<String>,
    pub kafka: Kafka,
    #[serde(default)]
    pub delivery: Delivery,
    /// Lanes: a consumer and a producer each. One per core by default.
    #[serde(default)]
    pub lanes: Option<usize>,
    #[serde(default)]
    pub batch: Batch,
    /// Policy files; `*` matches many. Relative to this file.
    pub policies: Vec<String>,
    /// The keyset file. Relative to this file.
    pub keys: PathBuf,
    pub quarantine: Quarantine,
    pub audit: Audit,
    #[serde(default)]
    pub limits: Limits,
    #[serde(default)]
    pub telemetry: Telemetry,
    /// How long a stop may take, in seconds.
    #[serde(default = "default_deadline")]
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

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kafka {
    /// `host:port`, several separated by commas.
    pub bootstrap: String,
    /// The consumer group.
    #[serde(default = "default_group")]
    pub group: String,
    #[serde(default)]
    pub group_protocol: GroupProtocol,
    /// After this long the broker aborts the transaction of a lane that was killed.
    #[serde(default = "default_transaction_timeout")]
    pub transaction_timeout_ms: u32,
    #[serde(default)]
    pub security: Option<Security>,
    /// Any librdkafka setting, for both clients; then for one alone.
    #[serde(default)]
    pub properties: BTreeMap<String, String>,
    #[serde(default)]
    pub consumer: BTreeMap<String, String>,
    #[serde(default)]
    pub producer: BTreeMap<String, String>,
}

fn default_group() -> String {
    "veilstream".into()
}

fn default_transaction_timeout() -> u32 {
    60_000
}

/// How members of the group share the partitions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
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

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Delivery {
    /// Sanitized records, quarantine, audit and offsets in one transaction.
    #[default]
    ExactlyOnce,
    /// A crash may publish the last batch again.
    AtLeastOnce,
}

/// TLS and SASL, in librdkafka's words.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Security {
    /// plaintext, ssl, sasl_plaintext, sasl_ssl
    pub protocol: String,
    #[serde(default)]
    pub sasl: Option<Sasl>,
    #[serde(default)]
    pub tls: Option<Tls>,
    /// Any other librdkafka setting that is a secret, such as `sasl.oauthbearer.client.secret`.
    #[serde(default)]
    pub secrets: BTreeMap<String, SecretText>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sasl {
    /// PLAIN, SCRAM-SHA-256, SCRAM-SHA-512
    pub mechanism: String,
    pub username: SecretText,
    pub password: SecretText,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// PEM file of the certificate authorities; the system's by default.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    #[serde(default)]
    pub certificate: Option<PathBuf>,
    #[serde(default)]
    pub key: Option<PathBuf>,
    #[serde(default)]
    pub key_password: Option<SecretText>,
}

/// A secret by reference: it never stands in the configuration itself.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum SecretText {
    File(PathBuf),
    Env(String),
}

impl SecretText {
    /// The secret. The error names the reference only.
    pub fn read(&self, folder: &Path) -> Result<crate::crypto::Secret<String>, ConfigError> {
        let text = match self {
            SecretText::File(path) => {
                let path = folder.join(path);
                std::fs::read_to_string(&path)
                    .map_err(|error| ConfigError::Secret(format!("{}: {error}", path.display())))?
            }
            SecretText::Env(name) => std::env::var(name).map_err(|_| {
                ConfigError::Secret(format!("the environment variable {name} is not set"))
            })?,
        };
        Ok(crate::crypto::Secret::new(text.trim_end_matches(['\r', '\n']).to_owned()))
    }
}

/// The bounds of a batch, which is one transaction.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Batch {
    pub records: usize,
    pub bytes: usize,
    pub time_ms: u64,
}

impl Default for Batch {
    fn default() -> Self {
        Batch { records: 10_000, bytes: 8 << 20, time_ms: 100 }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quarantine {
    pub topic: String,
    #[serde(default)]
    pub oversize: Oversize,
}

/// What happens to a record that is too large for the quarantine topic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Oversize {
    /// Its coordinates and a keyed digest stand for it.
    #[default]
    Account,
    /// The lane stops there.
    Halt,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Audit {
    pub topic: String,
}

/// Limits by name of the source topic or view; over all lanes of this worker.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    pub sources: BTreeMap<String, Limit>,
    /// By `POLICY/VIEW`.
    pub views: BTreeMap<String, Limit>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limit {
    pub records_per_second: Option<NonZeroU32>,
    pub bytes_per_second: Option<NonZeroU32>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Telemetry {
    /// Where `/metrics`, `/healthz` and `/readyz` are served: a loopback address.
    pub listen: SocketAddr,
    pub log_format: LogFormat,
    /// A level or a filter such as `info,veilstream=debug`; `VEILSTREAM_LOG` overrides it.
    pub log_level: String,
}

impl Default for Telemetry {
    fn default() -> Self {
        let listen = SocketAddr::from(([127, 0, 0, 1], 9464));
        Telemetry { listen, log_format: LogFormat::Text, log_level: "info".into() }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// What is wrong with a configuration, and where.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{path}: {error}")]
    Read { path: PathBuf, error: std::io::Error },
    #[error("{path}:{line}:{column}: {message}")]
    Malformed { path: PathBuf, line: u64, column: u64, message: String },
    #[error("{path}: `{field}`: {problem}")]
    Invalid { path: PathBuf, field: &'static str, problem: String },
    #[error("a secret cannot be read: {0}")]
    Secret(String),
}

impl Config {
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError::Read { path: path.into(), error })?;
        let mut config: Config = serde_saphyr::from_str(&text).map_err(|error| {
            let (line, column) =
                error.location().map_or((1, 1), |place| (place.line(), place.column()));
            let message = without_values(&error);
            ConfigError::Malformed { path: path.into(), line, column, message }
        })?;
        config.folder = path.parent().unwrap_or(Path::new("")).to_owned();
        let invalid = |field, problem: &str| {
            Err(ConfigError::Invalid { path: path.into(), field, problem: problem.into() })
        };
        let batch = config.batch;
        if batch.records == 0 || batch.bytes == 0 || batch.time_ms == 0 {
            return invalid("batch", "records, bytes and time_ms are at least 1");
        }
        if config.lanes == Some(0) {
            return invalid("lanes", "at least 1");
        }
        if config.policies.is_empty() {
            return invalid("policies", "at least one file");
        }
        if !config.telemetry.listen.ip().is_loopback() {
            return invalid(
                "telemetry.listen",
                "a loopback address: what is served there has no TLS and asks for no token",
            );
        }
        if config.quarantine.topic == config.audit.topic {
            return invalid("audit.topic", "another topic than `quarantine.topic`");
        }
        let owned = [
            "acks",
            "enable.auto.commit",
            "enable.auto.offset.store",
            "enable.idempotence",
            "group.id",
            "group.protocol",
            "isolation.level",
            "transaction.timeout.ms",
            "transactional.id",
        ];
        let settings = [&config.kafka.properties, &config.kafka.consumer, &config.kafka.producer];
        if let Some(name) = settings
            .iter()
            .flat_map(|map| map.keys())
            .find(|name| owned.contains(&name.to_lowercase().as_str()))
        {
            let problem = format!("`{name}` is veilstream's own to set: delivery depends on it");
            return invalid("kafka", &problem);
        }
        let secret = |name: &&String| {
            let name = name.to_lowercase();
            let words = ["password", "secret", "key.pem", "jaas", "oauthbearer.config"];
            words.iter().any(|word| name.contains(word))
        };
        if let Some(name) = settings.iter().flat_map(|map| map.keys()).find(secret) {
            let problem =
                format!("`{name}` is a secret: give it in `kafka.security` by file or environment");
            return invalid("kafka", &problem);
        }
        Ok(config)
    }

    /// The batch bounds, no larger than what a limit lets all lanes through in a second: so a lane never waits
    /// long with a transaction open.
    pub fn effective_batch(&self) -> Batch {
        let lanes = self.lanes();
        let share = |rate: Option<NonZeroU32>, bound: usize| {
            rate.map_or(bound, |rate| bound.min(rate.get() as usize / lanes).max(1))
        };
        let limits = self.limits.sources.values().chain(self.limits.views.values());
        limits.fold(self.batch, |batch, limit| Batch {
            records: share(limit.records_per_second, batch.records),
            bytes: share(limit.bytes_per_second, batch.bytes),
            ..batch
        })
    }

    pub fn lanes(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        self.lanes.unwrap_or(cores)
    }
}

/// What is wrong and where, without the lines around it and without the value itself: it may be a secret that
/// stands where it should not.
fn without_values(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    // The place is told in front.
    let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(text, _)| text).to_owned();
    // Names of fields stand in backquotes and may be told; a value that serde met stands in double quotes, and
    // one that it took for a variant behind these words.
    let text = match (text.split_once('"'), text.rsplit_once('"')) {
        (Some((before, _)), Some((_, after))) => format!("{before}…{after}"),
        _ => text,
    };
    match text.split_once("unknown variant `") {
        Some((before, rest)) => {
            let rest = rest.split_once('`').map_or("", |(_, rest)| rest);
            format!("{before}unknown word{rest}")
        }
        None => text,
    }
}
