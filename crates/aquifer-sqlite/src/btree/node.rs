//! One page of a b-tree, and its cells.

use aquifer_format::Pgno;

use super::header::HEADER;
use super::varint::varint;
use super::{BTreeError, Header, Payload, pgno_at, read_page, u16_at, u32_at};
use crate::ReadPages;

/// What a page of a b-tree is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Rows of a table, by rowid.
    TableLeaf,
    /// Pointers to pages of a table.
    TableInterior,
    /// Entries of an index, or rows of a WITHOUT ROWID table.
    IndexLeaf,
    /// Pointers to pages of an index, with an entry between each two of them.
    IndexInterior,
}

impl Kind {
    /// Whether pages of this kind have none below them.
    pub fn is_leaf(self) -> bool {
        matches!(self, Kind::TableLeaf | Kind::IndexLeaf)
    }

    /// Whether it is part of a table with rowids.
    pub fn is_table(self) -> bool {
        matches!(self, Kind::TableLeaf | Kind::TableInterior)
    }
}

/// One page of a b-tree.
#[derive(Debug, Clone)]
pub struct Node {
    pgno: Pgno,
    kind: Kind,
    cells: usize,
    usable: usize,
    bytes: Vec<u8>,
}

/// A row of a table, or an entry of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    /// The rowid; 0 in indexes, which have none.
    pub rowid: i64,
    /// The row or the entry.
    pub payload: Payload,
}

impl Node {
    /// Reads the page `pgno` that `from` points to.
    pub fn read(
        pages: &mut dyn ReadPages,
        header: &Header,
        from: Pgno,
        pgno: Pgno,
    ) -> Result<Node, BTreeError> {
        let bytes = read_page(pages, from, pgno)?;
        let at = if pgno == Pgno::ONE { HEADER } else { 0 };
        let kind = match bytes[at] {
            2 => Kind::IndexInterior,
            5 => Kind::TableInterior,
            10 => Kind::IndexLeaf,
            13 => Kind::TableLeaf,
            _ => return Err(BTreeError::damaged(pgno, "it is no page of a b-tree")),
        };
        let cells = usize::from(u16_at(&bytes, at + 3).unwrap_or_default());
        Ok(Node { pgno, kind, cells, usable: header.usable, bytes })
    }

    /// Its number.
    pub fn pgno(&self) -> Pgno {
        self.pgno
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// How many cells it has. An interior page has one child more.
    pub fn cells(&self) -> usize {
        self.cells
    }

    /// Where the array of pointers to the cells begins.
    fn pointers(&self) -> usize {
        let header = if self.pgno == Pgno::ONE { HEADER } else { 0 };
        header + if self.kind.is_leaf() { 8 } else { 12 }
    }

    fn damaged<T>(&self, reason: &'static str) -> Result<T, BTreeError> {
        Err(BTreeError::damaged(self.pgno, reason))
    }

    /// The bytes from where cell `i` (0-based) begins to the end of what SQLite uses.
    fn cell_bytes(&self, i: usize) -> Result<&[u8], BTreeError> {
        let at = u16_at(&self.bytes, self.pointers() + 2 * i).filter(|_| i < self.cells);
        match at.map(usize::from) {
            Some(at) if at >= self.pointers() + 2 * self.cells && at < self.usable => {
                Ok(&self.bytes[at..self.usable])
            }
            _ => self.damaged("a cell lies outside of it"),
        }
    }

    /// The page below cell `i`, 0-based; `i` = [`cells`](Node::cells): the last child. Of interior pages only.
    pub fn child(&self, i: usize) -> Result<Pgno, BTreeError> {
        let child = if i == self.cells {
            pgno_at(&self.bytes, self.pointers() - 4)
        } else {
            pgno_at(self.cell_bytes(i)?, 0)
        };
        match child {
            Some(child) if !self.kind.is_leaf() => Ok(child),
            _ => self.damaged("a page below it is missing"),
        }
    }

    /// What is in cell `i`, 0-based. Interior pages of tables hold no rows.
    pub fn cell(&self, i: usize) -> Result<Cell, BTreeError> {
        let mut rest = self.cell_bytes(i)?;
        if !self.kind.is_leaf() {
            rest = rest.get(4..).unwrap_or_default();
        }
        let Some((first, n)) = varint(rest) else { return self.damaged("a cell is cut off") };
        rest = &rest[n..];
        match self.kind {
            Kind::TableInterior => self.damaged("a row is looked for above the leaves"),
            Kind::TableLeaf => {
                let Some((rowid, n)) = varint(rest) else { return self.damaged("a cell is cut off") };
                let payload = self.payload(first, &rest[n..], self.usable - 35)?;
                Ok(Cell { rowid: rowid as i64, payload })
            }
            Kind::IndexLeaf | Kind::IndexInterior => {
                let payload = self.payload(first, rest, (self.usable - 12) * 64 / 255 - 23)?;
                Ok(Cell { rowid: 0, payload })
            }
        }
    }

    /// A payload of `length` bytes whose first part is in `rest`, all of it if it is not longer than `most`.
    fn payload(&self, length: u64, rest: &[u8], most: usize) -> Result<Payload, BTreeError> {
        if length <= most as u64 {
            return match rest.get(..length as usize) {
                Some(local) => Ok(Payload { length, local: local.to_vec(), overflow: None, pgno: self.pgno }),
                None => self.damaged("a cell is cut off"),
            };
        }
        let least = (self.usable - 12) * 32 / 255 - 23;
        let fitting = least + ((length - least as u64) % (self.usable as u64 - 4)) as usize;
        let local = if fitting <= most { fitting } else { least };
        let overflow = u32_at(rest, local).and_then(Pgno::new);
        match (rest.get(..local), overflow) {
            (Some(local), Some(_)) => {
                Ok(Payload { length, local: local.to_vec(), overflow, pgno: self.pgno })
            }
            _ => self.damaged("a cell is cut off"),
        }
    }
}
