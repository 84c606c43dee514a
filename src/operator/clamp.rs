//! `clamp`: top and bottom coding. Extreme values single people out.

use std::sync::Arc;

use super::decimal::{Decimal, decimal_text};
use super::spec::{Example, Family, Gives, Parameter, Spec, Takes};
use super::{Arguments, Operator, Refusal, Scratch, Treatment};
use crate::json::{Kind, Value, write_string};

pub const SPEC: Spec = Spec {
    name: "clamp",
    family: Family::Generalize,
    summary: "Top and bottom coding: a number above `max` becomes `max`, one below `min` becomes `min`, and all others \
              pass. Of the oldest and the richest, who are few, nothing is told but that. What is not a number is \
              quarantined: not_a_number.",
    takes: Takes::Text,
    gives: Gives::Same,
    reversible: false,
    deterministic: true,
    distinct: false,
    of_subject: false,
    parameters: &[
        Parameter { name: "min", default: "none", doc: "the smallest number that is told" },
        Parameter { name: "max", default: "none", doc: "the largest number that is told" },
    ],
    examples: &[
        Example { policy: "clamp: { max: 90 }", input: "97", output: "90" },
        Example { policy: "clamp: { min: 18, max: 90 }", input: r#""7.5""#, output: r#""18""# },
        Example { policy: "clamp: { max: 90 }", input: "42.50", output: "42.50" },
    ],
    build: |arguments| {
        let bounds = Bounds::read(arguments);
        if ["min", "max"].iter().all(|name| arguments.node(name).is_none()) {
            arguments.missing("one of min, max: `clamp: { max: 90 }`");
            return None;
        }
        Some(Treatment::Plain(Arc::new(bounds)))
    },
};

/// The ends of what is told.
pub(super) struct Bounds {
    pub(super) min: Option<Bound>,
    pub(super) max: Option<Bound>,
}

/// A number of the policy, and how it is written.
pub(super) struct Bound {
    pub(super) number: Decimal,
    pub(super) text: String,
}

/// Digits before and behind the point that a number of the policy has, at most.
pub(super) const DIGITS: i64 = 15;

impl Bounds {
    /// Reads `min` and `max`.
    pub(super) fn read(arguments: &mut Arguments<'_>) -> Bounds {
        let [min, max] = ["min", "max"].map(|name| {
            let number = arguments.decimal(name, DIGITS)?;
            let text = decimal_text(number.floor(number.places())?, number.places());
            Some(Bound { number, text })
        });
        if let (Some(low), Some(high)) = (&min, &max)
            && low.number >= high.number
        {
            arguments.missing("a `max` above `min`");
        }
        Bounds { min, max }
    }

    /// The end that a number lies beyond.
    pub(super) fn beyond(&self, number: &Decimal) -> Option<&Bound> {
        let below = self.min.as_ref().filter(|min| *number < min.number);
        below.or_else(|| self.max.as_ref().filter(|max| *number > max.number))
    }
}

impl Operator for Bounds {
    fn apply(
        &self,
        value: &Value<'_>,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let number = Decimal::of(value, &mut scratch.text)?;
        match (self.beyond(&number), value.kind()) {
            (None, _) => out.extend_from_slice(value.text().as_bytes()),
            (Some(end), Kind::Number) => out.extend_from_slice(end.text.as_bytes()),
            (Some(end), _) => write_string(out, &end.text),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{apply, read};
    use super::*;

    #[test]
    fn extremes_become_the_ends() {
        for (input, output) in [
            ("0", "0.5"),
            ("-99999999999999999999", "0.5"),
            ("0.5", "0.5"),
            ("0.50", "0.50"),
            ("1e2", "1e2"),
            ("100.0000000000000000000001", "100"),
            ("1e400", "100"),
            ("\" 1000 \"", "\"100\""),
            ("\" 99 \"", "\" 99 \""),
        ] {
            let policy = "clamp: { min: 0.5, max: 100 }";
            assert_eq!(apply(policy, input).as_deref(), Ok(output), "{input}");
        }
        assert_eq!(apply("clamp: { min: -5e1 }", "-50.1").as_deref(), Ok("-50"));
        assert_eq!(apply("clamp: { max: 1 }", "\"old\""), Err(Refusal::NotANumber));
        assert_eq!(apply("clamp: { max: 1 }", "true"), Err(Refusal::WrongType));
    }

    #[test]
    fn mistakes_are_reported() {
        for (policy, expected) in [
            ("clamp", "one of min, max"),
            ("clamp: {}", "one of min, max"),
            ("clamp: { min: 5, max: 5 }", "a `max` above `min`"),
            ("clamp: { min: ten }", "a number for `min`"),
            ("clamp: { max: 1e30 }", "a number for `max`"),
        ] {
            let problems = read(policy).err().unwrap();
            assert!(problems.iter().any(|one| one.contains(expected)), "{policy}: {problems:?}");
        }
    }
}
