//! What a store must be able to do, once and without retries.

mod directory;
mod failure;
mod remote;

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use object_store::PutPayload;

pub(crate) use directory::Directory;
pub(crate) use remote::{IDLE_CONNECTION, Remote};

use super::ObjectInfo;
use super::error::Failure;
use super::key::{Key, Prefix};

/// One attempt of each operation. Whoever calls counts, limits the time, and tries again.
#[async_trait]
pub(crate) trait Backend: Send + Sync + std::fmt::Debug {
    /// Stores an object, replacing one of the same name.
    async fn put(&self, key: &Key, payload: PutPayload) -> Result<(), Failure>;

    /// Stores an object unless there is one of the same name (`Exists`). Of any number of concurrent creates
    /// exactly one succeeds, if the store is as good as its word.
    async fn create(&self, key: &Key, payload: PutPayload) -> Result<(), Failure>;

    /// Reads part of an object, and tells how long all of it is.
    async fn get(&self, key: &Key, part: Part) -> Result<Fetched, Failure>;

    /// [`Backend::get`] on the calling thread, where it only reads a file.
    fn get_now(&self, _key: &Key, _part: &Part) -> Option<Result<Fetched, Failure>> {
        None
    }

    /// Whether a request is answered without a network in between.
    fn is_local(&self) -> bool {
        false
    }

    /// Whether `Part::Suffix` can be read.
    fn reads_suffixes(&self) -> bool {
        true
    }

    async fn head(&self, key: &Key) -> Result<ObjectInfo, Failure>;

    /// One page of the objects under a prefix at any depth, ascending by key.
    async fn list(&self, prefix: &Prefix, from: Position) -> Result<Page<ObjectInfo>, Failure>;

    /// One page of the names that follow a prefix up to the next slash, ascending; at most `limit` where the
    /// store can count.
    async fn list_dirs(&self, prefix: &Prefix, from: Position, limit: usize)
    -> Result<Page<String>, Failure>;

    /// Deletes objects; absent ones are fine.
    async fn delete(&self, keys: &[Key]) -> Result<(), Failure>;

    /// How many requests `delete` sends for this many keys.
    fn delete_requests(&self, keys: usize) -> u64 {
        keys as u64
    }

    /// Starts an object that is written in parts. It appears, whole, at `complete`.
    async fn upload(&self, key: &Key) -> Result<Arc<dyn BackendUpload>, Failure>;
}

/// An object that is being written in parts.
#[async_trait]
pub(crate) trait BackendUpload: Send + Sync + std::fmt::Debug {
    /// Begins to send a part and returns what waits for it. Called once per number in ascending order from 0;
    /// the futures may run side by side. May be called again for a part that failed if `repeats_requests`.
    fn part(self: Arc<Self>, number: usize, payload: PutPayload) -> BoxFuture<'static, Result<(), Failure>>;

    /// Whether a part or a completion that failed can be sent again.
    fn repeats_requests(&self) -> bool {
        true
    }

    /// Publishes the object. All parts have been sent.
    async fn complete(&self) -> Result<(), Failure>;

    /// Forgets it.
    async fn abort(&self) -> Result<(), Failure>;
}

/// Which bytes of an object to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    All,
    /// Not empty, 0-based, end exclusive; cut off where the object ends, which may be before it starts.
    Range(Range<u64>),
    /// The last bytes, or all of a shorter object.
    Suffix(u64),
}

pub(crate) struct Fetched {
    pub(crate) bytes: Bytes,
    pub(crate) object_len: u64,
}

/// Where a page of a listing starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Position {
    Start,
    /// After this key, exclusive.
    After(Key),
    /// Where the page ended that gave this token.
    Token {
        token: String,
        after: Option<Key>,
    },
}

pub(crate) struct Page<T> {
    pub(crate) items: Vec<T>,
    /// Where the next page starts, `None` at the end.
    pub(crate) next: Option<Position>,
}
