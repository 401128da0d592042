//! Whether a generation still ends where this replica's history does.
//!
//! A txid belongs to whoever creates its segment, and retention deletes segments that nobody needs any more: their names
//! are free again. A writer that stands still for that long (a suspended machine, SIGSTOP) can so create a txid that the
//! generation has long passed. So what a create says is believed only for a while after the end of the generation was
//! last known to be this replica's; later, the store is asked what comes after it.

use std::time::{Duration, Instant, SystemTime};

use aquifer_format::segment::SegmentMeta;
use aquifer_format::{GenerationId, Txid};
use aquifer_log::{DatabaseStore, Level, ListedSegment, LogError, Shipped};
use futures::TryStreamExt;

use crate::{Error, Result};

/// A moment, by both clocks: one may stand still while a machine is suspended, the other may be set back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    monotonic: Instant,
    wall: SystemTime,
}

impl Moment {
    pub(super) fn now() -> Moment {
        Moment { monotonic: Instant::now(), wall: SystemTime::now() }
    }

    /// How long ago it was, by the clock by which it was longer.
    pub(super) fn elapsed(&self) -> Duration {
        self.monotonic.elapsed().max(self.wall.elapsed().unwrap_or_default())
    }
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

/// Where a generation ends, as seen from a txid that is to extend it.
#[derive(Debug)]
pub(super) enum End {
    /// Just before that txid, or with it or those after it: they may be our own.
    Here,
    /// Earlier: with this one. To go on would leave a gap.
    Before(Txid),
    /// It has gone on without us: this comes next, and what was in between has been deleted since.
    Beyond(Box<SegmentMeta>),
}

/// Where a generation ends, as seen from a txid. One LIST, as a rule.
pub(super) async fn end_of(
    database: &DatabaseStore,
    generation: GenerationId,
    txid: Txid,
) -> Result<End, LogError> {
    let Some(before) = txid.get().checked_sub(2).map(Txid::new) else { return Ok(End::Here) };
    // Retention always keeps the last segment of level 0.
    match database.segments(generation, Level::Shipped, before).try_next().await? {
        Some(listed) if listed.segment.range.first <= txid => Ok(End::Here),
        Some(listed) => {
            let theirs = database.open_segment(generation, listed.segment).await?;
            Ok(End::Beyond(Box::new(theirs.info().meta().clone())))
        }
        None => {
            let all = database.segments(generation, Level::Shipped, Txid::ZERO);
            let last = |_, listed: ListedSegment| std::future::ready(Ok(listed.segment.range.last));
            Ok(End::Before(all.try_fold(Txid::ZERO, last).await?))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_passes_by_the_clock_that_did_not_stand_still() {
        let hour = Duration::from_hours(1);
        let now = Moment::now();
        let suspended = Moment { wall: now.wall.checked_sub(hour).unwrap(), ..now };
        let set_back = Moment { wall: now.wall + hour, monotonic: now.monotonic.checked_sub(hour).unwrap() };
        assert!(suspended.elapsed() >= hour && set_back.elapsed() >= hour && now.elapsed() < hour);
    }
}
