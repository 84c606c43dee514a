//! Whose row it is, found before the rewrite: the keys of a batch's subjects are had in one query, and the rewrite waits
//! for nothing.

use std::sync::Arc;

use super::walk::Image;
use crate::crypto::ciphertext::SealKey;
use crate::crypto::{SubjectId, SubjectKeys};
use crate::event::debezium::{Part, UNAVAILABLE};
use crate::json::{Bounds, Kind, Scanner, SyntaxError};
use crate::policy::{Format, Plan, Role, SubjectPlan};

/// Something of each image of an event; a plain row is its own `after`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Images<T> {
    pub before: Option<T>,
    pub after: Option<T>,
}

impl<T> Default for Images<T> {
    fn default() -> Self {
        Images { before: None, after: None }
    }
}

impl<T> Images<T> {
    pub fn of(&self, image: Image) -> Option<&T> {
        match image {
            Image::Before => self.before.as_ref(),
            Image::After => self.after.as_ref(),
        }
    }

    pub fn map<U>(self, mut f: impl FnMut(T) -> U) -> Images<U> {
        Images { before: self.before.map(&mut f), after: self.after.map(f) }
    }

    /// Of the row as it is now, or was before it was deleted.
    pub fn newest(&self) -> Option<&T> {
        self.after.as_ref().or(self.before.as_ref())
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.before.iter().chain(&self.after)
    }
}

/// Whose row an image is.
#[derive(Clone, Copy)]
pub struct Whose<'a> {
    pub id: SubjectId,
    /// None where there are no keys of data subjects.
    pub key: Option<&'a Arc<SealKey>>,
}

impl Images<SubjectId> {
    /// With the keys that are at hand.
    pub fn with(self, keys: &SubjectKeys) -> Images<Whose<'_>> {
        self.map(|id| Whose { id, key: keys.keys.get(&id) })
    }
}

/// Looks no further than it has to: what is malformed behind is the rewrite's to find. What is not found, or is no
/// string or number, is none.
pub fn find(plan: &Plan, bounds: Bounds, buffer: &mut String, value: &[u8]) -> Images<SubjectId> {
    let mut found = Images::default();
    let Some(subject) = &plan.subject else { return found };
    let Ok(text) = simdutf8::basic::from_utf8(value) else { return found };
    let mut search = Search { plan, subject, bounds, buffer };
    match plan.policy.format {
        Format::Json => found.after = search.row(text),
        // Cut short by an error, it has what it met until then.
        Format::Debezium => {
            let _ = search.envelope(&mut Scanner::new(text, bounds), &mut found, true);
        }
    }
    found
}

struct Search<'p> {
    plan: &'p Plan,
    subject: &'p SubjectPlan,
    bounds: Bounds,
    buffer: &'p mut String,
}

impl Search<'_> {
    /// The envelope that comes next, or the one in its payload.
    fn envelope(
        &mut self,
        scan: &mut Scanner<'_>,
        found: &mut Images<SubjectId>,
        outermost: bool,
    ) -> Result<(), SyntaxError> {
        let (mut before, mut after) = (false, false);
        scan.expect(b'{')?;
        loop {
            let (name, _) = scan.name()?;
            scan.expect(b':')?;
            let kind = scan.kind()?;
            // The names of the envelope have no need of escapes: one that is written with them is found too late, and
            // what depends on it is quarantined.
            let part = match self.plan.state(self.plan.step(self.plan.envelope, name)).role {
                Role::Part(part) => Some(part),
                _ => None,
            };
            match part {
                // One within another is the rewrite's to refuse.
                Some(Part::Payload) if kind == Kind::Object => {
                    return if outermost { self.envelope(scan, found, false) } else { Ok(()) };
                }
                Some(Part::Before) => {
                    before = true;
                    found.before = self.image(kind, scan);
                }
                Some(Part::After) => {
                    after = true;
                    found.after = self.image(kind, scan);
                }
                _ => {}
            }
            if before && after {
                break;
            }
            scan.pass(kind, 1)?;
            if scan.accept(b'}') {
                break;
            }
            scan.expect(b',')?;
        }
        Ok(())
    }

    /// The image that comes next; it is not passed.
    fn image(&mut self, kind: Kind, scan: &mut Scanner<'_>) -> Option<SubjectId> {
        match kind {
            Kind::Object => self.row(scan.rest()),
            // MongoDB's: the document as JSON in a string.
            Kind::String => {
                let mut buffer = String::new();
                let mut inner = Scanner::new(scan.rest(), self.bounds);
                let document = inner.value().ok()?.characters(&mut buffer);
                self.row(document)
            }
            _ => None,
        }
    }

    /// The subject of the row that `text` begins with.
    fn row(&mut self, text: &str) -> Option<SubjectId> {
        let mut scan = Scanner::new(text, self.bounds);
        let names = self.subject.path.iter();
        for name in names {
            if !enter(&mut scan, name, self.buffer).ok()? {
                return None;
            }
        }
        let value = scan.value().ok()?;
        match value.kind() {
            // What Debezium left out, and no text, are nobody in particular.
            _ if matches!(value.text(), UNAVAILABLE | "\"\"") => None,
            Kind::String | Kind::Number => {
                Some(self.subject.identify(value.characters(self.buffer)))
            }
            _ => None,
        }
    }
}

/// Goes to the value of the first member called `name` of the object that comes next; false where there is none.
fn enter(scan: &mut Scanner<'_>, name: &str, buffer: &mut String) -> Result<bool, SyntaxError> {
    if scan.peek() != b'{' {
        return Ok(false);
    }
    scan.expect(b'{')?;
    if scan.accept(b'}') {
        return Ok(false);
    }
    loop {
        let (raw, escaped) = scan.name()?;
        scan.expect(b':')?;
        let found = match escaped {
            true => {
                Scanner::unescape(raw, buffer);
                buffer.as_str()
            }
            false => raw,
        };
        let kind = scan.kind()?;
        if found == name {
            return Ok(true);
        }
        scan.pass(kind, 1)?;
        if scan.accept(b'}') {
            return Ok(false);
        }
        scan.expect(b',')?;
    }
}
