//! k-anonymity over a stream against Mondrian over the whole file (LeFevre, DeWitt, Ramakrishnan, ICDE 2006): Adult,
//! record by record. Losses are normalized certainty penalties from 0 to 1, a suppressed record counting 1.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::sync::Arc;

use veilstream::group::{
    Area, Domain, Outcome, QuasiIdentifier, Record, Sensitive, SensitiveValue, Settings, Space,
    Span, Stream, Value,
};
use veilstream::hierarchy::{Hierarchy, Node};

const ADULT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/adult/adult.csv");
const FIELDS: [&str; 7] =
    ["sex", "age", "race", "marital-status", "education", "native-country", "workclass"];
const SENSITIVE: [&str; 2] = ["salary-class", "occupation"];
const AGES: Domain = Domain::Declared { least: 17.0, most: 90.0 };

fn main() {
    let adult = Adult::load();
    println!("Adult, {} records; delays in records; records/s of processor time", adult.rows.len());
    println!(
        "{:>3} {:>6} {:>16} | {:>9} | {:>6} {:>10} {:>6} {:>10} {:>9} {:>9}",
        "k",
        "delay",
        "l = 2",
        "Mondrian",
        "loss",
        "suppressed",
        "reused",
        "mean delay",
        "p99",
        "records/s"
    );
    for k in [2, 5, 10, 50] {
        for sensitive in [None, Some(0), Some(1)] {
            let batch = mondrian(&adult, k, sensitive);
            for delay in [1000, 10_000] {
                adult.stream(k, delay, sensitive, batch);
            }
        }
    }
}

struct Adult {
    fields: Vec<QuasiIdentifier>,
    rows: Vec<(Vec<Value>, [u64; 2])>,
}

impl Adult {
    fn load() -> Adult {
        let fields: Vec<_> = FIELDS.iter().map(|field| quasi_identifier(field)).collect();
        let mut reader = csv::ReaderBuilder::new().delimiter(b';').from_path(ADULT).unwrap();
        let header = reader.headers().unwrap().clone();
        let column = |field: &&str| header.iter().position(|name| name == *field).unwrap();
        let columns: Vec<_> = FIELDS.iter().map(column).collect();
        let sensitive = SENSITIVE.each_ref().map(column);
        let mut digests = HashMap::new();
        let rows = reader.records().map(|row| {
            let row = row.unwrap();
            let value = |(field, column): (&QuasiIdentifier, &usize)| match field {
                QuasiIdentifier::Categorical(tree) => {
                    Value::Node(tree.leaf(&row[*column]).unwrap())
                }
                QuasiIdentifier::Numeric(_) => Value::Number(row[*column].parse().unwrap()),
            };
            let values = fields.iter().zip(&columns).map(value).collect();
            let digest = sensitive.map(|column| {
                let next = digests.len() as u64;
                *digests.entry(row[column].to_owned()).or_insert(next)
            });
            (values, digest)
        });
        let rows = rows.collect();
        Adult { fields, rows }
    }

    fn stream(&self, k: usize, delay: i64, sensitive: Option<usize>, batch: f64) {
        let diverse = Sensitive { distinct: Some(2), ..Sensitive::default() };
        let mut stream = Stream::new(Settings {
            k,
            delay,
            quasi_identifiers: self.fields.clone(),
            sensitive: sensitive.map(|_| diverse).into_iter().collect(),
            most_held: 20_000,
            most_groups: 20_000,
            most_subjects: 100_000,
        })
        .unwrap();
        let records: Vec<_> = self.records(sensitive).collect();
        let mut tally = Tally::default();
        let mut outcomes = Vec::new();
        let start = processor_seconds();
        for (now, record) in records.into_iter().enumerate() {
            stream.add(record, now as i64, &mut outcomes).unwrap();
            tally.take(stream.space(), now as u64, &mut outcomes);
        }
        while stream.held() > 0 {
            stream.flush(&mut outcomes);
            tally.take(stream.space(), self.rows.len() as u64, &mut outcomes);
        }
        let seconds = processor_seconds() - start;
        assert_eq!(tally.delays.len(), self.rows.len());
        tally.delays.sort_unstable();
        let count = self.rows.len() as f64;
        println!(
            "{k:3} {delay:6} {:>16} | {batch:9.4} | {:6.4} {:9.3}% {:5.1}% {:10.0} {:9} {:9.0}",
            sensitive.map_or("-", |field| SENSITIVE[field]),
            tally.loss / count,
            100.0 * tally.suppressed as f64 / count,
            100.0 * tally.reused as f64 / count,
            tally.delays.iter().sum::<u64>() as f64 / count,
            tally.delays[tally.delays.len() * 99 / 100],
            count / seconds,
        );
    }

    /// Whether a part has two values of a sensitive field.
    fn is_diverse(&self, part: &[usize], sensitive: Option<usize>) -> bool {
        let value = |row: &usize| sensitive.map(|field| self.rows[*row].1[field]);
        sensitive.is_none() || part.iter().any(|row| value(row) != value(&part[0]))
    }

    /// Every row is a subject of its own.
    fn records(&self, sensitive: Option<usize>) -> impl Iterator<Item = Record> {
        self.rows.iter().enumerate().map(move |(id, (values, digests))| {
            let sensitive = sensitive.map(|field| SensitiveValue::Category(digests[field]));
            Record {
                id: id as u64,
                subject: (id as u128)
                    .wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
                    .to_le_bytes(),
                values: values.clone(),
                sensitive: sensitive.into_iter().collect(),
            }
        })
    }
}

