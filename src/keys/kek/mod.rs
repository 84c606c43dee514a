//! Key-encryption keys: what seals the keys of a key store. A provider holds them; they never leave it in the clear.

mod file;
mod kms;
mod vault;

pub use file::KekFile;

use std::path::Path;
use std::time::Duration;

use crate::config;
use crate::crypto::Secret;

/// Why a provider did not seal or open. No key is ever part of it.
#[derive(Debug, thiserror::Error)]
pub enum KekError {
    /// It may be back.
    #[error("{provider} does not answer: {problem}")]
    Away { provider: &'static str, problem: String },
    #[error("{provider} refuses: {problem}")]
    Refused { provider: &'static str, problem: String },
    #[error("{0}")]
    File(String),
    #[error("{0}")]
    Setting(String),
}

impl KekError {
    /// To wait may help.
    pub fn is_passing(&self) -> bool {
        matches!(self, KekError::Away { .. })
    }
}

/// A sealed key, and the name of what sealed it, such as `file/2`. What is needed to open it is in the bytes.
pub struct Sealed {
    pub kek: String,
    pub bytes: Vec<u8>,
}

/// A provider of key-encryption keys.
pub trait Kek: Send + Sync {
    /// Seals a key for what `context` says; it opens for the same alone.
    fn seal(&self, key: &[u8; 32], context: &str) -> Result<Sealed, KekError>;

    fn open(&self, sealed: &[u8], context: &str) -> Result<Secret<[u8; 32]>, KekError>;

    /// From now on a new key seals; gives what to call it.
    fn rotate(&self) -> Result<String, KekError>;

    /// Destroys an old version, where that is not the provider's own to do: what it alone sealed opens no more.
    fn destroy(&self, version: u32) -> Result<(), KekError>;
}

/// The provider that the configuration names.
pub fn open(told: &config::Kek, folder: &Path) -> Result<Box<dyn Kek>, KekError> {
    match told {
        config::Kek { file: Some(told), .. } => Ok(Box::new(KekFile::load(told, folder)?)),
        config::Kek { vault_transit: Some(told), .. } => {
            Ok(Box::new(Patient(vault::Vault::new(told, folder)?)))
        }
        config::Kek { aws_kms: Some(told), .. } => {
            Ok(Box::new(Patient(kms::Kms::new(told, folder)?)))
        }
        // Config::load has seen to it that there is one.
        _ => Err(KekError::Setting("`key_store.kek` names no provider".into())),
    }
}

/// How often a provider that is away is asked, and how long before the second time; then twice as long.
const TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(250);

/// A provider on another machine, asked again while it is away, some times.
struct Patient<K>(K);

impl<K> Patient<K> {
    fn ask<T>(&self, what: impl Fn(&K) -> Result<T, KekError>) -> Result<T, KekError> {
        let mut tried = 1;
        loop {
            match what(&self.0) {
                Err(error) if error.is_passing() && tried < TRIES => {
                    tracing::warn!("{error}; trying again");
                    let jitter = 0.5 + rand::random::<f64>();
                    std::thread::sleep((PAUSE * (1 << (tried - 1))).mul_f64(jitter));
                    tried += 1;
                }
                done => return done,
            }
        }
    }
}

impl<K: Kek> Kek for Patient<K> {
    fn seal(&self, key: &[u8; 32], context: &str) -> Result<Sealed, KekError> {
        self.ask(|kek| kek.seal(key, context))
    }

    fn open(&self, sealed: &[u8], context: &str) -> Result<Secret<[u8; 32]>, KekError> {
        self.ask(|kek| kek.open(sealed, context))
    }

    fn rotate(&self) -> Result<String, KekError> {
        // Once: what was not heard may have been done.
        self.0.rotate()
    }

    fn destroy(&self, version: u32) -> Result<(), KekError> {
        self.0.destroy(version)
    }
}
