//! The part of a view that says which figures it publishes in place of people.

use std::collections::BTreeSet;
use std::sync::Arc;

use marked_yaml::Node;
use marked_yaml::types::{MarkedMappingNode, Span};

use super::super::model::*;
use super::super::path::Path;
use super::{Parser, one_line};
use crate::aggregate::{
    self, Budget, Field as Number, Loss, Period, PeriodTime, Privacy, Settings, Stream,
    SystemNoise, Unfit, Windows,
};
use crate::operator::Treatment;
use crate::operator::anonymize::{AGGREGATED, group_name};
use crate::operator::decimal::Decimal;
use crate::operator::generalize::Unit;

const KEYS: &[&str] = &[
    "window",
    "every",
    "offset",
    "lateness",
    "idle",
    "ahead",
    "time",
    "changes",
    "by",
    "least",
    "contributions",
    "numbers",
    "figures",
    "privacy",
    "groups",
    "subjects",
];
/// Names that the rows of every view have.
const RESERVED: [&str; 5] = ["window_start", "window_end", "other", "noise", "withheld"];

const LEAST: u64 = 10;
const CONTRIBUTIONS: u64 = 100;
const MOST_GROUPS: u64 = 10_000;
const MOST_SUBJECTS: u64 = 1_000_000;
const MOST_WINDOWS: usize = 1_000;
const LATENESS_MS: i64 = 60_000;
const IDLE_MS: i64 = 60_000;
const AHEAD_MS: i64 = 24 * 3600 * 1000;
/// Epsilon has so many decimal places, and delta so many.
const EPSILON_PLACES: i64 = 9;
const DELTA_PLACES: i64 = 18;

/// Why there can be no such figures, in the words of a policy: what was found, and what is expected.
fn unfit_words(
    unfit: &Unfit,
    settings: &Settings,
    numbers: &[(Path, Number)],
    figures: &[(String, aggregate::Aggregate)],
) -> (String, String) {
    let figure = |at: usize| figures.get(at).map_or("", |(name, _)| name.as_str());
    let (found, expected) = match *unfit {
        Unfit::NoBounds(at) => (
            format!("`{}` with `privacy`, of a number without bounds", figure(at)),
            "`min` and `max` of its number: they limit what one subject can change".to_owned(),
        ),
        Unfit::Extreme(at) => (
            format!("`{}`, an extreme, with `privacy`", figure(at)),
            "a quantile, such as 0.01 or 0.99: an extreme is the value of one subject".to_owned(),
        ),
        Unfit::Field(at) => (
            format!(
                "the bounds of `{}`",
                numbers.get(at).map(|(path, _)| path.to_string()).unwrap_or_default()
            ),
            "a `min` below its `max`".to_owned(),
        ),
        Unfit::MostGroups(least) => (
            format!("`groups: {}` with `privacy`", settings.most_groups),
            format!(
                "as many as are declared, or at least {least} (`subjects` times `contributions`): what one subject adds \
                 must not push out others"
            ),
        ),
        Unfit::MostSubjects(least) => (
            format!("`subjects: {}` with `privacy`", settings.most_subjects),
            format!("at least {least}: that fewer had no room cannot be told with noise"),
        ),
        Unfit::MostWindows(open) => (
            format!("{open} windows that are open at once"),
            format!(
                "at most {MOST_WINDOWS}: a longer `every`, or a shorter `window` or `lateness`"
            ),
        ),
        _ => (unfit.to_string(), "windows and figures that can be made".to_owned()),
    };
    (found, expected)
}

