//! Text as people see it: grapheme clusters (Unicode Standard Annex 29), so that a mask never splits a
//! letter from its accent.

use unicode_segmentation::{Graphemes, UnicodeSegmentation};

/// A text whose characters can be counted.
#[derive(Clone, Copy)]
pub struct Text<'t> {
    pub whole: &'t str,
    /// Every byte is a character: ASCII, but for CR LF, which is one.
    bytes: bool,
}

impl<'t> Text<'t> {
    pub fn new(whole: &'t str) -> Self {
        let other = |byte: u8| u8::from(!byte.is_ascii() || byte == b'\r');
        Text { whole, bytes: whole.bytes().fold(0, |found, byte| found | other(byte)) == 0 }
    }

    /// What stands in a JSON string, where it is ASCII without escapes.
    #[inline]
    pub fn plain(raw: &'t str) -> Option<Self> {
        let other = |byte: u8| u8::from(!byte.is_ascii() || byte == b'\\');
        let plain = raw.bytes().fold(0, |found, byte| found | other(byte)) == 0;
        plain.then_some(Text { whole: raw, bytes: true })
    }

    /// A part of this text.
    pub fn part(&self, whole: &'t str) -> Text<'t> {
        Text { whole, bytes: self.bytes }
    }

    /// The characters, where each is a byte.
    pub fn bytes(&self) -> Option<&'t [u8]> {
        self.bytes.then_some(self.whole.as_bytes())
    }

    /// The characters, where they may be of more than a byte.
    pub fn clusters(&self) -> Graphemes<'t> {
        self.whole.graphemes(true)
    }

    /// How many characters a person counts.
    pub fn length(&self) -> usize {
        if self.bytes { self.whole.len() } else { self.clusters().count() }
    }

    /// The text cut behind its first `count` characters.
    pub fn split(&self, count: usize) -> (Text<'t>, Text<'t>) {
        let all = || self.whole.len();
        let offset = match self.bytes {
            true => count.min(all()),
            false => self.whole.grapheme_indices(true).nth(count).map_or_else(all, |(at, _)| at),
        };
        let (before, behind) = self.whole.split_at(offset);
        (self.part(before), self.part(behind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn length(text: &str) -> usize {
        Text::new(text).length()
    }

    fn split(text: &str, count: usize) -> (&str, &str) {
        let (before, behind) = Text::new(text).split(count);
        (before.whole, behind.whole)
    }

    #[test]
    fn combining_marks_stay_with_their_letter() {
        assert_eq!(length("e\u{301}a"), 2);
        assert_eq!(split("e\u{301}a", 1), ("e\u{301}", "a"));
        assert_eq!(length("张伟"), 2);
        assert_eq!(split("👨‍👩‍👧x", 1).1, "x");
        assert_eq!(split("ab", 9), ("ab", ""));
    }

    #[test]
    fn bytes_are_what_is_counted() {
        for text in ["", "ab c", "a\r\nb", "a\nb", "e\u{301}a", "张伟", "👨‍👩‍👧x"] {
            assert_eq!(length(text), text.graphemes(true).count());
            if let Some(bytes) = Text::new(text).bytes() {
                assert!(
                    bytes.iter().map(|byte| vec![*byte]).eq(text.graphemes(true).map(Vec::from))
                );
            }
        }
    }
}
