//! Quarantine: a record that could not be sanitized, whole and encrypted, with where it came from and why.
//!
//! What is outside the ciphertext never says a value: topic, partition, offset, stage, reason, and the path as far
//! as the policy knows it.

use std::sync::Arc;

use base64_simd::STANDARD;
use serde::{Deserialize, Serialize};

use crate::crypto::ciphertext::{self, Algorithm, Place, SealKey, Sealer};
use crate::crypto::mac::Digester;
use crate::crypto::{KeyError, KeySource, Purpose};
use crate::rewrite::{Failure, HEADER_FRAME, POLICY_HEADER, RawRecord};

/// Names of the headers of a quarantined record.
pub const TOPIC: &str = "veilstream-source-topic";
pub const PARTITION: &str = "veilstream-source-partition";
pub const OFFSET: &str = "veilstream-source-offset";
pub const STAGE: &str = "veilstream-stage";
pub const REASON: &str = "veilstream-reason";
pub const PATH: &str = "veilstream-path";
/// In place of a record too large for the quarantine topic: its size and a keyed digest.
pub const SIZE: &str = "veilstream-size";
pub const DIGEST: &str = "veilstream-digest";

/// Separates these ciphertexts from those of fields.
const DOMAIN: &str = "veilstream/quarantine";

/// Where a record stood.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Coordinates {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
}

impl Coordinates {
    /// The path that the ciphertext is bound to.
    fn path(&self) -> String {
        format!("{}/{}/{}", self.topic, self.partition, self.offset)
    }
}

impl std::fmt::Display for Coordinates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.path())
    }
}

/// A record that may be published to the quarantine topic. Only this module makes one.
pub struct Sealed {
    key: String,
    value: Vec<u8>,
    headers: Vec<(&'static str, String)>,
}

impl Sealed {
    /// Where the record stood.
    pub fn key(&self) -> &[u8] {
        self.key.as_bytes()
    }

    /// The ciphertext; empty where digest and size stand for it.
    pub fn value(&self) -> &[u8] {
        &self.value
    }

    pub fn headers(&self) -> &[(&'static str, String)] {
        &self.headers
    }

    /// Bytes of key, value and headers.
    pub fn size(&self) -> usize {
        let headers = self.headers.iter();
        let headers = headers.map(|(name, value)| HEADER_FRAME + name.len() + value.len());
        self.key.len() + self.value.len() + headers.sum::<usize>()
    }
}

/// What is inside the ciphertext. It has no `Debug`: it is customer data.
#[derive(Serialize, Deserialize)]
struct Content {
    timestamp_ms: Option<i64>,
    key: Option<String>,
    value: Option<String>,
    headers: Vec<(String, Option<String>)>,
}

/// A record out of quarantine, as it was in its source topic.
pub struct Opened {
    pub timestamp_ms: Option<i64>,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

/// Why a quarantined record does not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("the record was changed, moved, or sealed under another keyset")]
    DoesNotOpen,
}

/// Seals records of one worker.
pub struct Sealing {
    key: Arc<SealKey>,
    digester: Digester,
}

impl Sealing {
    pub fn new(keys: &dyn KeySource) -> Result<Sealing, KeyError> {
        let key = keys.primary(Purpose::Quarantine)?;
        let digester = Digester::new(&keys.primary(Purpose::Digest)?, "quarantine", "");
        let key = Arc::new(SealKey::new(&key, Algorithm::Aes256Gcm));
        Ok(Sealing { key, digester })
    }

    /// What seals, and counts.
    pub fn key(&self) -> &Arc<SealKey> {
        &self.key
    }

    /// The record, whole and encrypted.
    pub fn seal(
        &self,
        record: &RawRecord<'_>,
        timestamp_ms: Option<i64>,
        from: &Coordinates,
        failure: &Failure,
        policy: &str,
    ) -> Sealed {
        let text = |bytes: &[u8]| STANDARD.encode_to_string(bytes);
        let headers =
            record.headers.iter().map(|(name, value)| ((*name).to_owned(), value.map(text)));
        let content = Content {
            timestamp_ms,
            key: record.key.map(text),
            value: record.value.map(text),
            headers: headers.collect(),
        };
        // Strings alone: they always serialize.
        let plaintext = zeroize::Zeroizing::new(serde_json::to_vec(&content).unwrap_or_default());
        let mut value = Vec::new();
        let place = Place::new(DOMAIN, &from.path());
        Sealer::with(Arc::clone(&self.key), place).seal(&plaintext, &mut value);
        Sealed { key: from.path(), value, headers: headers_of(from, failure, policy) }
    }

