//! Envelopes: which parts of an event are the row, and which are the transport's own.
//!
//! Only names stand here: the rewrite walks them in its one pass.

pub mod debezium;
