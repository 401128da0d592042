//! The last 128 bytes of a segment.

use super::error::Expected::{AtLeast, AtMost, Exactly};
use super::error::{Damage, FormatError, Part, check, wrong};
use super::header::{Form, HEADER_LEN, VERSION};
use crate::{DbChecksum, PageSize, Pgno, Timestamp, Txid, TxidRange, WriterNonce};

const MAGIC: [u8; 8] = *b"AQSEGEND";

/// Everything that is known about a segment besides its pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentMeta {
    /// Size of the database's pages.
    pub page_size: PageSize,
    /// The txids that the segment covers. Those of a snapshot start at 1.
    pub range: TxidRange,
    /// Pages of the database before the range; 0 for a snapshot.
    pub size_before: u32,
    /// Pages of the database after the range.
    pub size_after: u32,
    /// Checksum of the database before the range.
    pub checksum_before: DbChecksum,
    /// Checksum of the database after the range.
    pub checksum_after: DbChecksum,
    /// SQLite commits in the range, up to `u32::MAX`.
    pub commits: u32,
    /// WAL frames that a client pushed as the first commit of the range (libSQL's offline sync counts frames, and each
    /// page is here once); 0 where it was no such push, and above level 0.
    pub frames: u32,
    /// When the range's first commit was seen.
    pub first_commit: Timestamp,
    /// When the range's last commit was seen.
    pub last_commit: Timestamp,
    /// Who wrote the segment.
    pub writer: WriterNonce,
}

impl SegmentMeta {
    /// Pages of the database after the range that can have entries: all but the lock-byte page.
    pub fn stored_pages_after(&self) -> u32 {
        stored_pages(self.page_size, self.size_after)
    }
}

/// Pages 1 to `size` without the lock-byte page.
pub(super) fn stored_pages(page_size: PageSize, size: u32) -> u32 {
    size - u32::from(size >= page_size.lock_page().get())
}

/// The trailer: [`SegmentMeta`], and where everything is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trailer {
    /// What the segment is about.
    pub meta: SegmentMeta,
    /// Where its groups are.
    pub form: Form,
    /// Its entries.
    pub entries: u32,
    /// Those of its entries that are images.
    pub images: u32,
    /// Its groups.
    pub group_count: u32,
    /// Offset of the byte after the last group, in the object that holds the groups.
    pub groups_end: u64,
    /// Bytes of the index.
    pub index_len: u64,
}

impl Trailer {
    /// Bytes of a trailer.
    pub const LEN: usize = 128;
    /// Bytes at its end that are the checksum of index and trailer.
    pub(super) const CHECKSUM_LEN: usize = 8;

    /// Whether the segment has an image of every page: it can be restored without any other.
    pub fn is_snapshot(&self) -> bool {
        self.images == self.meta.stored_pages_after()
    }

