//! One image of a database, for as long as somebody reads it.

use std::fs::File;
use std::path::PathBuf;

use aquifer_format::{PageSize, Pgno};
use rustc_hash::FxHashMap;

use crate::handle::Handle;
use crate::wal::Ahead;
use crate::{Error, Result};

/// The image that a [`PinnedDatabase`](crate::PinnedDatabase) had handed out when this was taken, whatever is written
/// since.
///
/// Holds a read transaction at that place: as long as it lives, the WAL is not reset, and what follows the place is not
/// copied into the database file. So it should not live long while others write.
#[derive(Debug)]
pub struct View {
    pub(crate) handle: Handle,
    pub(crate) wal: Option<File>,
    pub(crate) wal_path: PathBuf,
    /// Newest frame of each page that is not in the database file.
    pub(crate) index: FxHashMap<u32, u32>,
    /// The last frame of the image.
    pub(crate) end: u32,
    pub(crate) ahead: Ahead,
    pub(crate) page_size: PageSize,
    pub(crate) pages: u32,
}

impl View {
    /// Size of its pages.
    pub fn page_size(&self) -> PageSize {
        self.page_size
    }

    /// Size of the database, in pages.
    pub fn pages(&self) -> u32 {
        self.pages
    }

    /// Fills `page`, which has the size of a page. Pages beyond the end are zeros.
    pub fn read(&mut self, pgno: Pgno, page: &mut [u8]) -> Result<()> {
        match (self.index.get(&pgno.get()), &self.wal) {
            (Some(&frame), Some(wal)) => self
                .ahead
                .read(wal, self.page_size, frame, self.end, page)
                .map_err(|source| Error::Io { path: self.wal_path.clone(), source }),
            _ => self.handle.read_page(pgno, page),
        }
    }
}
