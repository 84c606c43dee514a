use std::collections::BTreeMap;

use super::*;

const EPSILON: u64 = 1_600_000_000;
/// 0.01.
const DELTA: u64 = 10_000_000_000_000_000;

/// Declared groups only: `a` and `b`. The room takes 0.1 of an epsilon of 1.6.
fn private(aggregates: &[Aggregate]) -> Settings {
    let loss = Loss { epsilon: EPSILON, delta: DELTA };
    let budget = Budget {
        loss: Loss { epsilon: u64::MAX, delta: u64::MAX },
        period: Period::Every(10),
        time: PeriodTime::Event,
    };
    Settings {
        lateness: 0,
        fields: vec![Field { places: 2, bounds: Some((-200, 1000)) }],
        aggregates: aggregates.to_vec(),
        contributions: 3,
        privacy: Some(Privacy { loss, declared: vec![key(&["a"]), key(&["b"])], budget }),
        most_groups: 2,
        ..settings()
    }
}

/// Groups that are not declared are published, too.
fn selecting(delta: u64) -> Settings {
    let mut settings = private(&[Aggregate::Count]);
    settings.most_groups = 10_000;
    settings.privacy.as_mut().unwrap().loss.delta = delta;
    settings
}

/// The values of one group in so many windows that have the same records.
fn draws(settings: Settings, records: &[Record], count: i64, of: &Group) -> Vec<f64> {
    let mut stream = Stream::new(settings, Box::new(SystemNoise)).unwrap();
    let mut outcomes = Vec::new();
    for window in 0..=count {
        for record in records {
            let record = Record { time: window * 10, ..record.clone() };
            stream.add(record, 0, &mut outcomes).unwrap();
        }
    }
    let rows = shown(&outcomes).into_iter().filter(|(_, group, _)| group == of);
    rows.map(|(_, _, values)| values[0].as_ref().unwrap().parse().unwrap()).collect()
}

/// Six standard errors: one run in 500 million fails by chance.
fn assert_laplace(all: &[f64], center: f64, scale: f64) {
    let error = 6.0 * scale / (all.len() as f64).sqrt();
    let mean = |of: &dyn Fn(&f64) -> f64| all.iter().map(of).sum::<f64>() / all.len() as f64;
    let center_found = mean(&|one| one - center);
    assert!(center_found.abs() < error * 2_f64.sqrt(), "{center_found}");
    // For the discrete distribution it is a little less than the scale.
    let ratio = (-1.0 / scale).exp();
    let distance = 2.0 * ratio / (1.0 - ratio * ratio);
    let found = mean(&|one| (one - center).abs());
    assert!((found - distance).abs() < error, "{found} {distance}");
}

#[test]
fn counts_sums_and_subjects_have_the_noise_of_their_sensitivity() {
    const COUNT: i64 = 10_000;
    let records: Vec<Record> = (0..8).map(|index| record(index / 2, 0, "a", Some(300))).collect();
    let draw = |aggregate| {
        let all = draws(private(&[aggregate]), &records, COUNT, &group("a"));
        assert!(all.len() as i64 > COUNT * 95 / 100);
        all
    };
    // Epsilon is 1.5 of it, a subject can change 3 by one each.
    assert_laplace(&draw(Aggregate::Count), 8.0, 2.0);
    assert_laplace(&draw(Aggregate::Subjects), 4.0, 2.0);
    let sums: Vec<f64> = draw(Aggregate::Sum(0)).into_iter().map(|sum| sum * 100.0).collect();
    assert_laplace(&sums, 2400.0, 2000.0);
}

