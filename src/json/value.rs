//! A JSON value as it stands in the input: its kind and its exact text.

use super::scan::unescape_into;

/// The six kinds of JSON value (RFC 8259 section 3; `true` and `false` are one kind).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    String,
    Number,
    Boolean,
    Null,
    Object,
    Array,
}

impl Kind {
    /// The name in messages and in the operator reference.
    pub fn name(self) -> &'static str {
        match self {
            Kind::String => "string",
            Kind::Number => "number",
            Kind::Boolean => "boolean",
            Kind::Null => "null",
            Kind::Object => "object",
            Kind::Array => "array",
        }
    }
}

/// A validated JSON value and its exact text, without the white space around it.
///
/// It has no `Debug`: the text is customer data.
#[derive(Clone, Copy)]
pub struct Value<'a> {
    kind: Kind,
    text: &'a str,
}

impl<'a> Value<'a> {
    /// `text` must be one valid JSON value of the kind `kind`, as a [`super::Scanner`] passed it.
    pub fn scanned(kind: Kind, text: &'a str) -> Self {
        Value { kind, text }
    }

    /// One JSON document, or `None` where `text` is not exactly one valid value.
    pub fn parse(text: &'a str) -> Option<Self> {
        let mut scanner = super::Scanner::new(text.trim(), super::Bounds::default());
        let value = scanner.value().ok()?;
        scanner.end().ok()?;
        Some(value)
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The exact JSON text, quotes and escapes included.
    pub fn text(&self) -> &'a str {
        self.text
    }

    /// What a person reads: a string without its quotes and escapes, anything else as its text.
    /// `scratch` is used only where the string has escapes.
    pub fn characters<'b>(&self, scratch: &'b mut String) -> &'b str
    where
        'a: 'b,
    {
        let raw = self.raw();
        if self.kind != Kind::String || !raw.as_bytes().contains(&b'\\') {
            return raw;
        }
        scratch.clear();
        unescape_into(raw, scratch);
        scratch
    }

    /// A string without its quotes, as it stands in the text; anything else as its text.
    #[inline]
    pub fn raw(&self) -> &'a str {
        match self.kind {
            Kind::String => self.text.get(1..self.text.len() - 1).unwrap_or_default(),
            _ => self.text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_unescaped() {
        let mut scratch = String::new();
        let value = Value::parse(r#""a\u00e9\n\ud83d\ude00\/""#).unwrap();
        assert_eq!(value.characters(&mut scratch), "aé\n😀/");
        assert_eq!(Value::parse("12.50").unwrap().characters(&mut scratch), "12.50");
    }

    #[test]
    fn two_documents_are_not_one() {
        assert!(Value::parse("1 2").is_none());
        assert!(Value::parse("").is_none());
    }
}
