//! Small files whose content is read again when it changed: keys, tokens and certificates are renewed without a
//! restart.

use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::{Mutex, RwLock};

/// How often the files are looked at, at most.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Largest file that is read, in bytes.
const MAX_LEN: u64 = 1024 * 1024;

/// Why a file of keys, tokens or certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WatchedError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Its content is not understood.
    #[error("{}: {problem}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong; quotes no secret.
        problem: String,
    },
}

type Parse<T> = Box<dyn Fn(&[Vec<u8>]) -> Result<T, String> + Send + Sync>;

/// The parsed content of files that belong together, as new as the last look at them.
pub(crate) struct Watched<T> {
    paths: Vec<PathBuf>,
    parse: Parse<T>,
    value: RwLock<Arc<T>>,
    look: Mutex<Look>,
}

struct Look {
    next: Instant,
    /// What each file was like when it was last read, usable or not; `None` when it was not there. A file that
    /// cannot be used is so complained about once, not every second.
    stamps: Vec<Option<Stamp>>,
}

/// By what a changed file is known. The inode is part of it because a file that replaces another by rename may have
/// the same size (all Ed25519 keys do) and an older time.
#[derive(PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    len: u64,
    inode: u64,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Stamp {
        Stamp { modified: metadata.modified().ok(), len: metadata.len(), inode: metadata.ino() }
    }
}

impl<T> Watched<T> {
    /// Reads the files for the first time. `parse` gets their contents in the order of their paths.
    pub(crate) fn open(
        paths: &[&Path],
        parse: impl Fn(&[Vec<u8>]) -> Result<T, String> + Send + Sync + 'static,
    ) -> Result<Watched<T>, WatchedError> {
        let (mut stamps, mut contents) = (Vec::new(), Vec::new());
        for path in paths {
            let (stamp, content) =
                read(path).map_err(|source| WatchedError::Read { path: path.into(), source })?;
            stamps.push(Some(stamp));
            contents.push(content);
        }
        let paths: Vec<PathBuf> = paths.iter().map(PathBuf::from).collect();
        let value = parse(&contents).map_err(|problem| WatchedError::Content {
            path: paths.first().cloned().unwrap_or_default(),
            problem,
        })?;
        Ok(Watched {
            paths,
            parse: Box::new(parse),
            value: RwLock::new(Arc::new(value)),
            look: Mutex::new(Look { next: Instant::now() + LOOK_EVERY, stamps }),
        })
    }

    /// The content at this moment, or as it was at most a second before. While a file is missing or cannot be
    /// understood, the content that they last had.
    pub(crate) fn current(&self, at: Instant) -> Arc<T> {
        // Whoever finds another looking at the files does not wait for it.
        if let Some(mut look) = self.look.try_lock()
            && at >= look.next
        {
            look.next = at + LOOK_EVERY;
            self.look_again(&mut look);
        }
        Arc::clone(&self.value.read())
    }

    fn look_again(&self, look: &mut Look) {
        let stamp = |path: &PathBuf| std::fs::metadata(path).ok().map(|metadata| Stamp::of(&metadata));
        let stamps: Vec<_> = self.paths.iter().map(stamp).collect();
        if stamps == look.stamps {
            return;
        }
        look.stamps = stamps;
        let mut contents = Vec::new();
        let path = self.paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
        for (path, last) in self.paths.iter().zip(&mut look.stamps) {
            match read(path) {
                Ok((stamp, content)) => {
                    *last = Some(stamp);
                    contents.push(content);
                }
                Err(error) => return Self::complain(&path.display().to_string(), &error.to_string()),
            }
        }
        match (self.parse)(&contents) {
            Ok(value) => {
                *self.value.write() = Arc::new(value);
                tracing::info!(path, "read again, because it changed");
            }
            Err(problem) => Self::complain(&path, &problem),
        }
    }

    fn complain(path: &str, problem: &str) {
        tracing::error!(
            path,
            problem,
            "cannot be used since it changed; what it said before stays in force until it is repaired"
        );
    }
}

