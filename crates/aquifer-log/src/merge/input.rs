//! One segment of a merge: a cursor over the groups that were fetched of it.

use std::collections::VecDeque;

use aquifer_format::Pgno;
use aquifer_format::segment::{Entry, Group, GroupScratch, SegmentTally};

use crate::error::LogError;
use crate::segment_io::{FetchedGroups, SegmentHandle};

#[derive(Debug)]
pub(super) struct Input {
    handle: SegmentHandle,
    fetched: VecDeque<FetchedGroups>,
    /// Number of the next group to decode.
    next_group: usize,
    group: Option<Group>,
    /// Of the current entry in `group`.
    position: usize,
    scratch: GroupScratch,
    tally: SegmentTally,
}

/// What an input came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Advanced {
    /// The entry of this page.
    At(Pgno),
    /// The end of what was fetched.
    Starved,
    /// Its end: everything of it has been read and verified.
    Ended,
}

impl Input {
    pub(super) fn new(handle: SegmentHandle) -> Input {
        Input {
            handle,
            fetched: VecDeque::new(),
            next_group: 0,
            group: None,
            position: 0,
            scratch: GroupScratch::new(),
            tally: SegmentTally::new(),
        }
    }

    /// Pieces fetched and not used up.
    pub(super) fn ready(&self) -> usize {
        self.fetched.len()
    }

    /// Takes the groups that follow those fetched before.
    pub(super) fn feed(&mut self, groups: FetchedGroups) {
        self.fetched.push_back(groups);
    }

    pub(super) fn current(&self) -> Option<Entry<'_>> {
        self.group.as_ref().and_then(|group| group.get(self.position))
    }

    /// Goes to the next entry. After `Starved`, again when it was fed.
    pub(super) fn advance(&mut self, decoded: &mut usize) -> Result<Advanced, LogError> {
        self.position += 1;
        if let Some(entry) = self.current() {
            return Ok(Advanced::At(entry.pgno));
        }
        if let Some(done) = self.group.take() {
            self.scratch.recycle(done);
        }
        if self.next_group == self.handle.info().groups().len() {
            self.tally.check(self.handle.info()).map_err(|e| self.handle.damaged(e))?;
            return Ok(Advanced::Ended);
        }
        while self.fetched.front().is_some_and(|piece| piece.numbers().end <= self.next_group) {
            self.fetched.pop_front();
        }
        let Some(piece) = self.fetched.front() else { return Ok(Advanced::Starved) };
        let group = piece.decode(self.next_group, &mut self.scratch)?;
        self.tally.add(&group, self.handle.info());
        *decoded += 1;
        self.next_group += 1;
        if self.next_group == piece.numbers().end {
            self.fetched.pop_front();
        }
        self.position = 0;
        let first = group.get(0).map(|entry| entry.pgno);
        self.group = Some(group);
        // No group is empty.
        Ok(first.map_or(Advanced::Ended, Advanced::At))
    }
}
