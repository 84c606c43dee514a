//! A person is forgotten, on a real broker, on SQLite and a real PostgreSQL: nothing of theirs opens or stays in a
//! compacted view, whatever breaks in the middle.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails where it should"
)]

mod support;

use std::collections::BTreeMap;
use std::process::{Command, Output};
use std::sync::Arc;

use base64_simd::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use support::broker::{Broker, wait_until};
use support::postgres::Postgres;
use support::scene::{Scene, stdout, user, wait_consumed};
use support::worker::{BINARY, WorkerProcess, free_address};
use veilstream::config::Config;
use veilstream::crypto::ciphertext;
use veilstream::crypto::erasure::Asked;
use veilstream::crypto::{KeyError, KeySource};
use veilstream::erasure::{Act, Clerk, EraseError, Outcome, Registry, Step, Wish, Wisher, fixed};
use veilstream::kafka::ClientSettings;
use veilstream::keys::Ring;
use veilstream::plans::Plans;

const CUSTOMERS: &str = "
policy: customers
version: 1
source: { topic: PREFIX.customers, format: debezium }
subject: { path: id, population: people }
fields: { id: identifier, email: email, plan: public }
views:
  tokens: { topic: PREFIX.tokens, classes: { identifier: tokenize, email: encrypt, public: keep } }
  masked: { topic: PREFIX.masked, classes: { identifier: tokenize, email: { mask: email }, public: keep } }
  kept: { topic: PREFIX.kept, classes: { identifier: keep, email: drop, public: keep } }
  hidden: { topic: PREFIX.hidden, key: tokenize, classes: { identifier: drop, email: encrypt, public: keep } }
  stream: { topic: PREFIX.stream, classes: { identifier: keep, email: encrypt, public: keep } }
";

/// Of the same people, under keys of its own.
const ORDERS: &str = "
policy: orders
version: 1
source: { topic: PREFIX.orders, format: json }
subject: { path: buyer.id, population: people }
fields: { number: order, buyer.id: identifier, note: note }
views:
  orders: { topic: PREFIX.shop, classes: { order: keep, identifier: hash, note: keep } }
";

/// Of others, who have the same numbers.
const STAFF: &str = "
policy: staff
version: 1
source: { topic: PREFIX.staff, format: json }
subject: id
fields: { id: identifier, email: email }
views:
  staff: { topic: PREFIX.team, classes: { identifier: keep, email: encrypt } }
";

const COMPACTED: [&str; 6] = ["tokens", "masked", "kept", "hidden", "shop", "team"];

struct Place {
    scene: Scene,
    /// It ends with the test.
    _postgres: Option<Postgres>,
}

impl Place {
    fn new(name: &str, postgres: Option<Postgres>, change: impl Fn(&str) -> String) -> Place {
        let topics = ["customers", "orders", "staff", "stream", "requests"].into_iter();
        let topics: Vec<_> = topics.chain(COMPACTED).map(|topic| (topic, 2)).collect();
        let compact: Vec<_> =
            COMPACTED.iter().map(|topic| (*topic, "cleanup.policy", "compact")).collect();
        let policy = change(CUSTOMERS);
        let mut scene =
            Scene::new_with(Broker::shared("erasure"), name, &policy, &topics, &compact);
        for (file, policy) in [("policy-orders.yaml", ORDERS), ("policy-staff.yaml", STAFF)] {
            let policy = change(policy).replace("PREFIX", &scene.prefix);
            std::fs::write(scene.site.path(file), policy).unwrap();
        }
        std::fs::write(scene.site.path("passphrase"), "correct horse battery").unwrap();
        let database = match &postgres {
            Some(postgres) => {
                postgres.url_file(scene.site.folder.path());
                "postgres: { file: postgres-url }"
            }
            None => "sqlite: keys.db",
        };
        scene.site.keys = format!(
            "key_store:\n  {database}\n  cached_s: 1\n  kek: {{ file: {{ path: kek.json, \
             passphrase: {{ file: passphrase }} }} }}"
        );
        // So long a worker may use a key that was destroyed.
        scene.site.kafka = "  transaction_timeout_ms: 1000".into();
        let config = scene.site.configure("one", free_address());
        let mut init = Command::new(BINARY);
        stdout(&init.args(["keys", "init", "--config"]).arg(config).output().unwrap());
        Place { scene, _postgres: postgres }
    }

