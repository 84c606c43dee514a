//! Birth dates as the age, or the range of ages, on the day of the event.

use jiff::civil::Date;
use marked_yaml::Node;

use super::date::{Unit, local_date};
use super::{numbers, unit};
use crate::json::{Kind, Value};
use crate::operator::{Arguments, Operator, Refusal, Scratch, characters};

pub(super) struct Age {
    ranges: Box<dyn Operator>,
    on: Option<Date>,
    unit: Option<Unit>,
}

/// Reads `age`: as `numbers`.
pub(super) fn build(arguments: &mut Arguments<'_>, node: &Node) -> Option<Age> {
    let ranges = numbers::build(arguments, node);
    let on = match arguments.scalar("on") {
        None => None,
        Some(word) => {
            let date = word.as_str().parse::<Date>();
            if date.is_err() {
                let found = format!("`{}`", word.as_str());
                arguments.problem(word.span(), found, "a day for `on`, such as 2026-01-01");
            }
            date.ok()
        }
    };
    let unit = unit(arguments);
    Some(Age { ranges: ranges?, on, unit })
}

/// Whole years from one day to a later one; who is born on February 29 is a year older on March 1 of other years.
fn years(from: Date, to: Date) -> Option<i16> {
    let passed = (to.month(), to.day()) >= (from.month(), from.day());
    let years = to.year() - from.year() - i16::from(!passed);
    (from <= to).then_some(years)
}

impl Operator for Age {
    fn apply(
        &self,
        value: &Value<'_>,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let Scratch { text, other, at_ms, .. } = scratch;
        let written = characters(value, text)?;
        let born = match value.kind() {
            Kind::Number => self.unit.and_then(|unit| unit.date(written)),
            _ => local_date(written.trim(), other),
        };
        let day = |at_ms: i64| Unit::of("millis").date(&at_ms.to_string());
        let on = self.on.or_else(|| at_ms.and_then(day));
        let years = born.zip(on).and_then(|(born, on)| years(born, on));
        let years = years.ok_or(Refusal::NotADate)?.to_string();
        let years = Value::parse(&years).ok_or(Refusal::NotADate)?;
        self.ranges.apply(&years, scratch, out)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{assert_gives, assert_refuses, assert_wrong};
    use super::*;
    use crate::operator::testing;

    #[test]
    fn an_age_is_counted_in_whole_years() {
        assert_gives(
            "generalize: { age: 1, on: 2026-11-26 }",
            &[
                (r#""1985-11-26""#, "41"),
                (r#""1985-11-27""#, "40"),
                (r#""1985-11-25T23:59:59-11:00""#, "41"),
                (r#""2026-11-26""#, "0"),
                (r#""1920/01/01""#, "106"),
            ],
        );
        assert_gives(
            "generalize: { age: [0, 18, 90], on: 2025-02-28, unit: days }",
            &[("13572", "18-89"), (r#""2007-03-01""#, "0-17"), (r#""1935-02-28""#, ">=90")],
        );
        // Born on a leap day.
        assert_gives("generalize: { age: 1, on: 2025-02-28 }", &[(r#""2004-02-29""#, "20")]);
        assert_gives("generalize: { age: 1, on: 2025-03-01 }", &[(r#""2004-02-29""#, "21")]);
    }

    #[test]
    fn it_is_the_age_at_the_time_of_the_event() {
        let operator = testing::read("generalize: { age: 10 }").unwrap();
        let value = Value::parse(r#""1985-04-12""#).unwrap();
        let at = |at_ms| {
            let mut out = Vec::new();
            let mut scratch = Scratch { at_ms, ..Scratch::default() };
            operator.apply(&value, &mut scratch, &mut out)?;
            Ok::<_, Refusal>(String::from_utf8(out).unwrap())
        };
        assert_eq!(at(Some(1_767_225_600_000)).as_deref(), Ok(r#""40-49""#));
        assert_eq!(at(Some(0)), Err(Refusal::NotADate), "not born yet");
        for none in [None, Some(i64::MAX), Some(i64::MIN)] {
            assert_eq!(at(none), Err(Refusal::NotADate));
        }
    }

    #[test]
    fn what_is_no_birth_date_is_refused() {
        let policy = "generalize: { age: 1, on: 2026-11-26 }";
        for input in [r#""2026-11-27""#, r#""""#, r#""1985""#, "5580"] {
            assert_refuses(policy, input, Refusal::NotADate);
        }
        assert_refuses(policy, "true", Refusal::WrongType);
        assert_wrong("generalize: { age: 1, on: today }", "a day for `on`");
        assert_wrong("generalize: { age: old }", "a width above 0");
        assert_wrong("generalize: { date: year, on: 2026-01-01 }", "it goes with `age`");
    }
}
