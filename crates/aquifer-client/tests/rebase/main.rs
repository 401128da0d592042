//! Local changes put onto what the server has, with stock SQLite on both sides.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "../diff/files.rs"]
#[allow(dead_code, reason = "shared with the tests of the diff")]
mod files;
mod large;
mod outcomes;
mod random;
mod stage;
mod traps;
