//! `veilstream preview`: events before and after, side by side; nothing is published.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use comfy_table::{
    Attribute, Cell, Color, ContentArrangement, Table, presets::UTF8_FULL_CONDENSED,
};
use serde_json::Value;

use super::many::Many;
use super::{Exit, OrUsage, events, printable};
use crate::keys::Keyset;
use crate::policy::Plan;
use crate::rewrite::{Disposition, Rewriter};

/// Show what each view gets of the events of a file, side by side with what came in
#[derive(Args)]
pub struct Preview {
    /// The policy file
    policy: PathBuf,
    /// JSON lines, a JSON document, or an array of events
    file: PathBuf,
    /// A keyset; without one, keys are made up for this run and tokens differ from the worker's
    #[arg(long)]
    keys: Option<PathBuf>,
    /// Show long values whole
    #[arg(long)]
    full: bool,
}

impl Preview {
    pub fn run(self) -> Result<(), Exit> {
        let policy = super::policy(&self.policy)?;
        let events = events::read(&self.file).or_usage()?;
        let (policy, keys) = match &self.keys {
            Some(file) => (policy, Keyset::load(file).or_usage()?),
            None => (policy.without_pins(), Keyset::generate()),
        };
        let plan = Arc::new(Plan::compile(Arc::new(policy), &keys).or_usage()?);
        let mut rewriter = Rewriter::new(Arc::clone(&plan));
        let width = if self.full { Width::Full } else { Width::Short };
        let now_ms = super::now_ms();
        let mut many = Many::new(&plan, now_ms).or_usage()?;
        let mut failed = 0;
        let mut out = std::io::stdout().lock();
        for (number, event) in events.iter().enumerate() {
            writeln!(out, "event {}", number + 1)?;
            let record = rewriter.event(event.as_bytes(), now_ms);
            match rewriter.rewrite(&record) {
                Ok(treated) => {
                    many.take(&treated).map_err(anyhow::Error::from)?;
                    let columns: Vec<Column> = (0..plan.views.len())
                        .map(|view| {
                            let value =
                                treated.records(view).next().and_then(|record| record.value());
                            let disposition = treated.dispositions().get(view).copied();
                            let name = plan.views.get(view).map_or("", |view| &view.name);
                            Column::new(name, disposition, value)
                        })
                        .collect();
                    writeln!(out, "{}", side_by_side(event, &columns, width))?;
                }
                Err(failure) => {
                    failed += 1;
                    writeln!(out, "  quarantined: {failure}")?;
                }
            }
        }
        for (number, view) in plan.views.iter().enumerate() {
            let mut rows = Vec::new();
            let outcome = many.published(number, true, |value| {
                rows.push(String::from_utf8_lossy(value).into_owned());
                anyhow::Ok(())
            });
            let Some(outcome) = outcome? else { continue };
            writeln!(out, "view {}, were these all events:", view.name)?;
            for row in rows {
                writeln!(out, "  {}", printable(&row))?;
            }
            let suppressed = outcome.suppressed;
            writeln!(out, "  {} rows published, {suppressed} suppressed", outcome.published)?;
        }
        match failed {
            0 => Ok(()),
            _ => Err(Exit::Failed(anyhow::anyhow!(
                "{failed} of {} events would be quarantined",
                events.len()
            ))),
        }
    }
}

/// What one view got.
pub struct Column {
    title: String,
    value: Option<Value>,
}

impl Column {
    pub fn new(view: &str, disposition: Option<Disposition>, value: Option<&[u8]>) -> Column {
        let fate = match disposition {
            Some(Disposition::Publish) => "",
            Some(Disposition::Leave | Disposition::Delete) => " (as a delete)",
            Some(Disposition::Tombstone) => " (a tombstone)",
            Some(Disposition::Held) => " (held)",
            Some(Disposition::Filtered(_)) | None => " (not published)",
        };
        let value = value.filter(|_| !matches!(disposition, Some(Disposition::Filtered(_))));
        Column {
            title: format!("{view}{fate}"),
            value: value.and_then(|text| serde_json::from_slice(text).ok()),
        }
    }
}

/// How much of a long value is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Width {
    Short,
    Full,
}

impl Width {
    /// Longer ones, which are ciphertexts mostly, make a table unreadable.
    const SHORT: usize = 48;

    fn of(self, text: &str) -> String {
        let text = printable(text);
        let length = text.chars().count();
        if self == Width::Full || length <= Width::SHORT {
            return text;
        }
        let beginning: String = text.chars().take(Width::SHORT / 2).collect();
        format!("{beginning}… ({length} characters)")
    }
}

/// A row for each value of the event, a column for each view.
pub fn side_by_side(event: &str, columns: &[Column], width: Width) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    let titles =
        ["field", "in"].into_iter().chain(columns.iter().map(|column| column.title.as_str()));
    table.set_header(titles.map(|title| Cell::new(title).add_attribute(Attribute::Bold)));
    let raw: Value = serde_json::from_str(event).unwrap_or_default();
    let mut rows = Vec::new();
    flatten("", &raw, &mut rows);
    for (pointer, scalar) in rows {
        let place = printable(&pointer.trim_start_matches('/').replace('/', "."));
        let text = width.of(&scalar.to_string());
        let mut cells = vec![Cell::new(place), Cell::new(&text)];
        for column in columns {
            let value = column.value.as_ref().and_then(|value| value.pointer(&pointer));
            cells.push(match value {
                None => Cell::new("—").fg(Color::DarkGrey),
                Some(value) if value == scalar => Cell::new(text.as_str()).fg(Color::Green),
                Some(value) => Cell::new(width.of(&value.to_string())).fg(Color::Yellow),
            });
        }
        table.add_row(cells);
    }
    table
}

/// The scalars of a document by their JSON pointer (RFC 6901).
fn flatten<'v>(pointer: &str, value: &'v Value, rows: &mut Vec<(String, &'v Value)>) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            for (name, value) in members {
                let name = name.replace('~', "~0").replace('/', "~1");
                flatten(&format!("{pointer}/{name}"), value, rows);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (at, value) in items.iter().enumerate() {
                flatten(&format!("{pointer}/{at}"), value, rows);
            }
        }
        scalar => rows.push((pointer.to_owned(), scalar)),
    }
}
