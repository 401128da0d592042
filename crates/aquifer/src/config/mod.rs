//! Settings: command line over environment over configuration file over defaults.

mod file;
mod keys;
mod merge;

pub(crate) use file::{ConfigError, DatabaseEntry, DirectoryEntry};
pub(crate) use merge::{Origin, ReplicateFlags, Setting, Settings};
