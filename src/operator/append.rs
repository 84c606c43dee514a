//! `append`: text behind a value.

use std::sync::Arc;

use super::spec::{Example, Family, Gives, Parameter, Spec, Takes};
use super::{Operator, Refusal, Scratch, Treatment, characters};
use crate::json::{Value, write_string};

pub const SPEC: Spec = Spec {
    name: "append",
    family: Family::Mask,
    summary: "Publishes the value with a text behind it. It hides nothing: for marking values, such as test \
              data.",
    takes: Takes::Text,
    gives: Gives::String,
    reversible: true,
    deterministic: true,
    distinct: true,
    of_subject: false,
    parameters: &[Parameter { name: "text", default: "required", doc: "what to append" }],
    examples: &[Example {
        policy: "append: ' (test)'",
        input: r#""Ann""#,
        output: r#""Ann (test)""#,
    }],
    build: |arguments| match arguments.bare("text") {
        Some(text) => Some(Treatment::Plain(Arc::new(Append(text.as_str().to_owned())))),
        None => {
            arguments.missing("the text to append: `append: TEXT`");
            None
        }
    },
};

struct Append(String);

impl Operator for Append {
    fn apply(
        &self,
        value: &Value<'_>,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let Scratch { text, other, .. } = scratch;
        other.clear();
        other.push_str(characters(value, text)?);
        other.push_str(&self.0);
        write_string(out, other);
        Ok(())
    }
}
