//! `truncate`: the beginning of a text.

use std::sync::Arc;

use super::spec::{Example, Family, Gives, Parameter, Spec, Takes};
use super::text::Text;
use super::{Operator, Refusal, Scratch, Treatment, characters};
use crate::json::{Value, write_string};

pub const SPEC: Spec = Spec {
    name: "truncate",
    family: Family::PassOrRemove,
    summary: "Publishes the first characters of the value. A shorter value passes whole: to hide short values \
              too, use `mask`.",
    takes: Takes::Text,
    gives: Gives::String,
    reversible: false,
    deterministic: true,
    distinct: false,
    of_subject: false,
    parameters: &[Parameter {
        name: "length",
        default: "required",
        doc: "how many characters stay",
    }],
    examples: &[
        Example { policy: "truncate: 3", input: r#""张伟丽娜""#, output: r#""张伟丽""# },
        Example { policy: "truncate: { length: 2 }", input: "12345", output: r#""12""# },
    ],
    build: |arguments| {
        let length = arguments.bare("length");
        let parsed = length.and_then(|length| length.as_str().parse().ok());
        match (length, parsed) {
            (_, Some(length)) => Some(Treatment::Plain(Arc::new(Truncate(length)))),
            (Some(found), None) => {
                let word = format!("`{}`", found.as_str());
                arguments.problem(found.span(), word, "how many characters stay, a whole number");
                None
            }
            (None, None) => {
                arguments.missing("how many characters stay: `truncate: N`");
                None
            }
        }
    },
};

struct Truncate(usize);

impl Operator for Truncate {
    fn apply(
        &self,
        value: &Value<'_>,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let whole = characters(value, &mut scratch.text)?;
        write_string(out, Text::new(whole).split(self.0).0.whole);
        Ok(())
    }
}
