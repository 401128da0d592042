//! One hosted database.

use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use aquifer_format::{Revision, Txid};
use aquifer_log::{DatabaseName, DatabaseStore};
use aquifer_replicate::{ReplicaState, Replicator};
use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::watch;

use super::activity::Activity;
use super::files::Files;
use super::pages::Pages;
use super::{Durability, HostError};
use crate::cluster::{Claim, Cluster};
use crate::hrana::{self, Unavailable};
use crate::libsql::Frames;
use crate::sql::Access;

/// How long a connection waits for another one's transaction.
const BUSY: Duration = Duration::from_secs(5);

/// How often the store is asked, at most, whether a frozen database still is.
const ASK_FROZEN: Duration = Duration::from_secs(1);

/// A database that is open here. It stays open while anybody holds it.
#[derive(Debug)]
pub struct Hosted {
    this: Weak<Hosted>,
    database: DatabaseStore,
    files: Files,
    replicator: Arc<Replicator>,
    pages: Arc<Pages>,
    frames: Frames,
    cluster: Cluster,
    claim: Mutex<Claim>,
    /// Held while it is claimed once more.
    claiming: tokio::sync::Mutex<()>,
    /// Another server has it now.
    lost: watch::Sender<bool>,
    /// Whether it was frozen when it was opened, and when it was asked last whether it still is.
    frozen: Option<Mutex<Instant>>,
    durability: Durability,
    used: Mutex<Instant>,
    activity: Activity,
}

impl Hosted {
    #[expect(clippy::too_many_arguments, reason = "all of it is given once, when it is opened")]
    pub(super) fn new(
        database: DatabaseStore,
        files: Files,
        replicator: Arc<Replicator>,
        pages: Pages,
        is_frozen: bool,
        durability: Durability,
        cluster: Cluster,
        claim: Claim,
    ) -> Arc<Hosted> {
        let pages = Arc::new(pages);
        Arc::new_cyclic(|this| Hosted {
            this: Weak::clone(this),
            database,
            files,
            replicator,
            frames: Frames::new(Arc::clone(&pages)),
            pages,
            cluster,
            claim: Mutex::new(claim),
            claiming: tokio::sync::Mutex::default(),
            lost: watch::Sender::new(false),
            frozen: is_frozen.then(|| Mutex::new(Instant::now())),
            durability,
            used: Mutex::new(Instant::now()),
            activity: Activity::default(),
        })
    }

    /// The newest revision of it that is known to be in the store. No I/O.
    pub fn in_store(&self) -> Option<Revision> {
        self.replicator.status_of(self.name())?.durable
    }

    /// Whether nothing is on its way to the store from here, and what is there is older than a txid.
    pub(super) fn is_at_rest_before(&self, txid: Txid) -> bool {
        self.replicator.status_of(self.name()).is_some_and(|status| {
            status.behind_txids == 0 && status.durable.is_none_or(|durable| durable.txid < txid)
        })
    }

    /// Whether it may only be read.
    pub fn is_frozen(&self) -> bool {
        self.frozen.is_some()
    }

    /// Whether it is time to ask the store whether it is still frozen.
    pub(super) fn asks_whether_frozen(&self, now: Instant) -> bool {
        let Some(asked) = &self.frozen else { return false };
        let mut asked = asked.lock();
        let is_time = now.saturating_duration_since(*asked) >= ASK_FROZEN;
        if is_time {
            *asked = now;
        }
        is_time
    }

    /// Its name.
    pub fn name(&self) -> &DatabaseName {
        self.database.name()
    }

    /// Its file.
    pub fn path(&self) -> PathBuf {
        self.files.database()
    }

    /// The same as numbered frames.
    pub fn frames(&self) -> &Frames {
        &self.frames
    }

    /// What clients were seen to do with it.
    pub fn activity(&self) -> &Activity {
        &self.activity
    }

    /// Its pages, for clients that pull them.
    pub fn pages(&self) -> &Arc<Pages> {
        &self.pages
    }

    /// Whether another server has taken it over: no use of it succeeds any more, and it is to be opened anew.
    pub fn is_lost(&self) -> bool {
        *self.lost.borrow()
    }

    /// Waits until it [is lost](Hosted::is_lost), or was closed. Cancel-safe.
    pub async fn gone(&self) {
        // It cannot fail: the sender is here.
        let _ = self.lost.subscribe().wait_for(|lost| *lost).await;
    }

    /// A connection of its own. Blocks. What is committed on it is not acknowledged before
    /// [`durable`](Hosted::durable) has returned.
    pub fn connect(&self, read_only: bool) -> Result<Connection, HostError> {
        if self.is_lost() {
            return Err(self.taken_over());
        }
        if self.is_frozen() && !read_only {
            return Err(HostError::Frozen(self.name().clone()));
        }
        let path = self.path();
        let access =
            if read_only { OpenFlags::SQLITE_OPEN_READ_ONLY } else { OpenFlags::SQLITE_OPEN_READ_WRITE };
        let opened = Connection::open_with_flags(&path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX);
        let prepared = opened.and_then(|connection| {
            connection.busy_timeout(BUSY)?;
            // The store is what must not lose a commit; the file must not be damaged. Its checkpoints are capture's.
            let synchronous = match self.durability {
                Durability::Store => "NORMAL",
                // Nobody sees a commit before its WAL is synced.
                Durability::Local => "FULL",
            };
            let setup = format!("PRAGMA synchronous={synchronous}; PRAGMA wal_autocheckpoint=0");
            connection.execute_batch(&setup)?;
            Ok(connection)
        });
        prepared.map_err(|source| HostError::Sqlite { path, source: Arc::new(source) })
    }

