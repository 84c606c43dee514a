//! The keys of the whole deployment, by purpose and version; and the keyset file: JSON, readable by its owner alone.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64_simd::STANDARD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use super::files::{self, Changing};
use crate::crypto::{DataKey, KeyError, KeyId, KeySource, Purpose, Secret};

const FORMAT: &str = "veilstream-keyset";

/// What a version of a key is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// New values are treated with it; old ones open.
    Primary,
    /// Old values open.
    Enabled,
    /// Nothing opens, for now.
    Disabled,
    /// Nothing opens, for ever: the key is gone.
    Destroyed,
}

impl Status {
    pub const ALL: [Status; 4] =
        [Status::Primary, Status::Enabled, Status::Disabled, Status::Destroyed];

    pub fn name(self) -> &'static str {
        match self {
            Status::Primary => "primary",
            Status::Enabled => "enabled",
            Status::Disabled => "disabled",
            Status::Destroyed => "destroyed",
        }
    }
}

/// Why a key is not changed as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    #[error("there is no key {0} version {1}")]
    Unknown(KeyId, u32),
    #[error("{0} version {1} is the primary key: rotate its purpose first")]
    Primary(KeyId, u32),
    #[error("{0} version {1} is destroyed: it does not come back")]
    Destroyed(KeyId, u32),
    #[error(
        "the `subject` key does not rotate: data subjects are found by it, and under another none would be"
    )]
    Fixed,
}

/// What is wrong with a keyset file. No key is ever part of it.
#[derive(Debug, thiserror::Error)]
pub enum KeysetError {
    #[error("{path}: {error}; make a keyset with `veilstream keys init {path}`")]
    Read { path: PathBuf, error: std::io::Error },
    #[error("{path}: {error}")]
    Write { path: PathBuf, error: std::io::Error },
    #[error(
        "{path} is there already: a keyset is never overwritten, since what it encrypted could not be opened"
    )]
    Exists { path: PathBuf },
    #[error(
        "{path} has the mode {mode:03o}: others can read the keys; 0600 is right, or 0440 where \
         root owns it for the group of an unprivileged worker"
    )]
    Readable { path: PathBuf, mode: u32 },
    #[error("{path} is no keyset: {problem}")]
    Malformed { path: PathBuf, problem: String },
    #[error(transparent)]
    Change(#[from] ChangeError),
}

/// The mode bits that let others at a file of this owner. What an orchestrator mounts belongs to root, and is read by
/// way of its group.
fn others(owner: u32, user: u32) -> u32 {
    if owner == 0 && user != 0 { 0o037 } else { 0o077 }
}

/// One version of a key.
#[derive(Debug, Clone)]
pub struct Key {
    pub purpose: Purpose,
    pub status: Status,
    pub id: KeyId,
    pub version: u32,
    /// None where it is destroyed.
    pub secret: Option<Secret<[u8; 32]>>,
}

impl Key {
    /// A fresh primary key from the operating system's generator.
    fn fresh(purpose: Purpose, id: KeyId, version: u32) -> Key {
        let secret = Some(random_secret());
        Key { purpose, status: Status::Primary, id, version, secret }
    }

    pub fn data_key(&self) -> Option<DataKey> {
        let secret = self.secret.clone()?;
        Some(DataKey { id: self.id, version: self.version, secret })
    }
}

pub(super) fn random_id() -> KeyId {
    let mut id = [0; 16];
    rand::Rng::fill_bytes(&mut rand::rng(), &mut id);
    KeyId(id)
}

pub(super) fn random_secret() -> Secret<[u8; 32]> {
    let mut bytes = [0; 32];
    rand::Rng::fill_bytes(&mut rand::rng(), &mut bytes);
    let secret = Secret::new(bytes);
    bytes.zeroize();
    secret
}

/// The keys of a deployment but those of its data subjects.
#[derive(Debug, Clone, Default)]
pub struct Keyset {
    pub keys: Vec<Key>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: String,
    version: u32,
    keys: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    id: String,
    purpose: Purpose,
    version: u32,
    status: Status,
    /// Empty where it is destroyed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    key: String,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

impl Keyset {
    /// Fresh keys, one for each purpose of a keyset file.
    pub fn generate() -> Keyset {
        Keyset::of(&Purpose::OF_FILE)
    }

