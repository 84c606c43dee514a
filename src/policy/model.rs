//! What a valid policy holds.

use std::sync::Arc;

use super::condition::Condition;
use super::diagnostic::Diagnostic;
use super::path::Path;
use crate::aggregate;
use crate::crypto::{KeyError, KeySource, Pinned, Purpose};
use crate::group;
use crate::operator::anonymize::{Look, NumberTap, QuasiTap, Scale, TimeTap};
use crate::operator::generalize::Unit;
use crate::operator::{Operator, Spec, Treatment};

/// The rewrite keeps a bit per view.
pub const MAX_VIEWS: usize = 64;

/// The topics that a policy claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topics {
    Named(Vec<String>),
    /// A pattern that begins with `^`, as in a Kafka subscription.
    Pattern(String),
}

/// How the records of a source are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The record's value is the row.
    Json,
    /// Debezium's change event envelope, alone or with its schema.
    Debezium,
}

impl Format {
    pub const ALL: [(&'static str, Format); 2] =
        [("json", Format::Json), ("debezium", Format::Debezium)];

    pub fn name(self) -> &'static str {
        match self {
            Format::Json => "json",
            Format::Debezium => "debezium",
        }
    }
}

/// What happens to fields that the policy does not name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unclassified {
    Drop,
    Quarantine,
}

/// What happens to events of a data subject who is forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnErased {
    /// Nothing of them is published but that the row is no more.
    Drop,
    /// The person has come back, and gets another key.
    Rekey,
}

/// What happens to the record's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyRule {
    /// Its fields are treated as the row's.
    Fields,
    /// Its bytes are one value, tokenized in the domain of the subject.
    Tokenize,
    Drop,
}

/// What happens to a null where the treatment is neither `drop` nor `null`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nulls {
    Keep,
    Treat,
}

/// A treatment as a view chose it.
#[derive(Clone)]
pub struct Chosen {
    pub spec: &'static Spec,
    pub treatment: Treatment,
    /// As it stands in the policy, on one line.
    pub text: String,
    /// `domain:` of this treatment.
    pub domain: Option<String>,
    /// Where it stands: file and line.
    pub at: String,
}

/// One line of `fields:`.
#[derive(Clone)]
pub struct Field {
    pub path: Path,
    pub class: String,
}

/// Earlier versions of the keys of pseudonyms, that a view keeps for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    pub token: Option<u32>,
    pub deterministic: Option<u32>,
    /// The last day, and when it ends in UTC, in seconds since the epoch.
    pub until: String,
    pub ends_s: i64,
}

/// What a view demands that holds records until enough people are alike.
#[derive(Clone)]
pub struct Anonymize {
    /// In the order of the policy.
    pub quasi_identifiers: Vec<(Path, Scale)>,
    pub sensitive: Vec<Path>,
    pub settings: group::Settings,
    /// As it stands in the policy, on one line.
    pub text: String,
    /// A digest of the files that it names.
    pub files: String,
}

/// What a view publishes that says of many rows together what they are.
#[derive(Clone)]
pub struct Aggregate {
    /// What rows are grouped by; their classes say how.
    pub by: Vec<Path>,
    /// Numbers, in the order of the settings' fields.
    pub numbers: Vec<Path>,
    /// The time of a row; that of its record, where none is named.
    pub time: Option<(Path, Option<Unit>)>,
    /// Rows that are new count, and changes of them do not.
    pub creates: bool,
    /// Names of the settings' aggregates.
    pub figures: Vec<String>,
    pub settings: aggregate::Settings,
    /// As it stands in the policy, on one line.
    pub text: String,
}

/// How a view publishes what it has of many people, in place of the changes of each.
#[derive(Clone)]
pub enum Rule {
    Groups(Arc<Anonymize>),
    Windows(Arc<Aggregate>),
}

impl Rule {
    /// The key of the policy.
    pub fn name(&self) -> &'static str {
        match self {
            Rule::Groups(_) => "anonymize",
            Rule::Windows(_) => "aggregate",
        }
    }

    /// As it stands in the policy, on one line.
    pub fn text(&self) -> &str {
        match self {
            Rule::Groups(anonymize) => &anonymize.text,
            Rule::Windows(aggregate) => &aggregate.text,
        }
    }

    /// A digest of the files that it names.
    pub fn files(&self) -> &str {
        match self {
            Rule::Groups(anonymize) => &anonymize.files,
            Rule::Windows(_) => "",
        }
    }

    /// The fields of which it takes something.
    pub fn paths(&self) -> Vec<&Path> {
        match self {
            Rule::Groups(anonymize) => anonymize.paths().collect(),
            Rule::Windows(aggregate) => {
                let Aggregate { by, numbers, time, .. } = &**aggregate;
                by.iter().chain(numbers).chain(time.iter().map(|(path, _)| path)).collect()
            }
        }
    }

    /// What takes the field at `path` out of the rows of the view at this place, where it is one that is not treated as its
    /// class says.
    pub fn tap(&self, path: &Path, view: usize) -> Option<Arc<dyn Operator>> {
        match self {
            Rule::Groups(anonymize) => {
                let quasi = anonymize.quasi_identifiers.iter().enumerate();
                let (field, (_, scale)) =
                    quasi.into_iter().find(|(_, (known, _))| known == path)?;
                Some(Arc::new(QuasiTap { view, field, scale: scale.clone() }))
            }
            Rule::Windows(aggregate) => {
                let field = aggregate.numbers.iter().position(|known| known == path);
                if let Some(field) = field {
                    let aggregate::Field { places, bounds } =
                        *aggregate.settings.fields.get(field)?;
                    return Some(Arc::new(NumberTap { view, field, places, bounds }));
                }
                let (_, unit) = aggregate.time.as_ref().filter(|(known, _)| known == path)?;
                Some(Arc::new(TimeTap { view, unit: *unit }))
            }
        }
    }

    /// The place of `path` among those whose treated values it looks at, and what it looks for.
    pub fn looks(&self, path: &Path) -> Option<(usize, Look)> {
        let (paths, look) = match self {
            Rule::Groups(anonymize) => (&anonymize.sensitive, Look::Sensitive),
            Rule::Windows(aggregate) => (&aggregate.by, Look::Group),
        };
        Some((paths.iter().position(|known| known == path)?, look))
    }
}

