//! Words that many people have; the others single somebody out.

use marked_yaml::types::MarkedScalarNode;
use rustc_hash::FxHashSet;

use crate::hierarchy::{Lines, Mistake};
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
    let words = arguments.sound(file, common(&text, least))?;
    Some(Common { words, other })
}

/// The words of a file that at least so many have.
fn common(text: &str, least: u64) -> Result<FxHashSet<String>, Mistake> {
    let lines = Lines::new(text);
    let mut words = FxHashSet::default();
    lines.each(|start, record| {
        let count = record.get(1).and_then(|count| count.trim().parse::<u64>().ok());
        match (record.get(0), count) {
            (Some(word), Some(count)) if record.len() == 2 => {
                if count >= least {
                    words.insert(word.to_owned());
                }
                Ok(())
            }
            _ => {
                let expected = "a word and how many have it: `nurse;1200`";
                Err(lines.mistake(start, 0, "another line", expected))
            }
        }
    })?;
    Ok(words)
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
                (r#""a; \"b\"""#, r#"a; "b""#),
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
        assert_wrong("generalize: { common: words.csv }", "in words.csv:1:1 another line");
        assert_wrong("generalize: { common: words.csv }", "a word and how many have it");
        assert_wrong("generalize: { common: counts.csv, least: 1 }", "at least 2");
    }

    #[test]
    fn counts_are_read_as_hierarchies_are() {
        let words = |text: &str| {
            let words = common(text, 50).map_err(|mistake| mistake.to_string())?;
            Ok::<_, String>(words.into_iter().collect::<std::collections::BTreeSet<_>>())
        };
        let both = ["a, b", "c"].map(str::to_owned).into();
        assert_eq!(words("\u{feff}\"a, b\",50\r\n\r\nc, 51\r\nd,49"), Ok(both));
        assert_eq!(words(""), Ok(Default::default()));
        for line in ["canary", "canary;", "canary;x", "canary;5;5", "\"canary;5"] {
            let told = words(&format!("a;50\n\n{line}\n")).unwrap_err();
            assert!(told.starts_with("line 3, column 1: found another line"), "{told}");
            assert!(!told.contains("canary"), "{told}");
        }
    }
}
