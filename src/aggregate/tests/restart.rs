//! A stream that was stopped and restored against one that was not.

use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::model::{any_settings, run, steps};
use super::*;

fn private(settings: Settings, epsilon: u64) -> Settings {
    let loss = Loss { epsilon, delta: 1_000_000_000_000_000 };
    let budget = Budget {
        loss: Loss { epsilon: 5 * epsilon, delta: 1_000_000_000_000_000_000 },
        period: Period::Every(70),
        time: PeriodTime::Processing,
    };
    let aggregates = settings.aggregates.into_iter();
    let is_extreme =
        |aggregate: &Aggregate| matches!(aggregate, Aggregate::Min(_) | Aggregate::Max(_));
    Settings {
        aggregates: aggregates.filter(|aggregate| !is_extreme(aggregate)).collect(),
        privacy: Some(Privacy { loss, declared: vec![key(&["1"]), key(&["7"])], budget }),
        most_groups: 100_000,
        most_subjects: 1000,
        ..settings
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn restored_stream_goes_on_as_if_nothing_had_happened(
        settings in any_settings(), with_noise: bool, steps in steps(), cuts in proptest::collection::vec(0_usize..120, 1..4),
    ) {
        let settings = if with_noise { private(settings, 20_000_000_000) } else { settings };
        let mut whole = stream(settings.clone());
        let expected = run(&mut whole, &steps, &mut 0);
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(steps.len())).collect();
        cuts.sort_unstable();
        let (mut now, mut outcomes, mut last) = (0, Vec::new(), 0);
        let (mut changes, mut broken) = (Vec::new(), stream(settings.clone()));
        broken.note_changes();
        for cut in cuts {
            outcomes.extend(run(&mut broken, &steps[last..cut], &mut now));
            last = cut;
            changes.push(broken.take_changes());
            let state = State::default().change(changes.clone());
            prop_assert_eq!(&state, &broken.state());
            broken = Stream::restore(settings.clone(), state, Box::new(Silent)).unwrap();
            broken.note_changes();
        }
        outcomes.extend(run(&mut broken, &steps[last..], &mut now));
        prop_assert_eq!(outcomes, expected);
        prop_assert_eq!(broken.state(), whole.state());
    }
}

/// As a changelog keeps it.
fn stored<T: Serialize + DeserializeOwned>(entry: &T) -> T {
    postcard::from_bytes(&postcard::to_stdvec(entry).unwrap()).unwrap()
}

proptest! {
    #[test]
    fn entries_of_a_changelog_make_the_stream_again(
        settings in any_settings(), with_noise: bool, steps in steps(), batch in 1_usize..40,
    ) {
        let settings = if with_noise { private(settings, 20_000_000_000) } else { settings };
        let mut original = stream(settings.clone());
        original.note_changes();
        let (mut now, mut entries) = (0, Vec::new());
        for batch in steps.chunks(batch) {
            run(&mut original, batch, &mut now);
            let Changes { summary, groups, subjects } = original.take_changes();
            entries.push(Changes {
                summary: stored(&summary),
                groups: groups.iter().map(stored).collect(),
                subjects: subjects.iter().map(stored).collect(),
            });
        }
        let state = State::default().change(entries);
        let restored = Stream::restore(settings, state, Box::new(Silent)).unwrap();
        prop_assert_eq!(restored.state(), original.state());
        prop_assert_eq!(&stored(&original.state()), &original.state());
    }
}

proptest! {
    /// Which windows are published, whole and once, follows from event times alone.
    #[test]
    fn windows_behind_the_watermark_are_closed_over_gaps_too(
        settings in any_settings(), steps in steps(), least in 0_usize..3,
    ) {
        let settings = private(settings, 20_000_000_000);
        let Windows { size, slide, .. } = settings.windows;
        let most_open = usize::try_from((size + settings.lateness) / slide).unwrap() + 1;
        let settings = Settings { most_windows: most_open + least, ..settings };
        let mut stream = stream(settings);
        let (mut now, mut last) = (0, None);
        for step in &steps {
            for outcome in run(&mut stream, std::slice::from_ref(step), &mut now) {
                let (Outcome::Published { window, .. } | Outcome::Exhausted { window, .. }) = outcome
                else { panic!("{outcome:?}") };
                prop_assert!(last < Some(window.start));
                last = Some(window.start);
            }
            let State { summary, groups, .. } = stream.state();
            let watermark = summary.clock.map(|clock| clock.watermark);
            prop_assert!(groups.iter().all(|group| Some(group.window + size) > watermark));
            let mut open: Vec<i64> = groups.iter().map(|group| group.window).collect();
            open.dedup();
            prop_assert!(open.len() <= most_open);
        }
    }
}

#[test]
fn the_largest_numbers_are_stored_exactly() {
    let settings = Settings {
        fields: vec![Field { places: 18, bounds: None }],
        aggregates: vec![Aggregate::Quantile { field: 0, per_mille: 500 }],
        ..settings()
    };
    let mut stream = stream(settings);
    let most = 1_000_000_000_000_000_000;
    let records = [-most, most, most - 1, -1].map(|value| record(255, 0, "é\0", Some(value)));
    add(&mut stream, records.into_iter().cycle().take(50));
    let mut state = stream.state();
    state.groups[0].tallies[0].sum = i128::MIN;
    state.groups[0].records = u64::MAX;
    state.summary.clock.as_mut().unwrap().now = i64::MIN;
    assert_eq!(stored(&state), state);
}

