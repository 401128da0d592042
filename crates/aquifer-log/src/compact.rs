//! Compaction: adjacent segments become one, so that a plan needs few of them.
//!
//! Level n consists of *blocks* of `fanout`^n txids each, aligned: block b of level 1 covers the txids
//! 2 + b·fanout to 1 + (b+1)·fanout, and so on. Txid 1 is in none, as it often is the whole database. So what a
//! compactor does next follows from what is in the store alone, whoever does it: two of them write segments of the
//! same ranges that say the same, and the one that comes second finds it done. Nothing is deleted here: that is
//! retention's work.

use std::num::NonZeroU8;

use aquifer_format::{GenerationId, Txid, TxidRange};
use futures::stream::{self, StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

use crate::database::DatabaseStore;
use crate::error::LogError;
use crate::layout::{Level, SegmentKey};
use crate::merge::{Merge, reduce};
use crate::plan::Routes;
use crate::segment_io::SegmentHandle;
use crate::segment_write::{Written, write_merged};

/// Segments opened at a time.
const OPENING: usize = 32;

/// How segments are compacted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Levels {
    /// Segments of a level that become one of the next, at least 2. More mean fewer requests and longer plans.
    pub fanout: u32,
    /// Number of the highest level; 0 for no compaction.
    pub highest: u8,
}

impl Default for Levels {
    /// 32 segments to one, and up to a million txids in a segment: a plan then has at most about a hundred and
    /// fifty, and compaction costs a thirtieth more puts.
    fn default() -> Levels {
        Levels { fanout: 32, highest: 4 }
    }
}

impl Levels {
    /// No compaction.
    pub const NONE: Levels = Levels { fanout: 2, highest: 0 };

    /// Txids in a block of a level; `None` where that is beyond all bounds.
    fn block(self, level: u8) -> Option<u64> {
        u64::from(self.fanout.max(2)).checked_pow(u32::from(level))
    }

    /// The end of the last block that ends at or before a txid; 1 if there is none.
    fn aligned(self, level: u8, txid: Txid) -> Txid {
        let block = self.block(level).unwrap_or(u64::MAX);
        Txid::new(1 + txid.get().saturating_sub(1) / block * block)
    }
}

/// Compacts a generation as it grows. Needs no requests unless a block is complete.
#[derive(Debug)]
pub struct Compactor {
    db: DatabaseStore,
    generation: GenerationId,
    levels: Levels,
    /// For each level from 1 the end of the last block that needs no more work; `None` until it was looked up.
    done: Option<Vec<Txid>>,
}

impl Compactor {
    /// For this generation. No I/O.
    pub fn new(db: DatabaseStore, generation: GenerationId, levels: Levels) -> Compactor {
        Compactor { db, generation, levels, done: None }
    }

    /// The last txid that is in a block of level 1, or passed by; 1 if there is none.
    pub fn compacted_to(&self) -> Txid {
        self.done.as_ref().and_then(|done| done.first().copied()).unwrap_or(Txid::FIRST)
    }

    /// Writes the next segment that is due when `head` is the last durable txid; `None` if none is.
    ///
    /// Cancel-safe: what was not done is done by the next call.
    pub async fn step(&mut self, head: Txid) -> Result<Option<Written>, LogError> {
        if self.levels.highest == 0 || self.levels.aligned(1, head) == Txid::FIRST {
            return Ok(None);
        }
        if self.done.is_none() {
            self.done = Some(self.look_up().await?);
        }
        for level in 1..=self.levels.highest {
            while let Some(range) = self.next_block(level, head) {
                let inputs = self.inputs(level, range).await?;
                if inputs.is_empty() {
                    let next = self.skip(level, range, head).await?;
                    self.set_done(level, next);
                    continue;
                }
                let written = self.compact(level, range, inputs).await?;
                self.set_done(level, range.last);
                return Ok(Some(written));
            }
        }
        Ok(None)
    }

    fn done(&self, level: u8) -> Txid {
        let done = self.done.as_ref().and_then(|done| done.get(usize::from(level) - 1));
        done.copied().unwrap_or(Txid::FIRST)
    }

    fn set_done(&mut self, level: u8, txid: Txid) {
        if let Some(done) = self.done.as_mut().and_then(|done| done.get_mut(usize::from(level) - 1)) {
            *done = txid;
        }
    }

