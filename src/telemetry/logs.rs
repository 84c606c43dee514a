//! Logs by `tracing`: text or JSON on standard error.

use tracing::{Level, Metadata};
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::config::LogFormat;

/// The filter cannot be read.
#[derive(Debug, thiserror::Error)]
#[error(
    "log level `{filter}`: {error}; expected a level such as `info`, or `info,veilstream=debug`"
)]
pub struct LogError {
    filter: String,
    error: tracing_subscriber::filter::ParseError,
}

/// At their lowest levels these tell what goes over the wire: a token of Vault, a key that is opened. No filter gets
/// them to.
const QUIET: [&str; 5] = ["aws_", "h2", "hyper", "rustls", "ureq"];

fn is_quiet(metadata: &Metadata<'_>) -> bool {
    let quiet = QUIET.iter().any(|crate_| metadata.target().starts_with(crate_));
    quiet && *metadata.level() > Level::INFO
}

/// Begins to log. Where logging has begun already, that stays in force.
pub fn start(format: LogFormat, level: &str) -> Result<(), LogError> {
    let filter = std::env::var("VEILSTREAM_LOG").unwrap_or_else(|_| level.to_owned());
    let parsed = EnvFilter::try_new(&filter).map_err(|error| LogError { filter, error })?;
    let filter = parsed.and(filter_fn(|metadata| !is_quiet(metadata)));
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let _ = match format {
        LogFormat::Text => {
            let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
            let layer = layer.with_ansi(colours).with_filter(filter);
            tracing_subscriber::registry().with(layer).try_init()
        }
        LogFormat::Json => {
            let layer = layer.json().flatten_event(true).with_filter(filter);
            tracing_subscriber::registry().with(layer).try_init()
        }
    };
    Ok(())
}

/// A panic's message may quote what it met: only its place is told.
pub fn quiet_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current();
        eprintln!("veilstream: a defect at {place} (thread {})", thread.name().unwrap_or("?"));
    }));
}
