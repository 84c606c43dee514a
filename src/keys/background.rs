//! A runtime on a thread of its own, for libraries that need one: lanes are plain threads, and commands have none.

use std::future::Future;
use std::sync::mpsc;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

pub struct Background {
    handle: Handle,
    /// Ends it when it is dropped.
    _until: oneshot::Sender<()>,
}

impl Background {
    pub fn start(name: &str) -> std::io::Result<Background> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (until, ends) = oneshot::channel();
        let thread = std::thread::Builder::new().name(name.into());
        thread.spawn(move || drop(runtime.block_on(ends)))?;
        Ok(Background { handle, _until: until })
    }

    /// For what is made outside of it and belongs to it.
    pub fn enter(&self) -> tokio::runtime::EnterGuard<'_> {
        self.handle.enter()
    }

    /// Waits for `work`, from whatever thread but its own; None where it takes longer than `patience`.
    pub fn wait<T: Send + 'static>(
        &self,
        patience: Duration,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let (tell, told) = mpsc::sync_channel(1);
        self.handle.spawn(async move {
            let _ = tell.send(tokio::time::timeout(patience, work).await.ok());
        });
        told.recv().ok().flatten()
    }
}
