//! Bringing a standby's pages from one revision to another, inside one transaction.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use aquifer_format::segment::EntryKind;
use aquifer_format::{PageHash, PageSize, Pgno};
use aquifer_sqlite::{Error, PageTransaction};

use crate::restore::overlay::OverlayPages;

/// Bytes 18 and 19 of page 1 say which journal the file uses: 2 is the WAL, which a standby's readers need.
const JOURNAL_MODE: std::ops::Range<usize> = 18..20;
const WAL: [u8; 2] = [2, 2];

/// The transaction that changes a standby.
pub(super) struct StandbyTransaction {
    transaction: PageTransaction,
    /// Page 1 of the revision that the standby is at, and after [`StandbyTransaction::apply`] of the next.
    first_page: Vec<u8>,
    page: Vec<u8>,
    written: u32,
}

/// What came of applying entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Applied {
    /// All pages are those of the revision.
    Whole,
    /// The page is neither what the entry builds on nor what it leads to: someone else wrote to the standby.
    Diverged(Pgno),
}

impl StandbyTransaction {
    pub(super) fn new(transaction: PageTransaction, first_page: Vec<u8>) -> StandbyTransaction {
        let page = vec![0; transaction.page_size().bytes()];
        StandbyTransaction { transaction, first_page, page, written: 0 }
    }

    pub(super) fn page_size(&self) -> PageSize {
        self.transaction.page_size()
    }

    /// Applies entries to the pages. Those that were applied before, in a run that was killed, stay as they are.
    pub(super) fn apply(&mut self, overlay: &OverlayPages) -> Result<Applied, Error> {
        for (pgno, change) in overlay.from(Pgno::ONE) {
            let (pgno, entry) = (*pgno, &change.entry);
            let mut before = None;
            if entry.kind() == EntryKind::Delta {
                if pgno == Pgno::ONE {
                    self.page.copy_from_slice(&self.first_page);
                } else if !self.transaction.read(pgno, &mut self.page)? {
                    return Ok(Applied::Diverged(pgno));
                }
                before = Some(PageHash::of(pgno, &self.page));
            }
            entry.entry(pgno).apply(&mut self.page);
            if PageHash::of(pgno, &self.page) == entry.hash() {
                self.write(pgno)?;
            } else if before != Some(entry.hash()) {
                return Ok(Applied::Diverged(pgno));
            }
        }
        Ok(Applied::Whole)
    }

    /// Makes the pages those of an image, writing the ones that differ.
    pub(super) fn become_image(&mut self, image: &File, path: &Path, pages: u32) -> Result<(), Error> {
        let size = self.page_size();
        let mut there = vec![0; size.bytes()];
        for pgno in Pgno::up_to(pages).filter(|pgno| *pgno != size.lock_page()) {
            let read = image.read_exact_at(&mut self.page, size.offset(pgno));
            read.map_err(|source| Error::Io { path: path.to_owned(), source })?;
            let exists = self.transaction.read(pgno, &mut there)?;
            if pgno == Pgno::ONE || !exists || there != self.page {
                self.write(pgno)?;
            }
        }
        Ok(())
    }

    /// Makes it visible to readers, and durable. Page 1 of the revision, and the number of pages written.
    pub(super) fn commit(self, pages: u32) -> Result<(Vec<u8>, u32), Error> {
        self.transaction.commit(pages)?;
        Ok((self.first_page, self.written))
    }

    fn write(&mut self, pgno: Pgno) -> Result<(), Error> {
        self.written += 1;
        if pgno == Pgno::ONE {
            self.first_page.copy_from_slice(&self.page);
            self.page[JOURNAL_MODE].copy_from_slice(&WAL);
        }
        self.transaction.write(pgno, &self.page)
    }
}
