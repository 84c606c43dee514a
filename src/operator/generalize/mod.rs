//! `generalize`: says less of a value, but nothing wrong: a range, a period, a network, a group.

mod age;
mod common;
mod date;
mod geohash;
mod hierarchy;
mod network;
mod numbers;
mod words;

use std::ops::RangeInclusive;
use std::sync::Arc;

use marked_yaml::Node;
use marked_yaml::types::MarkedScalarNode;

pub(crate) use self::date::Unit;
pub(super) use self::date::local_date;
use self::date::{DatePeriod, Period};
use self::network::Network;
use super::spec::{Example, Family, Gives, Parameter, Spec, Takes};
use super::{Arguments, Operator, Treatment, mask, shape};

pub const SPEC: Spec = Spec {
    name: "generalize",
    family: Family::Generalize,
    summary: "Publishes the range, period, network or group that the value lies in. It takes exactly one of \
              numbers, date, age, prefix, ip_prefix, geohash, map, hierarchy, common.",
    takes: Takes::Text,
    gives: Gives::String,
    reversible: false,
    deterministic: true,
    distinct: false,
    of_subject: false,
    parameters: &[
        Parameter {
            name: "numbers",
            default: "none",
            doc: "a width, or a list of ascending borders; a border belongs to the range above it. Integers \
                  between integer borders give `18-64`, all else, and what lies below 0, gives `[18,65)`. \
                  Compared digit by digit, whatever the length. What is not a number is quarantined: \
                  not_a_number; with a width, so is a number whose range needs more than 38 digits",
        },
        Parameter {
            name: "date",
            default: "none",
            doc: "year, quarter, month, week (ISO 8601) or decade, of an ISO 8601 date or date-time, \
                  `YYYY/MM/DD` or `YYYYMMDD`; what counts is the date as it is written, not its offset or \
                  zone. What is not a date is quarantined: not_a_date",
        },
        Parameter {
            name: "as",
            default: "short",
            doc: "with date. `short`: the period, such as `1985-Q2`; `start`: its first day, such as \
                  `1985-04-01`",
        },
        Parameter {
            name: "unit",
            default: "none",
            doc: "with date and age: what dates given as JSON numbers count since 1970-01-01 UTC: days, seconds, \
                  millis, micros or nanos. Without it a number is not a date",
        },
        Parameter {
            name: "age",
            default: "none",
            doc: "as numbers: the range of the whole years since a birth date. What is not a date, or lies ahead, is \
                  quarantined: not_a_date",
        },
        Parameter {
            name: "on",
            default: "the record's timestamp",
            doc: "with age: the day, such as `2026-01-01` (UTC), on which it is counted; the age of a person who is \
                  published again grows otherwise",
        },
        Parameter {
            name: "prefix",
            default: "none",
            doc: "how many characters stay, such as those of a postal code; a value that has no more is \
                  hidden whole",
        },
        Parameter {
            name: "with",
            default: "*",
            doc: "with prefix: what stands for one hidden character",
        },
        Parameter {
            name: "ip_prefix",
            default: "none",
            doc: "how many bits of an IPv4 address stay, 0 to 32. What is not an address is quarantined: \
                  wrong_type",
        },
        Parameter {
            name: "ip6_prefix",
            default: "48",
            doc: "with ip_prefix: how many bits of an IPv6 address stay, 0 to 128",
        },
        Parameter {
            name: "geohash",
            default: "none",
            doc: "how many characters of the geohash are told, 1 to 12, of a text `LATITUDE,LONGITUDE` in degrees or of a \
                  geohash: 5 is about 5 km, 6 about 1 km. What is neither is quarantined: wrong_type",
        },
        Parameter {
            name: "map",
            default: "none",
            doc: "words and the group of each; they must match in every character",
        },
        Parameter {
            name: "other",
            default: "other",
            doc: "with map, hierarchy and common: what stands for every other word; `*` with hierarchy",
        },
        Parameter {
            name: "hierarchy",
            default: "none",
            doc: "a CSV file beside the policy, a line for each word with ever wider groups behind it, \
                  `nurse;health;*`, as ARX and others write them; words must match in every character",
        },
        Parameter {
            name: "level",
            default: "1",
            doc: "with hierarchy: which group is told: 1 is the one behind the word",
        },
        Parameter {
            name: "common",
            default: "none",
            doc: "rare-value suppression: a CSV file beside the policy with a word and how many people have it on each \
                  line, `nurse;1200`. Words of `least` people pass, all others, which may single somebody out, become \
                  `other`",
        },
        Parameter {
            name: "least",
            default: "50",
            doc: "with common: of how many people a word is common",
        },
    ],
    examples: &[
        Example { policy: "generalize: { numbers: 10 }", input: "34", output: r#""30-39""# },
        Example {
            policy: "generalize: { numbers: [0, 18, 65] }",
            input: "42",
            output: r#""18-64""#,
        },
        Example {
            policy: "generalize: { numbers: [0, 18, 65] }",
            input: "42.5",
            output: r#""[18,65)""#,
        },
        Example {
            policy: "generalize: { date: quarter }",
            input: r#""1985-04-12T23:20:50Z""#,
            output: r#""1985-Q2""#,
        },
        Example {
            policy: "generalize: { date: year, as: start }",
            input: r#""2076-07-15""#,
            output: r#""2076-01-01""#,
        },
        Example {
            policy: "generalize: { date: decade, unit: days }",
            input: "5580",
            output: r#""1980s""#,
        },
        Example {
            policy: "generalize: { age: [18, 30, 65], on: 2026-11-26 }",
            input: r#""1985-04-12""#,
            output: r#""30-64""#,
        },
        Example {
            policy: "generalize: { geohash: 5 }",
            input: r#""48.8584,2.2945""#,
            output: r#""u09tu""#,
        },
        Example {
            policy: "generalize: { prefix: 2, with: '0' }",
            input: r#""75011""#,
            output: r#""75000""#,
        },
        Example {
            policy: "generalize: { ip_prefix: 24 }",
            input: r#""203.0.113.7""#,
            output: r#""203.0.113.0/24""#,
        },
        Example {
            policy: "generalize: { map: { Paris: France, Lyon: France }, other: abroad }",
            input: r#""Lyon""#,
            output: r#""France""#,
        },
    ],
    build,
};

/// The parameters of which exactly one is given.
const WAYS: [&str; 9] =
    ["numbers", "date", "age", "prefix", "ip_prefix", "geohash", "map", "hierarchy", "common"];

/// The other parameters, and those that each goes with.
const COMPANIONS: [(&str, &[&str]); 8] = [
    ("as", &["date"]),
    ("unit", &["date", "age"]),
    ("on", &["age"]),
    ("with", &["prefix"]),
    ("ip6_prefix", &["ip_prefix"]),
    ("level", &["hierarchy"]),
    ("other", &["map", "hierarchy", "common"]),
    ("least", &["common"]),
];

fn build(arguments: &mut Arguments<'_>) -> Option<Treatment> {
    let given = WAYS.map(|name| Some((name, arguments.node(name)?)));
    let mut given = given.into_iter().flatten();
    let (way, second) = (given.next(), given.next());
    for (name, companions) in COMPANIONS {
        if second.is_none() && way.is_some_and(|(way, _)| companions.contains(&way)) {
            continue;
        }
        // Where the way itself is in doubt, that is the only mistake to report.
        if let (Some(node), Some((way, _)), None) = (arguments.node(name), way, second) {
            let expected =
                format!("no `{name}` with `{way}`: it goes with `{}`", companions.join("` and `"));
            arguments.problem(node.span(), format!("`{name}`"), expected);
        }
    }
    let one = || format!("exactly one of {}", WAYS.join(", "));
    let Some((way, node)) = way else {
        arguments.missing(one());
        return None;
    };
    if let Some((second, node)) = second {
        arguments.problem(node.span(), format!("`{way}` and `{second}`"), one());
        return None;
    }
    let operator: Arc<dyn Operator> = match way {
        "numbers" => numbers::build(arguments, node)?.into(),
        "date" => {
            let word = one_value(arguments, way, node);
            let period = arguments.one_of(word, Period::WORDS);
            let form = arguments.scalar("as");
            let start = arguments.one_of(form, &["short", "start"]) == Some("start");
            let unit = unit(arguments);
            Arc::new(DatePeriod { period: Period::of(period?), start, unit })
        }
        "age" => Arc::new(age::build(arguments, node)?),
        "geohash" => {
            let length = number(arguments, way, node, 1..=12)?;
            Arc::new(geohash::Geohash { length: length as usize })
        }
        "hierarchy" => {
            let file = one_value(arguments, way, node)?;
            Arc::new(hierarchy::build(arguments, file)?)
        }
        "common" => {
            let file = one_value(arguments, way, node)?;
            Arc::new(common::build(arguments, file)?)
        }
        "prefix" => {
            let with = mask::with(arguments);
            let first = number(arguments, way, node, 0..=1000)?;
            Arc::new(mask::beginning(first as usize, with))
        }
        "ip_prefix" => {
            let v4 = number(arguments, way, node, 0..=32);
            let v6 = arguments.number("ip6_prefix", 0..=128).unwrap_or(48);
            Arc::new(Network { v4: v4? as u32, v6: v6 as u32 })
        }
        _ => {
            let other = arguments.text("other").unwrap_or("other");
            words::build(arguments, node, other)?.into()
        }
    };
    Some(Treatment::Plain(operator))
}

/// What numbers count.
fn unit(arguments: &mut Arguments<'_>) -> Option<Unit> {
    let unit = arguments.scalar("unit");
    arguments.one_of(unit, Unit::WORDS).map(Unit::of)
}

/// The scalar that `node`, the parameter `name`, must be.
fn one_value<'n>(
    arguments: &mut Arguments<'_>,
    name: &str,
    node: &'n Node,
) -> Option<&'n MarkedScalarNode> {
    if node.as_scalar().is_none() {
        arguments.problem(node.span(), shape(node), format!("one value for `{name}`"));
    }
    node.as_scalar()
}

