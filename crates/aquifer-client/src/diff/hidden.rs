//! Rows of tables whose rowid no column shows.
//!
//! VACUUM gives these rows other rowids (`sqlite.org/lang_vacuum.html`), and nobody can tell: a row that left one rowid and
//! came to another is the same row. So rows whose values are both among those that are gone and among those that came
//! cancel out, as often as they are there.
//!
//! The rows are read twice: first to know which hashes are on both sides, in two bitmaps of 8 MiB at most. Rows of other
//! hashes go straight through; the few that may cancel out wait in a temporary file, and are told at the end.

use std::hash::{DefaultHasher, Hash, Hasher};

use aquifer_sqlite::btree::Value;
use roaring::RoaringBitmap;
use rusqlite::{Connection, OptionalExtension, params_from_iter};

use super::{Error, Key, Result, RowChange, rows};

/// The rows of one tree that differ, without those that only have another rowid.
pub(super) struct Hidden {
    merge: rows::Merge,
    table: String,
    /// Hashes of rows that may cancel out.
    suspects: RoaringBitmap,
    waiting: Waiting,
    /// All rows were read.
    is_telling: bool,
    /// The largest rowid that is taken.
    last: i64,
}

/// Which hashes are both among the rows that are gone and those that came. `None`: no row cancels out.
pub(super) fn suspects(mut merge: rows::Merge) -> Result<Option<RoaringBitmap>> {
    if merge.base.is_none() || merge.current.is_none() {
        return Ok(None);
    }
    let (mut gone, mut came) = (RoaringBitmap::new(), RoaringBitmap::new());
    while let Some(change) = merge.step()? {
        let (old, new) = sides(&change);
        gone.extend(old.map(|row| in_bitmap(hash(row))));
        came.extend(new.map(|row| in_bitmap(hash(row))));
    }
    gone &= came;
    Ok(Some(gone).filter(|both| !both.is_empty()))
}

impl Hidden {
    /// `merge`: the rows from the start, of so many columns. `last`: the largest rowid of both images.
    pub(super) fn new(
        merge: rows::Merge,
        suspects: RoaringBitmap,
        table: &str,
        columns: usize,
        last: i64,
    ) -> Result<Hidden> {
        let waiting = Waiting::new(columns).map_err(Error::Temporary)?;
        Ok(Hidden { merge, table: table.to_owned(), suspects, waiting, is_telling: false, last })
    }

    pub(super) fn step(&mut self) -> Result<Option<RowChange>> {
        while !self.is_telling {
            let Some(change) = self.merge.step()? else {
                self.is_telling = true;
                break;
            };
            let (old, new) = sides(&change);
            let is_suspect = |row: &[Value]| self.suspects.contains(in_bitmap(hash(row)));
            if !old.into_iter().chain(new).any(is_suspect) {
                return Ok(Some(change));
            }
            self.waiting.add(&change).map_err(Error::Temporary)?;
        }
        let Some((rowid, old, new)) = self.waiting.take().map_err(Error::Temporary)? else { return Ok(None) };
        let key = Key::Rowid(rowid);
        Ok(Some(match (old, new) {
            (Some((_, old)), Some((_, new))) => RowChange::Update { key, old, new },
            (Some((_, old)), None) => RowChange::Delete { key, old },
            // The row of this rowid in the base is still there, under another one.
            (None, Some((true, new))) => RowChange::Insert { key: self.fresh()?, new },
            (None, Some((false, new))) => RowChange::Insert { key, new },
            (None, None) => return Ok(None),
        }))
    }

    /// A rowid that is in neither image.
    fn fresh(&mut self) -> Result<Key> {
        let reason = "its rows have other rowids than in the base, and its last rowid is taken";
        let next = self.last.checked_add(1);
        self.last = next.ok_or_else(|| Error::Table { table: self.table.clone(), reason })?;
        Ok(Key::Rowid(self.last))
    }
}

/// What a row was and what it is.
fn sides(change: &RowChange) -> (Option<&[Value]>, Option<&[Value]>) {
    match change {
        RowChange::Insert { new, .. } => (None, Some(new)),
        RowChange::Delete { old, .. } => (Some(old), None),
        RowChange::Update { old, new, .. } => (Some(old), Some(new)),
    }
}

