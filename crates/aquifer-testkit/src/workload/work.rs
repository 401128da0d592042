//! Runs a kind's transactions against a database of that kind.

use std::fmt;
use std::str::FromStr;

use rusqlite::{Connection, Result};

use super::kv::Keys;
use super::orders::Shop;
use super::text::Source;
use super::{Kind, blobs, json};

/// What a `kv` transaction does with each of its rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum KvMode {
    /// Appends a row.
    #[default]
    Insert,
    /// Updates a row, each as often as any other.
    UpdateUniform,
    /// Updates a row, few of them most of the time.
    UpdateSkewed,
}

impl KvMode {
    /// All of them.
    pub const ALL: [KvMode; 3] = [KvMode::Insert, KvMode::UpdateUniform, KvMode::UpdateSkewed];

    /// As on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            KvMode::Insert => "insert",
            KvMode::UpdateUniform => "uniform",
            KvMode::UpdateSkewed => "skewed",
        }
    }
}

impl fmt::Display for KvMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for KvMode {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<KvMode, String> {
        KvMode::ALL
            .into_iter()
            .find(|mode| mode.name() == name)
            .ok_or_else(|| format!("no kv mode is called {name:?}; there are insert, uniform and skewed"))
    }
}

/// A seeded stream of transactions.
#[derive(Debug)]
pub struct Work {
    source: Source,
    operations: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    Orders(Shop),
    Json,
    Blobs,
    Kv(Keys),
}

impl Work {
    /// Prepares transactions of `operations` each: rows of `kv`, business operations of the others.
    ///
    /// The database must be one that [`build`](super::build()) made for this kind; `kv` also takes one without its table.
    /// `mode` matters to `kv` only.
    pub fn new(db: &Connection, kind: Kind, seed: u64, operations: u64, mode: KvMode) -> Result<Work> {
        let state = match kind {
            Kind::Orders => State::Orders(Shop::open(db)?),
            Kind::Json => State::Json,
            Kind::Blobs => State::Blobs,
            Kind::Kv => State::Kv(Keys::open(db, mode)?),
        };
        Ok(Work { source: Source::new(seed ^ 0x5157), operations, state })
    }

    /// Runs the next transaction and commits it.
    ///
    /// # Errors
    /// SQLite's; nothing is left open. After `SQLITE_BUSY` from `BEGIN` nothing was drawn, so calling again
    /// continues the stream; after any other error the stream has lost a transaction.
    pub fn step(&mut self, db: &Connection) -> Result<()> {
        db.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let done = self.operate(db).and_then(|()| db.prepare_cached("COMMIT")?.execute([]));
        if done.is_err() && !db.is_autocommit() {
            // The first error is the one to tell.
            let _ = db.execute_batch("ROLLBACK");
        }
        done.map(drop)
    }

    fn operate(&mut self, db: &Connection) -> Result<()> {
        let source = &mut self.source;
        for _ in 0..self.operations {
            match &mut self.state {
                State::Orders(shop) => shop.operate(db, source)?,
                State::Json => json::operate(db, source)?,
                State::Blobs => blobs::insert(db, source)?,
                State::Kv(keys) => keys.operate(db, source)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Build, build, wal_stats};
    use super::*;

    /// The frames per transaction that the figures in `docs/benchmarks.md` stand on.
    #[test]
    fn transactions_write_as_many_frames_as_the_figures_assume() {
        let dir = tempfile::tempdir().unwrap();
        for (kind, mode, expected) in [
            (Kind::Orders, KvMode::Insert, 5.0..12.0),
            (Kind::Json, KvMode::Insert, 2.0..7.0),
            (Kind::Blobs, KvMode::Insert, 5.0..24.0),
            (Kind::Kv, KvMode::Insert, 1.0..1.3),
            (Kind::Kv, KvMode::UpdateUniform, 1.0..1.01),
            (Kind::Kv, KvMode::UpdateSkewed, 1.0..1.01),
        ] {
            let path = dir.path().join(format!("{kind}-{mode}.db"));
            build(&path, &Build::new(kind, 4 << 20, 1)).unwrap();
            let db = Connection::open(&path).unwrap();
            db.execute_batch("PRAGMA wal_autocheckpoint=0; PRAGMA synchronous=OFF").unwrap();
            let mut work = Work::new(&db, kind, 7, 1, mode).unwrap();
            for _ in 0..300 {
                work.step(&db).unwrap();
            }
            let stats = wal_stats(&dir.path().join(format!("{kind}-{mode}.db-wal"))).unwrap();
            assert_eq!(stats.transactions, 300);
            assert!(
                stats.transaction_pages <= stats.frames && stats.distinct_pages <= stats.transaction_pages
            );
            let frames = stats.frames as f64 / 300.0;
            assert!(expected.contains(&frames), "{kind} {mode}: {frames} frames per transaction");
        }
    }

    #[test]
    fn updates_of_an_empty_table_begin_with_an_insert() {
        let db = Connection::open_in_memory().unwrap();
        let mut work = Work::new(&db, Kind::Kv, 1, 3, KvMode::UpdateSkewed).unwrap();
        work.step(&db).unwrap();
        let (rows, updates): (i64, i64) = db
            .query_row("SELECT count(*), total(ts>1735689601) FROM kv", [], |r| {
                Ok((r.get(0)?, r.get::<_, f64>(1)? as i64))
            })
            .unwrap();
        assert_eq!(rows, 1);
        assert_eq!(updates, 1);
    }

    #[test]
    fn an_error_inside_leaves_no_transaction_open() {
        let db = Connection::open_in_memory().unwrap();
        let mut work = Work::new(&db, Kind::Json, 1, 1, KvMode::Insert).unwrap();
        work.step(&db).unwrap_err();
        assert!(db.is_autocommit());
    }
}