/// The content, and what the file was like just before it was read: a change in between shows at the next look.
fn read(path: &Path) -> io::Result<(Stamp, Vec<u8>)> {
    let mut file = File::open(path)?;
    let stamp = Stamp::of(&file.metadata()?);
    let mut content = Vec::new();
    (&mut file).take(MAX_LEN + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MAX_LEN {
        return Err(io::Error::other(
            "it is larger than 1 MiB, which no file of keys, tokens or certificates is",
        ));
    }
    Ok((stamp, content))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(contents: &[Vec<u8>]) -> Result<u32, String> {
        std::str::from_utf8(&contents[0]).ok().and_then(|s| s.trim().parse().ok()).ok_or("no number".into())
    }

    #[test]
    fn a_changed_file_is_read_again_but_not_within_a_second() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("n");
        std::fs::write(&path, "1").unwrap();
        let watched = Watched::open(&[&path], number).unwrap();
        let start = Instant::now() + LOOK_EVERY;
        assert_eq!(*watched.current(start), 1);
        std::fs::write(&path, "22").unwrap();
        assert_eq!(*watched.current(start + LOOK_EVERY / 2), 1);
        assert_eq!(*watched.current(start + LOOK_EVERY), 22);
    }

    #[test]
    fn a_file_of_the_same_size_and_time_renamed_over_it_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, new) = (dir.path().join("n"), dir.path().join("new"));
        std::fs::write(&path, "1").unwrap();
        let watched = Watched::open(&[&path], number).unwrap();
        std::fs::write(&new, "2").unwrap();
        let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
        File::open(&new).unwrap().set_modified(modified).unwrap();
        std::fs::rename(&new, &path).unwrap();
        assert_eq!(*watched.current(Instant::now() + LOOK_EVERY), 2);
    }

    #[test]
    fn a_file_that_breaks_or_vanishes_leaves_what_it_said_before_in_force() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("n");
        std::fs::write(&path, "1").unwrap();
        let watched = Watched::open(&[&path], number).unwrap();
        let mut at = Instant::now();
        let mut next = || {
            at += LOOK_EVERY;
            *watched.current(at)
        };
        std::fs::write(&path, "broken").unwrap();
        assert_eq!(next(), 1);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(next(), 1);
        std::fs::write(&path, "333").unwrap();
        assert_eq!(next(), 333);
    }

    #[test]
    fn files_that_belong_together_count_only_when_they_do_so_again() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        let write = |path: &Path, content: &str| std::fs::write(path, content).unwrap();
        write(&a, "1");
        write(&b, "1");
        let same = |contents: &[Vec<u8>]| {
            (contents[0] == contents[1]).then(|| contents[0].clone()).ok_or("they differ".to_owned())
        };
        let watched = Watched::open(&[&a, &b], same).unwrap();
        let mut at = Instant::now();
        let mut next = || {
            at += LOOK_EVERY;
            watched.current(at).as_slice().to_owned()
        };
        write(&a, "22");
        assert_eq!(next(), b"1");
        // The first one has not changed since it was looked at last.
        write(&b, "22");
        assert_eq!(next(), b"22");
        std::fs::remove_file(&b).unwrap();
        assert_eq!(next(), b"22");
    }

    #[test]
    fn a_file_that_cannot_be_used_at_first_is_an_error_with_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("n");
        let missing = Watched::open(&[&path], number).err().unwrap().to_string();
        std::fs::write(&path, "broken").unwrap();
        let broken = Watched::open(&[&path], number).err().unwrap().to_string();
        assert!(missing.contains(path.to_str().unwrap()), "{missing}");
        assert!(broken.contains(path.to_str().unwrap()) && broken.contains("no number"), "{broken}");
        std::fs::write(&path, vec![b'1'; MAX_LEN as usize + 1]).unwrap();
        assert!(matches!(Watched::open(&[&path], number), Err(WatchedError::Read { .. })));
    }
}
