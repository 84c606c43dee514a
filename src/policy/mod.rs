//! The policy language: what a field is, and what each audience gets of it.
//!
//! [`Policy::load`] reads a file and reports every mistake with its place; a `Policy` that exists is valid.
//! [`Plan::compile`] turns it, with the keys, into what the rewrite walks along.

mod automaton;
mod condition;
mod conflicts;
mod diagnostic;
mod model;
mod parse;
mod path;
mod plan;
pub mod roles;

pub use condition::{Condition, Verdict};
pub use conflicts::conflicts;
pub use diagnostic::{Diagnostic, Diagnostics, Severity};
pub use model::{
    Aggregate, Anonymize, Chosen, Field, Format, KeyRule, MAX_VIEWS, Nulls, OnErased, Pin, Policy,
    Rule, Topics, Unclassified, View,
};
pub use path::{Path, Segment};
pub use plan::{
    Actions, Apply, DEAD, HoldPlan, KeyUse, Leaf, LeafId, Plan, PlanError, Role, State, StateId,
    SubjectPlan, ViewPlan,
};
