//! Applying what the server has changed.
//!
//! The new image is made beside the database: the server's pages over the base, and the local changes replayed on top
//! of that by SQL. Writers wait only while the pages that differ are written into the database, in one transaction; if
//! somebody has committed since the image was begun, it is made again, in the end with writers kept out.
//!
//! # Which base is it?
//! Before that transaction the sidecar has the new base ([`Staged`]) and the version that the schema had and will have;
//! after it the new base becomes the base. Who finds a staged base asks the database for the version of its schema. The
//! transaction raises it by more than others do in the meantime ([`STEP`]), whose every change of the schema raises it by
//! one, VACUUM too: whatever they have written since, and wherever it is, it says whether the transaction was committed.

use std::sync::Arc;
use std::time::Duration;

use aquifer_format::{PageHash, Pgno};
use aquifer_sqlite::btree::Value;
use aquifer_sqlite::{Overlay, PageTransaction, PinnedDatabase, ReadPages, open_overlay, open_pages};
use roaring::RoaringBitmap;
use rusqlite::Connection;

use super::tracking::patiently;
use super::{Engine, Point, Since, directory_of, is_bookkeeping};
use crate::image::{Current, NewBase, SharedPages};
use crate::pull::Incoming;
use crate::rebase::{ByDefault, Conflict, Resolver, rebase};
use crate::sidecar::{
    Base, Conflicts, PageMap, PreImages, Pull, Push, PushedPages, Sidecar, Staged, hash_of,
};
use crate::{Error, Result, now};

/// How long others that write are waited for while the database is held as it was: some of them wait for that to end.
const BRIEF: Duration = Duration::from_millis(200);
/// How often the image is made without keeping writers out.
const OPTIMISTIC: u32 = 3;
/// Conflicts that are recorded at once.
const CONFLICTS: usize = 256;
/// By how much a pull raises the version of the schema. It comes to where it was before after a million pulls.
const STEP: u32 = 4096;
/// Bytes of page 1 that count the changes of the schema.
pub(super) const SCHEMA_VERSION: std::ops::Range<usize> = 40..44;

/// What came of pages that were pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Applied {
    /// They are in the database.
    Done {
        /// Pages of the database that were written.
        written: u32,
        /// Conflicts that were decided.
        conflicts: u64,
    },
    /// They do not start from the base any more: pull again.
    Stale,
    /// Pages of the base are needed first, see [`Engine::missing`].
    Missing,
}

/// The image that is to become the database.
struct Rebased {
    image: SharedPages,
    /// Pages that the local changes have written over the new base.
    written: RoaringBitmap,
    /// Pages that are what they are in the database, see [`Engine::apart`].
    apart: RoaringBitmap,
    conflicts: u64,
}

/// What is to be written into the database.
struct Plan {
    pages: RoaringBitmap,
    staged: Staged,
    /// The version of the schema that page 1 says; `None`: there is nothing to write.
    schema_version: Option<u32>,
}

impl Engine {
    /// Brings the pages of a pull into the database, under the local changes.
    pub(crate) fn apply(&mut self, incoming: &Arc<Incoming>) -> Result<Applied> {
        if incoming.since != self.state().base.revision {
            return Ok(Applied::Stale);
        }
        if incoming.len() == 0 && incoming.pages() == self.state().base.pages && !incoming.replaces {
            return self.nothing_new(&incoming.revision);
        }
        let (local, remote) = (self.page_size().get(), incoming.page_size().get());
        if local != remote && incoming.pages() > 0 {
            return Err(Error::PageSize { path: self.path.clone(), local, remote });
        }
        for attempt in 0.. {
            let lock = if attempt < OPTIMISTIC {
                None
            } else {
                Some(self.yielding(|engine| PageTransaction::begin(&engine.path, BRIEF))?)
            };
            let current = self.current()?;
            if !self.missing()?.is_empty() {
                return Ok(Applied::Missing);
            }
            if self.state().base.revision.is_none() && incoming.pages() > 0 && !self.settings.merge {
                self.refuse_strangers(&current, incoming)?;
            }
            let mut rebased = if self.is_seed(&current, incoming)? {
                // The server has nothing that the local rows would have to be put on.
                let written = (1..=incoming.pages()).collect();
                let (image, apart) = (SharedPages::new(Box::new(current.clone())), RoaringBitmap::new());
                Rebased { image, written, apart, conflicts: 0 }
            } else {
                self.rebase(&current, incoming)?
            };
            let mut plan = self.plan(&current, incoming, &mut rebased)?;
            self.stage(&current, incoming, &mut rebased, &mut plan)?;
            self.reach(Point::Staged);
            let transaction = match self.write(lock, &mut rebased, &plan) {
                Ok(Some(transaction)) => transaction,
                Ok(None) => {
                    // Somebody has committed since, or is about to.
                    self.unstage()?;
                    // While the image is held: else the pin may get the place of it that somebody waits for.
                    self.track()?;
                    drop(current);
                    continue;
                }
                Err(error) => {
                    self.unstage()?;
                    return Err(error);
                }
            };
            self.reach(Point::Written);
            // After an error the staged base stays: the pages will tell.
            transaction.commit(rebased.image.pages())?;
            self.reach(Point::Committed);
            drop(current);
            let conflicts = rebased.conflicts;
            self.promote()?;
            self.reach(Point::Promoted);
            let before = self.commits;
            self.track()?;
            // Our own is nothing to be pushed.
            if !plan.pages.is_empty() && self.commits == before + 1 {
                self.commits = before;
            }
            return Ok(Applied::Done { written: plan.pages.len() as u32, conflicts });
        }
        unreachable!("the loop ends by returning")
    }

