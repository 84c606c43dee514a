#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;

use super::stream::STEP;
use super::*;
use crate::hierarchy::{Hierarchy, Node};

const CITIES: &str = "Lyon;France;Europe;*\nParis;France;Europe;*\nRome;Italy;Europe;*\nLima;Peru;America;*\nQuito;Ecuador;America;*\n";
const PLANS: &str = "basic\nplus\ngold\n";

fn fields(domain: Domain) -> Vec<QuasiIdentifier> {
    let tree = |text| QuasiIdentifier::Categorical(Arc::new(Hierarchy::parse(text).unwrap()));
    vec![tree(CITIES), QuasiIdentifier::Numeric(domain), tree(PLANS)]
}

fn settings(k: usize, delay: i64) -> Settings {
    Settings {
        k,
        delay,
        quasi_identifiers: fields(Domain::Declared { least: 0.0, most: 100.0 }),
        sensitive: Vec::new(),
        most_held: 1000,
        most_groups: 1000,
        most_subjects: 1000,
    }
}

fn city(name: &str) -> Value {
    Value::Node(Hierarchy::parse(CITIES).unwrap().leaf(name).unwrap())
}

fn plan(name: &str) -> Value {
    Value::Node(Hierarchy::parse(PLANS).unwrap().leaf(name).unwrap())
}

fn record(id: u64, subject: u8, values: [Value; 3]) -> Record {
    Record { id, subject: [subject; 16], values: values.to_vec(), sensitive: Vec::new() }
}

fn person(id: u64, subject: u8, town: &str, age: f64) -> Record {
    record(id, subject, [city(town), Value::Number(age), plan("gold")])
}

/// Of each outcome: the record, and what is shown of it (nothing if suppressed).
fn shown(outcomes: &[Outcome]) -> Vec<(u64, String)> {
    let show = |outcome: &Outcome| match outcome {
        Outcome::Released { id, group, .. } => (*id, group.shown.join(" ")),
        Outcome::Suppressed { id } => (*id, String::new()),
    };
    outcomes.iter().map(show).collect()
}

#[test]
fn what_is_due_all_at_once_leaves_in_parts_of_whole_groups() {
    let mut stream = Stream::new(Settings { most_held: 100_000, ..settings(3, 10) }).unwrap();
    let mut none = Vec::new();
    for id in 0..25_000_u64 {
        let town = ["Lyon", "Paris", "Rome", "Lima", "Quito"][(id % 5) as usize];
        // No two are alike, so that nothing leaves before.
        let age = Value::Number(id as f64 / 250.0);
        let mut record = record(id, 0, [city(town), age, plan("gold")]);
        record.subject[..8].copy_from_slice(&id.to_be_bytes());
        stream.add(record, 0, &mut none).unwrap();
    }
    assert!(none.is_empty());
    let (mut parts, mut seen) = (Vec::new(), BTreeSet::new());
    while stream.next_deadline().is_some_and(|due| due <= 10) {
        let mut outcomes = Vec::new();
        match parts.len() {
            // With what is to be taken still there nothing more is due.
            1 => stream.flush(&mut outcomes),
            _ => stream.tick(10, &mut outcomes),
        }
        let mut groups: BTreeMap<u64, usize> = BTreeMap::new();
        for outcome in &outcomes {
            let id = match outcome {
                Outcome::Released { id, group, reused } => {
                    *groups.entry(group.id).or_default() += usize::from(!reused);
                    id
                }
                Outcome::Suppressed { id } => id,
            };
            assert!(seen.insert(*id));
        }
        assert!(groups.values().all(|people| *people == 0 || *people >= 3));
        parts.push(outcomes.len());
        let (held, before) = (stream.held(), outcomes.len());
        stream.tick(10, &mut outcomes);
        assert!(before < STEP || (stream.held(), outcomes.len()) == (held, before));
    }
    assert_eq!((seen.len(), stream.held()), (25_000, 0));
    assert!(parts.len() == 3 && parts[..2].iter().all(|part| (STEP..STEP + 100).contains(part)));
}

