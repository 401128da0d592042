//! Making sure that nobody uses a database that is about to be replaced.

use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::{Error, Result};

/// How long others' transactions are waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// SQLite's exclusive lock on a database: while this exists, no other connection reads or writes it.
///
/// What was in its WAL or rollback journal is in its file, so that those can be removed.
#[derive(Debug)]
pub struct Takeover {
    /// None where the file is no database: there is nothing to lock.
    _connection: Option<Connection>,
}

/// Takes a database over from all others, to replace its file.
///
/// In WAL mode any open connection that has read from it stands in the way. With a rollback journal only those
/// inside a transaction do: the others hold no lock that could be seen.
///
/// # Errors
/// [`Error::Busy`] if another connection uses it.
pub fn take_over(path: &Path) -> Result<Takeover> {
    let error = |source: rusqlite::Error| match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            Error::Busy { path: path.to_owned(), source }
        }
        _ => Error::Sqlite { path: path.to_owned(), source },
    };
    // Locking an empty file for writing would make it a database.
    if std::fs::metadata(path).is_ok_and(|file| file.len() == 0) {
        return Ok(Takeover { _connection: None });
    }
    match lock(path) {
        Ok(connection) => Ok(Takeover { _connection: Some(connection) }),
        Err(source) => match source.sqlite_error_code() {
            // Nobody can use it either.
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => Ok(Takeover { _connection: None }),
            _ => Err(error(source)),
        },
    }
}

fn lock(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(PATIENCE)?;
    // At closing, SQLite would remove the WAL by name: by then that of the new file.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    // Before the first access, so that a WAL's index is kept in memory and all of the file is locked
    // (sqlite.org/wal.html, "Use of WAL Without Shared-Memory").
    connection.pragma_update(None, "locking_mode", "exclusive")?;
    connection.execute_batch("BEGIN EXCLUSIVE; COMMIT")?;
    let busy: i64 = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    if busy != 0 {
        let busy = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
        return Err(rusqlite::Error::SqliteFailure(busy, Some("the WAL cannot be checkpointed".to_owned())));
    }
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(path: &Path, mode: &str) -> Connection {
        let connection = Connection::open(path).unwrap();
        connection.pragma_update(None, "journal_mode", mode).unwrap();
        connection
            .execute_batch("PRAGMA wal_autocheckpoint=0; CREATE TABLE t(x); INSERT INTO t VALUES(1)")
            .unwrap();
        connection
    }

    #[test]
    fn an_open_connection_in_wal_mode_stands_in_the_way() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let other = database(&path, "wal");
        other.busy_timeout(Duration::ZERO).unwrap();
        assert!(matches!(take_over(&path), Err(Error::Busy { .. })));
        drop(other);
        let taken = take_over(&path).unwrap();
        let other = Connection::open(&path).unwrap();
        other.busy_timeout(Duration::ZERO).unwrap();
        assert!(other.query_row("SELECT x FROM t", [], |row| row.get::<_, i64>(0)).is_err());
        drop(taken);
        assert_eq!(other.query_row("SELECT x FROM t", [], |row| row.get::<_, i64>(0)).unwrap(), 1);
    }

    #[test]
    fn a_transaction_with_a_rollback_journal_stands_in_the_way() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let other = database(&path, "delete");
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        assert!(matches!(take_over(&path), Err(Error::Busy { .. })));
        other.execute_batch("COMMIT").unwrap();
        take_over(&path).unwrap();
    }

    #[test]
    fn what_was_only_in_the_wal_is_in_the_file_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let connection = database(&path, "wal");
        // As after a kill: copied while open, so that closing does not empty the WAL.
        let killed = dir.path().join("b.db");
        std::fs::copy(&path, &killed).unwrap();
        std::fs::copy(dir.path().join("a.db-wal"), dir.path().join("b.db-wal")).unwrap();
        drop(connection);
        drop(take_over(&killed).unwrap());
        assert_eq!(std::fs::metadata(dir.path().join("b.db-wal")).map_or(0, |m| m.len()), 0);
        let other = Connection::open(&killed).unwrap();
        assert_eq!(other.query_row("SELECT x FROM t", [], |row| row.get::<_, i64>(0)).unwrap(), 1);
    }

    #[test]
    fn what_is_no_database_can_be_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        for content in [&b""[..], b"hello", &[7; 5000]] {
            let path = dir.path().join("x");
            std::fs::write(&path, content).unwrap();
            take_over(&path).unwrap();
            assert!(std::fs::read(&path).unwrap() == content);
        }
    }
}