    /// What stands for a record that is too large: size and keyed digest of key and value.
    pub fn account(
        &self,
        record: &RawRecord<'_>,
        from: &Coordinates,
        failure: &Failure,
        policy: &str,
    ) -> Sealed {
        let (key, value) = (record.key.unwrap_or_default(), record.value.unwrap_or_default());
        let length = (key.len() as u64).to_be_bytes();
        let digest = self.digester.digest(&[&length, key, value].concat());
        let mut headers = headers_of(from, failure, policy);
        headers.push((SIZE, (key.len() + value.len()).to_string()));
        headers.push((DIGEST, digest.iter().map(|byte| format!("{byte:02x}")).collect()));
        Sealed { key: from.path(), value: Vec::new(), headers }
    }
}

fn headers_of(from: &Coordinates, failure: &Failure, policy: &str) -> Vec<(&'static str, String)> {
    let mut headers = vec![
        (TOPIC, from.topic.clone()),
        (PARTITION, from.partition.to_string()),
        (OFFSET, from.offset.to_string()),
        (STAGE, failure.stage.name().to_owned()),
        (REASON, failure.reason.code().to_owned()),
        (POLICY_HEADER, policy.to_owned()),
    ];
    headers.extend(failure.path.clone().map(|path| (PATH, path)));
    headers
}

/// Opens the value of a quarantined record that came from `from`.
pub fn open(keys: &dyn KeySource, from: &Coordinates, value: &[u8]) -> Result<Opened, OpenError> {
    let label = ciphertext::label(value).map_err(|_| OpenError::DoesNotOpen)?;
    let key = keys.find(label.key, label.version)?;
    let plaintext =
        ciphertext::open(&key, DOMAIN, &from.path(), value).map_err(|_| OpenError::DoesNotOpen)?;
    let content: Content =
        serde_json::from_slice(plaintext.expose()).map_err(|_| OpenError::DoesNotOpen)?;
    let bytes = |text: String| STANDARD.decode_to_vec(text).map_err(|_| OpenError::DoesNotOpen);
    let headers = content.headers.into_iter();
    Ok(Opened {
        timestamp_ms: content.timestamp_ms,
        key: content.key.map(bytes).transpose()?,
        value: content.value.map(bytes).transpose()?,
        headers: headers
            .map(|(name, value)| Ok((name, value.map(bytes).transpose()?)))
            .collect::<Result<_, OpenError>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Keyset;
    use crate::rewrite::{Reason, Stage};

    fn from() -> Coordinates {
        Coordinates { topic: "raw".into(), partition: 3, offset: 9 }
    }

    #[test]
    fn what_is_sealed_opens_whole_and_only_where_it_stood() {
        let keys = Keyset::generate();
        let record = RawRecord {
            key: Some(b"\xffk"),
            value: Some(b"{broken"),
            headers: &[("h", Some(b"v")), ("n", None)],
            ..RawRecord::default()
        };
        let failure = Failure::new(Stage::Decode, Reason::InvalidJson);
        let sealed =
            Sealing::new(&keys).unwrap().seal(&record, Some(5), &from(), &failure, "p@1#0");
        let opened = open(&keys, &from(), sealed.value()).unwrap();
        assert_eq!(opened.key.as_deref(), record.key);
        assert_eq!(opened.value.as_deref(), record.value);
        assert_eq!(opened.headers, [("h".into(), Some(b"v".to_vec())), ("n".into(), None)]);
        assert_eq!(opened.timestamp_ms, Some(5));
        let moved = Coordinates { offset: 10, ..from() };
        assert_eq!(open(&keys, &moved, sealed.value()).err(), Some(OpenError::DoesNotOpen));
        assert!(open(&Keyset::generate(), &from(), sealed.value()).is_err());
    }

    #[test]
    fn the_account_of_a_large_record_is_small_and_says_nothing() {
        let keys = Keyset::generate();
        let value = vec![b'x'; 100_000];
        let record = RawRecord { value: Some(&value), ..RawRecord::default() };
        let failure = Failure::new(Stage::Publish, Reason::TooLarge);
        let account = Sealing::new(&keys).unwrap().account(&record, &from(), &failure, "p@1#0");
        assert!(account.size() < 600);
        assert!(account.headers().contains(&(SIZE, "100000".into())));
    }
}
