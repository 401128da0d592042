//! The file that a restore makes: checks before, a temporary file beside it, and the switch at the end.
//!
//! SQLite finds a database's WAL and rollback journal by name. One that belongs to the file that was there before
//! must never be met beside the new file: SQLite would play it back into it. So at the moment of the rename there
//! is none: the old database, which nobody else has open then, was made to hold everything by itself, and the
//! files beside it were removed.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aquifer_sqlite::{Takeover, take_over};
use tempfile::TempPath;

use super::error::RestoreError;
use super::output::sync_directory;
use super::{Existing, Installed};

/// What SQLite keeps beside a database file.
const SIDE_FILES: [&str; 3] = ["-wal", "-shm", "-journal"];

/// Where the restored database goes.
#[derive(Debug, Clone)]
pub struct Destination {
    /// The file, links resolved.
    path: PathBuf,
    directory: PathBuf,
    name: OsString,
    existing: Existing,
}

/// A file beside the target, removed when dropped. Locked, so that no other restore takes it for abandoned.
#[derive(Debug)]
pub struct Temporary {
    /// Where it is.
    pub path: TempPath,
    /// The only one who still has it open when it is put in place must be this: closing a descriptor of a database
    /// file drops the locks that SQLite has on it in the same process.
    pub file: Arc<File>,
}

impl Destination {
    /// Looks at the target. `None`: it exists and is to be kept.
    pub fn check(path: &Path, existing: Existing) -> Result<Option<Destination>, RestoreError> {
        let bad = |reason: &str| RestoreError::BadTarget { path: path.to_owned(), reason: reason.to_owned() };
        let path = &std::path::absolute(path).map_err(|e| RestoreError::io("look up", path, e))?;
        let name = path.file_name().ok_or_else(|| bad("it has no file name"))?.to_owned();
        let mut destination =
            Destination { path: path.clone(), directory: directory_of(path), name, existing };
        if !destination.directory.is_dir() {
            return Err(bad("its directory does not exist: create it first"));
        }
        let Some(metadata) = metadata(path)? else { return Ok(Some(destination)) };
        match existing {
            Existing::Keep => return Ok(None),
            Existing::Refuse => return Err(RestoreError::TargetExists(path.to_owned())),
            Existing::Replace | Existing::SetAside(_) => {}
        }
        if metadata.is_symlink() {
            // SQLite names WAL and journal after the file that a link leads to.
            let resolved =
                fs::canonicalize(path).map_err(|e| RestoreError::io("follow the link", path, e))?;
            resolved.file_name().ok_or_else(|| bad("it leads to no file"))?.clone_into(&mut destination.name);
            destination.directory = directory_of(&resolved);
            destination.path = resolved;
        }
        let file = fs::metadata(&destination.path).map_err(|e| RestoreError::io("look up", path, e))?;
        if !file.is_file() {
            return Err(bad("it is no file"));
        }
        // Better now than after the download.
        drop(destination.take_over()?);
        Ok(Some(destination))
    }

    /// The file, links resolved.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where it is.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Its name there.
    pub(super) fn name(&self) -> &OsStr {
        &self.name
    }

    /// For a temporary file beside a file that is not replaced, but changed.
    pub(crate) fn beside(path: &Path) -> Result<Destination, RestoreError> {
        let path = std::path::absolute(path).map_err(|e| RestoreError::io("look up", path, e))?;
        let name = path.file_name().map(OsStr::to_owned).unwrap_or_default();
        Ok(Destination { directory: directory_of(&path), path, name, existing: Existing::Refuse })
    }

    /// A new file in the target's directory. Those that killed restores of the same target left are removed.
    pub fn create_temporary(&self) -> Result<Temporary, RestoreError> {
        self.sweep();
        loop {
            let mut name = self.temporary_prefix();
            name.push(uuid::Uuid::now_v7().simple().to_string());
            let path = self.directory.join(name);
            let mut options = OpenOptions::new();
            let file = match options.read(true).write(true).create_new(true).open(&path) {
                Ok(file) => file,
                Err(e) if e.kind() == ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(RestoreError::io("create", &path, e)),
            };
            let path = TempPath::try_from_path(&path).map_err(|e| RestoreError::io("create", &path, e))?;
            // Between its creation and its locking another restore may have swept it.
            let locked = !matches!(file.try_lock(), Err(fs::TryLockError::WouldBlock));
            if locked && is_same_file(&file, &path) {
                return Ok(Temporary { path, file: Arc::new(file) });
            }
        }
    }

