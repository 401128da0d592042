//! Rows of tables whose key has a collation that only their application knows.
//!
//! Their order means nothing here, so they are matched by their bytes, in a temporary file: a row that has changed was
//! deleted, and another one inserted.

use rusqlite::{Connection, OptionalExtension};

use super::rows::Stream;
use super::{Error, Result, RowChange};

/// The rows of one tree that differ: those that are gone, and then those that came.
pub(super) struct Unordered {
    base: Option<Stream>,
    current: Option<Stream>,
    /// SQLite's own temporary database: in memory while it is small.
    rows: Connection,
    is_at_came: bool,
}

impl Unordered {
    /// Reads all rows. `is_alike`: records of equal bytes are equal rows.
    pub(super) fn new(
        mut base: Option<Stream>,
        mut current: Option<Stream>,
        is_alike: bool,
    ) -> Result<Unordered> {
        let rows = Connection::open("").map_err(Error::Temporary)?;
        rows.execute_batch(
            "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; BEGIN;
             CREATE TABLE gone(row BLOB PRIMARY KEY) WITHOUT ROWID;
             CREATE TABLE came(row BLOB PRIMARY KEY) WITHOUT ROWID;",
        )
        .map_err(Error::Temporary)?;
        let run = |sql: &str, row: &[u8]| {
            rows.prepare_cached(sql)
                .and_then(|mut statement| statement.execute([row]))
                .map_err(Error::Temporary)
        };
        while let Some(row) = base.as_mut().map_or(Ok(None), Stream::next_record)? {
            run("INSERT INTO gone VALUES(?1)", &row)?;
        }
        while let Some(row) = current.as_mut().map_or(Ok(None), Stream::next_record)? {
            if !is_alike || run("DELETE FROM gone WHERE row = ?1", &row)? == 0 {
                run("INSERT INTO came VALUES(?1)", &row)?;
            }
        }
        Ok(Unordered { base, current, rows, is_at_came: false })
    }

    pub(super) fn step(&mut self) -> Result<Option<RowChange>> {
        if !self.is_at_came {
            if let (Some(row), Some(base)) = (self.take("gone")?, &self.base) {
                let (key, old) = base.values(0, &row)?;
                return Ok(Some(RowChange::Delete { key, old }));
            }
            self.is_at_came = true;
        }
        let (Some(row), Some(current)) = (self.take("came")?, &self.current) else { return Ok(None) };
        let (key, new) = current.values(0, &row)?;
        Ok(Some(RowChange::Insert { key, new }))
    }

    /// Takes the first row out of a table.
    fn take(&self, table: &str) -> Result<Option<Vec<u8>>> {
        let sql = format!("DELETE FROM {table} WHERE row = (SELECT min(row) FROM {table}) RETURNING row");
        let take = self.rows.prepare_cached(&sql);
        take.and_then(|mut take| take.query_row([], |row| row.get(0)).optional()).map_err(Error::Temporary)
    }
}
