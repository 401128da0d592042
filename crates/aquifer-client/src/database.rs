//! A synced database, as programs use it.

mod frames;

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::task::spawn_blocking;

use crate::engine::{Applied, Engine, Outgoing, Sent};
use crate::frames::{Place, Protocol};
use crate::pull::{Incoming, fetch};
use crate::push::{self, Outcome};
use crate::remote::{PullQuery, Remote};
use crate::retrying::Backoff;
use crate::sidecar::{Conflicts, RecordedConflict, Sidecar};
use crate::stats::{Meter, Stats};
use crate::{Error, Result, joined};

/// How often a push is tried that meets what others have pushed meanwhile.
const ROUNDS: u32 = 20;
/// How often a push clashes with what no pull brings, until it is taken for refused.
const FRUITLESS: u32 = 6;
/// Bytes of a WAL from which it is moved into the database.
const CHECKPOINT: u64 = 4 << 20;
/// Time between two looks at whether somebody waits for us in order to do that.
const EASE: Duration = Duration::from_millis(100);
/// Looks at whether it is to be done here, of so many.
const TIDY: u32 = 10;
/// How long a connection of [`Database::connect`] waits for others that write.
const BUSY: Duration = Duration::from_secs(5);

/// A database that is kept in sync with a remote one.
///
/// The database is an ordinary SQLite file: [`connect`](Database::connect) is a convenience, any other connection of
/// this or another process will do as well, also while a sync is going on. Clones are the same database.
///
/// # Cancelling
/// All futures here may be dropped at any await. What was begun on disk is brought to an end; a push that was on its
/// way is found out about by the next call, and applied once.
#[derive(Clone)]
pub struct Database {
    shared: Arc<Shared>,
}

struct Shared {
    remote: Option<Remote>,
    engine: Arc<Mutex<Engine>>,
    /// Held by whoever pushes or pulls: from the first request to the last change of the sidecar.
    turn: Mutex<()>,
    /// Pages that came when it was opened, until a sync has told of them.
    fetched: AtomicU32,
    meter: Meter,
    path: std::path::PathBuf,
}

/// What a [`Database::sync`] did.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Synced {
    /// Rows and changes of the schema that were pushed; with libSQL's protocol, pages.
    pub pushed: u64,
    /// Pages that came from the server; the first time also those that came when the database was opened.
    pub pulled: u64,
    /// Conflicts that were decided; [`Database::conflicts`] has them.
    pub conflicts: u64,
    /// The server's revision that the database is based on now.
    pub revision: Option<String>,
    /// Why the server could not be reached; `None`: it was.
    pub offline: Option<Error>,
    /// Requests to the server, those of a [`wait_changes`](Database::wait_changes) at the same time too.
    pub requests: u64,
    /// What took how long.
    pub times: Times,
}

/// How long the parts of a [`Database::sync`] took, each with all of its tries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Times {
    /// Finding out what was changed here, and making ready what is sent.
    pub prepare: Duration,
    /// Sending it, until the server has answered.
    pub send: Duration,
    /// Asking the server for what is new, and taking it.
    pub fetch: Duration,
    /// Putting it under what was changed here, and into the database.
    pub apply: Duration,
}

impl Synced {
    /// For who takes it for an error when the server cannot be reached.
    pub fn online(self) -> Result<Synced> {
        match self.offline {
            Some(error) => Err(error),
            None => Ok(self),
        }
    }
}

/// What has come from the server and is not in the database yet.
pub struct Changes(Arc<Incoming>);

impl Changes {
    /// The revision that they lead to.
    pub fn revision(&self) -> &str {
        &self.0.revision
    }

    /// Pages that came.
    pub fn pages(&self) -> u32 {
        self.0.len()
    }
}

impl std::fmt::Debug for Changes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Changes").field("revision", &self.revision()).field("pages", &self.pages()).finish()
    }
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database").field("path", &self.shared.path).finish_non_exhaustive()
    }
}

impl Database {
    /// `fetched`: pages that came when it was opened.
    pub(crate) fn new(engine: Engine, remote: Option<Remote>, fetched: u32) -> Database {
        let path = engine.path().to_owned();
        let (engine, meter) = (Arc::new(Mutex::new(engine)), Meter::default());
        let shared =
            Arc::new(Shared { remote, engine, turn: Mutex::new(()), fetched: fetched.into(), meter, path });
        tokio::spawn(tidy_up(Arc::downgrade(&shared)));
        Database { shared }
    }

    /// The database file.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// A connection to the database, which waits some seconds for others that write. Nothing sets it apart from those
    /// that are opened otherwise.
    pub fn connect(&self) -> rusqlite::Result<Connection> {
        let db = Connection::open(&self.shared.path)?;
        db.busy_timeout(BUSY)?;
        Ok(db)
    }

