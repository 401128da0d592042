//! A database and its sidecar: all that is done to them without a network. It blocks; async code calls it on threads
//! that may.
//!
//! # The invariants
//! - [`Sidecar`] and database are two files, and no transaction spans them. Each step is first prepared in the sidecar,
//!   then done to the database in one transaction, then recorded in the sidecar; who finds a prepared step decides by
//!   the pages' hashes whether it was done (`pulling`).
//! - A page of the base is never lost: it is in the database, or a pre-image, or the server has it (`tracking`).
//! - Nothing is pushed that was pushed before: what was sent is kept as an image before it is sent (`pushing`).

mod apart;
mod batching;
mod frames;
mod opening;
mod pulling;
mod pushing;
#[cfg(test)]
mod tests;
mod tracking;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aquifer_format::{PageSize, Pgno};
use aquifer_sqlite::{PinnedDatabase, ReadPages};
use roaring::RoaringBitmap;

use crate::diff::Diff;
use crate::frames::Protocol;
use crate::image::{BaseImage, Current, PushedImage};
use crate::rebase::Resolver;
use crate::sidecar::{PageMap, PreImages, PushedPages, Sidecar, State, hash_of};
use crate::{Error, Result};

pub(crate) use frames::Part;
pub(crate) use opening::{Opened, make_empty};
pub(crate) use pulling::{Applied, schema_version_of};
pub(crate) use pushing::{Outgoing, Sent};

/// How long others that write or check the database are waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// Tables that are nobody's rows: the bookkeeping of sync clients.
const BOOKKEEPING: [&str; 3] = ["aquifer_sync", "turso_sync_last_change_id", "aquifer_rejected"];

/// A database and its sidecar, which no other process syncs meanwhile.
pub(crate) struct Engine {
    path: PathBuf,
    sidecar: Sidecar,
    pinned: PinnedDatabase,
    /// Pages of the base that local work may have changed, up to the pin.
    changed: RoaringBitmap,
    /// Since when somebody who checkpoints waits for the pin, though it holds back nothing.
    in_the_way: Option<std::time::Instant>,
    /// How many commits of others were looked at.
    commits: u64,
    /// How many of them a push has seen.
    offered: u64,
    settings: Settings,
    /// What a test has happen at these places.
    #[cfg(test)]
    at: Option<Box<dyn FnMut(Point) + Send>>,
    /// Whether a pull replays all local changes, for a test that compares.
    #[cfg(test)]
    is_replaying_all: bool,
}

/// Places between two steps that must not both be done or both be left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Point {
    Staged,
    Written,
    Committed,
    Promoted,
    GivenUp,
}

/// What an application wants of a sync.
#[derive(Clone, Default)]
pub(crate) struct Settings {
    /// Tables that stay here, in lower case.
    pub(crate) ignored: Vec<String>,
    /// Whether local rows may be added to a remote database that they have nothing to do with.
    pub(crate) merge: bool,
    /// Whether the remote database may have another URL than before.
    pub(crate) is_moved: bool,
    /// Rows of one push, about; `None`: as many as there are.
    pub(crate) push_batch_rows: Option<u64>,
    pub(crate) protocol: Protocol,
    pub(crate) resolver: Option<Arc<dyn Resolver + Send + Sync>>,
    pub(crate) transform: Option<Arc<dyn crate::push::Transform>>,
}

/// The image that local changes are counted from.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Since {
    /// What was pulled last.
    Base,
    /// What was pushed last.
    Push(crate::sidecar::Push),
}

impl Settings {
    fn is_ignored(&self, table: &str) -> bool {
        self.ignored.iter().any(|ignored| ignored.eq_ignore_ascii_case(table))
    }

    /// Whether a table's rows are sent to the server.
    fn is_pushed(&self, table: &str) -> bool {
        !is_bookkeeping(table) && !self.is_ignored(table)
    }
}

/// The directory of a database, where temporary files of it go.
pub(crate) fn directory_of(database: &Path) -> &Path {
    match database.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    }
}

fn is_bookkeeping(table: &str) -> bool {
    BOOKKEEPING.iter().any(|name| name.eq_ignore_ascii_case(table))
}

