//! The application's tables, and the sums that prove its rows. `foreign/app.py` has the same.

use rusqlite::{Connection, Result};

use super::options::AppOptions;
use std::path::Path;
use std::time::Duration;

/// In one transaction, so that a database has all of it or nothing.
///
/// - `log`: row n for transaction n; its `sum` covers the row and the sum of the row before.
/// - `state.last`: the newest n, written by the same transaction.
/// - `account`: transfers between rows; the balances always add up to 0.
/// - `scratch`: blobs that come and go, each with the sum of its bytes.
const SCHEMA: &str = "
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS log(n INTEGER PRIMARY KEY, sum INTEGER NOT NULL, payload BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS state(one INTEGER PRIMARY KEY CHECK(one=1), last INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS account(id INTEGER PRIMARY KEY, balance INTEGER NOT NULL, note TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS account_balance ON account(balance);
CREATE TABLE IF NOT EXISTS scratch(id INTEGER PRIMARY KEY, sum INTEGER NOT NULL, data BLOB NOT NULL);
WITH RECURSIVE i(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM i WHERE i<1000)
  INSERT OR IGNORE INTO account SELECT i, 0, 'account number ' || i FROM i;
INSERT OR IGNORE INTO state VALUES(1, 0);
COMMIT;";

/// Rows of `account`, with ids from 1.
pub(super) const ACCOUNTS: u64 = 1000;

/// Opens the database as the options say, and makes its tables where it has none.
pub(super) fn open(path: &Path, options: &AppOptions) -> Result<Connection> {
    let db = Connection::open(path)?;
    db.busy_timeout(Duration::from_millis(options.busy_timeout_ms.into()))?;
    db.set_prepared_statement_cache_capacity(64);
    // A small cache, so that large transactions reach the WAL before they commit.
    db.execute_batch(&format!(
        "PRAGMA page_size={}; PRAGMA auto_vacuum={}; PRAGMA journal_mode={}; PRAGMA synchronous={};
         PRAGMA wal_autocheckpoint={}; PRAGMA cache_size=-256;",
        options.page_size,
        options.auto_vacuum.word(),
        options.journal_mode.word(),
        options.synchronous.word(),
        options.autocheckpoint,
    ))?;
    let tables: i64 =
        db.query_row("SELECT count(*) FROM sqlite_schema WHERE name='state'", [], |row| row.get(0))?;
    if tables == 0 {
        db.execute_batch(SCHEMA)?;
    }
    Ok(db)
}

/// The sum of log row `n`, which follows the row with sum `previous`.
pub(super) fn log_sum(n: u64, previous: u32, payload: &[u8]) -> u32 {
    crc32([&n.to_le_bytes()[..], &previous.to_le_bytes()[..], payload])
}

/// CRC-32 as zlib computes it, over the concatenation of the parts.
pub(super) fn crc32<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u32 {
    const TABLE: [u32; 256] = table();
    let bytes = parts.into_iter().flatten();
    !bytes.fold(!0, |crc, &byte| (crc >> 8) ^ TABLE[((crc ^ u32::from(byte)) & 0xFF) as usize])
}

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = index as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_is_that_of_zlib() {
        // The check value of CRC-32/ISO-HDLC.
        assert_eq!(crc32([&b"12345"[..], &b"6789"[..]]), 0xCBF4_3926);
    }
}
