//! Who wants to read the database's pages as of a revision.
//!
//! # The invariant
//! A view shows exactly the image of the revision that it comes with, and nobody gets one whose revision is not durable.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use aquifer_format::{PageSize, Pgno, Revision, Txid};
use aquifer_sqlite::View;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::Replica;
use crate::Result;
use crate::capture::Capture;

/// The pages of a durable revision, unchanged while this lives. May be shared by threads.
///
/// While it lives, the database's WAL is kept from being reset: it should not live long while others write, and is
/// given up where it does.
#[derive(Debug)]
pub struct RevisionView {
    revision: Revision,
    page_size: PageSize,
    pages: u32,
    /// `None`: given up.
    view: Mutex<Option<View>>,
}

impl RevisionView {
    /// Which revision this is.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Size of its pages.
    pub fn page_size(&self) -> PageSize {
        self.page_size
    }

    /// Size of the database, in pages.
    pub fn pages(&self) -> u32 {
        self.pages
    }

    /// Whether it was not given up.
    pub fn is_open(&self) -> bool {
        self.view.lock().is_some()
    }

    /// Fills `page`, which has the size of a page. Pages beyond the end are zeros. False if the view was given up, because
    /// the database's WAL has grown too large ([`WalLimits::viewed`](crate::capture::WalLimits::viewed)). Blocks.
    pub fn read(&self, pgno: Pgno, page: &mut [u8]) -> Result<bool> {
        match &mut *self.view.lock() {
            Some(view) => view.read(pgno, page).map(|()| true).map_err(Into::into),
            None => Ok(false),
        }
    }
}

/// Where a view goes.
pub(super) type Asked = oneshot::Sender<Result<Arc<RevisionView>>>;

#[derive(Debug, Default)]
pub(super) struct Views {
    asked: Vec<Asked>,
    /// The image that was captured last is only the pin's, until the next look.
    is_look_due: bool,
    /// Taken, and not durable yet; by txid, ascending.
    taken: VecDeque<(Arc<RevisionView>, Vec<Asked>)>,
    /// Those that may be open.
    open: Vec<Weak<RevisionView>>,
}

impl Views {
    pub(super) fn ask(&mut self, asked: Asked) {
        self.asked.push(asked);
    }

    /// Whether somebody waits for a view that can be taken.
    pub(super) fn are_due(&self) -> bool {
        !self.asked.is_empty() && !self.is_look_due
    }

    /// There was a look: the image is that of the pin, and of others.
    pub(super) fn were_looked_for(&mut self) {
        self.is_look_due = false;
    }

    /// Gives up all that are open: they hold the WAL.
    pub(super) fn give_up(&mut self) {
        for view in self.open.drain(..).filter_map(|open| open.upgrade()) {
            tracing::info!(revision = %view.revision, "a view is given up: the WAL has grown too large under it");
            *view.view.lock() = None;
        }
    }

    /// Gives away the views whose revisions are durable.
    fn answer(&mut self, durable: Txid) {
        while self.taken.front().is_some_and(|(view, _)| view.revision.txid <= durable) {
            if let Some((view, asked)) = self.taken.pop_front() {
                for asked in asked {
                    let _ = asked.send(Ok(Arc::clone(&view)));
                }
            }
        }
    }
}

impl Replica {
    /// Takes a view for those who ask, of what was captured last: if that is on its way to the store, they need not wait
    /// for more. Where only the pin has that image any more, a look is due first.
    pub(super) async fn take_view(&mut self) -> Result<()> {
        let Some(mut capture) = self.capture.take() else {
            self.want_look();
            return Ok(());
        };
        let is_settled = self.head.txid > Txid::ZERO && !capture.is_comparing();
        let (capture, view) = self
            .shared
            .workers
            .run(move || {
                let view = if is_settled { capture.view() } else { Ok(None) };
                (capture, view)
            })
            .await;
        self.capture = Some(capture);
        match view {
            Ok(Some(view)) => {
                let view = RevisionView {
                    revision: Revision { generation: self.head.generation, txid: self.head.txid },
                    page_size: view.page_size(),
                    pages: view.pages(),
                    view: Mutex::new(Some(view)),
                };
                let (view, asked) = (Arc::new(view), std::mem::take(&mut self.views.asked));
                self.views.open.retain(|open| open.strong_count() > 0);
                self.views.open.push(Arc::downgrade(&view));
                self.views.taken.push_back((view, asked));
            }
            Ok(None) => self.want_look(),
            Err(e) if e.is_transient() => self.want_look(),
            Err(e) => return Err(e),
        }
        Ok(())
    }

    fn want_look(&mut self) {
        self.views.is_look_due = true;
        self.dirty = true;
    }

    /// Tells all who wait that something is durable.
    pub(super) fn tell_durable(&mut self) {
        let durable = self.durable();
        if let Some(tracker) = &self.tracker {
            tracker.is_durable(durable);
        }
        self.syncs.answer(durable);
        if let Some(durable) = durable {
            self.views.answer(durable.txid);
            self.applies.answer(durable);
        }
    }
}

impl Capture {
    /// The image that was captured last; see [`aquifer_sqlite::PinnedDatabase::view`].
    fn view(&mut self) -> Result<Option<View>> {
        Ok(self.database_mut().view()?)
    }
}
