//! The offline-first client: ordinary SQLite files, synced with a server.
//!
//! A program goes on using its database through ordinary connections. Nothing is recorded while it writes; what was
//! changed is found out when it is synced, by comparing pages with those of the server's image that was pulled last.
//!
//! - [`Builder`], [`Database`]: a synced database;
//! - [`Replica`]: a copy that is only read here;
//! - [`remote`]: the server, over HTTP;
//! - [`diff`]: from two images of a database, and the pages that differ, to the rows that differ;
//! - [`push`]: from rows that differ to SQL for the server;
//! - [`rebase`]: rows that differ, put on top of what the server has; conflicts.
#![forbid(unsafe_code)]

mod adopt;
mod bootstrap;
mod builder;
mod database;
pub mod diff;
mod engine;
mod error;
mod frames;
mod image;
mod pull;
pub mod push;
pub mod rebase;
pub mod remote;
mod replica;
mod retrying;
mod sidecar;
mod stats;
mod watch;

pub use builder::{BootstrapProgress, Builder};
pub use database::{Changes, Database, Synced, Times, recorded_conflicts};
pub use error::{Error, Result};
pub use frames::Protocol;
pub use replica::Replica;
pub use sidecar::{RecordedConflict, SidecarError};
pub use stats::{Stats, recorded_stats};
pub use watch::WatchEvent;

/// Milliseconds since 1970.
fn now() -> i64 {
    aquifer_format::Timestamp::now().as_millis()
}

/// What came of work on another thread; a panic there is one here.
fn joined<T>(done: Result<T, tokio::task::JoinError>) -> T {
    done.unwrap_or_else(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        // Only when the runtime ends.
        Err(error) => panic!("{error}"),
    })
}
