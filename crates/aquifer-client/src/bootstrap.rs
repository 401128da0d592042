//! The first fetch of a database: into a file beside it, which is put into place when it is complete.
//!
//! Pages come in any order. What has come is recorded now and then, so that a fetch that is interrupted goes on where
//! it was, at the revision that it began with.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use aquifer_format::{PageHash, PageSize, Pgno};
use roaring::RoaringBitmap;

use crate::engine::{Engine, directory_of};
use crate::frames::Protocol;
use crate::sidecar::{Base, Bootstrap, PageMap, Received, Sidecar, State, hash_of, with_suffix};
use crate::{Error, Result};

/// Bytes that come between two records of what has come.
const RECORD: u64 = 64 << 20;
/// Bytes of pages in a row that are written at once.
const BUFFER: usize = 1 << 20;

/// A fetch that is going on.
pub(crate) struct Bootstrapping {
    path: PathBuf,
    sidecar: Sidecar,
    file: File,
    page_size: PageSize,
    received: RoaringBitmap,
    /// Of pages that came since they were last recorded.
    hashes: Vec<(Pgno, PageHash)>,
    /// Pages in a row that are not written yet: the first of them, and their bytes.
    buffer: (Option<Pgno>, Vec<u8>),
}

/// What was found of a fetch that had been begun.
pub(crate) enum Resumed {
    /// It was complete.
    Installed(Sidecar),
    /// It is to go on.
    Unfinished(Bootstrapping),
}

impl Bootstrapping {
    fn file_of(database: &Path) -> PathBuf {
        with_suffix(database, "-aquifer-bootstrap")
    }

    /// Begins to fetch a revision of so many pages.
    pub(crate) fn begin(
        path: &Path,
        remote: &str,
        revision: &str,
        pages: u32,
        page_size: PageSize,
        protocol: Protocol,
    ) -> Result<Bootstrapping> {
        let mut state = State::new(Base::empty());
        state.remote = Some(remote.to_owned());
        state.protocol = Some(protocol);
        state.page_size = page_size.get();
        state.bootstrap = Some(Bootstrap { revision: revision.to_owned(), pages, is_complete: false });
        // It is locked before the file is touched, which another process may be fetching.
        let sidecar = Sidecar::create(path, state)?;
        let file = open(path, true)?;
        Ok(Bootstrapping::of(path, sidecar, file, page_size, RoaringBitmap::new()))
    }

    fn of(
        path: &Path,
        sidecar: Sidecar,
        file: File,
        page_size: PageSize,
        received: RoaringBitmap,
    ) -> Bootstrapping {
        let (hashes, buffer) = (Vec::new(), (None, Vec::new()));
        Bootstrapping { path: path.to_owned(), sidecar, file, page_size, received, hashes, buffer }
    }

    /// What became of a fetch that was begun by another process.
    pub(crate) fn resume(path: &Path, mut sidecar: Sidecar) -> Result<Resumed> {
        let Some(bootstrap) = sidecar.state().bootstrap.clone() else {
            return Ok(Resumed::Installed(sidecar));
        };
        let partial = Bootstrapping::file_of(path);
        let identity = |path: &Path| std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
        if bootstrap.is_complete
            && path.exists()
            && (identity(&partial).is_none() || identity(&partial) == identity(path))
        {
            install(path, &mut sidecar, &bootstrap)?;
            return Ok(Resumed::Installed(sidecar));
        }
        if path.exists() {
            return Err(Error::NotAttached { path: path.to_owned() });
        }
        let page_size = PageSize::new(sidecar.state().page_size).unwrap_or(PageSize::DEFAULT);
        if identity(&partial).is_none() {
            // What had come is gone.
            sidecar.update(|db, _| Received::put(db, &RoaringBitmap::new()))?;
        }
        let received = Received::get(sidecar.db()).map_err(|e| sidecar.error(e))?;
        let file = open(path, false)?;
        Ok(Resumed::Unfinished(Bootstrapping::of(path, sidecar, file, page_size, received)))
    }

    /// The server's revision.
    pub(crate) fn revision(&self) -> &str {
        self.sidecar.state().bootstrap.as_ref().map_or("", |bootstrap| &bootstrap.revision)
    }

    /// The database that it is fetched from.
    pub(crate) fn remote(&self) -> Option<&str> {
        self.sidecar.state().remote.as_deref()
    }

    /// Its pages.
    pub(crate) fn pages(&self) -> u32 {
        self.sidecar.state().bootstrap.as_ref().map_or(0, |bootstrap| bootstrap.pages)
    }

    pub(crate) fn page_size(&self) -> PageSize {
        self.page_size
    }

    /// Whether a page has come, and was recorded.
    pub(crate) fn has(&self, pgno: Pgno) -> bool {
        self.received.contains(pgno.get())
    }

    /// Pages that have come.
    pub(crate) fn received(&self) -> u64 {
        self.received.len() + self.hashes.len() as u64
    }

    /// Pages that have not come yet; `None`: none has.
    pub(crate) fn wanted(&self) -> Option<RoaringBitmap> {
        if self.received.is_empty() {
            return None;
        }
        let mut wanted = RoaringBitmap::new();
        wanted.insert_range(1..=self.pages());
        wanted.remove(self.page_size.lock_page().get());
        Some(wanted - &self.received)
    }

