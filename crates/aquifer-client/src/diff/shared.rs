//! Which parts of a table's tree are the same in both images.

use aquifer_format::Pgno;
use aquifer_sqlite::ReadPages;
use aquifer_sqlite::btree::{BTreeError, Header, Node, height};
use roaring::RoaringBitmap;

use super::Result;
use super::image::Image;

/// The pages of the current tree under which there is what was there in the base: subtrees of which no page has
/// changed, by the page at their top.
///
/// Reads the interior pages of the base's tree, and those of the current one that are not in such a subtree. No leaf.
pub(super) fn shared_subtrees(
    base: &mut Image,
    base_root: Pgno,
    current: &mut Image,
    current_root: Pgno,
    changed: &RoaringBitmap,
) -> Result<RoaringBitmap> {
    let (Some(before), Some(now)) = (base.header, current.header) else { return Ok(RoaringBitmap::new()) };
    let quiet = base.with(|pages| {
        let levels = height(pages, &before, base_root)?;
        let mut quiet = Quiet { header: before, changed, found: RoaringBitmap::new(), left: pages.pages() };
        quiet.visit(pages, Pgno::ONE, base_root, levels)?;
        Ok(quiet.found)
    })?;
    // An unchanged page has the children that it had: what was quiet below it in the base is the same now.
    current.with(|pages| {
        let mut shared = RoaringBitmap::new();
        let mut left = pages.pages();
        let levels = if quiet.contains(current_root.get()) { 0 } else { height(pages, &now, current_root)? };
        let mut open = vec![(Pgno::ONE, current_root, levels)];
        while let Some((from, pgno, levels)) = open.pop() {
            if quiet.contains(pgno.get()) {
                shared.insert(pgno.get());
            } else if levels > 0 {
                left = one_less(left, pgno)?;
                let node = Node::read(pages, &now, from, pgno)?;
                for i in 0..=node.cells() {
                    open.push((pgno, node.child(i)?, levels - 1));
                }
            }
        }
        Ok(shared)
    })
}

/// Looks for subtrees without a changed page.
struct Quiet<'a> {
    header: Header,
    changed: &'a RoaringBitmap,
    /// All pages of such subtrees.
    found: RoaringBitmap,
    /// Interior pages that may still be read before the tree is known to go in circles.
    left: u32,
}

impl Quiet<'_> {
    /// Whether the subtree at `pgno`, with so many levels of interior pages, is one.
    fn visit(
        &mut self,
        pages: &mut dyn ReadPages,
        from: Pgno,
        pgno: Pgno,
        levels: usize,
    ) -> Result<bool, BTreeError> {
        let mut is_quiet = !self.changed.contains(pgno.get());
        if levels > 0 {
            self.left = one_less(self.left, pgno)?;
            let node = Node::read(pages, &self.header, from, pgno)?;
            for i in 0..=node.cells() {
                is_quiet &= self.visit(pages, pgno, node.child(i)?, levels - 1)?;
            }
        }
        if is_quiet {
            self.found.insert(pgno.get());
        }
        Ok(is_quiet)
    }
}

pub(crate) fn one_less(left: u32, pgno: Pgno) -> Result<u32, BTreeError> {
    left.checked_sub(1).ok_or(BTreeError::Damaged { pgno, reason: "its tree goes in circles" })
}
