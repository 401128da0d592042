//! Restore: a database file from the log, at any revision.
//!
//! Plan (which segments), fold (what changed after the base, one entry per page), write (the base's pages with the
//! folded entries applied, each verified against its hash), flush, rename. Everything is fetched once, on all
//! processors, and memory is bounded: where the folded entries do not fit, the database is made window by window
//! of its pages.

mod aside;
pub(crate) mod budget;
pub(crate) mod destination;
mod early_flush;
mod error;
pub(crate) mod fold;
mod output;
pub(crate) mod overlay;
mod page;
pub(crate) mod progress;
mod room;
pub(crate) mod threads;
mod write;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aquifer_format::{DbChecksum, GenerationId, PageSize, Pgno, Revision, Timestamp};
use aquifer_log::store::Store;
use aquifer_log::{DatabaseName, DatabaseStore, Plan, SegmentHandle, Target};
use tokio::task::spawn_blocking;

use budget::Budget;
use fold::Window;
use output::Output;
use progress::{Listener, Meter};
use threads::finished;
use write::{Writing, Written};

pub use destination::{Destination, Temporary};
pub use early_flush::EarlyFlush;
pub use error::RestoreError;
pub use page::read_page;
pub use progress::{Phase, Progress};
pub use room::require_room;

/// What to do with a file that is at the target already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Existing {
    /// Fail with [`RestoreError::TargetExists`].
    #[default]
    Refuse,
    /// Do nothing: [`Outcome::Kept`].
    Keep,
    /// Replace it, unless another program has it open.
    Replace,
    /// As `Replace`, but keep it: under its name with this behind it, and a number behind that where the name is taken.
    /// Where it is the very database that was restored, it stays as it is.
    SetAside(&'static str),
}

/// What became of a file that was at the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Installed {
    /// There was none.
    New,
    /// It is gone.
    Replaced,
    /// It is here now, with all that was in its WAL.
    SetAside(PathBuf),
    /// It is still there: it was the same database already.
    Same,
}

/// What a restore came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The target is the database at the revision asked for.
    Restored(Restored),
    /// The target existed, and [`Existing::Keep`] said to leave it. Nothing was read from the store.
    Kept,
}

impl Outcome {
    /// What was restored, if anything.
    pub fn restored(self) -> Option<Restored> {
        match self {
            Outcome::Restored(restored) => Some(restored),
            Outcome::Kept => None,
        }
    }
}

/// A restored database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The image that the file is now.
    pub revision: Revision,
    /// Its pages.
    pub pages: u32,
    /// Their size.
    pub page_size: PageSize,
    /// Their checksum, as verified.
    pub checksum: DbChecksum,
    /// Time of the last commit in it.
    pub last_commit: Timestamp,
    /// Segments that it was made from.
    pub segments: usize,
    /// Newer generations passed over, newest first, because nothing of them ever became durable.
    pub skipped: Vec<GenerationId>,
    /// Bytes of groups read.
    pub bytes_fetched: u64,
    /// Requests sent to the store meanwhile, by this handle of it and its clones.
    pub requests: u64,
    /// Time that it took.
    pub duration: Duration,
    /// What became of the file that was there before.
    pub installed: Installed,
}

/// Restores a database from a store into a file.
///
/// ```no_run
/// use aquifer_log::store::{Store, StoreUrl};
/// use aquifer_replicate::restore::{Existing, Restorer};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let store = Store::open(&"s3://backups/prod".parse::<StoreUrl>()?)?;
/// Restorer::new(store, "app.db".parse()?, "app.db").existing(Existing::Keep).restore().await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "it restores nothing before `restore` is called"]
pub struct Restorer {
    database: DatabaseStore,
    generation: Option<GenerationId>,
    target: Target,
    output: PathBuf,
    existing: Existing,
    integrity_check: bool,
    memory_limit: usize,
    listener: Option<Listener>,
}

