//! A whole segment in memory.

use super::error::Expected::Exactly;
use super::error::{FormatError, Part, check};
use super::header::Form;
use super::{Entry, Group, GroupScratch, OpenError, SegmentInfo, SegmentTally};

/// A whole segment in memory: index and trailer are verified, groups when they are decoded.
#[derive(Debug, Clone)]
pub struct SegmentBytes<'a> {
    info: SegmentInfo,
    /// The object that holds the groups, which the index's offsets refer to.
    groups: &'a [u8],
}

impl<'a> SegmentBytes<'a> {
    /// A segment that is one object.
    pub fn parse(object: &'a [u8]) -> Result<SegmentBytes<'a>, FormatError> {
        let info = open_whole(object)?;
        let external = u64::from(info.trailer().form == Form::External);
        check(Part::Header, "flag of groups in a companion object", Exactly(0), external)?;
        Ok(SegmentBytes { info, groups: object })
    }

    /// A segment whose groups are in a companion object.
    pub fn parse_external(object: &'a [u8], companion: &'a [u8]) -> Result<SegmentBytes<'a>, FormatError> {
        let info = open_whole(object)?;
        let external = u64::from(info.trailer().form == Form::External);
        check(Part::Header, "flag of groups in a companion object", Exactly(1), external)?;
        info.check_companion(companion, companion.len() as u64)?;
        Ok(SegmentBytes { info, groups: companion })
    }

    /// Trailer and index.
    pub fn info(&self) -> &SegmentInfo {
        &self.info
    }

    /// Decodes the group at a position of the index.
    ///
    /// # Panics
    /// If the index has no such position.
    pub fn group(&self, number: usize, scratch: &mut GroupScratch) -> Result<Group, FormatError> {
        let group = &self.info.groups()[number];
        // The index ends where the groups do, which lies in the object: both were checked.
        let frame = &self.groups[group.offset as usize..group.end() as usize];
        Group::decode(frame, self.info.meta().page_size, number, group, scratch)
    }

    /// A cursor before the first entry.
    pub fn entries(&self) -> EntryCursor<'_> {
        EntryCursor {
            segment: self,
            scratch: GroupScratch::new(),
            tally: SegmentTally::new(),
            group: None,
            next_group: 0,
            position: 0,
        }
    }

    /// Verifies every byte, and that the entries are those that the trailer speaks of.
    pub fn verify(&self) -> Result<(), FormatError> {
        let mut cursor = self.entries();
        while cursor.next()?.is_some() {}
        Ok(())
    }
}

fn open_whole(object: &[u8]) -> Result<SegmentInfo, FormatError> {
    match SegmentInfo::open(object, object.len() as u64) {
        Ok(info) => Ok(info),
        Err(OpenError::Format(error)) => Err(error),
        Err(OpenError::NeedMore { .. }) => unreachable!("nothing is longer than the whole object"),
    }
}

/// Goes through the entries of a segment in memory, verifying group by group.
#[derive(Debug)]
pub struct EntryCursor<'a> {
    segment: &'a SegmentBytes<'a>,
    scratch: GroupScratch,
    tally: SegmentTally,
    group: Option<Group>,
    next_group: usize,
    /// Of the current entry in `group`.
    position: usize,
}

impl EntryCursor<'_> {
    /// The next entry, or `None` after the last; at that moment the whole segment is verified.
    #[allow(clippy::should_implement_trait, reason = "the entry borrows the cursor's group")]
    pub fn next(&mut self) -> Result<Option<Entry<'_>>, FormatError> {
        self.advance()?;
        Ok(self.current())
    }

    /// The entry that the cursor is at: none before the first, and after the last.
    pub fn current(&self) -> Option<Entry<'_>> {
        self.group.as_ref().and_then(|group| group.get(self.position))
    }

    /// Goes to the next entry.
    fn advance(&mut self) -> Result<(), FormatError> {
        if self.group.as_ref().is_some_and(|group| self.position + 1 < group.len()) {
            self.position += 1;
            return Ok(());
        }
        if let Some(done) = self.group.take() {
            self.scratch.recycle(done);
        }
        if self.next_group == self.segment.info.groups().len() {
            return self.tally.check(&self.segment.info);
        }
        let group = self.segment.group(self.next_group, &mut self.scratch)?;
        self.tally.add(&group, &self.segment.info);
        self.group = Some(group);
        self.next_group += 1;
        self.position = 0;
        Ok(())
    }
}
