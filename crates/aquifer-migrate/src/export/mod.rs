//! Export: a revision of an Aquifer database as a replica that Litestream restores. Nobody is locked in.
//!
//! One LTX file with every page, as Litestream's snapshots are, and if asked for one more for each batch after it. Pages are
//! LZ4 frames, which 0.5.5 and 0.5.17 both read (the later one writes blocks, which the earlier refuses), and there are no
//! database checksums, as in all files that Litestream itself ships.

mod history;
mod ltx;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use aquifer_format::{GenerationId, PageSize, Pgno, Revision, Timestamp, Txid, TxidRange};
use aquifer_log::store::{Key, Location, Prefix, Store, StoreUrl};
use aquifer_log::{DatabaseStore, Plan, SegmentKey, StoreError, Target};
use aquifer_replicate::restore::{RestoreError, Restored, Restorer};
use futures::TryStreamExt;
use tokio::runtime::Handle;

use crate::error::{MigrateError, Result};
use crate::restore::blocking;
use history::Moving;
use ltx::{LtxMeta, LtxWriter};

/// Writes a revision of a database as a replica of Litestream's.
#[derive(Debug, Clone)]
#[must_use = "it exports nothing before `export` is called"]
pub struct Exporter {
    from: DatabaseStore,
    generation: Option<GenerationId>,
    target: Target,
    history: bool,
    to: Store,
    temp_dir: PathBuf,
}

/// What was exported.
#[derive(Debug, Clone)]
pub struct Exported {
    /// The revision. Litestream's txid of it is its txid.
    pub revision: Revision,
    /// Its pages.
    pub pages: u32,
    /// Their size in bytes.
    pub page_size: u32,
    /// The snapshot that was written.
    pub key: Key,
    /// The txid of the snapshot: the oldest that can be restored.
    pub oldest: Txid,
    /// Files after it, each of which leads to a later txid.
    pub increments: u64,
    /// The length of all of them.
    pub bytes: u64,
}

impl Exporter {
    /// Exports the newest revision of `from` to the replica whose URL `to` was opened with.
    pub fn new(from: DatabaseStore, to: Store) -> Exporter {
        let temp_dir = std::env::temp_dir();
        Exporter { from, generation: None, target: Target::Latest, history: false, to, temp_dir }
    }

    /// From this generation instead of the newest.
    pub fn generation(mut self, generation: GenerationId) -> Exporter {
        self.generation = Some(generation);
        self
    }

    /// As of this moment or txid.
    pub fn target(mut self, target: Target) -> Exporter {
        self.target = target;
        self
    }

    /// Whether to export what is still kept of the generation before as well: a snapshot of its oldest txid, and an increment
    /// for each batch from there on, or for what compaction has made of several.
    pub fn history(mut self, history: bool) -> Exporter {
        self.history = history;
        self
    }

    /// Where a file as large as the database is made for as long as it runs, instead of the system's place.
    pub fn temp_dir(mut self, directory: impl AsRef<Path>) -> Exporter {
        directory.as_ref().clone_into(&mut self.temp_dir);
        self
    }

    /// Exports.
    ///
    /// # Errors
    /// [`MigrateError::Occupied`] if there is anything but earlier exports of an older txid, with its history if there is
    /// anything at all: what Litestream ships itself counts differently, and a mixture restores to neither.
    ///
    /// # Cancel safety
    /// Each object appears whole or not at all, the snapshot first: what is there is a replica of the same database, if of an
    /// earlier txid.
    pub async fn export(self) -> Result<Exported> {
        let places = Places::of(&self.to);
        let failed = |source| MigrateError::io("write in", &self.temp_dir, source);
        let scratch =
            tempfile::Builder::new().prefix("aquifer-export-").tempdir_in(&self.temp_dir).map_err(failed)?;
        let path = scratch.path().join("restored.db");
        let (mut generation, mut target, mut way) = (self.generation, self.target, Vec::new());
        if self.history {
            let plan = Plan::make(&self.from, generation, target).await.map_err(RestoreError::from)?;
            let (oldest, segments) = history::oldest(&self.from, plan.revision).await?;
            (generation, target, way) = (Some(plan.generation), Target::Txid(oldest), segments);
        }
        let mut restorer =
            Restorer::new(self.from.store().clone(), self.from.name().clone(), &path).target(target);
        if let Some(generation) = generation {
            restorer = restorer.generation(generation);
        }
        let Some(restored) = restorer.restore().await?.restored() else {
            unreachable!("nothing is in a new directory")
        };
        places.refuse_others(&self.to, (!self.history).then_some(restored.revision.txid)).await?;
        let export = Export { from: self.from, to: self.to, places, path, runtime: Handle::current() };
        blocking(move || export.run(&restored, &way)).await
    }
}

/// Where a replica's files are.
#[derive(Debug)]
struct Places {
    root: Prefix,
    snapshots: Prefix,
    increments: Prefix,
    /// The store itself, if it is a directory.
    directory: Option<PathBuf>,
}

impl Places {
    fn of(to: &Store) -> Places {
        if !to.is_local() {
            let (snapshots, increments) = (Prefix::ROOT.dir("0009"), Prefix::ROOT.dir("0000"));
            return Places { root: Prefix::ROOT, snapshots, increments, directory: None };
        }
        let root = Prefix::ROOT.dir("ltx");
        let directory = to.url().parse::<StoreUrl>().ok().and_then(|url| match url.location() {
            Location::Directory(path) => Some(path.clone()),
            _ => None,
        });
        Places { snapshots: root.dir("9"), increments: root.dir("0"), root, directory }
    }

