//! Places in a WAL that read transactions can be begun at.
#![allow(unsafe_code, reason = "SQLite's snapshots have no safe binding")]

use std::ffi::{CStr, c_int};
use std::ptr::{self, NonNull};

use rusqlite::{Connection, ffi};

use crate::position::WalPosition;

const MAIN: &CStr = c"main";

/// What a read transaction sees, for another connection to see the same.
#[derive(Debug)]
pub(crate) struct Snapshot(NonNull<ffi::sqlite3_snapshot>);

impl Snapshot {
    /// Of a connection inside `BEGIN`. Starts its read transaction, if it has none, and never on read lock 0. The error
    /// is SQLite's; `SQLITE_ERROR`: nothing has been written to the WAL yet.
    pub(crate) fn of(connection: &Connection) -> Result<Snapshot, c_int> {
        let mut snapshot: *mut ffi::sqlite3_snapshot = ptr::null_mut();
        // SAFETY: the connection is open; on success SQLite sets `snapshot`.
        let code =
            unsafe { ffi::sqlite3_snapshot_get(connection.handle(), MAIN.as_ptr(), &raw mut snapshot) };
        match NonNull::new(snapshot) {
            Some(snapshot) if code == ffi::SQLITE_OK => Ok(Snapshot(snapshot)),
            _ => Err(code),
        }
    }

    /// Its exact place.
    pub(crate) fn position(&self) -> WalPosition {
        // SAFETY: a sqlite3_snapshot is 48 bytes, ours until freed.
        WalPosition::from_index_header(unsafe { &self.0.as_ref().hidden })
    }

    /// Begins the read transaction of a connection that is inside `BEGIN` and has read nothing. `SQLITE_ERROR_SNAPSHOT`:
    /// what it saw is not all there any more.
    pub(crate) fn open(&self, connection: &Connection) -> Result<(), c_int> {
        // SAFETY: the connection is open and the snapshot is one of SQLite's.
        let code = unsafe { ffi::sqlite3_snapshot_open(connection.handle(), MAIN.as_ptr(), self.0.as_ptr()) };
        if code == ffi::SQLITE_OK { Ok(()) } else { Err(code) }
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        // SAFETY: obtained from sqlite3_snapshot_get, freed once.
        unsafe { ffi::sqlite3_snapshot_free(self.0.as_ptr()) };
    }
}
