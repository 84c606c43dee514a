//! Why a record could not be sanitized, in words that say nothing of its values.

use std::fmt;

use crate::operator::Refusal;

/// The part of the work that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    Decode,
    Key,
    Transform,
    Publish,
}

impl Stage {
    pub fn name(self) -> &'static str {
        match self {
            Stage::Decode => "decode",
            Stage::Key => "key",
            Stage::Transform => "transform",
            Stage::Publish => "publish",
        }
    }
}

/// The reason code: stable, bounded, of use in metrics and alerts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    InvalidUtf8,
    InvalidJson,
    TooDeep,
    /// The value is no object.
    NotAnObject,
    /// The envelope does not look as its format says.
    Envelope,
    /// The embedded schema cannot be read.
    Schema,
    /// A field that the policy does not name, under `unclassified: quarantine`.
    Unclassified,
    /// The record key is no JSON object, under `key: fields`.
    KeyShape,
    /// A field of the record key is unclassified or treated so that two keys could become one.
    KeyField,
    /// The treatment does not take a value of this type.
    WrongType,
    NotADate,
    NotANumber,
    /// Format-preserving encryption met a character that is neither of the alphabet nor a separator.
    NotInAlphabet,
    /// Format-preserving encryption met a text that is too short or too long, or nothing but the value itself was made up.
    OutOfDomain,
    /// Whose row it is cannot be told, so there is no key to encrypt under, nor days to move a date by.
    Subject,
    /// A field that a view with `anonymize` or `aggregate` groups by is missing, stands there twice, or is not of its
    /// domain.
    GroupField,
    /// The sanitized record is larger than its topic takes.
    TooLarge,
    /// The topic is compacted, and the sanitized record has no key.
    NoKey,
    /// The broker will not take what was made of the record.
    Refused,
    /// The name of a record header is not UTF-8.
    HeaderName,
    /// `where`, or a view of many, reads a value that Debezium left out because it did not change.
    Unavailable,
    /// A defect of veilstream: the record is safe in quarantine.
    Internal,
}

impl Reason {
    pub const ALL: [Reason; 22] = [
        Reason::InvalidUtf8,
        Reason::InvalidJson,
        Reason::TooDeep,
        Reason::NotAnObject,
        Reason::Envelope,
        Reason::Schema,
        Reason::Unclassified,
        Reason::KeyShape,
        Reason::KeyField,
        Reason::WrongType,
        Reason::NotADate,
        Reason::NotANumber,
        Reason::NotInAlphabet,
        Reason::OutOfDomain,
        Reason::Subject,
        Reason::GroupField,
        Reason::TooLarge,
        Reason::NoKey,
        Reason::Refused,
        Reason::HeaderName,
        Reason::Unavailable,
        Reason::Internal,
    ];

    pub fn code(self) -> &'static str {
        match self {
            Reason::InvalidUtf8 => "invalid_utf8",
            Reason::InvalidJson => "invalid_json",
            Reason::TooDeep => "too_deep",
            Reason::NotAnObject => "not_an_object",
            Reason::Envelope => "envelope",
            Reason::Schema => "schema",
            Reason::Unclassified => "unclassified_field",
            Reason::KeyShape => "key_shape",
            Reason::KeyField => "key_field",
            Reason::WrongType => "wrong_type",
            Reason::NotADate => "not_a_date",
            Reason::NotANumber => "not_a_number",
            Reason::NotInAlphabet => "not_in_alphabet",
            Reason::OutOfDomain => "out_of_domain",
            Reason::Subject => "subject",
            Reason::GroupField => "group_field",
            Reason::TooLarge => "too_large",
            Reason::NoKey => "no_key",
            Reason::Refused => "refused",
            Reason::HeaderName => "header_name",
            Reason::Unavailable => "unavailable_value",
            Reason::Internal => "internal",
        }
    }

    /// What a person can do about it.
    pub fn advice(self) -> &'static str {
        match self {
            Reason::InvalidUtf8 | Reason::InvalidJson => {
                "the producer wrote no valid JSON; is `format` right?"
            }
            Reason::TooDeep => "nested deeper than the limit",
            Reason::NotAnObject => "an event is a JSON object",
            Reason::Envelope => "the envelope is not as `format` says",
            Reason::Schema => "the embedded schema is not Kafka Connect's",
            Reason::Unclassified => "classify the field in the policy, or set `unclassified: drop`",
            Reason::KeyShape => {
                "the record key is no JSON object: use `key: tokenize` or `key: drop`"
            }
            Reason::KeyField => {
                "classify every field of the record key, with keep, tokenize or hash; or use `key: tokenize`"
            }
            Reason::WrongType => "the treatment does not take a value of this type",
            Reason::NotADate => {
                "`generalize: { date }`, or `time` of `aggregate`, met something that is no date (`unit` for numbers)"
            }
            Reason::NotANumber => {
                "`generalize: { numbers }`, or `numbers` of `aggregate`, met something that is no number, or one that is too large"
            }
            Reason::NotInAlphabet => {
                "`encrypt: { mode: fpe }` met a character that is neither of `alphabet` nor of `separators`"
            }
            Reason::OutOfDomain => {
                "`encrypt: { mode: fpe }` takes texts of which a million or more are possible, up to 512 characters"
            }
            Reason::Subject => {
                "the data subject is missing, stands there twice, or is no string or number: it has no key to encrypt under, and no days to move a date by"
            }
            Reason::GroupField => {
                "a field that `anonymize` or `aggregate` needs is missing, stands there twice, or is no number or date of its domain"
            }
            Reason::TooLarge => "the sanitized record is larger than `message.max.bytes`",
            Reason::Refused => {
                "the broker refuses it: look at the topic's size and timestamp limits"
            }
            Reason::HeaderName => "the name of a record header is not UTF-8",
            Reason::Unavailable => {
                "`where`, `anonymize` or `aggregate` reads a value that Debezium left out: set the table's replica identity to full"
            }
            Reason::NoKey => "the view's topic is compacted: it takes no record without a key",
            Reason::Internal => "a defect of veilstream: please report it",
        }
    }
}

impl From<Refusal> for Reason {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::WrongType => Reason::WrongType,
            Refusal::NotADate => Reason::NotADate,
            Refusal::NotANumber => Reason::NotANumber,
            Refusal::NotInAlphabet => Reason::NotInAlphabet,
            Refusal::OutOfDomain => Reason::OutOfDomain,
            Refusal::Subject => Reason::Subject,
            Refusal::GroupField => Reason::GroupField,
        }
    }
}

/// Why, where in the work, and at which path as far as the policy knows it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Failure {
    pub stage: Stage,
    pub reason: Reason,
    /// In names of the policy; others are `<unclassified:DIGEST>`.
    pub path: Option<String>,
}

impl Failure {
    pub fn new(stage: Stage, reason: Reason) -> Self {
        Failure { stage, reason, path: None }
    }

    pub fn at(mut self, path: String) -> Self {
        self.path = Some(path);
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.reason.code(), self.stage.name())?;
        if let Some(path) = &self.path {
            write!(f, " at {path}")?;
        }
        write!(f, ": {}", self.reason.advice())
    }
}

impl From<crate::json::SyntaxError> for Failure {
    fn from(error: crate::json::SyntaxError) -> Self {
        let reason = match error {
            crate::json::SyntaxError::Invalid(_) => Reason::InvalidJson,
            crate::json::SyntaxError::TooDeep(_) => Reason::TooDeep,
        };
        Failure::new(Stage::Decode, reason)
    }
}
