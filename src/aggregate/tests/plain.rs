use super::*;

const ALL: [Aggregate; 7] = [
    Aggregate::Count,
    Aggregate::Sum(0),
    Aggregate::Mean(0),
    Aggregate::Min(0),
    Aggregate::Max(0),
    Aggregate::Quantile { field: 0, per_mille: 500 },
    Aggregate::Subjects,
];

#[test]
fn window_is_published_when_the_watermark_reaches_its_end() {
    let mut stream = stream(Settings { aggregates: ALL.to_vec(), ..settings() });
    let outcomes = add(
        &mut stream,
        [
            record(1, 0, "a", Some(150)),
            record(2, 9, "a", Some(-50)),
            record(2, 14, "a", Some(1)),
            record(2, 3, "a", Some(101)),
            record(2, 4, "b", None),
        ],
    );
    assert_eq!(outcomes, []);
    let outcomes = add(&mut stream, [record(1, 15, "a", None)]);
    let mut nothing = row(0, "b", &["1", "0", "0", "0", "0", "0", "1"]);
    nothing.2[1..6].fill(None);
    let some = row(0, "a", &["3", "2.01", "0.67", "-0.5", "1.5", "1.01", "2"]);
    assert_eq!(shown(&outcomes), [some, nothing]);
    assert_eq!(add(&mut stream, [record(1, 9, "a", None)]), []);
    let expected = Counters { counted: 6, late: 1, ..Counters::default() };
    assert_eq!(stream.counters(), expected);
}

#[test]
fn record_that_is_late_for_one_window_counts_in_the_next() {
    let windows = Windows { size: 10, slide: 5, offset: 0 };
    let mut stream = stream(Settings { windows, lateness: 0, ..settings() });
    add(&mut stream, [record(1, 10, "a", None)]);
    let outcomes = add(&mut stream, [record(1, 7, "a", None), record(1, 15, "a", None)]);
    assert_eq!(shown(&outcomes), [row(5, "a", &["2"])]);
    assert_eq!(stream.counters().late, 1);
}

#[test]
fn idle_partition_goes_on_at_the_pace_of_processing_time() {
    let mut stream = stream(Settings { longest_wait: Some(100), ..settings() });
    add(&mut stream, [record(1, 7, "a", None)]);
    let mut outcomes = Vec::new();
    // Of window 0 to 10, 3 ms and the lateness of 5 are left.
    stream.tick(7 + 100 + 7, &mut outcomes);
    assert_eq!(outcomes, []);
    stream.tick(7 + 100 + 8, &mut outcomes);
    assert_eq!(shown(&outcomes), [row(0, "a", &["1"])]);
    stream.add(record(1, 9, "a", None), 116, &mut outcomes).unwrap();
    assert_eq!((stream.counters().late, outcomes.len()), (1, 1));
}

#[test]
fn one_wrong_clock_does_not_close_windows() {
    let mut stream = stream(Settings { ahead: Some(60), ..settings() });
    let mut outcomes = add(&mut stream, [record(1, 7, "a", None)]);
    stream.add(record(1, 69, "a", None), 8, &mut outcomes).unwrap();
    assert_eq!((outcomes, stream.counters().early), (vec![], 1));
}

#[test]
fn small_group_is_suppressed_and_a_rest_of_few_is_not_told() {
    let mut stream = stream(Settings { least: 2, ..settings() });
    let of = |name, subjects: &[u8]| {
        subjects.iter().map(|subject| record(*subject, 0, name, None)).collect::<Vec<_>>()
    };
    add(&mut stream, [of("a", &[1, 2, 3]), of("b", &[4, 4]), of("c", &[5, 6])].concat());
    let outcomes = add(&mut stream, [record(1, 15, "a", None)]);
    assert_eq!(shown(&outcomes), [row(0, "a", &["3"])]);
    let counters = stream.counters();
    assert_eq!((counters.suppressed, counters.complementary), (1, 1));
    // Two groups of one: together they are enough.
    add(
        &mut stream,
        [record(4, 16, "b", None), record(5, 17, "c", None), record(2, 18, "a", None)],
    );
    let outcomes = add(&mut stream, [record(1, 25, "a", None)]);
    assert_eq!(shown(&outcomes), [row(10, "a", &["2"])]);
}

