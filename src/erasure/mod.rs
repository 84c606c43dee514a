//! A person is forgotten: the keys are destroyed at once, and then, when no worker can have one in use any more, what
//! the compacted views still hold of the person is deleted, and it is tried whether anything still opens.
//!
//! A wish is written down in the key store in the transaction that destroys the keys. All that comes behind is found
//! there by whoever is next, after a crash too, and may be done twice.

mod clerk;
pub mod inbox;
mod search;

pub use clerk::{Clerk, Progress, Step, Worked};

use std::sync::Arc;

use serde::Deserialize;

use crate::access::InForce;
use crate::audit::{Erasure, ErasureKind};
use crate::config::Config;
use crate::crypto::ciphertext::{Algorithm, Sealer};
use crate::crypto::erasure::{Asked, Erasures};
use crate::crypto::mac::Digester;
use crate::crypto::{KeyError, KeySource, Purpose, SubjectId};
use crate::kafka::{ClientSettings, KafkaProblem, SinkError, Trail};
use crate::policy::SubjectPlan;

/// Separates these ciphertexts from others.
const DOMAIN: &str = "veilstream/erasure";
/// A data subject's name may be so long, in bytes, and a reason.
const LONGEST: usize = 1024;

/// Somebody is to be forgotten, held, or held no longer.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wish {
    /// The data subject, as the policy's `subject` has it.
    #[serde(deserialize_with = "text")]
    pub subject: String,
    /// Whom the subject is among. May be left out where the policies have one population.
    #[serde(default)]
    pub population: Option<String>,
    /// Why. It goes into the audit trail, and must not name the person.
    pub reason: String,
}

/// A subject is a text; a number is taken for its digits.
fn text<'de, D: serde::Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Text(String),
        Number(serde_json::Number),
    }
    Ok(match Either::deserialize(from)? {
        Either::Text(text) => text,
        // A larger one has lost digits by now.
        Either::Number(number) if number.is_u64() || number.is_i64() => number.to_string(),
        Either::Number(_) => return Err(serde::de::Error::custom("write it as a text")),
    })
}

/// Who wishes.
#[derive(Debug, Clone)]
pub struct Wisher {
    pub name: String,
    /// `user`, `token` or `topic`.
    pub by: &'static str,
}

/// What became of a wish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The keys are destroyed.
    Erasing { receipt: String, keys: u64 },
    /// They were already.
    Already { receipt: String, done: bool },
    /// Nothing is destroyed: somebody holds it up.
    Held { receipt: String },
    /// It is held up, or no longer; whether that is new.
    Changed { receipt: String, change: bool },
    /// Nothing is left to hold: the person is forgotten.
    TooLate { receipt: String },
}

impl Outcome {
    pub fn receipt(&self) -> &str {
        match self {
            Outcome::Erasing { receipt, .. }
            | Outcome::Already { receipt, .. }
            | Outcome::Held { receipt }
            | Outcome::Changed { receipt, .. }
            | Outcome::TooLate { receipt } => receipt,
        }
    }
}

/// What is to happen to a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    Erase,
    Hold,
    Release,
}

/// Why nothing, or not all, was done.
#[derive(Debug, thiserror::Error)]
pub enum EraseError {
    /// Never with what was given.
    #[error("{0}")]
    Invalid(String),
    #[error(
        "forgetting a person takes a `key_store` in worker.yaml: a keyset file has no keys of data subjects"
    )]
    NoStore,
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("the audit trail cannot be written: {0}")]
    Audit(SinkError),
    #[error("{0}")]
    Kafka(#[from] KafkaProblem),
    #[error("the tombstones cannot be published: {0}")]
    Publish(#[from] SinkError),
    #[error("a ciphertext of somebody who is forgotten still has a key: receipt {0}")]
    Opens(String),
    #[error("{0}")]
    Other(String),
    /// Somebody wants no more of it.
    #[error("stopped")]
    Stopped,
}

/// Takes wishes.
pub struct Registry {
    in_force: Box<dyn Fn() -> InForce + Send + Sync>,
    trail: Trail,
}

/// Whom a wish is about, as the key store and the trail know them.
pub struct Whom {
    pub population: String,
    pub subject: SubjectId,
    /// A keyed digest that names no one. Who knows the subject and has the key can tell that it is theirs.
    pub receipt: String,
}

impl Registry {
    pub fn new(
        in_force: impl Fn() -> InForce + Send + Sync + 'static,
        settings: &ClientSettings,
        config: &Config,
        name: &str,
    ) -> Registry {
        let trail = Trail::new(settings, &config.audit.topic, name);
        Registry { in_force: Box::new(in_force), trail }
    }

    /// Whether one of these roles may wish; all may where there are no roles.
    pub fn allows(&self, roles: &[String]) -> bool {
        (self.in_force)().roles.is_none_or(|known| known.erases(roles))
    }

    /// Whom a subject and a population come to.
    pub fn whom(&self, subject: &str, population: Option<&str>) -> Result<Whom, EraseError> {
        whom(&(self.in_force)(), subject, population)
    }

    /// `active`, `held`, `erasing` or `erased`; none for somebody who is not known.
    pub fn state(&self, whom: &Whom) -> Result<Option<&'static str>, EraseError> {
        let keys = (self.in_force)().keys;
        Ok(store(keys.as_ref())?.state(whom.subject)?)
    }

    /// Does what is wished, and writes it down before and, where nothing comes of it, behind. It waits for the broker
    /// and the database.
    pub fn ask(&self, act: Act, wish: &Wish, by: &Wisher) -> Result<Outcome, EraseError> {
        let in_force = (self.in_force)();
        reason(wish)?;
        let Whom { population, subject, receipt } =
            whom(&in_force, &wish.subject, wish.population.as_deref())?;
        let keys = in_force.keys.as_ref();
        let store = store(keys)?;
        let write = |kind| {
            let event = Erasure {
                what: kind,
                receipt: receipt.clone(),
                population: population.clone(),
                actor: Some(by.name.clone()),
                by: Some(by.by),
                reason: Some(wish.reason.clone()),
                ..Erasure::default()
            };
            self.trail.write(|auditor| auditor.erased(&event)).map_err(EraseError::Audit)
        };
        if let Act::Hold | Act::Release = act {
            write(match act {
                Act::Hold => ErasureKind::Held,
                _ => ErasureKind::Released,
            })?;
            return Ok(match store.hold(subject, act == Act::Hold)? {
                Some(change) => Outcome::Changed { receipt, change },
                None => {
                    write(ErasureKind::Refused)?;
                    Outcome::TooLate { receipt }
                }
            });
        }
        write(ErasureKind::Requested)?;
        let sealing = keys.primary(Purpose::Quarantine)?;
        let mut person = Vec::new();
        let sealer = Sealer::new(&sealing, Algorithm::Aes256Gcm, DOMAIN, &receipt);
        sealer.seal(wish.subject.as_bytes(), &mut person);
        keys.used(sealing.id, sealing.version, 1);
        Ok(match store.erase(subject, &receipt, &population, person)? {
            Asked::Destroyed(keys) => Outcome::Erasing { receipt, keys },
            Asked::Already { done } => Outcome::Already { receipt, done },
            Asked::Held => {
                write(ErasureKind::Refused)?;
                Outcome::Held { receipt }
            }
        })
    }

    /// Somebody wished what no role of theirs allows.
    pub fn denied(&self, by: &Wisher) -> Result<(), EraseError> {
        let event = Erasure {
            what: ErasureKind::Denied,
            actor: Some(by.name.clone()),
            by: Some(by.by),
            ..Erasure::default()
        };
        self.trail.write(|auditor| auditor.erased(&event)).map_err(EraseError::Audit)
    }

    /// A request that is none, by where it stands.
    pub fn malformed(&self, at: &str) -> Result<(), EraseError> {
        let event = Erasure {
            what: ErasureKind::Malformed,
            by: Some("topic"),
            request: Some(at.to_owned()),
            ..Erasure::default()
        };
        self.trail.write(|auditor| auditor.erased(&event)).map_err(EraseError::Audit)
    }
}

