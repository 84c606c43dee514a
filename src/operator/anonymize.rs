//! What a view that holds records until enough people are alike takes from a row: its quasi-identifiers, whose places
//! stay empty until the group is known, and its sensitive values, which the treatment of their class goes on to treat.

use std::sync::Arc;

use jiff::civil::Date;
use marked_yaml::types::MarkedScalarNode;
use sha2::{Digest, Sha256};

use super::decimal::Decimal;
use super::generalize::{Unit, local_date};
use super::spec::{Family, Gives, Spec, Takes};
use super::{Arguments, Operator, Refusal, Scratch, characters};
use crate::group::{self, Domain, SensitiveValue, Span};
use crate::hierarchy::Hierarchy;
use crate::json::{Kind, Value, write_string};

/// What takes the place of a class's treatment where the field is a quasi-identifier. It is none that a class can have.
pub static QUASI_IDENTIFIER: Spec = taken(
    "anonymize",
    "Publishes what a group of at least k people have in common.",
    Gives::String,
);

/// The same where the field is counted, or says when.
pub static AGGREGATED: Spec =
    taken("aggregate", "Publishes nothing of the value but figures over many.", Gives::Null);

const fn taken(name: &'static str, summary: &'static str, gives: Gives) -> Spec {
    Spec {
        name,
        family: Family::Generalize,
        summary,
        takes: Takes::Scalar,
        gives,
        reversible: false,
        deterministic: false,
        distinct: false,
        of_subject: true,
        parameters: &[],
        examples: &[],
        build: |_| None,
    }
}

/// What the values of a quasi-identifier are among.
#[derive(Clone)]
pub enum Scale {
    /// Words, in ever wider groups; one that is unknown, and null, are in the widest alone.
    Words(Arc<Hierarchy>),
    Numbers(Domain),
    /// Days since 1970-01-01.
    Dates(Domain, Option<Unit>),
}

/// A number is at most so far from zero: beyond, an `f64` has no whole numbers, and is long to write.
const MOST: f64 = 9_007_199_254_740_991.0;
/// The longest text of such a number, its digits behind the point included.
const LONGEST: usize = 345;

impl Scale {
    /// Reads what stands for one quasi-identifier: `hierarchy`, `numbers` or `date`.
    pub fn build(arguments: &mut Arguments<'_>) -> Option<Scale> {
        let kinds = ["hierarchy", "numbers", "date"];
        if let Some(word) = arguments.bare_word(&kinds) {
            return match arguments.one_of(Some(word), &["numbers", "date"])? {
                "numbers" => Some(Scale::Numbers(Domain::Learnt)),
                _ => Some(Scale::Dates(Domain::Learnt, None)),
            };
        }
        let given = kinds.map(|name| arguments.node(name));
        let unit = match given {
            [_, _, Some(_)] => {
                let word = arguments.scalar("unit");
                arguments.one_of(word, Unit::WORDS).map(Unit::of)
            }
            _ => None,
        };
        match given {
            [Some(_), None, None] => {
                let file = arguments.scalar("hierarchy")?;
                arguments.hierarchy(file).map(|read| Scale::Words(Arc::new(read)))
            }
            [None, Some(_), None] => {
                let number = |word: &str| Decimal::parse(word).and(word.parse::<f64>().ok());
                Some(Scale::Numbers(domain(
                    arguments,
                    "numbers",
                    "numbers, such as [0, 120]",
                    number,
                )?))
            }
            [None, None, Some(_)] => {
                let day = |word: &str| word.parse::<Date>().ok().and_then(day_number);
                let expected = "days, such as [1900-01-01, 2029-12-31]";
                Some(Scale::Dates(domain(arguments, "date", expected, day)?, unit))
            }
            _ => {
                arguments.missing(format!("exactly one of {}", kinds.join(", ")));
                None
            }
        }
    }

