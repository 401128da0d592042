//! The call that a program makes before it opens its database.

use std::path::{Path, PathBuf};

use aquifer_format::Revision;
use aquifer_log::{DatabaseName, DatabaseStore, Plan, Store, Target};
use aquifer_replicate::restore::{Existing, Installed};
use aquifer_replicate::{ReplicaOptions, Replicator};
use aquifer_sqlite::Handle;

use super::local::Local;
use super::standing::{Standing, newest, standing};
use crate::backup::Origin;
use crate::error::Result;
use crate::restore::{Restorer, blocking};

/// What stands behind the name of a database that another took the place of, as in bottomless.
const ASIDE: &str = ".bottomless.backup";

/// What was decided when a database was opened, and done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RestoreAction {
    /// There is nothing here, and nothing there.
    NothingToDo,
    /// What is here is what is there, or goes on from it: its generation goes on.
    Reuse,
    /// What is here was missing or older, and is now what is there.
    Restored {
        /// Where the database is that was here before, with all that was in its WAL.
        set_aside: Option<PathBuf>,
    },
    /// What is here is newer, or there is nothing there: a generation is to begin with it. With an Aquifer store it has
    /// begun, and is durable; a bottomless bucket is not written to.
    SnapshotNeeded,
}

/// A database that can be opened now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// What was decided.
    pub action: RestoreAction,
    /// The revision of the Aquifer store that is the database here. `None` without a store, and for an empty database.
    pub shipped: Option<Revision>,
}

/// What bottomless does when a database is opened, as one call: it is restored if it is missing or older than what is
/// there; if it is newer it is uploaded first, as what its generation goes on with, or as a new generation.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use aquifer_log::{Store, StoreUrl};
/// use aquifer_migrate::{Opener, RestoreAction};
///
/// # let dir = tempfile::tempdir()?;
/// # let (file, data) = (dir.path().join("app.db"), dir.path().join("bucket"));
/// # std::fs::create_dir(&data)?;
/// let bucket = Store::open(&StoreUrl::directory(&data))?; // or s3://…
/// let store = Store::open(&StoreUrl::directory(dir.path().join("aquifer-data")))?;
///
/// // At the first start what bottomless left is restored, and begins a generation of the store. From then on the store is
/// // what counts.
/// let opener = Opener::new(&file).bottomless(bucket, "app.db").aquifer(store, "app.db".parse()?);
/// let opened = opener.open().await?;
/// assert_eq!(opened.action, RestoreAction::NothingToDo); // nobody has written anything yet
/// // Now open the database, and replicate it with `aquifer_replicate::Replicator`.
/// # Ok(()) }
/// ```
///
/// # What is never lost
/// Nothing that is here and not there is overwritten: where another database takes the place of what is here, that is kept,
/// whole, as `NAME.bottomless.backup` (`.2`, `.3` … behind it where there is one). Nothing that is there is overwritten or
/// deleted: what is here becomes a generation beside it.
///
/// # Which is newer
/// An Aquifer store proves it where it can: the same image is the same database; one whose WAL goes on from what this
/// machine's replica shipped last is newer; an image that the store's history went through is older; any other that this
/// machine's replica left is newer, unless somebody else has gone on in its place.
///
/// The history is looked through where the replica stood, and at the ends of the 2,000 newest segments of the newest
/// generation: a few seconds, one request each, and only where neither the image nor the WAL has answered. A copy that is
/// older than these, without local state, or of an older generation, is not recognised.
///
/// What is not proven, of a store or of a bottomless bucket, the change counters of the database files decide, and for a
/// bucket of the same ones the frames of the WAL, as in bottomless. That is a guess, since SQLite does not count every
/// transaction in WAL mode; of the same ones what is here counts as newer. Nothing is lost by it, as above.
#[derive(Debug, Clone)]
#[must_use = "it does nothing before `open` is called"]
pub struct Opener {
    pub(super) path: PathBuf,
    bucket: Option<(Store, String)>,
    store: Option<(Store, DatabaseName)>,
    pub(super) options: ReplicaOptions,
}

impl Opener {
    /// For the database in this file, which need not exist. Nobody may have it open, in this process or another.
    pub fn new(path: impl AsRef<Path>) -> Opener {
        let options = ReplicaOptions::default();
        Opener { path: path.as_ref().to_owned(), bucket: None, store: None, options }
    }

    /// Against a bottomless bucket, which is only read, and `database` there: the file's name, behind
    /// `LIBSQL_BOTTOMLESS_DATABASE_ID` if that was set. With an Aquifer store as well, that counts once it has the database.
    pub fn bottomless(mut self, bucket: Store, database: impl Into<String>) -> Opener {
        self.bucket = Some((bucket, database.into()));
        self
    }

