//! Which files lead from nothing to a transaction.

use std::collections::BinaryHeap;

use crate::plan::LtxRange;

/// Why there is no way.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Hole {
    /// Files that lead to where it begins.
    pub(super) way: Vec<usize>,
    /// The last transaction before it.
    pub(super) after: u64,
    /// Where the next file after it begins that leads no further than asked for, if there is one.
    pub(super) next: Option<u64>,
}

/// The files, by their places, that lead from nothing to the transaction `last`: at each step the best of those that go on from
/// the one before. `best` orders them; of equals it is that which stands last.
///
/// One pass over the files by where they begin: a replica has one for each transaction.
pub(super) fn chain<K: Ord>(
    files: &[LtxRange],
    last: u64,
    best: impl Fn(usize) -> K,
) -> Result<Vec<usize>, Hole> {
    let mut by_begin: Vec<usize> = (0..files.len()).filter(|at| files[*at].max <= last).collect();
    by_begin.sort_by_key(|at| files[*at].min);
    let mut by_begin = by_begin.into_iter().peekable();
    let (mut candidates, mut way, mut txid) = (BinaryHeap::new(), Vec::new(), 0);
    while txid < last {
        while let Some(at) = by_begin.next_if(|at| files[*at].min <= txid + 1) {
            candidates.push((best(at), at));
        }
        // Those that end before are on no way any more.
        let found = std::iter::from_fn(|| candidates.pop()).find(|(_, at)| files[*at].max > txid);
        let Some((_, at)) = found else {
            let next = by_begin.next().map(|at| files[at].min);
            return Err(Hole { way, after: txid, next });
        };
        txid = files[at].max;
        way.push(at);
    }
    Ok(way)
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;

    use proptest::prelude::*;

    use super::*;

    /// The same, looking through all files at each step.
    fn plainly<K: Ord>(files: &[LtxRange], last: u64, best: impl Fn(usize) -> K) -> Result<Vec<usize>, Hole> {
        let (mut way, mut txid) = (Vec::new(), 0);
        while txid < last {
            let goes_on = |at: &usize| {
                let file = files[*at];
                file.min <= txid + 1 && (txid + 1..=last).contains(&file.max)
            };
            let Some(at) = (0..files.len()).filter(goes_on).max_by_key(|at| best(*at)) else {
                let later = files.iter().filter(|file| file.min > txid && file.max <= last);
                return Err(Hole { way, after: txid, next: later.map(|file| file.min).min() });
            };
            txid = files[at].max;
            way.push(at);
        }
        Ok(way)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

        #[test]
        fn a_sweep_finds_what_looking_through_all_files_finds(
            files in prop::collection::vec((1..12u64, 0..8u64, 0..3u64), 0..24),
            last in 0..16u64,
        ) {
            let ranges: Vec<LtxRange> =
                files.iter().map(|(min, more, _)| LtxRange { min: *min, max: min + more }).collect();
            let len = |at: usize| files[at].2;
            let furthest = |at: usize| (ranges[at].max, Reverse(len(at)));
            let nearest = |at: usize| (Reverse(ranges[at].max), Reverse(len(at)));
            prop_assert_eq!(chain(&ranges, last, furthest), plainly(&ranges, last, furthest));
            prop_assert_eq!(chain(&ranges, last, nearest), plainly(&ranges, last, nearest));
        }
    }
}
