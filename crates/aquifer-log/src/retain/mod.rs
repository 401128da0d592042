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
use crate::store::Key;
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
/// does everything that a newer generation, or another database, forked from. A call costs a few listings; it belongs after a snapshot,
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
    Sweep::new(db, Some(cut), retention.grace, store_now).await?.run().await
}

/// Deletes at once what no fork of a database needs that is deleted for good, and says so: see
/// [`forks`](crate::forks).
pub(crate) async fn keep_for_forks(db: &DatabaseStore, store_now: Timestamp) -> Result<Retained, LogError> {
    Sweep::new(db, None, Duration::ZERO, store_now).await?.run().await
}

/// A run of retention.
struct Sweep<'a> {
    db: &'a DatabaseStore,
    /// When the window begins; `None` if only what forks need is kept.
    cut: Option<Timestamp>,
    grace: Duration,
    /// By the store's clock.
    now: Timestamp,
    /// The records of forks that are heeded.
    forks: BTreeSet<Key>,
    /// The generations that are heeded.
    generations: BTreeSet<GenerationId>,
    /// What must stay restorable because something builds on it.
    pins: HashMap<GenerationId, BTreeSet<Txid>>,
    retained: Retained,
}

impl<'a> Sweep<'a> {
    async fn new(
        db: &'a DatabaseStore,
        cut: Option<Timestamp>,
        grace: Duration,
        now: Timestamp,
    ) -> Result<Sweep<'a>, LogError> {
        let mut sweep = Sweep {
            db,
            cut,
            grace,
            now,
            forks: BTreeSet::new(),
            generations: BTreeSet::new(),
            pins: HashMap::new(),
            retained: Retained::default(),
        };
        for fork in db.living_forks(now).await? {
            sweep.forks.insert(db.layout().fork(&fork.database, fork.generation));
            sweep.pin(fork.parent);
        }
        Ok(sweep)
    }

    fn pin(&mut self, revision: Revision) {
        self.pins.entry(revision.generation).or_default().insert(revision.txid);
    }

    async fn run(mut self) -> Result<Retained, LogError> {
        let ids: Vec<GenerationId> = self.db.generation_ids().try_collect().await?;
        self.generations = ids.iter().copied().collect();
        let mut generations = Vec::new();
        for id in ids {
            match self.db.generation_record(id).await? {
                Some(record) => generations.push(Generation { id, record }),
                // Its removal was interrupted.
                None => self.remove(id, None).await?,
            }
        }
        // Newest first, so that it is known what those that forked need before it is asked for their origin.
        // Whether a newer generation is what a restore to the beginning of the window finds.
        let mut superseded = false;
        let mut is_newest = true;
        for generation in generations {
            if !self.generation(&generation, &mut superseded, &mut is_newest).await? {
                tracing::debug!(database = %self.db.name(), "somebody begins to build on it just now: the rest waits");
                break;
            }
        }
        Ok(self.retained)
    }

    /// Goes through one generation. False if somebody begins just now to build on something: then nothing more is to be
    /// deleted.
    async fn generation(
        &mut self,
        generation: &Generation,
        superseded: &mut bool,
        is_newest: &mut bool,
    ) -> Result<bool, LogError> {
        let db = self.db;
        let inventory = Inventory::read(db, generation.id, self.now).await?;
        let mut pinned = self.pins.remove(&generation.id).unwrap_or_default();
        let Some(head) = inventory.head() else {
            // Someone may be about to ship its first batch.
            let is_young = self.cut.is_some_and(|cut| *is_newest || generation.record.created_at > cut);
            if is_young || !pinned.is_empty() {
                self.pin_parent(generation);
                return Ok(true);
            }
            return self.retire_whole(generation, &inventory).await;
        };
        *is_newest = false;
        let mut roots = Roots::default();
        if let Some(cut) = self.cut {
            let at_cut = txid_at(db, generation.id, cut).await?;
            roots.from = match at_cut {
                None => Some(Txid::ZERO),
                Some(txid) if txid < head || !*superseded => Some(txid),
                Some(_) => None,
            };
            *superseded |= at_cut.is_some();
            let spans = db.held_spans(generation.id, self.now).await?;
            pinned.extend(
                spans.iter().map(|span| span.start).filter(|start| *start > Txid::ZERO && *start <= head),
            );
            roots.shipped_after = spans.iter().map(|span| span.start).min();
            roots.head = true;
        }
        roots.pinned = pinned;
        if roots.is_empty() {
            return self.retire_whole(generation, &inventory).await;
        }
        let needed = Needed::of(&inventory, &roots);
        if let Some(txid) = needed.oldest {
            self.retained.oldest = Some(Revision { generation: generation.id, txid });
        }
        let unneeded = inventory.all_but(db, &needed).await?;
        let old = RetiredRecord::read(db, generation.id).await?;
        let phases = old.advance(unneeded, self.grace, self.now);
        self.retained.retired += phases.newly_retired;
        self.retained.waiting += phases.record.len() as u64;
        if !phases.due.is_empty() && !self.may_delete().await? {
            return Ok(false);
        }
        for (key, len) in &phases.due {
            tracing::debug!(%key, len, "deleting: not needed by any restore within the window");
            self.retained.deleted_bytes += len;
        }
        self.retained.deleted += phases.due.len() as u64;
        let gone: Vec<Key> = phases.due.into_iter().map(|(key, _)| key).collect();
        db.store().delete_many(&gone).await?;
        phases.record.write(db, generation.id, &old).await?;
        // In the same database what is needed goes by what must be restorable; in another one, also by what is there
        // and waits, since that one knows of no restore that has planned on it.
        if needed.from_the_start {
            self.pin_parent(generation);
        }
        let needs_parent = inventory.needs_parent_without(db, &gone.into_iter().collect());
        db.keep_parent(generation.id, generation.record.parent.as_ref(), needs_parent).await?;
        Ok(true)
    }

    /// Whether no fork and no generation was begun since this run looked for them.
    async fn may_delete(&self) -> Result<bool, LogError> {
        if !self.db.fork_records().await?.is_subset(&self.forks) {
            return Ok(false);
        }
        let generations: BTreeSet<_> = self.db.generation_ids().try_collect().await?;
        Ok(generations.is_subset(&self.generations))
    }

    fn pin_parent(&mut self, generation: &Generation) {
        if let Some(parent) = &generation.record.parent
            && parent.elsewhere(self.db).is_none()
        {
            self.pin(parent.revision);
        }
    }

    /// Retires a generation as a whole, or removes it when its time has come. As [`Sweep::generation`].
    async fn retire_whole(
        &mut self,
        generation: &Generation,
        inventory: &Inventory,
    ) -> Result<bool, LogError> {
        let (db, now) = (self.db, self.now);
        let old = RetiredRecord::read(db, generation.id).await?;
        let since = old.whole.unwrap_or(now);
        if now.since(since) >= self.grace && (old.whole.is_some() || self.grace.is_zero()) {
            if !self.may_delete().await? {
                return Ok(false);
            }
            tracing::info!(database = %db.name(), generation = %generation.id, "removing: outside the window");
            self.retained.deleted_bytes += inventory.bytes();
            self.remove(generation.id, Some(generation)).await?;
            return Ok(true);
        }
        if old.whole.is_none() {
            self.retained.retired += inventory.len();
        }
        self.retained.waiting += inventory.len();
        old.with_whole(since).write(db, generation.id, &old).await?;
        Ok(true)
    }

    async fn remove(&mut self, id: GenerationId, known: Option<&Generation>) -> Result<(), LogError> {
        self.retained.deleted += delete_generation(self.db, id).await?;
        self.retained.removed.push(id);
        let parent = known.and_then(|generation| generation.record.parent.as_ref());
        self.db.keep_parent(id, parent, false).await
    }
}
