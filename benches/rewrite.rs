//! The rewrite against validation of the same bytes, taken in one run: `make bench`.
//!
//! Reference events and method: docs/benchmarks.md.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a test that fails here fails where it should"
)]

#[path = "../tests/support/engine.rs"]
#[allow(dead_code)]
mod engine;
mod reference;

use std::hint::black_box;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use engine::{Engine, engine};
use serde::de::IgnoredAny;
use veilstream::rewrite::RawRecord;

const EVENTS: usize = 5_000;

fn main() {
    let events = reference::events(EVENTS);
    let bytes = events.iter().map(String::len).sum::<usize>();
    println!("{EVENTS} events of {} bytes on average", bytes / EVENTS);
    let one = reference::POLICY;
    let two = format!("{one}{}", reference::SECOND_VIEW);
    let many = one.replace("\nviews:", &format!("\n{}views:", unmatched_rules(500)));
    let keep = reference::keep_all(one);

    let mut criterion = Criterion::default().configure_from_args().sample_size(30);
    let mut group = criterion.benchmark_group("rewrite");
    group.throughput(Throughput::Bytes(bytes as u64));
    group.bench_function("validate", |bench| bench.iter(|| validate(&events)));
    let policies =
        [("keep", &keep[..]), ("one_view", one), ("two_views", &two), ("500_rules", &many)];
    for (name, policy) in policies {
        let mut engine = engine(policy);
        group.bench_function(name, |bench| bench.iter(|| rewrite(&mut engine, &events)));
    }
    group.finish();
    criterion.final_summary();

    // Criterion times one after the other, and the machine drifts meanwhile: the ratios come of turns.
    let mut engines: Vec<Engine> = policies.iter().map(|(_, policy)| engine(policy)).collect();
    let mut best = vec![Duration::MAX; engines.len() + 1];
    for _ in 0..20 {
        let began = Instant::now();
        validate(&events);
        best[0] = best[0].min(began.elapsed());
        for (engine, best) in engines.iter_mut().zip(&mut best[1..]) {
            let began = Instant::now();
            rewrite(engine, &events);
            *best = (*best).min(began.elapsed());
        }
    }
    let apply = apply(&two, &events);
    let ratio = |this: Duration, that: Duration| this.as_secs_f64() / that.as_secs_f64();
    println!("\nratios, best of 20 turns; validation takes {:?} an event", best[0] / EVENTS as u32);
    println!("  all kept / validation            {:.2}", ratio(best[1], best[0]));
    println!("  one view / validation            {:.2}   target 2.2", ratio(best[2], best[0]));
    println!("  two views / one view             {:.2}   target 1.5", ratio(best[3], best[2]));
    println!("  500 rules more / without         {:.2}   target 1.1", ratio(best[4], best[2]));
    println!("  `apply` for one view / its rewrite {:.2}", ratio(apply, best[2]));
    treatments(&events);
}

/// What a value costs under treatments that anonymize, beyond keeping it: of events of which nothing else is treated.
fn treatments(events: &[String]) {
    let images = events.iter().map(|event| event.matches("\"birth_date\"").count()).sum::<usize>();
    let of = |field: &str, treatment: &str| {
        let policy = reference::keep_all(reference::POLICY);
        format!("{policy}    fields: {{ {field}: {treatment} }}\n")
    };
    let all = [
        ("birth_date", "keep"),
        ("birth_date", "{ generalize: { date: year } }"),
        ("birth_date", "{ generalize: { age: 10 } }"),
        ("birth_date", "{ shift_date: 182 }"),
        ("city", "{ generalize: { map: { Springfield Gardens: Springfield } } }"),
        ("email", "{ fake: city }"),
        ("email", "{ fake: name }"),
        ("email", "{ fake: email }"),
        ("credit_limit", "{ clamp: { max: 15000 } }"),
        ("credit_limit", "{ noise: { scale: 1000 } }"),
        ("credit_limit", "{ noise: { distribution: gaussian, scale: 1000 } }"),
    ];
    let mut engines: Vec<Engine> =
        all.iter().map(|(field, treatment)| engine(&of(field, treatment))).collect();
    let mut best = vec![Duration::MAX; all.len()];
    for _ in 0..10 {
        for (engine, best) in engines.iter_mut().zip(&mut best) {
            let began = Instant::now();
            for event in events {
                let record = engine.rewriter.event(event.as_bytes(), 1_767_225_600_000);
                assert!(black_box(engine.rewriter.rewrite(&record)).is_ok());
            }
            *best = (*best).min(began.elapsed());
        }
    }
    println!("\na value under a treatment, beyond keeping it");
    for ((field, treatment), time) in all.iter().zip(&best).skip(1) {
        let more = time.saturating_sub(best[0]) / images as u32;
        println!("  {more:>9.0?}  {field}: {treatment}");
    }
}

/// What a rewrite is compared with: is it JSON?
fn validate(events: &[String]) {
    for event in events {
        black_box(serde_json::from_slice::<IgnoredAny>(event.as_bytes())).ok();
    }
}

fn rewrite(engine: &mut Engine, events: &[String]) {
    for event in events {
        let record = RawRecord { value: Some(event.as_bytes()), ..RawRecord::default() };
        assert!(black_box(engine.rewriter.rewrite(&record)).is_ok());
    }
}

/// Lines of `fields` that no event has.
fn unmatched_rules(count: usize) -> String {
    (0..count).map(|number| format!("  absent_{number}.items[].name_{number}: public\n")).collect()
}

/// The time that the binary takes for the events, start and end of the process left out.
fn apply(policy: &str, events: &[String]) -> Duration {
    let folder = tempfile::tempdir().expect("a folder");
    let binary = env!("CARGO_BIN_EXE_veilstream");
    let file = |name: &str| folder.path().join(name);
    std::fs::write(file("policy.yaml"), policy).expect("the policy");
    let made = Command::new(binary).args(["keys", "init"]).arg(file("keys.json")).output();
    assert!(made.is_ok_and(|made| made.status.success()));
    let lines = |turns: usize| {
        let mut input = std::fs::File::create(file("events.ndjson")).expect("events");
        let lines = format!("{}\n", events.join("\n"));
        (0..turns).for_each(|_| input.write_all(lines.as_bytes()).expect("events"));
    };
    let timed = |turns: usize| {
        lines(turns);
        let run = |path: &Path| {
            let began = Instant::now();
            let status = Command::new(binary)
                .args(["apply", "--view", "analytics", "--keys"])
                .arg(file("keys.json"))
                .arg(file("policy.yaml"))
                .stdin(std::fs::File::open(path).expect("events"))
                .stdout(Stdio::null())
                .status();
            assert!(status.is_ok_and(|status| status.success()));
            began.elapsed()
        };
        (0..5).map(|_| run(&file("events.ndjson"))).min().unwrap_or_default()
    };
    let (few, many) = (timed(1), timed(21));
    many.saturating_sub(few) / 20
}
