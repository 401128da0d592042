//! The server as its users' clients see it: unmodified clients from npm, `PyPI` and crates.io, in the exact
//! versions of `js/package-lock.json`, `python/requirements.txt` and `rust/Cargo.lock`, in processes of their own.
//!
//! `check` installs them. Without them the tests are skipped, with a line that says so; where `CI=true`, they fail.

#![allow(clippy::unwrap_used, reason = "tests")]

mod installed;
mod scenarios;
mod stage;

#[allow(dead_code, reason = "the tests of the command line use the rest")]
#[path = "../cli/daemon.rs"]
mod daemon;
#[allow(dead_code, reason = "the tests of the command line use the rest")]
#[path = "../cli/server.rs"]
mod server;
#[allow(dead_code, reason = "the tests of the command line use the rest")]
#[path = "../cli/world.rs"]
mod world;