    pub fn axis(&self) -> group::QuasiIdentifier {
        match self {
            Scale::Words(hierarchy) => group::QuasiIdentifier::Categorical(Arc::clone(hierarchy)),
            Scale::Numbers(domain) | Scale::Dates(domain, _) => {
                group::QuasiIdentifier::Numeric(*domain)
            }
        }
    }

    /// Where a value stands on the scale.
    fn place(&self, value: &Value<'_>, scratch: &mut Scratch) -> Result<group::Value, Refusal> {
        let Scratch { text, other, .. } = scratch;
        match self {
            Scale::Words(hierarchy) => {
                let word = match value.kind() {
                    Kind::String | Kind::Number => characters(value, text)?,
                    _ => value.text(),
                };
                let known = hierarchy.leaf(word).filter(|_| value.kind() != Kind::Null);
                Ok(group::Value::Node(known.unwrap_or(hierarchy.root())))
            }
            Scale::Numbers(domain) => {
                let written = characters(value, text).map_err(|_| Refusal::GroupField)?;
                let number = Decimal::parse(written.trim()).and(written.trim().parse().ok());
                within(domain, number)
            }
            Scale::Dates(domain, unit) => {
                let written = characters(value, text).map_err(|_| Refusal::GroupField)?;
                let date = match value.kind() {
                    Kind::Number => unit.and_then(|unit| unit.date(written)),
                    _ => local_date(written.trim(), other),
                };
                within(domain, date.and_then(day_number))
            }
        }
    }

    /// Appends what is published of a group's side, as JSON text: a word, a number or day where all have the same,
    /// `[35,44]`, or `1980-01-01/1989-12-31` (ISO 8601).
    pub fn show(&self, span: &Span, out: &mut Vec<u8>) {
        let both = |text: &dyn Fn(f64) -> String, ends: [&str; 3]| match span.low == span.high {
            true => text(span.low),
            false => [ends[0], &text(span.low), ends[1], &text(span.high), ends[2]].concat(),
        };
        let text = match self {
            Scale::Words(hierarchy) => {
                return write_string(out, hierarchy.text(crate::hierarchy::Node(span.low as u32)));
            }
            Scale::Numbers(_) => both(&|number| number.to_string(), ["[", ",", "]"]),
            Scale::Dates(..) => both(&day_text, ["", "/", ""]),
        };
        write_string(out, &text);
    }

    /// The most bytes that [`Scale::show`] appends.
    pub fn longest(&self) -> usize {
        match self {
            // Each byte may have to be escaped.
            Scale::Words(hierarchy) => 2 + 6 * hierarchy.longest(),
            Scale::Numbers(_) => 5 + 2 * LONGEST,
            Scale::Dates(..) => 30,
        }
    }
}

/// The two ends of `name`, or what the stream will teach where it says nothing of them.
fn domain(
    arguments: &mut Arguments<'_>,
    name: &'static str,
    expected: &str,
    end: impl Fn(&str) -> Option<f64>,
) -> Option<Domain> {
    let node = arguments.node(name)?;
    let end = |word: &MarkedScalarNode| end(word.as_str()).filter(|end| end.abs() <= MOST);
    let ends = node.as_sequence().and_then(|list| {
        let mut ends = list.iter().map(|node| node.as_scalar().and_then(end));
        match (ends.next(), ends.next(), ends.next()) {
            (Some(Some(least)), Some(Some(most)), None) if least < most => Some((least, most)),
            _ => None,
        }
    });
    let Some((least, most)) = ends else {
        let found = super::shape(node);
        arguments.problem(node.span(), found, format!("the least and the greatest of {expected}"));
        return None;
    };
    Some(Domain::Declared { least, most })
}

fn within(domain: &Domain, number: Option<f64>) -> Result<group::Value, Refusal> {
    let declared = |number: f64| match *domain {
        Domain::Declared { least, most } => (least..=most).contains(&number),
        Domain::Learnt => number.abs() <= MOST,
    };
    let number = number.filter(|number| declared(*number));
    number.map(group::Value::Number).ok_or(Refusal::GroupField)
}

