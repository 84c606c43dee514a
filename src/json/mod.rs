//! JSON text (RFC 8259): scanning, unescaping and writing.
//!
//! Never builds a tree: values stay spans of the input until somebody has to change them.

mod block;
mod probe;
mod scan;
mod value;
mod write;

pub use probe::Probe;
pub use scan::{Bounds, Scanner, SyntaxError};
pub use value::{Kind, Value};
pub use write::{write_escaped, write_string};
