//! What can go wrong in replicating a database.

use std::path::PathBuf;

use aquifer_format::{GenerationId, PageSize, Timestamp, Txid, WriterNonce};

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database, or SQLite.
    #[error(transparent)]
    Sqlite(#[from] aquifer_sqlite::Error),

    /// The store, or what is in it.
    #[error(transparent)]
    Log(#[from] aquifer_log::LogError),

    /// What is in the store cannot be continued.
    #[error(transparent)]
    Plan(#[from] aquifer_log::PlanError),

    /// The replica has stopped before.
    #[error("replication has stopped: {0}")]
    Stopped(String),

    /// The run before put a batch and did not live to note it, and this one could not ask when it started: local state
    /// is wound back to the last batch known to be durable, and pages are compared. Replicas handle it by themselves.
    #[error("the replica of {database} holds txid {} of the run before this one", after.next())]
    Behind {
        /// The database's name.
        database: String,
        /// The last batch known to be durable.
        after: Txid,
        /// Who wrote the one after it: the run before.
        writer: WriterNonce,
    },

    /// The generation was removed from the store while it was extended: a new one is begun. Replicas handle it by
    /// themselves.
    #[error("generation {generation} of {database} was removed from the store")]
    Removed {
        /// The database's name.
        database: String,
        /// The generation.
        generation: GenerationId,
    },

    /// A server answers for the database of this name: what it has acknowledged would be hidden.
    #[error(
        "{database} is served by a server on {host} since {since}: nothing else may write to it. Give this file another \
         name with --name, or stop that server"
    )]
    Served {
        /// The database's name.
        database: String,
        /// Name of the server's machine.
        host: String,
        /// When it claimed the database.
        since: Timestamp,
    },

    /// The store is primary, and has another image than the file: the file is to be restored.
    #[error("{path} is not what the store has as the newest revision of {database}: it is to be restored")]
    Outdated {
        /// The database's name.
        database: String,
        /// The file.
        path: PathBuf,
    },

    /// A batch could not be encoded: a defect of this program.
    #[error("a batch cannot be encoded: {0}")]
    Encode(aquifer_format::segment::EncodeError),

    /// The local state directory cannot be read or written.
    #[error("cannot keep state in {path}: {source}")]
    State {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },

    /// Another process replicates this database.
    #[error("{path} is replicated by another process already (it holds the lock in {state})")]
    Locked {
        /// The database.
        path: PathBuf,
        /// The state directory.
        state: PathBuf,
    },

    /// The file's name cannot name a database in a store.
    #[error("{path}: {source}: give it a name with --name")]
    Name {
        /// The database.
        path: PathBuf,
        /// Why.
        source: aquifer_log::DatabaseNameError,
    },

    /// Two databases would have the same name in the store.
    #[error(
        "{path} and {other} would both be '{name}' in the store: give one of them another name with --name"
    )]
    NameTaken {
        /// The name.
        name: String,
        /// The database.
        path: PathBuf,
        /// The one that has the name.
        other: PathBuf,
    },

    /// The file at the path now has pages of another size: another database.
    #[error(
        "{path} has pages of {found} bytes now, its replica has {expected}: it is another database now. Start it with a \
         new generation (replicate --new-generation)"
    )]
    PageSizeChanged {
        /// The database.
        path: PathBuf,
        /// Page size of the replica.
        expected: PageSize,
        /// Page size of the file.
        found: PageSize,
    },

    /// Another writer has extended the generation: this one must stop.
    #[error(
        "{database} was taken over: txid {txid} of generation {generation} was written by another writer ({by}). \
         Nothing after txid {last} of this one's is in the replica. If this database is the one to keep, start it \
         with a new generation (replicate --new-generation)",
        last = txid.previous()
    )]
    Fenced {
        /// The database's name.
        database: String,
        /// The generation.
        generation: GenerationId,
        /// The txid that was to be written.
        txid: Txid,
        /// Whose it is.
        by: WriterNonce,
    },

    /// Another writer has begun a newer generation since: a restore takes that one, whatever this one goes on with.
    #[error(
        "{database} was taken over: generation {newest} was begun by another writer after {generation}, which is this \
         one's. Nothing was shipped. To go on from there, restore the database first; if this database is the one to \
         keep, start it with a new generation (replicate --new-generation)"
    )]
    Superseded {
        /// The database's name.
        database: String,
        /// The generation that this replica has extended.
        generation: GenerationId,
        /// The newest in which there is anything.
        newest: GenerationId,
    },
}

impl Error {
    /// Whether the same step may succeed later, without anyone mending anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Sqlite(e) => e.is_transient() || self.is_without_database(),
            Error::Log(e) => e.is_transient(),
            Error::Behind { .. } | Error::Removed { .. } => true,
            Error::State { .. } => self.is_full(),
            _ => false,
        }
    }

    /// Whether another writer has gone on in this one's place, so that this one must stop.
    pub fn is_taken_over(&self) -> bool {
        matches!(self, Error::Fenced { .. } | Error::Superseded { .. } | Error::Outdated { .. })
    }

    /// Whether a disk has no room: for local state, or for what a checkpoint writes.
    pub(crate) fn is_full(&self) -> bool {
        use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        match self {
            Error::State { source, .. } => {
                matches!(source.kind(), StorageFull | QuotaExceeded | FileTooLarge)
            }
            Error::Sqlite(e) => e.is_full(),
            _ => false,
        }
    }

    /// Whether there is no database yet: no file, or an empty one.
    pub(crate) fn is_without_database(&self) -> bool {
        use aquifer_sqlite::Error::{Empty, Missing};
        matches!(self, Error::Sqlite(Missing(_) | Empty(_)))
    }

    pub(crate) fn state(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |source| Error::State { path, source }
    }
}

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