/// The whole number within `range` that `node`, the parameter `name`, must be.
fn number(
    arguments: &mut Arguments<'_>,
    name: &str,
    node: &Node,
    range: RangeInclusive<u64>,
) -> Option<u64> {
    let number = node.as_scalar().and_then(|scalar| scalar.as_str().parse().ok());
    let number = number.filter(|number| range.contains(number));
    if number.is_none() {
        let expected =
            format!("a whole number from {} to {} for `{name}`", range.start(), range.end());
        arguments.problem(node.span(), shape(node), expected);
    }
    number
}

#[cfg(test)]
mod tests {

    use crate::operator::Refusal;
    use crate::operator::testing::{self, read};

    /// The characters of what `policy` makes of a JSON value.
    pub(super) fn apply(policy: &str, input: &str) -> Result<String, Refusal> {
        testing::apply(policy, input).map(|out| serde_json::from_str(&out).unwrap())
    }

    /// JSON values and the characters of what `policy` makes of them.
    pub(super) fn assert_gives(policy: &str, pairs: &[(&str, &str)]) {
        for (input, expected) in pairs {
            assert_eq!(apply(policy, input).as_deref(), Ok(*expected), "{policy} of {input}");
        }
    }

    pub(super) fn assert_refuses(policy: &str, input: &str, refusal: Refusal) {
        assert_eq!(apply(policy, input), Err(refusal), "{policy} of {input}");
    }

