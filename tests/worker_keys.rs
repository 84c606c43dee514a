//! A worker with a key store, on a real broker and a real PostgreSQL: outages, many workers, rotation, and that no key
//! shows anywhere.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that fails here fails where it should"
)]

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use base64_simd::{STANDARD, URL_SAFE_NO_PAD};
use support::broker::{Broker, Message, wait_until};
use support::postgres::Postgres;
use support::scene::{Scene, Traffic, check_traffic, json, stdout, wait_consumed};
use support::worker::{BINARY, WorkerProcess, free_address};
use veilstream::config::Config;
use veilstream::crypto::ciphertext::{self, Label};
use veilstream::crypto::{KeySource, Purpose};
use veilstream::keys::Ring;

/// Of [`Traffic`]: every number is a data subject.
const NUMBERS: &str = "
policy: numbers
version: 1
source: { topic: PREFIX.raw, format: json }
subject: n
fields: { id: identifier, n: number }
views:
  all: { topic: PREFIX.all, default: keep }
  sealed: { topic: PREFIX.sealed, key: drop, default: encrypt }
  shared: { topic: PREFIX.shared, key: drop, default: { encrypt: { scope: policy } } }
";

const TOPICS: [(&str, i32); 4] = [("raw", 4), ("all", 4), ("sealed", 4), ("shared", 4)];
const PASSPHRASE: &str = "correct horse battery";

fn scene(name: &str, postgres: &Postgres) -> Scene {
    let mut scene = Scene::new(Broker::shared("worker-keys"), name, NUMBERS, &TOPICS);
    std::fs::write(scene.site.path("passphrase"), PASSPHRASE).unwrap();
    postgres.url_file(scene.site.folder.path());
    scene.site.keys =
        "key_store:\n  postgres: { file: postgres-url }\n  kek: { file: { path: kek.json, \
                       passphrase: { file: passphrase } } }"
            .into();
    let config = scene.site.configure("one", free_address());
    stdout(&keys(&config, &["init"]));
    scene
}

fn keys(config: &Path, arguments: &[&str]) -> Output {
    Command::new(BINARY).arg("keys").args(arguments).arg("--config").arg(config).output().unwrap()
}

fn ring(scene: &Scene) -> Ring {
    let config = Config::load(&scene.site.path("one.yaml")).unwrap();
    Ring::open(&config.key_store.unwrap(), &config.folder).unwrap()
}

fn text(message: &Message) -> String {
    json(message)["n"].as_str().unwrap().to_owned()
}

fn label(sealed: &str) -> Label {
    ciphertext::label(&URL_SAFE_NO_PAD.decode_to_vec(sealed).unwrap()).unwrap()
}

fn opened(ring: &Ring, view: &str, sealed: &str) -> String {
    let Label { key, version, .. } = label(sealed);
    let key = ring.find(key, version).unwrap();
    let opened = ciphertext::open_text(&key, &format!("numbers/{view}/number"), "n", sealed);
    String::from_utf8(opened.unwrap().expose().clone()).unwrap()
}

#[test]
fn many_workers_share_a_database_that_goes_away_and_nothing_is_lost_or_doubled() {
    let mut postgres = Postgres::start();
    let scene = scene("away", &postgres);
    let workers = [scene.site.start("one"), scene.site.start("two")];
    let traffic = Traffic::start(&scene, "raw");
    let code = |worker: &WorkerProcess| worker.get("/readyz").map(|(code, _)| code);
    for worker in &workers {
        wait_consumed(worker, 200);
        assert_eq!(code(worker), Some(200));
    }
    postgres.stop();
    for worker in &workers {
        wait_until("it is not ready", || code(worker) == Some(503));
        assert_eq!(worker.get("/healthz").map(|(code, _)| code), Some(200));
    }
    postgres.resume();
    for worker in &workers {
        wait_until("it is ready again", || code(worker) == Some(200));
    }
    let there = traffic.produced();
    wait_until("more records", || traffic.produced() > there + 500);
    let total = traffic.stop();
    scene.wait_accounted(total);
    for worker in workers {
        assert!(worker.metric("veilstream_subject_keys_total", "found=\"read\"") > 0.0);
        assert!(worker.metric("veilstream_stage_seconds_count", "stage=\"keys\"") > 0.0);
        assert!(worker.stop().success());
    }
    check_traffic(&scene.consume("all"), total);
    assert_eq!(scene.check_audit("raw"), total);
    assert!(scene.consume("quarantine").is_empty());

    // Each subject has its own key, whichever worker was first, and what was sealed opens.
    let ring = ring(&scene);
    let sealed = scene.consume("sealed");
    assert_eq!(sealed.len() as u64, total);
    let names: BTreeSet<_> = sealed.iter().map(|one| label(&text(one)).key).collect();
    assert_eq!(names.len() as u64, total);
    assert_eq!(ring.count().unwrap(), total);
    let mut numbers: Vec<u64> =
        sealed.iter().map(|one| opened(&ring, "sealed", &text(one)).parse().unwrap()).collect();
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(0..total));
}

