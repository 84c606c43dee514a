//! The parameters of a treatment as they stand in the policy, read with their places so that a mistake is
//! reported where it is.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Component, Path, PathBuf};

use marked_yaml::Node;
use marked_yaml::types::{MarkedScalarNode, Span};

use super::decimal::Decimal;
use crate::crypto::recipient::Recipient;
use crate::hierarchy::{Hierarchy, Mistake};

/// Something wrong at a place of a policy file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub line: usize,
    pub column: usize,
    pub found: String,
    pub expected: String,
    /// The valid name that comes nearest to what was found.
    pub nearest: Option<String>,
}

impl Problem {
    pub fn at(span: &Span, found: impl Into<String>, expected: impl Into<String>) -> Self {
        let (line, column) = span.start().map_or((1, 1), |mark| (mark.line(), mark.column()));
        Problem { line, column, found: found.into(), expected: expected.into(), nearest: None }
    }

    /// Names the nearest of `valid`, if one is near.
    pub fn or_nearest<'n>(mut self, name: &str, valid: impl IntoIterator<Item = &'n str>) -> Self {
        self.nearest = nearest(name, valid);
        self
    }
}

/// The name of `valid` that a person most likely meant.
pub fn nearest<'n>(name: &str, valid: impl IntoIterator<Item = &'n str>) -> Option<String> {
    let lower = name.to_lowercase();
    valid
        .into_iter()
        .map(|candidate| {
            (strsim::damerau_levenshtein(&lower, &candidate.to_lowercase()), candidate)
        })
        .filter(|(distance, candidate)| *distance <= 1 + candidate.chars().count() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate.to_owned())
}

/// What a node is called in a message.
pub(crate) fn shape(node: &Node) -> String {
    match node {
        Node::Scalar(scalar) if scalar.is_empty() => "nothing".into(),
        Node::Scalar(scalar) => format!("`{}`", scalar.as_str()),
        Node::Mapping(_) => "a mapping".into(),
        Node::Sequence(_) => "a list".into(),
    }
}

/// The parameters of one treatment. Ask for each by name, then [`Arguments::finish`].
pub struct Arguments<'a> {
    operator: &'static str,
    span: Span,
    node: Option<&'a Node>,
    known: Vec<&'static str>,
    problems: Vec<Problem>,
    around: &'a Around<'a>,
}

/// What a policy has around its treatments.
pub struct Around<'r> {
    pub recipients: Recipients,
    /// Where names of files begin.
    folder: PathBuf,
    read: &'r dyn Fn(&Path) -> std::io::Result<String>,
    opened: RefCell<Vec<(PathBuf, String)>>,
}

impl<'r> Around<'r> {
    pub fn new(
        recipients: Recipients,
        folder: &Path,
        read: &'r dyn Fn(&Path) -> std::io::Result<String>,
    ) -> Around<'r> {
        Around { recipients, folder: folder.to_owned(), read, opened: RefCell::default() }
    }

    /// The files that treatments were made of, with their texts.
    pub fn take_opened(&self) -> Vec<(PathBuf, String)> {
        self.opened.take()
    }
}

/// Public keys by the names that the policy gives them.
pub type Recipients = BTreeMap<String, Recipient>;

impl<'a> Arguments<'a> {
    /// `node` is what stands behind `operator:`; none where the operator stands alone. `span` is where.
    pub fn new(
        operator: &'static str,
        span: Span,
        node: Option<&'a Node>,
        around: &'a Around<'a>,
    ) -> Self {
        // `tokenize:` with nothing behind it is `tokenize`.
        let node = node.filter(|node| node.as_scalar().is_none_or(|word| !word.is_empty()));
        Arguments { operator, span, node, known: Vec::new(), problems: Vec::new(), around }
    }

