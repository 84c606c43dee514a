//! AES-256-GCM (NIST SP 800-38D) with 96-bit random nonces, and AES-256-SIV (RFC 5297) without.

use aes_gcm::{AeadInPlace, Aes256Gcm, KeyInit};
use aes_siv::siv::Aes256Siv;

use super::Secret;

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

/// AES-256-SIV without a nonce: the same text at the same place always gives the same ciphertext.
pub struct SivCipher(Secret<[u8; 64]>);

impl SivCipher {
    /// The first half of the key authenticates, the second encrypts (RFC 5297 section 2.6).
    pub fn new(key: Secret<[u8; 64]>) -> Self {
        SivCipher(key)
    }

    /// Appends the synthetic vector of 16 bytes and the ciphertext, as long as the plaintext.
    pub fn seal(&self, aad: &[u8], plaintext: &[u8], out: &mut Vec<u8>) {
        // The only failure is too many headers; there is one.
        if let Ok(sealed) = self.cipher().encrypt([aad], plaintext) {
            out.extend_from_slice(&sealed);
        }
    }

    /// Decrypts vector and ciphertext.
    pub fn open(&self, aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, DoesNotOpen> {
        self.cipher().decrypt([aad], sealed).map_err(|_| DoesNotOpen)
    }

    /// It cannot be shared: its key schedule is made for each value.
    fn cipher(&self) -> Aes256Siv {
        Aes256Siv::new(self.0.expose().into())
    }
}

/// 96 random bits from the thread's generator (ChaCha, seeded and reseeded by the operating system).
pub fn nonce() -> [u8; NONCE] {
    let mut nonce = [0; NONCE];
    rand::Rng::fill_bytes(&mut rand::rng(), &mut nonce);
    nonce
}
