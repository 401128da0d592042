//! Settings: command line over environment over configuration file over defaults.

mod file;
mod keys;
mod litestream;
mod merge;
mod settings;

pub(crate) use file::{ConfigError, DatabaseEntry, DirectoryEntry, SyncEntry};
pub(crate) use litestream::translate as translate_litestream;
pub(crate) use merge::{Origin, Setting, Settings};
pub(crate) use settings::{DatabaseSettings, ReplicateSettings, given};
