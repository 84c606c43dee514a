//! Treatments that anonymize, through the same engine as the worker's.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a test that fails here fails where it should"
)]

mod support;

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};
use support::engine::{Engine, engine, engine_with};
use veilstream::config::Config;
use veilstream::crypto::KeySource;
use veilstream::keys::Ring;
use veilstream::policy::Policy;
use veilstream::rewrite::Reason;

const VISITS: &str = "
policy: visits
version: 1
source: { topic: raw, format: debezium }
subject: patient
fields: { patient: identifier, born: birth_date, 'visits[].day': visit, billed: amount, city: city }
views:
  research:
    topic: research
    key: drop
    classes:
      identifier: drop
      birth_date: { shift_date: { days: 1000, unit: days } }
      visit: { shift_date: 1000 }
      amount: { noise: { scale: 1000 } }
      city: { fake: city }
  insurer:
    topic: insurer
    key: drop
    classes:
      identifier: drop
      birth_date: { generalize: { age: 10, unit: days } }
      visit: { shift_date: 1000 }
      amount: { clamp: { max: 500 } }
      city: { fake: { kind: city, domain: cities } }
";

fn event(op: &str, before: Option<Value>, after: Option<Value>) -> String {
    json!({"op": op, "before": before, "after": after}).to_string()
}

fn row(patient: u32, city: &str) -> Value {
    json!({
        "patient": patient, "born": 5580, "billed": 1200, "city": city,
        "visits": [{"day": "2024-02-28"}, {"day": "2024-03-11T10:00:00Z"}],
    })
}

fn day(value: &Value) -> i64 {
    let text = value.as_str().unwrap();
    let date: jiff::civil::Date = text[..10].parse().unwrap();
    let since = jiff::civil::date(1970, 1, 1).until((jiff::Unit::Day, date)).unwrap();
    i64::from(since.get_days())
}

fn view(engine: &mut Engine<impl KeySource>, event: &str, view: usize) -> Value {
    serde_json::from_str(&engine.values(event)[view]).unwrap()
}

/// Dates of one person move together, in whichever image, class and event; those of others move by other days.
fn dates_move_together(mut engine: Engine<impl KeySource>) {
    let mut shifts = BTreeSet::new();
    for patient in 1..=20 {
        let update = event("u", Some(row(patient, "Lyon")), Some(row(patient, "Paris")));
        let out = view(&mut engine, &update, 0);
        let shift = out["after"]["born"].as_i64().unwrap() - 5580;
        assert!(shift != 0 && shift.abs() <= 1000);
        for image in ["before", "after"] {
            assert_eq!(out[image]["born"], 5580 + shift);
            assert_eq!(day(&out[image]["visits"][0]["day"]), 19_781 + shift);
            let second = &out[image]["visits"][1]["day"];
            assert_eq!(day(second), 19_793 + shift);
            assert!(second.as_str().unwrap().ends_with("T10:00:00Z"));
        }
        let again = view(&mut engine, &event("c", None, Some(row(patient, "Rome"))), 0);
        assert_eq!(again["after"]["born"], 5580 + shift);
        // Views do not join on it.
        let other = view(&mut engine, &update, 1);
        assert_ne!(day(&other["after"]["visits"][0]["day"]), 19_781 + shift);
        shifts.insert(shift);
    }
    assert!(shifts.len() > 15, "{shifts:?}");
    // A row that goes from one person to another.
    let moved = event("u", Some(row(1, "Lyon")), Some(row(2, "Lyon")));
    let out = view(&mut engine, &moved, 0);
    assert_ne!(out["before"]["born"], out["after"]["born"]);
    // Nobody's.
    for patient in [Value::Null, json!({}), json!("")] {
        let mut nobody = row(1, "Lyon");
        nobody["patient"] = patient;
        assert_eq!(engine.fail(&event("c", None, Some(nobody))).reason, Reason::Subject);
    }
}

#[test]
fn dates_of_one_person_move_by_the_same_days() {
    dates_move_together(engine(VISITS));
}

#[test]
fn so_they_do_where_there_is_a_key_store() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("passphrase"), "correct horse battery\n").unwrap();
    let config = "kafka: { bootstrap: 'localhost:1' }\npolicies: [p]\nquarantine: { topic: q }\n\
                  audit: { topic: a }\nkey_store:\n  sqlite: keys.db\n  kek: { file: { path: kek.json, \
                  passphrase: { file: passphrase } } }\n";
    let file = folder.path().join("worker.yaml");
    std::fs::write(&file, config).unwrap();
    let told = Config::load(&file).unwrap().key_store.unwrap();
    dates_move_together(engine_with(VISITS, Ring::create(&told, folder.path()).unwrap()));
}

