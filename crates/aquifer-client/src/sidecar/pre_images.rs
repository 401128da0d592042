//! Pages of the base that local work has overwritten.
//!
//! Most of them are the same in the next base: they stay, under the number of the base that they were kept for. So a
//! page's pre-image is the one with the highest number up to that of the base.

use aquifer_format::Pgno;
use roaring::RoaringBitmap;
use rusqlite::{Connection, OptionalExtension};

/// The pre-images of one base.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PreImages {
    base: i64,
}

impl PreImages {
    /// Those of the base with this number.
    pub(crate) fn of(base: i64) -> PreImages {
        PreImages { base }
    }

    /// Keeps a page of this base. One that was kept for it stays.
    pub(crate) fn put(self, db: &Connection, pgno: Pgno, page: &[u8]) -> rusqlite::Result<()> {
        let sql = "INSERT OR IGNORE INTO pre_images(base, pgno, content) VALUES (?1, ?2, ?3)";
        let content = lz4_flex::block::compress(page);
        db.prepare_cached(sql)?.execute((self.base, pgno.get(), content)).map(drop)
    }

    /// Whether a page is there.
    pub(crate) fn has(self, db: &Connection, pgno: Pgno) -> rusqlite::Result<bool> {
        let sql = "SELECT 1 FROM pre_images WHERE pgno = ?1 AND base <= ?2";
        db.prepare_cached(sql)?.exists((pgno.get(), self.base))
    }

    /// Fills `page`; false: it is not there, or is no page of this size.
    pub(crate) fn read(self, db: &Connection, pgno: Pgno, page: &mut [u8]) -> rusqlite::Result<bool> {
        let sql = "SELECT content FROM pre_images WHERE pgno = ?1 AND base <= ?2 ORDER BY base DESC LIMIT 1";
        let mut statement = db.prepare_cached(sql)?;
        let read = statement.query_row((pgno.get(), self.base), |row| {
            let content = row.get_ref(0)?.as_blob()?;
            Ok(lz4_flex::block::decompress_into(content, page).is_ok_and(|len| len == page.len()))
        });
        Ok(read.optional()?.unwrap_or(false))
    }

    /// Which there are.
    pub(crate) fn pages(self, db: &Connection) -> rusqlite::Result<RoaringBitmap> {
        let mut statement =
            db.prepare_cached("SELECT pgno FROM pre_images WHERE base <= ?1 ORDER BY pgno")?;
        statement.query_map([self.base], |row| row.get::<_, u32>(0))?.collect()
    }

    /// Forgets those that were kept for this base.
    pub(crate) fn forget(self, db: &Connection) -> rusqlite::Result<()> {
        delete(db, |_, base| base == self.base)
    }

    /// Forgets all others, but for those of `pages`, which are the same in this base.
    pub(crate) fn keep_only(self, db: &Connection, pages: &RoaringBitmap) -> rusqlite::Result<()> {
        delete(db, |pgno, base| base != self.base && !pages.contains(pgno))
    }
}

/// Deletes those of which, by page and base, it is said that they go.
fn delete(db: &Connection, goes: impl Fn(u32, i64) -> bool) -> rusqlite::Result<()> {
    // What is asked for is in the index: no page is read.
    let mut statement = db.prepare_cached("SELECT pgno, base, rowid FROM pre_images")?;
    let (mut gone, mut stays) = (Vec::new(), false);
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        if goes(row.get(0)?, row.get(1)?) {
            gone.push(row.get::<_, i64>(2)?);
        } else {
            stays = true;
        }
    }
    drop(rows);
    if !stays && !gone.is_empty() {
        // SQLite frees the whole tree.
        return db.execute("DELETE FROM pre_images", []).map(drop);
    }
    let mut delete = db.prepare_cached("DELETE FROM pre_images WHERE rowid = ?1")?;
    gone.into_iter().try_for_each(|rowid| delete.execute([rowid]).map(drop))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(db: &Connection, base: i64) -> Vec<(u32, u8)> {
        let of = PreImages::of(base);
        let mut page = [0; 64];
        let mut found = Vec::new();
        for pgno in of.pages(db).unwrap() {
            assert!(of.read(db, Pgno::new(pgno).unwrap(), &mut page).unwrap());
            assert!(of.has(db, Pgno::new(pgno).unwrap()).unwrap());
            found.push((pgno, page[0]));
        }
        found
    }

    #[test]
    fn pages_that_are_the_same_in_the_next_base_stay_and_others_are_its_own() {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch(super::super::TABLES).unwrap();
        let put = |base, pgno: u32, byte: u8| {
            PreImages::of(base).put(&db, Pgno::new(pgno).unwrap(), &[byte; 64]).unwrap();
        };
        for pgno in 1..=3 {
            put(5, pgno, 50);
        }
        // A base that is prepared is not in the way of the one that there is.
        put(6, 3, 63);
        put(6, 4, 64);
        assert_eq!(pages(&db, 5), [(1, 50), (2, 50), (3, 50)]);
        PreImages::of(6).forget(&db).unwrap();
        assert_eq!(pages(&db, 6), [(1, 50), (2, 50), (3, 50)]);
        put(6, 3, 63);
        put(6, 4, 64);
        PreImages::of(6).keep_only(&db, &RoaringBitmap::from_iter([1])).unwrap();
        assert_eq!(pages(&db, 6), [(1, 50), (3, 63), (4, 64)]);
        PreImages::of(7).keep_only(&db, &RoaringBitmap::from_iter([1, 4])).unwrap();
        assert_eq!(pages(&db, 7), [(1, 50), (4, 64)]);
        PreImages::of(8).keep_only(&db, &RoaringBitmap::new()).unwrap();
        assert_eq!(pages(&db, 8), []);
    }
}
