//! What an administrator has said of a database, for every server of the store: `control.json`.

use std::time::Duration;

use aquifer_format::{GenerationId, Timestamp};
use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

use crate::database::DatabaseStore;
use crate::error::LogError;
use crate::generation::{decode, encode};
use crate::name::DatabaseName;
use crate::remove::remove_database;
use crate::store::{Listing, Prefix, Store};

/// What `control.json` holds. Without the object nothing was said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlRecord {
    /// Since when it is only read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen: Option<Timestamp>,
    /// This generation takes no more commits: another one goes on from it, or is about to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<GenerationId>,
    /// It is deleted, and may still be had back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted: Option<Deletion>,
}

/// A database that is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deletion {
    /// When it was deleted, by the store's clock.
    pub at: Timestamp,
    /// From when on its objects may be removed, by the store's clock.
    pub gone: Timestamp,
}

impl DatabaseStore {
    /// What was said of it. One GET.
    pub async fn control(&self) -> Result<ControlRecord, LogError> {
        let key = self.layout().control();
        match self.store().get(&key).await {
            Ok(bytes) => decode(self.store(), &key, &bytes),
            Err(e) if e.is_not_found() => Ok(ControlRecord::default()),
            Err(e) => Err(e.into()),
        }
    }

    /// Says it from now on. Whoever says it last is heard. Servers hear it when they open the database: whoever has
    /// it open for writing must be made to ([`seal`](crate::seal)).
    pub async fn set_control(&self, control: &ControlRecord) -> Result<(), LogError> {
        let key = self.layout().control();
        if *control == ControlRecord::default() {
            return Ok(self.store().delete(&key).await?);
        }
        Ok(self.store().put(&key, encode(control)).await?)
    }

    /// Marks it as deleted; its objects stay for the grace time. Again: the grace time begins anew.
    ///
    /// After an error call it again.
    pub async fn mark_deleted(&self, grace: Duration) -> Result<Deletion, LogError> {
        let at = self.store().time().await?;
        let deletion = Deletion { at, gone: at.after(grace) };
        // Found by it when its time has come. A mark of a database that is not deleted in the end does no harm.
        self.store().put(&mark(self.name()), "see its control.json\n").await?;
        let control = self.control().await?;
        self.set_control(&ControlRecord { deleted: Some(deletion), ..control }).await?;
        Ok(deletion)
    }

    /// Takes a deletion back; tells whether there was one.
    pub async fn unmark_deleted(&self) -> Result<bool, LogError> {
        let control = self.control().await?;
        let was_deleted = control.deleted.is_some();
        self.set_control(&ControlRecord { deleted: None, ..control }).await?;
        self.store().delete(&mark(self.name())).await?;
        Ok(was_deleted)
    }

    /// Removes everything of it now, and what says that it was deleted. Tells how many objects were deleted.
    pub async fn purge(&self) -> Result<u64, LogError> {
        let deleted = remove_database(self).await?;
        self.store().delete(&mark(self.name())).await?;
        Ok(deleted)
    }
}

/// The databases that were deleted and may not be gone yet. One LIST where there are none.
pub fn deleted_databases(store: &Store) -> Listing<DatabaseName> {
    let dir = marks();
    let strip = dir.clone();
    let listing = store.list(&dir, None);
    listing
        .try_filter_map(move |info| {
            let name = strip.strip(&info.key).and_then(DatabaseName::from_component);
            std::future::ready(Ok(name))
        })
        .boxed()
}

/// Removes the databases whose grace time is over; tells which.
pub async fn purge_deleted(store: &Store) -> Result<Vec<DatabaseName>, LogError> {
    let names: Vec<DatabaseName> = deleted_databases(store).try_collect().await?;
    let mut purged = Vec::new();
    if names.is_empty() {
        return Ok(purged);
    }
    let now = store.time().await?;
    for name in names {
        let database = DatabaseStore::new(store.clone(), name.clone());
        if database.control().await?.deleted.is_some_and(|deletion| now >= deletion.gone) {
            let objects = database.purge().await?;
            tracing::info!(database = %name, objects, "removed: it was deleted, and its grace time is over");
            purged.push(name);
        }
    }
    Ok(purged)
}

fn marks() -> Prefix {
    Prefix::ROOT.dir(".aquifer").dir("deleted")
}

fn mark(name: &DatabaseName) -> crate::store::Key {
    marks().key(&name.to_component())
}
