//! Hosted databases: opened from the store on first use, their local files a cache of it.
//!
//! # Invariants
//! - A file that is not what the store has as the newest revision is never served and never shipped: it is thrown
//!   away and restored ([`aquifer_replicate::Primary::Store`]).
//! - [`Hosted::durable`] returns only after everything committed before the call is in the store. Whoever answers
//!   after it acknowledges nothing, and reveals nothing, that another server would not have.
//! - A server that another one took over from learns it at its next put, at the latest: the database is then closed
//!   here, its local file thrown away with what was never acknowledged, and opened anew on the next use.

mod admin;
mod database;
mod durability;
mod error;
mod files;
pub mod import;
mod older;
mod pages;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use aquifer_log::{DatabaseName, DatabaseStore, Level, LogError, Store};
use aquifer_replicate::restore::{RestoreError, Restorer};
use aquifer_replicate::{Error as ReplicaError, Primary, ReplicaOptions, ReplicaStatus, Replicator, Tracker};
use futures::TryStreamExt;
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::sync::OnceCell;

use files::{DataDir, Files};
use older::Older;

pub use database::Hosted;
pub use durability::Durability;
pub use error::HostError;
pub use pages::{Pages, PinnedPages};

/// How often a file is restored that other servers outdate, before the database is left to them.
const ATTEMPTS: usize = 3;

/// When databases come into being.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Create {
    /// When somebody uses them for the first time.
    #[default]
    OnDemand,
    /// When an administrator says so.
    Admin,
}

/// The databases of one server.
#[derive(Debug)]
pub struct Hosts {
    store: Store,
    data: DataDir,
    replicator: Arc<Replicator>,
    create: Create,
    durability: Durability,
    open: Mutex<BTreeMap<DatabaseName, Arc<OnceCell<Arc<Hosted>>>>>,
}

impl Hosts {
    /// Hosts the databases of a store, with local files in a directory that no other process uses. Blocks for a moment;
    /// needs a runtime of tokio's.
    pub fn new(store: Store, data_dir: impl Into<PathBuf>, create: Create) -> Result<Hosts, HostError> {
        let data = DataDir::open(data_dir.into())?;
        let options = ReplicaOptions { primary: Primary::Store, ..ReplicaOptions::default() };
        let replicator = Arc::new(Replicator::builder(store.clone()).options(options).start());
        let durability = Durability::default();
        Ok(Hosts { store, data, replicator, create, durability, open: Mutex::default() })
    }

