//! `keep`, `drop`, `null` and `redact`: what needs no look at the value.

use std::sync::Arc;

use super::spec::{Example, Family, Gives, Parameter, Spec, Takes};
use super::{Operator, Refusal, Scratch, Treatment};
use crate::json::{Value, write_string};

pub const KEEP: Spec = Spec {
    name: "keep",
    family: Family::PassOrRemove,
    summary: "Publishes the value as it came, every digit of it. Of an object or array it keeps only what is \
              classified inside: name `path.**` to keep all.",
    takes: Takes::Scalar,
    gives: Gives::Same,
    reversible: true,
    deterministic: true,
    distinct: true,
    of_subject: false,
    parameters: &[],
    examples: &[Example { policy: "keep", input: "12.50", output: "12.50" }],
    build: |_| Some(Treatment::Keep),
};

pub const DROP: Spec = Spec {
    name: "drop",
    family: Family::PassOrRemove,
    summary: "Removes the field, its name too.",
    takes: Takes::Any,
    gives: Gives::Nothing,
    reversible: false,
    deterministic: true,
    distinct: false,
    of_subject: false,
    parameters: &[],
    examples: &[],
    build: |_| Some(Treatment::Drop),
};

pub const NULL: Spec = Spec {
    name: "null",
    family: Family::PassOrRemove,
    summary: "Publishes null in place of the value.",
    takes: Takes::Any,
    gives: Gives::Null,
    reversible: false,
    deterministic: true,
    distinct: false,
    of_subject: false,
    parameters: &[],
    examples: &[Example { policy: "'null'", input: r#""Bob""#, output: "null" }],
    build: |_| Some(Treatment::Null),
};

pub const REDACT: Spec = Spec {
    name: "redact",
    family: Family::PassOrRemove,
    summary: "Publishes a fixed word in place of the value, whatever it was.",
    takes: Takes::Any,
    gives: Gives::String,
    reversible: false,
    deterministic: true,
    distinct: false,
    of_subject: false,
    parameters: &[Parameter { name: "with", default: "[REDACTED]", doc: "the word; may be empty" }],
    examples: &[
        Example { policy: "redact", input: r#""Bob""#, output: r#""[REDACTED]""# },
        Example { policy: "redact: { with: '' }", input: r#"{"a":1}"#, output: r#""""# },
    ],
    build: |arguments| {
        let word = arguments.bare("with").map_or("[REDACTED]", |word| word.as_str());
        Some(Treatment::Plain(Arc::new(Constant::new(word))))
    },
};

/// Always the same JSON string.
pub(super) struct Constant(Vec<u8>);

impl Constant {
    pub(super) fn new(word: &str) -> Self {
        let mut text = Vec::new();
        write_string(&mut text, word);
        Constant(text)
    }
}

impl Operator for Constant {
    fn apply(&self, _: &Value<'_>, _: &mut Scratch, out: &mut Vec<u8>) -> Result<(), Refusal> {
        out.extend_from_slice(&self.0);
        Ok(())
    }
}
