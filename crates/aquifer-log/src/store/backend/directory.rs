//! A store in a local directory: an object is a file.
//!
//! `object_store` has one as well. This one differs in what a backup needs: files being written live in
//! `.aquifer/tmp`, each locked by its writer, so that no listing shows them and what a crash left behind is
//! told from what is in use; a create that meets an object does not answer before that object is durable;
//! listings come in key order; a directory that does not exist is an error and not an empty store.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use aquifer_format::Timestamp;
use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use object_store::PutPayload;

use super::{Backend, BackendUpload, Fetched, Page, Part, Position};
use crate::store::ObjectInfo;
use crate::store::error::{Failure, FailureKind};
use crate::store::key::{Key, Prefix};

/// Holds files being written, out of every listing's way: no database's name starts with a dot.
const PRIVATE: &str = ".aquifer";
/// A file here that is unlocked and this old belongs to no writer. Between its creation and its locking a
/// writer needs microseconds.
const ABANDONED_AFTER: Duration = Duration::from_mins(1);

#[derive(Debug)]
pub(crate) struct Directory(Arc<Root>);

#[derive(Debug)]
struct Root {
    path: PathBuf,
    staged: AtomicU64,
    swept: AtomicBool,
    /// Hashes of the paths of directories whose names are durable up to the root: 8 bytes for each level of
    /// each database that this process writes to.
    durable: Mutex<HashSet<u64>>,
}

impl Directory {
    pub(crate) fn new(path: PathBuf) -> Directory {
        Directory(Arc::new(Root {
            path,
            staged: AtomicU64::new(0),
            swept: AtomicBool::new(false),
            durable: Mutex::default(),
        }))
    }

    /// Runs file work where it may block. Dropping the future does not stop work that has begun.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Root) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let root = Arc::clone(&self.0);
        tokio::task::spawn_blocking(move || work(&root))
            .await
            .unwrap_or_else(|panic| Err(Failure::new(FailureKind::Unknown, panic)))
    }
}

#[async_trait]
impl Backend for Directory {
    async fn put(&self, key: &Key, payload: PutPayload) -> Result<(), Failure> {
        let key = key.clone();
        self.blocking(move |root| {
            let mut staged = root.stage()?;
            staged.write(&payload)?;
            root.publish(staged, &key, Publish::Replace)
        })
        .await
    }

    async fn create(&self, key: &Key, payload: PutPayload) -> Result<(), Failure> {
        let key = key.clone();
        self.blocking(move |root| {
            let mut staged = root.stage()?;
            staged.write(&payload)?;
            root.publish(staged, &key, Publish::IfAbsent)
        })
        .await
    }

    async fn get(&self, key: &Key, part: Part) -> Result<Fetched, Failure> {
        let key = key.clone();
        self.blocking(move |root| {
            let path = root.path_of(&key);
            read(&path, &part).map_err(|e| root.failure("read", &path, e))
        })
        .await
    }

    async fn head(&self, key: &Key) -> Result<ObjectInfo, Failure> {
        let key = key.clone();
        self.blocking(move |root| {
            let path = root.path_of(&key);
            let metadata = fs::metadata(&path).map_err(|e| root.failure("look up", &path, e))?;
            if metadata.is_dir() {
                return Err(Failure::new(
                    FailureKind::NotFound,
                    format!("{} is a directory", path.display()),
                ));
            }
            Ok(info(key, &metadata))
        })
        .await
    }

    async fn list(&self, prefix: &Prefix, from: Position) -> Result<Page<ObjectInfo>, Failure> {
        let prefix = prefix.clone();
        self.blocking(move |root| {
            root.check_exists()?;
            let after = match &from {
                Position::After(key) => Some(key),
                Position::Start | Position::Token { .. } => None,
            };
            let mut items = Vec::new();
            root.walk(&prefix, after, &mut items)?;
            Ok(Page { items, next: None })
        })
        .await
    }

