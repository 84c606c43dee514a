//! Masks by place alone: so many characters from the beginning, so many from the end.

use super::{Cover, Masked, Shown};
use crate::operator::text::Text;

/// Shows the first and the last characters, where something is left to hide between them.
pub(super) struct Keep {
    pub(super) first: usize,
    pub(super) last: usize,
}

impl Shown for Keep {
    fn mask(&self, whole: Text<'_>, cover: &Cover, out: &mut Masked<'_>) -> Option<()> {
        let hidden = between(whole, self.first, self.last)?;
        let (beginning, rest) = whole.split(self.first);
        let (_, end) = rest.split(hidden);
        out.show(beginning.whole);
        cover.hide(hidden, out);
        out.show(end.whole);
        Some(())
    }
}

/// Hides the first and the last characters, and shows what is left between them.
pub(super) struct Hide {
    pub(super) first: usize,
    pub(super) last: usize,
}

impl Shown for Hide {
    fn mask(&self, whole: Text<'_>, cover: &Cover, out: &mut Masked<'_>) -> Option<()> {
        let shown = between(whole, self.first, self.last)?;
        let (_, rest) = whole.split(self.first);
        if self.first > 0 {
            cover.hide(self.first, out);
        }
        out.show(rest.split(shown).0.whole);
        if self.last > 0 {
            cover.hide(self.last, out);
        }
        Some(())
    }
}

/// How many characters lie between the `first` and the `last`; none where there are none.
fn between(whole: Text<'_>, first: usize, last: usize) -> Option<usize> {
    whole.length().checked_sub(first.saturating_add(last)).filter(|count| *count > 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use unicode_segmentation::UnicodeSegmentation;

    use super::super::tests::{apply, assert_masks, texts};

    #[test]
    fn places_are_kept() {
        assert_masks(
            "mask: { keep_last: 4, with: X, length: 5 }",
            &[("123-45-6789", "XXXXX6789"), ("6789", "XXXXX"), ("", "XXXXX")],
        );
        assert_masks(
            "mask: { keep_first: 4, with: X, length: 5 }",
            &[("123-45-6789", "123-XXXXX")],
        );
        assert_masks(
            "mask: { keep_first: 1, keep_last: 1 }",
            &[
                ("张伟丽", "张*丽"),
                ("张伟", "**"),
                ("مريم", "م**م"),
                ("e\u{301}ae\u{301}", "e\u{301}*e\u{301}"),
                ("e\u{301}a", "**"),
                ("👨‍👩‍👧x🇫🇷", "👨‍👩‍👧*🇫🇷"),
                ("a", "*"),
                ("", ""),
                ("\"a\n\\", "\"**\\"),
            ],
        );
        assert_masks("mask: { keep_first: 0 }", &[("Bob", "***"), ("e\u{301}", "*")]);
        assert_masks("mask: { keep_last: 1, with: '<>' }", &[("Bob", "<><>b")]);
    }

    #[test]
    fn places_are_hidden() {
        assert_masks("mask: { hide_last: 4 }", &[("1234567890", "123456****"), ("12", "**")]);
        assert_masks("mask: { hide_first: 12 }", &[("1234567890", "**********"), ("", "")]);
        assert_masks("mask: { hide_first: 2 }", &[("张伟丽", "**丽")]);
        assert_masks("mask: { hide_first: 2, hide_last: 1 }", &[("abcd", "**c*"), ("abc", "***")]);
        assert_masks("mask: { hide_first: 2, length: 5 }", &[("abcd", "*****cd"), ("a", "*****")]);
    }

    proptest! {
        #[test]
        fn only_what_is_kept_is_shown(text in texts(), first in 0_usize..5, last in 0_usize..5) {
            let policy = format!("mask: {{ keep_first: {first}, keep_last: {last} }}");
            let output = apply(&policy, &serde_json::to_string(&text).unwrap());
            let masked: String = serde_json::from_str(&output).unwrap();
            let all: Vec<&str> = text.graphemes(true).collect();
            let expected = if all.len() <= first + last {
                "*".repeat(all.len())
            } else {
                let (rest, end) = all.split_at(all.len() - last);
                let (beginning, hidden) = rest.split_at(first);
                format!("{}{}{}", beginning.concat(), "*".repeat(hidden.len()), end.concat())
            };
            prop_assert_eq!(masked, expected);
        }
    }
}
