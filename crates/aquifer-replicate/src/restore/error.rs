//! Why a restore failed, by what a caller does about it.

use std::io;
use std::path::{Path, PathBuf};

use aquifer_format::{DbChecksum, PageHash, Pgno, Revision};
use aquifer_log::store::Key;
use aquifer_log::{LogError, PlanError};

/// A restore failed. The target is as it was, and no other file is left.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The revision asked for cannot be restored; the error says why.
    #[error(transparent)]
    Plan(#[from] PlanError),

    /// Reading the store failed, or an object in it is damaged.
    #[error(transparent)]
    Log(#[from] LogError),

    /// There is a file at the target.
    #[error(
        "{0} exists already: name another file, or use --force to replace it (--if-not-exists to keep it)"
    )]
    TargetExists(PathBuf),

    /// The target is not a file, or lies in no directory.
    #[error("{path} cannot be restored to: {reason}")]
    BadTarget {
        /// The target.
        path: PathBuf,
        /// Why.
        reason: String,
    },

    /// Another program has the target open, and would go on with a file that is no longer there.
    #[error("{path} is open in another program and cannot be replaced: stop it first ({source})")]
    TargetInUse {
        /// The target.
        path: PathBuf,
        /// What SQLite said.
        source: aquifer_sqlite::Error,
    },

    /// There is no room for it. Nothing was written.
    #[error("it takes {} MiB, and {path} has room for {} MiB: make room there, or name another place", mib(*needed, true), mib(*most, false))]
    NoRoom {
        /// The directory where it was to be made.
        path: PathBuf,
        /// Bytes of the database.
        needed: u64,
        /// Bytes that a file there can have.
        most: u64,
    },

    /// A file could not be written, read or renamed.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },

    /// SQLite failed.
    #[error(transparent)]
    Sqlite(#[from] aquifer_sqlite::Error),

    /// Undamaged segments give another page than they say: they do not belong together.
    #[error(
        "page {pgno} comes out wrong (hash {found}, expected {expected}): its content in '{base}' and what \
         segments up to '{newest}' say of it do not belong together; restore another revision, and keep the store as it is"
    )]
    Page {
        /// The page.
        pgno: Pgno,
        /// The segment with the page's image.
        base: Key,
        /// The newest segment with an entry of the page.
        newest: Key,
        /// The hash that the newest entry has.
        expected: PageHash,
        /// The hash of what came out.
        found: PageHash,
    },

    /// The base has no image of a page.
    #[error("page {pgno} has no content: '{base}', which all others build on, does not hold it")]
    NoImage {
        /// The page.
        pgno: Pgno,
        /// The base.
        base: Key,
    },

    /// All pages are as their segments say, and together not what the last segment says.
    #[error(
        "the database of revision {revision} comes out wrong: {pages} pages with checksum {checksum}, expected \
         {expected_pages} with {expected_checksum}; restore another revision, and keep the store as it is"
    )]
    Checksum {
        /// The revision.
        revision: Revision,
        /// Pages that there are, without the lock-byte page.
        pages: u32,
        /// Pages that there must be.
        expected_pages: u32,
        /// The checksum of the pages.
        checksum: DbChecksum,
        /// The checksum that they must have.
        expected_checksum: DbChecksum,
    },

    /// The database is the one that was replicated, byte for byte, and SQLite finds faults in it.
    #[error("revision {revision} restores exactly, and SQLite's integrity check finds it corrupt: {}", problems.join("; "))]
    Integrity {
        /// The revision.
        revision: Revision,
        /// What SQLite said, at most 100 lines.
        problems: Vec<String>,
    },
}

/// What is needed is rounded up, what there is down.
fn mib(bytes: u64, up: bool) -> u64 {
    if up { bytes.div_ceil(1 << 20) } else { bytes >> 20 }
}

impl RestoreError {
    pub(crate) fn io(what: &'static str, path: &Path, source: io::Error) -> RestoreError {
        RestoreError::Io { what, path: path.to_owned(), source }
    }

    /// Whether the same call may succeed later without anybody changing a setting.
    pub fn is_transient(&self) -> bool {
        match self {
            RestoreError::Plan(error) => error.is_transient(),
            RestoreError::Log(error) => error.is_transient(),
            RestoreError::TargetInUse { .. } => true,
            RestoreError::Sqlite(error) => error.is_transient(),
            _ => false,
        }
    }
}
