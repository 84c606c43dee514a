//! Names of people: the beginning of each word.

use super::{Cover, Shown};
use crate::operator::text;

/// Shows the first characters of each word that is longer than those. A name written without spaces is one
/// word.
pub(super) struct Name {
    pub(super) first: usize,
}

impl Shown for Name {
    fn mask(&self, whole: &str, cover: &Cover, out: &mut String) -> Option<()> {
        let mut words = 0;
        for word in whole.split_whitespace() {
            if words > 0 {
                out.push(' ');
            }
            words += 1;
            let (beginning, rest) = text::split(word, self.first);
            if !rest.is_empty() {
                out.push_str(beginning);
            }
            cover.hide(text::length(word), out);
        }
        (words > 0).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::assert_masks;

    #[test]
    fn each_word_shows_its_first_character() {
        assert_masks(
            "mask: name",
            &[
                ("Anne Marie", "A** M**"),
                ("Bob", "B**"),
                ("  Anne \t Marie ", "A** M**"),
                ("张伟丽", "张**"),
                ("محمد علي", "م** ع**"),
                ("E\u{301}mile", "E\u{301}**"),
            ],
        );
    }

    #[test]
    fn a_short_word_is_hidden_whole() {
        assert_masks(
            "mask: name",
            &[
                ("J Smith", "** S**"),
                ("J", "**"),
                ("张", "**"),
                ("e\u{301}", "**"),
                ("", "**"),
                (" \n ", "**"),
            ],
        );
        assert_masks("mask: { kind: name, keep_first: 3 }", &[("Bob Smith", "** Smi**")]);
    }

    #[test]
    fn parameters_adjust_it() {
        let policy = "mask: { kind: name, keep_first: 0, with: x, length: 4 }";
        assert_masks(policy, &[("Anne Marie", "xxxx xxxx"), ("", "xxxx")]);
    }
}
