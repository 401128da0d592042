//! `--verify-every`: proves on schedule that each database can be restored.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aquifer_format::{Revision, Timestamp};
use aquifer_log::store::Patience;
use aquifer_log::{DatabaseName, DatabaseStore, PlanError, Scope, Target, Verified, verify};
use aquifer_replicate::Replicator;

use super::roster::Roster;

/// How often to look whether a verification is due: as often as the most impatient database wants it.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const LOOK_LEAST: Duration = Duration::from_millis(10);
/// After a store could not be reached.
const RETRY_AFTER: Duration = Duration::from_mins(1);

/// What became of the last verification of each database.
#[derive(Debug, Clone, Default)]
pub(super) struct Verifications(Arc<Mutex<BTreeMap<DatabaseName, Verification>>>);

/// Of one database.
#[derive(Debug, Clone, Default)]
pub(super) struct Verification {
    /// When it was proven last that it can be restored, and at which revision.
    pub(super) proven: Option<(Timestamp, Revision)>,
    /// Why the last verification failed, if it did.
    pub(super) failure: Option<String>,
}

impl Verifications {
    /// All of them.
    pub(super) fn get(&self) -> BTreeMap<DatabaseName, Verification> {
        self.lock().clone()
    }

    fn note(&self, name: &DatabaseName, result: &Result<Verified, PlanError>) {
        let mut all = self.lock();
        let of = all.entry(name.clone()).or_default();
        match result {
            Ok(verified) => {
                tracing::info!(database = %name, revision = %verified.revision, "verified: it can be restored");
                of.proven = Some((Timestamp::now(), verified.revision));
                of.failure = None;
            }
            Err(error) => {
                tracing::error!(database = %name, %error, "VERIFICATION FAILED: it cannot be restored as it should");
                of.failure = Some(error.to_string());
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<DatabaseName, Verification>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Verifies each database as often as its terms say, one at a time. The first time comes after a tenth of it: a process
/// that is restarted often does not read the whole store each time.
pub(super) async fn run(replicator: &Replicator, roster: &Roster, verifications: &Verifications) {
    let mut due: BTreeMap<DatabaseName, Instant> = BTreeMap::new();
    let store = replicator.store().with_patience(Patience::BACKGROUND);
    loop {
        let mut pause = LOOK_EVERY;
        for status in replicator.status() {
            let Some(every) = roster.of(&status.name).verify_every else { continue };
            pause = pause.min(every).max(LOOK_LEAST);
            let at = *due.entry(status.name.clone()).or_insert_with(|| Instant::now() + every / 10);
            // What never became durable cannot be restored, and its lag says so.
            if Instant::now() < at || status.durable.is_none() {
                continue;
            }
            let database = DatabaseStore::new(store.clone(), status.name.clone());
            let result = verify_apart(database).await;
            let next = match &result {
                Err(error) if error.is_transient() => RETRY_AFTER.min(every),
                _ => {
                    verifications.note(&status.name, &result);
                    every
                }
            };
            due.insert(status.name, Instant::now() + next);
        }
        tokio::time::sleep(pause).await;
    }
}

/// On a thread of its own: it is CPU work between requests, and batches must not wait for it.
async fn verify_apart(database: DatabaseStore) -> Result<Verified, PlanError> {
    let runtime = tokio::runtime::Handle::current();
    let work = move || {
        let once = || runtime.block_on(verify(&database, None, Target::Latest, Scope::Plan, |_| {}));
        match once() {
            // Compaction and retention went on meanwhile: the new plan does not need what is gone.
            Err(PlanError::Log(e)) if e.is_not_found() => once(),
            result => result,
        }
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}
