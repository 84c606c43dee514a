//! Rows of a file, line by line: events as JSON lines, or CSV with a header. No error holds a value; nor a name, which
//! may be one: of a member that `*` matches, or in the first line of a CSV file without a header.

use std::borrow::Cow;
use std::io::{BufRead, Chain, Cursor, Read};

use csv::{ByteRecord, Position, Reader, ReaderBuilder, Terminator};
use rustc_hash::FxHashMap;
use serde_json::value::RawValue;

use crate::policy::Path;

/// A file that rows cannot be read from.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("{file}:{line}:{column}: {problem}")]
    Line { file: String, line: u64, column: usize, problem: String },
    #[error("{file}: no row has `{path}`, of {rows}")]
    Unknown { file: String, path: Path, rows: u64 },
    #[error("{0}: no row")]
    Empty(String),
    #[error("{file}: {error}")]
    Io { file: String, error: std::io::Error },
}

/// The values of a row, as they were asked for.
#[derive(Debug, Default)]
pub struct Row(Vec<Cell>);

impl Row {
    pub(super) fn cells(&self) -> &[Cell] {
        &self.0
    }
}

/// A value.
#[derive(Debug, Clone, Default)]
pub(super) struct Cell {
    pub kind: Kind,
    /// A string's characters, else the JSON text.
    pub text: Vec<u8>,
}

/// What a value is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Kind {
    /// Or missing, or an empty cell of a CSV file.
    #[default]
    Null,
    Number,
    /// Or true or false.
    Text,
    /// An object or array.
    Nested,
}

impl Cell {
    fn set(&mut self, kind: Kind, text: &[u8]) {
        self.kind = kind;
        self.text.clear();
        self.text.extend_from_slice(text);
    }

    fn set_json(&mut self, value: &RawValue) {
        let text = value.get();
        match text.as_bytes().first() {
            Some(b'n') => self.set(Kind::Null, b""),
            Some(b'{' | b'[') => self.set(Kind::Nested, text.as_bytes()),
            Some(b'"') => {
                let characters = serde_json::from_str(text).map(|Characters(text)| text);
                // Half a surrogate pair has no characters.
                self.set(Kind::Text, characters.unwrap_or(Cow::Borrowed(text)).as_bytes());
            }
            Some(b't' | b'f') => self.set(Kind::Text, text.as_bytes()),
            _ => self.set(Kind::Number, text.as_bytes()),
        }
    }

    fn set_csv(&mut self, text: &[u8]) {
        let kind = match text {
            b"" => Kind::Null,
            _ if is_number(text) => Kind::Number,
            _ => Kind::Text,
        };
        self.set(kind, text);
    }

    /// Appends what is the same where the values are. A number and a string of its digits are: CSV does not tell them
    /// apart.
    pub fn write_key(&self, key: &mut Vec<u8>) {
        key.push(match self.kind {
            Kind::Null => 0,
            Kind::Number | Kind::Text => 1,
            Kind::Nested => 2,
        });
        if self.kind != Kind::Null {
            key.extend_from_slice(&self.text.len().to_le_bytes());
            key.extend_from_slice(&self.text);
        }
    }
}

/// Whether it is a decimal number: `inf` and `NaN` are words here.
fn is_number(text: &[u8]) -> bool {
    let digits =
        |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b'.' | b'e' | b'E');
    let text = text.iter().all(digits).then(|| std::str::from_utf8(text).ok()).flatten();
    text.is_some_and(|text| text.parse::<f64>().is_ok())
}

/// A file of rows.
pub struct Rows<R> {
    file: String,
    format: Format<R>,
    fields: Vec<Field>,
    rows: u64,
    without_row: u64,
}

/// A value that is asked for.
struct Field {
    path: Path,
    names: Vec<String>,
    met: bool,
}

/// A file whose first line was looked at, and whose last line ends.
type Input<R> = Chain<Chain<Cursor<Vec<u8>>, R>, &'static [u8]>;

enum Format<R> {
    Lines { input: Input<R>, line: Vec<u8>, number: u64 },
    Table(Box<Table<R>>),
}

