//! Proof that merged segments amount to a whole database: every page is there, has its hash, and all of them the
//! database's checksum.

use aquifer_format::segment::SegmentMeta;
use aquifer_format::{DbChecksum, PageSize, Pgno, TxidRange};

use crate::error::LogError;
use crate::merge::MergedPage;

/// Checks pages as they come, ascending.
#[derive(Debug)]
pub(crate) struct WholeCheck {
    range: TxidRange,
    page_size: PageSize,
    next: Pgno,
    checksum: DbChecksum,
    pages: u64,
    buffer: Vec<u8>,
}

impl WholeCheck {
    pub(crate) fn new(meta: &SegmentMeta) -> WholeCheck {
        WholeCheck {
            range: meta.range,
            page_size: meta.page_size,
            next: Pgno::ONE,
            checksum: DbChecksum::EMPTY,
            pages: 0,
            buffer: Vec::new(),
        }
    }

    /// Pages checked so far.
    pub(crate) fn pages(&self) -> u64 {
        self.pages
    }

    pub(crate) fn add(&mut self, pgno: Pgno, page: &MergedPage<'_>) -> Result<(), LogError> {
        self.skip_lock_page();
        if pgno != self.next {
            return Err(self.not_whole(format!("page {} has no image", self.next)));
        }
        match page.content_hash(pgno, &mut self.buffer) {
            None => return Err(self.not_whole(format!("page {pgno} has only differences"))),
            Some(hash) if hash != page.hash() => {
                return Err(LogError::PageMismatch { pgno, range: self.range });
            }
            Some(hash) => self.checksum.toggle(hash),
        }
        self.next = pgno.next();
        self.pages += 1;
        Ok(())
    }

    /// Checks what only shows at the end.
    pub(crate) fn finish(mut self, meta: &SegmentMeta) -> Result<(), LogError> {
        self.skip_lock_page();
        if self.next.get() <= meta.size_after {
            return Err(self.not_whole(format!("page {} has no image", self.next)));
        }
        if self.checksum != meta.checksum_after {
            let (found, expected) = (self.checksum, meta.checksum_after);
            return Err(self.not_whole(format!("checksum {found}, expected {expected}")));
        }
        Ok(())
    }

    /// That page is never stored.
    fn skip_lock_page(&mut self) {
        if self.next == self.page_size.lock_page() {
            self.next = self.next.next();
        }
    }

    fn not_whole(&self, reason: String) -> LogError {
        LogError::NotWhole { range: self.range, reason }
    }
}
