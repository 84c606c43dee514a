//! HMAC-SHA-256 (RFC 2104) with its key prepared.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::{DataKey, derive};

/// A keyed digest for one use. Two uses of one key never give the same digest for the same input.
#[derive(Clone)]
pub struct Digester(Hmac<Sha256>);

impl Digester {
    /// A digester for the key derived from `key` for `use_` and `domain` (HKDF, RFC 5869).
    pub fn new(key: &DataKey, use_: &str, domain: &str) -> Self {
        let length = (use_.len() as u32).to_be_bytes();
        let derived = derive(
            key.secret.expose(),
            &[b"veilstream/v1/mac", &length, use_.as_bytes(), domain.as_bytes()],
        );
        Self::from_key(derived.expose())
    }

    /// A digester under `key` itself.
    pub fn from_key(key: &[u8]) -> Self {
        // HMAC takes a key of any length (RFC 2104 section 2): the fallback is never reached.
        Digester(Hmac::new_from_slice(key).unwrap_or_else(|_| Hmac::new(&Default::default())))
    }

    #[inline]
    pub fn digest(&self, input: &[u8]) -> [u8; 32] {
        let mut mac = self.0.clone();
        mac.update(input);
        mac.finalize().into_bytes().into()
    }
}