#[test]
fn state_of_other_settings_is_refused() {
    let mut stream = stream(settings());
    add(&mut stream, [record(1, 3, "a", Some(1)), record(2, 14, "b", None)]);
    let restore = |settings, state| Stream::restore(settings, state, Box::new(Silent)).err();
    let state = stream.state();
    assert_eq!(restore(settings(), state.clone()), None);
    let windows = Windows { offset: 3, ..Windows::tumbling(10) };
    assert_eq!(restore(Settings { windows, ..settings() }, state.clone()), Some(Unfit::State));
    let fields = vec![Field { places: 0, bounds: None }; 2];
    assert_eq!(restore(Settings { fields, ..settings() }, state.clone()), Some(Unfit::State));
    let mut lost = state.clone();
    lost.groups.remove(0);
    assert_eq!(restore(settings(), lost), Some(Unfit::State));
    let mut early = state;
    early.summary.clock.as_mut().unwrap().watermark = 30;
    assert_eq!(restore(settings(), early), Some(Unfit::State));
}

/// What is held was limited as the settings said then; noise is for what they say now.
#[test]
fn open_windows_are_not_taken_over_by_settings_with_other_limits() {
    let old = private(settings(), 2_000_000_000);
    let bounds = |bounds| vec![Field { places: 2, bounds: Some(bounds) }];
    let old = Settings { fields: bounds((0, 1000)), contributions: 50, ..old };
    let mut stream = stream(old.clone());
    add(&mut stream, (0..4).map(|_| record(1, 3, "a", Some(900))));
    let state = stream.state();
    let restore = |settings: Settings, state: &State| {
        Stream::restore(settings, state.clone(), Box::new(Silent)).err()
    };
    let other_limits = [
        Settings { contributions: 3, ..old.clone() },
        Settings { fields: bounds((0, 100)), ..old.clone() },
        Settings { fields: vec![Field { places: 1, bounds: Some((0, 1000)) }], ..old.clone() },
        Settings { most_subjects: 999, ..old.clone() },
        Settings { most_groups: 100_001, ..old.clone() },
        Settings { windows: Windows { size: 20, slide: 10, offset: 0 }, ..old.clone() },
        Settings {
            aggregates: vec![Aggregate::Quantile { field: 0, per_mille: 500 }],
            ..old.clone()
        },
        Settings { most_groups: 2, ..old.clone() },
    ];
    for settings in other_limits {
        assert_eq!(restore(settings.clone(), &state), Some(Unfit::State), "{settings:?}");
        let kept = State { summary: state.summary, ..State::default() };
        assert_eq!(restore(settings, &kept), None);
    }
    let other_output = [
        Settings { lateness: 7, least: 3, longest_wait: Some(9), ..old.clone() },
        Settings { aggregates: vec![Aggregate::Sum(0)], ..old.clone() },
        private(old, 1_000_000_000),
    ];
    for settings in other_output {
        assert_eq!(restore(settings, &state), None);
    }
}

/// Else the subject could contribute once more, or noise would be too little.
#[test]
fn state_that_does_not_add_up_is_refused() {
    let settings = Settings {
        aggregates: vec![Aggregate::Mean(0), Aggregate::Quantile { field: 0, per_mille: 500 }],
        contributions: 2,
        ..settings()
    };
    let mut stream = stream(settings.clone());
    add(
        &mut stream,
        [record(1, 3, "a", Some(1)), record(2, 4, "a", None), record(2, 5, "b", Some(7))],
    );
    let spoiled = |spoil: fn(&mut State)| {
        let mut state = stream.state();
        spoil(&mut state);
        Stream::restore(settings.clone(), state, Box::new(Silent)).err()
    };
    assert_eq!(spoiled(|_| ()), None);
    fn tally(state: &mut State) -> &mut Tally {
        &mut state.groups[0].tallies[0]
    }
    fn clock(state: &mut State) -> &mut Clock {
        state.summary.clock.as_mut().unwrap()
    }
    let spoils: [fn(&mut State); 17] = [
        |state| state.subjects.truncate(1),
        |state| state.subjects.push(state.subjects[0].clone()),
        |state| state.subjects[1].groups = vec![0],
        |state| state.subjects[1].groups = vec![0, 1, 1],
        |state| state.subjects[1].records = 3,
        |state| state.subjects[0].records = 0,
        |state| state.groups[0].subjects = 1,
        |state| state.groups[0].records = u64::MAX,
        |state| tally(state).count = 0,
        |state| tally(state).count = 4,
        |state| tally(state).sum = i128::MAX,
        |state| tally(state).range = None,
        |state| tally(state).range = Some((i64::MIN, i64::MAX)),
        |state| tally(state).sketch = Sketch::default(),
        |state| tally(state).sketch = Sketch::from_buckets([(i16::MIN, 1)]),
        |state| clock(state).largest = i64::MIN,
        |state| clock(state).watermark = i64::MIN,
    ];
    for (index, spoil) in spoils.into_iter().enumerate() {
        assert!(spoiled(spoil).is_some(), "{index}");
    }
}
