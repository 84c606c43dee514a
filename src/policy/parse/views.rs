//! The part of a policy that says what audiences get.

use std::collections::HashSet;
use std::path::Path as FilePath;

use marked_yaml::Node;
use marked_yaml::types::Span;

use super::super::condition::Condition;
use super::super::model::*;
use super::super::path::Path;
use super::{Parser, Treatments};
use crate::operator::Problem;

const VIEW_KEYS: &[&str] = &[
    "topic",
    "readers",
    "where",
    "key",
    "headers",
    "nulls",
    "domain",
    "pin",
    "include",
    "default",
    "classes",
    "fields",
    "anonymize",
    "aggregate",
];

impl Parser<'_> {
    pub(super) fn views(
        &mut self,
        file: &FilePath,
        node: &Node,
        shared: &Treatments,
        fields: &[(Span, Field)],
    ) -> Vec<(Span, View)> {
        let Some(map) = self.mapping(node, "audiences by name") else { return Vec::new() };
        if map.is_empty() || map.len() > MAX_VIEWS {
            let expected = format!("1 to {MAX_VIEWS} views");
            self.at(map.span(), format!("{} views", map.len()), expected);
        }
        let mut views: Vec<(Span, View)> = Vec::new();
        for (word, node) in map.iter() {
            let Some(name) = self.valid_name(word, "the name of a view") else { continue };
            let Some(view) = self.view(file, &name, node, shared, fields) else {
                continue;
            };
            if let Some((_, other)) = views.iter().find(|(_, other)| other.topic == view.topic) {
                let found = format!("the topic `{}` of view `{}` again", view.topic, other.name);
                self.at(word.span(), found, "a topic of its own for each view");
            }
            views.push((*word.span(), view));
        }
        views
    }

    fn view(
        &mut self,
        file: &FilePath,
        name: &str,
        node: &Node,
        shared: &Treatments,
        fields: &[(Span, Field)],
    ) -> Option<View> {
        let map = self.mapping(node, "a view: `topic` and `classes`")?;
        self.only(map, VIEW_KEYS, "a view");
        let topic = self
            .required(map, "topic", "`topic:`, where the view is published")
            .and_then(|node| self.scalar(node, "the name of a topic"))
            .and_then(|word| self.topic(word));
        let words = self.words(map.get_node("readers"), "the name of a role");
        let readers = words.iter().map(|word| word.as_str().to_owned()).collect();
        let condition = map
            .get_node("where")
            .and_then(|node| self.scalar(node, "a CEL expression"))
            .and_then(|word| {
                Condition::compile(word.as_str())
                    .map_err(|expected| {
                        self.at(word.span(), format!("`{}`", word.as_str()), expected)
                    })
                    .ok()
            });
        let keys =
            [("fields", KeyRule::Fields), ("tokenize", KeyRule::Tokenize), ("drop", KeyRule::Drop)];
        let [anonymize, aggregate] = ["anonymize", "aggregate"].map(|name| map.get_node(name));
        if let (Some(_), Some(node)) = (anonymize, aggregate) {
            self.at(node.span(), "`aggregate` beside `anonymize`", "one of both in a view");
        }
        let of_many = anonymize.or(aggregate).is_some();
        let usual = if of_many { KeyRule::Drop } else { KeyRule::Fields };
        let key = self.choice(map.get_node("key"), &keys, usual);
        let headers = self.words(map.get_node("headers"), "the name of a record header");
        let headers = headers.iter().map(|word| word.as_str().to_owned()).collect();
        let nulls = [("keep", Nulls::Keep), ("treat", Nulls::Treat)];
        let nulls = self.choice(map.get_node("nulls"), &nulls, Nulls::Keep);
        let domain =
            map.get_node("domain").and_then(|node| self.name(node, "the name of a domain"));
        let pin = map.get_node("pin").and_then(|node| self.pin(node));
        let own = self.include(file, map.get_node("include"));
        let default = map.get_node("default").and_then(|node| self.chosen(node));
        let listed = map.get_node("classes").map(|node| self.treatments(Some(node)));
        let listed = listed.unwrap_or_default();
        self.unused(map.get_node("classes"), fields);

        let mut classes = Treatments::new();
        let mut missing = Vec::new();
        for class in fields.iter().map(|(_, field)| &field.class) {
            if classes.iter().any(|(known, _)| known == class) || missing.contains(&class.as_str())
            {
                continue;
            }
            let of = |treatments: &Treatments| {
                treatments.iter().find(|(name, _)| name == class).map(|(_, chosen)| chosen.clone())
            };
            let written = map
                .get_node("classes")
                .and_then(Node::as_mapping)
                .is_some_and(|map| map.get_node(class).is_some());
            match of(&listed).or_else(|| of(&own)).or_else(|| of(shared)).or(default.clone()) {
                Some(chosen) => classes.push((class.clone(), chosen)),
                // A treatment that is there and wrong has been reported.
                None if written => {}
                None => missing.push(class),
            }
        }
        if !missing.is_empty() {
            let found = format!("view `{name}` without a treatment for {}", missing.join(", "));
            let at = map.get_node("classes").map_or(map.span(), Node::span);
            self.at(at, found, "a treatment for every class of `fields`, or `default:`");
        }
        let mut exceptions = self.exceptions(map.get_node("fields"), fields);
        let rule = match (anonymize, aggregate) {
            (Some(node), _) => self.anonymize(node, fields),
            (None, Some(node)) => self.aggregate(node, fields),
            (None, None) => None,
        };
        let rule = rule.map(|(rule, taken)| {
            for (path, chosen) in taken {
                if exceptions.iter().any(|(known, _)| *known == path) {
                    let found = format!("`{path}`, of `{}`, with a treatment", rule.name());
                    self.at(map.span(), found, "one of both: what becomes of it is said there");
                }
                exceptions.push((path, chosen));
            }
            rule
        });
        Some(View {
            name: name.to_owned(),
            topic: topic?,
            readers,
            condition,
            key,
            headers,
            nulls,
            domain,
            pin,
            classes,
            fields: exceptions,
            rule,
        })
    }

    /// `pin: { token: 1, until: 2027-01-31 }`.
    fn pin(&mut self, node: &Node) -> Option<Pin> {
        let map =
            self.mapping(node, "versions of keys, and a day: `{ token: 1, until: 2027-01-31 }`")?;
        self.only(map, &["token", "deterministic", "until"], "`pin`");
        let [token, deterministic] = ["token", "deterministic"].map(|name| {
            let word = self.scalar(map.get_node(name)?, "the version of a key")?;
            match word.as_str().parse::<u32>() {
                Ok(version) if version > 0 => Some(version),
                _ => {
                    let expected = "the version of a key, a whole number from 1";
                    self.at(word.span(), format!("`{}`", word.as_str()), expected);
                    None
                }
            }
        });
        if map.get_node("token").is_none() && map.get_node("deterministic").is_none() {
            self.at(map.span(), "no key", "`token:` or `deterministic:`, with a version");
        }
        let expected = "`until:`, the last day of it, such as 2027-01-31";
        let node = self.required(map, "until", expected)?;
        let word = self.scalar(node, expected)?;
        let day = word.as_str().parse::<jiff::civil::Date>().ok();
        let ends = day.and_then(|day| {
            day.tomorrow().ok()?.at(0, 0, 0, 0).to_zoned_datetime(jiff::tz::TimeZone::UTC).ok()
        });
        match ends {
            None => {
                self.at(word.span(), format!("`{}`", word.as_str()), "a day, such as 2027-01-31");
                None
            }
            Some(ends) => Some(Pin {
                token,
                deterministic,
                until: word.as_str().to_owned(),
                ends_s: ends.timestamp().as_second(),
            }),
        }
    }

    fn exceptions(&mut self, node: Option<&Node>, fields: &[(Span, Field)]) -> Vec<(Path, Chosen)> {
        let Some(node) = node else { return Vec::new() };
        let Some(map) = self.mapping(node, "paths and their treatments") else { return Vec::new() };
        let mut exceptions = Vec::new();
        for (word, node) in map.iter() {
            let (path, chosen) = (self.path(word), self.chosen(node));
            let Some(path) = path else { continue };
            if !fields.iter().any(|(_, field)| field.path == path) {
                let names: Vec<_> =
                    fields.iter().map(|(_, field)| field.path.to_string()).collect();
                let expected = "a path that stands in `fields`";
                let problem = Problem::at(word.span(), format!("`{path}`"), expected);
                self.error(problem.or_nearest(word.as_str(), names.iter().map(String::as_str)));
            } else if let Some(chosen) = chosen {
                exceptions.push((path, chosen));
            }
        }
        exceptions
    }

    /// A class that no field has is most likely a slip of the pen.
    fn unused(&mut self, node: Option<&Node>, fields: &[(Span, Field)]) {
        let classes: HashSet<&str> = fields.iter().map(|(_, field)| field.class.as_str()).collect();
        for (word, _) in node.and_then(Node::as_mapping).into_iter().flat_map(|map| map.iter()) {
            if !classes.contains(word.as_str()) {
                let found = format!("the class `{}`", word.as_str());
                let problem = Problem::at(word.span(), found, "a class that `fields` uses");
                self.error(problem.or_nearest(word.as_str(), classes.iter().copied()));
            }
        }
    }
}
