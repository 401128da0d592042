//! The images of a database that its sync has to do with, as pages.
//!
//! - [`Current`]: as it is now.
//! - [`BaseImage`]: what it is based on, the server's as last pulled.
//! - [`PushedImage`]: as it was when it was pushed last, while that has not come back.
//! - [`NewBase`]: what a pull makes of the base.

use std::sync::{Arc, Mutex, PoisonError};

use aquifer_format::{PageSize, Pgno};
use aquifer_sqlite::{ReadPages, View};
use roaring::RoaringBitmap;
use rusqlite::Connection;

use crate::pull::Incoming;
use crate::sidecar::{PreImages, PushedPages};

/// The database as it was at one place in its WAL, whatever is written since.
#[derive(Clone)]
pub(crate) struct Current(Arc<Mutex<View>>);

impl Current {
    pub(crate) fn new(view: View) -> Current {
        Current(Arc::new(Mutex::new(view)))
    }

    fn view(&self) -> std::sync::MutexGuard<'_, View> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReadPages for Current {
    fn page_size(&self) -> PageSize {
        self.view().page_size()
    }

    fn pages(&self) -> u32 {
        self.view().pages()
    }

    fn read(&mut self, pgno: Pgno, page: &mut [u8]) -> bool {
        done(self.view().read(pgno, page), pgno)
    }
}

/// The server's image as last pulled: pages that local work has changed are pre-images, all others are the current
/// ones.
pub(crate) struct BaseImage {
    pub(crate) current: Current,
    pub(crate) sidecar: Connection,
    pub(crate) changed: Arc<RoaringBitmap>,
    pub(crate) pre_images: PreImages,
    pub(crate) pages: u32,
}

impl ReadPages for BaseImage {
    fn page_size(&self) -> PageSize {
        self.current.page_size()
    }

    fn pages(&self) -> u32 {
        self.pages
    }

    fn read(&mut self, pgno: Pgno, page: &mut [u8]) -> bool {
        if pgno.get() > self.pages {
            return false;
        }
        if !self.changed.contains(pgno.get()) {
            return self.current.read(pgno, page);
        }
        // Nobody writes the page at the lock byte, and no server sends it.
        pgno == self.page_size().lock_page() || done(self.pre_images.read(&self.sidecar, pgno, page), pgno)
    }
}

/// The image that was pushed, over the base.
pub(crate) struct PushedImage {
    pub(crate) base: BaseImage,
    pub(crate) pushed: PushedPages,
    pub(crate) differing: RoaringBitmap,
    pub(crate) pages: u32,
}

impl ReadPages for PushedImage {
    fn page_size(&self) -> PageSize {
        self.base.page_size()
    }

    fn pages(&self) -> u32 {
        self.pages
    }

    fn read(&mut self, pgno: Pgno, page: &mut [u8]) -> bool {
        if pgno.get() > self.base.pages {
            page.fill(0);
        } else if !self.base.read(pgno, page) {
            return false;
        }
        !self.differing.contains(pgno.get()) || done(self.pushed.apply(&self.base.sidecar, pgno, page), pgno)
    }
}

/// Pages that several read.
#[derive(Clone)]
pub(crate) struct SharedPages(Arc<Mutex<Box<dyn ReadPages>>>);

impl SharedPages {
    pub(crate) fn new(pages: Box<dyn ReadPages>) -> SharedPages {
        SharedPages(Arc::new(Mutex::new(pages)))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Box<dyn ReadPages>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReadPages for SharedPages {
    fn page_size(&self) -> PageSize {
        self.lock().page_size()
    }

    fn pages(&self) -> u32 {
        self.lock().pages()
    }

    fn read(&mut self, pgno: Pgno, page: &mut [u8]) -> bool {
        self.lock().read(pgno, page)
    }
}

/// What a pull makes of the base.
pub(crate) struct NewBase {
    /// `None`: the pull replaces all of it.
    pub(crate) base: Option<BaseImage>,
    pub(crate) incoming: Arc<Incoming>,
}

impl ReadPages for NewBase {
    fn page_size(&self) -> PageSize {
        self.incoming.page_size()
    }

    fn pages(&self) -> u32 {
        self.incoming.pages()
    }

    fn read(&mut self, pgno: Pgno, page: &mut [u8]) -> bool {
        if pgno.get() > self.incoming.pages() {
            return false;
        }
        match self.incoming.read(pgno, page) {
            Ok(true) => return true,
            Ok(false) => {}
            Err(error) => {
                tracing::error!(%pgno, %error, "a page that was pulled cannot be read back");
                return false;
            }
        }
        match &mut self.base {
            Some(base) if pgno.get() <= base.pages => base.read(pgno, page),
            // Nobody ever wrote it.
            _ => {
                page.fill(0);
                true
            }
        }
    }
}

/// Whether a page was read; why not is for the log: who reads pages for SQLite cannot say more than no.
fn done(read: Result<impl Into<Outcome>, impl std::fmt::Display>, pgno: Pgno) -> bool {
    match read.map(Into::into) {
        Ok(Outcome(done)) => done,
        Err(error) => {
            tracing::error!(%pgno, %error, "a page cannot be read");
            false
        }
    }
}

struct Outcome(bool);

impl From<bool> for Outcome {
    fn from(done: bool) -> Outcome {
        Outcome(done)
    }
}

impl From<()> for Outcome {
    fn from((): ()) -> Outcome {
        Outcome(true)
    }
}
