//! The spans of a database that clients may be in, as they are known here.

use std::collections::VecDeque;

use aquifer_format::{GenerationId, Txid};
use aquifer_log::{DatabaseStore, Level, LogError, Span};
use aquifer_replicate::{BatchPages, Tracker};
use futures::{StreamExt, TryStreamExt};

use super::index::SpanIndex;

/// Segments read at a time.
const READING: usize = 16;
/// Bytes of a segment fetched at a time.
const PIECE: u64 = 4 << 20;
/// Spans before the current one that clients may finish.
const KEPT: usize = 2;

/// The spans of one generation; ascending, the last one is current.
#[derive(Debug)]
pub(super) struct Spans {
    pub(super) generation: GenerationId,
    spans: VecDeque<SpanIndex>,
}

/// Where a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Current,
    /// In a span that ended with this txid, so many frames after its beginning.
    Ended {
        end: Txid,
        frames: u32,
    },
}

impl Spans {
    /// Reads what is known of a generation's spans up to a durable txid, and begins the first one if there is none.
    pub(super) async fn load(
        database: &DatabaseStore,
        generation: GenerationId,
        until: Txid,
    ) -> Result<Spans, LogError> {
        let known = database.spans(generation).await?;
        let mut spans = Spans { generation, spans: VecDeque::new() };
        for span in known.iter().rev().take(KEPT + 1).rev() {
            spans.spans.push_back(SpanIndex::new(span.number, span.start));
        }
        if let Some(first) = spans.spans.front().map(|span| span.start) {
            spans.read(database, first, until).await?;
        }
        if spans.spans.is_empty() {
            // Nobody who was in a span before may take this one for its continuation.
            let number = known.last().map_or(first_number(generation), |last| last.number + 2);
            let Span { number, start, .. } = database.begin_span(generation, number, until).await?;
            spans.spans.push_back(SpanIndex::new(number, start));
            spans.read(database, start, until).await?;
        }
        Ok(spans)
    }

    /// Reads the batches after `first` from level 0. Spans of which one is missing are given up.
    async fn read(&mut self, database: &DatabaseStore, first: Txid, until: Txid) -> Result<(), LogError> {
        let generation = self.generation;
        let listed = database.segments(generation, Level::Shipped, first);
        let read = listed.map_err(LogError::from).map_ok(|listed| async move {
            let handle = database.open_segment(generation, listed.segment).await?;
            let mut batch = BatchPages::of(handle.info().meta());
            handle.for_each_page(PIECE, |pgno, _| batch.pages.push(pgno)).await?;
            Ok(batch)
        });
        let mut read = std::pin::pin!(read.try_buffered(READING));
        let mut reached = first;
        while let Some(batch) = read.next().await {
            let batch = batch?;
            if batch.txid > until {
                break;
            }
            if batch.txid != reached.next() {
                self.spans.retain(|span| span.start >= batch.txid);
            }
            reached = batch.txid;
            self.push(batch);
        }
        if reached < until {
            self.spans.retain(|span| span.start >= until);
        }
        Ok(())
    }

    /// False if it does not continue what is known.
    fn push(&mut self, batch: BatchPages) -> bool {
        let of = self.spans.iter_mut().rev().find(|span| span.start < batch.txid);
        of.is_some_and(|span| span.push(batch))
    }

    /// Takes what was captured since the last time. False if something is missing.
    pub(super) fn catch_up(&mut self, tracker: &Tracker) -> bool {
        let Some(batches) = tracker.take_batches(self.generation) else { return false };
        let known = self.current().end();
        batches.into_iter().filter(|batch| batch.txid > known).all(|batch| self.push(batch))
    }

    pub(super) fn current(&self) -> &SpanIndex {
        self.spans.back().expect("there is always one")
    }

    /// A span by number.
    pub(super) fn find(&self, number: u32) -> Option<(&SpanIndex, Place)> {
        let at = self.spans.iter().position(|span| span.number == number)?;
        let span = &self.spans[at];
        let place = match self.spans.get(at + 1) {
            None => Place::Current,
            Some(next) => Place::Ended { end: next.start, frames: span.frames() },
        };
        Some((span, place))
    }

    /// The current span has ended at a txid.
    pub(super) fn end_current(&mut self, next: &Span) -> Vec<u32> {
        if let Some(current) = self.spans.back_mut()
            && next.number == current.number + 1
        {
            let next = current.split(next.start);
            self.spans.push_back(next);
        }
        let too_many = self.spans.len().saturating_sub(KEPT + 1);
        self.spans.drain(..too_many).map(|span| span.number).collect()
    }

    /// All of them, to be renewed.
    pub(super) fn all(&self) -> Vec<(u32, Txid)> {
        self.spans.iter().map(|span| (span.number, span.start)).collect()
    }
}

/// The number of a generation's first span: one that clients of other databases and generations do not have, so that none
/// of them takes this database for its own.
fn first_number(generation: GenerationId) -> u32 {
    let text = generation.to_string();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let last = digits.get(digits.len().saturating_sub(7)..).unwrap_or_default();
    2 + u32::from_str_radix(last, 16).unwrap_or_default()
}
