//! veilstream: raw change events in, one sanitized stream per audience out.
//!
//! # Layout
//! In the order in which they are built on each other: a module knows those above it, never those below.
//!
//! - [`json`]: steps over JSON text, without a tree
//! - [`crypto`]: primitives, the ciphertext format, secret types, the seam behind which keys are kept
//! - [`operator`]: the treatments, one file each
//! - [`aggregate`]: counts and sums over windows of a stream, with differential privacy
//! - [`event`]: which parts of an envelope are the row
//! - [`policy`]: the language, its diagnostics, and the plan that it is compiled to
//! - [`rewrite`]: plan and bytes to [`rewrite::Sanitized`], which is made nowhere else
//! - [`hierarchy`]: ever wider groups of words, out of CSV files
//! - [`group`]: k-anonymity over a stream: what is held until enough people are alike
//! - [`risk`]: how likely people are found again in what was sanitized
//! - [`keys`]: the keyset file
//! - [`quarantine`]: records that could not be sanitized, sealed
//! - [`hold`]: rows that wait until enough people are alike, and their changelog
//! - [`audit`]: events that say what was done, never a value
//! - [`config`]: what `worker.yaml` says
//! - [`kafka`]: the only room that names rdkafka
//! - [`access`]: roles at work: who may see what is sealed
//! - [`plans`]: all policies of a worker, compiled, with keys and roles; replaced as a whole
//! - [`telemetry`]: metrics, health, logs
//! - [`erasure`]: a person is forgotten: wishes, and what is left to do once the keys are destroyed
//! - [`worker`]: lanes from poll to commit, reload, limits, stop
//! - [`cluster`]: what a cluster has to be for a worker, and whether it is
//! - [`command`]: the command line
//!
//! `json` to `risk` are pure: no Kafka, no runtime, no clock, no I/O but the reading of policy files.
#![deny(unsafe_code)]

// Blank lines keep the order: rustfmt sorts what stands together.
pub mod json;

pub mod crypto;

pub mod hierarchy;

pub mod group;

pub mod operator;

pub mod aggregate;

pub mod event;

pub mod policy;

pub mod rewrite;

pub mod risk;

pub mod outbound;

pub mod keys;

pub mod quarantine;

pub mod hold;

pub mod audit;

pub mod config;

pub mod kafka;

pub mod access;

pub mod plans;

pub mod telemetry;

pub mod erasure;

pub mod worker;

pub mod cluster;

pub mod command;
