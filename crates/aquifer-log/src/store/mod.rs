//! Object stores: a local directory, memory, S3, Google Cloud Storage, Azure.
//!
//! [`Store`] adds to the clients what the log needs of them: a put-if-absent that knows whose object it met
//! ([`Store::create`]), retries that tell "failed" from "outcome unknown", counts of requests, listings in key
//! order, and errors by what a caller does about them.

mod backend;
mod clock;
mod counts;
mod create;
mod error;
mod key;
mod list;
mod open;
mod probe;
mod retry;
mod upload;
mod url;

use std::future::Future;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use aquifer_format::Timestamp;
use bytes::Bytes;
use object_store::{ObjectStore, PutPayload};

use backend::{Backend, Fetched, Part, Remote};
use counts::{Counters, Request};
use error::{Failure, FailureKind};
use retry::Attempts;

pub use clock::SteadyClock;
pub use counts::RequestCounts;
pub use create::Created;
pub use error::StoreError;
pub use key::{InvalidKey, Key, Prefix};
pub use list::Listing;
pub use probe::{Capabilities, Verdict};
pub use retry::Patience;
pub use upload::Upload;
pub use url::{Location, ParseStoreUrlError, StoreUrl};

/// An object's name, size and age, as listings tell them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its name.
    pub key: Key,
    /// Its length in bytes.
    pub len: u64,
    /// When it was written, by the store's clock.
    pub last_modified: Timestamp,
}

/// A handle to an object store. Clones share the connections and the counters.
///
/// Every operation that fails transiently is tried again as its [`Patience`] says. All futures may be dropped
/// at any time; for those that change the store this leaves the outcome unknown, as a lost answer does.
#[derive(Debug, Clone)]
pub struct Store {
    shared: Arc<Shared>,
    patience: Patience,
    /// Whether creates rely on the store's put-if-absent.
    fenced: bool,
}

#[derive(Debug)]
struct Shared {
    backend: Box<dyn Backend>,
    url: String,
    counters: Counters,
    clock: Mutex<SteadyClock>,
}

