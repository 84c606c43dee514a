#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod model;
mod plain;
mod private;
mod restart;

use dashu::integer::IBig;
use dashu::rational::RBig;

use super::*;

/// No noise, and the nearest quantile.
struct Silent;

impl Noise for Silent {
    fn laplace(&mut self, _: &RBig) -> Result<IBig, NoiseFailed> {
        Ok(IBig::ZERO)
    }

    fn survives(&mut self, _: &RBig) -> Result<bool, NoiseFailed> {
        Ok(false)
    }

    fn below(&mut self, _: u64) -> Result<u64, NoiseFailed> {
        Ok(0)
    }
}

/// Tumbling windows of 10 ms, without limits that matter, one field with two decimal places.
fn settings() -> Settings {
    Settings {
        windows: Windows::tumbling(10),
        lateness: 5,
        ahead: None,
        longest_wait: None,
        fields: vec![Field { places: 2, bounds: None }],
        aggregates: vec![Aggregate::Count],
        least: 1,
        contributions: 100,
        privacy: None,
        most_groups: 100,
        most_subjects: 1000,
        most_windows: 100,
    }
}

fn key(values: &[&str]) -> Arc<[String]> {
    values.iter().map(|value| (*value).to_owned()).collect()
}

fn group(name: &str) -> Group {
    Group::Of(key(&[name]))
}

fn record(subject: u8, time: i64, group: &str, value: Option<i128>) -> Record {
    Record { subject: [subject; 16], time, group: key(&[group]), values: vec![value] }
}

fn stream(settings: Settings) -> Stream {
    Stream::new(settings, Box::new(Silent)).unwrap()
}

/// Adds records, each of which comes at its event time.
fn add(stream: &mut Stream, records: impl IntoIterator<Item = Record>) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for record in records {
        let now = record.time;
        stream.add(record, now, &mut outcomes).unwrap();
    }
    outcomes
}

/// The rows of what was published: start of the window, group, values.
fn shown(outcomes: &[Outcome]) -> Vec<(i64, Group, Vec<Option<String>>)> {
    let mut shown = Vec::new();
    for outcome in outcomes {
        if let Outcome::Published { window, rows, .. } = outcome {
            for Row { group, figures } in rows {
                let values = figures.iter().map(|figure| figure.value.clone()).collect();
                shown.push((window.start, group.clone(), values));
            }
        }
    }
    shown
}

fn row(start: i64, name: &str, values: &[&str]) -> (i64, Group, Vec<Option<String>>) {
    (start, group(name), values.iter().map(|value| Some((*value).to_owned())).collect())
}
