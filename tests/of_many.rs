//! Views that publish what many people have in common, through the same engine as the worker's, without Kafka.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a test that fails here fails where it should"
)]

mod support;

use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};
use veilstream::crypto::ciphertext::{Algorithm, SealKey};
use veilstream::crypto::{KeySource, Purpose, SubjectKeys};
use veilstream::hold::{Entry, Fate, Holding, Origin, Restore, RestoreError, Room, RowsError};
use veilstream::keys::Keyset;
use veilstream::policy::{Plan, Policy, Rule};
use veilstream::rewrite::{Disposition, Failure, RawRecord, Reason, Rewriter};

const CITIES: &str = "Lyon;France;*\nParis;France;*\nBonn;Germany;*\nUlm;Germany;*\n";

const PATIENTS: &str = "
policy: patients
version: 1
source: { topic: raw, format: FORMAT }
subject: who
fields: { who: identifier, address.city: place, age: age, diagnosis: health, note: text }
views:
  changes:
    topic: changes
    key: drop
    classes: { identifier: tokenize, place: keep, age: drop, health: redact, text: drop }
  research:
    topic: research
    where: 'row.age >= 18'
    anonymize:
      k: 2
      quasi_identifiers: { age: { numbers: [0, 120] }, address.city: { hierarchy: cities.csv } }
      sensitive: { diagnosis: { l: 1000 } }
    classes: { identifier: drop, place: drop, age: drop, health: { mask: { keep_first: 1 } }, text: keep }
";

fn parse(policy: &str) -> Policy {
    let policy = policy.to_owned();
    let read = move |path: &Path| match path.to_str() {
        Some("cities.csv") => Ok(CITIES.to_owned()),
        _ => Ok(policy.clone()),
    };
    Policy::load_with(Path::new("policy.yaml"), &read).unwrap_or_else(|errors| panic!("{errors}"))
}

fn plan(policy: &str, format: &str, keys: &Keyset) -> Arc<Plan> {
    let text = policy.replace("FORMAT", format).replace("l: 1000", "l: 2");
    Arc::new(Plan::compile(Arc::new(parse(&text)), keys).unwrap())
}

fn origin() -> Origin {
    Origin { group: "g/h".into(), topic: "raw".into(), partition: 3 }
}

/// What became of an event in the second view: its disposition, or why not.
struct Bench {
    rewriter: Rewriter,
    holding: Holding,
}

impl Bench {
    fn new(policy: &str, format: &str) -> Bench {
        let plan = plan(policy, format, &Keyset::generate());
        let holds = plan.views.iter().find_map(|view| view.holds.as_ref()).unwrap();
        Bench {
            holding: Holding::new(holds, &origin(), &Room::default()).unwrap(),
            rewriter: Rewriter::new(plan),
        }
    }

    fn take(&mut self, value: &str) -> Result<Vec<Disposition>, Failure> {
        let Bench { rewriter, holding } = self;
        let subjects = rewriter.subjects(Some(value.as_bytes()));
        let found = SubjectKeys::default();
        let timestamp_ms = Some(1_767_225_600_000);
        let subjects = subjects.with(&found);
        let raw = RawRecord {
            value: Some(value.as_bytes()),
            subjects,
            timestamp_ms,
            ..RawRecord::default()
        };
        let out = rewriter.rewrite(&raw)?;
        for view in 0..out.dispositions().len() {
            if let Some((_, arrival)) = out.held(view) {
                let windows = matches!(holding.plan.rule, Rule::Windows(_));
                holding.arrive(arrival, if windows { 1_767_225_600_000 } else { 0 }).unwrap();
            }
        }
        Ok(out.dispositions().to_vec())
    }

    fn flush(&mut self) -> (Vec<String>, usize) {
        self.holding.flush();
        settled(&mut self.holding)
    }
}

/// What is published, and how much is suppressed.
fn settled(holding: &mut Holding) -> (Vec<String>, usize) {
    let (mut rows, mut suppressed) = (Vec::new(), 0);
    holding
        .settle(|fate| {
            match fate {
                Fate::Released { record, .. } | Fate::Figures(record) => {
                    rows.push(String::from_utf8(record.value().unwrap().to_vec()).unwrap());
                }
                Fate::Suppressed => suppressed += 1,
                Fate::Window(..) => {}
            }
            Ok::<(), RowsError>(())
        })
        .unwrap();
    (rows, suppressed)
}

