//! What a cell holds: the first part in its page, the rest in a chain of overflow pages.

use aquifer_format::Pgno;

use super::{BTreeError, Header, pgno_at, read_page};
use crate::ReadPages;

/// What a cell holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    /// Bytes of the whole, as the cell says.
    pub length: u64,
    /// The part that is in the cell.
    pub local: Vec<u8>,
    /// The first page of the chain that holds the rest.
    pub overflow: Option<Pgno>,
    /// The page with the cell.
    pub(super) pgno: Pgno,
}

impl Payload {
    /// All of it. Allocates no more than the chain really holds.
    pub fn read(self, pages: &mut dyn ReadPages, header: &Header) -> Result<Vec<u8>, BTreeError> {
        let Payload { length, overflow, .. } = self;
        if overflow.is_none() {
            return Ok(self.local);
        }
        let mut whole = self.local.clone();
        self.walk(pages, header, |_, content| {
            let missing = (length - whole.len() as u64).min(content.len() as u64) as usize;
            whole.extend_from_slice(&content[..missing]);
            true
        })?;
        Ok(whole)
    }

    /// Goes along the chain until `visit` says false: each page's number, and its content behind the pointer to the next.
    pub fn walk(
        &self,
        pages: &mut dyn ReadPages,
        header: &Header,
        mut visit: impl FnMut(Pgno, &[u8]) -> bool,
    ) -> Result<(), BTreeError> {
        let per_page = header.usable as u64 - 4;
        let mut missing = self.length - self.local.len() as u64;
        // Before anything is read or kept: what cannot be there is not looked for.
        if missing.div_ceil(per_page) > u64::from(pages.pages()) {
            return Err(BTreeError::damaged(self.pgno, "a cell is longer than the database"));
        }
        let (mut from, mut next) = (self.pgno, self.overflow);
        while missing > 0 {
            let Some(pgno) = next else {
                return Err(BTreeError::damaged(from, "a chain of overflow pages ends too early"));
            };
            let page = read_page(pages, from, pgno)?;
            if !visit(pgno, &page[4..header.usable]) {
                return Ok(());
            }
            missing = missing.saturating_sub(per_page);
            (from, next) = (pgno, pgno_at(&page, 0));
        }
        Ok(())
    }
}