#[test]
fn what_is_beyond_a_limit_is_counted() {
    let limits = Settings { contributions: 2, most_groups: 1, most_subjects: 2, ..settings() };
    let mut stream = stream(limits);
    let outcomes = add(
        &mut stream,
        [
            record(1, 0, "a", None),
            record(1, 1, "b", None),
            record(1, 2, "a", None),
            record(2, 3, "c", None),
            record(3, 4, "a", None),
            record(1, 15, "a", None),
        ],
    );
    let other = (0, Group::Other, vec![Some("2".to_owned())]);
    assert_eq!(shown(&outcomes), [row(0, "a", &["1"]), other]);
    let expected =
        Counters { counted: 4, over_contribution: 1, no_room: 1, other: 2, ..Counters::default() };
    assert_eq!(stream.counters(), expected);
}

#[test]
fn values_are_clamped_and_refused_where_they_are_too_long() {
    let bounded = Field { places: 0, bounds: Some((0, 10)) };
    let fields = vec![bounded, Field { places: 0, bounds: None }];
    let aggregates = vec![Aggregate::Sum(0), Aggregate::Sum(1)];
    let mut stream = stream(Settings { fields, aggregates, ..settings() });
    let of = |time, values: [i128; 2]| {
        let values = values.map(Some).to_vec();
        Record { subject: [0; 16], time, group: key(&[]), values }
    };
    let longest = 1_000_000_000_000_000_000;
    let outcomes = add(
        &mut stream,
        [of(0, [i128::MIN, longest]), of(0, [i128::MAX, longest]), of(20, [0; 2])],
    );
    assert_eq!(
        shown(&outcomes)[0].2,
        [Some("10".to_owned()), Some("2000000000000000000".to_owned())]
    );
    let mut refuse = |record| stream.add(record, 0, &mut Vec::new());
    assert_eq!(refuse(of(0, [0, longest + 1])), Err(Refusal::Digits(1)));
    assert_eq!(refuse(of(i64::MIN, [0, 0])), Err(Refusal::Time));
    assert_eq!(refuse(record(1, 0, "a", None)), Err(Refusal::Count));
    assert_eq!(stream.counters().counted, 3);
}

#[test]
fn unfit_settings_are_refused() {
    let windows =
        |size, slide, offset| Settings { windows: Windows { size, slide, offset }, ..settings() };
    let of = |aggregate| Settings { aggregates: vec![aggregate], ..settings() };
    let field = |places, bounds| Settings { fields: vec![Field { places, bounds }], ..settings() };
    for (settings, expected) in [
        (windows(0, 1, 0), Unfit::Windows),
        (windows(5, 6, 0), Unfit::Windows),
        (windows(5, 0, 0), Unfit::Windows),
        (windows(5, 5, i64::MIN), Unfit::Windows),
        (windows(1000, 1, 0), Unfit::MostWindows(1006)),
        (Settings { lateness: -1, ..settings() }, Unfit::Waits),
        (Settings { aggregates: vec![], ..settings() }, Unfit::NoAggregates),
        (of(Aggregate::Sum(1)), Unfit::Aggregate(0)),
        (of(Aggregate::Quantile { field: 0, per_mille: 1001 }), Unfit::Aggregate(0)),
        (field(19, None), Unfit::Field(0)),
        (field(0, Some((1, 1))), Unfit::Field(0)),
        (Settings { least: 0, ..settings() }, Unfit::Least),
        (Settings { contributions: 0, ..settings() }, Unfit::Contributions),
        (Settings { most_subjects: 0, ..settings() }, Unfit::NoRoom),
    ] {
        assert_eq!(Stream::new(settings, Box::new(Silent)).err(), Some(expected));
    }
}
