//! Replicates any number of databases of this machine into one store.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use aquifer_format::{Revision, Txid};
use aquifer_log::{DatabaseName, DatabaseStore, Store};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tracing::Instrument;

use crate::budget::RequestBudget;
use crate::options::ReplicaOptions;
use crate::replica::{Applied, Command, PageWrite, Replica, RevisionView, Shared};
use crate::status::{ReplicaState, ReplicaStatus};
use crate::tracker::Tracker;
use crate::watch::Watcher;
use crate::workers::Workers;
use crate::{Error, Result};

/// Databases that are opened for the first time at once.
const STARTING: usize = 200;

/// Settings of a [`Replicator`].
#[derive(Debug)]
pub struct ReplicatorBuilder {
    store: Store,
    options: ReplicaOptions,
    max_requests_per_hour: Option<u32>,
    threads: usize,
}

impl ReplicatorBuilder {
    /// How databases are replicated that are added without options of their own.
    #[must_use]
    pub fn options(mut self, options: ReplicaOptions) -> ReplicatorBuilder {
        self.options = options;
        self
    }

    /// A budget of puts, for all databases together: batches grow instead of exceeding it.
    #[must_use]
    pub fn max_requests_per_hour(mut self, requests: u32) -> ReplicatorBuilder {
        self.max_requests_per_hour = Some(requests);
        self
    }

    /// How many databases are captured at once; the number of cores if not said.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> ReplicatorBuilder {
        self.threads = threads;
        self
    }

    /// Starts, without databases. Needs a Tokio runtime.
    pub fn start(self) -> Replicator {
        let shared = Shared {
            workers: Workers::new(self.threads),
            upkeep: Workers::new(1),
            watcher: Watcher::of_process(),
            budget: self
                .max_requests_per_hour
                .map(|requests| Arc::new(RequestBudget::per_hour(requests, Instant::now()))),
            host: hostname(),
            databases: Arc::default(),
            starting: Arc::new(Semaphore::new(STARTING)),
        };
        Replicator { store: self.store, options: self.options, shared, replicas: Mutex::default() }
    }
}

/// Replicates any number of databases of this machine into one store.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use aquifer_log::{Store, StoreUrl};
/// use aquifer_replicate::restore::{Existing, Restorer};
/// use aquifer_replicate::Replicator;
///
/// # let dir = tempfile::tempdir()?;
/// let file = dir.path().join("app.db");
/// let store = Store::open(&StoreUrl::directory(dir.path().join("aquifer-data")))?;
///
/// // At the start of the program: what a lost machine had, if there is nothing here.
/// let restored = Restorer::new(store.clone(), "app.db".parse()?, &file).existing(Existing::Keep).restore().await;
/// # assert!(restored.is_err(), "nothing was replicated yet");
///
/// let app = rusqlite::Connection::open(&file)?;
/// app.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(x)")?;
/// let replicator = Replicator::builder(store.clone()).start();
/// let name = replicator.add(&file, None)?;
///
/// app.execute("INSERT INTO t VALUES('worth keeping')", [])?;
/// let durable = replicator.sync_database(&name).await?; // all that was committed before is in the store now
/// assert!(durable.is_some());
/// replicator.shutdown().await?;
///
/// // On another machine.
/// let copy = dir.path().join("copy.db");
/// Restorer::new(store, name, &copy).restore().await?;
/// let x: String = rusqlite::Connection::open(&copy)?.query_row("SELECT x FROM t", [], |row| row.get(0))?;
/// assert_eq!(x, "worth keeping");
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Replicator {
    store: Store,
    options: ReplicaOptions,
    shared: Shared,
    replicas: Mutex<BTreeMap<DatabaseName, Running>>,
}

#[derive(Debug)]
struct Running {
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<ReplicaStatus>,
    task: JoinHandle<()>,
}

