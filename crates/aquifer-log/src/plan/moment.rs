//! The txid of a moment: a binary search over the ends of segments, from large ones to small ones.

use aquifer_format::{Timestamp, Txid};

use super::search::Catalog;
use super::{PlanError, Target};
use crate::database::ListedSegment;
use crate::error::LogError;

/// The txid of a target; `None` for the last one.
pub(super) async fn resolve(catalog: &Catalog<'_>, target: Target) -> Result<Option<Txid>, PlanError> {
    match target {
        Target::Latest => Ok(None),
        Target::Txid(txid) => Ok(Some(txid)),
        Target::Timestamp(moment) => txid_at(catalog, moment).await.map(Some),
    }
}

/// The last kept txid whose last commit is not later than `moment`.
///
/// A generation's times never go back. So each level narrows down which segments of the next one, whose are
/// smaller, need to be listed; that a level has holes does not matter.
async fn txid_at(catalog: &Catalog<'_>, moment: Timestamp) -> Result<Txid, PlanError> {
    let mut bounds = Bounds { not_later: Txid::ZERO, later: None, moment };
    bounds.narrow(catalog, &catalog.snapshots).await?;
    let mut earliest = catalog.snapshots.first().copied();
    for &level in &catalog.levels {
        // The segment that starts with the txid known to be later cannot end before it.
        let until = bounds.later.map(Txid::previous);
        let listed = catalog.list(level, bounds.not_later, until).await?;
        earliest = listed.segments.first().copied().into_iter().chain(earliest).min_by_key(end);
        bounds.narrow(catalog, &listed.segments).await?;
        if bounds.later == Some(bounds.not_later.next()) {
            break;
        }
    }
    if bounds.not_later > Txid::ZERO {
        return Ok(bounds.not_later);
    }
    // Nothing is early enough, and the narrowing went down to the earliest that there is.
    let Some(earliest) = earliest else { return Err(PlanError::empty(catalog.db)) };
    let first = last_commit(catalog, &earliest).await?;
    Err(PlanError::BeforeFirst { generation: catalog.generation, asked: moment, first })
}

struct Bounds {
    /// A txid not later than the moment; 0 while none is known.
    not_later: Txid,
    /// A txid later than the moment.
    later: Option<Txid>,
    moment: Timestamp,
}

impl Bounds {
    /// Looks at the ends of segments, ascending.
    async fn narrow(&mut self, catalog: &Catalog<'_>, segments: &[ListedSegment]) -> Result<(), LogError> {
        let (mut low, mut high) = (0, segments.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if last_commit(catalog, &segments[middle]).await? <= self.moment {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        if let Some(found) = low.checked_sub(1).map(|i| &segments[i]) {
            self.not_later = self.not_later.max(end(found));
        }
        if let Some(found) = segments.get(low) {
            self.later = Some(self.later.map_or(end(found), |later| later.min(end(found))));
        }
        Ok(())
    }
}

fn end(listed: &ListedSegment) -> Txid {
    listed.segment.range.last
}

async fn last_commit(catalog: &Catalog<'_>, listed: &ListedSegment) -> Result<Timestamp, LogError> {
    let handle = catalog.db.open_segment(catalog.generation, listed.segment).await?;
    Ok(handle.info().meta().last_commit)
}
