//! Flushing a file to the disk while it is still being written.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use parking_lot::Mutex;

/// Bytes after which what was written is pushed to the disk, while more is written.
const EVERY: u64 = 64 << 20;

/// Gives the flush at the end of a large file a head start: it then has little left to wait for.
#[derive(Debug)]
pub struct EarlyFlush {
    file: Arc<File>,
    unflushed: AtomicU64,
    flusher: Mutex<Option<JoinHandle<()>>>,
}

impl EarlyFlush {
    /// Of this file.
    pub fn new(file: Arc<File>) -> EarlyFlush {
        EarlyFlush { file, unflushed: AtomicU64::new(0), flusher: Mutex::new(None) }
    }

    /// So many bytes were written to the file. Does not wait for the disk.
    pub fn wrote(&self, bytes: u64) {
        let before = self.unflushed.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes >= EVERY {
            self.begin();
        }
    }

    /// Only a head start, unless one is running: what counts is the flush at the end, and that tells of errors.
    fn begin(&self) {
        let Some(mut flusher) = self.flusher.try_lock() else { return };
        if flusher.as_ref().is_none_or(JoinHandle::is_finished) {
            self.unflushed.store(0, Ordering::Relaxed);
            let file = Arc::clone(&self.file);
            let thread = std::thread::Builder::new().name("restore-flush".to_owned());
            *flusher = thread.spawn(move || drop(file.sync_data())).ok();
        }
    }

    /// Flushes all of the file, and waits for it. Afterwards no thread has the file open for this.
    ///
    /// # Errors
    /// What `fsync` says.
    pub fn sync(&self) -> io::Result<()> {
        if let Some(flusher) = self.flusher.lock().take() {
            let _ = flusher.join();
        }
        self.file.sync_all()
    }
}
