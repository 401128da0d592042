//! Pages: their numbers and their size.

use std::fmt;
use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

/// Offset in the database file of the byte that SQLite locks (1 GiB). The page that holds it is never
/// written by SQLite and never stored by Aquifer. Source: sqlite.org/fileformat2.html, "The Lock-Byte Page".
const LOCK_BYTE: u64 = 1 << 30;

/// Number of a page of a database, 1-based as in SQLite.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pgno(NonZeroU32);

impl Pgno {
    /// The first page, which holds the database header.
    pub const ONE: Pgno = Pgno(NonZeroU32::MIN);

    /// The page of this 1-based number, or `None` for 0.
    pub const fn new(n: u32) -> Option<Pgno> {
        match NonZeroU32::new(n) {
            Some(n) => Some(Pgno(n)),
            None => None,
        }
    }

    /// The page at this 0-based position.
    ///
    /// # Panics
    /// For `u32::MAX`, which no database reaches (SQLite's limit is 2^32 - 2 pages).
    pub fn from_index(index: u32) -> Pgno {
        Pgno::new(index + 1).expect("0-based page index below u32::MAX")
    }

    /// The 1-based number.
    pub const fn get(self) -> u32 {
        self.0.get()
    }

    /// The 0-based position, for arrays.
    pub const fn index(self) -> usize {
        self.0.get() as usize - 1
    }

    /// The page after this one.
    #[must_use]
    pub fn next(self) -> Pgno {
        Pgno(self.0.saturating_add(1))
    }

    /// Pages 1 to `count`, both inclusive.
    pub fn up_to(count: u32) -> impl DoubleEndedIterator<Item = Pgno> + ExactSizeIterator {
        (0..count).map(Pgno::from_index)
    }
}

impl fmt::Debug for Pgno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "page {}", self.0)
    }
}

impl fmt::Display for Pgno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Size of a database's pages in bytes: a power of two from 512 to 65,536.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct PageSize(u32);

impl PageSize {
    /// The smallest page SQLite knows.
    pub const MIN: PageSize = PageSize(512);
    /// The largest page SQLite knows.
    pub const MAX: PageSize = PageSize(65_536);
    /// SQLite's default.
    pub const DEFAULT: PageSize = PageSize(4096);

    /// Checks that `bytes` is a page size that SQLite knows.
    pub const fn new(bytes: u32) -> Result<PageSize, PageSizeError> {
        if bytes.is_power_of_two() && bytes >= Self::MIN.0 && bytes <= Self::MAX.0 {
            Ok(PageSize(bytes))
        } else {
            Err(PageSizeError(bytes))
        }
    }

    /// Bytes of a page.
    pub const fn bytes(self) -> usize {
        self.0 as usize
    }

    /// Bytes of a page.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Base-2 logarithm of the size (9 to 16), as segments store it.
    pub const fn log2(self) -> u8 {
        self.0.trailing_zeros() as u8
    }

    /// The inverse of [`PageSize::log2`].
    pub const fn from_log2(log2: u8) -> Result<PageSize, PageSizeError> {
        if log2 < 32 { Self::new(1 << log2) } else { Err(PageSizeError(0)) }
    }

    /// Offset of a page in the database file, in bytes.
    pub const fn offset(self, pgno: Pgno) -> u64 {
        (pgno.get() as u64 - 1) * self.0 as u64
    }

    /// A page of zeros.
    pub fn zero_page(self) -> &'static [u8] {
        static ZEROS: [u8; PageSize::MAX.bytes()] = [0; PageSize::MAX.bytes()];
        &ZEROS[..self.bytes()]
    }

    /// The page that holds SQLite's lock byte: never stored, zeros in a restored file.
    pub const fn lock_page(self) -> Pgno {
        match Pgno::new((LOCK_BYTE / self.0 as u64) as u32 + 1) {
            Some(p) => p,
            None => unreachable!(),
        }
    }
}

impl fmt::Debug for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Display for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl TryFrom<u32> for PageSize {
    type Error = PageSizeError;
    fn try_from(bytes: u32) -> Result<PageSize, PageSizeError> {
        PageSize::new(bytes)
    }
}

impl From<PageSize> for u32 {
    fn from(size: PageSize) -> u32 {
        size.0
    }
}

/// Not a page size that SQLite knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no SQLite page size (a power of two from 512 to 65536)")]
pub struct PageSizeError(pub u32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_page_is_where_sqlite_says() {
        assert_eq!(PageSize::DEFAULT.lock_page().get(), 262_145);
        assert_eq!(PageSize::MAX.lock_page().get(), 16_385);
        assert_eq!(PageSize::DEFAULT.offset(PageSize::DEFAULT.lock_page()), 1 << 30);
    }

    #[test]
    fn only_sqlites_page_sizes_are_accepted() {
        for log2 in 0..=255u8 {
            assert_eq!(PageSize::from_log2(log2).is_ok(), (9..=16).contains(&log2), "{log2}");
        }
        assert_eq!(PageSize::new(4095), Err(PageSizeError(4095)));
    }
}