    /// Fresh keys, one for each purpose.
    pub fn of(purposes: &[Purpose]) -> Keyset {
        Keyset { keys: purposes.iter().map(|one| Key::fresh(*one, random_id(), 1)).collect() }
    }

    /// A new primary key; the old one still opens what it sealed. The first of its purpose, where there is none.
    pub fn rotate(&mut self, purpose: Purpose) -> Result<&Key, ChangeError> {
        let of = |key: &&mut Key| key.purpose == purpose;
        let newest =
            self.keys.iter().filter(|key| key.purpose == purpose).max_by_key(|key| key.version);
        let (id, version) = newest.map_or((random_id(), 1), |key| (key.id, key.version + 1));
        if purpose == Purpose::Subject && version > 1 {
            return Err(ChangeError::Fixed);
        }
        for key in self.keys.iter_mut().filter(of).filter(|key| key.status == Status::Primary) {
            key.status = Status::Enabled;
        }
        self.keys.push(Key::fresh(purpose, id, version));
        self.keys.last().ok_or(ChangeError::Fixed)
    }

    /// Gives a version that is not primary another status.
    pub fn set(&mut self, id: KeyId, version: u32, status: Status) -> Result<&Key, ChangeError> {
        let found = self.keys.iter_mut().find(|key| (key.id, key.version) == (id, version));
        let key = found.ok_or(ChangeError::Unknown(id, version))?;
        match (key.status, status) {
            (Status::Primary, _) => return Err(ChangeError::Primary(id, version)),
            (Status::Destroyed, to) if to != Status::Destroyed => {
                return Err(ChangeError::Destroyed(id, version));
            }
            _ => {}
        }
        key.status = status;
        if status == Status::Destroyed {
            key.secret = None;
        }
        Ok(key)
    }

    /// Reads a keyset, and refuses one that others can read.
    pub fn load(path: &Path) -> Result<Keyset, KeysetError> {
        let read = |error| KeysetError::Read { path: path.into(), error };
        let mut file = fs::File::open(path).map_err(read)?;
        // Asked of the open file: the one that is read is the one that is checked.
        let metadata = file.metadata().map_err(read)?;
        let mode = metadata.permissions().mode() & 0o777;
        if mode & others(metadata.uid(), rustix::process::geteuid().as_raw()) != 0 {
            return Err(KeysetError::Readable { path: path.into(), mode });
        }
        let mut text = String::new();
        let parsed = file.read_to_string(&mut text).map_err(read).and_then(|_| {
            Keyset::parse(&text)
                .map_err(|problem| KeysetError::Malformed { path: path.into(), problem })
        });
        text.zeroize();
        parsed
    }