    /// One problem that expects `expected`.
    pub(super) fn assert_wrong(policy: &str, expected: &str) {
        let problems = read(policy).err().unwrap_or_default();
        assert_eq!(problems.len(), 1, "{policy}: {problems:?}");
        assert!(
            problems.iter().all(|problem| problem.contains(expected)),
            "{policy}: {problems:?}"
        );
    }

    #[test]
    fn the_beginning_of_a_text_stays() {
        assert_gives(
            "generalize: { prefix: 2 }",
            &[
                (r#""75011""#, "75***"),
                ("75011", "75***"),
                (r#""75""#, "**"),
                (r#""7""#, "*"),
                (r#""""#, ""),
                (r#""北京市""#, "北京*"),
                ("\"e\u{301}a\u{301}b\"", "e\u{301}a\u{301}*"),
            ],
        );
        assert_gives("generalize: { prefix: 0, with: x }", &[(r#""ab""#, "xx")]);
        assert_wrong("generalize: { prefix: /24 }", "from 0 to 1000");
        assert_wrong("generalize: { prefix: 2, with: '' }", "a mask character");
    }

    #[test]
    fn exactly_one_way_is_taken() {
        assert_wrong("generalize", "exactly one of numbers, date");
        assert_wrong("generalize: year", "exactly one of numbers, date");
        assert_wrong("generalize: {}", "exactly one of numbers, date");
        assert_wrong("generalize: { with: x }", "exactly one of numbers, date");
        assert_wrong(
            "generalize: { numbers: 10, date: year }",
            "`numbers` and `date` / exactly one",
        );
        assert_wrong("generalize: { date: year, unit: days, numbers: 10 }", "exactly one");
        assert_wrong("generalize: { numbers: 10, unit: days }", "no `unit` with `numbers`");
        assert_wrong("generalize: { date: year, other: x }", "it goes with `map`");
        assert_wrong("generalize: { date: year, round: x }", "ip_prefix, geohash, map");
    }
}
