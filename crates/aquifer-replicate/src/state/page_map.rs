//! pgno -> hash of the page in the image that was last made durable.

use aquifer_format::{DbChecksum, PageHash, PageSize, Pgno};

/// Hashes of all pages of an image, and the image's checksum.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PageMap {
    hashes: Vec<u64>,
    checksum: DbChecksum,
    lock_page: Pgno,
}

impl PageMap {
    /// The map of the empty database.
    pub fn empty(page_size: PageSize) -> PageMap {
        PageMap { hashes: Vec::new(), checksum: DbChecksum::EMPTY, lock_page: page_size.lock_page() }
    }

    /// From the hashes of pages 1 to n (that of the lock-byte page is ignored).
    pub fn from_hashes(page_size: PageSize, hashes: Vec<u64>) -> PageMap {
        let mut map = PageMap { hashes, checksum: DbChecksum::EMPTY, lock_page: page_size.lock_page() };
        for (index, &hash) in map.hashes.iter().enumerate() {
            if index != map.lock_page.index() {
                map.checksum.toggle(PageHash::from_u64(hash));
            }
        }
        map
    }

    /// Pages of the image.
    pub fn pages(&self) -> u32 {
        self.hashes.len() as u32
    }

    /// Checksum of the image.
    pub fn checksum(&self) -> DbChecksum {
        self.checksum
    }

    /// Hash of a page, or `None` if the image does not have it.
    #[inline]
    pub fn get(&self, pgno: Pgno) -> Option<PageHash> {
        self.hashes.get(pgno.index()).copied().map(PageHash::from_u64)
    }

    /// The hashes of pages 1 to n, as numbers.
    pub fn hashes(&self) -> &[u64] {
        &self.hashes
    }

    /// Applies what a batch changed: the image now has `pages` pages, and each of `changes` its new hash.
    ///
    /// Pages that the image gained must be among the changes.
    pub fn apply(&mut self, pages: u32, changes: impl IntoIterator<Item = (Pgno, PageHash)>) {
        let pages = pages as usize;
        for index in pages..self.hashes.len() {
            if index != self.lock_page.index() {
                self.checksum.toggle(PageHash::from_u64(self.hashes[index]));
            }
        }
        self.hashes.truncate(pages);
        let known = self.hashes.len();
        self.hashes.resize(pages, 0);
        for (pgno, hash) in changes {
            if pgno == self.lock_page || pgno.index() >= pages {
                continue;
            }
            let slot = &mut self.hashes[pgno.index()];
            if pgno.index() < known {
                self.checksum.toggle(PageHash::from_u64(*slot));
            }
            self.checksum.toggle(hash);
            *slot = hash.get();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(n: u64) -> PageHash {
        PageHash::from_u64(n)
    }

    proptest::proptest! {
        #[test]
        fn the_checksum_kept_up_to_date_is_that_of_the_hashes(
            batches in proptest::collection::vec((1u32..40, proptest::collection::btree_map(0u32..40, 1u64.., 0..10)), 1..20)
        ) {
            let mut map = PageMap::empty(PageSize::MIN);
            for (pages, mut changes) in batches {
                for new in map.pages()..pages {
                    changes.entry(new).or_insert(7);
                }
                map.apply(pages, changes.into_iter().map(|(index, h)| (Pgno::from_index(index), hash(h))));
                let anew = PageMap::from_hashes(PageSize::MIN, map.hashes().to_vec());
                proptest::prop_assert_eq!(&anew, &map);
                proptest::prop_assert_eq!(map.pages(), pages);
            }
        }
    }
}