    fn customer(&self, op: &str, id: u32, plan: &str) {
        let image = |plan: &str| json!({"id": id, "email": format!("canary-{id}@example.com"), "plan": plan});
        let value = json!({
            "before": if op == "d" { image(plan) } else { Value::Null },
            "after": if op == "d" { Value::Null } else { image(plan) },
            "source": {"ts_ms": 1}, "op": op, "ts_ms": 1,
        });
        self.scene
            .produce("customers", &[(Some(&json!({"id": id}).to_string()), &value.to_string())]);
    }

    /// Three customers, two orders of each, three of the staff.
    fn fill(&self) -> u64 {
        for id in 1..=3 {
            self.customer("c", id, "gold");
            self.customer("u", id, "silver");
            for order in 0..2 {
                let number = format!("{id}-{order}");
                let value = json!({"number": number, "buyer": {"id": id.to_string()}, "note": "n"});
                let key = json!({"number": number}).to_string();
                self.scene.produce("orders", &[(Some(&key), &value.to_string())]);
            }
            let value = json!({"id": id, "email": "canary@staff.example"});
            let key = json!({"id": id}).to_string();
            self.scene.produce("staff", &[(Some(&key), &value.to_string())]);
        }
        15
    }

    /// What a compacted view holds under each key.
    fn table(&self, topic: &str) -> BTreeMap<Vec<u8>, Value> {
        let mut table = BTreeMap::new();
        let mut messages = self.scene.consume(topic);
        messages.sort_by_key(|message| (message.partition, message.offset));
        for message in messages {
            match message.payload {
                Some(payload) => {
                    table.insert(message.key.unwrap(), serde_json::from_slice(&payload).unwrap());
                }
                None => drop(table.remove(&message.key.unwrap())),
            }
        }
        table
    }

    fn tables(&self) -> Vec<usize> {
        COMPACTED.iter().map(|topic| self.table(topic).len()).collect()
    }

    fn command(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(BINARY);
        command.args(arguments).arg("--config").arg(self.scene.site.path("one.yaml"));
        command.output().unwrap()
    }

    fn config(&self) -> Config {
        Config::load(&self.scene.site.path("one.yaml")).unwrap()
    }

    fn ring(&self) -> Ring {
        let config = self.config();
        Ring::open(&config.key_store.unwrap(), &config.folder).unwrap()
    }

    fn erasures(&self, what: &str) -> Vec<Value> {
        let mut events = self.scene.audit("erasure");
        events.retain(|event| event["what"] == what);
        events
    }

    /// Ciphertexts of the stream, by the customer's number.
    fn sealed(&self) -> Vec<(u64, String)> {
        let events = self.scene.consume("stream");
        let events =
            events.iter().filter(|message| message.payload.is_some()).map(support::scene::json);
        let rows = events.map(|event| event["after"].clone()).filter(|row| !row.is_null());
        rows.map(|row| (row["id"].as_u64().unwrap(), row["email"].as_str().unwrap().to_owned()))
            .collect()
    }

    /// Whether ciphertexts of the stream have a key, by the customer's number.
    fn opens(&self) -> BTreeMap<u64, Vec<bool>> {
        let ring = self.ring();
        let mut opens: BTreeMap<u64, Vec<bool>> = BTreeMap::new();
        for (id, sealed) in self.sealed() {
            let label =
                ciphertext::label(&URL_SAFE_NO_PAD.decode_to_vec(&sealed).unwrap()).unwrap();
            let opened = match ring.find(label.key, label.version) {
                Ok(key) => {
                    let place = ("customers/stream/email", "email");
                    let opened = ciphertext::open_text(&key, place.0, place.1, &sealed).unwrap();
                    let text = format!("\"canary-{id}@example.com\"");
                    assert_eq!(opened.expose().as_slice(), text.as_bytes());
                    true
                }
                Err(KeyError::Erased(of)) => {
                    assert_eq!(of, label.key);
                    false
                }
                Err(other) => panic!("{other}"),
            };
            opens.entry(id).or_default().push(opened);
        }
        opens
    }

