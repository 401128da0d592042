//! The merge itself, without I/O.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use aquifer_format::segment::{Entry, EntryKind, Folded, PageFold, SegmentMeta};
use aquifer_format::{PageHash, Pgno};

use super::input::{Advanced, Input};
use crate::error::LogError;

/// Groups decoded in one turn: about as many milliseconds, and at most 16 MiB.
const GROUPS_PER_TURN: usize = 128;

/// What the merged segments say about a page.
#[derive(Debug, Clone, Copy)]
pub enum MergedPage<'a> {
    /// Only one segment says anything: this.
    Entry(Entry<'a>),
    /// Several do, and it amounts to this. An image is verified against its hash.
    Folded(Folded<'a>),
}

impl MergedPage<'_> {
    /// How to apply it.
    pub fn kind(&self) -> EntryKind {
        match self {
            MergedPage::Entry(entry) => entry.kind,
            MergedPage::Folded(folded) => folded.kind,
        }
    }

    /// Hash of the page's content after the last segment.
    pub fn hash(&self) -> PageHash {
        match self {
            MergedPage::Entry(entry) => entry.hash,
            MergedPage::Folded(folded) => folded.hash,
        }
    }

    /// Hash of the bytes of an image; `None` for a difference.
    pub fn content_hash(&self, pgno: Pgno, buffer: &mut Vec<u8>) -> Option<PageHash> {
        if self.kind() == EntryKind::Delta {
            return None;
        }
        match self {
            MergedPage::Entry(entry) => {
                buffer.resize(entry.page_size().bytes(), 0);
                entry.apply(buffer);
                Some(PageHash::of(pgno, buffer))
            }
            MergedPage::Folded(folded) => Some(PageHash::of(pgno, folded.page)),
        }
    }
}

/// Takes the pages of a [`Merge`](super::Merge).
pub trait PageSink: Send + 'static {
    /// Takes a page; they ascend. Called on a blocking thread.
    fn page(&mut self, pgno: Pgno, page: MergedPage<'_>) -> Result<(), LogError>;

    /// Whether it wants to be emptied before it takes more.
    fn is_full(&self) -> bool {
        false
    }
}

#[derive(Debug)]
pub(super) struct Pages {
    pub(super) inputs: Vec<Input>,
    /// By page, then from the oldest input to the newest.
    heap: BinaryHeap<Reverse<(Pgno, usize)>>,
    /// Inputs that lack groups: their next page is not known.
    starved: Vec<usize>,
    fold: PageFold,
    meta: SegmentMeta,
}

/// Why a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pause {
    /// An input needs more groups.
    Starved,
    /// The sink is full, or the turn was long enough.
    Full,
    /// All inputs have ended.
    Done,
}

impl Pages {
    pub(super) fn new(inputs: Vec<Input>, meta: &SegmentMeta) -> Pages {
        Pages {
            starved: (0..inputs.len()).collect(),
            heap: BinaryHeap::with_capacity(inputs.len()),
            inputs,
            fold: PageFold::new(meta.page_size),
            meta: meta.clone(),
        }
    }

    /// Gives pages to the sink.
    pub(super) fn give(&mut self, sink: &mut impl PageSink) -> Result<Pause, LogError> {
        let mut decoded = 0;
        for i in std::mem::take(&mut self.starved) {
            self.advance(i, &mut decoded)?;
        }
        loop {
            // Only between pages. An input that is starved has nothing more to say about the current one.
            if self.fold.is_empty() {
                if !self.starved.is_empty() {
                    return Ok(Pause::Starved);
                }
                if sink.is_full() || decoded >= GROUPS_PER_TURN {
                    return Ok(Pause::Full);
                }
            }
            let Some(Reverse((pgno, i))) = self.heap.pop() else { return Ok(Pause::Done) };
            let more_of_page = matches!(self.heap.peek(), Some(Reverse((p, _))) if *p == pgno);
            // Pages beyond the end vanished in a later segment.
            let stays = pgno.get() <= self.meta.size_after;
            if let Some(entry) = self.inputs[i].current().filter(|_| stays) {
                if more_of_page || !self.fold.is_empty() {
                    self.fold.push_newer(&entry);
                } else {
                    sink.page(pgno, MergedPage::Entry(entry))?;
                }
            }
            if !more_of_page {
                if let Some(folded) = self.fold.folded() {
                    if folded.kind == EntryKind::Image && !folded.is_verified_image(pgno) {
                        return Err(LogError::PageMismatch { pgno, range: self.meta.range });
                    }
                    sink.page(pgno, MergedPage::Folded(folded))?;
                }
                self.fold.clear();
            }
            self.advance(i, &mut decoded)?;
        }
    }

    fn advance(&mut self, i: usize, decoded: &mut usize) -> Result<(), LogError> {
        match self.inputs[i].advance(decoded)? {
            Advanced::At(pgno) => self.heap.push(Reverse((pgno, i))),
            Advanced::Starved => self.starved.push(i),
            Advanced::Ended => {}
        }
        Ok(())
    }
}