#[test]
fn means_and_quantiles_are_near_and_within_the_bounds() {
    let record = |index: u32| {
        let subject = index.to_le_bytes().repeat(4).try_into().unwrap();
        Record { subject, time: 0, group: key(&["a"]), values: vec![Some(i128::from(index) / 2)] }
    };
    let records: Vec<Record> = (0..1000).map(record).collect();
    let generous = |aggregate| Settings { most_subjects: 2000, ..private(&[aggregate]) };
    for (aggregate, expected, error) in [
        (Aggregate::Mean(0), 2.4950, 0.4),
        (Aggregate::Quantile { field: 0, per_mille: 500 }, 2.5, 0.4),
        (Aggregate::Quantile { field: 0, per_mille: 900 }, 4.5, 0.4),
    ] {
        for found in draws(generous(aggregate), &records, 20, &group("a")) {
            assert!((found - expected).abs() < error, "{aggregate:?} {found}");
        }
        let nobody = draws(generous(aggregate), &records, 20, &group("b"));
        assert!(nobody.iter().all(|one| (-2.0..=10.0).contains(one)));
    }
}

/// With and without one subject: no value may be more probable by more than e^epsilon.
#[test]
fn one_subject_changes_probabilities_by_no_more_than_its_share() {
    const COUNT: i64 = 10_000;
    let without: Vec<Record> = (0..4).map(|index| record(index, 0, "a", Some(0))).collect();
    let with: Vec<Record> = (0..5).flat_map(|_| [record(9, 0, "a", Some(1000))]).collect();
    let with = [without.clone(), with].concat();
    for aggregate in [Aggregate::Sum(0), Aggregate::Quantile { field: 0, per_mille: 500 }] {
        let mut settings = private(&[aggregate]);
        settings.fields[0].bounds = Some((-4, 4));
        let histogram = |records: &[Record]| {
            let mut counts = BTreeMap::new();
            for one in draws(settings.clone(), records, COUNT, &group("a")) {
                *counts.entry((one * 100.0).round() as i64).or_insert(0.0) += 1.0 / COUNT as f64;
            }
            counts
        };
        let (one, other) = (histogram(&without), histogram(&with));
        assert!(!one.is_empty());
        for (left, right) in [(&one, &other), (&other, &one)] {
            for (value, probability) in left {
                let most = 1.6_f64.exp() * right.get(value).copied().unwrap_or(0.0) + 0.01;
                let error = |of: f64| 6.0 * (of / COUNT as f64).sqrt();
                assert!(
                    *probability <= most + error(*probability) + error(most),
                    "{aggregate:?} {value}"
                );
            }
        }
    }
}

#[test]
fn group_of_one_subject_is_published_with_a_probability_below_delta() {
    const COUNT: i64 = 20_000;
    // 0.2: half of it for the room, and a third of the rest for each of three groups.
    let records: Vec<Record> = ["x", "y", "z"].map(|name| record(1, 0, name, None)).to_vec();
    let found = draws(selecting(20 * DELTA), &records, COUNT, &group("y")).len() as f64;
    let most = 0.1 / 3.0 * COUNT as f64;
    assert!(found < most + 6.0 * most.sqrt() && found > most / 2.0, "{found} {most}");
    let many: Vec<Record> = (0..100).map(|subject| record(subject, 0, "y", None)).collect();
    assert!(draws(selecting(DELTA), &many, 100, &group("y")).len() > 95);
    // `least` raises the threshold.
    let least = Settings { least: 200, ..selecting(DELTA) };
    assert!(draws(least, &many, 100, &group("y")).len() < 5);
}

#[test]
fn declared_groups_are_published_whoever_is_there_and_others_are_one() {
    let mut stream = stream(private(&[Aggregate::Count]));
    let outcomes = add(
        &mut stream,
        [record(1, 0, "x", None), record(1, 1, "y", None), record(1, 30, "a", None)],
    );
    let other = |start, count: &str| (start, Group::Other, vec![Some(count.to_owned())]);
    let mut expected = Vec::new();
    for (start, count) in [(0, "2"), (10, "0"), (20, "0")] {
        expected.extend([row(start, "a", &["0"]), row(start, "b", &["0"]), other(start, count)]);
    }
    assert_eq!(shown(&outcomes), expected);
    assert_eq!(stream.counters().suppressed, 0);
}

