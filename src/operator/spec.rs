//! What an operator says of itself: the policy parser checks against it, and the reference is printed from it.

use super::{Arguments, Treatment};
use crate::json::Kind;

/// The families of the reference page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    PassOrRemove,
    Mask,
    Encrypt,
    Pseudonymize,
    Generalize,
    Perturb,
}

impl Family {
    pub fn name(self) -> &'static str {
        match self {
            Family::PassOrRemove => "pass or remove",
            Family::Mask => "mask",
            Family::Encrypt => "encrypt",
            Family::Pseudonymize => "pseudonymize",
            Family::Generalize => "generalize",
            Family::Perturb => "perturb",
        }
    }
}

/// Which JSON types an operator takes; a value of another type is quarantined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    Any,
    /// Strings, numbers and booleans. Of an object or array only what is classified inside goes on.
    Scalar,
    /// Strings and numbers.
    Text,
}

impl Takes {
    pub fn takes(self, kind: Kind) -> bool {
        match self {
            Takes::Any => true,
            Takes::Scalar => !matches!(kind, Kind::Object | Kind::Array),
            Takes::Text => matches!(kind, Kind::String | Kind::Number),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Takes::Any => "any value",
            Takes::Scalar => "strings, numbers, booleans",
            Takes::Text => "strings, numbers",
        }
    }
}

/// What comes out, for the embedded schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gives {
    /// The same type as went in.
    Same,
    /// Nothing: the field is gone.
    Nothing,
    /// Always null.
    Null,
    /// A string, whatever went in.
    String,
}

impl Gives {
    pub fn name(self) -> &'static str {
        match self {
            Gives::Same => "the same type",
            Gives::Nothing => "nothing",
            Gives::Null => "null",
            Gives::String => "a string",
        }
    }
}

/// One parameter in the reference.
#[derive(Clone, Copy, Debug)]
pub struct Parameter {
    pub name: &'static str,
    pub default: &'static str,
    pub doc: &'static str,
}

/// What one example of the reference gives; every one is run by the tests.
#[derive(Clone, Copy, Debug)]
pub struct Example {
    /// The treatment as it stands in a policy.
    pub policy: &'static str,
    /// JSON text in and out. An empty `output` stands for "different each time or under each key".
    pub input: &'static str,
    pub output: &'static str,
}

/// An operator's description and its maker.
pub struct Spec {
    pub name: &'static str,
    pub family: Family,
    pub summary: &'static str,
    pub takes: Takes,
    pub gives: Gives,
    /// With the key, the value can be had back.
    pub reversible: bool,
    /// Same input, same output (under one key and domain).
    pub deterministic: bool,
    /// Deterministic, and different inputs give different outputs: fit for a record key.
    pub distinct: bool,
    /// What comes out depends on whose row it is: the policy has to say that, with `subject`.
    pub of_subject: bool,
    pub parameters: &'static [Parameter],
    pub examples: &'static [Example],
    /// Reads the parameters; what is wrong with them is reported to the arguments.
    pub build: fn(&mut Arguments<'_>) -> Option<Treatment>,
}
