//! Text as people see it: grapheme clusters (Unicode Standard Annex 29), so that a mask never splits a
//! letter from its accent.

use unicode_segmentation::{Graphemes, UnicodeSegmentation};

/// Every byte is a character: ASCII, but for CR LF, which is one.
fn is_bytes(text: &str) -> bool {
    text.is_ascii() && !text.contains('\r')
}

/// The characters of a text, one after another.
pub enum Clusters<'t> {
    Bytes(&'t str),
    Graphemes(Graphemes<'t>),
}

pub fn clusters(text: &str) -> Clusters<'_> {
    match is_bytes(text) {
        true => Clusters::Bytes(text),
        false => Clusters::Graphemes(text.graphemes(true)),
    }
}

impl<'t> Iterator for Clusters<'t> {
    type Item = &'t str;

    #[inline]
    fn next(&mut self) -> Option<&'t str> {
        match self {
            Clusters::Bytes(rest) => {
                let (first, behind) = rest.split_at_checked(1)?;
                *rest = behind;
                Some(first)
            }
            Clusters::Graphemes(rest) => rest.next(),
        }
    }
}

/// How many characters a person counts.
pub fn length(text: &str) -> usize {
    if is_bytes(text) { text.len() } else { text.graphemes(true).count() }
}

/// The byte offset behind the first `count` characters; the end where there are fewer.
pub fn offset(text: &str, count: usize) -> usize {
    if is_bytes(text) {
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

    #[test]
    fn clusters_are_what_is_counted() {
        for text in ["", "ab c", "a\r\nb", "e\u{301}a", "张伟", "👨‍👩‍👧x"] {
            assert!(clusters(text).eq(text.graphemes(true)));
            assert_eq!(clusters(text).count(), length(text));
        }
    }
}
