//! Views of many beside a view of changes, on one processor and without Kafka: what an event costs with its changelog,
//! what a row that waits takes, and how long it takes to have a million of them back.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

#[allow(dead_code)]
mod adult;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use veilstream::crypto::ciphertext::{Algorithm, SealKey};
use veilstream::crypto::{KeySource, Purpose};
use veilstream::hold::{Entry, Fate, Holding, Origin, Restore, Room, RowsError};
use veilstream::keys::Keyset;
use veilstream::policy::{Plan, Policy};
use veilstream::rewrite::Rewriter;

const BATCH: usize = 10_000;
const EVENTS: usize = 300_000;
const HELD: usize = 1_000_000;

fn plan(view: &str, keys: &Keyset) -> Arc<Plan> {
    let text = format!("{}{view}", adult::FIELDS);
    let read = move |path: &Path| match path.extension() {
        Some(ending) if ending == "csv" => fs::read_to_string(path),
        _ => Ok(text.clone()),
    };
    let policy = Policy::load_with(&Path::new(adult::FOLDER).join("policy.yaml"), &read);
    let policy = policy.unwrap_or_else(|errors| panic!("{errors}"));
    Arc::new(Plan::compile(Arc::new(policy), keys).unwrap())
}

fn origin() -> Origin {
    Origin { group: "veilstream".into(), topic: "raw".into(), partition: 0 }
}

#[derive(Default)]
struct Run {
    seconds: f64,
    published: usize,
    suppressed: usize,
    entries: usize,
    entry_bytes: usize,
    log: Vec<Entry>,
}

/// All events through one view, with the changelog of each batch; kept where `keep` says so.
fn run(
    plan: &Arc<Plan>,
    events: &[String],
    key: &Arc<SealKey>,
    keep: bool,
) -> (Run, Option<Holding>) {
    let mut rewriter = Rewriter::new(Arc::clone(plan));
    let holds = plan.views[0].holds.as_ref();
    let mut holding = holds.map(|plan| Holding::new(plan, &origin(), &Room::default()).unwrap());
    let mut run = Run::default();
    let start = Instant::now();
    for (number, batch) in events.chunks(BATCH).enumerate() {
        let now = 1_767_225_600_000 + (number * BATCH) as i64;
        for event in batch {
            let raw = rewriter.event(event.as_bytes(), now);
            let out = rewriter.rewrite(&raw).unwrap();
            run.published += out.records(0).count();
            if let (Some(holding), Some((_, arrival))) = (&mut holding, out.held(0)) {
                holding.arrive(arrival, now).unwrap();
            }
        }
        let Some(holding) = &mut holding else { continue };
        let Run { published, suppressed, .. } = &mut run;
        holding
            .settle(|fate| {
                match fate {
                    Fate::Released { record, .. } | Fate::Figures(record) => {
                        std::hint::black_box(record.value());
                        *published += 1;
                    }
                    Fate::Suppressed => *suppressed += 1,
                    Fate::Window(..) => {}
                }
                Ok::<(), RowsError>(())
            })
            .unwrap();
        let entries = holding.entries(key).unwrap();
        run.entries += entries.len();
        run.entry_bytes += entries
            .iter()
            .map(|one| one.key().len() + one.value().map_or(0, <[u8]>::len))
            .sum::<usize>();
        if keep {
            run.log.extend(entries);
        }
    }
    run.seconds = start.elapsed().as_secs_f64();
    (run, holding)
}

fn resident_mib() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

fn main() {
    let keys = Keyset::generate();
    let key =
        Arc::new(SealKey::new(&keys.primary(Purpose::Quarantine).unwrap(), Algorithm::Aes256Gcm));
    let all = adult::events(EVENTS);
    println!("{EVENTS} events of Adult, batches of {BATCH}, changelog sealed; one processor");
    println!(
        "{:>34} {:>10} {:>7} {:>10} {:>10} {:>9} {:>9}",
        "view", "events/s", "ratio", "published", "suppressed", "entries", "bytes/ev"
    );
    let mut first = 0.0;
    for (name, view) in [
        ("changes (stateless)", adult::CHANGES.to_owned()),
        ("anonymize, k = 2, 10 000 held", adult::groups(2, 10_000)),
        ("anonymize, k = 10, 10 000 held", adult::groups(10, 10_000)),
        ("anonymize, k = 50, 10 000 held", adult::groups(50, 10_000)),
        ("aggregate", adult::windows("")),
        ("aggregate, privacy", adult::windows(adult::PRIVACY)),
    ] {
        let (run, _) = run(&plan(&view, &keys), &all, &key, false);
        let rate = EVENTS as f64 / run.seconds;
        first = if first == 0.0 { rate } else { first };
        println!(
            "{name:>34} {rate:10.0} {:7.2} {:10} {:10} {:9} {:9.0}",
            rate / first,
            run.published,
            run.suppressed,
            run.entries,
            run.entry_bytes as f64 / EVENTS as f64
        );
    }
    drop(all);

    // Nobody is alike: all of them wait.
    let view = adult::groups(100_000, HELD + 1);
    let plan = plan(&view, &keys);
    let all: Vec<String> = adult::events(HELD);
    let before = resident_mib();
    let (run, holding) = run(&plan, &all, &key, true);
    let log_mib = run
        .log
        .iter()
        .map(|one| one.key().len() + one.value().map_or(0, <[u8]>::len) + 48)
        .sum::<usize>() as f64
        / 1_048_576.0;
    let holding = holding.unwrap();
    let (held, bytes) = (holding.held(), holding.bytes());
    let memory = resident_mib() - before - log_mib;
    println!(
        "\n{held} rows held of {:.0} bytes each: {:.0} bytes of memory each, {:.0} in the changelog; {:.0} events/s",
        bytes as f64 / held as f64,
        memory * 1_048_576.0 / held as f64,
        run.entry_bytes as f64 / held as f64,
        HELD as f64 / run.seconds
    );
    drop((holding, all));
    let start = Instant::now();
    let mut restore = Restore::new(vec![(origin(), 0)], &keys, Room::default());
    for entry in &run.log {
        restore.take(0, entry.key(), entry.value()).unwrap();
    }
    let read = start.elapsed().as_secs_f64();
    let restored = restore.finish(|_| vec![plan.views[0].holds.as_ref().unwrap()]).unwrap();
    let whole = start.elapsed().as_secs_f64();
    assert_eq!(restored[0].holdings[0].held(), held);
    println!(
        "restored in {whole:.1} s: {read:.1} s to open {} entries, {:.1} s to index them",
        run.log.len(),
        whole - read
    );
}