#[test]
fn due_record_leaves_with_its_nearest_neighbors() {
    let mut stream = Stream::new(settings(2, 10)).unwrap();
    let mut outcomes = Vec::new();
    stream.add(person(1, 1, "Lyon", 30.0), 0, &mut outcomes).unwrap();
    stream.add(person(2, 2, "Lima", 31.0), 1, &mut outcomes).unwrap();
    stream.add(person(3, 3, "Paris", 34.5), 2, &mut outcomes).unwrap();
    assert_eq!(outcomes, []);
    assert_eq!(stream.next_deadline(), Some(10));
    stream.tick(10, &mut outcomes);
    let both = "France [30,34.5] gold".to_owned();
    assert_eq!(shown(&outcomes), [(1, both.clone()), (3, both)]);
    assert_eq!(stream.held(), 1);
}

#[test]
fn same_values_of_k_subjects_leave_at_once_and_later_ones_join_them() {
    let mut stream = Stream::new(settings(2, 10)).unwrap();
    let mut outcomes = Vec::new();
    for (id, subject) in [(1, 1), (2, 2), (3, 3)] {
        stream.add(person(id, subject, "Rome", 40.0), 0, &mut outcomes).unwrap();
    }
    let alike = |id| (id, "Rome 40 gold".to_owned());
    assert_eq!(shown(&outcomes), [alike(1), alike(2), alike(3)]);
}

#[test]
fn records_of_one_subject_are_no_group() {
    let mut stream = Stream::new(settings(2, 10)).unwrap();
    let mut outcomes = Vec::new();
    for id in 1..=4 {
        stream.add(person(id, 1, "Rome", 40.0), 0, &mut outcomes).unwrap();
    }
    stream.tick(10, &mut outcomes);
    assert_eq!(shown(&outcomes), [1, 2, 3, 4].map(|id| (id, String::new())));
}

#[test]
fn subject_that_comes_again_goes_to_its_own_group() {
    let mut stream = Stream::new(settings(2, 10)).unwrap();
    let mut outcomes = Vec::new();
    stream.add(person(1, 1, "Lyon", 30.0), 0, &mut outcomes).unwrap();
    stream.add(person(2, 2, "Lima", 60.0), 0, &mut outcomes).unwrap();
    stream.tick(10, &mut outcomes);
    for (id, subject) in [(3, 3), (4, 4)] {
        stream.add(person(id, subject, "Lyon", 30.0), 11, &mut outcomes).unwrap();
    }
    outcomes.clear();
    stream.add(person(5, 1, "Lyon", 30.0), 12, &mut outcomes).unwrap();
    assert_eq!(shown(&outcomes), [(5, "* [30,60] gold".to_owned())]);
}

#[test]
fn records_of_one_subject_keep_their_order() {
    let mut stream = Stream::new(settings(2, 10)).unwrap();
    let mut outcomes = Vec::new();
    stream.add(person(1, 1, "Lyon", 30.0), 0, &mut outcomes).unwrap();
    stream.add(person(2, 1, "Lima", 30.0), 1, &mut outcomes).unwrap();
    stream.add(person(3, 2, "Lima", 30.0), 2, &mut outcomes).unwrap();
    assert_eq!(outcomes, []);
    stream.flush(&mut outcomes);
    assert_eq!(outcomes.len(), 3);
    let places: Vec<_> = shown(&outcomes).into_iter().map(|(id, _)| id).collect();
    assert!(places.iter().position(|id| *id == 1) < places.iter().position(|id| *id == 2));
}

#[test]
fn group_grows_until_its_sensitive_values_are_diverse() {
    let sensitive = vec![Sensitive { distinct: Some(2), ..Sensitive::default() }];
    let mut stream = Stream::new(Settings { sensitive, ..settings(2, 10) }).unwrap();
    let mut outcomes = Vec::new();
    for (id, town, illness) in [(1, "Lyon", 7), (2, "Lyon", 7), (3, "Lima", 8)] {
        let sensitive = vec![SensitiveValue::Category(illness)];
        let record = Record { sensitive, ..person(id, id as u8, town, 30.0) };
        stream.add(record, 0, &mut outcomes).unwrap();
    }
    assert_eq!(outcomes, []);
    stream.tick(10, &mut outcomes);
    assert_eq!(shown(&outcomes), [1, 2, 3].map(|id| (id, "* 30 gold".to_owned())));
}

