//! Claims: which term serves a database.

use std::sync::Arc;

use aquifer_format::Timestamp;
use aquifer_log::{DatabaseStore, LogError, Owner, OwnerRecord, ServerRecord, ServerSecret};
use uuid::Uuid;

use super::peers::Standing;
use super::{Cluster, Term};
use crate::hosted::HostError;

/// A database that this server may answer for, while the claim holds.
#[derive(Clone, Debug)]
pub struct Claim {
    term: Arc<Term>,
    owner: Owner,
}

/// The server that a database is to be asked of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elsewhere {
    /// Its id.
    pub server: Uuid,
    /// Name of its machine.
    pub host: String,
    /// Where it takes requests, if others can reach it.
    pub url: Option<String>,
    /// With what it is proven to it that another server of its store speaks.
    pub(crate) secret: Option<ServerSecret>,
}

impl Claim {
    /// Whether no other server may have changed the database. To be asked after everything that an answer tells is
    /// known, and before it leaves.
    pub fn holds(&self) -> bool {
        self.term.holds()
    }
}

impl Cluster {
    /// Claims a database. To be called by one at a time for a database: by whoever opens it.
    ///
    /// # Errors
    /// [`HostError::Elsewhere`] if another server has it.
    pub(crate) async fn claim(&self, database: &DatabaseStore) -> Result<Claim, HostError> {
        loop {
            let term = self.term().await?;
            let newest = self.patient(database).owner().await?;
            if let Some(owner) = &newest
                && !owner.record.released
            {
                let server = owner.record.server;
                if server == term.id() {
                    // An attempt to open it that came to nothing.
                    return Ok(Claim { term, owner: owner.clone() });
                }
                if let Some(other) = self.living(server).await? {
                    return Err(HostError::Elsewhere(database.name().clone(), other));
                }
            }
            let epoch = newest.map_or(0, |owner| owner.epoch) + 1;
            if let Some(claim) = self.claim_epoch(database, term, epoch).await? {
                return Ok(claim);
            }
        }
    }

    /// Which other server has a database. Claims nothing. One LIST and up to two GETs.
    pub(crate) async fn elsewhere(&self, database: &DatabaseStore) -> Result<Option<Elsewhere>, HostError> {
        match self.patient(database).owner().await? {
            Some(owner) if !owner.record.released && !self.is_own(owner.record.server) => {
                self.living(owner.record.server).await
            }
            _ => Ok(None),
        }
    }

    /// A server that is not this one, if it may answer for what it claimed.
    async fn living(&self, server: Uuid) -> Result<Option<Elsewhere>, HostError> {
        if self.shared.is_past(server) {
            return Ok(None);
        }
        Ok(match self.shared.peers.judge(&self.shared.store, server).await? {
            Standing::Live(ServerRecord { host, url, secret, .. }) => {
                Some(Elsewhere { server, host, url, secret })
            }
            Standing::Over => None,
        })
    }

    /// Claims a database once more whose claim does not hold any more. `None`: another server was faster.
    pub(crate) async fn claim_again(
        &self,
        database: &DatabaseStore,
        before: &Claim,
    ) -> Result<Option<Claim>, HostError> {
        let term = self.term().await?;
        if let Some(claim) = self.claim_epoch(database, Arc::clone(&term), before.owner.epoch + 1).await? {
            return Ok(Some(claim));
        }
        // The answer to an attempt before may have been lost.
        let newest = self.patient(database).owner().await?.filter(|owner| owner.record.server == term.id());
        Ok(newest.map(|owner| Claim { term, owner }))
    }

    async fn claim_epoch(
        &self,
        database: &DatabaseStore,
        term: Arc<Term>,
        epoch: u64,
    ) -> Result<Option<Claim>, HostError> {
        let database = self.patient(database);
        let (server, host, since) = (term.id(), self.shared.host.clone(), Timestamp::now());
        let record = OwnerRecord { server, host, since, released: false };
        let is_ours = database.claim(epoch, &record).await?;
        tracing::debug!(database = %database.name(), epoch, is_ours, "claimed");
        Ok(is_ours.then_some(Claim { term, owner: Owner { epoch, record } }))
    }

    /// Gives a database back. Everything that was acknowledged of it is in the store; nothing more will be.
    pub(crate) async fn release(&self, database: &DatabaseStore, claim: &Claim) -> Result<(), LogError> {
        // A claim that does not hold is nobody's already.
        if claim.holds() {
            self.patient(database).release(&claim.owner).await?;
        }
        Ok(())
    }

    /// Patient for as long as this server is, where it is about claims.
    fn patient(&self, database: &DatabaseStore) -> DatabaseStore {
        DatabaseStore::new(self.shared.store.clone(), database.name().clone())
    }
}
