//! Hosted databases: opened from the store on first use, their local files a cache of it.
//!
//! # Invariants
//! - A database is opened only by the server that has claimed it ([`crate::cluster`]), and closed when nobody holds it.
//! - A file that is not what the store has as the newest revision is never served and never shipped: it is thrown
//!   away and restored ([`aquifer_replicate::Primary::Store`]).
//! - [`Hosted::durable`] returns only after everything committed before the call is in the store, and only while no other
//!   server may have gone on. Whoever answers after it acknowledges nothing that another server would not have, and tells
//!   nothing that another server has changed.
//! - A server that another one took over from learns it before it answers, or at its next put: the database is then
//!   closed here, its local file thrown away with what was never acknowledged, and opened anew on the next use.

mod activity;
mod admin;
mod closing;
mod database;
mod durability;
mod error;
mod files;
pub mod import;
mod older;
mod opening;
mod pages;
mod slots;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use aquifer_log::{DatabaseName, Level, LogError, Store};
use aquifer_replicate::{Primary, ReplicaOptions, ReplicaStatus, Replicator, UpkeepOptions};

use futures::TryStreamExt;
use tempfile::TempDir;

use crate::cluster::{Cluster, ClusterOptions};
use files::DataDir;
use slots::{Entry, Slots};

pub use activity::{Activity, Puller, Pulls};
pub use database::Hosted;
pub use durability::Durability;
pub use error::HostError;
pub use pages::{Pages, PinnedPages};

/// When databases come into being.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Create {
    /// When somebody uses them for the first time.
    #[default]
    OnDemand,
    /// When an administrator says so.
    Admin,
}

/// How databases are hosted.
#[derive(Clone, Debug, PartialEq)]
pub struct HostOptions {
    /// When they come into being.
    pub create: Create,
    /// What answers wait for.
    pub durability: Durability,
    /// A database that nobody has used for so long is closed.
    pub close_after: Duration,
    /// Databases that are open at the same time.
    pub max_open: usize,
    /// Bytes of files on this disk: beyond, those of closed databases are thrown away. Databases that are open count, and
    /// stay.
    pub cache_size: Option<u64>,
    /// How servers of one store share them.
    pub cluster: ClusterOptions,
    /// How much of their history is kept, and in what shape. The same on all servers of a store.
    pub upkeep: UpkeepOptions,
}

impl Default for HostOptions {
    fn default() -> HostOptions {
        HostOptions {
            create: Create::default(),
            durability: Durability::default(),
            close_after: Duration::from_mins(10),
            max_open: 4096,
            cache_size: None,
            cluster: ClusterOptions::default(),
            upkeep: UpkeepOptions::default(),
        }
    }
}

/// The databases of one server.
#[derive(Debug)]
pub struct Hosts {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: Store,
    data: DataDir,
    replicator: Arc<Replicator>,
    cluster: Cluster,
    options: HostOptions,
    slots: Arc<Slots>,
    stopping: AtomicBool,
}

impl Hosts {
    /// Hosts the databases of a store, with local files in a directory that no other process uses. Blocks for a moment;
    /// needs a runtime of tokio's.
    pub fn new(store: Store, data_dir: impl Into<PathBuf>, options: HostOptions) -> Result<Hosts, HostError> {
        let data = DataDir::open(data_dir.into())?;
        let cluster = Cluster::new(&store, options.cluster.clone(), data.server_note());
        let upkeep = options.upkeep.clone();
        let replica = ReplicaOptions { primary: Primary::Store, upkeep, ..ReplicaOptions::default() };
        let replicator = Arc::new(Replicator::builder(store.clone()).options(replica).start());
        let (slots, stopping) = (Arc::default(), AtomicBool::new(false));
        let shared = Shared { store, data, replicator, cluster, options, slots, stopping };
        Ok(Hosts { shared: Arc::new(shared) })
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.shared.store
    }

    /// This server among those of the store.
    pub fn cluster(&self) -> &Cluster {
        &self.shared.cluster
    }

    /// How each of its databases that is open does, by name.
    pub fn status(&self) -> Vec<ReplicaStatus> {
        self.shared.replicator.status()
    }

    /// Opens a database, creates it if that is for users to do, or finds it open. Concurrent calls do the work once.
    /// Cancel-safe: the work goes on.
    ///
    /// # Errors
    /// [`HostError::Elsewhere`] if another server has it.
    pub async fn open(&self, name: &DatabaseName) -> Result<Arc<Hosted>, HostError> {
        self.open_or(name, self.shared.options.create == Create::OnDemand).await
    }

    /// Opens a database, and creates it where there is none.
    pub async fn create(&self, name: &DatabaseName) -> Result<Arc<Hosted>, HostError> {
        self.open_or(name, true).await
    }

    /// The database, if this server has it open or is about to. Cancel-safe.
    pub async fn find(&self, name: &DatabaseName) -> Option<Arc<Hosted>> {
        loop {
            match self.shared.slots.find(name)? {
                Entry::Open(hosted) => return Some(hosted),
                Entry::Busy(outcome) => {
                    if let Some(outcome) = opening::wait(outcome).await {
                        return outcome.ok();
                    }
                }
                Entry::Free(..) => return None,
            }
        }
    }

    async fn open_or(&self, name: &DatabaseName, create: bool) -> Result<Arc<Hosted>, HostError> {
        loop {
            match self.shared.slots.enter(name) {
                Entry::Open(hosted) => {
                    if !self.is_unfrozen(&hosted).await? {
                        return Ok(hosted);
                    }
                    drop(hosted);
                    self.close(name).await;
                }
                Entry::Busy(outcome) => match opening::wait(outcome).await {
                    // It was opened by somebody who may not create it.
                    Some(Err(HostError::NoSuchDatabase(_))) if create => {}
                    Some(outcome) => return outcome,
                    None => {}
                },
                Entry::Free(turn, lost) => {
                    return opening::open(Arc::clone(&self.shared), turn, lost, create).await;
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

    /// Asks the store whether somebody else has written to a database that is open here: an administrator, say. If so it
    /// is to be opened anew, and true is returned.
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

    /// Ships what is committed, closes all databases and gives them back. The first error, after all are closed.
    /// Nothing can be opened from then on.
    pub async fn shutdown(&self) -> Result<(), HostError> {
        self.shared.stopping.store(true, Ordering::Release);
        let closed = closing::close_all(&self.shared.slots).await;
        let shipped = self.shared.replicator.shutdown().await;
        self.shared.cluster.leave().await;
        closed?;
        Ok(shipped?)
    }

    /// A database that is open here at this moment.
    pub fn opened(&self, name: &DatabaseName) -> Option<Arc<Hosted>> {
        match self.shared.slots.find(name)? {
            Entry::Open(hosted) => Some(hosted),
            _ => None,
        }
    }

    /// A directory for files on their way, removed when dropped.
    pub(crate) fn scratch(&self) -> Result<TempDir, HostError> {
        self.shared.data.scratch()
    }

    /// Whether the store knows a database of this name.
    pub async fn exists(&self, name: &DatabaseName) -> Result<bool, HostError> {
        Ok(self.log(name).latest_generation().await?.is_some())
    }
}