    /// Pushes what was changed here, and pulls what was changed elsewhere. That the server cannot be reached is no
    /// error, but said in the answer.
    ///
    /// # Errors
    /// What is wrong with the database or its sidecar; what the server refuses.
    pub async fn sync(&self) -> Result<Synced> {
        let _turn = self.shared.turn.lock().await;
        let fetched = self.shared.fetched.swap(0, Ordering::Relaxed).into();
        let mut synced = Synced { pulled: fetched, ..Synced::default() };
        let before = self.requests();
        match self.sync_now(&mut synced).await {
            Err(Error::Remote(error)) if error.is_offline() => synced.offline = Some(error.into()),
            other => other?,
        }
        synced.requests = self.requests() - before;
        synced.revision = self
            .blocking(|engine| {
                engine.tidy(CHECKPOINT)?;
                Ok(engine.state().base.revision.clone())
            })
            .await?;
        Ok(synced)
    }

    async fn sync_now(&self, synced: &mut Synced) -> Result<()> {
        let is_pulled = self.push_now(synced).await?;
        // What was pushed comes back with the pull, and is the base then.
        if !is_pulled {
            self.pull_now(synced).await?;
        }
        Ok(())
    }

    /// Pushes what was changed here. Where that meets what others have changed, their changes are pulled first.
    ///
    /// # Errors
    /// As [`sync`](Database::sync); also when the server cannot be reached.
    pub async fn push(&self) -> Result<Synced> {
        let _turn = self.shared.turn.lock().await;
        let mut synced = Synced::default();
        let before = self.requests();
        self.push_now(&mut synced).await?;
        synced.revision = self.revision().await;
        synced.requests = self.requests() - before;
        Ok(synced)
    }

    /// Pulls what was changed elsewhere, and puts what was changed here and not pushed yet on top of it.
    ///
    /// # Errors
    /// As [`sync`](Database::sync); also when the server cannot be reached.
    pub async fn pull(&self) -> Result<Synced> {
        let _turn = self.shared.turn.lock().await;
        let mut synced = Synced::default();
        let before = self.requests();
        self.pull_now(&mut synced).await?;
        synced.revision = self.revision().await;
        synced.requests = self.requests() - before;
        Ok(synced)
    }

    /// Waits until the server has something new, at most for as long as it is told, and fetches it. `None`: there is
    /// nothing new. The database is not touched, and others may push and pull meanwhile: [`apply`](Database::apply) it.
    pub async fn wait_changes(&self, timeout: Duration) -> Result<Option<Changes>> {
        let incoming = self.fetch(Some(timeout)).await?;
        let is_new = incoming.since.as_deref() != Some(&incoming.revision);
        Ok(is_new.then(|| Changes(Arc::new(incoming))))
    }

    /// Puts what was fetched into the database, under the local changes. `None`: it does not fit any more, since
    /// something else was pulled meanwhile.
    pub async fn apply(&self, changes: Changes) -> Result<Option<Synced>> {
        let _turn = self.shared.turn.lock().await;
        self.resolve().await?;
        let mut synced = Synced::default();
        let is_applied = self.apply_now(&changes.0, &mut synced).await?;
        synced.revision = Some(changes.0.revision.clone());
        Ok(is_applied.then_some(synced))
    }

    /// The server's revision that the database is based on; `None`: nothing was pulled yet.
    pub async fn revision(&self) -> Option<String> {
        self.engine().await.state().base.revision.clone()
    }

    /// Moves what is in the WAL into the database file, so that the WAL stays small. What the database is based on is
    /// not lost by it.
    pub async fn checkpoint(&self) -> Result<()> {
        self.blocking(Engine::checkpoint).await
    }

    /// What there is to be said of the database and its sync.
    pub async fn stats(&self) -> Result<Stats> {
        let traffic = self.shared.remote.as_ref().map(|remote| self.shared.meter.unsaved(remote.traffic()));
        self.blocking(move |engine| Stats::of(engine, traffic.unwrap_or_default())).await
    }

    /// Conflicts that were decided, after the one with this number (0: from the first), at most so many.
    pub async fn conflicts(&self, after: i64, limit: usize) -> Result<Vec<RecordedConflict>> {
        self.blocking(move |engine| {
            let found = Conflicts::after(engine.sidecar().db(), after, limit);
            found.map_err(|e| engine.sidecar().error(e).into())
        })
        .await
    }

    /// Forgets conflicts up to this number. Returns how many there were.
    pub async fn forget_conflicts(&self, up_to: i64) -> Result<usize> {
        self.blocking(move |engine| Ok(engine.sidecar().update(|db, _| Conflicts::forget(db, up_to))?)).await
    }

