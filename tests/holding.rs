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

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::{Value, json};
use support::broker::{Broker, wait_until};
use support::ledger::until;
use support::scene::{Scene, header, json, wait_consumed};
use support::worker::WorkerProcess;

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
  counts:
    topic: PREFIX.counts
    aggregate:
      window: 10s
      lateness: 0s
      idle: 15s
      time: { path: n, unit: millis }
      least: 1
      figures: { rows: count, people: subjects }
    default: drop
";
/// How long a call of a client may take.
const TIME: Duration = Duration::from_secs(30);
const CITIES: &str = "Lyon;France;*\nParis;France;*\nBonn;Germany;*\nUlm;Germany;*\n";

fn scene(name: &str, within: &str, partitions: i32) -> Scene {
    scene_on(Broker::shared("holding"), name, within, partitions)
}

fn scene_on(broker: Arc<Broker>, name: &str, within: &str, partitions: i32) -> Scene {
    let topics = [
        ("raw", partitions),
        ("research", partitions),
        ("billing", partitions),
        ("counts", partitions),
        ("state", 2),
    ];
    let policy = PATIENTS.replace("WITHIN", within);
    let settings = [("state", "cleanup.policy", "compact")];
    let mut scene = Scene::new_with(broker, name, &policy, &topics, &settings);
    // Every row in a file.
    scene.site.extra =
        format!("state: {{ topic: {}, folder: ., memory_bytes: 1 }}", scene.topic("state"));
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

fn send_to(scene: &Scene, partition: i32, row: &str) {
    let topic = scene.topic("raw");
    let record = BaseRecord::<[u8], [u8]>::to(&topic).partition(partition);
    scene.broker.send([record.payload(row.as_bytes())].into_iter());
}

/// How many rows were `held`, `released` or `suppressed`, by the audit trail.
fn counted(scene: &Scene, what: &str) -> u64 {
    let of = |event: &Value| {
        let views = event["views"].as_array().unwrap().iter();
        let views =
            views.filter(|view| ["research", "sales"].contains(&view["view"].as_str().unwrap()));
        views.filter_map(|view| view[what].as_u64()).sum::<u64>()
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
    let rows: Vec<u64> =
        scene.values("research").iter().map(|row| row["n"].as_u64().unwrap()).collect();
    let numbers: BTreeSet<u64> = rows.iter().copied().collect();
    assert_eq!(numbers.len(), rows.len(), "a row is published twice");
    numbers
}

/// Every row is counted once, and every window published once by each partition.
fn check_counts(scene: &Scene, rows: u64) {
    let (mut total, mut seen) = (0, BTreeSet::new());
    for message in scene.consume("counts") {
        let row = json(&message);
        total += row["rows"].as_u64().unwrap();
        let window = row["window_start"].as_str().unwrap().to_owned();
        assert!(seen.insert((message.partition, window)), "a window twice: {row}");
    }
    assert_eq!(total, rows);
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
    wait_until("nothing is held", || {
        worker.metric("veilstream_held_records", "view=\"research\"") == 0.0
    });
    assert!(worker.stop().success());

    let whole = |topic: &str| {
        scene
            .consume(topic)
            .into_iter()
            .flat_map(|one| [one.key, one.payload])
            .flatten()
            .collect::<Vec<_>>()
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
    assert_eq!(worker.metric("veilstream_held_records", "view=\"research\""), 2.0);
    worker.kill();
    let worker = scene.site.start("one");
    until("what is held is known", 60, || {
        worker.metric("veilstream_held_records", "view=\"research\"") == 2.0
    });
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

#[test]
fn who_waits_to_know_what_is_held_stays_in_the_group() {
    let mut scene = scene("patience", "1h", 2);
    let held =
        |worker: &WorkerProcess| worker.metric("veilstream_held_records", "view=\"research\"");
    let worker = scene.site.start("one");
    send_to(&scene, 0, &row(1, 1, "Lyon", 30));
    send_to(&scene, 1, &row(2, 2, "Lyon", 31));
    wait_until("held", || held(&worker) == 2.0);
    assert!(worker.stop().success());
    // A transaction of somebody else is open in the state topic, for longer than a member may be silent.
    let name = format!("{}-other", scene.prefix);
    let other: BaseProducer =
        scene.broker.client().set("transactional.id", &name).create().unwrap();
    other.init_transactions(TIME).unwrap();
    other.begin_transaction().unwrap();
    let state = scene.topic("state");
    for partition in 0..2 {
        let record = BaseRecord::<str, str>::to(&state).partition(partition);
        other.send(record.key("other").payload("of somebody else")).unwrap();
    }
    other.flush(TIME).unwrap();
    scene.site.kafka =
        "  transaction_timeout_ms: 5000\n  consumer: { max.poll.interval.ms: 6000 }".into();
    let worker = scene.site.start("one");
    let assigned = |worker: &WorkerProcess| worker.metric("veilstream_assigned_partitions", "");
    until("assigned", 60, || assigned(&worker) == 2.0);
    send_to(&scene, 0, &row(3, 3, "Lyon", 32));
    std::thread::sleep(Duration::from_secs(9));
    assert_eq!((held(&worker), worker.metric("veilstream_lane_ready", "")), (0.0, 0.0));
    // What goes meanwhile goes.
    let second = scene.site.start("two");
    until("shared", 60, || assigned(&worker) == 1.0 && assigned(&second) == 1.0);
    std::thread::sleep(Duration::from_secs(7));
    other.commit_transaction(TIME).unwrap();
    until("what is held is known", 60, || held(&worker) + held(&second) == 3.0);
    for worker in [worker, second] {
        assert_eq!(worker.metric("veilstream_lane_restarts_total", ""), 0.0);
        assert!(worker.stop().success());
    }
    assert!(scene.consume("research").is_empty());
}

#[test]
fn what_is_held_is_found_where_it_is_when_the_state_topic_has_more_partitions() {
    let scene = scene("spread", "1h", 3);
    let held =
        |worker: &WorkerProcess| worker.metric("veilstream_held_records", "view=\"research\"");
    let worker = scene.site.start("one");
    send_to(&scene, 2, &row(1, 1, "Lyon", 30));
    wait_until("held", || held(&worker) == 1.0);
    assert!(worker.stop().success());
    scene.broker.add_partitions(&scene.topic("state"), 5);
    let worker = scene.site.start("one");
    send_to(&scene, 2, &row(2, 2, "Lyon", 30));
    until("held", 60, || held(&worker) == 2.0);
    assert!(worker.stop().success());
    let worker = scene.site.start("one");
    send_to(&scene, 2, &row(3, 3, "Lyon", 30));
    until("a group", 60, || scene.consume("research").len() == 3);
    assert!(worker.stop().success());
    assert_eq!(check_groups(&scene), (1..=3).collect());
    assert!(scene.consume("state").iter().all(|entry| entry.partition == 0));
}

#[test]
fn what_a_reload_lets_go_in_several_transactions_is_let_go_once() {
    const ROWS: u64 = 40_000;
    let mut scene = scene("steps", "1h", 2);
    // A third of it is for what is due.
    scene.site.kafka = "  transaction_timeout_ms: 2000".into();
    let file = scene.site.path("policy.yaml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("      k: 3\n", "      k: 3\n      most: 1000000\n")).unwrap();
    let worker = scene.site.start("one");
    let some = |numbers: std::ops::Range<u64>| {
        // No two are alike: all wait.
        let one =
            |n| row(n, n, "Lyon", 7).replace("\"age\":7", &format!("\"age\":{}", n as f64 / 1e3));
        let rows: Vec<_> = numbers.map(one).collect();
        send(&scene, &rows);
    };
    some(0..ROWS);
    until("taken", 90, || {
        let events = scene.audit("process");
        events.iter().map(|event| event["records"].as_u64().unwrap()).sum::<u64>() == ROWS
    });
    assert!(scene.consume("research").is_empty());
    let before = fs::read_to_string(&file).unwrap();
    let next = before.replace("version: 1", "version: 2").replace("health: keep", "health: drop");
    fs::write(&file, next).unwrap();
    worker.signal("HUP");
    // Records go on coming, for both partitions.
    let mut sent = ROWS;
    until("reloaded", 90, || {
        some(sent..sent + 20);
        sent += 20;
        scene.changes("policies-replaced").len() == 1
    });
    for _ in 0..20 {
        some(sent..sent + 20);
        sent += 20;
    }
    until("all is taken", 60, || {
        let events = scene.audit("process");
        events.iter().map(|event| event["records"].as_u64().unwrap()).sum::<u64>() == sent
    });
    assert!(worker.stop().success());
    // The rules of after the reload, once and for all.
    let mut newest = BTreeMap::<i32, String>::new();
    for message in scene.consume("research") {
        let rules = header(&message, "veilstream-policy").unwrap().to_owned();
        let last = newest.entry(message.partition).or_insert_with(|| rules.clone());
        assert!(*last <= rules, "{rules} behind {last}");
        *last = rules;
    }
    check_groups(&scene);
    let held = counted(&scene, "held");
    let left = counted(&scene, "released") + counted(&scene, "suppressed");
    assert_eq!(held, sent);
    assert_eq!(check_groups(&scene).len() as u64, counted(&scene, "released"));
    assert!((ROWS..=sent).contains(&left), "{left} of {sent}");
    let parts = scene.audit("process");
    let of_many = |event: &&Value| {
        event["views"].as_array().unwrap().iter().any(|view| view["released"].as_u64() > Some(1000))
    };
    assert!(parts.iter().filter(of_many).count() > 1, "one transaction let go all of it");
}

#[test]
fn what_the_broker_takes_no_more_is_suppressed() {
    let scene = scene("refused", "5s", 1);
    let worker = scene.site.start("one");
    send(&scene, &[row(1, 1, "Lyon", 30), row(2, 2, "Paris", 31), row(3, 3, "Ulm", 32)]);
    wait_until("held", || counted(&scene, "held") == 3);
    // As asked when the worker began, a row would fit.
    scene.broker.set(&scene.topic("research"), "max.message.bytes", "150");
    until("suppressed", 90, || counted(&scene, "suppressed") == 3);
    assert!(worker.metric("veilstream_lane_restarts_total", "") >= 1.0);
    assert!(worker.stop().success());
    assert!(scene.consume("research").is_empty() && scene.consume("quarantine").is_empty());
}

#[test]
fn a_reload_lets_go_by_the_rules_under_which_rows_came() {
    let scene = scene("reload", "1h", 1);
    let worker = scene.site.start("one");
    let rows: Vec<String> = (1..=4).map(|who| row(who, who, "Lyon", 30 + who)).collect();
    send(&scene, &rows);
    send(&scene, &[row(5, 5, "Ulm", 90)]);
    wait_until("held", || counted(&scene, "held") == 5);
    let policy = scene.site.path("policy.yaml");
    let text = fs::read_to_string(&policy).unwrap();
    // What has nothing to do with the view leaves alone what it holds.
    let other = text.replace("version: 1", "version: 2").replace("tokenize", "drop");
    fs::write(&policy, &other).unwrap();
    worker.signal("HUP");
    wait_until("reloaded", || scene.changes("policies-replaced").len() == 1);
    assert_eq!(worker.metric("veilstream_held_records", "view=\"research\""), 5.0);
    fs::write(
        &policy,
        other.replace("version: 2", "version: 3").replace("health: keep", "health: drop"),
    )
    .unwrap();
    worker.signal("HUP");
    wait_until("let go", || counted(&scene, "released") + counted(&scene, "suppressed") == 5);
    assert!(counted(&scene, "released") >= 3);
    for message in scene.consume("research") {
        assert!(header(&message, "veilstream-policy").unwrap().starts_with("patients@1#"));
        assert_eq!(json(&message)["diagnosis"], "flu");
    }
    check_groups(&scene);
    // By the new rules from here on, and over a restart.
    send(&scene, &[row(6, 6, "Bonn", 20), row(7, 7, "Bonn", 20)]);
    wait_until("held", || counted(&scene, "held") == 7);
    assert!(worker.stop().success());
    let worker = scene.site.start("one");
    send(&scene, &[row(8, 8, "Bonn", 20)]);
    until("a group of the new rules", 60, || {
        scene.values("research").iter().any(|row| row["n"] == 8)
    });
    let last = scene.values("research").pop().unwrap();
    assert_eq!((last["city"].as_str(), last.get("diagnosis")), (Some("Bonn"), None));
    assert!(worker.stop().success());

    // Another policy without a reload: what was held is suppressed, and the trail says so.
    let worker = scene.site.start("one");
    send(&scene, &[row(9, 9, "Ulm", 50)]);
    wait_until("held", || counted(&scene, "held") == 9);
    assert!(worker.stop().success());
    let before = counted(&scene, "suppressed");
    let text = fs::read_to_string(&policy).unwrap();
    fs::write(&policy, text.replace("version: 3", "version: 4").replace("k: 3", "k: 2")).unwrap();
    let worker = scene.site.start("one");
    wait_until("suppressed", || counted(&scene, "suppressed") == before + 1);
    assert!(worker.log().contains("made by other rules"));
    assert!(worker.stop().success());
    let worker = scene.site.start("one");
    until("nothing of it is left", 60, || worker.log().contains("what is held is known"));
    assert!(!worker.log().contains("made by other rules"));
    assert!(worker.stop().success());
}

#[test]
fn kills_rebalances_and_restarts_neither_lose_nor_double_nor_shrink_a_group() {
    let sessions = [
        ("group.consumer.min.session.timeout.ms", "6000"),
        ("group.consumer.session.timeout.ms", "6000"),
        ("group.consumer.min.heartbeat.interval.ms", "1000"),
        ("group.consumer.heartbeat.interval.ms", "1000"),
    ];
    let broker = Arc::new(Broker::start_with("holding-ordeal", &sessions));
    let mut scene = scene_on(broker, "ordeal", "3s", 6);
    let raw = scene.topic("raw");
    // What a killed worker left open holds up who restores what it held.
    scene.site.kafka = "  transaction_timeout_ms: 15000".into();
    scene.site.extra += &format!(
        "\nbatch: {{ records: 300 }}\nlimits: {{ sources: {{ {raw}: {{ records_per_second: 2500 }} }} }}"
    );
    const ROWS: u64 = 60_000;
    let cities = ["Lyon", "Paris", "Bonn", "Ulm", "Rome"];
    let rows: Vec<(String, String)> = (0..ROWS)
        .map(|n| {
            let who = n * 7919 % 9000;
            let value = row(n, who, cities[(who % 5) as usize], who % 97);
            (format!("{who}"), value)
        })
        .collect();
    for part in rows.chunks(5_000) {
        let part: Vec<_> = part
            .iter()
            .map(|(key, value)| (Some(key.as_bytes()), Some(value.as_bytes())))
            .collect();
        scene.broker.produce(&raw, &part);
    }
    let accounted = |scene: &Scene| {
        scene.audit("process").iter().map(|event| event["records"].as_u64().unwrap()).sum::<u64>()
    };
    let consumed = |worker: &WorkerProcess| worker.metric("veilstream_consumed_records_total", "");
    let steady = scene.site.start("steady");
    for round in 0..3 {
        let victim = scene.site.start("victim");
        until("the victim's first batches", 90, || {
            consumed(&victim) > 1_000.0 || accounted(&scene) >= ROWS
        });
        victim.kill();
        if round == 1 && !scene.broker.is_external() {
            scene.broker.restart();
        }
        if round == 2 {
            let guest = scene.site.start("guest");
            until("the guest's share", 90, || {
                consumed(&guest) > 500.0 || accounted(&scene) >= ROWS
            });
            assert!(guest.stop().success());
        }
    }
    let second = scene.site.start("victim");
    until("all rows are read", 200, || accounted(&scene) >= ROWS);
    until("all rows have left", 60, || {
        counted(&scene, "released") + counted(&scene, "suppressed") >= counted(&scene, "held")
    });
    until("all windows are published", 90, || {
        scene.values("counts").iter().map(|row| row["rows"].as_u64().unwrap()).sum::<u64>() >= ROWS
    });
    assert!(steady.stop().success() && second.stop().success());
    assert_eq!(
        (scene.check_audit("raw"), accounted(&scene), counted(&scene, "held")),
        (ROWS, ROWS, ROWS)
    );
    let published = check_groups(&scene);
    assert_eq!(published.len() as u64, counted(&scene, "released"));
    assert_eq!(counted(&scene, "released") + counted(&scene, "suppressed"), ROWS);
    assert!(published.len() as u64 > ROWS / 2, "{} rows", published.len());
    check_counts(&scene, ROWS);
}

const ORDERS: &str = "
policy: orders
version: 1
source: { topic: PREFIX.raw, format: json }
subject: who
fields: { who: identifier, at: time, city: place, amount: money, note: text }
views:
  sales:
    topic: PREFIX.sales
    aggregate:
      window: 1m
      time: at
      lateness: 0s
      idle: 1h
      by: city
      least: 2
      numbers: { amount: { decimals: 2, min: 0, max: 1000 } }
      figures:
        orders: count
        customers: subjects
        revenue: { sum: amount }
        average: { mean: amount }
        largest: { max: amount }
    classes: { identifier: drop, time: drop, place: { generalize: { hierarchy: cities.csv } }, money: drop, text: drop }
";

fn order(who: u64, minute: u64, city: &str, amount: &str) -> String {
    let second = who % 60;
    format!(
        r#"{{"who":"canary-{who}","at":"2026-01-01T10:{minute:02}:{second:02}Z","city":"{city}","amount":{amount},"note":"canary"}}"#
    )
}

fn orders_scene(name: &str, policy: &str, partitions: i32) -> Scene {
    let topics = [("raw", partitions), ("sales", partitions), ("state", 2)];
    let settings = [("state", "cleanup.policy", "compact")];
    let mut scene = Scene::new_with(Broker::shared("holding"), name, policy, &topics, &settings);
    scene.site.extra = format!("state: {{ topic: {} }}", scene.topic("state"));
    fs::write(scene.site.path("cities.csv"), CITIES).unwrap();
    scene
}

#[test]
fn figures_are_of_whole_windows_whatever_happens_to_the_worker() {
    let scene = orders_scene("windows", ORDERS, 1);
    let worker = scene.site.start("one");
    send(
        &scene,
        &[
            order(1, 0, "Lyon", "10.50"),
            order(1, 0, "Paris", "0.255"),
            order(2, 0, "Paris", "20"),
            order(3, 0, "Bonn", "5000"),
        ],
    );
    wait_consumed(&worker, 4);
    worker.kill();
    let worker = scene.site.start("one");
    send(&scene, &[order(4, 0, "Ulm", "null"), order(5, 1, "Lyon", "1")]);
    until("the first window", 60, || scene.consume("sales").len() == 2);
    let rows = scene.values("sales");
    assert_eq!(
        rows,
        [
            json!({"window_start": "2026-01-01T10:00:00Z", "window_end": "2026-01-01T10:01:00Z", "city": "France",
                   "orders": 3, "customers": 2, "revenue": 30.76, "average": 10.2533, "largest": 20}),
            json!({"window_start": "2026-01-01T10:00:00Z", "window_end": "2026-01-01T10:01:00Z", "city": "Germany",
                   "orders": 2, "customers": 2, "revenue": 1000, "average": 1000, "largest": 1000}),
        ]
    );
    let label = scene.consume("sales");
    assert!(header(&label[0], "veilstream-policy").unwrap().starts_with("orders@1#"));
    // One order alone, and what comes too late, is not published.
    send(&scene, &[order(6, 0, "Lyon", "1"), order(7, 2, "Lyon", "1")]);
    wait_until("the second window", || counted(&scene, "windows") == 2);
    assert_eq!(scene.consume("sales").len(), 2);
    let late = || worker.metric("veilstream_window_records_total", "outcome=\"late\"");
    until("late", 30, || late() == 1.0);
    assert_eq!(worker.metric("veilstream_window_suppressed_groups_total", "why=\"few\""), 1.0);
    assert_eq!(worker.metric("veilstream_windows_total", "outcome=\"published\""), 2.0);
    // No time, and no number.
    send(&scene, &[r#"{"who":"canary-8","city":"Lyon"}"#.into(), order(8, 2, "Lyon", "true")]);
    wait_until("quarantined", || scene.consume("quarantine").len() == 2);
    let reasons: Vec<_> = scene
        .consume("quarantine")
        .iter()
        .map(|one| header(one, "veilstream-reason").unwrap().to_owned())
        .collect();
    assert_eq!(reasons, ["group_field", "wrong_type"]);
    assert!(worker.stop().success());
    for message in scene.consume("state") {
        for part in [message.key, message.payload].into_iter().flatten() {
            assert!(!String::from_utf8_lossy(&part).contains("canary"));
        }
    }
}

#[test]
fn a_window_ends_by_itself_where_nothing_comes() {
    let policy = ORDERS.replace("time: at", "").replace("window: 1m", "window: 2s");
    let scene = orders_scene("idle", &policy.replace("idle: 1h", "idle: 1s"), 1);
    let worker = scene.site.start("one");
    send(&scene, &[order(1, 0, "Lyon", "1"), order(2, 0, "Lyon", "2")]);
    until("the window", 30, || !scene.consume("sales").is_empty());
    assert_eq!(scene.values("sales")[0]["revenue"], 3);
    assert!(worker.stop().success());
}

/// With a budget for so many windows.
fn private(windows: u32) -> String {
    let private = format!(
        "      contributions: 1
      subjects: 100000
      privacy: {{ epsilon: 1, delta: 0.000001, groups: [France, Germany], budget: {{ epsilon: {windows}, delta: 0.001, per: ever }} }}
"
    );
    ORDERS
        .replace("      numbers:", &format!("{private}      numbers:"))
        .replace("        largest: { max: amount }\n", "")
}

#[test]
fn a_budget_is_spent_once_however_often_the_rules_change_under_traffic() {
    const BUDGET: u32 = 8;
    const PARTITIONS: i32 = 3;
    let scene = orders_scene("budgets", &private(BUDGET), PARTITIONS);
    let start = || {
        let worker = scene.site.start("one");
        until("started", 30, || worker.get("/metrics").is_some());
        Some(worker)
    };
    let mut running = start();
    let file = scene.site.path("policy.yaml");
    let text = fs::read_to_string(&file).unwrap();
    let done = AtomicBool::new(false);
    let worker = std::thread::scope(|scope| {
        let traffic = scope.spawn(|| {
            for minute in 0..60 {
                let rows: Vec<_> = (0..50).map(|who| order(who, minute, "Lyon", "10")).collect();
                send(&scene, &rows);
                std::thread::sleep(Duration::from_millis(150));
            }
            done.store(true, Ordering::Relaxed);
        });
        let mut version = 1;
        while !done.load(Ordering::Relaxed) {
            version += 1;
            let (number, name) = (format!("version: {version}"), format!("average{version}"));
            let text = text.replace("version: 1", &number).replace("average", &name);
            fs::write(&file, text).unwrap();
            running.as_ref().unwrap().signal("HUP");
            // Also over a stop, behind several reloads.
            if version % 4 == 0 {
                assert!(running.take().unwrap().stop().success());
                running = start();
            }
            std::thread::sleep(Duration::from_millis(400));
        }
        traffic.join().unwrap();
        running.unwrap()
    });
    until("all rows are read", 60, || {
        let events = scene.audit("process");
        events.iter().map(|event| event["records"].as_u64().unwrap()).sum::<u64>() == 3000
    });
    // By partition: windows, and how many of their rows are published and how many withheld.
    let windows = || {
        let mut windows: BTreeMap<i32, BTreeMap<String, (u32, u32)>> = BTreeMap::new();
        for message in scene.consume("sales") {
            let row = json(&message);
            let window = row["window_start"].as_str().unwrap().to_owned();
            let of_window =
                windows.entry(message.partition).or_default().entry(window).or_default();
            match row.get("withheld") {
                None => of_window.0 += 1,
                Some(_) => of_window.1 += 1,
            }
        }
        windows
    };
    until("all budgets are spent", 60, || {
        let windows = windows();
        let spent = windows.values().filter(|all| all.values().any(|(_, withheld)| *withheld > 0));
        spent.count() as i32 == PARTITIONS
    });
    assert!(worker.stop().success());
    for (partition, windows) in windows() {
        let published = windows.values().filter(|rows| **rows == (3, 0)).count();
        assert_eq!(published as u32, BUDGET, "{partition}: {windows:?}");
        assert!(windows.values().all(|rows| [(3, 0), (0, 1)].contains(rows)), "{windows:?}");
    }
}

#[test]
fn a_budget_is_spent_once_whatever_happens_to_the_rules() {
    let scene = orders_scene("budget", &private(2), 1);
    let worker = scene.site.start("one");
    let rows: Vec<String> = (0..2000).map(|who| order(who, 0, "Lyon", "10")).collect();
    send(&scene, &rows[..800]);
    send(&scene, &[order(1, 1, "Lyon", "10")]);
    wait_until("a window", || counted(&scene, "windows") == 1);
    let published = scene.values("sales");
    assert_eq!(published.len(), 3, "declared groups are always there, and one for all others");
    assert_eq!(
        (&published[0]["city"], &published[1]["city"]),
        (&json!("France"), &json!("Germany"))
    );
    assert_eq!((&published[2]["city"], &published[2]["other"]), (&Value::Null, &json!(true)));
    let orders = published[0]["orders"].as_i64().unwrap();
    assert!((700..900).contains(&orders), "{orders}");
    assert!(published[0]["noise"]["orders"]["scale"].as_f64().unwrap() > 1.0);
    assert_eq!(worker.metric("veilstream_privacy_budget_left_ratio", ""), 0.5);

    // Other rules, by a reload and over a restart: what is spent stays spent.
    let file = scene.site.path("policy.yaml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("version: 1", "version: 2").replace("average", "typical"))
        .unwrap();
    worker.signal("HUP");
    wait_until("reloaded", || scene.changes("policies-replaced").len() == 1);
    send(&scene, &[order(1, 2, "Lyon", "10"), order(1, 3, "Lyon", "10")]);
    wait_until("another window", || counted(&scene, "windows") == 2);
    assert_eq!(worker.metric("veilstream_privacy_budget_left_ratio", ""), 0.0);
    assert!(worker.stop().success());
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("version: 2", "version: 3").replace("typical", "mean_amount"))
        .unwrap();
    let before = scene.consume("sales").len();
    let worker = scene.site.start("one");
    send(&scene, &[order(1, 4, "Lyon", "10"), order(1, 5, "Lyon", "10")]);
    wait_until("withheld", || scene.consume("sales").len() > before);
    let last = scene.values("sales").pop().unwrap();
    assert_eq!((&last["withheld"], last.get("orders")), (&json!("budget_spent"), None));
    assert!(worker.metric("veilstream_windows_total", "outcome=\"budget_spent\"") >= 1.0);
    assert!(worker.stop().success());
}