    /// Writes a new file with the mode 0600.
    pub fn create(&self, path: &Path) -> Result<(), KeysetError> {
        let mut text = self.print();
        let written = files::create(path, &text);
        text.zeroize();
        written.map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => KeysetError::Exists { path: path.into() },
            _ => KeysetError::Write { path: path.into(), error },
        })
    }

    /// Changes a file: whole or not at all, and nobody else meanwhile.
    pub fn change<T>(
        path: &Path,
        change: impl FnOnce(&mut Keyset) -> Result<T, ChangeError>,
    ) -> Result<T, KeysetError> {
        let write = |error| KeysetError::Write { path: path.into(), error };
        let file = Changing::begin(path)
            .map_err(|error| KeysetError::Read { path: path.into(), error })?;
        let mut keyset = Keyset::load(path)?;
        let done = change(&mut keyset)?;
        let mut text = keyset.print();
        let written = file.replace(&text);
        text.zeroize();
        written.map_err(write)?;
        Ok(done)
    }

    fn print(&self) -> String {
        let text = |secret: &Secret<[u8; 32]>| STANDARD.encode_to_string(secret.expose());
        let entries = self.keys.iter().map(|key| Entry {
            id: key.id.to_string(),
            purpose: key.purpose,
            version: key.version,
            status: key.status,
            key: key.secret.as_ref().map(text).unwrap_or_default(),
        });
        let file = File { format: FORMAT.into(), version: 1, keys: entries.collect() };
        // Strings and numbers alone: they always serialize.
        let mut text = serde_json::to_string_pretty(&file).unwrap_or_default();
        text.push('\n');
        text
    }

    /// The error never quotes the text: serde's messages are cut to their place.
    fn parse(text: &str) -> Result<Keyset, String> {
        let file: File = serde_json::from_str(text).map_err(|error| {
            format!("line {} column {} is not as expected", error.line(), error.column())
        })?;
        if file.format != FORMAT || file.version != 1 {
            return Err(format!("expected `format` {FORMAT} and `version` 1"));
        }
        let mut keys: Vec<Key> = Vec::new();
        for (number, entry) in file.keys.iter().enumerate() {
            let of = |what: &str| format!("key number {}: {what}", number + 1);
            let id = entry.id.parse().map_err(|()| of("`id` is not 32 hexadecimal digits"))?;
            let secret = match entry.status {
                Status::Destroyed => None,
                _ => {
                    let mut bytes = STANDARD
                        .decode_to_vec(&entry.key)
                        .map_err(|_| of("`key` is not base64"))?;
                    let secret: Result<[u8; 32], _> = bytes.as_slice().try_into();
                    bytes.zeroize();
                    Some(Secret::new(secret.map_err(|_| of("`key` is not 32 bytes"))?))
                }
            };
            let Entry { purpose, version, status, .. } = *entry;
            if keys.iter().any(|other| (other.id, other.version) == (id, version)) {
                return Err(of("the same id and version as another"));
            }
            let twice = |other: &Key| other.purpose == purpose && other.status == Status::Primary;
            if status == Status::Primary && keys.iter().any(twice) {
                return Err(of("a second primary key of its purpose"));
            }
            keys.push(Key { purpose, status, id, version, secret });
        }
        Ok(Keyset { keys })
    }
}

impl KeySource for Keyset {
    fn primary(&self, purpose: Purpose) -> Result<DataKey, KeyError> {
        self.keys
            .iter()
            .find(|key| key.purpose == purpose && key.status == Status::Primary)
            .and_then(Key::data_key)
            .ok_or(KeyError::NoPrimary(purpose))
    }

    fn find(&self, id: KeyId, version: u32) -> Result<DataKey, KeyError> {
        self.keys
            .iter()
            .find(|key| (key.id, key.version) == (id, version) && key.status != Status::Disabled)
            .and_then(Key::data_key)
            .ok_or(KeyError::Unknown(id, version))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keyset_is_written_once_for_its_owner_and_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.json");
        let made = Keyset::generate();
        made.create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(made.create(&path), Err(KeysetError::Exists { .. })));
        let read = Keyset::load(&path).unwrap();
        for purpose in Purpose::OF_FILE {
            let (a, b) = (made.primary(purpose).unwrap(), read.primary(purpose).unwrap());
            assert_eq!((a.id, a.version, a.secret.expose()), (b.id, b.version, b.secret.expose()));
            assert_eq!(read.find(a.id, 1).unwrap().secret.expose(), a.secret.expose());
        }
    }

    #[test]
    fn a_keyset_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.json");
        Keyset::generate().create(&path).unwrap();
        for mode in [0o640, 0o604, 0o620] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(Keyset::load(&path), Err(KeysetError::Readable { .. })));
        }
    }

    #[test]
    fn a_mounted_secret_may_be_read_by_way_of_its_group() {
        assert_eq!(0o440 & others(0, 65532), 0);
        for mode in [0o460, 0o444, 0o442, 0o441] {
            assert_ne!(mode & others(0, 65532), 0, "{mode:o}");
        }
        assert_ne!(0o440 & others(0, 0), 0);
        // A person's group is no mount.
        assert_ne!(0o440 & others(1000, 65532), 0);
        assert_ne!(0o440 & others(1000, 0), 0);
    }

    #[test]
    fn no_key_stands_in_a_message() {
        let keyset = Keyset::generate();
        let text = keyset.print();
        let key =
            STANDARD.encode_to_string(keyset.primary(Purpose::Field).unwrap().secret.expose());
        for broken in
            [text.replace("\"key\"", "\"kez\""), text.replace('}', ""), text.replace("==", "")]
        {
            if let Err(problem) = Keyset::parse(&broken) {
                assert!(!problem.contains(key.get(..8).unwrap()), "{problem}");
            }
        }
        assert!(!format!("{keyset:?}").contains(key.get(..8).unwrap()));
    }
}
