//! How likely the people of sanitized events are found again: figures of the literature, out of rows.
//!
//! What others may know of a person (quasi-identifiers: age, sex, postal code) puts rows into groups, those in which it
//! is all the same. Who knows it of somebody sees a group, not a row. No figure holds a value: they are counts, shares
//! and the names of paths.
//!
//! | figure | source |
//! | --- | --- |
//! | k | L. Sweeney: k-anonymity: a model for protecting privacy. IJUFKS 10(5), 2002 |
//! | k-map | L. Sweeney: Computational disclosure control. MIT, 2001 |
//! | l | A. Machanavajjhala, D. Kifer, J. Gehrke, M. Venkitasubramaniam: l-diversity: privacy beyond k-anonymity. ACM TKDD 1(1), 2007 |
//! | t | N. Li, T. Li, S. Venkatasubramanian: t-closeness: privacy beyond k-anonymity and l-diversity. ICDE 2007 |
//! | risks | K. El Emam: Guide to the de-identification of personal health information. CRC Press, 2013, chapter 16 |

mod plot;
mod read;
mod report;
mod sensitive;
mod tally;

pub use read::{Kind, ReadError, Row, Rows};
pub use report::html;
pub use sensitive::{Distance, Sensitive};
pub use tally::Tally;

use serde::{Serialize, Serializer};

use crate::policy::Path;

/// What is asked of rows. All paths are plain: names and dots.
#[derive(Debug, Clone)]
pub struct Question {
    /// What others may know of a person.
    pub quasi: Vec<Path>,
    /// What they should not learn.
    pub sensitive: Vec<Path>,
    /// Whose row it is; without it each row is somebody else's.
    pub subject: Option<Path>,
    /// Groups of fewer are said to be at risk.
    pub threshold: u64,
}

impl Question {
    /// The values that a row is read for, in the order in which [`Tally::count`] wants them.
    pub fn paths(&self) -> Vec<Path> {
        self.quasi.iter().chain(&self.sensitive).chain(&self.subject).cloned().collect()
    }
}

/// What rows say of the risk.
///
/// A record is what a group counts: a row, or a subject once in each group where the question names the subject. Rows
/// all of whose quasi-identifiers are null or `*` are suppressed: they say nothing, and are in no group.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    pub rows: u64,
    /// Events without a row, such as deletes.
    pub without_row: u64,
    pub suppressed_rows: u64,
    /// Distinct subjects in the groups; without a subject, rows in the groups.
    pub subjects: u64,
    /// Rows that say of no subject whose they are: they count as one subject's. 0 without a subject.
    pub without_subject: u64,
    /// The sizes of all groups, added.
    pub records: u64,
    /// Equivalence classes: distinct values of all quasi-identifiers together.
    pub groups: u64,
    /// k-anonymity: the size of the smallest group (Sweeney 2002). None without a group.
    pub k: Option<u64>,
    pub mean_group: f64,
    pub median_group: f64,
    /// Records that are alone in their group.
    pub unique: Part,
    pub threshold: u64,
    /// Records in groups smaller than the threshold.
    pub below_threshold: Part,
    pub quasi: Vec<Quasi>,
    pub histogram: Vec<Bin>,
    pub sensitive: Vec<Sensitive>,
    pub risks: Risks,
    pub population: Option<Population>,
    /// How many groups there are of each size, by size.
    #[serde(skip)]
    pub sizes: Vec<Size>,
}

/// Some of the records.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Part {
    pub records: u64,
    /// Of all, 0 to 1.
    pub share: f64,
}

/// A quasi-identifier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Quasi {
    #[serde(serialize_with = "as_text")]
    pub path: Path,
    /// Rows in which it is null or missing, which is a value like any other.
    pub absent: u64,
}

/// Groups of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub size: u64,
    pub groups: u64,
}

/// Groups whose size, or whose number of distinct values, is in a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Bin {
    pub from: u64,
    /// Included; none in the last.
    pub to: Option<u64>,
    pub groups: u64,
    pub records: u64,
}

impl Bin {
    const RANGES: [(u64, Option<u64>); 8] = [
        (1, Some(1)),
        (2, Some(2)),
        (3, Some(4)),
        (5, Some(9)),
        (10, Some(19)),
        (20, Some(49)),
        (50, Some(99)),
        (100, None),
    ];

