//! What sync servers and their clients say to each other, as bytes. No I/O, no SQLite.
//!
//! - [`pull_updates`]: the messages of Turso's pull;
//! - [`hrana`]: the values and conditions in Hrana's JSON;
//! - [`WireRevision`]: revisions, as text.

pub mod hrana;
pub mod pull_updates;
mod revision;

pub use revision::{REVISION_HEADER, WireRevision};
