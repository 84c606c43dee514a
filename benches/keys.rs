//! What keys of data subjects cost: reference events of 1, 10 000 and 1 000 000 subjects against one key for all, in
//! one run, on SQLite and on a PostgreSQL of this machine. Method and results: docs/benchmarks.md.
//!
//! `VEILSTREAM_BENCH_SUBJECTS` sets the largest number of subjects.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a benchmark that fails here fails where it should"
)]

#[allow(dead_code)]
#[path = "../tests/support/postgres.rs"]
mod postgres;
#[allow(dead_code)]
mod reference;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use postgres::Postgres;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use veilstream::config::Config;
use veilstream::crypto::KeySource;
use veilstream::keys::Ring;
use veilstream::policy::{Plan, Policy};
use veilstream::rewrite::{RawRecord, Rewriter};

/// Events of a batch, as the worker's default.
const BATCH: usize = 10_000;

fn main() {
    let most = std::env::var("VEILSTREAM_BENCH_SUBJECTS").ok().and_then(|text| text.parse().ok());
    let most: u64 = most.unwrap_or(1_000_000);
    let events = reference::events(BATCH);
    println!(
        "batches of {BATCH} reference events; keys: look-up of a batch's keys; cache: 100 000 keys"
    );
    for database in ["sqlite", "postgres"] {
        let folder = tempfile::tempdir().unwrap();
        let server = (database == "postgres").then(Postgres::start);
        let ring = Arc::new(ring(folder.path(), server.as_ref()));
        println!(
            "\n{database}                     events/s   keys p50   keys p99   batch p50   batch p99   of one key"
        );
        let one =
            run(&ring, "policy", &events, 40, |batch, at| ((batch * BATCH + at) as u64) % 10_000);
        one.show("one key for all", &one);
        let mut random = StdRng::seed_from_u64(7);
        run(&ring, "subject", &events, 40, |_, _| 0).show("1 subject", &one);
        let warm = |_: usize, at: usize| at as u64;
        run(&ring, "subject", &events, 1, warm).show("10 000, new", &one);
        run(&ring, "subject", &events, 40, warm).show("10 000, known", &one);
        let batches = (most as usize / BATCH).max(1);
        let new = |batch: usize, at: usize| 1_000_000 + (batch * BATCH + at) as u64;
        run(&ring, "subject", &events, batches, new).show(&format!("{most}, new"), &one);
        let any = |_: usize, _: usize| 1_000_000 + random.random_range(0..most);
        run(&ring, "subject", &events, 40, any).show(&format!("{most}, known, at random"), &one);
    }
}

fn ring(folder: &Path, server: Option<&Postgres>) -> Ring {
    std::fs::write(folder.join("passphrase"), "of the benchmark").unwrap();
    let database = match server {
        None => "sqlite: keys.db",
        Some(server) => {
            server.url_file(folder);
            "postgres: { file: postgres-url }"
        }
    };
    let text = format!(
        "kafka: {{ bootstrap: 'localhost:1' }}\npolicies: [p]\nquarantine: {{ topic: q }}\naudit: {{ topic: a }}\n\
         key_store:\n  {database}\n  kek: {{ file: {{ path: kek.json, passphrase: {{ file: passphrase }} }} }}\n"
    );
    let file = folder.join("worker.yaml");
    std::fs::write(&file, text).unwrap();
    let config = Config::load(&file).unwrap();
    Ring::create(&config.key_store.unwrap(), folder).unwrap()
}

struct Outcome {
    rate: f64,
    keys: Vec<Duration>,
    batches: Vec<Duration>,
}

impl Outcome {
    fn show(&self, name: &str, one: &Outcome) {
        let at = |times: &[Duration], share: usize| {
            let mut times = times.to_vec();
            times.sort_unstable();
            times[(times.len() * share / 100).min(times.len() - 1)].as_secs_f64() * 1e3
        };
        println!(
            "{name:<28} {:>9.0} {:>7.1} ms {:>7.1} ms {:>8.1} ms {:>8.1} ms {:>12.2}",
            self.rate,
            at(&self.keys, 50),
            at(&self.keys, 99),
            at(&self.batches, 50),
            at(&self.batches, 99),
            self.rate / one.rate
        );
    }
}

/// Batches of events of the subjects that `subject` says; making them is not in the times.
fn run(
    ring: &Arc<Ring>,
    scope: &str,
    events: &[String],
    batches: usize,
    mut subject: impl FnMut(usize, usize) -> u64,
) -> Outcome {
    let policy =
        reference::POLICY.replace(": encrypt", &format!(": {{ encrypt: {{ scope: {scope} }} }}"));
    // With a subject, the store would be asked for it whatever is done with its fields.
    let policy = match scope {
        "policy" => policy.replace("subject: customer_id\n", ""),
        _ => policy,
    };
    assert_eq!(policy.contains("subject: customer_id"), scope == "subject");
    let read = move |_: &Path| Ok(policy.clone());
    let policy =
        Policy::load_with(Path::new("policy.yaml"), &read).unwrap_or_else(|e| panic!("{e}"));
    let plan = Arc::new(Plan::compile(Arc::new(policy), ring.as_ref()).unwrap());
    let mut rewriter = Rewriter::new(plan);
    let mut outcome = Outcome { rate: 0.0, keys: Vec::new(), batches: Vec::new() };
    for batch in 0..batches {
        let batch: Vec<String> = events
            .iter()
            .enumerate()
            .map(|(at, event)| {
                let start = event.find("\"customer_id\":").unwrap() + 14;
                let old = format!("\"customer_id\":{}", &event[start..start + 6]);
                event.replace(&old, &format!("\"customer_id\":{}", subject(batch, at)))
            })
            .collect();
        let began = Instant::now();
        let images: Vec<_> =
            batch.iter().map(|event| rewriter.subjects(Some(event.as_bytes()))).collect();
        let mut wanted: Vec<_> = images.iter().flat_map(|images| images.iter().copied()).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let asked = Instant::now();
        let keys = ring.subjects(&wanted).unwrap();
        outcome.keys.push(asked.elapsed());
        for (event, images) in batch.iter().zip(images) {
            let subjects = images.with(&keys);
            let value = Some(event.as_bytes());
            let record = RawRecord { value, subjects, ..RawRecord::default() };
            std::hint::black_box(rewriter.rewrite(&record).unwrap());
        }
        outcome.batches.push(began.elapsed());
    }
    let time: Duration = outcome.batches.iter().sum();
    outcome.rate = (batches * BATCH) as f64 / time.as_secs_f64();
    outcome
}
