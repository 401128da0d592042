//! The offline-first client's parts that need no network.
//!
//! - [`diff`]: from two images of a database, and the pages that differ, to the rows that differ.

pub mod diff;
