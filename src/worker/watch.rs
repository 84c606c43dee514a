//! Tells when policy files change.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

/// Editors write a file in several steps: changes within this time are one.
const SETTLE: Duration = Duration::from_millis(300);

/// Watches the folders of `files`: a ConfigMap or an editor replaces the file itself.
pub struct Watch {
    _watcher: Option<RecommendedWatcher>,
    changes: mpsc::Receiver<()>,
    /// A change has come that has not been told yet.
    pending: bool,
}

impl Watch {
    pub fn new(files: &[PathBuf]) -> Watch {
        let (send, changes) = mpsc::channel(1);
        let names: BTreeSet<OsString> =
            files.iter().filter_map(|file| file.file_name()).map(Into::into).collect();
        // Of a folder's files only ours count, and YAML that may become ours; `..data` is the link that a
        // ConfigMap swaps.
        let ours = move |path: &PathBuf| {
            path.file_name().is_some_and(|name| names.contains(name) || name == "..data")
                || path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml")
        };
        let handler = move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| !event.kind.is_access() && event.paths.iter().any(&ours)) {
                // One waiting change stands for all.
                let _ = send.try_send(());
            }
        };
        let watcher = notify::recommended_watcher(handler).and_then(|mut watcher| {
            let folders: BTreeSet<&Path> = files.iter().filter_map(|file| file.parent()).collect();
            for folder in folders {
                let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
                watcher.watch(folder, RecursiveMode::NonRecursive)?;
            }
            Ok(watcher)
        });
        if let Err(error) = &watcher {
            tracing::warn!(%error, "policy files are not watched; SIGHUP reloads them");
        }
        Watch { _watcher: watcher.ok(), changes, pending: false }
    }

    /// Waits for the next change to settle. Dropped on the way, it loses none.
    pub async fn changed(&mut self) {
        if !self.pending && self.changes.recv().await.is_none() {
            return std::future::pending().await;
        }
        self.pending = true;
        let mut next = async || tokio::time::timeout(SETTLE, self.changes.recv()).await;
        while next().await.is_ok_and(|change| change.is_some()) {}
        self.pending = false;
    }
}
