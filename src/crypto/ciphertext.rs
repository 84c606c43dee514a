//! The self-describing ciphertext, described byte by byte in `docs/ciphertext.md`.
//!
//! ```text
//! offset  bytes  what
//!      0      1  format version, 1
//!      1      1  algorithm, 1 = AES-256-GCM
//!      2     16  key id
//!     18      4  key version, big-endian
//!     22     32  key commitment
//!     54     12  nonce
//!     66      n  ciphertext
//!   66+n     16  tag
//! ```
//!
//! The encryption key and the commitment are both derived (HKDF) from the data key for the first 22 bytes: so a
//! ciphertext opens under one key only (Albertini et al., "How to Abuse and Fix Authenticated Encryption
//! Without Key Commitment", USENIX Security 2022), and only under the name that it carries. The AAD is the
//! SHA-256 of the place: the length of the domain (two bytes, big-endian), the domain and the path.

use base64_simd::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use super::aead::{self, Cipher, DoesNotOpen, NONCE, TAG};
use super::{DataKey, KeyId, Secret, derive};

const FORMAT: u8 = 1;
const AES_256_GCM: u8 = 1;
/// Bytes before the nonce; a multiple of three, so that its base64 stands alone.
const HEADER: usize = 54;
/// Of these, what names the key.
const NAME: usize = 22;
const COMMITMENT: std::ops::Range<usize> = NAME..HEADER;

/// A key as a ciphertext names it: format, algorithm, id, version.
fn name_of(key: &DataKey) -> [u8; NAME] {
    let mut name = [0; NAME];
    let parts: [&[u8]; 3] = [&[FORMAT, AES_256_GCM], &key.id.0, &key.version.to_be_bytes()];
    for (to, from) in name.iter_mut().zip(parts.into_iter().flatten()) {
        *to = *from;
    }
    name
}

/// The bytes before the nonce: the key's name and commitment.
fn header_of(key: &DataKey) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    let name = name_of(key);
    let commitment = derive(key.secret.expose(), &[b"veilstream/v1/commit", &name]);
    for (to, from) in header.iter_mut().zip(name.iter().chain(commitment.expose())) {
        *to = *from;
    }
    header
}

/// What a ciphertext is bound to. A digest, so that a long path costs no more at each value than a short one.
fn aad_of(domain: &str, path: &str) -> [u8; 32] {
    // A domain longer than 64 KiB does not pass the policy parser.
    let length = (domain.len() as u16).to_be_bytes();
    Sha256::new().chain_update(length).chain_update(domain).chain_update(path).finalize().into()
}

fn cipher_of(key: &DataKey) -> Cipher {
    let info: [&[u8]; 2] = [b"veilstream/v1/encrypt", &name_of(key)];
    Cipher::new(derive(key.secret.expose(), &info).expose())
}

/// Seals values for one place: a domain and a path.
pub struct Sealer {
    cipher: Cipher,
    header: [u8; HEADER],
    /// The header in base64, the same on every ciphertext of this key.
    prefix: String,
    aad: [u8; 32],
}

impl Sealer {
    pub fn new(key: &DataKey, domain: &str, path: &str) -> Self {
        let header = header_of(key);
        Sealer {
            cipher: cipher_of(key),
            header,
            prefix: URL_SAFE_NO_PAD.encode_to_string(header),
            aad: aad_of(domain, path),
        }
    }

    /// Appends the ciphertext as bytes.
    pub fn seal(&self, plaintext: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(&self.header);
        self.seal_body(plaintext, out);
    }

    /// Appends the ciphertext as base64url without padding (RFC 4648 section 5).
    /// `scratch` is overwritten.
    pub fn seal_text(&self, plaintext: &[u8], scratch: &mut Vec<u8>, out: &mut Vec<u8>) {
        scratch.clear();
        self.seal_body(plaintext, scratch);
        out.extend_from_slice(self.prefix.as_bytes());
        // More than it takes: what is appended is reserved exactly.
        out.reserve(2 * scratch.len());
        URL_SAFE_NO_PAD.encode_append(&*scratch, out);
    }

    fn seal_body(&self, plaintext: &[u8], out: &mut Vec<u8>) {
        let nonce = aead::nonce();
        out.extend_from_slice(&nonce);
        let from = out.len();
        out.extend_from_slice(plaintext);
        self.cipher.seal(&nonce, &self.aad, out, from);
    }
}

/// Which key a ciphertext says it was made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label {
    pub key: KeyId,
    pub version: u32,
}