fn store(keys: &dyn KeySource) -> Result<&dyn Erasures, EraseError> {
    keys.erasures().ok_or(EraseError::NoStore)
}

fn whom(in_force: &InForce, subject: &str, population: Option<&str>) -> Result<Whom, EraseError> {
    let invalid = |what: String| Err(EraseError::Invalid(what));
    let keys = in_force.keys.as_ref();
    store(keys)?;
    if subject.is_empty() || subject.len() > LONGEST {
        return invalid(format!("`subject`: 1 to {LONGEST} bytes"));
    }
    let mut known: Vec<&str> = in_force
        .policies
        .iter()
        .filter(|policy| policy.subject.is_some())
        .map(|policy| policy.population.as_str())
        .collect();
    known.sort_unstable();
    known.dedup();
    let population = match (population, known.as_slice()) {
        (Some(named), known) if known.contains(&named) => named.to_owned(),
        (None, [only]) => (*only).to_owned(),
        (_, []) => return invalid("no policy names its data subjects: `subject`".into()),
        (None, known) => return invalid(format!("`population`: one of {}", known.join(", "))),
        (Some(_), known) => {
            return invalid(format!("`population`: one of {}, not another", known.join(", ")));
        }
    };
    let key = keys.primary(Purpose::Subject)?;
    let id = SubjectId::new(&SubjectPlan::digester(keys, &population)?, subject);
    let digest = Digester::new(&key, "receipt", &population).digest(subject.as_bytes());
    let receipt = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Whom { population, subject: id, receipt })
}

/// The reason stays in the trail when the person is forgotten.
fn reason(wish: &Wish) -> Result<(), EraseError> {
    let reason = wish.reason.trim();
    if reason.is_empty() || reason.len() > LONGEST || reason.chars().any(char::is_control) {
        return Err(EraseError::Invalid(format!("`reason`: a line of 1 to {LONGEST} bytes")));
    }
    // A short number is found in many a reason, and names nobody there.
    let subject = wish.subject.to_lowercase();
    if subject.chars().count() > 3 && reason.to_lowercase().contains(&subject) {
        let problem = "`reason`: it stays when the person is forgotten, and must not name them";
        return Err(EraseError::Invalid(problem.into()));
    }
    Ok(())
}

/// How long after the keys are destroyed a worker may still publish what they sealed, in milliseconds: so long a key
/// is kept ready, and so long a transaction may be open. Some seconds more are for the clocks of brokers.
pub fn bound_ms(config: &Config) -> i64 {
    let cached_s = config.key_store.as_ref().map_or(0, |store| store.cached_s.get());
    let cached_ms = i64::try_from(cached_s).unwrap_or(i64::MAX / 4).saturating_mul(1000);
    cached_ms.saturating_add(i64::from(config.kafka.transaction_timeout_ms)).saturating_add(5000)
}

/// What is in force, of a configuration that is read once: for commands.
pub fn fixed(plans: &Arc<crate::plans::Plans>) -> impl Fn() -> InForce + Send + Sync + use<> {
    let plans = Arc::clone(plans);
    move || plans.in_force()
}
