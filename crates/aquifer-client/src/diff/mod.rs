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

pub(crate) mod alter;
pub(crate) mod definition;
mod hidden;
mod image;
pub(crate) mod key;
pub(crate) mod layout;
mod overflow;
mod plan;
mod rows;
pub(crate) mod schema;
mod shared;
mod unordered;
pub(crate) mod virtual_table;

use std::sync::Arc;

use aquifer_format::Pgno;
use aquifer_sqlite::ReadPages;
use aquifer_sqlite::btree::{BTreeError, Value};
use roaring::RoaringBitmap;
use rusqlite::Connection;

use hidden::Hidden;
use image::Image;
pub use plan::Table;
use rows::{Order, Stream};
use schema::Schema;
pub(crate) use schema::quoted;
pub(crate) use shared::one_less;
use unordered::Unordered;

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

    /// Rows could not be kept in a temporary file (SQLite's `temp_store_directory`, `SQLITE_TMPDIR` or `/tmp`).
    #[error("rows that must be matched by their bytes do not go into a temporary file: {}", aquifer_sqlite::said(.0))]
    Temporary(rusqlite::Error),

    /// Rows of a virtual table are known to the program alone that made it.
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

impl RowChange {
    /// Bytes of rows that are held, to read them from the images once only.
    pub(crate) const HELD: usize = 16 << 20;

    /// Bytes that it takes in memory.
    pub(crate) fn bytes(&self) -> usize {
        let row = |values: &[Value]| {
            let bytes = values.iter().map(|value| match value {
                Value::Text(bytes) | Value::Blob(bytes) => bytes.len(),
                _ => 0,
            });
            size_of_val(values) + bytes.sum::<usize>()
        };
        size_of::<RowChange>()
            + match self {
                RowChange::Insert { new, .. } => row(new),
                RowChange::Delete { old, .. } => row(old),
                RowChange::Update { old, new, .. } => row(old) + row(new),
            }
    }
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

/// A number that an application keeps in the header of its database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The pragma that reads and sets it: `user_version` or `application_id`.
    pub name: &'static str,
    /// What it was in the base.
    pub old: i32,
    /// What it is now.
    pub value: i32,
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
    settings: Vec<Setting>,
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
        let settings = settings(&base, &current);
        Ok(Diff { base, current, changed, before_rows, after_rows, sequences, tables, settings })
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

    /// A connection that queries one of the images, and cannot write; an empty database if the image has no pages.
    pub fn open(&self, side: Side) -> Result<Connection> {
        match side {
            Side::Base => self.base.open(),
            Side::Current => self.current.open(),
        }
    }

    /// The numbers of the application that have changed.
    pub fn settings(&self) -> &[Setting] {
        &self.settings
    }

    /// The tables that there are now and whose rows may differ.
    pub fn tables(&self) -> &[Table] {
        &self.tables
    }

    /// The rows of one of [`tables`](Diff::tables) that differ.
    pub fn rows(&self, table: &Table) -> Result<RowChanges> {
        let merge = match &table.rows {
            plan::Rows::Tree(tree) if table.has_hidden_rowid() => self.hidden(table, tree)?,
            plan::Rows::Tree(tree) | plan::Rows::Shadow(tree) => match tree.order() {
                Order::Unknown(_) => {
                    let Streams { base, current } = self.streams(tree)?;
                    Merge::Unordered(Unordered::new(base, current, tree.is_alike())?)
                }
                _ => Merge::Trees(self.trees(tree)?),
            },
            plan::Rows::Nodes { had_base } => {
                let rows =
                    |image: &Image| virtual_table::Rows::new(image.clone(), &table.name, &table.columns);
                let base = had_base.then(|| rows(&self.base)).transpose()?;
                Merge::Virtual(virtual_table::Merge { base, current: rows(&self.current)? })
            }
            plan::Rows::Unknown(reason) => return Err(table.unknown(reason)),
        };
        Ok(RowChanges(Some(merge)))
    }