    /// The trailer's bytes, the checksum at its end left 0.
    pub(super) fn encode(&self) -> [u8; Trailer::LEN] {
        let mut bytes = [0; Trailer::LEN];
        let meta = &self.meta;
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &meta.range.first.get().to_le_bytes());
        put(8, &meta.range.last.get().to_le_bytes());
        put(16, &meta.commits.to_le_bytes());
        put(20, &meta.frames.to_le_bytes());
        put(24, &meta.first_commit.as_millis().to_le_bytes());
        put(32, &meta.last_commit.as_millis().to_le_bytes());
        put(40, &meta.writer.to_bytes());
        put(56, &meta.checksum_before.get().to_le_bytes());
        put(64, &meta.checksum_after.get().to_le_bytes());
        put(72, &meta.size_before.to_le_bytes());
        put(76, &meta.size_after.to_le_bytes());
        put(80, &self.groups_end.to_le_bytes());
        put(88, &self.index_len.to_le_bytes());
        put(96, &self.group_count.to_le_bytes());
        put(100, &self.entries.to_le_bytes());
        put(104, &self.images.to_le_bytes());
        put(108, &[VERSION, meta.page_size.log2(), self.form.flags(), 0]);
        put(112, &MAGIC);
        bytes
    }

    /// Offset of the index in its object.
    pub fn index_offset(&self) -> u64 {
        match self.form {
            Form::InObject => self.groups_end,
            Form::External => HEADER_LEN as u64,
        }
    }

    /// Checks magic and version, and says how long the index is, so that it can be fetched: it ends where the
    /// trailer starts, and fits into the object.
    pub(super) fn index_len(bytes: &[u8; Trailer::LEN], object_len: u64) -> Result<u64, FormatError> {
        let part = Part::Trailer;
        let found = field(bytes, 112);
        if found != MAGIC {
            return Err(FormatError::Damaged { part, damage: Damage::Magic { expected: MAGIC, found } });
        }
        if bytes[108] != VERSION {
            return Err(FormatError::UnsupportedVersion { part, found: bytes[108], supported: VERSION });
        }
        let index_len = u64::from_le_bytes(field(bytes, 88));
        let most = object_len.saturating_sub((HEADER_LEN + Trailer::LEN) as u64);
        check(part, "length of the index", AtMost(most), index_len)?;
        Ok(index_len)
    }

    /// Reads a trailer whose checksum was verified, of an object of `object_len` bytes.
    pub(super) fn parse(bytes: &[u8; Trailer::LEN], object_len: u64) -> Result<Trailer, FormatError> {
        let part = Part::Trailer;
        let long = |at| u64::from_le_bytes(field(bytes, at));
        let int = |at| u32::from_le_bytes(field(bytes, at));
        let page_size = PageSize::from_log2(bytes[109])
            .map_err(|_| wrong(part, "page size (log2)", "9 to 16", u64::from(bytes[109])))?;
        let form = Form::from_flags(bytes[110], part)?;
        check(part, "reserved byte", Exactly(0), u64::from(bytes[111]))?;
        let range = TxidRange::new(Txid::new(long(0)), Txid::new(long(8)))
            .ok_or_else(|| wrong(part, "last txid", "the first, which is at least 1, or more", long(8)))?;
        let trailer = Trailer {
            meta: SegmentMeta {
                page_size,
                range,
                size_before: int(72),
                size_after: int(76),
                checksum_before: DbChecksum::from_u64(long(56)),
                checksum_after: DbChecksum::from_u64(long(64)),
                commits: int(16),
                frames: int(20),
                first_commit: Timestamp::from_millis(long(24) as i64),
                last_commit: Timestamp::from_millis(long(32) as i64),
                writer: WriterNonce::from_bytes(field(bytes, 40)),
            },
            form,
            entries: int(100),
            images: int(104),
            group_count: int(96),
            groups_end: long(80),
            index_len: long(88),
        };
        let pages = trailer.meta.stored_pages_after();
        check(part, "number of entries", AtMost(u64::from(pages)), u64::from(trailer.entries))?;
        check(part, "number of images", AtMost(u64::from(trailer.entries)), u64::from(trailer.images))?;
        check(part, "number of groups", AtMost(u64::from(trailer.entries)), u64::from(trailer.group_count))?;
        if trailer.entries > 0 {
            check(part, "number of groups", AtLeast(1), u64::from(trailer.group_count))?;
        }
        check(part, "end of the groups", AtLeast(HEADER_LEN as u64), trailer.groups_end)?;
        let end =
            trailer.index_offset().saturating_add(trailer.index_len).saturating_add(Trailer::LEN as u64);
        check(part, "length of the object by its trailer", Exactly(object_len), end)?;
        Ok(trailer)
    }

    /// Pages that came to exist in the range, first and last, if any.
    pub(super) fn growth(meta: &SegmentMeta) -> Option<(Pgno, Pgno)> {
        let first = meta.size_before.checked_add(1)?;
        if first > meta.size_after { None } else { Some((Pgno::new(first)?, Pgno::new(meta.size_after)?)) }
    }
}

fn field<const N: usize>(bytes: &[u8; Trailer::LEN], at: usize) -> [u8; N] {
    std::array::from_fn(|i| bytes[at + i])
}
