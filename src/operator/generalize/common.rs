//! Words that many people have; the others single somebody out.

use marked_yaml::types::MarkedScalarNode;
use rustc_hash::FxHashSet;

use crate::json::{Value, write_string};
use crate::operator::{Arguments, Operator, Refusal, Scratch, characters};

pub(super) struct Common {
    words: FxHashSet<String>,
    other: String,
}

/// Reads `common`: a file of words and how many people have each.
pub(super) fn build(arguments: &mut Arguments<'_>, file: &MarkedScalarNode) -> Option<Common> {
    let least = arguments.number("least", 2..=u64::MAX).unwrap_or(50);
    let other = arguments.text("other").unwrap_or("other").to_owned();
    let text = arguments.file(file)?;
    let mut words = FxHashSet::default();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim_end();
        let counted = line.rsplit_once([';', ',']);
        let counted =
            counted.and_then(|(word, count)| Some((word, count.trim().parse::<u64>().ok()?)));
        match counted {
            Some((word, count)) if count >= least => {
                words.insert(word.to_owned());
            }
            Some(_) => {}
            None if line.is_empty() => {}
            None => {
                let found = format!("line {} of {}", at + 1, file.as_str());
                arguments.problem(file.span(), found, "a word and how many have it: `nurse;1200`");
                return None;
            }
        }
    }
    Some(Common { words, other })
}

impl Operator for Common {
    fn apply(
        &self,
        value: &Value<'_>,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let word = characters(value, &mut scratch.text)?;
        let common = self.words.contains(word);
        write_string(out, if common { word } else { &self.other });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{assert_gives, assert_refuses, assert_wrong};
    use super::*;

    #[test]
    fn rare_words_are_not_told() {
        let policy = "generalize: { common: counts.csv }";
        assert_gives(
            policy,
            &[
                (r#""nurse""#, "nurse"),
                (r#""n\u0075rse""#, "nurse"),
                (r#""pope""#, "other"),
                (r#""a, b""#, "a, b"),
                ("7", "7"),
                (r#""never seen""#, "other"),
                (r#""""#, "other"),
            ],
        );
        assert_gives(
            "generalize: { common: counts.csv, least: 2, other: x }",
            &[(r#""monk""#, "monk")],
        );
        assert_refuses(policy, "true", Refusal::WrongType);
        assert_wrong("generalize: { common: none.csv }", "a readable CSV file");
        assert_wrong("generalize: { common: words.csv }", "a word and how many have it");
        assert_wrong("generalize: { common: counts.csv, least: 1 }", "at least 2");
    }
}
