//! Aggregates per window and group: what a record costs, what publishing costs, and how large the state is.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::process::Command;
use std::sync::Arc;
use std::{env, fs};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use veilstream::aggregate::{
    Aggregate, Budget, Field, Loss, Outcome, Period, PeriodTime, Privacy, Record, Settings, State,
    Stream, SystemNoise, Windows,
};

const RECORDS: usize = 600_000;
const SUBJECTS: u64 = 50_000;
/// A record a millisecond: three tumbling windows.
const SIZE: i64 = 198_000;
const QUANTILE: Aggregate = Aggregate::Quantile { field: 0, per_mille: 500 };

/// Says that only sizes are asked for.
const SIZES: &str = "sizes";

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let [first, of, per] = &arguments[..]
        && first == SIZES
    {
        return sizes(of, per.parse().unwrap());
    }
    println!(
        "{RECORDS} records of {SUBJECTS} subjects, count, sum, mean, median; times of one processor"
    );
    println!(
        "{:>7} {:>9} {:>6} | {:>11} {:>9} {:>13} | {:>8}",
        "groups", "windows", "noise", "records/s", "with log", "µs/row", "rows"
    );
    for groups in [1, 1_000, 100_000] {
        let records = records(groups);
        for slide in [SIZE, SIZE / 6] {
            for noise in [false, true] {
                measure(groups, slide, noise, &records);
            }
        }
    }
    println!("\n{:>22} | {:>14} {:>14}", "bytes of", "memory", "changelog");
    for case in ["group 1", "group 10", "subject 1", "subject 10"] {
        // Memory that was used before would be used again.
        let sizes =
            Command::new(env::current_exe().unwrap()).arg(SIZES).args(case.split(' ')).status();
        assert!(sizes.unwrap().success());
    }
}

fn measure(groups: u64, slide: i64, noise: bool, records: &[Record]) {
    let settings = settings(groups, slide, noise);
    let new = || Stream::new(settings.clone(), Box::new(SystemNoise)).unwrap();
    let mut stream = new();
    let (mut outcomes, mut publishing) = (Vec::new(), 0.0);
    let start = processor_seconds();
    for record in records {
        add(&mut stream, record, &mut outcomes, &mut publishing);
    }
    let adding = processor_seconds() - start - publishing;
    let mut logged = new();
    logged.note_changes();
    let (mut ignored, mut closing) = (Vec::new(), 0.0);
    let start = processor_seconds();
    for batch in records.chunks(10_000) {
        for record in batch {
            add(&mut logged, record, &mut ignored, &mut closing);
        }
        std::hint::black_box(logged.take_changes());
    }
    let logging = processor_seconds() - start - closing;
    let rows: usize = outcomes.iter().map(rows).sum();
    println!(
        "{groups:7} {:>9} {:>6} | {:11.0} {:9.0} {:>13} | {rows:8}",
        if slide == SIZE { "tumbling" } else { "sliding 6" },
        if noise { "yes" } else { "no" },
        records.len() as f64 / adding,
        records.len() as f64 / logging,
        // Of few rows it would be the error of the clock.
        if rows < 1000 { "-".to_owned() } else { format!("{:.2}", publishing * 1e6 / rows as f64) },
    );
}

/// Times apart what closes a window.
fn add(stream: &mut Stream, record: &Record, outcomes: &mut Vec<Outcome>, publishing: &mut f64) {
    let slide = SIZE / 6;
    let record = record.clone();
    let now = record.time;
    // Windows end at multiples of the slide; the lateness is 0.
    if now % slide > 0 && now % SIZE > 0 {
        stream.add(record, now, outcomes).unwrap();
        return;
    }
    let start = processor_seconds();
    stream.add(record, now, outcomes).unwrap();
    *publishing += processor_seconds() - start;
}

fn rows(outcome: &Outcome) -> usize {
    match outcome {
        Outcome::Published { rows, .. } => rows.len(),
        other => panic!("{other:?}"),
    }
}

