//! Existing database files become databases of the store.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aquifer_format::Revision;
use aquifer_log::{DatabaseName, DatabaseStore, Store};
use aquifer_replicate::{Primary, ReplicaOptions, Replicator};
use rusqlite::Connection;
use serde::Serialize;
use tokio::task::spawn_blocking;

use super::HostError;

/// The page size that all clients can use, in bytes.
pub const PAGE_SIZE: u32 = 4096;

/// A file was not imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// It is no database.
    #[error("this is no SQLite database: {0}")]
    NotADatabase(String),
    /// SQLite finds it damaged.
    #[error("the database is damaged: {0}")]
    Damaged(String),
    /// Some clients could not use it.
    #[error(
        "the database has pages of {0} bytes, and Turso's and libSQL's sync clients take pages of {PAGE_SIZE} bytes \
         only: convert it (PRAGMA journal_mode=DELETE; PRAGMA page_size={PAGE_SIZE}; VACUUM), or say that any page \
         size will do"
    )]
    PageSize(u32),
    /// A local file cannot be read or written.
    #[error("cannot read {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Of the database in the store.
    #[error(transparent)]
    Host(#[from] HostError),
}

/// What was imported.
#[derive(Clone, Debug, Serialize)]
pub struct Imported {
    /// The first revision of the database.
    pub revision: Revision,
    /// Its pages.
    pub pages: u32,
    /// Their size in bytes.
    pub page_size: u32,
}

/// Makes a database of a file, which must be nobody else's: it is switched to WAL mode, and has a directory of local
/// state beside it afterwards.
///
/// # Errors
/// A file that is no database, is damaged, or has pages of another size than sync clients take, unless any will do;
/// [`HostError::Exists`] if the store has a database of that name, [`HostError::Deleted`] also if it had.
pub async fn import(
    store: &Store,
    name: &DatabaseName,
    file: &Path,
    any_page_size: bool,
) -> Result<Imported, ImportError> {
    let checked = file.to_owned();
    let (pages, page_size) = match spawn_blocking(move || check(&checked, any_page_size)).await {
        Ok(checked) => checked?,
        Err(e) => std::panic::resume_unwind(e.into_panic()),
    };
    let log = DatabaseStore::new(store.clone(), name.clone());
    if let Some(deletion) = log.control().await.map_err(HostError::from)?.deleted {
        return Err(HostError::deleted(name, deletion).into());
    }
    if log.latest_generation().await.map_err(HostError::from)?.is_some() {
        return Err(HostError::Exists(name.clone()).into());
    }
    let options = ReplicaOptions { primary: Primary::Store, ..ReplicaOptions::default() };
    let replicator = Arc::new(Replicator::builder(store.clone()).options(options).start());
    replicator.add(file, Some(name.clone())).map_err(HostError::from)?;
    let shipped = replicator.sync_database(name).await;
    match shipped {
        Ok(Some(revision)) => {
            replicator.shutdown().await.map_err(HostError::from)?;
            Ok(Imported { revision, pages, page_size })
        }
        Ok(None) => Err(ImportError::NotADatabase("it is empty".to_owned())),
        // Somebody was faster.
        Err(e) if e.is_taken_over() => Err(HostError::Exists(name.clone()).into()),
        Err(e) => Err(HostError::from(e).into()),
    }
}

/// Checks a file, and switches it to WAL mode. Its pages, and their size.
fn check(path: &Path, any_page_size: bool) -> Result<(u32, u32), ImportError> {
    check_header(path)?;
    let failed = |e: rusqlite::Error| ImportError::Damaged(e.to_string());
    let connection = Connection::open(path).map_err(failed)?;
    let number = |pragma: &str| connection.query_row(pragma, [], |row| row.get::<_, u32>(0)).map_err(failed);
    let page_size = number("PRAGMA page_size")?;
    if page_size != PAGE_SIZE && !any_page_size {
        return Err(ImportError::PageSize(page_size));
    }
    let found: String =
        connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(failed)?;
    if found != "ok" {
        return Err(ImportError::Damaged(found));
    }
    let pages = number("PRAGMA page_count")?;
    connection.execute_batch("PRAGMA journal_mode=WAL").map_err(failed)?;
    Ok((pages, page_size))
}

/// What is no database is not given to SQLite, which takes an empty file for a new one.
fn check_header(path: &Path) -> Result<(), ImportError> {
    const MAGIC: &[u8; 16] = b"SQLite format 3\0";
    let file = |source| ImportError::File { path: path.to_owned(), source };
    let mut header = Vec::new();
    std::fs::File::open(path).map_err(file)?.take(100).read_to_end(&mut header).map_err(file)?;
    if header.len() < 100 {
        return Err(ImportError::NotADatabase(format!("it has {} bytes only", header.len())));
    }
    if !header.starts_with(MAGIC) {
        return Err(ImportError::NotADatabase("it does not begin as one".to_owned()));
    }
    Ok(())
}
