//! Queries over pages from anywhere, with a note of the pages that they read.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use aquifer_format::{PageSize, Pgno};
use rusqlite::{Connection, OpenFlags};

use super::{PageFile, ReadPages, Served, lock, open};

/// Which pages of an image were read.
#[derive(Clone)]
pub struct PagesRead(Arc<Mutex<Served<Image>>>);

struct Image {
    pages: Box<dyn ReadPages>,
    read: BTreeSet<Pgno>,
}

/// Opens an image: a connection that can query it, and a note of what that reads.
///
/// # Errors
/// What SQLite says if it is no database.
pub fn open_pages(pages: Box<dyn ReadPages>) -> rusqlite::Result<(Connection, PagesRead)> {
    let image = Served::new(Image { pages, read: BTreeSet::new() });
    let connection = open(image.clone(), OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    // It has no other files.
    connection.pragma_update(None, "temp_store", "memory")?;
    Ok((connection, PagesRead(image)))
}

impl PagesRead {
    /// The pages that were read until now, ascending.
    pub fn pages(&self) -> BTreeSet<Pgno> {
        lock(&self.0).file.read.clone()
    }
}

impl std::fmt::Debug for PagesRead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("PagesRead").finish_non_exhaustive()
    }
}

impl PageFile for Image {
    fn page_size(&self) -> PageSize {
        self.pages.page_size()
    }

    fn pages(&self) -> u32 {
        self.pages.pages()
    }

    fn read(&mut self, pgno: Pgno, page: &mut [u8]) -> bool {
        let done = self.pages.read(pgno, page);
        if done {
            self.read.insert(pgno);
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct File {
        bytes: Vec<u8>,
        broken: Option<u32>,
    }

    impl ReadPages for File {
        fn page_size(&self) -> PageSize {
            PageSize::DEFAULT
        }

        fn pages(&self) -> u32 {
            (self.bytes.len() / 4096) as u32
        }

        fn read(&mut self, pgno: Pgno, page: &mut [u8]) -> bool {
            page.copy_from_slice(&self.bytes[pgno.index() * 4096..][..4096]);
            self.broken != Some(pgno.get())
        }
    }

    fn database() -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let db = Connection::open(&path).unwrap();
        db.execute_batch(
            "PRAGMA journal_mode=WAL; CREATE TABLE t(k INTEGER PRIMARY KEY, v); CREATE TABLE u(x); CREATE INDEX i ON t(v);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
             INSERT INTO t SELECT i, i || ' and some more text' FROM n;
             INSERT INTO u SELECT v FROM t;",
        )
        .unwrap();
        drop(db);
        std::fs::read(path).unwrap()
    }

    fn count(connection: &Connection, sql: &str) -> rusqlite::Result<i64> {
        connection.query_row(sql, [], |row| row.get(0))
    }

    #[test]
    fn a_query_finds_what_it_needs_in_the_pages_that_it_reads_and_in_no_others() {
        let bytes = database();
        let all = (bytes.len() / 4096) as u32;
        let image = || Box::new(File { bytes: bytes.clone(), broken: None });
        let sql = "SELECT count(*) FROM t WHERE k BETWEEN 2000 AND 2100 AND v LIKE '%text'";
        let (db, read) = open_pages(image()).unwrap();
        assert_eq!(count(&db, sql).unwrap(), 101);
        let read = read.pages();
        assert!(read.contains(&Pgno::ONE) && read.len() < all as usize / 4, "{} of {all}", read.len());
        // A client that has only these gets the same answer.
        let mut partial = vec![0; bytes.len()];
        for pgno in &read {
            let at = pgno.index() * 4096;
            partial[at..at + 4096].copy_from_slice(&bytes[at..at + 4096]);
        }
        let (partial, _) = open_pages(Box::new(File { bytes: partial, broken: None })).unwrap();
        assert_eq!(count(&partial, sql).unwrap(), 101);
        let (full, more) = open_pages(image()).unwrap();
        let join = "SELECT count(*) FROM t a, u b WHERE a.rowid = b.rowid";
        assert_eq!(count(&full, join).unwrap(), 5000);
        assert!(more.pages().len() > read.len());
        let sorted = "SELECT count(*) FROM (SELECT DISTINCT x FROM u ORDER BY x DESC)";
        assert_eq!(count(&full, sorted).unwrap(), 5000);
    }

    #[test]
    fn nothing_can_be_written_and_what_cannot_be_read_is_an_error() {
        let bytes = database();
        let open = |bytes: Vec<u8>, broken| open_pages(Box::new(File { bytes, broken })).map(|(db, _)| db);
        let db = open(bytes, Some(3)).unwrap();
        assert!(db.execute_batch("INSERT INTO u VALUES(1)").is_err());
        assert!(db.execute_batch("PRAGMA user_version=3").is_err());
        assert!(count(&db, "SELECT count(v || 1) FROM u, t").is_err());
        let garbage = open(vec![7; 8192], None);
        assert!(garbage.and_then(|db| count(&db, "SELECT count(*) FROM t")).is_err());
        let empty = open(Vec::new(), None).unwrap();
        assert!(count(&empty, "SELECT count(*) FROM t").is_err());
    }
}