#[test]
fn full_store_lets_the_oldest_go_early() {
    let mut stream = Stream::new(Settings { most_held: 2, ..settings(2, 1000) }).unwrap();
    let mut outcomes = Vec::new();
    for (id, age) in [(1, 20.0), (2, 70.0), (3, 30.0)] {
        stream.add(person(id, id as u8, "Rome", age), 0, &mut outcomes).unwrap();
    }
    assert_eq!(shown(&outcomes), [1, 3].map(|id| (id, "Rome [20,30] gold".to_owned())));
}

#[test]
fn what_does_not_fit_is_refused() {
    let unfit = |change: fn(&mut Settings)| {
        let mut settings = settings(2, 10);
        change(&mut settings);
        Stream::new(settings).unwrap_err()
    };
    assert_eq!(unfit(|it| it.k = 1), Unfit::K);
    assert_eq!(unfit(|it| it.quasi_identifiers.clear()), Unfit::NoQuasiIdentifiers);
    let domain = Domain::Declared { least: 1.0, most: 1.0 };
    let narrow = Settings { quasi_identifiers: fields(domain), ..settings(2, 10) };
    assert_eq!(Stream::new(narrow).unwrap_err(), Unfit::Domain(1));

    let mut stream = Stream::new(settings(2, 10)).unwrap();
    let mut refused = |record| stream.add(record, 0, &mut Vec::new()).unwrap_err();
    assert_eq!(refused(person(1, 1, "Rome", 101.0)), Refusal::QuasiIdentifier(1));
    assert_eq!(refused(person(1, 1, "Rome", f64::NAN)), Refusal::QuasiIdentifier(1));
    let short = Record { values: Vec::new(), ..person(1, 1, "Rome", 1.0) };
    assert_eq!(refused(short), Refusal::Count);
    let foreign = record(1, 1, [city("Rome"), Value::Number(1.0), city("Quito")]);
    assert_eq!(refused(foreign), Refusal::QuasiIdentifier(2));
    assert_eq!(stream.held(), 0);
}

#[test]
fn penalty_is_the_mean_share_of_the_domains() {
    let space = Space::new(&fields(Domain::Declared { least: 0.0, most: 100.0 }));
    let area =
        |town: &str, age| space.area(&[city(town), Value::Number(age), plan("gold")]).unwrap();
    assert_eq!(space.loss(&area("Lyon", 20.0)), 0.0);
    let mut both = area("Lyon", 20.0).to_vec();
    space.merge(&mut both, &area("Rome", 50.0));
    assert!((space.loss(&both) - (3.0 / 5.0 + 30.0 / 100.0) / 3.0).abs() < 1e-12);
}

#[test]
fn learnt_domain_widens_with_its_values() {
    let quasi_identifiers = fields(Domain::Learnt);
    let mut stream = Stream::new(Settings { quasi_identifiers, ..settings(2, 10) }).unwrap();
    for (id, age) in [(1, 50.0), (2, 10.0), (3, 90.0)] {
        stream.add(person(id, id as u8, "Rome", age), 0, &mut Vec::new()).unwrap();
    }
    assert_eq!(stream.summary().domains[1], Some(Span { low: 0.0, high: 112.5 }));
}

