//! Follow: a standby, a database file that is kept at the latest revision while others read it.
//!
//! Each step is one ordinary transaction: readers keep the revision that they began with, and see a later one from
//! their next transaction on. Before it, the state file says which txid is being applied; a run that was killed
//! anywhere finds by the pages' hashes what is done. Where the way is gone (a new generation, retention, someone
//! wrote to the standby), the latest revision is restored beside the file and the pages that differ are replaced,
//! in one transaction as well.

mod error;
mod pages;
mod state;

use std::convert::Infallible;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aquifer_format::{GenerationId, PageSize, Pgno, Revision, Timestamp};
use aquifer_log::store::Store;
use aquifer_log::{DatabaseName, DatabaseStore, Level, LogError, Plan, PlanError, SegmentHandle, Target};
use aquifer_sqlite::{FileLock, PageTransaction};
use futures::TryStreamExt;
use tokio::task::spawn_blocking;

use crate::restore::budget::Budget;
use crate::restore::destination::Destination;
use crate::restore::fold::{Window, fold};
use crate::restore::progress::{Listener, Meter};
use crate::restore::threads::finished;
use crate::restore::{Existing, Prepared, Progress, RestoreError, Restorer};
use pages::{Applied, StandbyTransaction};
use state::{FileIdentity, Stage, State};

pub use error::FollowError;

/// How long the standby's readers may hold up a transaction: only while they checkpoint or recover it.
const PATIENCE: Duration = Duration::from_secs(5);
/// A poll looks for newer generations, and at all levels, once in so many.
const POLLS_PER_LOOK: u32 = 10;

/// Begins to follow a database into a file.
///
/// ```no_run
/// use std::time::Duration;
///
/// use aquifer_log::store::{Store, StoreUrl};
/// use aquifer_replicate::follow::{FollowBuilder, FollowEvent};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let store = Store::open(&"s3://backups/prod".parse::<StoreUrl>()?)?;
/// let mut follower = FollowBuilder::new(store, "app.db".parse()?, "standby.db").start().await?;
/// let report = |event: FollowEvent<'_>| println!("{event:?}");
/// match follower.run(Duration::from_secs(1), report).await? {}
/// # }
/// ```
#[must_use = "it follows nothing before `start` is called"]
pub struct FollowBuilder {
    database: DatabaseStore,
    file: PathBuf,
    generation: Option<GenerationId>,
    existing: Existing,
    memory_limit: usize,
    listener: Option<Listener>,
}

/// Keeps a standby at the latest revision. Nobody else may write to it.
#[derive(Debug)]
pub struct Follower {
    database: DatabaseStore,
    file: PathBuf,
    /// Set where only this generation is followed.
    generation: Option<GenerationId>,
    memory_limit: usize,
    state: State,
    polls: u32,
    _lock: FileLock,
}

/// A step that a follower made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Followed {
    /// The revision that readers see now.
    pub revision: Revision,
    /// Time of the last commit in it.
    pub last_commit: Timestamp,
    /// Pages that were written.
    pub pages_written: u32,
    /// Why the standby was compared page by page with a whole restored image, if it was.
    pub restored_because: Option<String>,
}

