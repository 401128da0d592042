//! A hosted database's pages, as of its durable revisions.
//!
//! The latest revision is read from the local file, through a view that holds it while writes go on
//! ([`RevisionView`]). Of an older one, pages that have not changed since are read there too, and the others from a
//! file restored from the log ([`older`](super::older)). What changed between two revisions is known for as long as
//! the database has been open here ([`Tracker`]); what changed before is read from the log once, when a client needs it.

use std::sync::{Arc, Weak};
use std::time::Duration;

use aquifer_format::{PageSize, Pgno, Revision, Txid};
use aquifer_log::{DatabaseStore, Plan, PlanError, Target};
use aquifer_replicate::{Replicator, RevisionView, Tracker};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, Semaphore, watch};
use tokio::task::spawn_blocking;

use super::older::{Older, OlderRevision};
use crate::sql::{Access, Limits, Session, Sql};
use crate::turso::shared::Answers;
use crate::turso::source::{PageHost, PageSource, SourceError};

/// Pages told at a time, of those that changed.
const CHANGED: usize = 1024;
/// Bytes of segments fetched at a time.
const PIECE: u64 = 4 << 20;
/// Who reads from the log what changed, of all databases. Each has a thread that waits for others, which the store's
/// requests run on: were all threads taken by such, none would go on.
static LEARNERS: Semaphore = Semaphore::const_new(8);
/// How long each statement of a query may run whose pages a client wants.
const SELECTING: Duration = Duration::from_secs(5);

/// The pages of one database.
#[derive(Debug)]
pub struct Pages {
    database: DatabaseStore,
    replicator: Arc<Replicator>,
    tracker: Arc<Tracker>,
    /// Shared by all who read the same revision at the same time, and let go with the last of them. Locked by who makes
    /// it, so that of thousands who were told of a commit at the same time one does.
    view: Mutex<Weak<RevisionView>>,
    older: Arc<Older>,
    /// Held by who reads from the log what changed before the database was opened here.
    learning: Mutex<()>,
    answers: Answers,
}

impl Pages {
    pub(super) fn new(
        database: DatabaseStore,
        replicator: Arc<Replicator>,
        tracker: Arc<Tracker>,
        older: Older,
    ) -> Pages {
        let older = Arc::new(older);
        let (view, learning, answers) = (Mutex::default(), Mutex::default(), Answers::default());
        Pages { database, replicator, tracker, view, older, learning, answers }
    }

    pub(crate) fn database(&self) -> &DatabaseStore {
        &self.database
    }

    pub(crate) fn replicator(&self) -> &Replicator {
        &self.replicator
    }

    pub(crate) fn tracker(&self) -> &Arc<Tracker> {
        &self.tracker
    }

    fn durable(&self) -> Option<Revision> {
        *self.tracker.durable().borrow()
    }

    /// A view of the latest durable revision, or of a later one. Cancel-safe.
    async fn latest(&self) -> Result<Arc<RevisionView>, SourceError> {
        let mut shared = self.view.lock().await;
        let is_latest = |view: &Arc<RevisionView>| Some(view.revision()) == self.durable() && view.is_open();
        if let Some(view) = shared.upgrade().filter(is_latest) {
            return Ok(view);
        }
        let view = self.replicator.view(self.database.name()).await?;
        *shared = Arc::downgrade(&view);
        Ok(view)
    }

    fn pinned(&self, revision: Revision, of: Of) -> PinnedPages {
        let (database, older) = (self.database.clone(), Arc::clone(&self.older));
        PinnedPages { revision, database, older, tracker: Arc::clone(&self.tracker), of }
    }

    /// Makes known what changed after a revision of the generation that is served. Where the log does not tell, or would
    /// take longer to tell than to send all pages, it stays unknown, and all pages count as changed. Cancel-safe.
    async fn learn(&self, since: Revision, view: &RevisionView) {
        let unknown = || self.tracker.known_since(since.generation).filter(|known| *known > since.txid);
        if unknown().is_none() {
            return;
        }
        let _one_at_a_time = self.learning.lock().await;
        let Some(known) = unknown() else { return };
        // It is never closed.
        let _turn = LEARNERS.acquire().await;
        let size = u64::from(view.pages()) * u64::from(view.page_size().get());
        let (database, runtime) = (self.database.clone(), Handle::current());
        let read = spawn_blocking(move || runtime.block_on(changed(&database, since, known, size / 2))).await;
        let read = read.map_err(SourceError::from).flatten();
        match read {
            Ok(Some(changed)) => self.tracker.learn(since.generation, since.txid, changed),
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%since, %error, "what changed since is not known: a client gets all pages");
            }
        }
    }
}

/// What the log says changed after a revision, up to a txid, and when last. `None` if reading it takes more bytes than
/// these, or retention has deleted it.
async fn changed(
    database: &DatabaseStore,
    since: Revision,
    until: Txid,
    most: u64,
) -> Result<Option<Vec<(Pgno, Txid)>>, SourceError> {
    let plan = match Plan::since(database, since, Target::Txid(until)).await {
        Ok(Some(plan)) => plan,
        Ok(None) => return Ok(Some(Vec::new())),
        Err(e @ (PlanError::Log(_) | PlanError::Discontinuous { .. })) => return Err(e.into()),
        Err(reason) => {
            tracing::debug!(%since, %reason, "what changed since is not kept");
            return Ok(None);
        }
    };
    if plan.stored_bytes() > most {
        return Ok(None);
    }
    let mut changed = Vec::new();
    for step in &plan.steps {
        let last = step.handle.info().meta().range.last;
        step.handle.for_each_page(PIECE, |pgno, _| changed.push((pgno, last))).await?;
    }
    Ok(Some(changed))
}

