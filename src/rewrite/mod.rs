//! From a raw record and a plan to what each view gets: the only maker of [`Sanitized`].
//!
//! One pass over the bytes serves all views. Nothing here waits, locks or does I/O.

mod debezium;
mod decide;
mod failure;
mod held;
mod sanitized;
mod schema;
mod subject;
mod tally;
mod track;
mod walk;

pub use failure::{Failure, Reason, Stage};
pub use held::{Arrival, HeldRow, figures, withheld};
pub use sanitized::{Disposition, Filtered, Rewritten, Sanitized, TraceParent};
pub use subject::{Images, Whose};
pub use tally::Tally;

use std::sync::Arc;

use crate::crypto::SubjectId;
use crate::json::{Bounds, Scanner};
use crate::policy::{Format, KeyRule, Plan};
use debezium::{Envelope, Form};
use schema::SchemaCache;
use track::{Frame, Track};
use walk::{Image, Memory, Side, Walk};

/// The name of the header that says which policy a record went through.
pub const POLICY_HEADER: &str = "veilstream-policy";

/// The name of the header that carries a trace (W3C Trace Context).
pub const TRACEPARENT: &str = "traceparent";

/// What the wire takes for a record header beside its name and value, at most.
pub const HEADER_FRAME: usize = 10;

/// The name and value of a record header.
pub type Header<'a> = (&'a str, Option<&'a [u8]>);

/// A record as it came from the source topic, with the keys of those it is about. It has no `Debug`: it is customer
/// data.
#[derive(Clone, Copy, Default)]
pub struct RawRecord<'a> {
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: &'a [Header<'a>],
    /// Whose rows its images are, as [`Rewriter::subjects`] says; none where the plan does not ask for it.
    pub subjects: Images<Whose<'a>>,
    /// The record's own, in milliseconds since the epoch.
    pub timestamp_ms: Option<i64>,
}

/// A plan at work, with its buffers. One for each lane and source.
pub struct Rewriter {
    plan: Arc<Plan>,
    bounds: Bounds,
    memory: Memory,
    schemas: SchemaCache,
    values: Vec<Track>,
    keys: Vec<Track>,
    dispositions: Vec<Disposition>,
    /// What views take from this event's row that hold it.
    held: Vec<held::Held>,
    label: Arc<str>,
    tally: Tally,
}

impl Rewriter {
    pub fn new(plan: Arc<Plan>) -> Self {
        let tracks = || plan.views.iter().map(|_| Track::default()).collect();
        Rewriter {
            bounds: Bounds::default(),
            memory: Memory::new(&plan),
            schemas: SchemaCache::default(),
            values: tracks(),
            keys: tracks(),
            dispositions: Vec::new(),
            held: Vec::new(),
            label: plan.label.as_str().into(),
            tally: Tally::new(&plan),
            plan,
        }
    }

    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// What was treated since the last call.
    pub fn take_tally(&mut self) -> Tally {
        std::mem::replace(&mut self.tally, Tally::new(&self.plan))
    }

    /// Takes the last event out of the tally: it was not published after all.
    pub fn discount(&mut self) {
        self.uncount();
    }

    /// After a defect: nothing of the record in work is left, and what was counted before stays.
    pub fn renew(&mut self) {
        let (tally, discovered) = (self.take_tally(), self.take_discovered());
        *self = Rewriter::new(Arc::clone(&self.plan));
        self.tally = tally;
        self.memory.discovered = discovered;
    }

    /// Paths of unclassified fields that were met for the first time since the last call.
    pub fn take_discovered(&mut self) -> Vec<String> {
        std::mem::take(&mut self.memory.discovered)
    }

    /// Whose rows the images of a value are, where the plan asks for it: their keys, if there are any, are to
    /// be had before the record is rewritten.
    pub fn subjects(&mut self, value: Option<&[u8]>) -> Images<SubjectId> {
        let Rewriter { plan, bounds, memory, .. } = self;
        subject::find(plan, *bounds, &mut memory.scratch.other, value.unwrap_or_default())
    }

