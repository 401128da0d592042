//! Frames of transactions that are larger than a request.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

/// How long frames wait for the rest of their transaction.
const WAIT: Duration = Duration::from_mins(1);
/// Bytes that may wait for one database.
pub(super) const MOST: usize = 256 << 20;

/// Frames that wait for the rest, under the baton that their client was given.
#[derive(Debug, Default)]
pub(super) struct Staged {
    parts: HashMap<u64, Part>,
}

/// The beginning of a push.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) span: u32,
    /// The number of its first frame.
    pub(super) first: u32,
    /// The number of the frame that comes next.
    pub(super) next: u32,
    pub(super) frames: BytesMut,
    since: Instant,
}

impl Part {
    pub(super) fn new(span: u32, first: u32) -> Part {
        Part { span, first, next: first, frames: BytesMut::new(), since: Instant::now() }
    }

    pub(super) fn append(&mut self, frames: &Bytes, next: u32) {
        self.frames.extend_from_slice(frames);
        self.next = next;
        self.since = Instant::now();
    }
}

impl Staged {
    /// The part of a baton, if it continues with this frame. It is not here any more then.
    pub(super) fn take(&mut self, baton: u64, span: u32, next: u32) -> Option<Part> {
        self.forget_old();
        self.parts.remove(&baton).filter(|part| part.span == span && part.next == next)
    }

    /// Keeps a part under a new baton; `None` if there is no room.
    pub(super) fn keep(&mut self, part: Part) -> Option<u64> {
        self.forget_old();
        let held: usize = self.parts.values().map(|part| part.frames.len()).sum();
        if held + part.frames.len() > MOST {
            return None;
        }
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).ok()?;
        let baton = u64::from_ne_bytes(bytes);
        self.parts.insert(baton, part);
        Some(baton)
    }

    fn forget_old(&mut self) {
        self.parts.retain(|_, part| part.since.elapsed() < WAIT);
    }
}
