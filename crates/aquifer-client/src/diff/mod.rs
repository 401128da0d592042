//! From two images of a database, and the pages that differ, to what has changed in it.
//!
//! The cost follows the pages that differ. Of each table's tree the interior pages are read, in the base, and of the
//! current one those that have changed: a subtree none of whose pages has changed, and which is in both trees, holds
//! the same rows in both (`shared`). All rows outside of these are read from both, in the order of their keys, and
//! merged (`rows`). So a whole rewrite (VACUUM) costs the reading of both images, and no more memory than anything
//! else.
//!
//! What is reported leads from the base to the current image: [`Diff::before_rows`], the rows, [`Diff::sequences`],
//! [`Diff::after_rows`].

mod alter;
mod image;
mod key;
mod layout;
mod overflow;
mod plan;
mod rows;
mod schema;
mod shared;

use std::sync::Arc;

use aquifer_format::Pgno;
use aquifer_sqlite::ReadPages;
use aquifer_sqlite::btree::{BTreeError, Value};
use roaring::RoaringBitmap;
use rusqlite::Connection;

use image::Image;
pub use plan::Table;
pub use rows::RowChanges;
use rows::Stream;
use schema::Schema;

/// Result of this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// One of the two images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The server's, as last pulled.
    Base,
    /// The database as it is now.
    Current,
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Side::Base => "the base",
            Side::Current => "the database",
        })
    }
}

/// What keeps two images from being compared.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Pages of an image are damaged, or cannot be read.
    #[error("{side}: {source}")]
    Pages {
        /// Which image.
        side: Side,
        /// What is wrong.
        source: BTreeError,
    },

    /// SQLite cannot read the schema of an image.
    #[error("the schema of {side} cannot be read: {source}")]
    Sqlite {
        /// Which image.
        side: Side,
        /// What SQLite said.
        source: rusqlite::Error,
    },

    /// The text of one is in UTF-8 and that of the other is not.
    #[error(
        "the base and the database have different text encodings: a copy with PRAGMA encoding of the base is needed"
    )]
    Encodings,

    /// Rows of a table cannot be told apart without its application.
    #[error("table {table} cannot be compared: {reason}")]
    Table {
        /// Its name.
        table: String,
        /// Why.
        reason: &'static str,
    },
}

/// What a row is found by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// Its rowid.
    Rowid(i64),
    /// The values of its primary key, in the key's order; of a WITHOUT ROWID table.
    Primary(Vec<Value>),
}

/// One row that differs. Values are those of [`Table::columns`], also of rows from before these were added or renamed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowChange {
    /// It is only there now.
    Insert {
        /// What it is found by.
        key: Key,
        /// Its values.
        new: Vec<Value>,
    },
    /// It was only in the base.
    Delete {
        /// What it was found by.
        key: Key,
        /// Its values in the base.
        old: Vec<Value>,
    },
    /// It has other values, of which those of the key are equal by the key's collation.
    Update {
        /// What it was found by in the base.
        key: Key,
        /// Its values in the base.
        old: Vec<Value>,
        /// Its values now.
        new: Vec<Value>,
    },
}

/// One change of the schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaChange {
    /// Name of the table, index, view or trigger, as it is before the change.
    pub name: String,
    /// The statement that makes it.
    pub sql: String,
}

/// How far an AUTOINCREMENT table has counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence {
    /// The table.
    pub table: String,
    /// Its entry in `sqlite_sequence` now; `None`: it has none any more.
    pub seq: Option<Value>,
}

/// What differs between two images of a database.
///
/// Left out is what follows from the rest: the content of indexes, the statistics of ANALYZE, generated columns.
#[derive(Debug)]
pub struct Diff {
    base: Image,
    current: Image,
    changed: RoaringBitmap,
    before_rows: Vec<SchemaChange>,
    after_rows: Vec<SchemaChange>,
    sequences: Vec<Sequence>,
    tables: Vec<Table>,
}

impl Diff {
    /// Compares the schemas of two images, and finds out how the rows of each table are to be compared.
    ///
    /// `changed` names at least the pages whose bytes differ and that are in both images.
    pub fn between(
        base: Box<dyn ReadPages>,
        current: Box<dyn ReadPages>,
        changed: impl IntoIterator<Item = Pgno>,
    ) -> Result<Diff> {
        let mut base = Image::new(Side::Base, base)?;
        let mut current = Image::new(Side::Current, current)?;
        let mut changed: RoaringBitmap = changed.into_iter().map(Pgno::get).collect();
        let (before, now) = (Schema::read(&base)?, Schema::read(&current)?);
        if let (Some(old), Some(new)) = (base.header, current.header) {
            if old.encoding != new.encoding {
                return Err(Error::Encodings);
            }
            if base.page_size() != current.page_size() || old.usable != new.usable {
                changed.insert_range(1..=base.pages().max(current.pages()));
            } else {
                overflow::add_overwritten(&mut base, &mut current, &now.roots, &mut changed)?;
            }
        }
        let mut is_same = |before: Pgno, now: Pgno| {
            let shared = shared::shared_subtrees(&mut base, before, &mut current, now, &changed)?;
            Ok(before == now && shared.contains(now.get()))
        };
        let plan = plan::Plan::new(&before, &now, &mut is_same)?;
        let plan::Plan { before_rows, after_rows, sequences, tables } = plan;
        Ok(Diff { base, current, changed, before_rows, after_rows, sequences, tables })
    }

    /// What is to be done to the base's schema before rows are: what was dropped and altered, and tables that are new.
    pub fn before_rows(&self) -> &[SchemaChange] {
        &self.before_rows
    }

    /// Indexes, triggers and views that are new, or that had to make way for other changes. Triggers of the base that
    /// have not changed are there while rows are applied: who applies them must keep them from firing.
    pub fn after_rows(&self) -> &[SchemaChange] {
        &self.after_rows
    }

    /// How far the AUTOINCREMENT tables that have changed in this have counted.
    pub fn sequences(&self) -> &[Sequence] {
        &self.sequences
    }

    /// The tables that there are now and whose rows may differ.
    pub fn tables(&self) -> &[Table] {
        &self.tables
    }

    /// The rows of one of [`tables`](Diff::tables) that differ.
    pub fn rows(&self, table: &Table) -> Result<RowChanges> {
        let (mut base, mut current) = (self.base.clone(), self.current.clone());
        let scratch =
            Connection::open_in_memory().map_err(|source| Error::Sqlite { side: Side::Current, source })?;
        let shared = match table.base_root() {
            Some(root) if table.is_alike() => {
                shared::shared_subtrees(&mut base, root, &mut current, table.root(), &self.changed)?
            }
            _ => RoaringBitmap::new(),
        };
        let shared = Arc::new(shared);
        let (before, now) =
            table.places(&scratch).map_err(|source| Error::Sqlite { side: Side::Current, source })?;
        let order = table.order()?;
        let before = match table.base_root() {
            Some(root) => Stream::new(base, root, Arc::clone(&shared), before, order.clone())?,
            None => None,
        };
        let now = Stream::new(current, table.root(), shared, now, order)?;
        Ok(RowChanges { base: before, current: now, is_alike: table.is_alike() })
    }
}