    /// An event that is no record of Kafka's, without keys of data subjects; `at_ms` is when it happened.
    pub fn event<'a>(&mut self, value: &'a [u8], at_ms: i64) -> RawRecord<'a> {
        let subjects = self.subjects(Some(value)).map(|id| Whose { id, key: None });
        let timestamp_ms = Some(at_ms);
        RawRecord { value: Some(value), subjects, timestamp_ms, ..RawRecord::default() }
    }

    /// Sanitizes one record for all views.
    pub fn rewrite<'r>(&'r mut self, record: &RawRecord<'r>) -> Result<Rewritten<'r>, Failure> {
        self.sanitize(record)?;
        Ok(Rewritten::new(self, *record))
    }

    fn sanitize(&mut self, record: &RawRecord<'_>) -> Result<(), Failure> {
        self.dispositions.clear();
        self.held.clear();
        self.memory.unclassified = 0;
        self.memory.begin(record);
        self.key(record.key)?;
        // The key's fields are the row's again: they count once, and decide nothing.
        self.memory.journal.clear();
        self.memory.captured.clear();
        match record.value {
            None => self.decide_tombstone(record.key.is_some()),
            Some(value) => {
                let text = simdutf8::basic::from_utf8(value)
                    .map_err(|_| Failure::new(Stage::Decode, Reason::InvalidUtf8))?;
                match self.plan.policy.format {
                    Format::Json => self.row(text, record.key.is_some())?,
                    Format::Debezium => self.change(text)?,
                }
            }
        }
        if self.plan.holding != 0 {
            self.take_held()?;
        }
        self.count();
        Ok(())
    }

    fn key(&mut self, key: Option<&[u8]>) -> Result<(), Failure> {
        let Some(key) = key else { return Ok(()) };
        let Rewriter { plan, bounds, memory, schemas, keys, .. } = self;
        let mut fields = 0;
        for (at, (view, track)) in plan.views.iter().zip(keys.iter_mut()).enumerate() {
            track.out.clear();
            match (view.key, &view.tokenizer) {
                (KeyRule::Fields, _) => fields |= 1 << at,
                (_, Some(tokenizer)) => tokenizer.token(key, &mut track.out),
                _ => {}
            }
        }
        if fields == 0 {
            return Ok(());
        }
        let shape = || Failure::new(Stage::Key, Reason::KeyShape);
        let text = std::str::from_utf8(key).map_err(|_| shape())?;
        let mut frame = Frame::new(text, *bounds, keys, fields);
        if frame.scan.peek() != b'{' {
            return Err(shape());
        }
        let mut walk = Walk { plan, memory, side: Side::Key, image: Image::After };
        if schema::is_wrapped(text, *bounds) {
            debezium::wrapped_key(&mut walk, &mut frame, schemas, fields)?;
        } else {
            walk.object(&mut frame, plan.row, fields, 0)?;
        }
        frame.scan.end()?;
        frame.finish();
        Ok(())
    }

    /// A value that is a row itself.
    fn row(&mut self, text: &str, keyed: bool) -> Result<(), Failure> {
        let Rewriter { plan, bounds, memory, values, .. } = self;
        let mut frame = Frame::new(text, *bounds, values, plan.all_views());
        if frame.scan.peek() != b'{' {
            return Err(no_object(text, *bounds));
        }
        let mut walk = Walk { plan, memory, side: Side::Value, image: Image::After };
        walk.enter(Image::After);
        walk.object(&mut frame, plan.row, plan.all_views(), 0)?;
        frame.scan.end()?;
        frame.finish();
        self.decide_row(keyed);
        if self.holding() != 0 {
            self.memory.held.clone_from(&self.memory.journal);
        }
        Ok(())
    }

    /// A value that is a change event.
    fn change(&mut self, text: &str) -> Result<(), Failure> {
        // Rows have no envelope.
        let changes = self.plan.all_views() & !self.plan.holding;
        let envelope = self.walk_envelope(text, changes, Form::Whole)?;
        let leaving = self.decide_change(&envelope)?;
        if leaving != 0 {
            // The second walk, for the few views that the row leaves, must not count its fields again.
            self.walk_envelope(text, leaving, Form::Delete)?;
        }
        let holding = self.holding();
        if holding != 0 {
            let (start, end) = envelope.after_at;
            self.hold_image(text.get(start..end).unwrap_or_default(), holding)?;
        }
        Ok(())
    }

    fn walk_envelope(&mut self, text: &str, mask: u64, form: Form) -> Result<Envelope, Failure> {
        let Rewriter { plan, bounds, memory, schemas, values, .. } = self;
        let mut frame = Frame::new(text, *bounds, values, mask);
        if frame.scan.peek() != b'{' {
            return Err(no_object(text, *bounds));
        }
        let mut walk = Walk { plan, memory, side: Side::Value, image: Image::After };
        let envelope = debezium::envelope(&mut walk, &mut frame, schemas, mask, form)?;
        frame.scan.end()?;
        frame.finish();
        Ok(envelope)
    }
}

/// What is wrong with a value that does not begin as an object.
#[cold]
fn no_object(text: &str, bounds: Bounds) -> Failure {
    let mut scan = Scanner::new(text, bounds);
    match scan.value().and_then(|_| scan.end()) {
        Ok(()) => Failure::new(Stage::Decode, Reason::NotAnObject),
        Err(error) => error.into(),
    }
}
