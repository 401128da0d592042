//! Objects as files: names, reading, listing, deleting.

use std::cmp::Ordering;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread::{self, available_parallelism};
use std::time::SystemTime;

use aquifer_format::Timestamp;
use bytes::Bytes;

use super::staging::{PRIVATE, Staging};
use crate::store::ObjectInfo;
use crate::store::backend::{Fetched, Part};
use crate::store::error::{Failure, FailureKind};
use crate::store::key::{Key, Prefix};

/// Files of a directory that are worth more than one thread.
const MANY: usize = 2000;

/// The store's directory.
#[derive(Debug)]
pub(super) struct Root {
    path: PathBuf,
    pub(super) staging: Staging,
}

pub(super) struct Entry {
    pub(super) name: String,
    pub(super) is_dir: bool,
    found: fs::DirEntry,
}

impl Entry {
    fn new(found: fs::DirEntry) -> Option<Entry> {
        // Names that are not UTF-8 are none of ours.
        let name = found.file_name().into_string().ok()?;
        let kind = found.file_type().ok()?;
        // A database's directory may be a link to another disk.
        let leads_to_dir = || fs::metadata(found.path()).is_ok_and(|m| m.is_dir());
        let is_dir = if kind.is_symlink() { leads_to_dir() } else { kind.is_dir() };
        Some(Entry { name, is_dir, found })
    }

    /// Of what a link leads to. Does not walk the path to the directory once more, which takes longer than all the rest.
    fn metadata(&self) -> io::Result<fs::Metadata> {
        let metadata = self.found.metadata()?;
        if metadata.is_symlink() { fs::metadata(self.found.path()) } else { Ok(metadata) }
    }
}

impl Root {
    pub(super) fn new(path: PathBuf) -> Root {
        Root { staging: Staging::new(path.clone()), path }
    }

    pub(super) fn path_of(&self, key: &Key) -> PathBuf {
        self.path.join(key.as_str())
    }

    pub(super) fn path_of_prefix(&self, prefix: &Prefix) -> PathBuf {
        self.path.join(prefix.as_str())
    }

    pub(super) fn check_exists(&self) -> Result<(), Failure> {
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

    pub(super) fn get(&self, key: &Key, part: &Part) -> Result<Fetched, Failure> {
        let path = self.path_of(key);
        read(&path, part).map_err(|e| self.failure("read", &path, e))
    }

    /// What a directory holds, in the order of the keys below it: a directory sorts as its name and a slash.
    pub(super) fn entries(&self, dir: &Path) -> Result<Vec<Entry>, Failure> {
        let listing = match fs::read_dir(dir) {
            Ok(listing) => listing,
            Err(e) if is_absent(&e) => return Ok(Vec::new()),
            Err(e) => return Err(not_done("list", dir, e)),
        };
        let mut entries = Vec::new();
        for entry in listing {
            let entry = entry.map_err(|e| not_done("list", dir, e))?;
            let Some(entry) = Entry::new(entry) else { continue };
            if entry.name == PRIVATE && dir == self.path {
                continue;
            }
            entries.push(entry);
        }
        entries.sort_unstable_by(in_order);
        Ok(entries)
    }

    pub(super) fn walk(
        &self,
        prefix: &Prefix,
        after: Option<&Key>,
        out: &mut Vec<ObjectInfo>,
    ) -> Result<(), Failure> {
        let dir = self.path_of_prefix(prefix);
        for run in self.entries(&dir)?.chunk_by(|a, b| !a.is_dir && !b.is_dir) {
            let [Entry { name, is_dir: true, .. }] = run else {
                infos(prefix, after, run, out);
                continue;
            };
            let Ok(_) = Key::parse(format!("{prefix}{name}")) else { continue };
            let below = prefix.dir(name);
            // Skips whole directories before the start.
            let done = after.is_some_and(|after| {
                below.as_str() < after.as_str() && !after.as_str().starts_with(below.as_str())
            });
            if !done {
                self.walk(&below, after, out)?;
            }
        }
        Ok(())
    }

    pub(super) fn delete(&self, key: &Key) -> Result<(), Failure> {
        let path = self.path_of(key);
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(e) if is_absent(&e) || e.kind() == ErrorKind::IsADirectory => return Ok(()),
            Err(e) => return Err(not_done("delete", &path, e)),
        }
        // Object stores have no empty directories.
        let mut dir = path.parent();
        while let Some(empty) = dir.filter(|d| *d != self.path && fs::remove_dir(d).is_ok()) {
            self.staging.removed(empty);
            dir = empty.parent();
        }
        Ok(())
    }

    pub(super) fn failure(&self, verb: &str, path: &Path, error: io::Error) -> Failure {
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

/// Looks files up, whose order is kept: many on all processors, since it is what takes longest of listing them.
fn infos(prefix: &Prefix, after: Option<&Key>, files: &[Entry], out: &mut Vec<ObjectInfo>) {
    let info = |entry: &Entry| {
        let key = Key::parse(format!("{prefix}{}", entry.name)).ok()?;
        if after.is_some_and(|after| key <= *after) {
            return None;
        }
        // Gone since the directory was read: a listing may or may not show it.
        Some(info(key, &entry.metadata().ok()?))
    };
    if files.len() < MANY {
        out.extend(files.iter().filter_map(info));
        return;
    }
    let threads = available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let parts = files.chunks(files.len().div_ceil(threads));
        let parts = parts.map(|part| scope.spawn(|| part.iter().filter_map(info).collect::<Vec<_>>()));
        // All begin before the first is waited for.
        for part in parts.collect::<Vec<_>>() {
            out.extend(part.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
    });
}

/// As the keys below them: that of a directory goes on with a slash.
fn in_order(a: &Entry, b: &Entry) -> Ordering {
    let common = a.name.len().min(b.name.len());
    let [a_name, b_name] = [a, b].map(|entry| entry.name.as_bytes());
    let rest = |entry: &Entry| {
        let slash = entry.is_dir.then_some(b'/');
        entry.name.bytes().skip(common).chain(slash).next()
    };
    // Names in a directory differ: at the latest in what the longer one goes on with.
    a_name[..common].cmp(&b_name[..common]).then_with(|| rest(a).cmp(&rest(b)))
}

pub(super) fn info(key: Key, metadata: &fs::Metadata) -> ObjectInfo {
    let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    let millis = match modified.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX),
    };
    ObjectInfo { key, len: metadata.len(), last_modified: Timestamp::from_millis(millis) }
}

/// A failure before which nothing was changed under the key.
pub(super) fn not_done(verb: &str, path: &Path, error: io::Error) -> Failure {
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
pub(super) fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

pub(super) fn annotate(verb: &str, path: &Path, error: &io::Error) -> String {
    format!("cannot {verb} {}: {error}", path.display())
}
