//! An embedded replica: a file that is only read here, and follows a server or an object store.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use aquifer_format::Revision;
use aquifer_log::DatabaseName;
use aquifer_log::store::Store;
use aquifer_protocol::WireRevision;
use aquifer_replicate::follow::{FollowBuilder, FollowError, Follower};
use aquifer_sqlite::btree::Value;
use rusqlite::{Connection, OpenFlags};

use crate::builder::Builder;
use crate::database::Database;
use crate::frames::Place;
use crate::remote::{Batch, Remote, RemoteError, SqlFailure, StepOutcome, StepResult};
use crate::{Error, Result};

/// Time between two looks at a store, at the shortest, while something is waited for.
const LOOK: Duration = Duration::from_millis(50);

/// A copy of a database that is only read here. Writes go to the server ([`execute_remote`](Replica::execute_remote)), and
/// come back.
///
/// It follows a server, or straight the object store that a server or `aquifer replicate` writes to: then no server is
/// needed to read.
///
/// ```no_run
/// use aquifer_client::{Builder, Replica};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let replica = Replica::of_server(Builder::new("copy.db").remote("https://example.com/db/app")).await?;
/// replica.execute_remote("INSERT INTO notes(text) VALUES (?)", &["hello".into()]).await?;
/// // What was written is there: the answer told its revision, and the replica has gone on to it.
/// let count: i64 = replica.connect()?.query_row("SELECT count(*) FROM notes", [], |row| row.get(0))?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Replica {
    path: PathBuf,
    source: Source,
    remote: Option<Remote>,
    /// The revision of the last write that went through this.
    written: Mutex<Option<Revision>>,
}

#[derive(Debug)]
enum Source {
    Server(Database),
    Store(Box<tokio::sync::Mutex<Follower>>),
}

impl Replica {
    /// Follows a server: the remote database of a builder, whose file is fetched if it is not there.
    ///
    /// # Errors
    /// As [`Builder::open`]; [`Error::NoRemote`] for a builder without a remote database.
    pub async fn of_server(builder: Builder) -> Result<Replica> {
        let database = builder.open().await?;
        let remote = database.remote()?.clone();
        let path = database.path().to_owned();
        let source = Source::Server(database);
        Ok(Replica { path, source, remote: Some(remote), written: Mutex::new(None) })
    }

    /// Follows a database in an object store, into a file that is restored if it is not there.
    ///
    /// # Errors
    /// The store cannot be read, or has no such database; the file is something else.
    pub async fn of_store(path: impl AsRef<Path>, store: Store, name: DatabaseName) -> Result<Replica> {
        let follower = FollowBuilder::new(store, name, path.as_ref()).start().await?;
        let (path, source) =
            (path.as_ref().to_owned(), Source::Store(Box::new(tokio::sync::Mutex::new(follower))));
        Ok(Replica { path, source, remote: None, written: Mutex::new(None) })
    }

