//! The self-describing ciphertext, described byte by byte in `docs/ciphertext.md`.
//!
//! ```text
//! offset  bytes  what
//!      0      1  format version, 1
//!      1      1  algorithm: 1 = AES-256-GCM, 2 = AES-256-SIV, 3 = HPKE
//!      2     16  key id
//!     18      4  key version, big-endian
//!     22     32  key commitment
//!                  of AES-256-GCM:           of AES-256-SIV:
//!     54     12  nonce                     54     16  synthetic vector, which is the tag
//!     66      n  ciphertext                70      n  ciphertext
//!   66+n     16  tag
//!                  of HPKE:
//!     54     32  encapsulated key
//!     86      n  ciphertext
//!   86+n     16  tag
//! ```
//!
//! The encryption key and the commitment are both derived (HKDF) from the data key for the first 22 bytes: so a
//! ciphertext opens under one key only (Albertini et al., "How to Abuse and Fix Authenticated Encryption
//! Without Key Commitment", USENIX Security 2022), and only under the name that it carries. The AAD is the
//! SHA-256 of the place: the length of the domain (two bytes, big-endian), the domain and the path.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base64_simd::URL_SAFE_NO_PAD;

use super::aead::{self, Cipher, DoesNotOpen, NONCE, SivCipher, TAG};
use super::recipient::{self, ENCAPSULATED, Recipient};
use super::{DataKey, KeyId, Secret, derive, place};

const FORMAT: u8 = 1;
/// In place of an [`Algorithm`]: to a public key.
const HPKE: u8 = 3;

/// How values are encrypted; the number is what stands in the ciphertext.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Algorithm {
    /// Under a random nonce: nothing shows but the length.
    Aes256Gcm = 1,
    /// Without a nonce: the same value at the same place gives the same ciphertext.
    Aes256Siv = 2,
}

impl Algorithm {
    fn of(number: u8) -> Option<Algorithm> {
        [Algorithm::Aes256Gcm, Algorithm::Aes256Siv].into_iter().find(|one| *one as u8 == number)
    }

    /// The least that stands behind the header.
    fn overhead(self) -> usize {
        match self {
            Algorithm::Aes256Gcm => NONCE + TAG,
            Algorithm::Aes256Siv => TAG,
        }
    }
}

/// Bytes before the nonce; a multiple of three, so that its base64 stands alone.
const HEADER: usize = 54;
/// Of these, what names the key.
const NAME: usize = 22;
const COMMITMENT: std::ops::Range<usize> = NAME..HEADER;

/// A key as a ciphertext names it: format, algorithm, id, version.
fn name_of(id: KeyId, version: u32, algorithm: u8) -> [u8; NAME] {
    let mut name = [0; NAME];
    let parts: [&[u8]; 3] = [&[FORMAT, algorithm], &id.0, &version.to_be_bytes()];
    for (to, from) in name.iter_mut().zip(parts.into_iter().flatten()) {
        *to = *from;
    }
    name
}

/// The bytes before the nonce: the key's name and commitment.
fn header_of(key: &DataKey, algorithm: Algorithm) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    let name = name_of(key.id, key.version, algorithm as u8);
    let commitment = derive(key.secret.expose(), &[b"veilstream/v1/commit", &name]);
    for (to, from) in header.iter_mut().zip(name.iter().chain(commitment.expose())) {
        *to = *from;
    }
    header
}

/// An encryption key, prepared.
#[allow(
    clippy::large_enum_variant,
    reason = "one for each place, and the larger one is the common one"
)]
enum Keyed {
    Gcm(Cipher),
    Siv(SivCipher),
}

impl Keyed {
    fn new(key: &DataKey, algorithm: Algorithm) -> Self {
        let name = name_of(key.id, key.version, algorithm as u8);
        let of = |use_: &[u8]| derive(key.secret.expose(), &[use_, &name]);
        match algorithm {
            Algorithm::Aes256Gcm => Keyed::Gcm(Cipher::new(of(b"veilstream/v1/encrypt").expose())),
            Algorithm::Aes256Siv => {
                let mut both = Secret::new([0; 64]);
                let halves = [of(b"veilstream/v1/siv/mac"), of(b"veilstream/v1/siv/ctr")];
                let bytes = halves.iter().flat_map(Secret::expose);
                both.expose_mut().iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
                Keyed::Siv(SivCipher::new(both))
            }
        }
    }

