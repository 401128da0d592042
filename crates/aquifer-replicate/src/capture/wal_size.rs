//! Keeps the application's WAL small without standing in its way.
//!
//! While we hold the checkpoint lock, the application's automatic checkpoints do nothing (they ignore that another one
//! is under way), so its commits never pay for one: copying frames into the database file is up to us. It is done in
//! steps, the cheapest first:
//!
//! 1. *Copy*: a passive checkpoint up to the pin, every [`WalLimits::soft`] bytes of frames. Blocks nobody.
//! 2. *Let go*: where that copied everything, because no commit came in meanwhile, the pin becomes loose and the
//!    next writer resets the WAL by itself. Any pause between two commits is enough.
//! 3. *Freeze*: a WAL beyond [`WalLimits::hard`] has met no pause. Then everything is flushed first, writers are kept
//!    out for the few frames that came in since, and step 2 is certain, unless a reader of the application still needs
//!    an older snapshot. Their busy timeout covers it: a few milliseconds in every [`WalLimits::hard`] bytes.

use std::time::{Duration, Instant};

use super::{Batch, Capture, NextBatch};
use crate::Result;

/// Sizes in bytes of WAL frames at which steps are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalLimits {
    /// Frames not yet copied into the database file that cause a copy.
    pub soft: u64,
    /// Size of a WAL from which writers are kept out for a moment, to have it reset.
    pub hard: u64,
    /// Size of a WAL from which [views](crate::RevisionView) that are still open are given up: it cannot be reset under
    /// them.
    pub viewed: u64,
    /// The longest that is waited for a gap between two writers, before they are kept out.
    pub patience: Duration,
}

impl Default for WalLimits {
    fn default() -> WalLimits {
        WalLimits { soft: 4 << 20, hard: 64 << 20, viewed: 1 << 30, patience: Duration::from_millis(20) }
    }
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WalReport {
    /// Bytes of frames in the WAL that the next writer has to keep: none if it can reset it.
    pub wal_bytes: u64,
    /// How long writers were kept out, if they were.
    pub frozen: Option<Duration>,
    /// Whether the next writer can reset the WAL.
    pub resettable: bool,
}

#[derive(Debug, Default)]
pub(super) struct WalState {
    /// Frames known to be in the database file.
    backfilled: u32,
    /// After a freeze that a reader spoilt: the WAL's size from which to try again.
    next_freeze: u64,
}

impl Capture {
    /// Takes the steps that the WAL's size asks for. May capture a batch of its own: what came in while it was at it.
    pub fn tend_wal(&mut self, next: &NextBatch) -> Result<(WalReport, Option<Batch>)> {
        let frame = (self.page_size().bytes() + aquifer_sqlite::wal::FRAME_HEADER_LEN) as u64;
        let frames = self.database.position().frame;
        let mut report = WalReport { wal_bytes: u64::from(frames) * frame, ..WalReport::default() };
        if frames < self.wal_state.backfilled {
            self.wal_state = WalState::default();
        }
        let uncopied = u64::from(frames - self.wal_state.backfilled) * frame;
        if uncopied >= self.limits.soft / 2 {
            // In good time: the application checkpoints by itself from 1,000 frames on.
            self.database.hold_checkpoints()?;
        }
        if uncopied < self.limits.soft {
            return Ok((report, None));
        }
        if self.copy_and_let_go()? {
            return Ok((WalReport { resettable: true, ..WalReport::default() }, None));
        }
        if report.wal_bytes < self.limits.hard.max(self.wal_state.next_freeze) {
            return Ok((report, None));
        }
        self.database.sync()?;
        if !self.freeze()? {
            return Ok((report, None));
        }
        let since = Instant::now();
        let done = self.copy_while_frozen(next);
        self.database.thaw();
        let frozen = since.elapsed();
        tracing::debug!(path = %self.path.display(), ?frozen, wal_bytes = report.wal_bytes, "writers were kept out");
        report.frozen = Some(frozen);
        let (resettable, batch) = done?;
        report.resettable = resettable;
        if resettable {
            report.wal_bytes = 0;
        }
        self.wal_state.next_freeze = if resettable { 0 } else { report.wal_bytes + self.limits.hard / 4 };
        Ok((report, batch))
    }

    /// With nothing left to capture, brings the database file up to date and lets go of the WAL.
    pub fn rest(&mut self) -> Result<()> {
        if self.database.position().frame > 0 {
            self.copy_and_let_go()?;
        }
        self.database.release_checkpoints();
        self.database.forget_recent();
        Ok(())
    }

    /// Whether the next writer can reset the WAL now.
    fn copy_and_let_go(&mut self) -> Result<bool> {
        let backfill = match self.database.checkpoint() {
            Ok(backfill) => backfill,
            Err(e) if e.is_transient() => return Ok(false),
            Err(e) => return Err(e.into()),
        };
        self.wal_state.backfilled = backfill.backfilled;
        Ok(backfill.is_complete() && self.database.let_go()?)
    }

    fn freeze(&mut self) -> Result<bool> {
        let since = Instant::now();
        while !self.database.try_freeze()? {
            if since.elapsed() > self.limits.patience {
                return Ok(false);
            }
            // As SQLite's own busy handler does: there is nothing to be woken by.
            std::thread::sleep(Duration::from_micros(100));
        }
        Ok(true)
    }

    fn copy_while_frozen(&mut self, next: &NextBatch) -> Result<(bool, Option<Batch>)> {
        let batch = self.next_batch(next)?;
        match self.copy_and_let_go() {
            // What is captured is the caller's, whatever comes of the WAL.
            Err(error) if batch.is_some() => {
                tracing::warn!(path = %self.path.display(), %error, "the WAL could not be copied");
                Ok((false, batch))
            }
            done => Ok((done?, batch)),
        }
    }
}
