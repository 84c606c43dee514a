//! A validating scanner over JSON text: the single pass of the rewrite is built of its steps.
//!
//! It accepts exactly RFC 8259 with paired surrogates and a bounded depth, and copies nothing.

use super::block::Block;
use super::probe::Probe;
use super::value::{Kind, Value};

/// What a scanner refuses beyond the grammar.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// How many arrays and objects may be open at once.
    pub depth: u32,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds { depth: 128 }
    }
}

/// Where and how a text stopped being JSON. It holds no part of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SyntaxError {
    #[error("not valid JSON at byte {0}")]
    Invalid(usize),
    #[error("nested deeper than the limit at byte {0}")]
    TooDeep(usize),
}

type Result<T> = std::result::Result<T, SyntaxError>;

/// A position in a text and the steps over it. Every step first passes white space.
pub struct Scanner<'a> {
    text: &'a str,
    at: usize,
    /// The part of the text that was classified last: where strings and digits end is read from there.
    block: Block,
    bounds: Bounds,
}

impl<'a> Scanner<'a> {
    pub fn new(text: &'a str, bounds: Bounds) -> Self {
        Scanner { text, at: 0, block: Block::of(text.as_bytes(), 0), bounds }
    }

    #[inline(always)]
    fn bytes(&self) -> &'a [u8] {
        self.text.as_bytes()
    }

    /// The byte offset of what comes next.
    #[inline]
    pub fn at(&self) -> usize {
        self.at
    }

    /// The text between two offsets that lie on character borders; every structural offset does.
    #[inline]
    pub fn slice(&self, from: usize, to: usize) -> &'a str {
        self.text.get(from..to).unwrap_or_default()
    }

    /// The bytes between two offsets, for those who copy them.
    #[inline]
    pub fn bytes_between(&self, from: usize, to: usize) -> &'a [u8] {
        self.bytes().get(from..to).unwrap_or_default()
    }

    /// Goes on at `at`, an offset that the caller knows to be after a complete value.
    #[inline]
    pub fn jump(&mut self, at: usize) {
        self.at = at;
    }

    #[inline]
    fn invalid<T>(&self) -> Result<T> {
        Err(SyntaxError::Invalid(self.at))
    }

    #[inline]
    pub fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// What has not been passed yet.
    #[inline]
    pub fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    #[inline(always)]
    fn current(&self) -> u8 {
        self.byte(self.at)
    }

    #[inline(always)]
    pub fn byte(&self, at: usize) -> u8 {
        // 0 is no JSON token, so the end reads as something invalid.
        self.bytes().get(at).copied().unwrap_or(0)
    }

    /// The next significant byte, not consumed; 0 at the end.
    #[inline]
    pub fn peek(&mut self) -> u8 {
        let mut byte = self.current();
        while matches!(byte, b' ' | b'\n' | b'\t' | b'\r') {
            self.at += 1;
            byte = self.current();
        }
        byte
    }

    /// Consumes `expected` or fails.
    #[inline]
    pub fn expect(&mut self, expected: u8) -> Result<()> {
        if self.peek() == expected {
            self.at += 1;
            Ok(())
        } else {
            self.invalid()
        }
    }

    /// Consumes `wanted` if it comes next.
    #[inline]
    pub fn accept(&mut self, wanted: u8) -> bool {
        let found = self.peek() == wanted;
        self.at += usize::from(found);
        found
    }

    /// Consumes a member's beginning if exactly that comes next.
    #[inline(always)]
    pub fn accept_probe(&mut self, probe: &Probe) -> bool {
        let found = probe.begins(self.bytes().get(self.at..).unwrap_or_default());
        self.at += if found { probe.length() } else { 0 };
        found
    }

    /// Where a member ends that is as expected: `probe` and a scalar, without white space. It is not passed.
    #[inline(always)]
    pub fn usual_end(&mut self, at: usize, probe: &Probe) -> Option<usize> {
        if !probe.begins(self.bytes().get(at..)?) {
            return None;
        }
        let at = at + probe.length();
        match self.byte(at) {
            b'"' => {
                let end = self.plain_end(at + 1);
                if self.byte(end) == b'"' { Some(end + 1) } else { self.escaped_end(end) }
            }
            b'-' | b'0'..=b'9' => self.number_end(at).ok(),
            b't' => self.literal_end(at, b"true"),
            b'f' => self.literal_end(at, b"false"),
            b'n' => self.literal_end(at, b"null"),
            _ => None,
        }
    }

    /// The part of the text that `at` is in, classified, and the place in it.
    #[inline(always)]
    fn block(&mut self, at: usize) -> (&Block, usize) {
        if !self.block.holds(at) {
            self.block.load(self.text.as_bytes(), at);
        }
        (&self.block, at % Block::LENGTH)
    }

    /// Behind what stands in a string as it is.
    #[inline(always)]
    fn plain_end(&mut self, mut at: usize) -> usize {
        loop {
            let (block, inside) = self.block(at);
            let length = block.plain(inside);
            at += length;
            if inside + length < Block::LENGTH {
                return at;
            }
        }
    }

    /// Behind the digits; an error where there are none.
    #[inline(always)]
    fn digits_end(&mut self, start: usize) -> std::result::Result<usize, usize> {
        let mut at = start;
        loop {
            let (block, inside) = self.block(at);
            let length = block.digits(inside);
            at += length;
            if inside + length < Block::LENGTH {
                return if at == start { Err(at) } else { Ok(at) };
            }
        }
    }

    /// Behind the number, or where it is none.
    #[inline(always)]
    fn number_end(&mut self, mut at: usize) -> std::result::Result<usize, usize> {
        at += usize::from(self.byte(at) == b'-');
        at = if self.byte(at) == b'0' { at + 1 } else { self.digits_end(at)? };
        if self.byte(at) == b'.' {
            at = self.digits_end(at + 1)?;
        }
        if matches!(self.byte(at), b'e' | b'E') {
            at += 1;
            at += usize::from(matches!(self.byte(at), b'+' | b'-'));
            at = self.digits_end(at)?;
        }
        Ok(at)
    }

    /// The end of a string that has an escape at `at`.
    #[cold]
    fn escaped_end(&mut self, at: usize) -> Option<usize> {
        let back = std::mem::replace(&mut self.at, at);
        let end = self.string_tail().map(|_| self.at);
        self.at = back;
        end.ok()
    }

    #[inline(always)]
    fn literal_end(&self, at: usize, word: &[u8]) -> Option<usize> {
        let end = at + word.len();
        (self.bytes().get(at..end)? == word).then_some(end)
    }

    /// Only white space may be left.
    pub fn end(&mut self) -> Result<()> {
        self.peek();
        if self.at == self.bytes().len() { Ok(()) } else { self.invalid() }
    }

    /// A member's name: the raw text between its quotes, and whether it has escapes.
    #[inline]
    pub fn name(&mut self) -> Result<(&'a str, bool)> {
        self.expect(b'"')?;
        let start = self.at;
        let escaped = self.string_tail()?;
        Ok((self.slice(start, self.at - 1), escaped))
    }

    /// The kind of the value that comes next, judged by its first byte.
    #[inline]
    pub fn kind(&mut self) -> Result<Kind> {
        self.peek();
        self.kind_at(self.at)
    }

    /// The kind of the value that begins at `at`.
    #[inline]
    pub fn kind_at(&self, at: usize) -> Result<Kind> {
        Ok(match self.byte(at) {
            b'"' => Kind::String,
            b'{' => Kind::Object,
            b'[' => Kind::Array,
            b'-' | b'0'..=b'9' => Kind::Number,
            b't' | b'f' => Kind::Boolean,
            b'n' => Kind::Null,
            _ => return self.invalid(),
        })
    }

    /// Passes one whole value, validating it, and gives its span.
    #[inline]
    pub fn value(&mut self) -> Result<Value<'a>> {
        self.value_within(0)
    }

    /// As [`Scanner::value`], inside `depth` containers already open.
    #[inline]
    pub fn value_within(&mut self, depth: u32) -> Result<Value<'a>> {
        let kind = self.kind()?;
        let start = self.at;
        self.pass(kind, depth)?;
        Ok(Value::scanned(kind, self.slice(start, self.at)))
    }

    /// Passes the value of the kind just peeked at.
    #[inline]
    pub fn pass(&mut self, kind: Kind, depth: u32) -> Result<()> {
        match kind {
            Kind::String => {
                self.at += 1;
                self.string_tail().map(drop)
            }
            Kind::Number => self.number(),
            Kind::Boolean if self.current() == b't' => self.literal(b"true"),
            Kind::Boolean => self.literal(b"false"),
            Kind::Null => self.literal(b"null"),
            Kind::Object | Kind::Array => self.container(depth),
        }
    }

    fn container(&mut self, depth: u32) -> Result<()> {
        if depth >= self.bounds.depth {
            return Err(SyntaxError::TooDeep(self.at));
        }
        let object = self.current() == b'{';
        let close = if object { b'}' } else { b']' };
        self.at += 1;
        if self.accept(close) {
            return Ok(());
        }
        loop {
            if object {
                self.name()?;
                self.expect(b':')?;
            }
            let kind = self.kind()?;
            self.pass(kind, depth + 1)?;
            if self.accept(close) {
                return Ok(());
            }
            self.expect(b',')?;
        }
    }

    #[inline]
    fn literal(&mut self, word: &[u8]) -> Result<()> {
        match self.literal_end(self.at, word) {
            Some(end) => {
                self.at = end;
                Ok(())
            }
            None => self.invalid(),
        }
    }

    #[inline]
    fn number(&mut self) -> Result<()> {
        let end = self.number_end(self.at);
        self.at = end.unwrap_or_else(|at| at);
        end.map(drop).map_err(SyntaxError::Invalid)
    }

    /// From behind the opening quote to behind the closing one; true where there were escapes.
    #[inline]
    fn string_tail(&mut self) -> Result<bool> {
        let mut escaped = false;
        loop {
            self.at = self.plain_end(self.at);
            match self.current() {
                b'"' => {
                    self.at += 1;
                    return Ok(escaped);
                }
                b'\\' => {
                    escaped = true;
                    self.escape()?;
                }
                _ => return self.invalid(),
            }
        }
    }

    fn escape(&mut self) -> Result<()> {
        self.at += 1;
        match self.current() {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {
                self.at += 1;
                Ok(())
            }
            b'u' => {
                self.at += 1;
                match self.hex4()? {
                    0xD800..=0xDBFF => {
                        self.literal(b"\\u")?;
                        match self.hex4()? {
                            0xDC00..=0xDFFF => Ok(()),
                            _ => self.invalid(),
                        }
                    }
                    0xDC00..=0xDFFF => self.invalid(),
                    _ => Ok(()),
                }
            }
            _ => self.invalid(),
        }
    }

    fn hex4(&mut self) -> Result<u32> {
        let digits = self.bytes().get(self.at..self.at + 4).unwrap_or_default();
        match hex(digits) {
            Some(code) => {
                self.at += 4;
                Ok(code)
            }
            None => self.invalid(),
        }
    }
}