    fn open(&self, aad: &[u8], body: &[u8]) -> Result<Vec<u8>, DoesNotOpen> {
        match self {
            Keyed::Gcm(cipher) => {
                let (nonce, sealed) = body.split_first_chunk::<NONCE>().ok_or(DoesNotOpen)?;
                cipher.open(nonce, aad, sealed)
            }
            Keyed::Siv(cipher) => cipher.open(aad, body),
        }
    }
}

/// A key prepared to seal values at any place.
pub struct SealKey {
    name: (KeyId, u32),
    keyed: Keyed,
    header: [u8; HEADER],
    /// The header in base64, the same on every ciphertext of this key.
    prefix: String,
    /// Values sealed under random nonces, counted at about every [`SAMPLE`]th: see [`SealKey::take_uses`].
    sampled: AtomicU64,
}

/// One use in so many is counted, for so many.
const SAMPLE: u64 = 1 << 16;

impl SealKey {
    pub fn new(key: &DataKey, algorithm: Algorithm) -> Self {
        let header = header_of(key, algorithm);
        SealKey {
            name: (key.id, key.version),
            keyed: Keyed::new(key, algorithm),
            header,
            prefix: URL_SAFE_NO_PAD.encode_to_string(header),
            sampled: AtomicU64::new(0),
        }
    }

    /// Which key it is, and which version of it.
    pub fn name(&self) -> (KeyId, u32) {
        self.name
    }

    /// How many values were sealed under random nonces since the last call, estimated: a use counts where its nonce
    /// begins with 16 zero bits, for 65 536. So nothing needs to be written for a use, or be lost with a cache; of
    /// 2^32 uses the standard deviation is 2^24.
    pub fn take_uses(&self) -> u64 {
        match self.sampled.load(Ordering::Relaxed) {
            0 => 0,
            _ => self.sampled.swap(0, Ordering::Relaxed).saturating_mul(SAMPLE),
        }
    }

    /// Opens what this key has sealed, at whatever time.
    pub fn open(&self, place: &Place, sealed: &[u8]) -> Result<Secret<Vec<u8>>, DoesNotOpen> {
        match sealed.split_first_chunk() {
            Some((header, body)) if *header == self.header => {
                self.keyed.open(&place.0, body).map(Secret::new)
            }
            _ => Err(DoesNotOpen),
        }
    }

    /// Appends the ciphertext as base64url without padding (RFC 4648 section 5).
    /// `scratch` is overwritten.
    pub fn seal_text(
        &self,
        place: &Place,
        plaintext: &[u8],
        scratch: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) {
        scratch.clear();
        self.seal_body(place, plaintext, scratch);
        out.extend_from_slice(self.prefix.as_bytes());
        // More than it takes: what is appended is reserved exactly.
        out.reserve(2 * scratch.len());
        URL_SAFE_NO_PAD.encode_append(&*scratch, out);
    }

    fn seal_body(&self, place: &Place, plaintext: &[u8], out: &mut Vec<u8>) {
        match &self.keyed {
            Keyed::Gcm(cipher) => {
                let nonce = aead::nonce();
                if let [0, 0, ..] = nonce {
                    self.sampled.fetch_add(1, Ordering::Relaxed);
                }
                out.extend_from_slice(&nonce);
                let from = out.len();
                out.extend_from_slice(plaintext);
                cipher.seal(&nonce, &place.0, out, from);
            }
            Keyed::Siv(cipher) => cipher.seal(&place.0, plaintext, out),
        }
    }
}

/// What a ciphertext is bound to beside its key: the AAD.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place([u8; 32]);

impl Place {
    pub fn new(domain: &str, path: &str) -> Place {
        Place(place(domain, path))
    }
}

/// Seals values for one place: a domain and a path.
pub struct Sealer {
    key: Arc<SealKey>,
    place: Place,
}