impl<R: BufRead> Rows<R> {
    /// Begins to read the values at `paths`, which are plain. The first line says what the file is: JSON lines, or
    /// CSV with names in the first line, between `,` or `;`.
    pub fn open(file: &str, mut input: R, paths: &[Path]) -> Result<Rows<R>, ReadError> {
        let wrong = |error| ReadError::Io { file: file.to_owned(), error };
        let mut head = Vec::new();
        while head.trim_ascii().is_empty() && input.read_until(b'\n', &mut head).map_err(wrong)? > 0
        {
            if head.starts_with(b"\xEF\xBB\xBF") {
                head.drain(..3);
            }
        }
        let json = [".json", ".jsonl", ".ndjson"].iter().any(|ending| file.ends_with(ending))
            || matches!(head.trim_ascii().first(), None | Some(b'{' | b'['));
        let delimiter = delimiter(&head);
        let input = Cursor::new(head).chain(input).chain(b"\n".as_slice());
        let field = |path: &Path| Field { path: path.clone(), names: path.names(), met: false };
        let mut rows = Rows {
            file: file.to_owned(),
            format: Format::Lines { input, line: Vec::new(), number: 0 },
            fields: paths.iter().map(field).collect(),
            rows: 0,
            without_row: 0,
        };
        if !json {
            rows = rows.into_table(delimiter)?;
        }
        Ok(rows)
    }

    fn into_table(mut self, delimiter: u8) -> Result<Rows<R>, ReadError> {
        let Format::Lines { input, .. } = self.format else { return Ok(self) };
        let mut table = Table::new(input, delimiter);
        table.read(&self.file)?;
        table.width = table.record.len();
        let names =
            (0..table.width).map(|column| String::from_utf8_lossy(table.cell(column)).into_owned());
        let names: Vec<String> = names.collect();
        for field in &mut self.fields {
            let name = field.names.join(".");
            let Some(column) = names.iter().position(|column| *column == name) else {
                let problem = format!("no column is called `{name}`, of {}", names.len());
                return Err(ReadError::Line { file: self.file, line: 1, column: 1, problem });
            };
            table.columns.push(column);
            field.met = true;
        }
        Ok(Rows { format: Format::Table(Box::new(table)), ..self })
    }

    /// The next row, into `row`. Says whether there was one.
    pub fn read(&mut self, row: &mut Row) -> Result<bool, ReadError> {
        row.0.resize_with(self.fields.len(), Cell::default);
        let read = match &mut self.format {
            Format::Table(table) => {
                let read = table.read(&self.file)?;
                for (column, cell) in table.columns.iter().zip(&mut row.0) {
                    cell.set_csv(table.cell(*column));
                }
                read
            }
            Format::Lines { .. } => self.read_line(row)?,
        };
        self.rows += u64::from(read);
        Ok(read)
    }

    fn read_line(&mut self, row: &mut Row) -> Result<bool, ReadError> {
        let Format::Lines { input, line, number } = &mut self.format else { return Ok(false) };
        loop {
            line.clear();
            let read = input.read_until(b'\n', line);
            if read.map_err(|error| ReadError::Io { file: self.file.clone(), error })? == 0 {
                return Ok(false);
            }
            *number += 1;
            let event = line.trim_ascii_end();
            if event.is_empty() {
                continue;
            }
            match take(event, &mut self.fields, row) {
                Ok(true) => return Ok(true),
                Ok(false) => self.without_row += 1,
                Err(Wrong { column, problem }) => {
                    return Err(ReadError::Line {
                        file: self.file.clone(),
                        line: *number,
                        column,
                        problem: problem.to_owned(),
                    });
                }
            }
        }
    }

    /// After the last row: how many events were without one. A path that never occurred is an error.
    pub fn finish(self) -> Result<u64, ReadError> {
        if self.rows == 0 {
            return Err(ReadError::Empty(self.file));
        }
        match self.fields.into_iter().find(|field| !field.met) {
            None => Ok(self.without_row),
            Some(field) => {
                Err(ReadError::Unknown { file: self.file, path: field.path, rows: self.rows })
            }
        }
    }
}