fn hex(digits: &[u8]) -> Option<u32> {
    if digits.len() != 4 {
        return None;
    }
    digits.iter().try_fold(0, |code, &digit| Some(code << 4 | char::from(digit).to_digit(16)?))
}

/// How many bytes come before the first quote, backslash or control character.
///
/// Eight bytes at a time, by the borrow trick of "Bit Twiddling Hacks" (S. E. Anderson, "Determine if
/// a word has a byte less than n"): a set high bit marks a hit; only hits above the first can be false.
#[inline]
pub(super) fn plain_length(bytes: &[u8]) -> usize {
    const LOW: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let mut length = 0;
    let (words, _) = bytes.as_chunks::<8>();
    for word in words {
        let word = u64::from_le_bytes(*word);
        let quote = (word ^ (LOW * b'"' as u64)).wrapping_sub(LOW);
        let backslash = (word ^ (LOW * b'\\' as u64)).wrapping_sub(LOW);
        let control = word.wrapping_sub(LOW * 0x20);
        // None of those has its high bit set, so what has is no hit.
        let hit = (quote | backslash | control) & !word & HIGH;
        if hit != 0 {
            return length + (hit.trailing_zeros() / 8) as usize;
        }
        length += 8;
    }
    let tail = bytes.get(length..).unwrap_or_default();
    let plain = |byte: &u8| *byte >= 0x20 && *byte != b'"' && *byte != b'\\';
    length + tail.iter().position(|byte| !plain(byte)).unwrap_or(tail.len())
}