impl Drop for Engine {
    /// Looks at what was committed while it can still be told: when the last connection is closed, SQLite moves the WAL
    /// into the database, and with it goes what pages were before.
    fn drop(&mut self) {
        #[cfg(test)]
        if self.at.is_some() {
            return;
        }
        if let Err(error) = self.track() {
            tracing::debug!(path = %self.path.display(), %error, "what was committed last is found out when it is opened");
        }
    }
}

impl Engine {
    /// Lets tests have something happen here.
    #[cfg_attr(not(test), expect(clippy::unused_self, reason = "tests have something to look at"))]
    fn reach(&mut self, point: Point) {
        #[cfg(test)]
        if let Some(at) = &mut self.at {
            at(point);
        }
        #[cfg(not(test))]
        let _ = point;
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn state(&self) -> &State {
        self.sidecar.state()
    }

    pub(crate) fn sidecar(&mut self) -> &mut Sidecar {
        &mut self.sidecar
    }

    pub(crate) fn page_size(&self) -> PageSize {
        self.pinned.page_size()
    }

    /// Says which remote database this one is synced with. It stays so.
    pub(crate) fn attach(&mut self, remote: &str) -> Result<()> {
        match &self.state().remote {
            Some(known) if known == remote => return Ok(()),
            Some(known) if !self.settings.is_moved => {
                return Err(Error::OtherRemote { path: self.path.clone(), remote: known.clone() });
            }
            _ => {}
        }
        let remote = remote.to_owned();
        self.sidecar.update(|_, state| {
            state.remote = Some(remote);
            Ok(())
        })?;
        Ok(())
    }

    /// Counts bytes, to be recorded with what is recorded next.
    pub(crate) fn add_traffic(&mut self, (sent, received): (u64, u64)) {
        self.sidecar.add_traffic(sent, received);
    }

    /// Whether something may have been committed that no push has seen yet.
    pub(crate) fn may_have_changed(&mut self) -> bool {
        self.commits != self.offered || self.pinned.may_have_changed()
    }

    /// All that is committed up to now is dealt with in another way than by waiting for it.
    pub(crate) fn forget_commits(&mut self) -> Result<()> {
        self.track()?;
        self.offered = self.commits;
        Ok(())
    }

    /// What SQLite said of the database or of an image of it.
    fn sqlite(&self, source: rusqlite::Error) -> Error {
        aquifer_sqlite::Error::Sqlite { path: self.path.clone(), source }.into()
    }

    /// A page of an image that whoever reads it for SQLite could not get.
    fn unreadable(&self, pgno: Pgno) -> Error {
        let reason = "it cannot be read (the log says why)".to_owned();
        aquifer_sqlite::Error::BadPage { path: self.path.clone(), pgno, reason }.into()
    }

    fn pre_images(&self) -> PreImages {
        PreImages::of(self.state().base.number)
    }

    /// The database at the newest commit, and what is known of it up to there.
    fn current(&mut self) -> Result<Current> {
        loop {
            self.track()?;
            // Where something is committed at this very moment, its place cannot be had any more.
            if let Some(view) = self.yielding(|engine| engine.pinned.view())? {
                return Ok(Current::new(view));
            }
        }
    }

    fn base_image(&self, current: &Current) -> Result<BaseImage> {
        self.base_image_with(current, &RoaringBitmap::new())
    }

    /// The base, but with these pages as they are now.
    fn base_image_with(&self, current: &Current, apart: &RoaringBitmap) -> Result<BaseImage> {
        Ok(BaseImage {
            current: current.clone(),
            sidecar: self.sidecar.reader()?,
            changed: Arc::new(&self.changed - apart),
            pre_images: self.pre_images(),
            pages: self.state().base.pages,
        })
    }

    fn pushed_image(&self, current: &Current, push: &crate::sidecar::Push) -> Result<PushedImage> {
        let pushed = PushedPages::of(push.change_id);
        let differing = pushed.pages(self.sidecar.db()).map_err(|e| self.sidecar.error(e))?;
        Ok(PushedImage { base: self.base_image(current)?, pushed, differing, pages: push.pages })
    }

    /// Pages of the base that are needed and that are not here: the server has them, at the base's revision.
    pub(crate) fn missing(&self) -> Result<RoaringBitmap> {
        let pages = self.state().base.pages;
        let mut needed = self.changed.clone();
        needed.remove_range(pages.saturating_add(1)..);
        needed.remove(self.page_size().lock_page().get());
        Ok(needed - self.pre_images().pages(self.sidecar.db()).map_err(|e| self.sidecar.error(e))?)
    }

    /// Takes pages of the base from the server. Those that are not what the base has are left out.
    pub(crate) fn supply(&mut self, pages: &crate::pull::Incoming) -> Result<()> {
        let (pre_images, size) = (self.pre_images(), self.page_size());
        self.sidecar.update(|db, _| {
            let mut map = PageMap::new(db);
            let mut page = vec![0; size.bytes()];
            let mut pgnos: Vec<Pgno> = pages.pgnos().collect();
            pgnos.sort_unstable();
            for pgno in pgnos {
                let is_here = pages
                    .read(pgno, &mut page)
                    .map_err(|e| rusqlite::Error::ToSqlConversionFailure(e.into()))?;
                if is_here && map.get(pgno)? == Some(hash_of(pgno, &page)) {
                    pre_images.put(db, pgno, &page)?;
                }
            }
            Ok(())
        })?;
        match self.missing()?.min().and_then(Pgno::new) {
            None => Ok(()),
            Some(pgno) => {
                let revision = self.state().base.revision.clone().unwrap_or_default();
                Err(Error::BasePageMissing { pgno, revision })
            }
        }
    }

    /// What has been changed locally since an image that the server knows; `None`: nothing at all.
    fn changes(&mut self, current: &Current, since: &Since) -> Result<Option<Diff>> {
        self.changes_beside(current, since, &RoaringBitmap::new())
    }

    /// The same without what is on these pages, which must be [`apart`](Engine::apart).
    fn changes_beside(
        &mut self,
        current: &Current,
        since: &Since,
        apart: &RoaringBitmap,
    ) -> Result<Option<Diff>> {
        let differing = match since {
            // That some of them do not differ any more is found out by the way.
            Since::Base => {
                let pages = self.state().base.pages;
                let mut changed = &self.changed - apart;
                changed.remove_range(pages.min(current.pages()).saturating_add(1)..);
                (pages != current.pages() || !changed.is_empty()).then_some(changed)
            }
            Since::Push(_) => self.differing(current, since)?,
        };
        let Some(differing) = differing else { return Ok(None) };
        let before: Box<dyn ReadPages> = match since {
            Since::Base => Box::new(self.base_image_with(current, apart)?),
            Since::Push(_) => self.image_of(current, since)?,
        };
        let pages = differing.iter().filter_map(Pgno::new);
        Ok(Some(Diff::between(before, Box::new(current.clone()), pages)?))
    }

    fn image_of(&self, current: &Current, since: &Since) -> Result<Box<dyn ReadPages>> {
        Ok(match since {
            Since::Base => Box::new(self.base_image(current)?),
            Since::Push(push) => Box::new(self.pushed_image(current, push)?),
        })
    }

    /// Pages whose content differs from what it is in an image that the server knows, and which are in both; `None`:
    /// there is no difference.
    fn differing(&self, current: &Current, since: &Since) -> Result<Option<RoaringBitmap>> {
        let failed = |e| Error::Sidecar(self.sidecar.error(e));
        let db = self.sidecar.db();
        let mut current = current.clone();
        let mut candidates = self.changed.clone();
        let base_pages = self.state().base.pages;
        let (pages, pushed) = match since {
            Since::Base => (base_pages, None),
            Since::Push(push) => {
                let pushed = PushedPages::of(push.change_id);
                candidates |= pushed.pages(db).map_err(failed)?;
                if push.pages > base_pages {
                    candidates.insert_range(base_pages + 1..=push.pages);
                }
                (push.pages, Some(pushed))
            }
        };
        let is_resized = pages != current.pages();
        candidates.remove_range(pages.min(current.pages()).saturating_add(1)..);
        let mut map = PageMap::new(db);
        let mut page = vec![0; self.page_size().bytes()];
        let mut differing = RoaringBitmap::new();
        for pgno in candidates.iter().filter_map(Pgno::new) {
            let mut before = None;
            if let Some(pushed) = pushed {
                before = pushed.hash(db, pgno).map_err(failed)?;
            }
            if before.is_none() && pgno.get() <= base_pages {
                before = map.get(pgno).map_err(failed)?;
            }
            let is_same = current.read(pgno, &mut page) && before == Some(hash_of(pgno, &page));
            if !is_same {
                differing.insert(pgno.get());
            }
        }
        Ok((is_resized || !differing.is_empty()).then_some(differing))
    }
}
