//! SQLite's b-trees, read straight from pages: sqlite.org/fileformat2.html, sections 1.3 to 2.1.
//!
//! The pages may be damaged, or not belong together: every offset is checked, every walk is bounded by the size of the
//! database, and what is wrong is a [`BTreeError`], never a panic.

mod freelist;
mod header;
mod node;
mod payload;
mod record;
mod varint;
mod walk;

use aquifer_format::Pgno;

pub use freelist::free_pages;
pub use header::{Encoding, Header};
pub use node::{Cell, Kind, Node};
pub use payload::Payload;
pub use record::{Field, Record, Value};
pub use walk::{Rows, height};

use crate::ReadPages;

/// What keeps a b-tree from being read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BTreeError {
    /// The page could not be read: its source said why.
    #[error("page {0} of the database cannot be read")]
    Unreadable(Pgno),

    /// The bytes are not what SQLite writes: `PRAGMA integrity_check` tells more.
    #[error("page {pgno} of the database is damaged: {reason}")]
    Damaged {
        /// The page.
        pgno: Pgno,
        /// What is wrong with it.
        reason: &'static str,
    },
}

impl BTreeError {
    fn damaged(pgno: Pgno, reason: &'static str) -> BTreeError {
        BTreeError::Damaged { pgno, reason }
    }
}

/// Reads a page that another one points to.
fn read_page(pages: &mut dyn ReadPages, from: Pgno, pgno: Pgno) -> Result<Vec<u8>, BTreeError> {
    let size = pages.page_size();
    if pgno.get() > pages.pages() {
        return Err(BTreeError::damaged(from, "it points beyond the end of the database"));
    }
    if pgno == size.lock_page() {
        return Err(BTreeError::damaged(from, "it points to the page of the lock byte"));
    }
    let mut page = vec![0; size.bytes()];
    if pages.read(pgno, &mut page) { Ok(page) } else { Err(BTreeError::Unreadable(pgno)) }
}

/// The page number at this offset; `None` for 0 and beyond the end.
fn pgno_at(bytes: &[u8], at: usize) -> Option<Pgno> {
    Pgno::new(u32_at(bytes, at)?)
}

/// The big-endian number at this offset.
fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_be_bytes)
}

/// The big-endian number at this offset.
fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_be_bytes)
}

#[cfg(test)]
mod tests;
