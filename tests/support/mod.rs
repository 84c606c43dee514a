//! What several test binaries share.
#![allow(dead_code, reason = "every test binary uses its own part")]

pub mod broker;
pub mod cluster;
pub mod engine;
pub mod grafana;
pub mod ledger;
pub mod panels;
pub mod postgres;
pub mod providers;
pub mod proxy;
pub mod scene;
pub mod worker;
