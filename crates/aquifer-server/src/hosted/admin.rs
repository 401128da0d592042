//! What administrators do with hosted databases.
//!
//! Other servers may have a database open. What they must heed is first written where they look when they open it, and
//! then the generation is sealed: their next commit there fails, is not acknowledged, and makes them look.

use std::collections::BTreeSet;
use std::time::Duration;

use aquifer_format::{GenerationId, Revision, Timestamp};
use aquifer_log::{
    ControlRecord, DatabaseName, DatabaseStore, Deletion, Generation, Plan, PlanError, Target, branch,
    check_kept, fork, purge_deleted, seal,
};

use super::slots::Turn;
use super::{HostError, Hosts, closing};

/// How often the databases are looked for whose grace time after a deletion is over.
const PURGE_EVERY: Duration = Duration::from_hours(1);

impl Hosts {
    /// A database's part of the store.
    pub fn log(&self, name: &DatabaseName) -> DatabaseStore {
        DatabaseStore::new(self.shared.store.clone(), name.clone())
    }

    /// Makes a database that is not there.
    ///
    /// # Errors
    /// [`HostError::Exists`] if it is.
    pub async fn create_new(&self, name: &DatabaseName) -> Result<Revision, HostError> {
        self.must_be_free(name).await?;
        let hosted = self.create(name).await?;
        hosted.durable().await?.ok_or_else(|| HostError::NoSuchDatabase(name.clone()))
    }

    /// Closes a database; its next use opens it anew. What is committed is shipped before.
    pub async fn close(&self, name: &DatabaseName) {
        drop(self.hold(name).await);
    }

    /// The same, and nobody opens it here until the turn is dropped.
    async fn hold(&self, name: &DatabaseName) -> Turn {
        closing::hold(&self.shared.slots, name).await
    }

    /// Refuses writes to a database from now on, by this server and all others. Again: the same.
    pub async fn freeze(&self, name: &DatabaseName) -> Result<Revision, HostError> {
        let log = self.log(name);
        let newest = self.newest(&log).await?;
        let control = log.control().await?;
        let frozen = control.frozen.or_else(|| Some(Timestamp::now()));
        let _turn = self.hold(name).await;
        log.set_control(&ControlRecord { frozen, ..control }).await?;
        Ok(seal(&log, newest.id).await?)
    }

    /// Takes writes again.
    pub async fn unfreeze(&self, name: &DatabaseName) -> Result<(), HostError> {
        let log = self.log(name);
        self.newest(&log).await?;
        let control = log.control().await?;
        log.set_control(&ControlRecord { frozen: None, ..control }).await?;
        self.close(name).await;
        Ok(())
    }

    /// Deletes a database. For the grace time it can be had back; then it is gone for good, at the latest when a server
    /// of this store looks again. Without grace time it is gone when this returns. What databases need that were
    /// forked from it stays; tells which those are.
    pub async fn delete(
        &self,
        name: &DatabaseName,
        grace: Duration,
    ) -> Result<(Deletion, BTreeSet<DatabaseName>), HostError> {
        let log = self.log(name);
        let newest = self.newest_even_if_deleted(&log).await?;
        let deletion = log.mark_deleted(grace).await?;
        let _turn = self.hold(name).await;
        self.shared.data.files(name).discard().await?;
        match seal(&log, newest.id).await {
            Ok(_) | Err(PlanError::Empty { .. }) => {}
            Err(e) => return Err(e.into()),
        }
        let forks = if grace.is_zero() {
            log.purge().await?.needed_by
        } else {
            log.forks().await?.into_iter().map(|fork| fork.database).collect()
        };
        Ok((deletion, forks))
    }

