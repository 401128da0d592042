//! Wakes a replica when its WAL is written to. A hint, never the truth: replicas poll as well.
//!
//! A watch fires once and is armed again only when the replica has found nothing new for a while: a busy database
//! costs no notifications at all.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::sync::Notify;

/// Watches the files of any number of databases.
#[derive(Debug)]
pub(crate) struct Watcher {
    inotify: OwnedFd,
    wakers: Mutex<HashMap<i32, Arc<Notify>>>,
}

impl Watcher {
    /// Starts watching, on a thread of its own that ends with the process.
    pub(crate) fn start() -> io::Result<Arc<Watcher>> {
        let inotify = inotify::init(CreateFlags::CLOEXEC)?;
        let watcher = Arc::new(Watcher { inotify, wakers: Mutex::default() });
        let thread = Arc::clone(&watcher);
        std::thread::Builder::new().name("aquifer-watch".into()).spawn(move || thread.run())?;
        Ok(watcher)
    }

    /// Wakes `waker` at the next write to a file, once. Whoever arms it looks once more afterwards.
    pub(crate) fn arm(&self, file: &Path, waker: &Arc<Notify>) -> io::Result<()> {
        let mut wakers = self.wakers.lock();
        let watch = inotify::add_watch(&self.inotify, file, WatchFlags::MODIFY | WatchFlags::ONESHOT)?;
        wakers.insert(watch, Arc::clone(waker));
        Ok(())
    }

    fn run(&self) {
        let mut buffer = [MaybeUninit::uninit(); 8192];
        let mut events = inotify::Reader::new(&self.inotify, &mut buffer);
        loop {
            match events.next() {
                Ok(event) => {
                    // The watch is gone after its event; so is whoever waited for it.
                    if let Some(waker) = self.wakers.lock().remove(&event.wd()) {
                        waker.notify_one();
                    }
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => {
                    tracing::warn!(error = %e, "file notifications ended; polling goes on");
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[tokio::test]
    async fn a_write_wakes_once_until_armed_again() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let watcher = Watcher::start().unwrap();
        let waker = Arc::new(Notify::new());
        for _ in 0..3 {
            watcher.arm(file.path(), &waker).unwrap();
            file.write_all(b"x").unwrap();
            waker.notified().await;
        }
        assert!(watcher.arm(Path::new("/nowhere/at/all"), &waker).is_err());
    }
}
