//! From the bytes of a pull-updates answer to pages. No I/O: bytes are fed as they come.

use aquifer_format::{PageSize, Pgno};
use aquifer_protocol::pull_updates::{ApplyMode, PageData, Protocol, PullHeader, StreamKind};
use bytes::{Buf, Bytes, BytesMut};
use prost::Message as _;
use roaring::RoaringBitmap;

/// The longest header that is read. Revisions are short.
const HEADER_MAX: usize = 16 << 10;
/// The longest message of a page: the largest page there is as an incompressible zstd frame, and what is around it.
const PAGE_MAX: usize = PageSize::MAX.bytes() + 1024;

/// What an answer is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) revision: String,
    pub(super) pages: u32,
    pub(super) replace_base: bool,
}

/// Which pages must be there at the end.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Expected {
    /// Whatever the server takes for changed.
    Changed,
    /// All of the database.
    All,
    /// Those of these that the database has.
    These(RoaringBitmap),
}

/// Reads one answer.
pub(super) struct Decoder {
    buffer: BytesMut,
    expected: Expected,
    head: Option<Head>,
    zstd: Option<zstd::bulk::Decompressor<'static>>,
    page_size: Option<PageSize>,
    seen: RoaringBitmap,
}

/// What is wrong with an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Malformed(String);

fn malformed<T>(why: impl Into<String>) -> Result<T, Malformed> {
    Err(Malformed(why.into()))
}

impl Decoder {
    /// `expected` counts for an answer that does not replace the base; one that does has all pages.
    pub(super) fn new(expected: Expected) -> Decoder {
        Decoder {
            buffer: BytesMut::new(),
            expected,
            head: None,
            zstd: None,
            page_size: None,
            seen: RoaringBitmap::new(),
        }
    }

    /// More of the answer. To be called when [`Decoder::head`] or [`Decoder::page`] has said `None`.
    pub(super) fn feed(&mut self, part: &[u8]) {
        self.buffer.extend_from_slice(part);
    }

    /// Of every page; known when the first is there.
    pub(super) fn page_size(&self) -> Option<PageSize> {
        self.page_size
    }

    /// What the answer is about. `None` until enough of it is there.
    pub(super) fn head(&mut self) -> Result<Option<Head>, Malformed> {
        if self.head.is_none() {
            let Some(message) = self.message(HEADER_MAX)? else { return Ok(None) };
            let header = PullHeader::decode(message)
                .map_err(|error| Malformed(format!("it does not begin with a header: {error}")))?;
            self.begin(header)?;
        }
        Ok(self.head.clone())
    }

    fn begin(&mut self, header: PullHeader) -> Result<(), Malformed> {
        if header.protocol() == Protocol::MvccLogical || header.stream_kind() == StreamKind::MvccLogicalLog {
            return malformed("it is a log of Turso's MVCC, where pages were asked for");
        }
        match (&header.raw_encoding, &header.zstd_encoding) {
            (Some(_), None) => {}
            (None, Some(zstd)) if zstd.pages_dict.is_empty() => {
                let decompressor = zstd::bulk::Decompressor::new();
                self.zstd = Some(decompressor.map_err(|error| Malformed(format!("zstd: {error}")))?);
            }
            (None, Some(_)) => return malformed("its pages need other pages as their dictionary"),
            _ => return malformed("it does not say how its pages are encoded"),
        }
        let Ok(pages) = u32::try_from(header.db_size) else {
            return malformed(format!("a database of {} pages cannot be", header.db_size));
        };
        if header.server_revision.is_empty() {
            return malformed("it names no revision");
        }
        let replace_base = header.apply_mode() == ApplyMode::ReplaceBase;
        if replace_base && self.expected == Expected::Changed {
            self.expected = Expected::All;
        }
        self.head = Some(Head { revision: header.server_revision, pages, replace_base });
        Ok(())
    }