    async fn list_dirs(
        &self,
        prefix: &Prefix,
        _from: Position,
        limit: usize,
    ) -> Result<Page<String>, Failure> {
        let prefix = prefix.clone();
        self.blocking(move |root| {
            root.check_exists()?;
            let entries = root.entries(&root.path_of_prefix(&prefix))?;
            let items = entries.into_iter().filter(|e| e.is_dir).map(|e| e.name).take(limit).collect();
            Ok(Page { items, next: None })
        })
        .await
    }

    async fn delete(&self, keys: &[Key]) -> Result<(), Failure> {
        let keys = keys.to_vec();
        self.blocking(move |root| keys.iter().try_for_each(|key| root.delete(key))).await
    }

    async fn upload(&self, key: &Key) -> Result<Arc<dyn BackendUpload>, Failure> {
        let key = key.clone();
        let root = Arc::clone(&self.0);
        let staged = self.blocking(Root::stage).await?;
        Ok(Arc::new(FileUpload {
            root,
            key,
            staged: Mutex::new(Some(staged)),
            parts: Mutex::new(Vec::new()),
        }))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Publish {
    Replace,
    IfAbsent,
}

/// A file that is being written. Removed when dropped, unless it was published by renaming it.
#[derive(Debug)]
struct Staged {
    file: File,
    path: PathBuf,
    remove: bool,
}

impl Staged {
    fn write(&mut self, payload: &PutPayload) -> Result<(), Failure> {
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

struct Entry {
    name: String,
    is_dir: bool,
}

impl Root {
    fn path_of(&self, key: &Key) -> PathBuf {
        self.path.join(key.as_str())
    }

    fn path_of_prefix(&self, prefix: &Prefix) -> PathBuf {
        self.path.join(prefix.as_str())
    }

    fn check_exists(&self) -> Result<(), Failure> {
        match fs::metadata(&self.path) {
            Ok(metadata) if metadata.is_dir() => Ok(()),
            Ok(_) => {
                let reason = format!("{} is a file, not a directory", self.path.display());
                Err(Failure::new(FailureKind::Refused, reason))
            }
            Err(e) if e.kind() == ErrorKind::NotFound => Err(Failure::new(FailureKind::NoStore, e)),
            Err(e) => Err(not_done("open", &self.path, e)),
        }
    }

    /// A new file to write to, locked. The store's directory is made by the first of them.
    fn stage(&self) -> Result<Staged, Failure> {
        let tmp = self.path.join(PRIVATE).join("tmp");
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
    fn publish(&self, mut staged: Staged, key: &Key, how: Publish) -> Result<(), Failure> {
        staged.file.sync_data().map_err(|e| not_done("sync", &staged.path, e))?;
        let path = self.path_of(key);
        let dir = path.parent().unwrap_or(&self.path).to_path_buf();
        // Deleting a directory's last object removes the directory, perhaps between our making and using it.
        for _ in 0..16 {
            let named = match how {
                Publish::Replace => fs::rename(&staged.path, &path),
                Publish::IfAbsent => fs::hard_link(&staged.path, &path),
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
                        _ => Err(Failure::new(FailureKind::Exists, annotate("create", &path, &e))),
                    };
                }
                Err(e) if e.kind() == ErrorKind::NotFound => match create_dir_durably(&dir) {
                    Err(e) if e.kind() != ErrorKind::NotFound => return Err(not_done("create", &dir, e)),
                    _ => {}
                },
                Err(e) => return Err(not_done("create", &path, e)),
            }
        }
        Err(not_done("create", &path, io::Error::from(ErrorKind::NotFound)))
    }

    /// Makes a name in a directory durable: syncs the directory and, once, those above it, which another
    /// process may have made a moment ago and not synced yet.
    fn make_durable(&self, dir: &Path) -> io::Result<()> {
        sync_dir(dir)?;
        let mut above = dir;
        while above != self.path {
            if !lock(&self.durable).insert(hash(above)) {
                return Ok(());
            }
            let Some(parent) = above.parent() else { return Ok(()) };
            if let Err(e) = sync_dir(parent) {
                lock(&self.durable).remove(&hash(above));
                return Err(e);
            }
            above = parent;
        }
        Ok(())
    }

    /// What a directory holds, in the order of the keys below it: a directory sorts as its name and a slash.
    fn entries(&self, dir: &Path) -> Result<Vec<Entry>, Failure> {
        let listing = match fs::read_dir(dir) {
            Ok(listing) => listing,
            Err(e) if is_absent(&e) => return Ok(Vec::new()),
            Err(e) => return Err(not_done("list", dir, e)),
        };
        let mut entries = Vec::new();
        for entry in listing {
            let entry = entry.map_err(|e| not_done("list", dir, e))?;
            // Names that are not UTF-8 are none of ours.
            let Ok(name) = entry.file_name().into_string() else { continue };
            if name == PRIVATE && dir == self.path {
                continue;
            }
            let is_dir = match entry.file_type() {
                // A database's directory may be a link to another disk.
                Ok(kind) if kind.is_symlink() => fs::metadata(entry.path()).is_ok_and(|m| m.is_dir()),
                Ok(kind) => kind.is_dir(),
                Err(_) => continue,
            };
            entries.push(Entry { name, is_dir });
        }
        entries.sort_by(|a, b| sort_key(a).cmp(sort_key(b)));
        Ok(entries)
    }

    fn walk(&self, prefix: &Prefix, after: Option<&Key>, out: &mut Vec<ObjectInfo>) -> Result<(), Failure> {
        let dir = self.path_of_prefix(prefix);
        for entry in self.entries(&dir)? {
            if entry.is_dir {
                let Ok(_) = Key::parse(format!("{prefix}{}", entry.name)) else { continue };
                let below = prefix.dir(&entry.name);
                // Skips whole directories before the start.
                let done = after.is_some_and(|after| {
                    below.as_str() < after.as_str() && !after.as_str().starts_with(below.as_str())
                });
                if !done {
                    self.walk(&below, after, out)?;
                }
                continue;
            }
            let Ok(key) = Key::parse(format!("{prefix}{}", entry.name)) else { continue };
            if after.is_some_and(|after| key <= *after) {
                continue;
            }
            // Gone since the directory was read: a listing may or may not show it.
            let Ok(metadata) = fs::metadata(dir.join(&entry.name)) else { continue };
            out.push(info(key, &metadata));
        }
        Ok(())
    }

    fn delete(&self, key: &Key) -> Result<(), Failure> {
        let path = self.path_of(key);
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(e) if is_absent(&e) || e.kind() == ErrorKind::IsADirectory => return Ok(()),
            Err(e) => return Err(not_done("delete", &path, e)),
        }
        // Object stores have no empty directories.
        let mut dir = path.parent();
        while let Some(empty) = dir.filter(|d| *d != self.path && fs::remove_dir(d).is_ok()) {
            lock(&self.durable).remove(&hash(empty));
            dir = empty.parent();
        }
        Ok(())
    }

    fn failure(&self, verb: &str, path: &Path, error: io::Error) -> Failure {
        if is_absent(&error) {
            return match self.check_exists() {
                Err(missing) => missing,
                Ok(()) => Failure::new(FailureKind::NotFound, annotate(verb, path, &error)),
            };
        }
        not_done(verb, path, error)
    }
}

fn read(path: &Path, part: &Part) -> io::Result<Fetched> {
    let mut file = File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(io::Error::new(ErrorKind::NotFound, "is a directory"));
    }
    let object_len = metadata.len();
    let range = match part {
        Part::All => 0..object_len,
        Part::Range(range) => range.start.min(object_len)..range.end.min(object_len),
        Part::Suffix(n) => object_len.saturating_sub(*n)..object_len,
    };
    if range.start > 0 {
        file.seek(SeekFrom::Start(range.start))?;
    }
    let len = range.end - range.start;
    let mut bytes = Vec::with_capacity(usize::try_from(len).map_err(io::Error::other)?);
    file.take(len).read_to_end(&mut bytes)?;
    Ok(Fetched { bytes: Bytes::from(bytes), object_len })
}

fn sort_key(entry: &Entry) -> impl Iterator<Item = u8> + use<'_> {
    entry.name.bytes().chain(entry.is_dir.then_some(b'/'))
}

