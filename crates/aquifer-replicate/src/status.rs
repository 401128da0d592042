//! What a replica says of itself.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use aquifer_format::Revision;
use aquifer_log::DatabaseName;

/// What a replica does at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplicaState {
    /// Looks for the generation to continue.
    Starting,
    /// Everything that was committed is durable.
    Idle,
    /// A batch is on its way.
    Shipping,
    /// The store cannot be reached; what is committed is kept on this disk.
    Outage(String),
    /// The database cannot be read at the moment; it is tried again.
    Waiting(String),
    /// It has stopped, and says why.
    Stopped(String),
}

/// The state of one database's replica.
#[derive(Clone, Debug)]
pub struct ReplicaStatus {
    /// The database's name in the store.
    pub name: DatabaseName,
    /// Its file.
    pub path: PathBuf,
    /// What it does.
    pub state: ReplicaState,
    /// The last revision that is durable in the store.
    pub durable: Option<Revision>,
    /// Batches captured and not yet durable.
    pub behind_txids: u64,
    /// Since when something committed may not be durable.
    pub behind_since: Option<Instant>,
    /// Bytes of frames in the WAL.
    pub wal_bytes: u64,
    /// Bytes of WAL frames captured since the start.
    pub captured_bytes: u64,
    /// Bytes of segments shipped since the start.
    pub shipped_bytes: u64,
    /// Bytes kept on disk until the store can be reached.
    pub staged_bytes: u64,
    /// Puts that failed since the start.
    pub errors: u64,
}

impl ReplicaStatus {
    pub(crate) fn new(name: DatabaseName, path: PathBuf) -> ReplicaStatus {
        ReplicaStatus {
            name,
            path,
            state: ReplicaState::Starting,
            durable: None,
            behind_txids: 0,
            behind_since: None,
            wal_bytes: 0,
            captured_bytes: 0,
            shipped_bytes: 0,
            staged_bytes: 0,
            errors: 0,
        }
    }

    /// How long something committed may have been waiting to become durable.
    pub fn lag(&self) -> Duration {
        self.behind_since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Whether the replica works and is not further behind than `bound`.
    pub fn is_healthy(&self, bound: Duration) -> bool {
        !matches!(self.state, ReplicaState::Stopped(_)) && self.lag() <= bound
    }
}
