//! Primitives behind one seam, the ciphertext format, and the types that hold secrets.
//!
//! Nothing here is our own cryptography: AES-256-GCM, AES-256-SIV, HMAC-SHA-256 and HKDF are RustCrypto's, FF1
//! is crate `fpe`; checked with Wycheproof's and NIST's vectors and, for SIV, OpenSSL's answers in `tests/vectors.rs`.

pub mod aead;
pub mod ciphertext;
pub mod erasure;
pub mod ff1;
mod key;
pub mod mac;
pub mod recipient;
mod secret;

pub use key::{
    DataKey, KeyError, KeyId, KeySource, KeyState, Pinned, Purpose, SubjectId, SubjectKeys,
};
pub use secret::Secret;

use sha2::Digest;

/// What a value is bound to: its domain and path. A digest, so that a long path costs no more at each value than a
/// short one.
fn place(domain: &str, path: &str) -> [u8; 32] {
    // A domain longer than 64 KiB does not pass the policy parser.
    let length = (domain.len() as u16).to_be_bytes();
    sha2::Sha256::new()
        .chain_update(length)
        .chain_update(domain)
        .chain_update(path)
        .finalize()
        .into()
}

/// HKDF-SHA-256 (RFC 5869) to 32 bytes, without salt: the input is a uniform key already.
pub fn derive(key: &[u8], info: &[&[u8]]) -> Secret<[u8; 32]> {
    let mut out = Secret::new([0; 32]);
    // Expanding to 32 bytes cannot fail: the limit is 255 blocks of 32 (RFC 5869 section 2.3).
    let _ = hkdf::Hkdf::<sha2::Sha256>::new(None, key).expand_multi_info(info, out.expose_mut());
    out
}
