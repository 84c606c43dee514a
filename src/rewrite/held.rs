//! Rows that a view holds until their group is known: sanitized but for their quasi-identifiers, which are left out.
//!
//! A row is made by the rewrite, or comes back out of what was sealed here: who has not the key makes none.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::failure::{Failure, Reason, Stage};
use super::sanitized::{Disposition, Sanitized};
use super::{Image, Rewriter, Side, Walk};
use crate::aggregate::{self, Window};
use crate::crypto::ciphertext::{Place, SealKey, Sealer};
use crate::group::{Group, SensitiveValue, Subject, Value};
use crate::json::{Kind, Scanner, write_string};
use crate::operator::anonymize::{Scale, Taken, Tapped, group_name};
use crate::policy::{Aggregate, Anonymize, HoldPlan, Path, Rule};

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

/// What comes to a view that publishes what many people have in common. Only the rewrite makes one.
pub enum Arrival {
    /// For its groups.
    Row { row: HeldRow, subject: Subject, values: Vec<Value>, sensitive: Vec<SensitiveValue> },
    /// For its windows.
    Record(aggregate::Record),
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
    /// The row as bytes, for the store of rows of this process.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let Self { text, holes, label } = self;
        let sealed = Sealed { beside: &[], text, holes: holes.to_vec(), label };
        // Bytes and numbers: they always serialize.
        postcard::to_allocvec(&sealed).unwrap_or_default()
    }

    /// Out of the store.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<HeldRow> {
        let Sealed { text, holes, label, .. } = postcard::from_bytes(bytes).ok()?;
        Some(HeldRow { text: text.into(), holes: holes.into(), label: label.into() })
    }

    /// The row with the values of its group, written to `out`.
    pub fn release<'r>(
        &'r self,
        scales: &[(Path, Scale)],
        group: &Group,
        out: &'r mut Vec<u8>,
    ) -> Sanitized<'r> {
        out.clear();
        let mut from = 0;
        for (at, field) in &self.holes {
            let (at, field) = (*at as usize, usize::from(*field));
            out.extend_from_slice(self.text.get(from..at).unwrap_or_default());
            from = at;
            match (scales.get(field), group.area.get(field)) {
                (Some((_, scale)), Some(span)) => scale.show(span, out),
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

/// What was taken from a row for one view.
pub(super) struct Held {
    pub(super) view: usize,
    subject: Subject,
    content: Content,
}

enum Content {
    Row { values: Vec<Value>, sensitive: Vec<SensitiveValue>, holes: Vec<(u32, u16)> },
    Record { time: i64, group: Vec<String>, values: Vec<Option<i128>> },
}

/// Puts `value` into its place; where there is one already, the field's number among all is the error.
fn once<T>(places: &mut [Option<T>], field: usize, before: usize, value: T) -> Result<(), usize> {
    match places.get_mut(field).map(|place| place.replace(value)) {
        Some(None) => Ok(()),
        _ => Err(before + field),
    }
}

fn none<T>(count: usize) -> Vec<Option<T>> {
    (0..count).map(|_| None).collect()
}

impl Content {
    fn row(rule: &Anonymize, taps: &[&Tapped]) -> Result<Content, usize> {
        let quasi = rule.quasi_identifiers.len();
        let (mut values, mut seen) = (none(quasi), none(rule.sensitive.len()));
        let mut holes = Vec::with_capacity(quasi);
        for tap in taps {
            match &tap.what {
                Taken::Quasi { hole, value } => {
                    holes.push((*hole as u32, tap.field as u16));
                    once(&mut values, tap.field, 0, *value)?;
                }
                Taken::Sensitive(value) => once(&mut seen, tap.field, quasi, *value)?,
                Taken::Group(_) | Taken::Number(_) | Taken::Time(_) => {}
            }
        }
        let missing = values.iter().position(Option::is_none);
        let missing = missing.or(seen.iter().position(Option::is_none).map(|field| quasi + field));
        match missing {
            Some(missing) => Err(missing),
            None => Ok(Content::Row {
                values: values.into_iter().flatten().collect(),
                sensitive: seen.into_iter().flatten().collect(),
                holes,
            }),
        }
    }

    /// What is missing is as good as null, but for the time.
    fn record(rule: &Aggregate, taps: &[&Tapped], at_ms: Option<i64>) -> Result<Content, usize> {
        let (by, numbers) = (rule.by.len(), rule.numbers.len());
        let (mut group, mut values, mut time) = (none(by), none(numbers), none(1));
        for tap in taps {
            match &tap.what {
                Taken::Group(text) => once(&mut group, tap.field, 0, text.clone())?,
                Taken::Number(number) => once(&mut values, tap.field, by, *number)?,
                Taken::Time(ms) => once(&mut time, tap.field, by + numbers, *ms)?,
                Taken::Quasi { .. } | Taken::Sensitive(_) => {}
            }
        }
        let told = time.into_iter().next().flatten();
        let time = if rule.time.is_some() { told } else { at_ms };
        Ok(Content::Record {
            time: time.ok_or(by + numbers)?,
            group: group.into_iter().map(|word| word.unwrap_or_else(|| "null".into())).collect(),
            values: values.into_iter().map(Option::flatten).collect(),
        })
    }
}

impl Held {
    pub(super) fn arrival(&self, text: &[u8], label: &Arc<str>) -> Arrival {
        let subject = self.subject;
        match &self.content {
            Content::Row { values, sensitive, holes } => {
                let (text, holes, label) =
                    (text.into(), holes.as_slice().into(), Arc::clone(label));
                let row = HeldRow { text, holes, label };
                Arrival::Row { row, subject, values: values.clone(), sensitive: sensitive.clone() }
            }
            Content::Record { time, group, values } => Arrival::Record(aggregate::Record {
                subject,
                time: *time,
                group: group.as_slice().into(),
                values: values.clone(),
            }),
        }
    }
}

/// A row of figures, written to `out`, as the view publishes it.
pub fn figures<'r>(
    plan: &'r HoldPlan,
    rule: &Aggregate,
    window: Window,
    row: &aggregate::Row,
    out: &'r mut Vec<u8>,
) -> Sanitized<'r> {
    begin(window, out);
    for (place, path) in rule.by.iter().enumerate() {
        let value = match &row.group {
            aggregate::Group::Of(values) => values.get(place).map(String::as_str),
            aggregate::Group::Other => None,
        };
        member(&path.to_string(), value.unwrap_or("null"), out);
    }
    if row.group == aggregate::Group::Other {
        member("other", "true", out);
    }
    let mut noise = Vec::new();
    for (name, figure) in rule.figures.iter().zip(&row.figures) {
        member(name, figure.value.as_deref().unwrap_or("null"), out);
        if let Some(used) = &figure.noise {
            let scale =
                used.scale.as_deref().map_or(String::new(), |scale| format!(",\"scale\":{scale}"));
            member(name, &format!("{{\"epsilon\":{}{scale}}}", used.epsilon), &mut noise);
        }
    }
    if let Some((_, first)) = noise.split_first() {
        let text = String::from_utf8_lossy(first);
        member("noise", &format!("{{{text}}}"), out);
    }
    out.push(b'}');
    Sanitized::released(out, &plan.label)
}

