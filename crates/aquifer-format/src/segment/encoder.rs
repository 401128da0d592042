//! Writing a segment as a stream.

use super::diff::{encode_delta, encode_image};
use super::fold::Folded;
use super::frame::GroupWriter;
use super::header::{Form, header};
use super::trailer::stored_pages;
use super::{
    CompressionLevel, Entry, EntryKind, GroupRef, HEADER_LEN, Index, SegmentInfo, SegmentMeta, Trailer,
};
use crate::{PageHash, PageSize, Pgno};

/// Turns pages, given in ascending order, into a segment.
///
/// Finished bytes collect in [`SegmentEncoder::output`], which may be drained at any time: memory is then
/// bounded by one group, plus 24 bytes per group for the index.
///
/// Every page that came to exist in the range needs an image, those of zeros too ([`SegmentEncoder::push_zeros`]),
/// so that no reader looks for it in what was before. The lock-byte page is skipped, whoever pushes it.
pub struct SegmentEncoder {
    page_size: PageSize,
    lock_page: Pgno,
    output: Vec<u8>,
    group: GroupWriter,
    image: Vec<u8>,
    index: Index,
    /// Bytes produced up to the end of the last closed group, drained or not.
    groups_end: u64,
    entries: u32,
    images: u32,
    last: Option<Pgno>,
    /// First page of the unbroken sequence of images that ends with `last`; `None` after a delta.
    images_since: Option<Pgno>,
}

impl std::fmt::Debug for SegmentEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SegmentEncoder")
            .field("entries", &self.entries)
            .field("images", &self.images)
            .field("last", &self.last)
            .field("groups_end", &self.groups_end)
            .finish_non_exhaustive()
    }
}

/// The pages pushed are not what the metadata says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// A page came to exist in the range and has no image.
    #[error(
        "pages {first} to {last} came to exist in this range, and not all of them have an image (zero pages need one too)"
    )]
    MissingImages {
        /// First page that came to exist.
        first: Pgno,
        /// Last page that came to exist: the database's last.
        last: Pgno,
    },
    /// An entry for a page that the database does not have after the range.
    #[error("page {pgno} has an entry, and the database has {size_after} pages after this range")]
    BeyondEnd {
        /// The page.
        pgno: Pgno,
        /// Pages of the database after the range.
        size_after: u32,
    },
    /// The metadata is about pages of another size.
    #[error("pages of {pushed} bytes were pushed, and the metadata says {meta}")]
    PageSize {
        /// Size of the pages pushed.
        pushed: PageSize,
        /// Size in the metadata.
        meta: PageSize,
    },
}

/// A finished segment.
#[derive(Debug)]
pub struct Finished {
    /// What was not drained of the groups, index, trailer: the drained bytes and these are the object.
    pub tail: Vec<u8>,
    /// What a reader of the object will learn of it.
    pub info: SegmentInfo,
}

/// A finished segment whose groups are an object of their own.
#[derive(Debug)]
pub struct FinishedExternal {
    /// What was not drained of the groups: the drained bytes and these are the companion object.
    pub companion_tail: Vec<u8>,
    /// The segment's object, whole.
    pub segment: Vec<u8>,
    /// What a reader of the segment's object will learn of it.
    pub info: SegmentInfo,
}

impl SegmentEncoder {
    /// A segment without pages so far; its header is in the output.
    pub fn new(page_size: PageSize, level: CompressionLevel) -> SegmentEncoder {
        SegmentEncoder {
            page_size,
            lock_page: page_size.lock_page(),
            output: header(page_size, Form::InObject).to_vec(),
            group: GroupWriter::new(level),
            image: Vec::new(),
            index: Index::default(),
            groups_end: HEADER_LEN as u64,
            entries: 0,
            images: 0,
            last: None,
            images_since: None,
        }
    }

    /// Adds a page whose content before the range is known: as a delta, or as an image where that
    /// compresses better. A page that did not change is left out.
    ///
    /// # Panics
    /// If `pgno` is not above the page pushed last, or a content is not of the page size.
    pub fn push_delta(&mut self, pgno: Pgno, old: &[u8], new: &[u8], new_hash: PageHash) {
        if !self.begin(pgno, new) {
            return;
        }
        let start = self.group.data.len();
        encode_delta(old, new, &mut self.group.data);
        let delta_len = self.group.data.len() - start;
        if delta_len == 0 {
            return;
        }
        let mut kind = EntryKind::Delta;
        // Most deltas are small, and nothing beats those. The XOR of unrelated contents compresses far worse than
        // either: on measured workloads an image wins from two thirds of its uncompressed length on.
        if delta_len > self.page_size.bytes() / 8 {
            self.image.clear();
            encode_image(new, &mut self.image);
            if 2 * self.image.len() <= 3 * delta_len {
                self.group.data.truncate(start);
                self.group.data.extend_from_slice(&self.image);
                kind = EntryKind::Image;
            }
        }
        self.add(pgno, kind, new_hash, start);
    }

    /// Adds a page whose content before the range is not known, or does not matter.
    ///
    /// # Panics
    /// If `pgno` is not above the page pushed last, or the content is not of the page size.
    pub fn push_image(&mut self, pgno: Pgno, page: &[u8], hash: PageHash) {
        if self.begin(pgno, page) {
            let start = self.group.data.len();
            encode_image(page, &mut self.group.data);
            self.add(pgno, EntryKind::Image, hash, start);
        }
    }

    /// Adds a page of zeros: what SQLite never wrote, but counts in the database's size.
    ///
    /// # Panics
    /// If `pgno` is not above the page pushed last.
    pub fn push_zeros(&mut self, pgno: Pgno) {
        let hash = PageHash::of_zeros(pgno, self.page_size);
        if self.in_order(pgno) {
            self.add(pgno, EntryKind::Image, hash, self.group.data.len());
        }
    }