/// What a random caller does.
#[derive(Debug, Clone)]
enum Call {
    Add { subject: u8, values: [Value; 3], sensitive: [SensitiveValue; 2], wait: i64 },
    Tick { wait: i64 },
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    let cities = Hierarchy::parse(CITIES).unwrap().nodes() as u32;
    let values =
        (0..cities, 0..30u32, 1..4u32, any::<bool>()).prop_map(|(city, age, plan, half)| {
            let age = f64::from(age) + if half { 0.5 } else { 0.0 };
            [Value::Node(Node(city)), Value::Number(age), Value::Node(Node(plan))]
        });
    let sensitive = (0..4u64, -3..3i8).prop_map(|(category, number)| {
        [SensitiveValue::Category(category), SensitiveValue::Number(f64::from(number))]
    });
    let add =
        (0..25u8, values, sensitive, 0..4i64).prop_map(|(subject, values, sensitive, wait)| {
            Call::Add { subject, values, sensitive, wait }
        });
    let call = prop_oneof![9 => add, 1 => (0..40i64).prop_map(|wait| Call::Tick { wait })];
    prop::collection::vec(call, 1..150)
}

fn any_settings() -> impl Strategy<Value = Settings> {
    let demand =
        (prop::option::of(1..4u32), prop::option::of(1.0..2.5), prop::option::of(0.1..0.9))
            .prop_map(|(distinct, entropy, closeness)| Sensitive { distinct, entropy, closeness });
    let demands =
        prop_oneof![Just(vec![Sensitive::default(); 2]), prop::collection::vec(demand, 2),];
    let domain =
        prop_oneof![Just(Domain::Learnt), Just(Domain::Declared { least: 0.0, most: 31.0 })];
    (2..6usize, 0..60i64, demands, domain, 1..60usize, 0..20usize, 0..20usize).prop_map(
        |(k, delay, sensitive, domain, most_held, most_groups, most_subjects)| Settings {
            k,
            delay,
            quasi_identifiers: fields(domain),
            sensitive,
            most_held,
            most_groups,
            most_subjects,
        },
    )
}

fn make(stream: &mut Stream, call: &Call, id: u64, now: &mut i64) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    match call {
        Call::Add { subject, values, sensitive, wait } => {
            *now += wait;
            let record = Record { sensitive: sensitive.to_vec(), ..record(id, *subject, *values) };
            stream.add(record, *now, &mut outcomes).unwrap();
        }
        Call::Tick { wait } => {
            *now += wait;
            stream.tick(*now, &mut outcomes);
        }
    }
    outcomes
}

/// Knows all that came and left, and judges by the definitions.
struct Judge {
    settings: Settings,
    /// Of each record: when it came, and what it was.
    came: BTreeMap<u64, (i64, Record)>,
    waiting: BTreeMap<u8, Vec<u64>>,
    published: BTreeSet<u64>,
}

impl Judge {
    fn judge(&mut self, space: &Space, now: i64, outcomes: &[Outcome]) {
        let mut groups: BTreeMap<u64, BTreeMap<u8, u64>> = BTreeMap::new();
        for outcome in outcomes {
            let (Outcome::Released { id, .. } | Outcome::Suppressed { id }) = outcome;
            let record = &self.came[id].1;
            let subject = record.subject[0];
            assert_eq!(self.waiting.get_mut(&subject).unwrap().remove(0), *id, "once, in order");
            let Outcome::Released { group, reused, .. } = outcome else { continue };
            assert!(covers(&group.area, &space.area(&record.values).unwrap()), "covered");
            assert_eq!(group.shown, space.shown(&group.area));
            assert!((0.0..=1.0).contains(&space.loss(&group.area)));
            assert!(group.subjects >= self.settings.k);
            if *reused {
                assert!(self.published.contains(&group.id) || groups.contains_key(&group.id));
            } else {
                groups.entry(group.id).or_default().insert(subject, *id);
            }
        }
        for (group, members) in groups {
            assert!(members.len() >= self.settings.k, "k subjects");
            for field in 0..2 {
                self.judge_sensitive(field, &members.values().copied().collect::<Vec<_>>());
            }
            self.published.insert(group);
        }
        let held: Vec<_> = self.waiting.values().flatten().collect();
        assert!(held.len() <= self.settings.most_held);
        for id in held {
            assert!(self.came[id].0 + self.settings.delay > now, "not after its deadline");
        }
    }

