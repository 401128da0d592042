//! What somebody who serves a database's pages needs to know of its replica: what is durable, and which pages changed
//! when.

use std::collections::VecDeque;
use std::sync::Arc;

use aquifer_format::segment::SegmentMeta;
use aquifer_format::{GenerationId, Pgno, Revision, Txid};
use parking_lot::Mutex;
use tokio::sync::watch;

/// Batches whose sizes are remembered: more than are ever captured and not durable.
const SIZES: usize = 64;

/// Batches, and pages in them, that are kept for somebody who does not take them.
const KEPT: usize = 4096;
const KEPT_PAGES: usize = 1 << 20;

/// Follows one database's replica. Cheap to share.
#[derive(Debug)]
pub struct Tracker {
    durable: watch::Sender<Option<Revision>>,
    changes: Mutex<Changes>,
}

/// Which pages changed when, as far back as is known.
///
/// # The invariant
/// A page that a batch after `since` changed is in `last` with that txid or a later one. It may be there with a later one
/// than its last change: a reader gets a page too many then, never one too few.
#[derive(Debug, Default)]
struct Changes {
    generation: Option<GenerationId>,
    since: Txid,
    /// By page, from page 1 on: the txid that changed it last; 0: none after `since`.
    last: Vec<u64>,
    /// The size of the database after the latest batches, in pages; ascending, the latest last.
    sizes: VecDeque<(Txid, u32)>,
    /// From when somebody wanted to know them on; ascending.
    batches: Option<VecDeque<BatchPages>>,
}

/// What a batch brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchPages {
    /// Its txid.
    pub txid: Txid,
    /// SQLite commits in it.
    pub commits: u32,
    /// Frames that were pushed as its first commit; 0: none were.
    pub frames: u32,
    /// The pages that it changed, ascending.
    pub pages: Vec<Pgno>,
}

impl BatchPages {
    /// Of a level-0 segment, without its pages.
    pub fn of(meta: &SegmentMeta) -> BatchPages {
        let (txid, commits, frames) = (meta.range.last, meta.commits, meta.frames);
        BatchPages { txid, commits, frames, pages: Vec::new() }
    }
}

impl Default for Tracker {
    fn default() -> Tracker {
        Tracker { durable: watch::Sender::new(None), changes: Mutex::default() }
    }
}

impl Tracker {
    /// One that follows nothing yet.
    pub fn new() -> Arc<Tracker> {
        Arc::default()
    }

    /// The latest durable revision, and news of it.
    pub fn durable(&self) -> watch::Receiver<Option<Revision>> {
        self.durable.subscribe()
    }

    /// The size of the database at a revision, in pages; `None` if it is not one of the latest.
    pub fn pages_at(&self, revision: Revision) -> Option<u32> {
        let changes = self.changes.lock();
        let of = |&(txid, pages): &(Txid, u32)| (txid == revision.txid).then_some(pages);
        let is_ours = changes.generation == Some(revision.generation);
        changes.sizes.iter().rev().find_map(of).filter(|_| is_ours)
    }

    /// The txid after which all changes of the generation are known; `None` if it is not the one that is followed.
    pub fn known_since(&self, generation: GenerationId) -> Option<Txid> {
        let changes = self.changes.lock();
        (changes.generation == Some(generation)).then_some(changes.since)
    }

    /// Up to `count` pages, `from` or later ones, that batches after a txid changed; ascending. `None` if changes are not
    /// known that far back ([`known_since`](Tracker::known_since)).
    pub fn changed_since(
        &self,
        generation: GenerationId,
        txid: Txid,
        from: Pgno,
        count: usize,
    ) -> Option<Vec<Pgno>> {
        let changes = self.changes.lock();
        if changes.generation != Some(generation) || txid < changes.since {
            return None;
        }
        let rest = changes.last.iter().enumerate().skip(from.index());
        let changed = rest.filter(|(_, last)| **last > txid.get());
        Some(changed.map(|(index, _)| Pgno::from_index(index as u32)).take(count).collect())
    }

    /// Whether a page may have changed after a txid.
    pub fn may_have_changed(&self, generation: GenerationId, txid: Txid, pgno: Pgno) -> bool {
        let changes = self.changes.lock();
        let is_known = changes.generation == Some(generation) && txid >= changes.since;
        !is_known || changes.last.get(pgno.index()).is_some_and(|last| *last > txid.get())
    }

    /// Adds what batches after `since` changed, up to where changes were known. What is given is all of it; `None` for
    /// `since` means that it is not known from where on.
    pub fn learn(
        &self,
        generation: GenerationId,
        since: Txid,
        changed: impl IntoIterator<Item = (Pgno, Txid)>,
    ) {
        let mut changes = self.changes.lock();
        if changes.generation != Some(generation) || since >= changes.since {
            return;
        }
        for (pgno, txid) in changed {
            changes.note(pgno, txid);
        }
        changes.since = since;
    }

    /// Keeps what each batch brings, from the next one on, and says after which txid that is. `None` if the generation is not
    /// the one that is followed.
    pub fn keep_batches(&self, generation: GenerationId) -> Option<Txid> {
        let mut changes = self.changes.lock();
        if changes.generation != Some(generation) {
            return None;
        }
        let last = changes.sizes.back().map_or(Txid::ZERO, |(txid, _)| *txid);
        let first = changes.batches.get_or_insert_default().front().map(|batch| batch.txid.previous());
        Some(first.unwrap_or(last))
    }

