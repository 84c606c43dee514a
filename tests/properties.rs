//! Properties of the rewrite, over random policies and random events.
//!
//! Nearly every scalar, and every name that no path says, holds a marker: a run of digits that stands nowhere else.
//! What must become of it in a view is worked out here from docs/policy.md, without the engine's automaton.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a test that fails here fails where it should"
)]

#[path = "properties/events.rs"]
mod events;
#[path = "properties/rules.rs"]
mod rules;
mod support;

use std::cell::Cell;
use std::sync::Arc;

use events::{Event, event};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::test_runner::{TestCaseResult, TestRunner};
use rules::{HEADERS, Rules, Segment, WHOLE, operator, rules, verdicts};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use support::engine::{engine, parse};
use veilstream::keys::Keyset;
use veilstream::policy::Plan;
use veilstream::rewrite::{Disposition, Failure, RawRecord, Reason, Rewriter};

/// Key, value, and headers one behind the other.
type Record = (Option<Vec<u8>>, Option<Vec<u8>>, Vec<u8>);
type Published = Result<Vec<(Disposition, Vec<Record>)>, Failure>;

fn publish(rewriter: &mut Rewriter, key: Option<&[u8]>, value: Option<&[u8]>) -> Published {
    let views = rewriter.plan().views.len();
    let headers = HEADERS.map(|(name, value)| (name, Some(value.as_bytes())));
    let out =
        rewriter.rewrite(&RawRecord { key, value, headers: &headers, ..RawRecord::default() })?;
    let own = |part: Option<&[u8]>| part.map(<[u8]>::to_vec);
    let of = |view| {
        let records = out.records(view).map(|one| {
            let headers = one.headers().flat_map(|(name, value)| [name.as_bytes(), value.unwrap()]);
            (own(one.key()), own(one.value()), headers.collect::<Vec<_>>().concat())
        });
        (out.dispositions()[view], records.collect())
    };
    Ok((0..views).map(of).collect())
}

fn publish_event(rewriter: &mut Rewriter, rules: &Rules, event: &Event) -> Published {
    let (key, value) = (event.key(), event.value(rules.debezium));
    publish(rewriter, key.as_deref().map(str::as_bytes), Some(value.as_bytes()))
}

fn check<S: Strategy>(cases: u32, strategy: S, test: impl Fn(S::Value) -> TestCaseResult) {
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    TestRunner::new(config).run(&strategy, test).unwrap_or_else(|error| panic!("{error}"));
}

/// For the message of an assertion.
fn show(rules: &Rules, event: &Event) -> String {
    format!("{}\nkey {:?}\n{}", rules.text(), event.key(), event.value(rules.debezium))
}

/// Whether a text is JSON, and what stands as JSON in its strings too. serde_json's tree has neither all numbers
/// nor all levels.
fn is_json(text: &[u8]) -> bool {
    fn strings(value: &Value) -> bool {
        match value {
            Value::String(text) => !text.starts_with('{') || is_json(text.as_bytes()),
            Value::Array(items) => items.iter().all(strings),
            Value::Object(members) => members.values().all(strings),
            _ => true,
        }
    }
    let known = ["number out of range", "recursion limit exceeded"];
    serde_json::from_slice::<&RawValue>(text).is_ok()
        && match serde_json::from_slice::<Value>(text) {
            Ok(value) => strings(&value),
            Err(error) => known.iter().any(|known| error.to_string().contains(known)),
        }
}

/// Whether a path is made of names that the policy knows.
fn is_known(path: &str, rules: &Rules) -> bool {
    if path.starts_with('(') {
        return path.chars().all(|character| matches!(character, 'a'..='z' | ' ' | '(' | ')'));
    }
    let names =
        rules.fields.iter().flat_map(|(path, _)| path).filter_map(|segment| match segment {
            Segment::Name(name) => Some(*name),
            _ => None,
        });
    let mut names: Vec<&str> = names.chain(["a", "b", "c"]).collect();
    names.sort_by_key(|name| std::cmp::Reverse(name.len()));
    let digest = regex::Regex::new("<unclassified:[0-9a-f]{12}>").unwrap();
    let mut rest = digest.replace_all(path, "").into_owned();
    for name in names {
        rest = rest.replace(name, "");
    }
    rest.chars().all(|character| ".*[]".contains(character))
}

