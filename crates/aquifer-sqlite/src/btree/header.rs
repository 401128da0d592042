//! The first 100 bytes of a database.

use aquifer_format::{PageSize, Pgno};

use super::{BTreeError, pgno_at, read_page, u32_at};
use crate::ReadPages;

/// Bytes of the header: page 1's b-tree begins behind it.
pub(super) const HEADER: usize = 100;

/// What the database's header says of all its pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Bytes of a page that SQLite uses; the rest, at its end, is reserved for extensions.
    pub usable: usize,
    /// How text is encoded.
    pub encoding: Encoding,
    /// The application's own number, of PRAGMA `user_version`.
    pub user_version: i32,
    /// What says that a file is an application's, of PRAGMA `application_id`.
    pub application_id: i32,
    /// The first trunk page of the freelist.
    pub(super) first_trunk: Option<Pgno>,
}

/// How a database encodes text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// UTF-8.
    Utf8,
    /// UTF-16, little-endian.
    Utf16Le,
    /// UTF-16, big-endian.
    Utf16Be,
}

impl Header {
    /// Reads page 1; `None` for a database without pages.
    pub fn read(pages: &mut dyn ReadPages) -> Result<Option<Header>, BTreeError> {
        let size = pages.page_size();
        if pages.pages() == 0 {
            return Ok(None);
        }
        let page = read_page(pages, Pgno::ONE, Pgno::ONE)?;
        Header::parse(&page, size).map(Some).map_err(|reason| BTreeError::damaged(Pgno::ONE, reason))
    }

    fn parse(page: &[u8], size: PageSize) -> Result<Header, &'static str> {
        if !page.starts_with(b"SQLite format 3\0") {
            return Err("it is not the first page of an SQLite database");
        }
        // 1 stands for 65,536.
        let written = match u32::from(page[16]) << 8 | u32::from(page[17]) {
            1 => 65_536,
            bytes => bytes,
        };
        if written != size.get() {
            return Err("it names another page size");
        }
        let usable = size.bytes() - usize::from(page[20]);
        // SQLite's own limit: four cells must fit.
        if usable < 480 {
            return Err("it reserves too much of each page");
        }
        let encoding = match u32_at(page, 56) {
            // 0: nothing has been written yet.
            Some(0 | 1) => Encoding::Utf8,
            Some(2) => Encoding::Utf16Le,
            Some(3) => Encoding::Utf16Be,
            _ => return Err("it names an unknown text encoding"),
        };
        let number = |at| u32_at(page, at).unwrap_or_default().cast_signed();
        let (user_version, application_id) = (number(60), number(68));
        Ok(Header { usable, encoding, user_version, application_id, first_trunk: pgno_at(page, 32) })
    }
}
