//! Who may see what is sealed: actors, their roles, and the desk that opens a value for those who may, after it has
//! written down that it does.

mod actor;
mod approval;
mod desk;
pub mod http;
mod token;

pub use actor::{Actor, By};
pub use desk::{AccessError, Answer, Asked, Desk, InForce, Outcome, Reveal, Revealed};
pub use token::{TokenError, Verifier};
