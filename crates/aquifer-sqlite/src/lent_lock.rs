//! A checkpoint by one connection under the lock that another one of ours holds.
//!
//! The checkpoint lock keeps the application from checkpointing by itself. To give it up for the moment in which a
//! checkpoint of ours takes it would invite the application in: it tries at every commit, and then pays for copying
//! and flushing megabytes. So for the time of a call the connection that checkpoints is told that it has the lock:
//! its file's `xShmLock` is ours, and passes on everything else.
#![allow(unsafe_code, reason = "SQLite's file layer is a table of C functions")]

use std::cell::Cell;
use std::ffi::c_int;
use std::ptr::{self, NonNull};
use std::sync::{Mutex, PoisonError};

use rusqlite::ffi;

/// Number of the checkpoint lock (`WAL_CKPT_LOCK` in wal.c).
const CHECKPOINT: c_int = 1;

type ShmLock = unsafe extern "C" fn(*mut ffi::sqlite3_file, c_int, c_int, c_int) -> c_int;

/// A VFS's methods with another `xShmLock`. The methods come first: a pointer to them is one to all of it.
#[repr(C)]
struct Methods {
    methods: ffi::sqlite3_io_methods,
    shm_lock: ShmLock,
}

// SAFETY: function pointers and a number, written once.
unsafe impl Sync for Methods {}
// SAFETY: as above.
unsafe impl Send for Methods {}

/// One table for each of the VFS's; there are a handful at most, and files may use them until the program ends.
static TABLES: Mutex<Vec<(usize, &'static Methods)>> = Mutex::new(Vec::new());

thread_local! {
    /// The file whose connection is checkpointing on this thread under a lock that was lent to it.
    static BORROWER: Cell<*mut ffi::sqlite3_file> = const { Cell::new(ptr::null_mut()) };
}

/// Makes a file's connection one that a lock can be lent to. False if its VFS has no shared memory.
///
/// # Safety
/// `file` is open, and no call that uses it is under way.
pub(crate) unsafe fn prepare(file: NonNull<ffi::sqlite3_file>) -> bool {
    // SAFETY: an open file points to the static methods of its VFS.
    let original = unsafe { (*file.as_ptr()).pMethods };
    // SAFETY: as above.
    let methods = unsafe { *original };
    let Some(shm_lock) = methods.xShmLock else { return false };
    let mut tables = TABLES.lock().unwrap_or_else(PoisonError::into_inner);
    let known = tables.iter().find(|(of, _)| *of == original as usize).map(|(_, table)| *table);
    let table = known.unwrap_or_else(|| {
        let methods = ffi::sqlite3_io_methods { xShmLock: Some(lock), ..methods };
        let table: &'static Methods = Box::leak(Box::new(Methods { methods, shm_lock }));
        tables.push((original as usize, table));
        table
    });
    // SAFETY: the file is not in use, and the table lives as long as the program.
    unsafe { (*file.as_ptr()).pMethods = &raw const table.methods };
    true
}

/// Runs a call in which the file's connection has the checkpoint lock without taking it.
pub(crate) fn lend<T>(file: NonNull<ffi::sqlite3_file>, call: impl FnOnce() -> T) -> T {
    struct Return;
    impl Drop for Return {
        fn drop(&mut self) {
            BORROWER.set(ptr::null_mut());
        }
    }
    BORROWER.set(file.as_ptr());
    let _return = Return;
    call()
}

unsafe extern "C" fn lock(file: *mut ffi::sqlite3_file, first: c_int, count: c_int, flags: c_int) -> c_int {
    if first == CHECKPOINT && count == 1 && BORROWER.get() == file {
        return ffi::SQLITE_OK;
    }
    // SAFETY: only files that `prepare` has given such a table come here.
    let table = unsafe { &*(*file).pMethods.cast::<Methods>() };
    // SAFETY: the VFS's own method, with what SQLite passed.
    unsafe { (table.shm_lock)(file, first, count, flags) }
}
