//! Key-encryption keys: what seals the keys of a key store. A provider holds them; they never leave it in the clear.

mod file;

pub use file::KekFile;

use std::path::Path;

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
}

/// A provider of key-encryption keys.
pub trait Kek: Send + Sync {
    /// The key that seals now, such as `file/2`: what [`Kek::open`] needs to know is in the sealed bytes.
    fn name(&self) -> Result<String, KekError>;

    /// Seals a key for what `context` says; it opens for the same alone.
    fn seal(&self, key: &[u8; 32], context: &str) -> Result<Vec<u8>, KekError>;

    fn open(&self, sealed: &[u8], context: &str) -> Result<Secret<[u8; 32]>, KekError>;

    /// From now on a new key seals, where that is the provider's to say.
    fn rotate(&self) -> Result<(), KekError>;

    /// Destroys an old version, where that is not the provider's own to do: what it alone sealed opens no more.
    fn destroy(&self, version: u32) -> Result<(), KekError>;
}

/// The provider that the configuration names.
pub fn open(told: &config::Kek, folder: &Path) -> Result<Box<dyn Kek>, KekError> {
    match &told.file {
        Some(told) => Ok(Box::new(KekFile::load(told, folder)?)),
        // Config::load has seen to it that there is one.
        None => Err(KekError::File("`key_store.kek` names no provider".into())),
    }
}
