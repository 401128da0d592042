//! The pages of a pull, in a temporary file until they are applied.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use aquifer_format::{PageHash, PageSize, Pgno};
use rustc_hash::FxHashMap;

use crate::sidecar::hash_of;

/// Bytes that are written at once.
const BUFFER: usize = 1 << 20;

/// The pages that the server has changed since a revision.
pub(crate) struct Incoming {
    /// The revision that they lead to.
    pub(crate) revision: String,
    /// The one that they start from; `None`: from nothing.
    pub(crate) since: Option<String>,
    /// Whether the base is to be forgotten: the revisions have no history in common.
    pub(crate) replaces: bool,
    page_size: PageSize,
    pages: u32,
    file: File,
    /// By page: its place in the file, in pages, and its hash.
    slots: FxHashMap<u32, (u32, PageHash)>,
    /// The same of pages whose transaction is not whole yet.
    uncommitted: FxHashMap<u32, (u32, PageHash)>,
    buffer: Vec<u8>,
    written: u32,
}

impl Incoming {
    /// Nothing yet. The file is in the directory of the database, and is gone when this is.
    pub(crate) fn new(
        directory: &Path,
        page_size: PageSize,
        pages: u32,
        revision: String,
        since: Option<String>,
        replaces: bool,
    ) -> io::Result<Incoming> {
        let file = tempfile::tempfile_in(directory)?;
        let slots = FxHashMap::default();
        Ok(Incoming {
            revision,
            since,
            replaces,
            page_size,
            pages,
            file,
            slots,
            uncommitted: FxHashMap::default(),
            buffer: Vec::new(),
            written: 0,
        })
    }

    pub(crate) fn page_size(&self) -> PageSize {
        self.page_size
    }

    /// Pages of the database at the revision.
    pub(crate) fn pages(&self) -> u32 {
        self.pages
    }

    /// Whether it cannot follow what it says that it follows, which has so many pages. A number of pages stands on page 1,
    /// which changes with it; and revisions that are numbers do not go back.
    pub(crate) fn contradicts(&self, base_pages: u32) -> bool {
        let Some(since) = self.since.as_ref().filter(|_| !self.replaces) else { return false };
        let is_resized = self.pages != base_pages && !self.slots.contains_key(&1);
        let numbers = since.parse::<u64>().ok().zip(self.revision.parse::<u64>().ok());
        is_resized || numbers.is_some_and(|(since, now)| now < since)
    }

    /// How many pages came.
    pub(crate) fn len(&self) -> u32 {
        self.slots.len() as u32
    }

    /// Adds a page of the right size. All can be read after [`finish`](Incoming::finish).
    pub(crate) fn put(&mut self, pgno: Pgno, page: &[u8]) -> io::Result<()> {
        let slot = self.next_slot();
        self.slots.insert(pgno.get(), (slot, hash_of(pgno, page)));
        self.push(page)
    }

    /// Adds a page that counts from the next [`commit`](Incoming::commit) on.
    pub(crate) fn put_uncommitted(&mut self, pgno: Pgno, page: &[u8]) -> io::Result<()> {
        let slot = self.next_slot();
        self.uncommitted.insert(pgno.get(), (slot, hash_of(pgno, page)));
        self.push(page)
    }

    /// The pages that were added are a whole transaction, after which the database has so many.
    pub(crate) fn commit(&mut self, pages: u32) -> io::Result<()> {
        if pages < self.pages {
            self.slots.retain(|pgno, _| *pgno <= pages);
        }
        self.slots.extend(self.uncommitted.drain().filter(|(pgno, _)| *pgno <= pages));
        self.pages = pages;
        self.finish()
    }

    fn next_slot(&self) -> u32 {
        self.written + (self.buffer.len() / self.page_size.bytes()) as u32
    }

    fn push(&mut self, page: &[u8]) -> io::Result<()> {
        self.buffer.extend_from_slice(page);
        if self.buffer.len() >= BUFFER { self.finish() } else { Ok(()) }
    }

    /// Writes what is not written yet.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        let offset = u64::from(self.written) * u64::from(self.page_size.get());
        self.file.write_all_at(&self.buffer, offset)?;
        self.written += (self.buffer.len() / self.page_size.bytes()) as u32;
        self.buffer.clear();
        Ok(())
    }

    /// Fills `page`; false: it did not come.
    pub(crate) fn read(&self, pgno: Pgno, page: &mut [u8]) -> io::Result<bool> {
        let Some((slot, _)) = self.slots.get(&pgno.get()) else { return Ok(false) };
        self.file.read_exact_at(page, u64::from(*slot) * u64::from(self.page_size.get()))?;
        Ok(true)
    }

    /// The hash of a page that came.
    pub(crate) fn hash(&self, pgno: Pgno) -> Option<PageHash> {
        self.slots.get(&pgno.get()).map(|(_, hash)| *hash)
    }

    /// The pages that came, in no order.
    pub(crate) fn pgnos(&self) -> impl Iterator<Item = Pgno> {
        self.slots.keys().filter_map(|&pgno| Pgno::new(pgno))
    }
}
