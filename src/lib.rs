//! veilstream: raw change events in, one sanitized stream per audience out.
//!
//! # Layout
//! In the order an event meets them.
#![forbid(unsafe_code)]

pub mod json;
pub mod crypto;
pub mod operator;
pub mod event;
pub mod policy;
pub mod rewrite;
pub mod keys;
pub mod audit;
pub mod quarantine;
pub mod config;
pub mod kafka;
pub mod telemetry;
pub mod worker;
pub mod command;
