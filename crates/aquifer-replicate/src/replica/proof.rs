//! Whether a generation still ends where this replica's history does.
//!
//! A txid belongs to whoever creates its segment, and retention deletes segments that nobody needs any more: their names
//! are free again. A writer that stands still for that long (a suspended machine, SIGSTOP) can so create a txid that the
//! generation has long passed. So what a create says is believed only for a while after the end of the generation was
//! last known to be this replica's; later, the store is asked what comes after it.
//!
//! A replica that started from what is on this disk, without having asked the store, knows nothing about it: not even
//! that what it has recorded ever got there, since files that waited for the store may be lost. Until the store has been
//! asked, it puts nothing and tells nobody that anything is durable.

use aquifer_format::segment::SegmentMeta;
use aquifer_format::{DbChecksum, GenerationId, Moment, Txid};
use aquifer_log::{DatabaseStore, Level, ListedSegment, LogError, Shipped};
use futures::TryStreamExt;

use crate::{Error, Result};

/// What this replica knows of the end of its generation.
#[derive(Clone, Copy, Debug)]
pub(super) enum Proof {
    /// When it was last known to end with what this replica has put.
    At(Moment),
    /// Nothing yet.
    Missing(Extension),
}

/// What is to extend a generation: the next txid, and the image that it builds on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extension {
    pub(super) txid: Txid,
    pub(super) checksum_before: DbChecksum,
}

/// Whether a segment that was just created is the end of its generation. `Fenced` by what comes after it, if not.
///
/// One LIST and one GET.
pub(super) async fn confirm(
    database: &DatabaseStore,
    generation: GenerationId,
    txid: Txid,
) -> Result<Shipped> {
    if database.generation_record(generation).await?.is_none() {
        return Err(Error::Removed { database: database.name().to_string(), generation });
    }
    let mut later = database.segments(generation, Level::Shipped, txid);
    let Some(listed) = later.try_next().await.map_err(LogError::from)? else {
        return Ok(Shipped::Committed);
    };
    let theirs = database.open_segment(generation, listed.segment).await?;
    Ok(Shipped::Fenced(Box::new(theirs.info().meta().clone())))
}

/// Where a generation ends, as seen from what is to extend it.
#[derive(Debug)]
pub(super) enum End {
    /// Just before that txid, with the image that is to be extended; or with that txid or those after it: they may be
    /// our own.
    Here,
    /// Earlier: with this one. To go on would leave a gap.
    Before(Txid),
    /// It has gone on without us. This is not what we build on: another batch in its place, or what comes after a part
    /// that has been deleted since.
    Elsewhere(Box<SegmentMeta>),
}

/// Where a generation ends, as seen from what is to extend it. One LIST and one GET, as a rule.
pub(super) async fn end_of(
    database: &DatabaseStore,
    generation: GenerationId,
    next: Extension,
) -> Result<End, LogError> {
    let Some(before) = next.txid.get().checked_sub(2).map(Txid::new) else { return Ok(End::Here) };
    // Retention always keeps the last segment of level 0.
    let Some(listed) = database.segments(generation, Level::Shipped, before).try_next().await? else {
        let all = database.segments(generation, Level::Shipped, Txid::ZERO);
        let last = |_, listed: ListedSegment| std::future::ready(Ok(listed.segment.range.last));
        return Ok(End::Before(all.try_fold(Txid::ZERO, last).await?));
    };
    let found = database.open_segment(generation, listed.segment).await?.info().meta().clone();
    let image = if found.range.first == next.txid { found.checksum_before } else { found.checksum_after };
    if found.range.first <= next.txid && image == next.checksum_before {
        return Ok(End::Here);
    }
    Ok(End::Elsewhere(Box::new(found)))
}