    /// No name of anybody is in the trail or the logs.
    fn check_silence(&self) {
        for message in self.scene.consume("audit") {
            let text = String::from_utf8(message.payload.unwrap()).unwrap();
            assert!(!text.contains("canary"), "{text}");
        }
        assert!(!self.scene.site.logs().contains("canary"));
    }
}

fn forget_one(name: &str, postgres: Option<Postgres>) {
    let place = Place::new(name, postgres, str::to_owned);
    let raw = place.fill();
    let worker = place.scene.site.start("one");
    wait_consumed(&worker, raw);
    assert_eq!(place.tables(), [3, 3, 3, 3, 6, 3]);
    assert_eq!(
        place.opens(),
        BTreeMap::from([(1, vec![true; 2]), (2, vec![true; 2]), (3, vec![true; 2])])
    );

    let people = ["--population", "people"];
    let status =
        |id: &str| stdout(&place.command(&[&["erase", id, "--status"][..], &people].concat()));
    assert!(status("2").starts_with("active\n"));
    assert!(status("77").starts_with("unknown\n"));
    let erase = |id: &str| {
        place.command(&[&["erase", id, "--json", "--reason", "request 4711"][..], &people].concat())
    };
    let said: Value = serde_json::from_str(&stdout(&erase("2"))).unwrap();
    assert_eq!(said["state"], "erased");
    let receipt = said["receipt"].as_str().unwrap();
    assert_eq!(receipt.len(), 64);

    // One customer and two orders fewer; the staff's number 2 is another person.
    assert_eq!(place.tables(), [2, 2, 2, 2, 4, 3]);
    assert!(place.table("kept").values().all(|event| event["after"]["id"] != 2));
    assert_eq!(
        place.opens(),
        BTreeMap::from([(1, vec![true; 2]), (2, vec![false; 2]), (3, vec![true; 2])])
    );
    assert!(status("2").starts_with(&format!("erased\nreceipt {receipt}")));
    let requested = place.erasures("requested");
    assert_eq!((requested.len(), &requested[0]["receipt"]), (1, &json!(receipt)));
    assert_eq!(
        (&requested[0]["actor"], &requested[0]["reason"]),
        (&json!(user()), &json!("request 4711"))
    );
    let done = place.erasures("done");
    assert_eq!(
        (done.len(), &done[0]["receipt"], &done[0]["keys"]),
        (1, &json!(receipt), &json!(1))
    );
    let buried: BTreeMap<_, _> = done[0]["tombstones"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["view"].as_str().unwrap(), one["records"].as_u64().unwrap()))
        .collect();
    let expected = [
        ("customers/tokens", 1),
        ("customers/masked", 1),
        ("customers/kept", 1),
        ("customers/hidden", 1),
        ("orders/orders", 2),
    ];
    assert_eq!(buried, BTreeMap::from(expected));
    assert!(done[0]["tried"].as_u64().unwrap() >= 1);

    // Once more: nothing changes.
    let again: Value = serde_json::from_str(&stdout(&erase("2"))).unwrap();
    assert_eq!(again, said);
    assert_eq!((place.erasures("requested").len(), place.erasures("done").len()), (2, 1));

    // What comes later of the person goes nowhere; the others' does.
    let before: Vec<usize> =
        ["tokens", "stream"].map(|topic| place.scene.consume(topic).len()).into();
    place.customer("u", 2, "platinum");
    place.customer("c", 2, "platinum");
    place.customer("d", 2, "platinum");
    place.customer("u", 1, "platinum");
    wait_consumed(&worker, raw + 4);
    assert_eq!(place.tables(), [2, 2, 2, 2, 4, 3]);
    let after: Vec<usize> =
        ["tokens", "stream"].map(|topic| place.scene.consume(topic).len()).into();
    assert_eq!(after, [before[0] + 4, before[1] + 4], "a tombstone for each");
    assert_eq!(place.opens()[&2], [false; 2], "nothing new");
    assert_eq!(worker.metric("veilstream_erased_records_total", ""), 3.0);
    let processed = place.scene.audit("process");
    assert_eq!(processed.iter().filter_map(|event| event["erased"].as_u64()).sum::<u64>(), 3);
    assert!(place.scene.consume("quarantine").is_empty());

    // Somebody who was never seen is never seen.
    stdout(&place.command(&[&["erase", "9", "--no-wait", "--reason", "r"][..], &people].concat()));
    place.customer("c", 9, "gold");
    wait_consumed(&worker, raw + 5);
    assert_eq!(place.tables(), [2, 2, 2, 2, 4, 3]);
    // The worker does the rest by itself.
    wait_until("the worker finishes", || place.erasures("done").len() == 2);
    assert!(worker.stop().success());
    place.check_silence();
}

