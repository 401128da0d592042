//! Writing to a database without changing it: what is written goes aside.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};

use aquifer_format::{PageSize, Pgno};
use rusqlite::{Connection, OpenFlags};
use rustc_hash::FxHashMap;

use super::{MODE, PageFile, ReadPages, Served, lock, open};

/// The image that a connection of [`open_overlay`] has made of its base.
///
/// It is what was committed last when no transaction is open, and after the connection was closed. Page 1 says that
/// the database is in WAL mode.
#[derive(Clone)]
pub struct Overlay(Arc<Mutex<Served<Layers>>>);

struct Layers {
    base: Box<dyn ReadPages>,
    /// Pages up to this one are the base's where they were not written. Those behind it are zeros: the database was
    /// cut off here.
    shown: u32,
    pages: u32,
    spill: File,
    /// Where in the spill file pages are that were written: the how manieth page there, 0-based.
    slots: FxHashMap<u32, u32>,
    /// Slots of pages that were cut off.
    free: Vec<u32>,
    /// Slots that the file has.
    used: u32,
}

/// The page cache of the connection, in KiB.
const CACHE_KIB: i64 = 4096;

/// Opens an image to be written to: an ordinary connection, and what becomes of the image. What is written goes to
/// `spill`, an empty file that nothing else uses; the base stays what it is.
///
/// Holds some bytes for each page that is written, and a cache of a few MiB. What SQLite needs to roll back or to sort
/// is in temporary files (SQLite's `temp_store_directory`, `SQLITE_TMPDIR` or `/tmp`).
///
/// # Errors
/// What SQLite says if it is no database. Where base or spill file fail later on, so do the statements that need them.
pub fn open_overlay(base: Box<dyn ReadPages>, spill: File) -> rusqlite::Result<(Connection, Overlay)> {
    let (size, pages) = (base.page_size(), base.pages());
    let (slots, free) = (FxHashMap::default(), Vec::new());
    let layers = Served::new(Layers { base, shown: pages, pages, spill, slots, free, used: 0 });
    let connection = open(layers.clone(), OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    if pages == 0 {
        connection.pragma_update(None, "page_size", size.get())?;
    }
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    connection.pragma_update(None, "synchronous", "off")?;
    // One journal for all transactions.
    connection.pragma_update(None, "locking_mode", "exclusive")?;
    connection.pragma_update(None, "journal_mode", "truncate")?;
    Ok((connection, Overlay(layers)))
}

impl Overlay {
    /// The pages whose content may not be that of the base, ascending; among them those that the base does not have.
    pub fn written(&self) -> BTreeSet<Pgno> {
        let layers = &lock(&self.0).file;
        let lock_page = layers.base.page_size().lock_page();
        let behind = (layers.shown..layers.pages).map(Pgno::from_index);
        let written = layers.slots.keys().filter_map(|&page| Pgno::new(page));
        written.chain(behind).filter(|&page| page != lock_page).collect()
    }
}

impl std::fmt::Debug for Overlay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Overlay").finish_non_exhaustive()
    }
}

impl ReadPages for Overlay {
    fn page_size(&self) -> PageSize {
        lock(&self.0).file.page_size()
    }

    fn pages(&self) -> u32 {
        lock(&self.0).file.pages
    }

    fn read(&mut self, pgno: Pgno, page: &mut [u8]) -> bool {
        let done = lock(&self.0).file.read(pgno, page);
        if done && pgno == Pgno::ONE {
            page[MODE].fill(2);
        }
        done
    }
}

impl PageFile for Layers {
    fn page_size(&self) -> PageSize {
        self.base.page_size()
    }

    fn pages(&self) -> u32 {
        self.pages
    }

    fn is_writable(&self) -> bool {
        true
    }

    fn read(&mut self, pgno: Pgno, page: &mut [u8]) -> bool {
        match self.slots.get(&pgno.get()) {
            Some(&slot) => self.spill.read_exact_at(page, self.offset(slot)).is_ok(),
            None if pgno.get() <= self.shown => self.base.read(pgno, page),
            None => {
                page.fill(0);
                pgno.get() <= self.pages
            }
        }
    }

    fn write(&mut self, pgno: Pgno, page: &[u8]) -> io::Result<()> {
        // 65,536 is written as 1.
        let size = u16::try_from(self.page_size().get()).unwrap_or(1);
        if pgno == Pgno::ONE && page[16..18] != size.to_be_bytes() {
            return Err(io::Error::other("the size of pages cannot change"));
        }
        let slot = self.slots.get(&pgno.get()).or(self.free.last()).copied().unwrap_or(self.used);
        self.spill.write_all_at(page, self.offset(slot))?;
        if self.slots.insert(pgno.get(), slot).is_none() && self.free.pop().is_none() {
            self.used += 1;
        }
        self.pages = self.pages.max(pgno.get());
        Ok(())
    }

    fn truncate(&mut self, pages: u32) -> io::Result<()> {
        for page in (pages..self.pages).map(|page| page + 1) {
            self.free.extend(self.slots.remove(&page));
        }
        self.shown = self.shown.min(pages);
        self.pages = pages;
        Ok(())
    }
}

impl Layers {
    fn offset(&self, slot: u32) -> u64 {
        u64::from(slot) * u64::from(self.page_size().get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pages full of sevens.
    struct Sevens(u32);

    impl ReadPages for Sevens {
        fn page_size(&self) -> PageSize {
            PageSize::MIN
        }

        fn pages(&self) -> u32 {
            self.0
        }

        fn read(&mut self, _: Pgno, page: &mut [u8]) -> bool {
            page.fill(7);
            true
        }
    }

    #[test]
    fn what_was_cut_off_does_not_come_back_and_its_place_is_used_again() {
        let (db, overlay) = open_overlay(Box::new(Sevens(0)), tempfile::tempfile().unwrap()).unwrap();
        drop(db);
        let mut layers = lock(&overlay.0);
        let layers = &mut layers.file;
        layers.base = Box::new(Sevens(6));
        (layers.shown, layers.pages) = (6, 6);
        let pgno = |n| Pgno::new(n).unwrap();
        layers.write(pgno(4), &[4; 512]).unwrap();
        layers.write(pgno(5), &[5; 512]).unwrap();
        layers.truncate(2).unwrap();
        assert_eq!(layers.pages(), 2);
        layers.write(pgno(5), &[6; 512]).unwrap();
        let mut first = |n| {
            let mut page = [1; 512];
            layers.read(pgno(n), &mut page).then_some(page[0])
        };
        assert_eq!([1, 2, 3, 4, 5, 6].map(&mut first), [Some(7), Some(7), Some(0), Some(0), Some(6), None]);
        assert_eq!(layers.used, 2);
    }

    #[test]
    fn pages_that_came_back_as_zeros_count_as_written() {
        let (db, overlay) = open_overlay(Box::new(Sevens(0)), tempfile::tempfile().unwrap()).unwrap();
        drop(db);
        lock(&overlay.0).file.write(Pgno::new(3).unwrap(), &[1; 512]).unwrap();
        assert_eq!(overlay.written(), Pgno::up_to(3).collect());
    }
}