    /// Where writes go: the server of the database whose store is followed.
    #[must_use]
    pub fn writing_to(mut self, remote: Remote) -> Replica {
        self.remote = Some(remote);
        self
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A connection that reads.
    pub fn connect(&self) -> rusqlite::Result<Connection> {
        Connection::open_with_flags(&self.path, OpenFlags::SQLITE_OPEN_READ_ONLY)
    }

    /// The revision that readers see, as `<generation>.<txid>` where the server is Aquifer's.
    pub async fn revision(&self) -> Option<String> {
        match &self.source {
            Source::Server(database) => database.revision().await,
            Source::Store(follower) => Some(WireRevision(follower.lock().await.revision()).to_string()),
        }
    }

    /// Goes on to the latest revision. True: there was something new.
    ///
    /// Cancel-safe: what was begun is brought to an end, or done by the next call.
    ///
    /// # Errors
    /// Also where server or store cannot be reached.
    pub async fn sync(&self) -> Result<bool> {
        match &self.source {
            Source::Server(database) => {
                let before = database.revision().await;
                Ok(database.pull().await?.revision != before)
            }
            Source::Store(follower) => Ok(follower.lock().await.catch_up().await?.is_some()),
        }
    }

    /// Waits until there is something new, at most for so long, and goes on to it. False: there was nothing.
    ///
    /// A server is asked to wait; a store is looked at now and then.
    ///
    /// # Errors
    /// As [`sync`](Replica::sync).
    pub async fn wait_changes(&self, timeout: Duration) -> Result<bool> {
        match &self.source {
            Source::Server(database) => match database.wait_changes(timeout).await? {
                Some(changes) => Ok(database.apply(changes).await?.is_some() || self.sync().await?),
                None => Ok(false),
            },
            Source::Store(_) => {
                let looking = async {
                    while !self.sync().await? {
                        tokio::time::sleep(LOOK).await;
                    }
                    Ok(true)
                };
                tokio::time::timeout(timeout, looking).await.unwrap_or(Ok(false))
            }
        }
    }

    /// Runs a statement on the server, and goes on to a revision that has what it did: whoever reads here after this
    /// returned sees it.
    ///
    /// Not cancel-safe: the server may have run it.
    ///
    /// # Errors
    /// [`Error::NoRemote`]; what the server says of the statement; what keeps the replica from following, after the
    /// statement was run: [`RemoteError::may_have_happened`] tells for those of the network.
    pub async fn execute_remote(&self, sql: &str, args: &[Value]) -> Result<StepResult> {
        let remote = self.remote.as_ref().ok_or_else(|| Error::NoRemote { path: self.path.clone() })?;
        let mut batch = Batch::new();
        batch.step(None, sql, args, true).map_err(RemoteError::from)?;
        let mut answer = remote.batch(&batch).await?;
        let failed = |failure: SqlFailure| RemoteError::Sql { remote: remote.url().to_owned(), failure };
        let result = match answer.steps.pop() {
            Some(StepOutcome::Done(result)) => result,
            Some(StepOutcome::Failed(failure)) => return Err(failed(failure).into()),
            Some(StepOutcome::Skipped) | None => {
                let message = "the server has not run it".to_owned();
                return Err(failed(SqlFailure { message, code: None }).into());
            }
        };
        let revision: Option<Revision> = answer.revision.as_deref().and_then(|text| text.parse().ok());
        match revision {
            Some(revision) => {
                *self.written.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(revision);
                self.reach(revision).await?;
            }
            // Of a server that tells no revisions the latest one has it.
            None => {
                self.sync().await?;
            }
        }
        Ok(result)
    }

    /// The revision of the last write that went through this, to be handed to another replica's
    /// [`reach`](Replica::reach).
    pub fn written(&self) -> Option<Revision> {
        *self.written.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Goes on until readers see a revision, or a later one of its generation, or one of a later generation.
    ///
    /// Cancel-safe. It waits for as long as it takes: wrap it in a timeout.
    ///
    /// # Errors
    /// As [`sync`](Replica::sync).
    pub async fn reach(&self, wanted: Revision) -> Result<()> {
        loop {
            let now = self.revision().await;
            if now.as_deref().and_then(Place::of).is_some() {
                // Frames tell nothing of revisions; but what a server has acknowledged is among those that it sends.
                return self.sync().await.map(drop);
            }
            let has = match now.as_deref().and_then(WireRevision::parse) {
                Some(WireRevision(now)) if now.generation == wanted.generation => now.txid >= wanted.txid,
                Some(WireRevision(now)) => now.generation.created_at() > wanted.generation.created_at(),
                None => false,
            };
            if has {
                return Ok(());
            }
            if !self.sync().await? {
                tokio::time::sleep(LOOK).await;
            }
        }
    }
}

impl From<FollowError> for Error {
    fn from(error: FollowError) -> Error {
        Error::Follow(Box::new(error))
    }
}