#[test]
fn whoever_is_forgotten_on_sqlite_is_so_everywhere() {
    forget_one("sqlite", None);
}

#[test]
fn whoever_is_forgotten_on_postgresql_is_so_everywhere() {
    forget_one("postgres", Some(Postgres::start()));
}

#[test]
fn whoever_is_held_is_not_forgotten() {
    let place = Place::new("held", None, str::to_owned);
    let raw = place.fill();
    let worker = place.scene.site.start("one");
    wait_consumed(&worker, raw);
    let people = ["--population", "people", "--reason", "case 12"];
    let run = |command: &str, id: &str| place.command(&[&[command, id][..], &people].concat());
    assert!(stdout(&run("hold", "2")).starts_with("held\n"));
    assert!(stdout(&run("hold", "2")).starts_with("held, as before\n"));
    let refused = run("erase", "2");
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("it is held up"));
    assert_eq!(place.opens()[&2], [true; 2]);
    assert_eq!((place.erasures("held").len(), place.erasures("refused").len()), (2, 1));
    assert!(stdout(&run("release", "2")).starts_with("released\n"));
    assert!(stdout(&run("release", "2")).starts_with("released: nothing was held\n"));
    assert!(stdout(&run("erase", "2")).starts_with("erased"));
    assert_eq!(run("hold", "2").status.code(), Some(1), "too late");
    assert_eq!(place.opens()[&2], [false; 2]);

    // What is wrong is told, without the person.
    for (arguments, expected) in [
        (&["erase", "canary", "--reason", "r"][..], "`population`: one of people, staff"),
        (
            &["erase", "canary", "--reason", "r", "--population", "pepole"],
            "`population`: one of people, staff",
        ),
        (
            &["erase", "canary", "--reason", "Canary asked", "--population", "people"],
            "must not name them",
        ),
        (&["erase", "canary", "--reason", " ", "--population", "people"], "`reason`"),
        (&["erase", "", "--reason", "r", "--population", "people"], "`subject`"),
        (&["erase", "canary"], "--reason"),
    ] {
        let wrong = place.command(arguments);
        let said = String::from_utf8_lossy(&wrong.stderr).into_owned();
        assert_eq!(wrong.status.code(), Some(2), "{said}");
        assert!(said.contains(expected) && !said.contains("canary"), "{said}");
    }
    // With roles, only who has one that says so.
    std::fs::write(place.scene.site.path("roles.yaml"), "roles: { privacy: { erase: true } }")
        .unwrap();
    let file = place.scene.site.path("one.yaml");
    let config = std::fs::read_to_string(&file).unwrap() + "access: { roles: roles.yaml }\n";
    std::fs::write(&file, config).unwrap();
    let denied = run("erase", "3");
    assert_eq!(denied.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&denied.stderr).contains("may not have anybody forgotten"));
    assert_eq!(place.opens()[&3], [true; 2]);
    assert!(worker.stop().success());
    place.check_silence();
}

#[test]
fn whoever_comes_back_gets_another_key_where_the_policy_says_so() {
    let rekeyed = |policy: &str| policy.replace("subject:", "on_erased: rekey\nsubject:");
    let place = Place::new("rekey", None, rekeyed);
    let raw = place.fill();
    let worker = place.scene.site.start("one");
    wait_consumed(&worker, raw);
    let erase = ["erase", "2", "--population", "people", "--reason", "r", "--no-wait"];
    assert!(stdout(&place.command(&erase)).starts_with("erasing: 1 keys destroyed\n"));
    // Until the worker has heard of it, the old key may still be at hand.
    wait_until("the new key", || {
        place.customer("u", 2, "gold");
        std::thread::sleep(std::time::Duration::from_millis(500));
        place.opens()[&2].contains(&true)
    });
    wait_until("the worker finishes", || place.erasures("done").len() == 1);
    // The person's new record stays, and what was before is gone.
    assert_eq!(place.tables(), [3, 3, 3, 3, 4, 3]);
    let opens = place.opens();
    assert_eq!((opens[&2][0], opens[&2][1], opens[&2].last()), (false, false, Some(&true)));
    assert!(worker.stop().success());
    place.check_silence();
}

