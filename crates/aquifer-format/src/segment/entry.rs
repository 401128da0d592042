//! What a segment knows about one page.

use super::runs::Runs;
use crate::{PageHash, PageSize, Pgno};

/// How an entry gives a page's content after the segment's range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// Content after the range XOR content before it.
    Delta,
    /// Content after the range.
    Image,
}

/// One page's entry, decoded and checked, borrowing its runs from the group that holds it.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// The page.
    pub pgno: Pgno,
    /// How to apply it.
    pub kind: EntryKind,
    /// Hash of the page's content after the segment's range.
    pub hash: PageHash,
    pub(super) runs: Runs<'a>,
}

impl Entry<'_> {
    /// Brings `page` from its content before the range (irrelevant for an image) to that after it.
    ///
    /// The result is not hashed: compare [`PageHash::of`] with [`Entry::hash`], once all entries of a chain are
    /// applied.
    ///
    /// # Panics
    /// If `page` is not of the segment's page size.
    pub fn apply(&self, page: &mut [u8]) {
        match self.kind {
            EntryKind::Delta => self.runs.xor_into(page),
            EntryKind::Image => self.runs.copy_into(page),
        }
    }

    /// XORs the entry's bytes onto `page`, whichever kind it is: how newest-to-oldest readers fold a chain.
    ///
    /// # Panics
    /// If `page` is not of the segment's page size.
    pub fn xor_into(&self, page: &mut [u8]) {
        self.runs.xor_into(page);
    }

    /// Bytes that the entry's runs take before compression.
    pub fn encoded_len(&self) -> usize {
        self.runs.encoded().len()
    }

    /// The page size of its segment.
    pub fn page_size(&self) -> PageSize {
        self.runs.page_size()
    }
}
