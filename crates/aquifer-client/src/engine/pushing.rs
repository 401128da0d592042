//! What is sent to the server, and what is known of it afterwards.
//!
//! An image is pushed: the database at one commit. Before its rows are sent, the sidecar has the image as differences
//! from the base, under the number of the push (an *attempt*). Once it is known that the server has applied it, local
//! changes are counted from that image ([`Since::Push`]) until it has come back with a pull. While it is not known,
//! nothing else is pushed or pulled.

use aquifer_format::Pgno;
use aquifer_sqlite::ReadPages;
use roaring::RoaringBitmap;

use super::{Engine, Since, batching, directory_of};
use crate::diff::Diff;
use crate::image::{Current, SharedPages};
use crate::push::{Bookkeeping, Kept, Reals, Transform, prepare, statements};
use crate::sidecar::{PageMap, Push, PushedPages, State, hash_of};
use crate::{Error, Result, now};

impl Push {
    fn bookkeeping(&self) -> Bookkeeping {
        Bookkeeping { client_id: self.client_id.clone(), change_id: self.change_id }
    }
}

/// What is to be sent.
pub(crate) struct Outgoing {
    pub(crate) push: Bookkeeping,
    /// Whether there is more than this.
    pub(crate) is_part: bool,
    pub(crate) kept: Kept,
}

/// What is known of a push that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    /// The server has applied it.
    Applied,
    /// It has not, and never will.
    NotApplied,
}

impl Engine {
    /// A push of SQL of which is not known whether the server has applied it.
    pub(crate) fn attempt(&self) -> Option<Bookkeeping> {
        self.state().attempt.as_ref().filter(|push| push.frames.is_none()).map(Push::bookkeeping)
    }

    /// Makes ready what is to be sent to a server that reads reals so, and records that it will be; `None`: there is
    /// nothing.
    ///
    /// [`missing`](Engine::missing) pages must have been supplied, and no attempt may be open.
    pub(crate) fn outgoing(&mut self, reals: Reals) -> Result<Option<Outgoing>> {
        let current = self.current()?;
        self.offered = self.commits;
        let since = self.state().pushed.clone().map_or(Since::Base, Since::Push);
        let Some(diff) = self.changes(&current, &since)? else { return Ok(None) };
        let settings = self.settings.clone();
        let is_pushed = |table: &str| settings.is_pushed(table);
        let transform = settings.transform.as_deref().map(|transform| transform as &dyn Transform);
        let mut kept = prepare(&diff, &is_pushed, transform, reals, directory_of(&self.path))?;
        if kept.is_empty() {
            return Ok(None);
        }
        let mut image = SharedPages::new(Box::new(current.clone()));
        let mut written = None;
        if let Some(rows) = settings.push_batch_rows.filter(|rows| kept.summary().rows > *rows) {
            let before = self.image_of(&current, &since)?;
            let spill = tempfile::tempfile_in(directory_of(&self.path));
            let spill = spill.map_err(Error::file("make a temporary file beside", &self.path))?;
            if let Some(part) = batching::part(&diff, before, &is_pushed, transform, rows, spill)? {
                let pages = part.written();
                let before = self.image_of(&current, &since)?;
                let diff = Diff::between(before, Box::new(part.clone()), pages.iter().copied())?;
                kept = prepare(&diff, &is_pushed, transform, reals, directory_of(&self.path))?;
                image = SharedPages::new(Box::new(part));
                written = Some(pages.into_iter().map(Pgno::get).collect());
            }
        }
        drop(diff);
        let push = self.next_push(image.pages());
        let bookkeeping = push.bookkeeping();
        let is_part = written.is_some();
        let differing = match (written, &since) {
            (None, _) => self.changed.clone(),
            (Some(written), Since::Base) => written,
            (Some(written), Since::Push(push)) => {
                let pushed = PushedPages::of(push.change_id).pages(self.sidecar.db());
                written | pushed.map_err(|e| self.sidecar.error(e))?
            }
        };
        self.record_attempt(&current, image, differing, push)?;
        Ok(Some(Outgoing { push: bookkeeping, is_part, kept }))
    }

