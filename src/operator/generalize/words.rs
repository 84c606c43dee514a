//! Words as the group that the policy puts them into.

use marked_yaml::Node;
use rustc_hash::FxHashMap;

use crate::json::{Value, write_string};
use crate::operator::{Arguments, Operator, Refusal, Scratch, characters, shape};

/// Groups of words, each as a JSON string.
struct Words {
    groups: FxHashMap<String, Vec<u8>>,
    other: Vec<u8>,
}

/// Reads `map`: words and their groups.
pub(super) fn build(
    arguments: &mut Arguments<'_>,
    node: &Node,
    other: &str,
) -> Option<Box<dyn Operator>> {
    let Some(map) = node.as_mapping().filter(|map| !map.is_empty()) else {
        let expected = "words and their groups: `map: { Paris: France }`";
        arguments.problem(node.span(), shape(node), expected);
        return None;
    };
    let mut groups = FxHashMap::default();
    for (word, group) in map.iter() {
        match group.as_scalar() {
            Some(group) => {
                groups.insert(word.as_str().to_owned(), quoted(group.as_str()));
            }
            None => {
                let expected = format!("one text for `{}`", word.as_str());
                arguments.problem(group.span(), shape(group), expected);
            }
        }
    }
    Some(Box::new(Words { groups, other: quoted(other) }))
}

fn quoted(text: &str) -> Vec<u8> {
    let mut json = Vec::new();
    write_string(&mut json, text);
    json
}

impl Operator for Words {
    fn apply(
        &self,
        value: &Value<'_>,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let word = characters(value, &mut scratch.text)?;
        out.extend_from_slice(self.groups.get(word).unwrap_or(&self.other));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{assert_gives, assert_refuses, assert_wrong};
    use super::*;

    #[test]
    fn words_become_groups() {
        let policy = "generalize: { map: { Paris: France, 北京: 中国, الرياض: السعودية, 7: seven, '': none } }";
        assert_gives(
            policy,
            &[
                (r#""Paris""#, "France"),
                (r#""P\u0061ris""#, "France"),
                (r#""北京""#, "中国"),
                (r#""الرياض""#, "السعودية"),
                ("7", "seven"),
                (r#""7""#, "seven"),
                (r#""""#, "none"),
                (r#""paris""#, "other"),
                (r#""Paris ""#, "other"),
                ("99999999999999999999", "other"),
            ],
        );
        let policy = r#"generalize: { map: { a: "say \"b\"" }, other: '' }"#;
        assert_gives(policy, &[(r#""a""#, "say \"b\""), (r#""x""#, "")]);
        assert_refuses(policy, "true", Refusal::WrongType);
    }

    #[test]
    fn mistakes_are_reported() {
        assert_wrong("generalize: { map: {} }", "words and their groups");
        assert_wrong("generalize: { map: Paris }", "words and their groups");
        assert_wrong("generalize: { map: { Paris: [France] } }", "one text for `Paris`");
        assert_wrong("generalize: { map: { a: b }, other: [c] }", "one value for `other`");
    }
}
