//! Entries of the changelog: what a stream holds, one by one, sealed.

use std::sync::Arc;

use crate::crypto::ciphertext::{Place, SealKey, Sealer};
use crate::group::Subject;

/// Separates these ciphertexts from all others, and from those of another layout.
const DOMAIN: &str = "veilstream/state/1";

/// What one entry is of. The text behind the place in the entry's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Summary,
    Held(u64),
    Group(u64),
    Subject(Subject),
}

impl Kind {
    pub(super) fn text(self) -> String {
        match self {
            Kind::Summary => "s".into(),
            Kind::Held(number) => format!("h{number:x}"),
            Kind::Group(id) => format!("g{id:x}"),
            Kind::Subject(subject) => format!("p{:032x}", u128::from_be_bytes(subject)),
        }
    }

    pub(super) fn parse(text: &str) -> Option<Kind> {
        let number = |digits| u64::from_str_radix(digits, 16).ok();
        match text.split_at_checked(1)? {
            ("s", "") => Some(Kind::Summary),
            ("h", digits) => number(digits).map(Kind::Held),
            ("g", digits) => number(digits).map(Kind::Group),
            ("p", digits) => {
                Some(Kind::Subject(u128::from_str_radix(digits, 16).ok()?.to_be_bytes()))
            }
            _ => None,
        }
    }
}

/// What may be written to the state topic. Only this room makes one; what is in it is sealed.
pub struct Entry {
    key: String,
    value: Option<Vec<u8>>,
}

impl Entry {
    pub(super) fn new(
        place: &str,
        kind: Kind,
        value: impl FnOnce(&str) -> Option<Vec<u8>>,
    ) -> Entry {
        let key = format!("{place}/{}", kind.text());
        let value = value(&key);
        Entry { key, value }
    }

    pub fn key(&self) -> &[u8] {
        self.key.as_bytes()
    }

    /// None where the entry is no more.
    pub fn value(&self) -> Option<&[u8]> {
        self.value.as_deref()
    }
}

/// Seals what is no row.
pub(super) fn seal(key: &Arc<SealKey>, place: &str, value: &impl serde::Serialize) -> Vec<u8> {
    // Plain data: it always serializes.
    let plaintext = zeroize::Zeroizing::new(postcard::to_allocvec(value).unwrap_or_default());
    let mut out = Vec::new();
    Sealer::with(Arc::clone(key), Place::new(DOMAIN, place)).seal(&plaintext, &mut out);
    out
}

pub(super) fn open<T: serde::de::DeserializeOwned>(
    key: &SealKey,
    place: &str,
    sealed: &[u8],
) -> Option<T> {
    let plaintext = key.open(&Place::new(DOMAIN, place), sealed).ok()?;
    postcard::from_bytes(plaintext.expose()).ok()
}
