//! From the file and the environment to a [`Config`]; errors say where, and never quote a value.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::reference::{Kind, Reference};
use super::{Config, SecretText};
use crate::crypto::Secret;
use crate::operator::nearest;

/// What the names of environment variables that override an option begin with. The option `kafka.bootstrap` is
/// `VEILSTREAM__KAFKA__BOOTSTRAP`.
pub const ENVIRONMENT: &str = "VEILSTREAM__";

/// What is wrong with a configuration, and where.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{path}: {error}")]
    Read { path: PathBuf, error: std::io::Error },
    #[error("{path}:{line}:{column}: {message}")]
    Malformed { path: PathBuf, line: u64, column: u64, message: String },
    #[error("{path}: `{field}`: {problem}")]
    Invalid { path: PathBuf, field: String, problem: String },
    #[error("the environment variable {name}: {problem}")]
    Environment { name: String, problem: String },
    #[error("a secret cannot be read: {0}")]
    Secret(String),
}

impl SecretText {
    /// The secret. The error names the reference only.
    pub fn read(&self, folder: &Path) -> Result<Secret<String>, ConfigError> {
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
        Ok(Secret::new(text.trim_end_matches(['\r', '\n']).to_owned()))
    }
}

impl Config {
    /// The file, with what the environment says otherwise.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError::Read { path: path.into(), error })?;
        Config::parse(&text, path, std::env::vars_os())
    }

    fn parse(
        text: &str,
        path: &Path,
        environment: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<Config, ConfigError> {
        let overrides = overrides(environment)?;
        let located =
            || serde_saphyr::from_str::<Config>(text).map_err(|error| malformed(path, &error));
        let mut config = match overrides.is_empty() {
            true => located()?,
            false => {
                let file = serde_saphyr::from_str::<Value>(text);
                let mut value = file.map_err(|error| malformed(path, &error))?;
                for one in &overrides {
                    one.apply(&mut value);
                }
                match serde_path_to_error::deserialize::<_, Config>(value) {
                    Ok(config) => config,
                    Err(error) => {
                        let place = error.path().to_string();
                        let problem = without_values(&error.inner().to_string());
                        return Err(match blamed(&overrides, &place) {
                            Some(one) => ConfigError::Environment { name: one.name(), problem },
                            // With a line, where the file alone is wrong in the same way.
                            None => located().err().unwrap_or(ConfigError::Invalid {
                                path: path.into(),
                                field: place,
                                problem,
                            }),
                        });
                    }
                }
            }
        };
        config.folder = path.parent().unwrap_or(Path::new("")).to_owned();
        match config.problem() {
            None => Ok(config),
            Some((field, problem)) => Err(match blamed(&overrides, field) {
                Some(one) => ConfigError::Environment { name: one.name(), problem },
                None => ConfigError::Invalid { path: path.into(), field: field.into(), problem },
            }),
        }
    }

    /// What the types cannot say: the option and what is wrong with it.
    fn problem(&self) -> Option<(&'static str, String)> {
        let found = |field, problem: &str| Some((field, problem.to_owned()));
        if self.name.as_deref() == Some("") {
            return found(
                "name",
                "is empty: leave it out, or give a name that no other worker has",
            );
        }
        if self.policies.is_empty() {
            return found("policies", "at least one file");
        }
        if !self.telemetry.listen.ip().is_loopback() {
            return found(
                "telemetry.listen",
                "a loopback address: what is served there has no TLS and asks for no token. \
                 `telemetry.remote` serves others",
            );
        }
        match (&self.keys, &self.key_store) {
            (None, None) => return found("keys", "a keyset file here, or a `key_store`"),
            (Some(_), Some(_)) => return found("keys", "either it or `key_store`, not both"),
            (None, Some(store)) => {
                if store.sqlite.is_some() == store.postgres.is_some() {
                    return found("key_store", "one of `sqlite` and `postgres`");
                }
                let kek = &store.kek;
                let providers =
                    [kek.file.is_some(), kek.vault_transit.is_some(), kek.aws_kms.is_some()];
                if providers.into_iter().filter(|there| *there).count() != 1 {
                    let expected = "one provider: `file`, `vault_transit` or `aws_kms`";
                    return found("key_store.kek", expected);
                }
            }
            (Some(_), None) => {}
        }
        if self.erasure.is_some() && self.key_store.is_none() {
            return found(
                "erasure",
                "needs a `key_store`: a keyset file has no keys of data subjects",
            );
        }
        let taken = [&self.quarantine.topic, &self.audit.topic];
        if self.erasure.as_ref().is_some_and(|erasure| taken.contains(&&erasure.topic)) {
            return found("erasure.topic", "another topic than quarantine's and audit's");
        }
        if self.quarantine.topic == self.audit.topic {
            return found("audit.topic", "another topic than `quarantine.topic`");
        }
        let taken = self.erasure.iter().map(|erasure| &erasure.topic).chain(taken);
        if let Some(state) = &self.state
            && taken.into_iter().any(|taken| *taken == state.topic)
        {
            return found(
                "state.topic",
                "another topic than those of quarantine, audit and erasure",
            );
        }
        if self.kafka.static_membership && self.name.is_none() {
            return found(
                "kafka.static_membership",
                "needs a `name` that is stable over restarts, and no other worker's",
            );
        }
        let principal = self.access.as_ref().and_then(|access| access.principal.as_deref());
        if principal.is_some_and(|one| matches!(one.strip_prefix("User:"), None | Some("" | "*"))) {
            return found("access.principal", "one principal of Kafka's: `User:NAME`");
        }
        self.librdkafka_problem().map(|problem| ("kafka", problem))
    }

    /// A setting by librdkafka's name that is not the user's to give there.
    fn librdkafka_problem(&self) -> Option<String> {
        let owned = [
            "acks",
            "enable.auto.commit",
            "enable.auto.offset.store",
            "enable.idempotence",
            "group.id",
            "group.instance.id",
            "group.protocol",
            "isolation.level",
            "transaction.timeout.ms",
            "transactional.id",
        ];
        let kafka = &self.kafka;
        let names = || [&kafka.properties, &kafka.consumer, &kafka.producer].into_iter().flatten();
        let names = || names().map(|(name, _)| (name, name.to_lowercase()));
        if let Some((name, _)) = names().find(|(_, lower)| owned.contains(&lower.as_str())) {
            return Some(format!("`{name}` is veilstream's own to set: delivery depends on it"));
        }
        let words = ["password", "secret", "key.pem", "jaas", "oauthbearer.config"];
        let (name, _) = names().find(|(_, lower)| words.iter().any(|word| lower.contains(word)))?;
        Some(format!("`{name}` is a secret: give it in `kafka.security` by file or environment"))
    }
}

