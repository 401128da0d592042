//! The sync server: hosted databases on stock SQLite, whose primary storage is an object store.
#![forbid(unsafe_code)]

pub mod auth;
pub mod cluster;
pub mod hosted;
pub mod hrana;
pub mod http;
pub mod libsql;
pub mod sql;
pub mod turso;
mod watched;

pub use watched::WatchedError;
