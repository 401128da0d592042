//! What a connection remembers of its last insert.
#![allow(unsafe_code, reason = "the call has no safe binding")]

use rusqlite::{Connection, ffi};

/// Makes `last_insert_rowid()` of a connection 0, as it is on a new one.
pub fn forget_last_insert_rowid(connection: &Connection) {
    // SAFETY: the connection is open for as long as it is borrowed, and this call does nothing else with it.
    unsafe { ffi::sqlite3_set_last_insert_rowid(connection.handle(), 0) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_forgets_its_last_insert() {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch("CREATE TABLE t (a); INSERT INTO t (rowid) VALUES (7)").unwrap();
        assert_eq!(db.last_insert_rowid(), 7);
        forget_last_insert_rowid(&db);
        assert_eq!(db.last_insert_rowid(), 0);
    }
}
