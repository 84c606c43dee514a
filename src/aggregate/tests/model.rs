//! The stream against a model that keeps all records.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// A record or a tick, so many milliseconds after the one before.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Add(i64, Record),
    Tick(i64),
}

pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let record = (0_u8..6, 0_i64..120, 0_u8..5, proptest::option::of(-100_i128..100));
    let add = (0_i64..4, record).prop_map(|(after, (subject, time, name, value))| {
        Step::Add(after, record_of(subject, time, name, value))
    });
    let step = prop_oneof![9 => add, 1 => (0_i64..60).prop_map(Step::Tick)];
    // Time goes on, roughly.
    vec(step, 0..120).prop_map(|mut steps| {
        for (index, step) in steps.iter_mut().enumerate() {
            if let Step::Add(_, record) = step {
                record.time = record.time / 4 + index as i64 * 2;
            }
        }
        steps
    })
}

fn record_of(subject: u8, time: i64, name: u8, value: Option<i128>) -> Record {
    record(subject, time, &name.to_string(), value)
}

prop_compose! {
    pub(super) fn any_settings()(
        (size, slide, offset) in (1_i64..30, 1_i64..30, -20_i64..20),
        (lateness, ahead, wait) in (0_i64..20, proptest::option::of(0_i64..50), proptest::option::of(0_i64..50)),
        (least, contributions, most_groups, most_subjects) in (1_u64..4, 1_u32..6, 1_usize..6, 1_usize..7),
    ) -> Settings {
        Settings {
            windows: Windows { size, slide: slide.min(size), offset },
            lateness, ahead, longest_wait: wait,
            fields: vec![Field { places: 1, bounds: Some((-90, 90)) }],
            aggregates: vec![
                Aggregate::Count, Aggregate::Sum(0), Aggregate::Mean(0), Aggregate::Min(0), Aggregate::Max(0),
                Aggregate::Quantile { field: 0, per_mille: 250 }, Aggregate::Subjects,
            ],
            least, contributions, privacy: None, most_groups, most_subjects, most_windows: 100,
        }
    }
}

pub(super) fn run(stream: &mut Stream, steps: &[Step], now: &mut i64) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for step in steps {
        match step {
            Step::Add(after, record) => {
                *now += after;
                stream.add(record.clone(), *now, &mut outcomes).unwrap();
            }
            Step::Tick(after) => {
                *now += after;
                stream.tick(*now, &mut outcomes);
            }
        }
    }
    outcomes
}

/// Records by window, and what became of the others.
#[derive(Default)]
struct Model {
    largest: Option<i64>,
    watermark: i64,
    arrived: i64,
    open: BTreeMap<i64, Vec<(Group, Record)>>,
    published: Vec<(i64, Group, Vec<Option<String>>)>,
    counters: Counters,
    belongs: u64,
}

impl Model {
    fn step(&mut self, settings: &Settings, step: &Step, now: i64) {
        match step {
            Step::Add(_, record) => self.add(settings, record, now),
            Step::Tick(_) => {
                if let (Some(largest), Some(wait)) = (self.largest, settings.longest_wait) {
                    let idle = (now - self.arrived - wait).max(0);
                    self.watermark = self.watermark.max(largest + idle - settings.lateness);
                    self.publish(settings);
                }
            }
        }
    }

    fn add(&mut self, settings: &Settings, record: &Record, now: i64) {
        let Windows { size, slide, offset } = settings.windows;
        let starts = (-500..1000).filter(|start| (start - offset) % slide == 0);
        let starts: Vec<i64> =
            starts.filter(|start| *start <= record.time && record.time < start + size).collect();
        self.belongs += starts.len() as u64;
        if settings.ahead.is_some_and(|ahead| record.time > now + ahead) {
            self.counters.early += starts.len() as u64;
            return;
        }
        let first = self.largest.is_none();
        self.largest = self.largest.max(Some(record.time));
        let watermark = self.largest.unwrap() - settings.lateness;
        self.watermark = if first { watermark } else { self.watermark.max(watermark) };
        self.arrived = now;
        self.publish(settings);
        for start in starts {
            self.place(settings, start, record);
        }
    }

    fn place(&mut self, settings: &Settings, start: i64, record: &Record) {
        if start + settings.windows.size <= self.watermark {
            self.counters.late += 1;
            return;
        }
        let held = self.open.entry(start).or_default();
        let own = held.iter().filter(|(_, held)| held.subject == record.subject).count();
        let subjects: BTreeSet<Subject> = held.iter().map(|(_, held)| held.subject).collect();
        let groups: BTreeSet<&Group> =
            held.iter().map(|(group, _)| group).filter(|group| **group != Group::Other).collect();
        let group = Group::Of(record.group.clone());
        if own >= settings.contributions as usize {
            self.counters.over_contribution += 1;
        } else if own == 0 && subjects.len() >= settings.most_subjects {
            self.counters.no_room += 1;
        } else {
            let is_other = !groups.contains(&group) && groups.len() >= settings.most_groups;
            self.counters.counted += 1;
            self.counters.other += u64::from(is_other);
            held.push((if is_other { Group::Other } else { group }, record.clone()));
        }
    }

