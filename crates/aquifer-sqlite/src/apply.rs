//! Changing pages of a database that others read: through SQLite, in one transaction.
//!
//! The virtual table `sqlite_dbpage` writes pages as any other statement does: into the WAL. Readers keep the image
//! that they have, and see all of the new one from their next transaction on; a crash leaves one or the other.
#![allow(unsafe_code, reason = "the callback that keeps SQLite from moving pages has no safe binding")]

use std::ffi::{c_char, c_uint, c_void};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aquifer_format::{PageSize, Pgno};
use rusqlite::{Connection, ErrorCode, OpenFlags, ToSql, ffi, params};

use crate::{Error, Result, use_wal};

/// Bytes of page 1 that count the changes of the schema.
const SCHEMA_VERSION: Range<usize> = 40..44;

/// A transaction that replaces pages. Dropped without [`PageTransaction::commit`], it changes nothing.
///
/// SQLite rewrites bytes 24 to 27 and 92 to 99 of page 1 (change counter and its own version) when it commits: what
/// is read back there is not what was written.
#[derive(Debug)]
pub struct PageTransaction {
    path: PathBuf,
    connection: Connection,
    page_size: PageSize,
    /// Pages before the transaction.
    pages: u32,
    lock_page: Pgno,
    /// Written last: it names the schema's version, and a statement after it would have SQLite read the schema.
    first_page: Option<Vec<u8>>,
}

