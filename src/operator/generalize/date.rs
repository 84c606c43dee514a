//! Dates as the year, month or other period that they lie in.

use std::fmt::Write;

use jiff::Span;
use jiff::civil::Date;
use jiff::fmt::temporal::Pieces;

use crate::json::{Kind, Value, write_string};
use crate::operator::decimal::Decimal;
use crate::operator::{Operator, Refusal, Scratch, characters};

/// What of a date is left.
#[derive(Clone, Copy)]
pub(super) enum Period {
    Week,
    Month,
    Quarter,
    Year,
    Decade,
}

impl Period {
    pub(super) const WORDS: &[&str] = &["year", "quarter", "month", "week", "decade"];

    pub(super) fn of(word: &str) -> Self {
        match word {
            "week" => Period::Week,
            "month" => Period::Month,
            "quarter" => Period::Quarter,
            "decade" => Period::Decade,
            _ => Period::Year,
        }
    }

    /// The first day of the period around `date`; none where no calendar has it.
    fn start(self, date: Date) -> Option<Date> {
        match self {
            Period::Week => Some(date.iso_week_date().first_of_week().ok()?.date()),
            Period::Month => Some(date.first_of_month()),
            Period::Quarter => Date::new(date.year(), quarter(date) * 3 - 2, 1).ok(),
            Period::Year => Some(date.first_of_year()),
            Period::Decade => Date::new(decade(date), 1, 1).ok(),
        }
    }

    /// Appends the name of the period around `date`, ISO 8601 where it has one.
    fn name(self, date: Date, out: &mut String) {
        // Writing to a `String` cannot fail.
        let _ = match self {
            Period::Week => {
                let week = date.iso_week_date();
                write!(out, "{}-W{:02}", Year(week.year()), week.week())
            }
            Period::Month => write!(out, "{}-{:02}", Year(date.year()), date.month()),
            Period::Quarter => write!(out, "{}-Q{}", Year(date.year()), quarter(date)),
            Period::Year => Year(date.year()).write(out),
            Period::Decade => write!(out, "{}s", Year(decade(date))),
        };
    }
}

fn quarter(date: Date) -> i8 {
    (date.month() + 2) / 3
}

fn decade(date: Date) -> i16 {
    date.year() - date.year().rem_euclid(10)
}

/// A year of ISO 8601: four digits, and six with a sign before the year 0.
struct Year(i16);

impl Year {
    /// As `write!`, quicker for most.
    fn write(&self, out: &mut String) -> std::fmt::Result {
        let year = match u16::try_from(self.0) {
            Ok(year @ 0..=9999) => year,
            _ => return write!(out, "{self}"),
        };
        for digit in [year / 1000, year / 100 % 10, year / 10 % 10, year % 10] {
            out.push(char::from(b'0' + digit as u8));
        }
        Ok(())
    }
}

impl std::fmt::Display for Year {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0 < 0 { write!(f, "{:07}", self.0) } else { write!(f, "{:04}", self.0) }
    }
}

/// What a number counts from 1970-01-01, as Debezium and others write dates.
#[derive(Clone, Copy)]
pub struct Unit {
    per_day: i128,
}

impl Unit {
    pub(crate) const WORDS: &[&str] = &["days", "seconds", "millis", "micros", "nanos"];

    pub(crate) fn of(word: &str) -> Self {
        let per_day = match word {
            "seconds" => 86_400,
            "millis" => 86_400_000,
            "micros" => 86_400_000_000,
            "nanos" => 86_400_000_000_000,
            _ => 1,
        };
        Unit { per_day }
    }

    pub(in crate::operator) fn per_day(self) -> i128 {
        self.per_day
    }

    /// The day in UTC.
    pub(in crate::operator) fn date(self, number: &str) -> Option<Date> {
        let number = Decimal::parse(number)?.floor(0)?;
        let days = i64::try_from(number.div_euclid(self.per_day)).ok()?;
        Date::constant(1970, 1, 1).checked_add(Span::new().try_days(days).ok()?).ok()
    }
}