    /// Hands over what was kept since the last call. `None`: it is not kept, or not any more: a run began anew, or nobody
    /// took it for long.
    pub fn take_batches(&self, generation: GenerationId) -> Option<Vec<BatchPages>> {
        let mut changes = self.changes.lock();
        let is_ours = changes.generation == Some(generation);
        changes.batches.as_mut().filter(|_| is_ours).map(|kept| kept.drain(..).collect())
    }

    /// A run begins, with this as the last batch.
    pub(crate) fn begin(&self, generation: GenerationId, txid: Txid, pages: u32) {
        *self.changes.lock() = Changes {
            generation: Some(generation),
            since: txid,
            last: Vec::new(),
            sizes: VecDeque::from([(txid, pages)]),
            batches: None,
        };
    }

    /// A batch is captured.
    pub(crate) fn captured(&self, meta: &SegmentMeta, changed: impl Iterator<Item = Pgno>) {
        let mut changes = self.changes.lock();
        let mut batch = BatchPages::of(meta);
        let is_kept = changes.batches.is_some();
        for pgno in changed {
            changes.note(pgno, batch.txid);
            if is_kept {
                batch.pages.push(pgno);
            }
        }
        changes.sizes.push_back((batch.txid, meta.size_after));
        if let Some(kept) = &mut changes.batches {
            kept.push_back(batch);
            if kept.len() > KEPT || kept.iter().map(|batch| batch.pages.len()).sum::<usize>() > KEPT_PAGES {
                changes.batches = None;
            }
        }
        if changes.sizes.len() > SIZES {
            changes.sizes.pop_front();
        }
    }

    pub(crate) fn is_durable(&self, revision: Option<Revision>) {
        self.durable.send_if_modified(|durable| std::mem::replace(durable, revision) != revision);
    }
}

impl Changes {
    fn note(&mut self, pgno: Pgno, txid: Txid) {
        if self.last.len() <= pgno.index() {
            self.last.resize(pgno.index() + 1, 0);
        }
        let last = &mut self.last[pgno.index()];
        *last = (*last).max(txid.get());
    }
}

#[cfg(test)]
mod tests {
    use aquifer_format::{DbChecksum, PageSize, Timestamp, TxidRange, WriterNonce};

    use super::*;

    fn pages(numbers: &[u32]) -> Vec<Pgno> {
        numbers.iter().map(|n| Pgno::new(*n).unwrap()).collect()
    }

    fn meta(txid: u64, size: u32) -> SegmentMeta {
        SegmentMeta {
            page_size: PageSize::DEFAULT,
            range: TxidRange::one(Txid::new(txid)),
            size_before: size,
            size_after: size,
            checksum_before: DbChecksum::EMPTY,
            checksum_after: DbChecksum::EMPTY,
            commits: 1,
            frames: 0,
            first_commit: Timestamp::default(),
            last_commit: Timestamp::default(),
            writer: WriterNonce::from_bytes([1; 16]),
        }
    }

    #[test]
    fn changes_are_told_from_where_they_are_known_on() {
        let generation = GenerationId::new(Timestamp::from_millis(1));
        let tracker = Tracker::new();
        let since = |txid| tracker.changed_since(generation, Txid::new(txid), Pgno::ONE, 100);
        assert_eq!(since(0), None, "nothing is followed");
        tracker.begin(generation, Txid::new(10), 5);
        assert_eq!((since(9), since(10)), (None, Some(Vec::new())));
        tracker.captured(&meta(11, 6), pages(&[1, 6]).into_iter());
        tracker.captured(&meta(12, 6), pages(&[1, 3]).into_iter());
        assert_eq!(since(10), Some(pages(&[1, 3, 6])));
        assert_eq!(since(11), Some(pages(&[1, 3])));
        let later = tracker.changed_since(generation, Txid::new(10), Pgno::new(2).unwrap(), 1);
        assert_eq!(later, Some(pages(&[3])));
        tracker.learn(generation, Txid::new(7), [(Pgno::new(4).unwrap(), Txid::new(10))]);
        assert_eq!((since(7), since(6)), (Some(pages(&[1, 3, 4, 6])), None));
        assert_eq!(since(10), Some(pages(&[1, 3, 6])), "what is learnt later changes nothing");
        assert!(!tracker.may_have_changed(generation, Txid::new(10), Pgno::new(4).unwrap()));
        assert!(tracker.may_have_changed(generation, Txid::new(9), Pgno::new(4).unwrap()));
        assert!(tracker.may_have_changed(generation, Txid::new(6), Pgno::new(2).unwrap()), "not known");
        assert_eq!(tracker.take_batches(generation), None, "nobody wanted them");
        assert_eq!(tracker.keep_batches(generation), Some(Txid::new(12)));
        tracker.captured(&meta(13, 6), pages(&[2]).into_iter());
        assert_eq!(tracker.keep_batches(generation), Some(Txid::new(12)));
        let taken = tracker.take_batches(generation).unwrap();
        assert_eq!(taken, [BatchPages { pages: pages(&[2]), ..BatchPages::of(&meta(13, 6)) }]);
        let at = |txid| tracker.pages_at(Revision { generation, txid: Txid::new(txid) });
        assert_eq!((at(9), at(10), at(12)), (None, Some(5), Some(6)));
    }
}
