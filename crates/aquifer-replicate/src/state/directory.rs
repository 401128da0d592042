//! The directory in which a replica keeps its local state, and the lock on it.

use std::io;
use std::path::{Path, PathBuf};

use aquifer_sqlite::FileLock;

/// The local state of one database's replica: locked while this exists.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: FileLock,
}

impl StateDir {
    /// Where the state of a database is kept, if nothing else is said: `.NAME-aquifer` beside the database `NAME`.
    pub fn beside(database: &Path) -> PathBuf {
        let mut name = std::ffi::OsString::from(".");
        name.push(database.file_name().unwrap_or(database.as_os_str()));
        name.push("-aquifer");
        database.with_file_name(name)
    }

    /// The part of it that belongs to one name in one store: the same database may be replicated to several.
    pub fn name_of(store: &str, name: &str) -> String {
        format!("{:016x}", xxhash_rust::xxh3::xxh3_64(format!("{store}\n{name}").as_bytes()))
    }

    /// Opens and locks a state directory, creating it where it does not exist.
    ///
    /// `Ok(None)`: another process has it, and so replicates this database already.
    pub fn open(path: &Path) -> io::Result<Option<StateDir>> {
        std::fs::create_dir_all(path.join("staging"))?;
        let lock = FileLock::try_new(&path.join("lock"))?;
        Ok(lock.map(|lock| StateDir { path: path.to_owned(), _lock: lock }))
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory of segments that wait for the store.
    pub fn staging(&self) -> PathBuf {
        self.path.join("staging")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_at_a_time() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = StateDir::beside(&dir.path().join("app.db"));
        assert!(path.ends_with(".app.db-aquifer"));
        let first = StateDir::open(&path).unwrap().unwrap();
        assert!(StateDir::open(&path).unwrap().is_none());
        drop(first);
        assert!(StateDir::open(&path).unwrap().is_some());
    }
}
