//! Any event under any policy of this grammar: what goes out is JSON, an event that is none is refused, the same event
//! is treated alike again, and what no view may see in the clear is in none.
#![no_main]

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use serde::de::IgnoredAny;
use serde_json::Value;
use veilstream::event::debezium::{SOURCE, TRANSACTION};
use veilstream::keys::Keyset;
use veilstream::policy::{Plan, Policy};
use veilstream::rewrite::{RawRecord, Rewriter};

/// Must not get out where all is secret.
const CANARY: &str = "canarybird";
/// Stands for it in the input, where it could not stand otherwise: it is no UTF-8.
const MARK: u8 = 0xFF;
const PATHS: [&str; 6] = ["a", "a.b", "\"c[].d\"", "\"*\"", "\"x.**\"", "'**.email'"];
const SECRET: [&str; 16] = [
    "drop",
    "'null'",
    "redact",
    "tokenize",
    "encrypt",
    "{ encrypt: deterministic }",
    "{ encrypt: { mode: fpe, alphabet: abcdefghijklmnopqrstuvwxyz } }",
    "hash",
    "{ replace: x }",
    "{ mask: { keep_last: 2, length: 6 } }",
    "{ fake: name }",
    "{ clamp: { max: 5 } }",
    "{ noise: { scale: 3 } }",
    "{ shift_date: { days: 30, unit: millis } }",
    "{ generalize: { age: 10, unit: days } }",
    "{ generalize: { geohash: 5 } }",
];
const OPEN: [&str; 2] = ["keep", "{ truncate: 3 }"];

#[derive(Arbitrary, Debug, PartialEq, Eq, Hash, Clone, Copy)]
struct Choice {
    debezium: bool,
    quarantine_unclassified: bool,
    /// Whether a path is secret.
    classes: [bool; PATHS.len()],
    /// Of two views: how each class is treated.
    treatments: [(u8, u8); 2],
    where_: bool,
}

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    choice: Choice,
    key: Option<&'a [u8]>,
    value: &'a [u8],
}

static KEYS: LazyLock<Keyset> = LazyLock::new(Keyset::generate);

thread_local! {
    static REWRITERS: RefCell<HashMap<Choice, Rewriter>> = RefCell::new(HashMap::new());
}

fn rewriter(choice: Choice) -> Rewriter {
    let text = policy(choice);
    let read = |_: &Path| Ok(text.clone());
    let policy = Policy::load_with(Path::new("policy.yaml"), &read);
    let policy = policy.unwrap_or_else(|problem| panic!("{problem}\n{text}"));
    Rewriter::new(Arc::new(Plan::compile(Arc::new(policy), &*KEYS).expect("a plan")))
}

fn policy(choice: Choice) -> String {
    let format = if choice.debezium { "debezium" } else { "json" };
    let unclassified = if choice.quarantine_unclassified { "quarantine" } else { "drop" };
    let mut text = format!(
        "policy: p\nversion: 1\nsource: {{ topic: t, format: {format} }}\nsubject: id\n\
         unclassified: {unclassified}\nfields:\n  id: subject\n  s: secret\n  o: open\n"
    );
    for (path, secret) in PATHS.iter().zip(choice.classes) {
        text += &format!("  {path}: {}\n", if secret { "secret" } else { "open" });
    }
    text += "views:\n";
    for (number, (secret, open)) in choice.treatments.into_iter().enumerate() {
        let pick = |from: &'static [&str], at: u8| from[usize::from(at) % from.len()];
        text += &format!(
            "  v{number}:\n    topic: t.v{number}\n    classes: {{ subject: tokenize, secret: {}, open: {} }}\n",
            pick(&SECRET, secret),
            pick(&OPEN, open),
        );
        if choice.where_ {
            text += "    where: 'row.a == 1 || has(row.x)'\n";
        }
    }
    text
}

fn is_json(text: &[u8]) -> bool {
    serde_json::from_slice::<IgnoredAny>(text).is_ok()
}

/// With the canary where the fuzzer wants it.
fn marked(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    for byte in text {
        match *byte {
            MARK => out.extend_from_slice(CANARY.as_bytes()),
            other => out.push(other),
        }
    }
    out
}

fn holds_canary(text: &[u8]) -> bool {
    text.windows(CANARY.len()).any(|window| window == CANARY.as_bytes())
}

/// What a record's disposition is, and what it publishes.
type Seen = Option<Vec<usize>>;

fn look(rewriter: &mut Rewriter, key: Option<&[u8]>, value: &[u8], secret: bool) -> Seen {
    let record = RawRecord { key, ..rewriter.event(value, 0) };
    let views = rewriter.plan().views.len();
    let out = rewriter.rewrite(&record).ok()?;
    assert!(is_json(value), "no JSON was taken");
    let mut records = Vec::new();
    for view in 0..views {
        records.push(0);
        for record in out.records(view) {
            records[view] += 1;
            for part in [record.key(), record.value()].into_iter().flatten() {
                assert!(is_json(part) && str::from_utf8(part).is_ok(), "no JSON goes out");
                assert!(!(secret && holds_canary(part)), "a canary goes out");
            }
        }
    }
    Some(records)
}

fuzz_target!(|input: Input<'_>| {
    let Input { choice, key, value } = input;
    let (key, value) = (key.map(marked), marked(value));
    let sent = [key.as_deref(), Some(value.as_slice())];
    let secret = choice.classes.iter().all(|secret| *secret)
        && !sent.into_iter().flatten().any(may_hold_canary);
    REWRITERS.with_borrow_mut(|rewriters| {
        if rewriters.len() > 512 {
            rewriters.clear();
        }
        let rewriter = rewriters.entry(choice).or_insert_with(|| rewriter(choice));
        let first = look(rewriter, key.as_deref(), &value, secret);
        let second = look(rewriter, key.as_deref(), &value, secret);
        assert_eq!(first, second, "the same event, treated otherwise");
    });
});

/// Names are the shape of an event, no values; `o` is open; and of an envelope the position passes.
fn may_hold_canary(text: &[u8]) -> bool {
    fn look(value: &Value, within: &str, open: bool) -> bool {
        match value {
            Value::Object(members) => members.iter().any(|(name, value)| {
                let position: &[&str] = match within {
                    "source" => SOURCE,
                    "transaction" => TRANSACTION,
                    // Of an embedded schema these are names.
                    _ => &["o", "name", "field"],
                };
                let open = open || position.contains(&name.as_str());
                name.contains(CANARY) || look(value, name, open)
            }),
            Value::Array(items) => items.iter().any(|item| look(item, within, open)),
            Value::String(text) => open && text.contains(CANARY),
            _ => false,
        }
    }
    // Too deep for the other parser: it is not looked at.
    serde_json::from_slice(text).map_or(true, |value| look(&value, "", false))
}