/// A text without the escapes of JSON, wherever they stand.
fn unescaped(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let escape = &rest[at + 1..];
        let code = escape.get(1..5).and_then(|code| u32::from_str_radix(code, 16).ok());
        let character = escape.chars().next().unwrap_or('\\');
        let (character, length) = match (character, code) {
            ('u', Some(code)) => (char::from_u32(code).unwrap_or('?'), 5),
            _ => (character, character.len_utf8()),
        };
        out.push(character);
        rest = escape.get(length..).unwrap_or_default();
    }
    out + rest
}

/// JSON text without insignificant white space.
fn compact(text: &str) -> String {
    let (mut quoted, mut escaped) = (false, false);
    let significant = |character: &char| {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = quoted,
            '"' => quoted = !quoted,
            _ => {}
        }
        quoted || !character.is_ascii_whitespace()
    };
    text.chars().filter(significant).collect()
}

// The properties.

#[test]
fn what_comes_out_is_json_and_a_refusal_names_nothing_of_the_event() {
    check(5000, (rules(), event()), |(rules, event)| {
        let mut rewriter = engine(&rules.text()).rewriter;
        match publish_event(&mut rewriter, &rules, &event) {
            Ok(out) => {
                for ((_, records), view) in out.iter().zip(&rules.views) {
                    for (key, value, _) in records {
                        let key = key.as_ref().filter(|_| view.key == "fields");
                        for text in key.into_iter().chain(value) {
                            let shown = String::from_utf8_lossy(text);
                            prop_assert!(is_json(text), "{}\n-> {shown}", show(&rules, &event));
                        }
                    }
                }
            }
            Err(failure) => {
                let known = failure.path.as_ref().is_none_or(|path| is_known(path, &rules));
                prop_assert!(known, "{}\n-> {failure}", show(&rules, &event));
                prop_assert!(failure.reason != Reason::Internal, "{}", show(&rules, &event));
            }
        }
        Ok(())
    });
}

#[test]
fn what_a_view_may_not_have_is_nowhere_in_it_and_what_it_keeps_is_there() {
    let (kept, removed, refused) = (Cell::new(0_u32), Cell::new(0_u32), Cell::new(0_u32));
    let cases = 10_000;
    check(cases, (rules(), event()), |(rules, event)| {
        let verdicts: Vec<_> =
            rules.views.iter().map(|view| verdicts(&rules, view, &event)).collect();
        let mut rewriter = engine(&rules.text()).rewriter;
        // Once to learn what to expect.
        let _ = publish_event(&mut rewriter, &rules, &event);
        let out = match publish_event(&mut rewriter, &rules, &event) {
            Ok(out) => out,
            Err(failure) => {
                refused.set(refused.get() + 1);
                let mut markers = verdicts[0].found.iter();
                let said = markers.find(|(marker, _)| failure.to_string().contains(marker));
                prop_assert!(said.is_none(), "{said:?} in {failure}\n{}", show(&rules, &event));
                return Ok(());
            }
        };
        let unfit = verdicts.iter().any(|verdicts| verdicts.unfit);
        prop_assert!(!unfit, "was not refused: {}", show(&rules, &event));
        for (view, ((disposition, records), verdicts)) in out.iter().zip(&verdicts).enumerate() {
            let parts = records.iter().flat_map(|(key, value, headers)| {
                [key.as_deref().unwrap_or_default(), value.as_deref().unwrap_or_default(), headers]
            });
            let raw = String::from_utf8(parts.collect::<Vec<_>>().join(&b' ')).unwrap();
            let (once, twice) = (unescaped(&raw), unescaped(&unescaped(&raw)));
            for (marker, stays) in &verdicts.found {
                let seen = [&raw, &once, &twice].iter().any(|text| text.contains(marker));
                let right =
                    if *stays { seen || *disposition != Disposition::Publish } else { !seen };
                let counter = if seen { &kept } else { &removed };
                counter.set(counter.get() + 1);
                prop_assert!(
                    right,
                    "{marker} in view {view}, seen: {seen}\n{}\n-> {raw}",
                    show(&rules, &event)
                );
            }
        }
        Ok(())
    });
    println!("markers kept {kept:?}, removed {removed:?}; events refused {refused:?}");
    assert!(refused.get() < cases * 2 / 3 && kept.get() > cases && removed.get() > cases);
}

