//! Adjacent segments, page by page, as if they were one: what compaction, snapshots and verification read.
//!
//! Memory does not depend on the size of the segments: each contributes a window of groups, which are fetched
//! ahead of the merge. What is computed (decompression, folding, and whatever the [`PageSink`] does) runs on
//! blocking threads, in turns between which the future can be dropped.

mod input;
mod page;
mod reduce;

use std::collections::VecDeque;

use aquifer_format::TxidRange;
use aquifer_format::segment::SegmentMeta;
use futures::FutureExt;
use tokio::task::{JoinError, JoinSet};

pub use page::{MergedPage, PageSink};
pub(crate) use reduce::reduce;

use crate::error::LogError;
use crate::segment_io::{FetchedGroups, SegmentHandle};
use input::Input;
use page::{Pages, Pause};

/// Most segments that are merged at once: with more, a group of each is too much memory. See [`reduce`].
pub(crate) const MAX_INPUTS: usize = 128;
/// Bytes fetched and not yet decoded, of all inputs.
const WINDOW: u64 = 32 << 20;
/// Fetched for an input at once, at most and at least: a group may be larger.
const PIECE: std::ops::RangeInclusive<u64> = (128 << 10)..=(4 << 20);
/// Requests on their way at a time.
const FETCHING: usize = 16;
/// Pieces of an input that are fetched and not yet used up.
const AHEAD: usize = 2;

/// Adjacent segments that are being merged.
#[derive(Debug)]
pub struct Merge {
    meta: SegmentMeta,
    sources: Vec<Source>,
    fetching: JoinSet<(usize, Result<FetchedGroups, LogError>)>,
    /// Away while it computes: lost when that future was dropped.
    pages: Option<Box<Pages>>,
    fetched_bytes: u64,
}

/// Where an input's groups come from.
#[derive(Debug)]
struct Source {
    handle: SegmentHandle,
    /// Not asked for yet.
    pieces: VecDeque<std::ops::Range<usize>>,
    in_flight: bool,
}

impl Merge {
    /// Begins to merge segments, oldest first. Fails if one does not continue the one before it. No I/O.
    ///
    /// # Panics
    /// Without segments, and with more than a few hundred.
    pub fn new(segments: &[SegmentHandle]) -> Result<Merge, LogError> {
        assert!((1..=2 * MAX_INPUTS).contains(&segments.len()), "{} segments to merge", segments.len());
        let piece = (WINDOW / (AHEAD * segments.len()) as u64).clamp(*PIECE.start(), *PIECE.end());
        Merge::with_pieces(segments, piece)
    }

    /// As [`Merge::new`]; so many bytes are fetched of a segment at once, or one group.
    pub(crate) fn with_pieces(segments: &[SegmentHandle], piece: u64) -> Result<Merge, LogError> {
        let meta = joined(segments)?;
        let sources = segments.iter().map(|handle| Source {
            pieces: handle.pieces(0..handle.info().groups().len(), piece).into(),
            handle: handle.clone(),
            in_flight: false,
        });
        let inputs = segments.iter().map(|handle| Input::new(handle.clone())).collect();
        Ok(Merge {
            sources: sources.collect(),
            fetching: JoinSet::new(),
            pages: Some(Box::new(Pages::new(inputs, &meta))),
            meta,
            fetched_bytes: 0,
        })
    }

    /// What the merged segment is about. Its writer is that of the newest.
    pub fn meta(&self) -> &SegmentMeta {
        &self.meta
    }

    /// Bytes of groups read so far.
    pub fn fetched_bytes(&self) -> u64 {
        self.fetched_bytes
    }

