//! Writing a group: entries are collected, then become one frame.

use xxhash_rust::xxh3::xxh3_64;

use super::{CompressionLevel, EntryKind, GROUP_TARGET, codec, varint};
use crate::{PageHash, Pgno};

/// Bytes before a frame's hashes.
pub(super) const FRAME_HEADER_LEN: usize = 32;

/// Most bytes that an entry takes in the table: a page number with its kind, and a length.
const TABLE_ENTRY_MAX: usize = 2 * varint::MAX_LEN;

/// The group that an encoder is filling.
pub(super) struct GroupWriter {
    /// Runs of the entries, one after the other. Whoever appends here tells with [`GroupWriter::add`].
    pub(super) data: Vec<u8>,
    table: Vec<u8>,
    hashes: Vec<u8>,
    first: u32,
    last: u32,
    entries: u32,
    level: CompressionLevel,
}

impl GroupWriter {
    pub(super) fn new(level: CompressionLevel) -> GroupWriter {
        GroupWriter {
            data: Vec::new(),
            table: Vec::new(),
            hashes: Vec::new(),
            first: 0,
            last: 0,
            entries: 0,
            level,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// First and last page, if there are entries.
    pub(super) fn pages(&self) -> Option<(Pgno, Pgno)> {
        Some((Pgno::new(self.first)?, Pgno::new(self.last)?))
    }

    /// Whether one more entry, the `data` of which was appended, would make the group too large.
    pub(super) fn is_full(&self) -> bool {
        let hashes = self.hashes.len() + 8;
        let table = self.table.len() + TABLE_ENTRY_MAX;
        !self.is_empty() && hashes + table + self.data.len() > GROUP_TARGET
    }

    /// Adds an entry, whose runs are `data[start..]`.
    pub(super) fn add(&mut self, pgno: Pgno, kind: EntryKind, hash: PageHash, start: usize) {
        let gap = u64::from(pgno.get() - self.last);
        varint::put(&mut self.table, gap << 1 | u64::from(kind == EntryKind::Image));
        varint::put(&mut self.table, (self.data.len() - start) as u64);
        self.hashes.extend_from_slice(&hash.get().to_le_bytes());
        if self.entries == 0 {
            self.first = pgno.get();
        }
        self.last = pgno.get();
        self.entries += 1;
    }

    /// Appends the frame of all entries, whose runs are `data[..data_end]`, to `out`, and begins a new group
    /// with what is in `data` after it.
    pub(super) fn close(&mut self, data_end: usize, out: &mut Vec<u8>) {
        let start = out.len();
        let raw_len = self.table.len() + data_end;
        out.resize(start + FRAME_HEADER_LEN, 0);
        out.extend_from_slice(&self.hashes);
        let codec = codec::append(self.level, &self.table, &self.data[..data_end], out);
        let stored_len = out.len() - start - FRAME_HEADER_LEN - self.hashes.len();

        let mut put =
            |at: usize, field: &[u8]| out[start + at..start + at + field.len()].copy_from_slice(field);
        put(8, &(stored_len as u32).to_le_bytes());
        put(12, &(raw_len as u32).to_le_bytes());
        put(16, &self.entries.to_le_bytes());
        put(20, &self.first.to_le_bytes());
        put(24, &self.last.to_le_bytes());
        put(28, &[codec]);
        let checksum = xxh3_64(&out[start + 8..]);
        out[start..start + 8].copy_from_slice(&checksum.to_le_bytes());

        self.table.clear();
        self.hashes.clear();
        self.data.drain(..data_end);
        (self.first, self.last, self.entries) = (0, 0, 0);
    }
}
