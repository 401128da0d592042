//! One image of a database, read page by page and by SQL.

use std::sync::{Arc, Mutex, PoisonError};

use aquifer_format::{PageSize, Pgno};
use aquifer_sqlite::btree::Header;
use aquifer_sqlite::{ReadPages, open_pages};
use rusqlite::Connection;

use super::{Error, Result, Side};

/// One image of a database.
#[derive(Clone)]
pub(super) struct Image {
    pub(super) side: Side,
    pages: Pages,
    /// `None`: it has no pages.
    pub(super) header: Option<Header>,
}

/// Pages that SQLite and the walks of the trees both read.
#[derive(Clone)]
struct Pages(Arc<Mutex<Box<dyn ReadPages>>>);

impl Image {
    pub(super) fn new(side: Side, pages: Box<dyn ReadPages>) -> Result<Image> {
        let mut pages = Pages(Arc::new(Mutex::new(pages)));
        let header = Header::read(&mut pages).map_err(|source| Error::Pages { side, source })?;
        Ok(Image { side, pages, header })
    }

    /// A connection that queries it; one to an empty database if it has no pages.
    pub(super) fn open(&self) -> Result<Connection> {
        let opened = match self.header {
            Some(_) => open_pages(Box::new(self.pages.clone())).map(|(connection, _)| connection),
            None => Connection::open_in_memory(),
        };
        opened.map_err(|source| Error::Sqlite { side: self.side, source })
    }

    /// Does something with its pages.
    pub(super) fn with<T>(
        &mut self,
        read: impl FnOnce(&mut dyn ReadPages) -> Result<T, aquifer_sqlite::btree::BTreeError>,
    ) -> Result<T> {
        let side = self.side;
        read(&mut self.pages).map_err(|source| Error::Pages { side, source })
    }

    pub(super) fn page_size(&self) -> PageSize {
        self.pages.page_size()
    }

    pub(super) fn pages(&self) -> u32 {
        self.pages.pages()
    }
}

impl Pages {
    fn lock(&self) -> std::sync::MutexGuard<'_, Box<dyn ReadPages>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReadPages for Pages {
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

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Image").field("side", &self.side).finish_non_exhaustive()
    }
}