impl std::fmt::Debug for Restorer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Restorer")
            .field("database", &self.database)
            .field("generation", &self.generation)
            .field("target", &self.target)
            .field("output", &self.output)
            .field("existing", &self.existing)
            .finish_non_exhaustive()
    }
}

impl Restorer {
    /// Memory that a restore takes if nothing else is said, in bytes.
    pub const MEMORY_LIMIT: usize = 192 << 20;

    /// Restores the latest revision of `name` into the file `output`, which must not exist.
    pub fn new(store: Store, name: DatabaseName, output: impl AsRef<Path>) -> Restorer {
        Restorer {
            database: DatabaseStore::new(store, name),
            generation: None,
            target: Target::Latest,
            output: output.as_ref().to_owned(),
            existing: Existing::Refuse,
            integrity_check: false,
            memory_limit: Restorer::MEMORY_LIMIT,
            listener: None,
        }
    }

    /// From this generation instead of the newest.
    pub fn generation(mut self, generation: GenerationId) -> Restorer {
        self.generation = Some(generation);
        self
    }

    /// At this moment or txid instead of the latest.
    pub fn target(mut self, target: Target) -> Restorer {
        self.target = target;
        self
    }

    /// What to do with a file that is there already.
    pub fn existing(mut self, existing: Existing) -> Restorer {
        self.existing = existing;
        self
    }

    /// Whether to run SQLite's `integrity_check` before the file is put in place. Reads all of it once more.
    pub fn integrity_check(mut self, check: bool) -> Restorer {
        self.integrity_check = check;
        self
    }

    /// Memory to stay below, in bytes, besides what the plan takes (24 bytes per 64 KiB of the database, and small
    /// segments whole). Less than 16 MiB is taken as that.
    pub fn memory_limit(mut self, bytes: usize) -> Restorer {
        self.memory_limit = bytes;
        self
    }

    /// Is told how far the restore is. Called from several threads, one at a time: it should return at once.
    pub fn progress(mut self, listener: impl Fn(Progress) + Send + Sync + 'static) -> Restorer {
        self.listener = Some(Arc::new(listener));
        self
    }

    /// Restores. Needs a runtime of tokio's with its time driver.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the target as it was and removes the temporary file. In the moment of the final
    /// rename it may still happen.
    pub async fn restore(self) -> Result<Outcome, RestoreError> {
        let (path, existing) = (self.output.clone(), self.existing);
        let checked = finished(spawn_blocking(move || Destination::check(&path, existing)).await)?;
        let Some(destination) = checked else { return Ok(Outcome::Kept) };
        let prepared = self.prepare(destination).await?;
        finished(spawn_blocking(move || prepared.install()).await).map(Outcome::Restored)
    }

    /// Makes the file, verified and flushed, beside the place where it belongs.
    pub(crate) async fn prepare(self, destination: Destination) -> Result<Prepared, RestoreError> {
        let started = Instant::now();
        let requests = self.database.store().counts();
        let meter = Arc::new(Meter::new(self.listener.clone()));
        meter.phase(Phase::Plan);
        let plan = Plan::make(&self.database, self.generation, self.target).await?;
        let bytes = u64::from(plan.size_after) * plan.page_size.bytes() as u64;
        let created = spawn_blocking(move || {
            let temporary = destination.create_temporary()?;
            require_room(&temporary.file, &temporary.path, bytes)?;
            Ok::<_, RestoreError>((temporary, destination))
        });
        let (temporary, destination) = finished(created.await)?;
        let (segments, skipped) = (plan.steps.len(), plan.skipped.clone());
        let image = Image::of(plan);
        let budget = Budget::new(self.memory_limit, self.database.store());
        image.write(&temporary, &budget, &meter).await?;
        let temporary = if self.integrity_check {
            meter.phase(Phase::Check);
            let revision = image.revision;
            let checked =
                spawn_blocking(move || check_integrity(&temporary.path, revision).map(|()| temporary));
            finished(checked.await)?
        } else {
            temporary
        };
        let restored = Restored {
            revision: image.revision,
            pages: image.pages,
            page_size: image.page_size,
            checksum: image.checksum,
            last_commit: image.last_commit,
            segments,
            skipped,
            bytes_fetched: meter.bytes(),
            requests: (self.database.store().counts() - requests).total(),
            duration: Duration::ZERO,
            installed: Installed::New,
        };
        Ok(Prepared { restored, temporary, destination, meter, started })
    }
}