#[derive(Default)]
struct Tally {
    loss: f64,
    suppressed: usize,
    reused: usize,
    delays: Vec<u64>,
}

impl Tally {
    fn take(&mut self, space: &Space, now: u64, outcomes: &mut Vec<Outcome>) {
        for outcome in outcomes.drain(..) {
            let id = match outcome {
                Outcome::Released { id, group, reused } => {
                    self.loss += space.loss(&group.area);
                    self.reused += usize::from(reused);
                    id
                }
                Outcome::Suppressed { id } => {
                    self.loss += 1.0;
                    self.suppressed += 1;
                    id
                }
            };
            self.delays.push(now - id);
        }
    }
}

fn quasi_identifier(field: &str) -> QuasiIdentifier {
    match field {
        "age" => QuasiIdentifier::Numeric(AGES),
        _ => {
            let path = ADULT.replace("adult.csv", &format!("adult_hierarchy_{field}.csv"));
            let tree = Hierarchy::parse(&fs::read_to_string(path).unwrap()).unwrap();
            QuasiIdentifier::Categorical(Arc::new(tree))
        }
    }
}

/// Of this process: others may be busy on the machine.
fn processor_seconds() -> f64 {
    let text = fs::read_to_string("/proc/self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
}

/// Strict multidimensional Mondrian, in the better of two ways to cut a category: into the groups under it, or into
/// two runs of its values in the order of the hierarchy, at the median.
fn mondrian(adult: &Adult, k: usize, sensitive: Option<usize>) -> f64 {
    let space = Space::new(&adult.fields);
    let rows: Vec<Area> = adult.rows.iter().map(|row| space.area(&row.0).unwrap()).collect();
    let loss = |cut: Cut| {
        let mut loss = 0.0;
        let mut parts = vec![(0..rows.len()).collect::<Vec<_>>()];
        while let Some(part) = parts.pop() {
            let bounds = bounds(adult, &rows, &part);
            let is_group = |part: &Vec<usize>| part.len() >= k && adult.is_diverse(part, sensitive);
            match divide(adult, &rows, &part, &bounds, &is_group, cut) {
                Some(smaller) => parts.extend(smaller),
                None => loss += space.loss(&bounds) * part.len() as f64,
            }
        }
        loss / rows.len() as f64
    };
    f64::min(loss(by_group), loss(by_median))
}

type Cut = fn(&QuasiIdentifier, usize, &[Area], &[usize], Span) -> Vec<Vec<usize>>;

/// Along the field of the greatest loss along which every part is a group.
fn divide(
    adult: &Adult,
    rows: &[Area],
    part: &[usize],
    bounds: &[Span],
    is_group: &impl Fn(&Vec<usize>) -> bool,
    cut: Cut,
) -> Option<Vec<Vec<usize>>> {
    let loss = |field: usize| Space::new(&adult.fields[field..=field]).loss(&bounds[field..=field]);
    let mut fields: Vec<_> = (0..bounds.len()).map(|field| (loss(field), field)).collect();
    fields.sort_by(|one, other| other.0.total_cmp(&one.0));
    let wide = fields.into_iter().filter(|(loss, _)| *loss > 0.0);
    let mut cuts =
        wide.map(|(_, field)| cut(&adult.fields[field], field, rows, part, bounds[field]));
    cuts.find(|parts| parts.len() > 1 && parts.iter().all(is_group))
}

fn by_group(
    kind: &QuasiIdentifier,
    field: usize,
    rows: &[Area],
    part: &[usize],
    bounds: Span,
) -> Vec<Vec<usize>> {
    let QuasiIdentifier::Categorical(tree) = kind else {
        return by_median(kind, field, rows, part, bounds);
    };
    let top = Node(bounds.low as u32);
    let mut parts: BTreeMap<Node, Vec<usize>> = BTreeMap::new();
    for row in part {
        let mut node = Node(rows[*row][field].low as u32);
        while tree.parent(node) != Some(top) {
            node = tree.parent(node).unwrap();
        }
        parts.entry(node).or_default().push(*row);
    }
    parts.into_values().collect()
}

fn by_median(
    _: &QuasiIdentifier,
    field: usize,
    rows: &[Area],
    part: &[usize],
    _: Span,
) -> Vec<Vec<usize>> {
    let value = |row: &usize| rows[*row][field].low;
    let mut values: Vec<_> = part.iter().map(value).collect();
    values.sort_by(f64::total_cmp);
    let median = values[values.len() / 2];
    let above = values.iter().find(|value| **value > values[0]);
    let start = if median > values[0] { Some(&median) } else { above };
    let (left, right) = part.iter().partition(|row| start.is_none_or(|start| value(row) < *start));
    vec![left, right]
}

fn bounds(adult: &Adult, rows: &[Area], part: &[usize]) -> Vec<Span> {
    let mut bounds = rows[part[0]].to_vec();
    for row in part {
        for (field, (bound, span)) in bounds.iter_mut().zip(rows[*row].iter()).enumerate() {
            match &adult.fields[field] {
                QuasiIdentifier::Numeric(_) => {
                    *bound = Span { low: bound.low.min(span.low), high: bound.high.max(span.high) };
                }
                QuasiIdentifier::Categorical(tree) => {
                    let nodes = [bound.low, span.low].map(|low| Node(low as u32));
                    let node = tree.lowest_common_ancestor(nodes[0], nodes[1]);
                    let (low, high) = (f64::from(node.0), f64::from(tree.last(node).0));
                    *bound = Span { low, high };
                }
            }
        }
    }
    bounds
}
