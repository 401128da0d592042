//! Databases that are synced with a server.
#![allow(clippy::unwrap_used, reason = "tests")]

mod bootstrap;
mod converge;
mod dropped;
mod exactly_once;
mod foreign;
mod frames;
#[path = "../../../aquifer/tests/clients/installed.rs"]
#[allow(dead_code, reason = "shared with the tests of the clients")]
mod installed;
mod network;
mod options;
mod replica;
#[path = "../remote/stage.rs"]
#[allow(dead_code, reason = "shared with the tests of the remote")]
mod server;
mod turso;
mod tursodb;
mod world;
