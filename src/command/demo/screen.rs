//! What the demo shows: an event before and after, counts, and at the end a summary.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use owo_colors::{OwoColorize, Stream};

use crate::command::preview::{Column, Width, side_by_side};
use crate::rewrite::{Disposition, Failure, RawRecord, Rewritten};
use crate::worker::Observer;

/// Counts what passes, and keeps the latest event.
#[derive(Clone)]
pub struct Screen(Arc<State>);

struct State {
    published: AtomicU64,
    deleted: AtomicU64,
    filtered: AtomicU64,
    quarantined: AtomicU64,
    seen: AtomicU64,
    reasons: Mutex<BTreeMap<String, u64>>,
    sample: Mutex<Option<(String, Vec<Column>)>>,
}

const VIEWS: [&str; 2] = ["analytics", "fraud"];

impl Screen {
    pub fn new() -> Self {
        let zero = || AtomicU64::new(0);
        Screen(Arc::new(State {
            published: zero(),
            deleted: zero(),
            filtered: zero(),
            quarantined: zero(),
            seen: zero(),
            reasons: Mutex::default(),
            sample: Mutex::default(),
        }))
    }

    /// How many raw records were dealt with.
    pub fn seen(&self) -> u64 {
        self.0.seen.load(Ordering::Relaxed)
    }

    fn counts(&self) -> String {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let state = &self.0;
        format!(
            "{} raw events in; over both views {} published, {} deletes and tombstones, {} withheld for want of consent; \
             {} quarantined, encrypted",
            of(&state.seen),
            of(&state.published),
            of(&state.deleted),
            of(&state.filtered),
            of(&state.quarantined)
        )
    }

    /// The latest event and the counts so far.
    pub fn show(&self) {
        let sample = self.0.sample.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((raw, columns)) = sample {
            say!("{}", side_by_side(&raw, &columns, Width::Short));
        }
        say!("{}\n", self.counts().if_supports_color(Stream::Stdout, |text| text.bold()));
    }

    pub fn summary(&self, produced: u64, time: Duration) {
        say!("summary after {:.0} s: {produced} raw events produced", time.as_secs_f64());
        say!("  {}", self.counts());
        for (reason, count) in self.0.reasons.lock().unwrap_or_else(PoisonError::into_inner).iter()
        {
            say!("  quarantined {count:>5}  {reason}");
        }
        say!(
            "  next: veilstream preview config/policies/crm-customers.yaml FILE, or the README for your own Kafka"
        );
    }
}

impl Observer for Screen {
    fn published(&self, raw: &RawRecord<'_>, out: &Rewritten<'_>) {
        let state = &self.0;
        state.seen.fetch_add(1, Ordering::Relaxed);
        for disposition in out.dispositions() {
            let count = match disposition {
                Disposition::Publish => &state.published,
                Disposition::Leave | Disposition::Delete | Disposition::Tombstone => &state.deleted,
                Disposition::Held | Disposition::Filtered(_) => &state.filtered,
            };
            count.fetch_add(1, Ordering::Relaxed);
        }
        let whole = out.dispositions().iter().all(|one| *one == Disposition::Publish);
        let mut sample = state.sample.lock().unwrap_or_else(PoisonError::into_inner);
        if let (true, None, Some(Ok(text))) =
            (whole, sample.as_ref(), raw.value.map(std::str::from_utf8))
        {
            let column = |(view, name): (usize, &&str)| {
                let value = out.records(view).next().and_then(|record| record.value());
                Column::new(name, out.dispositions().get(view).copied(), value)
            };
            *sample = Some((text.to_owned(), VIEWS.iter().enumerate().map(column).collect()));
        }
    }

    fn quarantined(&self, failure: &Failure) {
        self.0.seen.fetch_add(1, Ordering::Relaxed);
        self.0.quarantined.fetch_add(1, Ordering::Relaxed);
        let mut reasons = self.0.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        *reasons.entry(failure.to_string()).or_default() += 1;
    }
}
