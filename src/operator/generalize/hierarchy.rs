//! Words as one of ever wider groups.

use marked_yaml::types::MarkedScalarNode;

use crate::hierarchy::Hierarchy;
use crate::json::{Value, write_string};
use crate::operator::{Arguments, Operator, Refusal, Scratch, characters};

pub(super) struct Group {
    hierarchy: Hierarchy,
    level: usize,
    other: String,
}

/// Reads `hierarchy`: a file of words and their groups.
pub(super) fn build(arguments: &mut Arguments<'_>, file: &MarkedScalarNode) -> Option<Group> {
    let other = arguments.text("other").unwrap_or("*").to_owned();
    let hierarchy = arguments.hierarchy(file)?;
    let most = hierarchy.levels().saturating_sub(1) as u64;
    let level = match arguments.scalar("level") {
        None => 1,
        Some(_) => arguments.number("level", 1..=most)? as usize,
    };
    Some(Group { hierarchy, level, other })
}

impl Operator for Group {
    fn apply(
        &self,
        value: &Value<'_>,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let word = characters(value, &mut scratch.text)?;
        write_string(out, self.hierarchy.generalize(word, self.level).unwrap_or(&self.other));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{assert_gives, assert_refuses, assert_wrong};
    use super::*;

    #[test]
    fn words_become_wider_groups() {
        let policy = "generalize: { hierarchy: words.csv }";
        assert_gives(
            policy,
            &[
                (r#""nurse""#, "health"),
                (r#""n\u0075rse""#, "health"),
                (r#""welder""#, "industry"),
                (r#""Nurse""#, "*"),
                (r#""health""#, "*"),
                (r#""""#, "*"),
                ("7", "*"),
            ],
        );
        assert_gives("generalize: { hierarchy: words.csv, level: 2 }", &[(r#""nurse""#, "*")]);
        assert_gives(
            "generalize: { hierarchy: words.csv, other: unknown }",
            &[(r#""pilot""#, "unknown")],
        );
        assert_refuses(policy, "true", Refusal::WrongType);
    }

    #[test]
    fn mistakes_are_reported() {
        assert_wrong("generalize: { hierarchy: words.csv, level: 3 }", "from 1 to 2");
        assert_wrong("generalize: { hierarchy: words.csv, level: 0 }", "from 1 to 2");
        assert_wrong("generalize: { hierarchy: none.csv }", "a readable CSV file");
        assert_wrong("generalize: { hierarchy: ragged.csv }", "in ragged.csv:2:");
        assert_wrong("generalize: { hierarchy: [a] }", "one value for `hierarchy`");
        for outside in ["/etc/passwd", "../words.csv", "a/../../words.csv"] {
            let policy = format!("generalize: {{ hierarchy: {outside} }}");
            assert_wrong(&policy, "a file beside the policy");
        }
        assert_wrong("generalize: { map: { a: b }, level: 1 }", "it goes with `hierarchy`");
    }
}
