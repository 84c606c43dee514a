//! From YAML to a [`Policy`], reporting every mistake with its place.

mod aggregate;
mod anonymize;
mod roles;
mod views;

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::io::Read as _;
use std::path::{Path as FilePath, PathBuf};

use marked_yaml::types::{MarkedMappingNode, MarkedScalarNode, Span};
use marked_yaml::{LoadError, LoaderOptions, Node, parse_yaml_with_options};
use sha2::{Digest, Sha256};

use super::diagnostic::{Diagnostic, Diagnostics, Severity};
use super::model::*;
use super::path::{Path, Segment};
use crate::crypto::recipient::Recipient;
use crate::operator::{self, Arguments, Around, Problem, Recipients, Treatment};

/// A file's text by its name; the seam that lets tests and the playground parse without a disk.
pub type Read<'r> = &'r dyn Fn(&FilePath) -> std::io::Result<String>;

impl Policy {
    /// Reads and checks the policy in `file`.
    pub fn load(file: &FilePath) -> Result<Policy, Diagnostics> {
        Policy::load_with(file, &|path| {
            let mut text = Vec::new();
            // Not by its length: it may grow, or be a pipe.
            std::fs::File::open(path)?.take(MOST_BYTES + 1).read_to_end(&mut text)?;
            match text.len() as u64 <= MOST_BYTES {
                // Not the error itself, which has the whole text.
                true => String::from_utf8(text).map_err(|error| {
                    std::io::Error::new(std::io::ErrorKind::InvalidData, error.utf8_error())
                }),
                false => Err(std::io::Error::other(format!("more than {MOST_BYTES} bytes"))),
            }
        })
    }

    /// As [`Policy::load`], with files read by `read`.
    pub fn load_with(file: &FilePath, read: Read<'_>) -> Result<Policy, Diagnostics> {
        // One text of each file for all that names it, also where it is changed meanwhile.
        let texts = RefCell::new(HashMap::<PathBuf, String>::new());
        let once = |path: &FilePath| {
            if let Some(text) = texts.borrow().get(path) {
                return Ok(text.clone());
            }
            let text = read(path)?;
            texts.borrow_mut().insert(path.to_owned(), text.clone());
            Ok(text)
        };
        let mut parser = Parser::new(file, &once);
        let policy = parser.open(file, None).and_then(|node| parser.policy(file, &node));
        let (mut errors, warnings): (Vec<_>, Vec<_>) =
            parser.found.into_iter().partition(|remark| remark.severity == Severity::Error);
        match policy {
            Some(policy) if errors.is_empty() => Ok(Policy { warnings, ..policy }),
            _ => {
                errors.extend(warnings);
                errors
                    .sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
                Err(Diagnostics(errors))
            }
        }
    }
}

/// The largest file that a policy is made of.
const MOST_BYTES: u64 = 64 << 20;

struct Parser<'r> {
    /// The file that problems are in just now.
    file: String,
    read: Read<'r>,
    found: Vec<Diagnostic>,
    digest: Sha256,
    /// All that was read.
    files: Vec<PathBuf>,
    recipients: Recipients,
}

const POLICY_KEYS: &[&str] = &[
    "policy",
    "version",
    "source",
    "subject",
    "on_erased",
    "unclassified",
    "include",
    "recipients",
    "fields",
    "views",
];
const SOURCE_KEYS: &[&str] = &["topic", "format"];
type Treatments = Vec<(String, Chosen)>;

impl<'r> Parser<'r> {
    fn new(file: &FilePath, read: Read<'r>) -> Self {
        Parser {
            file: file.display().to_string(),
            read,
            found: Vec::new(),
            digest: Sha256::new(),
            files: Vec::new(),
            recipients: Recipients::new(),
        }
    }

