//! AES-256-GCM (NIST SP 800-38D) with 96-bit random nonces.

use aes_gcm::{AeadInPlace, Aes256Gcm, KeyInit};

/// Bytes of a nonce.
pub const NONCE: usize = 12;
/// Bytes of an authentication tag.
pub const TAG: usize = 16;

/// A key with its schedule computed.
pub struct Cipher(Aes256Gcm);

/// The text was not made by this key for this place, or was changed. No more is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the ciphertext does not open")]
pub struct DoesNotOpen;

impl Cipher {
    pub fn new(key: &[u8; 32]) -> Self {
        Cipher(Aes256Gcm::new(key.into()))
    }

    /// Encrypts `buffer[from..]` in place and appends the tag.
    pub fn seal(&self, nonce: &[u8; NONCE], aad: &[u8], buffer: &mut Vec<u8>, from: usize) {
        let plaintext = buffer.get_mut(from..).unwrap_or_default();
        // The only failure is a plaintext over 64 GiB; no record can be that long.
        if let Ok(tag) = self.0.encrypt_in_place_detached(nonce.into(), aad, plaintext) {
            buffer.extend_from_slice(&tag);
        } else {
            buffer.truncate(from);
        }
    }

    /// Decrypts ciphertext and tag.
    pub fn open(
        &self,
        nonce: &[u8; NONCE],
        aad: &[u8],
        sealed: &[u8],
    ) -> Result<Vec<u8>, DoesNotOpen> {
        let split = sealed.len().checked_sub(TAG).ok_or(DoesNotOpen)?;
        let (ciphertext, tag) = sealed.split_at(split);
        let tag: &[u8; TAG] = tag.try_into().map_err(|_| DoesNotOpen)?;
        let mut plaintext = ciphertext.to_vec();
        self.0
            .decrypt_in_place_detached(nonce.into(), aad, &mut plaintext, tag.into())
            .map_err(|_| DoesNotOpen)?;
        Ok(plaintext)
    }
}

/// 96 random bits from the thread's generator (ChaCha, seeded and reseeded by the operating system).
pub fn nonce() -> [u8; NONCE] {
    let mut nonce = [0; NONCE];
    rand::Rng::fill_bytes(&mut rand::rng(), &mut nonce);
    nonce
}
