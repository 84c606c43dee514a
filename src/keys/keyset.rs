//! The keyset file: JSON, readable by its owner alone. `veilstream keys init` makes one.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64_simd::STANDARD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

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
}

/// The mode bits that let others at a file of this owner. What an orchestrator mounts belongs to root, and is read by
/// way of its group.
fn others(owner: u32, user: u32) -> u32 {
    if owner == 0 && user != 0 { 0o037 } else { 0o077 }
}

/// The keys of one file.
#[derive(Debug, Clone, Default)]
pub struct Keyset {
    keys: Vec<(Purpose, Status, DataKey)>,
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
    key: String,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

impl Keyset {
    /// Fresh keys from the operating system's generator, one for each purpose.
    pub fn generate() -> Keyset {
        let keys = Purpose::ALL.map(|purpose| {
            let mut id = [0; 16];
            let mut secret = [0; 32];
            rand::Rng::fill_bytes(&mut rand::rng(), &mut id);
            rand::Rng::fill_bytes(&mut rand::rng(), &mut secret);
            let key = DataKey { id: KeyId(id), version: 1, secret: Secret::new(secret) };
            secret.zeroize();
            (purpose, Status::Primary, key)
        });
        Keyset { keys: keys.into() }
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
        let write = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => KeysetError::Exists { path: path.into() },
            _ => KeysetError::Write { path: path.into(), error },
        };
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(write)?;
        let mut text = self.print();
        let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
        text.zeroize();
        written.map_err(write)
    }

    /// What is in it, without the keys themselves.
    pub fn entries(&self) -> impl Iterator<Item = (Purpose, Status, KeyId, u32)> {
        self.keys.iter().map(|(purpose, status, key)| (*purpose, *status, key.id, key.version))
    }

    fn print(&self) -> String {
        let entries = self.keys.iter().map(|(purpose, status, key)| Entry {
            id: key.id.to_string(),
            purpose: *purpose,
            version: key.version,
            status: *status,
            key: STANDARD.encode_to_string(key.secret.expose()),
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
        let mut keys: Vec<(Purpose, Status, DataKey)> = Vec::new();
        for (number, entry) in file.keys.iter().enumerate() {
            let of = |what: &str| format!("key number {}: {what}", number + 1);
            let id = entry.id.parse().map_err(|()| of("`id` is not 32 hexadecimal digits"))?;
            let mut bytes =
                STANDARD.decode_to_vec(&entry.key).map_err(|_| of("`key` is not base64"))?;
            let secret: Result<[u8; 32], _> = bytes.as_slice().try_into();
            bytes.zeroize();
            let secret = secret.map_err(|_| of("`key` is not 32 bytes"))?;
            let key = DataKey { id, version: entry.version, secret: Secret::new(secret) };
            if keys.iter().any(|(_, _, other)| (other.id, other.version) == (id, entry.version)) {
                return Err(of("the same id and version as another"));
            }
            let primary = |status| status == Status::Primary;
            let twice = keys
                .iter()
                .any(|(purpose, status, _)| *purpose == entry.purpose && primary(*status));
            if primary(entry.status) && twice {
                return Err(of("a second primary key of its purpose"));
            }
            keys.push((entry.purpose, entry.status, key));
        }
        Ok(Keyset { keys })
    }
}

impl KeySource for Keyset {
    fn primary(&self, purpose: Purpose) -> Result<DataKey, KeyError> {
        self.keys
            .iter()
            .find(|(of, status, _)| *of == purpose && *status == Status::Primary)
            .map(|(_, _, key)| key.clone())
            .ok_or(KeyError::NoPrimary(purpose))
    }

    fn find(&self, id: KeyId, version: u32) -> Result<DataKey, KeyError> {
        self.keys
            .iter()
            .find(|(_, status, key)| {
                (key.id, key.version) == (id, version) && *status != Status::Disabled
            })
            .map(|(_, _, key)| key.clone())
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
        for purpose in Purpose::ALL {
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
