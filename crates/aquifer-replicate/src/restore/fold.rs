//! Folding the segments after the base, in order, for a window of pages.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use aquifer_format::segment::GroupScratch;
use aquifer_format::{PageSize, Pgno};
use aquifer_log::{FetchedGroups, LogError, SegmentHandle};
use futures::stream::{self, FuturesOrdered};
use futures::{StreamExt, TryStreamExt};
use tokio::task::{JoinHandle, spawn_blocking};

use super::budget::Budget;
use super::overlay::Overlay;
use super::progress::Meter;
use super::threads::finished;

/// Pages `first` to `last`, both inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) first: Pgno,
    pub(crate) last: Pgno,
}

impl Window {
    pub(crate) fn contains(self, pgno: Pgno) -> bool {
        self.first <= pgno && pgno <= self.last
    }

    /// The numbers of the groups that may hold pages of it.
    pub(crate) fn groups(self, segment: &SegmentHandle) -> Range<usize> {
        let groups = segment.info().groups();
        let start = groups.partition_point(|group| group.last < self.first);
        let end = groups.partition_point(|group| group.first <= self.last);
        start..end.max(start)
    }
}

/// A batch of fetched groups is decoded by one thread once it has so many parts or bytes: enough to be worth
/// the hand-over, few enough that all threads have work.
const BATCH_PARTS: usize = 128;
const BATCH_BYTES: usize = 512 << 10;

/// Folds adjacent segments, oldest first, for as many pages from `window.first` on as the budget has room for.
///
/// Returns the overlay and the window that it is complete for: all of `window`, or a first part of it. Groups at
/// the borders of two windows are fetched for both; all others once.
pub(crate) async fn fold(
    deltas: &[SegmentHandle],
    page_size: PageSize,
    window: Window,
    budget: &Budget,
    meter: &Meter,
) -> Result<(Overlay, Window), LogError> {
    let mut overlay = Overlay::new(page_size);
    let narrowed = Arc::new(Narrowed::new(window));
    let parts = stream::iter(parts(deltas, Arc::clone(&narrowed), budget.piece));
    let mut fetched = parts.map(fetch).buffered(budget.requests);
    let mut folding: FuturesOrdered<JoinHandle<Result<Overlay, LogError>>> = FuturesOrdered::new();
    let mut batch: Vec<Part> = Vec::new();
    let mut batch_bytes = 0;
    loop {
        let next = fetched.try_next().await?;
        let last = next.is_none();
        if let Some(part) = next {
            meter.fetched(part.groups.len());
            batch_bytes += part.groups.len();
            batch.push(part);
        }
        if batch.len() >= BATCH_PARTS || batch_bytes >= BATCH_BYTES || (last && !batch.is_empty()) {
            let (parts, narrowed) = (std::mem::take(&mut batch), Arc::clone(&narrowed));
            batch_bytes = 0;
            folding.push_back(spawn_blocking(move || fold_batch(&parts, page_size, narrowed.window())));
        }
        while folding.len() >= budget.threads || (last && !folding.is_empty()) {
            let Some(newer) = folding.next().await else { break };
            let (older, newer, narrowed) = (overlay, finished(newer)?, Arc::clone(&narrowed));
            let limit = budget.overlay;
            overlay = finished(spawn_blocking(move || absorb(older, newer, &narrowed, limit)).await);
        }
        if last {
            return Ok((overlay, narrowed.window()));
        }
    }
}

/// A window whose end moves towards its start when memory runs short.
#[derive(Debug)]
struct Narrowed {
    first: Pgno,
    last: AtomicU32,
}

impl Narrowed {
    fn new(window: Window) -> Narrowed {
        Narrowed { first: window.first, last: AtomicU32::new(window.last.get()) }
    }

    fn window(&self) -> Window {
        let last = Pgno::new(self.last.load(Ordering::Relaxed)).unwrap_or(self.first);
        Window { first: self.first, last }
    }

    fn end_at(&self, last: Pgno) {
        self.last.store(last.get(), Ordering::Relaxed);
    }
}

/// Adjacent groups of one of the segments.
struct Part {
    segment: usize,
    groups: FetchedGroups,
}

struct Wanted {
    segment: usize,
    handle: SegmentHandle,
    groups: Range<usize>,
}

/// What is to be fetched, found when it is asked for: by then the window may have become narrower.
fn parts(deltas: &[SegmentHandle], narrowed: Arc<Narrowed>, piece: u64) -> impl Iterator<Item = Wanted> {
    deltas.iter().enumerate().flat_map(move |(segment, handle)| {
        let narrowed = Arc::clone(&narrowed);
        let pieces = handle.pieces(narrowed.window().groups(handle), piece).into_iter();
        pieces
            .take_while(move |groups| handle.info().groups()[groups.start].first <= narrowed.window().last)
            .map(move |groups| Wanted { segment, handle: handle.clone(), groups })
    })
}

async fn fetch(wanted: Wanted) -> Result<Part, LogError> {
    let groups = wanted.handle.fetch(wanted.groups).await?;
    Ok(Part { segment: wanted.segment, groups })
}

fn fold_batch(parts: &[Part], page_size: PageSize, window: Window) -> Result<Overlay, LogError> {
    let mut overlay = Overlay::new(page_size);
    let mut scratch = GroupScratch::new();
    for part in parts {
        for number in part.groups.numbers() {
            let group = part.groups.decode(number, &mut scratch)?;
            for entry in group.entries().filter(|entry| window.contains(entry.pgno)) {
                overlay.push(&entry, part.segment);
            }
            scratch.recycle(group);
        }
    }
    Ok(overlay)
}

/// Adds what was folded, and narrows the window until the result fits into `limit` bytes.
fn absorb(mut overlay: Overlay, mut newer: Overlay, narrowed: &Narrowed, limit: usize) -> Overlay {
    // It may have been folded for a wider window.
    if newer.bytes() > 0 {
        newer.truncate(narrowed.window().last);
    }
    overlay.absorb(newer);
    while overlay.bytes() > limit {
        // A single page is never too much.
        let Some(middle) = overlay.median().filter(|middle| *middle < narrowed.window().last) else { break };
        narrowed.end_at(middle);
        overlay.truncate(middle);
    }
    overlay
}
