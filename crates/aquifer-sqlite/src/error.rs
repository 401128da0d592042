//! What can go wrong with a database that others own.

use std::fmt;
use std::path::PathBuf;

use aquifer_format::Pgno;

use rusqlite::ErrorCode;

use crate::wal::WalError;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no database file.
    #[error("no database at {0}")]
    Missing(PathBuf),

    /// The file is empty: an application has created it and not written its first page yet.
    #[error("{0} is empty: no database yet")]
    Empty(PathBuf),

    /// The file is no SQLite database (or is encrypted).
    #[error("{0} is not an SQLite database (or is encrypted)")]
    NotADatabase(PathBuf),

    /// The database uses a rollback journal: there is no WAL to follow.
    #[error(
        "{0} uses a rollback journal, and only the WAL can be followed: run with --wal to switch it \
         (PRAGMA journal_mode=WAL; it stays so, for all its users)"
    )]
    NotWal(PathBuf),

    /// The database uses a rollback journal, and SQLite does not switch it; it does not tell why.
    #[error(
        "{0} uses a rollback journal, and cannot be switched to a WAL: its disk may be full, or it may not be written \
         here; see to that, and try again"
    )]
    NoWal(PathBuf),

    /// Another connection holds what was needed; trying again later may succeed.
    #[error("{path} is busy: {source}")]
    Busy {
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },

    /// The WAL does not hold what its index promised.
    #[error("WAL of {path}: {source}")]
    Wal {
        /// The database.
        path: PathBuf,
        /// What is wrong with it.
        source: WalError,
    },

    /// Reading the WAL file failed.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },

    /// SQLite's file layer failed; `code` is its extended result code.
    #[error("SQLite's file layer failed to {what} {path} (code {code})")]
    Vfs {
        /// The database.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Extended result code.
        code: i32,
    },

    /// A page to be written has the wrong size or number.
    #[error("page {pgno} cannot be written into {path}: {reason}")]
    BadPage {
        /// The database.
        path: PathBuf,
        /// The page.
        pgno: Pgno,
        /// Why.
        reason: String,
    },

    /// SQLite was compiled without something that Aquifer needs.
    #[error(
        "this program was built with an SQLite that lacks {0}: build it from the workspace, whose \
         .cargo/config.toml sets LIBSQLITE3_FLAGS"
    )]
    Build(&'static str),

    /// Anything else that SQLite said.
    #[error("{path}: {}", said(source))]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
}

impl Error {
    /// Whether the same call may succeed later, without anyone mending anything.
    pub fn is_transient(&self) -> bool {
        matches!(self, Error::Busy { .. })
    }

    /// Whether the disk has no room for what a checkpoint writes.
    pub fn is_full(&self) -> bool {
        matches!(self, Error::Sqlite { source, .. }
            if source.sqlite_error_code() == Some(ErrorCode::DiskFull))
    }
}

/// What SQLite said, and what to do where that is room on the disk, or may be: of a file that cannot be made or written it
/// does not tell why.
pub fn said(source: &rusqlite::Error) -> impl fmt::Display {
    let advice = match source.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => ": make room on its disk, and try again",
        Some(ErrorCode::CannotOpen | ErrorCode::SystemIoFailure) => {
            " (its disk may be full or fail, or it may not be written here: see to that, and try again)"
        }
        _ => "",
    };
    fmt::from_fn(move |f| write!(f, "{source}{advice}"))
}