#[test]
fn keys_rotate_while_a_worker_works_and_none_shows_anywhere() {
    let postgres = Postgres::start();
    let scene = scene("rotate", &postgres);
    let config = scene.site.path("one.yaml");
    // The secrets of before and after.
    let mut secrets = Vec::new();
    let mut collect = || {
        let ring = ring(&scene);
        let of = |one| ring.primary(one).unwrap().secret.expose().to_vec();
        secrets.extend(Purpose::ALL.into_iter().map(of));
    };
    collect();
    let worker = WorkerProcess::start(&scene.site, "one", "trace");
    // Nor would it stand in a core dump: there is none.
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", worker.id())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert!(matches!(core.split_whitespace().nth(4), Some("0" | "1")), "{core}");
    let traffic = Traffic::start(&scene, "raw");
    wait_consumed(&worker, 200);
    let mut told = String::new();
    for purpose in ["field", "wrap", "kek"] {
        told += &stdout(&keys(&config, &["rotate", purpose]));
    }
    told += &stdout(&keys(&config, &["rewrap"]));
    let versions = || -> BTreeSet<u32> {
        let shared = scene.consume("shared");
        shared.iter().map(|one| label(&text(one)).version).collect()
    };
    wait_until("the new key seals", || versions().contains(&2));
    let total = traffic.stop();
    scene.wait_accounted(total);
    told += &stdout(&keys(&config, &["rewrap"]));
    let listed = stdout(&keys(&config, &["list"]));
    assert!(listed.contains("file/2") && !listed.contains("file/1"), "{listed}");
    assert!(listed.contains(&format!("data subjects: {total}")), "{listed}");
    told += &listed;
    told += &stdout(&keys(&config, &["list", "--json"]));
    // The old field key goes; so does what only it opens, and nothing else.
    let ring_before = ring(&scene);
    let old = ring_before.list().find(|(key, ..)| key.purpose == Purpose::Field).unwrap().0.id;
    let refused = keys(&config, &["destroy", &old.to_string(), "1"]);
    assert_eq!(refused.status.code(), Some(2));
    stdout(&keys(&config, &["destroy", &old.to_string(), "1", "--yes"]));
    collect();
    let ring = ring(&scene);
    for message in scene.consume("sealed") {
        opened(&ring, "sealed", &text(&message)).parse::<u64>().unwrap();
    }
    for message in scene.consume("shared") {
        let Label { key, version, .. } = label(&text(&message));
        assert_eq!(ring.find(key, version).is_ok(), version == 2);
    }
    check_traffic(&scene.consume("all"), total);
    told += &worker.get("/metrics").unwrap().1;
    assert!(worker.stop().success());
    told += &scene.site.logs();
    for event in scene.values("audit") {
        told += &event.to_string();
    }
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(secrets.len(), 2 * Purpose::ALL.len());
    for secret in &secrets {
        for shown in [
            hex(secret),
            hex(secret).to_uppercase(),
            STANDARD.encode_to_string(secret),
            URL_SAFE_NO_PAD.encode_to_string(secret),
            format!("{secret:?}"),
        ] {
            assert!(!told.contains(&shown));
        }
        for topic in ["raw", "all", "sealed", "shared", "audit"] {
            for message in scene.consume(topic) {
                let payload = message.payload.unwrap();
                assert!(!payload.windows(32).any(|window| window == secret.as_slice()));
            }
        }
    }
    assert!(!told.contains(PASSPHRASE) && !told.contains("veilstream-test"));
    assert!(told.len() > 100_000 && Arc::strong_count(&scene.broker) > 0);
}
