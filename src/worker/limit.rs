//! Limits of records and bytes a second, shared by the lanes of a worker (`governor`: GCRA).

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use crate::config::{Limit, Limits};

/// One source's or view's limits.
struct Gate {
    records: Option<DefaultDirectRateLimiter>,
    bytes: Option<(DefaultDirectRateLimiter, NonZeroU32)>,
}

impl Gate {
    fn new(limit: &Limit) -> Gate {
        let limiter = |rate| RateLimiter::direct(Quota::per_second(rate));
        Gate {
            records: limit.records_per_second.map(limiter),
            bytes: limit.bytes_per_second.map(|rate| (limiter(rate), rate)),
        }
    }

    /// Takes one record of `bytes`, or says how long to wait.
    fn take(&self, bytes: usize) -> Result<(), Duration> {
        let wait =
            |until: governor::NotUntil<_>| until.wait_time_from(DefaultClock::default().now());
        if let Some(records) = &self.records {
            records.check().map_err(wait)?;
        }
        if let Some((limiter, rate)) = &self.bytes {
            // A record larger than a second's worth takes a second's worth.
            let cells = u32::try_from(bytes).unwrap_or(u32::MAX).clamp(1, rate.get());
            let cells = NonZeroU32::new(cells).unwrap_or(NonZeroU32::MIN);
            // More than the burst never fits; it was clamped to the burst.
            limiter.check_n(cells).unwrap_or(Ok(())).map_err(wait)?;
        }
        Ok(())
    }
}

/// All limits of a worker.
#[derive(Default)]
pub struct Gates {
    sources: BTreeMap<String, Gate>,
    views: BTreeMap<String, Gate>,
}

/// A limit was reached.
#[derive(Debug, PartialEq, Eq)]
pub struct Wait {
    /// The source topic or `POLICY/VIEW`, as the configuration has it.
    pub limit: String,
    pub time: Duration,
}

impl Gates {
    pub fn new(limits: &Limits) -> Gates {
        let gates = |limits: &BTreeMap<String, Limit>| {
            limits.iter().map(|(name, limit)| (name.clone(), Gate::new(limit))).collect()
        };
        Gates { sources: gates(&limits.sources), views: gates(&limits.views) }
    }

    pub fn is_empty(&self) -> bool {
        self.sources.is_empty() && self.views.is_empty()
    }

    pub fn source(&self, topic: &str, bytes: usize) -> Result<(), Wait> {
        Self::take(&self.sources, topic, bytes)
    }

    pub fn view(&self, policy: &str, view: &str, bytes: usize) -> Result<(), Wait> {
        if self.views.is_empty() {
            return Ok(());
        }
        Self::take(&self.views, &format!("{policy}/{view}"), bytes)
    }

    fn take(gates: &BTreeMap<String, Gate>, name: &str, bytes: usize) -> Result<(), Wait> {
        match gates.get(name) {
            Some(gate) => gate.take(bytes).map_err(|time| Wait { limit: name.to_owned(), time }),
            None => Ok(()),
        }
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
        let limits = Limits {
            sources: [("t".into(), limit(3, 0))].into(),
            views: [("p/v".into(), limit(0, 100))].into(),
        };
        let gates = Gates::new(&limits);
        assert!((0..3).all(|_| gates.source("t", 10).is_ok()));
        let wait = gates.source("t", 10).unwrap_err();
        assert!(wait.limit == "t" && wait.time <= Duration::from_secs(1));
        assert!(gates.view("p", "v", 1_000_000).is_ok(), "a huge record takes one second's worth");
        assert!(gates.view("p", "v", 1).is_err());
        assert!(gates.source("other", 10).is_ok());
    }
}