fn records(groups: u64) -> Vec<Record> {
    let mut random = StdRng::seed_from_u64(7);
    let keys: Vec<Arc<[String]>> = (0..groups).map(key).collect();
    (0..RECORDS)
        .map(|time| Record {
            subject: digest(random.random_range(0..SUBJECTS)),
            time: time as i64,
            group: keys[random.random_range(0..groups) as usize].clone(),
            values: vec![Some(amount(&mut random))],
        })
        .collect()
}

/// From 1.00 to 10 000.00, each power as often.
fn amount(random: &mut StdRng) -> i128 {
    10_f64.powf(random.random_range(2.0..6.0)) as i128
}

fn key(number: u64) -> Arc<[String]> {
    [format!("country {}", number % 100), format!("product {number}")].into()
}

/// Spread as a keyed digest is.
fn digest(number: u64) -> [u8; 16] {
    let mixed = u128::from(number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    mixed.to_le_bytes()
}

fn settings(groups: u64, slide: i64, noise: bool) -> Settings {
    let loss = Loss { epsilon: 1_000_000_000, delta: 1_000_000_000 };
    let budget = Budget {
        loss: Loss { epsilon: u64::MAX, delta: u64::MAX },
        period: Period::Month,
        time: PeriodTime::Event,
    };
    let declared = || (0..groups).map(key).collect();
    Settings {
        windows: Windows { size: SIZE, slide, offset: 0 },
        lateness: 0,
        ahead: None,
        longest_wait: None,
        fields: vec![Field { places: 2, bounds: Some((0, 1_000_000)) }],
        aggregates: vec![Aggregate::Count, Aggregate::Sum(0), Aggregate::Mean(0), QUANTILE],
        least: 1,
        contributions: 20,
        privacy: noise.then(|| Privacy { loss, declared: declared(), budget }),
        most_groups: groups as usize,
        most_subjects: 1_000_000,
        most_windows: 7,
    }
}

/// Of one window: by how much memory grows with each that has so many records, and what the changelog has of each,
/// without any framing. Groups are all of one subject, subjects all of one group.
fn sizes(of: &str, per: u64) {
    const COUNT: u64 = 200_000;
    let settings = Settings { contributions: u32::MAX, ..settings(COUNT, SIZE, false) };
    let mut stream = Stream::new(settings, Box::new(SystemNoise)).unwrap();
    let mut random = StdRng::seed_from_u64(7);
    let before = resident_bytes();
    for index in 0..COUNT * per {
        let (subject, group) = if of == "group" { (0, index % COUNT) } else { (index % COUNT, 0) };
        let (subject, group) = (digest(subject), key(group));
        let values = vec![Some(amount(&mut random))];
        stream.add(Record { subject, time: 0, group, values }, 0, &mut Vec::new()).unwrap();
    }
    let memory = (resident_bytes() - before) / COUNT;
    let (groups, subjects) = exported(&stream.state());
    let exported = if of == "group" { groups } else { subjects };
    println!("{:>22} | {memory:14} {:14}", format!("{of}, {per} records"), exported / COUNT);
}

/// Bytes of all groups and of all subjects, if numbers have their full length.
fn exported(state: &State) -> (u64, u64) {
    let group = |group: &veilstream::aggregate::KnownGroup| {
        let key = match &group.group {
            veilstream::aggregate::Group::Of(values) => {
                values.iter().map(|value| value.len() + 1).sum()
            }
            veilstream::aggregate::Group::Other => 1,
        };
        let tallies = group.tallies.iter().map(|tally| 40 + 10 * tally.sketch.buckets().len());
        (28 + key + tallies.sum::<usize>()) as u64
    };
    let subjects = state.subjects.iter().map(|known| (28 + 4 * known.groups.len()) as u64);
    (state.groups.iter().map(group).sum(), subjects.sum())
}

/// What this thread has run, from its schedstat (proc(5)), which is in nanoseconds and told once a tick.
fn processor_seconds() -> f64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1e9
}

fn resident_bytes() -> u64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap();
    text.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
}
