//! LTX, the files of Litestream 0.5: a header, pages in ascending order, an index, and a trailer.
//!
//! Integers are big-endian. Source: superfly/ltx, `ltx.go`, `encoder.go`, `checksum.go`.

use std::io::BufRead;

use aquifer_format::{PageSize, Pgno, Timestamp};
use crc_fast::{CrcAlgorithm, Digest};
use rustc_hash::FxHashMap;

use super::lz4_page;
use crate::image::{Sink, SinkError};
use crate::plan::LtxRange;

const MAGIC: &[u8; 4] = b"LTX1";
pub(crate) const HEADER_LEN: usize = 100;
/// The files say nothing of the database's checksum.
pub(crate) const NO_CHECKSUM: u32 = 1 << 1;
/// The size of the compressed page follows its header, and it is an LZ4 block; otherwise an LZ4 frame.
const SIZED: u16 = 1;
/// Set in every checksum, so that none is 0.
pub(crate) const CHECKSUM_FLAG: u64 = 1 << 63;

/// A file's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LtxHeader {
    pub(crate) page_size: PageSize,
    /// Pages of the database after the file's last transaction.
    pub(crate) pages: u32,
    pub(crate) min: u64,
    pub(crate) max: u64,
    /// Milliseconds since the Unix epoch.
    pub(crate) timestamp: i64,
    before: u64,
    has_checksums: bool,
}

impl LtxHeader {
    pub(crate) fn parse(bytes: &[u8; HEADER_LEN]) -> Result<LtxHeader, String> {
        let u32_at = |at: usize| u32::from_be_bytes(std::array::from_fn(|i| bytes[at + i]));
        let u64_at = |at: usize| u64::from_be_bytes(std::array::from_fn(|i| bytes[at + i]));
        if !bytes.starts_with(MAGIC) {
            return Err("it does not begin as an LTX file".to_owned());
        }
        let flags = u32_at(4);
        if flags & !NO_CHECKSUM != 0 {
            return Err(format!("it has flags ({flags:#x}) that this program does not know"));
        }
        let size = u32_at(8);
        let page_size = PageSize::new(size).map_err(|_| format!("it says pages of {size} bytes"))?;
        Ok(LtxHeader {
            page_size,
            pages: u32_at(12),
            min: u64_at(16),
            max: u64_at(24),
            timestamp: u64_at(32) as i64,
            before: u64_at(40),
            has_checksums: flags & NO_CHECKSUM == 0,
        })
    }
}

/// The database as files so far have made it.
#[derive(Default)]
pub(super) struct LtxState {
    /// The last transaction.
    txid: u64,
    /// Each page's checksum, and all of them together; not kept on where a file does not tell.
    pages: FxHashMap<Pgno, u64>,
    whole: u64,
    /// How many there are.
    count: u32,
    known: bool,
}

impl LtxState {
    /// Proves a file, and hands its pages on. When its last transaction was made.
    pub(super) fn replay(
        &mut self,
        sink: &mut impl Sink,
        content: &mut impl BufRead,
        range: LtxRange,
    ) -> Result<Timestamp, SinkError> {
        let mut file = Hashed { content, digest: Digest::new(CrcAlgorithm::Crc64GoIso) };
        let header = LtxHeader::parse(&file.read()?).map_err(SinkError::Content)?;
        if (header.min, header.max) != (range.min, range.max) {
            return Err(SinkError::Content(format!(
                "it holds the transactions {} to {}, which its name does not say",
                header.min, header.max
            )));
        }
        if !sink.set_page_size(header.page_size) {
            return Err(SinkError::Content(format!(
                "it has pages of {} bytes, others have not",
                header.page_size
            )));
        }
        self.begin(&header)?;
        sink.room_for(header.pages)?;
        self.pages(sink, &mut file, &header)?;
        sink.commit(header.pages)?;
        self.txid = header.max;
        file.index()?;
        let after = u64::from_be_bytes(file.read()?);
        let found = file.digest.finalize() | CHECKSUM_FLAG;
        let mut checksum = [0; 8];
        file.content.read_exact(&mut checksum).map_err(SinkError::Read)?;
        let checksum = u64::from_be_bytes(checksum);
        if checksum != found {
            return Err(SinkError::Content(format!(
                "its checksum is {checksum:016x}, and its content has {found:016x}"
            )));
        }
        if !file.content.fill_buf().map_err(SinkError::Read)?.is_empty() {
            return Err(SinkError::Content("it goes on after its end".to_owned()));
        }
        self.check(&header, after)?;
        Ok(Timestamp::from_millis(header.timestamp))
    }

