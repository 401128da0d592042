//! Which databases were forked from this one: `forks/<database>/<generation>.json`.
//!
//! Nothing is copied when a database is forked ([`fork`](crate::fork())). What leads to the revision that the fork
//! began with must stay, in the other database, for as long as the fork is restored through it; these records say so
//! to all who delete. Why nothing goes that a fork needs, whatever happens at the same time:
//!
//! - A record is there before anything of the fork, and goes after everything that would need it: when the fork has
//!   no segment left that is read on top of its parent, or is removed.
//! - Who deletes first says so, and then looks for records. Retention has written down what it deletes a grace time
//!   ago, and looks once more between reading that and deleting; a removal marks the generation; a purge marks the
//!   database. Who forks first writes its record, and then looks for what is said. So one of the two sees the other.
//!   (Retention without a grace time says nothing before: it is for databases that are not forked meanwhile.)
//! - Of a fork that came to nothing a record may be left. It counts for a day, and then goes with whoever looks next.
//! - A fork that finds its record missing puts it back, whenever its own retention runs.

use std::collections::BTreeSet;
use std::time::Duration;

use aquifer_format::{GenerationId, Revision, Timestamp, WriterNonce};
use futures::stream::{self, StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

use crate::database::DatabaseStore;
use crate::error::LogError;
use crate::generation::{Parent, decode, encode};
use crate::name::DatabaseName;
use crate::store::{Key, ObjectInfo, StoreError};

/// A record that is as old as this, and has no fork, belongs to one that came to nothing.
const ABANDONED_AFTER: Duration = Duration::from_hours(24);
/// Records read at a time.
const READING: usize = 16;

/// A generation of another database that builds on this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fork {
    /// The other database.
    pub database: DatabaseName,
    /// Its generation.
    pub generation: GenerationId,
    /// The revision of this database that it begins with.
    pub parent: Revision,
    /// When the record was written, by the store's clock.
    since: Timestamp,
}

/// What a record holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ForkRecord {
    parent: Revision,
    writer: WriterNonce,
}

impl DatabaseStore {
    /// What builds on this database, by name; also what is just being made, or was not finished. One LIST, and one
    /// GET each.
    pub async fn forks(&self) -> Result<Vec<Fork>, LogError> {
        let listed: Vec<_> = match self.store().list(&self.layout().forks(), None).try_collect().await {
            Err(StoreError::NoStore { .. }) => return Ok(Vec::new()),
            listed => listed?,
        };
        let records = listed.into_iter().map(|info| self.read_fork(info)).collect::<Vec<_>>();
        let forks: Vec<Option<Fork>> = stream::iter(records).buffered(READING).try_collect().await?;
        Ok(forks.into_iter().flatten().collect())
    }

    async fn read_fork(&self, info: ObjectInfo) -> Result<Option<Fork>, LogError> {
        let Some((database, generation)) = self.layout().forked(&info.key) else { return Ok(None) };
        let bytes = match self.store().get(&info.key).await {
            Ok(bytes) => bytes,
            Err(e) if e.is_not_found() => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let ForkRecord { parent, .. } = decode(self.store(), &info.key, &bytes)?;
        Ok(Some(Fork { database, generation, parent, since: info.last_modified }))
    }

    /// The same, without those that came to nothing, at this time by the store's clock. Two requests more for each that
    /// is older than a day.
    pub(crate) async fn living_forks(&self, now: Timestamp) -> Result<Vec<Fork>, LogError> {
        let forks = self.forks().await?;
        let looks = forks.into_iter().map(|fork| self.living(fork, now)).collect::<Vec<_>>();
        let living: Vec<Option<Fork>> = stream::iter(looks).buffered(READING).try_collect().await?;
        Ok(living.into_iter().flatten().collect())
    }

    /// The same, now. One LIST where there are none.
    pub(crate) async fn living_forks_now(&self) -> Result<Vec<Fork>, LogError> {
        if self.fork_records().await?.is_empty() {
            return Ok(Vec::new());
        }
        let now = self.store().time().await?;
        self.living_forks(now).await
    }

    async fn living(&self, fork: Fork, now: Timestamp) -> Result<Option<Fork>, LogError> {
        if now.since(fork.since) < ABANDONED_AFTER || self.is_there(&fork).await? {
            return Ok(Some(fork));
        }
        tracing::info!(database = %self.name(), fork = %fork.database, "no such fork was made, or it is gone");
        self.let_go(&fork.database, fork.generation).await?;
        // Somebody may have stood still for a day, and gone on just now.
        if self.is_there(&fork).await? {
            self.hold(&fork.database, fork.generation, fork.parent).await?;
            return Ok(Some(fork));
        }
        Ok(None)
    }

    async fn is_there(&self, fork: &Fork) -> Result<bool, LogError> {
        let child = DatabaseStore::new(self.store().clone(), fork.database.clone());
        Ok(child.generation_record_exists(fork.generation).await?
            && !child.levels(fork.generation).await?.is_empty())
    }

    /// The records' names. One LIST.
    pub(crate) async fn fork_records(&self) -> Result<BTreeSet<Key>, LogError> {
        let listing = self.store().list(&self.layout().forks(), None);
        Ok(listing.map_ok(|info| info.key).try_collect().await?)
    }

    /// Says that a generation of another database builds on a revision of this one.
    pub(crate) async fn hold(
        &self,
        child: &DatabaseName,
        generation: GenerationId,
        parent: Revision,
    ) -> Result<(), LogError> {
        let record = ForkRecord { parent, writer: WriterNonce::random() };
        // Whoever else makes it says the same.
        self.store().create(&self.layout().fork(child, generation), encode(&record)).await?;
        Ok(())
    }

    /// Says that it does not any more.
    pub(crate) async fn let_go(
        &self,
        child: &DatabaseName,
        generation: GenerationId,
    ) -> Result<(), LogError> {
        Ok(self.store().delete(&self.layout().fork(child, generation)).await?)
    }

    /// Makes sure that the record is there which keeps what a generation of this database builds on elsewhere; or not
    /// there, if the generation does not need it any more. One request, as a rule.
    pub(crate) async fn keep_parent(
        &self,
        generation: GenerationId,
        parent: Option<&Parent>,
        is_needed: bool,
    ) -> Result<(), LogError> {
        let Some((of, elsewhere)) =
            parent.and_then(|parent| Some((parent.revision, parent.elsewhere(self)?)))
        else {
            return Ok(());
        };
        if !is_needed {
            return elsewhere.let_go(self.name(), generation).await;
        }
        match self.store().head(&elsewhere.layout().fork(self.name(), generation)).await {
            Ok(_) => Ok(()),
            // Of a database that is not there any more nothing can be kept.
            Err(e) if e.is_not_found() && elsewhere.generation_record_exists(of.generation).await? => {
                tracing::warn!(
                    database = %self.name(), parent = %elsewhere.name(),
                    "what keeps the parent's part of this fork was missing; putting it back"
                );
                elsewhere.hold(self.name(), generation, of).await
            }
            Err(e) if e.is_not_found() => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}
