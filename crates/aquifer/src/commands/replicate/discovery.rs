//! Databases that are found: in directories, and by patterns; again and again, as new ones appear.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::config::{DatabaseEntry, DatabaseSettings, DirectoryEntry};
use crate::error::CliError;

/// What every SQLite database starts with: sqlite.org/fileformat2.html, "The Database Header".
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// Looks for databases.
#[derive(Debug)]
pub(super) struct Discovery {
    places: Vec<Place>,
    /// Databases that were reported, or are replicated anyway: by where they really are.
    found: HashSet<PathBuf>,
    /// Those that are passed over, and were told of.
    told: HashSet<PathBuf>,
}

/// One directory to look in.
#[derive(Debug)]
struct Place {
    directory: PathBuf,
    /// What files are called.
    pattern: String,
    exclude: Vec<String>,
    /// What its databases have for themselves.
    own: DatabaseSettings,
    /// Pass over databases that are not in WAL mode until they are.
    needs_wal: bool,
    /// The directory's time of change when it was looked at; `None` to look at it again in any case.
    seen: Option<SystemTime>,
}

/// Whether a path's last component is a pattern. A file that is really called so is a file.
pub(super) fn is_pattern(path: &Path) -> bool {
    let last = path.file_name().unwrap_or_default().to_string_lossy();
    last.contains(['*', '?']) && !path.exists()
}

impl Discovery {
    /// Of these directories and patterns. Nothing is looked at yet.
    ///
    /// Where `needs_wal`, databases in a rollback-journal mode are passed over until they are in WAL mode: as
    /// applications begin them, and then switch. `named` are replicated in any case, and passed over as well.
    pub(super) fn new(
        entries: &[DirectoryEntry],
        named: &[DatabaseEntry],
        needs_wal: impl Fn(&DirectoryEntry) -> bool,
    ) -> Result<Discovery, CliError> {
        let place = |entry: &DirectoryEntry| {
            let (directory, pattern) = if is_pattern(&entry.path) {
                let parent = entry.path.parent().filter(|parent| !parent.as_os_str().is_empty());
                let pattern = entry.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                (parent.unwrap_or(Path::new(".")).to_owned(), pattern)
            } else {
                (entry.path.clone(), "*".to_owned())
            };
            if directory.to_string_lossy().contains(['*', '?']) && !directory.exists() {
                return Err(CliError::Usage(format!(
                    "'{}': only the last component may be a pattern",
                    entry.path.display()
                )));
            }
            Ok(Place {
                directory,
                pattern,
                exclude: entry.exclude.clone(),
                own: entry.own.clone(),
                needs_wal: needs_wal(entry),
                seen: None,
            })
        };
        let places = entries.iter().map(place).collect::<Result<_, _>>()?;
        let found = named.iter().map(|database| real(&database.path)).collect();
        Ok(Discovery { places, found, told: HashSet::new() })
    }

    /// Whether there is anywhere to look.
    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The databases that were not reported yet. Where nothing changed this costs one `stat` of each directory.
    pub(super) fn scan(&mut self) -> Result<Vec<DatabaseEntry>, CliError> {
        let mut new = Vec::new();
        for place in &mut self.places {
            let failed = |source| CliError::File { action: "look in", path: place.directory.clone(), source };
            let changed = fs::metadata(&place.directory).and_then(|data| data.modified()).map_err(failed)?;
            if place.seen == Some(changed) {
                continue;
            }
            let mut settled = true;
            let mut paths: Vec<PathBuf> = Vec::new();
            for entry in fs::read_dir(&place.directory).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                if place.wants(&entry.file_name()) {
                    paths.push(entry.path());
                }
            }
            paths.sort();
            for path in paths {
                // Those that were reported are open in this process, where opening and closing them once more
                // would drop SQLite's locks (sqlite.org/howtocorrupt.html, section 2.2).
                if self.found.contains(&real(&path)) {
                    continue;
                }
                match looks(&path) {
                    Looks::Database { wal: false } if place.needs_wal => {
                        settled = false;
                        if self.told.insert(path.clone()) {
                            tracing::warn!(
                                path = %path.display(),
                                "not replicated while it is in a rollback-journal mode: switch it with \
                                 PRAGMA journal_mode=WAL, or run with --wal"
                            );
                        }
                    }
                    Looks::Database { .. } => {
                        self.found.insert(real(&path));
                        new.push(DatabaseEntry { path, name: None, own: place.own.clone() });
                    }
                    // Its first transaction will not change the directory.
                    Looks::Unfinished => settled = false,
                    Looks::Other => {}
                }
            }
            // Two changes within the clock's tick leave the same time: only what is older is seen for good.
            let is_old = changed.elapsed().is_ok_and(|age| age.as_secs() >= 2);
            place.seen = (settled && is_old).then_some(changed);
        }
        Ok(new)
    }
}

