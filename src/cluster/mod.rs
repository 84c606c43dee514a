//! What a cluster has to be for a worker: its topics, and what the worker is allowed.

pub mod acl;
mod check;
mod wanted;

pub use check::{Finding, Level, check};
pub use wanted::{Difference, Kind, Wanted, Why, differences, wanted};