impl Sealer {
    pub fn new(key: &DataKey, algorithm: Algorithm, domain: &str, path: &str) -> Self {
        Sealer::with(Arc::new(SealKey::new(key, algorithm)), Place::new(domain, path))
    }

    pub fn with(key: Arc<SealKey>, place: Place) -> Self {
        Sealer { key, place }
    }

    pub fn key(&self) -> Arc<SealKey> {
        Arc::clone(&self.key)
    }

    /// Appends the ciphertext as bytes.
    pub fn seal(&self, plaintext: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(&self.key.header);
        self.key.seal_body(&self.place, plaintext, out);
    }

    /// Appends the ciphertext as [`SealKey::seal_text`] does.
    pub fn seal_text(&self, plaintext: &[u8], scratch: &mut Vec<u8>, out: &mut Vec<u8>) {
        self.key.seal_text(&self.place, plaintext, scratch, out);
    }
}

/// Appends a ciphertext to a recipient's public key, as base64url without padding; nothing where none is made.
pub fn seal_to(recipient: &Recipient, place: &Place, plaintext: &[u8], out: &mut Vec<u8>) {
    let name = name_of(recipient.id(), 0, HPKE);
    if let Some(sealed) = recipient.seal(&name, &place.0, plaintext) {
        let parts = [&name, sealed.commitment.as_slice(), &sealed.encapsulated, &sealed.ciphertext];
        URL_SAFE_NO_PAD.encode_append(parts.concat(), out);
    }
}

/// How a ciphertext was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    With(Algorithm),
    /// To a recipient's public key; key id and version are of that.
    To,
}

/// Which key a ciphertext says it was made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label {
    pub made: Made,
    pub key: KeyId,
    pub version: u32,
}