#[test]
fn whoever_stands_under_an_earlier_pseudonym_is_found() {
    let place = Place::new("earlier", None, str::to_owned);
    let raw = place.fill();
    let worker = place.scene.site.start("one");
    wait_consumed(&worker, raw);
    stdout(&place.command(&["keys", "rotate", "token"]));
    wait_until("the new key", || {
        place.customer("u", 3, "platinum");
        std::thread::sleep(std::time::Duration::from_millis(500));
        place.table("tokens").len() == 4
    });
    place.customer("u", 2, "platinum");
    wait_until("the record", || place.table("tokens").len() == 5);
    // Both under two keys each, in the views whose record keys are tokens.
    assert_eq!(place.tables(), [5, 5, 3, 5, 6, 3]);
    let erase = ["erase", "2", "--population", "people", "--reason", "r"];
    assert!(stdout(&place.command(&erase)).starts_with("erased"));
    assert_eq!(place.tables(), [3, 3, 2, 3, 4, 3]);
    assert!(worker.stop().success());
}

/// What a wish is asked by.
fn registry(place: &Place) -> (Registry, Config, ClientSettings, Arc<Plans>) {
    let config = place.config();
    let settings = ClientSettings::new(&config).unwrap();
    let plans = Arc::new(Plans::load(&config).unwrap());
    (Registry::new(fixed(&plans), &settings, &config, "test"), config, settings, plans)
}

fn wish(subject: &str) -> Wish {
    Wish { subject: subject.into(), population: Some("people".into()), reason: "r".into() }
}

/// As if the time of whoever took them on had ended.
fn end_leases(place: &Place) {
    let program = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); db.execute('UPDATE erasures SET leased_until_ms = 0'); db.commit()";
    let file = place.scene.site.path("keys.db");
    stdout(&Command::new("python3").args(["-c", program]).arg(file).output().unwrap());
}

#[test]
fn what_breaks_between_any_two_steps_is_resumed() {
    let place = Place::new("steps", None, str::to_owned);
    let raw = place.fill();
    let worker = place.scene.site.start("one");
    wait_consumed(&worker, raw);
    assert!(worker.stop().success());
    let (registry, config, settings, plans) = registry(&place);
    let by = Wisher { name: "test".into(), by: "user" };
    let outcome = registry.ask(Act::Erase, &wish("2"), &by).unwrap();
    let Outcome::Erasing { receipt, keys: 1 } = outcome else { panic!("{outcome:?}") };
    let clerk = Clerk { config: &config, settings: &settings, plans: Arc::clone(&plans) };
    // Its time has not come.
    let early = clerk.work(&|_| true).unwrap();
    assert_eq!(early.done, 0);
    assert!(early.wait_ms.unwrap() > 0);
    wait_until("its time", || {
        place.ring().erasures().is_some() && {
            let worked = clerk.work(&|_| false);
            matches!(worked, Err(EraseError::Stopped))
        }
    });
    // One that crashed holds its lease: for the test it ends at once.
    let crash = |step: &dyn Fn(&Step) -> bool| {
        end_leases(&place);
        clerk.work(step)
    };
    let mut steps = Vec::new();
    for stop_at in 0.. {
        let count = std::cell::Cell::new(0);
        let seen = std::cell::RefCell::new(Vec::new());
        let worked = crash(&|step| {
            seen.borrow_mut().push(step.clone());
            count.set(count.get() + 1);
            count.get() <= stop_at
        });
        steps = seen.into_inner();
        // It is told of a search while that waits.
        steps.dedup();
        if worked.is_ok() {
            break;
        }
        assert!(matches!(worked, Err(EraseError::Stopped)), "{worked:?}");
        // Whatever was reached: the keys are gone, and the person is not forgotten by the list.
        assert_eq!(place.opens()[&2], [false; 2]);
        assert_eq!(plans.keys.erasures().unwrap().unfinished().unwrap(), 1);
    }
    assert_eq!(steps.len(), 2 * 5 + 3, "five views, verify, publish, close: {steps:?}");
    assert_eq!(place.tables(), [2, 2, 2, 2, 4, 3]);
    assert_eq!(plans.keys.erasures().unwrap().unfinished().unwrap(), 0);
    // Published, and the crash came before the list knew: the trail has it twice, the same.
    let done = place.erasures("done");
    assert_eq!(done.len(), 2);
    assert!(done.iter().all(|event| event["receipt"] == receipt.as_str()));
    let again = registry.ask(Act::Erase, &wish("2"), &by).unwrap();
    assert_eq!(again, Outcome::Already { receipt, done: true });
}

