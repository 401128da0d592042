//! Files on their way to a name: written apart, synced, then named; durably and all at once.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::io::{self, ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use object_store::PutPayload;

use super::files::{annotate, is_absent, not_done};
use super::lock;
use crate::store::error::{Failure, FailureKind};

/// Holds files being written, out of every listing's way: no database's name starts with a dot.
pub(super) const PRIVATE: &str = ".aquifer";
/// A file here that is unlocked and this old belongs to no writer. Between its creation and its locking a
/// writer needs microseconds.
const ABANDONED_AFTER: Duration = Duration::from_mins(1);

/// What a file system without them refuses: a file was just made there, so it is not for want of permission.
const NO_HARD_LINKS: &str = "The file system seems to have no hard links, which put-if-absent needs";

/// Makes files in a directory that only ever appear whole.
#[derive(Debug)]
pub(super) struct Staging {
    root: PathBuf,
    staged: AtomicU64,
    swept: AtomicBool,
    /// Hashes of the paths of directories whose names are durable up to the root: 8 bytes for each level of
    /// each database that this process writes to.
    durable: Mutex<HashSet<u64>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Publish {
    Replace,
    IfAbsent,
}

/// A file that is being written. Removed when dropped, unless it was published by renaming it.
#[derive(Debug)]
pub(super) struct Staged {
    file: File,
    path: PathBuf,
    remove: bool,
}

impl Staged {
    /// Writes at an offset, in bytes.
    pub(super) fn write_at(&mut self, offset: u64, payload: &PutPayload) -> Result<(), Failure> {
        self.file.seek(SeekFrom::Start(offset)).map_err(|e| not_done("write", &self.path, e))?;
        self.write(payload)
    }

    pub(super) fn write(&mut self, payload: &PutPayload) -> Result<(), Failure> {
        for bytes in payload {
            self.file.write_all(bytes).map_err(|e| not_done("write", &self.path, e))?;
        }
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if self.remove {
            // Failing this leaves a file that a later run sweeps.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Staging {
    pub(super) fn new(root: PathBuf) -> Staging {
        Staging { root, staged: AtomicU64::new(0), swept: AtomicBool::new(false), durable: Mutex::default() }
    }

    /// A new file to write to, locked. The store's directory is made by the first of them.
    pub(super) fn stage(&self) -> Result<Staged, Failure> {
        let tmp = self.root.join(PRIVATE).join("tmp");
        if !self.swept.swap(true, Ordering::Relaxed) {
            create_dir_durably(&tmp).map_err(|e| not_done("create", &tmp, e))?;
            sweep(&tmp, ABANDONED_AFTER);
        }
        loop {
            let n = self.staged.fetch_add(1, Ordering::Relaxed);
            let path = tmp.join(format!("{}-{n}-{}", std::process::id(), uuid::Uuid::now_v7().simple()));
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => {
                    // A file system without locks still stores: only sweeping is then by age alone.
                    let _ = file.try_lock();
                    return Ok(Staged { file, path, remove: true });
                }
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                // Someone removed the store's directory while it was in use.
                Err(e) if e.kind() == ErrorKind::NotFound => {
                    create_dir_durably(&tmp).map_err(|e| not_done("create", &tmp, e))?;
                }
                Err(e) => return Err(not_done("create", &path, e)),
            }
        }
    }

    /// Gives a written file its key, durably: the content is on the disk before the name is, and the name is
    /// before this returns.
    pub(super) fn publish(&self, mut staged: Staged, path: &Path, how: Publish) -> Result<(), Failure> {
        staged.file.sync_data().map_err(|e| not_done("sync", &staged.path, e))?;
        let dir = path.parent().unwrap_or(&self.root).to_path_buf();
        // Deleting a directory's last object removes the directory, perhaps between our making and using it.
        for _ in 0..16 {
            let named = match how {
                Publish::Replace => fs::rename(&staged.path, path),
                Publish::IfAbsent => fs::hard_link(&staged.path, path),
            };
            match named {
                Ok(()) => {
                    staged.remove = how == Publish::IfAbsent;
                    return match self.make_durable(&dir) {
                        Err(e) if !is_absent(&e) => {
                            Err(Failure::new(FailureKind::Unknown, annotate("sync", &dir, &e)))
                        }
                        // Gone already: someone deleted the object, and with it the directory.
                        _ => Ok(()),
                    };
                }
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                    // Its maker may have died before its name was durable; who hears "exists" relies on it.
                    return match self.make_durable(&dir) {
                        Err(e) if !is_absent(&e) => Err(not_done("sync", &dir, e)),
                        _ => Err(Failure::new(FailureKind::Exists, annotate("create", path, &e))),
                    };
                }
                Err(e) if e.kind() == ErrorKind::NotFound => match create_dir_durably(&dir) {
                    Err(e) if e.kind() != ErrorKind::NotFound => return Err(not_done("create", &dir, e)),
                    _ => {}
                },
                Err(e)
                    if how == Publish::IfAbsent
                        && matches!(e.kind(), ErrorKind::PermissionDenied | ErrorKind::Unsupported) =>
                {
                    let reason = annotate("create", path, &e);
                    let reason = format!("{reason}. {NO_HARD_LINKS}");
                    return Err(Failure { kind: FailureKind::Refused, reason, source: e.into() });
                }
                Err(e) => return Err(not_done("create", path, e)),
            }
        }
        Err(not_done("create", path, io::Error::from(ErrorKind::NotFound)))
    }

