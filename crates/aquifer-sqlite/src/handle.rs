//! A connection to a database that other processes own.
#![allow(
    unsafe_code,
    reason = "SQLite's C interface: snapshots, its file layer and its locks have no safe binding"
)]

use std::ffi::{CStr, c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr::{self, NonNull};

use aquifer_format::{PageSize, Pgno};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, ffi};

use crate::position::WalPosition;
use crate::snapshot::Snapshot;
use crate::{Error, Result, lent_lock, use_wal};

const MAIN: &CStr = c"main";

/// How far the WAL has been copied into the database file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Backfill {
    /// Committed frames in the WAL.
    pub frames: u32,
    /// How many of them, from the first on, are in the database file.
    pub backfilled: u32,
}

impl Backfill {
    /// Whether the database file holds everything.
    pub fn is_complete(self) -> bool {
        self.backfilled >= self.frames
    }

    /// Frames that are only in the WAL.
    pub fn remaining(self) -> u32 {
        self.frames.saturating_sub(self.backfilled)
    }
}

/// SQLite's locks on the WAL index that Aquifer takes by itself. Numbers as in wal.c.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum WalLock {
    /// Held by whoever writes: others' writes wait (their busy timeout runs).
    Write = 0,
    /// Held by whoever checkpoints: others' automatic checkpoints do nothing, explicit ones return busy at once.
    Checkpoint = 1,
}

/// A connection to a database that other processes own. It never writes to it, other than by checkpoints.
#[derive(Debug)]
pub struct Handle {
    path: PathBuf,
    connection: Connection,
    /// SQLite's own open file of the database.
    file: NonNull<ffi::sqlite3_file>,
    reading: bool,
    locks: [bool; 2],
}

// SAFETY: `file` belongs to `connection`, lives as long as it does, and is used through `&self`/`&mut self` of the
// one thread that holds the Handle (it is Send, not Sync, as Connection is).
unsafe impl Send for Handle {}

impl Handle {
    /// Opens an existing database. Reads nothing but its first page.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::NotADatabase`], or [`Error::NotWal`] if it uses a rollback journal.
    pub fn open(path: &Path) -> Result<Handle> {
        let mut handle = Self::open_any_mode(path)?;
        if !handle.is_wal()? {
            return Err(Error::NotWal(path.to_owned()));
        }
        // Checkpoints of ours are steps of capture; closing must not add one that nobody captured before.
        handle.config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        handle.connection.set_prepared_statement_cache_capacity(4);
        handle.execute("PRAGMA wal_autocheckpoint=0")?;
        handle.execute("PRAGMA synchronous=NORMAL")?;
        Ok(handle)
    }

    /// Switches an existing database to WAL mode, if it is not in it. It stays so for all its users.
    pub fn switch_to_wal(path: &Path) -> Result<()> {
        let handle = Self::open_any_mode(path)?;
        let is_wal = use_wal(&handle.connection).map_err(|e| handle.error(e))?;
        if is_wal { Ok(()) } else { Err(Error::NoWal(path.to_owned())) }
    }

    /// The first 100 bytes of an existing database file, whatever its mode, and as they are there: what is in its WAL is
    /// not looked at. Zeros after its end.
    pub fn read_header(path: &Path) -> Result<[u8; 100]> {
        let mut header = [0; 100];
        Self::open_any_mode(path)?.read_at(&mut header, 0)?;
        Ok(header)
    }

    fn open_any_mode(path: &Path) -> Result<Handle> {
        if !path.exists() {
            return Err(Error::Missing(path.to_owned()));
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)
            .map_err(|source| Error::Sqlite { path: path.to_owned(), source })?;
        connection
            .busy_timeout(std::time::Duration::ZERO)
            .map_err(|source| Error::Sqlite { path: path.to_owned(), source })?;
        let mut file: *mut ffi::sqlite3_file = ptr::null_mut();
        // SAFETY: the connection is open, "main" always exists, and FILE_POINTER writes one sqlite3_file pointer.
        let code = unsafe {
            ffi::sqlite3_file_control(
                connection.handle(),
                MAIN.as_ptr(),
                ffi::SQLITE_FCNTL_FILE_POINTER,
                ptr::from_mut(&mut file).cast::<c_void>(),
            )
        };
        let vfs = |code| Error::Vfs { path: path.to_owned(), what: "give its file of", code };
        let file = NonNull::new(file).ok_or_else(|| vfs(code))?;
        // SAFETY: the connection is new, nothing else uses its file.
        if !unsafe { lent_lock::prepare(file) } {
            return Err(vfs(ffi::SQLITE_MISUSE));
        }
        // Small: there may be thousands of connections, and they read hardly anything through SQLite.
        // SAFETY: LOOKASIDE takes a buffer pointer (null: none) and two ints.
        unsafe {
            ffi::sqlite3_db_config(
                connection.handle(),
                ffi::SQLITE_DBCONFIG_LOOKASIDE,
                ptr::null_mut::<c_void>(),
                0 as c_int,
                0 as c_int,
            );
        }
        Ok(Handle { path: path.to_owned(), connection, file, reading: false, locks: [false; 2] })
    }