    /// The next page. `None` until enough of it is there. To be called when there is a head.
    pub(super) fn page(&mut self) -> Result<Option<(Pgno, Bytes)>, Malformed> {
        let Some(message) = self.message(PAGE_MAX)? else { return Ok(None) };
        let page =
            PageData::decode(message).map_err(|error| Malformed(format!("a page is damaged: {error}")))?;
        let pages = self.head.as_ref().map_or(0, |head| head.pages);
        let id = match u32::try_from(page.page_id) {
            Ok(id) if id < pages => id,
            _ => return malformed(format!("it has a page with id {}, of {pages} pages", page.page_id)),
        };
        if !self.seen.insert(id) {
            return malformed(format!("it has the page with id {id} twice"));
        }
        let pgno = Pgno::from_index(id);
        let content = self.content(pgno, page.encoded_page)?;
        Ok(Some((pgno, content)))
    }

    fn content(&mut self, pgno: Pgno, encoded: Bytes) -> Result<Bytes, Malformed> {
        let content = match &mut self.zstd {
            None => encoded,
            Some(zstd) => {
                let mut room = vec![0; self.page_size.unwrap_or(PageSize::MAX).bytes()];
                let len = zstd
                    .decompress_to_buffer(&encoded, &mut room[..])
                    .map_err(|error| Malformed(format!("{pgno} cannot be decompressed: {error}")))?;
                room.truncate(len);
                Bytes::from(room)
            }
        };
        let size = u32::try_from(content.len()).ok().and_then(|len| PageSize::new(len).ok());
        let Some(size) = size else {
            return malformed(format!("{pgno} has {} bytes, which no page has", content.len()));
        };
        if *self.page_size.get_or_insert(size) != size {
            return malformed(format!("{pgno} has {size} bytes, and those before it had another size"));
        }
        if pgno == Pgno::ONE {
            // Bytes 16 and 17 of page 1; 1 stands for 65,536. sqlite.org/fileformat2.html
            let said = match u16::from_be_bytes([content[16], content[17]]) {
                1 => PageSize::MAX.get(),
                said => said.into(),
            };
            if !content.starts_with(b"SQLite format 3\0") || said != size.get() {
                return malformed("its first page is not that of a SQLite database with pages of this size");
            }
        }
        Ok(content)
    }

    /// What an answer is that ends here, before its header is there or in a message.
    pub(super) fn broken_off(&self) -> Malformed {
        let place =
            if self.head.is_some() { "in the middle of a page" } else { "before its header is there" };
        Malformed(format!("it ends {place}"))
    }

    /// Whether the answer may end here.
    pub(super) fn end(&self) -> Result<(), Malformed> {
        let Some(head) = self.head.as_ref().filter(|_| self.buffer.is_empty()) else {
            return Err(self.broken_off());
        };
        // What lies at SQLite's lock byte is nobody's.
        let lock_page = self.page_size.unwrap_or(PageSize::DEFAULT).lock_page().get() - 1;
        let mut missing = match &self.expected {
            Expected::Changed => RoaringBitmap::new(),
            Expected::All => {
                let mut all = RoaringBitmap::new();
                all.insert_range(0..head.pages);
                all
            }
            Expected::These(these) => {
                let mut these = these.clone();
                these.remove_range(head.pages..);
                these
            }
        };
        missing -= &self.seen;
        missing.remove(lock_page);
        match missing.min() {
            None => Ok(()),
            Some(first) => malformed(format!(
                "it lacks {} pages that were asked for, the first with id {first}",
                missing.len()
            )),
        }
    }

    /// The next message, of no more than `max` bytes.
    fn message(&mut self, max: usize) -> Result<Option<Bytes>, Malformed> {
        let mut len = 0_u64;
        for at in 0..5 {
            let Some(byte) = self.buffer.get(at) else { return Ok(None) };
            len |= u64::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                let begin = at + 1;
                if len > max as u64 {
                    return malformed(format!("it has a message of {len} bytes, and {max} are the most"));
                }
                if self.buffer.len() - begin < len as usize {
                    self.buffer.reserve(len as usize);
                    return Ok(None);
                }
                self.buffer.advance(begin);
                return Ok(Some(self.buffer.split_to(len as usize).freeze()));
            }
        }
        malformed("it has a message whose length cannot be")
    }
}

#[cfg(test)]
mod tests;