/// Reads the key's name from a ciphertext.
pub fn label(sealed: &[u8]) -> Result<Label, DoesNotOpen> {
    let [FORMAT, algorithm, rest @ ..] = sealed else { return Err(DoesNotOpen) };
    let (made, overhead) = match (*algorithm, Algorithm::of(*algorithm)) {
        (_, Some(known)) => (Made::With(known), known.overhead()),
        (HPKE, None) => (Made::To, ENCAPSULATED + TAG),
        _ => return Err(DoesNotOpen),
    };
    let (id, rest) = rest.split_first_chunk().ok_or(DoesNotOpen)?;
    let (version, _) = rest.split_first_chunk().ok_or(DoesNotOpen)?;
    match sealed.len() >= HEADER + overhead {
        true => Ok(Label { made, key: KeyId(*id), version: u32::from_be_bytes(*version) }),
        false => Err(DoesNotOpen),
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
    let body = sealed.get(HEADER..).ok_or(DoesNotOpen)?;
    let Made::With(algorithm) = said.made else {
        let part = |range| sealed.get(range).ok_or(DoesNotOpen);
        let (name, commitment) = (part(0..NAME)?, part(COMMITMENT)?);
        let opened = recipient::open(&key.secret, name, &place(domain, path), commitment, body);
        return opened.map(Secret::new);
    };
    let header = header_of(key, algorithm);
    // The commitment is public: comparing it in variable time tells nothing.
    if (said.key, said.version) != (key.id, key.version)
        || sealed.get(COMMITMENT) != header.get(COMMITMENT)
    {
        return Err(DoesNotOpen);
    }
    Keyed::new(key, algorithm).open(&place(domain, path), body).map(Secret::new)
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

    const BOTH: [Algorithm; 2] = [Algorithm::Aes256Gcm, Algorithm::Aes256Siv];

    fn sealed(algorithm: Algorithm, text: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        Sealer::new(&key(1), algorithm, "crm/email", "contacts[].email").seal(text, &mut out);
        out
    }

    #[test]
    fn opens_where_it_was_made_for() {
        let text = br#""caf\u00e9""#;
        for algorithm in BOTH {
            let made = sealed(algorithm, text);
            let back = open(&key(1), "crm/email", "contacts[].email", &made).unwrap();
            assert_eq!(back.expose(), text);
            let said = Label { made: Made::With(algorithm), key: KeyId([7; 16]), version: 3 };
            assert_eq!(label(&made), Ok(said));
        }
    }

    #[test]
    fn equal_texts_look_equal_where_they_shall_and_nowhere_else() {
        let made = BOTH.map(|algorithm| sealed(algorithm, b"x") == sealed(algorithm, b"x"));
        assert_eq!(made, [false, true]);
        let siv = |text: &[u8], domain, path| {
            let mut out = Vec::new();
            Sealer::new(&key(1), Algorithm::Aes256Siv, domain, path).seal(text, &mut out);
            out
        };
        let one = siv(b"x", "d", "p");
        for other in [siv(b"y", "d", "p"), siv(b"x", "e", "p"), siv(b"x", "d", "q")] {
            assert_eq!(one.len(), other.len());
            // Behind what names the key.
            assert_ne!(one[HEADER..HEADER + TAG], other[HEADER..HEADER + TAG]);
            assert_ne!(one[HEADER + TAG..], other[HEADER + TAG..]);
        }
    }

    /// The vectors of docs/ciphertext.md, made by another implementation.
    #[test]
    fn the_documented_vectors_open() {
        let key = DataKey {
            id: KeyId(std::array::from_fn(|at| 0xa0 + at as u8)),
            version: 3,
            secret: Secret::new(std::array::from_fn(|at| at as u8)),
        };
        let page = include_str!("../../docs/ciphertext.md");
        let lines: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("    ")).collect();
        let texts: Vec<String> = lines.chunks(2).map(|parts| parts.concat()).collect();
        let (domain, path) = ("crm-customers/fraud/email", "contacts[].email");
        for (text, algorithm) in texts.iter().zip(BOTH) {
            let opened = open_text(&key, domain, path, text);
            assert_eq!(opened.unwrap().expose(), br#""ann@example.com""#, "{algorithm:?}");
        }
        assert_eq!(texts.len(), 2);
        let mut made = Vec::new();
        let sealer = Sealer::new(&key, Algorithm::Aes256Siv, domain, path);
        sealer.seal_text(br#""ann@example.com""#, &mut Vec::new(), &mut made);
        assert_eq!(made, texts[1].as_bytes());
    }

    #[test]
    fn text_form_is_the_base64_of_the_bytes() {
        let mut out = Vec::new();
        for length in 0..14 {
            out.clear();
            let sealer = Sealer::new(&key(1), BOTH[length % 2], "d", "p");
            sealer.seal_text(&vec![b'x'; length], &mut Vec::new(), &mut out);
            let text = std::str::from_utf8(&out).unwrap();
            assert_eq!(open_text(&key(1), "d", "p", text).unwrap().expose().len(), length);
        }
    }

    #[test]
    fn does_not_open_elsewhere_or_under_another_key() {
        let tries = [
            (key(2), "crm/email", "contacts[].email"),
            (key(1), "crm/emai", "lcontacts[].email"),
            (key(1), "crm/email", "email"),
            (DataKey { version: 4, ..key(1) }, "crm/email", "contacts[].email"),
            (DataKey { id: KeyId([8; 16]), ..key(1) }, "crm/email", "contacts[].email"),
        ];
        for made in BOTH.map(|algorithm| sealed(algorithm, b"x")) {
            for (key, domain, path) in &tries {
                assert_eq!(open(key, domain, path, &made).err(), Some(DoesNotOpen));
            }
        }
    }

    #[test]
    fn every_changed_byte_and_every_cut_is_noticed() {
        let opens = |sealed: &[u8]| open(&key(1), "crm/email", "contacts[].email", sealed).is_ok();
        for made in BOTH.map(|algorithm| sealed(algorithm, b"hello")) {
            for at in 0..made.len() {
                // 1 and 3 among them: the algorithm becomes the other one, or none.
                for change in [1, 3, 0x80] {
                    let mut changed = made.clone();
                    changed[at] ^= change;
                    assert!(!opens(&changed), "byte {at}");
                }
                assert!(!opens(&made[..at]), "cut {at}");
            }
        }
    }
}
