//! What a data key is to those who use it, and the seam behind which keys are kept.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use super::Secret;
use super::ciphertext::SealKey;
use super::erasure::Erasures;
use super::mac::Digester;

/// An opaque name of a key: it says nothing of what the key is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(pub [u8; 16]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for KeyId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if text.len() != 32 || !text.is_ascii() {
            return Err(());
        }
        let mut id = [0; 16];
        for (byte, digits) in id.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).map_err(drop)?;
            *byte = u8::from_str_radix(digits, 16).map_err(drop)?;
        }
        Ok(KeyId(id))
    }
}

/// What a key may be used for; a key of one purpose serves no other.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// `encrypt` under random nonces, where the data subject has no key of its own.
    Field,
    /// `encrypt: deterministic` and `fpe`: equal values look equal under one key only, so it rotates by itself.
    Deterministic,
    /// `tokenize` and `hash`.
    Token,
    /// Records that could not be sanitized.
    Quarantine,
    /// Keyed digests of unclassified names.
    Digest,
    /// Finds a data subject's key in the key store. It does not rotate: under another, no subject would be found.
    Subject,
    /// Wraps the keys of data subjects in the key store.
    Wrap,
}

impl Purpose {
    pub const ALL: [Purpose; 7] = [
        Purpose::Field,
        Purpose::Deterministic,
        Purpose::Token,
        Purpose::Quarantine,
        Purpose::Digest,
        Purpose::Subject,
        Purpose::Wrap,
    ];

    /// Those that a keyset file holds, which keeps no keys of data subjects.
    pub const OF_FILE: [Purpose; 5] = [
        Purpose::Field,
        Purpose::Deterministic,
        Purpose::Token,
        Purpose::Quarantine,
        Purpose::Digest,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Purpose::Field => "field",
            Purpose::Deterministic => "deterministic",
            Purpose::Token => "token",
            Purpose::Quarantine => "quarantine",
            Purpose::Digest => "digest",
            Purpose::Subject => "subject",
            Purpose::Wrap => "wrap",
        }
    }
}

/// 256 bits of key with its name and version.
#[derive(Clone, Debug)]
pub struct DataKey {
    pub id: KeyId,
    pub version: u32,
    pub secret: Secret<[u8; 32]>,
}

/// Why a key could not be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error(
        "there is no primary key of the purpose `{name}`: make one with `veilstream keys rotate {name}`",
        name = .0.name()
    )]
    NoPrimary(Purpose),
    #[error("there is no enabled key {0} version {1}")]
    Unknown(KeyId, u32),
    /// It was the key of a data subject who is forgotten.
    #[error("the key {0} was destroyed by an erasure")]
    Erased(KeyId),
    #[error(
        "`encrypt: {{ scope: subject }}` needs a `key_store` in worker.yaml: a keyset file holds no keys of data subjects"
    )]
    NoStore,
    #[error("`encrypt: {{ scope: subject }}` needs the path of the data subject: `subject`")]
    NoSubject,
    /// The store or what it stands on is away: it may be back.
    #[error("{0}")]
    Away(String),
}

impl KeyError {
    /// To wait may help.
    pub fn is_passing(&self) -> bool {
        matches!(self, KeyError::Away(_))
    }
}

/// A data subject as the key store knows it: a keyed digest, which names no one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubjectId(pub [u8; 16]);

impl SubjectId {
    /// Of a subject in the digester's population.
    pub fn new(digester: &Digester, subject: &str) -> SubjectId {
        let digest = digester.digest(subject.as_bytes());
        let mut id = [0; 16];
        id.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
        SubjectId(id)
    }
}

impl fmt::Debug for SubjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("subject ")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The keys of a batch's subjects.
#[derive(Default)]
pub struct SubjectKeys {
    pub keys: HashMap<SubjectId, Arc<SealKey>>,
    /// Those who are forgotten, and since when, in milliseconds since the epoch; who has come back has a key as well.
    pub erased: HashMap<SubjectId, i64>,
    /// How many of them were at hand.
    pub cached: usize,
}

/// How it stands with the keys of the deployment.
#[derive(Default)]
pub struct KeyState {
    /// Others are in force than were read: their revision.
    pub outdated: Option<i64>,
    /// How many values each version has sealed, by all workers ever, where that is counted.
    pub uses: Vec<(Purpose, KeyId, u32, u64)>,
}

/// Where keys come from.
pub trait KeySource: Send + Sync {
    /// The key that new values are treated with.
    fn primary(&self, purpose: Purpose) -> Result<DataKey, KeyError>;

    /// The key that an old value names.
    fn find(&self, id: KeyId, version: u32) -> Result<DataKey, KeyError>;

    /// Whether it holds a key of each data subject.
    fn has_subjects(&self) -> bool {
        false
    }

    /// The keys of subjects, made for those that are new. It may wait for a database, and asks it once at most.
    fn subjects(&self, wanted: &[SubjectId]) -> Result<SubjectKeys, KeyError> {
        match wanted {
            [] => Ok(SubjectKeys::default()),
            _ => Err(KeyError::NoStore),
        }
    }

    /// What forgets, where there are keys of data subjects.
    fn erasures(&self) -> Option<&dyn Erasures> {
        None
    }

    /// Gives keys to subjects who were forgotten when it says and have come back, unless they were forgotten again.
    fn rekey(&self, wanted: &[(SubjectId, i64)]) -> Result<SubjectKeys, KeyError> {
        let wanted: Vec<SubjectId> = wanted.iter().map(|(subject, _)| *subject).collect();
        self.subjects(&wanted)
    }

    /// Counts values that a key has sealed, where that is kept: [`KeySource::renew`] writes it.
    fn used(&self, _id: KeyId, _version: u32, _uses: u64) {}

    /// Makes new primary keys where one has sealed as many values as it may, and says how things stand.
    fn renew(&self) -> Result<KeyState, KeyError> {
        Ok(KeyState::default())
    }
}

/// Keys as they are, but for other versions of some.
pub struct Pinned<'k> {
    keys: &'k dyn KeySource,
    pins: Vec<(Purpose, DataKey)>,
}

impl<'k> Pinned<'k> {
    pub fn new(keys: &'k dyn KeySource) -> Self {
        Pinned { keys, pins: Vec::new() }
    }

    /// Has this version of a key be the primary one; the one that is, where none is named.
    pub fn pin(&mut self, purpose: Purpose, version: Option<u32>) -> Result<(), KeyError> {
        let Some(version) = version else { return Ok(()) };
        let primary = self.keys.primary(purpose)?;
        let key = match version == primary.version {
            true => primary,
            false => self.keys.find(primary.id, version)?,
        };
        self.pins.push((purpose, key));
        Ok(())
    }
}

impl KeySource for Pinned<'_> {
    fn primary(&self, purpose: Purpose) -> Result<DataKey, KeyError> {
        match self.pins.iter().find(|(pinned, _)| *pinned == purpose) {
            Some((_, key)) => Ok(key.clone()),
            None => self.keys.primary(purpose),
        }
    }

    fn find(&self, id: KeyId, version: u32) -> Result<DataKey, KeyError> {
        self.keys.find(id, version)
    }

    fn has_subjects(&self) -> bool {
        self.keys.has_subjects()
    }
}