const EPOCH: Date = Date::constant(1970, 1, 1);

fn day_number(date: Date) -> Option<f64> {
    Some(f64::from(EPOCH.until(date).ok()?.get_days()))
}

fn day_text(number: f64) -> String {
    let days = jiff::Span::new().try_days(number as i64);
    let date = days.and_then(|days| EPOCH.checked_add(days));
    // Every number came from a date.
    date.map_or(String::new(), |date| date.to_string())
}

/// What was taken from a row for one view.
pub struct Tapped {
    pub view: usize,
    /// Which of the view's quasi-identifiers, or of its sensitive fields.
    pub field: usize,
    pub what: Taken,
}

pub enum Taken {
    /// `hole` is where it is missing from the output.
    Quasi {
        hole: usize,
        value: group::Value,
    },
    Sensitive(SensitiveValue),
    /// What a row is grouped by, as it is published: a JSON string, or null.
    Group(String),
    /// In units of the last decimal place; none for a null.
    Number(Option<i128>),
    /// In milliseconds since the epoch.
    Time(i64),
}

/// Takes a quasi-identifier out of the row.
pub struct QuasiTap {
    pub view: usize,
    pub field: usize,
    pub scale: Scale,
}

impl Operator for QuasiTap {
    fn apply(
        &self,
        value: &Value<'_>,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let value = self.scale.place(value, scratch)?;
        let what = Taken::Quasi { hole: out.len(), value };
        scratch.taps.push(Tapped { view: self.view, field: self.field, what });
        Ok(())
    }
}

/// What is looked for in a value that is treated as its class says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// How it differs from others before its treatment.
    Sensitive,
    /// What is published of it.
    Group,
}

/// Looks at a value on its way through its treatment.
pub struct LookTap {
    pub view: usize,
    pub field: usize,
    pub look: Look,
    /// None where the value is kept, or is a null that nobody treats.
    pub treatment: Option<(Arc<dyn Operator>, Takes)>,
    pub nulls: bool,
}

impl Operator for LookTap {
    fn apply(
        &self,
        value: &Value<'_>,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let sensitive = (self.look == Look::Sensitive).then(|| sensitive(value, &mut scratch.text));
        let from = out.len();
        self.treat(value, scratch, out)?;
        let what = match sensitive {
            Some(seen) => Taken::Sensitive(seen),
            None => Taken::Group(group_text(out.get(from..).unwrap_or_default())),
        };
        scratch.taps.push(Tapped { view: self.view, field: self.field, what });
        Ok(())
    }
}

impl LookTap {
    fn treat(
        &self,
        value: &Value<'_>,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let null = value.kind() == Kind::Null;
        let Some((operator, takes)) = self.treatment.as_ref().filter(|_| self.nulls || !null)
        else {
            out.extend_from_slice(value.text().as_bytes());
            return Ok(());
        };
        match (takes.takes(value.kind()), null) {
            (true, _) => operator.apply(value, scratch, out),
            (false, true) => operator.apply(&Value::scanned(Kind::String, "\"\""), scratch, out),
            (false, false) => Err(Refusal::WrongType),
        }
    }
}

/// A published value as the name of a group: strings that mean the same are one, and numbers and truth values are strings.
fn group_text(json: &[u8]) -> String {
    let text = String::from_utf8_lossy(json);
    let mut buffer = String::new();
    let word = match Value::parse(&text) {
        Some(value) if value.kind() == Kind::Null => return "null".into(),
        Some(value) if value.kind() == Kind::String => value.characters(&mut buffer),
        _ => &text,
    };
    group_name(word)
}

/// A word as the name of a group.
pub fn group_name(word: &str) -> String {
    let mut out = Vec::new();
    write_string(&mut out, word);
    String::from_utf8_lossy(&out).into_owned()
}

