//! Switching a database to a WAL.

use rusqlite::Connection;

/// Switches a connection's database to a WAL; false: it stays what it is. For who waits in vain for the lock that this
/// takes, it is busy.
///
/// # Errors
/// What SQLite says. It gives the new mode first, and writes it then: who asks for the answer alone does not hear that the
/// disk was full.
pub fn use_wal(connection: &Connection) -> rusqlite::Result<bool> {
    let mut statement = connection.prepare("PRAGMA journal_mode=WAL")?;
    let mut rows = statement.query([])?;
    let mut is_wal = false;
    while let Some(row) = rows.next()? {
        is_wal = row.get_ref(0)?.as_str()? == "wal";
    }
    Ok(is_wal)
}
