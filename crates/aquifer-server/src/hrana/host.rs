use std::future::Future;

use aquifer_format::Revision;
use rusqlite::Connection;

use crate::sql::Access;

/// What Hrana needs of a hosted database.
pub trait Database: Send + Sync + 'static {
    /// A new connection to the database, in WAL mode; for [`Access::ReadOnly`] opened read-only, so that it cannot
    /// even hold the write lock. It blocks: it is called on a thread that may.
    fn connect(&self, access: Access) -> Result<Connection, Unavailable>;

    /// Whether it may be written at all, whoever asks; else why not, for the client.
    fn writable(&self) -> Result<(), String> {
        Ok(())
    }

    /// A sync client's push is durable.
    fn pushed(&self, _client: &str) {}

    /// Waits until everything that was committed before the call is durable as the database's policy wants it, and
    /// says up to where. No answer leaves before. It must be cancel-safe, and cheap when nothing is pending.
    fn durable(&self) -> impl Future<Output = Result<Revision, Unavailable>> + Send;
}

/// The database cannot be used, or cannot make its commits durable, for now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the database is not available: {reason}")]
pub struct Unavailable {
    /// Why, and what to do.
    pub reason: String,
}
