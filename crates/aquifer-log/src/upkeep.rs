//! What keeps a growing log short to read and bounded in size: compaction, snapshots and retention, each when the
//! data calls for it and never because time has passed.

use aquifer_format::{GenerationId, Timestamp, Txid, TxidRange};
use serde::{Deserialize, Serialize};

use crate::compact::{Compactor, Levels};
use crate::database::DatabaseStore;
use crate::layout::Level;
use crate::plan::{Plan, PlanError, Target};
use crate::retain::{Retained, Retention, retain};
use crate::segment_write::Written;
use crate::snapshot::{Snapshotted, snapshot_of};

/// When a snapshot is due.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SnapshotRule {
    /// When the compacted segments since the last one have this share of its bytes: a restore reads at most so
    /// much more than the database. 0.5 means half.
    pub share: f64,
    /// And at least so many bytes: below, there is nothing to gain.
    pub least_bytes: u64,
}

impl Default for SnapshotRule {
    fn default() -> SnapshotRule {
        SnapshotRule { share: 0.5, least_bytes: 1 << 20 }
    }
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct UpkeepOptions {
    /// How segments are compacted.
    pub levels: Levels,
    /// When snapshots are made; never without. They are made where a block of level 1 ends, and so not without
    /// compaction.
    pub snapshots: Option<SnapshotRule>,
    /// What is kept; everything without.
    pub retention: Option<Retention>,
}

impl Default for UpkeepOptions {
    /// Compaction and snapshots, and everything is kept.
    fn default() -> UpkeepOptions {
        let snapshots = Some(SnapshotRule::default());
        UpkeepOptions { levels: Levels::default(), snapshots, retention: None }
    }
}

/// What a step came to.
#[derive(Debug, Clone)]
pub enum Done {
    /// Segments became one.
    Compacted(Written),
    /// A snapshot was made.
    Snapshot(Snapshotted),
    /// Retention ran.
    Retained(Retained),
}

/// Keeps one generation's log in order.
///
/// Without news it needs no requests, and with news none until a block of level 1 is complete
/// ([`Levels::fanout`] txids).
#[derive(Debug)]
pub struct Upkeep {
    db: DatabaseStore,
    generation: GenerationId,
    options: UpkeepOptions,
    compactor: Compactor,
    since: Option<SinceSnapshot>,
    /// Up to where it was decided whether a snapshot is due.
    decided: Txid,
    retention_due: bool,
}

/// What a restore has to read besides the last snapshot.
#[derive(Debug)]
struct SinceSnapshot {
    base_bytes: u64,
    segments: Vec<(TxidRange, u64)>,
}

impl Upkeep {
    /// Of this generation. No I/O.
    pub fn new(db: DatabaseStore, generation: GenerationId, options: UpkeepOptions) -> Upkeep {
        let compactor = Compactor::new(db.clone(), generation, options.levels);
        let retention_due = options.retention.is_some();
        Upkeep { db, generation, options, compactor, since: None, decided: Txid::FIRST, retention_due }
    }

    /// Does the next piece of work that is due when `head` is the last durable txid; `None` if none is. Call it
    /// until then, in the background, whenever something was shipped.
    ///
    /// Cancel-safe: what was not finished is due again. After an error too.
    pub async fn step(&mut self, head: Txid, now: Timestamp) -> Result<Option<Done>, PlanError> {
        if let Some(written) = self.compactor.step(head).await? {
            // Old data leaves the window as new data comes; but not with every few txids.
            let is_higher = matches!(written.segment.level, Level::Compacted(n) if n.get() > 1);
            self.retention_due |= is_higher && self.options.retention.is_some();
            match (&mut self.since, &written.info) {
                (Some(since), Some(info)) => since.compacted(written.segment.range, info.stored_len()),
                // Another compactor wrote it: its size shows when it is looked for.
                _ => self.since = None,
            }
            return Ok(Some(Done::Compacted(written)));
        }
        let compacted_to = self.compactor.compacted_to();
        if compacted_to > self.decided {
            if let Some(snapshot) = self.snapshot_if_due(compacted_to).await? {
                self.retention_due = self.options.retention.is_some();
                return Ok(Some(Done::Snapshot(snapshot)));
            }
            self.decided = compacted_to;
        }
        // Not before this process has compacted anything: a database without writes must cost nothing.
        if let Some(retention) =
            self.options.retention.filter(|_| self.retention_due && self.decided > Txid::FIRST)
        {
            let retained = retain(&self.db, &retention, now).await?;
            self.retention_due = false;
            return Ok(Some(Done::Retained(retained)));
        }
        Ok(None)
    }

    async fn snapshot_if_due(&mut self, txid: Txid) -> Result<Option<Snapshotted>, PlanError> {
        let Some(rule) = self.options.snapshots else { return Ok(None) };
        let plan = match &self.since {
            Some(since) if !since.is_due(rule) => return Ok(None),
            _ => Plan::make(&self.db, Some(self.generation), Target::Txid(txid)).await?,
        };
        // By what is in the store: another process may have made one.
        let since = SinceSnapshot::of(&plan);
        if !since.is_due(rule) {
            self.since = Some(since);
            return Ok(None);
        }
        let made = snapshot_of(&self.db, &plan).await?;
        let info = made.written.as_ref().and_then(|written| written.info.as_ref());
        self.since = info.map(|info| SinceSnapshot { base_bytes: info.stored_len(), segments: Vec::new() });
        Ok(Some(made))
    }
}

impl SinceSnapshot {
    fn of(plan: &Plan) -> SinceSnapshot {
        let mut steps =
            plan.steps.iter().map(|step| (step.handle.segment().range, step.handle.info().stored_len()));
        let base_bytes = steps.next().map_or(0, |(_, bytes)| bytes);
        SinceSnapshot { base_bytes, segments: steps.collect() }
    }

    fn compacted(&mut self, range: TxidRange, bytes: u64) {
        self.segments.retain(|(part, _)| part.last < range.first || range.last < part.first);
        self.segments.push((range, bytes));
    }

    fn is_due(&self, rule: SnapshotRule) -> bool {
        let bytes: u64 = self.segments.iter().map(|(_, bytes)| bytes).sum();
        bytes >= rule.least_bytes && bytes as f64 >= rule.share * self.base_bytes as f64
    }
}
