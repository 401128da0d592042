//! Hashes of pages, and the checksum of a whole database made from them.

use std::fmt;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{PageSize, Pgno};

/// 64-bit hash of (pgno, page bytes): XXH3-64 of the page with its 1-based number as the seed.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageHash(u64);

impl PageHash {
    /// Hashes a page.
    #[inline]
    pub fn of(pgno: Pgno, page: &[u8]) -> PageHash {
        PageHash(xxh3_64_with_seed(page, u64::from(pgno.get())))
    }

    /// Hash of a page of zeros.
    pub fn of_zeros(pgno: Pgno, page_size: PageSize) -> PageHash {
        PageHash::of(pgno, page_size.zero_page())
    }

    /// From its number, as stored.
    pub const fn from_u64(hash: u64) -> PageHash {
        PageHash(hash)
    }

    /// As a number, to be stored.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Debug for PageHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Display for PageHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Checksum of a database: XOR of the hashes of all its pages (the lock-byte page excepted).
///
/// A changed page costs one XOR with its old and one with its new hash, so the checksum of a database of any
/// size is kept up to date for the price of the pages that change.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct DbChecksum(u64);

impl DbChecksum {
    /// The checksum of a database without pages.
    pub const EMPTY: DbChecksum = DbChecksum(0);

    /// From its number, as stored.
    pub const fn from_u64(sum: u64) -> DbChecksum {
        DbChecksum(sum)
    }

    /// As a number, to be stored.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Adds a page that was not there, or removes one that was: the same operation.
    #[inline]
    pub const fn toggle(&mut self, page: PageHash) {
        self.0 ^= page.0;
    }

    /// Replaces a page.
    #[inline]
    pub const fn replace(&mut self, old: PageHash, new: PageHash) {
        self.0 ^= old.0 ^ new.0;
    }

    /// Combines the checksums of two disjoint sets of pages.
    #[must_use]
    pub const fn combine(self, other: DbChecksum) -> DbChecksum {
        DbChecksum(self.0 ^ other.0)
    }
}

impl fmt::Debug for DbChecksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Display for DbChecksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

// Hexadecimal in JSON: a number of 64 bits does not survive every JSON reader.
impl Serialize for DbChecksum {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DbChecksum {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16).map(DbChecksum).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_bytes_on_another_page_hash_differently() {
        let page = [7u8; 512];
        assert_ne!(PageHash::of(Pgno::ONE, &page), PageHash::of(Pgno::ONE.next(), &page));
    }

    #[test]
    fn replacing_a_page_equals_summing_anew() {
        let [a, b, c] = [1, 2, 3].map(|n| PageHash::of(Pgno::from_index(n), &[n as u8; 512]));
        let mut sum = DbChecksum::EMPTY;
        sum.toggle(a);
        sum.toggle(b);
        sum.replace(b, c);
        let mut anew = DbChecksum::EMPTY;
        anew.toggle(c);
        anew.toggle(a);
        assert_eq!(sum, anew);
    }
}