pub(super) struct DatePeriod {
    pub(super) period: Period,
    /// Gives the first day in place of the name.
    pub(super) start: bool,
    pub(super) unit: Option<Unit>,
}

impl Operator for DatePeriod {
    fn apply(
        &self,
        value: &Value<'_>,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let Scratch { text, other, .. } = scratch;
        let written = characters(value, text)?;
        let date = match value.kind() {
            Kind::Number => self.unit.and_then(|unit| unit.date(written)),
            _ => local_date(written.trim(), other),
        };
        let date = date.ok_or(Refusal::NotADate)?;
        other.clear();
        if self.start {
            let start = self.period.start(date).ok_or(Refusal::NotADate)?;
            // Writing to a `String` cannot fail.
            let _ = write!(other, "{start}");
        } else {
            self.period.name(date, other);
        }
        write_string(out, other);
        Ok(())
    }
}

/// The date of an ISO 8601 date or date-time as it is written, wherever its offset or zone would move it.
pub(crate) fn local_date(written: &str, buffer: &mut String) -> Option<Date> {
    if let Some(date) = plain_date(written.as_bytes()) {
        return Some(date);
    }
    let is_slash = |at| written.as_bytes().get(at) == Some(&b'/');
    if !(is_slash(4) && is_slash(7)) {
        return Some(Pieces::parse(written).ok()?.date());
    }
    // `1985/04/12` and what follows: a zone may have a slash too.
    buffer.clear();
    buffer.extend(written.char_indices().map(|(at, character)| match at {
        4 | 7 => '-',
        _ => character,
    }));
    Some(Pieces::parse(buffer.as_str()).ok()?.date())
}