/// `;` where the header has more of them, outside of quotes, else `,`.
fn delimiter(header: &[u8]) -> u8 {
    let mut quoted = false;
    let (mut commas, mut semicolons) = (0, 0);
    for byte in header {
        match byte {
            b'"' => quoted = !quoted,
            b',' if !quoted => commas += 1,
            b';' if !quoted => semicolons += 1,
            _ => {}
        }
    }
    if semicolons > commas { b';' } else { b',' }
}

/// A CSV file (RFC 4180).
struct Table<R> {
    input: Reader<Input<R>>,
    record: ByteRecord,
    /// How many values a record has; 0 for whatever it has.
    width: usize,
    /// Where the fields are.
    columns: Vec<usize>,
}

impl<R: BufRead> Table<R> {
    fn new(input: Input<R>, delimiter: u8) -> Table<R> {
        // With one byte as the end of a line the number of a line can be told; the other is taken off in `cell`.
        let input = ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .delimiter(delimiter)
            .terminator(Terminator::Any(b'\n'))
            .from_reader(input);
        Table { input, record: ByteRecord::new(), width: 0, columns: Vec::new() }
    }

    /// The next record that is no empty line. Says whether there was one.
    fn read(&mut self, file: &str) -> Result<bool, ReadError> {
        loop {
            let read = self
                .input
                .read_byte_record(&mut self.record)
                .map_err(|error| ReadError::Io { file: file.to_owned(), error: error.into() })?;
            let width = self.record.len();
            if read && width == 1 && self.record.get(0) == Some(b"\r") {
                continue;
            }
            if !read {
                return Ok(false);
            }
            let wrong = |line, problem| {
                Err(ReadError::Line { file: file.to_owned(), line, column: 1, problem })
            };
            let begins = self.record.position().map_or(1, Position::line);
            let goes_on = self.input.position().line();
            let within =
                self.record.as_slice().iter().filter(|byte| **byte == b'\n').count() as u64;
            if goes_on <= begins + within {
                return wrong(begins, "a quote that never ends".to_owned());
            }
            if self.width > 0 && width != self.width {
                let problem = format!("values: {width}, names in the header: {}", self.width);
                // Empty lines may stand between where the record is said to begin and where it does.
                return wrong(goes_on - within - 1, problem);
            }
            return Ok(true);
        }
    }

    fn cell(&self, column: usize) -> &[u8] {
        let cell = self.record.get(column).unwrap_or_default();
        if column + 1 < self.record.len() { cell } else { cell.strip_suffix(b"\r").unwrap_or(cell) }
    }
}

/// What is wrong with a line.
struct Wrong {
    /// From 1, in bytes.
    column: usize,
    problem: &'static str,
}

/// A string whose characters are those of the text, where it has no escapes.
#[derive(serde::Deserialize)]
struct Characters<'t>(#[serde(borrow)] Cow<'t, str>);

type Members<'t> = FxHashMap<Name<'t>, &'t RawValue>;

/// A member's name.
#[derive(PartialEq, Eq, Hash, serde::Deserialize)]
struct Name<'t>(#[serde(borrow)] Cow<'t, str>);

impl std::borrow::Borrow<str> for Name<'_> {
    fn borrow(&self) -> &str {
        &self.0
    }
}

const NO_OBJECT: &str = "no JSON object";

