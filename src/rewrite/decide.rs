//! Which view gets an event, and in which form: `where`, and what happens when a row leaves a view.

use super::debezium::{Envelope, Met};
use super::failure::{Failure, Reason, Stage};
use super::sanitized::{Disposition, Filtered};
use super::walk::{Captured, Image};
use super::{KeyRule, Rewriter};
use crate::event::debezium::{Operation, UNAVAILABLE};
use crate::policy::{Format, Rule, Unclassified, Verdict};

/// Whether Debezium left the value out: a text, or a list of texts.
fn is_left_out(captured: &Captured) -> bool {
    let text = captured.text.as_str();
    let listed = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    listed.unwrap_or(text).trim() == UNAVAILABLE
}

/// What a field was before the change, where that is told, and once.
fn before(captured: &[Captured], capture: usize) -> Option<&str> {
    let mut told =
        captured.iter().filter(|one| one.image == Image::Before && one.capture == capture);
    match (told.next(), told.next()) {
        (Some(one), None) if one.text != "null" && !is_left_out(one) => Some(&one.text),
        _ => None,
    }
}

impl Rewriter {
    /// What `view`'s condition says of an image; true where there is none.
    fn verdict(&mut self, view: usize, image: Image) -> Verdict {
        let Some(condition) = self.plan.views.get(view).and_then(|view| view.condition.as_ref())
        else {
            return Verdict::True;
        };
        let captured = &self.memory.captured;
        let fields = captured.iter().filter(|captured| captured.image == image);
        let fields = fields.filter_map(|one| {
            let name = self.plan.captures.get(one.capture)?.as_str();
            let read = condition.reads().iter().any(|read| read == name);
            // What was left out because it did not change is in the image before, if anywhere.
            let debezium = self.plan.policy.format == Format::Debezium;
            let text = if debezium && is_left_out(one) {
                before(captured, one.capture)?
            } else {
                &one.text
            };
            read.then_some((name, text))
        });
        let verdict = condition.holds(fields);
        if verdict == Verdict::Error
            && let Some(errors) = self.tally.condition_errors.get_mut(view)
        {
            *errors += 1;
        }
        verdict
    }

    /// Whether `view` counts rows once.
    fn counts_creates(&self, view: usize) -> bool {
        let rule = self.plan.policy.views.get(view).and_then(|view| view.rule.as_ref());
        matches!(rule, Some(Rule::Windows(aggregate)) if aggregate.creates)
    }

    /// Whether `view` holds rows.
    fn holds(&self, view: usize) -> bool {
        self.plan.holding & (1 << view) != 0
    }

    /// Whether `view` gets the keys of keyed records.
    fn has_key(&self, view: usize) -> bool {
        self.plan.views.get(view).is_some_and(|view| view.key != KeyRule::Drop)
    }

    /// A tombstone stays one, where it has a key to speak of.
    pub(super) fn decide_tombstone(&mut self, keyed: bool) {
        for view in 0..self.plan.views.len() {
            self.dispositions.push(match keyed && self.has_key(view) {
                true => Disposition::Tombstone,
                false => Disposition::Filtered(Filtered::NoKey),
            });
        }
    }

    /// A row without an envelope replaces what the view has under its key.
    pub(super) fn decide_row(&mut self, keyed: bool) {
        for view in 0..self.plan.views.len() {
            let has_key = self.has_key(view);
            let disposition = match (self.verdict(view, Image::After), keyed && has_key) {
                (Verdict::True, _) if self.holds(view) => Disposition::Held,
                (Verdict::True, _) => Disposition::Publish,
                (_, true) => Disposition::Tombstone,
                (_, false) => Disposition::Filtered(Filtered::Condition),
            };
            self.dispositions.push(disposition);
        }
    }

