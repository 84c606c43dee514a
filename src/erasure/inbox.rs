//! Requests by topic, and the list of what is to be done: threads of the worker.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Act, Clerk, EraseError, Outcome, Registry, Wish, Wisher, Worked};
use crate::config::Config;
use crate::kafka::{ClientSettings, Inbox, KafkaProblem, OwnedRecord};
use crate::plans::Plans;
use crate::telemetry::Metrics;

/// How often the list is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// How long a request is waited for before it is looked whether the worker stops.
const WAIT: Duration = Duration::from_millis(500);

/// What the threads stand on.
pub struct Duty {
    pub config: Config,
    pub settings: ClientSettings,
    pub metrics: Arc<Metrics>,
    pub registry: Arc<Registry>,
    pub plans: Box<dyn Fn() -> Arc<Plans> + Send + Sync>,
    pub stopping: Box<dyn Fn() -> bool + Send + Sync>,
}

impl Duty {
    /// Works on the list until the worker stops.
    pub fn finish(&self) {
        let mut next = Instant::now();
        while !(self.stopping)() {
            if Instant::now() >= next {
                self.look();
                next = Instant::now() + LOOK;
            }
            std::thread::sleep(WAIT);
        }
    }

    /// Takes requests in until the worker stops.
    pub fn read(&self, topic: &str) {
        let mut inbox: Option<Inbox> = None;
        while !(self.stopping)() {
            if let Err(error) = self.request(&mut inbox, topic) {
                tracing::error!("requests of erasure are not read: {error}");
                inbox = None;
                std::thread::sleep(WAIT);
            }
        }
    }

    fn counted(&self, outcome: &str) {
        self.metrics.erasures.with_label_values(&[outcome]).inc();
    }

    /// Does one request, if there is one.
    fn request(&self, inbox: &mut Option<Inbox>, topic: &str) -> Result<(), KafkaProblem> {
        let inbox = match inbox {
            Some(inbox) => inbox,
            None => {
                let group = format!("{}-erasure", self.config.kafka.group);
                inbox.insert(Inbox::open(&self.settings, topic, &group)?)
            }
        };
        let Some(record) = inbox.next(WAIT)? else { return Ok(()) };
        match self.ask(topic, &record) {
            Ok(()) => inbox.done(&record),
            Err(error) => {
                tracing::warn!("a request of erasure is tried again: {error}");
                std::thread::sleep(WAIT);
                inbox.again(&record)
            }
        }
    }

    fn ask(&self, topic: &str, record: &OwnedRecord) -> Result<(), EraseError> {
        let at = format!("{topic}/{}/{}", record.partition, record.offset);
        let wish: Option<Wish> =
            record.value.as_deref().and_then(|value| serde_json::from_slice(value).ok());
        let by = Wisher { name: at.clone(), by: "topic" };
        let asked = match &wish {
            None => Err(EraseError::Invalid("no such request".into())),
            Some(wish) => self.registry.ask(Act::Erase, wish, &by),
        };
        match asked {
            Ok(Outcome::Held { receipt }) => {
                tracing::warn!(receipt, at, "somebody is not forgotten: it is held up");
                self.counted("held");
            }
            Ok(outcome) => {
                tracing::info!(receipt = outcome.receipt(), at, "somebody is to be forgotten");
                self.counted("requested");
            }
            // It will be no better the next time.
            Err(EraseError::Invalid(problem)) => {
                tracing::error!(at, "a request of erasure is none: {problem}");
                self.registry.malformed(&at)?;
                self.counted("failed");
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Does what is ripe.
    fn look(&self) {
        let plans = (self.plans)();
        let Some(store) = plans.keys.erasures() else { return };
        match store.unfinished() {
            Ok(0) => return self.metrics.erasures_unfinished.set(0),
            Ok(count) => self.metrics.erasures_unfinished.set(count as i64),
            Err(error) => return tracing::warn!("erasures are not looked after: {error}"),
        }
        let clerk =
            Clerk { config: &self.config, settings: &self.settings, plans: Arc::clone(&plans) };
        match clerk.work(&|_| !(self.stopping)()) {
            Ok(Worked { done, failed, tombstones, .. }) => {
                if done > 0 {
                    tracing::info!(done, tombstones, "erasures are done");
                }
                for (outcome, count) in [("done", done), ("failed", failed)] {
                    let metric = self.metrics.erasures.with_label_values(&[outcome]);
                    metric.inc_by(count as u64);
                }
                if let Ok(left) = store.unfinished() {
                    self.metrics.erasures_unfinished.set(left as i64);
                }
            }
            Err(EraseError::Stopped) => {}
            Err(error) => {
                tracing::error!("erasures could not be finished, and are tried again: {error}");
                self.counted("failed");
            }
        }
    }
}
