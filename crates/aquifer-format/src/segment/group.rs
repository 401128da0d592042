//! Reading a group: one frame becomes entries, checked and decompressed.

use std::ops::Range;

use xxhash_rust::xxh3::xxh3_64;

use super::error::Expected::{AtLeast, AtMost, Exactly};
use super::error::{Damage, FormatError, Part, check, wrong};
use super::frame::FRAME_HEADER_LEN;
use super::runs::Runs;
use super::{Entry, EntryKind, GroupRef, MAX_GROUP, codec, varint};
use crate::{PageHash, PageSize, Pgno};

/// A decoded group: every byte verified, every run known to stay inside its page.
#[derive(Debug)]
pub struct Group {
    page_size: PageSize,
    entries: Vec<Located>,
    payload: Vec<u8>,
}

/// An entry and where its runs are in the payload.
#[derive(Debug, Clone, Copy)]
struct Located {
    hash: PageHash,
    pgno: Pgno,
    start: u32,
    end: u32,
    kind: EntryKind,
}

/// The buffers of groups no longer needed, for those to come.
#[derive(Debug, Default)]
pub struct GroupScratch {
    spare: Vec<(Vec<Located>, Vec<u8>)>,
}

impl GroupScratch {
    /// Buffers kept at most, of up to about 0.5 MiB each.
    const SPARE: usize = 4;

    /// An empty one.
    pub fn new() -> GroupScratch {
        GroupScratch::default()
    }

    /// Takes back the buffers of a group, for the next.
    pub fn recycle(&mut self, group: Group) {
        if self.spare.len() < Self::SPARE {
            self.spare.push((group.entries, group.payload));
        }
    }
}

impl Group {
    /// Decodes group `number` (its position in the index, for errors) from its frame, which must be all of the
    /// bytes that `expected` describes.
    ///
    /// Allocates at most 128 KiB for the payload and 24 bytes per entry, of which there are at most 13,107.
    pub fn decode(
        frame: &[u8],
        page_size: PageSize,
        number: usize,
        expected: &GroupRef,
        scratch: &mut GroupScratch,
    ) -> Result<Group, FormatError> {
        let part = Part::Group { number, offset: expected.offset };
        if frame.len() < expected.len as usize || frame.len() < FRAME_HEADER_LEN {
            let damage = Damage::Truncated { expected: u64::from(expected.len), found: frame.len() as u64 };
            return Err(FormatError::Damaged { part, damage });
        }
        check(part, "length", Exactly(u64::from(expected.len)), frame.len() as u64)?;
        let header = FrameHeader::read(frame, part)?;
        header.check(part, page_size, expected)?;

        let (mut entries, mut payload) = scratch.spare.pop().unwrap_or_default();
        entries.clear();
        payload.clear();
        let hashes_end = FRAME_HEADER_LEN + 8 * header.entries as usize;
        header.unpack(&frame[hashes_end..], part, &mut payload)?;
        let hashes = &frame[FRAME_HEADER_LEN..hashes_end];
        header.read_table(&payload, hashes, part, page_size, &mut entries)?;
        for located in &entries {
            Runs::check(&payload[located.range()], page_size).map_err(|damage| FormatError::Damaged {
                part: Part::Entry { group: number, pgno: located.pgno },
                damage,
            })?;
        }
        Ok(Group { page_size, entries, payload })
    }

    /// Its entries, at least 1.
    #[allow(clippy::len_without_is_empty, reason = "no group is empty")]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// The entry at a position, from 0, if there are so many.
    pub fn get(&self, position: usize) -> Option<Entry<'_>> {
        self.entries.get(position).map(|located| self.entry(located))
    }

    /// The entries, ascending by page.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = Entry<'_>> + ExactSizeIterator {
        self.entries.iter().map(|located| self.entry(located))
    }

    /// The entry of a page, if it has one.
    pub fn find(&self, pgno: Pgno) -> Option<Entry<'_>> {
        let position = self.entries.binary_search_by_key(&pgno, |located| located.pgno).ok()?;
        self.get(position)
    }

    fn entry(&self, located: &Located) -> Entry<'_> {
        Entry {
            pgno: located.pgno,
            kind: located.kind,
            hash: located.hash,
            runs: Runs::trusted(&self.payload[located.range()], self.page_size),
        }
    }
}

impl Located {
    fn range(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

struct FrameHeader {
    stored_len: u32,
    raw_len: u32,
    entries: u32,
    first: u32,
    last: u32,
    codec: u8,
}

impl FrameHeader {
    /// Reads the header of a frame that has one, after verifying the checksum of the whole frame.
    fn read(frame: &[u8], part: Part) -> Result<FrameHeader, FormatError> {
        let expected = u64::from_le_bytes(std::array::from_fn(|i| frame[i]));
        let found = xxh3_64(&frame[8..]);
        if found != expected {
            return Err(FormatError::Damaged { part, damage: Damage::Checksum { expected, found } });
        }
        for &byte in &frame[29..32] {
            check(part, "reserved byte", Exactly(0), u64::from(byte))?;
        }
        let int = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| frame[at + i]));
        Ok(FrameHeader {
            stored_len: int(8),
            raw_len: int(12),
            entries: int(16),
            first: int(20),
            last: int(24),
            codec: frame[28],
        })
    }