#[test]
fn full_window_is_not_published() {
    let mut stream = stream(Settings { most_subjects: 100, ..private(&[Aggregate::Count]) });
    let crowd = (0..150).map(|subject| record(subject, 0, "a", None));
    let outcomes = add(&mut stream, crowd.chain([record(1, 10, "a", None)]));
    assert_eq!(outcomes, [Outcome::Crowded { window: Window { start: 0, end: 10 } }]);
    let counters = stream.counters();
    assert_eq!((counters.no_room, counters.withheld), (50, 1));
}

#[test]
fn exhausted_budget_withholds_windows_until_the_next_period_even_over_a_restart() {
    let mut settings = private(&[Aggregate::Count]);
    let privacy = settings.privacy.as_mut().unwrap();
    privacy.budget.period = Period::Every(50);
    privacy.budget.loss = Loss { epsilon: 3 * EPSILON + 1, delta: 5 * DELTA };
    let mut before = stream(settings.clone());
    let records = |times: std::ops::Range<i64>| times.map(|time| record(1, 10 * time, "a", None));
    let mut outcomes = add(&mut before, records(0..3));
    let mut after = Stream::restore(settings, before.state(), Box::new(Silent)).unwrap();
    assert_eq!(after.summary().spent.unwrap().loss.epsilon, 2 * EPSILON);
    outcomes.extend(add(&mut after, records(3..7)));
    let exhausted: Vec<(i64, i64)> = outcomes
        .iter()
        .filter_map(|outcome| match outcome {
            Outcome::Exhausted { window, until } => Some((window.start, *until)),
            _ => None,
        })
        .collect();
    assert_eq!(exhausted, [(30, 50), (40, 50)]);
    assert_eq!((outcomes.len(), after.counters().withheld), (6, 2));
    let spent = Spent { until: 100, loss: Loss { epsilon: EPSILON, delta: DELTA } };
    assert_eq!(after.summary().spent, Some(spent));
}

#[test]
fn noise_is_reported() {
    let aggregates = [
        Aggregate::Count,
        Aggregate::Sum(0),
        Aggregate::Mean(0),
        Aggregate::Quantile { field: 0, per_mille: 500 },
        Aggregate::Subjects,
    ];
    let mut stream = stream(private(&aggregates));
    assert_eq!(
        stream.split(),
        Some(Split { room: 100_000_000, selection: None, each: 300_000_000 })
    );
    let outcomes = add(&mut stream, [record(1, 0, "a", Some(1)), record(1, 10, "a", None)]);
    let Outcome::Published { rows, loss, .. } = &outcomes[0] else { panic!() };
    assert_eq!(*loss, Some(Loss { epsilon: EPSILON, delta: DELTA }));
    let noise = rows[0].figures.iter().map(|figure| figure.noise.clone().unwrap());
    let (epsilons, scales): (Vec<_>, Vec<_>) = noise.map(|used| (used.epsilon, used.scale)).unzip();
    assert_eq!(epsilons, vec!["0.3"; 5]);
    // 3 / 0.3, 3 * 10.00 / 0.3, 3 * 6.00 / 0.15, none, 3 / 0.3.
    let expected = [Some("10"), Some("100"), Some("120"), None, Some("10")];
    assert_eq!(scales, expected.map(|scale| scale.map(str::to_owned)));
}

#[test]
fn noise_that_fails_withholds_the_window() {
    struct Broken;
    impl Noise for Broken {
        fn laplace(&mut self, _: &RBig) -> Result<IBig, NoiseFailed> {
            Err(NoiseFailed)
        }
        fn survives(&mut self, _: &RBig) -> Result<bool, NoiseFailed> {
            Err(NoiseFailed)
        }
        fn below(&mut self, _: u64) -> Result<u64, NoiseFailed> {
            Err(NoiseFailed)
        }
    }
    let mut stream = Stream::new(private(&[Aggregate::Count]), Box::new(Broken)).unwrap();
    let outcomes = add(&mut stream, [record(1, 0, "a", None), record(1, 10, "a", None)]);
    assert_eq!(outcomes, [Outcome::NoNoise { window: Window { start: 0, end: 10 } }]);
}