    /// Whether the remote database is empty and new to this one: then this one stays as it is, whatever its pages.
    fn is_seed(&self, current: &Current, incoming: &Arc<Incoming>) -> Result<bool> {
        if self.state().base.revision.is_some() || current.pages() < incoming.pages() {
            return Ok(false);
        }
        Ok(!has_content(Box::new(self.new_base(current, incoming)?)).map_err(|e| self.sqlite(e))?)
    }

    /// A database with rows of its own, and a remote one that it never had to do with.
    fn refuse_strangers(&self, current: &Current, incoming: &Arc<Incoming>) -> Result<()> {
        let local = has_content(Box::new(current.clone())).map_err(|e| self.sqlite(e))?;
        let remote = has_content(Box::new(self.new_base(current, incoming)?)).map_err(|e| self.sqlite(e))?;
        if local && remote { Err(Error::NotAttached { path: self.path.clone() }) } else { Ok(()) }
    }

    fn new_base(&self, current: &Current, incoming: &Arc<Incoming>) -> Result<NewBase> {
        self.new_base_with(current, incoming, &RoaringBitmap::new())
    }

    /// The new base, but with these pages as they are now.
    fn new_base_with(
        &self,
        current: &Current,
        incoming: &Arc<Incoming>,
        apart: &RoaringBitmap,
    ) -> Result<NewBase> {
        let base = if incoming.replaces { None } else { Some(self.base_image_with(current, apart)?) };
        Ok(NewBase { base, incoming: Arc::clone(incoming) })
    }

    /// Makes the image: the new base with the local changes.
    fn rebase(&mut self, current: &Current, incoming: &Arc<Incoming>) -> Result<Rebased> {
        let since = self.since(current, incoming)?;
        let apart = self.apart(current, &since, incoming)?;
        let local = self.changes_beside(current, &since, &apart)?;
        // What was pushed of ignored tables is not in the server's image: it is counted from the base.
        let kept = match &since {
            Since::Push(_) if !self.settings.ignored.is_empty() => self.changes(current, &Since::Base)?,
            _ => None,
        };
        self.sidecar.update(|db, _| Conflicts::drop_staged(db))?;
        let new_base = self.new_base_with(current, incoming, &apart)?;
        if local.is_none() && kept.is_none() {
            let (image, written) = (SharedPages::new(Box::new(new_base)), RoaringBitmap::new());
            return Ok(Rebased { image, written, apart, conflicts: 0 });
        }
        let spill = tempfile::tempfile_in(directory_of(&self.path))
            .map_err(Error::file("make a temporary file beside", &self.path))?;
        let (onto, overlay): (Connection, Overlay) =
            open_overlay(Box::new(new_base), spill).map_err(|e| self.sqlite(e))?;
        let (remote, _) = open_pages(Box::new(self.new_base_with(current, incoming, &apart)?))
            .map_err(|e| self.sqlite(e))?;
        let mut conflicts = Vec::new();
        let settings = &self.settings;
        let resolver: &dyn Resolver = match &settings.resolver {
            Some(resolver) => &**resolver,
            None => &ByDefault,
        };
        let mut count = 0;
        for (diff, is_rest) in [(&local, false), (&kept, true)] {
            let Some(diff) = diff else { continue };
            let is_in = |table: &str| {
                let is_ignored = settings.is_ignored(table);
                let counts = match &since {
                    _ if is_rest => is_ignored,
                    Since::Push(_) => !is_ignored,
                    Since::Base => true,
                };
                counts && !is_bookkeeping(table)
            };
            let mut record = |conflict: Conflict| {
                conflicts.push(conflict);
                if conflicts.len() < CONFLICTS {
                    return Ok(());
                }
                let found = std::mem::take(&mut conflicts);
                self.sidecar.update(|db, _| Conflicts::stage(db, &found)).map_err(Into::into)
            };
            count += rebase(&onto, &remote, diff, &is_in, resolver, &mut record)?.conflicts;
        }
        drop((onto, remote));
        self.sidecar.update(|db, _| Conflicts::stage(db, &conflicts))?;
        let written = overlay.written().into_iter().map(Pgno::get).collect();
        Ok(Rebased { image: SharedPages::new(Box::new(overlay)), written, apart, conflicts: count })
    }