    /// The database file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn config(&mut self, what: DbConfig, on: bool) -> Result<()> {
        self.connection.set_db_config(what, on).map(|_| ()).map_err(|e| self.error(e))
    }

    fn error(&self, source: rusqlite::Error) -> Error {
        let path = self.path.clone();
        match source.sqlite_error_code() {
            // A WAL's locks that stay contended for seconds are reported as a failed protocol.
            Some(
                rusqlite::ErrorCode::DatabaseBusy
                | rusqlite::ErrorCode::DatabaseLocked
                | rusqlite::ErrorCode::FileLockingProtocolFailed,
            ) => Error::Busy { path, source },
            Some(rusqlite::ErrorCode::NotADatabase) => Error::NotADatabase(path),
            _ => Error::Sqlite { path, source },
        }
    }

    fn failed(&self, code: c_int) -> Error {
        self.error(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None))
    }

    fn execute(&self, sql: &str) -> Result<()> {
        let mut statement = self.connection.prepare_cached(sql).map_err(|e| self.error(e))?;
        let mut rows = statement.query([]).map_err(|e| self.error(e))?;
        while rows.next().map_err(|e| self.error(e))?.is_some() {}
        Ok(())
    }

    /// Bytes 18 and 19 of page 1 tell the journal mode that the file is in: 2 is WAL.
    fn is_wal(&self) -> Result<bool> {
        let mut header = [0; 100];
        self.read_at(&mut header, 0)?;
        if header.iter().all(|&b| b == 0) {
            return Err(Error::Empty(self.path.clone()));
        }
        if !header.starts_with(b"SQLite format 3\0") {
            return Err(Error::NotADatabase(self.path.clone()));
        }
        Ok(header[18] == 2 && header[19] == 2)
    }

    /// Size of the database's pages, from its header.
    pub fn page_size(&self) -> Result<PageSize> {
        let mut bytes = [0; 2];
        self.read_at(&mut bytes, 16)?;
        let size = match u16::from_be_bytes(bytes) {
            1 => 65_536,
            n => u32::from(n),
        };
        PageSize::new(size).map_err(|_| Error::NotADatabase(self.path.clone()))
    }

    /// Begins a read transaction and returns its exact place in the WAL. As long as it lasts, the WAL is not reset (read
    /// lock 1 to 4) unless it is empty, and frames after the place are not copied into the database file.
    ///
    /// # Errors
    /// [`Error::Busy`] while another process recovers the WAL or holds the database exclusively.
    pub fn begin_read(&mut self) -> Result<WalPosition> {
        // sqlite3_snapshot_get() starts the transaction, and never on read lock 0.
        self.begin(None)
    }

    /// As [`begin_read`](Handle::begin_read), but where the database file holds everything, the WAL is ignored (read
    /// lock 0): it may be reset, and nothing is copied into the file until the transaction ends.
    pub fn begin_read_letting_go(&mut self) -> Result<WalPosition> {
        // Starts the transaction without reading the schema.
        self.begin(Some("PRAGMA user_version"))
    }

    fn begin(&mut self, start: Option<&str>) -> Result<WalPosition> {
        assert!(!self.reading, "a read transaction is open already");
        self.execute("BEGIN")?;
        let begun = start.map_or(Ok(()), |sql| self.execute(sql)).and_then(|()| self.snapshot());
        match begun {
            Ok(position) => {
                self.reading = true;
                Ok(position)
            }
            Err(e) => {
                let _ = self.execute("ROLLBACK");
                Err(e)
            }
        }
    }

    fn snapshot(&self) -> Result<WalPosition> {
        match Snapshot::of(&self.connection) {
            Ok(snapshot) => Ok(snapshot.position()),
            // "At least one transaction must have been written to the current WAL file" (sqlite3_snapshot_get).
            Err(ffi::SQLITE_ERROR) if self.is_wal()? => Ok(WalPosition::NO_WAL),
            Err(ffi::SQLITE_ERROR) => Err(Error::NotWal(self.path.clone())),
            Err(code) => Err(self.failed(code)),
        }
    }

    /// Begins a read transaction that sees what the one of `other` sees, and returns its place. `None`, and nothing is
    /// begun, where `other` holds its image in a way that cannot be shared: without a WAL, or on read lock 0 with a WAL
    /// that has been written to since.
    ///
    /// For a moment this needs the checkpoint lock, shared; `lent`: another handle of this thread has it.
    ///
    /// # Errors
    /// [`Error::Busy`] while somebody checkpoints.
    pub(crate) fn begin_read_as(&mut self, other: &Handle, lent: bool) -> Result<Option<WalPosition>> {
        assert!(!self.reading && other.reading, "one begins, the other has begun");
        let Ok(snapshot) = Snapshot::of(&other.connection) else { return Ok(None) };
        self.execute("BEGIN")?;
        let open = || snapshot.open(&self.connection);
        match if lent { lent_lock::lend(self.file, open) } else { open() } {
            Ok(()) => {
                self.reading = true;
                Ok(Some(snapshot.position()))
            }
            Err(code) => {
                let _ = self.execute("ROLLBACK");
                if code == ffi::SQLITE_ERROR_SNAPSHOT { Ok(None) } else { Err(self.failed(code)) }
            }
        }
    }

    /// Ends the read transaction, if there is one.
    pub fn end_read(&mut self) -> Result<()> {
        if self.reading {
            self.reading = false;
            self.execute("ROLLBACK")?;
        }
        Ok(())
    }

    /// Whether a read transaction is open.
    pub fn is_reading(&self) -> bool {
        self.reading
    }

    /// Reads the database file, not the WAL, through SQLite's own descriptor. Beyond the end are zeros.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let methods = self.methods();
        let read = methods.xRead.ok_or_else(|| self.vfs("read", ffi::SQLITE_MISUSE))?;
        let len = c_int::try_from(buffer.len()).map_err(|_| self.vfs("read", ffi::SQLITE_MISUSE))?;
        // SAFETY: `file` is open, the buffer holds `len` bytes.
        let code = unsafe { read(self.file.as_ptr(), buffer.as_mut_ptr().cast(), len, offset as i64) };
        // A short read fills the rest with zeros (sqlite3_io_methods, xRead).
        if code == ffi::SQLITE_OK || code == ffi::SQLITE_IOERR_SHORT_READ {
            Ok(())
        } else {
            Err(self.vfs("read", code))
        }
    }

    /// Reads a page of the database file, not of the WAL. Beyond the end are zeros.
    pub fn read_page(&self, pgno: Pgno, page: &mut [u8]) -> Result<()> {
        self.read_at(page, (u64::from(pgno.get()) - 1) * page.len() as u64)
    }

    /// Length of the database file in bytes.
    pub fn file_len(&self) -> Result<u64> {
        let size = self.methods().xFileSize.ok_or_else(|| self.vfs("measure", ffi::SQLITE_MISUSE))?;
        let mut len: ffi::sqlite3_int64 = 0;
        // SAFETY: `file` is open, `len` is written.
        let code = unsafe { size(self.file.as_ptr(), &raw mut len) };
        if code == ffi::SQLITE_OK { Ok(len as u64) } else { Err(self.vfs("measure", code)) }
    }

    /// Flushes the database file to disk, so that a checkpoint that completes right after has little to flush.
    pub fn sync_file(&self) -> Result<()> {
        let sync = self.methods().xSync.ok_or_else(|| self.vfs("flush", ffi::SQLITE_MISUSE))?;
        // SAFETY: `file` is open.
        let code = unsafe { sync(self.file.as_ptr(), ffi::SQLITE_SYNC_NORMAL) };
        if code == ffi::SQLITE_OK { Ok(()) } else { Err(self.vfs("flush", code)) }
    }

    /// Copies what no reader forbids from the WAL into the database file (a passive checkpoint): blocks nobody.
    ///
    /// # Errors
    /// [`Error::Busy`] while another process checkpoints.
    pub fn checkpoint(&mut self) -> Result<Backfill> {
        self.wal_checkpoint(ffi::SQLITE_CHECKPOINT_PASSIVE)
    }

    /// The same while another handle of this database holds [`WalLock::Checkpoint`], and goes on holding it.
    pub(crate) fn checkpoint_with_lent_lock(&mut self) -> Result<Backfill> {
        lent_lock::lend(self.file, || self.checkpoint())
    }

    /// How far the WAL has been copied into the database file; does nothing.
    pub fn backfill(&mut self) -> Result<Backfill> {
        self.wal_checkpoint(SQLITE_CHECKPOINT_NOOP)
    }

    fn wal_checkpoint(&mut self, mode: c_int) -> Result<Backfill> {
        let (mut frames, mut backfilled): (c_int, c_int) = (-1, -1);
        // SAFETY: the connection is open; both counters are written.
        let code = unsafe {
            ffi::sqlite3_wal_checkpoint_v2(
                self.connection.handle(),
                MAIN.as_ptr(),
                mode,
                &raw mut frames,
                &raw mut backfilled,
            )
        };
        if code == ffi::SQLITE_OK {
            Ok(Backfill { frames: frames.max(0) as u32, backfilled: backfilled.max(0) as u32 })
        } else {
            Err(self.failed(code))
        }
    }

    /// Takes one of the WAL index's locks without waiting; false if another connection has it.
    ///
    /// Needs a [`begin_read`](Handle::begin_read) before, ever: the WAL index must be open.
    pub(crate) fn try_lock(&mut self, lock: WalLock) -> Result<bool> {
        if self.locks[lock as usize] {
            return Ok(true);
        }
        let code = self.shm_lock(lock, ffi::SQLITE_SHM_LOCK | ffi::SQLITE_SHM_EXCLUSIVE);
        match code {
            ffi::SQLITE_OK => {
                self.locks[lock as usize] = true;
                Ok(true)
            }
            ffi::SQLITE_BUSY => Ok(false),
            code => Err(self.vfs("lock", code)),
        }
    }

    /// Whether this handle holds the lock.
    pub(crate) fn holds(&self, lock: WalLock) -> bool {
        self.locks[lock as usize]
    }

    /// Gives a lock back, if it is held.
    pub(crate) fn unlock(&mut self, lock: WalLock) {
        if std::mem::take(&mut self.locks[lock as usize]) {
            let code = self.shm_lock(lock, ffi::SQLITE_SHM_UNLOCK | ffi::SQLITE_SHM_EXCLUSIVE);
            if code != ffi::SQLITE_OK {
                tracing::error!(path = %self.path.display(), ?lock, code, "cannot give back a WAL lock");
            }
        }
    }

    fn shm_lock(&self, lock: WalLock, flags: c_int) -> c_int {
        match self.methods().xShmLock {
            // SAFETY: `file` is open. SQLite's unix VFS returns IOERR_SHMLOCK where the WAL index is not open, and
            // keeps book of locks per connection, so that those taken here and those taken by SQLite do not mix:
            // SQLite asks for WRITE and CHECKPOINT on this connection only in calls that are made while we hold
            // neither (checked by `locks`), or reports BUSY.
            Some(shm_lock) => unsafe { shm_lock(self.file.as_ptr(), lock as c_int, 1, flags) },
            None => ffi::SQLITE_MISUSE,
        }
    }

    fn methods(&self) -> &ffi::sqlite3_io_methods {
        // SAFETY: `file` is open, and an open file's methods are a static table of its VFS, or a leaked one of ours.
        unsafe { &*(*self.file.as_ptr()).pMethods }
    }

    fn vfs(&self, what: &'static str, code: c_int) -> Error {
        Error::Vfs { path: self.path.clone(), what, code }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SQLite counts a connection's locks per process: one that closes with them held would block its siblings.
        self.unlock(WalLock::Write);
        self.unlock(WalLock::Checkpoint);
    }
}

/// Since SQLite 3.51; the bundled bindings do not name it.
const SQLITE_CHECKPOINT_NOOP: c_int = -1;