/// The values of an event's row. Says whether it has one: a delete has none.
fn take(event: &[u8], fields: &mut [Field], row: &mut Row) -> Result<bool, Wrong> {
    let members: Members<'_> = serde_json::from_slice(event).map_err(|error| {
        // The parser's message may quote the text.
        match error.is_data() {
            true => Wrong {
                column: 1 + event.len() - event.trim_ascii_start().len(),
                problem: NO_OBJECT,
            },
            false => Wrong { column: error.column().max(1), problem: "not JSON" },
        }
    })?;
    let inside = |value: &RawValue| Wrong {
        column: 1 + value.get().as_ptr().addr().saturating_sub(event.as_ptr().addr()),
        problem: NO_OBJECT,
    };
    let payload = members.get("payload").filter(|_| members.contains_key("schema"));
    let envelope = match payload {
        Some(value) if value.get() == "null" => return Ok(false),
        Some(value) => serde_json::from_str(value.get()).map_err(|_| inside(value))?,
        None => members,
    };
    let after = envelope.get("after");
    let after =
        after.filter(|_| envelope.contains_key("op") || envelope.contains_key("before")).copied();
    match after {
        None => fill(&envelope, fields, row),
        Some(value) if value.get() == "null" => return Ok(false),
        // MongoDB's: the document as JSON in a string.
        Some(value) if value.get().starts_with('"') => {
            let document: Result<String, _> = serde_json::from_str(value.get());
            let document = document.map_err(|_| inside(value))?;
            let members = serde_json::from_str(&document).map_err(|_| inside(value))?;
            fill(&members, fields, row);
        }
        Some(value) => {
            let members = serde_json::from_str(value.get()).map_err(|_| inside(value))?;
            fill(&members, fields, row);
        }
    }
    Ok(true)
}

fn fill(members: &Members<'_>, fields: &mut [Field], row: &mut Row) {
    for (field, cell) in fields.iter_mut().zip(&mut row.0) {
        match find(members, &field.names) {
            Some(value) => {
                field.met = true;
                cell.set_json(value);
            }
            None => cell.set(Kind::Null, b""),
        }
    }
}

