//! Metrics, health and logs. Labels are names of the configuration, never values.

mod http;
mod logs;
mod metrics;
mod remote;

pub use http::{Health, pages, serve};
pub use logs::{LogError, quiet_panics, start as start_logs};
pub use metrics::Metrics;
pub use remote::{Remote, RemoteError};