/// Appends the meaning of a string's raw text, which a scanner has passed.
pub(super) fn unescape_into(raw: &str, out: &mut String) {
    let mut rest = raw;
    while let Some(at) = rest.find('\\') {
        let (plain, escape) = rest.split_at(at);
        out.push_str(plain);
        let code = |from: usize| escape.as_bytes().get(from..from + 4).and_then(hex).unwrap_or(0);
        let (character, length) = match escape.as_bytes().get(1) {
            Some(b'b') => ('\u{8}', 2),
            Some(b'f') => ('\u{c}', 2),
            Some(b'n') => ('\n', 2),
            Some(b'r') => ('\r', 2),
            Some(b't') => ('\t', 2),
            Some(b'u') => match code(2) {
                high @ 0xD800..=0xDBFF => {
                    let pair = 0x10000 + ((high - 0xD800) << 10) + (code(8) & 0x3FF);
                    (char::from_u32(pair).unwrap_or(char::REPLACEMENT_CHARACTER), 12)
                }
                unit => (char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER), 6),
            },
            Some(&other) => (char::from(other), 2),
            None => break,
        };
        out.push(character);
        rest = escape.get(length..).unwrap_or_default();
    }
    out.push_str(rest);
}

impl Scanner<'_> {
    /// The meaning of a name's raw text that has escapes.
    pub fn unescape(raw: &str, out: &mut String) {
        out.clear();
        unescape_into(raw, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn accepts(text: &str) -> bool {
        let mut scanner = Scanner::new(text, Bounds::default());
        scanner.value().is_ok() && scanner.end().is_ok()
    }

    #[test]
    fn depth_is_bounded() {
        let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(accepts(&deep(128)));
        assert!(!accepts(&deep(129)));
        let mut scanner = Scanner::new("[[[1]]]", Bounds { depth: 2 });
        assert!(matches!(scanner.value(), Err(SyntaxError::TooDeep(2))));
    }

    #[test]
    fn lone_surrogates_are_no_text() {
        assert!(!accepts(r#""\ud800""#));
        assert!(!accepts(r#""\udc00\ud800""#));
        assert!(accepts(r#""\ud83d\ude00""#));
    }

    #[test]
    fn a_stop_is_found_at_every_offset() {
        for stop in [b'"', b'\\', 0x00, 0x1f, b'\n'] {
            for at in 0..40 {
                let mut bytes = "é~ \u{7f}".repeat(10).into_bytes();
                bytes.resize(40, b'x');
                bytes[at] = stop;
                assert_eq!(plain_length(&bytes), at, "{stop} at {at}");
            }
        }
    }

    proptest! {
        #[test]
        fn agrees_with_serde_json(text in "[\\[\\]{},:\"\\\\u0-9a-eE+.trufalsn -]{0,24}") {
            let theirs = serde_json::from_str::<serde_json::Value>(&text);
            // serde_json also refuses numbers that no f64 holds.
            if !matches!(&theirs, Err(error) if error.to_string().contains("out of range")) {
                prop_assert_eq!(accepts(&text), theirs.is_ok());
            }
        }
    }
}
