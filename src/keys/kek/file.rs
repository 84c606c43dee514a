//! The embedded provider: a file of key-encryption keys, sealed under a passphrase by Argon2id (RFC 9106) and
//! AES-256-GCM.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use argon2::{Algorithm, Argon2, Params, Version};
use base64_simd::STANDARD;
use serde::{Deserialize, Serialize};

use super::super::files::{self, Changing};
use super::{Kek, KekError, Sealed};
use crate::config;
use crate::crypto::aead::{self, Cipher, NONCE};
use crate::crypto::{Secret, derive};

const FORMAT: &str = "veilstream-kek";
/// RFC 9106, section 4, the second recommended option: 64 MiB, three passes, four lanes.
const COST: Cost = Cost { memory_kib: 64 << 10, passes: 3, lanes: 4 };
/// A file asks for no more: who can write it shall not be able to exhaust the memory.
const MOST: Cost = Cost { memory_kib: 1 << 20, passes: 16, lanes: 64 };

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cost {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: String,
    version: u32,
    argon2id: Cost,
    salt: String,
    keys: Vec<Entry>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    version: u32,
    sealed: String,
}

/// An opened file.
pub struct KekFile {
    path: PathBuf,
    salt: String,
    /// Opens the entries.
    lock: Cipher,
    keys: Mutex<Keys>,
}

/// By version.
type Keys = Vec<(u32, Secret<[u8; 32]>)>;

fn seal(cipher: &Cipher, aad: &[u8], key: &[u8; 32]) -> Vec<u8> {
    let nonce = aead::nonce();
    let mut sealed = nonce.to_vec();
    sealed.extend_from_slice(key);
    cipher.seal(&nonce, aad, &mut sealed, NONCE);
    sealed
}

fn unseal(cipher: &Cipher, aad: &[u8], sealed: &[u8]) -> Option<Secret<[u8; 32]>> {
    let (nonce, body) = sealed.split_first_chunk::<NONCE>()?;
    let opened = Secret::new(cipher.open(nonce, aad, body).ok()?);
    Some(Secret::new(opened.expose().as_slice().try_into().ok()?))
}

fn entry_aad(version: u32) -> Vec<u8> {
    format!("{FORMAT}/1/{version}").into_bytes()
}

/// The key of the passphrase.
fn stretch(passphrase: &str, salt: &[u8], cost: Cost) -> Result<Cipher, String> {
    let within = cost.memory_kib <= MOST.memory_kib
        && cost.passes <= MOST.passes
        && cost.lanes <= MOST.lanes;
    let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32));
    let (true, Ok(params)) = (within, params) else {
        return Err("`argon2id` asks for what Argon2id does not take, or for too much".into());
    };
    let mut key = Secret::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase.as_bytes(), salt, key.expose_mut())
        .map_err(|error| format!("Argon2id: {error}"))?;
    Ok(Cipher::new(derive(key.expose(), &[b"veilstream/v1/kek-file"]).expose()))
}

impl KekFile {
    fn passphrase(told: &config::KekFile, folder: &Path) -> Result<Secret<String>, KekError> {
        let passphrase =
            told.passphrase.read(folder).map_err(|error| KekError::File(error.to_string()))?;
        match passphrase.expose().chars().count() {
            0..12 => Err(KekError::File(
                "`key_store.kek.file.passphrase` has fewer than 12 characters".into(),
            )),
            _ => Ok(passphrase),
        }
    }

    /// Makes a file with one key; one that is there is never overwritten.
    pub fn create(told: &config::KekFile, folder: &Path) -> Result<PathBuf, KekError> {
        let path = folder.join(&told.path);
        let passphrase = KekFile::passphrase(told, folder)?;
        let mut salt = [0; 16];
        rand::Rng::fill_bytes(&mut rand::rng(), &mut salt);
        let lock = stretch(passphrase.expose(), &salt, COST).map_err(KekError::File)?;
        let file = File {
            format: FORMAT.into(),
            version: 1,
            argon2id: COST,
            salt: STANDARD.encode_to_string(salt),
            keys: vec![fresh(&lock, 1)],
        };
        files::create(&path, &print(&file))
            .map_err(|error| KekError::File(format!("{}: {error}", path.display())))?;
        Ok(path)
    }

    pub fn load(told: &config::KekFile, folder: &Path) -> Result<KekFile, KekError> {
        let path = folder.join(&told.path);
        let wrong = |problem: String| KekError::File(format!("{}: {problem}", path.display()));
        let file = read(&path)?;
        let passphrase = KekFile::passphrase(told, folder)?;
        let salt = STANDARD.decode_to_vec(&file.salt);
        let salt = salt.map_err(|_| wrong("`salt` is not base64".into()))?;
        let lock = stretch(passphrase.expose(), &salt, file.argon2id).map_err(wrong)?;
        let keys = Mutex::new(unseal_all(&path, &lock, &file)?);
        Ok(KekFile { path, salt: file.salt, lock, keys })
    }