    /// Makes a name in a directory durable: syncs the directory and, once, those above it, which another
    /// process may have made a moment ago and not synced yet.
    fn make_durable(&self, dir: &Path) -> io::Result<()> {
        sync_dir(dir)?;
        let mut above = dir;
        while above != self.root && !lock(&self.durable).contains(&hash(above)) {
            let Some(parent) = above.parent() else { return Ok(()) };
            sync_dir(parent)?;
            lock(&self.durable).insert(hash(above));
            above = parent;
        }
        Ok(())
    }

    /// Forgets what is known of a directory that was removed.
    pub(super) fn removed(&self, dir: &Path) {
        lock(&self.durable).remove(&hash(dir));
    }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    // Directories cannot be opened for syncing elsewhere.
    if cfg!(unix) { File::open(dir)?.sync_all() } else { Ok(()) }
}

fn hash(path: &Path) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(path)
}

/// Makes a directory and its missing parents, and makes their names durable.
fn create_dir_durably(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let Some(parent) = dir.parent().filter(|p| !p.as_os_str().is_empty()) else {
        return fs::create_dir(dir);
    };
    create_dir_durably(parent)?;
    match fs::create_dir(dir) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    sync_dir(parent)
}

/// Removes what writers left behind that crashed: unlocked files that nobody has written to for a while.
fn sweep(tmp: &Path, abandoned_after: Duration) {
    let Ok(listing) = fs::read_dir(tmp) else { return };
    for entry in listing.flatten() {
        let old = entry
            .metadata()
            .and_then(|m| m.modified())
            .is_ok_and(|t| t.elapsed().is_ok_and(|age| age >= abandoned_after));
        let abandoned = old && File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok());
        if abandoned {
            tracing::debug!(file = ?entry.file_name().as_os_str() as &OsStr, "removing what a crashed writer left");
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::FileTimes;
    use std::time::SystemTime;

    use super::*;

    fn age(path: &Path, by: Duration) {
        let times = FileTimes::new().set_modified(SystemTime::now() - by);
        File::options().write(true).open(path).unwrap().set_times(times).unwrap();
    }

    #[test]
    fn only_what_crashed_writers_left_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        let staging = Staging::new(dir.path().to_path_buf());
        let tmp = dir.path().join(".aquifer/tmp");
        fs::create_dir_all(&tmp).unwrap();
        let path = |name: &str| tmp.join(name);
        for name in ["left", "recent", "in use"] {
            fs::write(path(name), "torn").unwrap();
        }
        let in_use = File::open(path("in use")).unwrap();
        in_use.try_lock().unwrap();
        age(&path("left"), Duration::from_hours(1));
        age(&path("in use"), Duration::from_hours(1));
        drop(staging.stage().unwrap());
        assert!(!path("left").exists());
        assert!(path("recent").exists());
        assert!(path("in use").exists());
        assert_eq!(fs::read_dir(&tmp).unwrap().count(), 2, "what is not published is removed");
    }

    #[test]
    fn files_being_written_are_locked() {
        let dir = tempfile::tempdir().unwrap();
        let staging = Staging::new(dir.path().to_path_buf());
        let staged = staging.stage().unwrap();
        assert!(File::open(&staged.path).unwrap().try_lock().is_err());
    }
}
