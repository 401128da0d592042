//! Pages that nothing uses.

use std::collections::BTreeSet;

use aquifer_format::Pgno;

use super::{BTreeError, Header, pgno_at, read_page, u32_at};
use crate::ReadPages;

/// Takes the pages of the freelist, trunks and leaves, out of `from`. Reads the trunks alone.
pub fn free_pages(
    pages: &mut dyn ReadPages,
    header: &Header,
    from: &mut BTreeSet<Pgno>,
) -> Result<(), BTreeError> {
    let mut next = header.first_trunk;
    let mut before = Pgno::ONE;
    let mut trunks = 0;
    while let Some(trunk) = next {
        trunks += 1;
        if trunks > pages.pages() {
            return Err(BTreeError::damaged(before, "the freelist goes in a circle"));
        }
        let page = read_page(pages, before, trunk)?;
        from.remove(&trunk);
        let leaves = u32_at(&page, 4).unwrap_or_default() as usize;
        if leaves > header.usable / 4 - 2 {
            return Err(BTreeError::damaged(trunk, "a trunk of the freelist has more leaves than fit"));
        }
        for leaf in (0..leaves).filter_map(|i| pgno_at(&page, 8 + 4 * i)) {
            from.remove(&leaf);
        }
        next = pgno_at(&page, 0);
        before = trunk;
    }
    Ok(())
}