fn row(who: u64, city: &str, age: u64, diagnosis: &str) -> Value {
    json!({"who": who, "address": {"city": city, "street": "canary"}, "age": age, "diagnosis": diagnosis, "note": "n"})
}

fn debezium(op: &str, before: Option<&Value>, after: Option<&Value>) -> String {
    json!({"before": before, "after": after, "op": op, "source": {"connector": "postgresql"}, "ts_ms": 5}).to_string()
}

const FRANCE: &str =
    r#"{"address":{"city":"France"},"age":"[30,40]","diagnosis":"f**","note":"n"}"#;

#[test]
fn the_row_after_the_change_is_what_is_held_in_whatever_envelope() {
    let (one, other) = (row(1, "Lyon", 30, "flu"), row(2, "Paris", 40, "cold"));
    let text = |row: &Value| json!({"op": "c", "after": row.to_string()}).to_string();
    let wrapped = |row: &Value| {
        json!({"schema": null, "payload": {"op": "u", "before": other, "after": row}}).to_string()
    };
    type Event<'e> = &'e dyn Fn(&Value) -> String;
    let cases: [(&str, Event); 5] = [
        ("json", &|row| row.to_string()),
        ("debezium", &|row| debezium("c", None, Some(row))),
        ("debezium", &|row| debezium("u", Some(&other), Some(row))),
        ("debezium", &text),
        ("debezium", &wrapped),
    ];
    for (format, event) in cases {
        let mut bench = Bench::new(PATIENTS, format);
        for row in [&one, &other] {
            let fates = bench.take(&event(row)).unwrap();
            assert_eq!(fates, [Disposition::Publish, Disposition::Held], "{format}");
        }
        let (rows, suppressed) = bench.flush();
        assert_eq!((rows[0].as_str(), rows.len(), suppressed), (FRANCE, 2, 0), "{format}");
        assert!(rows[1].contains(r#""diagnosis":"c***""#), "{}", rows[1]);
    }
}

#[test]
fn the_other_views_get_what_they_would_without_it() {
    let alone = PATIENTS.split("  research:").next().unwrap();
    let keys = Keyset::generate();
    let mut with = Rewriter::new(plan(PATIENTS, "debezium", &keys));
    let mut without = Rewriter::new(plan(alone, "debezium", &keys));
    for (op, before, after) in [
        ("c", None, Some(20)),
        ("u", Some(17), Some(20)),
        ("u", Some(20), Some(3)),
        ("d", Some(20), None),
    ] {
        let of = |age: u64| row(1, "Lyon", age, "flu");
        let event = debezium(op, before.map(of).as_ref(), after.map(of).as_ref());
        let values = [&mut with, &mut without].map(|rewriter| {
            let raw = rewriter.event(event.as_bytes(), 0);
            let out = rewriter.rewrite(&raw).unwrap();
            out.records(0).map(|one| one.value().map(<[u8]>::to_vec)).collect::<Vec<_>>()
        });
        assert_eq!(values[0], values[1], "{op}");
    }
    let (with, without) = (with.take_tally(), without.take_tally());
    assert_eq!(
        (0..5).map(|leaf| with.fields(0, leaf)).collect::<Vec<_>>(),
        (0..5).map(|leaf| without.fields(0, leaf)).collect::<Vec<_>>()
    );
    // The second view had the row twice.
    assert_eq!((0..5).map(|leaf| with.fields(1, leaf)).collect::<Vec<_>>(), [2; 5]);
}

#[test]
fn what_is_no_row_for_the_view_is_not_held() {
    let mut bench = Bench::new(PATIENTS, "debezium");
    let (adult, child) = (row(1, "Lyon", 30, "flu"), row(1, "Lyon", 3, "flu"));
    for event in [
        debezium("d", Some(&adult), None),
        debezium("u", Some(&adult), Some(&child)),
        debezium("c", None, Some(&child)),
        debezium("t", None, None),
        json!({"op": "m", "message": {}}).to_string(),
    ] {
        let fates = bench.take(&event).unwrap();
        assert!(matches!(fates[1], Disposition::Filtered(_)), "{event}");
    }
    assert_eq!(bench.holding.held(), 0);
}

#[test]
fn a_row_whose_place_is_not_known_is_quarantined() {
    let mut bench = Bench::new(PATIENTS, "json");
    let twice = r#"{"who":1,"address":{"city":"Lyon"},"age":30,"age":31,"diagnosis":"flu"}"#;
    let escaped = r#"{"who":1,"address":{"city":"Lyon"},"age":30,"\u0061ge":31,"diagnosis":"flu"}"#;
    for (event, path) in [
        (json!({"who": 1, "address": {"city": "Lyon"}, "diagnosis": "flu"}).to_string(), "age"),
        (json!({"who": 1, "age": 30, "diagnosis": "flu"}).to_string(), "address.city"),
        (
            json!({"who": 1, "address": null, "age": 30, "diagnosis": "flu"}).to_string(),
            "address.city",
        ),
        (json!({"who": 1, "address": {"city": "Lyon"}, "age": 30}).to_string(), "diagnosis"),
        (
            json!({"who": 1, "address": {"city": "Lyon"}, "age": 130, "diagnosis": "flu"})
                .to_string(),
            "age",
        ),
        (
            json!({"who": 1, "address": {"city": "Lyon"}, "age": "canary", "diagnosis": "flu"})
                .to_string(),
            "age",
        ),
        (twice.to_owned(), "age"),
        (escaped.to_owned(), "age"),
    ] {
        // Where `where` cannot read the age it is not true, and nothing is missing.
        let policy = PATIENTS.replace("    where: 'row.age >= 18'\n", "");
        let failure = Bench::new(&policy, "json").take(&event).unwrap_err();
        assert_eq!(
            (failure.reason, failure.path.as_deref()),
            (Reason::GroupField, Some(path)),
            "{event}"
        );
        assert!(!failure.to_string().contains("canary"));
    }
    for event in [
        json!({"who": 1, "address": {"city": ["Lyon"]}, "age": 30, "diagnosis": "flu"}).to_string(),
        json!({"who": 1, "address": {"city": "Lyon"}, "age": 30, "diagnosis": {"a": 1}})
            .to_string(),
    ] {
        assert_eq!(bench.take(&event).unwrap_err().reason, Reason::WrongType, "{event}");
    }
    let nobody = json!({"address": {"city": "Lyon"}, "age": 30, "diagnosis": "flu"}).to_string();
    assert_eq!(bench.take(&nobody).unwrap_err().reason, Reason::Subject);
    let mut bench = Bench::new(&PATIENTS.replace("    where: 'row.age >= 18'\n", ""), "debezium");
    let mut left_out = row(1, "Lyon", 30, "flu");
    left_out["age"] = json!("__debezium_unavailable_value");
    let failure = bench.take(&debezium("u", None, Some(&left_out))).unwrap_err();
    assert_eq!(failure.reason, Reason::Unavailable);
    assert_eq!(bench.holding.held(), 0);
}

#[test]
fn a_policy_may_have_no_other_views() {
    let mut alone = PATIENTS.to_owned();
    let (from, to) = (alone.find("  changes:").unwrap(), alone.find("  research:").unwrap());
    alone.replace_range(from..to, "");
    let mut bench = Bench::new(&alone, "debezium");
    let fates = bench.take(&debezium("c", None, Some(&row(1, "Lyon", 30, "flu")))).unwrap();
    assert_eq!(fates, [Disposition::Held], "`where` reads what no view of changes has");
    let child = bench.take(&debezium("c", None, Some(&row(1, "Lyon", 3, "flu")))).unwrap();
    assert!(matches!(child[0], Disposition::Filtered(_)));
}

const COUNTS: &str = "
policy: patients
version: 1
source: { topic: raw, format: FORMAT }
subject: who
fields: { who: identifier, city: place, age: age }
views:
  counts:
    topic: counts
    aggregate: { window: 1h, by: city, least: 1, figures: { rows: count, people: subjects } }
    default: drop
    classes: { place: keep }
";

#[test]
fn figures_may_be_of_nothing_but_rows() {
    let mut bench = Bench::new(COUNTS, "debezium");
    let visit = |who: u64, city: &str| json!({"who": who, "city": city, "age": 30});
    for (who, city) in [(1, "Lyon"), (1, "Lyon"), (2, "Lyon"), (3, "Bonn")] {
        let event = debezium("c", None, Some(&visit(who, city)));
        assert_eq!(bench.take(&event).unwrap(), [Disposition::Held]);
    }
    let left_out = visit(4, "__debezium_unavailable_value");
    let failure = bench.take(&debezium("u", None, Some(&left_out))).unwrap_err();
    assert_eq!(failure.reason, Reason::Unavailable);
    bench.holding.finish();
    let (rows, _) = settled(&mut bench.holding);
    let of = |number: usize| serde_json::from_str::<Value>(&rows[number]).unwrap();
    assert_eq!((rows.len(), &of(0)["city"], &of(0)["rows"]), (2, &json!("Bonn"), &json!(1)));
    assert_eq!((&of(1)["rows"], &of(1)["people"]), (&json!(3), &json!(2)));
}

#[test]
fn names_and_values_that_are_written_with_escapes_are_the_same() {
    let mut bench = Bench::new(PATIENTS, "json");
    let escaped = r#" { "who" : 1 , "address" : { "c\u0069ty" : "Ly\u006fn" } , "note" : "n" , "age" : 3e1 , "diagnosis" : "fl\u0075" } "#;
    bench.take(escaped).unwrap();
    bench.take(&row(2, "Lyon", 30, "flu").to_string()).unwrap();
    assert_eq!(bench.flush(), (Vec::new(), 2), "both have the same diagnosis");
    bench.take(escaped).unwrap();
    bench.take(&row(2, "Lyon", 30, "\u{e9}").to_string()).unwrap();
    let (rows, _) = bench.flush();
    let row: Value = serde_json::from_str(&rows[0]).unwrap();
    assert_eq!(row["age"], "30");
    assert_eq!(
        rows[0],
        r#" {"address" : { "c\u0069ty" : "Lyon" } , "note" : "n" , "age" : "30" , "diagnosis" : "f**" } "#
    );
}

fn key(keys: &Keyset) -> Arc<SealKey> {
    Arc::new(SealKey::new(&keys.primary(Purpose::Quarantine).unwrap(), Algorithm::Aes256Gcm))
}

/// Key and value.
type Logged = (Vec<u8>, Option<Vec<u8>>);

/// What a compacted topic has in the end.
fn compacted(log: &[Entry]) -> Vec<Logged> {
    let mut last: Vec<Logged> = Vec::new();
    for entry in log {
        let value = entry.value().map(<[u8]>::to_vec);
        match last.iter_mut().find(|(key, _)| key == entry.key()) {
            Some(known) => known.1 = value,
            None => last.push((entry.key().to_vec(), value)),
        }
    }
    last.retain(|(_, value)| value.is_some());
    last
}

#[test]
fn the_changelog_gives_back_what_was_held_and_nothing_that_was_tampered_with() {
    let keys = Keyset::generate();
    let plan = plan(PATIENTS, "json", &keys);
    let holds = Arc::clone(plan.views[1].holds.as_ref().unwrap());
    let mut bench = Bench {
        holding: Holding::new(&holds, &origin(), &Room::default()).unwrap(),
        rewriter: Rewriter::new(plan),
    };
    let key = key(&keys);
    let mut log = Vec::new();
    for who in 0..40 {
        bench
            .take(
                &row(who, ["Lyon", "Bonn"][who as usize % 2], 20 + who, &format!("canary {who}"))
                    .to_string(),
            )
            .unwrap();
        if who % 7 == 0 {
            bench.holding.tick(who as i64 * 60_000);
            settled(&mut bench.holding);
        }
        if who % 3 == 0 {
            log.extend(bench.holding.entries(&key).unwrap());
        }
    }
    settled(&mut bench.holding);
    log.extend(bench.holding.entries(&key).unwrap());
    assert!(bench.holding.entries(&key).unwrap().is_empty(), "nothing has changed");
    for entry in &log {
        for part in [Some(entry.key()), entry.value()].into_iter().flatten() {
            let text = String::from_utf8_lossy(part);
            assert!(!text.contains("canary") && !text.contains("Lyon"));
        }
    }
    let entries = compacted(&log);
    let read = |entries: &[Logged]| {
        let mut restore = Restore::new(vec![(origin(), 0)], &keys, Room::default());
        for (key, value) in entries {
            restore.take(0, key, value.as_deref())?;
        }
        restore.finish(|_| vec![&holds])
    };
    let mut restored = read(&entries).unwrap().remove(0);
    assert!(restored.orphans.is_empty());
    let mut again = restored.holdings.remove(0);
    assert_eq!(
        (again.held(), again.bytes(), again.due(None)),
        (bench.holding.held(), bench.holding.bytes(), bench.holding.due(None))
    );
    assert!(again.held() > 0);
    again.flush();
    assert_eq!(settled(&mut again), bench.flush(), "it goes on as if nothing had happened");
    log.extend(bench.holding.end(true));
    assert!(compacted(&log).is_empty(), "all of it can be taken out");

    let fails = |change: &dyn Fn(&mut Vec<Logged>)| {
        let mut changed = entries.clone();
        change(&mut changed);
        read(&changed).err()
    };
    for number in 0..entries.len() {
        let altered = fails(&|all| *all[number].1.as_mut().unwrap().last_mut().unwrap() ^= 1);
        assert!(matches!(altered, Some(RestoreError::DoesNotOpen(_))), "{altered:?}");
        // One entry in place of another.
        let other = (number + 1) % entries.len();
        let moved = fails(&|all| all[number].1 = all[other].1.clone());
        assert!(matches!(moved, Some(RestoreError::DoesNotOpen(_))), "{moved:?}");
    }
    let summary = entries.iter().position(|(key, _)| key.ends_with(b"/s")).unwrap();
    assert!(matches!(fails(&|all| drop(all.remove(summary))), Some(RestoreError::NotWhole(_))));
    let foreign = Keyset::generate();
    let mut restore = Restore::new(vec![(origin(), 0)], &foreign, Room::default());
    let (key, value) = &entries[0];
    assert!(matches!(restore.take(0, key, value.as_deref()), Err(RestoreError::Key(_))));
    // What belongs to others, or is nothing of ours, is passed.
    let elsewhere = Origin { partition: 4, ..origin() };
    let mut restore = Restore::new(vec![(elsewhere, 0)], &foreign, Room::default());
    for (key, value) in &entries {
        restore.take(0, key, value.as_deref()).unwrap();
    }
    for key in [&b"\xff"[..], b"", b"/", b"a/b/c/d/e/f/s", b"g/h/raw/3/x"] {
        restore.take(0, key, Some(b"x")).unwrap();
    }
    assert_eq!(restore.entries, 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whoever they are and in whatever order they come: nobody is published in company of fewer than k, and every row is
    /// published or suppressed once.
    #[test]
    fn nobody_stands_alone(people in prop::collection::vec((0..12_u64, 0..5_usize, 0..120_u64, 0..3_u64), 1..60)) {
        let policy = PATIENTS
            .replace("identifier: drop", "identifier: keep")
            .replace("    where: 'row.age >= 18'\n", "")
            .replace("k: 2", "k: 3");
        let mut bench = Bench::new(&policy, "json");
        for (at, (who, city, age, diagnosis)) in people.iter().enumerate() {
            let city = ["Lyon", "Paris", "Bonn", "Ulm", "Atlantis"][*city];
            bench.take(&row(*who, city, *age, &format!("d{diagnosis}")).to_string()).unwrap();
            if at % 13 == 0 {
                bench.holding.tick(at as i64 * 100_000);
            }
        }
        let (rows, suppressed) = bench.flush();
        prop_assert_eq!(rows.len() + suppressed, people.len());
        let mut groups = std::collections::BTreeMap::<String, std::collections::BTreeSet<u64>>::new();
        for row in &rows {
            let row: Value = serde_json::from_str(row).unwrap();
            let shown = format!("{} {}", row["address"]["city"], row["age"]);
            groups.entry(shown).or_default().insert(row["who"].as_u64().unwrap());
        }
        for (shown, people) in groups {
            prop_assert!(people.len() >= 3, "{} is of {}", shown, people.len());
        }
    }

    /// Nothing that comes makes a panic, or a row that is no JSON.
    #[test]
    fn whatever_comes_is_held_or_refused(
        city in "\\PC*", age in "-?[0-9]{1,20}(\\.[0-9]{1,20})?(e[0-9]{1,3})?|null|true|\"\\PC*\"", note in "\\PC*",
    ) {
        let policy = PATIENTS.replace("    where: 'row.age >= 18'\n", "").replace("{ numbers: [0, 120] }", "numbers");
        let mut bench = Bench::new(&policy, "json");
        for who in 0..2 {
            let (city, note) = (json!(city), json!(note));
            let event = format!(r#"{{"who":{who},"address":{{"city":{city}}},"age":{age},"note":{note},"diagnosis":"d{who}"}}"#);
            let _ = bench.take(&event);
        }
        for row in bench.flush().0 {
            let row: Value = serde_json::from_str(&row).unwrap();
            prop_assert_eq!(&row["note"], &json!(note));
        }
    }
}
