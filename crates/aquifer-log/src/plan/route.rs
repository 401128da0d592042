//! The fewest adjacent segments that lead from one txid to another.

use std::collections::BTreeMap;

use aquifer_format::Txid;

use crate::database::ListedSegment;

/// The way from one txid to another that a plan takes over these segments, which are given by level: fewer large
/// ones come before what is best by number, as a plan does not even list small ones that large ones cover.
pub(crate) fn way<'a>(
    levels: impl Iterator<Item = &'a [ListedSegment]> + Clone,
    from: Txid,
    to: Txid,
) -> Option<Vec<ListedSegment>> {
    let fits = |reached: Txid| {
        move |s: &&ListedSegment| s.segment.range.first > reached && s.segment.range.last <= to
    };
    let mut routes = Routes::new(from, Vec::new());
    for level in levels.clone() {
        let reached = routes.furthest();
        if reached == to {
            break;
        }
        let mut segments = routes.into_segments();
        segments.extend(level.iter().filter(fits(reached)));
        routes = Routes::new(from, segments);
    }
    routes.to(to).or_else(|| Routes::new(from, levels.flatten().filter(fits(from)).copied().collect()).to(to))
}

/// What can be reached from a txid over adjacent segments, and how.
///
/// Segments must fit exactly, end to start: differences that overlap would undo each other.
#[derive(Debug)]
pub(crate) struct Routes {
    from: Txid,
    segments: Vec<ListedSegment>,
    /// By the txid reached.
    best: BTreeMap<Txid, Best>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Best {
    steps: usize,
    bytes: u64,
    /// Position in `segments` of the last step; `None` where the way starts.
    step: Option<usize>,
}

impl Routes {
    /// All ways from `from` over these segments.
    pub(crate) fn new(from: Txid, mut segments: Vec<ListedSegment>) -> Routes {
        // Whatever ends before a segment starts also starts before it, so its best way is known by then.
        segments.sort_by_key(|s| (s.segment.range.first, s.segment.range.last));
        let mut best = BTreeMap::from([(from, Best { steps: 0, bytes: 0, step: None })]);
        for (i, listed) in segments.iter().enumerate() {
            let range = listed.segment.range;
            let Some(until) = best.get(&range.first.previous()).copied() else { continue };
            let way = Best { steps: until.steps + 1, bytes: until.bytes + listed.len, step: Some(i) };
            best.entry(range.last).and_modify(|known| *known = way.min(*known)).or_insert(way);
        }
        Routes { from, segments, best }
    }

    /// Where all ways start.
    pub(crate) fn from(&self) -> Txid {
        self.from
    }

    /// The last txid that can be reached.
    pub(crate) fn furthest(&self) -> Txid {
        self.best.last_key_value().map_or(self.from, |(txid, _)| *txid)
    }

    /// The fewest segments that lead to `txid`, and of several such ways that of the fewest bytes; oldest first.
    pub(crate) fn to(&self, txid: Txid) -> Option<Vec<ListedSegment>> {
        let mut way = Vec::new();
        let mut at = self.best.get(&txid)?;
        while let Some(step) = at.step {
            let listed = self.segments[step];
            way.push(listed);
            at = self.best.get(&listed.segment.range.first.previous())?;
        }
        way.reverse();
        Some(way)
    }

    /// The segments, reachable or not, ascending by their first txid.
    pub(crate) fn segments(&self) -> &[ListedSegment] {
        &self.segments
    }

    /// Takes the segments back, for routes over more of them.
    pub(crate) fn into_segments(self) -> Vec<ListedSegment> {
        self.segments
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use aquifer_format::{Timestamp, TxidRange};
    use proptest::prelude::*;

    use super::*;
    use crate::layout::{Level, SegmentKey};

    fn listed(first: u64, last: u64) -> ListedSegment {
        let range = TxidRange::new(Txid::new(first), Txid::new(last)).unwrap();
        let segment = SegmentKey { level: Level::number(1), range };
        ListedSegment { segment, len: 10 + last - first, last_modified: Timestamp::from_millis(0) }
    }

    #[test]
    fn overlapping_segments_are_never_combined() {
        let routes = Routes::new(Txid::ZERO, vec![listed(1, 4), listed(3, 8), listed(5, 6)]);
        assert_eq!(routes.to(Txid::new(8)), None);
        assert_eq!(routes.furthest(), Txid::new(6));
        assert_eq!(routes.to(Txid::new(6)).unwrap(), [listed(1, 4), listed(5, 6)]);
        assert_eq!(routes.to(Txid::ZERO).unwrap(), []);
    }

    proptest! {
        #[test]
        fn a_way_is_found_if_there_is_one_and_none_is_shorter(
            from in 0u64..5,
            ranges in prop::collection::vec((1u64..14, 0u64..6), 0..30),
        ) {
            let segments: Vec<_> = ranges.iter().map(|(first, more)| listed(*first, first + more)).collect();
            let routes = Routes::new(Txid::new(from), segments.clone());
            // Breadth first, the textbook way.
            let mut steps = BTreeMap::from([(from, 0)]);
            let mut queue = VecDeque::from([from]);
            while let Some(at) = queue.pop_front() {
                for segment in segments.iter().filter(|s| s.segment.range.first.get() == at + 1) {
                    let end = segment.segment.range.last.get();
                    if !steps.contains_key(&end) {
                        steps.insert(end, steps[&at] + 1);
                        queue.push_back(end);
                    }
                }
            }
            prop_assert_eq!(routes.furthest().get(), *steps.keys().max().unwrap());
            for txid in 0..25 {
                let way = routes.to(Txid::new(txid));
                prop_assert_eq!(way.as_ref().map(Vec::len), steps.get(&txid).copied());
                let mut at = from;
                for step in way.into_iter().flatten() {
                    prop_assert_eq!(step.segment.range.first.get(), at + 1);
                    at = step.segment.range.last.get();
                }
            }
        }
    }
}