    /// Groups by their size or what else is counted of them: that, how many groups, how many records.
    fn all(counted: impl Iterator<Item = (u64, u64, u64)> + Clone) -> Vec<Bin> {
        let bin = |(from, to): (u64, Option<u64>)| {
            let within = |size: u64| from <= size && to.is_none_or(|to| size <= to);
            let inside = counted.clone().filter(|(size, _, _)| within(*size));
            let (groups, records) =
                inside.fold((0, 0), |sum, (_, groups, records)| (sum.0 + groups, sum.1 + records));
            Bin { from, to, groups, records }
        };
        Bin::RANGES.into_iter().map(bin).collect()
    }

    /// `1`, `3-4`, `100+`.
    pub fn label(&self) -> String {
        match self.to {
            Some(to) if to == self.from => to.to_string(),
            Some(to) => format!("{}-{to}", self.from),
            None => format!("{}+", self.from),
        }
    }
}

/// Three people who might try to find somebody again (El Emam 2013; `RiskModelSampleSummary` of ARX agrees). `f` is the
/// size of a group, `F` how many people of the population are like it, `n` all records.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Risks {
    /// Knows that the person is in the data.
    pub prosecutor: Risk,
    /// Does not know it. Takes a population.
    pub journalist: Option<Risk>,
    /// Wants as many as possible and may be wrong about some: the share of records that they are right about. The mean
    /// of `1/F` over the records; without a population everybody is in the data and it is groups / n.
    pub marketer: f64,
}

/// How likely one record is found again, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Risk {
    /// Of the record that is easiest to find: 1 / the smallest `f` for the prosecutor, 1 / the smallest `F` for the
    /// journalist.
    pub highest: f64,
    /// Prosecutor: groups / n. Journalist: the greater of groups / sum of `F`, and the mean of `1/F` over the records.
    pub average: f64,
    /// The share of records whose risk is over 1 / threshold.
    pub at_risk: f64,
}

/// Rows beside those of everybody who could be in them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Population {
    pub rows: u64,
    /// k-map: the smallest number of people of the population who are like a group (Sweeney 2001). None without a
    /// group. Nobody is missing in a population: where it has fewer than the group itself, the group counts.
    pub k_map: Option<u64>,
    /// Groups of which the population has fewer than there are: it is not whole, or not generalized in the same way.
    pub short_groups: u64,
}

fn as_text<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(path)
}

