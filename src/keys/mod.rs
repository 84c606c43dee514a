//! Where keys are kept: the local keyset file, behind [`crate::crypto::KeySource`].

mod keyset;

pub use keyset::{Keyset, KeysetError, Status};
