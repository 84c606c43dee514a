//! The worker: lanes that poll, rewrite, publish and commit; limits, reload and stop around them.

mod account;
mod batch;
mod hold;
mod lane;
mod limit;
mod run;
mod show;
mod topics;
mod transform;
mod watch;

pub use lane::{Lane, LaneShared, Observer};
pub use run::{RunError, Worker};