impl Place {
    fn wants(&self, name: &OsStr) -> bool {
        let name = name.to_string_lossy();
        let is_companion = ["-wal", "-shm", "-journal"].iter().any(|suffix| name.ends_with(suffix));
        !name.starts_with('.')
            && !is_companion
            && matches(&self.pattern, &name)
            && !self.exclude.iter().any(|pattern| matches(pattern, &name))
    }
}

/// Where a file is, by whatever path it was named; also one that is not there yet.
fn real(path: &Path) -> PathBuf {
    let beside = || {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        Some(fs::canonicalize(parent.unwrap_or(Path::new("."))).ok()?.join(path.file_name()?))
    };
    fs::canonicalize(path).ok().or_else(beside).unwrap_or_else(|| path.to_owned())
}

enum Looks {
    Database {
        wal: bool,
    },
    /// Empty so far, as a database before its first transaction, or not readable right now.
    Unfinished,
    Other,
}

fn looks(path: &Path) -> Looks {
    if !path.is_file() {
        return Looks::Other;
    }
    // Bytes 18 and 19 are the versions of the format for writers and readers: 2 is WAL.
    let mut header = [0; 20];
    match File::open(path).and_then(|mut file| file.read_exact(&mut header)) {
        Ok(()) if header.starts_with(MAGIC) => Looks::Database { wal: header[18..] == [2, 2] },
        Ok(()) => Looks::Other,
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Looks::Unfinished,
        Err(e) => {
            tracing::debug!(path = %path.display(), error = %e, "cannot look at it");
            Looks::Unfinished
        }
    }
}

/// Whether a name matches a pattern, of which `*` stands for any characters and `?` for any one.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // Where the last star is, and what it stands for so far.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == '?' || *c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => {
                let Some((at, covered)) = star else { return false };
                star = Some((at, covered + 1));
                p = at + 1;
                n = covered + 1;
            }
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(found: &[DatabaseEntry]) -> Vec<&str> {
        found.iter().map(|entry| entry.path.file_name().unwrap().to_str().unwrap()).collect()
    }

    fn entry(path: PathBuf) -> DirectoryEntry {
        DirectoryEntry { path, exclude: vec!["tmp-*".into()], own: DatabaseSettings::default() }
    }

    #[test]
    fn patterns_match_as_in_a_shell() {
        for (pattern, name, expected) in [
            ("*", "anything", true),
            ("*.db", "a.db", true),
            ("*.db", "a.db2", false),
            ("a?c*", "abcdef", true),
            ("a?c*", "acdef", false),
            ("*a*b*", "xxaxxaxb", true),
            ("", "", true),
            ("?", "", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn only_databases_are_found_and_each_once() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, content: &[u8]| fs::write(dir.path().join(name), content).unwrap();
        let database = [&MAGIC[..], &[0; 84]].concat();
        for name in ["a.db", "b.sqlite", "tmp-1.db", ".hidden.db"] {
            write(name, &database);
        }
        write("a.db-wal", &database);
        write("notes.txt", b"not a database at all");
        write("later.db", b"");
        let mut all = Discovery::new(&[entry(dir.path().to_owned())], &[], |_| false).unwrap();
        assert_eq!(names(&all.scan().unwrap()), ["a.db", "b.sqlite"]);
        assert_eq!(names(&all.scan().unwrap()), [""; 0]);
        // What was empty, and what was not there.
        write("later.db", &database);
        write("new.db", &database);
        assert_eq!(names(&all.scan().unwrap()), ["later.db", "new.db"]);

        let mut some = Discovery::new(&[entry(dir.path().join("*.db"))], &[], |_| false).unwrap();
        assert_eq!(names(&some.scan().unwrap()), ["a.db", "later.db", "new.db"]);
    }

    #[test]
    fn databases_that_are_replicated_already_are_not_opened_by_whatever_path() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        let database = [&MAGIC[..], &[0; 84]].concat();
        fs::write(dir.path().join("there.db"), &database).unwrap();
        let named: Vec<_> = ["there.db", "sub/../later.db"]
            .map(|name| DatabaseEntry {
                path: dir.path().join(name),
                name: None,
                own: DatabaseSettings::default(),
            })
            .into();
        let twice = [entry(dir.path().to_owned()), entry(dir.path().join("sub/../*.db"))];
        let mut discovery = Discovery::new(&twice, &named, |_| false).unwrap();
        assert_eq!(names(&discovery.scan().unwrap()), [""; 0]);
        fs::write(dir.path().join("later.db"), &database).unwrap();
        fs::write(dir.path().join("found.db"), &database).unwrap();
        assert_eq!(names(&discovery.scan().unwrap()), ["found.db"]);
    }

    #[test]
    fn directory_that_is_missing_is_named() {
        let error =
            Discovery::new(&[entry("/nowhere/at/all".into())], &[], |_| false).unwrap().scan().unwrap_err();
        assert!(error.to_string().contains("/nowhere/at/all"), "{error}");
        assert!(Discovery::new(&[entry("/nowhere/*/x.db*".into())], &[], |_| false).is_err());
    }
}
