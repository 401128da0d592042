//! Writing the database: the base's pages with the overlay applied, each verified once.

use std::ops::Range;
use std::sync::Arc;

use aquifer_format::segment::{EntryKind, GroupScratch};
use aquifer_format::{DbChecksum, PageHash, Pgno};
use aquifer_log::{FetchedGroups, SegmentHandle};
use futures::stream::{self, StreamExt, TryStreamExt};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::budget::Budget;
use super::error::RestoreError;
use super::fold::Window;
use super::output::{Output, PageRun};
use super::overlay::{OverlayPage, OverlayPages};
use super::progress::Meter;
use super::threads::finished;

/// Pieces that one thread works through: few hand-overs, and the file is still written nearly in order.
const STRIPE: usize = 16;

/// What was written, all pages verified.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) pages: u32,
    pub(crate) checksum: DbChecksum,
}

impl Written {
    pub(crate) fn combine(self, other: Written) -> Written {
        Written { pages: self.pages + other.pages, checksum: self.checksum.combine(other.checksum) }
    }
}

/// What the threads share.
pub(crate) struct Writing {
    pub(crate) base: SegmentHandle,
    pub(crate) deltas: Arc<[SegmentHandle]>,
    pub(crate) output: Arc<Output>,
    pub(crate) meter: Arc<Meter>,
    buffers: Mutex<Vec<Buffers>>,
}

struct Buffers {
    scratch: GroupScratch,
    run: PageRun,
}

impl Writing {
    pub(crate) fn new(
        base: SegmentHandle,
        deltas: Arc<[SegmentHandle]>,
        output: Arc<Output>,
        meter: Arc<Meter>,
    ) -> Writing {
        Writing { base, deltas, output, meter, buffers: Mutex::new(Vec::new()) }
    }

    /// Writes the pages of a window; `overlay` is complete for it.
    pub(crate) async fn window(
        self: &Arc<Self>,
        window: Window,
        overlay: OverlayPages,
        budget: &Budget,
    ) -> Result<Written, RestoreError> {
        let overlay = Arc::new(overlay);
        let threads = Arc::new(Semaphore::new(budget.threads));
        let pieces = self.base.pieces(window.groups(&self.base), budget.piece);
        let sum = async |sum: Written, written| Ok(sum.combine(written));
        let written = if budget.local {
            let stripes: Vec<_> = pieces.chunks(STRIPE).map(<[_]>::to_vec).collect();
            stream::iter(stripes)
                .map(|pieces| self.stripe(pieces, window, Arc::clone(&overlay)))
                .buffer_unordered(budget.threads)
                .try_fold(Written::default(), sum)
                .await?
        } else {
            stream::iter(pieces)
                .map(|piece| self.piece(piece, window, Arc::clone(&overlay), Arc::clone(&threads)))
                .buffer_unordered(budget.requests)
                .try_fold(Written::default(), sum)
                .await?
        };
        let (shared, overlay) = (Arc::clone(self), Arc::clone(&overlay));
        let added = finished(spawn_blocking(move || shared.write_grown(window, &overlay)).await)?;
        Ok(written.combine(added))
    }

    /// Reads, decodes and writes adjacent pieces on one thread: files need no requests in flight.
    async fn stripe(
        self: &Arc<Self>,
        pieces: Vec<Range<usize>>,
        window: Window,
        overlay: Arc<OverlayPages>,
    ) -> Result<Written, RestoreError> {
        let shared = Arc::clone(self);
        let work = move || {
            pieces.into_iter().try_fold(Written::default(), |sum, piece| {
                let fetched = shared.base.fetch_blocking(piece)?;
                Ok(sum.combine(shared.write_groups(&fetched, window, &overlay)?))
            })
        };
        finished(spawn_blocking(work).await)
    }