    /// The image that local changes are counted from: what was pushed, if the server's image has it.
    fn since(&self, current: &Current, incoming: &Arc<Incoming>) -> Result<Since> {
        let state = self.state();
        if state.attempt.is_none() && state.pushed.is_none() {
            return Ok(Since::Base);
        }
        let new_base = self.new_base(current, incoming)?;
        if new_base.pages() == 0 {
            return Ok(Since::Base);
        }
        let (db, _) = open_pages(Box::new(new_base)).map_err(|e| self.sqlite(e))?;
        let told = |push: &Push| told(&db, &push.client_id).map_err(|e| self.sqlite(e));
        if let Some(push) = &state.attempt
            && told(push)?.is_some_and(|(_, applied)| applied == push.change_id)
        {
            return Ok(Since::Push(push.clone()));
        }
        // That it was applied is known, so it is in every later image, whoever pushed under this name since.
        if let Some(push) = &state.pushed
            && told(push)?.is_some_and(|(last, _)| last >= push.change_id)
        {
            return Ok(Since::Push(push.clone()));
        }
        Ok(Since::Base)
    }

    /// Which pages are to be written.
    fn plan(&self, current: &Current, incoming: &Arc<Incoming>, rebased: &mut Rebased) -> Result<Plan> {
        let mut current = current.clone();
        let image = &mut rebased.image;
        let (before, after) = (current.pages(), image.pages());
        let mut candidates: RoaringBitmap = incoming.pgnos().map(Pgno::get).collect();
        candidates |= &self.changed - &rebased.apart;
        candidates |= &rebased.written;
        if incoming.replaces {
            candidates.insert_range(1..=after);
        } else if after > before {
            candidates.insert_range(before + 1..=after);
        }
        candidates.remove_range(after.saturating_add(1)..);
        candidates.remove(self.page_size().lock_page().get());
        let size = self.page_size().bytes();
        let (mut old, mut new) = (vec![0; size], vec![0; size]);
        let mut pages = RoaringBitmap::new();
        let base_pages = self.state().base.pages;
        let mut map = PageMap::new(self.sidecar.db());
        for pgno in candidates.iter().filter_map(Pgno::new) {
            let is_there = pgno.get() <= before;
            // Where it is the base's here and the server's there, both hashes are known.
            let hash = incoming.hash(pgno).filter(|_| !rebased.written.contains(pgno.get()));
            if let Some(hash) = hash.filter(|_| is_there && pgno.get() <= base_pages)
                && !self.changed.contains(pgno.get())
                && let Some(known) = map.get(pgno).map_err(|e| self.sidecar.error(e))?
            {
                if hash != known {
                    pages.insert(pgno.get());
                }
                continue;
            }
            self.read(image, pgno, &mut new)?;
            if is_there {
                self.read(&mut current, pgno, &mut old)?;
            }
            if !is_there || crate::sidecar::content(pgno, &old) != crate::sidecar::content(pgno, &new) {
                pages.insert(pgno.get());
            }
        }
        let staged = Staged::new(incoming.replaces);
        if pages.is_empty() && before == after || after == 0 {
            return Ok(Plan { pages, staged, schema_version: None });
        }
        pages.insert(1);
        self.read(&mut current, Pgno::ONE, &mut old)?;
        Ok(Plan { pages, staged, schema_version: Some(schema_version_of(&old)) })
    }

