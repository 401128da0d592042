//! The offline-first client.
//!
//! - [`diff`]: from two images of a database, and the pages that differ, to the rows that differ;
//! - [`push`]: from these rows to SQL that a server runs exactly once;
//! - [`remote`]: the server, over HTTP.

pub mod diff;
pub mod push;
pub mod remote;
