//! Batches without pages: they end what others may extend, and begin what continues something else.

use aquifer_format::segment::{CompressionLevel, SegmentEncoder, SegmentMeta};
use aquifer_format::{GenerationId, Revision, Timestamp, Txid, TxidRange, WriterNonce};
use bytes::Bytes;

use crate::database::{DatabaseStore, Generation, Shipped};
use crate::error::LogError;
use crate::fork::ForkError;
use crate::generation::{GenerationRecord, Parent};
use crate::kept::check_kept;
use crate::layout::SegmentKey;
use crate::plan::{Plan, PlanError, Target};
use crate::remove::delete_generation;

/// How often a txid is looked for that a busy writer does not take meanwhile.
const ATTEMPTS: usize = 20;

/// Extends a generation by a batch without changes, so that whoever has it open for writing is fenced at its next
/// commit and has to open it anew. The database stays as it is.
///
/// # Errors
/// What planning fails with; [`PlanError::Log`] with [`LogError::Taken`] if others are always faster: try again.
pub async fn seal(db: &DatabaseStore, generation: GenerationId) -> Result<Revision, PlanError> {
    let mut taken = None;
    for _ in 0..ATTEMPTS {
        let plan = Plan::make(db, Some(generation), Target::Latest).await?;
        let next = plan.revision.txid.next();
        match put_empty(db, generation, next, &plan).await? {
            Shipped::Committed => return Ok(Revision { generation, txid: next }),
            Shipped::Fenced(_) => taken = Some(SegmentKey::shipped(next)),
        }
    }
    let segment = taken.unwrap_or_else(|| unreachable!("there was an attempt"));
    let (url, key) = (db.store().url().to_owned(), db.layout().segment(generation, segment));
    Err(LogError::Taken { url, key }.into())
}

/// Begins a generation of the same database that continues what a plan leads to, without copying anything: its first
/// batch changes nothing, and its parent stays for as long as it is needed.
///
/// It is the newest one from then on. Whoever writes to the one before goes on there until that is [sealed](seal).
///
/// # Errors
/// [`ForkError::NotKept`] if retention has given up what the plan leads to. Nothing is left then; after other errors, and
/// if the future is dropped, a generation without segments may be.
pub async fn branch(db: &DatabaseStore, plan: &Plan, host: &str) -> Result<Generation, ForkError> {
    let record = GenerationRecord::new(plan.page_size, WriterNonce::random());
    let mut record = record.continuing(Parent::own(plan.revision));
    host.clone_into(&mut record.host);
    let generation = db.create_generation(record).await?;
    // From here on what it needs is kept: see `kept`.
    if let Err(refused) = check_kept(db, plan).await {
        delete_generation(db, generation.id).await?;
        return Err(refused);
    }
    match put_empty(db, generation.id, Txid::FIRST, plan).await? {
        Shipped::Committed => Ok(generation),
        Shipped::Fenced(_) => Err(taken(db, generation.id).into()),
    }
}

/// Puts a batch without pages under a txid, on top of what a plan leads to.
pub(crate) async fn put_empty(
    db: &DatabaseStore,
    generation: GenerationId,
    txid: Txid,
    on: &Plan,
) -> Result<Shipped, LogError> {
    let now = Timestamp::now().max(on.last_commit);
    let meta = SegmentMeta {
        page_size: on.page_size,
        range: TxidRange::one(txid),
        size_before: on.size_after,
        size_after: on.size_after,
        checksum_before: on.checksum_after,
        checksum_after: on.checksum_after,
        commits: 1,
        frames: 0,
        first_commit: now,
        last_commit: now,
        writer: WriterNonce::random(),
    };
    let encoder = SegmentEncoder::new(on.page_size, CompressionLevel::KEEP);
    let finished = encoder.finish(&meta).map_err(|source| LogError::Encode { range: meta.range, source })?;
    db.put_level0(generation, &finished.info, Bytes::from(finished.tail)).await
}

fn taken(db: &DatabaseStore, generation: GenerationId) -> LogError {
    LogError::Taken { url: db.store().url().to_owned(), key: db.layout().generation_record(generation) }
}
