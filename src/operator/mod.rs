//! Treatments: what a view does to a value. One operator, one file; [`SPECS`] registers them.
//!
//! An operator is pure: a value in, JSON text out, no clock, no I/O. It never says more of a value that it
//! refuses than a [`Refusal`].

pub mod anonymize;
mod append;
mod arguments;
mod clamp;
mod constant;
pub(crate) mod decimal;
mod encrypt;
mod fake;
pub(crate) mod generalize;
mod hash;
mod mask;
mod noise;
mod replace;
mod shift_date;
mod spec;
mod text;
mod tokenize;
mod truncate;

pub(crate) use arguments::shape;
pub use arguments::{Arguments, Around, Problem, Recipients, nearest};
pub(crate) use decimal::decimal_text;
pub use spec::{Family, Gives, Parameter, Spec, Takes};
pub use tokenize::Tokenizer;

use std::sync::Arc;

use crate::crypto::ciphertext::SealKey;
use crate::crypto::{DataKey, KeyError, KeySource, Purpose, SubjectId};
use crate::json::{Kind, Value};

/// Every operator, in the order of the reference page.
pub const SPECS: &[&Spec] = &[
    &constant::KEEP,
    &constant::DROP,
    &constant::NULL,
    &constant::REDACT,
    &replace::SPEC,
    &truncate::SPEC,
    &append::SPEC,
    &mask::SPEC,
    &encrypt::SPEC,
    &tokenize::SPEC,
    &hash::SPEC,
    &fake::SPEC,
    &generalize::SPEC,
    &clamp::SPEC,
    &noise::SPEC,
    &shift_date::SPEC,
];

/// The operator called `name`.
pub fn find(name: &str) -> Option<&'static Spec> {
    SPECS.iter().copied().find(|spec| spec.name == name)
}

/// Buffers that operators may overwrite, and whose values they treat; one per rewriter.
#[derive(Default)]
pub struct Scratch {
    pub text: String,
    pub other: String,
    pub bytes: Vec<u8>,
    /// The data subject whose row is treated, where the policy says who that is, and their key.
    pub subject: Option<SubjectId>,
    pub subject_key: Option<Arc<SealKey>>,
    /// The time of the event, in milliseconds since the epoch.
    pub at_ms: Option<i64>,
    /// What views that hold records take from the row.
    pub taps: Vec<anonymize::Tapped>,
}

/// Why an operator will not treat a value. The record goes to quarantine with this reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("wrong_type")]
    WrongType,
    #[error("not_a_date")]
    NotADate,
    #[error("not_a_number")]
    NotANumber,
    #[error("not_in_alphabet")]
    NotInAlphabet,
    #[error("out_of_domain")]
    OutOfDomain,
    #[error("subject")]
    Subject,
    #[error("group_field")]
    GroupField,
}

impl Refusal {
    /// The reason code of quarantine headers, logs and metrics.
    pub fn code(self) -> &'static str {
        match self {
            Refusal::WrongType => "wrong_type",
            Refusal::NotADate => "not_a_date",
            Refusal::NotANumber => "not_a_number",
            Refusal::NotInAlphabet => "not_in_alphabet",
            Refusal::OutOfDomain => "out_of_domain",
            Refusal::Subject => "subject",
            Refusal::GroupField => "group_field",
        }
    }
}

/// Treats one value.
pub trait Operator: Send + Sync {
    /// Appends the treated value as JSON text. `value` is never null, and its kind is one that the
    /// operator's [`Spec`] takes. What is appended before a refusal is thrown away by the caller.
    fn apply(
        &self,
        value: &Value<'_>,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal>;
}

/// The place that an operator works for: what its keys and its AAD are bound to.
#[derive(Debug, Clone, Copy)]
pub struct Site<'a> {
    /// Normalized path, without indexes: `contacts[].phone`.
    pub path: &'a str,
    /// Separates pseudonyms and ciphertexts of audiences.
    pub domain: &'a str,
    /// The same for all classes of the view.
    pub group: &'a str,
    /// The policy says whose row it is.
    pub subject: bool,
}

/// An operator with its keys, ready to work at one site.
pub struct Bound {
    pub operator: Arc<dyn Operator>,
    /// The key it uses, for the audit trail and the metrics.
    pub key: Option<(Purpose, DataKey)>,
    /// It seals under random nonces with this, which counts.
    pub sealing: Option<Arc<SealKey>>,
}

impl Bound {
    /// With a key of the policy.
    pub fn with_key(operator: impl Operator + 'static, purpose: Purpose, key: DataKey) -> Bound {
        let operator = Arc::new(operator);
        Bound { operator, key: Some((purpose, key)), sealing: None }
    }
}

