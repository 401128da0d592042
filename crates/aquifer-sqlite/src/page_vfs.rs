//! Queries over pages from anywhere, with a note of the pages that they read.
//!
//! A VFS of our own serves one file: the database, read-only, page by page, from a [`ReadPages`]. SQLite takes it for
//! an immutable file with a rollback journal, so it needs no locks, no WAL and no other file.
#![allow(unsafe_code, reason = "SQLite's file layer is a table of C functions")]

use std::collections::{BTreeSet, HashMap};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use aquifer_format::{PageSize, Pgno};
use rusqlite::{Connection, OpenFlags, ffi};

/// The pages of one image of a database.
pub trait ReadPages: Send {
    /// Size of its pages.
    fn page_size(&self) -> PageSize;

    /// Size of the database, in pages.
    fn pages(&self) -> u32;

    /// Fills `page`, which has the size of a page; false if it cannot be read.
    fn read(&mut self, pgno: Pgno, page: &mut [u8]) -> bool;
}

/// Which pages of an image were read.
#[derive(Clone)]
pub struct PagesRead(Arc<Mutex<Image>>);

struct Image {
    pages: Box<dyn ReadPages>,
    read: BTreeSet<Pgno>,
    /// The page that was read last: SQLite reads the header of page 1 in pieces.
    last: Option<(Pgno, Vec<u8>)>,
}

const NAME: &CStr = c"aquifer-pages";

/// Images by the number in their file's name, for the moment in which they are opened.
static IMAGES: LazyLock<Mutex<HashMap<u64, Arc<Mutex<Image>>>>> = LazyLock::new(Mutex::default);
static NUMBERS: AtomicU64 = AtomicU64::new(1);

/// Opens an image: a connection that can query it, and a note of what that reads.
///
/// # Errors
/// What SQLite says if it is no database.
pub fn open_pages(pages: Box<dyn ReadPages>) -> rusqlite::Result<(Connection, PagesRead)> {
    register()?;
    let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
    let image = Arc::new(Mutex::new(Image { pages, read: BTreeSet::new(), last: None }));
    images().insert(number, Arc::clone(&image));
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let opened = Connection::open_with_flags_and_vfs(number.to_string(), flags, NAME);
    images().remove(&number);
    let connection = opened?;
    // It has no other files.
    connection.pragma_update(None, "temp_store", "memory")?;
    Ok((connection, PagesRead(image)))
}

impl PagesRead {
    /// The pages that were read until now, ascending.
    pub fn pages(&self) -> BTreeSet<Pgno> {
        lock(&self.0).read.clone()
    }
}

impl std::fmt::Debug for PagesRead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("PagesRead").finish_non_exhaustive()
    }
}

fn images() -> std::sync::MutexGuard<'static, HashMap<u64, Arc<Mutex<Image>>>> {
    lock(&IMAGES)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Image {
    /// Reads bytes of the file; false where a page cannot be read, `None` beyond the end.
    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> Option<bool> {
        let size = self.pages.page_size().bytes() as u64;
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done as u64;
            let (index, within) = (at / size, (at % size) as usize);
            if index >= u64::from(self.pages.pages()) {
                buffer[done..].fill(0);
                return None;
            }
            let pgno = Pgno::from_index(index as u32);
            if self.last.as_ref().is_none_or(|(last, _)| *last != pgno) {
                let mut page = self.last.take().map_or_else(|| vec![0; size as usize], |(_, page)| page);
                if !self.pages.read(pgno, &mut page) {
                    return Some(false);
                }
                if pgno == Pgno::ONE && page.len() > 19 {
                    // Not WAL mode: it needs files of its own.
                    page[18..20].fill(1);
                }
                self.read.insert(pgno);
                self.last = Some((pgno, page));
            }
            let page = self.last.as_ref().map_or(&[][..], |(_, page)| page);
            let n = (page.len() - within).min(buffer.len() - done);
            buffer[done..done + n].copy_from_slice(&page[within..within + n]);
            done += n;
        }
        Some(true)
    }
}

/// An open file, as SQLite sees it: the methods come first.
#[repr(C)]
struct PageFile {
    methods: *const ffi::sqlite3_io_methods,
    /// An `Arc`, given back by `close`.
    image: *const Mutex<Image>,
}

/// A VFS's pointers and numbers never change once it is registered.
struct Static<T>(T);
// SAFETY: what is in it is written once, before it is shared, and only read afterwards; SQLite changes `pNext` of a VFS
// under its own lock.
unsafe impl<T> Sync for Static<T> {}
// SAFETY: as above.
unsafe impl<T> Send for Static<T> {}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 1,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(no_lock),
    xUnlock: Some(no_lock),
    xCheckReservedLock: Some(no_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(characteristics),
    xShmMap: None,
    xShmLock: None,
    xShmBarrier: None,
    xShmUnmap: None,
    xFetch: None,
    xUnfetch: None,
};

