//! Views that hold rows until enough people are alike, on a real broker: what is published, what is suppressed, and what
//! of it outlives a stop, a kill, a rebalance and a reload.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a test that fails here fails where it should"
)]

mod support;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::sync::Arc;

use serde_json::{Value, json};
use support::broker::{Broker, wait_until};
use support::ledger::until;
use support::scene::{Scene, header, json, wait_consumed};
use support::worker::{Site, WorkerProcess};

/// `who` and `n` are published for the tests alone; the warnings say what that is worth.
const PATIENTS: &str = "
policy: patients
version: 1
source: { topic: PREFIX.raw, format: json }
subject: who
fields: { who: identifier, n: serial, city: place, age: age, diagnosis: health, note: text }
views:
  research:
    topic: PREFIX.research
    anonymize:
      k: 3
      within: WITHIN
      quasi_identifiers: { city: { hierarchy: cities.csv }, age: { numbers: [0, 120] } }
    classes: { identifier: keep, serial: keep, place: drop, age: drop, health: keep, text: { mask: { keep_first: 1 } } }
  billing:
    topic: PREFIX.billing
    key: drop
    classes: { identifier: tokenize, serial: keep, place: drop, age: drop, health: drop, text: drop }
";
const CITIES: &str = "Lyon;France;*\nParis;France;*\nBonn;Germany;*\nUlm;Germany;*\n";

fn scene(name: &str, within: &str, partitions: i32) -> Scene {
    scene_on(Broker::shared("holding"), name, within, partitions)
}

fn scene_on(broker: Arc<Broker>, name: &str, within: &str, partitions: i32) -> Scene {
    let topics = [("raw", partitions), ("research", partitions), ("billing", partitions), ("state", 2)];
    let policy = PATIENTS.replace("WITHIN", within);
    let settings = [("state", "cleanup.policy", "compact")];
    let mut scene = Scene::new_with(broker, name, &policy, &topics, &settings);
    scene.site.extra = format!("state: {{ topic: {} }}", scene.topic("state"));
    fs::write(scene.site.path("cities.csv"), CITIES).unwrap();
    scene
}

fn row(n: u64, who: u64, city: &str, age: u64) -> String {
    json!({"n": n, "who": format!("canary-{who}"), "city": city, "age": age, "diagnosis": "flu", "note": "canary note"})
        .to_string()
}

fn send(scene: &Scene, rows: &[String]) {
    let rows: Vec<_> = rows.iter().map(|row| (None, row.as_str())).collect();
    scene.produce("raw", &rows);
}

/// How many rows were `held`, `released` or `suppressed`, by the audit trail.
fn counted(scene: &Scene, what: &str) -> u64 {
    let of = |event: &Value| {
        let views = event["views"].as_array().unwrap();
        views.iter().filter_map(|view| view[what].as_u64()).sum::<u64>()
    };
    scene.audit("process").iter().map(of).sum()
}

/// Rows of the view by what is shown of their quasi-identifiers: whose they are.
fn groups(scene: &Scene) -> BTreeMap<(String, String), BTreeSet<String>> {
    let mut groups: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
    for row in scene.values("research") {
        let text = |name: &str| row[name].as_str().unwrap().to_owned();
        groups.entry((text("city"), text("age"))).or_default().insert(text("who"));
    }
    groups
}

/// Every row once, and nobody in a group of fewer than three.
fn check_groups(scene: &Scene) -> BTreeSet<u64> {
    for (shown, people) in groups(scene) {
        assert!(people.len() >= 3, "{shown:?} is of {}", people.len());
    }
    let rows: Vec<u64> = scene.values("research").iter().map(|row| row["n"].as_u64().unwrap()).collect();
    let numbers: BTreeSet<u64> = rows.iter().copied().collect();
    assert_eq!(numbers.len(), rows.len(), "a row is published twice");
    numbers
}

#[test]
fn rows_leave_in_groups_or_not_at_all() {
    let scene = scene("groups", "1s", 1);
    let worker = scene.site.start("one");
    send(
        &scene,
        &[
            row(1, 1, "Lyon", 30),
            // The same person again does not make a group.
            row(2, 1, "Paris", 31),
            row(3, 1, "Lyon", 30),
            row(4, 2, "Paris", 34),
            row(5, 3, "Lyon", 39),
        ],
    );
    wait_until("released", || counted(&scene, "released") == 5);
    // `2` waited behind `1`, and joined a group that covers it.
    assert_eq!(check_groups(&scene), (1..=5).collect());
    let published = scene.consume("research");
    let first = json(&published[0]);
    assert_eq!(first["city"], "France");
    assert_eq!(first["age"], "[30,39]");
    assert_eq!((&first["diagnosis"], &first["note"]), (&json!("flu"), &json!("c**********")));
    assert_eq!(published[0].key, None);
    assert!(header(&published[0], "veilstream-policy").unwrap().starts_with("patients@1#"));
    assert_eq!(scene.values("billing").len(), 5, "the other view waits for nobody");

    // Two people are no group.
    send(&scene, &[row(6, 4, "Ulm", 80), row(7, 5, "Bonn", 81)]);
    wait_until("suppressed", || counted(&scene, "suppressed") == 2);
    assert_eq!(check_groups(&scene).len(), 5);
    wait_consumed(&worker, 7);
    assert_eq!(worker.metric("veilstream_view_records_total", "outcome=\"suppressed\""), 2.0);
    assert_eq!(worker.metric("veilstream_view_records_total", "outcome=\"released\""), 5.0);
    wait_until("nothing is held", || worker.metric("veilstream_held_records", "") == 0.0);
    assert!(worker.stop().success());

    let whole = |topic: &str| {
        scene.consume(topic).into_iter().flat_map(|one| [one.key, one.payload]).flatten().collect::<Vec<_>>()
    };
    for part in whole("state") {
        let text = String::from_utf8_lossy(&part);
        assert!(!text.contains("canary") && !text.contains("Ulm"), "a value in the state");
    }
}

#[test]
fn what_is_held_outlives_a_stop_and_a_kill() {
    let scene = scene("restart", "1h", 2);
    let worker = scene.site.start("one");
    send(&scene, &[row(1, 1, "Lyon", 30), row(2, 2, "Paris", 31)]);
    wait_until("held", || counted(&scene, "held") == 2);
    assert_eq!(worker.metric("veilstream_held_records", ""), 2.0);
    worker.kill();
    let worker = scene.site.start("one");
    until("what is held is known", 60, || worker.metric("veilstream_held_records", "") == 2.0);
    assert!(worker.stop().success());
    assert!(scene.consume("research").is_empty());
    let worker = scene.site.start("two");
    // Same values in the same partition: nothing to wait for.
    let before = |who| row(who, who, "Lyon", 30);
    send(&scene, &[before(3), before(4), before(5), before(6), before(7), before(8)]);
    until("a group", 60, || !scene.consume("research").is_empty());
    let released = check_groups(&scene);
    assert!(released.len() >= 3);
    assert!(worker.stop().success());
}