    fn trees(&self, tree: &plan::Tree) -> Result<rows::Merge> {
        let Streams { base, current } = self.streams(tree)?;
        Ok(rows::Merge { base, current, is_alike: tree.is_alike() })
    }

    fn hidden(&self, table: &Table, tree: &plan::Tree) -> Result<Merge> {
        let Some(suspects) = hidden::suspects(self.trees(tree)?)? else {
            return Ok(Merge::Trees(self.trees(tree)?));
        };
        let mut last = 0;
        for (image, layout) in [(&self.base, tree.base_layout()), (&self.current, Some(tree.layout()))] {
            // Where SQL does not reach the rowid nobody can use one that is told.
            let Some((layout, rowid)) = layout.and_then(|layout| Some((layout, layout.rowid()?))) else {
                continue;
            };
            let sql = format!("SELECT max({rowid}) FROM {}", quoted(&layout.name));
            let largest = image.open()?.query_row(&sql, [], |row| row.get::<_, Option<i64>>(0));
            let largest = largest.map_err(|source| Error::Sqlite { side: image.side, source })?;
            last = last.max(largest.unwrap_or_default());
        }
        Hidden::new(self.trees(tree)?, suspects, &table.name, table.columns.len(), last).map(Merge::Hidden)
    }

    fn streams(&self, tree: &plan::Tree) -> Result<Streams> {
        let (mut base, mut current) = (self.base.clone(), self.current.clone());
        let failed = |source| Error::Sqlite { side: Side::Current, source };
        let order = tree.order();
        let (before, now) =
            Connection::open_in_memory().and_then(|scratch| tree.places(&scratch)).map_err(failed)?;
        let shared = match tree.base_root() {
            Some(root) if tree.is_alike() => {
                shared::shared_subtrees(&mut base, root, &mut current, tree.root(), &self.changed)?
            }
            _ => RoaringBitmap::new(),
        };
        let shared = Arc::new(shared);
        let base = match tree.base_root() {
            Some(root) => Stream::new(base, root, Arc::clone(&shared), before, order.clone())?,
            None => None,
        };
        let current = Stream::new(current, tree.root(), shared, now, order)?;
        Ok(Streams { base, current })
    }
}

fn settings(base: &Image, current: &Image) -> Vec<Setting> {
    let read =
        |image: &Image| image.header.map_or((0, 0), |header| (header.user_version, header.application_id));
    let (before, now) = (read(base), read(current));
    let both = [("user_version", before.0, now.0), ("application_id", before.1, now.1)];
    let changed = both.into_iter().filter(|(_, before, now)| before != now);
    changed.map(|(name, old, value)| Setting { name, old, value }).collect()
}

/// The rows of a table in both images that may differ.
struct Streams {
    base: Option<Stream>,
    current: Option<Stream>,
}

/// The rows of one table that differ, in the order of their keys; where this is an application's own, the deleted ones
/// first. Ends with the first error.
///
/// Of a table whose rowid is hidden, rows that only have another rowid are left out, and those that might have been are
/// told last. What such rows would be inserted as has then a rowid that neither image has.
///
/// Holds two rows, and a page for each level of two trees; of R-trees some hundred rows.
pub struct RowChanges(Option<Merge>);

enum Merge {
    Trees(rows::Merge),
    Hidden(Hidden),
    Unordered(Unordered),
    Virtual(virtual_table::Merge),
}

impl Iterator for RowChanges {
    type Item = Result<RowChange>;

    fn next(&mut self) -> Option<Result<RowChange>> {
        let step = match self.0.as_mut()? {
            Merge::Trees(merge) => merge.step(),
            Merge::Hidden(rows) => rows.step(),
            Merge::Unordered(rows) => rows.step(),
            Merge::Virtual(merge) => merge.step(),
        };
        if step.is_err() {
            self.0 = None;
        }
        step.transpose()
    }
}

impl std::fmt::Debug for RowChanges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RowChanges").finish_non_exhaustive()
    }
}
