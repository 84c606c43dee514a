//! `replace`: a word of the policy's choice, or a table of words.

use std::sync::Arc;

use super::Treatment;
use super::constant::Constant;
use super::spec::{Example, Family, Gives, Parameter, Spec, Takes};

pub const SPEC: Spec = Spec {
    name: "replace",
    family: Family::Mask,
    summary: "Publishes the given text in place of the value.",
    takes: Takes::Any,
    gives: Gives::String,
    reversible: false,
    deterministic: true,
    distinct: false,
    of_subject: false,
    parameters: &[Parameter { name: "with", default: "required", doc: "the text" }],
    examples: &[Example { policy: "replace: BIP", input: r#""Bob""#, output: r#""BIP""# }],
    build: |arguments| match arguments.bare("with") {
        Some(word) => Some(Treatment::Plain(Arc::new(Constant::new(word.as_str())))),
        None => {
            arguments.missing("the text to publish: `replace: TEXT`");
            None
        }
    },
};
