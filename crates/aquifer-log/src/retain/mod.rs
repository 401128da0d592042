//! Retention: what no restore within a window of time needs is deleted, after a grace time.
//!
//! In two phases. What is not needed any more is first *retired*: written down in the generation's `retired.json`,
//! with the time. What has been in there for the grace time, and is still not needed, is deleted, so a restore that
//! planned on it has had that long to read it. Both phases follow from what is in the store: interrupted anywhere,
//! or run by two at the same time, nothing more is deleted, and nothing sooner, than by one that runs through.

mod inventory;
mod needed;
mod retired;

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use aquifer_format::{GenerationId, Revision, Timestamp, Txid};
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};

use crate::database::{DatabaseStore, Generation};
use crate::error::LogError;
use crate::plan::txid_at;
use crate::remove::delete_generation;
use inventory::Inventory;
use needed::{Needed, Roots};
pub(crate) use retired::RetiredRecord;

/// What is kept, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// Every moment within this time back from now can be restored, exactly.
    pub window: Duration,
    /// How long after it became unneeded an object stays for those who planned on it. Zero deletes at once.
    pub grace: Duration,
}

impl Retention {
    /// An hour: restores that take longer are rare, and try again.
    pub const GRACE: Duration = Duration::from_hours(1);

    /// Keeps this much, with the default grace time.
    pub const fn of(window: Duration) -> Retention {
        Retention { window, grace: Self::GRACE }
    }
}

/// What came of [`retain`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retained {
    /// The oldest revision that is certain to stay restorable.
    pub oldest: Option<Revision>,
    /// Objects that are not needed any more since now.
    pub retired: u64,
    /// Objects that wait for the grace time to end, those just retired included.
    pub waiting: u64,
    /// Objects that were deleted.
    pub deleted: u64,
    /// Their bytes.
    pub deleted_bytes: u64,
    /// Generations of which nothing is left.
    pub removed: Vec<GenerationId>,
}

/// Deletes what no restore to a moment between `now - window` and now needs, and has not for the grace time.
///
/// The newest generation that has a segment always stays restorable at its last txid, however old that is; and so
/// does everything that a newer generation forked from. A call costs a few listings; it belongs after a snapshot,
/// not on a clock.
///
/// Commits carry the time of their writers' clock, so `now` should be of that clock. For how long something has been
/// unneeded goes by `store_now`, the store's ([`Store::time`](crate::Store::time)), which is the same for all who retain;
/// and what it has not reached yet is not past, whatever `now` says.
///
/// Cancel-safe.
pub async fn retain(
    db: &DatabaseStore,
    retention: &Retention,
    now: Timestamp,
    store_now: Timestamp,
) -> Result<Retained, LogError> {
    let cut = now.min(store_now).before(retention.window);
    let now = store_now;
    let mut retained = Retained::default();
    let mut generations = Vec::new();
    let ids: Vec<GenerationId> = db.generation_ids().try_collect().await?;
    for id in ids {
        match db.generation_record(id).await? {
            Some(record) => generations.push(Generation { id, record }),
            // Its removal was interrupted.
            None => remove(db, id, &mut retained).await?,
        }
    }
    // Newest first, so that it is known what those that forked need before it is asked for their origin.
    let mut pins: HashMap<GenerationId, BTreeSet<Txid>> = HashMap::new();
    // Whether a newer generation is what a restore to the beginning of the window finds.
    let mut superseded = false;
    let mut is_newest = true;
    for generation in generations {
        let inventory = Inventory::read(db, generation.id, now).await?;
        let mut pinned = pins.remove(&generation.id).unwrap_or_default();
        let Some(head) = inventory.head() else {
            // Someone may be about to ship its first batch.
            if is_newest || generation.record.created_at > cut || !pinned.is_empty() {
                if let Some(parent) = generation.record.parent {
                    pins.entry(parent.generation).or_default().insert(parent.txid);
                }
                continue;
            }
            retire_whole(db, &generation, &inventory, retention, now, &mut retained).await?;
            continue;
        };
        is_newest = false;
        let at_cut = txid_at(db, generation.id, cut).await?;
        let from = match at_cut {
            None => Some(Txid::ZERO),
            Some(txid) if txid < head || !superseded => Some(txid),
            Some(_) => None,
        };
        superseded |= at_cut.is_some();
        let spans = db.held_spans(generation.id, now).await?;
        pinned.extend(
            spans.iter().map(|span| span.start).filter(|start| *start > Txid::ZERO && *start <= head),
        );
        let shipped_after = spans.iter().map(|span| span.start).min();
        let roots = Roots { from, pinned, shipped_after };
        if roots.is_empty() {
            retire_whole(db, &generation, &inventory, retention, now, &mut retained).await?;
            continue;
        }
        let needed = Needed::of(&inventory, &roots);
        if needed.from_the_start
            && let Some(parent) = generation.record.parent
        {
            pins.entry(parent.generation).or_default().insert(parent.txid);
        }
        if let Some(txid) = needed.oldest {
            retained.oldest = Some(Revision { generation: generation.id, txid });
        }
        let unneeded = inventory.all_but(db, &needed).await?;
        let old = RetiredRecord::read(db, generation.id).await?;
        let phases = old.advance(unneeded, retention.grace, now);
        retained.retired += phases.newly_retired;
        retained.waiting += phases.record.len() as u64;
        for (key, len) in &phases.due {
            tracing::debug!(%key, len, "deleting: not needed by any restore within the window");
            retained.deleted_bytes += len;
        }
        retained.deleted += phases.due.len() as u64;
        let keys: Vec<_> = phases.due.into_iter().map(|(key, _)| key).collect();
        db.store().delete_many(&keys).await?;
        phases.record.write(db, generation.id, &old).await?;
    }
    Ok(retained)
}

/// Retires a generation as a whole, or removes it when its time has come.
async fn retire_whole(
    db: &DatabaseStore,
    generation: &Generation,
    inventory: &Inventory,
    retention: &Retention,
    now: Timestamp,
    retained: &mut Retained,
) -> Result<(), LogError> {
    let old = RetiredRecord::read(db, generation.id).await?;
    let since = old.whole.unwrap_or(now);
    if now.since(since) >= retention.grace && (old.whole.is_some() || retention.grace.is_zero()) {
        tracing::info!(database = %db.name(), generation = %generation.id, "removing: outside the window");
        retained.deleted_bytes += inventory.bytes();
        return remove(db, generation.id, retained).await;
    }
    if old.whole.is_none() {
        retained.retired += inventory.len();
    }
    retained.waiting += inventory.len();
    old.with_whole(since).write(db, generation.id, &old).await
}

async fn remove(db: &DatabaseStore, id: GenerationId, retained: &mut Retained) -> Result<(), LogError> {
    retained.deleted += delete_generation(db, id).await?;
    retained.removed.push(id);
    Ok(())
}
