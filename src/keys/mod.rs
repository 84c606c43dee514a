//! Where keys are kept, behind [`crate::crypto::KeySource`]: a keyset file, or a key store, which has a key for each
//! data subject as well.
//!
//! In a key store a provider's key-encryption key ([`kek`]) seals the keys of the deployment, and one of these, the
//! wrapping key, those of the subjects. So a million subjects cost the provider nothing, and what the database holds
//! opens nothing without the provider.

mod background;
mod files;
pub mod kek;
mod keyset;
mod ring;
mod store;

pub use keyset::{ChangeError, Key, Keyset, KeysetError, Status};
pub use ring::{Ring, RingError, USES};

use std::sync::Arc;

use crate::config::Config;
use crate::crypto::KeySource;

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    #[error(transparent)]
    Keyset(#[from] KeysetError),
    #[error(transparent)]
    Ring(#[from] RingError),
}

impl KeysError {
    /// To wait may help: a database or a provider is away.
    pub fn is_passing(&self) -> bool {
        match self {
            KeysError::Ring(error) => error.is_passing(),
            KeysError::Keyset(_) => false,
        }
    }
}

/// The keys that a configuration names.
pub fn open(config: &Config) -> Result<Arc<dyn KeySource>, KeysError> {
    match (&config.key_store, &config.keys) {
        (Some(store), _) => Ok(Arc::new(Ring::open(store, &config.folder)?)),
        (None, file) => {
            let file = file.as_deref().unwrap_or(std::path::Path::new(""));
            Ok(Arc::new(Keyset::load(&config.folder.join(file))?))
        }
    }
}
