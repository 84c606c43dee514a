//! Entries of the changelog: what a stream holds, one by one, sealed.

use std::sync::Arc;

use crate::crypto::ciphertext::{Place, SealKey, Sealer};
use crate::group::Subject;

/// Separates these ciphertexts from all others, and from those of another layout.
const DOMAIN: &str = "veilstream/state/1";

/// What one entry is of. The text behind the place in the entry's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// Of groups: what is of no row, a row that waits, a published group, the group of a person.
    Groups,
    Held(u64),
    Group(u64),
    Subject(Subject),
    /// Of windows: what is of none, a group of one by its start, and what a person contributed to one.
    Windows,
    WindowGroup(i64, u32),
    WindowSubject(i64, Subject),
}

impl Kind {
    pub(super) fn text(self) -> String {
        let person = |subject| format!("{:032x}", u128::from_be_bytes(subject));
        match self {
            Kind::Groups => "s".into(),
            Kind::Held(number) => format!("h{number:x}"),
            Kind::Group(id) => format!("g{id:x}"),
            Kind::Subject(subject) => format!("p{}", person(subject)),
            Kind::Windows => "t".into(),
            Kind::WindowGroup(start, number) => format!("w{start:x}.{number:x}"),
            Kind::WindowSubject(start, subject) => format!("c{start:x}.{}", person(subject)),
        }
    }

    pub(super) fn parse(text: &str) -> Option<Kind> {
        let number = |digits| u64::from_str_radix(digits, 16).ok();
        let person = |digits| Some(u128::from_str_radix(digits, 16).ok()?.to_be_bytes());
        let (kind, rest) = text.split_at_checked(1)?;
        // A start before the epoch is written as the two's complement that it is.
        let pair = || {
            let (start, of) = rest.split_once('.')?;
            Some((number(start)? as i64, of))
        };
        match (kind, rest) {
            ("s", "") => Some(Kind::Groups),
            ("h", digits) => number(digits).map(Kind::Held),
            ("g", digits) => number(digits).map(Kind::Group),
            ("p", digits) => person(digits).map(Kind::Subject),
            ("t", "") => Some(Kind::Windows),
            ("w", _) => {
                let (start, digits) = pair()?;
                Some(Kind::WindowGroup(start, u32::from_str_radix(digits, 16).ok()?))
            }
            ("c", _) => {
                let (start, digits) = pair()?;
                Some(Kind::WindowSubject(start, person(digits)?))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_read_as_they_are_written() {
        let subject = [0xab; 16];
        for kind in [
            Kind::Groups,
            Kind::Held(0),
            Kind::Held(u64::MAX),
            Kind::Group(255),
            Kind::Subject(subject),
            Kind::Subject([0; 16]),
            Kind::Windows,
            Kind::WindowGroup(-1, 0),
            Kind::WindowGroup(i64::MIN, u32::MAX),
            Kind::WindowSubject(1_700_000_000_000, subject),
        ] {
            assert_eq!(Kind::parse(&kind.text()), Some(kind), "{}", kind.text());
        }
        for text in ["", "s1", "h", "hx", "w1", "w1.", "c.1", "z1", "\u{e9}"] {
            assert_eq!(Kind::parse(text), None, "{text}");
        }
    }
}
