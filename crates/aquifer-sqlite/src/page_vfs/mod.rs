//! Databases whose pages are from anywhere, as SQLite opens them.
//!
//! A VFS of our own serves one file, page by page: the database. SQLite takes it for one with a rollback journal that
//! nobody else uses, so it needs no locks and no WAL.
//!
//! - [`open_pages`]: queries, with a note of the pages that they read.
//! - [`open_overlay`]: reads and writes; what is written goes aside.
#![allow(unsafe_code, reason = "SQLite's file layer is a table of C functions")]

mod overlay;
mod queries;

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use aquifer_format::{PageSize, Pgno};
use rusqlite::{Connection, OpenFlags, ffi};

pub use overlay::{Overlay, open_overlay};
pub use queries::{PagesRead, open_pages};

/// The pages of one image of a database.
pub trait ReadPages: Send {
    /// Size of its pages.
    fn page_size(&self) -> PageSize;

    /// Size of the database, in pages.
    fn pages(&self) -> u32;

    /// Fills `page`, which has the size of a page; false if it cannot be read.
    fn read(&mut self, pgno: Pgno, page: &mut [u8]) -> bool;
}

/// What the VFS serves: a [`ReadPages`] that may be writable. SQLite asks for pages that there are only.
trait PageFile: Send {
    fn page_size(&self) -> PageSize;
    fn pages(&self) -> u32;
    fn read(&mut self, pgno: Pgno, page: &mut [u8]) -> bool;

    fn is_writable(&self) -> bool {
        false
    }

    /// Pages between the end and this one become zeros.
    fn write(&mut self, _: Pgno, _page: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn truncate(&mut self, _pages: u32) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
}

/// The bytes of a file that is made of pages.
struct Served<F: ?Sized> {
    /// The page of which a part was read last: SQLite reads the header in page 1 in pieces.
    last: Option<(Pgno, Vec<u8>)>,
    file: F,
}

type Shared = Arc<Mutex<Served<dyn PageFile>>>;

const NAME: &CStr = c"aquifer-pages";
/// Where page 1 says that the database is in WAL mode, which would need files of its own.
const MODE: std::ops::Range<usize> = 18..20;

/// Files by the number that is their name, for the moment in which they are opened.
static FILES: LazyLock<Mutex<HashMap<u64, Shared>>> = LazyLock::new(Mutex::default);
static NUMBERS: AtomicU64 = AtomicU64::new(1);

/// A connection to a file.
fn open(file: Shared, flags: OpenFlags) -> rusqlite::Result<Connection> {
    register()?;
    let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
    lock(&FILES).insert(number, file);
    let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let opened = Connection::open_with_flags_and_vfs(number.to_string(), flags, NAME);
    lock(&FILES).remove(&number);
    opened
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<F: PageFile> Served<F> {
    fn new(file: F) -> Arc<Mutex<Served<F>>> {
        Arc::new(Mutex::new(Served { last: None, file }))
    }
}

impl Served<dyn PageFile> {
    /// Reads bytes of the file; zeros behind its end, and then an error of that kind.
    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            let (pgno, within, n) = self.part(offset + done as u64, buffer.len() - done)?;
            let part = &mut buffer[done..done + n];
            if pgno.get() > self.file.pages() {
                buffer[done..].fill(0);
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if n == self.file.page_size().bytes() && self.last.as_ref().is_none_or(|(last, _)| *last != pgno)
            {
                self.read_page(pgno, part)?;
            } else {
                part.copy_from_slice(&self.page(pgno)?[within..within + n]);
            }
            done += n;
        }
        Ok(())
    }

    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            let (pgno, within, n) = self.part(offset + done as u64, bytes.len() - done)?;
            let part = &bytes[done..done + n];
            if n == self.file.page_size().bytes() {
                self.file.write(pgno, part)?;
            } else {
                let mut page = self.file.page_size().zero_page().to_vec();
                if pgno.get() <= self.file.pages() {
                    self.read_page(pgno, &mut page)?;
                }
                page[within..within + n].copy_from_slice(part);
                self.file.write(pgno, &page)?;
            }
            self.last = None;
            done += n;
        }
        Ok(())
    }

    fn truncate(&mut self, bytes: u64) -> io::Result<()> {
        let pages = bytes.div_ceil(u64::from(self.file.page_size().get()));
        self.last = None;
        self.file.truncate(u32::try_from(pages).map_err(io::Error::other)?)
    }

    /// The page at an offset, what precedes it there in that page, and how many of `bytes` are in that page.
    fn part(&self, offset: u64, bytes: usize) -> io::Result<(Pgno, usize, usize)> {
        let size = self.file.page_size().bytes();
        let (index, within) = (offset / size as u64, (offset % size as u64) as usize);
        let number = u32::try_from(index + 1).map_err(io::Error::other)?;
        Ok((Pgno::new(number).unwrap_or(Pgno::ONE), within, bytes.min(size - within)))
    }

    /// A page of which a part is wanted.
    fn page(&mut self, pgno: Pgno) -> io::Result<&[u8]> {
        let page = match self.last.take() {
            Some((last, page)) if last == pgno => page,
            other => {
                let mut page =
                    other.map_or_else(|| self.file.page_size().zero_page().to_vec(), |(_, page)| page);
                self.read_page(pgno, &mut page)?;
                page
            }
        };
        Ok(&self.last.insert((pgno, page)).1)
    }

    fn read_page(&mut self, pgno: Pgno, page: &mut [u8]) -> io::Result<()> {
        if !self.file.read(pgno, page) {
            return Err(io::Error::other("the page cannot be read"));
        }
        if pgno == Pgno::ONE {
            page[MODE].fill(1);
        }
        Ok(())
    }
}