/// What stands for a window that is not published, and why.
pub fn withheld<'r>(
    plan: &'r HoldPlan,
    window: Window,
    why: &str,
    until: Option<i64>,
    out: &'r mut Vec<u8>,
) -> Sanitized<'r> {
    begin(window, out);
    member("withheld", &group_name(why), out);
    if let Some(until) = until.and_then(time) {
        member("until", &group_name(&until), out);
    }
    out.push(b'}');
    Sanitized::released(out, &plan.label)
}

fn begin(window: Window, out: &mut Vec<u8>) {
    out.clear();
    out.push(b'{');
    for (name, at) in [("window_start", window.start), ("window_end", window.end)] {
        let text = time(at).map_or_else(|| at.to_string(), |time| group_name(&time));
        member(name, &text, out);
    }
}

/// RFC 3339, in UTC; none for what no calendar has.
fn time(at_ms: i64) -> Option<String> {
    jiff::Timestamp::from_millisecond(at_ms).ok().map(|time| time.to_string())
}

/// Appends a member whose value is JSON text, behind others or as the first.
fn member(name: &str, value: &str, out: &mut Vec<u8>) {
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
    write_string(out, name);
    out.push(b':');
    out.extend_from_slice(value.as_bytes());
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
        if self.plan.holding == 0 {
            return 0;
        }
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
            if memory.left_out & (1 << view) != 0 {
                return Err(Failure::new(Stage::Transform, Reason::Unavailable));
            }
            let taps: Vec<&Tapped> =
                memory.scratch.taps.iter().filter(|tap| tap.view == view).collect();
            let content = match &hold.rule {
                Rule::Groups(rule) => Content::row(rule, &taps),
                Rule::Windows(rule) => Content::record(rule, &taps, memory.scratch.at_ms),
            };
            match content {
                Ok(content) => {
                    let digest = hold.people.digest(&subject.0);
                    let mut subject = [0; 16];
                    subject.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
                    held.push(Held { view, subject, content });
                }
                Err(field) => {
                    let path = hold.rule.paths().get(field).map(ToString::to_string);
                    return Err(fail(Reason::GroupField, path.unwrap_or_default()));
                }
            }
        }
        Ok(())
    }
}
