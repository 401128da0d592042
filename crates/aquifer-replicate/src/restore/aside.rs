//! Keeping the database that another takes the place of, so that it never is without a name, nor the place without a
//! database.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::destination::Destination;
use super::error::RestoreError;
use super::output::sync_directory;

impl Destination {
    /// Gives the file that is there, `current`, a second name, which is all that it has once the new one is in its place.
    pub(super) fn set_aside(&self, suffix: &str, current: &File) -> Result<PathBuf, RestoreError> {
        self.set_aside_by(|from, to| fs::hard_link(from, to), suffix, current)
    }

    fn set_aside_by(
        &self,
        link: impl Fn(&Path, &Path) -> io::Result<()>,
        suffix: &str,
        current: &File,
    ) -> Result<PathBuf, RestoreError> {
        let mut number = 1;
        loop {
            let mut name = self.name().to_owned();
            name.push(suffix);
            if number > 1 {
                name.push(format!(".{number}"));
            }
            let aside = self.directory().join(name);
            let kept = match link(self.path(), &aside) {
                Err(e) if knows_no_links(&e) => self.copy_aside(current, &aside),
                linked => linked,
            };
            match kept {
                Ok(()) => {
                    // Before the name that it has now is gone.
                    sync_directory(self.directory())
                        .map_err(|e| RestoreError::io("flush", self.directory(), e))?;
                    return Ok(aside);
                }
                Err(e) if e.kind() == ErrorKind::AlreadyExists => number += 1,
                Err(e) => return Err(RestoreError::io("keep the database that is there as", &aside, e)),
            }
        }
    }

    /// A copy, where a file has one name only. It appears whole: until then its name is that of an empty file.
    fn copy_aside(&self, current: &File, aside: &Path) -> io::Result<()> {
        OpenOptions::new().write(true).create_new(true).open(aside)?;
        let copied = self.copy(current, aside);
        if copied.is_err() {
            let _ = fs::remove_file(aside);
        }
        copied
    }

    fn copy(&self, mut current: &File, aside: &Path) -> io::Result<()> {
        let copy = self.create_temporary().map_err(io::Error::other)?;
        io::copy(&mut current, &mut &*copy.file)?;
        copy.file.set_permissions(current.metadata()?.permissions())?;
        copy.file.sync_all()?;
        copy.path.persist(aside).map_err(|e| e.error)
    }
}

/// EPERM is what FAT answers, and Linux for the file of somebody else; a network file system says that it does not
/// support links, and some have a largest number of them.
fn knows_no_links(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::Unsupported | ErrorKind::TooManyLinks)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::restore::Existing;

    #[test]
    fn without_hard_links_the_database_is_kept_as_a_copy() {
        // EPERM, EOPNOTSUPP, ENOSYS, EMLINK.
        for code in [1, 95, 38, 31] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("app.db");
            fs::write(&path, b"a database").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
            fs::write(dir.path().join("app.db.old"), b"kept before").unwrap();
            let destination = Destination::check(&path, Existing::SetAside(".old")).unwrap().unwrap();
            let (current, cannot) =
                (File::open(&path).unwrap(), |_: &Path, _: &Path| Err(io::Error::from_raw_os_error(code)));
            let aside = destination.set_aside_by(cannot, ".old", &current).unwrap();
            assert_eq!(aside, dir.path().join("app.db.old.2"));
            assert_eq!(fs::read(&aside).unwrap(), b"a database");
            assert_eq!(fs::metadata(&aside).unwrap().permissions().mode() & 0o777, 0o640);
            assert_eq!(fs::read(dir.path().join("app.db.old")).unwrap(), b"kept before");
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3, "nothing else is left");
        }
    }

    #[test]
    fn what_cannot_be_kept_is_an_error_and_stays_where_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        fs::write(&path, b"a database").unwrap();
        let destination = Destination::check(&path, Existing::SetAside(".old")).unwrap().unwrap();
        // Open for writing only: it cannot be read.
        let unreadable = OpenOptions::new().append(true).open(&path).unwrap();
        let cannot = |_: &Path, _: &Path| Err(io::Error::from(ErrorKind::PermissionDenied));
        let error = destination.set_aside_by(cannot, ".old", &unreadable).unwrap_err();
        assert!(error.to_string().contains("keep the database that is there as"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"a database");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no half of it is left");
    }
}