impl Anonymize {
    /// The paths of which it takes something.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.quasi_identifiers.iter().map(|(path, _)| path).chain(&self.sensitive)
    }
}

/// One audience.
#[derive(Clone)]
pub struct View {
    pub name: String,
    pub topic: String,
    /// The roles that read it; any that says so, where this is empty.
    pub readers: Vec<String>,
    pub condition: Option<Condition>,
    pub key: KeyRule,
    /// Names of record headers that pass.
    pub headers: Vec<String>,
    pub nulls: Nulls,
    /// The domain that this view shares with others.
    pub domain: Option<String>,
    /// Which keys its pseudonyms are made with; those in force, where it does not say.
    pub pin: Option<Pin>,
    /// A treatment for each class of `fields`.
    pub classes: Vec<(String, Chosen)>,
    /// Exceptions by path.
    pub fields: Vec<(Path, Chosen)>,
    /// It publishes rows in groups, or figures, in place of the changes.
    pub rule: Option<Rule>,
}

impl View {
    /// The keys that it works with.
    pub fn keys<'k>(&self, keys: &'k dyn KeySource) -> Result<Pinned<'k>, KeyError> {
        let mut pinned = Pinned::new(keys);
        if let Some(pin) = &self.pin {
            pinned.pin(Purpose::Token, pin.token)?;
            pinned.pin(Purpose::Deterministic, pin.deterministic)?;
        }
        Ok(pinned)
    }

    /// What the view does with `class`.
    pub fn class(&self, class: &str) -> Option<&Chosen> {
        self.classes.iter().find(|(name, _)| name == class).map(|(_, chosen)| chosen)
    }

    /// What the view does with a field: by its exception, else by its class.
    pub fn field(&self, field: &Field) -> Option<&Chosen> {
        let exception = self.fields.iter().find(|(path, _)| *path == field.path);
        exception.map(|(_, chosen)| chosen).or_else(|| self.class(&field.class))
    }
}

/// One source and what its audiences get.
#[derive(Clone)]
pub struct Policy {
    pub name: String,
    pub version: u32,
    /// SHA-256 over the file and what it includes, in hexadecimal.
    pub digest: String,
    pub topics: Topics,
    pub format: Format,
    pub subject: Option<Path>,
    /// Whom the subjects are among: policies that name the same share the keys of their subjects.
    pub population: String,
    pub on_erased: OnErased,
    pub unclassified: Unclassified,
    pub fields: Vec<Field>,
    pub views: Vec<View>,
    /// The files that it was read from.
    pub files: Vec<std::path::PathBuf>,
    /// What the author should know though the policy is valid.
    pub warnings: Vec<Diagnostic>,
}

impl Policy {
    /// The same under the keys in force: for those who have others than the deployment's.
    #[must_use]
    pub fn without_pins(mut self) -> Policy {
        self.views.iter_mut().for_each(|view| view.pin = None);
        self
    }

    /// `NAME@VERSION#DIGEST`, the value of the `veilstream-policy` header.
    pub fn label(&self) -> String {
        format!("{}@{}#{}", self.name, self.version, self.digest.get(..16).unwrap_or(&self.digest))
    }

    /// Keyed treatments of `view` for `class` work in this domain unless they name one.
    pub fn domain(&self, view: &View, class: &str) -> String {
        format!("{}/{class}", self.group(view))
    }

    /// The domain of what has to agree between the classes of `view`.
    pub fn group(&self, view: &View) -> String {
        view.domain.clone().unwrap_or_else(|| format!("{}/{}", self.name, view.name))
    }

    /// Whether what a view publishes depends on whose row it is.
    pub fn of_subject(&self) -> bool {
        let rules = self.views.iter().any(|view| view.rule.is_some());
        rules || self.treatments().any(|chosen| chosen.spec.of_subject)
    }

    /// What the views do with the fields.
    pub fn treatments(&self) -> impl Iterator<Item = &Chosen> {
        let of = |view| self.fields.iter().filter_map(move |field| View::field(view, field));
        self.views.iter().flat_map(of)
    }
}