    /// A push of an image of so many pages.
    pub(super) fn next_push(&self, pages: u32) -> Push {
        let step = i64::from(uuid::Uuid::new_v4().as_fields().0 >> 12) + 1;
        let (client_id, change_id) = (self.state().client_id.clone(), self.state().change_id + step);
        Push { client_id, change_id, pages, frames: None }
    }

    /// How many rows and changes of the schema are not pushed; as far as can be told without a server.
    pub(crate) fn unpushed(&mut self) -> Result<Option<u64>> {
        let current = self.current()?;
        if !self.missing()?.is_empty() {
            return Ok(None);
        }
        let since = self.state().pushed.clone().map_or(Since::Base, Since::Push);
        let Some(diff) = self.changes(&current, &since)? else { return Ok(Some(0)) };
        let settings = &self.settings;
        let transform = settings.transform.as_deref().map(|transform| transform as &dyn Transform);
        let is_pushed = |table: &str| settings.is_pushed(table);
        let summary = statements(&diff, &is_pushed, transform, Reals::Exact, &mut |_| Ok(()))?;
        Ok(Some(summary.rows + summary.schema))
    }

    /// Keeps the image that is pushed. `candidates` are at least the pages of the base that differ in it.
    pub(super) fn record_attempt(
        &mut self,
        current: &Current,
        mut image: SharedPages,
        mut candidates: RoaringBitmap,
        push: Push,
    ) -> Result<()> {
        let base_pages = self.state().base.pages;
        let mut base = self.base_image(current)?;
        let (change_id, pages) = (push.change_id, push.pages);
        candidates.remove_range(pages.min(base_pages).saturating_add(1)..);
        if pages > base_pages {
            candidates.insert_range(base_pages + 1..=pages);
        }
        let lock_page = self.page_size().lock_page();
        candidates.remove(lock_page.get());
        let size = self.page_size().bytes();
        let pushed = PushedPages::of(change_id);
        let mut unreadable = None;
        let done = self.sidecar.update(|db, state| {
            pushed.forget(db)?;
            let mut map = PageMap::new(db);
            let (mut before, mut now) = (vec![0; size], vec![0; size]);
            for pgno in candidates.iter().filter_map(Pgno::new) {
                before.fill(0);
                let in_base = pgno.get() <= base_pages;
                if !image.read(pgno, &mut now) {
                    unreadable = Some(pgno);
                    return Err(rusqlite::Error::QueryReturnedNoRows);
                }
                let hash = hash_of(pgno, &now);
                if in_base && map.get(pgno)? == Some(hash) {
                    continue;
                }
                if in_base && !base.read(pgno, &mut before) {
                    unreadable = Some(pgno);
                    return Err(rusqlite::Error::QueryReturnedNoRows);
                }
                pushed.put(db, pgno, &before, &now, hash)?;
            }
            state.change_id = change_id;
            state.attempt = Some(push);
            Ok(())
        });
        match (done, unreadable) {
            (Err(_), Some(pgno)) => Err(self.unreadable(pgno)),
            (done, _) => Ok(done?),
        }
    }

    /// Another copy of this one has pushed under its name: from now on it has one of its own.
    pub(crate) fn rename(&mut self) -> Result<()> {
        self.sidecar.update(|_, state| {
            state.client_id = State::new_client_id();
            Ok(())
        })?;
        Ok(())
    }

    /// Records what became of the open attempt.
    pub(crate) fn sent(&mut self, sent: Sent) -> Result<()> {
        self.sidecar.update(|db, state| {
            let Some(attempt) = state.attempt.take() else { return Ok(()) };
            let pushed = PushedPages::of(attempt.change_id);
            match sent {
                Sent::Applied => {
                    pushed.keep_only(db)?;
                    state.pushed = Some(attempt);
                    state.last_push = Some(now());
                }
                Sent::NotApplied => pushed.forget(db)?,
            }
            Ok(())
        })?;
        Ok(())
    }
}