    /// Puts the finished file, flushed, in the target's place, durably.
    pub fn install(&self, temporary: Temporary) -> Result<Installed, RestoreError> {
        let Temporary { path, file } = temporary;
        let old = match self.existing {
            Existing::Replace | Existing::SetAside(_) => metadata(&self.path)?,
            Existing::Refuse | Existing::Keep => None,
        };
        let mut installed = if old.is_some() { Installed::Replaced } else { Installed::New };
        // Closed after the lock was given back: see `aquifer_sqlite`, "Never a second descriptor".
        let mut kept = None;
        // Held until the new file is in place: nobody can write to the old one any more.
        let taken = if let Some(old) = old {
            fs::set_permissions(&path, old.permissions())
                .map_err(|e| RestoreError::io("set the permissions of", &path, e))?;
            Some(self.take_over()?)
        } else {
            None
        };
        let replaces = taken.is_some() || !self.path.exists();
        if let (Existing::SetAside(suffix), Some(_)) = (self.existing, &taken) {
            let current = File::open(&self.path).map_err(|e| RestoreError::io("read", &self.path, e))?;
            let current = &*kept.insert(current);
            if has_same_content(current, &file).map_err(|e| RestoreError::io("read", &self.path, e))? {
                // Empty by now.
                self.remove_side_files()?;
                return Ok(Installed::Same);
            }
            installed = Installed::SetAside(self.set_aside(suffix, current)?);
        }
        if replaces {
            self.remove_side_files()?;
        }
        let renamed = if taken.is_some() {
            path.persist(&self.path)
        } else {
            // Whatever appeared there meanwhile is not ours to replace.
            path.persist_noclobber(&self.path)
        };
        renamed.map_err(|e| match e.error.kind() {
            ErrorKind::AlreadyExists => RestoreError::TargetExists(self.path.clone()),
            _ => RestoreError::io("put the restored database in place at", &self.path, e.error),
        })?;
        drop(file);
        drop(taken);
        sync_directory(&self.directory).map_err(|e| RestoreError::io("flush", &self.directory, e))?;
        Ok(installed)
    }

    fn take_over(&self) -> Result<Takeover, RestoreError> {
        take_over(&self.path).map_err(|source| match source {
            aquifer_sqlite::Error::Busy { .. } => {
                RestoreError::TargetInUse { path: self.path.clone(), source }
            }
            other => other.into(),
        })
    }

    fn remove_side_files(&self) -> Result<(), RestoreError> {
        let mut removed = false;
        for suffix in SIDE_FILES {
            let mut name = self.name.clone();
            name.push(suffix);
            let path = self.directory.join(name);
            match fs::remove_file(&path) {
                Ok(()) => removed = true,
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => return Err(RestoreError::io("remove", &path, e)),
            }
        }
        if removed {
            // Their names must be gone for good before the new file has its name.
            sync_directory(&self.directory).map_err(|e| RestoreError::io("flush", &self.directory, e))?;
        }
        Ok(())
    }

    fn temporary_prefix(&self) -> OsString {
        let mut prefix = OsString::from(".");
        prefix.push(&self.name);
        prefix.push("-aquifer-restore-");
        prefix
    }

    /// Removes what restores of this target left that were killed: their files are not locked any more.
    fn sweep(&self) {
        let prefix = self.temporary_prefix();
        let Ok(listing) = fs::read_dir(&self.directory) else { return };
        for entry in listing.flatten() {
            if !is_temporary(&entry.file_name(), &prefix) {
                continue;
            }
            let path = entry.path();
            let Ok(file) = File::open(&path) else { continue };
            if file.try_lock().is_ok() && is_same_file(&file, &path) {
                tracing::info!(path = %path.display(), "removing what a restore left that was killed");
                let _ = fs::remove_file(&path);
            }
        }
    }
}

fn has_same_content(one: &File, other: &File) -> io::Result<bool> {
    const CHUNK: usize = 1 << 18;
    let len = one.metadata()?.len();
    if len != other.metadata()?.len() {
        return Ok(false);
    }
    let (mut a, mut b) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut at = 0;
    while at < len {
        let n = CHUNK.min((len - at) as usize);
        one.read_exact_at(&mut a[..n], at)?;
        other.read_exact_at(&mut b[..n], at)?;
        if a[..n] != b[..n] {
            return Ok(false);
        }
        at += n as u64;
    }
    Ok(true)
}

/// Whether a name is `prefix` and the 32 digits that follow it: SQLite's own files beside it are not.
fn is_temporary(name: &OsStr, prefix: &OsStr) -> bool {
    let rest = name.as_encoded_bytes().strip_prefix(prefix.as_encoded_bytes());
    rest.is_some_and(|rest| rest.len() == 32 && rest.iter().all(u8::is_ascii_hexdigit))
}

/// Of an absolute path.
fn directory_of(path: &Path) -> PathBuf {
    path.parent().map_or_else(|| PathBuf::from("/"), Path::to_owned)
}

/// Of the file itself, or of a link.
fn metadata(path: &Path) -> Result<Option<fs::Metadata>, RestoreError> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(RestoreError::io("look up", path, e)),
    }
}

fn is_same_file(file: &File, path: &Path) -> bool {
    let ids = |m: io::Result<fs::Metadata>| m.ok().map(|m| (m.dev(), m.ino()));
    let open = ids(file.metadata());
    open.is_some() && open == ids(fs::symlink_metadata(path))
}
