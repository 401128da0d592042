//! What is known of a synced database, kept beside it in an SQLite database of its own: `<db>-aquifer`.
//!
//! The database itself holds the server's rows and the user's, nothing else. Here is the rest: which revision of the
//! server's it is based on and the hash of each page of that ([`PageMap`]), the pages of it that local work has
//! overwritten ([`pre_images`]), what was pushed and has not come back yet ([`pushed`]), conflicts ([`conflicts`]).
//!
//! All of it changes in transactions that are durable when they return; what says where one stands is in one row with
//! a checksum ([`State`]).

mod conflicts;
mod page_map;
mod pre_images;
mod pushed;
mod sets;
mod staged;
mod state;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aquifer_sqlite::FileLock;
use roaring::RoaringBitmap;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Transaction};

pub(crate) use conflicts::Conflicts;
pub use conflicts::RecordedConflict;
pub(crate) use page_map::{PageMap, content, hash_of};
pub(crate) use pre_images::PreImages;
pub(crate) use pushed::PushedPages;
pub(crate) use sets::Received;
pub(crate) use staged::Staged;
pub(crate) use state::{Base, Bootstrap, FileStamp, Pull, Push, State, Tracked};

/// How long is waited for who has the sidecar: one who is just letting go of it, on another thread perhaps.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
const LOCK_PAUSE: Duration = Duration::from_millis(5);
/// `application_id` of a sidecar: "Aqui" in ASCII.
const APPLICATION_ID: i32 = 0x4171_7569;
/// Bytes of its pages.
const PAGE: u32 = 16 << 10;
/// Bytes of its WAL from which it is moved into the file: more than most syncs write, so that none waits for that.
const CHECKPOINT: u32 = 64 << 20;
/// Version of its tables.
const VERSION: i32 = 2;

/// None of them WITHOUT ROWID: the index would hold the pages themselves, and SQLite read each one that it compares.
const TABLES: &str = "
    CREATE TABLE state(id INTEGER PRIMARY KEY CHECK (id = 1), json TEXT NOT NULL, checksum INTEGER NOT NULL);
    CREATE TABLE page_map(chunk INTEGER PRIMARY KEY, hashes BLOB NOT NULL);
    CREATE TABLE pre_images(base INTEGER NOT NULL, pgno INTEGER NOT NULL, content BLOB NOT NULL, PRIMARY KEY(pgno, base));
    CREATE TABLE pushed(change_id INTEGER NOT NULL, pgno INTEGER NOT NULL, hash INTEGER NOT NULL, delta BLOB NOT NULL, PRIMARY KEY(change_id, pgno));
    CREATE TABLE sets(name TEXT PRIMARY KEY, content BLOB NOT NULL);
    CREATE TABLE conflicts(id INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL, revision TEXT, json TEXT NOT NULL);
";