    /// Begins anew with another revision: the server does not have the one any more that it was begun with.
    pub(crate) fn restart(&mut self, revision: &str, pages: u32) -> Result<()> {
        self.received = RoaringBitmap::new();
        self.hashes.clear();
        self.buffer = (None, Vec::new());
        self.file.set_len(0).map_err(self.failed("cut off"))?;
        let revision = revision.to_owned();
        self.sidecar.update(|db, state| {
            db.execute("DELETE FROM page_map", [])?;
            Received::put(db, &RoaringBitmap::new())?;
            state.bootstrap = Some(Bootstrap { revision, pages, is_complete: false });
            Ok(())
        })?;
        Ok(())
    }

    /// Takes a page.
    pub(crate) fn put(&mut self, pgno: Pgno, page: &[u8]) -> Result<()> {
        self.hashes.push((pgno, hash_of(pgno, page)));
        let (first, bytes) = &mut self.buffer;
        let next = first.map(|first| first.get() + (bytes.len() / self.page_size.bytes()) as u32);
        if next != Some(pgno.get()) || bytes.len() >= BUFFER {
            self.write()?;
        }
        let (first, bytes) = &mut self.buffer;
        first.get_or_insert(pgno);
        bytes.extend_from_slice(page);
        if pgno == Pgno::ONE && page.len() >= 100 {
            // It will be used with a WAL, whatever the server does.
            let at = bytes.len() - page.len();
            bytes[at + 18..at + 20].fill(2);
        }
        if self.hashes.len() as u64 * u64::from(self.page_size.get()) >= RECORD {
            self.record()?;
        }
        Ok(())
    }

    fn write(&mut self) -> Result<()> {
        let (first, bytes) = &mut self.buffer;
        let Some(first) = first.take() else { return Ok(()) };
        let done = self.file.write_all_at(bytes, self.page_size.offset(first));
        bytes.clear();
        done.map_err(self.failed("write"))
    }

    /// Records durably what has come.
    pub(crate) fn record(&mut self) -> Result<()> {
        self.write()?;
        self.file.sync_data().map_err(self.failed("flush"))?;
        let mut hashes = std::mem::take(&mut self.hashes);
        hashes.sort_unstable_by_key(|(pgno, _)| *pgno);
        self.received.extend(hashes.iter().map(|(pgno, _)| pgno.get()));
        let received = &self.received;
        self.sidecar.update(|db, _| {
            let mut map = PageMap::new(db);
            for (pgno, hash) in hashes {
                map.set(pgno, hash)?;
            }
            map.flush()?;
            Received::put(db, received)
        })?;
        Ok(())
    }

    /// All has come: puts the database into place, and gives its sidecar back.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.record()?;
        let len = u64::from(self.pages()) * u64::from(self.page_size.get());
        // Nobody sends the page at the lock byte.
        self.file.set_len(len).and_then(|()| self.file.sync_all()).map_err(self.failed("flush"))?;
        self.sidecar.update(|_, state| {
            if let Some(bootstrap) = &mut state.bootstrap {
                bootstrap.is_complete = true;
            }
            Ok(())
        })?;
        let pages = self.pages();
        let Bootstrapping { path, mut sidecar, file, .. } = self;
        // Once it is a database, closing it would drop SQLite's locks on it.
        drop(file);
        if pages > 0 {
            // Unlike renaming, this never replaces a file.
            std::fs::hard_link(Bootstrapping::file_of(&path), &path).map_err(|source| {
                match source.kind() {
                    io::ErrorKind::AlreadyExists => Error::NotAttached { path: path.clone() },
                    _ => Error::File { action: "put into place", path: path.clone(), source },
                }
            })?;
        } else {
            crate::engine::make_empty(&path)?;
        }
        if let Some(bootstrap) = sidecar.state().bootstrap.clone() {
            install(&path, &mut sidecar, &bootstrap)?;
        }
        Ok(())
    }

    fn failed(&self, action: &'static str) -> impl FnOnce(io::Error) -> Error + use<> {
        Error::file(action, Bootstrapping::file_of(&self.path))
    }
}

/// The file is in its place: it is a database with a sidecar from now on.
fn install(path: &Path, sidecar: &mut Sidecar, bootstrap: &Bootstrap) -> Result<()> {
    let partial = Bootstrapping::file_of(path);
    match std::fs::remove_file(&partial) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            return Err(Error::File { action: "remove", path: partial, source });
        }
        _ => {}
    }
    sync_directory(path)?;
    let base = Base { revision: Some(bootstrap.revision.clone()), pages: bootstrap.pages, number: 1 };
    Engine::installed(path, sidecar, base)
}

fn open(database: &Path, anew: bool) -> Result<File> {
    let path = Bootstrapping::file_of(database);
    let file = File::options().read(true).write(true).create(true).truncate(anew).open(&path);
    file.map_err(Error::file("make", path))
}

fn sync_directory(path: &Path) -> Result<()> {
    let directory = directory_of(path);
    File::open(directory).and_then(|file| file.sync_all()).map_err(Error::file("flush", directory))
}
