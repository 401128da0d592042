//! An LTX file on its way into a store.

use aquifer_format::{PageSize, Pgno, Timestamp, TxidRange};
use aquifer_log::store::{Key, Store, Upload};
use crc_fast::{CrcAlgorithm, Digest};
use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
use tokio::runtime::Handle;

use crate::error::{MigrateError, Result};
use crate::replay::{CHECKSUM_FLAG, LTX_HEADER_LEN, NO_CHECKSUM};

/// Bytes encoded before they are sent on.
const CHUNK: usize = 1 << 20;

/// What a file is about.
#[derive(Debug, Clone, Copy)]
pub(super) struct LtxMeta {
    pub(super) page_size: PageSize,
    /// Pages of the database after it.
    pub(super) pages: u32,
    pub(super) range: TxidRange,
    /// When the last of its transactions was committed.
    pub(super) at: Timestamp,
}

impl LtxMeta {
    fn header(&self) -> [u8; LTX_HEADER_LEN] {
        let mut header = [0; LTX_HEADER_LEN];
        header[..4].copy_from_slice(b"LTX1");
        header[4..8].copy_from_slice(&NO_CHECKSUM.to_be_bytes());
        header[8..12].copy_from_slice(&self.page_size.get().to_be_bytes());
        header[12..16].copy_from_slice(&self.pages.to_be_bytes());
        header[16..24].copy_from_slice(&self.range.first.get().to_be_bytes());
        header[24..32].copy_from_slice(&self.range.last.get().to_be_bytes());
        header[32..40].copy_from_slice(&self.at.as_millis().to_be_bytes());
        header
    }
}

/// Writes a file, page by page, ascending.
pub(super) struct LtxWriter<'a> {
    key: &'a Key,
    digest: Digest,
    buffer: Vec<u8>,
    /// Bytes encoded so far.
    len: u64,
    /// Where each page is.
    index: Vec<u8>,
    frames: FrameInfo,
    upload: Upload,
    runtime: &'a Handle,
}

impl<'a> LtxWriter<'a> {
    /// Begins one that will have about so many bytes.
    pub(super) fn new(
        to: &Store,
        key: &'a Key,
        meta: &LtxMeta,
        about: u64,
        runtime: &'a Handle,
    ) -> LtxWriter<'a> {
        // As the original writes them: 0.5.5 reads no others.
        let frames = FrameInfo::new().block_size(BlockSize::Max64KB).block_mode(BlockMode::Independent);
        let mut ltx = LtxWriter {
            key,
            digest: Digest::new(CrcAlgorithm::Crc64GoIso),
            buffer: Vec::new(),
            len: 0,
            index: Vec::new(),
            frames: frames.content_checksum(true),
            upload: to.upload(key, about),
            runtime,
        };
        ltx.put(&meta.header());
        ltx
    }

    pub(super) fn page(&mut self, pgno: Pgno, page: &[u8]) -> Result<()> {
        let start = self.len;
        self.put(&pgno.get().to_be_bytes());
        // No flags: the page is an LZ4 frame.
        self.put(&[0, 0]);
        self.digest.update(page);
        let mut frame = FrameEncoder::with_frame_info(self.frames.clone(), Vec::new());
        let packed = std::io::Write::write_all(&mut frame, page).and_then(|()| Ok(frame.finish()?));
        let packed =
            packed.map_err(|e| MigrateError::io("compress a page for", self.key.as_str().as_ref(), e))?;
        self.raw(&packed);
        for value in [u64::from(pgno.get()), start, self.len - start] {
            varint(&mut self.index, value);
        }
        if self.buffer.len() >= CHUNK { self.send() } else { Ok(()) }
    }

    /// Publishes it. Its length.
    pub(super) fn finish(mut self) -> Result<u64> {
        self.put(&[0; 6]);
        self.index.push(0);
        let index = std::mem::take(&mut self.index);
        self.put(&index);
        self.put(&(index.len() as u64).to_be_bytes());
        // No database checksum.
        self.put(&[0; 8]);
        let checksum = self.digest.finalize() | CHECKSUM_FLAG;
        self.raw(&checksum.to_be_bytes());
        self.send()?;
        self.runtime.block_on(self.upload.complete())?;
        Ok(self.len)
    }

    /// Bytes that are in the checksum as they are.
    fn put(&mut self, bytes: &[u8]) {
        self.digest.update(bytes);
        self.raw(bytes);
    }

    /// Bytes that are in the checksum uncompressed, or not at all.
    fn raw(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
        self.len += bytes.len() as u64;
    }

    fn send(&mut self) -> Result<()> {
        let chunk = std::mem::take(&mut self.buffer);
        Ok(self.runtime.block_on(self.upload.write(chunk.into()))?)
    }
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
