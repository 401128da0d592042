//! Which of the application's transactions a database holds.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::schema::{crc32, log_sum};

/// What is wrong with a database of the application.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum LogError {
    #[error("cannot read the database: {0}")]
    Sqlite(#[from] rusqlite::Error),
    #[error("integrity_check: {0}")]
    Integrity(String),
    #[error("log row {expected} is missing: row {found} is next")]
    Gap { expected: u64, found: u64 },
    #[error("log row {n} has sum {found:#010x}, its content and the row before give {expected:#010x}")]
    Sum { n: u64, found: u32, expected: u32 },
    #[error("the last log row is {log}, but its own transaction wrote state {state}")]
    State { log: u64, state: u64 },
    #[error("the balances add up to {0} instead of 0: half a transaction")]
    Balance(i64),
    #[error("row {0} of scratch is not what was written")]
    Scratch(i64),
}

/// The number n of the newest transaction in the database at `path`, having proved that exactly transactions
/// 1 to n are in it, each whole. 0 where the application has not made its tables yet.
///
/// The database may be in use: one snapshot of it is read.
///
/// # Errors
/// The first thing found wrong.
pub fn check_log(path: &Path) -> Result<u64, LogError> {
    // Writable, since the last connection to close then removes the files beside a WAL database.
    let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    db.busy_timeout(std::time::Duration::from_secs(10))?;
    db.execute_batch("BEGIN")?;
    let verdict: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
    if verdict != "ok" {
        return Err(LogError::Integrity(verdict));
    }
    let tables: i64 =
        db.query_row("SELECT count(*) FROM sqlite_schema WHERE name='state'", [], |row| row.get(0))?;
    if tables == 0 {
        return Ok(0);
    }
    let last = check_rows(&db)?;
    let state = db.query_row("SELECT last FROM state", [], |row| row.get::<_, i64>(0))? as u64;
    if state != last {
        return Err(LogError::State { log: last, state });
    }
    let balance: i64 = db.query_row("SELECT sum(balance) FROM account", [], |row| row.get(0))?;
    if balance != 0 {
        return Err(LogError::Balance(balance));
    }
    check_scratch(&db)?;
    Ok(last)
}

fn check_rows(db: &Connection) -> Result<u64, LogError> {
    let mut statement = db.prepare("SELECT n, sum, payload FROM log ORDER BY n")?;
    let mut rows = statement.query([])?;
    let (mut last, mut previous) = (0, 0);
    while let Some(row) = rows.next()? {
        let (n, found) = (row.get::<_, i64>(0)? as u64, row.get(1)?);
        if n != last + 1 {
            return Err(LogError::Gap { expected: last + 1, found: n });
        }
        let payload = row.get_ref(2)?.as_blob().map_err(rusqlite::Error::from)?;
        let expected = log_sum(n, previous, payload);
        if found != expected {
            return Err(LogError::Sum { n, found, expected });
        }
        (last, previous) = (n, found);
    }
    Ok(last)
}

fn check_scratch(db: &Connection) -> Result<(), LogError> {
    let mut statement = db.prepare("SELECT id, sum, data FROM scratch")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let data = row.get_ref(2)?.as_blob().map_err(rusqlite::Error::from)?;
        if row.get::<_, u32>(1)? != crc32([data]) {
            return Err(LogError::Scratch(row.get(0)?));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::options::{AppOptions, Mix};
    use super::super::schema::open;
    use super::super::transaction::commit_next;
    use super::*;
    use crate::workload::Rng;

    /// The error after `damage` was done to a database of 60 transactions.
    fn after(damage: &str) -> LogError {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        let db = open(&path, &AppOptions::default()).unwrap();
        let mut rng = Rng::new(4);
        for _ in 0..60 {
            commit_next(&db, &mut rng, Mix::Mixed).unwrap();
        }
        db.execute_batch("INSERT INTO scratch VALUES(1000000, 0x352441c2, 'abc')").unwrap();
        db.execute_batch("UPDATE scratch SET data=CAST(data AS BLOB)").unwrap();
        assert_eq!(check_log(&path).unwrap(), 60);
        db.execute_batch(damage).unwrap();
        check_log(&path).unwrap_err()
    }

    #[test]
    fn every_kind_of_loss_is_found() {
        assert!(matches!(after("DELETE FROM log WHERE n=30"), LogError::Gap { expected: 30, found: 31 }));
        assert!(matches!(after("DELETE FROM log WHERE n=60"), LogError::State { log: 59, state: 60 }));
        assert!(matches!(after("UPDATE log SET payload=x'00' WHERE n=20"), LogError::Sum { n: 20, .. }));
        assert!(matches!(after("UPDATE account SET balance=balance+7 WHERE id=3"), LogError::Balance(7)));
        assert!(matches!(
            after("UPDATE scratch SET data=x'616264' WHERE id=1000000"),
            LogError::Scratch(1_000_000)
        ));
        assert!(matches!(
            after(
                "PRAGMA writable_schema=1;
                 UPDATE sqlite_schema SET rootpage=(SELECT rootpage FROM sqlite_schema WHERE name='log')
                  WHERE name='account_balance'"
            ),
            LogError::Integrity(_) | LogError::Sqlite(_)
        ));
    }

    #[test]
    fn database_without_the_tables_holds_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("empty.db");
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE t(x)").unwrap();
        assert_eq!(check_log(&path).unwrap(), 0);
        assert!(matches!(check_log(&dir.path().join("none.db")), Err(LogError::Sqlite(_))));
    }
}
