//! Why a database cannot be served.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aquifer_format::Timestamp;
use aquifer_log::{DatabaseName, Deletion, ForkError, LogError, PlanError};
use aquifer_replicate::Error as ReplicaError;
use aquifer_replicate::restore::RestoreError;

use crate::cluster::Elsewhere;

/// A hosted database cannot be used. Cheap to clone: all who wait for a database learn why it could not be opened.
#[derive(Clone, Debug, thiserror::Error)]
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

    /// It was deleted for good, but for what was forked from it.
    #[error(
        "'{0}' was deleted for good; what its forks need of it stays until they are deleted, or do not need it any more, \
         and until then its name is not free"
    )]
    Purged(DatabaseName),

    /// It is being set back, or that was interrupted.
    #[error(
        "'{0}' is being set back to an earlier moment; if that was interrupted, an administrator has to set it back again"
    )]
    Left(DatabaseName),

    /// It would be overwritten.
    #[error("there is a database '{0}' already")]
    Exists(DatabaseName),

    /// An administrator has frozen it.
    #[error("'{0}' is frozen: it can be read, but not written, until an administrator unfreezes it")]
    Frozen(DatabaseName),

    /// Another server has it.
    #[error("'{0}' is served by {place}: ask there", place = place(.1))]
    Elsewhere(DatabaseName, Elsewhere),

    /// Another writer ships to it faster than it can be restored here.
    #[error("'{0}' is written to by something that is no server: stop it")]
    Contended(DatabaseName),

    /// Another server has taken the database over; what was not durable then is not acknowledged.
    #[error("'{0}' was taken over by another server: try again")]
    TakenOver(DatabaseName),

    /// So many databases are open, and in use.
    #[error("{open} databases are in use, and no more may be: try again, or raise --max-open")]
    TooManyOpen {
        /// How many.
        open: usize,
    },

    /// The store takes so long that a sign of life would be late.
    #[error("the store answers too late to serve with a lease of {lease:?}: raise --lease")]
    SlowStore {
        /// The lease.
        lease: Duration,
    },

    /// The server stops.
    #[error("this server is being stopped: try again, or ask another one")]
    Stopping,

    /// Local files cannot be used.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: Arc<std::io::Error>,
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
        source: Arc<rusqlite::Error>,
    },

    /// It cannot be restored from the store.
    #[error(transparent)]
    Restore(Arc<RestoreError>),

    /// A fork was not made.
    #[error(transparent)]
    Fork(Arc<ForkError>),

    /// A revision cannot be found, or what is in the store does not lead there.
    #[error(transparent)]
    Plan(Arc<PlanError>),

    /// What is committed cannot be made durable.
    #[error(transparent)]
    Replica(Arc<ReplicaError>),

    /// The store failed.
    #[error(transparent)]
    Log(Arc<LogError>),
}

fn place(other: &Elsewhere) -> String {
    match &other.url {
        Some(url) => url.clone(),
        None => format!("a server on {} that advertises no address", other.host),
    }
}

impl HostError {
    /// That a database is deleted.
    pub(crate) fn deleted(name: &DatabaseName, deletion: Deletion) -> HostError {
        if deletion.purged {
            return HostError::Purged(name.clone());
        }
        HostError::Deleted { name: name.clone(), gone: deletion.gone }
    }
}

impl From<ForkError> for HostError {
    fn from(error: ForkError) -> HostError {
        match error {
            ForkError::Taken { name, .. } => HostError::Exists(name),
            ForkError::Plan(error) => error.into(),
            error => HostError::Fork(Arc::new(error)),
        }
    }
}

impl From<RestoreError> for HostError {
    fn from(error: RestoreError) -> HostError {
        HostError::Restore(Arc::new(error))
    }
}

impl From<ReplicaError> for HostError {
    fn from(error: ReplicaError) -> HostError {
        HostError::Replica(Arc::new(error))
    }
}

impl From<PlanError> for HostError {
    fn from(error: PlanError) -> HostError {
        match error {
            PlanError::Log(error) => error.into(),
            error => HostError::Plan(Arc::new(error)),
        }
    }
}

impl From<LogError> for HostError {
    fn from(error: LogError) -> HostError {
        HostError::Log(Arc::new(error))
    }
}
