//! Names of people: the beginning of each word.

use super::{Cover, Masked, Shown};
use crate::operator::text::Text;

/// Shows the first characters of each word that is longer than those. A name written without spaces is one
/// word.
pub(super) struct Name {
    pub(super) first: usize,
}

impl Name {
    /// Masks one word after another, each as its beginning, whether there is more of it, and its length.
    fn words<'w>(
        words: impl Iterator<Item = (&'w [u8], bool, usize)>,
        cover: &Cover,
        out: &mut Masked<'_>,
    ) -> Option<()> {
        let mut first = true;
        for (beginning, more, length) in words {
            if !std::mem::take(&mut first) {
                out.show(b" ");
            }
            if more {
                out.show(beginning);
            }
            cover.hide(length, out);
        }
        (!first).then_some(())
    }
}

impl Shown for Name {
    fn mask(&self, whole: Text<'_>, cover: &Cover, out: &mut Masked<'_>) -> Option<()> {
        match whole.bytes() {
            Some(bytes) => {
                // What `char::is_whitespace` holds for white space in ASCII.
                let words = bytes.split(|byte| matches!(byte, b' ' | b'\t'..=b'\r'));
                let words = words.filter(|word| !word.is_empty());
                let parts = words.map(|word| match word.split_at_checked(self.first) {
                    Some((beginning, rest)) => (beginning, !rest.is_empty(), word.len()),
                    None => (word, false, word.len()),
                });
                Self::words(parts, cover, out)
            }
            None => {
                let parts = whole.whole.split_whitespace().map(|word| {
                    let word = whole.part(word);
                    let (beginning, rest) = word.split(self.first);
                    (beginning.whole.as_bytes(), !rest.whole.is_empty(), word.length())
                });
                Self::words(parts, cover, out)
            }
        }
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
