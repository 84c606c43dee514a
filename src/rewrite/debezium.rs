//! Walking Debezium's envelope: images as rows, the transport's parts by their lists, the rest left out.

use super::failure::{Failure, Reason, Stage};
use super::schema::SchemaCache;
use super::track::{Frame, Track};
use super::walk::{Image, Side, Spot, Walk};
use crate::event::debezium::{Operation, Part};
use crate::json::{Kind, write_string};
use crate::policy::Role;

/// How an event is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// With its images.
    Whole,
    /// As a delete without images: the row leaves the view.
    Delete,
}

/// What an image was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Met {
    #[default]
    Absent,
    Null,
    Row,
}

/// What was met on the way through an envelope.
#[derive(Clone, Copy, Debug, Default)]
pub struct Envelope {
    parts: u16,
    pub operation: Option<Operation>,
    pub before: Met,
    pub after: Met,
    /// From where to where the image after the change stands.
    pub after_at: (usize, usize),
    /// A schema with a null for payload.
    pub empty: bool,
}

fn malformed(part: &str) -> Failure {
    Failure::new(Stage::Decode, Reason::Envelope).at(format!("({part})"))
}

/// The envelope that comes next, alone or beside its schema.
pub fn envelope(
    walk: &mut Walk<'_>,
    frame: &mut Frame<'_, '_>,
    schemas: &mut SchemaCache,
    mask: u64,
    form: Form,
) -> Result<Envelope, Failure> {
    let mut found = Envelope::default();
    let mut inner = None;
    walk.members(frame, walk.plan.envelope, mask, 0, |walk, frame, spot, written| {
        match once(walk, spot, &mut found)? {
            Some(Part::Schema) => schema(walk, frame, schemas, spot, written),
            Some(Part::Payload) => {
                frame.want(spot.mask, spot.place, written);
                match frame.scan.kind()? {
                    Kind::Null => {
                        inner = Some(Envelope { empty: true, ..Envelope::default() });
                        Ok(frame.scan.pass(Kind::Null, spot.depth)?)
                    }
                    Kind::Object => {
                        let mut payload = Envelope::default();
                        walk.members(
                            frame,
                            walk.plan.envelope,
                            mask,
                            spot.depth,
                            |walk, frame, spot, written| match once(walk, spot, &mut payload)? {
                                Some(Part::Schema | Part::Payload) => {
                                    Err(malformed("payload in payload"))
                                }
                                part => {
                                    self::part(walk, frame, spot, written, part, form, &mut payload)
                                }
                            },
                        )?;
                        inner = Some(payload);
                        Ok(())
                    }
                    _ => Err(malformed("payload")),
                }
            }
            part => self::part(walk, frame, spot, written, part, form, &mut found),
        }
    })?;
    let outer = found.parts & !(Part::Schema.bit() | Part::Payload.bit());
    match inner {
        // An envelope around an envelope could be read either way.
        Some(_) if outer != 0 => Err(malformed("payload")),
        Some(payload) => Ok(payload),
        None if found.parts & Part::Schema.bit() != 0 => Err(malformed("schema without payload")),
        None => Ok(found),
    }
}

/// The part that `spot` is; an error where it stands for the second time.
#[inline(always)]
fn once(walk: &Walk<'_>, spot: &Spot, found: &mut Envelope) -> Result<Option<Part>, Failure> {
    let Role::Part(part) = walk.plan.state(spot.at).role else { return Ok(None) };
    // The three `ts_` fields share a bit: harmless twice.
    if found.parts & part.bit() != 0 && part != Part::Time {
        return Err(malformed("a part twice"));
    }
    found.parts |= part.bit();
    Ok(Some(part))
}

#[inline(always)]
fn part(
    walk: &mut Walk<'_>,
    frame: &mut Frame<'_, '_>,
    spot: &Spot,
    written: &mut u64,
    part: Option<Part>,
    form: Form,
    found: &mut Envelope,
) -> Result<(), Failure> {
    let kind = frame.scan.kind()?;
    let Some(part) = part else {
        frame.skip(spot.mask, spot.place);
        return Ok(frame.scan.pass(kind, spot.depth)?);
    };
    frame.want(spot.mask, spot.place, written);
    let start = frame.scan.at();
    match (part, kind) {
        (Part::Before | Part::After, _) => {
            let (image, met) = match part {
                Part::Before => (Image::Before, &mut found.before),
                _ => (Image::After, &mut found.after),
            };
            walk.enter(image);
            *met = if kind == Kind::Null { Met::Null } else { Met::Row };
            match (form, kind) {
                (_, Kind::Null) => frame.scan.pass(kind, spot.depth)?,
                (Form::Delete, _) => {
                    frame.scan.pass(kind, spot.depth)?;
                    frame.replace_all(spot.mask, start, frame.scan.at(), b"null");
                }
                (Form::Whole, Kind::Object) => {
                    walk.object(frame, walk.plan.row, spot.mask, spot.depth)?;
                }
                (Form::Whole, Kind::String) => text_image(walk, frame, spot)?,
                _ => return Err(malformed("image")),
            }
            if part == Part::After {
                found.after_at = (start, frame.scan.at());
            }
            Ok(())
        }
        (Part::Operation, Kind::String) => {
            let value = frame.scan.value()?;
            let operation = Operation::parse(value.text()).ok_or_else(|| malformed("op"))?;
            found.operation = Some(operation);
            if form == Form::Delete {
                frame.replace_all(spot.mask, start, frame.scan.at(), b"\"d\"");
            }
            Ok(())
        }
        (Part::Source, Kind::Object) => positional(walk, frame, spot, walk.plan.source),
        (Part::Transaction, Kind::Object) => positional(walk, frame, spot, walk.plan.transaction),
        // Some connectors write times as strings: of digits, or they are no times.
        (Part::Time, Kind::String) => {
            let text = frame.scan.value()?.text();
            let digits = text.bytes().all(|byte| matches!(byte, b'"' | b'.' | b'0'..=b'9'));
            if digits { Ok(()) } else { Err(malformed("time")) }
        }
        (Part::Source | Part::Transaction | Part::Time, Kind::Null)
        | (Part::Time, Kind::Number) => Ok(frame.scan.pass(kind, spot.depth)?),
        _ => Err(malformed("envelope")),
    }
}

