//! What this server has seen of others.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use aquifer_log::{LogError, ServerRecord, Store};
use parking_lot::Mutex;
use uuid::Uuid;

/// More servers than this are forgotten, and looked at anew.
const KNOWN: usize = 1000;

/// The signs of life of others.
#[derive(Debug, Default)]
pub(super) struct Peers {
    seen: Mutex<HashMap<Uuid, Seen>>,
}

#[derive(Debug)]
struct Seen {
    beat: u64,
    /// When the answer came with which this sign of life was seen first. By a clock that stands still while this
    /// machine does: to wait too long costs nothing but time.
    since: Instant,
    /// When it was looked at last.
    looked: Instant,
}

/// Whether a server may answer for what it claimed.
#[derive(Debug)]
pub(super) enum Standing {
    /// It may.
    Live(ServerRecord),
    /// It does not any more.
    Over,
}

impl Peers {
    /// Looks at a server. One GET.
    pub(super) async fn judge(&self, store: &Store, id: Uuid) -> Result<Standing, LogError> {
        // What was seen before this look begins, and for how long.
        let known = self.seen.lock().get(&id).map(|seen| (seen.beat, seen.since.elapsed()));
        let Some(record) = ServerRecord::find(store, id).await? else {
            self.seen.lock().remove(&id);
            return Ok(Standing::Over);
        };
        let unchanged = known.filter(|(beat, _)| *beat == record.beat);
        if unchanged.is_some_and(|(_, since)| since >= Duration::from_millis(record.lease_millis)) {
            tracing::warn!(server = %id, host = record.host, url = record.url, "a server gave no sign of life");
            self.seen.lock().remove(&id);
            // So that nobody else waits. A server that only stood still has a new id when it goes on.
            if let Err(error) = ServerRecord::end(store, id).await {
                tracing::debug!(%error, "others will find out by themselves");
            }
            return Ok(Standing::Over);
        }
        let (mut seen, looked) = (self.seen.lock(), Instant::now());
        if seen.len() >= KNOWN {
            seen.clear();
        }
        let new = || Seen { beat: record.beat, since: looked, looked };
        let known = seen.entry(id).or_insert_with(new);
        known.looked = looked;
        if known.beat != record.beat {
            *known = new();
        }
        drop(seen);
        Ok(Standing::Live(record))
    }

    /// Whether it was found to live so recently.
    pub(super) fn was_live(&self, id: Uuid, recently: Duration) -> bool {
        self.seen.lock().get(&id).is_some_and(|seen| seen.looked.elapsed() < recently)
    }
}
