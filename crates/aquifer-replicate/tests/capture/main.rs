//! Batches, applied one after the other, are the database at every txid.
#![allow(clippy::unwrap_used, reason = "a test that cannot set the stage should fail")]

mod batches;
mod stage;
#[path = "../support/mod.rs"]
mod support;
mod traps;
