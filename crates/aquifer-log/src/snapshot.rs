//! Snapshots: an image of every page, made from the log. The database is not touched, so no lock on it is held,
//! and any machine can make one.

use aquifer_format::{GenerationId, Revision};

use crate::database::DatabaseStore;
use crate::error::LogError;
use crate::layout::{Level, SegmentKey};
use crate::merge::{Merge, reduce};
use crate::plan::{Plan, PlanError, Target};
use crate::segment_io::SegmentHandle;
use crate::segment_write::{Written, write_merged};

/// What came of [`snapshot`].
#[derive(Debug, Clone)]
pub struct Snapshotted {
    /// The revision that the snapshot holds.
    pub revision: Revision,
    /// Its name.
    pub segment: SegmentKey,
    /// What was written; `None` if that revision had a snapshot already.
    pub written: Option<Written>,
}

/// Makes a snapshot of a revision, unless there is one: from the last snapshot before it and what follows.
///
/// Every page is proven on the way, and the whole against the database's checksum; a snapshot that would not
/// restore is not written. Memory does not depend on the size of the database.
///
/// Cancel-safe: dropped, it may leave the groups of a large segment behind, which retention sweeps.
pub async fn snapshot(
    db: &DatabaseStore,
    generation: Option<GenerationId>,
    target: Target,
) -> Result<Snapshotted, PlanError> {
    let plan = Plan::make(db, generation, target).await?;
    snapshot_of(db, &plan).await.map_err(PlanError::Log)
}

/// As [`snapshot`], of a plan's revision.
pub async fn snapshot_of(db: &DatabaseStore, plan: &Plan) -> Result<Snapshotted, LogError> {
    let revision = plan.revision;
    let segment = SegmentKey::snapshot(revision.txid);
    let segment = segment.unwrap_or_else(|| unreachable!("plans end with a segment, and so after txid 0"));
    if let [only] = &plan.steps[..]
        && only.handle.segment().level == Level::Snapshot
        && only.generation == revision.generation
    {
        return Ok(Snapshotted { revision, segment, written: None });
    }
    let steps: Vec<SegmentHandle> = plan.steps.iter().map(|step| step.handle.clone()).collect();
    let reduced = reduce(steps).await?;
    let merge = Merge::new(&reduced.segments)?;
    let written = write_merged(db, revision.generation, segment, merge, plan.stored_bytes()).await?;
    tracing::debug!(database = %db.name(), %segment, "made a snapshot");
    Ok(Snapshotted { revision, segment, written: Some(written) })
}
