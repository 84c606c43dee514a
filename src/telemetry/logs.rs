//! Logs by `tracing`: text or JSON on standard error.

use tracing_subscriber::EnvFilter;

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

/// Begins to log. Where logging has begun already, that stays in force.
pub fn start(format: LogFormat, level: &str) -> Result<(), LogError> {
    let filter = std::env::var("VEILSTREAM_LOG").unwrap_or_else(|_| level.to_owned());
    let parsed = EnvFilter::try_new(&filter).map_err(|error| LogError { filter, error })?;
    let logs = tracing_subscriber::fmt().with_env_filter(parsed).with_writer(std::io::stderr);
    let _ = match format {
        LogFormat::Text => {
            logs.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init()
        }
        LogFormat::Json => logs.json().flatten_event(true).try_init(),
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
