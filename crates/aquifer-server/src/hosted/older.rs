//! Revisions that are not the latest any more: their pages are in the log.
//!
//! Clients ask for them in the middle of a bootstrap in parts, and when they load pages as they need them. Only where a
//! page has changed since is the revision restored, into a file beside the database, which serves for a while.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aquifer_format::{PageSize, Pgno, Revision};
use aquifer_log::{DatabaseStore, Plan, PlanError, Target};
use aquifer_replicate::restore::{Existing, Restorer};
use parking_lot::Mutex;
use tokio::runtime::Handle;

use crate::turso::source::SourceError;

/// Revisions that are kept for those who may ask again.
const KEPT: usize = 4;
/// For how long after they were asked for last.
const KEPT_FOR: Duration = Duration::from_mins(2);

/// The older revisions of one database that are in use.
#[derive(Debug)]
pub(super) struct Older {
    directory: PathBuf,
    kept: Arc<Mutex<Vec<Kept>>>,
}

#[derive(Debug)]
struct Kept {
    used: Instant,
    older: Arc<OlderRevision>,
}

/// The pages of one older revision.
#[derive(Debug)]
pub(super) struct OlderRevision {
    revision: Revision,
    pages: u32,
    page_size: PageSize,
    database: DatabaseStore,
    path: PathBuf,
    restored: Mutex<Option<Arc<File>>>,
}

impl Older {
    /// Restores into files of this directory, which is its own: what a run before left there is removed.
    pub(super) fn new(directory: PathBuf) -> Older {
        if let Err(error) = fs::remove_dir_all(&directory)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %directory.display(), %error, "cannot remove files of older revisions");
        }
        Older { directory, kept: Arc::default() }
    }

    /// A revision; `None` if the store does not have it, or not any more. Cancel-safe.
    pub(super) async fn revision(
        &self,
        database: &DatabaseStore,
        revision: Revision,
    ) -> Result<Option<Arc<OlderRevision>>, SourceError> {
        if let Some(kept) = self.kept.lock().iter_mut().find(|kept| kept.older.revision == revision) {
            kept.used = Instant::now();
            return Ok(Some(Arc::clone(&kept.older)));
        }
        let target = Target::Txid(revision.txid);
        let plan = match Plan::make(database, Some(revision.generation), target).await {
            Ok(plan) => plan,
            Err(e @ (PlanError::Log(_) | PlanError::Discontinuous { .. } | PlanError::NotABase { .. })) => {
                return Err(e.into());
            }
            Err(reason) => {
                tracing::debug!(%revision, %reason, "an older revision is not there");
                return Ok(None);
            }
        };
        let file = format!("{}-{}.sqlite", revision.generation, revision.txid.to_hex());
        let older = Arc::new(OlderRevision {
            revision,
            pages: plan.size_after,
            page_size: plan.page_size,
            database: database.clone(),
            path: self.directory.join(file),
            restored: Mutex::default(),
        });
        self.keep(Arc::clone(&older));
        Ok(Some(older))
    }

    fn keep(&self, older: Arc<OlderRevision>) {
        let mut kept = self.kept.lock();
        if kept.is_empty() {
            self.forget_later();
        }
        kept.push(Kept { used: Instant::now(), older });
        kept.sort_by_key(|kept| kept.used);
        let too_many = kept.len().saturating_sub(KEPT);
        kept.drain(..too_many);
    }

    /// Until nothing is kept any more.
    fn forget_later(&self) {
        let kept = Arc::downgrade(&self.kept);
        Handle::current().spawn(async move {
            loop {
                tokio::time::sleep(KEPT_FOR / 2).await;
                let Some(kept) = kept.upgrade() else { return };
                let mut kept = kept.lock();
                kept.retain(|kept| kept.used.elapsed() < KEPT_FOR);
                if kept.is_empty() {
                    return;
                }
            }
        });
    }
}

impl OlderRevision {
    pub(super) fn pages(&self) -> u32 {
        self.pages
    }

    pub(super) fn page_size(&self) -> PageSize {
        self.page_size
    }

    /// Fills `page`, which has the size of a page. The first call restores the revision. Blocks.
    pub(super) fn read(&self, pgno: Pgno, page: &mut [u8]) -> Result<(), SourceError> {
        let file = self.file()?;
        Ok(file.read_exact_at(page, pgno.index() as u64 * page.len() as u64)?)
    }

    fn file(&self) -> Result<Arc<File>, SourceError> {
        let mut restored = self.restored.lock();
        if let Some(file) = &*restored {
            return Ok(Arc::clone(file));
        }
        tracing::info!(revision = %self.revision, "restoring an older revision, for clients that have it");
        let restorer = Restorer::new(self.database.store().clone(), self.database.name().clone(), &self.path);
        let restore = restorer
            .generation(self.revision.generation)
            .target(Target::Txid(self.revision.txid))
            .existing(Existing::Replace);
        fs::create_dir_all(self.path.parent().unwrap_or(Path::new(".")))?;
        Handle::current().block_on(restore.restore())?;
        let file = Arc::new(File::open(&self.path)?);
        *restored = Some(Arc::clone(&file));
        Ok(file)
    }
}

impl Drop for OlderRevision {
    fn drop(&mut self) {
        if self.restored.get_mut().is_some()
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the file of an older revision");
        }
    }
}