/// Registers the VFS, once.
fn register() -> rusqlite::Result<()> {
    static REGISTERED: LazyLock<Static<c_int>> = LazyLock::new(|| {
        // SAFETY: without a name this gives the default VFS, which lives as long as the program.
        let default = unsafe { ffi::sqlite3_vfs_find(ptr::null()) };
        if default.is_null() {
            return Static(ffi::SQLITE_ERROR);
        }
        // SAFETY: it is a VFS of SQLite's; copied are numbers and pointers to functions that need no state but their own.
        let mut vfs = unsafe { *default };
        vfs.pNext = ptr::null_mut();
        vfs.zName = NAME.as_ptr();
        vfs.szOsFile = size_of::<PageFile>() as c_int;
        vfs.xOpen = Some(open);
        vfs.xDelete = Some(delete);
        vfs.xAccess = Some(access);
        vfs.xFullPathname = Some(full_pathname);
        // SAFETY: the VFS is leaked, so it lives as long as SQLite may use it; it is not made the default one.
        Static(unsafe { ffi::sqlite3_vfs_register(Box::leak(Box::new(vfs)), 0) })
    });
    match REGISTERED.0 {
        ffi::SQLITE_OK => Ok(()),
        code => Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)),
    }
}

/// # Safety
/// Called by SQLite: `name` is a string or null, `file` has room for a [`PageFile`], `out` is null or writable.
unsafe extern "C" fn open(
    _: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    let file = file.cast::<PageFile>();
    // SAFETY: as above. Without methods SQLite does not close it.
    unsafe { (*file).methods = ptr::null() };
    if name.is_null() || flags & ffi::SQLITE_OPEN_MAIN_DB == 0 {
        return ffi::SQLITE_CANTOPEN;
    }
    // SAFETY: a name is a string that ends with a zero.
    let name = unsafe { CStr::from_ptr(name) };
    let number = name.to_str().ok().and_then(|name| name.parse::<u64>().ok());
    let Some(image) = number.and_then(|number| images().get(&number).map(Arc::clone)) else {
        return ffi::SQLITE_CANTOPEN;
    };
    // SAFETY: as above; the image is given back by `close`, which SQLite calls once.
    unsafe {
        (*file).image = Arc::into_raw(image);
        (*file).methods = &raw const METHODS;
        if !out.is_null() {
            *out = ffi::SQLITE_OPEN_READONLY;
        }
    }
    ffi::SQLITE_OK
}

/// # Safety
/// `file` was opened by [`open`] and is not closed.
unsafe fn image_of<'a>(file: *mut ffi::sqlite3_file) -> &'a Mutex<Image> {
    // SAFETY: by the condition above its image lives.
    unsafe { &*(*file.cast::<PageFile>()).image }
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: SQLite closes what `open` opened, once.
    drop(unsafe { Arc::from_raw((*file.cast::<PageFile>()).image) });
    ffi::SQLITE_OK
}

unsafe extern "C" fn read(
    file: *mut ffi::sqlite3_file,
    buffer: *mut c_void,
    amount: c_int,
    offset: ffi::sqlite3_int64,
) -> c_int {
    // SAFETY: SQLite gives an open file, and a buffer of this many bytes.
    let (image, buffer) = unsafe {
        (image_of(file), std::slice::from_raw_parts_mut(buffer.cast::<u8>(), amount.max(0) as usize))
    };
    // No panic may pass through SQLite.
    let done = catch_unwind(AssertUnwindSafe(|| lock(image).read_at(buffer, offset.max(0) as u64)));
    match done {
        Ok(Some(true)) => ffi::SQLITE_OK,
        Ok(None) => ffi::SQLITE_IOERR_SHORT_READ,
        Ok(Some(false)) | Err(_) => ffi::SQLITE_IOERR_READ,
    }
}

unsafe extern "C" fn file_size(file: *mut ffi::sqlite3_file, size: *mut ffi::sqlite3_int64) -> c_int {
    // SAFETY: SQLite gives an open file and a place to write to.
    let image = lock(unsafe { image_of(file) });
    let bytes = i64::from(image.pages.pages()) * i64::from(image.pages.page_size().get());
    // SAFETY: as above.
    unsafe { *size = bytes };
    ffi::SQLITE_OK
}

unsafe extern "C" fn write(
    _: *mut ffi::sqlite3_file,
    _: *const c_void,
    _: c_int,
    _: ffi::sqlite3_int64,
) -> c_int {
    ffi::SQLITE_READONLY
}

unsafe extern "C" fn truncate(_: *mut ffi::sqlite3_file, _: ffi::sqlite3_int64) -> c_int {
    ffi::SQLITE_READONLY
}

unsafe extern "C" fn sync(_: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    ffi::SQLITE_OK
}

unsafe extern "C" fn no_lock(_: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    ffi::SQLITE_OK
}

unsafe extern "C" fn no_reserved_lock(_: *mut ffi::sqlite3_file, locked: *mut c_int) -> c_int {
    // SAFETY: SQLite gives a place to write to.
    unsafe { *locked = 0 };
    ffi::SQLITE_OK
}

unsafe extern "C" fn file_control(_: *mut ffi::sqlite3_file, _: c_int, _: *mut c_void) -> c_int {
    ffi::SQLITE_NOTFOUND
}

