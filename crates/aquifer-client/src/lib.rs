//! The offline-first client.
//!
//! - [`diff`]: from two images of a database, and the pages that differ, to the rows that differ;
//! - [`remote`]: the server, over HTTP.

pub mod diff;
pub mod remote;