    /// Waits until everything that was committed before the call is where the policy wants it, and tells up to where it
    /// is in the store. `None`: the store has nothing of it. Cancel-safe.
    pub async fn acknowledged(&self) -> Result<Option<Revision>, HostError> {
        let status = self.replicator.status_of(self.name());
        match (self.durability, status) {
            (Durability::Local, Some(status))
                if !self.is_lost() && !matches!(status.state, ReplicaState::Stopped(_)) =>
            {
                // Where another server has taken over, what is acknowledged here is lost: it is found out soon, but not
                // waited for. The store may be away.
                if !self.holds() {
                    self.find_out();
                }
                Ok(status.durable)
            }
            // Also to learn why it is not replicated any more.
            _ => self.durable().await,
        }
    }

    /// Waits until everything that was committed before the call is in the store, and tells up to where that is; then
    /// makes sure that no other server has the database. To be called after all that an answer tells was read, and
    /// before it leaves. `None`: the database is empty. Cancel-safe.
    pub async fn durable(&self) -> Result<Option<Revision>, HostError> {
        if self.is_lost() {
            return Err(self.taken_over());
        }
        match self.replicator.sync_database(self.name()).await {
            Ok(revision) => {
                self.is_newest().await?;
                Ok(revision)
            }
            Err(e) => {
                // Whatever stopped it, what the file has beyond the store is not acknowledged, and never will be.
                self.lose(&e);
                if e.is_taken_over() { Err(self.taken_over()) } else { Err(e.into()) }
            }
        }
    }

    fn holds(&self) -> bool {
        let claim = self.claim.lock().clone();
        claim.holds()
    }

    /// Makes sure that what was read of this database before the call is what the last acknowledged commit left,
    /// whichever server acknowledged it, and that what is committed to it is where everybody looks. Asks the store where
    /// this server gave no sign of life for a while. Cancel-safe.
    pub(crate) async fn is_newest(&self) -> Result<(), HostError> {
        if !self.holds() {
            let _one = self.claiming.lock().await;
            // A database that is lost has no claim, and is opened anew with one of its own.
            while !self.is_lost() && !self.holds() {
                let before = self.claim.lock().clone();
                match self.cluster.claim_again(&self.database, &before).await? {
                    // In this order: see `opening`. Where the store does not tell, the claim is made once more.
                    Some(claim) if self.is_latest_generation().await? => *self.claim.lock() = claim,
                    Some(_) => self.lose(&"a newer generation of it was begun"),
                    None => self.lose(&"another server claimed it"),
                }
            }
        }
        // What answered may have been the replica of this database after it was opened anew.
        if self.is_lost() { Err(self.taken_over()) } else { Ok(()) }
    }

    /// Whether nobody has begun a newer generation than the one that is open.
    async fn is_latest_generation(&self) -> Result<bool, HostError> {
        let latest = self.database.latest_generation().await?.map(|latest| latest.id);
        Ok(latest.is_some() && latest == self.in_store().map(|revision| revision.generation))
    }

    /// Finds out whether another server has taken it over, without anybody waiting for it.
    fn find_out(&self) {
        if let Some(hosted) = self.this.upgrade()
            && self.claiming.try_lock().is_ok()
        {
            tokio::spawn(async move { hosted.is_newest().await });
        }
    }

    fn lose(&self, reason: &dyn std::fmt::Display) {
        if !self.lost.send_replace(true) {
            tracing::warn!(database = %self.name(), %reason, "the database is not served any more");
        }
    }

    fn taken_over(&self) -> HostError {
        HostError::TakenOver(self.name().clone())
    }

    /// It is to be opened anew: nothing on it is acknowledged any more.
    pub(super) fn abandon(&self) {
        self.lost.send_replace(true);
    }

    /// Whether answers are under way that send its pages: these hold nothing else of it.
    pub(super) fn is_streamed(&self) -> bool {
        // This, and the frames.
        const OWN: usize = 2;
        Arc::strong_count(&self.pages) > OWN
    }

    /// It is used now.
    pub(super) fn touch(&self) {
        *self.used.lock() = Instant::now();
    }

    pub(super) fn last_use(&self) -> Instant {
        *self.used.lock()
    }

    /// Ships what is committed and gives the database back. Nobody answers for it any more.
    pub(super) async fn close(&self) -> Result<(), HostError> {
        self.abandon();
        self.replicator.remove(self.name()).await?;
        self.files.are_closed().await?;
        let claim = self.claim.lock().clone();
        Ok(self.cluster.release(&self.database, &claim).await?)
    }
}

impl hrana::Database for Hosted {
    fn connect(&self, access: Access) -> Result<Connection, Unavailable> {
        Hosted::connect(self, access == Access::ReadOnly).map_err(|e| Unavailable { reason: e.to_string() })
    }

    fn writable(&self) -> Result<(), String> {
        if self.is_frozen() { Err(HostError::Frozen(self.name().clone()).to_string()) } else { Ok(()) }
    }

    fn pushed(&self, client: &str) {
        self.activity.pushed(client);
    }

    async fn durable(&self) -> Result<Revision, Unavailable> {
        match self.acknowledged().await {
            Ok(Some(revision)) => Ok(revision),
            // A hosted database has a first page, and its revision, before anybody can use it.
            Ok(None) => Err(Unavailable { reason: format!("'{}' has no revision", self.name()) }),
            Err(e) => Err(Unavailable { reason: e.to_string() }),
        }
    }
}
