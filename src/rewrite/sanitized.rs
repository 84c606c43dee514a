//! What leaves the rewrite. The fields are private: nobody else can make one.

use std::sync::Arc;

use super::held::Arrival;
use super::{HEADER_FRAME, POLICY_HEADER, RawRecord, Rewriter, TRACEPARENT};
use crate::policy::{HoldPlan, KeyRule};

/// Why a view did not get an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filtered {
    /// `where` was not true, and the view cannot hold an earlier state of the row.
    Condition,
    /// A logical decoding message: it belongs to no row, so no policy says what it is.
    Message,
    /// A tombstone for a view that publishes no keys.
    NoKey,
    /// A delete, for a view that publishes rows, or a change, for one that counts what is new.
    NoRow,
}

impl Filtered {
    pub fn code(self) -> &'static str {
        match self {
            Filtered::Condition => "condition",
            Filtered::Message => "message",
            Filtered::NoKey => "no_key",
            Filtered::NoRow => "no_row",
        }
    }
}

/// What one view gets of one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    Publish,
    /// The row left the view: a delete without images, and a tombstone behind it where there is a key.
    Leave,
    /// A delete of a row that the view may not show: without images.
    Delete,
    /// A record without value.
    Tombstone,
    /// The row is held until it can be published in a group: [`Rewritten::held`].
    Held,
    Filtered(Filtered),
}

/// The value of a `traceparent` header (W3C Trace Context, version 00): numbers, and no text of anybody's.
#[derive(Clone)]
pub struct TraceParent(String);

impl TraceParent {
    pub fn new(trace: [u8; 16], span: [u8; 8], sampled: bool) -> TraceParent {
        let (trace, span) = (u128::from_be_bytes(trace), u64::from_be_bytes(span));
        TraceParent(format!("00-{trace:032x}-{span:016x}-{:02x}", u8::from(sampled)))
    }
}

/// A record that may be published to a view's topic.
#[derive(Clone, Copy)]
pub struct Sanitized<'a> {
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    label: &'a str,
    trace: Option<&'a TraceParent>,
    kept: &'a [String],
    record: RawRecord<'a>,
}

impl<'a> Sanitized<'a> {
    /// A row that was held.
    pub(super) fn released(value: &'a [u8], label: &'a str) -> Self {
        let record = RawRecord::default();
        Sanitized { key: None, value: Some(value), label, trace: None, kept: &[], record }
    }

    pub fn key(&self) -> Option<&'a [u8]> {
        self.key
    }

    pub fn value(&self) -> Option<&'a [u8]> {
        self.value
    }

    /// The policy's header, that of a trace, then those that the view keeps.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, Option<&'a [u8]>)> {
        let (kept, trace) = (self.kept, self.trace);
        let of_source = self.record.headers.iter().copied();
        let of_source = of_source.filter(move |(name, _)| {
            let ours = *name == POLICY_HEADER || trace.is_some() && *name == TRACEPARENT;
            !ours && kept.iter().any(|kept| kept == name)
        });
        let trace = trace.map(|trace| (TRACEPARENT, Some(trace.0.as_bytes())));
        let label = (POLICY_HEADER, Some(self.label.as_bytes()));
        std::iter::once(label).chain(trace).chain(of_source)
    }

    /// Bytes of key, value and headers, as Kafka's limits count them.
    pub fn size(&self) -> usize {
        let of = |part: Option<&[u8]>| part.map_or(0, <[u8]>::len);
        let headers = self.headers();
        let headers =
            headers.map(|(name, value)| HEADER_FRAME + name.len() + of(value)).sum::<usize>();
        of(self.key) + of(self.value) + headers
    }
}

/// What all views get of one event.
#[derive(Clone, Copy)]
pub struct Rewritten<'r> {
    rewriter: &'r Rewriter,
    record: RawRecord<'r>,
    trace: Option<&'r TraceParent>,
}

impl<'r> Rewritten<'r> {
    pub(super) fn new(rewriter: &'r Rewriter, record: RawRecord<'r>) -> Self {
        Rewritten { rewriter, record, trace: None }
    }

    /// The same, part of a trace.
    pub fn traced(self, trace: Option<&'r TraceParent>) -> Self {
        Rewritten { trace, ..self }
    }

    pub fn dispositions(&self) -> &'r [Disposition] {
        &self.rewriter.dispositions
    }

    /// The records to publish to `view`: none, one, or a delete and its tombstone.
    pub fn records(&self, view: usize) -> impl Iterator<Item = Sanitized<'r>> {
        let rewriter = self.rewriter;
        let key = match (self.record.key, rewriter.plan.views.get(view).map(|view| view.key)) {
            (Some(_), Some(KeyRule::Fields | KeyRule::Tokenize)) => {
                rewriter.keys.get(view).map(|track| track.out.as_slice())
            }
            _ => None,
        };
        let value = rewriter.values.get(view).map(|track| track.out.as_slice());
        let of = |value| Sanitized {
            key,
            value,
            label: &rewriter.plan.label,
            trace: self.trace,
            kept: rewriter.plan.views.get(view).map_or(&[], |view| view.headers.as_slice()),
            record: self.record,
        };
        let (first, second) = match rewriter.dispositions.get(view) {
            Some(Disposition::Publish | Disposition::Delete) => (Some(of(value)), None),
            Some(Disposition::Leave) => (Some(of(value)), key.map(|_| of(None))),
            Some(Disposition::Tombstone) => (Some(of(None)), None),
            Some(Disposition::Held | Disposition::Filtered(_)) | None => (None, None),
        };
        first.into_iter().chain(second)
    }

    /// What `view` is to hold, where it is.
    pub fn held(&self, view: usize) -> Option<(&'r Arc<HoldPlan>, Arrival)> {
        let Rewriter { plan, held, values, label, .. } = self.rewriter;
        let taken = held.iter().find(|taken| taken.view == view)?;
        let text = values.get(view)?.out.as_slice();
        Some((plan.views.get(view)?.holds.as_ref()?, taken.arrival(text, label)))
    }

    /// The most bytes that the row will have, held or published.
    pub fn held_size(&self, view: usize) -> Option<usize> {
        let Rewriter { plan, held, values, label, .. } = self.rewriter;
        held.iter().find(|taken| taken.view == view)?;
        let hold = plan.views.get(view)?.holds.as_ref()?;
        // Keys and frames of the changelog, as well as those of a record.
        let frame = 1024 + label.len();
        Some(values.get(view)?.out.len() + hold.room() + frame)
    }
}
