//! One image of a database, read page by page and by SQL.

use aquifer_format::PageSize;
use aquifer_sqlite::btree::Header;
use aquifer_sqlite::{ReadPages, open_pages};
use rusqlite::Connection;

use super::{Error, Result, Side};
use crate::image::SharedPages;

/// One image of a database.
#[derive(Clone)]
pub(super) struct Image {
    pub(super) side: Side,
    pages: SharedPages,
    /// `None`: it has no pages.
    pub(super) header: Option<Header>,
}

impl Image {
    pub(super) fn new(side: Side, pages: Box<dyn ReadPages>) -> Result<Image> {
        let mut pages = SharedPages::new(pages);
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

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Image").field("side", &self.side).finish_non_exhaustive()
    }
}