/// An open file, as SQLite sees it: the methods come first.
#[repr(C)]
struct OpenFile {
    methods: *const ffi::sqlite3_io_methods,
    /// An `Arc`, given back by `close`.
    file: *const Mutex<Served<dyn PageFile>>,
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

/// SQLite's own VFS, for files that are only temporary.
static DEFAULT: LazyLock<Static<*mut ffi::sqlite3_vfs>> = LazyLock::new(|| {
    // SAFETY: without a name this gives the default VFS, which lives as long as the program, or null.
    Static(unsafe { ffi::sqlite3_vfs_find(ptr::null()) })
});

/// Registers the VFS, once.
fn register() -> rusqlite::Result<()> {
    static REGISTERED: LazyLock<Static<c_int>> = LazyLock::new(|| {
        let default = DEFAULT.0;
        if default.is_null() {
            return Static(ffi::SQLITE_ERROR);
        }
        // SAFETY: it is a VFS of SQLite's; copied are numbers and pointers to functions that need no state but their own.
        let mut vfs = unsafe { *default };
        vfs.pNext = ptr::null_mut();
        vfs.zName = NAME.as_ptr();
        vfs.szOsFile = vfs.szOsFile.max(size_of::<OpenFile>() as c_int);
        vfs.xOpen = Some(open_file);
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
/// Called by SQLite: `name` is a string or null, `file` has room for an [`OpenFile`] and for a file of the default VFS,
/// `out` is null or writable.
unsafe extern "C" fn open_file(
    _: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    if flags & ffi::SQLITE_OPEN_MAIN_DB == 0 {
        // SAFETY: as above.
        return unsafe { open_temporary(file, flags, out) };
    }
    let open = file.cast::<OpenFile>();
    // SAFETY: as above. Without methods SQLite does not close it.
    unsafe { (*open).methods = ptr::null() };
    if name.is_null() {
        return ffi::SQLITE_CANTOPEN;
    }
    // SAFETY: a name is a string that ends with a zero.
    let name = unsafe { CStr::from_ptr(name) };
    let number = name.to_str().ok().and_then(|name| name.parse::<u64>().ok());
    let Some(served) = number.and_then(|number| lock(&FILES).get(&number).map(Arc::clone)) else {
        return ffi::SQLITE_CANTOPEN;
    };
    // SAFETY: as above; the file is given back by `close`, which SQLite calls once.
    unsafe {
        (*open).file = Arc::into_raw(served);
        (*open).methods = &raw const METHODS;
        if !out.is_null() {
            *out = flags;
        }
    }
    ffi::SQLITE_OK
}

/// Opens a file that has no name: what SQLite sorts and what it rolls back to. A journal is no more than that here:
/// nobody could roll back after a crash.
///
/// # Safety
/// That of [`open_file`].
unsafe fn open_temporary(file: *mut ffi::sqlite3_file, flags: c_int, out: *mut c_int) -> c_int {
    // SAFETY: as above. Without methods SQLite does not close it.
    unsafe { (*file).pMethods = ptr::null() };
    let flags = match flags {
        f if f & ffi::SQLITE_OPEN_WAL != 0 => return ffi::SQLITE_CANTOPEN,
        f if f & ffi::SQLITE_OPEN_MAIN_JOURNAL != 0 => {
            let how = ffi::SQLITE_OPEN_READWRITE | ffi::SQLITE_OPEN_CREATE | ffi::SQLITE_OPEN_EXCLUSIVE;
            how | ffi::SQLITE_OPEN_DELETEONCLOSE | ffi::SQLITE_OPEN_TEMP_JOURNAL
        }
        f => f,
    };
    // SAFETY: the default VFS lives as long as the program.
    match unsafe { DEFAULT.0.as_ref() }.and_then(|vfs| vfs.xOpen) {
        // SAFETY: as above; a file without a name gets one that is free, and is deleted when it is closed.
        Some(open) => unsafe { open(DEFAULT.0, ptr::null(), file, flags, out) },
        None => ffi::SQLITE_CANTOPEN,
    }
}

/// # Safety
/// `file` was opened by [`open_file`] and is not closed.
unsafe fn file_of<'a>(file: *mut ffi::sqlite3_file) -> &'a Mutex<Served<dyn PageFile>> {
    // SAFETY: by the condition above it lives.
    unsafe { &*(*file.cast::<OpenFile>()).file }
}

/// Does something with a file. No panic may pass through SQLite.
fn done(
    file: &Mutex<Served<dyn PageFile>>,
    code: c_int,
    what: impl FnOnce(&mut Served<dyn PageFile>) -> io::Result<()>,
) -> c_int {
    let done = catch_unwind(AssertUnwindSafe(|| what(&mut lock(file))));
    let Ok(Err(error)) = done else { return if done.is_ok() { ffi::SQLITE_OK } else { code } };
    match error.kind() {
        io::ErrorKind::UnexpectedEof => ffi::SQLITE_IOERR_SHORT_READ,
        io::ErrorKind::ReadOnlyFilesystem => ffi::SQLITE_READONLY,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ffi::SQLITE_FULL,
        _ => code,
    }
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: SQLite closes what `open_file` opened, once.
    drop(unsafe { Arc::from_raw((*file.cast::<OpenFile>()).file) });
    ffi::SQLITE_OK
}

unsafe extern "C" fn read(
    file: *mut ffi::sqlite3_file,
    buffer: *mut c_void,
    amount: c_int,
    offset: ffi::sqlite3_int64,
) -> c_int {
    // SAFETY: SQLite gives an open file, and a buffer of this many bytes.
    let (file, buffer) = unsafe {
        (file_of(file), std::slice::from_raw_parts_mut(buffer.cast::<u8>(), amount.max(0) as usize))
    };
    done(file, ffi::SQLITE_IOERR_READ, |file| file.read_at(buffer, offset.max(0) as u64))
}

unsafe extern "C" fn file_size(file: *mut ffi::sqlite3_file, size: *mut ffi::sqlite3_int64) -> c_int {
    // SAFETY: SQLite gives an open file.
    let file = lock(unsafe { file_of(file) });
    let bytes = i64::from(file.file.pages()) * i64::from(file.file.page_size().get());
    // SAFETY: and a place to write to.
    unsafe { *size = bytes };
    ffi::SQLITE_OK
}

unsafe extern "C" fn write(
    file: *mut ffi::sqlite3_file,
    bytes: *const c_void,
    amount: c_int,
    offset: ffi::sqlite3_int64,
) -> c_int {
    // SAFETY: SQLite gives an open file, and this many bytes.
    let (file, bytes) =
        unsafe { (file_of(file), std::slice::from_raw_parts(bytes.cast::<u8>(), amount.max(0) as usize)) };
    done(file, ffi::SQLITE_IOERR_WRITE, |file| file.write_at(bytes, offset.max(0) as u64))
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, bytes: ffi::sqlite3_int64) -> c_int {
    // SAFETY: SQLite gives an open file.
    let file = unsafe { file_of(file) };
    done(file, ffi::SQLITE_IOERR_TRUNCATE, |file| file.truncate(bytes.max(0) as u64))
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

unsafe extern "C" fn characteristics(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: SQLite gives an open file.
    let is_writable = lock(unsafe { file_of(file) }).file.is_writable();
    // Without the first, SQLite would write all pages that share a sector with one that has changed.
    if is_writable { ffi::SQLITE_IOCAP_POWERSAFE_OVERWRITE } else { ffi::SQLITE_IOCAP_IMMUTABLE }
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
