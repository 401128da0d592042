//! All rows of a b-tree, in the order of their keys.

use aquifer_format::Pgno;

use super::{BTreeError, Cell, Header, Kind, Node};
use crate::ReadPages;

/// SQLite's own limit (`BTCURSOR_MAX_DEPTH`).
const MAX_HEIGHT: usize = 20;

/// How many levels of interior pages the tree at `root` has: 0 when the root is a leaf. All its leaves are as deep.
pub fn height(pages: &mut dyn ReadPages, header: &Header, root: Pgno) -> Result<usize, BTreeError> {
    let mut node = Node::read(pages, header, Pgno::ONE, root)?;
    for height in 0..=MAX_HEIGHT {
        if node.kind().is_leaf() {
            return Ok(height);
        }
        node = Node::read(pages, header, node.pgno(), node.child(0)?)?;
    }
    Err(BTreeError::damaged(root, "the tree below it is too deep"))
}

/// The rows of a b-tree in the order of their keys, without those of the subtrees that are skipped.
///
/// Holds one page of each level.
#[derive(Debug)]
pub struct Rows {
    header: Header,
    /// From the root down: a page, and which of its places is next. A leaf's places are its cells; those of an interior
    /// page are child 0, cell 0, child 1 … and the last child.
    path: Vec<(Node, usize)>,
    /// Pages that may still be visited before the tree is known to go in circles.
    left: u32,
}

impl Rows {
    /// The rows of the tree at `root`.
    pub fn new(pages: &mut dyn ReadPages, header: Header, root: Pgno) -> Result<Rows, BTreeError> {
        let node = Node::read(pages, &header, Pgno::ONE, root)?;
        Ok(Rows { header, path: vec![(node, 0)], left: pages.pages() })
    }

    /// The next row. Subtrees of which `skip` says true are passed over, and not read. Not to be called again after an
    /// error.
    pub fn next(
        &mut self,
        pages: &mut dyn ReadPages,
        mut skip: impl FnMut(Pgno) -> bool,
    ) -> Result<Option<Cell>, BTreeError> {
        while let Some((node, place)) = self.path.last_mut() {
            let at = *place;
            *place += 1;
            if node.kind().is_leaf() {
                if at < node.cells() {
                    return node.cell(at).map(Some);
                }
                self.path.pop();
            } else if at > 2 * node.cells() {
                self.path.pop();
            } else if at % 2 == 1 {
                // Those of a table hold no row.
                if node.kind() == Kind::IndexInterior {
                    return node.cell(at / 2).map(Some);
                }
            } else {
                let child = node.child(at / 2)?;
                if !skip(child) {
                    let (from, is_table) = (node.pgno(), node.kind().is_table());
                    self.descend(pages, from, child, is_table)?;
                }
            }
        }
        Ok(None)
    }

    fn descend(
        &mut self,
        pages: &mut dyn ReadPages,
        from: Pgno,
        child: Pgno,
        is_table: bool,
    ) -> Result<(), BTreeError> {
        if self.path.len() > MAX_HEIGHT {
            return Err(BTreeError::damaged(child, "the tree above it is too deep"));
        }
        self.left = self.left.checked_sub(1).ok_or(BTreeError::damaged(child, "its tree goes in circles"))?;
        let node = Node::read(pages, &self.header, from, child)?;
        if node.kind().is_table() != is_table {
            return Err(BTreeError::damaged(child, "it is of another kind than the page above it"));
        }
        self.path.push((node, 0));
        Ok(())
    }
}
