//! Entries that outlive the group they came from: what a fold of many segments keeps per page.

use super::diff::{encode_delta, encode_image};
use super::runs::Runs;
use super::{Entry, EntryKind, PageFold};
use crate::{PageHash, PageSize, Pgno};

/// An entry that owns its runs, and so takes the memory of what changed, not that of a page.
#[derive(Debug, Clone)]
pub struct OwnedEntry {
    kind: EntryKind,
    page_size: PageSize,
    hash: PageHash,
    runs: Box<[u8]>,
}

impl OwnedEntry {
    /// A copy of an entry.
    pub fn new(entry: &Entry<'_>) -> OwnedEntry {
        OwnedEntry {
            kind: entry.kind,
            page_size: entry.page_size(),
            hash: entry.hash,
            runs: entry.runs.encoded().into(),
        }
    }

    /// The entry, for the page that it was made of.
    pub fn entry(&self, pgno: Pgno) -> Entry<'_> {
        let runs = Runs::trusted(&self.runs, self.page_size);
        Entry { pgno, kind: self.kind, hash: self.hash, runs }
    }

    /// How to apply it.
    pub fn kind(&self) -> EntryKind {
        self.kind
    }

    /// Hash of the page's content after the newest entry folded into it.
    pub fn hash(&self) -> PageHash {
        self.hash
    }

    /// Bytes of its runs.
    pub fn encoded_len(&self) -> usize {
        self.runs.len()
    }

    /// Folds the entry of the range right after its own into it. `scratch` is overwritten.
    ///
    /// # Panics
    /// If entry or scratch are of another page size.
    pub fn push_newer(&mut self, newer: &Entry<'_>, scratch: &mut FoldScratch) {
        if newer.kind == EntryKind::Image {
            *self = OwnedEntry::new(newer);
            return;
        }
        let FoldScratch { fold, runs } = scratch;
        fold.clear();
        fold.push_newer(&self.entry(newer.pgno));
        fold.push_newer(newer);
        if let Some(folded) = fold.folded() {
            runs.clear();
            match folded.kind {
                EntryKind::Image => encode_image(folded.page, runs),
                EntryKind::Delta => encode_delta(self.page_size.zero_page(), folded.page, runs),
            }
            (self.kind, self.hash) = (folded.kind, folded.hash);
            self.runs = runs.as_slice().into();
        }
    }
}

/// Buffers to fold with.
#[derive(Debug)]
pub struct FoldScratch {
    fold: PageFold,
    runs: Vec<u8>,
}

impl FoldScratch {
    /// Buffers for pages of this size.
    pub fn new(page_size: PageSize) -> FoldScratch {
        FoldScratch { fold: PageFold::new(page_size), runs: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Contents of a page over time; `None` where the next one is told as an image.
    fn history() -> impl Strategy<Value = Vec<(bool, Vec<u8>)>> {
        let content = prop_oneof![
            Just(vec![0; 512]),
            proptest::collection::vec(any::<u8>(), 512),
            (0usize..512, any::<u8>()).prop_map(|(at, byte)| {
                let mut page = vec![7; 512];
                page[at] = byte;
                page
            }),
        ];
        proptest::collection::vec((any::<bool>(), content), 1..8)
    }

    proptest! {
        #[test]
        fn folding_owned_entries_gives_the_last_content(first in history(), cut in 0usize..8) {
            let mut before = vec![9; 512];
            let base = before.clone();
            let entries: Vec<OwnedEntry> = first.iter().map(|(image, page)| {
                let mut runs = Vec::new();
                let kind = if *image {
                    encode_image(page, &mut runs);
                    EntryKind::Image
                } else {
                    encode_delta(&before, page, &mut runs);
                    EntryKind::Delta
                };
                before.clone_from(page);
                let hash = PageHash::of(Pgno::ONE, page);
                OwnedEntry { kind, page_size: PageSize::MIN, hash, runs: runs.into() }
            }).collect();
            let mut scratch = FoldScratch::new(PageSize::MIN);
            // Folded in two halves, and these into one: the order of folding does not matter.
            let mut fold = |entries: &[OwnedEntry]| {
                entries.iter().cloned().reduce(|mut older, newer| {
                    older.push_newer(&newer.entry(Pgno::ONE), &mut scratch);
                    older
                })
            };
            let (older, newer) = entries.split_at(cut.min(entries.len()));
            let halves: Vec<_> = fold(older).into_iter().chain(fold(newer)).collect();
            let all = fold(&halves).unwrap();
            let mut page = base;
            all.entry(Pgno::ONE).apply(&mut page);
            prop_assert_eq!(&page, &before);
            prop_assert_eq!(PageHash::of(Pgno::ONE, &page), all.hash());
        }
    }
}
