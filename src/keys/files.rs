//! Files of keys: written whole or not at all, by one at a time.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.into(),
        _ => ".".into(),
    }
}

fn settle(path: &Path) -> io::Result<()> {
    File::open(folder_of(path))?.sync_all()
}

/// Writes a new file with the mode 0600.
pub fn create(path: &Path, text: &str) -> io::Result<()> {
    write(path, text)?;
    settle(path)
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// A file that is changed: others that would change it wait until it is dropped.
pub struct Changing {
    /// What a link leads to: the link stays.
    path: PathBuf,
    _lock: File,
}

impl Changing {
    pub fn begin(path: &Path) -> io::Result<Changing> {
        let path = fs::canonicalize(path)?;
        let lock = File::open(folder_of(&path))?;
        lock.lock()?;
        Ok(Changing { path, _lock: lock })
    }

    /// Puts another text in its place, for the same owner and with the same mode.
    pub fn replace(&self, text: &str) -> io::Result<()> {
        let old = fs::metadata(&self.path)?;
        let mut new = self.path.clone().into_os_string();
        new.push(".new");
        let new = PathBuf::from(new);
        // What a crash left of an earlier one.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        write(&new, text)?;
        let ours = fs::metadata(&new)?;
        if (old.uid(), old.gid()) != (ours.uid(), ours.gid()) {
            chown(&new, Some(old.uid()), Some(old.gid()))?;
        }
        fs::set_permissions(&new, Permissions::from_mode(old.mode() & 0o7777))?;
        fs::rename(&new, &self.path)?;
        settle(&self.path)
    }
}