/// An object of which the listed scalars go on.
fn positional(
    walk: &mut Walk<'_>,
    frame: &mut Frame<'_, '_>,
    spot: &Spot,
    at: crate::policy::StateId,
) -> Result<(), Failure> {
    walk.members(frame, at, spot.mask, spot.depth, |walk, frame, spot, written| {
        let kind = frame.scan.kind()?;
        let listed = walk.plan.state(spot.at).role == Role::Positional;
        if listed && !matches!(kind, Kind::Object | Kind::Array) {
            frame.want(spot.mask, spot.place, written);
        } else {
            frame.skip(spot.mask, spot.place);
        }
        Ok(frame.scan.pass(kind, spot.depth)?)
    })
    .map(drop)
}

/// MongoDB's image: the document as JSON in a string.
fn text_image(walk: &mut Walk<'_>, frame: &mut Frame<'_, '_>, spot: &Spot) -> Result<(), Failure> {
    let start = frame.scan.at();
    let mut buffer = String::new();
    let document = frame.scan.value()?.characters(&mut buffer);
    let end = frame.scan.at();
    let mut tracks: Vec<Track> = walk.plan.views.iter().map(|_| Track::default()).collect();
    let mut inner = Frame::new(document, frame.scan.bounds(), &mut tracks, spot.mask);
    if inner.scan.peek() != b'{' {
        return Err(malformed("image"));
    }
    walk.object(&mut inner, walk.plan.row, spot.mask, 0)?;
    inner.scan.end()?;
    inner.finish();
    for (view, track) in tracks.iter().enumerate() {
        if spot.mask & (1 << view) != 0 {
            let text = std::str::from_utf8(&track.out)
                .map_err(|_| Failure::new(Stage::Transform, Reason::Internal))?;
            frame.replace(view, start, end, |out| {
                write_string(out, text);
                Ok::<(), Failure>(())
            })?;
        }
    }
    Ok(())
}

/// The embedded schema, as it is of what each view gets.
fn schema(
    walk: &mut Walk<'_>,
    frame: &mut Frame<'_, '_>,
    schemas: &mut SchemaCache,
    spot: &Spot,
    written: &mut u64,
) -> Result<(), Failure> {
    frame.want(spot.mask, spot.place, written);
    let kind = frame.scan.kind()?;
    let start = frame.scan.at();
    if kind == Kind::Null {
        return Ok(frame.scan.pass(kind, spot.depth)?);
    }
    let views = schemas.views(walk.plan, walk.side, &mut frame.scan, spot.depth)?;
    let end = frame.scan.at();
    for (view, text) in views.iter().enumerate() {
        if spot.mask & (1 << view) != 0 {
            frame.replace_all(1 << view, start, end, text.as_bytes());
        }
    }
    Ok(())
}

/// A record key beside its schema.
pub fn wrapped_key(
    walk: &mut Walk<'_>,
    frame: &mut Frame<'_, '_>,
    schemas: &mut SchemaCache,
    mask: u64,
) -> Result<(), Failure> {
    debug_assert_eq!(walk.side, Side::Key);
    let mut found = Envelope::default();
    walk.members(frame, walk.plan.envelope, mask, 0, |walk, frame, spot, written| {
        match once(walk, spot, &mut found)? {
            Some(Part::Schema) => schema(walk, frame, schemas, spot, written),
            Some(Part::Payload) if frame.scan.kind()? == Kind::Object => {
                frame.want(spot.mask, spot.place, written);
                walk.object(frame, walk.plan.row, spot.mask, spot.depth).map(drop)
            }
            _ => Err(Failure::new(Stage::Key, Reason::KeyShape)),
        }
    })
    .map(drop)
}