fn find<'t>(members: &Members<'t>, names: &[String]) -> Option<&'t RawValue> {
    let (first, rest) = names.split_first()?;
    let mut value = *members.get(first.as_str())?;
    for name in rest {
        let inner: Members<'t> = serde_json::from_str(value.get()).ok()?;
        value = *inner.get(name.as_str())?;
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows of a text, each as what its values are, `-` for null.
    fn read(file: &str, text: &str, paths: &[&str]) -> Result<Vec<String>, String> {
        let paths: Vec<Path> = paths.iter().map(|path| Path::parse(path).unwrap()).collect();
        let mut rows =
            Rows::open(file, text.as_bytes(), &paths).map_err(|error| error.to_string())?;
        let (mut row, mut all) = (Row::default(), Vec::new());
        while rows.read(&mut row).map_err(|error| error.to_string())? {
            let cells = row.cells().iter().map(|cell| match cell.kind {
                Kind::Null => "-".to_owned(),
                Kind::Number => format!("#{}", String::from_utf8_lossy(&cell.text)),
                _ => String::from_utf8_lossy(&cell.text).into_owned(),
            });
            all.push(cells.collect::<Vec<_>>().join(" "));
        }
        let without = rows.finish().map_err(|error| error.to_string())?;
        all.extend((without > 0).then(|| format!("{without} without")));
        Ok(all)
    }

    fn refused(file: &str, text: &str, path: &str) -> String {
        read(file, text, &[path]).unwrap_err()
    }

    #[test]
    fn json_lines_are_rows() {
        let text = "\u{FEFF}\n{\"a\":1.50,\"b\":{\"c\":\"x\\u0079\"}}\r\n\n  {\"a\":null,\"b\":7}\n{\"b\":{\"c\":[ 1]}}\n\
                    {\"a\":true,\"a\":123456789012345678901,\"b.c\":1}";
        let rows = read("f", text, &["a", "b.c"]).unwrap();
        assert_eq!(rows, ["#1.50 xy", "- -", "- [ 1]", "#123456789012345678901 -"]);
        let halves = "{\"a\":\"\\ud800\"}\n{\"a\":\"\\ud801\"}";
        assert_eq!(read("f", halves, &["a"]).unwrap(), ["\"\\ud800\"", "\"\\ud801\""]);
    }

    #[test]
    fn the_row_of_an_envelope_is_what_it_is_now() {
        let text = r#"{"before":{"a":1},"after":{"a":2},"op":"u"}
            {"before":null,"after":null,"op":"d"}
            {"schema":{"a":9},"payload":{"before":null,"after":{"a":3},"op":"c"}}
            {"schema":null,"payload":{"a":4}}
            {"schema":null,"payload":null}
            {"after":"{\"a\":5}","op":"c"}
            {"after":{"a":6},"a":7}
            {"payload":{"a":8},"a":9}"#;
        let rows = read("f", text, &["a"]).unwrap();
        assert_eq!(rows, ["#2", "#3", "#4", "#5", "#7", "#9", "2 without"]);
    }

    #[test]
    fn csv_has_names_in_its_first_line() {
        let text = "a,\"b,c\";d.e;\"x;\";y\r\n1;2;3;4\r\n\r\n\"5\n;\";;\"6 \"\"\";7\r\n";
        let rows = read("f", text, &["y", "d\\.e"]).unwrap();
        assert_eq!(rows, ["#4 #2", "#7 -"]);
        assert_eq!(read("f", text, &["x;"]).unwrap(), ["#3", "6 \""]);
        let text = "\u{FEFF}a.b,c\n-1e3,nan\n+.5,1-2";
        assert_eq!(read("f", text, &["a.b", "c"]).unwrap(), ["#-1e3 nan", "#+.5 1-2"]);
        assert_eq!(read("f", "a\nx", &["a"]).unwrap(), ["x"]);
        assert_eq!(read("f", "a,b\n1,\"2\n\"\n", &["b"]).unwrap(), ["2\n"]);
    }

    #[test]
    fn mistakes_say_where_they_are_and_no_value() {
        let line = r#"{"canary":"x"}"#;
        let lines = |last: &str| format!("{line}\n\n{last}\n");
        assert_eq!(refused("f", &lines("{\"canary\": canary}"), "canary"), "f:3:12: not JSON");
        assert_eq!(refused("f", &lines(" [1]"), "canary"), "f:3:2: no JSON object");
        assert_eq!(refused("f", &lines("\"canary\""), "canary"), "f:3:1: no JSON object");
        assert_eq!(refused("f", &lines("{\"a\":\"canary"), "canary"), "f:3:12: not JSON");
        assert_eq!(refused("f", &lines(&format!("{line} {line}")), "canary"), "f:3:16: not JSON");
        assert_eq!(refused("f", "a,b\n1,\"canary\n2,3\n", "a"), "f:2:1: a quote that never ends");
        let after = lines(r#"{"op":"u","after":["canary"]}"#);
        assert_eq!(refused("f", &after, "canary"), "f:3:19: no JSON object");
        assert_eq!(refused("f.jsonl", "canary\n", "canary"), "f.jsonl:1:1: not JSON");
        for (end, line) in [("\n", 5), ("\r\n", 5)] {
            let text = ["a,b", "1,\"2", "3\"", "", "canary", "1,2"].join(end);
            let told = format!("f:{line}:1: values: 1, names in the header: 2");
            assert_eq!(refused("f", &text, "a"), told);
        }
        assert_eq!(refused("f", "a,b\ncanary", "a"), "f:2:1: values: 1, names in the header: 2");
    }

    #[test]
    fn a_path_that_never_occurs_is_an_error_without_a_name_of_the_file() {
        // Both could be data: keys of a map, or a first line that is no header.
        let text = "{\"balances\":{\"canary\":7}}\n{\"x\":1}\n";
        let told = "f: no row has `balances.canari`, of 2";
        assert_eq!(refused("f", text, "balances.canari"), told);
        let told = "f:1:1: no column is called `canari`, of 2";
        assert_eq!(refused("f", "canary;42\n1;2", "canari"), told);
        assert_eq!(read("f", "{}\n{\"a\":1}", &["a"]).unwrap(), ["-", "#1"]);
        let deep = "{\"a\":".repeat(5_000) + "1" + &"}".repeat(5_000);
        assert_eq!(refused("f", &deep, "b"), "f: no row has `b`, of 1");
    }

    #[test]
    fn a_file_without_a_row_is_an_error() {
        for text in ["", "\n \n", "{\"after\":null,\"op\":\"d\"}", "a,b\n"] {
            assert_eq!(refused("f", text, "a"), "f: no row", "{text:?}");
        }
    }
}
