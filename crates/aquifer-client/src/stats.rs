//! What there is to be said of a synced database.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::Result;
use crate::engine::Engine;
use crate::remote::Traffic;
use crate::sidecar::{Conflicts, Sidecar, SidecarError};

/// What there is to be said of a synced database.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Stats {
    /// What the server knows this copy by.
    pub client_id: String,
    /// The remote database; `None`: none yet.
    pub remote: Option<String>,
    /// The server's revision that the database is based on; `None`: nothing was pulled yet.
    pub revision: Option<String>,
    /// Rows and changes of the schema that are not pushed; `None`: cannot be told without the server (another program
    /// has overwritten what the database is based on).
    pub unpushed: Option<u64>,
    /// A push was sent and its answer was lost: the next sync finds out.
    pub is_push_open: bool,
    /// Conflicts that are recorded.
    pub conflicts: u64,
    /// Bytes in the WAL.
    pub wal_bytes: u64,
    /// When something was pushed last, in milliseconds since 1970.
    pub last_push: Option<i64>,
    /// When was pulled last, in milliseconds since 1970; also if nothing was new.
    pub last_pull: Option<i64>,
    /// Bytes that were sent to the server.
    pub sent: u64,
    /// Bytes that were received from it.
    pub received: u64,
}

impl Stats {
    pub(crate) fn of(engine: &mut Engine, (sent, received): (u64, u64)) -> Result<Stats> {
        let unpushed = engine.unpushed()?;
        let wal_bytes = engine.wal_bytes();
        let conflicts = Conflicts::count(engine.sidecar().db());
        let conflicts = conflicts.map_err(|e| engine.sidecar().error(e))?;
        let state = engine.state();
        Ok(Stats {
            client_id: state.client_id.clone(),
            remote: state.remote.clone(),
            revision: state.base.revision.clone(),
            unpushed,
            is_push_open: state.attempt.is_some(),
            conflicts,
            wal_bytes,
            last_push: state.last_push,
            last_pull: state.last_pull,
            sent: state.sent + sent,
            received: state.received + received,
        })
    }
}

/// What is recorded of a database that perhaps another process syncs at this moment: what is not pushed is not found out.
/// `None`: it is not synced.
pub fn recorded_stats(database: &Path) -> Result<Option<Stats>> {
    let Some((state, db)) = Sidecar::peek(database)? else { return Ok(None) };
    let path = Sidecar::beside(database);
    let conflicts = Conflicts::count(&db).map_err(|source| SidecarError::Sqlite { path, source })?;
    let mut wal = database.as_os_str().to_owned();
    wal.push("-wal");
    Ok(Some(Stats {
        unpushed: None,
        is_push_open: state.attempt.is_some(),
        conflicts,
        wal_bytes: std::fs::metadata(wal).map_or(0, |wal| wal.len()),
        client_id: state.client_id,
        remote: state.remote,
        revision: state.base.revision,
        last_push: state.last_push,
        last_pull: state.last_pull,
        sent: state.sent,
        received: state.received,
    }))
}

/// What of a remote's traffic is in the sidecar already.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    sent: AtomicU64,
    received: AtomicU64,
}

impl Meter {
    /// Bytes sent and received since the last time.
    pub(crate) fn take(&self, traffic: &Traffic) -> (u64, u64) {
        let (sent, received) = (traffic.sent(), traffic.received());
        (
            sent.saturating_sub(self.sent.swap(sent, Ordering::Relaxed)),
            received.saturating_sub(self.received.swap(received, Ordering::Relaxed)),
        )
    }

    /// The same, and they stay to be taken.
    pub(crate) fn unsaved(&self, traffic: &Traffic) -> (u64, u64) {
        (
            traffic.sent().saturating_sub(self.sent.load(Ordering::Relaxed)),
            traffic.received().saturating_sub(self.received.load(Ordering::Relaxed)),
        )
    }
}
