//! What the segments after the base say, folded: one entry per page.

use std::collections::HashMap;
use std::collections::hash_map::Entry as MapEntry;

use aquifer_format::segment::{Entry, FoldScratch, OwnedEntry};
use aquifer_format::{PageSize, Pgno};

/// What a page in the overlay takes besides its runs: the map's slot, the allocation's header.
const OVERHEAD: usize = 96;

/// One entry per page of what adjacent segments say, oldest pushed first.
///
/// Folding is associative: segments may be folded in groups, by different threads, and these overlays into one.
#[derive(Debug)]
pub(crate) struct Overlay {
    pages: HashMap<Pgno, OverlayPage>,
    scratch: FoldScratch,
    bytes: usize,
}

/// What is known of one page.
#[derive(Debug)]
pub(crate) struct OverlayPage {
    /// All entries of the page in one.
    pub(crate) entry: OwnedEntry,
    /// Which of the segments, counted from 0, has the newest of them.
    pub(crate) newest: usize,
}

impl Overlay {
    pub(crate) fn new(page_size: PageSize) -> Overlay {
        Overlay { pages: HashMap::new(), scratch: FoldScratch::new(page_size), bytes: 0 }
    }

    /// Adds an entry of a segment that is not older than those pushed before.
    pub(crate) fn push(&mut self, entry: &Entry<'_>, segment: usize) {
        match self.pages.entry(entry.pgno) {
            MapEntry::Occupied(mut slot) => {
                let page = slot.get_mut();
                self.bytes -= page.entry.encoded_len();
                page.entry.push_newer(entry, &mut self.scratch);
                page.newest = segment;
                self.bytes += page.entry.encoded_len();
            }
            MapEntry::Vacant(slot) => {
                self.bytes += entry.encoded_len() + OVERHEAD;
                slot.insert(OverlayPage { entry: OwnedEntry::new(entry), newest: segment });
            }
        }
    }

    /// Adds all that segments after these say.
    pub(crate) fn absorb(&mut self, newer: Overlay) {
        if self.pages.is_empty() {
            *self = newer;
            return;
        }
        for (pgno, page) in newer.pages {
            match self.pages.entry(pgno) {
                MapEntry::Occupied(mut slot) => {
                    let known = slot.get_mut();
                    self.bytes -= known.entry.encoded_len();
                    known.entry.push_newer(&page.entry.entry(pgno), &mut self.scratch);
                    known.newest = page.newest;
                    self.bytes += known.entry.encoded_len();
                }
                MapEntry::Vacant(slot) => {
                    self.bytes += page.entry.encoded_len() + OVERHEAD;
                    slot.insert(page);
                }
            }
        }
    }

    /// Memory that it takes, in bytes, nearly.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The page in the middle of those that it holds: as many below as above.
    pub(crate) fn median(&self) -> Option<Pgno> {
        let mut pages: Vec<Pgno> = self.pages.keys().copied().collect();
        let middle = pages.len() / 2;
        (!pages.is_empty()).then(|| *pages.select_nth_unstable(middle).1)
    }

    /// Forgets the pages after `last`.
    pub(crate) fn truncate(&mut self, last: Pgno) {
        self.pages.retain(|pgno, _| *pgno <= last);
        self.pages.shrink_to_fit();
        self.bytes = self.pages.values().map(|page| page.entry.encoded_len() + OVERHEAD).sum();
    }

    /// Its pages, ascending.
    pub(crate) fn into_pages(self) -> OverlayPages {
        let mut pages: Vec<_> = self.pages.into_iter().collect();
        pages.sort_unstable_by_key(|(pgno, _)| *pgno);
        OverlayPages { pages }
    }
}

/// The pages of a finished overlay, ascending.
#[derive(Debug, Default)]
pub(crate) struct OverlayPages {
    pages: Vec<(Pgno, OverlayPage)>,
}

impl OverlayPages {
    /// Those from `first` on.
    pub(crate) fn from(&self, first: Pgno) -> &[(Pgno, OverlayPage)] {
        let start = self.pages.partition_point(|(pgno, _)| *pgno < first);
        &self.pages[start..]
    }
}

#[cfg(test)]
mod tests {
    use aquifer_format::segment::{CompressionLevel, SegmentBytes, SegmentEncoder, SegmentMeta};
    use aquifer_format::{DbChecksum, PageHash, Timestamp, Txid, TxidRange, WriterNonce};

    use super::*;

    fn segment(pages: &[u32]) -> Vec<u8> {
        let size = PageSize::MIN;
        let mut encoder = SegmentEncoder::new(size, CompressionLevel::NONE);
        for &pgno in pages {
            let pgno = Pgno::new(pgno).unwrap();
            let mut page = [0; 512];
            page[5..9].copy_from_slice(&pgno.get().to_le_bytes());
            encoder.push_delta(pgno, size.zero_page(), &page, PageHash::of(pgno, &page));
        }
        let meta = SegmentMeta {
            page_size: size,
            range: TxidRange::one(Txid::new(2)),
            size_before: 100,
            size_after: 100,
            checksum_before: DbChecksum::EMPTY,
            checksum_after: DbChecksum::EMPTY,
            commits: 1,
            frames: 0,
            first_commit: Timestamp::from_millis(0),
            last_commit: Timestamp::from_millis(0),
            writer: WriterNonce::random(),
        };
        encoder.finish(&meta).unwrap().tail
    }

    fn push(overlay: &mut Overlay, object: &[u8], number: usize) {
        let segment = SegmentBytes::parse(object).unwrap();
        let mut cursor = segment.entries();
        while let Some(entry) = cursor.next().unwrap() {
            overlay.push(&entry, number);
        }
    }

    #[test]
    fn cutting_at_the_median_halves_what_it_holds() {
        let mut overlay = Overlay::new(PageSize::MIN);
        push(&mut overlay, &segment(&(1..=80).collect::<Vec<_>>()), 0);
        let before = overlay.bytes();
        let median = overlay.median().unwrap();
        assert!((39..=42).contains(&median.get()), "{median}");
        overlay.truncate(median);
        assert!(overlay.bytes() <= before * 6 / 10);
        let pages = overlay.into_pages();
        let held: Vec<_> = pages.from(Pgno::new(38).unwrap()).iter().map(|(pgno, _)| *pgno).collect();
        assert_eq!(held.first().map(|p| p.get()), Some(38));
        assert_eq!(held.last(), Some(&median));
    }

    #[test]
    fn its_size_is_that_of_what_it_holds_whatever_was_folded() {
        let mut overlay = Overlay::new(PageSize::MIN);
        push(&mut overlay, &segment(&[3, 4, 5]), 0);
        // The same change again cancels out.
        let mut newer = Overlay::new(PageSize::MIN);
        push(&mut newer, &segment(&[4, 9]), 1);
        overlay.absorb(newer);
        let bytes = overlay.bytes();
        overlay.truncate(Pgno::new(100).unwrap());
        assert_eq!(overlay.bytes(), bytes);
        let pages = overlay.into_pages();
        let held: Vec<_> = pages.from(Pgno::ONE).iter().map(|(p, o)| (p.get(), o.newest)).collect();
        assert_eq!(held, [(3, 0), (4, 1), (5, 0), (9, 1)]);
        assert_eq!(pages.from(Pgno::ONE)[1].1.entry.encoded_len(), 0);
    }
}