impl PageTransaction {
    /// Begins a transaction in an existing database, which is switched to WAL mode if it is not in it.
    ///
    /// Waits up to `patience` for others that write or check it.
    ///
    /// # Errors
    /// [`Error::Busy`] if that is not enough.
    pub fn begin(path: &Path, patience: Duration) -> Result<PageTransaction> {
        if !path.exists() {
            return Err(Error::Missing(path.to_owned()));
        }
        let error = |source| classify(path, source);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(error)?;
        connection.busy_timeout(patience).map_err(error)?;
        // The pages may hold what this SQLite would not accept as a schema; they are none of its business.
        connection.pragma_update(None, "writable_schema", true).map_err(error)?;
        // Whoever commits says that it is durable.
        connection.pragma_update(None, "synchronous", "full").map_err(error)?;
        no_auto_vacuum(&connection);
        if !use_wal(&connection).map_err(error)? {
            return Err(Error::NoWal(path.to_owned()));
        }
        connection.execute_batch("BEGIN IMMEDIATE").map_err(error)?;
        let number = |pragma: &str| {
            connection.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get::<_, u32>(0)).map_err(error)
        };
        let pages = number("page_count")?;
        let page_size =
            PageSize::new(number("page_size")?).map_err(|_| Error::NotADatabase(path.to_owned()))?;
        let lock_page = page_size.lock_page();
        Ok(PageTransaction {
            path: path.to_owned(),
            connection,
            page_size,
            pages,
            lock_page,
            first_page: None,
        })
    }

    /// The size of the database's pages, which cannot be changed.
    pub fn page_size(&self) -> PageSize {
        self.page_size
    }

    /// Pages that the database had when the transaction began.
    pub fn pages(&self) -> u32 {
        self.pages
    }

    /// Reads a page, as written last (page 1: as it was before); false if the database does not have it.
    pub fn read(&self, pgno: Pgno, page: &mut [u8]) -> Result<bool> {
        let sql = "SELECT data FROM sqlite_dbpage WHERE pgno = ?1";
        let mut statement = self.connection.prepare_cached(sql).map_err(|e| self.error(e))?;
        let mut rows = statement.query(params![pgno.get()]).map_err(|e| self.error(e))?;
        let Some(row) = rows.next().map_err(|e| self.error(e))? else { return Ok(false) };
        let data = row.get_ref(0).map_err(|e| self.error(e))?;
        match data.as_blob() {
            Ok(data) if data.len() == page.len() => {
                page.copy_from_slice(data);
                Ok(true)
            }
            _ => Err(self.bad_page(pgno, "SQLite gives a page of another size")),
        }
    }

    /// Writes a page, also one that the database does not have yet. Those in between become zeros.
    ///
    /// The page at the lock byte is skipped.
    pub fn write(&mut self, pgno: Pgno, page: &[u8]) -> Result<()> {
        if page.len() != self.page_size.bytes() {
            return Err(self.bad_page(pgno, "it has another size than the database's pages"));
        }
        if pgno == self.lock_page {
            return Ok(());
        }
        if pgno == Pgno::ONE {
            self.first_page = Some(page.to_vec());
            return Ok(());
        }
        self.insert(pgno, page)
    }

    /// Makes it durable and visible, as a database of `pages` pages. Page 1 must have been written if that is
    /// another number than before: it holds it.
    ///
    /// # Errors
    /// After [`Error::Busy`] as after any other error, nothing was changed.
    pub fn commit(mut self, pages: u32) -> Result<()> {
        let first = self.first_page.take();
        match (first, Pgno::new(pages.saturating_add(1)).filter(|_| pages < self.pages)) {
            (Some(first), None) => self.insert(Pgno::ONE, &first)?,
            (Some(first), Some(beyond)) => self.shrink(first, beyond)?,
            (None, Some(_)) => return Err(self.bad_page(Pgno::ONE, "it must say that the database shrinks")),
            (None, None) => {}
        }
        self.connection.execute_batch("COMMIT").map_err(|e| self.error(e))
        // The connection ends here: it knows the schema that was.
    }

    /// Writes page 1 and cuts the database off before a page.
    ///
    /// A row of NULL cuts it off, unless another page is written after it. But once page 1 has another schema
    /// version, SQLite reads the schema before each statement, and fails: it has parsed the page that was there. So
    /// the version is set last, by itself. (Both rows in one statement will not do: at its end SQLite takes the size
    /// from page 1, and then finds nothing to cut off.)
    fn shrink(&self, mut first: Vec<u8>, beyond: Pgno) -> Result<()> {
        let mut before = vec![0; first.len()];
        self.read(Pgno::ONE, &mut before)?;
        let version = i32::from_be_bytes(std::array::from_fn(|i| first[SCHEMA_VERSION.start + i]));
        first[SCHEMA_VERSION].copy_from_slice(&before[SCHEMA_VERSION]);
        self.insert(Pgno::ONE, &first)?;
        self.insert(beyond, rusqlite::types::Null)?;
        self.connection.pragma_update(None, "schema_version", version).map_err(|e| self.error(e))
    }

    fn insert(&self, pgno: Pgno, page: impl ToSql) -> Result<()> {
        let sql = "INSERT INTO sqlite_dbpage(pgno, data) VALUES (?1, ?2)";
        let mut statement = self.connection.prepare_cached(sql).map_err(|e| self.error(e))?;
        statement.execute(params![pgno.get(), page]).map(drop).map_err(|e| self.error(e))
    }

    fn bad_page(&self, pgno: Pgno, reason: &str) -> Error {
        Error::BadPage { path: self.path.clone(), pgno, reason: reason.to_owned() }
    }

    fn error(&self, source: rusqlite::Error) -> Error {
        classify(&self.path, source)
    }
}

/// Keeps SQLite from moving pages when it commits, as it does in databases with full auto-vacuum: they are where they
/// belong.
fn no_auto_vacuum(connection: &Connection) {
    unsafe extern "C" fn none(
        _: *mut c_void,
        _schema: *const c_char,
        _pages: c_uint,
        _free: c_uint,
        _page_size: c_uint,
    ) -> c_uint {
        0
    }
    // SAFETY: the connection is open; the callback uses none of its arguments and lives as long as the program.
    unsafe { ffi::sqlite3_autovacuum_pages(connection.handle(), Some(none), std::ptr::null_mut(), None) };
}

