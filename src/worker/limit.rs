//! Limits of records and bytes a second, shared by the lanes of a worker (`governor`: GCRA).

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, NotUntil, Quota, RateLimiter};

use crate::config::{Limit, Limits};

/// The limits of one source or view.
pub struct Gate {
    /// The source topic or `POLICY/VIEW`, as the configuration has it.
    pub name: String,
    records: Option<DefaultDirectRateLimiter>,
    bytes: Option<(DefaultDirectRateLimiter, NonZeroU32)>,
}

fn wait(until: NotUntil<governor::clock::QuantaInstant>) -> Duration {
    until.wait_time_from(DefaultClock::default().now())
}

impl Gate {
    fn new(name: &str, limit: &Limit) -> Gate {
        let limiter = |rate| RateLimiter::direct(Quota::per_second(rate));
        Gate {
            name: name.to_owned(),
            records: limit.records_per_second.map(limiter),
            bytes: limit.bytes_per_second.map(|rate| (limiter(rate), rate)),
        }
    }

    /// Takes one record, or says how long to wait.
    pub fn record(&self) -> Result<(), Duration> {
        self.records.as_ref().map_or(Ok(()), |limiter| limiter.check().map_err(wait))
    }

    /// Takes so many bytes, or says how long to wait. A record larger than a second's worth takes a second's
    /// worth.
    pub fn bytes(&self, bytes: usize) -> Result<(), Duration> {
        let Some((limiter, rate)) = &self.bytes else { return Ok(()) };
        let cells = u32::try_from(bytes).unwrap_or(u32::MAX).clamp(1, rate.get());
        let cells = NonZeroU32::new(cells).unwrap_or(NonZeroU32::MIN);
        // More than the burst never fits; it was clamped to the burst.
        limiter.check_n(cells).unwrap_or(Ok(())).map_err(wait)
    }
}

/// All limits of a worker.
#[derive(Default)]
pub struct Gates {
    sources: BTreeMap<String, Arc<Gate>>,
    views: BTreeMap<String, Arc<Gate>>,
}

impl Gates {
    pub fn new(limits: &Limits) -> Gates {
        let gate =
            |(name, limit): (&String, &Limit)| (name.clone(), Arc::new(Gate::new(name, limit)));
        Gates {
            sources: limits.sources.iter().map(gate).collect(),
            views: limits.views.iter().map(gate).collect(),
        }
    }

    pub fn source(&self, topic: &str) -> Option<Arc<Gate>> {
        self.sources.get(topic).cloned()
    }

    pub fn view(&self, policy: &str, view: &str) -> Option<Arc<Gate>> {
        self.views.get(&format!("{policy}/{view}")).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holds_so_many_records_and_bytes() {
        let limit = |records, bytes| Limit {
            records_per_second: NonZeroU32::new(records),
            bytes_per_second: NonZeroU32::new(bytes),
        };
        let gates = Gates::new(&Limits {
            sources: [("t".into(), limit(3, 0))].into(),
            views: [("p/v".into(), limit(0, 100))].into(),
        });
        let source = gates.source("t").unwrap();
        assert!((0..3).all(|_| source.record().is_ok() && source.bytes(1_000_000).is_ok()));
        assert!(source.record().unwrap_err() <= Duration::from_secs(1));
        let view = gates.view("p", "v").unwrap();
        assert!(view.bytes(1_000_000).is_ok(), "a huge record takes one second's worth");
        assert!(view.bytes(1).is_err() && view.record().is_ok());
        assert!(gates.source("other").is_none() && gates.view("p", "w").is_none());
    }
}