fn info(key: Key, metadata: &fs::Metadata) -> ObjectInfo {
    let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    let millis = match modified.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX),
    };
    ObjectInfo { key, len: metadata.len(), last_modified: Timestamp::from_millis(millis) }
}

/// A failure before which nothing was changed under the key.
fn not_done(verb: &str, path: &Path, error: io::Error) -> Failure {
    let kind = match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => FailureKind::Denied,
        ErrorKind::NotADirectory
        | ErrorKind::IsADirectory
        | ErrorKind::CrossesDevices
        | ErrorKind::InvalidFilename => FailureKind::Refused,
        // A full disk, a failing one, a network mount that is away: an operator can mend it while we wait.
        _ => FailureKind::NotSent,
    };
    Failure { kind, reason: annotate(verb, path, &error), source: error.into() }
}

/// Whether there is no such file: a name below a file's name is none either.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

fn annotate(verb: &str, path: &Path, error: &io::Error) -> String {
    format!("cannot {verb} {}: {error}", path.display())
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

#[derive(Debug)]
struct FileUpload {
    root: Arc<Root>,
    key: Key,
    staged: Mutex<Option<Staged>>,
    /// Where each part starts, and after them where the next one will.
    parts: Mutex<Vec<u64>>,
}

#[async_trait]
impl BackendUpload for FileUpload {
    fn part(self: Arc<Self>, number: usize, payload: PutPayload) -> BoxFuture<'static, Result<(), Failure>> {
        let offset = {
            let mut parts = lock(&self.parts);
            if parts.is_empty() {
                parts.push(0);
            }
            let offset = parts[number];
            if parts.len() == number + 1 {
                parts.push(offset + payload.content_length() as u64);
            }
            offset
        };
        Box::pin(async move {
            let written = tokio::task::spawn_blocking(move || {
                let mut staged = lock(&self.staged);
                let staged = staged.as_mut().ok_or_else(|| Failure::new(FailureKind::Refused, OVER))?;
                let positioned = staged.file.seek(SeekFrom::Start(offset));
                positioned.map_err(|e| not_done("write", &staged.path, e))?;
                staged.write(&payload)
            });
            written.await.unwrap_or_else(|panic| Err(Failure::new(FailureKind::NotSent, panic)))
        })
    }

    async fn complete(&self) -> Result<(), Failure> {
        let staged = lock(&self.staged).take().ok_or_else(|| Failure::new(FailureKind::Refused, OVER))?;
        let (root, key) = (Arc::clone(&self.root), self.key.clone());
        let published = tokio::task::spawn_blocking(move || root.publish(staged, &key, Publish::Replace));
        published.await.unwrap_or_else(|panic| Err(Failure::new(FailureKind::Unknown, panic)))
    }

    async fn abort(&self) -> Result<(), Failure> {
        lock(&self.staged).take();
        Ok(())
    }
}

const OVER: &str = "the upload has ended";

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::fs::FileTimes;

    use super::*;

    fn age(path: &Path, by: Duration) {
        let times = FileTimes::new().set_modified(SystemTime::now() - by);
        File::options().write(true).open(path).unwrap().set_times(times).unwrap();
    }

    #[test]
    fn only_what_crashed_writers_left_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        let root = Directory::new(dir.path().to_path_buf()).0;
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
        drop(root.stage().unwrap());
        assert!(!path("left").exists());
        assert!(path("recent").exists());
        assert!(path("in use").exists());
        assert_eq!(fs::read_dir(&tmp).unwrap().count(), 2, "what is not published is removed");
    }

    #[test]
    fn files_being_written_are_locked() {
        let dir = tempfile::tempdir().unwrap();
        let root = Directory::new(dir.path().to_path_buf()).0;
        let staged = root.stage().unwrap();
        assert!(File::open(&staged.path).unwrap().try_lock().is_err());
    }
}
