//! The part of a view that says among whom people are to disappear.

use std::path::Path as FilePath;
use std::sync::Arc;

use marked_yaml::Node;
use marked_yaml::types::{MarkedMappingNode, MarkedScalarNode, Span};
use sha2::{Digest, Sha256};

use super::super::model::*;
use super::super::path::Path;
use super::{Parser, one_line};
use crate::group::{self, Sensitive};
use crate::operator::anonymize::{QUASI_IDENTIFIER, Scale};
use crate::operator::{Arguments, Around, Problem, Recipients, Treatment};

/// So many people in a group, at most.
const MOST_K: u64 = 100_000;
/// How many records wait where the policy does not say.
const MOST_HELD: u64 = 100_000;
/// How many published groups are kept for who comes later.
const MOST_GROUPS: usize = 10_000;
/// How many people it is known of in which group they were, for each record that may wait.
const SUBJECTS: usize = 10;
const WITHIN_MS: i64 = 10 * 60 * 1000;
const DAY_MS: i64 = 24 * 3600 * 1000;
const MOST_MS: i64 = 31 * DAY_MS;

const KEYS: &[&str] = &["k", "within", "most", "quasi_identifiers", "sensitive"];

impl Parser<'_> {
    /// Gives the exceptions as well that take the place of the treatments of classes.
    pub(super) fn anonymize(
        &mut self,
        node: &Node,
        fields: &[(Span, Field)],
    ) -> Option<(Rule, Vec<(Path, Chosen)>)> {
        let map = self.mapping(node, "`k` and `quasi_identifiers`")?;
        self.only(map, KEYS, "`anonymize`");
        let k = self.required(map, "k", "`k:`, how many people a group has at least");
        let k = k.and_then(|node| self.whole(node, 2..=MOST_K));
        let most = map.get_node("most").map(|node| self.whole(node, 1..=100_000_000));
        let delay = map.get_node("within").map(|node| self.delay(node));
        let mut digest = Sha256::new();
        let expected = "`quasi_identifiers:`, by which people could be found again";
        let listed = self.required(map, "quasi_identifiers", expected);
        let quasi = listed.map(|node| self.scales(node, fields, &mut digest)).unwrap_or_default();
        let sensitive = map.get_node("sensitive").map(|node| self.demands(node, fields));
        let sensitive = sensitive.unwrap_or_default();
        if let Some((word, _, _)) =
            sensitive.iter().find(|(_, path, _)| quasi.iter().any(|(_, other, ..)| other == path))
        {
            let found = format!("`{}`, a quasi-identifier", word.as_str());
            self.at(word.span(), found, "a field that is one of both");
        }
        let most = most.unwrap_or(Some(MOST_HELD))? as usize;
        let settings = group::Settings {
            k: k? as usize,
            delay: delay.unwrap_or(Some(WITHIN_MS))?,
            quasi_identifiers: quasi.iter().map(|(_, _, scale, _)| scale.axis()).collect(),
            sensitive: sensitive.iter().map(|(_, _, demand)| *demand).collect(),
            most_held: most,
            most_groups: MOST_GROUPS,
            most_subjects: most.saturating_mul(SUBJECTS),
        };
        if most < settings.k {
            self.at(map.span(), format!("`most: {most}`"), "at least `k` records that may wait");
        }
        if let Err(unfit) = group::Stream::new(settings.clone()) {
            self.at(map.span(), unfit.to_string(), "what groups can be made with");
        }
        let at = self.place(node.span());
        let exceptions = quasi.iter().map(|(_, path, _, text)| {
            let text = format!("quasi-identifier: {text}");
            // The plan takes it out of the row; whoever does not know of that drops it.
            let treatment = Treatment::Drop;
            let chosen =
                Chosen { spec: &QUASI_IDENTIFIER, treatment, text, domain: None, at: at.clone() };
            (path.clone(), chosen)
        });
        let exceptions = exceptions.collect();
        let digest: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        let anonymize = Anonymize {
            quasi_identifiers: quasi.into_iter().map(|(_, path, scale, _)| (path, scale)).collect(),
            sensitive: sensitive.into_iter().map(|(_, path, _)| path).collect(),
            settings,
            text: one_line(node),
            files: digest,
        };
        Some((Rule::Groups(Arc::new(anonymize)), exceptions))
    }

    pub(super) fn whole(
        &mut self,
        node: &Node,
        range: std::ops::RangeInclusive<u64>,
    ) -> Option<u64> {
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        let word = self.scalar(node, &expected)?;
        let number = word.as_str().parse().ok().filter(|number| range.contains(number));
        if number.is_none() {
            self.at(word.span(), format!("`{}`", word.as_str()), expected);
        }
        number
    }

    /// In milliseconds.
    pub(super) fn delay(&mut self, node: &Node) -> Option<i64> {
        let expected = "a time such as 30s, 10m, 1h or 1d, and at most 31 days";
        let word = self.scalar(node, expected)?;
        let read = match word.as_str().strip_suffix('d').map(|days| days.trim().parse::<u32>()) {
            Some(Ok(days)) => i64::from(days).checked_mul(DAY_MS),
            _ => {
                let read = word.as_str().parse::<jiff::SignedDuration>().ok();
                read.and_then(|read| i64::try_from(read.as_millis()).ok())
            }
        };
        let read = read.filter(|delay| (0..=MOST_MS).contains(delay));
        if read.is_none() {
            self.at(word.span(), format!("`{}`", word.as_str()), expected);
        }
        read
    }

    /// A field of the policy, of which a row has one.
    pub(super) fn single(
        &mut self,
        word: &MarkedScalarNode,
        fields: &[(Span, Field)],
    ) -> Option<Path> {
        let path = self.path(word)?;
        if !fields.iter().any(|(_, field)| field.path == path) {
            let names: Vec<_> = fields.iter().map(|(_, field)| field.path.to_string()).collect();
            let expected = "a path that stands in `fields`";
            let problem = Problem::at(word.span(), format!("`{path}`"), expected);
            self.error(problem.or_nearest(word.as_str(), names.iter().map(String::as_str)));
            return None;
        }
        let inside =
            |field: &Field| field.path.0.len() > path.0.len() && field.path.0.starts_with(&path.0);
        if !path.is_plain() || fields.iter().any(|(_, field)| inside(field)) {
            let expected =
                "a path of names, with no path of `fields` inside: a row has one such value";
            self.at(word.span(), format!("`{path}`"), expected);
            return None;
        }
        Some(path)
    }

    #[allow(clippy::type_complexity, reason = "what the caller takes apart at once")]
    fn scales<'n>(
        &mut self,
        node: &'n Node,
        fields: &[(Span, Field)],
        digest: &mut Sha256,
    ) -> Vec<(&'n MarkedScalarNode, Path, Scale, String)> {
        let expected = "paths, each with `hierarchy: FILE`, `numbers` or `date`";
        let Some(map) = self.mapping(node, expected) else { return Vec::new() };
        if map.is_empty() {
            self.at(map.span(), "no quasi-identifier", expected);
        }
        let mut all = Vec::new();
        for (word, node) in map.iter() {
            let path = self.single(word, fields);
            let folder = FilePath::new(&self.file).parent().unwrap_or(FilePath::new(""));
            let around = Around::new(Recipients::new(), folder, self.read);
            let mut arguments =
                Arguments::new("quasi_identifiers", *node.span(), Some(node), &around);
            let scale = Scale::build(&mut arguments);
            let problems = arguments.finish();
            let sound = problems.is_empty();
            problems.into_iter().for_each(|problem| self.error(problem));
            for (file, text) in around.take_opened() {
                digest.update((text.len() as u64).to_be_bytes());
                digest.update(&text);
                self.read(&file, &text);
            }
            if let (Some(path), Some(scale), true) = (path, scale, sound) {
                all.push((word, path, scale, one_line(node)));
            }
        }
        all
    }

    fn demands<'n>(
        &mut self,
        node: &'n Node,
        fields: &[(Span, Field)],
    ) -> Vec<(&'n MarkedScalarNode, Path, Sensitive)> {
        let expected = "paths, each with `l`, `entropy_l` or `t`: `{ diagnosis: { l: 3 } }`";
        let Some(map) = self.mapping(node, expected) else { return Vec::new() };
        let mut all = Vec::new();
        for (word, node) in map.iter() {
            let path = self.single(word, fields);
            let Some(map) = self.mapping(node, expected) else { continue };
            self.only(map, &["l", "entropy_l", "t"], "a sensitive field");
            if map.is_empty() {
                self.at(map.span(), "no demand", expected);
            }
            let distinct = map.get_node("l").and_then(|node| self.whole(node, 2..=MOST_K));
            let entropy = self.real(map, "entropy_l", 1.0..=MOST_K as f64);
            let closeness = self.real(map, "t", 0.0..=1.0);
            let demand =
                Sensitive { distinct: distinct.map(|least| least as u32), entropy, closeness };
            all.extend(path.map(|path| (word, path, demand)));
        }
        all
    }

    fn real(
        &mut self,
        map: &MarkedMappingNode,
        name: &str,
        range: std::ops::RangeInclusive<f64>,
    ) -> Option<f64> {
        let node = map.get_node(name)?;
        let expected = format!("a number from {} to {}", range.start(), range.end());
        let word = self.scalar(node, &expected)?;
        let number = word.as_str().parse().ok().filter(|number| range.contains(number));
        if number.is_none() {
            self.at(word.span(), format!("`{}`", word.as_str()), expected);
        }
        number
    }

    /// What does not go with groups, and what may tell those of a group apart all the same.
    pub(super) fn of_groups(&mut self, policy: &Policy, span: &Span, view: &View) {
        let Some(rule) = &view.rule else { return };
        let name = &view.name;
        if policy.subject.is_none() {
            let found = format!("view `{name}` with `{}`", rule.name());
            self.at(span, found, "`subject:` in the policy: it is people that are counted");
        }
        if let Rule::Windows(aggregate) = rule
            && aggregate.creates
            && policy.format == Format::Json
        {
            let found = format!("view `{name}` with `changes: creates`, and `format: json`");
            self.at(
                span,
                found,
                "`changes: all`: a row without an envelope does not say whether it is new",
            );
        }
        if view.key != KeyRule::Drop || !view.headers.is_empty() {
            let found = format!("view `{name}` with `{}`, and `key:` or `headers:`", rule.name());
            self.at(
                span,
                found,
                "`key: drop`, the default here, and no headers: both tell people apart",
            );
        }
        let looked_at = match rule {
            Rule::Groups(anonymize) => &anonymize.sensitive,
            Rule::Windows(aggregate) => &aggregate.by,
        };
        for path in looked_at {
            let chosen = policy.fields.iter().find(|field| field.path == *path);
            let chosen = chosen.and_then(|field| view.field(field));
            if let Some(chosen) = chosen.filter(|one| !one.spec.deterministic)
                && matches!(rule, Rule::Windows(_))
            {
                let found = format!("view `{name}` by `{path}`, with `{}`", chosen.text);
                self.at(
                    span,
                    found,
                    "a treatment that makes the same of the same: else each row is a group",
                );
            }
            if chosen.is_some_and(|one| matches!(one.treatment, Treatment::Drop | Treatment::Null))
            {
                let found = format!(
                    "view `{name}` without the field `{path}`, which `{}` names",
                    rule.name()
                );
                self.at(span, found, "a treatment that publishes it, or another field");
            }
        }
        let Rule::Groups(anonymize) = rule else { return };
        let others =
            policy.fields.iter().filter(|field| !anonymize.paths().any(|path| *path == field.path));
        for field in others {
            let Some(chosen) = view.field(field) else { continue };
            let (path, text) = (&field.path, &chosen.text);
            let says_nothing = matches!(chosen.treatment, Treatment::Drop | Treatment::Null)
                || chosen.spec.name == "redact";
            if says_nothing {
                continue;
            }
            let keeps = !chosen.spec.distinct || matches!(chosen.treatment, Treatment::Keep);
            let found = format!("view `{name}` with `{path}: {text}` beside its groups");
            let expected = if keeps {
                "`drop`, or the field among `quasi_identifiers` or `sensitive`: what is left of it may tell people of a \
                 group apart"
            } else {
                "`drop`: by it, all records of a person can be told, and what their groups have in common"
            };
            self.warn(span, found, expected);
        }
    }
}
