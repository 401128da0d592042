//! The base that a pull is about to make.

use aquifer_format::{PageHash, Pgno};
use roaring::RoaringBitmap;
use rusqlite::Connection;

use super::sets;

const PAGES: &str = "staged pages";
const CHANGED: &str = "staged changed";
const KEPT: &str = "staged kept";

/// What a pull is about to do.
#[derive(Debug)]
pub(crate) struct Staged {
    /// Whether nothing of the old base stays.
    pub(crate) replaces: bool,
    /// After a byte for `replaces`: pages of the new base and their hashes.
    pages: Vec<u8>,
}

impl Staged {
    pub(crate) fn new(replaces: bool) -> Staged {
        Staged { replaces, pages: vec![u8::from(replaces)] }
    }

    /// A page of the new base that differs from the old one's; ascending.
    pub(crate) fn page(&mut self, pgno: Pgno, hash: PageHash) {
        self.pages.extend(pgno.get().to_le_bytes());
        self.pages.extend(hash.get().to_le_bytes());
    }

    /// The pages of the new base that differ from the old one's.
    pub(crate) fn pages(&self) -> impl Iterator<Item = (Pgno, PageHash)> {
        let entries = self.pages.get(1..).unwrap_or_default().chunks_exact(12);
        entries.filter_map(|entry| Some((pgno(entry)?, hash(entry, 4))))
    }

    /// Records it, with the pages of the new base that will not be what they are in the database, and those of them
    /// whose pre-images are those of the old base.
    pub(crate) fn put(
        &self,
        db: &Connection,
        changed: &RoaringBitmap,
        kept: &RoaringBitmap,
    ) -> rusqlite::Result<()> {
        sets::put_bytes(db, PAGES, &self.pages)?;
        sets::put(db, CHANGED, changed)?;
        sets::put(db, KEPT, kept)
    }

    pub(crate) fn get(db: &Connection) -> rusqlite::Result<Staged> {
        let pages = sets::get_bytes(db, PAGES)?;
        Ok(Staged { replaces: pages.first() == Some(&1), pages })
    }

    /// The pages that will not be what they are in the new base, and those of them whose pre-images stay.
    pub(crate) fn changed(db: &Connection) -> rusqlite::Result<(RoaringBitmap, RoaringBitmap)> {
        Ok((sets::get(db, CHANGED)?, sets::get(db, KEPT)?))
    }

    pub(crate) fn forget(db: &Connection) -> rusqlite::Result<()> {
        [PAGES, CHANGED, KEPT].into_iter().try_for_each(|name| sets::forget(db, name))
    }
}

fn pgno(entry: &[u8]) -> Option<Pgno> {
    Pgno::new(u32::from_le_bytes(std::array::from_fn(|i| entry[i])))
}

fn hash(entry: &[u8], at: usize) -> PageHash {
    PageHash::from_u64(u64::from_le_bytes(std::array::from_fn(|i| entry[at + i])))
}
