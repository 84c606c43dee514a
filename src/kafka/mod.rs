//! The only room that names rdkafka: where records come from, where they go, and the embedded broker.
//!
//! [`Sink`] takes nothing but [`crate::rewrite::Sanitized`] for a view, [`crate::quarantine::Sealed`] for quarantine
//! , [`crate::audit::AuditRecord`] for the audit trail and [`crate::hold::Entry`] for what is held.

mod acl;
mod admin;
mod client;
mod embedded;
mod inbox;
mod probe;
mod producer;
mod reader;
mod source;
mod trail;

pub use acl::{Binding, Operation, Pattern, Permission, Resource};
pub use admin::{Admin, ClusterState, TopicSettings, TopicSpec, TopicState};
pub use client::{BATCH_FRAME, CLIENTS, ClientSettings, Connection, Figures, KafkaProblem};
pub use embedded::EmbeddedBroker;
pub use inbox::Inbox;
pub use probe::Probe;
pub use producer::{Sink, SinkError};
pub use reader::{Grave, OwnedRecord, Reader, Writer};
pub use source::{
    Committed, Generation, Position, Positions, Rebalanced, Source, SourceError, SourceRecord,
};
pub use trail::Trail;