    /// There may be earlier exports: snapshots of transactions before this one.
    async fn refuse_others(&self, to: &Store, before: Option<Txid>) -> Result<()> {
        let mut listing = to.list(&self.root, None);
        loop {
            let object = match listing.try_next().await {
                Ok(Some(object)) => object,
                Ok(None) | Err(StoreError::NoStore { .. }) => return Ok(()),
                Err(e) => return Err(e.into()),
            };
            let last = self.snapshots.strip(&object.key).and_then(|name| {
                let last = name.strip_prefix("0000000000000001-")?.strip_suffix(".ltx")?;
                u64::from_str_radix(last, 16).ok()
            });
            if last.zip(before).is_none_or(|(last, before)| last >= before.get()) {
                return Err(MigrateError::Occupied { url: to.url().to_owned(), key: object.key });
            }
        }
    }

    /// Litestream takes a file of a directory to be as old as the filesystem says.
    fn date(&self, key: &Key, at: Timestamp) -> Result<()> {
        let Some(directory) = &self.directory else { return Ok(()) };
        let Some(modified) = u64::try_from(at.as_millis()).ok().map(Duration::from_millis) else {
            return Ok(());
        };
        let path = directory.join(key.as_str());
        let dated = File::options().write(true).open(&path);
        let dated = dated.and_then(|file| file.set_modified(UNIX_EPOCH + modified));
        dated.map_err(|e| MigrateError::io("set the time of", &path, e))
    }
}

/// An export whose database is there.
struct Export {
    from: DatabaseStore,
    to: Store,
    places: Places,
    path: PathBuf,
    runtime: Handle,
}

impl Export {
    fn run(self, restored: &Restored, way: &[SegmentKey]) -> Result<Exported> {
        let file = File::options().read(true).write(true).open(&self.path);
        let file = file.map_err(|e| MigrateError::io("open", &self.path, e))?;
        let (revision, page_size) = (restored.revision, restored.page_size);
        let (key, bytes) = self.snapshot(&file, restored)?;
        let mut exported = Exported {
            revision,
            pages: restored.pages,
            page_size: page_size.get(),
            oldest: revision.txid,
            increments: 0,
            key: key.clone(),
            bytes,
        };
        let end = (restored.pages, restored.checksum);
        let mut moving = Moving { file: &file, path: &self.path, last: key, end };
        for segment in way {
            let handle = self.runtime.block_on(self.from.open_segment(revision.generation, *segment))?;
            let about = handle.info().meta();
            let meta =
                LtxMeta { page_size, pages: about.size_after, range: about.range, at: about.last_commit };
            let key = file_key(&self.places.increments, meta.range);
            let mut ltx = LtxWriter::new(&self.to, &key, &meta, handle.info().stored_len(), &self.runtime);
            moving.apply(&handle, &mut ltx)?;
            exported.bytes += ltx.finish()?;
            self.places.date(&key, meta.at)?;
            exported.increments += 1;
            exported.revision.txid = meta.range.last;
            exported.pages = meta.pages;
        }
        Ok(exported)
    }

    /// The whole file. Its name and length.
    fn snapshot(&self, file: &File, restored: &Restored) -> Result<(Key, u64)> {
        let (size, pages) = (restored.page_size, restored.pages);
        let range = TxidRange { first: Txid::new(1), last: restored.revision.txid };
        let meta = LtxMeta { page_size: size, pages, range, at: restored.last_commit };
        let key = file_key(&self.places.snapshots, range);
        let len = u64::from(pages) * size.bytes() as u64;
        let mut ltx = LtxWriter::new(&self.to, &key, &meta, len / 2, &self.runtime);
        let mut page = vec![0; size.bytes()];
        for pgno in stored(size, Pgno::ONE, pages) {
            let read = file.read_exact_at(&mut page, size.offset(pgno));
            read.map_err(|e| MigrateError::io("read", &self.path, e))?;
            ltx.page(pgno, &page)?;
        }
        let len = ltx.finish()?;
        self.places.date(&key, meta.at)?;
        Ok((key, len))
    }
}

fn file_key(level: &Prefix, range: TxidRange) -> Key {
    level.key(&format!("{:016x}-{:016x}.ltx", range.first.get(), range.last.get()))
}

/// The pages from `first` on of a database of so many: SQLite does not write the one at its lock byte, and Litestream refuses it.
fn stored(size: PageSize, first: Pgno, pages: u32) -> impl Iterator<Item = Pgno> {
    (first.get()..=pages).filter_map(Pgno::new).filter(move |pgno| *pgno != size.lock_page())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_at_the_lock_byte_is_left_out() {
        for size in [512, 4096, 65_536].map(|size| PageSize::new(size).unwrap()) {
            let lock = (1 << 30) / size.get() + 1;
            let around = |pages| {
                let first = Pgno::new(lock - 2).unwrap();
                stored(size, first, pages).map(Pgno::get).collect::<Vec<u32>>()
            };
            assert_eq!(around(lock - 1), [lock - 2, lock - 1]);
            assert_eq!(around(lock), [lock - 2, lock - 1]);
            assert_eq!(around(lock + 1), [lock - 2, lock - 1, lock + 1]);
        }
    }
}