    /// The same, with answers that wait for something else.
    #[must_use]
    pub fn with_durability(self, durability: Durability) -> Hosts {
        Hosts { durability, ..self }
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// How each of its databases that is open does, by name.
    pub fn status(&self) -> Vec<ReplicaStatus> {
        self.replicator.status()
    }

    /// Opens a database, creates it if that is for users to do, or finds it open. Concurrent calls do the work once.
    /// Cancel-safe: a later call begins anew.
    pub async fn open(&self, name: &DatabaseName) -> Result<Arc<Hosted>, HostError> {
        self.open_or(name, self.create == Create::OnDemand).await
    }

    /// Opens a database, and creates it where there is none.
    pub async fn create(&self, name: &DatabaseName) -> Result<Arc<Hosted>, HostError> {
        self.open_or(name, true).await
    }

    async fn open_or(&self, name: &DatabaseName, create: bool) -> Result<Arc<Hosted>, HostError> {
        loop {
            let slot = Arc::clone(self.open.lock().entry(name.clone()).or_default());
            let hosted = slot.get_or_try_init(|| self.start(name, create)).await;
            match hosted {
                Ok(hosted) if hosted.is_lost() || self.is_unfrozen(hosted).await? => {
                    self.forget(name, &slot).await;
                }
                Ok(hosted) => {
                    if self.open.lock().get(name).is_some_and(|same| Arc::ptr_eq(same, &slot)) {
                        return Ok(Arc::clone(hosted));
                    }
                    // It was closed while it was being opened.
                    hosted.abandon();
                }
                Err(e) => {
                    let mut open = self.open.lock();
                    // Nobody else waits for it: names that do not exist take no memory.
                    if open
                        .get(name)
                        .is_some_and(|same| Arc::ptr_eq(same, &slot) && Arc::strong_count(same) == 2)
                    {
                        open.remove(name);
                    }
                    return Err(e);
                }
            }
        }
    }

    /// Whether a database that was opened frozen is to be opened anew, for writing: another server may have been told.
    async fn is_unfrozen(&self, hosted: &Hosted) -> Result<bool, HostError> {
        if !hosted.asks_whether_frozen(Instant::now()) {
            return Ok(false);
        }
        Ok(self.log(hosted.name()).control().await?.frozen.is_none())
    }

    /// Asks the store whether other servers have written to a database that is open here. If so it is to be opened anew,
    /// and true is returned.
    pub(crate) async fn refresh(&self, hosted: &Hosted) -> Result<bool, HostError> {
        let Some(has) = hosted.in_store() else { return Ok(false) };
        let log = self.log(hosted.name());
        let newest = log.latest_generation().await?;
        let mut later = log.segments(has.generation, Level::Shipped, has.txid);
        let later = later.try_next().await.map_err(LogError::from)?;
        let is_left = newest.is_some_and(|newest| newest.id != has.generation);
        // Looked at after the listing: what is this server's own is on its way, or known by now.
        let is_foreign = later.is_some_and(|later| hosted.is_at_rest_before(later.segment.range.last));
        if is_left || is_foreign {
            hosted.abandon();
        }
        Ok(is_left || is_foreign)
    }

    /// Closes a database that another server has taken over. The next use opens it anew.
    async fn forget(&self, name: &DatabaseName, lost: &Arc<OnceCell<Arc<Hosted>>>) {
        let was_there = {
            let mut open = self.open.lock();
            let is_same = open.get(name).is_some_and(|slot| Arc::ptr_eq(slot, lost));
            if is_same { open.remove(name) } else { None }
        };
        if was_there.is_some() {
            let _ = self.replicator.remove(name).await;
        }
    }

    async fn start(&self, name: &DatabaseName, create: bool) -> Result<Arc<Hosted>, HostError> {
        let files = self.data.files(name);
        let control = self.log(name).control().await?;
        if let Some(deletion) = control.deleted {
            return Err(HostError::Deleted { name: name.clone(), gone: deletion.gone });
        }
        let is_frozen = control.frozen.is_some();
        // A file that turns out to be outdated is restored, and is not outdated then unless another server has just
        // shipped something.
        for _ in 0..ATTEMPTS {
            self.fetch(name, &files, create).await?;
            // Of an earlier attempt whose caller went away.
            let _ = self.replicator.remove(name).await;
            let tracker = Tracker::new();
            self.replicator.add_tracked(files.database(), name, Arc::clone(&tracker))?;
            match self.replicator.sync_database(name).await {
                Ok(_) => {
                    let (database, older) = (self.log(name), Older::new(files.older()));
                    let pages = Pages::new(database, Arc::clone(&self.replicator), tracker, older);
                    let replicator = Arc::clone(&self.replicator);
                    let hosted = Hosted::new(name.clone(), files, replicator, pages, is_frozen);
                    return Ok(Arc::new(hosted.acknowledging(self.durability)));
                }
                Err(e @ (ReplicaError::Outdated { .. } | ReplicaError::Fenced { .. })) => {
                    tracing::info!(database = %name, reason = %e, "the local file is outdated; restoring it");
                    let _ = self.replicator.remove(name).await;
                    match self.durability {
                        Durability::Store => files.discard().await?,
                        // It may have what was acknowledged, and is nowhere else.
                        Durability::Local => files.set_aside().await?,
                    }
                }
                Err(e) => {
                    let _ = self.replicator.remove(name).await;
                    return Err(e.into());
                }
            }
        }
        Err(HostError::Contended(name.clone()))
    }

    /// Makes sure that there is a local file: restores it, or makes an empty one.
    async fn fetch(&self, name: &DatabaseName, files: &Files, create: bool) -> Result<(), HostError> {
        if files.exist().await? {
            return Ok(());
        }
        match Restorer::new(self.store.clone(), name.clone(), files.database()).restore().await {
            Ok(_) => Ok(()),
            Err(RestoreError::Plan(e)) if e.is_no_replica() && create => files.make_empty().await,
            Err(RestoreError::Plan(e)) if e.is_no_replica() => Err(HostError::NoSuchDatabase(name.clone())),
            Err(e) => Err(e.into()),
        }
    }

    /// Ships what is committed and closes all databases. The first error, after all are closed.
    pub async fn shutdown(&self) -> Result<(), HostError> {
        self.open.lock().clear();
        Ok(self.replicator.shutdown().await?)
    }

    /// A database that is open here at this moment.
    pub fn opened(&self, name: &DatabaseName) -> Option<Arc<Hosted>> {
        self.open.lock().get(name)?.get().cloned()
    }

    /// A directory for files on their way, removed when dropped.
    pub(crate) fn scratch(&self) -> Result<TempDir, HostError> {
        self.data.scratch()
    }

    /// Whether the store knows a database of this name.
    pub async fn exists(&self, name: &DatabaseName) -> Result<bool, HostError> {
        let database = DatabaseStore::new(self.store.clone(), name.clone());
        Ok(database.latest_generation().await?.is_some())
    }
}
