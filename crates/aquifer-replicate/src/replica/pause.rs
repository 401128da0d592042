//! Capture that waits for room on disk.
//!
//! Where staging has reached its bound, or the disk is full, the database is let go of: its WAL is not held, and the
//! application is not kept from anything. What it commits meanwhile is found by comparing pages with the map of what
//! was captured last, which stays in memory: the disk may have no room for it.

use std::time::Instant;

use super::{RETRY_MAX, RETRY_MIN, Replica, recovery};
use crate::capture::Capture;
use crate::state::{Head, MapFile, PageMap};
use crate::{Error, Result};

/// Nothing is captured for now.
#[derive(Debug)]
pub(super) struct Pause {
    map: PageMap,
    /// For people.
    pub(super) reason: String,
    /// Not before this.
    until: Instant,
}

impl Replica {
    /// Lets go of the database until what was captured is durable, and at least for a moment.
    pub(super) fn pause(&mut self, reason: String) {
        let wait = self.room_wait.map_or(RETRY_MIN, |wait| (wait * 2).min(RETRY_MAX));
        self.room_wait = Some(wait);
        let map = match (self.capture.take(), self.paused.take()) {
            (Some(capture), _) => capture.map().clone(),
            (None, Some(paused)) => paused.map,
            (None, None) => return,
        };
        tracing::warn!(database = %self.database.name(), reason, "capture pauses; what is committed meanwhile is found by comparing");
        self.paused = Some(Pause { map, reason, until: Instant::now() + wait });
    }

    /// Hashes of the image that was captured last, if they are in memory.
    pub(super) fn map(&self) -> Option<&PageMap> {
        self.capture.as_ref().map(Capture::map).or(self.paused.as_ref().map(|paused| &paused.map))
    }

    /// Whether a pause is over.
    pub(super) fn may_resume(&self) -> bool {
        self.queue.is_empty() && self.paused.as_ref().is_none_or(|paused| paused.until <= Instant::now())
    }

    /// Takes a capture up again that was given up.
    pub(super) async fn resume_capture(&mut self) -> Result<Capture> {
        let known = match self.paused.take() {
            Some(paused) => Some((self.head, paused.map)),
            None => Some(self.recorded()?),
        };
        recovery::open_capture(&self.path, known, &self.options, &self.shared, &self.directory).await
    }

    /// What was captured last, as it is on disk.
    fn recorded(&self) -> Result<(Head, PageMap)> {
        let (_, local) = MapFile::load(self.directory.path()).map_err(Error::state(self.directory.path()))?;
        // Anything else would be an image that the next batch does not build on.
        local.filter(|(head, _)| head.txid == self.head.txid).ok_or_else(|| Error::Behind {
            database: self.database.name().to_string(),
            after: self.behind_queue(),
            writer: self.head.writer,
        })
    }

    /// Does something that needs room on disk. Without room, capture pauses; what was to be done can be done later.
    pub(super) fn with_room(&mut self, done: Result<()>) -> Result<()> {
        match done {
            Err(e) if e.is_full() => {
                self.status.send_modify(|s| s.errors += 1);
                self.pause(e.to_string());
                Ok(())
            }
            done => done,
        }
    }
}
