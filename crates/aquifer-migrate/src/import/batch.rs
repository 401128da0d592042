//! A batch of level 0 in the making.

use std::io::{Seek, Write};
use std::path::Path;

use aquifer_format::segment::{CompressionLevel, SegmentEncoder, SegmentInfo, SegmentMeta};
use aquifer_format::{DbChecksum, PageHash, PageSize, Pgno};
use aquifer_log::{DatabaseStore, LogError, SegmentKey, Shipped};
use tokio::runtime::Handle;

use crate::error::{MigrateError, Result};

/// Bytes encoded before they are written out.
const CHUNK: usize = 1 << 20;
/// A batch up to this size is put with one request.
const ONE_OBJECT: u64 = 32 << 20;

/// Encodes pages in ascending order into a file, and keeps the database's checksum.
pub(super) struct Batch {
    page_size: PageSize,
    encoder: SegmentEncoder,
    file: tempfile::NamedTempFile,
    pub(super) checksum: DbChecksum,
}

impl Batch {
    pub(super) fn new(page_size: PageSize, checksum: DbChecksum, directory: &Path) -> Result<Batch> {
        let file = tempfile::NamedTempFile::new_in(directory);
        let file = file.map_err(|e| MigrateError::io("write in", directory, e))?;
        let encoder = SegmentEncoder::new(page_size, CompressionLevel::KEEP);
        Ok(Batch { page_size, encoder, file, checksum })
    }

    /// A page that was `old` before, or was not there.
    pub(super) fn push(&mut self, pgno: Pgno, old: Option<&[u8]>, new: &[u8]) -> Result<()> {
        if pgno == self.page_size.lock_page() {
            return Ok(());
        }
        let hash = PageHash::of(pgno, new);
        match old {
            Some(old) if old == new => return Ok(()),
            Some(old) => {
                self.checksum.replace(PageHash::of(pgno, old), hash);
                self.encoder.push_delta(pgno, old, new, hash);
            }
            None => {
                self.checksum.toggle(hash);
                self.encoder.push_image(pgno, new, hash);
            }
        }
        if self.encoder.output().len() >= CHUNK { self.write_out() } else { Ok(()) }
    }

    /// A page that is no more.
    pub(super) fn gone(&mut self, pgno: Pgno, old: &[u8]) {
        if pgno != self.page_size.lock_page() {
            self.checksum.toggle(PageHash::of(pgno, old));
        }
    }

    /// Whether no page differs.
    pub(super) fn is_empty(&self) -> bool {
        self.encoder.entries() == 0
    }

    fn write_out(&mut self) -> Result<()> {
        let written = self.file.write_all(self.encoder.output());
        written.map_err(|e| MigrateError::io("write", self.file.path(), e))?;
        self.encoder.output().clear();
        Ok(())
    }

    /// Puts it.
    pub(super) fn put(
        mut self,
        to: &DatabaseStore,
        generation: aquifer_format::GenerationId,
        meta: &SegmentMeta,
        runtime: &Handle,
    ) -> Result<()> {
        self.write_out()?;
        let failed = |source| LogError::Encode { range: meta.range, source };
        let finished = self.encoder.finish(meta).map_err(failed)?;
        let (path, info): (_, SegmentInfo) = (self.file.path().to_owned(), finished.info);
        let local = |e| MigrateError::io("write", &path, e);
        let mut file = self.file.as_file();
        file.write_all(&finished.tail).map_err(local)?;
        let len = file.stream_position().map_err(local)?;
        let shipped = runtime.block_on(async {
            if len <= ONE_OBJECT {
                let object = tokio::fs::read(&path).await.map_err(local)?;
                return Ok::<_, MigrateError>(to.put_level0(generation, &info, object).await?);
            }
            let object = tokio::fs::File::open(&path).await.map_err(local)?;
            Ok(to.put_level0_large(generation, &info, object).await?)
        });
        match shipped? {
            Shipped::Committed => Ok(()),
            Shipped::Fenced(_) => {
                let key = to.layout().segment(generation, SegmentKey::shipped(meta.range.last));
                Err(LogError::Taken { url: to.store().url().to_owned(), key }.into())
            }
        }
    }
}