    async fn piece(
        self: &Arc<Self>,
        groups: Range<usize>,
        window: Window,
        overlay: Arc<OverlayPages>,
        threads: Arc<Semaphore>,
    ) -> Result<Written, RestoreError> {
        let fetched = self.base.fetch(groups).await?;
        // Closed never; with it as many threads decode as there are processors.
        let _thread = threads.acquire().await;
        let shared = Arc::clone(self);
        finished(spawn_blocking(move || shared.write_groups(&fetched, window, &overlay)).await)
    }

    /// Decodes groups of the base and writes their pages.
    fn write_groups(
        self: &Arc<Self>,
        fetched: &FetchedGroups,
        window: Window,
        overlay: &OverlayPages,
    ) -> Result<Written, RestoreError> {
        let page_size = self.output.page_size();
        let mut buffers = self
            .buffers
            .lock()
            .pop()
            .unwrap_or_else(|| Buffers { scratch: GroupScratch::new(), run: PageRun::new(page_size) });
        let Buffers { scratch, run } = &mut buffers;
        let mut written = Written::default();
        for number in fetched.numbers() {
            let group = fetched.decode(number, scratch)?;
            let Some(first) = group.get(0) else { continue };
            let mut newer = overlay.from(first.pgno);
            for entry in group.entries().filter(|entry| window.contains(entry.pgno)) {
                let skipped = newer.iter().take_while(|(pgno, _)| *pgno < entry.pgno).count();
                newer = &newer[skipped..];
                let change = newer.first().filter(|(pgno, _)| *pgno == entry.pgno).map(|(_, page)| page);
                let page = run.page(entry.pgno, &self.output)?;
                let image = change.is_some_and(|change| change.entry.kind() == EntryKind::Image);
                if !image {
                    if entry.kind == EntryKind::Delta {
                        return Err(self.no_image(entry.pgno));
                    }
                    entry.apply(page);
                }
                if let Some(change) = change {
                    change.entry.entry(entry.pgno).apply(page);
                }
                let expected = change.map_or(entry.hash, |change| change.entry.hash());
                self.verify(entry.pgno, page, expected, change)?;
                written.pages += 1;
                written.checksum.toggle(expected);
            }
            scratch.recycle(group);
        }
        // Other threads write what comes before and after.
        run.write(&self.output)?;
        self.buffers.lock().push(buffers);
        self.meter.fetched(fetched.len());
        self.meter.wrote(written.pages);
        Ok(written)
    }

    /// Writes the pages that the base does not have.
    fn write_grown(
        self: &Arc<Self>,
        window: Window,
        overlay: &OverlayPages,
    ) -> Result<Written, RestoreError> {
        let size = self.base.info().meta().size_after;
        let beyond = Pgno::new(size.saturating_add(1)).map_or(window.first, |pgno| pgno.max(window.first));
        let mut run = PageRun::new(self.output.page_size());
        let mut written = Written::default();
        for (pgno, change) in overlay.from(beyond) {
            if change.entry.kind() == EntryKind::Delta {
                return Err(self.no_image(*pgno));
            }
            let page = run.page(*pgno, &self.output)?;
            change.entry.entry(*pgno).apply(page);
            self.verify(*pgno, page, change.entry.hash(), Some(change))?;
            written.pages += 1;
            written.checksum.toggle(change.entry.hash());
        }
        run.write(&self.output)?;
        self.meter.wrote(written.pages);
        Ok(written)
    }

    fn verify(
        &self,
        pgno: Pgno,
        page: &[u8],
        expected: PageHash,
        change: Option<&OverlayPage>,
    ) -> Result<(), RestoreError> {
        let found = PageHash::of(pgno, page);
        if found == expected {
            return Ok(());
        }
        let newest = change.map_or(&self.base, |change| &self.deltas[change.newest]);
        Err(RestoreError::Page {
            pgno,
            base: self.base.key().clone(),
            newest: newest.key().clone(),
            expected,
            found,
        })
    }

    fn no_image(&self, pgno: Pgno) -> RestoreError {
        RestoreError::NoImage { pgno, base: self.base.key().clone() }
    }
}
