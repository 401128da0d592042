//! A step: what is committed becomes batches that wait to be put.

use std::time::Instant;

use super::{Pending, Replica};
use crate::capture::{Batch, Capture, NextBatch};
use crate::state::Head;
use crate::{Error, Result};

impl Replica {
    /// Captures one batch, and tends the WAL.
    pub(super) async fn step(&mut self) -> Result<()> {
        self.asleep = None;
        if self.capture.is_none() {
            self.capture = Some(self.resume_capture().await?);
        }
        let step = self.with_capture(capture_step).await?;
        let found = !step.batches.is_empty();
        self.views.were_looked_for();
        self.take_batches(step.batches)?;
        let wal_bytes = match step.wal_bytes {
            Ok(wal_bytes) => wal_bytes,
            Err(e) if e.is_full() => {
                self.with_room(Err(e))?;
                0
            }
            // The database was removed. What was captured of it is still to be shipped.
            Err(e) if e.is_without_database() && !self.queue.is_empty() => {
                self.pause(e.to_string());
                0
            }
            Err(e) if e.is_transient() && !e.is_without_database() => {
                // Another process recovers its WAL, say. The pin holds. It stays dirty: nobody may be told that all is
                // durable, and the next look is soon.
                self.last_commit = Instant::now();
                return Ok(());
            }
            Err(e) => return Err(e),
        };
        // After a batch there may be more: commits that came in while it was encoded. Where the next batch has to wait,
        // that is found out now, since nothing to ship is no lag. And what was not captured for want of room is still to
        // be.
        let is_held = !self.options.interval.is_zero() && !self.is_asked();
        let may_be_more = found && (!is_held || self.capture.as_mut().is_none_or(Capture::may_have_changed));
        self.dirty = may_be_more || self.paused.is_some();
        if self.paused.is_none() {
            self.syncs.are_captured(self.head.txid);
        }
        if wal_bytes > self.options.wal.viewed {
            self.views.give_up();
        }
        self.status.send_modify(|s| s.wal_bytes = wal_bytes);
        Ok(())
    }

    /// Runs something with the capture on a worker.
    pub(super) async fn with_capture<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Capture, NextBatch) -> T + Send + 'static,
    ) -> Result<T> {
        let Some(mut capture) = self.capture.take() else {
            return Err(Error::Stopped("the database is not captured at the moment".into()));
        };
        let next = self.next_batch();
        let (capture, done) = self
            .shared
            .workers
            .run(move || {
                let done = work(&mut capture, next);
                (capture, done)
            })
            .await;
        self.capture = Some(capture);
        Ok(done)
    }

    fn next_batch(&self) -> NextBatch {
        NextBatch {
            txid: self.head.txid.next(),
            writer: self.head.writer,
            frames: 0,
            not_before: self.head.last_commit,
        }
    }

    /// Takes over what was captured, to be put.
    pub(super) fn take_batches(&mut self, batches: Vec<Batch>) -> Result<()> {
        if batches.is_empty() {
            return Ok(());
        }
        for batch in batches {
            self.enqueue(batch);
        }
        self.room_wait = None;
        self.last_commit = Instant::now();
        self.resting = false;
        if self.queue.len() > 1 {
            let staged = self.stage_all();
            self.with_room(staged)?;
        }
        Ok(())
    }

    fn enqueue(&mut self, batch: Batch) {
        let meta = batch.meta();
        self.head = Head {
            txid: meta.range.last,
            last_commit: meta.last_commit,
            wal: batch.wal,
            page_size: meta.page_size,
            ..self.head
        };
        self.status.send_modify(|s| s.captured_bytes += batch.wal_bytes);
        if let Some(tracker) = &self.tracker {
            tracker.captured(meta, batch.changes.iter().map(|change| change.0));
        }
        self.queue.push_back(Pending {
            info: batch.encoded.info,
            body: batch.encoded.body,
            head: self.head,
            changes: batch.changes,
            staged: None,
            captured: Instant::now(),
        });
    }
}

struct Step {
    batches: Vec<Batch>,
    /// Bytes of frames in the WAL, or why there are not more batches.
    wal_bytes: Result<u64>,
}

/// Captures everything that is committed. What was captured before an error is in `batches`, and stays captured.
pub(super) fn capture_all(
    capture: &mut Capture,
    next: &mut NextBatch,
    batches: &mut Vec<Batch>,
) -> Result<()> {
    // Comparing sees the database as it was when it was opened, which may be a while ago.
    let looks = if capture.is_comparing() { 2 } else { 1 };
    for _ in 0..looks {
        if let Some(batch) = capture.next_batch(next)? {
            next.txid = next.txid.next();
            next.not_before = batch.meta().last_commit;
            batches.push(batch);
        }
    }
    Ok(())
}

fn capture_step(capture: &mut Capture, mut next: NextBatch) -> Step {
    let mut batches = Vec::new();
    let wal_bytes = (|| {
        capture_all(capture, &mut next, &mut batches)?;
        match capture.tend_wal(&next) {
            Ok((report, batch)) => {
                batches.extend(batch);
                Ok(report.wal_bytes)
            }
            // The batch is captured; the WAL can wait.
            Err(e) if e.is_transient() || e.is_full() => Ok(0),
            Err(e) => Err(e),
        }
    })();
    Step { batches, wal_bytes }
}
