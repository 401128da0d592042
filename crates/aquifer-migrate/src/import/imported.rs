//! What an import came to.

use aquifer_format::{Revision, Timestamp};

use crate::backup::Backup;
use crate::error::MigrateError;

/// What was imported.
#[derive(Debug)]
pub struct Imported {
    /// The newest generation.
    pub newest: ImportedGeneration,
    /// Those before it, newest first, where they were wanted.
    pub older: Vec<ImportedGeneration>,
    /// What was wanted and could not be read, newest first.
    pub left_out: Vec<LeftOut>,
    /// How many generations there are before the newest that were not wanted.
    pub not_imported: usize,
}

/// A generation that was imported.
#[derive(Debug, Clone)]
pub struct ImportedGeneration {
    /// What it was imported from.
    pub backup: Backup,
    /// Its newest revision.
    pub revision: Revision,
    /// That revision's pages.
    pub pages: u32,
    /// Their size in bytes.
    pub page_size: u32,
    /// When the first of its batches was committed, as the origin tells.
    pub first_commit: Timestamp,
    /// When the last one was.
    pub last_commit: Timestamp,
    /// Batches of its history, each a moment that can be restored.
    pub batches: u64,
    /// Bytes read.
    pub bytes_fetched: u64,
}

/// A generation, or the beginning of one that was imported from a later moment on, that was left out.
#[derive(Debug)]
pub struct LeftOut {
    /// The generation, as its format writes it.
    pub generation: Option<String>,
    /// Why.
    pub reason: MigrateError,
}
