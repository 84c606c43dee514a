//! Metrics, health, logs and traces. Labels are names of the configuration, never values.

mod http;
mod logs;
mod metrics;
mod remote;
mod traces;

pub use http::{Health, pages, serve};
pub use logs::{LogError, quiet_panics, start as start_logs};
pub use metrics::Metrics;
pub use remote::{Remote, RemoteError};
pub use traces::{Traces, TracesError, Transaction};