    /// Records what the database is going to be.
    fn stage(
        &mut self,
        current: &Current,
        incoming: &Arc<Incoming>,
        rebased: &mut Rebased,
        plan: &mut Plan,
    ) -> Result<()> {
        let mut new_base = self.new_base(current, incoming)?;
        let base = Base {
            revision: Some(incoming.revision.clone()),
            pages: incoming.pages(),
            number: self.state().base.number + 1,
        };
        let pre_images = PreImages::of(base.number);
        let size = self.page_size().bytes();
        let (mut old, mut new) = (vec![0; size], vec![0; size]);
        let image = &mut rebased.image;
        let mut changed = rebased.apart.clone();
        let mut over = rebased.written.clone();
        if image.pages() < base.pages {
            over.insert_range(image.pages() + 1..=base.pages);
        }
        over.remove_range(base.pages.saturating_add(1)..);
        over.remove(self.page_size().lock_page().get());
        let mut pgnos: Vec<Pgno> = incoming.pgnos().filter(|pgno| pgno.get() <= base.pages).collect();
        pgnos.sort_unstable();
        for pgno in pgnos {
            plan.staged.page(pgno, incoming.hash(pgno).unwrap_or(PageHash::from_u64(0)));
        }
        let path = self.path.clone();
        let mut unreadable = None;
        let page_size = self.page_size().get();
        // What these were before local work is what they are in the new base, too.
        let mut kept = self.changed.clone();
        kept.remove_range(base.pages.saturating_add(1)..);
        if incoming.replaces {
            kept.clear();
        }
        for pgno in incoming.pgnos() {
            kept.remove(pgno.get());
        }
        let is_there =
            incoming.read(Pgno::ONE, &mut new).map_err(Error::file("read what was pulled into", &path))?;
        let schema_version = is_there.then(|| schema_version_of(&new));
        let done = self.sidecar.update(|db, state| {
            PreImages::of(base.number).forget(db)?;
            for pgno in over.iter().filter_map(Pgno::new) {
                if !new_base.read(pgno, &mut old) {
                    unreadable = Some(pgno);
                    return Err(rusqlite::Error::QueryReturnedNoRows);
                }
                let is_there = pgno.get() <= image.pages() && image.read(pgno, &mut new);
                if !is_there || crate::sidecar::content(pgno, &old) != crate::sidecar::content(pgno, &new) {
                    if !kept.contains(pgno.get()) {
                        pre_images.put(db, pgno, &old)?;
                    }
                    changed.insert(pgno.get());
                } else {
                    changed.remove(pgno.get());
                }
            }
            plan.staged.put(db, &changed, &(kept & &changed))?;
            let version_before = plan.schema_version;
            state.pull = Some(Pull { base, page_size, schema_version, version_before });
            Ok(())
        });
        match (done, unreadable) {
            (Err(_), Some(pgno)) => {
                let reason = "it cannot be read from what was pulled".to_owned();
                Err(aquifer_sqlite::Error::BadPage { path, pgno, reason }.into())
            }
            (done, _) => Ok(done?),
        }
    }

    /// Makes the staged base the base: the database is what was staged.
    fn promote(&mut self) -> Result<()> {
        let size = self.page_size();
        let changed = self.sidecar.update(|db, state| {
            let Some(pull) = state.pull.take() else { return Ok(RoaringBitmap::new()) };
            let staged = Staged::get(db)?;
            let mut before = state.base.pages;
            if staged.replaces {
                db.execute("DELETE FROM page_map", [])?;
                before = 0;
            }
            let mut map = PageMap::new(db);
            map.resize(pull.base.pages, before, |pgno| hash_of(pgno, size.zero_page()))?;
            for (pgno, hash) in staged.pages() {
                map.set(pgno, hash)?;
            }
            map.flush()?;
            let (changed, kept) = Staged::changed(db)?;
            Sidecar::put_changed(db, &changed)?;
            Staged::forget(db)?;
            Conflicts::promote(db, now(), pull.base.revision.as_deref())?;
            PreImages::of(pull.base.number).keep_only(db, &kept)?;
            PushedPages::forget_all(db)?;
            state.base = pull.base;
            state.schema_version = pull.schema_version.unwrap_or(state.schema_version);
            (state.attempt, state.pushed) = (None, None);
            state.last_pull = Some(now());
            Ok(changed)
        })?;
        self.changed = changed;
        Ok(())
    }

    /// The server has nothing new: at most another name for the same image.
    fn nothing_new(&mut self, revision: &str) -> Result<Applied> {
        self.sidecar.update(|_, state| {
            state.last_pull = Some(now());
            state.base.revision = Some(revision.to_owned());
            Ok(())
        })?;
        Ok(Applied::Done { written: 0, conflicts: 0 })
    }

