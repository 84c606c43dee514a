//! Audit events of those who are no lane: commands, and who asks over HTTP.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::client::ClientSettings;
use super::producer::{Sink, SinkError};
use super::source::Positions;
use crate::audit::{AuditRecord, Auditor};

const PATIENCE: Duration = Duration::from_secs(30);

/// Writes audit events one by one: each is with the broker when its call returns.
pub struct Trail {
    settings: ClientSettings,
    topic: String,
    /// Who writes, as `lane` of the events.
    name: String,
    open: Mutex<Option<(Sink, Auditor)>>,
}

impl Trail {
    /// Nothing is asked of the broker until there is something to write.
    pub fn new(settings: &ClientSettings, topic: &str, name: &str) -> Trail {
        Trail {
            settings: settings.clone(),
            topic: topic.to_owned(),
            name: name.to_owned(),
            open: Mutex::default(),
        }
    }

    /// It waits for the broker. After an error the next event begins a trail of its own, with its own numbers.
    pub fn write(&self, make: impl FnOnce(&mut Auditor) -> AuditRecord) -> Result<(), SinkError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut sink, mut auditor) = match open.take() {
            Some(there) => there,
            None => {
                let sink = Sink::open(&self.settings, None, PATIENCE, Arc::default())?;
                let name = format!("{}-{:012x}", self.name, rand::random::<u64>() >> 16);
                (sink, Auditor::new(name))
            }
        };
        sink.begin()?;
        sink.audit(&self.topic, &make(&mut auditor))?;
        sink.commit(&Positions::default(), None)?;
        *open = Some((sink, auditor));
        Ok(())
    }
}
