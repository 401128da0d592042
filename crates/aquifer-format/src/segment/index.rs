//! Which group holds which pages.

use super::error::Expected::{AtLeast, AtMost, Exactly};
use super::error::{Damage, FormatError, Part, check};
use super::frame::FRAME_HEADER_LEN;
use super::{HEADER_LEN, MAX_FRAME, varint};
use crate::Pgno;

/// Least bytes of a frame: a header, one hash, and a table entry of two bytes.
const MIN_FRAME: usize = FRAME_HEADER_LEN + 8 + 2;

/// A group, as the index knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupRef {
    /// Its first page.
    pub first: Pgno,
    /// Its last page, inclusive.
    pub last: Pgno,
    /// Offset of its frame, in the object that holds the groups.
    pub offset: u64,
    /// Bytes of its frame, header included: at most [`MAX_FRAME`].
    pub len: u32,
}

impl GroupRef {
    /// Offset of the byte after its frame.
    pub fn end(&self) -> u64 {
        self.offset + u64::from(self.len)
    }
}

/// All groups of a segment, ascending by page and by offset.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Index {
    groups: Vec<GroupRef>,
}

impl Index {
    /// Reads the index; it must be exactly `bytes`, and describe groups that end at `groups_end`.
    ///
    /// Memory is at most 8 times `bytes`, whatever `group_count` claims.
    pub(super) fn parse(
        bytes: &[u8],
        group_count: u32,
        groups_end: u64,
        last_page: u32,
    ) -> Result<Index, FormatError> {
        // Three numbers of a byte or more each.
        check(Part::Index, "number of groups", AtMost(bytes.len() as u64 / 3), u64::from(group_count))?;
        let mut groups = Vec::with_capacity(group_count as usize);
        let mut rest = bytes;
        let mut number = || {
            let (value, after) = varint::take(rest).ok_or(FormatError::Damaged {
                part: Part::Index,
                damage: Damage::Truncated { expected: bytes.len() as u64 + 1, found: bytes.len() as u64 },
            })?;
            rest = after;
            Ok(value)
        };
        let (mut previous, mut offset) = (0, HEADER_LEN as u64);
        for _ in 0..group_count {
            let gap = number()?;
            check(Part::Index, "pages from one group to the next", AtLeast(1), gap)?;
            let first = previous + gap;
            let last = first + number()?;
            check(Part::Index, "last page of a group", AtMost(u64::from(last_page)), last)?;
            let len = number()?;
            check(Part::Index, "length of a group", AtLeast(MIN_FRAME as u64), len)?;
            check(Part::Index, "length of a group", AtMost(MAX_FRAME as u64), len)?;
            // Both are at most `last_page`, a u32, and at least 1.
            let (Some(first), Some(last_pgno)) = (Pgno::new(first as u32), Pgno::new(last as u32)) else {
                unreachable!("1 <= first <= last <= u32::MAX");
            };
            groups.push(GroupRef { first, last: last_pgno, offset, len: len as u32 });
            previous = last;
            offset += len;
        }
        check(Part::Index, "bytes after the last group's entry", Exactly(0), rest.len() as u64)?;
        check(Part::Index, "end of the last group", Exactly(groups_end), offset)?;
        Ok(Index { groups })
    }

    pub(super) fn push(&mut self, group: GroupRef) {
        self.groups.push(group);
    }

    /// The inverse of [`Index::parse`].
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let mut previous = 0;
        for group in &self.groups {
            varint::put(out, u64::from(group.first.get() - previous));
            varint::put(out, u64::from(group.last.get() - group.first.get()));
            varint::put(out, u64::from(group.len));
            previous = group.last.get();
        }
    }

    /// The groups, ascending.
    pub fn groups(&self) -> &[GroupRef] {
        &self.groups
    }

    /// Number and place of the only group that may have an entry for `pgno`.
    pub fn find(&self, pgno: Pgno) -> Option<(usize, &GroupRef)> {
        let number = self.groups.partition_point(|group| group.last < pgno);
        self.groups.get(number).filter(|group| group.first <= pgno).map(|group| (number, group))
    }
}
