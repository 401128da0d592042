//! Who serves a database, and which servers there are.
//!
//! A server claims a database before it serves it: it creates `owner/<epoch>.json` under the next epoch, only if that
//! is free. So claims follow each other in one order that all servers agree on, and the newest one stands until its
//! server gives the database back, or is gone: see `aquifer_server::cluster` for when that is so.
//!
//! Claims keep servers from answering with what another one has already changed. That no acknowledged commit is lost
//! does not rest on them: that is the put-if-absent of level 0.

use std::time::{Duration, Instant};

use aquifer_format::Timestamp;
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::database::DatabaseStore;
use crate::error::LogError;
use crate::generation::{decode, encode};
use crate::layout;
use crate::store::{Key, Store, StoreError};

/// What `owner/<epoch>.json` holds: who claimed the database for serving.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerRecord {
    /// The server: it announces itself under `servers/` for as long as the claim stands.
    pub server: Uuid,
    /// Name of its machine.
    pub host: String,
    /// Since when, by its clock.
    pub since: Timestamp,
    /// Whether it has given the database back: everything that it acknowledged is in the store, and anyone may claim it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub released: bool,
}

/// A claim: its epoch, and what it says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Owner {
    /// Grows by one with each claim; the first is 1.
    pub epoch: u64,
    /// The record.
    #[serde(flatten)]
    pub record: OwnerRecord,
}

impl OwnerRecord {
    pub(crate) fn decode(store: &Store, key: &Key, bytes: &[u8]) -> Result<OwnerRecord, LogError> {
        decode(store, key, bytes)
    }
}

impl DatabaseStore {
    /// The newest claim. One LIST and one GET.
    pub async fn owner(&self) -> Result<Option<Owner>, LogError> {
        loop {
            let Some(epoch) = self.epochs(0).await?.pop() else { return Ok(None) };
            let key = self.layout().owner(epoch);
            match self.store().get(&key).await {
                Ok(bytes) => {
                    let record = OwnerRecord::decode(self.store(), &key, &bytes)?;
                    return Ok(Some(Owner { epoch, record }));
                }
                // A newer one has come since.
                Err(e) if e.is_not_found() => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// The claim under which a server serves the database right now, if one does. One LIST; where there is a claim that
    /// was not given back, it waits for the server's next sign of life, for a lease at most.
    ///
    /// Cancel-safe. It tells what is so, for those who take no part in claims: a server may claim the database as soon as
    /// this has answered.
    pub async fn served(&self) -> Result<Option<Owner>, LogError> {
        let owner = match self.owner().await {
            Ok(owner) => owner.filter(|owner| !owner.record.released),
            Err(LogError::Store(StoreError::NoStore { .. })) => None,
            Err(e) => return Err(e),
        };
        let Some(owner) = owner else { return Ok(None) };
        let server = owner.record.server;
        let Some(first) = ServerRecord::find(self.store(), server).await? else { return Ok(None) };
        let lease = Duration::from_millis(first.lease_millis).min(LONGEST_LEASE);
        let began = Instant::now();
        while began.elapsed() <= lease {
            tokio::time::sleep(lease / LOOKS).await;
            match ServerRecord::find(self.store(), server).await? {
                Some(now) if now.beat == first.beat => {}
                Some(_) => return Ok(Some(owner)),
                None => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Claims the database under an epoch, which is to be the one after the newest claim's, and that one's server gone:
    /// whether the claim is this record's now. Claims before it are deleted then.
    ///
    /// After an error, and if the future is dropped, the claim may be made: call again with the very same record.
    pub async fn claim(&self, epoch: u64, record: &OwnerRecord) -> Result<bool, LogError> {
        if !self.store().create(&self.layout().owner(epoch), encode(record)).await?.is_ours() {
            return Ok(false);
        }
        // Names of claims become free when newer claims delete them: a server that stood still between its look and its
        // create would be given an epoch that was long ago. The newest is never deleted, so that a look tells.
        let mut epochs = self.epochs(epoch.saturating_sub(OLD_CLAIMS)).await?;
        let is_newest = epochs.last() == Some(&epoch);
        epochs.retain(|old| *old < epoch || !is_newest && *old == epoch);
        let old: Vec<Key> = epochs.into_iter().map(|old| self.layout().owner(old)).collect();
        if !old.is_empty() {
            self.store().delete_many(&old).await?;
        }
        Ok(is_newest)
    }

    /// Gives the database back: to be called only by who claimed this epoch, when everything that it acknowledged is in
    /// the store, and it acknowledges nothing more.
    pub async fn release(&self, owner: &Owner) -> Result<(), StoreError> {
        let released = OwnerRecord { released: true, ..owner.record.clone() };
        self.store().put(&self.layout().owner(owner.epoch), encode(&released)).await
    }

    /// The epochs of claims after this one, ascending.
    async fn epochs(&self, after: u64) -> Result<Vec<u64>, StoreError> {
        let (layout, after) = (self.layout(), self.layout().owner(after));
        let listing = self.store().list(&layout.owners(), Some(&after));
        let epochs = listing.try_filter_map(|info| async move { Ok(layout.epoch(&info.key)) });
        match epochs.try_collect().await {
            Err(StoreError::NoStore { .. }) => Ok(Vec::new()),
            epochs => epochs,
        }
    }
}

/// So often a server's sign of life is looked for within a lease.
const LOOKS: u32 = 10;
/// Nobody waits for longer than this.
const LONGEST_LEASE: Duration = Duration::from_mins(2);

/// A claim deletes only so many before it: the listing that tells that it is the newest is of one page.
const OLD_CLAIMS: u64 = 64;

/// What `servers/<id>.json` holds: a server's address and sign of life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerRecord {
    /// Its id, as in the object's name: new after each time that it did not live, as others saw it.
    pub id: Uuid,
    /// Name of the machine.
    pub host: String,
    /// Where it takes requests, if others can reach it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// When it announced itself first, by its clock.
    pub started: Timestamp,
    /// Grows with each sign of life. Whoever sees the same number for as long as `lease_millis` may take it for gone.
    pub beat: u64,
    /// For how long one sign of life counts, in milliseconds.
    pub lease_millis: u64,
    /// With what other servers of the store prove to it that they are such.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<ServerSecret>,
}

/// What a server shares with those who can read its store, and with nobody else. Not in `Debug` output.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ServerSecret(String);

impl ServerSecret {
    /// One that nobody can guess, if `text` cannot be guessed.
    pub fn new(text: String) -> ServerSecret {
        ServerSecret(text)
    }

    /// Its bytes, for a key.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl std::fmt::Debug for ServerSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServerSecret(…)")
    }
}

impl ServerRecord {
    /// Announces the server, or renews its sign of life.
    pub async fn announce(&self, store: &Store) -> Result<(), StoreError> {
        store.put(&layout::server(self.id), encode(self)).await
    }

    /// The server of this id, if it announced itself and has not ended.
    pub async fn find(store: &Store, id: Uuid) -> Result<Option<ServerRecord>, LogError> {
        let key = layout::server(id);
        match store.get(&key).await {
            Ok(bytes) => decode(store, &key, &bytes).map(Some),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Says that the server of this id has ended: nothing that it claimed is its own any more.
    pub async fn end(store: &Store, id: Uuid) -> Result<(), StoreError> {
        store.delete(&layout::server(id)).await
    }
}