    /// Checks all that can be checked before anything is allocated.
    fn check(&self, part: Part, page_size: PageSize, group: &GroupRef) -> Result<(), FormatError> {
        check(part, "number of entries", AtLeast(1), u64::from(self.entries))?;
        let unpacked = 8 * u64::from(self.entries) + u64::from(self.raw_len);
        check(part, "uncompressed length", AtMost(MAX_GROUP as u64), unpacked)?;
        // Two table bytes per entry.
        check(part, "number of entries", AtMost(u64::from(self.raw_len) / 2), u64::from(self.entries))?;
        let frame_len = FRAME_HEADER_LEN as u64 + 8 * u64::from(self.entries) + u64::from(self.stored_len);
        check(part, "length by its header", Exactly(u64::from(group.len)), frame_len)?;
        check(part, "first page", Exactly(u64::from(group.first.get())), u64::from(self.first))?;
        check(part, "last page", Exactly(u64::from(group.last.get())), u64::from(self.last))?;
        let lock_page = page_size.lock_page().get();
        if self.first == lock_page || self.last == lock_page {
            return Err(wrong(part, "a page", "any but the lock-byte page", u64::from(lock_page)));
        }
        match self.codec {
            codec::RAW => {
                check(part, "stored length", Exactly(u64::from(self.raw_len)), u64::from(self.stored_len))
            }
            codec::ZSTD => Ok(()),
            other => Err(wrong(part, "codec", "0 (raw) or 1 (zstd)", u64::from(other))),
        }
    }

    /// Fills the empty `payload` from the stored bytes.
    fn unpack(&self, stored: &[u8], part: Part, payload: &mut Vec<u8>) -> Result<(), FormatError> {
        if self.codec == codec::RAW {
            payload.extend_from_slice(stored);
            return Ok(());
        }
        codec::decompress(stored, self.raw_len as usize, payload)
            .map_err(|e| FormatError::Damaged { part, damage: Damage::Zstd(e.to_string()) })?;
        check(part, "decompressed length", Exactly(u64::from(self.raw_len)), payload.len() as u64)
    }

    /// Reads the table at the start of `payload`; the runs that it describes fill the rest exactly.
    fn read_table(
        &self,
        payload: &[u8],
        hashes: &[u8],
        part: Part,
        page_size: PageSize,
        entries: &mut Vec<Located>,
    ) -> Result<(), FormatError> {
        let lock_page = page_size.lock_page();
        let mut rest = payload;
        let mut number = || {
            let unfinished = || wrong(part, "number in the table", "one of at most 5 bytes", 0);
            let (value, after) = varint::take(rest).ok_or_else(unfinished)?;
            rest = after;
            Ok((value, payload.len() - after.len()))
        };
        let (mut previous, mut data_len, mut data_start) = (0, 0, 0);
        entries.reserve_exact(self.entries as usize);
        for hash in hashes.as_chunks::<8>().0 {
            let (key, _) = number()?;
            let (len, table_end) = number()?;
            check(part, "pages from one entry to the next", AtLeast(1), key >> 1)?;
            previous += key >> 1;
            let pgno = u32::try_from(previous).ok().and_then(Pgno::new);
            let pgno = pgno.filter(|&pgno| pgno.get() <= self.last && pgno != lock_page);
            let pgno = pgno.ok_or_else(|| {
                wrong(part, "page of an entry", "at most the group's last, not the lock-byte page", previous)
            })?;
            check(part, "bytes of an entry", AtMost(payload.len() as u64), len)?;
            let start = data_len;
            data_len += len;
            check(part, "bytes of the entries", AtMost(payload.len() as u64), data_len)?;
            let kind = if key & 1 == 1 { EntryKind::Image } else { EntryKind::Delta };
            // Positions in the data area for now: where it starts is known when the table ends.
            let hash = PageHash::from_u64(u64::from_le_bytes(*hash));
            entries.push(Located { hash, pgno, start: start as u32, end: data_len as u32, kind });
            data_start = table_end;
        }
        check(
            part,
            "bytes of table and entries",
            Exactly(payload.len() as u64),
            data_start as u64 + data_len,
        )?;
        check(part, "last entry's page", Exactly(u64::from(self.last)), previous)?;
        let first = entries.first().map_or(0, |located| u64::from(located.pgno.get()));
        check(part, "first entry's page", Exactly(u64::from(self.first)), first)?;
        for located in entries {
            located.start += data_start as u32;
            located.end += data_start as u32;
        }
        Ok(())
    }
}
