//! Who has a database open, and which servers there are: advice for routing and for people. Safety never rests
//! on it: that is the put-if-absent of level 0.

use aquifer_format::{Timestamp, WriterNonce};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::LogError;
use crate::generation::{decode, encode};
use crate::layout;
use crate::store::{Store, StoreError};

/// What `owner.json` holds: who opened the database for writing last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerRecord {
    /// Name of the machine.
    pub host: String,
    /// Where requests for the database should go, if its owner takes any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The server, if it is one: it announces itself under `servers/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<Uuid>,
    /// Grows by one with each change of owner, as far as owners knew of each other.
    pub epoch: u64,
    /// Since when.
    pub since: Timestamp,
    /// The nonce of the segments that it writes.
    pub writer: WriterNonce,
}

impl OwnerRecord {
    pub(crate) fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    pub(crate) fn decode(
        store: &Store,
        key: &crate::store::Key,
        bytes: &[u8],
    ) -> Result<OwnerRecord, LogError> {
        decode(store, key, bytes)
    }
}

/// What `servers/<id>.json` holds: a server's address and sign of life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerRecord {
    /// Its id, as in the object's name.
    pub id: Uuid,
    /// Name of the machine.
    pub host: String,
    /// Where it takes requests.
    pub url: String,
    /// When it started.
    pub started: Timestamp,
    /// When it last said that it lives.
    pub alive: Timestamp,
}

impl ServerRecord {
    /// Announces the server, or renews its sign of life.
    pub async fn announce(&self, store: &Store) -> Result<(), StoreError> {
        store.put(&layout::server(self.id), encode(self)).await
    }

    /// The server of this id, if it announced itself.
    pub async fn find(store: &Store, id: Uuid) -> Result<Option<ServerRecord>, LogError> {
        let key = layout::server(id);
        match store.get(&key).await {
            Ok(bytes) => decode(store, &key, &bytes).map(Some),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
}