    /// Forgets the staged base: the database is what it was.
    fn unstage(&mut self) -> Result<()> {
        self.sidecar.update(|db, state| {
            if let Some(pull) = state.pull.take() {
                PreImages::of(pull.base.number).forget(db)?;
            }
            Conflicts::drop_staged(db)?;
            Staged::forget(db)
        })?;
        Ok(())
    }

    /// Writes the pages into the database; `None`: somebody has committed since the image was made.
    fn write(
        &mut self,
        lock: Option<PageTransaction>,
        rebased: &mut Rebased,
        plan: &Plan,
    ) -> Result<Option<PageTransaction>> {
        let mut transaction = match lock {
            Some(transaction) => transaction,
            None => match PageTransaction::begin(&self.path, BRIEF) {
                Ok(transaction) => transaction,
                // Perhaps somebody who waits until the image is not read any more that this one was made from.
                Err(error) if error.is_transient() => return Ok(None),
                Err(error) => return Err(error.into()),
            },
        };
        if patiently(|| self.pinned.look())?.is_some() {
            self.pinned.reject()?;
            return Ok(None);
        }
        let mut page = vec![0; self.page_size().bytes()];
        for pgno in plan.pages.iter().filter_map(Pgno::new) {
            self.read(&mut rebased.image, pgno, &mut page)?;
            if pgno == Pgno::ONE {
                page[18..20].fill(2);
                if let Some(version) = plan.schema_version {
                    // It is also one that no connection knows: each has to read the schema anew.
                    page[SCHEMA_VERSION].copy_from_slice(&version.wrapping_add(STEP).to_be_bytes());
                }
            }
            transaction.write(pgno, &page)?;
        }
        Ok(Some(transaction))
    }

    /// Decides what became of a pull that was being applied when the program ended.
    pub(super) fn settle(&mut self) -> Result<()> {
        let Some(pull) = &self.state().pull else { return Ok(()) };
        // Without a version there was nothing to do to the database.
        let Some(before) = pull.version_before else { return self.promote() };
        let (pinned, _) = patiently(|| PinnedDatabase::open(&self.path, None))?;
        let mut page = vec![0; pinned.page_size().bytes()];
        let now = schema_version_of(pinned.read_old(Pgno::ONE, &mut page)?);
        // Less than before: it is a copy that was made earlier.
        if now.wrapping_sub(before).cast_signed() < STEP.cast_signed() {
            self.unstage()
        } else {
            self.promote()
        }
    }

    pub(super) fn read(&self, pages: &mut dyn ReadPages, pgno: Pgno, page: &mut [u8]) -> Result<()> {
        if pages.read(pgno, page) {
            return Ok(());
        }
        Err(self.unreadable(pgno))
    }
}

/// The numbers that an image has of a client: of the last push that may not come any more, and of the last one that
/// was applied. `None`: it knows no such client.
fn told(db: &Connection, client_id: &str) -> rusqlite::Result<Option<(i64, i64)>> {
    use rusqlite::OptionalExtension;
    let sql = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'aquifer_sync'";
    if db.query_row(sql, [], |_| Ok(())).optional()?.is_none() {
        return Ok(None);
    }
    let sql = "SELECT change_id, applied FROM aquifer_sync WHERE client_id = ?1";
    db.query_row(sql, [client_id], |row| Ok((row.get(0)?, row.get(1)?))).optional()
}

/// Whether there is anything in a database.
fn has_content(pages: Box<dyn ReadPages>) -> rusqlite::Result<bool> {
    if pages.pages() == 0 {
        return Ok(false);
    }
    let (db, _) = open_pages(pages)?;
    db.query_row("SELECT EXISTS (SELECT 1 FROM sqlite_schema)", [], |row| row.get(0))
}

/// The version of the schema that page 1 says.
pub(crate) fn schema_version_of(page: &[u8]) -> u32 {
    u32::from_be_bytes(std::array::from_fn(|i| page[SCHEMA_VERSION.start + i]))
}

/// All that a connection keeps of a schema.
pub(super) fn schema_of(db: &Connection) -> rusqlite::Result<Vec<Vec<Value>>> {
    let mut statement = db.prepare("SELECT type, name, tbl_name, rootpage, sql FROM sqlite_schema")?;
    let rows = statement.query_map([], |row| (0..5).map(|column| row.get(column)).collect())?;
    rows.collect()
}