    /// Changes the file as it is now: another may have changed it since it was loaded.
    fn change<T>(
        &self,
        change: impl FnOnce(&mut File, &Keys) -> Result<T, String>,
    ) -> Result<T, KekError> {
        let wrong = |problem: String| KekError::File(format!("{}: {problem}", self.path.display()));
        let changing = Changing::begin(&self.path).map_err(|error| wrong(error.to_string()))?;
        let mut file = read(&self.path)?;
        if file.salt != self.salt {
            return Err(wrong("was exchanged for another meanwhile".into()));
        }
        let keys = unseal_all(&self.path, &self.lock, &file)?;
        let done = change(&mut file, &keys).map_err(wrong)?;
        changing.replace(&print(&file)).map_err(|error| wrong(error.to_string()))?;
        *locked(&self.keys) = unseal_all(&self.path, &self.lock, &file)?;
        Ok(done)
    }

    fn cipher(&self, wanted: Option<u32>) -> Option<(u32, Cipher)> {
        let keys = locked(&self.keys);
        let found = match wanted {
            Some(wanted) => keys.iter().find(|(version, _)| *version == wanted),
            None => keys.iter().max_by_key(|(version, _)| *version),
        };
        let (version, key) = found?;
        let key = derive(key.expose(), &[b"veilstream/v1/kek"]);
        Some((*version, Cipher::new(key.expose())))
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn fresh(lock: &Cipher, version: u32) -> Entry {
    let key = crate::keys::keyset::random_secret();
    let sealed = seal(lock, &entry_aad(version), key.expose());
    Entry { version, sealed: STANDARD.encode_to_string(sealed) }
}

fn print(file: &File) -> String {
    // Strings and numbers alone: they always serialize.
    let mut text = serde_json::to_string_pretty(file).unwrap_or_default();
    text.push('\n');
    text
}

fn read(path: &Path) -> Result<File, KekError> {
    let wrong = |problem: String| KekError::File(format!("{}: {problem}", path.display()));
    let text = fs::read_to_string(path)
        .map_err(|error| wrong(format!("{error}; make it with `veilstream keys init --config`")))?;
    let file: File = serde_json::from_str(&text).map_err(|error| {
        wrong(format!("line {} column {} is not as expected", error.line(), error.column()))
    })?;
    match file.format == FORMAT && file.version == 1 {
        true => Ok(file),
        false => Err(wrong(format!("expected `format` {FORMAT} and `version` 1"))),
    }
}

fn unseal_all(path: &Path, lock: &Cipher, file: &File) -> Result<Keys, KekError> {
    let wrong = |problem: &str| KekError::File(format!("{}: {problem}", path.display()));
    let mut keys = Keys::new();
    for entry in &file.keys {
        let sealed = STANDARD.decode_to_vec(&entry.sealed).unwrap_or_default();
        let key = unseal(lock, &entry_aad(entry.version), &sealed);
        let problem = "does not open: the passphrase is another, or the file was changed";
        keys.push((entry.version, key.ok_or_else(|| wrong(problem))?));
    }
    match keys.is_empty() {
        true => Err(wrong("has no key")),
        false => Ok(keys),
    }
}

impl Kek for KekFile {
    /// Four bytes of the version, big-endian; nonce, ciphertext and tag.
    fn seal(&self, key: &[u8; 32], context: &str) -> Result<Sealed, KekError> {
        let Some((version, cipher)) = self.cipher(None) else {
            return Err(KekError::File(format!("{}: has no key", self.path.display())));
        };
        let mut bytes = version.to_be_bytes().to_vec();
        bytes.extend(seal(&cipher, context.as_bytes(), key));
        Ok(Sealed { kek: format!("file/{version}"), bytes })
    }

    fn open(&self, sealed: &[u8], context: &str) -> Result<Secret<[u8; 32]>, KekError> {
        let wrong = |problem: String| KekError::File(format!("{}: {problem}", self.path.display()));
        let parts = sealed.split_first_chunk();
        let (version, body) = parts.ok_or_else(|| wrong("a sealed key is cut short".into()))?;
        let version = u32::from_be_bytes(*version);
        let (_, cipher) = self.cipher(Some(version)).ok_or_else(|| {
            wrong(format!("has no key version {version}, which the key store was sealed with"))
        })?;
        unseal(&cipher, context.as_bytes(), body)
            .ok_or_else(|| wrong(format!("version {version} does not open {context}")))
    }

    fn rotate(&self) -> Result<String, KekError> {
        self.change(|file, keys| {
            let version = keys.iter().map(|(version, _)| *version).max().unwrap_or(0) + 1;
            file.keys.push(fresh(&self.lock, version));
            Ok(format!("file/{version}"))
        })
    }

    fn destroy(&self, version: u32) -> Result<(), KekError> {
        self.change(|file, keys| {
            let newest = keys.iter().map(|(version, _)| *version).max();
            if newest == Some(version) {
                return Err("that version seals: rotate first".into());
            }
            let before = file.keys.len();
            file.keys.retain(|entry| entry.version != version);
            if file.keys.len() == before { Err("no such version".into()) } else { Ok(()) }
        })
    }
}