/// What a follower tells while it runs.
#[derive(Debug)]
#[non_exhaustive]
pub enum FollowEvent<'a> {
    /// It made a step.
    Followed(&'a Followed),
    /// It could not, for now, and tries again at the next poll.
    Waiting(&'a FollowError),
}

impl FollowBuilder {
    /// Follows the newest generation of a database.
    pub fn new(store: Store, name: DatabaseName, file: impl AsRef<Path>) -> FollowBuilder {
        FollowBuilder {
            database: DatabaseStore::new(store, name),
            file: file.as_ref().to_owned(),
            generation: None,
            existing: Existing::Refuse,
            memory_limit: Restorer::MEMORY_LIMIT,
            listener: None,
        }
    }

    /// Only this generation, also when there is a newer one.
    pub fn generation(mut self, generation: GenerationId) -> FollowBuilder {
        self.generation = Some(generation);
        self
    }

    /// What to do with a file that is there and that no follower made. [`Existing::Keep`] is taken as
    /// [`Existing::Refuse`]: what is kept cannot follow.
    pub fn existing(mut self, existing: Existing) -> FollowBuilder {
        self.existing = existing;
        self
    }

    /// Memory to stay below, in bytes, as in [`Restorer::memory_limit`].
    pub fn memory_limit(mut self, bytes: usize) -> FollowBuilder {
        self.memory_limit = bytes;
        self
    }

    /// Is told how far the first restore is.
    pub fn progress(mut self, listener: impl Fn(Progress) + Send + Sync + 'static) -> FollowBuilder {
        self.listener = Some(Arc::new(listener));
        self
    }

    /// Continues a standby that was followed before, or restores the latest revision.
    ///
    /// Dropping the future leaves the file as it was, or a standby that a later start continues.
    pub async fn start(mut self) -> Result<Follower, FollowError> {
        // A follower lives long, and must not lose its file when the working directory changes.
        self.file = std::path::absolute(&self.file).map_err(FollowError::state("find", &self.file))?;
        let file = self.file.clone();
        let (lock, found) = finished(spawn_blocking(move || look(&file)).await)?;
        let state = match found {
            Some(mut state) => {
                if self.generation.is_some_and(|generation| generation != state.revision.generation) {
                    state.stage = Stage::Comparing;
                }
                state
            }
            None => self.restore().await?,
        };
        Ok(Follower {
            database: self.database,
            file: self.file,
            generation: self.generation,
            memory_limit: self.memory_limit,
            state,
            polls: 0,
            _lock: lock,
        })
    }

    async fn restore(&self) -> Result<State, FollowError> {
        let file = self.file.clone();
        let existing = if self.existing == Existing::Keep { Existing::Refuse } else { self.existing };
        let checked = finished(spawn_blocking(move || Destination::check(&file, existing)).await)?;
        let Some(destination) = checked else {
            return Err(RestoreError::TargetExists(self.file.clone()).into());
        };
        let mut restorer = restorer(&self.database, self.generation, &self.file, self.memory_limit);
        if let Some(listener) = &self.listener {
            let listener = Arc::clone(listener);
            restorer = restorer.progress(move |progress| listener(progress));
        }
        let prepared = restorer.prepare(destination).await?;
        let file = self.file.clone();
        finished(
            spawn_blocking(move || {
                // First the state, then the file that it speaks of: it is recognised by its identity.
                let state = state_of(&prepared, &file, Stage::Steady)?;
                state.save(&file).map_err(FollowError::state("write", &file))?;
                prepared.install()?;
                Ok(state)
            })
            .await,
        )
    }
}

/// The lock, and the state if it speaks of the file that is there.
fn look(file: &Path) -> Result<(FileLock, Option<State>), FollowError> {
    let lock = state::lock(file).map_err(FollowError::state("lock", file))?;
    let lock = lock.ok_or_else(|| FollowError::Followed(file.to_owned()))?;
    let state = State::load(file).map_err(FollowError::state("read", file))?;
    let there = fs::metadata(file).ok().map(|metadata| FileIdentity::of(&metadata));
    Ok((lock, state.filter(|state| Some(state.file) == there)))
}

fn restorer(
    database: &DatabaseStore,
    generation: Option<GenerationId>,
    file: &Path,
    memory_limit: usize,
) -> Restorer {
    let restorer = Restorer::new(database.store().clone(), database.name().clone(), file);
    let restorer = restorer.memory_limit(memory_limit);
    match generation {
        Some(generation) => restorer.generation(generation),
        None => restorer,
    }
}

/// The state of a standby that is, or becomes, what was restored.
fn state_of(prepared: &Prepared, file: &Path, stage: Stage) -> Result<State, FollowError> {
    use std::os::unix::fs::FileExt;
    let (restored, image) = (&prepared.restored, &prepared.temporary.file);
    let mut first_page = vec![0; restored.page_size.bytes()];
    let read = image.read_exact_at(&mut first_page, 0);
    read.map_err(|e| RestoreError::io("read", &prepared.temporary.path, e))?;
    let identity = image.metadata().map_err(FollowError::state("look at", file))?;
    Ok(State {
        stage,
        revision: restored.revision,
        page_size: restored.page_size,
        file: FileIdentity::of(&identity),
        first_page,
    })
}

impl Follower {
    /// The revision that readers see.
    pub fn revision(&self) -> Revision {
        self.state.revision
    }

    /// The size of its pages.
    pub fn page_size(&self) -> PageSize {
        self.state.page_size
    }

    /// Follows until an error that waiting does not mend. An idle poll is one LIST.
    ///
    /// Cancel-safe, as [`Follower::catch_up`] is.
    pub async fn run(
        &mut self,
        interval: Duration,
        mut report: impl FnMut(FollowEvent<'_>),
    ) -> Result<Infallible, FollowError> {
        loop {
            match self.catch_up().await {
                Ok(Some(followed)) => report(FollowEvent::Followed(&followed)),
                Ok(None) => {}
                Err(error) if error.is_transient() => report(FollowEvent::Waiting(&error)),
                Err(error) => return Err(error),
            }
            tokio::time::sleep(interval).await;
        }
    }

    /// Goes to the latest revision that there is; `None` if the standby is at it.
    ///
    /// Dropped, the step may still happen; the next call finds out.
    pub async fn catch_up(&mut self) -> Result<Option<Followed>, FollowError> {
        let look = self.polls.is_multiple_of(POLLS_PER_LOOK);
        let target = match self.state.stage {
            Stage::Steady => Target::Latest,
            Stage::Applying(txid) => Target::Txid(txid),
            Stage::Comparing => {
                return self.restore("comparing it was interrupted".to_owned()).await.map(Some);
            }
        };
        if self.state.stage == Stage::Steady && !look && !self.has_news().await? {
            self.polls = self.polls.wrapping_add(1);
            return Ok(None);
        }
        if look && let Some(newer) = self.superseding().await? {
            let reason = format!("generation {newer} has superseded {}", self.state.revision.generation);
            return self.restore(reason).await.map(Some);
        }
        let followed = match Plan::since(&self.database, self.state.revision, target).await {
            Ok(Some(plan)) => self.apply(plan).await?,
            Ok(None) => None,
            Err(PlanError::Log(error)) => return Err(error.into()),
            Err(gone) => Some(self.restore(format!("there is no way on from its revision: {gone}")).await?),
        };
        // After news there may be more at once.
        self.polls = self.polls.wrapping_add(1);
        Ok(followed)
    }

    /// Whether a batch was shipped after the standby's.
    async fn has_news(&self) -> Result<bool, FollowError> {
        let Revision { generation, txid } = self.state.revision;
        let next = self.database.segments(generation, Level::Shipped, txid).try_next().await;
        Ok(next.map_err(LogError::from)?.is_some())
    }

    /// The newest generation, if it is another one than the standby's and has been written to.
    async fn superseding(&self) -> Result<Option<GenerationId>, FollowError> {
        if self.generation.is_some() {
            return Ok(None);
        }
        let ours = self.state.revision.generation;
        match self.database.latest_generation().await? {
            Some(latest) if latest.id != ours => {
                let plan = Plan::make(&self.database, None, Target::Latest).await?;
                Ok(Some(plan.generation).filter(|generation| *generation != ours))
            }
            _ => Ok(None),
        }
    }

    /// Applies what a plan says in one transaction.
    async fn apply(&mut self, plan: Plan) -> Result<Option<Followed>, FollowError> {
        let before = std::mem::replace(&mut self.state.stage, Stage::Applying(plan.revision.txid));
        let transaction = match self.transaction(&plan).await {
            Ok((transaction, Applied::Whole)) => transaction,
            Ok((transaction, Applied::Diverged(pgno))) => {
                drop(transaction);
                let reason = format!("its page {pgno} is not what it was: someone else wrote to it");
                return self.restore(reason).await.map(Some);
            }
            Err(error) => {
                // Nothing was changed.
                self.state.stage = before;
                return Err(error);
            }
        };
        let (state, file) = (self.state.clone(), self.file.clone());
        let (revision, size) = (plan.revision, plan.size_after);
        let (state, pages_written) = finished(
            spawn_blocking(move || {
                let (first_page, written) = transaction.commit(size)?;
                let state = State { stage: Stage::Steady, revision, first_page, ..state };
                state.save(&file).map_err(FollowError::state("write", &file))?;
                Ok::<_, FollowError>((state, written))
            })
            .await,
        )?;
        self.state = state;
        let last_commit = plan.last_commit;
        Ok(Some(Followed { revision, last_commit, pages_written, restored_because: None }))
    }

    /// A transaction in which all of a plan is applied, not yet committed.
    async fn transaction(&self, plan: &Plan) -> Result<(StandbyTransaction, Applied), FollowError> {
        let (budget, meter) = (Budget::new(self.memory_limit, self.database.store()), Meter::new(None));
        let deltas: Vec<SegmentHandle> = plan.steps.iter().map(|step| step.handle.clone()).collect();
        let mut transaction = self.begin().await?;
        let mut applied = Applied::Whole;
        let mut rest = Pgno::new(plan.size_after).map(|last| Window { first: Pgno::ONE, last });
        while let Some(all) = rest.filter(|_| applied == Applied::Whole) {
            let (overlay, window) = fold(&deltas, plan.page_size, all, &budget, &meter).await?;
            let applying = spawn_blocking(move || {
                let applied = transaction.apply(&overlay.into_pages())?;
                Ok::<_, FollowError>((transaction, applied))
            });
            (transaction, applied) = finished(applying.await)?;
            let first = window.last.next();
            rest = (window.last < all.last).then_some(Window { first, last: all.last });
        }
        Ok((transaction, applied))
    }

    /// Begins a transaction, after it is written down what will be done in it.
    async fn begin(&self) -> Result<StandbyTransaction, FollowError> {
        let (state, file) = (self.state.clone(), self.file.clone());
        finished(
            spawn_blocking(move || {
                state.save(&file).map_err(FollowError::state("write", &file))?;
                let transaction = PageTransaction::begin(&file, PATIENCE)?;
                Ok(StandbyTransaction::new(transaction, state.first_page))
            })
            .await,
        )
    }

    /// Makes the standby the latest revision, whatever it is now.
    async fn restore(&mut self, reason: String) -> Result<Followed, FollowError> {
        tracing::warn!(file = %self.file.display(), reason, "the standby is restored anew");
        self.state.stage = Stage::Comparing;
        let destination = Destination::beside(&self.file)?;
        let restorer = restorer(&self.database, self.generation, &self.file, self.memory_limit);
        let prepared = restorer.prepare(destination).await?;
        let (wants, has) = (prepared.restored.page_size, self.state.page_size);
        if wants != has {
            return Err(FollowError::PageSize { path: self.file.clone(), has, wants });
        }
        let mut transaction = self.begin().await?;
        let (file, identity) = (self.file.clone(), self.state.file);
        let (revision, last_commit) = (prepared.restored.revision, prepared.restored.last_commit);
        let (state, pages_written) = finished(
            spawn_blocking(move || {
                let pages = prepared.restored.pages;
                let image = &prepared.temporary;
                transaction.become_image(&image.file, &image.path, pages)?;
                let (_, written) = transaction.commit(pages)?;
                let state = State { file: identity, ..state_of(&prepared, &file, Stage::Steady)? };
                state.save(&file).map_err(FollowError::state("write", &file))?;
                Ok::<_, FollowError>((state, written))
            })
            .await,
        )?;
        self.state = state;
        Ok(Followed { revision, last_commit, pages_written, restored_because: Some(reason) })
    }
}