/// Why what is kept beside a database cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SidecarError {
    /// Somebody else has it.
    #[error("{0} is being synced by another process already (perhaps aquifer sync --watch)")]
    Locked(PathBuf),

    /// It is something else.
    #[error("{0} is no sidecar of Aquifer's: move it away")]
    NotOurs(PathBuf),

    /// A newer version made it.
    #[error(
        "{path} was made by a newer version of Aquifer (its version is {found}, {VERSION} is known): update this program"
    )]
    Newer {
        /// The sidecar.
        path: PathBuf,
        /// Its version.
        found: i32,
    },

    /// It is damaged.
    #[error(
        "{path} is damaged ({reason}): remove it and attach the database anew with --merge; no row is lost by that"
    )]
    Damaged {
        /// The sidecar.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },

    /// The file that locks it cannot be made.
    #[error("cannot lock {path}: {source}")]
    Lock {
        /// The lock's file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },

    /// Anything else that SQLite says of it.
    #[error("{path}: {}", aquifer_sqlite::said(source))]
    Sqlite {
        /// The sidecar.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
}

type Result<T, E = SidecarError> = std::result::Result<T, E>;

/// A database's sidecar, which nobody else has open for writing.
#[derive(Debug)]
pub(crate) struct Sidecar {
    path: PathBuf,
    db: Connection,
    state: State,
    /// Bytes sent and received that are not in `state` yet.
    traffic: (u64, u64),
    _lock: FileLock,
}

impl Sidecar {
    /// Where it is kept.
    pub(crate) fn beside(database: &Path) -> PathBuf {
        with_suffix(database, "-aquifer")
    }

    /// Opens the sidecar of a database; `None`: there is none.
    pub(crate) fn open(database: &Path) -> Result<Option<Sidecar>> {
        let path = Sidecar::beside(database);
        if !path.exists() {
            return Ok(None);
        }
        let lock = lock(database)?;
        let db = connect(&path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        if is_empty(&path, &db)? {
            // Whoever made it did not get further.
            return Ok(None);
        }
        let mut state = read_state(&path, &db)?;
        let file = identity(&path)?;
        if state.file.is_some_and(|known| known != file) {
            state.client_id = State::new_client_id();
        }
        state.file = Some(file);
        Ok(Some(Sidecar { path, db, state, traffic: (0, 0), _lock: lock }))
    }

    /// Makes the sidecar of a database, which must not have one.
    pub(crate) fn create(database: &Path, state: State) -> Result<Sidecar> {
        let path = Sidecar::beside(database);
        let lock = lock(database)?;
        // It holds pages of the database: nobody else may read it.
        let mut options = std::fs::File::options();
        options.write(true).create(true).truncate(false);
        if let Ok(database) = std::fs::metadata(database) {
            use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
            options.mode(database.permissions().mode() & 0o777);
        }
        let made = options.open(&path).map(drop);
        made.map_err(|source| SidecarError::Lock { path: path.clone(), source })?;
        let db = connect(&path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        if !is_empty(&path, &db)? {
            return Err(SidecarError::Locked(database.to_owned()));
        }
        let state = State { file: Some(identity(&path)?), ..state };
        let sidecar = Sidecar { path, db, state, traffic: (0, 0), _lock: lock };
        // One transaction: whoever finds the file finds all of it, or an empty one.
        sidecar.transaction(|db| {
            db.execute_batch(TABLES)?;
            db.pragma_update(None, "application_id", APPLICATION_ID)?;
            db.pragma_update(None, "user_version", VERSION)?;
            write_state(db, &sidecar.state)
        })?;
        Ok(sidecar)
    }

    /// What it says of the database, for those who only look: also while another process syncs it.
    pub(crate) fn peek(database: &Path) -> Result<Option<(State, Connection)>> {
        let path = Sidecar::beside(database);
        if !path.exists() {
            return Ok(None);
        }
        let db = connect(&path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        if is_empty(&path, &db)? {
            return Ok(None);
        }
        let state = read_state(&path, &db)?;
        Ok(Some((state, db)))
    }

    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    /// Changes what it says, together with what `work` does, durably. After an error nothing was changed.
    pub(crate) fn update<T>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>, &mut State) -> rusqlite::Result<T>,
    ) -> Result<T> {
        let mut state = self.state.clone();
        state.sent += self.traffic.0;
        state.received += self.traffic.1;
        let done = self.transaction(|db| {
            let done = work(db, &mut state)?;
            write_state(db, &state)?;
            Ok(done)
        })?;
        self.state = state;
        self.traffic = (0, 0);
        Ok(done)
    }

    /// Counts bytes, to be recorded with the next update.
    pub(crate) fn add_traffic(&mut self, sent: u64, received: u64) {
        self.traffic.0 += sent;
        self.traffic.1 += received;
    }

    fn transaction<T>(&self, work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>) -> Result<T> {
        let behavior = rusqlite::TransactionBehavior::Immediate;
        let run = || {
            let transaction = Transaction::new_unchecked(&self.db, behavior)?;
            let done = work(&transaction)?;
            transaction.commit()?;
            Ok(done)
        };
        run().map_err(|source| self.error(source))
    }

    /// A connection of its own to read it with, which sees what is there now for as long as it is open.
    pub(crate) fn reader(&self) -> Result<Connection> {
        let db = connect(&self.path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        // Each read by itself would look for changes and take locks anew.
        db.execute_batch("BEGIN; SELECT 1 FROM state").map_err(|e| self.error(e))?;
        Ok(db)
    }

    pub(crate) fn db(&self) -> &Connection {
        &self.db
    }

    pub(crate) fn error(&self, source: rusqlite::Error) -> SidecarError {
        SidecarError::Sqlite { path: self.path.clone(), source }
    }

    /// Pages of the base that local work may have changed. Those beyond the base's end are not in it.
    pub(crate) fn changed(&self) -> Result<RoaringBitmap> {
        sets::get(&self.db, CHANGED).map_err(|e| self.error(e))
    }

    /// Records them.
    pub(crate) fn put_changed(db: &Connection, pages: &RoaringBitmap) -> rusqlite::Result<()> {
        sets::put(db, CHANGED, pages)
    }
}

const CHANGED: &str = "changed";

pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

fn is_empty(path: &Path, db: &Connection) -> Result<bool> {
    db.query_row("SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema)", [], |row| row.get(0)).map_err(|source| {
        match source.sqlite_error_code() {
            Some(rusqlite::ErrorCode::NotADatabase) => SidecarError::NotOurs(path.to_owned()),
            _ => SidecarError::Sqlite { path: path.to_owned(), source },
        }
    })
}

fn identity(path: &Path) -> Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let failed = |source| SidecarError::Lock { path: path.to_owned(), source };
    std::fs::metadata(path).map(|file| (file.dev(), file.ino())).map_err(failed)
}

/// A file of its own: closing another descriptor of the sidecar would drop SQLite's locks on it.
fn lock(database: &Path) -> Result<FileLock> {
    let path = with_suffix(database, "-aquifer-lock");
    let failed = |source| SidecarError::Lock { path: path.clone(), source };
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match FileLock::try_new(&path).map_err(failed)? {
            Some(lock) => return Ok(lock),
            None if Instant::now() < deadline => std::thread::sleep(LOCK_PAUSE),
            None => return Err(SidecarError::Locked(database.to_owned())),
        }
    }
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection> {
    let open = || {
        let db = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        db.busy_timeout(std::time::Duration::from_secs(5))?;
        // Else SQLite prepares some statements anew for each value, in search of a better plan.
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        if !flags.contains(OpenFlags::SQLITE_OPEN_READ_ONLY) {
            // Of a new one: several pages of the database fit into one of its own.
            db.pragma_update(None, "page_size", PAGE)?;
            aquifer_sqlite::use_wal(&db)?;
            db.pragma_update(None, "synchronous", "full")?;
            db.pragma_update(None, "wal_autocheckpoint", CHECKPOINT / PAGE)?;
        }
        Ok(db)
    };
    open().map_err(|source: rusqlite::Error| match source.sqlite_error_code() {
        Some(rusqlite::ErrorCode::NotADatabase) => SidecarError::NotOurs(path.to_owned()),
        _ => SidecarError::Sqlite { path: path.to_owned(), source },
    })
}

fn read_state(path: &Path, db: &Connection) -> Result<State> {
    let failed = |source| SidecarError::Sqlite { path: path.to_owned(), source };
    let pragma = |name| db.pragma_query_value(None, name, |row| row.get::<_, i32>(0)).map_err(failed);
    let damaged = |reason: String| SidecarError::Damaged { path: path.to_owned(), reason };
    if pragma("application_id")? != APPLICATION_ID {
        return Err(SidecarError::NotOurs(path.to_owned()));
    }
    match pragma("user_version")? {
        VERSION => {}
        found if found > VERSION => return Err(SidecarError::Newer { path: path.to_owned(), found }),
        found => return Err(damaged(format!("its version is {found}"))),
    }
    let sql = "SELECT json, checksum FROM state";
    let row = db.query_row(sql, [], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)));
    let (json, checksum) =
        row.optional().map_err(failed)?.ok_or_else(|| damaged("it says nothing".to_owned()))?;
    if state::checksum(&json) != checksum {
        return Err(damaged("its checksum does not fit".to_owned()));
    }
    serde_json::from_str(&json).map_err(|e| damaged(e.to_string()))
}

fn write_state(db: &Connection, state: &State) -> rusqlite::Result<()> {
    let json = serde_json::to_string(state).map_err(|e| rusqlite::Error::ToSqlConversionFailure(e.into()))?;
    let sql = "INSERT INTO state(id, json, checksum) VALUES (1, ?1, ?2)
               ON CONFLICT(id) DO UPDATE SET json = excluded.json, checksum = excluded.checksum";
    let checksum = state::checksum(&json);
    db.prepare_cached(sql)?.execute((json, checksum)).map(drop)
}
