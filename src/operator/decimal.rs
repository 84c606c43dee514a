//! Decimal numbers as they are written: of any length, compared exactly.

use std::cmp::Ordering;

use super::{Refusal, characters};
use crate::json::Value;

/// A number out of text. It is compared digit by digit, so that neither 64-bit integers nor long decimals
/// lose any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decimal {
    negative: bool,
    /// The digits without zeros at either end; none for 0.
    digits: Vec<u8>,
    /// The value is `0.DIGITS` times ten to the power of this.
    point: i64,
}

/// Longer ones do not surely fit into an `i128`.
const MOST_DIGITS: usize = 38;

impl Decimal {
    /// Reads a JSON number, or what a person may write in its place: `+5`, `007`, `.5`, spaces around it.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let negative = text.starts_with('-');
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, power(exponent)?),
            None => (unsigned, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all = || whole.bytes().chain(fraction.bytes());
        if all().next().is_none() || !all().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let zeros = all().take_while(|byte| *byte == b'0').count();
        let mut digits: Vec<u8> = all().skip(zeros).collect();
        let behind = digits.iter().rev().take_while(|byte| **byte == b'0').count();
        digits.truncate(digits.len().saturating_sub(behind));
        if digits.is_empty() {
            return Some(Decimal { negative: false, digits, point: 0 });
        }
        let point = i64::try_from(whole.len()).ok()?.checked_sub(i64::try_from(zeros).ok()?)?;
        Some(Decimal { negative, digits, point: point.saturating_add(exponent) })
    }

    /// The number that a JSON value is, or its text.
    pub fn of(value: &Value<'_>, buffer: &mut String) -> Result<Self, Refusal> {
        Decimal::parse(characters(value, buffer)?).ok_or(Refusal::NotANumber)
    }

    pub fn is_positive(&self) -> bool {
        !self.negative && !self.digits.is_empty()
    }

    pub fn is_integer(&self) -> bool {
        self.places() == 0
    }

    /// How many digits stand behind the point.
    pub fn places(&self) -> i64 {
        i64::try_from(self.digits.len()).unwrap_or(i64::MAX).saturating_sub(self.point).max(0)
    }

    /// How many digits stand before the point.
    pub fn size(&self) -> i64 {
        self.point.max(0)
    }

    /// The number, if it is an integer.
    pub fn integer(&self) -> Option<i128> {
        if self.is_integer() { self.floor(0) } else { None }
    }

    /// The largest integer that is not above the number times ten to the power of `places`; none where it
    /// is too long.
    pub fn floor(&self, places: i64) -> Option<i128> {
        if self.digits.is_empty() {
            return Some(0);
        }
        let length = usize::try_from(self.point.saturating_add(places).max(0)).ok()?;
        if length > MOST_DIGITS {
            return None;
        }
        let digits = self.digits.iter().copied().chain(std::iter::repeat(b'0')).take(length);
        let magnitude = digits.fold(0_i128, |sum, digit| sum * 10 + i128::from(digit - b'0'));
        let cut = self.digits.len() > length;
        Some(if self.negative { -magnitude - i128::from(cut) } else { magnitude })
    }
}

/// The exponent. One that is too long is as good as any very large one.
fn power(text: &str) -> Option<i64> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let size = digits.parse().unwrap_or(i64::MAX / 2);
    Some(if text.starts_with('-') { -size } else { size })
}

/// `units` with a point before its last `places` digits, and no zeros behind it.
pub fn decimal_text(units: i128, places: impl TryInto<usize>) -> String {
    let places = places.try_into().unwrap_or(0);
    let sign = if units < 0 { "-" } else { "" };
    let digits = format!("{:0>1$}", units.unsigned_abs(), places + 1);
    let (whole, fraction) = digits.split_at(digits.len().saturating_sub(places));
    match fraction.trim_end_matches('0') {
        "" => format!("{sign}{whole}"),
        fraction => format!("{sign}{whole}.{fraction}"),
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        let sign = |number: &Decimal| match (number.digits.is_empty(), number.negative) {
            (true, _) => 0,
            (false, false) => 1,
            (false, true) => -1,
        };
        // Without zeros in front, the number with the higher point is the larger; without zeros behind,
        // digits compare as text does.
        let size = || self.point.cmp(&other.point).then_with(|| self.digits.cmp(&other.digits));
        sign(self)
            .cmp(&sign(other))
            .then_with(|| if self.negative { size().reverse() } else { size() })
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decimal(text: &str) -> Decimal {
        Decimal::parse(text).unwrap()
    }

    #[test]
    fn numbers_are_read() {
        for (text, floor) in [
            ("0", 0),
            ("-0", 0),
            ("0.0e5", 0),
            ("12.50", 12),
            ("-12.50", -13),
            ("+5", 5),
            ("007", 7),
            (".5", 0),
            ("-.5", -1),
            ("5.", 5),
            (" 1e3 ", 1000),
            ("1E-3", 0),
            ("-1e-99999999999999999999", -1),
            ("0.00123e5", 123),
            ("99999999999999999999", 99_999_999_999_999_999_999),
        ] {
            assert_eq!(decimal(text).floor(0), Some(floor), "{text}");
        }
        assert_eq!(decimal("-0.125").floor(2), Some(-13));
        assert_eq!(decimal("1e99999999999999999999").floor(0), None);
    }

    #[test]
    fn other_texts_are_not_numbers() {
        for text in [
            "", " ", "-", ".", "e5", "1e", "1e+", "1,000", "1 000", "٣", "NaN", "0x1", "--1",
            "1.2.3",
        ] {
            assert_eq!(Decimal::parse(text), None, "{text}");
        }
    }

    #[test]
    fn they_compare_exactly() {
        assert!(decimal("9223372036854775807") < decimal("9223372036854775808"));
        assert!(decimal("0.1") < decimal("0.10000000000000000000000000001"));
        assert!(decimal("-2") < decimal("-1.5"));
        assert!(decimal("-1e-9") < decimal("0"));
        assert!(decimal("1e99999999999999999999") > decimal("1e400"));
        assert_eq!(decimal("1.50e1"), decimal("015"));
    }

    proptest! {
        #[test]
        fn integers_keep_their_order(one: i64, other: i64) {
            let (left, right) = (decimal(&one.to_string()), decimal(&other.to_string()));
            prop_assert_eq!(left.cmp(&right), one.cmp(&other));
            prop_assert_eq!(left.integer(), Some(i128::from(one)));
        }

        #[test]
        fn nothing_panics(text in "\\PC*|[+-]?[0-9.]{0,50}([eE][+-]?[0-9]{0,25})?", places in 0_i64..19) {
            if let Some(number) = Decimal::parse(&text) {
                let _ = (number.floor(places), number.integer(), number.cmp(&decimal("1")));
            }
        }
    }
}
