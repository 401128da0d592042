//! Why a backup of another program cannot be read, by what a caller does about it.

use std::io;
use std::path::{Path, PathBuf};

use aquifer_format::Revision;
use aquifer_log::store::Key;
use aquifer_log::{DatabaseName, LogError, PlanError, StoreError};
use aquifer_replicate::restore::RestoreError;

/// Result of this crate.
pub type Result<T, E = MigrateError> = std::result::Result<T, E>;

/// Reading a backup failed. Nothing was written to where it is; a file that was to be made is not there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MigrateError {
    /// The store failed; the error says whether to try again.
    #[error(transparent)]
    Store(#[from] StoreError),

    /// There is no backup of the kind that was asked for.
    #[error("{url} holds no backup {of}: check the URL, which must lead to where '{hint}' is")]
    NoBackup {
        /// The store.
        url: String,
        /// What was looked for.
        of: String,
        /// How the layout that was expected begins.
        hint: &'static str,
    },

    /// There are several databases, and none was named.
    #[error("{url} holds backups of several databases: {}. Say which with --database", names.join(", "))]
    SeveralDatabases {
        /// The store.
        url: String,
        /// Their names, ascending.
        names: Vec<String>,
    },

    /// No such generation, or none that is old enough.
    #[error("{url}: no generation {what} of '{database}'; `aquifer ls --from auto` tells which there are")]
    NoGeneration {
        /// The store.
        url: String,
        /// The database.
        database: String,
        /// What was asked for.
        what: String,
    },

    /// The format does not know what was asked for.
    #[error("{format} does not know {what}: {instead}")]
    Unsupported {
        /// The format.
        format: &'static str,
        /// What was asked for.
        what: &'static str,
        /// What can be asked for.
        instead: &'static str,
    },

    /// An object's bytes are not what was written there.
    #[error("{url}: '{key}' is damaged: {reason}")]
    Damaged {
        /// The store.
        url: String,
        /// The object.
        key: Key,
        /// What is wrong with it.
        reason: String,
    },

    /// Objects are missing between others. Nothing after the gap can be restored.
    #[error("{url}: {missing} missing after '{after}'{}", match last { Some(last) => format!(
        ". What was written up to {last} can be restored: say so with --txid {last}"), None => String::new() })]
    Missing {
        /// The store.
        url: String,
        /// What is missing, with its verb.
        missing: String,
        /// The last object before the gap.
        after: String,
        /// The last position before the gap, if anything can be restored.
        last: Option<u64>,
    },

    /// Objects that do not go together, or an impossible plan.
    #[error("{url}: '{prefix}' cannot be restored: {reason}")]
    Broken {
        /// The store.
        url: String,
        /// The backup's directory.
        prefix: String,
        /// Why.
        reason: String,
    },

    /// There is no room for the database that an object says or makes. Nothing but its beginning was written, and that is gone.
    #[error("{url}: '{key}' is of a database that does not fit: {source}")]
    NoRoom {
        /// The store.
        url: String,
        /// The object.
        key: Key,
        /// How much is needed, and where there is how much.
        source: Box<RestoreError>,
    },

    /// The target of a restore.
    #[error(transparent)]
    Target(Box<RestoreError>),

    /// SQLite finds faults in a database that was restored exactly.
    #[error("'{prefix}' restores as its objects say, and SQLite finds it corrupt: {}", problems.join("; "))]
    Integrity {
        /// The backup's directory.
        prefix: String,
        /// What SQLite said, at most 100 lines.
        problems: Vec<String>,
    },

    /// A local file could not be read or written.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },

    /// There is a database of that name, and it is not overwritten.
    #[error(
        "{url} has a database '{name}' already, and it stays as it is: import under another name. Where `replicate` has \
         begun it, this backup's older moments can be had by `restore --from` as before"
    )]
    Exists {
        /// The store.
        url: String,
        /// The name.
        name: DatabaseName,
    },

    /// The newest generation was imported, and older ones were not made visible.
    #[error(
        "'{name}' is in {url} at {newest}, whole, but {missing} of the generations before it are not: {source}. To have all \
         of them, import once more under another name"
    )]
    Partly {
        /// The store.
        url: String,
        /// The database.
        name: DatabaseName,
        /// Its newest revision.
        newest: Revision,
        /// How many generations are missing.
        missing: usize,
        /// Why.
        source: Box<MigrateError>,
    },

    /// There is something where a replica was to be written.
    #[error(
        "{url} has '{key}', which no earlier export of an older revision has written: name an empty place"
    )]
    Occupied {
        /// The store.
        url: String,
        /// What is there.
        key: Key,
    },

    /// Some clients could not use it.
    #[error(
        "the database has pages of {0} bytes, and Turso's and libSQL's sync clients take pages of 4096 bytes only: say \
         --any-page-size if none of these is to use it"
    )]
    PageSize(u32),

    /// Writing to an Aquifer store failed.
    #[error(transparent)]
    Log(#[from] LogError),

    /// What was imported cannot be read again.
    #[error("what was imported does not prove: {0}")]
    Proof(Box<PlanError>),

    /// A database could not be shipped into an Aquifer store.
    #[error(transparent)]
    Replicate(Box<aquifer_replicate::Error>),

    /// Somebody replicates the database that was to be opened.
    #[error("{} is in use: the database is replicated already. Stop that first", state.display())]
    Replicated {
        /// The directory of its state.
        state: PathBuf,
    },

    /// SQLite failed.
    #[error(transparent)]
    Sqlite(#[from] aquifer_sqlite::Error),
}

impl From<aquifer_replicate::Error> for MigrateError {
    fn from(error: aquifer_replicate::Error) -> MigrateError {
        MigrateError::Replicate(Box::new(error))
    }
}

impl From<PlanError> for MigrateError {
    fn from(error: PlanError) -> MigrateError {
        MigrateError::Proof(Box::new(error))
    }
}

impl From<RestoreError> for MigrateError {
    fn from(error: RestoreError) -> MigrateError {
        MigrateError::Target(Box::new(error))
    }
}

impl MigrateError {
    pub(crate) fn io(what: &'static str, path: &Path, source: io::Error) -> MigrateError {
        MigrateError::Io { what, path: path.to_owned(), source }
    }

    /// Whether the same call may succeed later without anybody changing a setting.
    pub fn is_transient(&self) -> bool {
        match self {
            MigrateError::Store(error) => error.is_transient(),
            MigrateError::Target(error) => error.is_transient(),
            MigrateError::Log(error) => error.is_transient(),
            MigrateError::Partly { source, .. } => source.is_transient(),
            _ => false,
        }
    }

    /// Whether this backup is at fault, so that another one may be read all the same.
    pub(crate) fn is_of_the_backup(&self) -> bool {
        match self {
            MigrateError::NoGeneration { .. }
            | MigrateError::Unsupported { .. }
            | MigrateError::Damaged { .. }
            | MigrateError::Missing { .. }
            | MigrateError::Broken { .. }
            | MigrateError::Integrity { .. }
            | MigrateError::PageSize(_) => true,
            // Of the origin: an object that was removed, or moved to where it cannot be read.
            MigrateError::Store(error) => !error.is_transient(),
            _ => false,
        }
    }

    /// Whether there simply is no backup.
    pub fn is_no_backup(&self) -> bool {
        match self {
            MigrateError::NoBackup { .. } => true,
            MigrateError::Store(error) => error.is_not_found(),
            _ => false,
        }
    }
}
