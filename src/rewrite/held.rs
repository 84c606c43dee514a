//! Rows that a view holds until their group is known: sanitized but for their quasi-identifiers, which are left out.
//!
//! A row is made by the rewrite, or comes back out of what was sealed here: who has not the key makes none.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::failure::{Failure, Reason, Stage};
use super::sanitized::{Disposition, Sanitized};
use super::{Image, Rewriter, Side, Walk};
use crate::crypto::ciphertext::{Place, SealKey, Sealer};
use crate::group::{Group, SensitiveValue, Subject, Value};
use crate::json::{Kind, Scanner};
use crate::operator::anonymize::{Scale, Taken, Tapped};
use crate::policy::HoldPlan;

/// Separates these ciphertexts from all others, and from those of another layout.
const DOMAIN: &str = "veilstream/held/1";

/// A sanitized row without its quasi-identifiers. It has no `Debug`: the audience has not got it yet.
#[derive(Clone, PartialEq)]
pub struct HeldRow {
    text: Box<[u8]>,
    /// Where they are missing, in the order of the text, and which.
    holes: Box<[(u32, u16)]>,
    /// The policy that it went through.
    label: Arc<str>,
}

/// What comes to a view that holds rows.
pub struct Arrival {
    pub row: HeldRow,
    pub subject: Subject,
    pub values: Vec<Value>,
    pub sensitive: Vec<SensitiveValue>,
}

/// A row as it is sealed, with what belongs to it.
#[derive(Serialize, Deserialize)]
struct Sealed<'a> {
    beside: &'a [u8],
    text: &'a [u8],
    holes: Vec<(u32, u16)>,
    label: &'a str,
}

impl HeldRow {
    /// Bytes of the row.
    pub fn size(&self) -> usize {
        self.text.len()
    }

    /// The row with the values of its group, written to `out`.
    pub fn release<'r>(
        &'r self,
        plan: &HoldPlan,
        group: &Group,
        out: &'r mut Vec<u8>,
    ) -> Sanitized<'r> {
        out.clear();
        let mut from = 0;
        for (at, field) in &self.holes {
            let (at, field) = (*at as usize, usize::from(*field));
            out.extend_from_slice(self.text.get(from..at).unwrap_or_default());
            from = at;
            let scale: Option<&Scale> =
                plan.anonymize.quasi_identifiers.get(field).map(|(_, scale)| scale);
            match (scale, group.area.get(field)) {
                (Some(scale), Some(span)) => scale.show(span, out),
                _ => out.extend_from_slice(b"null"),
            }
        }
        out.extend_from_slice(self.text.get(from..).unwrap_or_default());
        Sanitized::released(out, &self.label)
    }

    /// The row, and what the caller wants `beside` it, under a key of the deployment and bound to `place`.
    pub fn seal(&self, key: &Arc<SealKey>, place: &str, beside: &[u8]) -> Vec<u8> {
        let Self { text, holes, label } = self;
        let sealed = Sealed { beside, text, holes: holes.to_vec(), label };
        // Bytes and numbers: they always serialize.
        let plaintext = zeroize::Zeroizing::new(postcard::to_allocvec(&sealed).unwrap_or_default());
        let mut out = Vec::new();
        Sealer::with(Arc::clone(key), Place::new(DOMAIN, place)).seal(&plaintext, &mut out);
        out
    }

    /// The row and what is beside it; none where it was not sealed with this key and for this place.
    pub fn open(key: &SealKey, place: &str, sealed: &[u8]) -> Option<(HeldRow, Vec<u8>)> {
        let plaintext = key.open(&Place::new(DOMAIN, place), sealed).ok()?;
        let Sealed { beside, text, holes, label } =
            postcard::from_bytes(plaintext.expose()).ok()?;
        let row = HeldRow { text: text.into(), holes: holes.into(), label: label.into() };
        Some((row, beside.to_vec()))
    }
}

/// What was taken from a row for one view, in order.
pub(super) struct Held {
    pub(super) view: usize,
    subject: Subject,
    values: Vec<Value>,
    sensitive: Vec<SensitiveValue>,
    holes: Vec<(u32, u16)>,
}

