//! Metrics, health and logs. Labels are names of the configuration, never values.

mod http;
mod logs;
mod metrics;

pub use http::{Health, serve};
pub use logs::{LogError, start as start_logs, quiet_panics};
pub use metrics::Metrics;