    /// Takes back a deletion whose grace time is not over.
    ///
    /// # Errors
    /// [`HostError::NoSuchDatabase`] if it is gone, [`HostError::Purged`] if forks need what is left of it,
    /// [`HostError::Exists`] if it was not deleted.
    pub async fn undelete(&self, name: &DatabaseName) -> Result<(), HostError> {
        let log = self.log(name);
        self.newest_even_if_deleted(&log).await?;
        if log.control().await?.deleted.is_some_and(|deletion| deletion.purged) {
            return Err(HostError::Purged(name.clone()));
        }
        if log.unmark_deleted().await? { Ok(()) } else { Err(HostError::Exists(name.clone())) }
    }

    /// Sets a database back to what it was: the history goes on from there in a new generation, the old one stays. What
    /// others commit meanwhile is set back with the rest.
    pub async fn restore_in_place(
        &self,
        name: &DatabaseName,
        generation: Option<GenerationId>,
        target: Target,
    ) -> Result<Revision, HostError> {
        let log = self.log(name);
        let newest = self.newest(&log).await?;
        // Whoever asks for it meanwhile gets what it is then.
        let _turn = self.hold(name).await;
        let plan = Plan::make(&log, generation, target).await?;
        // Before anything is done that would have to be taken back.
        check_kept(&log, &plan).await?;
        // In this order: nobody can open the old generation after it was sealed, or has written to it since. What is
        // interrupted in between leaves a database that nobody serves until it is set back again.
        let before = log.control().await?;
        log.set_control(&ControlRecord { left: Some(newest.id), ..before.clone() }).await?;
        seal(&log, newest.id).await?;
        let begun = match branch(&log, &plan, &host()).await {
            Ok(begun) => begun,
            Err(refused) => {
                // The old generation goes on. If the new one has come into being all the same, it is the newest.
                let now = log.control().await?;
                log.set_control(&ControlRecord { left: before.left, ..now }).await?;
                return Err(refused.into());
            }
        };
        tracing::info!(database = %name, to = %plan.revision, generation = %begun.id, "restored in place");
        Ok(plan.revision)
    }

    /// Makes a new database of what another one was. Nothing is copied: it needs that part of the other one.
    pub async fn fork(
        &self,
        name: &DatabaseName,
        generation: Option<GenerationId>,
        target: Target,
        to: &DatabaseName,
    ) -> Result<Revision, HostError> {
        let log = self.log(name);
        self.newest(&log).await?;
        let to = self.log(to);
        if let Some(deletion) = to.control().await?.deleted {
            return Err(HostError::deleted(to.name(), deletion));
        }
        // Whoever asks for it meanwhile gets what it is then.
        let _turn = self.hold(to.name()).await;
        Ok(fork(&log, generation, target, &to, &host()).await?.parent)
    }

    /// Removes databases whose grace time after a deletion is over, now and every hour. Never returns.
    pub async fn keep_purging(&self) {
        loop {
            if let Err(error) = purge_deleted(&self.shared.store).await {
                tracing::warn!(%error, "cannot remove deleted databases; trying again later");
            }
            tokio::time::sleep(PURGE_EVERY).await;
        }
    }

    /// Fails if there is a database of this name, a deleted one included.
    pub(crate) async fn must_be_free(&self, name: &DatabaseName) -> Result<(), HostError> {
        let log = self.log(name);
        if let Some(deletion) = log.control().await?.deleted {
            return Err(HostError::deleted(name, deletion));
        }
        match log.latest_generation().await? {
            Some(_) => Err(HostError::Exists(name.clone())),
            None => Ok(()),
        }
    }

    async fn newest(&self, log: &DatabaseStore) -> Result<Generation, HostError> {
        let newest = self.newest_even_if_deleted(log).await?;
        match log.control().await?.deleted {
            Some(deletion) => Err(HostError::deleted(log.name(), deletion)),
            None => Ok(newest),
        }
    }

    async fn newest_even_if_deleted(&self, log: &DatabaseStore) -> Result<Generation, HostError> {
        log.latest_generation().await?.ok_or_else(|| HostError::NoSuchDatabase(log.name().clone()))
    }
}

pub(super) fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