impl Held {
    fn new(plan: &HoldPlan, view: usize, subject: Subject, taps: &[Tapped]) -> Result<Held, usize> {
        let (quasi, sensitive) =
            (plan.anonymize.quasi_identifiers.len(), plan.anonymize.sensitive.len());
        let mut values: Vec<Option<Value>> = vec![None; quasi];
        let mut seen: Vec<Option<SensitiveValue>> = vec![None; sensitive];
        let mut holes = Vec::with_capacity(quasi);
        for tap in taps.iter().filter(|tap| tap.view == view) {
            let again = match &tap.what {
                Taken::Quasi { hole, value } => {
                    holes.push((*hole as u32, tap.field as u16));
                    values.get_mut(tap.field).and_then(|known| known.replace(*value)).is_some()
                }
                Taken::Sensitive(value) => {
                    seen.get_mut(tap.field).and_then(|known| known.replace(*value)).is_some()
                }
            };
            if again {
                let before = if matches!(tap.what, Taken::Sensitive(_)) { quasi } else { 0 };
                return Err(before + tap.field);
            }
        }
        if let Some(missing) = values.iter().position(Option::is_none) {
            return Err(missing);
        }
        if let Some(missing) = seen.iter().position(Option::is_none) {
            return Err(quasi + missing);
        }
        let (values, sensitive) =
            (values.into_iter().flatten().collect(), seen.into_iter().flatten().collect());
        Ok(Held { view, subject, values, sensitive, holes })
    }

    pub(super) fn arrival(&self, text: &[u8], label: &Arc<str>) -> Arrival {
        let row = HeldRow {
            text: text.into(),
            holes: self.holes.as_slice().into(),
            label: Arc::clone(label),
        };
        let (values, sensitive) = (self.values.clone(), self.sensitive.clone());
        Arrival { row, subject: self.subject, values, sensitive }
    }
}

impl Rewriter {
    /// The row that comes after the change, as the views that hold it see it.
    pub(super) fn hold_image(&mut self, image: &str, mask: u64) -> Result<(), Failure> {
        let Rewriter { plan, bounds, memory, values, .. } = self;
        let mut buffer = String::new();
        let mut scan = Scanner::new(image, *bounds);
        // MongoDB's: the document as JSON in a string.
        let document = match scan.kind()? {
            Kind::String => scan.value()?.characters(&mut buffer),
            _ => image,
        };
        // What it meets has been met before, and counts once.
        let (met, captured) = (std::mem::take(&mut memory.journal), memory.captured.len());
        let unclassified = memory.unclassified;
        let mut frame = super::Frame::new(document, *bounds, values, mask);
        let mut walk = Walk { plan, memory, side: Side::Value, image: Image::After };
        walk.enter(Image::After);
        walk.object(&mut frame, plan.row, mask, 0)?;
        frame.scan.end()?;
        frame.finish();
        memory.held = std::mem::replace(&mut memory.journal, met);
        memory.captured.truncate(captured);
        memory.unclassified = unclassified;
        Ok(())
    }

    /// The views that are to hold the row.
    pub(super) fn holding(&self) -> u64 {
        let held = self.dispositions.iter().enumerate();
        let held = held.filter(|(_, disposition)| **disposition == Disposition::Held);
        held.fold(0, |all, (view, _)| all | 1 << view)
    }

    /// Sees to it that the views that hold the row have all they need of it.
    pub(super) fn take_held(&mut self) -> Result<(), Failure> {
        let Rewriter { plan, memory, dispositions, held, .. } = self;
        for (view, disposition) in dispositions.iter().enumerate() {
            let Some(hold) = plan.views.get(view).and_then(|view| view.holds.as_ref()) else {
                continue;
            };
            if *disposition != Disposition::Held {
                continue;
            }
            let fail = |reason, path: String| Failure::new(Stage::Transform, reason).at(path);
            let Some(subject) = memory.after() else {
                let path = plan.policy.subject.as_ref().map(ToString::to_string);
                return Err(fail(Reason::Subject, path.unwrap_or_default()));
            };
            match Held::new(hold, view, subject.0, &memory.scratch.taps) {
                Ok(taken) => held.push(taken),
                Err(field) => {
                    let path = hold.anonymize.paths().nth(field).map(ToString::to_string);
                    return Err(fail(Reason::QuasiIdentifier, path.unwrap_or_default()));
                }
            }
        }
        Ok(())
    }
}