/// A restored database that is not yet in its place. Dropped, it is removed.
pub(crate) struct Prepared {
    pub(crate) restored: Restored,
    pub(crate) temporary: Temporary,
    destination: Destination,
    meter: Arc<Meter>,
    started: Instant,
}

impl Prepared {
    /// Puts the file in its place. Blocks.
    pub(crate) fn install(self) -> Result<Restored, RestoreError> {
        self.meter.phase(Phase::Install);
        let installed = self.destination.install(self.temporary)?;
        Ok(Restored { duration: self.started.elapsed(), installed, ..self.restored })
    }
}

/// One revision's image, and the segments that it is made from.
struct Image {
    revision: Revision,
    page_size: PageSize,
    pages: u32,
    checksum: DbChecksum,
    last_commit: Timestamp,
    /// Oldest first; the first has an image of every page.
    segments: Vec<SegmentHandle>,
}

impl Image {
    fn of(plan: Plan) -> Image {
        Image {
            revision: plan.revision,
            page_size: plan.page_size,
            pages: plan.size_after,
            checksum: plan.checksum_after,
            last_commit: plan.last_commit,
            segments: plan.steps.into_iter().map(|step| step.handle).collect(),
        }
    }

    /// Writes the image into a file, verified, and flushes it.
    async fn write(
        &self,
        temporary: &Temporary,
        budget: &Budget,
        meter: &Arc<Meter>,
    ) -> Result<(), RestoreError> {
        let bytes = self.segments.iter().map(|segment| segment.info().trailer().groups_end).sum();
        meter.expect(bytes, u64::from(self.pages));
        let output = Output::new(Arc::clone(&temporary.file), &temporary.path, self.page_size, self.pages)?;
        let output = Arc::new(output);
        let written = match (self.segments.split_first(), Pgno::new(self.pages)) {
            (Some((base, deltas)), Some(last)) => {
                let (base, deltas) = (base.clone(), deltas.into());
                let writing = Writing::new(base, deltas, Arc::clone(&output), Arc::clone(meter));
                self.write_windows(&Arc::new(writing), last, budget).await?
            }
            _ => Written::default(),
        };
        let expected = self.pages - u32::from(self.pages >= self.page_size.lock_page().get());
        if written != (Written { pages: expected, checksum: self.checksum }) {
            return Err(RestoreError::Checksum {
                revision: self.revision,
                pages: written.pages,
                expected_pages: expected,
                checksum: written.checksum,
                expected_checksum: self.checksum,
            });
        }
        meter.phase(Phase::Sync);
        finished(spawn_blocking(move || output.sync()).await)
    }

    async fn write_windows(
        &self,
        writing: &Arc<Writing>,
        last: Pgno,
        budget: &Budget,
    ) -> Result<Written, RestoreError> {
        let mut written = Written::default();
        let mut first = Pgno::ONE;
        loop {
            writing.meter.phase(Phase::Fold);
            let all = Window { first, last };
            let (overlay, window) =
                fold::fold(&writing.deltas, self.page_size, all, budget, &writing.meter).await?;
            writing.meter.phase(Phase::Write);
            let overlay = finished(spawn_blocking(move || overlay.into_pages()).await);
            written = written.combine(writing.window(window, overlay, budget).await?);
            if window.last >= last {
                return Ok(written);
            }
            first = window.last.next();
        }
    }
}

fn check_integrity(path: &Path, revision: Revision) -> Result<(), RestoreError> {
    let problems = aquifer_sqlite::integrity_check(path)?;
    if problems.is_empty() { Ok(()) } else { Err(RestoreError::Integrity { revision, problems }) }
}