fn hash(row: &[Value]) -> i64 {
    let mut hasher = DefaultHasher::new();
    for value in row {
        std::mem::discriminant(value).hash(&mut hasher);
        match value {
            Value::Null => {}
            Value::Integer(n) => n.hash(&mut hasher),
            Value::Real(n) => n.to_bits().hash(&mut hasher),
            Value::Text(bytes) | Value::Blob(bytes) => bytes.hash(&mut hasher),
        }
    }
    hasher.finish().cast_signed()
}

/// 26 bits of it: a bitmap of them never takes more than 8 MiB.
fn in_bitmap(hash: i64) -> u32 {
    (hash.cast_unsigned() >> 38) as u32
}

/// Rows that have not cancelled out so far.
struct Waiting {
    /// SQLite's own temporary database: in memory while it is small.
    db: Connection,
    insert: String,
}

/// Whether the other image has a row of this rowid too, and the values.
type Row = (bool, Vec<Value>);

/// A rowid, what was there, what is there.
type Pair = (i64, Option<Row>, Option<Row>);

impl Waiting {
    fn new(columns: usize) -> rusqlite::Result<Waiting> {
        let db = Connection::open("")?;
        // Without a declared type they keep values as they are.
        let names: Vec<_> = (0..columns).map(|i| format!(", c{i}")).collect();
        let names = names.concat();
        db.execute_batch(&format!(
            "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; BEGIN;
             CREATE TABLE gone(rowid INTEGER PRIMARY KEY, hash INT, is_in_both INT{names});
             CREATE TABLE came(rowid INTEGER PRIMARY KEY, hash INT, is_in_both INT{names});
             CREATE INDEX gone_hash ON gone(hash); CREATE INDEX came_hash ON came(hash);"
        ))?;
        Ok(Waiting { db, insert: format!("VALUES(?, ?, ?{})", ", ?".repeat(columns)) })
    }

    fn add(&self, change: &RowChange) -> rusqlite::Result<()> {
        let (RowChange::Insert { key, .. } | RowChange::Delete { key, .. } | RowChange::Update { key, .. }) =
            change;
        // Only rows that have rowids come here.
        let Key::Rowid(rowid) = key else { return Ok(()) };
        let (old, new) = sides(change);
        let is_in_both = old.is_some() && new.is_some();
        for (row, side, other) in [(old, "gone", "came"), (new, "came", "gone")] {
            let Some(row) = row else { continue };
            if !self.cancel(other, row)? {
                let insert = format!("INSERT INTO {side} {}", self.insert);
                let fixed = [*rowid, hash(row), is_in_both.into()].map(Value::Integer);
                self.db.prepare_cached(&insert)?.execute(params_from_iter(fixed.iter().chain(row)))?;
            }
        }
        Ok(())
    }

    /// Takes a row of these values away from a side, if there is one.
    fn cancel(&self, side: &str, row: &[Value]) -> rusqlite::Result<bool> {
        let mut same = self.db.prepare_cached(&format!("SELECT * FROM {side} WHERE hash = ?1"))?;
        let mut found = same.query([hash(row)])?;
        while let Some(candidate) = found.next()? {
            if values(candidate)?.1 == row {
                let rowid: i64 = candidate.get(0)?;
                drop(found);
                return self.delete(side, rowid).map(|()| true);
            }
        }
        Ok(false)
    }

    fn delete(&self, side: &str, rowid: i64) -> rusqlite::Result<()> {
        let sql = format!("DELETE FROM {side} WHERE rowid = ?1");
        self.db.prepare_cached(&sql)?.execute([rowid]).map(drop)
    }

    /// Takes what waits under the first rowid.
    fn take(&self) -> rusqlite::Result<Option<Pair>> {
        let first = |side: &str| -> rusqlite::Result<Option<(i64, Row)>> {
            let sql = format!("SELECT * FROM {side} ORDER BY rowid LIMIT 1");
            self.db.prepare_cached(&sql)?.query_row([], |row| Ok((row.get(0)?, values(row)?))).optional()
        };
        let (gone, came) = (first("gone")?, first("came")?);
        let Some(rowid) = gone.iter().chain(&came).map(|row| row.0).min() else { return Ok(None) };
        self.delete("gone", rowid)?;
        self.delete("came", rowid)?;
        let there = |row: Option<(i64, Row)>| row.filter(|row| row.0 == rowid).map(|row| row.1);
        Ok(Some((rowid, there(gone), there(came))))
    }
}

fn values(row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    let columns = row.as_ref().column_count();
    Ok((row.get(2)?, (3..columns).map(|i| row.get(i)).collect::<rusqlite::Result<_>>()?))
}