#[test]
fn many_who_ask_for_the_same_at_once_have_it_done_once() {
    let place = Place::new("race", Some(Postgres::start()), str::to_owned);
    let raw = place.fill();
    let worker = place.scene.site.start("one");
    wait_consumed(&worker, raw);
    let rings: Vec<Ring> = (0..4).map(|_| place.ring()).collect();
    let (registry, ..) = registry(&place);
    for id in ["1", "2", "3", "never seen"] {
        let whom = registry.whom(id, Some("people")).unwrap();
        let asked: Vec<Asked> = std::thread::scope(|scope| {
            let threads: Vec<_> = rings
                .iter()
                .map(|ring| {
                    let store = ring.erasures().unwrap();
                    scope.spawn(|| {
                        store.erase(whom.subject, &whom.receipt, "people", vec![1]).unwrap()
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let destroyed = asked.iter().filter(|one| matches!(one, Asked::Destroyed(_))).count();
        assert_eq!(destroyed, 1, "{asked:?}");
    }
    // Of those whose erasure is under way nobody gets a key, from no worker.
    let ids =
        ["1", "2", "3", "never seen"].map(|id| registry.whom(id, Some("people")).unwrap().subject);
    for ring in &rings {
        let found = ring.subjects(&ids).unwrap();
        assert_eq!((found.keys.len(), found.erased.len()), (0, 4));
    }
    assert!(worker.stop().success());
}

#[test]
fn requests_by_topic_are_done_by_the_workers() {
    let mut place = Place::new("topic", Some(Postgres::start()), str::to_owned);
    place.scene.site.extra = format!("erasure: {{ topic: {} }}", place.scene.topic("requests"));
    let raw = place.fill();
    let workers = [place.scene.site.start("one"), place.scene.site.start("two")];
    let consumed = |of: &[WorkerProcess; 2]| -> f64 {
        of.iter().map(|worker| worker.metric("veilstream_latency_seconds_count", "")).sum()
    };
    wait_until("all", || consumed(&workers) >= raw as f64);
    let hold = ["hold", "3", "--population", "people", "--reason", "r"];
    stdout(&place.command(&hold));
    let people = |subject: Value| {
        json!({"subject": subject, "population": "people", "reason": "request 1"}).to_string()
    };
    let requests = [
        people(json!(2)),
        people(json!("2")),
        people(json!("3")),
        "canary".to_owned(),
        String::new(),
        people(json!(123456789012345678901234567890_f64)),
        json!({"subject": "canary", "reason": "r"}).to_string(),
        json!({"subject": "canary", "population": "people", "reason": "canary"}).to_string(),
        json!({"subject": ["canary"], "population": "people", "reason": "r"}).to_string(),
        people(json!("1")),
    ];
    for request in &requests {
        place.scene.produce("requests", &[(None, request)]);
    }
    wait_until("both are forgotten", || place.erasures("done").len() >= 2);
    assert_eq!(place.tables(), [1, 1, 1, 1, 2, 3]);
    let opens = place.opens();
    assert_eq!(
        (&opens[&1], &opens[&2], &opens[&3]),
        (&vec![false; 2], &vec![false; 2], &vec![true; 2])
    );
    assert_eq!(place.erasures("refused").len(), 1);
    let malformed = place.erasures("malformed");
    assert_eq!(malformed.len(), 6);
    assert!(malformed[0]["request"].as_str().unwrap().starts_with(&place.scene.topic("requests")));
    wait_until("nothing is left", || {
        workers.iter().all(|worker| worker.metric("veilstream_erasures_unfinished", "") == 0.0)
    });
    for worker in workers {
        assert!(worker.stop().success());
    }
    place.check_silence();
}