    fn publish(&mut self, settings: &Settings) {
        while let Some(entry) = self.open.first_entry()
            && entry.key() + settings.windows.size <= self.watermark
        {
            let (start, held) = entry.remove_entry();
            self.rows(settings, start, held);
        }
    }

    fn rows(&mut self, settings: &Settings, start: i64, held: Vec<(Group, Record)>) {
        let mut groups: BTreeMap<Group, Vec<Record>> = BTreeMap::new();
        for (group, record) in held {
            groups.entry(group).or_default().push(record);
        }
        let (small, mut large): (Vec<_>, Vec<_>) = groups
            .into_iter()
            .partition(|(_, records)| (subjects(records) as u64) < settings.least);
        self.counters.suppressed += small.len() as u64;
        let small: Vec<Record> = small.into_iter().flat_map(|(_, records)| records).collect();
        if !small.is_empty() && (subjects(&small) as u64) < settings.least && !large.is_empty() {
            let order = |index: &usize| (subjects(&large[*index].1), large[*index].0.clone());
            let smallest = (0..large.len()).min_by_key(order).unwrap();
            large.remove(smallest);
            self.counters.complementary += 1;
        }
        for (group, records) in large {
            assert!(subjects(&records) as u64 >= settings.least);
            self.published.push((start, group, figures(&records)));
        }
    }
}

fn subjects(records: &[Record]) -> usize {
    records.iter().map(|record| record.subject).collect::<BTreeSet<_>>().len()
}

/// Values are below 128 units, so that quantiles are exact.
fn figures(records: &[Record]) -> Vec<Option<String>> {
    let mut values: Vec<i128> = records
        .iter()
        .filter_map(|record| record.values[0])
        .map(|value| value.clamp(-90, 90))
        .collect();
    values.sort_unstable();
    let count = values.len();
    let sum: i128 = values.iter().sum();
    let tenths = |value: i128| (value as f64 / 10.0).to_string();
    let of_values = |text: String| (count > 0).then_some(text);
    let mean = || {
        let exact = sum as f64 * 100.0 / count as f64;
        ((exact.abs() + 0.5 + 1e-9).floor() * exact.signum() / 1000.0 + 0.0).to_string()
    };
    let one = |index: usize| values.get(index).map(|value| tenths(*value));
    vec![
        Some(records.len().to_string()),
        of_values(tenths(sum)),
        of_values(if count > 0 { mean() } else { String::new() })
            .map(|text| text.replace("-0.000", "0")),
        one(0),
        one(count.saturating_sub(1)),
        one(count.saturating_sub(1) / 4),
        Some(subjects(records).to_string()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn every_record_is_counted_as_the_model_counts_it(settings in any_settings(), steps in steps()) {
        let mut stream = stream(settings.clone());
        let mut model = Model::default();
        let (mut now, mut outcomes) = (0, Vec::new());
        for step in &steps {
            outcomes.extend(run(&mut stream, std::slice::from_ref(step), &mut now));
            model.step(&settings, step, now);
        }
        prop_assert_eq!(shown(&outcomes), model.published);
        prop_assert_eq!(stream.counters(), model.counters);
        let Counters { counted, late, early, over_contribution, no_room, .. } = stream.counters();
        prop_assert_eq!(counted + late + early + over_contribution + no_room, model.belongs);
        let windows = outcomes.iter().map(|outcome| match outcome {
            Outcome::Published { window, .. } => *window,
            other => panic!("{other:?}"),
        });
        let windows: Vec<Window> = windows.collect();
        prop_assert!(windows.is_sorted_by(|one, other| one < other), "published once, in order");
    }

    #[test]
    fn order_within_the_lateness_does_not_matter(
        settings in any_settings(), steps in steps(), delays in vec(0_i64..20, 120),
    ) {
        let records = steps.into_iter().filter_map(|step| match step {
            Step::Add(_, record) => Some(record),
            Step::Tick(_) => None,
        });
        let mut records: Vec<Record> = records.collect();
        records.sort_by_key(|record| record.time);
        let unlimited = Settings {
            ahead: None, contributions: 1000, most_groups: 100, most_subjects: 100, ..settings.clone()
        };
        let mut delayed: Vec<(i64, Record)> = records.iter().zip(delays)
            .map(|(record, delay)| (record.time + delay.min(settings.lateness), record.clone()))
            .collect();
        delayed.sort_by_key(|(arrives, _)| *arrives);
        let ends = || [record(0, 10_000, "end", None)];
        let (mut one, mut other) = (stream(unlimited.clone()), stream(unlimited));
        let in_order = add(&mut one, records.into_iter().chain(ends()));
        let shuffled = add(&mut other, delayed.into_iter().map(|(_, record)| record).chain(ends()));
        prop_assert_eq!(shown(&in_order), shown(&shuffled));
        prop_assert_eq!(one.counters(), other.counters());
        prop_assert_eq!(one.counters().late, 0);
    }
}