    /// Gives pages to the sink, ascending, until it is full, or until all inputs have been read and verified:
    /// then `true`. Comes back about every few megabytes in any case.
    ///
    /// Not cancel-safe: a merge whose `run` was dropped must be dropped as well.
    pub async fn run<S: PageSink>(&mut self, sink: &mut Option<S>) -> Result<bool, LogError> {
        let Some(mut pages) = self.pages.take() else { panic!("a merge whose run was dropped goes on") };
        loop {
            self.fetch(&mut pages)?;
            let Some(mut into) = sink.take() else { panic!("the sink is away in a run that was dropped") };
            let computed = tokio::task::spawn_blocking(move || {
                let pause = pages.give(&mut into);
                (pages, into, pause)
            });
            let (back, into, pause) = unless_cancelled(computed.await).await;
            *sink = Some(into);
            pages = back;
            match pause? {
                Pause::Done => return Ok(true),
                Pause::Full => {
                    self.pages = Some(pages);
                    return Ok(false);
                }
                Pause::Starved => self.wait(&mut pages).await?,
            }
        }
    }

    /// Starts to fetch what will be wanted next.
    fn fetch(&mut self, pages: &mut Pages) -> Result<(), LogError> {
        // First for those that nothing is there for.
        for ahead in 0..AHEAD {
            for (i, source) in self.sources.iter_mut().enumerate() {
                if source.in_flight || pages.inputs[i].ready() > ahead {
                    continue;
                }
                if self.fetching.len() >= FETCHING && source.handle.kept_bytes() == 0 {
                    continue;
                }
                let Some(piece) = source.pieces.pop_front() else { continue };
                if source.handle.kept_bytes() > 0
                    && let Some(kept) = source.handle.fetch(piece.clone()).now_or_never()
                {
                    let kept = kept?;
                    self.fetched_bytes += kept.len() as u64;
                    pages.inputs[i].feed(kept);
                    continue;
                }
                source.in_flight = true;
                let handle = source.handle.clone();
                self.fetching.spawn(async move { (i, handle.fetch(piece).await) });
            }
        }
        Ok(())
    }

    /// Waits until something was fetched.
    async fn wait(&mut self, pages: &mut Pages) -> Result<(), LogError> {
        let mut arrived = self.fetching.join_next().await;
        while let Some(fetched) = arrived {
            let (i, groups) = unless_cancelled(fetched).await;
            let groups = groups?;
            self.fetched_bytes += groups.len() as u64;
            self.sources[i].in_flight = false;
            pages.inputs[i].feed(groups);
            arrived = self.fetching.try_join_next();
        }
        Ok(())
    }
}

/// What a task returned. Never returns if it was cancelled: then the runtime is shutting down, and this with it.
pub(crate) async fn unless_cancelled<T>(result: Result<T, JoinError>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_cancelled) => std::future::pending().await,
        },
    }
}

/// What segments are about as one, if each continues the content of the one before it. Txids need not be
/// adjacent: a generation that forked begins with 1 again.
pub(crate) fn joined(segments: &[SegmentHandle]) -> Result<SegmentMeta, LogError> {
    let (Some(first), Some(last)) = (segments.first(), segments.last()) else {
        panic!("nothing to merge");
    };
    for (older, newer) in segments.iter().zip(&segments[1..]) {
        let (end, start) = (older.info().meta(), newer.info().meta());
        if (end.page_size, end.size_after, end.checksum_after)
            != (start.page_size, start.size_before, start.checksum_before)
        {
            let (older, newer) = (older.key().clone(), newer.key().clone());
            return Err(LogError::NotAdjacent { url: first.url().to_owned(), older, newer });
        }
    }
    let (start, end) = (first.info().meta(), last.info().meta());
    let commits = segments.iter().fold(0u32, |sum, s| sum.saturating_add(s.info().meta().commits));
    Ok(SegmentMeta {
        page_size: end.page_size,
        range: TxidRange { first: start.range.first, last: end.range.last },
        size_before: start.size_before,
        size_after: end.size_after,
        checksum_before: start.checksum_before,
        checksum_after: end.checksum_after,
        commits,
        frames: 0,
        first_commit: start.first_commit,
        last_commit: end.last_commit,
        writer: end.writer,
    })
}