    fn begin(&mut self, header: &LtxHeader) -> Result<(), SinkError> {
        let is_whole = header.min == 1;
        if is_whole {
            (self.pages, self.whole) = (FxHashMap::default(), 0);
        } else if header.min > self.txid + 1 {
            return Err(SinkError::Content(format!(
                "it begins with transaction {}, and those before it end with {}",
                header.min, self.txid
            )));
        }
        let continues = header.min == self.txid + 1;
        if header.has_checksums
            && self.known
            && continues
            && !is_whole
            && header.before != self.whole | CHECKSUM_FLAG
        {
            return Err(SinkError::Content(format!(
                "it continues a database with checksum {:016x}, and this one has {:016x}: objects of two databases were \
                 mixed",
                header.before,
                self.whole | CHECKSUM_FLAG
            )));
        }
        self.known = header.has_checksums && (is_whole || self.known);
        Ok(())
    }

    fn pages<R: BufRead>(
        &mut self,
        sink: &mut impl Sink,
        file: &mut Hashed<'_, R>,
        header: &LtxHeader,
    ) -> Result<(), SinkError> {
        let size = header.page_size.bytes();
        let mut page = vec![0; size];
        // LZ4 makes incompressible pages larger by a 255th at most.
        let mut packed = vec![0; size + size / 255 + 16];
        let mut last = 0;
        loop {
            let head: [u8; 6] = file.read()?;
            let pgno = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
            let flags = u16::from_be_bytes([head[4], head[5]]);
            let Some(number) = Pgno::new(pgno) else { break };
            if pgno <= last || pgno > header.pages || flags & !SIZED != 0 {
                return Err(SinkError::Content(format!(
                    "it has page {pgno} (flags {flags}) after page {last}"
                )));
            }
            last = pgno;
            if flags & SIZED == 0 {
                lz4_page::read(file.content, &mut page, &mut packed).map_err(SinkError::Read)?;
            } else {
                let len = u32::from_be_bytes(file.read()?) as usize;
                let Some(packed) = packed.get_mut(..len) else {
                    return Err(SinkError::Content(format!("its page {pgno} takes {len} bytes")));
                };
                file.content.read_exact(packed).map_err(SinkError::Read)?;
                let unpacked = lz4_flex::block::decompress_into(packed, &mut page);
                if unpacked.ok() != Some(size) {
                    return Err(SinkError::Content(format!("its page {pgno} cannot be decompressed")));
                }
            }
            file.digest.update(&page);
            if self.known {
                self.changed(number, &page);
            }
            sink.settled(number, &page)?;
        }
        if self.known && header.pages < self.count {
            self.pages.retain(|pgno, gone| {
                let stays = pgno.get() <= header.pages;
                self.whole ^= if stays { 0 } else { *gone };
                stays
            });
        }
        self.count = header.pages;
        Ok(())
    }

    fn changed(&mut self, pgno: Pgno, page: &[u8]) {
        let mut digest = Digest::new(CrcAlgorithm::Crc64GoIso);
        digest.update(&pgno.get().to_be_bytes());
        digest.update(page);
        let checksum = digest.finalize() | CHECKSUM_FLAG;
        self.whole ^= self.pages.insert(pgno, checksum).unwrap_or(0) ^ checksum;
    }

    fn check(&self, header: &LtxHeader, after: u64) -> Result<(), SinkError> {
        let found = self.whole | CHECKSUM_FLAG;
        if self.known && header.has_checksums && after != found {
            return Err(SinkError::Content(format!(
                "after it the database must have the checksum {after:016x}, and has {found:016x}"
            )));
        }
        Ok(())
    }
}

/// What was read goes into the file's checksum.
struct Hashed<'a, R> {
    content: &'a mut R,
    digest: Digest,
}

impl<R: BufRead> Hashed<'_, R> {
    fn read<const N: usize>(&mut self) -> Result<[u8; N], SinkError> {
        let mut bytes = [0; N];
        self.content.read_exact(&mut bytes).map_err(SinkError::Read)?;
        self.digest.update(&bytes);
        Ok(bytes)
    }

    /// The index: where each page is in the file. Nothing of it is needed by who reads all.
    fn index(&mut self) -> Result<(), SinkError> {
        loop {
            let pgno = self.varint()?;
            if pgno == 0 {
                break;
            }
            self.varint()?;
            self.varint()?;
        }
        self.read::<8>().map(drop)
    }

    fn varint(&mut self) -> Result<u64, SinkError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let [byte] = self.read()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(SinkError::Content("its index cannot be read".to_owned()))
    }
}