#[test]
fn a_view_that_keeps_all_gets_the_values_byte_for_byte() {
    check(3000, (rules(), event()), |(mut rules, mut event)| {
        (event.in_string, event.key, rules.strict) = (false, None, false);
        let everything = vec![Segment::AnyDepth];
        rules.fields.retain(|(path, _)| *path != everything);
        rules.fields.push((everything, 3));
        for (at, view) in rules.views.iter_mut().enumerate() {
            view.exceptions.push(None);
            for treatment in view.classes.iter_mut().chain(view.exceptions.iter_mut().flatten()) {
                if at == 0 || !WHOLE.contains(&operator(treatment)) {
                    *treatment = json!("keep");
                }
            }
        }
        rules.views[0].condition = None;
        let mut rewriter = engine(&rules.text()).rewriter;
        let out = match publish_event(&mut rewriter, &rules, &event) {
            Ok(out) => out,
            Err(failure) => {
                prop_assert_eq!(failure.reason, Reason::TooDeep, "{}", show(&rules, &event));
                return Ok(());
            }
        };
        let Some((_, Some(value), _)) = out[0].1.first() else { return Ok(()) };
        let value = std::str::from_utf8(value).unwrap();
        let images = event.before.iter().filter(|_| rules.debezium).chain([&event.image]);
        for image in images {
            let image = compact(&image.text(0));
            let whole = if rules.debezium {
                compact(value).contains(&image)
            } else {
                compact(value) == image
            };
            prop_assert!(whole, "{}\n-> {value}", show(&rules, &event));
        }
        if !rules.debezium && rules.views.len() == 1 {
            let event = event.value(false);
            prop_assert_eq!(value.trim(), event.trim(), "white space stays");
        }
        Ok(())
    });
}

