//! Which revisions of a generation can be told apart, and what leads from one to the next.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use aquifer_format::segment::{EntryKind, GroupScratch, SegmentMeta};
use aquifer_format::{DbChecksum, PageHash, Revision, Txid};
use aquifer_log::store::Key;
use aquifer_log::{DatabaseStore, Level, LogError, PlanError, SegmentHandle, SegmentKey};
use aquifer_replicate::restore::RestoreError;
use futures::TryStreamExt;
use rustc_hash::FxHashMap;

use super::ltx::LtxWriter;
use crate::error::{MigrateError, Result};

/// Bytes fetched of a segment at a time.
const PIECE: u64 = 1 << 20;

/// The oldest txid that leads to a revision, and the smallest segments from there.
pub(super) async fn oldest(database: &DatabaseStore, to: Revision) -> Result<(Txid, Vec<SegmentKey>)> {
    let Revision { generation, txid: target } = to;
    let (mut bases, mut segments) = (Vec::new(), Vec::new());
    for level in database.levels(generation).await? {
        let mut listing = database.segments(generation, level, Txid::ZERO);
        while let Some(found) = listing.try_next().await.map_err(LogError::from)? {
            if found.segment.range.first == Txid::FIRST {
                bases.push(found.segment.range.last);
            }
            if level != Level::Snapshot {
                segments.push(found.segment);
            }
        }
    }
    Ok(longest(bases, segments, target))
}

/// The first of the bases from which the target can be reached, and the way there in the smallest steps; of a target that none
/// leads to in steps, itself.
fn longest(mut bases: Vec<Txid>, segments: Vec<SegmentKey>, target: Txid) -> (Txid, Vec<SegmentKey>) {
    let (next, mut way) = (steps(segments, target), Vec::new());
    bases.sort_unstable();
    let base = bases.into_iter().find(|base| next.contains_key(base)).unwrap_or(target);
    let mut at = base;
    while let Some(step) = next.get(&at) {
        at = step.range.last;
        way.push(*step);
    }
    (base, way)
}

/// By the txid that it goes on from: the smallest segment that the target can be reached by.
fn steps(mut segments: Vec<SegmentKey>, target: Txid) -> FxHashMap<Txid, SegmentKey> {
    // What a segment leads to has been looked at before it.
    segments.sort_unstable_by_key(|segment| std::cmp::Reverse((segment.range.first, segment.range.last)));
    let mut next = FxHashMap::default();
    for segment in segments {
        if segment.range.last == target || next.contains_key(&segment.range.last) {
            next.insert(segment.range.first.previous(), segment);
        }
    }
    next
}

/// A database as of a revision, in a file that is brought to later ones.
pub(super) struct Moving<'a> {
    pub(super) file: &'a File,
    pub(super) path: &'a Path,
    /// The segment that led to it.
    pub(super) last: Key,
    /// Where the last segment led.
    pub(super) end: (u32, DbChecksum),
}

impl Moving<'_> {
    /// Goes on by a segment, whose pages are given to `ltx`.
    pub(super) fn apply(&mut self, handle: &SegmentHandle, ltx: &mut LtxWriter<'_>) -> Result<()> {
        let meta: &SegmentMeta = handle.info().meta();
        let start = (meta.size_before, meta.checksum_before);
        if start != self.end {
            let (older, newer) = (self.last.clone(), handle.key().clone());
            let gap = PlanError::Discontinuous { older, newer, end: self.end, start };
            return Err(RestoreError::from(gap).into());
        }
        let (mut page, mut scratch) = (vec![0; meta.page_size.bytes()], GroupScratch::new());
        for piece in handle.pieces(0..handle.info().groups().len(), PIECE) {
            let fetched = handle.fetch_blocking(piece.clone())?;
            for number in piece {
                let group = fetched.decode(number, &mut scratch)?;
                for entry in group.entries() {
                    let at = meta.page_size.offset(entry.pgno);
                    if entry.kind == EntryKind::Delta {
                        let read = self.file.read_exact_at(&mut page, at);
                        read.map_err(|e| MigrateError::io("read", self.path, e))?;
                    }
                    entry.apply(&mut page);
                    let found = PageHash::of(entry.pgno, &page);
                    if found != entry.hash {
                        let (pgno, expected) = (entry.pgno, entry.hash);
                        let (base, newest) = (self.last.clone(), handle.key().clone());
                        return Err(RestoreError::Page { pgno, base, newest, expected, found }.into());
                    }
                    let written = self.file.write_all_at(&page, at);
                    written.map_err(|e| MigrateError::io("write", self.path, e))?;
                    ltx.page(entry.pgno, &page)?;
                }
                scratch.recycle(group);
            }
        }
        // What lies beyond its end is not read again: pages that come back are whole in the segment that brings them.
        self.end = (meta.size_after, meta.checksum_after);
        self.last = handle.key().clone();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use aquifer_format::TxidRange;

    use super::*;

    fn segment(level: u8, first: u64, last: u64) -> SegmentKey {
        let range = TxidRange { first: Txid::new(first), last: Txid::new(last) };
        SegmentKey { level: Level::number(level), range }
    }

    fn way(bases: &[u64], segments: &[(u8, u64, u64)], target: u64) -> (u64, Vec<(u64, u64)>) {
        let bases = bases.iter().map(|base| Txid::new(*base)).collect();
        let segments = segments.iter().map(|(level, first, last)| segment(*level, *first, *last)).collect();
        let (base, way) = longest(bases, segments, Txid::new(target));
        let range = |segment: &SegmentKey| (segment.range.first.get(), segment.range.last.get());
        (base.get(), way.iter().map(range).collect())
    }

    #[test]
    fn the_way_begins_as_early_and_goes_in_steps_as_small_as_it_can() {
        let shipped = [(0, 1, 1), (0, 2, 2), (0, 3, 3), (0, 4, 4), (0, 5, 5)];
        assert_eq!(way(&[4, 1], &shipped, 3), (1, vec![(2, 2), (3, 3)]));
        assert_eq!(way(&[4, 1], &shipped, 1), (1, vec![]));
        // Of a smaller step that leads nowhere nothing is made.
        let gone = [(0, 1, 1), (0, 2, 2), (0, 3, 3), (1, 2, 3), (1, 4, 5), (0, 4, 4), (0, 6, 6)];
        assert_eq!(way(&[1], &gone, 6), (1, vec![(2, 2), (3, 3), (4, 5), (6, 6)]));
        // What was before a gap leads nowhere.
        let gap = [(0, 1, 1), (0, 2, 2), (0, 5, 5), (0, 6, 6)];
        assert_eq!(way(&[1, 5, 4], &gap, 6), (4, vec![(5, 5), (6, 6)]));
        assert_eq!(way(&[1], &gap, 6), (6, vec![]));
    }
}
