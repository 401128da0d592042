//! What can go wrong with a synced database.

use std::io;
use std::path::PathBuf;

use crate::remote::RemoteError;
use crate::{diff, push, rebase, sidecar};

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What keeps a database from being synced. Nothing is lost: what was committed is in the database, and is pushed when
/// the cause is gone.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The database, or its WAL, cannot be used.
    #[error(transparent)]
    Database(#[from] aquifer_sqlite::Error),

    /// What is kept beside the database cannot be used.
    #[error(transparent)]
    Sidecar(#[from] sidecar::SidecarError),

    /// The images of the database cannot be compared.
    #[error("what has changed locally cannot be found out: {0}")]
    Diff(#[from] diff::Error),

    /// The local changes cannot be applied to what the server has.
    #[error("the local changes do not go onto the server's: {0}")]
    Rebase(#[from] rebase::Error),

    /// The server cannot be reached, or does not do what it is asked.
    #[error(transparent)]
    Remote(#[from] RemoteError),

    /// The server does not take what was changed locally.
    #[error("the server refuses a local change: {message} (in: {statement})")]
    Refused {
        /// What it was asked to do.
        statement: String,
        /// What it says.
        message: String,
    },

    /// Others push changes of the same rows faster than this client can put its own on top of them.
    #[error(
        "others push changes of the same rows all the time, faster than the local ones can follow: sync again later"
    )]
    Contended,

    /// There is no remote database.
    #[error("{path} has no remote database: name one (Builder::remote, --remote)", path = path.display())]
    NoRemote {
        /// The database.
        path: PathBuf,
    },

    /// The database is synced with another remote one.
    #[error(
        "{path} is a copy of {remote}, and not of the database that was named now: name that one; or, if the same          database has moved to a new place, say so with --moved (Builder::moved)",
        path = path.display()
    )]
    OtherRemote {
        /// The database.
        path: PathBuf,
        /// The remote database that it is a copy of.
        remote: String,
    },

    /// What the server has did not come of what it had.
    #[error(
        "the database at {remote} is another one by now than {path} is a copy of: it was begun anew, or set back. To add the          rows that are here to what it has, remove {path}-aquifer and attach the database anew with --merge; to take what          it has alone, move {path} and {path}-aquifer away first",
        path = path.display()
    )]
    OtherHistory {
        /// The database.
        path: PathBuf,
        /// The remote database.
        remote: String,
    },

    /// The database is synced in another protocol.
    #[error(
        "{path} was synced in another protocol than the one that was named now: name that one, or none; or remove \
         {path}-aquifer and attach the database anew with --merge: no row is lost by that",
        path = path.display()
    )]
    OtherProtocol {
        /// The database.
        path: PathBuf,
    },

    /// What is pushed is the whole database.
    #[error(
        "{path} is synced in libSQL's protocol, in which the whole database is pushed as it is: tables cannot be \
         left out (--ignore-table, Builder::tables_ignore), rows not be transformed, and a push not be cut \
         (--push-batch-rows, Builder::push_batch_rows)",
        path = path.display()
    )]
    WholeDatabase {
        /// The database.
        path: PathBuf,
    },

    /// The database is kept by a client of libSQL's, and cannot be taken over as it is.
    #[error(
        "{path} is kept by a client of libSQL's, and what {path}-info says of it does not hold ({reason}): have that client push what it has, and remove {path}-info and {path} to fetch the database anew; \
         or remove {path}-info alone, and add its rows to the remote ones with --merge",
        path = path.display()
    )]
    LibsqlCopy {
        /// The database.
        path: PathBuf,
        /// Why it cannot be taken over.
        reason: String,
    },

    /// The local changes cannot be made statements for the server.
    #[error("the local changes cannot be pushed: {0}")]
    Push(push::PushError),

    /// An object store cannot be followed.
    #[error(transparent)]
    Follow(Box<aquifer_replicate::follow::FollowError>),

    /// A file beside the database cannot be read or written.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },

    /// The sidecar tells of a database that is not there.
    #[error(
        "{path} is missing, but {path}-aquifer tells of it: put the database back where it was; or, if it is gone for \
         good, remove {path}-aquifer to fetch the server's anew{unpushed}",
        path = path.display()
    )]
    DatabaseMissing {
        /// The database.
        path: PathBuf,
        /// What is said of work that would be lost.
        unpushed: &'static str,
    },

    /// There are a database and a remote one, and nothing says what they have to do with each other.
    #[error(
        "{path} and the remote database both have content, and nothing says that they belong together \
         ({path}-aquifer is missing): with --merge (Builder::merge) the local rows are added to the remote ones; to \
         take the remote database alone, move {path} away first",
        path = path.display()
    )]
    NotAttached {
        /// The database.
        path: PathBuf,
    },

    /// The sidecar belongs to another database.
    #[error(
        "{path} is not the database that {path}-aquifer tells of ({differing} of {pages} pages differ, and it is another \
         file): put that one back; or remove {path}-aquifer, and attach this one with --merge",
        path = path.display()
    )]
    OtherDatabase {
        /// The database.
        path: PathBuf,
        /// Pages that differ.
        differing: u64,
        /// Pages that were compared.
        pages: u32,
    },

    /// The file was replaced by another one while it was open.
    #[error("{path} was replaced by another file while it was open: open it again", path = path.display())]
    Replaced {
        /// The database.
        path: PathBuf,
    },

    /// Local and remote database have different page sizes.
    #[error(
        "{path} has pages of {local} bytes and the remote database of {remote}: change it with PRAGMA page_size and \
         VACUUM (in journal_mode=DELETE)",
        path = path.display()
    )]
    PageSize {
        /// The database.
        path: PathBuf,
        /// Bytes of a local page.
        local: u32,
        /// Bytes of a remote page.
        remote: u32,
    },

    /// A page that the server had at an older revision is needed and cannot be had.
    #[error(
        "page {pgno} of the server's revision {revision} is neither here nor given by the server, so that local changes \
         cannot be told: remove the file with -aquifer after the database's name, and attach the database anew with \
         --merge: no row is lost by that"
    )]
    BasePageMissing {
        /// The page.
        pgno: aquifer_format::Pgno,
        /// The revision.
        revision: String,
    },
}

impl Error {
    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |source| Error::File { action, path, source }
    }
}

impl Error {
    /// Whether the same call may succeed later, without anyone mending anything: the server cannot be reached or is
    /// overloaded, or others hold the database.
    pub fn passes(&self) -> bool {
        match self {
            Error::Remote(error) => error.passes(),
            Error::Database(error) => error.is_transient(),
            Error::Contended => true,
            _ => false,
        }
    }
}

impl From<push::PushError> for Error {
    fn from(error: push::PushError) -> Error {
        match error {
            push::PushError::Remote(error) => Error::Remote(error),
            push::PushError::Diff(error) => Error::Diff(error),
            error => Error::Push(error),
        }
    }
}
