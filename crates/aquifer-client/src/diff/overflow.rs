//! Leaves that have not changed, of rows that have.
//!
//! SQLite writes a value of the same length over the old one (`btreeOverwriteCell`), and of a long one it may be that
//! only overflow pages change. The leaf with the row counts as changed, then.

use std::collections::BTreeSet;

use aquifer_format::Pgno;
use aquifer_sqlite::ReadPages;
use aquifer_sqlite::btree::{BTreeError, Header, Node, free_pages, height};
use roaring::RoaringBitmap;

use super::Result;
use super::image::Image;
use super::shared::one_less;

/// Adds to `changed` the pages of trees that hold rows whose overflow pages are in it. `roots`: of all trees of the
/// current image.
///
/// Reads the changed pages. Where some of them are overflow pages, the interior pages of all trees too; and where those
/// are not of rows whose own page has changed, leaves until all are accounted for.
pub(super) fn add_overwritten(
    base: &mut Image,
    current: &mut Image,
    roots: &[Pgno],
    changed: &mut RoaringBitmap,
) -> Result<()> {
    let Some(header) = current.header else { return Ok(()) };
    let mut open = BTreeSet::new();
    for pgno in changed.iter().filter_map(Pgno::new) {
        // The current page first: one of the base may have to be unpacked.
        if let Some(next) = next_in_chain(current, pgno)?
            && next_in_chain(base, pgno)? == Some(next)
        {
            open.insert(pgno);
        }
    }
    if open.is_empty() {
        return Ok(());
    }
    let mut found = RoaringBitmap::new();
    current.with(|pages| {
        free_pages(pages, &header, &mut open)?;
        for looking in [Look::AtChanged, Look::ForHeads(heads(pages, &open)), Look::AtAll] {
            for &root in roots {
                if open.is_empty() {
                    return Ok(());
                }
                let mut search =
                    Search { header, changed, looking: &looking, open: &mut open, found: &mut found };
                search.tree(pages, root)?;
            }
        }
        Ok(())
    })?;
    *changed |= found;
    Ok(())
}

/// The page that the one at `pgno` points to if it is an overflow page, 0: it is the last one. `None`: it is none for
/// sure.
///
/// The first four bytes are that pointer. In a page of a tree they would lead past the end of all but the largest
/// databases, so that these are hardly ever taken for overflow pages; to be taken for one costs time, and nothing else.
fn next_in_chain(image: &mut Image, pgno: Pgno) -> Result<Option<u32>> {
    let (size, count) = (image.page_size(), image.pages());
    if pgno.get() > count || pgno == size.lock_page() || pgno == Pgno::ONE {
        return Ok(None);
    }
    image.with(|pages| {
        let mut page = vec![0; size.bytes()];
        if !pages.read(pgno, &mut page) {
            return Err(BTreeError::Unreadable(pgno));
        }
        let next = page.first_chunk().copied().map(u32::from_be_bytes);
        Ok(next.filter(|&next| next <= count))
    })
}

/// Pages that chains through `open` probably begin with: SQLite mostly takes pages one after the other.
fn heads(pages: &mut dyn ReadPages, open: &BTreeSet<Pgno>) -> BTreeSet<Pgno> {
    let mut heads = BTreeSet::new();
    let mut page = vec![0; pages.page_size().bytes()];
    for &pgno in open {
        let mut head = pgno;
        while heads.insert(head)
            && let Some(before) = Pgno::new(head.get() - 1)
            && pages.read(before, &mut page)
            && page.starts_with(&head.get().to_be_bytes())
        {
            head = before;
        }
    }
    heads
}

/// Which cells' chains are walked.
enum Look {
    /// Those in changed pages: they are compared anyway, and so what belongs to them is accounted for.
    AtChanged,
    /// Those that begin with one of these pages.
    ForHeads(BTreeSet<Pgno>),
    /// All.
    AtAll,
}

struct Search<'a> {
    header: Header,
    changed: &'a RoaringBitmap,
    looking: &'a Look,
    /// Overflow pages whose row is not known.
    open: &'a mut BTreeSet<Pgno>,
    /// Pages of trees with rows that have changed.
    found: &'a mut RoaringBitmap,
}

impl Search<'_> {
    fn tree(&mut self, pages: &mut dyn ReadPages, root: Pgno) -> Result<(), BTreeError> {
        let mut left = pages.pages();
        let levels = height(pages, &self.header, root)?;
        let mut path = vec![(Pgno::ONE, root, levels)];
        while let Some((from, pgno, levels)) = path.pop() {
            if self.open.is_empty() {
                return Ok(());
            }
            let has_changed = self.changed.contains(pgno.get());
            if levels == 0 && has_changed != matches!(self.looking, Look::AtChanged) {
                continue;
            }
            left = one_less(left, pgno)?;
            let node = Node::read(pages, &self.header, from, pgno)?;
            if levels > 0 {
                for i in 0..=node.cells() {
                    path.push((pgno, node.child(i)?, levels - 1));
                }
            }
            if has_changed == matches!(self.looking, Look::AtChanged) {
                self.cells(pages, &node)?;
            }
        }
        Ok(())
    }

    fn cells(&mut self, pages: &mut dyn ReadPages, node: &Node) -> Result<(), BTreeError> {
        if node.kind().is_table() && !node.kind().is_leaf() {
            return Ok(());
        }
        for i in 0..node.cells() {
            let payload = node.cell(i)?.payload;
            let Some(first) = payload.overflow else { continue };
            if matches!(self.looking, Look::ForHeads(heads) if !heads.contains(&first)) {
                continue;
            }
            let (open, found) = (&mut *self.open, &mut *self.found);
            payload.walk(pages, &self.header, |pgno, _| {
                if open.remove(&pgno) {
                    found.insert(node.pgno().get());
                }
                !open.is_empty()
            })?;
        }
        Ok(())
    }
}
