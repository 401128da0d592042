//! Pages that somebody else made, as one transaction and one batch of their own.
//!
//! # The invariant
//! Whoever applies pages has made them from exactly one revision. They are written only on top of that one: writers are
//! kept out while all that came before is captured and numbered, and until the pages are committed. What others commit
//! before the batch is captured may be part of it; it tells ([`SegmentMeta::commits`]).
//!
//! [`SegmentMeta::commits`]: aquifer_format::segment::SegmentMeta::commits

use std::collections::VecDeque;
use std::time::Duration;

use aquifer_format::{Pgno, Revision, Txid};
use aquifer_sqlite::PageTransaction;
use tokio::sync::oneshot;

use super::capturing::capture_all;
use super::{NextBatch, Replica};
use crate::{Error, Result};

/// How long other writers are waited for at a time: nothing is shipped meanwhile. Whoever applies asks again.
const PATIENCE: Duration = Duration::from_millis(100);

/// Pages to be written together.
pub struct PageWrite {
    /// Decides, with the revision before it, whether it is made for that one. Writers wait meanwhile: it must not.
    pub fits: Box<dyn FnOnce(Revision) -> bool + Send>,
    /// Each page once.
    pub pages: Vec<(Pgno, Vec<u8>)>,
    /// Pages of the database afterwards; `None`: as many as before.
    pub size: Option<u32>,
    /// What is said of it in its segment, see [`SegmentMeta::frames`](aquifer_format::segment::SegmentMeta::frames).
    pub frames: u32,
}

impl std::fmt::Debug for PageWrite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PageWrite")
            .field("pages", &self.pages.len())
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It is in this revision, which is durable.
    At(Revision),
    /// It was made for another revision; nothing was changed.
    DoesNotFit,
}

pub(super) type Asked = oneshot::Sender<Result<Applied>>;

/// Who waits for what was applied to become durable. Those who wait when a replica starts anew learn nothing: whether it
/// is in the store is for them to find out.
#[derive(Debug, Default)]
pub(super) struct Applies {
    asked: VecDeque<(PageWrite, Asked)>,
    captured: VecDeque<(Txid, Asked)>,
}

impl Applies {
    pub(super) fn ask(&mut self, write: PageWrite, asked: Asked) {
        self.asked.push_back((write, asked));
    }

    pub(super) fn are_asked(&self) -> bool {
        !self.asked.is_empty()
    }

    pub(super) fn answer(&mut self, durable: Revision) {
        while self.captured.front().is_some_and(|(txid, _)| *txid <= durable.txid) {
            if let Some((txid, asked)) = self.captured.pop_front() {
                let _ = asked.send(Ok(Applied::At(Revision { txid, ..durable })));
            }
        }
    }
}

impl Replica {
    /// Applies the next pages that wait. The database must be captured.
    pub(super) async fn apply(&mut self) -> Result<()> {
        let Some((write, asked)) = self.applies.asked.pop_front() else { return Ok(()) };
        match self.try_apply(write).await {
            Ok(Some(txid)) => self.applies.captured.push_back((txid, asked)),
            Ok(None) => drop(asked.send(Ok(Applied::DoesNotFit))),
            Err(error) if error.is_transient() => drop(asked.send(Err(error))),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// `None`: they do not fit.
    async fn try_apply(&mut self, write: PageWrite) -> Result<Option<Txid>> {
        let path = self.path.clone();
        let (begun, batches) = self
            .with_capture(move |capture, mut next| {
                let mut batches = Vec::new();
                let begun = PageTransaction::begin(&path, PATIENCE).map_err(Error::from);
                let begun =
                    begun.and_then(|begun| capture_all(capture, &mut next, &mut batches).map(|()| begun));
                (begun, batches)
            })
            .await?;
        // Whatever became of the rest: what was captured is to be shipped.
        self.take_batches(batches)?;
        let begun = begun?;
        let before = Revision { generation: self.head.generation, txid: self.head.txid };
        let frames = write.frames;
        let applied = self
            .with_capture(move |capture, next| {
                if write_pages(begun, write, before)? {
                    capture.next_batch(&NextBatch { frames, ..next }).map(Some)
                } else {
                    Ok(None)
                }
            })
            .await??;
        let Some(batch) = applied else { return Ok(None) };
        self.take_batches(batch.into_iter().collect())?;
        Ok(Some(self.head.txid))
    }
}

/// Writes the pages and commits them, if they fit.
fn write_pages(mut transaction: PageTransaction, write: PageWrite, before: Revision) -> Result<bool> {
    if !(write.fits)(before) {
        return Ok(false);
    }
    let mut changes = false;
    let mut page = vec![0; transaction.page_size().bytes()];
    for (pgno, content) in &write.pages {
        changes |= !transaction.read(*pgno, &mut page)? || page != *content;
        transaction.write(*pgno, content)?;
    }
    if !changes && transaction.read(Pgno::ONE, &mut page)? {
        // It must get a txid, to be told from one that was lost. SQLite counts commits in page 1 where it is written.
        transaction.write(Pgno::ONE, &page)?;
    }
    let size = write.size.unwrap_or(transaction.pages());
    transaction.commit(size)?;
    Ok(true)
}