/// Takes a number for sums and the like. Nothing of it is published here.
pub struct NumberTap {
    pub view: usize,
    pub field: usize,
    /// How many decimal places count, and the bounds in units of the last one.
    pub places: u32,
    pub bounds: Option<(i128, i128)>,
}

impl Operator for NumberTap {
    fn apply(
        &self,
        value: &Value<'_>,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let number = match value.kind() {
            Kind::Null => None,
            _ => Some(self.units(&Decimal::of(value, &mut scratch.text)?)?),
        };
        out.extend_from_slice(b"null");
        let what = Taken::Number(number);
        scratch.taps.push(Tapped { view: self.view, field: self.field, what });
        Ok(())
    }
}

/// So many units a number has at most.
const MOST_UNITS: i128 = 1_000_000_000_000_000_000;

impl NumberTap {
    /// Rounded half up to the last place that counts.
    fn units(&self, number: &Decimal) -> Result<i128, Refusal> {
        let tenths = number.floor(i64::from(self.places) + 1).ok_or(Refusal::NotANumber)?;
        let units = (tenths + 5).div_euclid(10);
        match self.bounds {
            Some((least, most)) => Ok(units.clamp(least, most)),
            None if units.abs() <= MOST_UNITS => Ok(units),
            None => Err(Refusal::NotANumber),
        }
    }
}

/// Takes the time that a record is of.
pub struct TimeTap {
    pub view: usize,
    /// What numbers count since 1970-01-01; texts are dates with a time and an offset (RFC 3339), or days in UTC.
    pub unit: Option<Unit>,
}

/// A time is at most so many milliseconds from the epoch.
const FARTHEST_MS: i128 = 1 << 53;

impl Operator for TimeTap {
    fn apply(
        &self,
        value: &Value<'_>,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let written = characters(value, &mut scratch.text).map_err(|_| Refusal::NotADate)?;
        let time = match value.kind() {
            Kind::Number => self.unit.and_then(|unit| {
                let number = Decimal::parse(written)?.floor(9)?;
                let ms_per_day = 86_400_000;
                Some(number.checked_mul(ms_per_day)?.div_euclid(unit.per_day() * 1_000_000_000))
            }),
            _ => {
                let written = written.trim();
                let exact =
                    written.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_millisecond);
                let day = || Some(day_number(written.parse().ok()?)? as i64 * 86_400_000);
                exact.or_else(day).map(i128::from)
            }
        };
        let time =
            time.filter(|time| time.abs() <= FARTHEST_MS).and_then(|time| i64::try_from(time).ok());
        let what = Taken::Time(time.ok_or(Refusal::NotADate)?);
        out.extend_from_slice(b"null");
        scratch.taps.push(Tapped { view: self.view, field: 0, what });
        Ok(())
    }
}

