//! A lock file: one holder at a time, gone with its process.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;

/// An exclusive lock (`flock`) on a file that exists for nothing else, held while this exists.
///
/// Closing the descriptor would not do: a child that another thread starts at that moment shares it until its `exec`,
/// and with it the lock (flock(2)). So the lock is given back by name.
#[derive(Debug)]
pub struct FileLock(File);

impl FileLock {
    /// Locks the file, which is created where it does not exist; `None` where another holds the lock. Does not wait.
    pub fn try_new(path: &Path) -> io::Result<Option<FileLock>> {
        let file = File::options().create(true).truncate(false).write(true).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(FileLock(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(e),
        }
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // On failure the lock goes with the descriptor.
        let _ = self.0.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_has_one_holder_and_is_free_when_dropped_though_a_child_inherited_the_descriptor() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = FileLock::try_new(&path).unwrap().unwrap();
        assert!(FileLock::try_new(&path).unwrap().is_none());
        let inherited = first.0.try_clone().unwrap();
        drop(first);
        assert!(FileLock::try_new(&path).unwrap().is_some());
        drop(inherited);
    }
}
