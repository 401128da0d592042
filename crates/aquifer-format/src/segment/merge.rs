//! Compacting segments that fit into memory, page by page.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::{
    CompressionLevel, EncodeError, Finished, FormatError, PageFold, SegmentBytes, SegmentEncoder, SegmentMeta,
};
use crate::{DbChecksum, TxidRange};

/// Why segments could not be merged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// There is nothing to merge.
    #[error("no segments to merge")]
    Nothing,
    /// The second does not start where the first ends: another txid, size or content of the database.
    #[error(
        "the segment of txids {} ends with {} pages of checksum {}, that of txids {} starts with {} of {}: not adjacent",
        older.range, older.size_after, older.checksum_after, newer.range, newer.size_before, newer.checksum_before
    )]
    NotAdjacent {
        /// The segment that comes before.
        older: Box<SegmentMeta>,
        /// The segment that should start where `older` ends.
        newer: Box<SegmentMeta>,
    },
    /// An input is damaged.
    #[error("the segment of txids {range}: {source}")]
    Input {
        /// Which.
        range: TxidRange,
        /// What is wrong with it.
        source: FormatError,
    },
    /// The inputs do not hold what their trailers say.
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

impl SegmentMeta {
    /// What a segment is about that covers this range and the one right after it.
    pub fn then(&self, newer: &SegmentMeta) -> Result<SegmentMeta, MergeError> {
        let end = (self.page_size, self.size_after, self.checksum_after);
        let start = (newer.page_size, newer.size_before, newer.checksum_before);
        if end != start || !self.range.is_followed_by(newer.range) {
            let (older, newer) = (Box::new(self.clone()), Box::new(newer.clone()));
            return Err(MergeError::NotAdjacent { older, newer });
        }
        Ok(SegmentMeta {
            page_size: self.page_size,
            range: TxidRange { first: self.range.first, last: newer.range.last },
            size_before: self.size_before,
            size_after: newer.size_after,
            checksum_before: self.checksum_before,
            checksum_after: newer.checksum_after,
            commits: self.commits.saturating_add(newer.commits),
            frames: 0,
            first_commit: self.first_commit,
            last_commit: newer.last_commit,
            writer: newer.writer,
        })
    }

    /// Whether the range starts from the empty database.
    pub fn starts_empty(&self) -> bool {
        self.size_before == 0 && self.checksum_before == DbChecksum::EMPTY
    }
}

/// Merges adjacent segments, oldest first, into one that says the same as all of them: its whole object is
/// [`Finished::tail`].
///
/// Memory: the result, and a group of each input. Each input is verified as a whole on the way.
pub fn merge(segments: &[SegmentBytes<'_>], level: CompressionLevel) -> Result<Finished, MergeError> {
    let (first, rest) = segments.split_first().ok_or(MergeError::Nothing)?;
    let meta =
        rest.iter().try_fold(first.info().meta().clone(), |meta, newer| meta.then(newer.info().meta()))?;
    let failed = |i: usize, source| MergeError::Input { range: segments[i].info().meta().range, source };

    let mut cursors: Vec<_> = segments.iter().map(SegmentBytes::entries).collect();
    // By page, then from the oldest input to the newest.
    let mut heap = BinaryHeap::new();
    for (i, cursor) in cursors.iter_mut().enumerate() {
        if let Some(entry) = cursor.next().map_err(|e| failed(i, e))? {
            heap.push(Reverse((entry.pgno, i)));
        }
    }
    let mut encoder = SegmentEncoder::new(meta.page_size, level);
    let mut fold = PageFold::new(meta.page_size);
    while let Some(Reverse((pgno, i))) = heap.pop() {
        let stays = pgno.get() <= meta.size_after;
        let same_page =
            |heap: &BinaryHeap<Reverse<_>>| matches!(heap.peek(), Some(Reverse((p, _))) if *p == pgno);
        if let Some(entry) = cursors[i].current().filter(|_| stays) {
            if same_page(&heap) || !fold.is_empty() {
                fold.push_newer(&entry);
            } else {
                encoder.push_entry(&entry);
            }
        }
        if !same_page(&heap) {
            if let Some(folded) = fold.folded() {
                encoder.push_folded(pgno, &folded);
            }
            fold.clear();
        }
        if let Some(entry) = cursors[i].next().map_err(|e| failed(i, e))? {
            heap.push(Reverse((entry.pgno, i)));
        }
    }
    Ok(encoder.finish(&meta)?)
}