    /// The next block of a level, if everything in it is there.
    fn next_block(&self, level: u8, head: Txid) -> Option<TxidRange> {
        let done = self.done(level);
        let last = Txid::new(done.get().checked_add(self.levels.block(level)?)?);
        let there = if level == 1 { head } else { self.done(level - 1) };
        (last <= there).then_some(TxidRange { first: done.next(), last })
    }

    /// Where compaction stands, by what is in the store: a level need be listed only from where the one above
    /// ends.
    async fn look_up(&self) -> Result<Vec<Txid>, LogError> {
        let mut done = Vec::new();
        let mut above = Txid::FIRST;
        for level in (1..=self.levels.highest).rev() {
            let mut listing = self.db.segments(self.generation, Level::number(level), above.previous());
            let mut end = above;
            while let Some(listed) = listing.try_next().await? {
                end = end.max(listed.segment.range.last);
            }
            // Segments of other settings may end anywhere.
            done.push(self.levels.aligned(level, end));
            above = end;
        }
        done.reverse();
        Ok(done)
    }

    /// The segments that make up a block; none if some are not there.
    async fn inputs(&self, level: u8, range: TxidRange) -> Result<Vec<SegmentHandle>, LogError> {
        let Some(step) = self.levels.block(level - 1) else { return Ok(Vec::new()) };
        let parts = (0..u64::from(self.levels.fanout.max(2))).map(|n| {
            let first = Txid::new(range.first.get() + n * step);
            let range = TxidRange { first, last: Txid::new(first.get() + step - 1) };
            SegmentKey { level: Level::number(level - 1), range }
        });
        if let Some(inputs) = self.open(parts.collect()).await? {
            return Ok(inputs);
        }
        // Not as these settings would have made them: perhaps others cover the block.
        let mut listed = Vec::new();
        for level in (0..level).rev() {
            let from = range.first.previous();
            let mut listing = self.db.segments(self.generation, Level::number(level), from);
            while let Some(segment) = listing.try_next().await? {
                if segment.segment.range.first > range.last {
                    break;
                }
                listed.push(segment);
            }
        }
        let way = Routes::new(range.first.previous(), listed).to(range.last);
        let way = way.into_iter().flatten().map(|s| s.segment).collect();
        Ok(self.open(way).await?.unwrap_or_default())
    }

    /// Opens segments; `None` if one of them is not there.
    async fn open(&self, segments: Vec<SegmentKey>) -> Result<Option<Vec<SegmentHandle>>, LogError> {
        let opening = stream::iter(segments).map(|segment| self.db.open_segment(self.generation, segment));
        match opening.buffered(OPENING).try_collect().await {
            Ok(handles) => Ok(Some(handles)),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The end of the block before the one to go on with, after one whose segments are not there: retention has
    /// removed them, as a rule with many others.
    async fn skip(&self, level: u8, range: TxidRange, head: Txid) -> Result<Txid, LogError> {
        tracing::debug!(
            database = %self.db.name(), generation = %self.generation, level, txids = %range,
            "not compacting: the segments are not there"
        );
        let mut next = self.levels.aligned(level, if level == 1 { head } else { self.done(level - 1) });
        for below in 0..level {
            let listed =
                self.db.segments(self.generation, Level::number(below), range.first).try_next().await?;
            if let Some(listed) = listed {
                // The block that it lies in; if it does not begin it, this will come again.
                next = next.min(self.levels.aligned(level, listed.segment.range.first));
            }
        }
        Ok(next.max(range.last))
    }

    async fn compact(
        &self,
        level: u8,
        range: TxidRange,
        inputs: Vec<SegmentHandle>,
    ) -> Result<Written, LogError> {
        let segment = match NonZeroU8::new(level) {
            Some(level) => SegmentKey::compacted(level, range),
            None => unreachable!("level 0 is not compacted to"),
        };
        let bytes = inputs.iter().map(|s| s.info().stored_len()).sum();
        let reduced = reduce(inputs).await?;
        let merge = Merge::new(&reduced.segments)?;
        let written = write_merged(&self.db, self.generation, segment, merge, bytes).await?;
        tracing::debug!(
            database = %self.db.name(), %segment, from_bytes = bytes,
            to_bytes = written.info.as_ref().map(|info| info.stored_len()),
            "compacted"
        );
        Ok(written)
    }
}