impl Parser<'_> {
    /// Gives the exceptions as well that take the place of the treatments of classes.
    pub(super) fn aggregate(
        &mut self,
        node: &Node,
        fields: &[(Span, Field)],
    ) -> Option<(Rule, Vec<(Path, Chosen)>)> {
        let map = self.mapping(node, "`window` and `figures`")?;
        self.only(map, KEYS, "`aggregate`");
        let size = self.required(map, "window", "`window:`, such as 1h");
        let size = size.and_then(|node| self.delay(node));
        let time_of = |parser: &mut Self, name, usual: Option<i64>| match map.get_node(name) {
            None => usual,
            Some(node) => parser.delay(node),
        };
        let slide = time_of(self, "every", size);
        let offset = time_of(self, "offset", Some(0));
        let lateness = time_of(self, "lateness", Some(LATENESS_MS));
        let idle = time_of(self, "idle", Some(IDLE_MS));
        let ahead = time_of(self, "ahead", Some(AHEAD_MS));
        let count = |parser: &mut Self, name, usual| match map.get_node(name) {
            None => Some(usual),
            Some(node) => parser.whole(node, 1..=100_000_000),
        };
        let least = count(self, "least", LEAST);
        let contributions = count(self, "contributions", CONTRIBUTIONS);
        let subjects = count(self, "subjects", MOST_SUBJECTS);
        let all = [("all", false), ("creates", true)];
        let creates = self.choice(map.get_node("changes"), &all, false);
        let mut by = Vec::new();
        for word in self.words(map.get_node("by"), "a path that stands in `fields`") {
            by.extend(self.single(word, fields));
        }
        let numbers = self.numbers(map.get_node("numbers"), fields);
        let time = map.get_node("time").and_then(|node| self.time(node, fields));
        let figures = self.figures(map, &numbers, &by);
        let privacy = map.get_node("privacy").map(|node| self.privacy(node, by.len()));
        let privacy = match privacy {
            Some(None) => return None,
            privacy => privacy.flatten(),
        };
        let groups = match (map.get_node("groups"), &privacy) {
            // Declared groups and no others, where there are any; else room for whatever comes.
            (None, Some(privacy)) if !privacy.declared.is_empty() => privacy.declared.len() as u64,
            (None, Some(_)) => subjects?.saturating_mul(contributions?),
            (None, None) => MOST_GROUPS,
            (Some(node), _) => self.whole(node, 1..=100_000_000)?,
        };
        let settings = Settings {
            windows: Windows { size: size?, slide: slide?, offset: offset? },
            lateness: lateness?,
            ahead: Some(ahead?),
            longest_wait: Some(idle?),
            fields: numbers.iter().map(|(_, number)| *number).collect(),
            aggregates: figures.iter().map(|(_, figure)| *figure).collect(),
            least: least?,
            contributions: contributions? as u32,
            privacy,
            most_groups: usize::try_from(groups).unwrap_or(usize::MAX),
            most_subjects: subjects? as usize,
            most_windows: MOST_WINDOWS,
        };
        if let Err(unfit) = Stream::new(settings.clone(), Box::new(SystemNoise)) {
            let (found, expected) = unfit_words(&unfit, &settings, &numbers, &figures);
            self.at(map.span(), found, expected);
            return None;
        }
        self.is_sound(map, &settings);
        let at = self.place(node.span());
        // The plan takes them out of the row; whoever does not know of that drops them.
        let chosen = |text: &str| Chosen {
            spec: &AGGREGATED,
            treatment: Treatment::Drop,
            text: text.to_owned(),
            domain: None,
            at: at.clone(),
        };
        let of_numbers = numbers.iter().map(|(path, _)| (path, "aggregate: a number"));
        let of_time = time.iter().map(|(path, _)| (path, "aggregate: the time"));
        let taken = of_numbers.chain(of_time).map(|(path, text)| (path.clone(), chosen(text)));
        let taken: Vec<_> = taken.collect();
        let mut once = BTreeSet::new();
        for path in by.iter().chain(taken.iter().map(|(path, _)| path)) {
            if !once.insert(path.clone()) {
                self.at(map.span(), format!("`{path}` twice"), "a field for one thing alone");
            }
        }
        let aggregate = Aggregate {
            by,
            numbers: numbers.into_iter().map(|(path, _)| path).collect(),
            time,
            creates,
            figures: figures.into_iter().map(|(name, _)| name).collect(),
            settings,
            text: one_line(node),
        };
        Some((Rule::Windows(Arc::new(aggregate)), taken))
    }

    /// What is allowed, and says more than its author may think.
    fn is_sound(&mut self, map: &MarkedMappingNode, settings: &Settings) {
        if settings.privacy.is_some() {
            return;
        }
        if settings.windows.slide != settings.windows.size {
            self.warn(
                map.span(),
                "windows that overlap, without `privacy`",
                "windows of which one begins where the other ends (`every` as `window`): the difference between two may \
                 be one person",
            );
        }
        if settings.least == 1 {
            self.warn(map.span(), "`least: 1`, without `privacy`", "figures of several people");
        }
    }

    /// `amount: { decimals: 2, min: 0, max: 1000 }`.
    fn numbers(&mut self, node: Option<&Node>, fields: &[(Span, Field)]) -> Vec<(Path, Number)> {
        let Some(node) = node else { return Vec::new() };
        let expected = "paths of numbers, each with `decimals`, `min` and `max`, or nothing";
        let Some(map) = self.mapping(node, expected) else { return Vec::new() };
        let mut all = Vec::new();
        for (word, node) in map.iter() {
            let Some(path) = self.single(word, fields) else { continue };
            let mut number = Number { places: 0, bounds: None };
            if !node.as_scalar().is_some_and(|word| word.as_str().is_empty()) {
                let Some(map) = self.mapping(node, expected) else { continue };
                self.only(map, &["decimals", "min", "max"], "a number");
                if let Some(node) = map.get_node("decimals") {
                    number.places = self.whole(node, 0..=9).unwrap_or(0) as u32;
                }
                let end = |parser: &mut Self, name| {
                    let node = map.get_node(name)?;
                    parser.decimal(node, i64::from(number.places), 1_000_000_000)
                };
                let (least, most) = (end(self, "min"), end(self, "max"));
                match (map.get_node("min").is_some(), map.get_node("max").is_some()) {
                    (true, true) => number.bounds = least.zip(most),
                    (false, false) => {}
                    _ => self.at(map.span(), "one bound", "`min` and `max`, or neither"),
                }
            }
            all.push((path, number));
        }
        all
    }

    /// In units of the last of so many decimal places.
    fn decimal(&mut self, node: &Node, places: i64, most: i128) -> Option<i128> {
        let expected = format!("a number of at most {places} decimal places, up to {most}");
        let word = self.scalar(node, &expected)?;
        let number = Decimal::parse(word.as_str()).filter(|number| number.places() <= places);
        let units = number.and_then(|number| number.floor(places));
        let unit = 10_i128.checked_pow(u32::try_from(places).unwrap_or(0)).unwrap_or(i128::MAX);
        let units = units.filter(|units| units.abs() <= most.saturating_mul(unit));
        if units.is_none() {
            self.at(word.span(), format!("`{}`", word.as_str()), expected);
        }
        units
    }

    /// `time: PATH`, or `time: { path: PATH, unit: millis }`.
    fn time(&mut self, node: &Node, fields: &[(Span, Field)]) -> Option<(Path, Option<Unit>)> {
        let expected = "the path of a time: `ordered_at`, or `{ path: ordered_at, unit: millis }`";
        let Node::Mapping(map) = node else {
            let word = self.scalar(node, expected)?;
            return Some((self.single(word, fields)?, None));
        };
        self.only(map, &["path", "unit"], "`time`");
        let word =
            self.required(map, "path", expected).and_then(|node| self.scalar(node, expected))?;
        let units =
            Unit::WORDS.iter().map(|word| (*word, Some(Unit::of(word)))).collect::<Vec<_>>();
        let unit = self.choice(map.get_node("unit"), &units, None);
        Some((self.single(word, fields)?, unit))
    }

    /// `orders: count`, `revenue: { sum: amount }`, `median: { quantile: 0.5, of: amount }`.
    fn figures(
        &mut self,
        map: &MarkedMappingNode,
        numbers: &[(Path, Number)],
        by: &[Path],
    ) -> Vec<(String, aggregate::Aggregate)> {
        use aggregate::Aggregate::*;
        let expected = "figures by name: `orders: count`, `revenue: { sum: amount }`";
        let Some(node) = self.required(map, "figures", expected) else { return Vec::new() };
        let Some(map) = self.mapping(node, expected) else { return Vec::new() };
        let mut all = Vec::new();
        for (word, node) in map.iter() {
            let Some(name) = self.valid_name(word, "the name of a figure") else { continue };
            if RESERVED.contains(&name.as_str()) || by.iter().any(|path| path.to_string() == name) {
                self.at(
                    word.span(),
                    format!("`{name}`"),
                    "another name: rows have this one already",
                );
            }
            let number = |parser: &mut Self, node: &Node| {
                let word = parser.scalar(node, "a path of `numbers`")?;
                let found = numbers.iter().position(|(path, _)| path.to_string() == word.as_str());
                if found.is_none() {
                    parser.at(word.span(), format!("`{}`", word.as_str()), "a path of `numbers`");
                }
                found
            };
            let expected = "count, subjects, or one of sum, mean, min, max and quantile, with a path of `numbers`";
            let figure = match node {
                Node::Scalar(word) if word.as_str() == "count" => Some(Count),
                Node::Scalar(word) if word.as_str() == "subjects" => Some(Subjects),
                Node::Mapping(map) if map.get_node("quantile").is_some() => {
                    self.only(map, &["quantile", "of"], "a quantile");
                    let share = map.get_node("quantile").and_then(|node| self.decimal(node, 3, 1));
                    let of = self.required(map, "of", "`of:`, a path of `numbers`");
                    let field = of.and_then(|node| number(self, node));
                    match (share, field) {
                        (Some(share @ 0..=1000), Some(field)) => {
                            Some(Quantile { field, per_mille: share as u16 })
                        }
                        (Some(_), Some(_)) => {
                            self.at(map.span(), "a quantile below 0", "a share from 0 to 1");
                            continue;
                        }
                        _ => continue,
                    }
                }
                Node::Mapping(map) if map.len() == 1 => {
                    let Some((kind, node)) = map.iter().next() else { continue };
                    let make: Option<fn(usize) -> aggregate::Aggregate> = match kind.as_str() {
                        "sum" => Some(Sum),
                        "mean" => Some(Mean),
                        "min" => Some(Min),
                        "max" => Some(Max),
                        _ => None,
                    };
                    match make {
                        Some(make) => match number(self, node) {
                            Some(field) => Some(make(field)),
                            None => continue,
                        },
                        None => None,
                    }
                }
                _ => None,
            };
            match figure {
                Some(figure) => all.push((name, figure)),
                None => self.at(node.span(), crate::operator::shape(node), expected),
            }
        }
        all
    }

    fn privacy(&mut self, node: &Node, by: usize) -> Option<Privacy> {
        let map = self.mapping(node, "`epsilon`, `delta` and `budget`")?;
        self.only(map, &["epsilon", "delta", "budget", "groups"], "`privacy`");
        let loss = self.loss(map)?;
        let node = self.required(
            map,
            "budget",
            "`budget:`, what a period may spend: `{ epsilon: 24, delta: 0.0001, per: day }`",
        )?;
        let budget = self.mapping(node, "`epsilon`, `delta` and `per`")?;
        self.only(budget, &["epsilon", "delta", "per", "by"], "`budget`");
        let most = self.loss(budget);
        let periods = [
            ("hour", Period::Every(3_600_000)),
            ("day", Period::Every(86_400_000)),
            ("week", Period::Every(7 * 86_400_000)),
            ("month", Period::Month),
            ("ever", Period::Every(1 << 53)),
        ];
        let _ = self.required(budget, "per", "`per:`, one of hour, day, week, month, ever");
        let period = self.choice(budget.get_node("per"), &periods, Period::Month);
        let times = [("event", PeriodTime::Event), ("publication", PeriodTime::Processing)];
        let time = self.choice(budget.get_node("by"), &times, PeriodTime::Event);
        let declared =
            map.get_node("groups").map(|node| self.declared(node, by)).unwrap_or_default();
        // Without `by` there is one group, and everybody is in it.
        let declared = if by == 0 { vec![Vec::new().into()] } else { declared };
        Some(Privacy { loss, declared, budget: Budget { loss: most?, period, time } })
    }

    fn loss(&mut self, map: &MarkedMappingNode) -> Option<Loss> {
        let epsilon = self.required(map, "epsilon", "`epsilon:`, above 0")?;
        let epsilon = self.decimal(epsilon, EPSILON_PLACES, 1_000_000_000);
        let delta = match map.get_node("delta") {
            None => Some(0),
            Some(node) => self.decimal(node, DELTA_PLACES, 1),
        };
        let units = |number: Option<i128>| number.and_then(|number| u64::try_from(number).ok());
        let loss = units(epsilon).zip(units(delta));
        if loss.is_none() {
            self.at(map.span(), "what can be lost", "`epsilon` above 0, and `delta` from 0 to 1");
        }
        let (epsilon, delta) = loss?;
        Some(Loss { epsilon, delta })
    }

    /// Groups that are published whoever is in them: lists of as many words as `by` has.
    fn declared(&mut self, node: &Node, by: usize) -> Vec<Arc<[String]>> {
        let expected =
            format!("lists of {by} values, in the order of `by`: `[[DE, pro], [FR, pro]]`");
        let Node::Sequence(list) = node else {
            self.at(node.span(), crate::operator::shape(node), expected);
            return Vec::new();
        };
        let mut all = Vec::new();
        for node in list.iter() {
            let words = match node {
                Node::Sequence(words) => words.iter().filter_map(Node::as_scalar).collect(),
                Node::Scalar(word) => vec![word],
                Node::Mapping(_) => Vec::new(),
            };
            if words.len() == by {
                let group = words.iter().map(|word| group_name(word.as_str())).collect();
                if !all.contains(&group) {
                    all.push(group);
                }
            } else {
                self.at(node.span(), crate::operator::shape(node), expected.clone());
            }
        }
        all
    }
}
