//! HPKE (RFC 9180), mode base: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM. Values for one who holds a private
//! key: the worker cannot open them.

use hpke::aead::AesGcm256;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use sha2::Digest;

use super::aead::DoesNotOpen;
use super::{KeyId, Secret};

/// Bytes of an encapsulated key.
pub const ENCAPSULATED: usize = 32;
const COMMIT: &[u8] = b"veilstream/v1/commit";

/// What is sealed, but for the name.
pub struct Sealed {
    /// Exported from the same context as the key: it opens under no other.
    pub commitment: [u8; 32],
    pub encapsulated: [u8; ENCAPSULATED],
    pub ciphertext: Vec<u8>,
}

/// A public key of X25519 (RFC 7748).
#[derive(Clone)]
pub struct Recipient(<X25519HkdfSha256 as Kem>::PublicKey);

fn info(name: &[u8]) -> Vec<u8> {
    [b"veilstream/v1/hpke", name].concat()
}

impl Recipient {
    /// None where no key can be agreed on with it: it is of low order.
    pub fn new(key: &[u8; 32]) -> Option<Recipient> {
        let recipient = Recipient(<X25519HkdfSha256 as Kem>::PublicKey::from_bytes(key).ok()?);
        recipient.seal(b"", b"", b"").map(|_| recipient)
    }

    /// The first half of the key's SHA-256.
    pub fn id(&self) -> KeyId {
        let digest = sha2::Sha256::digest(self.0.to_bytes());
        let mut id = [0; 16];
        id.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
        KeyId(id)
    }

    /// Seals for the holder of the private key; each time under another key.
    pub fn seal(&self, name: &[u8], aad: &[u8], plaintext: &[u8]) -> Option<Sealed> {
        let mut random = rand::rng();
        let (encapsulated, mut context) = hpke::setup_sender_with_rng::<
            AesGcm256,
            HkdfSha256,
            X25519HkdfSha256,
        >(
            &OpModeS::Base, &self.0, &info(name), &mut random
        )
        .ok()?;
        let mut commitment = [0; 32];
        context.export(COMMIT, &mut commitment).ok()?;
        let ciphertext = context.seal(plaintext, aad).ok()?;
        Some(Sealed { commitment, encapsulated: encapsulated.to_bytes().into(), ciphertext })
    }
}

/// Opens with the private key.
pub fn open(
    private: &Secret<[u8; 32]>,
    name: &[u8],
    aad: &[u8],
    commitment: &[u8],
    body: &[u8],
) -> Result<Vec<u8>, DoesNotOpen> {
    type Private = <X25519HkdfSha256 as Kem>::PrivateKey;
    type Encapsulated = <X25519HkdfSha256 as Kem>::EncappedKey;
    let (encapsulated, sealed) = body.split_first_chunk::<ENCAPSULATED>().ok_or(DoesNotOpen)?;
    let opened = || -> Result<Vec<u8>, hpke::HpkeError> {
        let mut context = hpke::setup_receiver::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
            &OpModeR::Base,
            &Private::from_bytes(private.expose())?,
            &Encapsulated::from_bytes(encapsulated)?,
            &info(name),
        )?;
        let mut exported = [0; 32];
        context.export(COMMIT, &mut exported)?;
        // The commitment is public: comparing it in variable time tells nothing.
        match exported.as_slice() == commitment {
            true => context.open(sealed, aad),
            false => Err(hpke::HpkeError::OpenError),
        }
    };
    opened().map_err(|_| DoesNotOpen)
}