/// A number, or a digest of what else there is: equal where the values are. Not keyed, so that a change of keys does not
/// make one value two.
fn sensitive(value: &Value<'_>, buffer: &mut String) -> SensitiveValue {
    let number = || value.text().parse::<f64>().ok().filter(|number| number.is_finite());
    if value.kind() == Kind::Number
        && let Some(number) = number()
    {
        return SensitiveValue::Number(number);
    }
    let text = match value.kind() {
        Kind::String => value.characters(buffer),
        _ => value.text(),
    };
    // A string and a null of the same letters are two values.
    let digest = Sha256::new().chain_update([value.kind() as u8]).chain_update(text).finalize();
    let digest = digest.first_chunk().map_or(0, |first| u64::from_be_bytes(*first));
    SensitiveValue::Category(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(scale: &Scale, input: &str) -> Result<String, Refusal> {
        let value = Value::parse(input).unwrap();
        let span = match scale.place(&value, &mut Scratch::default())? {
            group::Value::Node(node) => f64::from(node.0),
            group::Value::Number(number) => number,
        };
        let mut out = Vec::new();
        scale.show(&Span { low: span, high: span }, &mut out);
        assert!(out.len() <= scale.longest());
        Ok(String::from_utf8(out).unwrap())
    }

    fn words() -> Scale {
        Scale::Words(Arc::new(Hierarchy::parse(super::super::testing::WORDS).unwrap()))
    }

    #[test]
    fn what_is_alone_is_shown_as_it_is_and_what_is_unknown_as_anything() {
        assert_eq!(placed(&words(), "\"nurse\"").unwrap(), "\"nurse\"");
        for unknown in ["\"Nurse\"", "null", "7", "true", "\"health\""] {
            assert_eq!(placed(&words(), unknown).unwrap(), "\"*\"", "{unknown}");
        }
        let numbers = Scale::Numbers(Domain::Learnt);
        for number in ["37", "\"37\"", "\" 37 \"", "3.7e1", "37.0"] {
            assert_eq!(placed(&numbers, number).unwrap(), "\"37\"", "{number}");
        }
        let dates = Scale::Dates(Domain::Learnt, Some(Unit::of("days")));
        for day in ["5580", "\"1985-04-12\"", "\"1985-04-12T23:59:59-11:00\""] {
            assert_eq!(placed(&dates, day).unwrap(), "\"1985-04-12\"", "{day}");
        }
    }

    #[test]
    fn what_has_no_place_is_refused() {
        let numbers = Scale::Numbers(Domain::Declared { least: 0.0, most: 120.0 });
        for none in ["null", "\"\"", "\"nan\"", "\"inf\"", "-1", "121", "1e400", "true"] {
            assert_eq!(placed(&numbers, none), Err(Refusal::GroupField), "{none}");
        }
        let learnt = Scale::Numbers(Domain::Learnt);
        assert_eq!(placed(&learnt, "1e300"), Err(Refusal::GroupField));
        assert_eq!(placed(&learnt, "1e-300").unwrap().len(), 304);
        let dates = Scale::Dates(Domain::Learnt, None);
        for none in ["null", "5580", "\"1985\"", "\"\""] {
            assert_eq!(placed(&dates, none), Err(Refusal::GroupField), "{none}");
        }
    }

    #[test]
    fn the_ends_of_the_calendar_are_shown() {
        let dates = Scale::Dates(Domain::Learnt, None);
        for day in ["\"9999-12-31\"", "\"-009999-01-01\"", "\"0000-01-01\""] {
            assert_eq!(placed(&dates, day).as_deref(), Ok(day));
        }
        let mut out = Vec::new();
        dates.show(&Span { low: -4_371_953.0, high: 2_932_896.0 }, &mut out);
        assert!(out.len() <= dates.longest());
    }

    #[test]
    fn groups_are_shown_as_ranges() {
        let shown = |scale: &Scale, low, high| {
            let mut out = Vec::new();
            scale.show(&Span { low, high }, &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(shown(&Scale::Numbers(Domain::Learnt), 35.0, 44.5), "\"[35,44.5]\"");
        assert_eq!(
            shown(&Scale::Dates(Domain::Learnt, None), 0.0, 30.0),
            "\"1970-01-01/1970-01-31\""
        );
        assert_eq!(shown(&words(), 0.0, 5.0), "\"*\"");
    }

    #[test]
    fn sensitive_values_are_equal_where_they_mean_the_same() {
        let of = |text: &str| sensitive(&Value::parse(text).unwrap(), &mut String::new());
        assert_eq!(of(r#""a\u0062""#), of(r#""ab""#));
        assert_eq!(of("1.0"), of("1"));
        for (one, other) in [("null", r#""null""#), ("1", r#""1""#), ("true", "false"), ("1", "2")]
        {
            assert_ne!(of(one), of(other), "{one} {other}");
        }
    }
}