/// What an operator's parameters come to. `Keep`, `Drop` and `Null` are known to the engine by name: they
/// need no look at the value.
#[derive(Clone)]
pub enum Treatment {
    Keep,
    Drop,
    Null,
    /// Needs neither key nor place.
    Plain(Arc<dyn Operator>),
    /// Made for each place, out of its keys.
    Keyed(Arc<dyn Keyed>),
}

/// A value as it was, as JSON text; none where it is nothing that the operator could have made.
pub type Undone = Option<crate::crypto::Secret<Vec<u8>>>;

/// An operator that needs a key.
pub trait Keyed: Send + Sync {
    fn bind(&self, site: Site<'_>, keys: &dyn KeySource) -> Result<Bound, KeyError>;

    /// What it made, made undone, where that does not say by itself how: under the primary key of the site, or the
    /// version of it that is named. Nothing tells whether that is the right one.
    fn undo(
        &self,
        _site: Site<'_>,
        _keys: &dyn KeySource,
        _version: Option<u32>,
        _text: &str,
    ) -> Option<Result<Undone, KeyError>> {
        None
    }

    /// What holds of it with these parameters, where that is not what its operator says of itself.
    fn spec(&self) -> Option<&'static Spec> {
        None
    }
}

impl Treatment {
    /// The operator for one place; `None` for those that the engine does by itself.
    pub fn bind(&self, site: Site<'_>, keys: &dyn KeySource) -> Result<Option<Bound>, KeyError> {
        match self {
            Treatment::Keep | Treatment::Drop | Treatment::Null => Ok(None),
            Treatment::Plain(operator) => {
                let operator = Arc::clone(operator);
                Ok(Some(Bound { operator, key: None, sealing: None }))
            }
            Treatment::Keyed(keyed) => keyed.bind(site, keys).map(Some),
        }
    }
}

/// The characters of a string or number; the operators that work on text take no other kind.
fn characters<'s>(value: &Value<'s>, scratch: &'s mut String) -> Result<&'s str, Refusal> {
    match value.kind() {
        Kind::String | Kind::Number => Ok(value.characters(scratch)),
        _ => Err(Refusal::WrongType),
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use std::path::Path;

    use marked_yaml::{Node, parse_yaml};

    use super::*;

    /// The file `words.csv` of the tests and of the examples.
    pub const WORDS: &str = "nurse;health;*\nsurgeon;health;*\nwelder;industry;*\n";

    /// What a treatment that needs no key comes to, or what is wrong with it.
    pub fn read(policy: &str) -> Result<Arc<dyn Operator>, Vec<String>> {
        let document = parse_yaml(0, format!("policy:\n  {policy}")).unwrap();
        let node = document.as_mapping().unwrap().get_node("policy").unwrap();
        let (name, given) = match node {
            Node::Mapping(map) => map.iter().map(|(name, node)| (name, Some(node))).next().unwrap(),
            node => (node.as_scalar().unwrap(), None),
        };
        let spec = find(name.as_str()).unwrap();
        let read = |path: &Path| match path.to_str() {
            Some("words.csv") => Ok(WORDS.to_owned()),
            Some("ragged.csv") => Ok("a;b;*\nc;*\n".to_owned()),
            Some("counts.csv") => {
                Ok("nurse;1200\npope;1\nmonk;40\na, b;50\n\"a; \"\"b\"\"\";50\n7;51\n\n".to_owned())
            }
            _ => Err(std::io::ErrorKind::NotFound.into()),
        };
        let around = Around::new(Recipients::new(), Path::new(""), &read);
        let mut arguments = Arguments::new(spec.name, *node.span(), given, &around);
        let treatment = (spec.build)(&mut arguments);
        let problems = arguments.finish();
        match treatment {
            Some(Treatment::Plain(operator)) if problems.is_empty() => Ok(operator),
            _ => Err(problems.iter().map(|p| format!("{} / {}", p.found, p.expected)).collect()),
        }
    }

    /// What a treatment makes of a JSON value.
    pub fn apply(policy: &str, input: &str) -> Result<String, Refusal> {
        let operator = read(policy).unwrap_or_else(|problems| panic!("{policy}: {problems:?}"));
        let mut out = Vec::new();
        operator.apply(&Value::parse(input).unwrap(), &mut Scratch::default(), &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn every_example_of_the_reference_is_true() {
        let examples = SPECS.iter().flat_map(|spec| spec.examples);
        // Those of `keep` and `null` are the engine's, and what needs a key differs under each.
        let own = ["keep", "'null'"];
        let run = examples.filter(|one| !one.output.is_empty() && !own.contains(&one.policy));
        let run: Vec<_> = run.collect();
        assert!(run.len() > 20);
        for example in run {
            let out = apply(example.policy, example.input);
            assert_eq!(out.as_deref(), Ok(example.output), "{}", example.policy);
        }
    }
}