/// Reads the key's name from a ciphertext.
pub fn label(sealed: &[u8]) -> Result<Label, DoesNotOpen> {
    let parts = (sealed.get(2..18), sealed.get(18..22), sealed.len() >= HEADER + NONCE + TAG);
    match (sealed, parts) {
        ([FORMAT, AES_256_GCM, ..], (Some(id), Some(version), true)) => Ok(Label {
            key: KeyId(id.try_into().map_err(|_| DoesNotOpen)?),
            version: u32::from_be_bytes(version.try_into().map_err(|_| DoesNotOpen)?),
        }),
        _ => Err(DoesNotOpen),
    }
}

/// Opens a ciphertext made for `domain` and `path` under `key`.
pub fn open(
    key: &DataKey,
    domain: &str,
    path: &str,
    sealed: &[u8],
) -> Result<Secret<Vec<u8>>, DoesNotOpen> {
    let said = label(sealed)?;
    let header = header_of(key);
    let (nonce, body) = (sealed.get(HEADER..HEADER + NONCE), sealed.get(HEADER + NONCE..));
    let (Some(nonce), Some(body)) = (nonce, body) else { return Err(DoesNotOpen) };
    // The commitment is public: comparing it in variable time tells nothing.
    if (said.key, said.version) != (key.id, key.version)
        || sealed.get(COMMITMENT) != header.get(COMMITMENT)
    {
        return Err(DoesNotOpen);
    }
    let nonce: &[u8; NONCE] = nonce.try_into().map_err(|_| DoesNotOpen)?;
    cipher_of(key).open(nonce, &aad_of(domain, path), body).map(Secret::new)
}

/// Opens the base64url form.
pub fn open_text(
    key: &DataKey,
    domain: &str,
    path: &str,
    sealed: &str,
) -> Result<Secret<Vec<u8>>, DoesNotOpen> {
    open(key, domain, path, &URL_SAFE_NO_PAD.decode_to_vec(sealed).map_err(|_| DoesNotOpen)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> DataKey {
        DataKey { id: KeyId([7; 16]), version: 3, secret: Secret::new([byte; 32]) }
    }

    fn sealed(text: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        Sealer::new(&key(1), "crm/email", "contacts[].email").seal(text, &mut out);
        out
    }

    #[test]
    fn opens_where_it_was_made_for() {
        let text = br#""caf\u00e9""#;
        let back = open(&key(1), "crm/email", "contacts[].email", &sealed(text)).unwrap();
        assert_eq!(back.expose(), text);
        assert_eq!(label(&sealed(text)), Ok(Label { key: KeyId([7; 16]), version: 3 }));
    }

    /// The vector of docs/ciphertext.md, made by another implementation.
    #[test]
    fn the_documented_vector_opens() {
        let key = DataKey {
            id: KeyId(std::array::from_fn(|at| 0xa0 + at as u8)),
            version: 3,
            secret: Secret::new(std::array::from_fn(|at| at as u8)),
        };
        let page = include_str!("../../docs/ciphertext.md");
        let parts: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("    ")).collect();
        let opened =
            open_text(&key, "crm-customers/fraud/email", "contacts[].email", &parts.concat());
        assert_eq!(opened.unwrap().expose(), br#""ann@example.com""#);
    }

    #[test]
    fn text_form_is_the_base64_of_the_bytes() {
        let mut out = Vec::new();
        for length in 0..7 {
            out.clear();
            let sealer = Sealer::new(&key(1), "d", "p");
            sealer.seal_text(&vec![b'x'; length], &mut Vec::new(), &mut out);
            let text = std::str::from_utf8(&out).unwrap();
            assert_eq!(open_text(&key(1), "d", "p", text).unwrap().expose().len(), length);
        }
    }

    #[test]
    fn does_not_open_elsewhere_or_under_another_key() {
        let made = sealed(b"x");
        let tries = [
            (key(2), "crm/email", "contacts[].email"),
            (key(1), "crm/emai", "lcontacts[].email"),
            (key(1), "crm/email", "email"),
            (DataKey { version: 4, ..key(1) }, "crm/email", "contacts[].email"),
            (DataKey { id: KeyId([8; 16]), ..key(1) }, "crm/email", "contacts[].email"),
        ];
        for (key, domain, path) in tries {
            assert_eq!(open(&key, domain, path, &made).err(), Some(DoesNotOpen));
        }
    }

    #[test]
    fn every_changed_byte_and_every_cut_is_noticed() {
        let made = sealed(b"hello");
        for at in 0..made.len() {
            let mut changed = made.clone();
            changed[at] ^= 1;
            assert!(open(&key(1), "crm/email", "contacts[].email", &changed).is_err(), "byte {at}");
            assert!(
                open(&key(1), "crm/email", "contacts[].email", &made[..at]).is_err(),
                "cut {at}"
            );
        }
    }
}
