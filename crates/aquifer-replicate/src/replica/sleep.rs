//! Where there are many databases, those to which nobody writes are closed.
//!
//! An open database costs descriptors, memory and a mapped WAL index. One that sleeps costs two looks at its files'
//! metadata now and then, and a notification. Without its pin, nothing proves that no frame was missed, so waking up
//! means comparing its pages: only databases for which that is cheap sleep.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Replica;

/// With no more databases than this in the process, none sleeps.
const ALWAYS_AWAKE: usize = 64;
/// Databases larger than this do not sleep, in bytes.
const LARGEST: u64 = 64 << 20;

/// What a database's files look like from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fingerprint([Option<(u64, u64, i64, i64)>; 2]);

impl Fingerprint {
    /// Of the database file and its WAL.
    pub(super) fn of(database: &Path) -> Fingerprint {
        let look =
            |path: &Path| std::fs::metadata(path).ok().map(|m| (m.ino(), m.len(), m.mtime(), m.mtime_nsec()));
        Fingerprint([look(database), look(&wal_path(database))])
    }
}

fn wal_path(database: &Path) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push("-wal");
    path.into()
}

impl Replica {
    /// Closes a database that has come to rest, if there are many.
    pub(super) fn fall_asleep(&mut self) {
        if self.shared.databases.load(Ordering::Relaxed) <= ALWAYS_AWAKE
            || !self.queue.is_empty()
            || self.is_asked()
            || self.map_file.is_stale()
        {
            return;
        }
        let Some(capture) = &mut self.capture else { return };
        if u64::from(capture.map().pages()) * u64::from(capture.page_size().get()) > LARGEST {
            return;
        }
        // First the picture, then the look: what comes before it is seen by the look, what comes after changes the
        // picture. The WAL was last written to at least a second ago, so the clock's grain does not matter.
        let picture = Fingerprint::of(&self.path);
        if capture.may_have_changed() {
            return;
        }
        self.capture = None;
        self.map_file.close();
        self.asleep = Some(picture);
        self.armed = false;
    }

    /// Arms the notification of a sleeping database; how long to sleep at most.
    pub(super) fn arm_asleep(&mut self, sleep: Duration) -> Duration {
        if self.armed {
            return sleep;
        }
        if let Some(watcher) = &self.shared.watcher
            && watcher.arm(&wal_path(&self.path), &self.waker).is_ok()
        {
            self.armed = true;
            if self.asleep != Some(Fingerprint::of(&self.path)) {
                return Duration::ZERO;
            }
        }
        sleep
    }
}
