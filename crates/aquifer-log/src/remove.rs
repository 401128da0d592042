//! Removal of generations and databases on request.
//!
//! A generation's record goes first: from then on it is no generation any more, no plan is made of it, and its
//! remains say that they are to go. A removal that was interrupted is finished by the next, or by retention.

use aquifer_format::{GenerationId, Timestamp};
use futures::TryStreamExt;

use crate::database::DatabaseStore;
use crate::error::LogError;
use crate::generation::Parent;
use crate::layout::ObjectKind;
use crate::name::DatabaseName;
use crate::retain::RetiredRecord;
use crate::store::{Key, StoreError};

/// Objects deleted with one request, where the store can.
const AT_ONCE: usize = 1000;

/// A generation was not removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoveError {
    /// There is no such generation.
    #[error("{url}: there is no generation {generation} to remove")]
    NoSuchGeneration {
        /// The store.
        url: String,
        /// The generation.
        generation: GenerationId,
    },
    /// Another generation continues this one, and needs it to be restored.
    #[error(
        "generation {child} builds on {generation}: remove {child} first, or make a snapshot of its beginning"
    )]
    HasChild {
        /// The generation that was to be removed.
        generation: GenerationId,
        /// One that forked from it.
        child: GenerationId,
    },
    /// Another database was forked from this one, and needs it to be restored.
    #[error(
        "'{database}' was forked from generation {generation} and builds on it: remove that database first, or make a \
         snapshot of its beginning"
    )]
    HasFork {
        /// The generation that was to be removed.
        generation: GenerationId,
        /// The other database.
        database: DatabaseName,
    },
    /// The store failed. What was removed is gone; the same call finishes the rest.
    #[error(transparent)]
    Log(#[from] LogError),
}

impl From<StoreError> for RemoveError {
    fn from(error: StoreError) -> RemoveError {
        RemoveError::Log(error.into())
    }
}

/// Removes a generation, or what an interrupted removal left of it, at once: also what a restore is just reading.
/// Tells how many objects were deleted.
pub async fn remove_generation(db: &DatabaseStore, generation: GenerationId) -> Result<u64, RemoveError> {
    let Some(listed) = listed(db, generation).await? else {
        return Err(RemoveError::NoSuchGeneration { url: db.store().url().to_owned(), generation });
    };
    if let Some(child) = listed.child {
        return Err(RemoveError::HasChild { generation, child });
    }
    // Before it is looked for what builds on it: see `kept`.
    let before = RetiredRecord::read(db, generation).await?;
    let marked = before.with_whole(Timestamp::now());
    marked.write(db, generation, &before).await?;
    let forks = db.living_forks_now().await?;
    if let Some(fork) = forks.into_iter().find(|fork| fork.parent.generation == generation) {
        before.write(db, generation, &marked).await?;
        return Err(RemoveError::HasFork { generation, database: fork.database });
    }
    if let Some(child) = self::listed(db, generation).await?.and_then(|listed| listed.child) {
        before.write(db, generation, &marked).await?;
        return Err(RemoveError::HasChild { generation, child });
    }
    let deleted = delete_generation(db, generation).await?;
    db.keep_parent(generation, listed.parent.as_ref(), false).await?;
    // What was written just now is none of the objects that there were.
    Ok(deleted.saturating_sub((before == RetiredRecord::default()).into()))
}

/// Removes what was written of a generation that was never published: without a record. One that has a record stays as
/// it is. Tells how many objects were deleted.
///
/// Only for who has made the id, and writes nothing to it any more.
pub async fn discard_unpublished(db: &DatabaseStore, generation: GenerationId) -> Result<u64, LogError> {
    if db.generation_record_exists(generation).await? {
        return Ok(0);
    }
    let listing = db.store().list(&db.layout().generation(generation), None);
    delete_all(db, listing.map_ok(|info| info.key)).await
}

/// What the generations of a database say of one of them.
struct Listed {
    parent: Option<Parent>,
    /// One that builds on it.
    child: Option<GenerationId>,
}

/// `None` if there is no such generation.
async fn listed(db: &DatabaseStore, generation: GenerationId) -> Result<Option<Listed>, LogError> {
    let mut ids = db.generation_ids();
    let (mut found, mut child) = (None, None);
    while let Some(id) = ids.try_next().await? {
        let parent = db.generation_record(id).await?.and_then(|record| record.parent);
        if id == generation {
            found = Some(parent);
        } else if parent.is_some_and(|on| on.elsewhere(db).is_none() && on.revision.generation == generation)
        {
            child = Some(id);
        }
    }
    Ok(found.map(|parent| Listed { parent, child }))
}

/// Removes all generations of a database, the newest first, and what else there is of it: at once, forks or not. Tells
/// how many objects were deleted; 0 if there is no such database.
///
/// Interrupted, it leaves older generations: call it again.
pub(crate) async fn remove_database(db: &DatabaseStore) -> Result<u64, LogError> {
    let ids: Vec<GenerationId> = db.generation_ids().try_collect().await?;
    let mut deleted = 0;
    for id in ids {
        // One that cannot be read is removed all the same; what it holds elsewhere goes when that is looked at.
        let record = db.generation_record(id).await.ok().flatten();
        // First, as it is known from the record: nobody can have the database back, whatever happens now.
        let parent = record.and_then(|record| record.parent);
        db.keep_parent(id, parent.as_ref(), false).await?;
        deleted += delete_generation(db, id).await?;
    }
    Ok(deleted
        + delete_all(db, db.store().list(db.layout().database(), None).map_ok(|info| info.key)).await?)
}

/// Deletes a generation, its record first.
pub(crate) async fn delete_generation(db: &DatabaseStore, generation: GenerationId) -> Result<u64, LogError> {
    let (store, layout) = (db.store(), db.layout());
    let record = layout.generation_record(generation);
    let had_record = db.generation_record_exists(generation).await?;
    store.delete(&record).await?;
    // Companions before the segments that refer to them would do as well: nobody plans with them any more.
    let listing = store.list(&layout.generation(generation), None).map_ok(|info| info.key);
    let rest = listing.try_filter(|key| {
        let is_record = layout.kind(generation, key) == ObjectKind::GenerationRecord;
        std::future::ready(!is_record)
    });
    Ok(u64::from(had_record) + delete_all(db, rest).await?)
}

async fn delete_all(
    db: &DatabaseStore,
    keys: impl futures::Stream<Item = Result<Key, StoreError>>,
) -> Result<u64, LogError> {
    // All names first: deleting while listing may hide names from the listing.
    let keys: Vec<Key> = keys.try_collect().await?;
    for chunk in keys.chunks(AT_ONCE) {
        db.store().delete_many(chunk).await?;
    }
    Ok(keys.len() as u64)
}
