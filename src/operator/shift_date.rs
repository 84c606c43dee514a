//! `shift_date`: all dates of a person moved by the same number of days.

use std::fmt::Write;
use std::sync::Arc;

use jiff::Span;
use jiff::civil::Date;

use super::decimal::{Decimal, decimal_text};
use super::generalize::{Unit, local_date};
use super::spec::{Example, Family, Gives, Parameter, Spec, Takes};
use super::{Bound, Keyed, Operator, Refusal, Scratch, Site, Treatment, characters};
use crate::crypto::mac::Digester;
use crate::crypto::{KeyError, KeySource, Purpose, SubjectId};
use crate::json::{Kind, Value, write_string};

pub const SPEC: Spec = Spec {
    name: "shift_date",
    family: Family::Perturb,
    summary: "Moves the date by a number of days that is the same for all dates of a data subject in the view, and \
              that nobody can tell without the key: what lies between two dates of one person stays as it is. Time of \
              day and way of writing stay. It takes a `subject` in the policy. What is not a date is quarantined: \
              not_a_date.",
    takes: Takes::Text,
    gives: Gives::Same,
    reversible: false,
    deterministic: true,
    distinct: false,
    of_subject: true,
    parameters: &[
        Parameter {
            name: "days",
            default: "182",
            doc: "by how many days at most, back or forth, 1 to 36500; never by none. `shift_date: 30` for short",
        },
        Parameter {
            name: "unit",
            default: "none",
            doc: "what dates given as JSON numbers count since 1970-01-01 UTC: days, seconds, millis, micros or nanos. \
                  Without it a number is not a date",
        },
    ],
    examples: &[
        Example { policy: "shift_date", input: r#""2024-02-29T23:20:50Z""#, output: "" },
        Example { policy: "shift_date: { days: 30, unit: days }", input: "19782", output: "" },
    ],
    build: |arguments| {
        let most = match arguments.bare("days") {
            None => Some(182),
            Some(word) => {
                let most = word.as_str().parse().ok().filter(|days| (1..=36_500).contains(days));
                if most.is_none() {
                    let found = format!("`{}`", word.as_str());
                    let expected = "a whole number from 1 to 36500 for `days`";
                    arguments.problem(word.span(), found, expected);
                }
                most
            }
        };
        let unit = arguments.scalar("unit");
        let unit = arguments.one_of(unit, Unit::WORDS).map(Unit::of);
        Some(Treatment::Keyed(Arc::new(ShiftDate { most: most?, unit })))
    },
};

struct ShiftDate {
    most: i64,
    unit: Option<Unit>,
}

impl Keyed for ShiftDate {
    fn bind(&self, site: Site<'_>, keys: &dyn KeySource) -> Result<Bound, KeyError> {
        let key = keys.primary(Purpose::Token)?;
        let digester = Digester::new(&key, "shift_date", site.group);
        let shifting = Shifting { digester, most: self.most, unit: self.unit };
        Ok(Bound::with_key(shifting, Purpose::Token, key))
    }
}

struct Shifting {
    digester: Digester,
    most: i64,
    unit: Option<Unit>,
}

impl Shifting {
    /// From `-most` to `most` without 0. Of 2^64 digests, no shift has more than one above another.
    fn days(&self, subject: SubjectId) -> i64 {
        let digest = self.digester.digest(&subject.0);
        let number = digest.first_chunk().map_or(0, |first| u64::from_be_bytes(*first));
        let place = (number % (2 * self.most.unsigned_abs())) as i64;
        if place < self.most { place - self.most } else { place - self.most + 1 }
    }

    /// A number moves exactly, whatever stands behind its point.
    fn number(&self, written: &str, days: i64) -> Option<String> {
        let unit = self.unit?;
        let number = Decimal::parse(written)?;
        let places = number.places();
        let scale = 10_i128.checked_pow(u32::try_from(places).ok()?)?;
        let by = i128::from(days).checked_mul(unit.per_day())?.checked_mul(scale)?;
        // What is no day of the calendar is no date.
        unit.date(written)?;
        Some(decimal_text(number.floor(places)?.checked_add(by)?, places))
    }
}

/// The date that a text begins with, moved; what stands behind it stays.
fn moved(written: &str, days: i64, buffer: &mut String) -> Option<String> {
    let date = local_date(written.trim(), buffer)?;
    let begin = written.len() - written.trim_start().len();
    let (before, rest) = written.split_at_checked(begin)?;
    let (separator, length) = match rest.as_bytes().get(4) {
        Some(separator @ (b'-' | b'/')) => (Some(char::from(*separator)), 10),
        Some(b'0'..=b'9') => (None, 8),
        _ => return None,
    };
    let (day, behind) = rest.split_at_checked(length)?;
    // A year with a sign stands elsewhere, and behind the time anything can stand in brackets.
    let of_date = |byte: u8| byte.is_ascii_digit() || separator.map(|one| one as u8) == Some(byte);
    let of_time = |byte: u8| byte.is_ascii_digit() || b"Tt :.,+-Zz".contains(&byte);
    if !day.bytes().all(of_date) || !behind.trim_end().bytes().all(of_time) {
        return None;
    }
    let date: Date = date.checked_add(Span::new().try_days(days).ok()?).ok()?;
    if !(0..=9999).contains(&date.year()) {
        return None;
    }
    let mut text = before.to_owned();
    let between = separator.map(String::from).unwrap_or_default();
    let (year, month, day) = (date.year(), date.month(), date.day());
    write!(text, "{year:04}{between}{month:02}{between}{day:02}{behind}").ok()?;
    Some(text)
}

impl Operator for Shifting {
    fn apply(
        &self,
        value: &Value<'_>,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let days = self.days(scratch.subject.ok_or(Refusal::Subject)?);
        let Scratch { text, other, .. } = scratch;
        let written = characters(value, text)?;
        match value.kind() {
            Kind::Number => {
                let number = self.number(written, days).ok_or(Refusal::NotADate)?;
                out.extend_from_slice(number.as_bytes());
            }
            _ => write_string(out, &moved(written, days, other).ok_or(Refusal::NotADate)?),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;
    use crate::crypto::{DataKey, KeyId, Secret};

    fn shifting(most: i64, unit: Option<&str>) -> Shifting {
        let key = DataKey { id: KeyId([1; 16]), version: 1, secret: Secret::new([2; 32]) };
        let digester = Digester::new(&key, "shift_date", "crm/fraud");
        Shifting { digester, most, unit: unit.map(Unit::of) }
    }

    fn apply(shifting: &Shifting, subject: Option<u8>, input: &str) -> Result<String, Refusal> {
        let mut scratch =
            Scratch { subject: subject.map(|byte| SubjectId([byte; 16])), ..Scratch::default() };
        let mut out = Vec::new();
        shifting.apply(&Value::parse(input).unwrap(), &mut scratch, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn every_shift_but_none_is_used_and_is_a_persons_own() {
        let shifting = shifting(3, None);
        let all: HashSet<i64> = (0..200).map(|byte| shifting.days(SubjectId([byte; 16]))).collect();
        assert_eq!(all, HashSet::from([-3, -2, -1, 1, 2, 3]));
        let date = r#""2024-03-01""#;
        assert_eq!(apply(&shifting, Some(1), date), apply(&shifting, Some(1), date));
        assert_eq!(apply(&shifting, None, date), Err(Refusal::Subject));
    }

    #[test]
    fn what_lies_between_two_dates_stays_however_they_are_written() {
        for (unit, first, second) in [
            (None, r#""2024-02-28""#, r#""2024/02/28""#),
            (None, r#""20240228""#, r#""20240228T101500Z""#),
            (None, r#""2024-02-28T23:59:59.999+14:00""#, r#"" 2024-02-28 ""#),
            (None, r#""2024-02-28 10:00+02""#, r#""2024\/02\u002f28 10:00""#),
            (Some("days"), "19781", "19781.0"),
            (Some("millis"), "1709078400123", "1.7090784e12"),
            (Some("micros"), "1709078400000000.5", r#""2024-02-28""#),
        ] {
            let shifting = shifting(40, unit);
            let days = shifting.days(SubjectId([9; 16]));
            let expected = Date::constant(2024, 2, 28).checked_add(Span::new().days(days)).unwrap();
            let read = shifting.unit.unwrap_or(Unit::of("days"));
            for input in [first, second] {
                let moved = apply(&shifting, Some(9), input).unwrap();
                let date = match serde_json::from_str::<String>(&moved) {
                    Ok(text) => local_date(text.trim(), &mut String::new()),
                    Err(_) => read.date(&moved),
                };
                assert_eq!(date, Some(expected), "{input} {moved}");
            }
        }
    }

    #[test]
    fn what_is_no_date_or_would_be_none_is_refused() {
        let far = shifting(36_500, None);
        let subject = (0..=255).find(|byte| far.days(SubjectId([*byte; 16])) > 1000).unwrap();
        for input in [r#""9999-12-31""#, r#""""#, r#""1985""#, r#""-000044-03-15""#, "19781"] {
            assert_eq!(apply(&far, Some(subject), input), Err(Refusal::NotADate), "{input}");
        }
        // What stands beside the date must not pass with it.
        let near = shifting(30, None);
        for input in [
            r#""+002024-02-28""#,
            r#""-000001-12-31""#,
            r#""2024-02-28[anne.kretchmar]""#,
            r#""2024-02-28 10:00[Europe/Paris]""#,
            r#""2024-02-28T10:00Z[u-ca=anne]""#,
        ] {
            assert_eq!(apply(&near, Some(1), input), Err(Refusal::NotADate), "{input}");
        }
        assert_eq!(apply(&far, Some(1), "true"), Err(Refusal::WrongType));
        let days = shifting(1, Some("nanos"));
        for input in ["1e400", "99999999999999999999999999999999999999"] {
            assert_eq!(apply(&days, Some(1), input), Err(Refusal::NotADate), "{input}");
        }
    }

    proptest! {
        #[test]
        fn no_text_and_no_number_is_too_odd(text in "\\PC*|[0-9/T:+-]{0,25}", number: f64) {
            let text = serde_json::to_string(&text).unwrap();
            let _ = apply(&shifting(182, None), Some(3), &text);
            if number.is_finite() {
                let _ = apply(&shifting(182, Some("millis")), Some(3), &number.to_string());
            }
        }
    }
}