fn classify(path: &Path, source: rusqlite::Error) -> Error {
    let path = path.to_owned();
    match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Error::Busy { path, source },
        Some(ErrorCode::NotADatabase) => Error::NotADatabase(path),
        _ => Error::Sqlite { path, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(path: &Path, sql: &str) -> Vec<u8> {
        let connection = Connection::open(path).unwrap();
        connection.execute_batch("PRAGMA journal_mode=WAL; PRAGMA auto_vacuum=FULL").unwrap();
        connection.execute_batch(sql).unwrap();
        drop(connection);
        std::fs::read(path).unwrap()
    }

    fn apply(path: &Path, image: &[u8]) {
        let mut transaction = PageTransaction::begin(path, Duration::ZERO).unwrap();
        for (index, page) in image.chunks_exact(4096).enumerate() {
            transaction.write(Pgno::from_index(index as u32), page).unwrap();
        }
        transaction.commit((image.len() / 4096) as u32).unwrap();
    }

    fn sum(connection: &Connection) -> rusqlite::Result<i64> {
        connection.query_row("SELECT sum(length(x)) FROM t", [], |row| row.get(0))
    }

    /// But for what SQLite rewrites.
    fn assert_same(path: &Path, image: &[u8]) {
        let mut file = std::fs::read(path).unwrap();
        assert_eq!(file.len(), image.len());
        for at in (24..28).chain(92..100) {
            file[at] = image[at];
        }
        assert!(file == image);
    }

    const SMALL: &str = "CREATE TABLE t(x); INSERT INTO t VALUES (zeroblob(10))";
    const LARGE: &str = "CREATE TABLE u(y); CREATE TABLE t(x); INSERT INTO t VALUES (randomblob(1000000))";

    #[test]
    fn a_database_becomes_another_one_larger_or_smaller() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let small = database(&path, SMALL);
        let large = database(&dir.path().join("b.db"), LARGE);
        for image in [&large, &small, &large, &large, &small] {
            apply(&path, image);
            assert_same(&path, image);
            let connection = Connection::open(&path).unwrap();
            let check: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
            assert_eq!(check, "ok");
        }
    }

    #[test]
    fn readers_keep_their_image_and_then_see_the_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let small = database(&path, SMALL);
        let large = database(&dir.path().join("b.db"), LARGE);
        let inside = Connection::open(&path).unwrap();
        inside.execute_batch("BEGIN").unwrap();
        assert_eq!(sum(&inside).unwrap(), 10);
        let between = Connection::open(&path).unwrap();
        assert_eq!(sum(&between).unwrap(), 10);
        apply(&path, &large);
        assert_eq!(sum(&inside).unwrap(), 10);
        assert_eq!(sum(&between).unwrap(), 1_000_000);
        inside.execute_batch("COMMIT").unwrap();
        assert_eq!(sum(&inside).unwrap(), 1_000_000);
        apply(&path, &small);
        assert_eq!((sum(&inside).unwrap(), sum(&between).unwrap()), (10, 10));
    }

    #[test]
    fn dropped_it_changes_nothing_and_what_it_wrote_it_reads() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let image = database(&path, SMALL);
        let mut transaction = PageTransaction::begin(&path, Duration::ZERO).unwrap();
        let beyond = Pgno::new(transaction.pages() + 1).unwrap();
        let mut page = vec![0; 4096];
        assert!(!transaction.read(beyond, &mut page).unwrap());
        transaction.write(Pgno::new(2).unwrap(), &[5; 4096]).unwrap();
        assert!(transaction.read(Pgno::new(2).unwrap(), &mut page).unwrap());
        assert_eq!(page, [5; 4096]);
        drop(transaction);
        assert!(std::fs::read(&path).unwrap() == image);
    }

    #[test]
    fn another_writer_is_busy_and_a_page_of_another_size_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        database(&path, SMALL);
        let writer = Connection::open(&path).unwrap();
        writer.execute_batch("BEGIN IMMEDIATE").unwrap();
        let busy = PageTransaction::begin(&path, Duration::ZERO).unwrap_err();
        assert!(busy.is_transient(), "{busy}");
        drop(writer);
        let mut transaction = PageTransaction::begin(&path, Duration::ZERO).unwrap();
        let error = transaction.write(Pgno::ONE, &[0; 512]).unwrap_err();
        assert!(matches!(error, Error::BadPage { .. }), "{error}");
    }
}
