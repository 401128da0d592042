//! Why a database cannot be served.

use std::path::PathBuf;

use aquifer_format::Timestamp;
use aquifer_log::{DatabaseName, LogError, PlanError};
use aquifer_replicate::Error as ReplicaError;
use aquifer_replicate::restore::RestoreError;

/// A hosted database cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// Nobody created it.
    #[error("there is no database '{0}': an administrator can create it")]
    NoSuchDatabase(DatabaseName),

    /// It was deleted, and its grace time is not over.
    #[error(
        "'{name}' was deleted, and will be gone for good at {gone}: an administrator can still undelete it"
    )]
    Deleted {
        /// Its name.
        name: DatabaseName,
        /// When its grace time is over.
        gone: Timestamp,
    },

    /// It would be overwritten.
    #[error("there is a database '{0}' already")]
    Exists(DatabaseName),

    /// An administrator has frozen it.
    #[error("'{0}' is frozen: it can be read, but not written, until an administrator unfreezes it")]
    Frozen(DatabaseName),

    /// Another server ships to it faster than it can be restored here.
    #[error("'{0}' is in use by another server: ask that one")]
    Contended(DatabaseName),

    /// Another server has taken the database over; what was not durable then is not acknowledged.
    #[error("'{0}' was taken over by another server: try again")]
    TakenOver(DatabaseName),

    /// Local files cannot be used.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },

    /// Another process uses the data directory.
    #[error("{0} is in use by another server of this machine: give each a --data-dir of its own")]
    DataDirInUse(PathBuf),

    /// A new database cannot be made.
    #[error("cannot make {path}: {source}")]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },

    /// It cannot be restored from the store.
    #[error(transparent)]
    Restore(Box<RestoreError>),

    /// A revision cannot be found, or what is in the store does not lead there.
    #[error(transparent)]
    Plan(Box<PlanError>),

    /// What is committed cannot be made durable.
    #[error(transparent)]
    Replica(Box<ReplicaError>),

    /// The store failed.
    #[error(transparent)]
    Log(Box<LogError>),
}

impl From<RestoreError> for HostError {
    fn from(error: RestoreError) -> HostError {
        HostError::Restore(Box::new(error))
    }
}

impl From<ReplicaError> for HostError {
    fn from(error: ReplicaError) -> HostError {
        HostError::Replica(Box::new(error))
    }
}

impl From<PlanError> for HostError {
    fn from(error: PlanError) -> HostError {
        match error {
            PlanError::Log(error) => error.into(),
            error => HostError::Plan(Box::new(error)),
        }
    }
}

impl From<LogError> for HostError {
    fn from(error: LogError) -> HostError {
        HostError::Log(Box::new(error))
    }
}
