//! Wakes a replica when its WAL is written to. A hint, never the truth: replicas poll as well.
//!
//! A watch fires once and is armed again only when the replica has found nothing new for a while: a busy database
//! costs no notifications at all.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::sync::Notify;

/// Watches the files of any number of databases.
#[derive(Debug)]
pub(crate) struct Watcher {
    inotify: OwnedFd,
    /// Who waits for the file behind a watch.
    wakers: Mutex<HashMap<i32, Vec<Arc<Notify>>>>,
}

/// The kernel grants a user 128 of them: one per process must do.
static WATCHER: OnceLock<Option<Arc<Watcher>>> = OnceLock::new();

impl Watcher {
    /// The process's own, started when it is first asked for; `None` where there are no notifications to be had.
    pub(crate) fn of_process() -> Option<Arc<Watcher>> {
        let start = || {
            Watcher::start()
                .inspect_err(|e| tracing::warn!(error = %e, "no file notifications; polling"))
                .ok()
        };
        WATCHER.get_or_init(start).clone()
    }

    /// Starts watching, on a thread of its own that ends with the process.
    fn start() -> io::Result<Arc<Watcher>> {
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
        let waiting = wakers.entry(watch).or_default();
        if !waiting.iter().any(|other| Arc::ptr_eq(other, waker)) {
            waiting.push(Arc::clone(waker));
        }
        Ok(())
    }

    fn run(&self) {
        let mut buffer = [MaybeUninit::uninit(); 8192];
        let mut events = inotify::Reader::new(&self.inotify, &mut buffer);
        loop {
            match events.next() {
                Ok(event) => {
                    // The watch is gone after its event; so is whoever waited for it.
                    for waker in self.wakers.lock().remove(&event.wd()).into_iter().flatten() {
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
    async fn a_write_wakes_all_who_wait_once() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let watcher = Watcher::of_process().expect("Linux has notifications");
        let (waker, other) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        for _ in 0..3 {
            for waker in [&waker, &waker, &other] {
                watcher.arm(file.path(), waker).unwrap();
            }
            file.write_all(b"x").unwrap();
            waker.notified().await;
            other.notified().await;
        }
        assert!(watcher.arm(Path::new("/nowhere/at/all"), &waker).is_err());
    }
}