    /// Against an Aquifer store, and uploaded into it.
    pub fn aquifer(mut self, store: Store, name: DatabaseName) -> Opener {
        self.store = Some((store, name));
        self
    }

    /// How it is uploaded: those that it is replicated with afterwards.
    pub fn options(mut self, options: ReplicaOptions) -> Opener {
        self.options = options;
        self
    }

    /// Decides, and does it. Needs a runtime of tokio's with its time driver.
    ///
    /// # Errors
    /// If the store or the bucket cannot be read: what to do is not known then, and nothing was done. If the database is in
    /// use, or is to be uploaded and in a rollback-journal mode (see [`ReplicaOptions::switch_to_wal`]).
    ///
    /// # Cancel safety
    /// Dropping the future leaves what is here as it was, or restored; what was being uploaded may be in the store. Calling it
    /// again decides anew.
    pub async fn open(self) -> Result<Opened> {
        let path = self.path.clone();
        let local = blocking(move || Local::look(&path)).await?;
        if let Some((store, name)) = &self.store {
            let database = DatabaseStore::new(store.clone(), name.clone());
            match Plan::make(&database, None, Target::Latest).await {
                Ok(plan) => return self.against_store(local, &database, &plan).await,
                Err(e) if e.is_no_replica() => {}
                Err(e) => return Err(e.into()),
            }
        }
        let action = match &self.bucket {
            Some((bucket, database)) => self.against_bucket(local, bucket, database).await?,
            None if local.is_some() => RestoreAction::SnapshotNeeded,
            None => RestoreAction::NothingToDo,
        };
        let shipped = match &self.store {
            Some((store, name)) if action != RestoreAction::NothingToDo => {
                self.ship(store, name, self.options.clone()).await?
            }
            _ => None,
        };
        Ok(Opened { action, shipped })
    }

    async fn against_bucket(
        &self,
        local: Option<Local>,
        bucket: &Store,
        database: &str,
    ) -> Result<RestoreAction> {
        let Some((backup, survey)) = newest(bucket, database).await? else {
            let nothing = local.is_none();
            return Ok(if nothing { RestoreAction::NothingToDo } else { RestoreAction::SnapshotNeeded });
        };
        match standing(local, &backup, &survey).await? {
            Standing::Same => Ok(RestoreAction::Reuse),
            Standing::Newer => Ok(RestoreAction::SnapshotNeeded),
            Standing::Missing | Standing::Older => {
                let restorer = Restorer::new(bucket.clone(), Origin::Bottomless, &self.path);
                let restorer = restorer.database(database).existing(existing(local));
                // A file that is there is replaced: nothing is kept in its place.
                let restored = restorer.integrity_check(true).restore().await?;
                Ok(done(restored.map_or(Installed::Same, |restored| restored.installed)))
            }
        }
    }

    /// Everything that is committed here, into the store.
    pub(super) async fn ship(
        &self,
        store: &Store,
        name: &DatabaseName,
        options: ReplicaOptions,
    ) -> Result<Option<Revision>> {
        let path = self.path.clone();
        let is_empty = blocking(move || Ok(Local::look(&path)?.is_none())).await?;
        if is_empty {
            return Ok(None);
        }
        self.make_wal().await?;
        let replicator = Replicator::builder(store.clone()).options(options).start();
        replicator.add(&self.path, Some(name.clone()))?;
        let shipped = replicator.sync_database(name).await?;
        replicator.shutdown().await?;
        Ok(shipped)
    }

    /// A replica of a database with a rollback journal would wait until it has none.
    pub(super) async fn make_wal(&self) -> Result<()> {
        let (path, switch) = (self.path.clone(), self.options.switch_to_wal);
        blocking(move || {
            if switch {
                Handle::switch_to_wal(&path)?;
            }
            Handle::open(&path)?;
            Ok(())
        })
        .await
    }
}

/// An empty file is not worth keeping.
pub(super) fn existing(local: Option<Local>) -> Existing {
    if local.is_some() { Existing::SetAside(ASIDE) } else { Existing::Replace }
}

pub(super) fn done(installed: Installed) -> RestoreAction {
    match installed {
        Installed::Same => RestoreAction::Reuse,
        Installed::SetAside(path) => RestoreAction::Restored { set_aside: Some(path) },
        Installed::New | Installed::Replaced => RestoreAction::Restored { set_aside: None },
    }
}
