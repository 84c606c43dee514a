//! What a data key is to those who use it, and the seam behind which keys are kept.

use std::fmt;

use super::Secret;

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
    /// `encrypt`.
    Field,
    /// `tokenize` and `hash`.
    Token,
    /// Records that could not be sanitized.
    Quarantine,
    /// Keyed digests of unclassified names.
    Digest,
}

impl Purpose {
    pub const ALL: [Purpose; 4] =
        [Purpose::Field, Purpose::Token, Purpose::Quarantine, Purpose::Digest];

    pub fn name(self) -> &'static str {
        match self {
            Purpose::Field => "field",
            Purpose::Token => "token",
            Purpose::Quarantine => "quarantine",
            Purpose::Digest => "digest",
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
    #[error("the keyset has no primary key for the purpose `{}`: run `veilstream keys init`", .0.name())]
    NoPrimary(Purpose),
    #[error("the keyset has no enabled key {0} version {1}")]
    Unknown(KeyId, u32),
}

/// Where keys come from.
pub trait KeySource: Send + Sync {
    /// The key that new values are treated with.
    fn primary(&self, purpose: Purpose) -> Result<DataKey, KeyError>;

    /// The key that an old value names.
    fn find(&self, id: KeyId, version: u32) -> Result<DataKey, KeyError>;
}
