//! One file per command: what it is called with, the call of the library, and what it prints.

pub(crate) mod admin;
pub(crate) mod bottomless;
pub(crate) mod compact;
pub(crate) mod completions;
pub(crate) mod config;
mod config_import;
mod confirm;
pub(crate) mod conflicts;
pub(crate) mod copy;
pub(crate) mod doctor;
pub(crate) mod export;
mod foreign;
pub(crate) mod import;
pub(crate) mod info;
pub(crate) mod ls;
pub(crate) mod replicate;
pub(crate) mod restore;
pub(crate) mod rm;
pub(crate) mod serve;
pub(crate) mod snapshot;
pub(crate) mod sync;
pub(crate) mod verify;