#[test]
fn settings_that_would_not_protect_are_refused() {
    let change = |change: fn(&mut Settings)| {
        let mut settings = private(&[Aggregate::Count, Aggregate::Sum(0)]);
        change(&mut settings);
        Stream::new(settings, Box::new(Silent)).err()
    };
    fn privacy(settings: &mut Settings) -> &mut Privacy {
        settings.privacy.as_mut().unwrap()
    }
    assert_eq!(change(|_| ()), None);
    assert_eq!(
        change(|settings| settings.aggregates[0] = Aggregate::Max(0)),
        Some(Unfit::Extreme(0))
    );
    for per_mille in [0, 1000] {
        let mut settings = private(&[Aggregate::Quantile { field: 0, per_mille }]);
        assert_eq!(Stream::new(settings.clone(), Box::new(Silent)).err(), Some(Unfit::Extreme(0)));
        settings.privacy = None;
        assert_eq!(Stream::new(settings, Box::new(Silent)).err(), None);
    }
    assert_eq!(change(|settings| settings.fields[0].bounds = None), Some(Unfit::NoBounds(1)));
    assert_eq!(change(|settings| settings.most_groups = 3001), Some(Unfit::MostGroups(3002)));
    assert_eq!(change(|settings| settings.most_groups = 3002), None);
    assert_eq!(change(|settings| settings.most_subjects = 50), Some(Unfit::MostSubjects(80)));
    assert_eq!(change(|settings| privacy(settings).loss.delta = 0), Some(Unfit::Delta));
    assert_eq!(change(|settings| privacy(settings).loss.epsilon = 15), Some(Unfit::Epsilon));
    assert_eq!(change(|settings| privacy(settings).budget.loss.epsilon = 1), Some(Unfit::Budget));
    assert_eq!(
        change(|settings| privacy(settings).budget.period = Period::Every(0)),
        Some(Unfit::Period)
    );
}

/// The windows that are published depend on event time alone, not on who was there.
#[test]
fn window_before_a_gap_is_published_whoever_was_there() {
    let windows = |records: &[Record]| {
        let mut settings = Settings { lateness: 10, ..private(&[Aggregate::Count]) };
        settings.most_windows = 3;
        let outcomes = add(&mut stream(settings), records.iter().cloned());
        let mut windows: Vec<i64> = shown(&outcomes).into_iter().map(|(start, ..)| start).collect();
        windows.dedup();
        windows
    };
    let [first, one, end] = [15, 7, 1000].map(|time| record(time as u8, time, "a", None));
    assert_eq!(windows(&[first.clone(), one, end.clone()]), [0, 10]);
    assert_eq!(windows(&[first, end]), [0, 10]);
}

#[test]
fn noise_beyond_what_numbers_hold_does_not_tell_whether_anybody_was_there() {
    struct Large;
    impl Noise for Large {
        fn laplace(&mut self, _: &RBig) -> Result<IBig, NoiseFailed> {
            Ok(IBig::from(i128::MAX))
        }
        fn survives(&mut self, _: &RBig) -> Result<bool, NoiseFailed> {
            Ok(false)
        }
        fn below(&mut self, _: u64) -> Result<u64, NoiseFailed> {
            Ok(0)
        }
    }
    let published = |name| {
        let settings = private(&[Aggregate::Count, Aggregate::Sum(0), Aggregate::Mean(0)]);
        let mut stream = Stream::new(settings, Box::new(Large)).unwrap();
        let outcomes = add(&mut stream, [record(1, 0, name, Some(1)), record(1, 10, "a", None)]);
        shown(&outcomes).into_iter().filter(|(_, of, _)| *of == group("a")).collect::<Vec<_>>()
    };
    assert_eq!(published("a").len(), 1);
    assert_eq!(published("a"), published("b"));
}