/// `part` of `whole`; 0 of nothing.
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// A share for people: `0.4 %`.
pub fn percent(share: f64) -> String {
    match share * 100.0 {
        tiny if tiny > 0.0 && tiny < 0.05 => "<0.1 %".to_owned(),
        great if (99.95..100.0).contains(&great) => ">99.9 %".to_owned(),
        other => format!("{other:.1} %"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn paths(texts: &[&str]) -> Vec<Path> {
        texts.iter().map(|text| Path::parse(text).unwrap()).collect()
    }

    fn question(quasi: &[&str], sensitive: &[&str], subject: Option<&str>) -> Question {
        let subject = subject.map(|path| Path::parse(path).unwrap());
        Question { quasi: paths(quasi), sensitive: paths(sensitive), subject, threshold: 3 }
    }

    fn figures(question: &Question, text: &str, population: Option<&str>) -> Figures {
        let mut tally = Tally::new(question);
        let without = each(text, &question.paths(), |row| tally.count(row));
        if let Some(text) = population {
            each(text, &question.quasi, |row| tally.populate(row));
        }
        tally.figures(without)
    }

    fn each(text: &str, paths: &[Path], mut take: impl FnMut(&Row)) -> u64 {
        let mut rows = Rows::open("f", text.as_bytes(), paths).unwrap();
        let mut row = Row::default();
        while rows.read(&mut row).unwrap() {
            take(&row);
        }
        rows.finish().unwrap()
    }

    fn near(one: f64, other: f64) -> bool {
        (one - other).abs() < 1e-9
    }

    /// Machanavajjhala et al. 2007, figures 2 and 3.
    #[test]
    fn l_diversity_of_the_paper() {
        let question = question(&["zip", "age"], &["condition"], None);
        let anonymous = "zip,age,condition\n\
            130**,<30,heart\n130**,<30,heart\n130**,<30,viral\n130**,<30,viral\n\
            1485*,>=40,cancer\n1485*,>=40,heart\n1485*,>=40,viral\n1485*,>=40,viral\n\
            130**,3*,cancer\n130**,3*,cancer\n130**,3*,cancer\n130**,3*,cancer\n";
        let told = figures(&question, anonymous, None);
        assert_eq!((told.k, told.groups), (Some(4), 3));
        let field = &told.sensitive[0];
        assert_eq!((field.values, field.distinct_l), (3, Some(1)));
        assert!(near(field.entropy_l.unwrap(), 1.0));
        let groups: Vec<u64> = field.histogram.iter().map(|bin| bin.groups).collect();
        assert_eq!(groups, [1, 1, 1, 0, 0, 0, 0, 0]);
        let diverse = "zip,age,condition\n\
            1305*,<=40,heart\n1305*,<=40,viral\n1305*,<=40,cancer\n1305*,<=40,cancer\n\
            1485*,>40,cancer\n1485*,>40,heart\n1485*,>40,viral\n1485*,>40,viral\n\
            1306*,<=40,heart\n1306*,<=40,viral\n1306*,<=40,cancer\n1306*,<=40,cancer\n";
        let told = figures(&question, diverse, None);
        assert_eq!((told.k, told.sensitive[0].distinct_l), (Some(4), Some(3)));
        // "2.8-diverse": a quarter, a quarter, a half.
        assert!(near(told.sensitive[0].entropy_l.unwrap(), 8.0_f64.sqrt()));
    }

    /// Li et al. 2007: D[P1, Q] = 0.375 and D[P2, Q] = 0.167 of section 4.1, and the salaries of table 5.
    #[test]
    fn t_closeness_of_the_paper() {
        let question = question(&["zip"], &["salary"], None);
        let t = |rows: [(&str, u32); 9]| {
            let text: String =
                rows.iter().map(|(zip, salary)| format!("{zip};{salary}000\n")).collect();
            let told = figures(&question, &format!("zip;salary\n{text}"), None);
            assert_eq!(told.sensitive[0].distance, Distance::Ordered);
            told.sensitive[0].t.unwrap()
        };
        let table_2 =
            [3, 4, 5, 6, 11, 8, 7, 9, 10].map(|salary| (["476**", "4790*", "4760*"], salary));
        let mut at = 0;
        let table_2 = table_2.map(|(zips, salary)| {
            at += 1;
            (zips[(at - 1) / 3], salary)
        });
        assert!(near(t(table_2), 0.375));
        let zips =
            ["4767*", "4767*", "4767*", "4790*", "4790*", "4790*", "4760*", "4760*", "4760*"];
        let salaries = [3, 5, 9, 6, 11, 8, 4, 7, 10];
        let table_5 = std::array::from_fn(|at| (zips[at], salaries[at]));
        assert!(near(t(table_5), 1.0 / 6.0));
    }

    #[test]
    fn distance_of_words_and_of_numbers() {
        let of = |text: &str| {
            let told = figures(&question(&["g"], &["s"], None), text, None);
            (told.sensitive[0].distance, told.sensitive[0].t.unwrap())
        };
        // All: 1/2 x, 1/4 y, 1/4 z. The group of x alone: (1/2 + 1/4 + 1/4) / 2.
        let words = "g,s\na,x\na,x\nb,y\nb,z\n";
        assert_eq!(of(words), (Distance::Equal, 0.5));
        // 1 and 1.0 are one rank: (|1 - 1/2| + |1 - 3/4|) / 2.
        let numbers = "g,s\na,1\na,1.0\nb,2\nb,30\n";
        assert_eq!(of(numbers), (Distance::Ordered, 0.375));
        assert_eq!(of("g,s\na,1\na,1\nb,1\nb,\n").0, Distance::Equal);
        assert_eq!(of("{\"g\":1,\"s\":1}\n{\"g\":1,\"s\":\"1\"}").0, Distance::Equal);
        assert_eq!(of("g,s\na,1\nb,1\n"), (Distance::Ordered, 0.0));
        // What nobody has in the end is no value.
        let last = "g,s,who\na,x,1\na,1,1\nb,2,2\nb,,3\nb,3,3\n";
        let told = figures(&question(&["g"], &["s"], Some("who")), last, None);
        let sensitive = &told.sensitive[0];
        assert_eq!((sensitive.distance, sensitive.values), (Distance::Ordered, 3));
    }

    #[test]
    fn a_subject_counts_once_in_a_group() {
        let text = r#"{"id":1,"age":30,"plan":"a"}
            {"id":1,"age":30,"plan":"a"}
            {"id":1,"age":30,"plan":"b"}
            {"id":2,"age":30,"plan":"a"}
            {"id":2,"age":40,"plan":"a"}
            {"age":40,"plan":"a"}
            {"id":null,"age":40,"plan":"a"}
            {"id":3,"age":"*","plan":"c"}
            {"id":4,"plan":"c"}"#;
        let told = figures(&question(&["age"], &["plan"], Some("id")), text, None);
        assert_eq!((told.rows, told.records, told.subjects, told.groups), (9, 4, 3, 2));
        assert_eq!((told.suppressed_rows, told.without_subject, told.k), (2, 2, Some(2)));
        assert_eq!((told.mean_group, told.median_group, told.quasi[0].absent), (2.0, 2.0, 1));
        // Of each the last: age 30 has a once and b once; age 40 has a alone, twice.
        let field = &told.sensitive[0];
        assert_eq!((field.values, field.distinct_l, field.entropy_l), (2, Some(1), Some(1.0)));
        assert!(near(field.t.unwrap(), 3.0 / 4.0 - 1.0 / 2.0));
        let told = figures(&question(&["age"], &[], None), text, None);
        assert_eq!((told.records, told.subjects, told.k), (7, 7, Some(3)));
    }

    #[test]
    fn nothing_is_told_where_everything_is_suppressed() {
        let told = figures(
            &question(&["a", "b"], &["s"], None),
            "a,b,s\n*,,1\n*,*,2\n",
            Some("a,b\n1,2\n"),
        );
        assert_eq!((told.rows, told.suppressed_rows, told.groups, told.k), (2, 2, 0, None));
        assert_eq!(
            (told.mean_group, told.risks.prosecutor.highest, told.risks.marketer),
            (0.0, 0.0, 0.0)
        );
        assert_eq!((told.sensitive[0].t, told.population.unwrap().k_map), (None, None));
    }

    /// Three groups of 1, 2 and 4; of the population 5, 2 and 20 people are like them.
    #[test]
    fn risks_with_a_population() {
        let lines = |counts: [usize; 3]| {
            let groups = ["x", "y", "z"].into_iter().zip(counts);
            groups
                .map(|(name, count)| format!("{{\"q\":\"{name}\"}}\n").repeat(count))
                .collect::<String>()
        };
        let csv = |counts: [usize; 3]| {
            let groups = ["x", "y", "z"].into_iter().zip(counts);
            "q\nw\n".to_owned()
                + &groups.map(|(name, count)| format!("{name}\n").repeat(count)).collect::<String>()
        };
        let question = question(&["q"], &[], None);
        let told = figures(&question, &lines([1, 2, 4]), Some(&csv([5, 2, 20])));
        let prosecutor = Risk { highest: 1.0, average: 3.0 / 7.0, at_risk: 3.0 / 7.0 };
        assert_eq!(told.risks.prosecutor, prosecutor);
        let marketer = (1.0 / 5.0 + 2.0 / 2.0 + 4.0 / 20.0) / 7.0;
        assert!(near(told.risks.marketer, marketer));
        let journalist = told.risks.journalist.unwrap();
        assert!(near(journalist.average, marketer.max(3.0 / 27.0)));
        assert_eq!((journalist.highest, journalist.at_risk), (0.5, 2.0 / 7.0));
        let population = Population { rows: 28, k_map: Some(2), short_groups: 0 };
        assert_eq!(told.population, Some(population));
        // Nobody can be missing in a population.
        let told = figures(&question, &lines([1, 2, 4]), Some(&csv([0, 2, 3])));
        let population = Population { rows: 6, k_map: Some(1), short_groups: 2 };
        assert_eq!(told.population, Some(population));
        let none = figures(&question, &lines([1, 2, 4]), None);
        assert_eq!((none.risks.journalist, none.risks.marketer), (None, 3.0 / 7.0));
    }

    #[test]
    fn values_that_are_not_the_same_are_never_one_group() {
        let groups = |text: &str| figures(&question(&["a", "b"], &[], None), text, None).groups;
        let lines = r#"{"a":"x","b":"yz"}
            {"a":"xy","b":"z"}
            {"a":"","b":"xyz"}
            {"a":null,"b":"xyz"}
            {"a":"null","b":"xyz"}
            {"a":[1],"b":1}
            {"a":"[1]","b":1}"#;
        assert_eq!(groups(lines), 7);
        assert_eq!(
            groups(r#"{"a":1,"b":"\u0078"} {"a":"1","b":"x"}"#.replace("} {", "}\n{").as_str()),
            1
        );
    }

    /// The sample that the literature measures on, against a count of lines by their beginning.
    #[test]
    fn adult() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/adult/adult.csv");
        let text = std::fs::read_to_string(file).unwrap();
        let told = figures(&question(&["sex", "age", "race"], &["occupation"], None), &text, None);
        let mut counts: BTreeMap<Vec<&str>, u64> = BTreeMap::new();
        for line in text.lines().skip(1) {
            *counts.entry(line.split(';').take(3).collect()).or_default() += 1;
        }
        assert_eq!(told.rows, 30_162);
        assert_eq!(told.groups, counts.len() as u64);
        assert_eq!(told.k, counts.values().min().copied());
        assert_eq!(
            told.unique.records,
            counts.values().filter(|count| **count == 1).count() as u64
        );
        assert_eq!((told.groups, told.k, told.unique.records), (528, Some(1), 62));
        assert_eq!(told.sensitive[0].values, 14);
        // Its own population: then a journalist knows no less than a prosecutor.
        let twice = figures(&question(&["race", "sex"], &[], None), &text, Some(&text));
        assert_eq!(twice.risks.journalist, Some(twice.risks.prosecutor));
        assert_eq!((twice.k, twice.groups), (Some(87), 10));
        assert_eq!(twice.population.and_then(|all| all.k_map), twice.k);
    }

    /// Quasi-identifiers, a word, a number, a subject.
    type Made = (Option<u8>, u8, u8, i8, u8);

    fn line((a, b, word, number, subject): &Made) -> String {
        let a = a.map_or("null".to_owned(), |a| a.to_string());
        let b = if *b == 0 { "*".to_owned() } else { b.to_string() };
        format!(
            "{{\"q\":{{\"a\":{a}}},\"b\":\"{b}\",\"w\":\"{word}\",\"n\":{number},\"s\":{subject}}}\n"
        )
    }

    /// A group: who is in it, with which words and numbers. Rows stand for themselves without a subject.
    #[derive(Default)]
    struct Group {
        who: BTreeSet<usize>,
        words: BTreeMap<usize, i64>,
        numbers: BTreeMap<usize, i64>,
    }

    fn brute(made: &[Made], by_subject: bool) -> BTreeMap<(Option<u8>, u8), Group> {
        let mut groups: BTreeMap<_, Group> = BTreeMap::new();
        for (row, (a, b, word, number, subject)) in made.iter().enumerate() {
            if a.is_none() && *b == 0 {
                continue;
            }
            let who = if by_subject { usize::from(*subject) } else { row };
            let group = groups.entry((*a, *b)).or_default();
            group.who.insert(who);
            // The last of each counts.
            group.words.insert(who, i64::from(*word));
            group.numbers.insert(who, i64::from(*number));
        }
        groups
    }

    /// How probable each of `values` is among what was counted.
    fn parts(counted: &[i64], values: &BTreeSet<i64>) -> Vec<f64> {
        let of = |value: &i64| counted.iter().filter(|one| *one == value).count() as f64;
        values.iter().map(|value| of(value) / counted.len() as f64).collect()
    }

    fn brute_t(groups: &[Vec<i64>], distance: Distance) -> f64 {
        let all = groups.concat();
        let values: BTreeSet<i64> = all.iter().copied().collect();
        let whole = parts(&all, &values);
        let of = |group: &Vec<i64>| {
            let part = parts(group, &values);
            let differences: Vec<f64> = part.iter().zip(&whole).map(|(p, q)| p - q).collect();
            match distance {
                Distance::Equal => differences.iter().map(|one| one.abs()).sum::<f64>() / 2.0,
                Distance::Ordered if values.len() < 2 => 0.0,
                Distance::Ordered => {
                    let up_to = |at: usize| differences[..=at].iter().sum::<f64>().abs();
                    (0..values.len()).map(up_to).sum::<f64>() / (values.len() - 1) as f64
                }
            }
        };
        groups.iter().map(of).fold(0.0, f64::max)
    }

    fn brute_entropy_l(groups: &[Vec<i64>]) -> f64 {
        let of = |group: &Vec<i64>| {
            let values = group.iter().copied().collect();
            parts(group, &values).iter().map(|part| -part * part.ln()).sum::<f64>().exp()
        };
        groups.iter().map(of).fold(f64::INFINITY, f64::min)
    }

    proptest! {
        #[test]
        fn figures_are_those_of_counting_by_hand(
            made in prop::collection::vec(
                (prop::option::of(0..3_u8), 0..3_u8, 0..4_u8, -3..6_i8, 0..6_u8), 1..60),
            people in prop::collection::vec((prop::option::of(0..3_u8), 0..3_u8), 1..60),
            by_subject in any::<bool>(),
        ) {
            let groups = brute(&made, by_subject);
            let question = question(&["q.a", "b"], &["w", "n"], by_subject.then_some("s"));
            let text: String = made.iter().map(line).collect();
            let population: String =
                people.iter().map(|(a, b)| line(&(*a, *b, 0, 0, 0))).collect();
            let told = figures(&question, &text, Some(&population));
            let sizes: Vec<u64> = groups.values().map(|group| group.who.len() as u64).collect();
            let records: u64 = sizes.iter().sum();
            prop_assert_eq!((told.groups, told.records), (sizes.len() as u64, records));
            prop_assert_eq!(told.k, sizes.iter().min().copied());
            let below: u64 = sizes.iter().filter(|size| **size < 3).sum();
            prop_assert_eq!(told.below_threshold.records, below);
            prop_assert_eq!(told.histogram.iter().map(|bin| bin.groups).sum::<u64>(), told.groups);
            prop_assert_eq!(told.histogram.iter().map(|bin| bin.records).sum::<u64>(), records);
            if groups.is_empty() {
                return Ok(());
            }
            let mut sorted = sizes.clone();
            sorted.sort_unstable();
            let middle = (sorted[(sorted.len() - 1) / 2] + sorted[sorted.len() / 2]) as f64 / 2.0;
            prop_assert_eq!(told.median_group, middle);
            let like = |key: &(Option<u8>, u8)| people.iter().filter(|one| *one == key).count() as u64;
            let like: Vec<u64> = groups.keys().zip(&sizes).map(|(key, size)| like(key).max(*size)).collect();
            let marketer = sizes.iter().zip(&like).map(|(f, all)| *f as f64 / *all as f64).sum::<f64>() / records as f64;
            prop_assert!(near(told.risks.marketer, marketer));
            let journalist = told.risks.journalist.unwrap();
            prop_assert!(near(journalist.highest, 1.0 / *like.iter().min().unwrap() as f64));
            prop_assert!(near(journalist.average, marketer.max(sizes.len() as f64 / like.iter().sum::<u64>() as f64)));
            let values = |of: &dyn Fn(&Group) -> &BTreeMap<usize, i64>| -> Vec<Vec<i64>> {
                groups.values().map(|group| of(group).values().copied().collect()).collect()
            };
            let words = (values(&|group| &group.words), Distance::Equal);
            let numbers = (values(&|group| &group.numbers), Distance::Ordered);
            for ((groups, distance), field) in [words, numbers].iter().zip(&told.sensitive) {
                let distinct = groups.iter().map(|group| group.iter().collect::<BTreeSet<_>>().len() as u64);
                prop_assert_eq!(field.distinct_l, distinct.min());
                prop_assert!(near(field.entropy_l.unwrap(), brute_entropy_l(groups)));
                prop_assert_eq!(field.distance, *distance);
                prop_assert!(near(field.t.unwrap(), brute_t(groups, *distance)));
            }
        }
    }

    #[test]
    fn shares_are_never_rounded_to_none_or_all() {
        let shown = [0.0, 0.0001, 0.014, 0.99996, 1.0].map(percent);
        assert_eq!(shown, ["0.0 %", "<0.1 %", "1.4 %", ">99.9 %", "100.0 %"]);
    }
}
