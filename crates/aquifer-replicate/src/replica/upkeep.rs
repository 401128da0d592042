//! What a generation needs as it grows: compaction, snapshots, retention.
//!
//! Caused by data, never by the clock alone: it is considered when a batch has become durable. It works on the log in
//! the store only, on a thread of its own, and holds neither a lock on the database nor the next batch back.

use std::time::{Duration, Instant};

use aquifer_format::{GenerationId, Timestamp, Txid};
use aquifer_log::store::SteadyClock;
use aquifer_log::{Compactor, DatabaseStore, Levels, LogError, Plan, PlanError, Retention, Target};
use tokio::task::JoinHandle;
use tracing::Instrument;

use crate::workers::Workers;

/// How often retention is considered while batches become durable.
const RETAIN_EVERY: Duration = Duration::from_hours(1);
/// After a failure, upkeep waits this long for the next batch to try again.
const AFTER_FAILURE: Duration = Duration::from_mins(1);

/// How a generation is kept in shape.
#[derive(Clone, Debug, PartialEq)]
pub struct UpkeepOptions {
    /// How segments are compacted.
    pub levels: Levels,
    /// A snapshot is made when the segments since the last one have grown to this share of its size, in percent; 0: none
    /// is made.
    pub snapshot_share: u32,
    /// But not before so many txids since the last one.
    pub snapshot_min_txids: u64,
    /// What is kept; `None`: everything.
    pub retention: Option<Retention>,
}

impl Default for UpkeepOptions {
    fn default() -> UpkeepOptions {
        UpkeepOptions {
            levels: Levels::default(),
            snapshot_share: 100,
            snapshot_min_txids: 64,
            retention: None,
        }
    }
}

/// The upkeep of one generation.
#[derive(Debug)]
pub(super) struct Upkeep {
    options: UpkeepOptions,
    running: Option<JoinHandle<Worker>>,
    idle: Option<Worker>,
    /// The txid at which it was last considered.
    considered: Txid,
    failed: Option<Instant>,
}

/// What runs on the thread.
#[derive(Debug)]
struct Worker {
    database: DatabaseStore,
    generation: GenerationId,
    compactor: Compactor,
    options: UpkeepOptions,
    /// Bytes of the last snapshot, and the txid that it ends with; `None` until it was looked up.
    base: Option<(u64, Txid)>,
    retained: Option<Instant>,
    /// This machine's, which dates commits.
    clock: SteadyClock,
    failure: Option<String>,
}

impl Upkeep {
    pub(super) fn new(database: DatabaseStore, generation: GenerationId, options: UpkeepOptions) -> Upkeep {
        let worker = Worker {
            compactor: Compactor::new(database.clone(), generation, options.levels),
            database,
            generation,
            options: options.clone(),
            base: None,
            retained: None,
            clock: SteadyClock::default(),
            failure: None,
        };
        Upkeep { options, running: None, idle: Some(worker), considered: Txid::ZERO, failed: None }
    }

    /// Considers what is due now that `durable` is. Returns at once.
    pub(super) async fn consider(&mut self, durable: Txid, workers: &Workers) {
        if self.running.as_ref().is_some_and(JoinHandle::is_finished)
            && let Some(done) = self.running.take()
            && let Ok(worker) = done.await
        {
            self.failed = worker.failure.as_ref().map(|_| Instant::now());
            self.idle = Some(worker);
        }
        // A block of level 1 is complete with every so many txids after the first; nothing else is due more often.
        let step = u64::from(self.options.levels.fanout.max(2)).min(self.options.snapshot_min_txids.max(1));
        let steps = |txid: Txid| txid.get().saturating_sub(1) / step;
        let is_due = steps(durable) > steps(self.considered)
            || self.idle.as_ref().is_some_and(|w| w.is_retention_due() && w.retained.is_some());
        if !is_due || self.failed.is_some_and(|at| at.elapsed() < AFTER_FAILURE) {
            return;
        }
        let Some(mut worker) = self.idle.take() else { return };
        self.considered = durable;
        let (workers, runtime) = (workers.clone(), tokio::runtime::Handle::current());
        let work = async move {
            // Merging is CPU work between requests: it must not run where batches wait to be shipped.
            workers
                .run(move || {
                    let done = runtime.block_on(worker.work(durable));
                    worker.failure = done.err().map(|e| e.to_string());
                    if let Some(failure) = &worker.failure {
                        tracing::warn!(error = %failure, "upkeep failed; it is tried again later");
                    }
                    worker
                })
                .await
        };
        self.running = Some(tokio::spawn(work.in_current_span()));
    }

    /// Waits for what runs. For an orderly end.
    pub(super) async fn finish(&mut self) {
        if let Some(running) = self.running.take() {
            let _ = running.await;
        }
    }
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.abort();
        }
    }
}

impl Worker {
    fn is_retention_due(&self) -> bool {
        self.options.retention.is_some() && self.retained.is_none_or(|at| at.elapsed() > RETAIN_EVERY)
    }

    async fn work(&mut self, durable: Txid) -> Result<(), LogError> {
        while let Some(written) = self.compactor.step(durable).await? {
            tracing::debug!(segment = %written.segment, "compacted");
        }
        self.snapshot_if_due(durable).await?;
        if let Some(retention) = self.options.retention.filter(|_| self.is_retention_due()) {
            let store_now = self.database.store().time().await.map_err(LogError::from)?;
            let now = self.clock.believe(Timestamp::now(), Instant::now());
            let retained = aquifer_log::retain(&self.database, &retention, now, store_now).await?;
            self.retained = Some(Instant::now());
            if retained.deleted > 0 {
                tracing::info!(
                    objects = retained.deleted,
                    bytes = retained.deleted_bytes,
                    "deleted what no restore within the window needs"
                );
            }
        }
        Ok(())
    }

    async fn snapshot_if_due(&mut self, durable: Txid) -> Result<(), LogError> {
        let since = |txid: Txid| durable.get().saturating_sub(txid.get());
        if self.options.snapshot_share == 0
            || self.base.is_some_and(|(_, txid)| since(txid) < self.options.snapshot_min_txids)
        {
            return Ok(());
        }
        let plan = match Plan::make(&self.database, Some(self.generation), Target::Txid(durable)).await {
            Ok(plan) => plan,
            Err(PlanError::Log(e)) => return Err(e),
            Err(e) => {
                tracing::warn!(error = %e, "no snapshot can be made");
                return Ok(());
            }
        };
        let Some((base, rest)) = plan.steps.split_first() else { return Ok(()) };
        let base_bytes = base.handle.info().stored_len();
        // That of another generation, which this one goes on from, counts as one before its first txid.
        let is_own = base.generation == self.generation;
        let base_txid = if is_own { base.handle.segment().range.last } else { Txid::ZERO };
        self.base = Some((base_bytes, base_txid));
        let grown: u64 = rest.iter().map(|step| step.handle.info().stored_len()).sum();
        if since(base_txid) < self.options.snapshot_min_txids
            || grown * 100 < base_bytes * u64::from(self.options.snapshot_share)
        {
            return Ok(());
        }
        let made = aquifer_log::snapshot_of(&self.database, &plan).await?;
        tracing::info!(revision = %made.revision, "snapshot");
        let written = made.written.and_then(|written| written.info);
        self.base = written.map(|info| (info.stored_len(), made.revision.txid));
        Ok(())
    }
}
