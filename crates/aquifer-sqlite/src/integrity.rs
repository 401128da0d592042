//! SQLite's own check of a database file.

use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::{Error, Result};

/// Runs `PRAGMA integrity_check` on a file that nobody writes to; returns what it finds, about 100 problems at most.
///
/// Where there is so much wrong that SQLite does not get to checking, that is what it finds. Reads the file alone, whatever WAL
/// or journal lies beside it, and leaves none.
pub fn integrity_check(path: &Path) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    match check(path, &mut problems) {
        Err(Error::Sqlite { source, .. })
            if matches!(
                source.sqlite_error_code(),
                Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
            ) =>
        {
            problems.push(source.to_string());
        }
        checked => checked?,
    }
    Ok(problems)
}

fn check(path: &Path, problems: &mut Vec<String>) -> Result<()> {
    let error = |source| Error::Sqlite { path: path.to_owned(), source };
    let absolute = std::path::absolute(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(immutable_uri(&absolute), flags).map_err(error)?;
    let mut statement = connection.prepare("PRAGMA integrity_check").map_err(error)?;
    for line in statement.query_map([], |row| row.get::<_, String>(0)).map_err(error)? {
        problems.extend(Some(line.map_err(error)?).filter(|line| line != "ok"));
    }
    Ok(())
}

/// A URI by which SQLite takes no locks and looks for no WAL (sqlite.org/uri.html, "immutable").
fn immutable_uri(path: &Path) -> String {
    let mut uri = String::from("file:");
    for &byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' | b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => uri.push(char::from(byte)),
            _ => {
                let _ = write!(uri, "%{byte:02X}");
            }
        }
    }
    uri.push_str("?immutable=1");
    uri
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sound_database_has_no_problems_and_gets_no_wal() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a ?#%é.db");
        let connection = Connection::open(&path).unwrap();
        connection
            .execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(x); CREATE INDEX i ON t(x); INSERT INTO t VALUES(randomblob(9000))")
            .unwrap();
        drop(connection);
        assert_eq!(integrity_check(&path).unwrap(), Vec::<String>::new());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);

        let mut bytes = std::fs::read(&path).unwrap();
        let last = bytes.len() - 4096;
        bytes[last..].fill(0x55);
        std::fs::write(&path, bytes).unwrap();
        assert!(!integrity_check(&path).unwrap().is_empty());
    }

    #[test]
    fn what_keeps_sqlite_from_checking_is_a_problem_that_it_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, [1; 4096]).unwrap();
        assert_eq!(integrity_check(&path).unwrap(), ["file is not a database"]);

        std::fs::remove_file(&path).unwrap();
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch("CREATE TABLE t(x)").unwrap();
        drop(connection);
        let mut bytes = std::fs::read(&path).unwrap();
        // The schema's page is none of a b-tree.
        bytes[100] = 0x77;
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(integrity_check(&path).unwrap(), ["database disk image is malformed"]);

        std::fs::remove_file(&path).unwrap();
        integrity_check(&path).unwrap_err();
    }
}
