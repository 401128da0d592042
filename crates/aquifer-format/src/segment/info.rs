//! What the end of a segment says about it: enough to find any page.

use xxhash_rust::xxh3::xxh3_64;

use super::error::Expected::{AtMost, Exactly};
use super::error::{Damage, FormatError, Part, check};
use super::header::{Form, check_header, check_kind, header};
use super::trailer::stored_pages;
use super::{EntryKind, Group, GroupRef, HEADER_LEN, Index, SegmentMeta, Trailer};

/// Trailer and index of a segment, verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentInfo {
    trailer: Trailer,
    index: Index,
}

/// Why a segment could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The index is longer than the suffix: fetch the last `suffix_len` bytes of the object and open those.
    #[error("the last {suffix_len} bytes of the object are needed")]
    NeedMore {
        /// Bytes from the end of the object, at most all of it.
        suffix_len: u64,
    },
    /// The bytes cannot be read.
    #[error(transparent)]
    Format(#[from] FormatError),
}

impl SegmentInfo {
    /// A length of suffix that holds the index of most segments: all of any below 16 KiB, and that of 3,000
    /// groups (some 190 MB of entries).
    pub const SUFFIX_LEN: u64 = 16 * 1024;

    /// The shortest segment: a header and a trailer.
    pub const MIN_LEN: u64 = (HEADER_LEN + Trailer::LEN) as u64;

    pub(super) fn new(mut trailer: Trailer, index: Index) -> SegmentInfo {
        let mut encoded = Vec::new();
        index.encode(&mut encoded);
        trailer.index_len = encoded.len() as u64;
        SegmentInfo { trailer, index }
    }

    /// Reads index and trailer from the last bytes of an object of `object_len` bytes; the header too, if
    /// `suffix` is all of it.
    ///
    /// The header repeats what the trailer says, so a reader of suffixes need not fetch it.
    /// Allocates at most 8 times the length of the index.
    pub fn open(suffix: &[u8], object_len: u64) -> Result<SegmentInfo, OpenError> {
        let whole = suffix.len() as u64 >= object_len;
        if whole {
            check(Part::Object, "length", Exactly(object_len), suffix.len() as u64)?;
            check_kind(suffix)?;
        }
        if object_len < SegmentInfo::MIN_LEN {
            let damage = Damage::Truncated { expected: SegmentInfo::MIN_LEN, found: object_len };
            return Err(FormatError::Damaged { part: Part::Object, damage }.into());
        }
        let Some(trailer_bytes) = suffix.last_chunk::<{ Trailer::LEN }>() else {
            return Err(OpenError::NeedMore { suffix_len: object_len.min(SegmentInfo::SUFFIX_LEN) });
        };
        let index_len = Trailer::index_len(trailer_bytes, object_len)?;
        // Checked: the sum does not exceed the object.
        let end_len = index_len + Trailer::LEN as u64;
        if end_len > suffix.len() as u64 {
            return Err(OpenError::NeedMore { suffix_len: end_len });
        }
        let end = &suffix[suffix.len() - end_len as usize..];
        let (covered, stored) = end.split_at(end.len() - Trailer::CHECKSUM_LEN);
        let expected = u64::from_le_bytes(std::array::from_fn(|i| stored[i]));
        let found = xxh3_64(covered);
        if found != expected {
            let damage = Damage::Checksum { expected, found };
            return Err(FormatError::Damaged { part: Part::IndexAndTrailer, damage }.into());
        }
        let trailer = Trailer::parse(trailer_bytes, object_len)?;
        let index = &end[..index_len as usize];
        let index = Index::parse(index, trailer.group_count, trailer.groups_end, trailer.meta.size_after)?;
        if whole {
            check_header(suffix, trailer.meta.page_size, trailer.form)?;
        }
        Ok(SegmentInfo { trailer, index })
    }

    /// Checks the header of a companion object, and its length.
    pub fn check_companion(&self, head: &[u8], companion_len: u64) -> Result<(), FormatError> {
        check_header(head, self.trailer.meta.page_size, Form::InObject)?;
        if companion_len < self.trailer.groups_end {
            let damage = Damage::Truncated { expected: self.trailer.groups_end, found: companion_len };
            return Err(FormatError::Damaged { part: Part::Companion, damage });
        }
        check(Part::Companion, "length", Exactly(self.trailer.groups_end), companion_len)
    }

