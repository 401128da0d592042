//! Pages of the base that local work has overwritten.

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

    /// Keeps a page. One that is there already stays.
    pub(crate) fn put(self, db: &Connection, pgno: Pgno, page: &[u8]) -> rusqlite::Result<()> {
        let sql = "INSERT OR IGNORE INTO pre_images(base, pgno, content) VALUES (?1, ?2, ?3)";
        let content = lz4_flex::block::compress(page);
        db.prepare_cached(sql)?.execute((self.base, pgno.get(), content)).map(drop)
    }

    /// Fills `page`; false: it is not there, or is no page of this size.
    pub(crate) fn read(self, db: &Connection, pgno: Pgno, page: &mut [u8]) -> rusqlite::Result<bool> {
        let sql = "SELECT content FROM pre_images WHERE base = ?1 AND pgno = ?2";
        let mut statement = db.prepare_cached(sql)?;
        let read = statement.query_row((self.base, pgno.get()), |row| {
            let content = row.get_ref(0)?.as_blob()?;
            Ok(lz4_flex::block::decompress_into(content, page).is_ok_and(|len| len == page.len()))
        });
        Ok(read.optional()?.unwrap_or(false))
    }

    /// Which there are.
    pub(crate) fn pages(self, db: &Connection) -> rusqlite::Result<RoaringBitmap> {
        let mut statement = db.prepare_cached("SELECT pgno FROM pre_images WHERE base = ?1 ORDER BY pgno")?;
        statement.query_map([self.base], |row| row.get::<_, u32>(0))?.collect()
    }

    /// Forgets them.
    pub(crate) fn forget(self, db: &Connection) -> rusqlite::Result<()> {
        db.execute("DELETE FROM pre_images WHERE base = ?1", [self.base]).map(drop)
    }

    /// Forgets those of all other bases.
    pub(crate) fn keep_only(self, db: &Connection) -> rusqlite::Result<()> {
        db.execute("DELETE FROM pre_images WHERE base <> ?1", [self.base]).map(drop)
    }
}
