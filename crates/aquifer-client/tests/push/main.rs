//! From local changes to statements, run as a server runs them.
#![allow(clippy::unwrap_used, reason = "tests")]

#[allow(dead_code, reason = "shared with the tests of the comparison")]
#[path = "../diff/files.rs"]
mod files;
#[allow(dead_code, reason = "shared with the tests of the network")]
#[path = "../remote/stage.rs"]
mod stage;
#[path = "../diff/workload.rs"]
mod workload;

mod exactly_once;
mod order;
mod random;
mod rows;
mod schema;
mod sent;
mod server;
