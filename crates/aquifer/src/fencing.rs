//! Whether a store keeps two writers of one database apart: found out before it is relied on, and remembered in the
//! store, so that `info` can tell without writing anything.

use aquifer_format::Timestamp;
use aquifer_log::store::{Capabilities, Key, Prefix, Verdict};
use aquifer_log::{Store, StoreError};
use serde::{Deserialize, Serialize};

/// What the store was found to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fencing {
    /// Whether writers are kept apart.
    pub(crate) fenced: bool,
    /// What was seen, where they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) seen: Option<String>,
    /// When it was found out.
    pub(crate) probed_at: Timestamp,
}

impl Fencing {
    /// Finds out, and remembers it where it is news.
    pub(crate) async fn probe(store: &Store) -> Result<Fencing, StoreError> {
        let found = Fencing::from(store.probe().await?);
        let known = Fencing::remembered(store).await?;
        if known.is_none_or(|known| (known.fenced, &known.seen) != (found.fenced, &found.seen)) {
            let json = serde_json::to_vec(&found).unwrap_or_else(|e| unreachable!("no field can fail: {e}"));
            store.put(&key(), json).await?;
        }
        Ok(found)
    }

    /// What was found out last; `None` if nobody asked, or a newer version wrote it down in another way.
    pub(crate) async fn remembered(store: &Store) -> Result<Option<Fencing>, StoreError> {
        match store.get(&key()).await {
            Ok(json) => Ok(serde_json::from_slice(&json).ok()),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }
}

impl From<Capabilities> for Fencing {
    fn from(capabilities: Capabilities) -> Fencing {
        let (fenced, seen) = match capabilities.put_if_absent {
            Verdict::Honoured => (true, None),
            Verdict::Broken(seen) | Verdict::Unsupported(seen) => (false, Some(seen)),
        };
        Fencing { fenced, seen, probed_at: Timestamp::now() }
    }
}

/// No database has a name with a leading dot in keys.
fn key() -> Key {
    Prefix::ROOT.dir(".aquifer").key("fencing.json")
}