/// `1985-04-12` and nothing else: what most dates are, and quickly read.
fn plain_date(written: &[u8]) -> Option<Date> {
    let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = *written else { return None };
    let number = |digits: &[u8]| {
        digits.iter().try_fold(0_i16, |number, digit| {
            digit.is_ascii_digit().then(|| number * 10 + i16::from(digit - b'0'))
        })
    };
    let (month, day) = (number(&[m1, m2])? as i8, number(&[d1, d2])? as i8);
    Date::new(number(&[y1, y2, y3, y4])?, month, day).ok()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{apply, assert_gives, assert_refuses, assert_wrong};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn periods_have_names_and_starts() {
        for (period, name, start) in [
            ("year", "1985", "1985-01-01"),
            ("quarter", "1985-Q2", "1985-04-01"),
            ("month", "1985-04", "1985-04-01"),
            ("week", "1985-W15", "1985-04-08"),
            ("decade", "1980s", "1980-01-01"),
        ] {
            let input = r#""1985-04-12""#;
            assert_gives(&format!("generalize: {{ date: {period} }}"), &[(input, name)]);
            assert_gives(&format!("generalize: {{ date: {period}, as: short }}"), &[(input, name)]);
            assert_gives(
                &format!("generalize: {{ date: {period}, as: start }}"),
                &[(input, start)],
            );
        }
        assert_gives("generalize: { date: year, as: start }", &[(r#""2076-07-15""#, "2076-01-01")]);
        // The ISO year of the week is not that of the day.
        assert_gives("generalize: { date: week }", &[(r#""2021-01-03""#, "2020-W53")]);
        assert_gives("generalize: { date: quarter }", &[(r#""2021-12-31""#, "2021-Q4")]);
    }

    #[test]
    fn texts_are_read_as_written() {
        for text in [
            "1985-04-12",
            " 1985-04-12 ",
            "1985/04/12",
            "19850412",
            "1985-04-12T23:59:59Z",
            "1985-04-12T23:59:59.999-11:00",
            "1985-04-12 00:00:00+14:00",
            "1985-04-12T00:00",
            "1985-04-12T00:00:00.000+0000",
            "1985-04-12t00:00:00z",
            "1985/04/12 10:00:00",
            "1985-04-12T10:00:00+02:00[Europe/Paris]",
            "1985/04/12 10:00[Europe/Paris]",
            "19850412T100000Z",
            "1985-04-12 10:00:00.123456789+02",
        ] {
            let input = serde_json::to_string(text).unwrap();
            assert_eq!(apply("generalize: { date: week }", &input).unwrap(), "1985-W15", "{text}");
        }
        assert_gives("generalize: { date: year }", &[(r#""1985\/04\u002f12""#, "1985")]);
    }

    #[test]
    fn numbers_count_their_unit() {
        let first = |unit: &str| format!("generalize: {{ date: month, as: start, unit: {unit} }}");
        assert_gives(
            &first("days"),
            &[("5580", "1985-04-01"), ("0", "1970-01-01"), ("-1", "1969-12-01")],
        );
        assert_gives(&first("seconds"), &[("482112000", "1985-04-01"), ("-1", "1969-12-01")]);
        assert_gives(
            &first("millis"),
            &[("482112000000", "1985-04-01"), ("4.82112e11", "1985-04-01")],
        );
        assert_gives(
            &first("micros"),
            &[("482112000000000", "1985-04-01"), ("-0.5", "1969-12-01")],
        );
        assert_gives(&first("nanos"), &[("482112000000000000", "1985-04-01")]);
        // A text stays a text.
        assert_gives(&first("days"), &[(r#""19850412""#, "1985-04-01")]);
    }

    #[test]
    fn what_is_no_date_is_refused() {
        for text in [
            "",
            "a",
            "张伟",
            "1985",
            "1985-04",
            "1985-13-01",
            "1985-02-30",
            "12/04/1985",
            "12.04.1985",
            "1985/04-12",
            "1985-04-12 or so",
            "١٩٨٥-٠٤-١٢",
            "1985-04-12T25:00",
            "1985é04é12",
        ] {
            let input = serde_json::to_string(text).unwrap();
            assert_refuses("generalize: { date: year }", &input, Refusal::NotADate);
        }
        assert_refuses("generalize: { date: year }", "19850412", Refusal::NotADate);
        assert_refuses("generalize: { date: year }", "{}", Refusal::WrongType);
        for number in ["99999999999999999999", "-99999999999999999999", "1e400", "7304485"] {
            assert_refuses("generalize: { date: year, unit: days }", number, Refusal::NotADate);
        }
    }

    #[test]
    fn the_ends_of_the_calendar_do_not_panic() {
        for period in Period::WORDS {
            for way in ["short", "start"] {
                for text in [r#""9999-12-31""#, r#""-009999-01-01""#, r#""0000-01-01""#] {
                    let _ = apply(&format!("generalize: {{ date: {period}, as: {way} }}"), text);
                }
            }
        }
        assert_gives("generalize: { date: year }", &[(r#""-000044-03-15""#, "-000044")]);
        assert_gives("generalize: { date: decade }", &[(r#""-000044-03-15""#, "-000050s")]);
    }

    #[test]
    fn mistakes_are_reported() {
        assert_wrong("generalize: { date: yaer }", "one of year, quarter");
        assert_wrong("generalize: { date: year, as: first }", "one of short, start");
        assert_wrong("generalize: { date: year, unit: hours }", "one of days, seconds");
        assert_wrong("generalize: { date: [year] }", "one value for `date`");
    }

    proptest! {
        #[test]
        fn any_number_is_a_date_or_refused(number: i64, text in "\\PC*|[0-9/T:+-]{0,25}") {
            for unit in Unit::WORDS {
                let policy = format!("generalize: {{ date: week, as: start, unit: {unit} }}");
                let _ = apply(&policy, &number.to_string());
            }
            let _ = apply("generalize: { date: week }", &serde_json::to_string(&text).unwrap());
        }
    }
}