    /// The bits of the views that get the event as a delete without images.
    pub(super) fn decide_change(&mut self, envelope: &Envelope) -> Result<u64, Failure> {
        let malformed = || Failure::new(Stage::Decode, Reason::Envelope);
        let operation = match (envelope.operation, envelope.empty) {
            (Some(operation), _) => operation,
            // A schema with a null payload says nothing of anybody.
            (None, true) => Operation::Truncate,
            (None, false) => return Err(malformed().at("(no op)".into())),
        };
        let (before, after) = (envelope.before == Met::Row, envelope.after == Met::Row);
        if operation == Operation::Truncate && (before || after) {
            return Err(malformed().at("(image)".into()));
        }
        match (operation, envelope.after) {
            (Operation::Create | Operation::Read, Met::Absent | Met::Null) => {
                return Err(malformed().at("(no after)".into()));
            }
            (Operation::Message, _)
                if self.plan.policy.unclassified == Unclassified::Quarantine =>
            {
                return Err(
                    Failure::new(Stage::Transform, Reason::Unclassified).at("(message)".into())
                );
            }
            _ => {}
        }
        self.all_available()?;
        let mut leaving = 0;
        for view in 0..self.plan.views.len() {
            let disposition = match operation {
                Operation::Message => Disposition::Filtered(Filtered::Message),
                _ if self.holds(view) => match (operation, after) {
                    (Operation::Truncate | Operation::Delete, _) | (_, false) => {
                        Disposition::Filtered(Filtered::NoRow)
                    }
                    (Operation::Update, _) if self.counts_creates(view) => {
                        Disposition::Filtered(Filtered::NoRow)
                    }
                    _ if self.verdict(view, Image::After) == Verdict::True => Disposition::Held,
                    _ => Disposition::Filtered(Filtered::Condition),
                },
                Operation::Truncate => Disposition::Publish,
                Operation::Create => match self.verdict(view, Image::After) {
                    Verdict::True => Disposition::Publish,
                    _ => Disposition::Filtered(Filtered::Condition),
                },
                // Cassandra's deletes have an image after the change; whatever is there must be for the view.
                Operation::Delete => {
                    let shown = (!before && after
                        || self.verdict(view, Image::Before) == Verdict::True)
                        && (!after || self.verdict(view, Image::After) == Verdict::True);
                    if shown { Disposition::Publish } else { Disposition::Delete }
                }
                // A snapshot reads rows that may have changed while nobody watched.
                Operation::Update | Operation::Read => match self.verdict(view, Image::After) {
                    Verdict::True => Disposition::Publish,
                    _ if self.never_matched(view, envelope) => {
                        Disposition::Filtered(Filtered::Condition)
                    }
                    _ => Disposition::Leave,
                },
            };
            if matches!(disposition, Disposition::Leave | Disposition::Delete) {
                leaving |= 1 << view;
            }
            self.dispositions.push(disposition);
        }
        Ok(leaving)
    }

    /// The image before the change says that the view did not have the row either. It must have all that the
    /// condition reads, once: an image of the key's columns alone (PostgreSQL's replica identity) proves nothing,
    /// whether the others are null in it or absent.
    fn never_matched(&mut self, view: usize, envelope: &Envelope) -> bool {
        let condition = self.plan.views.get(view).and_then(|view| view.condition.as_ref());
        let told = |name: &String| {
            let capture = self.plan.captures.iter().position(|capture| capture == name);
            capture.and_then(|capture| before(&self.memory.captured, capture)).is_some()
        };
        envelope.before == Met::Row
            && condition.is_some_and(|condition| condition.reads().iter().all(told))
            && self.verdict(view, Image::Before) == Verdict::False
    }

    /// Nothing that a condition reads was left out of the event.
    fn all_available(&self) -> Result<(), Failure> {
        let captured = &self.memory.captured;
        let unknown = |one: &&Captured| {
            one.image == Image::After && is_left_out(one) && before(captured, one.capture).is_none()
        };
        match captured.iter().find(unknown) {
            None => Ok(()),
            Some(one) => {
                let path = self.plan.captures.get(one.capture).cloned().unwrap_or_default();
                Err(Failure::new(Stage::Transform, Reason::Unavailable).at(path))
            }
        }
    }

    /// Enters the event into the tally.
    pub(super) fn count(&mut self) {
        self.counted(1);
        self.tally.unclassified += self.memory.unclassified;
    }

    /// Takes it out again.
    pub(super) fn uncount(&mut self) {
        // Two's complement: adding this takes one away.
        self.counted(u64::MAX);
        self.tally.unclassified -= self.memory.unclassified;
    }

    fn counted(&mut self, by: u64) {
        let Rewriter { memory, tally, dispositions, .. } = self;
        if dispositions.iter().all(|disposition| *disposition == Disposition::Publish) {
            tally.count_all(&memory.journal, by);
        } else {
            for (view, disposition) in dispositions.iter().enumerate() {
                match disposition {
                    Disposition::Publish => tally.count(view, &memory.journal, by),
                    Disposition::Held => tally.count(view, &memory.held, by),
                    _ => {}
                }
            }
        }
    }
}