impl Replicator {
    /// Settings for replicating into a store.
    pub fn builder(store: Store) -> ReplicatorBuilder {
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        ReplicatorBuilder { store, options: ReplicaOptions::default(), max_requests_per_hour: None, threads }
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Adds a database, by the name of its file if no name is given. Returns at once; its status tells how it does.
    ///
    /// # Errors
    /// If the name is none, or is taken by another database of this process.
    pub fn add(&self, path: impl AsRef<Path>, name: Option<DatabaseName>) -> Result<DatabaseName> {
        self.add_with(path, name, self.options.clone())
    }

    /// Adds a database of which somebody else follows what is durable and which pages change, and may
    /// [`view`](Replicator::view) it.
    pub fn add_tracked(
        &self,
        path: impl AsRef<Path>,
        name: &DatabaseName,
        tracker: Arc<Tracker>,
    ) -> Result<()> {
        self.start_replica(path.as_ref(), name, self.options.clone(), Some(tracker))
    }

    /// Adds a database with options of its own.
    pub fn add_with(
        &self,
        path: impl AsRef<Path>,
        name: Option<DatabaseName>,
        options: ReplicaOptions,
    ) -> Result<DatabaseName> {
        let name = match name {
            Some(name) => name,
            None => name_of(path.as_ref())?,
        };
        self.start_replica(path.as_ref(), &name, options, None)?;
        Ok(name)
    }

    fn start_replica(
        &self,
        path: &Path,
        name: &DatabaseName,
        options: ReplicaOptions,
        tracker: Option<Arc<Tracker>>,
    ) -> Result<()> {
        let path = path.to_owned();
        let mut replicas = self.replicas.lock();
        if let Some(other) = replicas.get(name) {
            let other = other.status.borrow().path.clone();
            return Err(Error::NameTaken { name: name.to_string(), path, other });
        }
        let (commands, inbox) = mpsc::channel(16);
        let (status, watched) = watch::channel(ReplicaStatus::new(name.clone(), path.clone()));
        let database = DatabaseStore::new(self.store.clone(), name.clone());
        // Everything that is logged on behalf of a database says so.
        let span = tracing::info_span!("replica", database = %name);
        let run = Replica::run(database, path, options, tracker, self.shared.clone(), inbox, status);
        let running = Running { commands, status: watched, task: tokio::spawn(run.instrument(span)) };
        replicas.insert(name.clone(), running);
        self.shared.databases.store(replicas.len(), Ordering::Relaxed);
        Ok(())
    }

    /// How each database does, by name.
    pub fn status(&self) -> Vec<ReplicaStatus> {
        self.replicas.lock().values().map(|r| r.status.borrow().clone()).collect()
    }

    /// How one database does; `None` if it is not replicated.
    pub fn status_of(&self, name: &DatabaseName) -> Option<ReplicaStatus> {
        self.replicas.lock().get(name).map(|r| r.status.borrow().clone())
    }

    /// Captures all that is committed in all databases, and returns when it is durable in the store: the revision of
    /// each, or `None` for one that is empty.
    ///
    /// Waits for as long as the store cannot be reached. Cancel-safe.
    pub async fn sync(&self) -> Result<Vec<(DatabaseName, Option<Revision>)>> {
        let names: Vec<DatabaseName> = self.replicas.lock().keys().cloned().collect();
        let asked = names.into_iter().map(|name| async move {
            let revision = self.sync_database(&name).await?;
            Ok((name, revision))
        });
        futures::future::try_join_all(asked).await
    }

    /// The same for one database.
    pub async fn sync_database(&self, name: &DatabaseName) -> Result<Option<Revision>> {
        ask(&self.commands(name)?, Command::Sync).await
    }

    /// The pages of a database as of its latest durable revision, or of the one that is on its way to the store: then
    /// this waits for it. Many who ask at once share one. Cancel-safe.
    pub async fn view(&self, name: &DatabaseName) -> Result<Arc<RevisionView>> {
        ask(&self.commands(name)?, Command::View).await
    }

    /// Writes pages that somebody else has made, if they are made for the database as it is now, and returns when they are
    /// durable. Not cancel-safe: what was begun is done, and nobody is told.
    pub async fn apply(&self, name: &DatabaseName, write: PageWrite) -> Result<Applied> {
        ask(&self.commands(name)?, |asked| Command::Apply(write, asked)).await
    }

    fn commands(&self, name: &DatabaseName) -> Result<mpsc::Sender<Command>> {
        let commands = self.replicas.lock().get(name).map(|r| r.commands.clone());
        commands.ok_or_else(|| Error::Stopped(format!("{name} is not replicated")))
    }

    /// Waits until a txid of a database's current generation is durable in the store. Cancel-safe.
    pub async fn wait_durable(&self, name: &DatabaseName, txid: Txid) -> Result<Revision> {
        let status = self.replicas.lock().get(name).map(|r| r.status.clone());
        let Some(mut status) = status else {
            return Err(Error::Stopped(format!("{name} is not replicated")));
        };
        loop {
            {
                let now = status.borrow_and_update();
                if let Some(durable) = now.durable.filter(|durable| durable.txid >= txid) {
                    return Ok(durable);
                }
                if let ReplicaState::Stopped(reason) = &now.state {
                    return Err(Error::Stopped(reason.clone()));
                }
            }
            if status.changed().await.is_err() {
                return Err(Error::Stopped(format!("{name} is not replicated any more")));
            }
        }
    }

    /// Waits until the status of any database changes, at most this long. For displays and supervisors.
    pub async fn changed(&self, at_most: Duration) {
        let mut watched: Vec<_> = self.replicas.lock().values().map(|r| r.status.clone()).collect();
        let changes = watched.iter_mut().map(|status| Box::pin(status.changed()));
        if changes.len() > 0 {
            let _ = tokio::time::timeout(at_most, futures::future::select_all(changes)).await;
        } else {
            tokio::time::sleep(at_most).await;
        }
    }

    /// Ships what is committed, and stops replicating a database.
    pub async fn remove(&self, name: &DatabaseName) -> Result<Option<Revision>> {
        let running = self.replicas.lock().remove(name);
        let Some(running) = running else { return Ok(None) };
        stop(running).await
    }

    /// Ships what is committed in all databases, and stops. Fails with the first error, after all have stopped. A
    /// database that is still waited for has nothing to ship.
    ///
    /// Waits for as long as the store cannot be reached; dropping the future stops at once, with what was not shipped
    /// left to the next run.
    pub async fn shutdown(&self) -> Result<()> {
        let all = std::mem::take(&mut *self.replicas.lock());
        let stopped = futures::future::join_all(all.into_values().map(stop)).await;
        stopped.into_iter().find_map(Result::err).map_or(Ok(()), Err)
    }
}

impl Drop for Replicator {
    fn drop(&mut self) {
        for running in self.replicas.lock().values() {
            running.task.abort();
        }
    }
}

async fn stop(running: Running) -> Result<Option<Revision>> {
    let Running { commands, task, .. } = running;
    let task = AbortOnDrop(task);
    let answer = ask(&commands, Command::Stop).await;
    drop(commands);
    task.ended().await;
    answer
}

/// A task that ends with whoever waits for it.
struct AbortOnDrop(JoinHandle<()>);

impl AbortOnDrop {
    async fn ended(mut self) {
        let _ = (&mut self.0).await;
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn ask<T>(
    commands: &mpsc::Sender<Command>,
    command: impl FnOnce(oneshot::Sender<Result<T>>) -> Command,
) -> Result<T> {
    let (answer, answered) = oneshot::channel();
    let gone = || Error::Stopped("its task has ended".into());
    commands.send(command(answer)).await.map_err(|_| gone())?;
    answered.await.map_err(|_| gone())?
}

/// A database is named by its file, if nothing else is said.
fn name_of(path: &Path) -> Result<DatabaseName> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    name.parse().map_err(|source| Error::Name { path: path.to_owned(), source })
}

fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
