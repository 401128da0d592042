//! Whether the server is ready: it can write to its store.

use std::time::{Duration, Instant};

use aquifer_log::Store;
use aquifer_log::store::{Key, Patience};
use tokio::sync::Mutex;

/// However often it is asked, the store is tried no more often than this.
const FRESH: Duration = Duration::from_secs(5);
/// A store that takes longer is not one to acknowledge commits with.
const PATIENCE: Patience =
    Patience { tries: 2, total: Duration::from_secs(3), attempt: Duration::from_secs(2) };
/// What is written; its content does not matter.
const SCRATCH: &str = ".aquifer/health";

#[derive(Debug)]
pub(super) struct Health {
    store: Store,
    last: Mutex<Option<(Instant, Result<(), String>)>>,
}

impl Health {
    pub(super) fn new(store: &Store) -> Health {
        Health { store: store.with_patience(PATIENCE), last: Mutex::default() }
    }

    /// Fails with the reason. Cancel-safe.
    pub(super) async fn check(&self) -> Result<(), String> {
        let mut last = self.last.lock().await;
        if let Some((at, result)) = last.as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
            tracing::trace!(age = ?at.elapsed(), "health is known");
            return result.clone();
        }
        let result = match Key::parse(SCRATCH) {
            Ok(key) => {
                self.store.put(&key, "ok").await.map_err(|e| format!("the store cannot be written to: {e}"))
            }
            Err(e) => Err(e.to_string()),
        };
        *last = Some((Instant::now(), result.clone()));
        result
    }
}