/// An option that the environment sets.
struct Override {
    option: String,
    value: Value,
}

impl Override {
    fn name(&self) -> String {
        Reference::environment(&self.option)
    }

    /// Puts it into the file's tree; what is not a mapping on the way becomes one.
    fn apply(&self, file: &mut Value) {
        let mut place = file;
        for key in self.option.split('.') {
            if !place.is_object() {
                *place = Value::Object(Map::new());
            }
            let Value::Object(map) = place else { return };
            place = map.entry(key).or_insert(Value::Null);
        }
        *place = self.value.clone();
    }
}

/// The variable that gave the option at `place`, or what it is in.
fn blamed<'o>(overrides: &'o [Override], place: &str) -> Option<&'o Override> {
    let inside = |one: &&Override| format!("{place}.").starts_with(&format!("{}.", one.option));
    overrides.iter().rev().find(inside)
}

/// What the environment sets, outer options before inner ones.
fn overrides(
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Vec<Override>, ConfigError> {
    let reference = Reference::new();
    let mut found = Vec::new();
    for (name, value) in environment {
        let Some(name) = name.to_str() else { continue };
        let Some(rest) = name.strip_prefix(ENVIRONMENT) else { continue };
        let wrong = |problem| ConfigError::Environment { name: name.to_owned(), problem };
        let option = rest.replace("__", ".").to_lowercase();
        let Some(known) = reference.options.iter().find(|known| known.path == option) else {
            let known = reference.options.iter().map(|option| option.path.as_str());
            let near = nearest(&option, known).map(|near| Reference::environment(&near));
            let near = near.map(|near| format!(" (did you mean {near}?)")).unwrap_or_default();
            return Err(wrong(format!("no option is called `{option}`{near}")));
        };
        let text = value.to_str().ok_or_else(|| wrong("the value is not UTF-8".into()))?;
        if text.trim().is_empty() {
            // As YAML it would be null, and take away what the file says: TLS, for one.
            return Err(wrong("is empty: unset it, or say `null` where that is meant".into()));
        }
        let value = match known.kind {
            Kind::Text => Value::String(text.to_owned()),
            Kind::Other => serde_saphyr::from_str(text)
                .map_err(|error| wrong(without_values(&error.without_snippet().to_string())))?,
        };
        found.push(Override { option, value });
    }
    found.sort_by(|one, other| one.option.cmp(&other.option));
    Ok(found)
}

fn malformed(path: &Path, error: &serde_saphyr::Error) -> ConfigError {
    let (line, column) = error.location().map_or((1, 1), |place| (place.line(), place.column()));
    let message = without_values(&error.without_snippet().to_string());
    ConfigError::Malformed { path: path.into(), line, column, message }
}

/// What is wrong, without the place, which is told in front, and without the value itself: it may be a secret that
/// stands where it should not.
fn without_values(text: &str) -> String {
    let text = text.rsplit_once(" at line ").map_or(text, |(text, _)| text).to_owned();
    // Names of fields stand in backquotes and may be told; a value that serde met stands in double quotes, or in
    // backquotes behind these words.
    let mut text = match (text.split_once('"'), text.rsplit_once('"')) {
        (Some((before, _)), Some((_, after))) => format!("{before}…{after}"),
        _ => text,
    };
    for (word, instead) in [
        ("unknown variant", "unknown word"),
        ("integer", "an integer"),
        ("floating point", "a number"),
        ("boolean", "a boolean"),
        ("character", "a character"),
    ] {
        if let Some((before, rest)) = text.split_once(&format!("{word} `")) {
            let after = rest.rsplit_once("`, expected ").map_or("", |(_, after)| after);
            text = format!("{before}{instead}, expected {after}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails where it should")]

    use super::*;

    const FILE: &str = "
kafka: { bootstrap: 'localhost:9092' }
policies: [policy.yaml]
keys: keys.json
quarantine: { topic: q }
audit: { topic: a }
";

    fn parse(text: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
        let environment = environment.iter().map(|(name, value)| (name.into(), value.into()));
        Config::parse(text, Path::new("x/worker.yaml"), environment)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_environment_overrides_the_file_and_adds_to_it() {
        let environment = [
            ("VEILSTREAM__KAFKA__BOOTSTRAP", "broker:1"),
            ("VEILSTREAM__NAME", "7"),
            ("VEILSTREAM__LANES", "3"),
            ("VEILSTREAM__KAFKA__SECURITY__PROTOCOL", "ssl"),
            ("VEILSTREAM__KAFKA__PROPERTIES", "{ compression.type: zstd }"),
            ("VEILSTREAM__POLICIES", "[a.yaml, b.yaml]"),
            ("VEILSTREAM_PORT", "tcp://10.0.0.1:80"),
        ];
        let config = parse(FILE, &environment).unwrap();
        assert_eq!(config.kafka.bootstrap, "broker:1");
        assert_eq!((config.name.as_deref(), config.lanes()), (Some("7"), 3));
        assert_eq!(config.kafka.security.unwrap().protocol, "ssl");
        assert_eq!(config.kafka.properties["compression.type"], "zstd");
        assert_eq!(config.policies, ["a.yaml", "b.yaml"]);
        assert_eq!(config.audit.topic, "a");
        assert_eq!(config.folder, Path::new("x"));
    }

    #[test]
    fn what_is_required_may_come_from_the_environment_alone() {
        let file = FILE.replace("kafka: { bootstrap: 'localhost:9092' }", "");
        let config = parse(&file, &[("VEILSTREAM__KAFKA__BOOTSTRAP", "broker:1")]).unwrap();
        assert_eq!(config.kafka.bootstrap, "broker:1");
        assert!(parse(&file, &[]).unwrap_err().contains("missing field"));
    }

    #[test]
    fn a_variable_that_is_wrong_is_named_and_its_value_is_not() {
        for (name, value, problem) in [
            (
                "VEILSTREAM__KAFKA__BOOTSTRAPP",
                "canary",
                "did you mean VEILSTREAM__KAFKA__BOOTSTRAP?",
            ),
            ("VEILSTREAM__LANES", "canary", "invalid type"),
            ("VEILSTREAM__DELIVERY", "canary", "unknown word"),
            ("VEILSTREAM__BATCH", "{ records: canary }", "invalid type"),
            ("VEILSTREAM__BATCH", "{ canary", ""),
            ("VEILSTREAM__DELIVERY", "x`canary", "unknown word"),
            // A password where a reference to one belongs.
            (
                "VEILSTREAM__KAFKA__SECURITY",
                "{ protocol: ssl, sasl: { mechanism: PLAIN, username: { env: A }, password: canary } }",
                "",
            ),
            // Nothing that is unset by mistake takes away what the file says.
            ("VEILSTREAM__KAFKA__SECURITY", "", "is empty"),
            ("VEILSTREAM__NAME", " ", "is empty"),
            ("VEILSTREAM__TELEMETRY__LISTEN", "0.0.0.0:9464", "a loopback address"),
        ] {
            let error = parse(FILE, &[(name, value)]).unwrap_err();
            assert!(error.starts_with(&format!("the environment variable {name}: ")), "{error}");
            assert!(error.contains(problem) && !error.contains("canary"), "{error}");
        }
    }

    #[test]
    fn a_number_that_should_be_a_reference_to_a_secret_is_not_quoted() {
        let sasl = "VEILSTREAM__KAFKA__SECURITY__SASL";
        let others = [
            ("VEILSTREAM__KAFKA__SECURITY__PROTOCOL", "sasl_ssl"),
            ("VEILSTREAM__KAFKA__SECURITY__SASL__MECHANISM", "PLAIN"),
            ("VEILSTREAM__KAFKA__SECURITY__SASL__USERNAME", "{ env: A }"),
        ];
        for secret in ["86420", "8642.0", "true", "{ x: 86420 }", "[86420]"] {
            let name = format!("{sasl}__PASSWORD");
            let environment: Vec<_> = others.into_iter().chain([(name.as_str(), secret)]).collect();
            let error = parse(FILE, &environment).unwrap_err();
            assert!(error.contains(&name), "{error}");
            assert!(!error.contains("8642") && !error.contains("true"), "{error}");
        }
        for secret in ["86420", "8642.0", "true"] {
            let file = FILE.replace(
                "9092' }",
                &format!("9092', security: {{ protocol: ssl, secrets: {{ a: {secret} }} }} }}"),
            );
            let error = parse(&file, &[]).unwrap_err();
            assert!(!error.contains("8642") && !error.contains("true"), "{error}");
        }
    }

    #[test]
    fn a_mistake_of_the_file_is_still_told_with_its_line() {
        let error = parse(&format!("{FILE}lanes: x\n"), &[("VEILSTREAM__NAME", "n")]).unwrap_err();
        assert!(error.starts_with("x/worker.yaml:7:"), "{error}");
    }

    #[test]
    fn static_members_need_a_name() {
        let file = FILE.replace("9092' }", "9092', static_membership: true }");
        assert!(parse(&file, &[]).unwrap_err().contains("needs a `name`"));
        assert!(parse(&file, &[("VEILSTREAM__NAME", "n")]).is_ok());
    }
}