#[test]
fn an_event_comes_out_the_same_whatever_came_before_it() {
    let garbage = prop_oneof![vec(any::<u8>(), 0..20), Just(br#"{"a":{"b":[1,"#.to_vec())];
    let events = vec((event(), garbage, any::<bool>()), 1..6);
    check(1500, (rules(), events), |(rules, events)| {
        let keys = Keyset::generate();
        let plan = Arc::new(Plan::compile(Arc::new(parse(&rules.text())), &keys).unwrap());
        let mut old = Rewriter::new(Arc::clone(&plan));
        for (event, garbage, cut) in events.iter().chain(&events) {
            let value = event.value(rules.debezium);
            let broken = if *cut { &value.as_bytes()[..value.len() / 2] } else { garbage };
            let _ = publish(&mut old, event.key().as_deref().map(str::as_bytes), Some(broken));
            let _ = publish(&mut old, Some(garbage), Some(value.as_bytes()));
            let mut fresh = Rewriter::new(Arc::clone(&plan));
            old.take_tally();
            let expected = publish_event(&mut fresh, &rules, event);
            let found = publish_event(&mut old, &rules, event);
            prop_assert_eq!(old.take_tally(), fresh.take_tally(), "{}", show(&rules, event));
            let (Ok(found), Ok(expected)) = (&found, &expected) else {
                prop_assert_eq!(found, expected, "{}", show(&rules, event));
                continue;
            };
            for ((found, expected), view) in found.iter().zip(expected).zip(&rules.views) {
                let all = view.classes.iter().chain(view.exceptions.iter().flatten());
                // Ciphertexts of one value differ, though not in length.
                let form = |out: &(Disposition, Vec<Record>)| {
                    let lengths = out.1.iter().map(|(_, value, _)| value.as_ref().map(Vec::len));
                    (out.0, out.1.len(), lengths.collect::<Vec<_>>())
                };
                prop_assert_eq!(form(found), form(expected), "{}", show(&rules, event));
                if !all.map(operator).any(|name| name == "encrypt") {
                    prop_assert_eq!(found, expected, "{}", show(&rules, event));
                }
            }
        }
        Ok(())
    });
}

#[test]
fn what_is_no_json_is_never_published() {
    let noise = vec(any::<u8>(), 0..40);
    let edit = (any::<prop::sample::Index>(), any::<u8>(), 0..3_u8);
    check(4000, (rules(), event(), noise, edit), |(rules, event, noise, (at, byte, how))| {
        let plan = Plan::compile(Arc::new(parse(&rules.text())), &Keyset::generate()).unwrap();
        let mut rewriter = Rewriter::new(Arc::new(plan));
        let mut fresh = Rewriter::new(Arc::clone(rewriter.plan()));
        // The rewriter knows what to expect: of the event as it was.
        let _ = publish_event(&mut rewriter, &rules, &event);
        let mut value = event.value(rules.debezium).into_bytes();
        let at = at.index(value.len());
        match how {
            0 => value[at] = byte,
            1 => value.truncate(at),
            _ => value.insert(at, byte),
        }
        for bytes in [&noise, &value] {
            let is_json = serde_json::from_slice::<&RawValue>(bytes).is_ok();
            let out = publish(&mut rewriter, None, Some(bytes));
            prop_assert!(is_json || out.is_err(), "{}\n{bytes:?}", rules.text());
            let expected = publish(&mut fresh, None, Some(bytes));
            prop_assert_eq!(out.err(), expected.err(), "{}\n{:?}", rules.text(), bytes);
            let out = publish(&mut rewriter, Some(bytes), Some(b"{}"));
            let named = rules.views.iter().any(|view| view.key == "fields");
            prop_assert!(is_json || !named || out.is_err(), "{}\nkey {bytes:?}", rules.text());
        }
        Ok(())
    });
}

#[test]
fn different_record_keys_stay_different_and_equal_ones_equal() {
    // A field of a key has one type, as a column has: a token is the same for 7 and "7".
    let values = || [(); 4].map(|()| option::of(option::weighted(0.9, 0..4_u8)));
    let treatments = Just(vec![
        json!("keep"),
        json!("tokenize"),
        json!("hash"),
        json!({"encrypt": "deterministic"}),
    ])
    .prop_shuffle();
    let kinds = [(); 4].map(|()| 0..3_u8);
    check(3000, (treatments, kinds, values(), values()), |(treatments, kinds, one, two)| {
        let policy = json!({
            "policy": "p", "version": 1, "source": { "topic": "t", "format": "json" },
            "fields": { "a": "a", "b": "b", "c": "c", "d": "d" },
            "views": {
                "v": { "topic": "o", "classes": {
                    "a": treatments[0], "b": treatments[1], "c": treatments[2], "d": treatments[3],
                } },
                "w": { "topic": "p", "key": "tokenize", "default": "redact" },
            },
        });
        let key = |values: [Option<Option<u8>>; 4]| {
            let mut key = serde_json::Map::new();
            for (at, name) in ["a", "b", "c", "d"].into_iter().enumerate() {
                let value = match (values[at], kinds[at]) {
                    (None, _) => continue,
                    (Some(None), _) => Value::Null,
                    (Some(Some(value)), 0) => json!(value),
                    (Some(Some(value)), 1) if treatments[at] != "keep" => json!({ "x": [value] }),
                    (Some(Some(value)), _) => json!(format!("\"{value}é")),
                };
                key.insert(name.into(), value);
            }
            Value::Object(key).to_string()
        };
        let keys = Keyset::generate();
        let plan = Plan::compile(Arc::new(parse(&policy.to_string())), &keys).unwrap();
        let plan = Arc::new(plan);
        let of = |rewriter: &mut Rewriter, key: &str| {
            let out = publish(rewriter, Some(key.as_bytes()), Some(b"{}")).unwrap();
            [out[0].1[0].0.clone().unwrap(), out[1].1[0].0.clone().unwrap()]
        };
        let mut rewriter = Rewriter::new(Arc::clone(&plan));
        let [first, second] = [one, two].map(|values| of(&mut rewriter, &key(values)));
        for view in 0..2 {
            let (one, two) = (key(one), key(two));
            prop_assert_eq!(one == two, first[view] == second[view], "{}: {} {}", policy, one, two);
        }
        prop_assert_eq!(of(&mut Rewriter::new(plan), &key(one)), first);
        Ok(())
    });
}