    /// The trailer.
    pub fn trailer(&self) -> &Trailer {
        &self.trailer
    }

    /// What the segment is about.
    pub fn meta(&self) -> &SegmentMeta {
        &self.trailer.meta
    }

    /// The index.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Its groups, ascending.
    pub fn groups(&self) -> &[GroupRef] {
        self.index.groups()
    }

    /// Whether the segment has an image of every page: it can be restored without any other.
    pub fn is_snapshot(&self) -> bool {
        self.trailer.is_snapshot()
    }

    /// Bytes of all objects of the segment.
    pub fn stored_len(&self) -> u64 {
        let companion = match self.trailer.form {
            Form::InObject => 0,
            Form::External => self.trailer.groups_end,
        };
        companion + self.trailer.index_offset() + self.trailer.index_len + Trailer::LEN as u64
    }

    /// The object that publishes a segment whose in-object form exists already, say in a staging file: the
    /// companion is then the first [`Trailer::groups_end`] bytes of that form.
    pub fn to_external(&self) -> (SegmentInfo, Vec<u8>) {
        let trailer = Trailer { form: Form::External, ..self.trailer.clone() };
        let info = SegmentInfo::new(trailer, self.index.clone());
        let object = info.encode_external_object();
        (info, object)
    }

    /// What makes a companion an in-object segment when it is appended.
    pub fn to_in_object(&self) -> (SegmentInfo, Vec<u8>) {
        let trailer = Trailer { form: Form::InObject, ..self.trailer.clone() };
        let info = SegmentInfo::new(trailer, self.index.clone());
        let mut end = Vec::new();
        info.encode_end(&mut end);
        (info, end)
    }

    pub(super) fn encode_external_object(&self) -> Vec<u8> {
        let mut object = header(self.trailer.meta.page_size, Form::External).to_vec();
        self.encode_end(&mut object);
        object
    }

    /// Appends index and trailer.
    pub(super) fn encode_end(&self, out: &mut Vec<u8>) {
        let start = out.len();
        self.index.encode(out);
        out.extend_from_slice(&self.trailer.encode());
        let checksum_at = out.len() - Trailer::CHECKSUM_LEN;
        let checksum = xxh3_64(&out[start..checksum_at]);
        out[checksum_at..].copy_from_slice(&checksum.to_le_bytes());
    }
}

/// Counts what groups hold against what the trailer says of all of them; for readers of whole segments.
#[derive(Debug, Default)]
pub struct SegmentTally {
    groups: usize,
    entries: u64,
    images: u64,
    grown: u64,
}

impl SegmentTally {
    /// Nothing counted.
    pub fn new() -> SegmentTally {
        SegmentTally::default()
    }

    /// Counts a group; in any order, each once.
    pub fn add(&mut self, group: &Group, info: &SegmentInfo) {
        self.groups += 1;
        for entry in group.entries() {
            self.entries += 1;
            if entry.kind == EntryKind::Image {
                self.images += 1;
                self.grown += u64::from(entry.pgno.get() > info.meta().size_before);
            }
        }
    }

    /// Adds what another counted.
    pub fn combine(&mut self, other: &SegmentTally) {
        self.groups += other.groups;
        self.entries += other.entries;
        self.images += other.images;
        self.grown += other.grown;
    }

    /// Whether, all groups counted, there are the entries that there must be: as many as the trailer says, and
    /// an image of each page that came to exist.
    pub fn check(&self, info: &SegmentInfo) -> Result<(), FormatError> {
        let (trailer, meta) = (info.trailer(), info.meta());
        check(Part::Object, "groups read", Exactly(info.groups().len() as u64), self.groups as u64)?;
        check(Part::Trailer, "number of entries", Exactly(self.entries), u64::from(trailer.entries))?;
        check(Part::Trailer, "number of images", Exactly(self.images), u64::from(trailer.images))?;
        let [before, after] =
            [meta.size_before, meta.size_after].map(|size| stored_pages(meta.page_size, size));
        let grown = u64::from(after.saturating_sub(before));
        check(Part::Trailer, "pages that came to exist", AtMost(self.grown), grown)
    }
}