impl Store {
    /// The store at this URL, with credentials from the environment. No I/O: whether it is there, and lets us
    /// in, shows at the first request. A local directory is made by the first write to it.
    pub fn open(url: &StoreUrl) -> Result<Store, StoreError> {
        Store::open_with_environment(
            url,
            std::env::vars_os()
                .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?))),
        )
    }

    /// As [`Store::open`], with these environment variables instead of the process's.
    pub fn open_with_environment(
        url: &StoreUrl,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Store, StoreError> {
        let environment: Vec<_> = environment.into_iter().collect();
        Ok(Store::with_backend(open::backend(url, &environment)?, url.to_string()))
    }

    /// A store on any implementation of `object_store`'s trait: for embedding, and for tests. `label` is what
    /// messages call it.
    pub fn from_object_store(objects: Arc<dyn ObjectStore>, label: impl Into<String>) -> Store {
        Store::with_backend(Box::new(Remote::plain(objects)), label.into())
    }

    fn with_backend(backend: Box<dyn Backend>, url: String) -> Store {
        let shared = Shared { backend, url, counters: Counters::default(), clock: Mutex::default() };
        Store { shared: Arc::new(shared), patience: Patience::BACKGROUND, fenced: true }
    }

    /// This store with another patience; connections and counters are shared.
    #[must_use]
    pub fn with_patience(&self, patience: Patience) -> Store {
        Store { patience, ..self.clone() }
    }

    /// This store for use although it has no put-if-absent: creates look first and then put. Two writers who do
    /// so at the same moment can both succeed, and one of them loses what it wrote.
    #[must_use]
    pub fn unfenced(&self) -> Store {
        Store { fenced: false, ..self.clone() }
    }

    /// Whether creates rely on the store's put-if-absent: false after [`Store::unfenced`].
    pub fn is_fenced(&self) -> bool {
        self.fenced
    }

    /// The store's URL. Holds no credentials.
    pub fn url(&self) -> &str {
        &self.shared.url
    }

    /// Whether it is a directory: then small requests cost no more than large ones.
    pub fn is_local(&self) -> bool {
        self.shared.backend.is_local()
    }

    /// How many requests were sent through this handle and its clones.
    pub fn counts(&self) -> RequestCounts {
        self.shared.counters.snapshot()
    }

    /// Reads an object.
    pub async fn get(&self, key: &Key) -> Result<Bytes, StoreError> {
        // What is read in one piece is small; this only bounds how long it may take.
        const PRESUMED: u64 = 64 << 20;
        self.fetch(key, Part::All, PRESUMED).await.map(|fetched| fetched.bytes)
    }

    /// Reads a range of an object, 0-based, end exclusive. What is returned is shorter where the object ends
    /// inside of the range, and empty where it ends before.
    pub async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, StoreError> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let len = range.end - range.start;
        self.fetch(key, Part::Range(range), len).await.map(|fetched| fetched.bytes)
    }

    /// [`Store::get_range`] on the calling thread, where objects are files: saves handing over to another thread
    /// and back. `None` where they are not, or where reading failed: `get_range` has the patience then, and the
    /// error. Blocks.
    pub fn read_range(&self, key: &Key, range: Range<u64>) -> Option<Bytes> {
        let fetched = self.shared.backend.get_now(key, &Part::Range(range))?.ok()?;
        self.shared.counters.sent(Request::Get, 0);
        self.shared.counters.received(fetched.bytes.len() as u64);
        Some(fetched.bytes)
    }

    /// Reads the last `n` bytes of an object (all of a shorter one), and tells the object's length. One request,
    /// on Azure two.
    pub async fn get_suffix(&self, key: &Key, n: u64) -> Result<(Bytes, u64), StoreError> {
        if !self.shared.backend.reads_suffixes() {
            let len = self.head(key).await?.len;
            return Ok((self.get_range(key, len.saturating_sub(n)..len).await?, len));
        }
        let fetched = self.fetch(key, Part::Suffix(n), n).await?;
        Ok((fetched.bytes, fetched.object_len))
    }

    /// Looks an object up without reading it.
    pub async fn head(&self, key: &Key) -> Result<ObjectInfo, StoreError> {
        let backend = &self.shared.backend;
        self.retrying(Request::Head, key.as_str(), || self.attempt(Request::Head, 0, 0, backend.head(key)))
            .await
    }

    /// Stores an object, replacing one of the same name. For names whose content does not matter to safety;
    /// everything else goes through [`Store::create`].
    pub async fn put(&self, key: &Key, payload: impl Into<PutPayload>) -> Result<(), StoreError> {
        let payload = payload.into();
        let len = payload.content_length() as u64;
        let backend = &self.shared.backend;
        self.retrying(Request::Put, key.as_str(), || {
            self.attempt(Request::Put, len, 0, backend.put(key, payload.clone()))
        })
        .await
    }

    /// Deletes an object. Fine if there is none.
    pub async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.delete_many(std::slice::from_ref(key)).await
    }

    /// Deletes objects, in the order given as far as the store has one. Fine if some do not exist. After an
    /// error some may be gone and others not.
    pub async fn delete_many(&self, keys: &[Key]) -> Result<(), StoreError> {
        const AT_ONCE: usize = 1000;
        let backend = &self.shared.backend;
        for chunk in keys.chunks(AT_ONCE) {
            let what = match chunk {
                [key] => key.to_string(),
                [first, ..] => format!("{first} and {} more", chunk.len() - 1),
                [] => continue,
            };
            self.retrying(Request::Delete, &what, || {
                for _ in 1..backend.delete_requests(chunk.len()) {
                    self.shared.counters.sent(Request::Delete, 0);
                }
                self.attempt(Request::Delete, 0, chunk.len() as u64 * 1024, backend.delete(chunk))
            })
            .await?;
        }
        Ok(())
    }

    async fn fetch(&self, key: &Key, part: Part, expected: u64) -> Result<Fetched, StoreError> {
        let backend = &self.shared.backend;
        let fetched = self
            .retrying(Request::Get, key.as_str(), || {
                self.attempt(Request::Get, 0, expected, backend.get(key, part.clone()))
            })
            .await?;
        self.shared.counters.received(fetched.bytes.len() as u64);
        Ok(fetched)
    }

    /// One counted attempt, abandoned when it takes longer than its payload explains.
    async fn attempt<T>(
        &self,
        request: Request,
        up: u64,
        down: u64,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        self.shared.counters.sent(request, up);
        let limit = self.patience.limit(up + down);
        tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
            let reason = format!("no answer within {:.0} s", limit.as_secs_f64());
            Err(Failure::new(FailureKind::Unknown, reason))
        })
    }

    /// Repeats attempts as long as patience lasts.
    async fn retrying<T, F>(
        &self,
        request: Request,
        what: &str,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let mut attempts = Attempts::new(self.patience);
        loop {
            match attempt().await {
                Ok(value) => return Ok(value),
                Err(failure) => self.again(&mut attempts, request, what, failure).await?,
            }
        }
    }

    /// Waits before the next attempt, or makes the failure an error.
    async fn again(
        &self,
        attempts: &mut Attempts,
        request: Request,
        what: &str,
        failure: Failure,
    ) -> Result<(), StoreError> {
        match attempts.again(failure).await {
            Ok(()) => {
                self.shared.counters.retried();
                Ok(())
            }
            Err(failure) => Err(self.error(attempts, request, what, failure)),
        }
    }

    fn error(&self, attempts: &Attempts, request: Request, what: &str, failure: Failure) -> StoreError {
        let url = self.shared.url.clone();
        let action = format!("{} '{what}'", request.verb());
        let Failure { kind, reason, source } = failure;
        match kind {
            FailureKind::NotFound => match Key::parse(what) {
                Ok(key) => StoreError::NotFound { url, key },
                Err(_) => StoreError::Refused { url, action, reason, source },
            },
            FailureKind::NoStore => StoreError::NoStore { url },
            FailureKind::Denied => StoreError::Denied { url, action, reason, source },
            FailureKind::Refused => StoreError::Refused { url, action, reason, source },
            FailureKind::Exists | FailureKind::NotSent | FailureKind::Unknown => StoreError::Unavailable {
                url,
                action,
                tries: attempts.made(),
                reason,
                outcome_unknown: attempts.outcome_unknown() && request.changes_the_store(),
                source,
            },
        }
    }
}
