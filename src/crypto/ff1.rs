//! FF1 (NIST SP 800-38G, revision 1): encryption that keeps the alphabet and the length.

use aes::Aes256;
use aes::cipher::{BlockCipher, BlockEncrypt, KeyInit};
use fpe::ff1::{FF1, FlexibleNumeralString, NumeralStringError};

use super::{DataKey, derive, place};

/// A longer text is refused: the work grows with the square of the length.
pub const LONGEST: usize = 512;

/// Fewer texts than a million are possible, or more numerals than [`LONGEST`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too short or too long for FF1")]
pub struct OutOfDomain;

/// One key, radix and tweak.
pub struct Ff1<C: BlockCipher = Aes256> {
    cipher: FF1<C>,
    tweak: Vec<u8>,
}

impl Ff1 {
    /// For values of one place under `key`. None where `radix` is not 2 to 65 536.
    pub fn at(key: &DataKey, radix: u32, domain: &str, path: &str) -> Option<Ff1> {
        let id: &[u8] = &key.id.0;
        let info: [&[u8]; 3] = [b"veilstream/v1/ff1", id, &key.version.to_be_bytes()];
        let derived = derive(key.secret.expose(), &info);
        Ff1::new(derived.expose().into(), radix, place(domain, path).to_vec())
    }
}

impl<C: BlockCipher + BlockEncrypt + KeyInit + Clone> Ff1<C> {
    pub fn new(key: &aes::cipher::Key<C>, radix: u32, tweak: Vec<u8>) -> Option<Self> {
        Some(Ff1 { cipher: FF1::new(key, radix).ok()?, tweak })
    }

    /// `numerals` are below the radix.
    pub fn encrypt(&self, numerals: Vec<u16>) -> Result<Vec<u16>, OutOfDomain> {
        Self::within(numerals, |text| self.cipher.encrypt(&self.tweak, text))
    }

    pub fn decrypt(&self, numerals: Vec<u16>) -> Result<Vec<u16>, OutOfDomain> {
        Self::within(numerals, |text| self.cipher.decrypt(&self.tweak, text))
    }

    fn within(
        numerals: Vec<u16>,
        work: impl FnOnce(&FlexibleNumeralString) -> Result<FlexibleNumeralString, NumeralStringError>,
    ) -> Result<Vec<u16>, OutOfDomain> {
        if numerals.len() > LONGEST {
            return Err(OutOfDomain);
        }
        // Of the domain, at least a million is asked for by the library (section 5.1).
        work(&FlexibleNumeralString::from(numerals)).map(Into::into).map_err(|_| OutOfDomain)
    }
}