    /// A scalar in place of a mapping stands for the parameter `name`: `mask: email`.
    pub fn bare(&mut self, name: &'static str) -> Option<&'a MarkedScalarNode> {
        match self.node {
            Some(Node::Scalar(scalar)) => {
                self.known.push(name);
                Some(scalar)
            }
            _ => self.scalar(name),
        }
    }

    /// A scalar in place of a mapping, which would have one of `names`.
    pub fn bare_word(&mut self, names: &[&'static str]) -> Option<&'a MarkedScalarNode> {
        self.known.extend(names);
        self.node?.as_scalar()
    }

    /// The parameter `name`, of whatever shape.
    pub fn node(&mut self, name: &'static str) -> Option<&'a Node> {
        self.known.push(name);
        self.node?.as_mapping()?.get_node(name)
    }

    /// The parameter `name`, which must be a scalar.
    pub fn scalar(&mut self, name: &'static str) -> Option<&'a MarkedScalarNode> {
        let node = self.node(name)?;
        if node.as_scalar().is_none() {
            self.problem(node.span(), shape(node), format!("one value for `{name}`"));
        }
        node.as_scalar()
    }

    /// A text, as it stands.
    pub fn text(&mut self, name: &'static str) -> Option<&'a str> {
        self.scalar(name).map(|scalar| scalar.as_str())
    }

    /// A whole number within `range`.
    pub fn number(&mut self, name: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
        let scalar = self.scalar(name)?;
        let number = scalar.as_str().parse().ok().filter(|number| range.contains(number));
        if number.is_none() {
            let expected = match (*range.start(), *range.end()) {
                (from, u64::MAX) => format!("a whole number of at least {from} for `{name}`"),
                (from, to) => format!("a whole number from {from} to {to} for `{name}`"),
            };
            self.problem(scalar.span(), format!("`{}`", scalar.as_str()), expected);
        }
        number
    }

    /// A number of at most so many digits before and behind its point.
    pub fn decimal(&mut self, name: &'static str, digits: i64) -> Option<Decimal> {
        let scalar = self.scalar(name)?;
        let number = Decimal::parse(scalar.as_str())
            .filter(|number| number.places() <= digits && number.size() <= digits);
        if number.is_none() {
            let expected = format!(
                "a number for `{name}`, of at most {digits} digits before and behind its point"
            );
            self.problem(scalar.span(), format!("`{}`", scalar.as_str()), expected);
        }
        number
    }

    /// The same, above 0.
    pub fn positive(&mut self, name: &'static str, digits: i64) -> Option<Decimal> {
        let number = self.decimal(name, digits)?;
        if !number.is_positive() {
            let span = self.scalar(name).map_or(self.span, |scalar| *scalar.span());
            self.problem(&span, "a number that is not", format!("a number above 0 for `{name}`"));
        }
        Some(number).filter(Decimal::is_positive)
    }

    /// `true` or `false`; `default` where it is not there.
    pub fn flag(&mut self, name: &'static str, default: bool) -> bool {
        let Some(scalar) = self.scalar(name) else { return default };
        scalar.as_bool().unwrap_or_else(|| {
            let found = format!("`{}`", scalar.as_str());
            self.problem(scalar.span(), found, format!("true or false for `{name}`"));
            default
        })
    }

    /// One word of `valid`, as [`Arguments::bare`] or by name.
    pub fn one_of<'v>(
        &mut self,
        scalar: Option<&'a MarkedScalarNode>,
        valid: &[&'v str],
    ) -> Option<&'v str> {
        let scalar = scalar?;
        let word = scalar.as_str();
        let found = valid.iter().copied().find(|candidate| *candidate == word);
        if found.is_none() {
            let expected = format!("one of {}", valid.join(", "));
            let problem = Problem::at(scalar.span(), format!("`{word}`"), expected);
            self.problems.push(problem.or_nearest(word, valid.iter().copied()));
        }
        found
    }

    /// The text of a file beside the policy.
    pub fn file(&mut self, scalar: &MarkedScalarNode) -> Option<String> {
        let named = Path::new(scalar.as_str());
        if !named.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
        {
            let found = format!("`{}`, which leaves the folder", scalar.as_str());
            self.problem(scalar.span(), found, "a file beside the policy, or in a folder there");
            return None;
        }
        let path = self.around.folder.join(named);
        match (self.around.read)(&path) {
            Ok(text) => {
                self.around.opened.borrow_mut().push((path, text.clone()));
                Some(text)
            }
            Err(error) => {
                let found = format!("a file that cannot be read, {}: {error}", path.display());
                self.problem(scalar.span(), found, "a readable CSV file");
                None
            }
        }
    }

    /// The hierarchy in a file beside the policy.
    pub fn hierarchy(&mut self, file: &MarkedScalarNode) -> Option<Hierarchy> {
        let text = self.file(file)?;
        self.sound(file, Hierarchy::parse(&text))
    }

    /// What was read of a file, or a report of what is wrong with it.
    pub fn sound<T>(&mut self, file: &MarkedScalarNode, read: Result<T, Mistake>) -> Option<T> {
        let report = |mistake: Mistake| {
            let place = format!("{}:{}:{}", file.as_str(), mistake.line, mistake.column);
            let found = format!("in {place} {}", mistake.found);
            self.problem(file.span(), found, mistake.expected);
        };
        read.map_err(report).ok()
    }

    /// One of the policy's `recipients`.
    pub fn recipient(&mut self, scalar: &'a MarkedScalarNode) -> Option<Recipient> {
        let name = scalar.as_str();
        let found = self.around.recipients.get(name).cloned();
        if found.is_none() {
            let expected = "a name that stands in `recipients`, with a public key";
            let problem = Problem::at(scalar.span(), format!("`{name}`"), expected);
            let known = self.around.recipients.keys().map(String::as_str);
            self.problems.push(problem.or_nearest(name, known));
        }
        found
    }

    /// Reports what is wrong at `span`.
    pub fn problem(&mut self, span: &Span, found: impl Into<String>, expected: impl Into<String>) {
        self.problems.push(Problem::at(span, found, expected));
    }

    /// Reports what is missing from the treatment as a whole.
    pub fn missing(&mut self, expected: impl Into<String>) {
        let found = match self.node {
            Some(node) => shape(node),
            None => format!("`{}` alone", self.operator),
        };
        self.problems.push(Problem::at(&self.span, found, expected));
    }

    /// All that was wrong, parameters that nobody asked for included.
    pub fn finish(mut self) -> Vec<Problem> {
        let names = if self.known.is_empty() {
            "no parameters".to_owned()
        } else {
            format!("one of {}", self.known.join(", "))
        };
        let expected = format!("{names}, for `{}`", self.operator);
        match self.node {
            None => {}
            Some(Node::Mapping(map)) => {
                for (name, _) in map.iter() {
                    if !self.known.contains(&name.as_str()) {
                        let found = format!("the parameter `{}`", name.as_str());
                        let problem = Problem::at(name.span(), found, expected.clone());
                        self.problems
                            .push(problem.or_nearest(name.as_str(), self.known.iter().copied()));
                    }
                }
            }
            Some(node) if node.as_scalar().is_none() || self.known.is_empty() => {
                self.problem(node.span(), shape(node), expected);
            }
            Some(_) => {}
        }
        self.problems
    }
}
