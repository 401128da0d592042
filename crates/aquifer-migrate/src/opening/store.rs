//! A database here, and an Aquifer store that has it.

use std::fs;
use std::path::PathBuf;

use aquifer_log::{DatabaseStore, Plan};
use aquifer_replicate::ReplicaOptions;
use aquifer_replicate::restore::Restorer;
use aquifer_replicate::state::StateDir;

use super::local::Local;
use super::opener::{Opened, Opener, RestoreAction, done, existing};
use super::proof::{Relation, counter_there, relation};
use crate::error::{MigrateError, Result};
use crate::restore::blocking;

impl Opener {
    pub(super) async fn against_store(
        &self,
        local: Option<Local>,
        database: &DatabaseStore,
        plan: &Plan,
    ) -> Result<Opened> {
        if local.is_none() {
            return self.restore(local, database).await;
        }
        self.make_wal().await?;
        let state = self.state_directory(database);
        blocking(move || locked(&state).map(drop)).await?;
        let (relation, image) = relation(&self.path, &self.states(), database, plan).await?;
        match relation {
            Relation::Same => {
                return Ok(Opened { action: RestoreAction::Reuse, shipped: Some(plan.revision) });
            }
            Relation::Behind => return self.restore(local, database).await,
            Relation::Ahead => match self.ship(database.store(), database.name(), self.options.clone()).await
            {
                Ok(shipped) => return Ok(Opened { action: RestoreAction::Reuse, shipped }),
                // Somebody else has gone on in its place just now.
                Err(MigrateError::Replicate(error)) if error.is_taken_over() => {}
                Err(error) => return Err(error),
            },
            Relation::Apart => {}
        }
        if image.change_counter < counter_there(database, plan).await? {
            return self.restore(local, database).await;
        }
        let options = ReplicaOptions { new_generation: true, ..self.options.clone() };
        let shipped = self.ship(database.store(), database.name(), options).await?;
        Ok(Opened { action: RestoreAction::SnapshotNeeded, shipped })
    }

    /// What is there takes the place of what is here, and of what a replica knew of that.
    async fn restore(&self, local: Option<Local>, database: &DatabaseStore) -> Result<Opened> {
        let restorer = Restorer::new(database.store().clone(), database.name().clone(), &self.path);
        let restored = restorer.existing(existing(local)).integrity_check(true).restore().await?.restored();
        let state = self.state_directory(database);
        blocking(move || forget(&state)).await?;
        Ok(match restored {
            Some(restored) => Opened { action: done(restored.installed), shipped: Some(restored.revision) },
            None => unreachable!("a file that is there is replaced"),
        })
    }

    /// Where the states of the database's replicas are: one for each store and name.
    fn states(&self) -> PathBuf {
        self.options.state_dir.clone().unwrap_or_else(|| StateDir::beside(&self.path))
    }

    fn state_directory(&self, database: &DatabaseStore) -> PathBuf {
        self.states().join(StateDir::name_of(database.store().url(), database.name().as_str()))
    }
}

/// The state of this machine's replica, if there was one. An error if that runs.
fn locked(state: &std::path::Path) -> Result<Option<StateDir>> {
    if !state.is_dir() {
        return Ok(None);
    }
    let opened = StateDir::open(state).map_err(|e| MigrateError::io("read", state, e))?;
    opened.map(Some).ok_or_else(|| MigrateError::Replicated { state: state.to_owned() })
}

fn forget(state: &std::path::Path) -> Result<()> {
    let Some(_locked) = locked(state)? else { return Ok(()) };
    fs::remove_dir_all(state).map_err(|e| MigrateError::io("remove", state, e))
}
