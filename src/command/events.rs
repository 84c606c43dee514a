//! Events out of a file: JSON lines, one JSON document, or an array of events.

use std::path::Path;

use anyhow::{Context, bail};
use serde_json::value::RawValue;

/// The exact text of each event.
pub fn read(file: &Path) -> anyhow::Result<Vec<String>> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    if let Ok(list) = serde_json::from_str::<Vec<Box<RawValue>>>(&text) {
        return Ok(list.iter().map(|event| event.get().to_owned()).collect());
    }
    let mut events = Vec::new();
    for event in serde_json::Deserializer::from_str(&text).into_iter::<Box<RawValue>>() {
        match event {
            Ok(event) => events.push(event.get().to_owned()),
            // The parser's message may quote the text: its place is enough.
            Err(error) => bail!("{}:{}:{}: not JSON", file.display(), error.line(), error.column()),
        }
    }
    if events.is_empty() {
        bail!("{}: no event", file.display());
    }
    Ok(events)
}
