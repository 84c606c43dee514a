//! The people of Adult as events, and views of them; the same for all benchmarks of views of many.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a benchmark that fails here fails where it should"
)]

use std::fs;
use std::path::Path;

pub const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/adult/");

pub const FIELDS: &str = "
policy: adult
version: 1
source: { topic: raw, format: json }
subject: id
fields:
  { id: identifier, at: time, sex: sex, age: age, race: race, marital: marital, education: education, country: country,
    work: work, occupation: occupation, salary: salary, note: note }
views:
";
pub const CHANGES: &str = "
  view:
    topic: view
    key: drop
    classes:
      identifier: drop
      time: drop
      sex: keep
      age: { generalize: { numbers: 10 } }
      race: keep
      marital: { generalize: { hierarchy: adult_hierarchy_marital-status.csv } }
      education: { generalize: { hierarchy: adult_hierarchy_education.csv } }
      country: { generalize: { hierarchy: adult_hierarchy_native-country.csv } }
      work: { generalize: { hierarchy: adult_hierarchy_workclass.csv } }
      occupation: keep
      salary: keep
      note: drop
";
const GROUPS: &str = "
  view:
    topic: view
    anonymize:
      k: K
      within: 31d
      most: MOST
      quasi_identifiers:
        sex: { hierarchy: adult_hierarchy_sex.csv }
        age: { numbers: [0, 120] }
        race: { hierarchy: adult_hierarchy_race.csv }
        marital: { hierarchy: adult_hierarchy_marital-status.csv }
        education: { hierarchy: adult_hierarchy_education.csv }
        country: { hierarchy: adult_hierarchy_native-country.csv }
        work: { hierarchy: adult_hierarchy_workclass.csv }
    default: drop
    classes: { occupation: keep, salary: keep }
";
const WINDOWS: &str = "
  view:
    topic: view
    aggregate:
      window: 1m
      time: { path: at, unit: millis }
      lateness: 5s
      by: [education, country]
      least: 10
      contributions: 10
      numbers: { age: { min: 0, max: 120 } }
      figures: { people: subjects, records: count, mean_age: { mean: age }, median_age: { quantile: 0.5, of: age } }
PRIVACY    default: drop
    classes: { education: keep, country: keep }
";
pub const PRIVACY: &str = "      privacy: { epsilon: 1, delta: 0.000001, budget: { epsilon: 1000000, delta: 0.9, per: ever } }\n      subjects: 100000\n";

/// Of at least `k` people, with at most so many rows that wait.
pub fn groups(k: usize, most: usize) -> String {
    GROUPS.replace("K\n", &format!("{k}\n")).replace("MOST", &most.to_string())
}

/// With `privacy`, such as [`PRIVACY`], or without.
pub fn windows(privacy: &str) -> String {
    WINDOWS.replace("PRIVACY", privacy)
}

/// The people of Adult, again and again; each time other people.
pub fn events(count: usize) -> Vec<String> {
    let text = fs::read_to_string(Path::new(FOLDER).join("adult.csv")).unwrap();
    let rows: Vec<Vec<&str>> = text.lines().skip(1).map(|line| line.split(';').collect()).collect();
    (0..count)
        .map(|number| {
            let row = &rows[number % rows.len()];
            format!(
                r#"{{"id":{number},"at":{},"sex":"{}","age":{},"race":"{}","marital":"{}","education":"{}","country":"{}","work":"{}","occupation":"{}","salary":"{}","note":"what nobody is to read, and nobody gets"}}"#,
                1_767_225_600_000_u64 + number as u64,
                row[0], row[1], row[2], row[3], row[4], row[5], row[6], row[7], row[8],
            )
        })
        .collect()
}