    /// Adds an entry of another segment as it is.
    ///
    /// # Panics
    /// If its page is not above the page pushed last, or of another size.
    pub fn push_entry(&mut self, entry: &Entry<'_>) {
        assert_eq!(entry.page_size(), self.page_size, "all segments of a generation have one page size");
        if self.in_order(entry.pgno) {
            let start = self.group.data.len();
            self.group.data.extend_from_slice(entry.runs.encoded());
            self.add(entry.pgno, entry.kind, entry.hash, start);
        }
    }

    /// Adds what several entries of one page were folded into, unless they cancel out: the page was changed,
    /// and changed back.
    ///
    /// # Panics
    /// If `pgno` is not above the page pushed last, or the fold is of another page size.
    pub fn push_folded(&mut self, pgno: Pgno, folded: &Folded<'_>) {
        match folded.kind {
            EntryKind::Image => self.push_image(pgno, folded.page, folded.hash),
            EntryKind::Delta => {
                if self.begin(pgno, folded.page) {
                    let start = self.group.data.len();
                    encode_delta(self.page_size.zero_page(), folded.page, &mut self.group.data);
                    if self.group.data.len() > start {
                        self.add(pgno, EntryKind::Delta, folded.hash, start);
                    }
                }
            }
        }
    }

    /// Finished bytes not drained so far. Drain all of them, or from the front.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Entries so far.
    pub fn entries(&self) -> u32 {
        self.entries
    }

    /// Bytes produced so far, drained or not, without those of the group being filled.
    pub fn len(&self) -> u64 {
        self.groups_end
    }

    /// Whether no entry was pushed.
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Ends the segment.
    pub fn finish(mut self, meta: &SegmentMeta) -> Result<Finished, EncodeError> {
        let info = self.info(meta, Form::InObject)?;
        let mut tail = self.output;
        info.encode_end(&mut tail);
        Ok(Finished { tail, info })
    }

    /// Ends the segment; what was drained becomes the companion object.
    pub fn finish_external(mut self, meta: &SegmentMeta) -> Result<FinishedExternal, EncodeError> {
        let info = self.info(meta, Form::External)?;
        Ok(FinishedExternal { companion_tail: self.output, segment: info.encode_external_object(), info })
    }

    fn info(&mut self, meta: &SegmentMeta, form: Form) -> Result<SegmentInfo, EncodeError> {
        self.check(meta)?;
        if !self.group.is_empty() {
            self.close_group(self.group.data.len());
        }
        Ok(SegmentInfo::new(
            Trailer {
                meta: meta.clone(),
                form,
                entries: self.entries,
                images: self.images,
                group_count: self.index.groups().len() as u32,
                groups_end: self.groups_end,
                index_len: 0,
            },
            std::mem::take(&mut self.index),
        ))
    }

    fn check(&self, meta: &SegmentMeta) -> Result<(), EncodeError> {
        if meta.page_size != self.page_size {
            return Err(EncodeError::PageSize { pushed: self.page_size, meta: meta.page_size });
        }
        let size_after = meta.size_after;
        if let Some(pgno) = self.last.filter(|last| last.get() > size_after) {
            return Err(EncodeError::BeyondEnd { pgno, size_after });
        }
        // The lock-byte page is no growth that anyone can see.
        if stored_pages(self.page_size, size_after) > stored_pages(self.page_size, meta.size_before)
            && let Some((first, last)) = Trailer::growth(meta)
        {
            let skip_lock = |pgno: Pgno, other: Pgno| if pgno == self.lock_page { other } else { pgno };
            let from = skip_lock(first, first.next());
            let to = skip_lock(last, Pgno::new(last.get() - 1).unwrap_or(last));
            let covered = self.last == Some(to) && self.images_since.is_some_and(|since| since <= from);
            if !covered {
                return Err(EncodeError::MissingImages { first, last });
            }
        }
        Ok(())
    }

    /// Checks order and size; whether the page is stored at all.
    fn begin(&mut self, pgno: Pgno, page: &[u8]) -> bool {
        assert_eq!(page.len(), self.page_size.bytes(), "pages have the segment's page size");
        self.in_order(pgno)
    }

    fn in_order(&self, pgno: Pgno) -> bool {
        assert!(self.last < Some(pgno), "pages are pushed in ascending order: {pgno} after {:?}", self.last);
        pgno != self.lock_page
    }

    /// Adds an entry, whose runs were appended to the group's data from `start`.
    fn add(&mut self, pgno: Pgno, kind: EntryKind, hash: PageHash, start: usize) {
        if self.group.is_full() {
            self.close_group(start);
            self.group.add(pgno, kind, hash, 0);
        } else {
            self.group.add(pgno, kind, hash, start);
        }
        self.entries += 1;
        if kind == EntryKind::Image {
            self.images += 1;
            let follows = |last: Pgno| {
                last.next() == pgno || last.next() == self.lock_page && self.lock_page.next() == pgno
            };
            if !self.last.is_some_and(follows) || self.images_since.is_none() {
                self.images_since = Some(pgno);
            }
        } else {
            self.images_since = None;
        }
        self.last = Some(pgno);
    }

    fn close_group(&mut self, data_end: usize) {
        let Some((first, last)) = self.group.pages() else { return };
        let before = self.output.len();
        self.group.close(data_end, &mut self.output);
        let len = (self.output.len() - before) as u32;
        self.index.push(GroupRef { first, last, offset: self.groups_end, len });
        self.groups_end += u64::from(len);
    }
}
