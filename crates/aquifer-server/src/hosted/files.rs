//! Local files: a cache of the store, one directory per database.
//!
//! ```text
//! <data-dir>/.lock                         held while a server uses the directory
//! <data-dir>/.incoming-*                   what is being imported
//! <data-dir>/.aside-<database>-<time>      what was acknowledged here only, before another server went on without it
//! <data-dir>/.server                       under which id others know the server
//! <data-dir>/<database>/db.sqlite          the database, with SQLite's -wal and -shm
//! <data-dir>/<database>/.db.sqlite-aquifer what was shipped of it
//! <data-dir>/<database>/older/             older revisions, while clients ask for them
//! ```

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aquifer_format::Timestamp;
use aquifer_log::DatabaseName;
use rusqlite::Connection;
use tempfile::TempDir;
use tokio::task::spawn_blocking;

use super::HostError;

/// What directories of files on their way begin with. No database's does.
const SCRATCH: &str = ".incoming-";

/// The directory of one server's files, locked.
#[derive(Debug)]
pub(super) struct DataDir {
    path: PathBuf,
    /// Locked as long as it is open.
    _lock: File,
}

impl DataDir {
    pub(super) fn open(path: PathBuf) -> Result<DataDir, HostError> {
        fs::create_dir_all(&path).map_err(io("make", &path))?;
        let lock_path = path.join(".lock");
        let lock = File::options().create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.map_err(io("open", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => {
                let data = DataDir { path, _lock: lock };
                data.sweep()?;
                Ok(data)
            }
            Err(TryLockError::WouldBlock) => Err(HostError::DataDirInUse(path)),
            Err(TryLockError::Error(e)) => Err(io("lock", &lock_path)(e)),
        }
    }

    /// A new directory for files on their way. What a killed server left of such is removed by the next.
    pub(super) fn scratch(&self) -> Result<TempDir, HostError> {
        tempfile::Builder::new().prefix(SCRATCH).tempdir_in(&self.path).map_err(io("write to", &self.path))
    }

    fn sweep(&self) -> Result<(), HostError> {
        let read = |e| io("read", &self.path)(e);
        for entry in fs::read_dir(&self.path).map_err(read)? {
            let entry = entry.map_err(read)?;
            if entry.file_name().to_string_lossy().starts_with(SCRATCH) {
                fs::remove_dir_all(entry.path()).map_err(io("remove", &entry.path()))?;
            }
        }
        Ok(())
    }

    /// Where the server notes under which id others know it.
    pub(super) fn server_note(&self) -> PathBuf {
        self.path.join(".server")
    }

    /// Where a database's files are, or will be.
    pub(super) fn files(&self, name: &DatabaseName) -> Files {
        Files { dir: self.path.join(name.to_component()) }
    }
}

/// The files of one database.
#[derive(Clone, Debug)]
pub(super) struct Files {
    dir: PathBuf,
}

impl Files {
    /// The database file.
    pub(super) fn database(&self) -> PathBuf {
        self.dir.join("db.sqlite")
    }

    /// Where older revisions are restored to.
    pub(super) fn older(&self) -> PathBuf {
        self.dir.join("older")
    }

    /// Whether there is a database file. Makes its directory, in any case.
    pub(super) async fn exist(&self) -> Result<bool, HostError> {
        let files = self.clone();
        blocking(move || {
            fs::create_dir_all(&files.dir).map_err(io("make", &files.dir))?;
            let database = files.database();
            database.try_exists().map_err(io("look for", &database))
        })
        .await
    }

    /// Makes an empty database, with pages of the size that all clients take.
    pub(super) async fn make_empty(&self) -> Result<(), HostError> {
        let path = self.database();
        blocking(move || {
            let made = Connection::open(&path)
                .and_then(|db| db.execute_batch("PRAGMA page_size=4096; PRAGMA journal_mode=WAL"));
            made.map_err(|source| HostError::Sqlite { path, source: Arc::new(source) })
        })
        .await
    }

    /// Keeps all of it under another name, for people to look into.
    pub(super) async fn set_aside(&self) -> Result<(), HostError> {
        let dir = self.dir.clone();
        blocking(move || {
            let component = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let at = Timestamp::now().as_millis();
            let aside = dir.with_file_name(format!(".aside-{component}-{at}"));
            match fs::rename(&dir, &aside) {
                Ok(()) => {
                    tracing::warn!(path = %aside.display(), "another server went on without what this file has");
                    Ok(())
                }
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
                Err(e) => Err(io("rename", &dir)(e)),
            }
        })
        .await
    }

    /// Removes all of it: what is in the store is the database.
    pub(super) async fn discard(&self) -> Result<(), HostError> {
        let dir = self.dir.clone();
        blocking(move || match fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io("remove", &dir)(e)),
            _ => Ok(()),
        })
        .await
    }
}

fn io(what: &'static str, path: &Path) -> impl Fn(std::io::Error) -> HostError {
    move |source| HostError::Io { what, path: path.to_owned(), source: Arc::new(source) }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, HostError> + Send + 'static,
) -> Result<T, HostError> {
    match spawn_blocking(work).await {
        Ok(done) => done,
        Err(e) => std::panic::resume_unwind(e.into_panic()),
    }
}