    /// Whether something was committed to the database that no push has seen yet. Cheap: for polling.
    pub async fn may_have_changed(&self) -> bool {
        self.engine().await.may_have_changed()
    }

    /// From now on only what is committed after this counts as changed.
    pub(crate) async fn forget_commits(&self) -> Result<()> {
        self.blocking(Engine::forget_commits).await
    }

    pub(crate) fn remote(&self) -> Result<&Remote> {
        self.shared.remote.as_ref().ok_or_else(|| Error::NoRemote { path: self.shared.path.clone() })
    }

    fn requests(&self) -> u64 {
        self.shared.remote.as_ref().map_or(0, |remote| remote.traffic().requests())
    }

    fn directory(&self) -> &Path {
        crate::engine::directory_of(&self.shared.path)
    }

    async fn engine(&self) -> OwnedMutexGuard<Engine> {
        Arc::clone(&self.shared.engine).lock_owned().await
    }

    /// Works on the database, on a thread that may block. Goes on to its end when this is dropped.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Engine) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let mut engine = self.engine().await;
        joined(spawn_blocking(move || work(&mut engine)).await)
    }

    /// Finds out what became of a push whose answer was lost.
    async fn resolve(&self) -> Result<()> {
        self.resolve_frames().await?;
        let Some(attempt) = self.engine().await.attempt() else { return Ok(()) };
        let is_applied = push::resolve(self.remote()?, &attempt).await?;
        let sent = if is_applied { Sent::Applied } else { Sent::NotApplied };
        self.blocking(move |engine| engine.sent(sent)).await
    }

    /// Whether a pull was made after the last push.
    async fn push_now(&self, synced: &mut Synced) -> Result<bool> {
        let remote = self.remote()?;
        if self.protocol().await? == Protocol::Libsql {
            self.push_frames(synced).await?;
            return Ok(true);
        }
        self.resolve().await?;
        let mut is_pulled = false;
        if self.engine().await.state().base.revision.is_none() {
            // Whether the remote database is a new one must be known first.
            self.pull_now(synced).await?;
            is_pulled = true;
        }
        let mut backoff = Backoff::new();
        // How often others were faster, one time after the other.
        let mut clashes = 0;
        let mut fruitless = 0;
        loop {
            clashes += 1;
            let round = clashes;
            let begun = Instant::now();
            let outgoing = self.outgoing().await?;
            synced.times.prepare += begun.elapsed();
            let Some(Outgoing { push, is_part, kept }) = outgoing else { return Ok(is_pulled) };
            let rows = kept.summary().rows + kept.summary().schema;
            let begun = Instant::now();
            let sent = push::send(remote, &push, &kept).await;
            synced.times.send += begun.elapsed();
            let outcome = match sent {
                Ok(outcome) => outcome,
                Err(error) => {
                    // Nothing was sent, or nothing is done with it.
                    self.blocking(|engine| engine.sent(Sent::NotApplied)).await?;
                    return Err(error.into());
                }
            };
            match outcome {
                Outcome::Applied => {
                    self.note(move |engine| engine.sent(Sent::Applied)).await?;
                    synced.pushed += rows;
                    is_pulled = false;
                    clashes = 0;
                    if !is_part {
                        return Ok(false);
                    }
                }
                Outcome::Late => {
                    self.blocking(|engine| engine.sent(Sent::NotApplied)).await?;
                    self.blocking(Engine::rename).await?;
                    if round == ROUNDS {
                        let message = "another client pushes under the same name, again and again".to_owned();
                        return Err(Error::Refused { statement: "aquifer_sync".to_owned(), message });
                    }
                }
                Outcome::Clashed { statement, message } => {
                    self.blocking(|engine| engine.sent(Sent::NotApplied)).await?;
                    tracing::debug!(%statement, %message, "others have pushed what this push is about");
                    let before = self.engine().await.state().base.revision.clone();
                    self.pull_now(synced).await?;
                    is_pulled = true;
                    let is_same = self.engine().await.state().base.revision == before;
                    // What it clashed with may be durable, and so in a pull, a moment later.
                    fruitless = if is_same { fruitless + 1 } else { 0 };
                    if fruitless == FRUITLESS {
                        return Err(Error::Refused { statement, message });
                    }
                    if round == ROUNDS {
                        return Err(Error::Contended);
                    }
                    backoff.pause(round + fruitless).await;
                }
                Outcome::Misread => {
                    // It is known now, and said in another way.
                    self.blocking(|engine| engine.sent(Sent::NotApplied)).await?;
                }
                Outcome::Refused { statement, message } => {
                    self.blocking(|engine| engine.sent(Sent::NotApplied)).await?;
                    return Err(Error::Refused { statement, message });
                }
                Outcome::Unknown(error) => {
                    tracing::debug!(%error, "the answer to a push was lost");
                    self.resolve().await?;
                    if round == ROUNDS {
                        return Err(error.into());
                    }
                }
            }
        }
    }

    async fn outgoing(&self) -> Result<Option<Outgoing>> {
        self.supply().await?;
        let reals = self.remote()?.reals();
        self.blocking(move |engine| engine.outgoing(reals)).await
    }

    /// Fetches pages of the base that are needed and that are not here any more.
    async fn supply(&self) -> Result<()> {
        let (missing, revision, size) = self
            .blocking(|engine| {
                engine.track()?;
                Ok((engine.missing()?, engine.state().base.revision.clone(), engine.page_size()))
            })
            .await?;
        if missing.is_empty() {
            return Ok(());
        }
        if let Some(place) = revision.as_deref().and_then(Place::of) {
            return self.supply_frames(place, missing).await;
        }
        let query = PullQuery { server_revision: revision, pages: Some(missing), ..PullQuery::default() };
        let pages = fetch(self.remote()?, query, self.directory(), size).await?;
        self.blocking(move |engine| engine.supply(&pages)).await
    }

    async fn pull_now(&self, synced: &mut Synced) -> Result<()> {
        self.resolve().await?;
        loop {
            let begun = Instant::now();
            let incoming = Arc::new(self.fetch(None).await?);
            synced.times.fetch += begun.elapsed();
            if self.apply_now(&incoming, synced).await? {
                return Ok(());
            }
        }
    }

    /// Fetches what is new on the server; waits for something new, if it is told to and the server can.
    async fn fetch(&self, wait: Option<Duration>) -> Result<Incoming> {
        let (remote, protocol) = (self.remote()?, self.protocol().await?);
        let (base, size) = {
            let engine = self.engine().await;
            (engine.state().base.clone(), engine.page_size())
        };
        if protocol == Protocol::Libsql {
            return crate::frames::fetch(remote, base.revision, base.pages, self.directory()).await;
        }
        let long_poll = wait.filter(|_| base.revision.is_some());
        let query = PullQuery { client_revision: base.revision, long_poll, ..PullQuery::default() };
        let incoming = fetch(remote, query, self.directory(), size).await?;
        if incoming.contradicts(base.pages) {
            let (path, remote) = (self.shared.path.clone(), remote.url().to_owned());
            return Err(Error::OtherHistory { path, remote });
        }
        Ok(incoming)
    }

    /// False: it does not fit any more.
    async fn apply_now(&self, incoming: &Arc<Incoming>, synced: &mut Synced) -> Result<bool> {
        loop {
            let pages = Arc::clone(incoming);
            let begun = Instant::now();
            let applied = self.note(move |engine| engine.apply(&pages)).await?;
            synced.times.apply += begun.elapsed();
            match applied {
                Applied::Done { conflicts, .. } => {
                    synced.conflicts += conflicts;
                    synced.pulled += u64::from(incoming.len());
                    return Ok(true);
                }
                Applied::Stale => return Ok(false),
                Applied::Missing => self.supply().await?,
            }
        }
    }

    /// The same as `blocking`, and what was sent and received until now is recorded with it.
    async fn note<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Engine) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let traffic = self.remote().map(|remote| self.shared.meter.take(remote.traffic()))?;
        self.blocking(move |engine| {
            engine.add_traffic(traffic);
            work(engine)
        })
        .await
    }
}

/// Keeps the WAL small for as long as the database is open, and lets others do that: our pin keeps them from it.
async fn tidy_up(shared: Weak<Shared>) {
    for look in 1_u32.. {
        tokio::time::sleep(EASE).await;
        let Some(shared) = shared.upgrade() else { return };
        // Whoever works on it does so himself.
        let Ok(mut engine) = Arc::clone(&shared.engine).try_lock_owned() else { continue };
        drop(shared);
        let is_tidying = look.is_multiple_of(TIDY);
        let tidied =
            spawn_blocking(move || if is_tidying { engine.tidy(2 * CHECKPOINT) } else { engine.ease() })
                .await;
        if let Ok(Err(error)) = tidied {
            tracing::warn!(%error, "the WAL cannot be moved into the database for now");
        }
    }
}

/// Conflicts of a database that perhaps another process syncs.
pub fn recorded_conflicts(database: &Path, after: i64, limit: usize) -> Result<Vec<RecordedConflict>> {
    let Some((_, db)) = Sidecar::peek(database)? else { return Ok(Vec::new()) };
    let path = Sidecar::beside(database);
    let found = Conflicts::after(&db, after, limit);
    Ok(found.map_err(|source| crate::SidecarError::Sqlite { path, source })?)
}
