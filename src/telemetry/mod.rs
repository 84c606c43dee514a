//! Metrics, health and logs. Labels are names of the configuration, never values.

mod http;
mod logs;
mod metrics;

pub use http::{Health, serve};
pub use logs::{LogError, quiet_panics, start as start_logs};
pub use metrics::Metrics;