    fn judge_sensitive(&self, field: usize, members: &[u64]) {
        let key = |record: &Record| match record.sensitive[field] {
            SensitiveValue::Category(digest) => digest as i64,
            SensitiveValue::Number(number) => number as i64,
        };
        let shares = |records: &[&Record]| {
            let mut shares = BTreeMap::new();
            for record in records {
                *shares.entry(key(record)).or_insert(0.0) += 1.0 / records.len() as f64;
            }
            shares
        };
        let own = shares(&members.iter().map(|id| &self.came[id].1).collect::<Vec<_>>());
        let all = shares(&self.came.values().map(|(_, record)| record).collect::<Vec<_>>());
        let Sensitive { distinct, entropy, closeness } = self.settings.sensitive[field];
        assert!(distinct.is_none_or(|l| own.len() >= l as usize), "distinct l");
        let uncertainty: f64 = own.values().map(|share: &f64| -share * share.ln()).sum();
        assert!(entropy.is_none_or(|l| uncertainty >= l.ln() - 1e-6), "entropy l");
        let differences = all.iter().map(|(key, all)| own.get(key).unwrap_or(&0.0) - all);
        let distance = if field == 0 {
            differences.map(f64::abs).sum::<f64>() / 2.0
        } else {
            let running = differences.scan(0.0, |sum, each| {
                *sum += each;
                Some(f64::abs(*sum))
            });
            running.sum::<f64>() / (all.len().max(2) - 1) as f64
        };
        assert!(closeness.is_none_or(|t| distance <= t + 1e-6), "t-closeness");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn every_record_comes_out_once_in_time_and_among_enough_others(
        settings in any_settings(), calls in calls(),
    ) {
        let mut stream = Stream::new(settings.clone()).unwrap();
        let (came, waiting, published) = Default::default();
        let mut judge = Judge { settings, came, waiting, published };
        let mut now = 0;
        for (id, call) in calls.iter().enumerate() {
            let id = id as u64;
            if let Call::Add { subject, values, sensitive, wait } = call {
                let record = Record { sensitive: sensitive.to_vec(), ..record(id, *subject, *values) };
                judge.came.insert(id, (now + wait, record));
                judge.waiting.entry(*subject).or_default().push(id);
            }
            let outcomes = make(&mut stream, call, id, &mut now);
            judge.judge(stream.space(), now, &outcomes);
            prop_assert_eq!(stream.held(), judge.waiting.values().flatten().count());
        }
        let mut outcomes = Vec::new();
        stream.flush(&mut outcomes);
        judge.judge(stream.space(), now, &outcomes);
        prop_assert!(judge.waiting.values().all(Vec::is_empty));
    }

    #[test]
    fn restored_stream_goes_on_as_if_nothing_had_happened(
        settings in any_settings(), calls in calls(), at in any::<prop::sample::Index>(),
    ) {
        let mut stream = Stream::new(settings.clone()).unwrap();
        let (before, after) = calls.split_at(at.index(calls.len()));
        let mut now = 0;
        let empty = stream.state();
        stream.note_changes();
        let mut changes = Vec::new();
        for (id, call) in before.iter().enumerate() {
            make(&mut stream, call, id as u64, &mut now);
            if id % 5 == 0 {
                changes.push(stream.take_changes());
            }
        }
        changes.push(stream.take_changes());
        let mut state = empty.change(changes);
        prop_assert_eq!(&state, &stream.state());
        state.held.reverse();
        state.groups.reverse();
        state.subjects.reverse();
        let mut restored = Stream::restore(settings, state).unwrap();
        prop_assert_eq!(restored.state(), stream.state());
        let mut again = now;
        for (id, call) in after.iter().enumerate() {
            let id = (before.len() + id) as u64;
            let outcomes = make(&mut stream, call, id, &mut now);
            prop_assert_eq!(make(&mut restored, call, id, &mut again), outcomes);
        }
        let mut outcomes = (Vec::new(), Vec::new());
        stream.flush(&mut outcomes.0);
        restored.flush(&mut outcomes.1);
        prop_assert_eq!(&outcomes.0, &outcomes.1);
        prop_assert_eq!(restored.state(), stream.state());
    }
}