    /// Of all that was read.
    fn hex_digest(&self) -> String {
        let digest = self.digest.clone().finalize();
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn error(&mut self, problem: Problem) {
        self.found.push(Diagnostic::new(Severity::Error, &self.file, problem));
    }

    fn at(&mut self, span: &Span, found: impl Into<String>, expected: impl Into<String>) {
        self.error(Problem::at(span, found, expected));
    }

    /// File and line.
    fn place(&self, span: &Span) -> String {
        format!("{}:{}", self.file, span.start().map_or(1, |mark| mark.line()))
    }

    fn warn(&mut self, span: &Span, found: impl Into<String>, expected: impl Into<String>) {
        let problem = Problem::at(span, found, expected);
        self.found.push(Diagnostic::new(Severity::Warning, &self.file, problem));
    }

    /// A file that the policy is made of was read.
    fn read(&mut self, file: &FilePath, text: &str) {
        if !self.files.iter().any(|known| known == file) {
            self.files.push(file.to_owned());
        }
        self.digest.update((text.len() as u64).to_be_bytes());
        self.digest.update(text.as_bytes());
    }

    /// Reads a file into the digest and parses it. `asked` is where it was included.
    fn open(&mut self, file: &FilePath, asked: Option<&Span>) -> Option<Node> {
        let text = match (self.read)(file) {
            Ok(text) => text,
            Err(error) => {
                let blank = Span::new_blank();
                let found = format!("a file that cannot be read, {}: {error}", file.display());
                self.at(asked.unwrap_or(&blank), found, "a readable YAML file");
                return None;
            }
        };
        self.read(file, &text);
        self.file = file.display().to_string();
        let options = LoaderOptions::default().error_on_duplicate_keys(true);
        match parse_yaml_with_options(0, &text, options) {
            Ok(node) => Some(node),
            Err(error) => {
                self.error(syntax(&error));
                None
            }
        }
    }

    /// Reports members of `map` that are not in `valid`.
    fn only(&mut self, map: &MarkedMappingNode, valid: &[&str], of: &str) {
        for (name, _) in map.iter() {
            if !valid.contains(&name.as_str()) {
                let expected = format!("one of {} in {of}", valid.join(", "));
                let problem = Problem::at(name.span(), format!("`{}`", name.as_str()), expected);
                self.error(problem.or_nearest(name.as_str(), valid.iter().copied()));
            }
        }
    }

    fn mapping<'n>(&mut self, node: &'n Node, expected: &str) -> Option<&'n MarkedMappingNode> {
        if node.as_mapping().is_none() {
            self.at(node.span(), operator::shape(node), expected);
        }
        node.as_mapping()
    }

    fn scalar<'n>(&mut self, node: &'n Node, expected: &str) -> Option<&'n MarkedScalarNode> {
        let scalar = node.as_scalar().filter(|scalar| !scalar.as_str().is_empty());
        if scalar.is_none() {
            self.at(node.span(), operator::shape(node), expected);
        }
        scalar
    }

    fn required<'n>(
        &mut self,
        map: &'n MarkedMappingNode,
        name: &str,
        expected: &str,
    ) -> Option<&'n Node> {
        let node = map.get_node(name);
        if node.is_none() {
            self.at(map.span(), format!("no `{name}`"), expected);
        }
        node
    }

    /// One scalar or a list of them.
    fn words<'n>(&mut self, node: Option<&'n Node>, expected: &str) -> Vec<&'n MarkedScalarNode> {
        match node {
            None => Vec::new(),
            Some(Node::Sequence(list)) => {
                list.iter().filter_map(|item| self.scalar(item, expected)).collect()
            }
            Some(node) => self.scalar(node, expected).into_iter().collect(),
        }
    }

    /// One of a few words, or `default` where there is none.
    fn choice<T: Copy>(&mut self, node: Option<&Node>, valid: &[(&str, T)], default: T) -> T {
        let Some(node) = node else { return default };
        let names: Vec<_> = valid.iter().map(|(name, _)| *name).collect();
        let expected = format!("one of {}", names.join(", "));
        let Some(word) = self.scalar(node, &expected) else { return default };
        match valid.iter().find(|(name, _)| *name == word.as_str()) {
            Some((_, value)) => *value,
            None => {
                let problem = Problem::at(word.span(), format!("`{}`", word.as_str()), expected);
                self.error(problem.or_nearest(word.as_str(), names));
                default
            }
        }
    }

    fn path(&mut self, word: &MarkedScalarNode) -> Option<Path> {
        match Path::parse(word.as_str()) {
            Ok(path) => Some(path),
            Err(expected) => {
                self.at(word.span(), format!("the path `{}`", word.as_str()), expected);
                None
            }
        }
    }

    /// Public keys by name: 32 bytes in base64.
    fn recipients(&mut self, node: Option<&Node>) -> Recipients {
        let mut found = Recipients::new();
        let Some(node) = node else { return found };
        let expected = "names with public keys: `partner: BASE64`";
        let Some(map) = self.mapping(node, expected) else { return found };
        for (name, key) in map.iter() {
            let name = self.valid_name(name, "the name of a recipient");
            let Some(word) = self.scalar(key, "a public key in base64") else { continue };
            let bytes = base64_simd::STANDARD.decode_to_vec(word.as_str()).ok();
            let bytes = bytes.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
            match (name, bytes.and_then(|bytes| Recipient::new(&bytes))) {
                (Some(name), Some(recipient)) => drop(found.insert(name, recipient)),
                (_, None) => self.at(
                    word.span(),
                    format!("`{}`", word.as_str()),
                    "a public key of X25519: 32 bytes in base64",
                ),
                (None, _) => {}
            }
        }
        found
    }

    /// `subject: PATH`, or `subject: { path: PATH, population: NAME }`.
    fn subject<'n>(&mut self, node: &'n Node) -> Option<(&'n Span, Path, Option<String>)> {
        let (word, population) = match node {
            Node::Mapping(map) => {
                self.only(map, &["path", "population"], "`subject`");
                let word = self
                    .required(map, "path", "`path:`, the path of the data subject")
                    .and_then(|node| self.scalar(node, "the path of the data subject"))?;
                let population = map.get_node("population");
                (word, population.and_then(|node| self.name(node, "the name of a population")))
            }
            node => (self.scalar(node, "the path of the data subject")?, None),
        };
        let path = self.path(word)?;
        if !path.is_plain() {
            let expected = "a path of names: a row is of one data subject";
            self.at(word.span(), format!("`{path}`"), expected);
        }
        Some((word.span(), path, population))
    }

    fn policy(&mut self, file: &FilePath, node: &Node) -> Option<Policy> {
        let map =
            self.mapping(node, "a policy: a mapping with `policy`, `source`, `fields`, `views`")?;
        self.only(map, POLICY_KEYS, "a policy");
        let name = self
            .required(map, "policy", "the policy's name: `policy: NAME`")
            .and_then(|node| self.name(node, "the policy's name"));
        let version = self.version(map);
        let source = self
            .required(map, "source", "`source:` with `topic` and `format`")
            .and_then(|node| self.source(node));
        let subject = map.get_node("subject").and_then(|node| self.subject(node));
        let on_erased = self.choice(
            map.get_node("on_erased"),
            &[("drop", OnErased::Drop), ("rekey", OnErased::Rekey)],
            OnErased::Drop,
        );
        if let (None, Some(node)) = (map.get_node("subject"), map.get_node("on_erased")) {
            self.at(node.span(), "`on_erased` without `subject`", "`subject:`, whom it is about");
        }
        let unclassified = self.choice(
            map.get_node("unclassified"),
            &[("drop", Unclassified::Drop), ("quarantine", Unclassified::Quarantine)],
            Unclassified::Drop,
        );
        let fields = self
            .required(map, "fields", "`fields:` that says of each path what it is")
            .map(|node| self.fields(node))
            .unwrap_or_default();
        if let Some((span, subject, _)) = &subject
            && !fields.iter().any(|(_, field)| field.path == *subject)
        {
            self.at(span, format!("`{subject}`"), "a path that stands in `fields`");
        }
        self.recipients = self.recipients(map.get_node("recipients"));
        let shared = self.include(file, map.get_node("include"));
        let views = self
            .required(map, "views", "`views:` with an audience or more")
            .map(|node| self.views(file, node, &shared, &fields))
            .unwrap_or_default();
        let (topics, format) = source?;
        let name = name?;
        let (subject, population) = match subject {
            Some((_, path, population)) => (Some(path), population),
            None => (None, None),
        };
        let policy = Policy {
            population: population.unwrap_or_else(|| name.clone()),
            name,
            version,
            digest: self.hex_digest(),
            topics,
            format,
            subject,
            on_erased,
            unclassified,
            fields: fields.into_iter().map(|(_, field)| field).collect(),
            views: views.iter().map(|(_, view)| view.clone()).collect(),
            files: self.files.clone(),
            warnings: Vec::new(),
        };
        for (span, view) in &views {
            self.key_of(&policy, span, view);
            self.disclosures(&policy, span, view);
            self.of_nobody(&policy, span, view);
            self.of_groups(&policy, span, view);
        }
        Some(policy)
    }

    /// A name that may stand in a header, a metric label and a file name.
    fn name(&mut self, node: &Node, what: &str) -> Option<String> {
        let word = self.scalar(node, what)?;
        self.valid_name(word, what)
    }

    fn valid_name(&mut self, word: &MarkedScalarNode, what: &str) -> Option<String> {
        let fits = |text: &str| {
            text.len() <= 128
                && !text.is_empty()
                && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
        };
        if fits(word.as_str()) {
            return Some(word.as_str().to_owned());
        }
        let expected = format!("{what}: letters, digits, `.`, `_` and `-`, 128 at most");
        self.at(word.span(), format!("`{}`", word.as_str()), expected);
        None
    }

    fn version(&mut self, map: &MarkedMappingNode) -> u32 {
        let expected = "the policy's version, a whole number from 1: `version: 1`";
        let Some(node) = self.required(map, "version", expected) else { return 1 };
        let Some(word) = self.scalar(node, expected) else { return 1 };
        match word.as_str().parse() {
            Ok(version) if version > 0 => version,
            _ => {
                self.at(word.span(), format!("`{}`", word.as_str()), expected);
                1
            }
        }
    }

    fn source(&mut self, node: &Node) -> Option<(Topics, Format)> {
        let map = self.mapping(node, "`topic` and `format`")?;
        self.only(map, SOURCE_KEYS, "`source`");
        let format = self.choice(map.get_node("format"), &Format::ALL, Format::Json);
        if map.get_node("format").is_none() {
            let expected = "`format:`, one of json, debezium";
            self.at(map.span(), "no `format`", expected);
        }
        let node = self.required(map, "topic", "`topic:`, a name, a list, or a pattern `^...`")?;
        let words = self.words(Some(node), "the name of a topic");
        let topics = match words.as_slice() {
            [] => {
                self.at(node.span(), "no topic", "a topic or more");
                return None;
            }
            [word] if word.as_str().starts_with('^') => {
                if let Err(error) = regex::Regex::new(word.as_str()) {
                    let message = error.to_string().lines().last().unwrap_or_default().to_owned();
                    self.at(word.span(), "a pattern", format!("a regular expression ({message})"));
                    return None;
                }
                Topics::Pattern(word.as_str().to_owned())
            }
            words => {
                let names = words.iter().filter_map(|word| self.topic(word)).collect();
                Topics::Named(names)
            }
        };
        Some((topics, format))
    }

    /// Kafka's rule for names of topics.
    fn topic(&mut self, word: &MarkedScalarNode) -> Option<String> {
        let name = word.as_str();
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if name.len() <= 249 && name.chars().all(legal) && !matches!(name, "." | "..") {
            return Some(name.to_owned());
        }
        let expected = "a topic's name: letters, digits, `.`, `_` and `-`, 249 at most";
        self.at(word.span(), format!("`{name}`"), expected);
        None
    }

    fn fields(&mut self, node: &Node) -> Vec<(Span, Field)> {
        let Some(map) = self.mapping(node, "paths and their classes") else { return Vec::new() };
        if map.is_empty() {
            self.at(map.span(), "no field", "a path and its class: `email: email`");
        }
        let mut fields: Vec<(Span, Field)> = Vec::new();
        for (word, node) in map.iter() {
            let path = self.path(word);
            let class = self.name(node, "the name of a class");
            let (Some(path), Some(class)) = (path, class) else { continue };
            if fields.iter().any(|(_, field)| field.path == path) {
                self.at(word.span(), format!("`{path}` again"), "each path once");
            }
            fields.push((*word.span(), Field { path, class }));
        }
        fields
    }

    /// Class treatments of included files; the later file wins.
    fn include(&mut self, file: &FilePath, node: Option<&Node>) -> Treatments {
        let mut shared = Treatments::new();
        let own = self.file.clone();
        for word in self.words(node, "the name of a file with `classes:`") {
            let path = file.parent().unwrap_or(FilePath::new("")).join(word.as_str());
            if let Some(node) = self.open(&path, Some(word.span()))
                && let Some(map) = self.mapping(&node, "`classes:` and their treatments")
            {
                self.only(map, &["classes"], "an included file");
                for (class, chosen) in self.treatments(map.get_node("classes")) {
                    shared.retain(|(name, _)| *name != class);
                    shared.push((class, chosen));
                }
            }
            self.file.clone_from(&own);
        }
        shared
    }

    fn treatments(&mut self, node: Option<&Node>) -> Treatments {
        let Some(node) = node else { return Vec::new() };
        let Some(map) = self.mapping(node, "classes and their treatments") else {
            return Vec::new();
        };
        let entries = map.iter().filter_map(|(word, node)| {
            let class = self.valid_name(word, "the name of a class");
            Some((class?, self.chosen(node)?))
        });
        entries.collect()
    }

    /// A treatment: `tokenize`, `mask: email` or `mask: { keep_last: 4 }`.
    fn chosen(&mut self, node: &Node) -> Option<Chosen> {
        let (name, arguments) = match node {
            Node::Scalar(word) => (word, None),
            Node::Mapping(map) if map.len() == 1 => {
                let (word, node) = map.iter().next()?;
                (word, Some(node))
            }
            _ => {
                let expected = "one treatment: `tokenize`, or `mask: { keep_last: 4 }`";
                self.at(node.span(), operator::shape(node), expected);
                return None;
            }
        };
        let Some(spec) = operator::find(name.as_str()) else {
            let names = || operator::SPECS.iter().map(|spec| spec.name);
            let expected = format!("a treatment: {}", names().collect::<Vec<_>>().join(", "));
            let problem = Problem::at(name.span(), format!("`{}`", name.as_str()), expected);
            self.error(problem.or_nearest(name.as_str(), names()));
            return None;
        };
        let recipients = std::mem::take(&mut self.recipients);
        let folder = FilePath::new(&self.file).parent().unwrap_or(FilePath::new(""));
        let around = Around::new(recipients, folder, self.read);
        let mut read = Arguments::new(spec.name, *name.span(), arguments, &around);
        let treatment = (spec.build)(&mut read);
        let domain = match treatment {
            Some(Treatment::Keyed(_)) => read.scalar("domain"),
            _ => None,
        };
        let domain = domain.and_then(|word| self.valid_name(word, "the name of a domain"));
        let mut problems = read.finish();
        if treatment.is_none() && problems.is_empty() {
            // Never another treatment in its place.
            let found = format!("parameters of `{}` that come to nothing", spec.name);
            problems.push(Problem::at(name.span(), found, "others"));
        }
        around.take_opened().iter().for_each(|(file, text)| self.read(file, text));
        self.recipients = around.recipients;
        let sound = problems.is_empty();
        problems.into_iter().for_each(|problem| self.error(problem));
        let treatment = treatment.filter(|_| sound)?;
        let text = match arguments {
            Some(arguments) => format!("{}: {}", spec.name, one_line(arguments)),
            None => spec.name.to_owned(),
        };
        let spec = match &treatment {
            Treatment::Keyed(keyed) => keyed.spec().unwrap_or(spec),
            _ => spec,
        };
        let at = self.place(name.span());
        Some(Chosen { spec, treatment, text, domain, at })
    }

    /// Under `key: fields` two subjects must not get one key, or compaction would lose one of them.
    fn key_of(&mut self, policy: &Policy, span: &Span, view: &View) {
        let (KeyRule::Fields, Some(subject)) = (view.key, &policy.subject) else { return };
        let Some(chosen) = chosen_for(policy, view, subject) else { return };
        if !chosen.spec.distinct {
            let found = format!("view `{}` with `{}` for `{subject}`", view.name, chosen.text);
            let expected = "a deterministic treatment of the subject, which the record key holds (keep, \
                            tokenize, hash, `encrypt: deterministic`, `encrypt` with `mode: fpe`), or `key: tokenize`, or `key: drop`";
            self.at(span, found, expected);
        }
    }

    /// What depends on whose row it is takes a policy that says so.
    fn of_nobody(&mut self, policy: &Policy, span: &Span, view: &View) {
        let mut chosen = policy.fields.iter().filter_map(|field| view.field(field));
        if policy.subject.is_none()
            && let Some(chosen) = chosen.find(|chosen| chosen.spec.of_subject)
        {
            let found = format!("view `{}` with `{}`", view.name, chosen.text);
            self.at(span, found, "`subject:` in the policy: it depends on whose row it is");
        }
    }

    /// Whether an event is published says something of what `where` reads.
    fn disclosures(&mut self, policy: &Policy, span: &Span, view: &View) {
        let Some(condition) = &view.condition else { return };
        for name in condition.reads() {
            let first = Segment::Name(name.clone());
            let of: BTreeMap<&str, &str> = policy
                .fields
                .iter()
                .filter(|field| field.path.0.first() == Some(&first))
                .filter_map(|field| {
                    let chosen = chosen_for(policy, view, &field.path)?;
                    (!matches!(chosen.treatment, Treatment::Keep))
                        .then_some((field.class.as_str(), chosen.spec.name))
                })
                .collect();
            let known = policy.fields.iter().any(|field| field.path.0.first() == Some(&first));
            let disclosed: Vec<_> = of
                .iter()
                .map(|(class, name)| format!("class `{class}`, which it treats with {name}"))
                .collect();
            let what = match (known, disclosed.is_empty()) {
                (true, true) => continue,
                (true, false) => disclosed.join(" and "),
                (false, _) => "an unclassified field".to_owned(),
            };
            let found = format!("view `{}` whose `where` reads `row.{name}`: {what}", view.name);
            let expected = "a condition over fields that the view keeps: who sees the stream learns what the \
                            condition says of them";
            self.warn(span, found, expected);
        }
    }
}

