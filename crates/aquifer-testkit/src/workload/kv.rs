//! A key-value table: one narrow row per key.

use rusqlite::{Connection, Result, params};

use super::build::{Size, grow};
use super::text::{EPOCH, Source};
use super::work::KvMode;

const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS kv(k INTEGER PRIMARY KEY, ts INTEGER, n INTEGER, v TEXT);";

/// Spreads the popular keys over the whole table, so that skewed updates do not share pages.
const SPREAD: u64 = 0x9E37_79B1;

pub(super) fn build(db: &mut Connection, source: &mut Source, size: Size) -> Result<()> {
    db.execute_batch(SCHEMA)?;
    let mut key = 0;
    grow(db, size, |tx| {
        for _ in 0..2000 {
            key += 1;
            insert(tx, source, key)?;
        }
        Ok(())
    })
}

/// The keys there are, and what is done with them.
#[derive(Debug)]
pub(super) struct Keys {
    next: u64,
    mode: KvMode,
}

impl Keys {
    /// Continues after the keys that the table has; makes the table where there is none.
    pub(super) fn open(db: &Connection, mode: KvMode) -> Result<Keys> {
        db.execute_batch(SCHEMA)?;
        let next: i64 = db.query_row("SELECT coalesce(max(k),0)+1 FROM kv", [], |row| row.get(0))?;
        Ok(Keys { next: next as u64, mode })
    }

    pub(super) fn operate(&mut self, db: &Connection, source: &mut Source) -> Result<()> {
        let keys = self.next - 1;
        let key = match self.mode {
            // The first key must come from an insert.
            _ if keys == 0 => return self.append(db, source),
            KvMode::Insert => return self.append(db, source),
            KvMode::UpdateUniform => 1 + source.rng.below(keys),
            KvMode::UpdateSkewed => 1 + source.rng.zipf(keys).wrapping_mul(SPREAD) % keys,
        };
        db.prepare_cached("UPDATE kv SET n=n+1, ts=ts+? WHERE k=?")?
            .execute(params![source.rng.below(100) as i64, key as i64])?;
        Ok(())
    }

    fn append(&mut self, db: &Connection, source: &mut Source) -> Result<()> {
        insert(db, source, self.next)?;
        self.next += 1;
        Ok(())
    }
}

fn insert(db: &Connection, source: &mut Source, key: u64) -> Result<()> {
    db.prepare_cached("INSERT INTO kv VALUES(?,?,?,?)")?.execute(params![
        key as i64,
        (EPOCH + key) as i64,
        source.rng.below(1 << 30) as i64,
        source.text(60, 140)
    ])?;
    Ok(())
}
