//! The image that was pushed and has not come back yet, as differences from the base.

use aquifer_format::{PageHash, Pgno};
use roaring::RoaringBitmap;
use rusqlite::{Connection, OptionalExtension};

/// The pages of the image of one push.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PushedPages {
    change_id: i64,
}

impl PushedPages {
    pub(crate) fn of(change_id: i64) -> PushedPages {
        PushedPages { change_id }
    }

    /// Keeps what a page is, as a difference from what it is in the base (zeros where that has no such page).
    pub(crate) fn put(
        self,
        db: &Connection,
        pgno: Pgno,
        base: &[u8],
        page: &[u8],
        hash: PageHash,
    ) -> rusqlite::Result<()> {
        let difference: Vec<u8> = base.iter().zip(page).map(|(a, b)| a ^ b).collect();
        let delta = lz4_flex::block::compress(&difference);
        let sql = "INSERT INTO pushed(change_id, pgno, hash, delta) VALUES (?1, ?2, ?3, ?4)";
        let hash = hash.get().cast_signed();
        db.prepare_cached(sql)?.execute((self.change_id, pgno.get(), hash, delta)).map(drop)
    }

    /// Turns a page of the base into that of the image; false: it is damaged. Unchanged where it is the same in both.
    pub(crate) fn apply(self, db: &Connection, pgno: Pgno, page: &mut [u8]) -> rusqlite::Result<bool> {
        let sql = "SELECT delta FROM pushed WHERE change_id = ?1 AND pgno = ?2";
        let mut statement = db.prepare_cached(sql)?;
        let applied = statement.query_row((self.change_id, pgno.get()), |row| {
            let Ok(delta) = lz4_flex::block::decompress(row.get_ref(0)?.as_blob()?, page.len()) else {
                return Ok(false);
            };
            page.iter_mut().zip(&delta).for_each(|(byte, change)| *byte ^= change);
            Ok(delta.len() == page.len())
        });
        Ok(applied.optional()?.unwrap_or(true))
    }

    /// The hash that a page has in the image; `None`: as in the base.
    pub(crate) fn hash(self, db: &Connection, pgno: Pgno) -> rusqlite::Result<Option<PageHash>> {
        let sql = "SELECT hash FROM pushed WHERE change_id = ?1 AND pgno = ?2";
        let hash: Option<i64> =
            db.prepare_cached(sql)?.query_row((self.change_id, pgno.get()), |row| row.get(0)).optional()?;
        Ok(hash.map(|hash| PageHash::from_u64(hash.cast_unsigned())))
    }

    /// The pages that differ from the base.
    pub(crate) fn pages(self, db: &Connection) -> rusqlite::Result<RoaringBitmap> {
        let mut statement =
            db.prepare_cached("SELECT pgno FROM pushed WHERE change_id = ?1 ORDER BY pgno")?;
        statement.query_map([self.change_id], |row| row.get::<_, u32>(0))?.collect()
    }

    /// Forgets this image.
    pub(crate) fn forget(self, db: &Connection) -> rusqlite::Result<()> {
        db.execute("DELETE FROM pushed WHERE change_id = ?1", [self.change_id]).map(drop)
    }

    /// Forgets all images but this one.
    pub(crate) fn keep_only(self, db: &Connection) -> rusqlite::Result<()> {
        db.execute("DELETE FROM pushed WHERE change_id <> ?1", [self.change_id]).map(drop)
    }

    /// Forgets all images.
    pub(crate) fn forget_all(db: &Connection) -> rusqlite::Result<()> {
        db.execute("DELETE FROM pushed", []).map(drop)
    }
}
