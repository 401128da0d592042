//! What an administrator has said of a database, for every server of the store: `control.json`.

use std::collections::BTreeSet;
use std::time::Duration;

use aquifer_format::{GenerationId, Timestamp};
use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

use crate::database::DatabaseStore;
use crate::error::LogError;
use crate::generation::{decode, encode};
use crate::name::DatabaseName;
use crate::remove::remove_database;
use crate::retain::keep_for_forks;
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
    /// That was begun: it cannot be had back. What is left is what forks of it need.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub purged: bool,
}

/// What came of [`DatabaseStore::purge`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Purged {
    /// Objects that were deleted; 0 if there is no such database.
    pub objects: u64,
    /// The databases that were forked from it and still need a part of it, which has stayed. None: nothing is left.
    pub needed_by: BTreeSet<DatabaseName>,
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
        let control = self.control().await?;
        let purged = control.deleted.is_some_and(|deletion| deletion.purged);
        let deletion = Deletion { at, gone: at.after(grace), purged };
        // Found by it when its time has come. A mark of a database that is not deleted in the end does no harm.
        self.store().put(&mark(self.name()), "see its control.json\n").await?;
        self.set_control(&ControlRecord { deleted: Some(deletion), ..control }).await?;
        Ok(deletion)
    }

    /// Takes a deletion back; tells whether there was one that can be. What was purged cannot.
    pub async fn unmark_deleted(&self) -> Result<bool, LogError> {
        let control = self.control().await?;
        match control.deleted {
            Some(Deletion { purged: true, .. }) => return Ok(false),
            Some(_) => self.set_control(&ControlRecord { deleted: None, ..control }).await?,
            None => {}
        }
        self.store().delete(&mark(self.name())).await?;
        Ok(control.deleted.is_some())
    }

    /// Removes everything of it now, and what says that it was deleted: also what a restore is just reading. Only what
    /// its forks need stays; their next upkeep, or that of this store's servers, does the rest when they do not any
    /// more. Until then it is a deleted database, and cannot be had back.
    ///
    /// Interrupted, it leaves a part: call it again.
    pub async fn purge(&self) -> Result<Purged, LogError> {
        if self.store().first_dir(self.layout().database()).await?.is_none() {
            return self.purge_all().await;
        }
        // Before forks are looked for: see `forks`.
        let control = self.control().await?;
        let was_silent = control == ControlRecord::default();
        // Servers come back every hour for as long as there are forks.
        if control.deleted.is_none_or(|deletion| !deletion.purged) {
            let now = Timestamp::now();
            let at = control.deleted.map_or(now, |deletion| deletion.at);
            let deletion =
                Deletion { at, gone: now.min(control.deleted.map_or(now, |d| d.gone)), purged: true };
            self.store().put(&mark(self.name()), "see its control.json\n").await?;
            self.set_control(&ControlRecord { deleted: Some(deletion), ..control }).await?;
        }
        let forks = self.living_forks_now().await?;
        if forks.is_empty() {
            let purged = self.purge_all().await?;
            // What was written just now is none of the objects that there were.
            return Ok(Purged { objects: purged.objects.saturating_sub(was_silent.into()), ..purged });
        }
        let now = self.store().time().await?;
        let needed_by = forks.into_iter().map(|fork| fork.database).collect();
        Ok(Purged { objects: keep_for_forks(self, now).await?.deleted, needed_by })
    }

    async fn purge_all(&self) -> Result<Purged, LogError> {
        let objects = remove_database(self).await?;
        self.store().delete(&mark(self.name())).await?;
        Ok(Purged { objects, ..Purged::default() })
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

/// Removes the databases whose grace time is over; tells of which nothing is left.
pub async fn purge_deleted(store: &Store) -> Result<Vec<DatabaseName>, LogError> {
    let names: Vec<DatabaseName> = deleted_databases(store).try_collect().await?;
    let mut purged = Vec::new();
    if names.is_empty() {
        return Ok(purged);
    }
    let now = store.time().await?;
    for name in names {
        let database = DatabaseStore::new(store.clone(), name.clone());
        let is_over = |deletion: Deletion| deletion.purged || now >= deletion.gone;
        if database.control().await?.deleted.is_some_and(is_over) {
            let Purged { objects, needed_by } = database.purge().await?;
            if needed_by.is_empty() {
                tracing::info!(database = %name, objects, "removed: it was deleted, and its grace time is over");
                purged.push(name);
            } else if objects > 0 {
                tracing::info!(database = %name, objects, ?needed_by, "removed but for what its forks need");
            }
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
