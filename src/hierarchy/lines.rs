//! The lines of a CSV file that stands beside a policy, and where in it a mistake is.

use std::fmt;

use csv::StringRecord;

/// What is wrong with a file, and where: line and column (in characters) count from 1. It has no word of the file,
/// which may be data of customers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: found {found}, expected {expected}")]
pub struct Mistake {
    pub line: usize,
    pub column: usize,
    pub found: String,
    pub expected: String,
}

/// The text of a file: fields between `;`, or between `,` where the first line has no `;`, in quotes (RFC 4180) or
/// without.
#[derive(Clone, Copy)]
pub struct Lines<'t> {
    text: &'t str,
    delimiter: u8,
}

impl<'t> Lines<'t> {
    pub fn new(text: &'t str) -> Lines<'t> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let first = text.lines().find(|line| !line.is_empty()).unwrap_or_default();
        let mut unquoted = first.split('"').step_by(2);
        let delimiter = if unquoted.any(|part| part.contains(';')) { b';' } else { b',' };
        Lines { text, delimiter }
    }

    /// Hands over each line that is not empty, with the byte at which it begins.
    pub fn each(
        self,
        mut take: impl FnMut(usize, &StringRecord) -> Result<(), Mistake>,
    ) -> Result<(), Mistake> {
        let mut reader = csv::ReaderBuilder::new()
            .delimiter(self.delimiter)
            .has_headers(false)
            .flexible(true)
            .from_reader(self.text.as_bytes());
        let mut record = StringRecord::new();
        loop {
            let start = self.start(reader.position().byte());
            match reader.read_record(&mut record) {
                Ok(true) => take(start, &record)?,
                Ok(false) => return Ok(()),
                Err(error) => return Err(self.mistake(start, 0, error, "a line of CSV")),
            }
        }
    }

    /// What is wrong with a field of the line that begins at a byte.
    pub fn mistake(
        self,
        start: usize,
        field: usize,
        found: impl fmt::Display,
        expected: impl Into<String>,
    ) -> Mistake {
        Mistake {
            line: self.number(start),
            column: self.column(start, field),
            found: found.to_string(),
            expected: expected.into(),
        }
    }

    /// The number of the line that begins at a byte.
    pub fn number(self, start: usize) -> usize {
        1 + self.text.bytes().take(start).filter(|byte| *byte == b'\n').count()
    }

    /// Where the line that the reader comes to begins: it stands before what is left of a line's end.
    fn start(self, byte: u64) -> usize {
        let byte = usize::try_from(byte).unwrap_or(usize::MAX).min(self.text.len());
        let rest = self.text.get(byte..).unwrap_or_default();
        self.text.len() - rest.trim_start_matches(['\r', '\n']).len()
    }

    /// In characters from 1, or one past the last field.
    fn column(self, start: usize, field: usize) -> usize {
        let mut passed = 0;
        let mut quoted = false;
        let line = self.text.get(start..).unwrap_or_default();
        for (column, character) in line.chars().enumerate() {
            match character {
                _ if passed == field => return column + 1,
                '"' => quoted = !quoted,
                '\n' | '\r' if !quoted => return column + 1,
                _ if character == char::from(self.delimiter) && !quoted => passed += 1,
                _ => {}
            }
        }
        line.chars().count() + 1
    }
}
