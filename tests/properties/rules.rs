//! Random policies, and what they say of an event, after docs/policy.md and without the engine's automaton.

use std::collections::HashSet;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use super::events::{DOC, Event, Json, NAMES, Name};

/// Operators that treat objects and arrays as one value.
pub const WHOLE: [&str; 7] = ["drop", "null", "redact", "replace", "encrypt", "tokenize", "hash"];
pub const CONDITIONS: [&str; 4] =
    ["row.a != 'x'", "has(row.b)", "row.c == 1 || row.a == true", "row.a.b > 2"];
/// Headers, each with its value. A view may name the second.
pub const HEADERS: [(&str, &str); 2] =
    [("x-user", "80000000000000000001"), ("trace", "80000000000000000002")];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Segment {
    Name(&'static str),
    Element,
    AnyName,
    AnyDepth,
}

#[derive(Clone, Debug)]
pub struct View {
    pub classes: Vec<Value>,
    /// By the number of the field.
    pub exceptions: Vec<Option<Value>>,
    pub key: &'static str,
    pub nulls: &'static str,
    pub condition: Option<&'static str>,
    pub traced: bool,
}

#[derive(Clone, Debug)]
pub struct Rules {
    pub debezium: bool,
    pub strict: bool,
    /// Paths and the numbers of their classes.
    pub fields: Vec<(Vec<Segment>, usize)>,
    pub views: Vec<View>,
}

pub fn treatment() -> impl Strategy<Value = Value> {
    let whole =
        WHOLE.map(|name| if name == "replace" { json!({ name: "X" }) } else { json!(name) });
    let token = json!({ "tokenize": { "prefix": "t_", "bytes": 16, "domain": "d" } });
    let kinds = ["email", "phone", "payment_card", "national_id", "iban", "name", "ip"];
    let texts = [
        json!("mask"),
        json!({ "mask": { "keep_last": 4 } }),
        json!({ "truncate": 3 }),
        json!({ "append": " \"é" }),
        json!({ "generalize": { "map": { "x": "y" } } }),
        json!({ "generalize": { "prefix": 2 } }),
        json!({ "generalize": { "numbers": [0, 1000] } }),
        json!({ "generalize": { "date": "year" } }),
        json!({ "generalize": { "ip_prefix": 24 } }),
        json!({ "generalize": { "age": 10, "on": "2026-01-01" } }),
        json!({ "generalize": { "geohash": 5 } }),
        json!({ "clamp": { "min": 3, "max": 5 } }),
        json!({ "fake": "name" }),
    ];
    let texts = texts.into_iter().chain(kinds.map(|kind| json!({ "mask": kind })));
    prop_oneof![
        6 => Just(json!("keep")),
        8 => select([&whole[..], &[token, json!({ "redact": "" })]].concat()),
        1 => select(texts.collect::<Vec<_>>()),
    ]
}

pub fn rules() -> impl Strategy<Value = Rules> {
    let segment = prop_oneof![
        6 => select(&NAMES[..]).prop_map(Segment::Name),
        1 => Just(Segment::Element),
        1 => Just(Segment::AnyName),
        1 => Just(Segment::AnyDepth),
    ];
    let fields = vec((vec(segment, 1..4), 0..4_usize), 1..9).prop_map(|mut fields| {
        let mut paths = HashSet::new();
        fields.retain(|(path, _)| paths.insert(path.clone()));
        fields
    });
    let exception = prop_oneof![5 => Just(None), 1 => treatment().prop_map(Some)];
    let condition = prop_oneof![3 => Just(None), 1 => select(&CONDITIONS[..]).prop_map(Some)];
    let keys = select(&["fields", "tokenize", "drop"][..]);
    let nulls = select(&["keep", "treat"][..]);
    let view = (vec(treatment(), 4), vec(exception, 8), keys, nulls, condition, any::<bool>());
    let view = view.prop_map(|(classes, exceptions, key, nulls, condition, traced)| View {
        classes,
        exceptions,
        key,
        nulls,
        condition,
        traced,
    });
    (any::<bool>(), prop::bool::weighted(0.2), fields, vec(view, 1..5))
        .prop_map(|(debezium, strict, fields, views)| Rules { debezium, strict, fields, views })
}

pub fn operator(treatment: &Value) -> &str {
    let name = treatment.as_object().and_then(|map| map.keys().next());
    name.map(String::as_str).or(treatment.as_str()).unwrap()
}

impl View {
    pub fn treatment(&self, rules: &Rules, field: usize) -> &Value {
        self.exceptions[field].as_ref().unwrap_or(&self.classes[rules.fields[field].1])
    }
}

/// The path as a policy writes it.
pub fn path_text(path: &[Segment]) -> String {
    let mut text = String::new();
    for (at, segment) in path.iter().enumerate() {
        text.push_str(if at == 0 || *segment == Segment::Element { "" } else { "." });
        match segment {
            Segment::Element => text.push_str("[]"),
            Segment::AnyName => text.push('*'),
            Segment::AnyDepth => text.push_str("**"),
            Segment::Name(name) => name.chars().for_each(|character| {
                text.push_str(if r".[*\".contains(character) { r"\" } else { "" });
                text.push(character);
            }),
        }
    }
    text
}

/// How much of each path the way so far has matched: by the number of its segments.
pub type Reached = Vec<Vec<bool>>;

/// What must become of the markers in one view.
#[derive(Default)]
pub struct Verdicts {
    /// Markers, and whether they stay where the event is published with all it has.
    pub found: Vec<(String, bool)>,
    pub unclassified: bool,
    /// The event has to be refused.
    pub unfit: bool,
}

impl Rules {
    pub fn text(&self) -> String {
        let class = |number: &usize| format!("c{number}");
        let fields = self.fields.iter().map(|(path, of)| (path_text(path), json!(class(of))));
        let views = self.views.iter().enumerate().map(|(at, view)| {
            let used = self.fields.iter().map(|(_, of)| (class(of), view.classes[*of].clone()));
            let exceptions = self
                .fields
                .iter()
                .zip(&view.exceptions)
                .filter_map(|(field, other)| Some((path_text(&field.0), other.clone()?)));
            let mut text = json!({
                "topic": format!("o{at}"), "key": view.key, "nulls": view.nulls,
                "classes": Value::Object(used.collect()),
                "fields": Value::Object(exceptions.collect()),
                "headers": if view.traced { vec![HEADERS[1].0] } else { Vec::new() },
            });
            if let Some(condition) = view.condition {
                text["where"] = json!(condition);
            }
            (format!("v{at}"), text)
        });
        let policy = json!({
            "policy": "p", "version": 1,
            "source": { "topic": "t", "format": if self.debezium { "debezium" } else { "json" } },
            "unclassified": if self.strict { "quarantine" } else { "drop" },
            "fields": Value::Object(fields.collect()),
            "views": Value::Object(views.collect()),
        });
        policy.to_string().replace("\":", "\": ")
    }

    pub fn start(&self) -> Reached {
        let mut start: Reached =
            self.fields.iter().map(|(path, _)| vec![false; path.len() + 1]).collect();
        for ((path, _), reached) in self.fields.iter().zip(&mut start) {
            reached[0] = true;
            match_nothing(path, reached);
        }
        start
    }

    /// One step on: into a member, or an element where there is no name.
    pub fn step(&self, from: &Reached, name: Option<&Name>) -> Reached {
        let one = |((path, _), from): (&(Vec<Segment>, usize), &Vec<bool>)| {
            let mut to = vec![false; from.len()];
            for (at, segment) in path.iter().enumerate() {
                to[at + 1] = match (segment, name) {
                    (Segment::Name(wanted), Some(name)) => from[at] && *wanted == name.meaning,
                    (Segment::AnyName, Some(_)) | (Segment::Element, None) => from[at],
                    (Segment::AnyDepth, _) => from[at] || from[at + 1],
                    _ => false,
                };
            }
            match_nothing(path, &mut to);
            to
        };
        self.fields.iter().zip(from).map(one).collect()
    }

    /// The most specific path that ends here. Between equally specific ones the first line decides.
    pub fn wins(&self, reached: &Reached) -> Option<usize> {
        let ends = (0..self.fields.len()).filter(|at| reached[*at][self.fields[*at].0.len()]);
        ends.min_by_key(|at| {
            let ranks = self.fields[*at].0.iter().map(|segment| match segment {
                Segment::Name(_) | Segment::Element => 0,
                Segment::AnyName => 1,
                Segment::AnyDepth => 2,
            });
            ranks.chain([3]).collect::<Vec<_>>()
        })
    }

    /// Whether a path has come here other than by `**`; of those that go on, or of all.
    pub fn named(&self, reached: &Reached, goes_on: bool) -> bool {
        self.fields.iter().zip(reached).any(|((path, _), reached)| {
            let ends = if goes_on { path.len() } else { path.len() + 1 };
            (1..ends).any(|at| reached[at] && path[at - 1] != Segment::AnyDepth)
        })
    }

    /// Judges a value and all that is inside; whether it goes on at all.
    pub fn judge(
        &self,
        view: &View,
        value: &Json,
        reached: &Reached,
        verdicts: &mut Verdicts,
    ) -> bool {
        let rule = self.wins(reached);
        let treatment = rule.map(|rule| operator(view.treatment(self, rule)));
        if let Json::Scalar { text, marker } = value {
            let stays = matches!(treatment, Some("keep" | "append"));
            verdicts.found.extend(marker.iter().map(|marker| (marker.clone(), stays)));
            verdicts.unclassified |= treatment.is_none() && text != "null";
            let takes_any = |name| name == "keep" || WHOLE.contains(&name);
            let boolean = text == "true" || text == "false";
            verdicts.unfit |= boolean && treatment.is_some_and(|name| !takes_any(name));
            return match treatment {
                None => text == "null" && self.named(reached, false),
                Some(name) => name != "drop",
            };
        }
        if let (Some(name), Some(rule), false) = (treatment, rule, self.named(reached, true)) {
            if WHOLE.contains(&name) {
                gone(value, verdicts);
                return name != "drop";
            }
            verdicts.unfit |=
                name != "keep" && self.fields[rule].0.last() != Some(&Segment::AnyDepth);
        }
        let mut any = false;
        for (name, inside) in value.children() {
            let to = self.step(reached, name);
            let goes_on = self.judge(view, inside, &to, verdicts);
            any |= goes_on;
            // A name that no path says is data, like what is behind it.
            let kept = self.wins(&to).map(|rule| operator(view.treatment(self, rule)) == "keep");
            if let (Some(marker), false) | (Some(marker), true) =
                (name.and_then(|name| name.marker.clone()), goes_on)
                && (!goes_on || kept.is_some())
            {
                verdicts.found.push((marker, goes_on && kept == Some(true)));
            }
        }
        rule.is_some() || any || self.named(reached, false)
    }
}

/// Nothing of a value stays.
pub fn gone(value: &Json, verdicts: &mut Verdicts) {
    if let Json::Scalar { marker: Some(marker), .. } = value {
        verdicts.found.push((marker.clone(), false));
    }
    for (name, inside) in value.children() {
        let marker = name.and_then(|name| name.marker.clone());
        verdicts.found.extend(marker.map(|marker| (marker, false)));
        gone(inside, verdicts);
    }
}

/// What must become of the markers of an event in one view.
pub fn verdicts(rules: &Rules, view: &View, event: &Event) -> Verdicts {
    let mut verdicts = Verdicts::default();
    rules.judge(view, &event.image, &rules.start(), &mut verdicts);
    if rules.debezium {
        if let Some(before) = &event.before {
            rules.judge(view, before, &rules.start(), &mut verdicts);
        }
        for (at, leaf) in event.source.iter().enumerate() {
            if let Json::Scalar { marker: Some(marker), .. } = leaf {
                verdicts.found.push((marker.clone(), at < 2));
            }
        }
        gone(&event.extra, &mut verdicts);
        for (name, default) in event.schema.iter().flatten() {
            let at = rules.step(&rules.start(), Some(name));
            let treatment = rules.wins(&at).map(|rule| operator(view.treatment(rules, rule)));
            let markers = name.marker.iter().chain([default]);
            let kept = treatment == Some("keep");
            verdicts.found.extend(markers.map(|marker| (marker.clone(), kept)));
        }
    }
    verdicts.unfit |= verdicts.unclassified && rules.strict;
    match &event.key {
        Some(key) if view.key == "fields" => {
            let mut of_key = Verdicts::default();
            rules.judge(view, key, &rules.start(), &mut of_key);
            verdicts.found.extend(of_key.found);
            verdicts.unfit |= of_key.unfit || of_key.unclassified;
        }
        Some(key) => gone(key, &mut verdicts),
        None => {}
    }
    verdicts.found.push((HEADERS[0].1.into(), false));
    verdicts.found.push((HEADERS[1].1.into(), view.traced));
    verdicts.found.push((DOC.into(), false));
    verdicts
}

/// `**` matches nothing too, unless the path ends in it.
pub fn match_nothing(path: &[Segment], reached: &mut [bool]) {
    for at in 0..path.len() - 1 {
        reached[at + 1] |= reached[at] && path[at] == Segment::AnyDepth;
    }
}