#[test]
fn what_depends_on_a_person_takes_a_subject() {
    let policy = VISITS.replace("subject: patient\n", "");
    let read = move |_: &Path| Ok(policy.clone());
    let errors = Policy::load_with(Path::new("p.yaml"), &read).err().unwrap().to_string();
    let expected =
        "view `research` with `shift_date: { days: 1000, unit: days }`; expected `subject:`";
    assert!(errors.contains(expected), "{errors}");
}

#[test]
fn noise_is_drawn_each_time_and_ages_are_those_of_the_event() {
    let mut engine = engine(VISITS);
    let update = event("u", Some(row(1, "Lyon")), Some(row(1, "Lyon")));
    let drawn: BTreeSet<i64> = (0..10)
        .flat_map(|_| {
            let out = view(&mut engine, &update, 0);
            ["before", "after"].map(|image| out[image]["billed"].as_i64().unwrap())
        })
        .collect();
    assert!(drawn.len() > 15, "{drawn:?}");
    let out = view(&mut engine, &update, 1);
    assert_eq!((&out["after"]["born"], &out["after"]["billed"]), (&json!("40-49"), &json!(500)));
}

#[test]
fn fakes_are_the_same_in_one_domain_and_never_the_value() {
    let mut engine = engine(VISITS);
    let mut fakes = |city: &str| {
        let create = event("c", None, Some(row(1, city)));
        [0, 1].map(|at| view(&mut engine, &create, at)["after"]["city"].clone())
    };
    let (first, second) = (fakes("Lyon"), fakes("Lyon"));
    assert_eq!(first, second);
    assert_ne!(first[0], first[1]);
    assert_ne!(first[0], fakes("Paris")[0]);
    assert!(!first.contains(&json!("Lyon")));
}

/// Files beside the policy are a part of it: another file is another policy.
#[test]
fn a_hierarchy_stands_in_a_file_beside_the_policy() {
    let policy = "
policy: staff
version: 1
source: { topic: raw, format: json }
fields: { job: job, city: city }
views:
  v: { topic: out, key: drop, classes: { job: { generalize: { hierarchy: lists/jobs.csv } }, city: { generalize: { common: cities.csv } } } }
";
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::create_dir(path("lists")).unwrap();
    std::fs::write(path("policy.yaml"), policy).unwrap();
    std::fs::write(path("cities.csv"), "Lyon;500000\nOz;3\n").unwrap();
    let load = |jobs: &str| {
        std::fs::write(path("lists/jobs.csv"), jobs).unwrap();
        Policy::load(&path("policy.yaml"))
    };
    let first = load("nurse;health;*\nwelder;industry;*\n").unwrap();
    for file in ["policy.yaml", "lists/jobs.csv", "cities.csv"] {
        assert!(first.files.contains(&path(file)), "{:?}", first.files);
    }
    let again = load("nurse;health;*\nwelder;industry;*\n").unwrap();
    assert_eq!(first.digest, again.digest);
    let other = load("nurse;care;*\nwelder;industry;*\n").unwrap();
    assert_ne!(first.digest, other.digest);
    let errors = load("nurse;health;*\nnurse;industry;*\n").err().unwrap().to_string();
    assert!(errors.contains("policy.yaml:7:") && errors.contains("lists/jobs.csv:2:1"), "{errors}");
}

/// What is published of a field that `where` reads is not all that the stream tells of it.
#[test]
fn a_condition_over_what_is_not_kept_is_a_disclosure() {
    for treatment in ["{ noise: { scale: 1000 } }", "{ clamp: { max: 500 } }", "{ shift_date: 30 }"]
    {
        let policy = format!(
            "policy: p\nversion: 1\nsource: {{ topic: raw, format: json }}\nsubject: id\n\
             fields: {{ id: identifier, billed: amount }}\nviews:\n  v: {{ topic: out, key: drop, \
             where: 'row.billed > 1', classes: {{ identifier: drop, amount: {treatment} }} }}\n"
        );
        let read = move |_: &Path| Ok(policy.clone());
        let policy = Policy::load_with(Path::new("p.yaml"), &read).unwrap();
        let warnings: Vec<String> = policy.warnings.iter().map(ToString::to_string).collect();
        assert!(warnings.iter().any(|one| one.contains("row.billed")), "{treatment}: {warnings:?}");
    }
}
