//! The offline-first client.
//!
//! - [`diff`]: from two images of a database, and the pages that differ, to the rows that differ;
//! - [`push`]: from these rows to SQL that a server runs exactly once;
//! - [`rebase`]: local changes, put onto what the server has, and what becomes of conflicts;
//! - [`remote`]: the server, over HTTP.

pub mod diff;
pub mod push;
pub mod rebase;
pub mod remote;
