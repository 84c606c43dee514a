//! Text as people see it: grapheme clusters (Unicode Standard Annex 29), so that a mask never splits a
//! letter from its accent.

use unicode_segmentation::UnicodeSegmentation;

/// How many characters a person counts.
pub fn length(text: &str) -> usize {
    if text.is_ascii() && !text.contains('\r') { text.len() } else { text.graphemes(true).count() }
}

/// The byte offset behind the first `count` characters; the end where there are fewer.
pub fn offset(text: &str, count: usize) -> usize {
    if text.is_ascii() && !text.contains('\r') {
        return count.min(text.len());
    }
    text.grapheme_indices(true).nth(count).map_or(text.len(), |(at, _)| at)
}

/// The text cut behind its first `count` characters.
pub fn split(text: &str, count: usize) -> (&str, &str) {
    text.split_at(offset(text, count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn combining_marks_stay_with_their_letter() {
        assert_eq!(length("e\u{301}a"), 2);
        assert_eq!(split("e\u{301}a", 1), ("e\u{301}", "a"));
        assert_eq!(length("张伟"), 2);
        assert_eq!(split("👨‍👩‍👧x", 1).1, "x");
        assert_eq!(split("ab", 9), ("ab", ""));
    }
}
