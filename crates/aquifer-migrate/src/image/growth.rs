//! How many pages a database can have.

use aquifer_format::PageSize;

use super::SinkError;

/// Counts the pages that were there, to tell a number of pages that cannot be: the file would be as large.
#[derive(Debug, Default)]
pub(crate) struct Growth {
    seen: u64,
}

impl Growth {
    /// So many pages are there.
    pub(crate) fn saw(&mut self, pages: u64) {
        self.seen = self.seen.saturating_add(pages);
    }

    /// Pages that no frame has are those that a transaction allocates and frees again; a page of the free list, which is
    /// written, names a quarter of its bytes of them.
    pub(crate) fn check(&self, size: PageSize, pages: u32) -> Result<(), SinkError> {
        let most = self.seen.saturating_mul(size.bytes() as u64 / 4).saturating_add(1);
        if u64::from(pages) <= most {
            return Ok(());
        }
        Err(SinkError::Content(format!(
            "it says that the database has {pages} pages, and only {} were ever written",
            self.seen
        )))
    }
}
