//! Local files: a cache of the store, one directory per database.
//!
//! ```text
//! <data-dir>/.lock                         held while a server uses the directory
//! <data-dir>/.incoming-*                   what is being imported
//! <data-dir>/.aside-<database>-<time>      what was acknowledged here only, before another server went on without it
//! <data-dir>/.server                       under which id others know the server
//! <data-dir>/<database>/db.sqlite          the database, with SQLite's -wal and -shm
//! <data-dir>/<database>/.db.sqlite-aquifer what was shipped of it
//! <data-dir>/<database>/closed              when it was closed, with everything in the store
//! <data-dir>/<database>/older/             older revisions, while clients ask for them
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use aquifer_format::Timestamp;
use aquifer_log::DatabaseName;
use aquifer_sqlite::FileLock;
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
    _lock: FileLock,
}

impl DataDir {
    pub(super) fn open(path: PathBuf) -> Result<DataDir, HostError> {
        fs::create_dir_all(&path).map_err(io("make", &path))?;
        let lock_path = path.join(".lock");
        let lock = FileLock::try_new(&lock_path).map_err(io("lock", &lock_path))?;
        let Some(lock) = lock else { return Err(HostError::DataDirInUse(path)) };
        let data = DataDir { path, _lock: lock };
        data.sweep()?;
        Ok(data)
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

    /// The databases that have files here, when each was used last, and the bytes of its files. Of one that is open, as
    /// it is at this moment.
    pub(super) async fn usage(&self) -> Result<Vec<Usage>, HostError> {
        let path = self.path.clone();
        blocking(move || {
            let mut all = Vec::new();
            for entry in fs::read_dir(&path).map_err(io("read", &path))? {
                let dir = entry.map_err(io("read", &path))?.path();
                let component = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
                if let Some(name) = DatabaseName::from_component(&component) {
                    let files = Files { dir };
                    let closed = fs::metadata(files.closed()).and_then(|closed| closed.modified()).ok();
                    all.push(Usage { name, closed, bytes: bytes_below(&files.dir), files });
                }
            }
            Ok(all)
        })
        .await
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

/// What a database takes of the disk.
#[derive(Debug)]
pub(super) struct Usage {
    pub(super) name: DatabaseName,
    pub(super) files: Files,
    /// When it was closed, if everything that it had is in the store.
    pub(super) closed: Option<SystemTime>,
    pub(super) bytes: u64,
}

/// What vanishes meanwhile, or cannot be read, does not count.
fn bytes_below(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
    let bytes = entries.map(|entry| match entry.metadata() {
        Ok(found) if found.is_dir() => bytes_below(&entry.path()),
        Ok(found) => found.len(),
        Err(_) => 0,
    });
    bytes.sum()
}

impl Files {
    fn closed(&self) -> PathBuf {
        self.dir.join("closed")
    }

    /// Notes that the store has everything, and that nobody uses the files.
    pub(super) async fn are_closed(&self) -> Result<(), HostError> {
        let closed = self.closed();
        blocking(move || fs::write(&closed, []).map_err(io("write", &closed))).await
    }

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
            match fs::remove_file(files.closed()) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(io("remove", &files.closed())(e));
                }
                _ => {}
            }
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