impl PageHost for Pages {
    type Source = PinnedPages;

    async fn pin(
        &self,
        at: Option<Revision>,
        client: Option<Revision>,
    ) -> Result<Option<PinnedPages>, SourceError> {
        let Some(durable) = self.durable() else { return Err("nothing is known to be durable yet".into()) };
        if at.is_none_or(|at| at == durable)
            && client == Some(durable)
            && let Some(pages) = self.tracker.pages_at(durable)
        {
            return Ok(Some(self.pinned(durable, Of::Nothing { pages })));
        }
        let view = self.latest().await?;
        let revision = at.unwrap_or(view.revision());
        if let Some(since) = client.filter(|client| client.generation == view.revision().generation) {
            self.learn(since, &view).await;
        }
        let of = if revision == view.revision() {
            Of::Latest(view)
        } else {
            let Some(older) = self.older.revision(&self.database, revision).await? else { return Ok(None) };
            if revision.generation == view.revision().generation {
                self.learn(revision, &view).await;
            }
            Of::Older { older, view: Some(view) }
        };
        Ok(Some(self.pinned(revision, of)))
    }

    fn revisions(&self) -> watch::Receiver<Option<Revision>> {
        self.tracker.durable()
    }

    fn answers(&self) -> &Answers {
        &self.answers
    }
}

/// One revision of a hosted database.
#[derive(Clone, Debug)]
pub struct PinnedPages {
    revision: Revision,
    database: DatabaseStore,
    older: Arc<Older>,
    tracker: Arc<Tracker>,
    of: Of,
}

#[derive(Clone, Debug)]
enum Of {
    /// Of what the client has.
    Nothing {
        pages: u32,
    },
    Latest(Arc<RevisionView>),
    Older {
        older: Arc<OlderRevision>,
        /// For pages that have not changed since.
        view: Option<Arc<RevisionView>>,
    },
}

impl PageSource for PinnedPages {
    fn revision(&self) -> Revision {
        self.revision
    }

    fn page_size(&self) -> PageSize {
        match &self.of {
            // Who has a revision of it has got it with pages of this size.
            Of::Nothing { .. } => PageSize::DEFAULT,
            Of::Latest(view) => view.page_size(),
            Of::Older { older, .. } => older.page_size(),
        }
    }

    fn pages(&self) -> u32 {
        match &self.of {
            Of::Nothing { pages } => *pages,
            Of::Latest(view) => view.pages(),
            Of::Older { older, .. } => older.pages(),
        }
    }

    fn changed_since(&self, since: Txid, from: Pgno) -> impl Iterator<Item = Pgno> {
        let mut next = Some(from);
        let pages = self.pages();
        std::iter::from_fn(move || {
            let first = next.filter(|first| first.get() <= pages)?;
            let told = self.tracker.changed_since(self.revision.generation, since, first, CHANGED);
            // Unknown: any page may have changed.
            let told = told.unwrap_or_else(|| {
                let last = pages.min(first.get().saturating_add(CHANGED as u32 - 1));
                (first.get()..=last).filter_map(Pgno::new).collect()
            });
            next = told.last().map(|last| last.next());
            Some(told)
        })
        .flatten()
    }

    fn touched_by(&mut self, sql: &str) -> Result<Option<Vec<Pgno>>, SourceError> {
        let (connection, read) = aquifer_sqlite::open_pages(Box::new(self.clone()))?;
        let limits = Limits { statement_time: SELECTING, ..Limits::default() };
        let session = Session::open(connection, Access::ReadOnly, limits)?;
        session.sequence(&Sql::Text(sql.to_owned()))?;
        Ok(Some(read.pages().into_iter().collect()))
    }

    fn read(&mut self, pgno: Pgno, page: &mut [u8]) -> Result<(), SourceError> {
        match &self.of {
            Of::Nothing { .. } => Err("the client has all pages".into()),
            Of::Latest(view) if view.read(pgno, page)? => Ok(()),
            Of::Latest(_) => {
                // Whoever reads for so long that the view was given up goes on with a file of its own.
                let older = self.older.revision(&self.database, self.revision);
                let older = Handle::current().block_on(older)?;
                let older = older.ok_or("the revision is not kept any more")?;
                older.read(pgno, page)?;
                self.of = Of::Older { older, view: None };
                Ok(())
            }
            Of::Older { older, view } => {
                let at = self.revision;
                let is_same = |view: &RevisionView| {
                    view.revision().generation == at.generation
                        && !self.tracker.may_have_changed(at.generation, at.txid, pgno)
                };
                match view {
                    Some(view) if is_same(view) && view.read(pgno, page)? => Ok(()),
                    _ => older.read(pgno, page),
                }
            }
        }
    }
}

impl aquifer_sqlite::ReadPages for PinnedPages {
    fn page_size(&self) -> PageSize {
        PageSource::page_size(self)
    }

    fn pages(&self) -> u32 {
        PageSource::pages(self)
    }

    fn read(&mut self, pgno: Pgno, page: &mut [u8]) -> bool {
        PageSource::read(self, pgno, page)
            .inspect_err(|error| tracing::warn!(%error, %pgno, "a page cannot be read"))
            .is_ok()
    }
}