/// What `view` does with the field at `path`, a path of `fields`.
pub(super) fn chosen_for<'p>(
    policy: &'p Policy,
    view: &'p View,
    path: &Path,
) -> Option<&'p Chosen> {
    policy.fields.iter().find(|field| field.path == *path).and_then(|field| view.field(field))
}

/// A node on one line, as YAML in flow style.
fn one_line(node: &Node) -> String {
    match node {
        Node::Scalar(word) => match word.as_str() {
            "" => "''".into(),
            word => word.into(),
        },
        Node::Sequence(list) => {
            format!("[{}]", list.iter().map(one_line).collect::<Vec<_>>().join(", "))
        }
        Node::Mapping(map) => {
            let members =
                map.iter().map(|(name, node)| format!("{}: {}", name.as_str(), one_line(node)));
            format!("{{ {} }}", members.collect::<Vec<_>>().join(", "))
        }
    }
}

fn syntax(error: &LoadError) -> Problem {
    let (mark, found, expected) = match error {
        LoadError::TopLevelMustBeMapping(mark) | LoadError::TopLevelMustBeSequence(mark) => {
            (*mark, "no mapping".to_owned(), "a mapping".to_owned())
        }
        LoadError::UnexpectedAnchor(mark) => {
            (*mark, "an anchor or alias".to_owned(), "the value itself, or `include:`".to_owned())
        }
        LoadError::MappingKeyMustBeScalar(mark) => {
            (*mark, "a collection as a name".to_owned(), "a name".to_owned())
        }
        LoadError::UnexpectedTag(mark) => (*mark, "a tag".to_owned(), "a plain value".to_owned()),
        LoadError::ScanError(mark, error) => {
            (*mark, "no YAML".to_owned(), format!("YAML ({})", error.info()))
        }
        LoadError::DuplicateKey(twice) => {
            let span = twice.key.span();
            let first = twice.prev_key.span().start().map_or(0, |mark| mark.line());
            let found = format!("`{}` again", twice.key.as_str());
            return Problem::at(
                span,
                found,
                format!("each name once (the first is in line {first})"),
            );
        }
    };
    Problem { line: mark.line(), column: mark.column(), found, expected, nearest: None }
}
