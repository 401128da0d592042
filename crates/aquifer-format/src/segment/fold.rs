//! The algebra of entries: what compaction and restore do with all entries of one page.

use super::{Entry, EntryKind};
use crate::{PageHash, PageSize, Pgno};

/// Folds the entries of one page from adjacent ranges into one, from either end.
///
/// Oldest first, with [`PageFold::push_newer`], or newest first, with [`PageFold::push_older`], which says when
/// nothing older matters; the result is the same. One fold serves page after page.
#[derive(Debug)]
pub struct PageFold {
    page: Vec<u8>,
    state: Option<(EntryKind, PageHash)>,
}

/// What entries were folded into.
#[derive(Debug, Clone, Copy)]
pub struct Folded<'a> {
    /// How to apply `page`: as the content, or to be XOR-ed onto the content before.
    pub kind: EntryKind,
    /// The content, or the difference.
    pub page: &'a [u8],
    /// Hash of the page's content after the newest entry's range.
    pub hash: PageHash,
}

impl Folded<'_> {
    /// Whether this is an image whose bytes have its hash. A delta cannot be verified without what it applies to.
    pub fn is_verified_image(&self, pgno: Pgno) -> bool {
        self.kind == EntryKind::Image && PageHash::of(pgno, self.page) == self.hash
    }
}

impl PageFold {
    /// An empty fold.
    pub fn new(page_size: PageSize) -> PageFold {
        PageFold { page: vec![0; page_size.bytes()], state: None }
    }

    /// Forgets all entries: the next one begins another page.
    pub fn clear(&mut self) {
        self.state = None;
    }

    /// Adds the entry of the range right after those added so far.
    ///
    /// # Panics
    /// If the entry is of another page size.
    pub fn push_newer(&mut self, entry: &Entry<'_>) {
        self.state = match (self.state, entry.kind) {
            (Some((kind, _)), EntryKind::Delta) => {
                entry.xor_into(&mut self.page);
                Some((kind, entry.hash))
            }
            _ => Some(self.begin(entry)),
        };
    }

    /// Adds the entry of the range right before those added so far. True when older entries do not matter: the
    /// fold is an image.
    ///
    /// # Panics
    /// If the entry is of another page size.
    pub fn push_older(&mut self, entry: &Entry<'_>) -> bool {
        self.state = match self.state {
            None => Some(self.begin(entry)),
            Some((EntryKind::Delta, hash)) => {
                entry.xor_into(&mut self.page);
                Some((entry.kind, hash))
            }
            image => image,
        };
        matches!(self.state, Some((EntryKind::Image, _)))
    }

    /// Whether no entry was added.
    pub fn is_empty(&self) -> bool {
        self.state.is_none()
    }

    /// What the entries amount to; `None` if there are none.
    pub fn folded(&self) -> Option<Folded<'_>> {
        self.state.map(|(kind, hash)| Folded { kind, page: &self.page, hash })
    }

    fn begin(&mut self, entry: &Entry<'_>) -> (EntryKind, PageHash) {
        // A delta against zeros is the difference itself.
        entry.runs.copy_into(&mut self.page);
        (entry.kind, entry.hash)
    }
}
