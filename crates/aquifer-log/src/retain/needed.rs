//! Which segments the restores that must work need. No I/O.

use std::collections::{BTreeSet, HashSet};

use aquifer_format::Txid;

use super::inventory::Inventory;
use crate::database::ListedSegment;
use crate::layout::{Level, SegmentKey};
use crate::plan::way;

/// What of a generation must stay restorable.
#[derive(Debug, Default)]
pub(super) struct Roots {
    /// This txid, and all after it; 0 for everything.
    pub(super) from: Option<Txid>,
    /// These, which others forked from.
    pub(super) pinned: BTreeSet<Txid>,
    /// The level-0 segments after this, for those who count frames.
    pub(super) shipped_after: Option<Txid>,
    /// The last level-0 segment: a writer that comes back looks for the last txid there.
    pub(super) head: bool,
}

impl Roots {
    pub(super) fn is_empty(&self) -> bool {
        self.from.is_none() && self.pinned.is_empty()
    }
}

/// The segments that must stay.
#[derive(Debug, Default)]
pub(super) struct Needed {
    pub(super) segments: HashSet<SegmentKey>,
    /// Whether some of it is restored from the generation's beginning, and so, in one that forked, through what
    /// it forked from.
    pub(super) from_the_start: bool,
    /// The oldest txid that must stay restorable.
    pub(super) oldest: Option<Txid>,
}

impl Needed {
    pub(super) fn of(inventory: &Inventory, roots: &Roots) -> Needed {
        let mut needed = Needed::default();
        for &txid in &roots.pinned {
            needed.keep_way(inventory, txid);
        }
        match roots.from {
            Some(Txid::ZERO) => {
                needed.keep_all_after(inventory, Txid::ZERO);
                needed.from_the_start |= inventory
                    .all()
                    .any(|s| s.segment.level != Level::Snapshot && s.segment.range.first == Txid::FIRST);
            }
            Some(txid) => {
                let base = needed.keep_way(inventory, txid);
                needed.keep_ways_past(inventory, base, txid);
            }
            None => {}
        }
        needed.oldest = roots.pinned.first().copied().into_iter().chain(roots.from).min();
        if needed.oldest == Some(Txid::ZERO) {
            needed.oldest = inventory.all().map(|s| s.segment.range.last).min();
        }
        if let Some(after) = roots.shipped_after {
            let shipped = inventory.segments.get(&Level::Shipped).into_iter().flatten();
            needed.segments.extend(shipped.filter(|s| s.segment.range.first > after).map(|s| s.segment));
        }
        if roots.head {
            let shipped = inventory.segments.get(&Level::Shipped);
            needed.segments.extend(shipped.and_then(|s| s.last()).map(|s| s.segment));
        }
        needed
    }

    /// Keeps what leads to a txid; tells from where.
    fn keep_way(&mut self, inventory: &Inventory, txid: Txid) -> Txid {
        let base = inventory.snapshots().iter().rev().find(|s| s.segment.range.last <= txid);
        let from = base.map_or(Txid::ZERO, |s| s.segment.range.last);
        self.segments.extend(base.map(|s| s.segment));
        self.from_the_start |= base.is_none();
        if let Some(way) = way(inventory.large_to_small(), from, txid) {
            self.segments.extend(way.iter().map(|s| s.segment));
        } else {
            // Something is missing, and is not made better by deleting more.
            self.keep_all_after(inventory, from);
        }
        from
    }

    /// Keeps everything that goes beyond a txid on a way from `base`, and the way to where it starts: a restore
    /// may have planned to go there, and not by way of this txid.
    fn keep_ways_past(&mut self, inventory: &Inventory, base: Txid, txid: Txid) {
        for listed in inventory.all().filter(|s| s.segment.range.last > txid) {
            let first = listed.segment.range.first;
            if listed.segment.level == Level::Snapshot {
                self.segments.insert(listed.segment);
            } else if first > base {
                self.segments.insert(listed.segment);
                if first <= txid {
                    let way = way(inventory.large_to_small(), base, first.previous());
                    self.segments.extend(way.iter().flatten().map(|s| s.segment));
                }
            }
        }
        let snapshots = inventory.snapshots().iter().filter(|s| s.segment.range.last > base);
        self.segments.extend(snapshots.map(|s| s.segment));
    }

    fn keep_all_after(&mut self, inventory: &Inventory, from: Txid) {
        let keeps = |s: &&ListedSegment| s.segment.range.last > from;
        self.segments.extend(inventory.all().filter(keeps).map(|s| s.segment));
    }
}