unsafe extern "C" fn sector_size(_: *mut ffi::sqlite3_file) -> c_int {
    4096
}

unsafe extern "C" fn characteristics(_: *mut ffi::sqlite3_file) -> c_int {
    ffi::SQLITE_IOCAP_IMMUTABLE
}

unsafe extern "C" fn delete(_: *mut ffi::sqlite3_vfs, _: *const c_char, _: c_int) -> c_int {
    ffi::SQLITE_OK
}

unsafe extern "C" fn access(
    _: *mut ffi::sqlite3_vfs,
    _: *const c_char,
    _: c_int,
    exists: *mut c_int,
) -> c_int {
    // There is no journal and no WAL.
    // SAFETY: SQLite gives a place to write to.
    unsafe { *exists = 0 };
    ffi::SQLITE_OK
}

unsafe extern "C" fn full_pathname(
    _: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    room: c_int,
    out: *mut c_char,
) -> c_int {
    // SAFETY: SQLite gives a string, and room for that many bytes.
    let name: CString = unsafe { CStr::from_ptr(name) }.to_owned();
    let bytes = name.as_bytes_with_nul();
    if bytes.len() > room.max(0) as usize {
        return ffi::SQLITE_CANTOPEN;
    }
    // SAFETY: as above, and it fits.
    unsafe { ptr::copy_nonoverlapping(bytes.as_ptr().cast::<c_char>(), out, bytes.len()) };
    ffi::SQLITE_OK
}

#[cfg(test)]
mod tests {
    use super::*;

    struct File {
        bytes: Vec<u8>,
        broken: Option<u32>,
    }

    impl ReadPages for File {
        fn page_size(&self) -> PageSize {
            PageSize::DEFAULT
        }

        fn pages(&self) -> u32 {
            (self.bytes.len() / 4096) as u32
        }

        fn read(&mut self, pgno: Pgno, page: &mut [u8]) -> bool {
            page.copy_from_slice(&self.bytes[pgno.index() * 4096..][..4096]);
            self.broken != Some(pgno.get())
        }
    }

    fn database() -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let db = Connection::open(&path).unwrap();
        db.execute_batch(
            "PRAGMA journal_mode=WAL; CREATE TABLE t(k INTEGER PRIMARY KEY, v); CREATE TABLE u(x); CREATE INDEX i ON t(v);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
             INSERT INTO t SELECT i, i || ' and some more text' FROM n;
             INSERT INTO u SELECT v FROM t;",
        )
        .unwrap();
        drop(db);
        std::fs::read(path).unwrap()
    }

    fn count(connection: &Connection, sql: &str) -> rusqlite::Result<i64> {
        connection.query_row(sql, [], |row| row.get(0))
    }

    #[test]
    fn a_query_finds_what_it_needs_in_the_pages_that_it_reads_and_in_no_others() {
        let bytes = database();
        let all = (bytes.len() / 4096) as u32;
        let image = || Box::new(File { bytes: bytes.clone(), broken: None });
        let sql = "SELECT count(*) FROM t WHERE k BETWEEN 2000 AND 2100 AND v LIKE '%text'";
        let (db, read) = open_pages(image()).unwrap();
        assert_eq!(count(&db, sql).unwrap(), 101);
        let read = read.pages();
        assert!(read.contains(&Pgno::ONE) && read.len() < all as usize / 4, "{} of {all}", read.len());
        // A client that has only these gets the same answer.
        let mut partial = vec![0; bytes.len()];
        for pgno in &read {
            let at = pgno.index() * 4096;
            partial[at..at + 4096].copy_from_slice(&bytes[at..at + 4096]);
        }
        let (partial, _) = open_pages(Box::new(File { bytes: partial, broken: None })).unwrap();
        assert_eq!(count(&partial, sql).unwrap(), 101);
        let (full, more) = open_pages(image()).unwrap();
        let join = "SELECT count(*) FROM t a, u b WHERE a.rowid = b.rowid";
        assert_eq!(count(&full, join).unwrap(), 5000);
        assert!(more.pages().len() > read.len());
        let sorted = "SELECT count(*) FROM (SELECT DISTINCT x FROM u ORDER BY x DESC)";
        assert_eq!(count(&full, sorted).unwrap(), 5000);
    }

    #[test]
    fn nothing_can_be_written_and_what_cannot_be_read_is_an_error() {
        let bytes = database();
        let open = |bytes: Vec<u8>, broken| open_pages(Box::new(File { bytes, broken })).map(|(db, _)| db);
        let db = open(bytes, Some(3)).unwrap();
        assert!(db.execute_batch("INSERT INTO u VALUES(1)").is_err());
        assert!(db.execute_batch("PRAGMA user_version=3").is_err());
        assert!(count(&db, "SELECT count(v || 1) FROM u, t").is_err());
        let garbage = open(vec![7; 8192], None);
        assert!(garbage.and_then(|db| count(&db, "SELECT count(*) FROM t")).is_err());
        let empty = open(Vec::new(), None).unwrap();
        assert!(count(&empty, "SELECT count(*) FROM t").is_err());
    }
}
