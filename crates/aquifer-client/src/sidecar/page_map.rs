//! The hash of each page of the base.

use std::borrow::Cow;
use std::ops::Range;

use aquifer_format::{PageHash, Pgno};
use rusqlite::{Connection, OptionalExtension};

/// Hashes in a row.
const CHUNK: usize = 1024;

/// Bytes of page 1 that are no content: what SQLite rewrites whenever it commits, which journal is used, and how often
/// the schema was changed.
const VOLATILE: [Range<usize>; 4] = [18..20, 24..28, 40..44, 92..100];

/// The hash of a page, but for what of page 1 is no content.
pub(crate) fn hash_of(pgno: Pgno, page: &[u8]) -> PageHash {
    PageHash::of(pgno, &content(pgno, page))
}

/// A page without what of page 1 is no content.
pub(crate) fn content(pgno: Pgno, page: &[u8]) -> Cow<'_, [u8]> {
    if pgno != Pgno::ONE || page.len() < 100 {
        return Cow::Borrowed(page);
    }
    let mut page = page.to_vec();
    for range in VOLATILE {
        page[range].fill(0);
    }
    Cow::Owned(page)
}

/// Looks up and changes the hashes, with the rows around the last one at hand.
pub(crate) struct PageMap<'c> {
    db: &'c Connection,
    chunk: Option<(usize, Vec<u8>)>,
    is_dirty: bool,
}

impl<'c> PageMap<'c> {
    pub(crate) fn new(db: &'c Connection) -> PageMap<'c> {
        PageMap { db, chunk: None, is_dirty: false }
    }

    /// The hash of a page of the base; `None` for others.
    pub(crate) fn get(&mut self, pgno: Pgno) -> rusqlite::Result<Option<PageHash>> {
        let (chunk, at) = (pgno.index() / CHUNK, pgno.index() % CHUNK * 8);
        let hashes = self.load(chunk)?;
        let hash = hashes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
        Ok(hash.map(u64::from_le_bytes).map(PageHash::from_u64))
    }

    /// Sets the hash of a page; ascending is fastest. Complete after [`flush`](PageMap::flush).
    pub(crate) fn set(&mut self, pgno: Pgno, hash: PageHash) -> rusqlite::Result<()> {
        let (chunk, at) = (pgno.index() / CHUNK, pgno.index() % CHUNK * 8);
        let hashes = self.load(chunk)?;
        if hashes.len() < at + 8 {
            hashes.resize(at + 8, 0);
        }
        hashes[at..at + 8].copy_from_slice(&hash.get().to_le_bytes());
        self.is_dirty = true;
        Ok(())
    }

    /// Writes what was set.
    pub(crate) fn flush(&mut self) -> rusqlite::Result<()> {
        if let (true, Some((chunk, hashes))) = (std::mem::take(&mut self.is_dirty), &self.chunk) {
            let sql = "INSERT INTO page_map(chunk, hashes) VALUES (?1, ?2)
                       ON CONFLICT(chunk) DO UPDATE SET hashes = excluded.hashes";
            self.db.prepare_cached(sql)?.execute((*chunk as i64, hashes))?;
        }
        Ok(())
    }

    /// Cuts it off behind the last page, or fills it up with the hashes of pages of zeros.
    pub(crate) fn resize(
        &mut self,
        pages: u32,
        before: u32,
        zeros: impl Fn(Pgno) -> PageHash,
    ) -> rusqlite::Result<()> {
        for pgno in (before..pages).map(Pgno::from_index) {
            self.set(pgno, zeros(pgno))?;
        }
        self.flush()?;
        self.chunk = None;
        let (chunk, rest) = (pages as usize / CHUNK, pages as usize % CHUNK * 8);
        self.db.execute("DELETE FROM page_map WHERE chunk > ?1", [chunk as i64])?;
        let sql = "UPDATE page_map SET hashes = substr(hashes, 1, ?2) WHERE chunk = ?1";
        self.db.execute(sql, (chunk as i64, rest as i64)).map(drop)
    }

    fn load(&mut self, chunk: usize) -> rusqlite::Result<&mut Vec<u8>> {
        if self.chunk.as_ref().is_none_or(|(loaded, _)| *loaded != chunk) {
            self.flush()?;
            let sql = "SELECT hashes FROM page_map WHERE chunk = ?1";
            let hashes: Option<Vec<u8>> =
                self.db.prepare_cached(sql)?.query_row([chunk as i64], |row| row.get(0)).optional()?;
            self.chunk = Some((chunk, hashes.unwrap_or_default()));
        }
        let (_, hashes) = self.chunk.get_or_insert_with(|| (chunk, Vec::new()));
        Ok(hashes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> Connection {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch(super::super::TABLES).unwrap();
        db
    }

    #[test]
    fn hashes_are_those_that_were_set_and_end_where_the_base_does() {
        let db = map();
        let hash = |n: u32| PageHash::from_u64(u64::from(n) << 32 | 7);
        let pgno = Pgno::from_index;
        let mut map = PageMap::new(&db);
        map.resize(5000, 0, |p| hash(p.get())).unwrap();
        map.set(pgno(3), PageHash::from_u64(1)).unwrap();
        map.set(pgno(4000), PageHash::from_u64(2)).unwrap();
        map.flush().unwrap();
        let mut map = PageMap::new(&db);
        assert_eq!(map.get(pgno(3)).unwrap(), Some(PageHash::from_u64(1)));
        assert_eq!(map.get(pgno(4000)).unwrap(), Some(PageHash::from_u64(2)));
        assert_eq!(map.get(pgno(4999)).unwrap(), Some(hash(5000)));
        assert_eq!(map.get(pgno(5000)).unwrap(), None);
        map.resize(2048, 5000, |_| unreachable!()).unwrap();
        assert_eq!(map.get(pgno(2047)).unwrap(), Some(hash(2048)));
        assert_eq!(map.get(pgno(2048)).unwrap(), None);
        map.resize(2050, 2048, |_| PageHash::from_u64(9)).unwrap();
        assert_eq!(map.get(pgno(2049)).unwrap(), Some(PageHash::from_u64(9)));
        assert_eq!(map.get(pgno(2050)).unwrap(), None);
    }

    #[test]
    fn what_sqlite_counts_is_no_content() {
        let mut page = vec![1; 4096];
        let hash = hash_of(Pgno::ONE, &page);
        for at in [18, 24, 27, 40, 43, 92, 99] {
            page[at] = 9;
        }
        assert_eq!(hash_of(Pgno::ONE, &page), hash);
        let second = Pgno::ONE.next();
        assert_ne!(hash_of(second, &page), hash_of(second, &[1; 4096]));
        page[44] = 9;
        assert_ne!(hash_of(Pgno::ONE, &page), hash);
    }
}
