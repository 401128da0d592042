//! How many frames each batch has, and which pages a reader lacks.
//!
//! A batch has as many frame numbers as pages that it changed; one that a client pushed has as many as the client
//! counted. Where others committed before such a batch was captured, its pages count a second time, for the pusher, who
//! knows nothing of theirs.
//!
//! # Why this is enough
//! Readers stand where batches end, or a pusher's own frames do. So from where a reader stands to the end there are at
//! least as many numbers as different pages changed: it can be given each of them, with its newest content, as one
//! transaction. Numbers that are left over are filled with pages that did not change. (They must be others: a client that
//! gets a page twice in a transaction keeps one frame of it, and miscounts from there on.)

use std::collections::BTreeSet;

use aquifer_format::{Pgno, Txid};
use aquifer_replicate::BatchPages;

/// The frames of a span. Numbers count from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SpanIndex {
    pub(super) number: u32,
    /// The txid that it begins after.
    pub(super) start: Txid,
    batches: Vec<Batch>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Batch {
    /// The number of its first frame.
    first: u32,
    /// How many frames it has.
    count: u32,
    /// How many of them were pushed, from the first on.
    pushed: u32,
    txid: Txid,
    pages: Vec<Pgno>,
}

impl Batch {
    fn last(&self) -> u32 {
        self.first.saturating_add(self.count) - 1
    }
}

impl SpanIndex {
    pub(super) fn new(number: u32, start: Txid) -> SpanIndex {
        SpanIndex { number, start, batches: Vec::new() }
    }

    /// The txid that it has reached.
    pub(super) fn end(&self) -> Txid {
        self.batches.last().map_or(self.start, |batch| batch.txid)
    }

    /// Adds the next batch. False if it is not the next one.
    pub(super) fn push(&mut self, batch: BatchPages) -> bool {
        if batch.txid != self.end().next() {
            return false;
        }
        let own = u32::try_from(batch.pages.len()).unwrap_or(u32::MAX).max(1);
        let count = match batch.frames {
            0 => own,
            pushed if batch.commits <= 1 && own <= pushed => pushed,
            pushed => pushed.saturating_add(own),
        };
        let first = self.frames().saturating_add(1);
        self.batches.push(Batch { first, count, pushed: batch.frames, txid: batch.txid, pages: batch.pages });
        true
    }

    /// How many frames there are.
    pub(super) fn frames(&self) -> u32 {
        self.batches.last().map_or(0, Batch::last)
    }

    /// How many frames there are up to a txid, inclusive.
    pub(super) fn frames_until(&self, txid: Txid) -> u32 {
        let until = self.batches.partition_point(|batch| batch.txid <= txid);
        self.batches[..until].last().map_or(0, Batch::last)
    }

    /// The txid after which there are exactly so many frames.
    pub(super) fn ends_at(&self, frame: u32) -> Option<Txid> {
        let at = self.batches.binary_search_by_key(&frame, Batch::last).ok()?;
        Some(self.batches[at].txid)
    }

    /// The pages that a reader lacks that has everything up to a frame, to have the image of a txid; perhaps some more.
    pub(super) fn lacking(&self, frame: u32, until: Txid) -> BTreeSet<Pgno> {
        let from = self.batches.partition_point(|batch| batch.last() <= frame);
        let batches = self.batches[from..].iter().take_while(|batch| batch.txid <= until);
        batches.flat_map(|batch| batch.pages.iter().copied()).collect()
    }

    /// The batch that begins with this frame and was pushed as so many.
    pub(super) fn pushed_at(&self, first: u32, count: u32) -> Option<Txid> {
        let at = self.batches.binary_search_by_key(&first, |batch| batch.first).ok()?;
        Some(&self.batches[at]).filter(|batch| batch.pushed == count).map(|batch| batch.txid)
    }

    /// Ends it with a txid. What came after goes into the next span.
    pub(super) fn split(&mut self, end: Txid) -> SpanIndex {
        let mut next = SpanIndex::new(self.number + 1, end);
        let rest = self.batches.split_off(self.batches.partition_point(|batch| batch.txid <= end));
        for batch in rest {
            let first = next.frames() + 1;
            next.batches.push(Batch { first, ..batch });
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn batch(txid: u64, frames: u32, commits: u32, pages: &[u32]) -> BatchPages {
        let pages = pages.iter().map(|page| Pgno::new(*page).unwrap()).collect();
        BatchPages { txid: Txid::new(txid), commits, frames, pages }
    }

    #[test]
    fn what_was_pushed_as_five_frames_has_five_numbers() {
        let mut index = SpanIndex::new(5, Txid::new(7));
        assert!(!index.push(batch(7, 0, 1, &[1])), "it is the one before");
        assert!(index.push(batch(8, 0, 1, &[1, 4])));
        assert!(index.push(batch(9, 5, 1, &[2, 3])));
        assert_eq!(index.frames(), 7);
        // Somebody else committed before it was captured: the pusher reads all of its pages.
        assert!(index.push(batch(10, 1, 2, &[2, 6])));
        assert!(!index.push(batch(12, 0, 1, &[1])), "one is missing");
        let until = |txid| index.frames_until(Txid::new(txid));
        assert_eq!((until(7), until(8), until(9), until(99)), (0, 2, 7, 10));
        let lacking = |index: &SpanIndex, frame, txid| -> Vec<u32> {
            index.lacking(frame, Txid::new(txid)).into_iter().map(Pgno::get).collect()
        };
        assert_eq!(lacking(&index, 0, 10), [1, 2, 3, 4, 6]);
        assert_eq!(lacking(&index, 2, 9), [2, 3]);
        assert_eq!(lacking(&index, 8, 10), [2, 6], "the pusher");
        assert!(lacking(&index, 10, 10).is_empty());
        assert_eq!((index.ends_at(7), index.ends_at(8)), (Some(Txid::new(9)), None));
        assert_eq!(index.pushed_at(3, 5), Some(Txid::new(9)));
        assert_eq!((index.pushed_at(3, 4), index.pushed_at(1, 2)), (None, None));
        let next = index.split(Txid::new(9));
        assert_eq!((next.frames(), next.number, next.start), (3, 6, Txid::new(9)));
        assert_eq!((lacking(&next, 0, 10), index.frames()), (vec![2, 6], 7));
    }

    proptest! {
        #[test]
        fn whoever_stands_at_the_end_of_a_batch_or_of_its_own_push_has_room_for_all_that_it_lacks(
            batches in prop::collection::vec((0u32..6, 1u32..3, prop::collection::btree_set(1u32..9, 0..5)), 1..30),
        ) {
            let mut index = SpanIndex::new(1, Txid::ZERO);
            let mut places = vec![0];
            for ((frames, commits, changed), txid) in batches.into_iter().zip(1u64..) {
                // A push has no fewer frames than pages, but for zeros that SQLite adds and others' commits.
                places.push(index.frames() + frames);
                let changed: Vec<u32> = changed.into_iter().collect();
                prop_assert!(index.push(batch(txid, frames, commits, &changed)));
                places.push(index.frames());
            }
            for place in places {
                for txid in 0..=index.end().get() {
                    let room = index.frames_until(Txid::new(txid)).saturating_sub(place);
                    prop_assert!(index.lacking(place, Txid::new(txid)).len() as u32 <= room);
                }
            }
        }
    }
}
