//! Encodes the pages that changed as a segment.

use std::io::Write;
use std::path::PathBuf;

use aquifer_format::segment::{CompressionLevel, SegmentEncoder, SegmentInfo, SegmentMeta};
use aquifer_format::{DbChecksum, PageHash, PageSize, Pgno, Timestamp, TxidRange};
use aquifer_sqlite::{Advance, PinnedDatabase};
use bytes::Bytes;

use super::{Batch, NextBatch};
use crate::state::PageMap;
use crate::{Error, Result};

/// Where a segment that is too large for memory goes as it is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spill {
    /// Files are made here.
    pub directory: PathBuf,
    /// Encoded groups are kept in memory up to this many bytes.
    pub above: usize,
}

impl Spill {
    /// Into this directory, above 32 MiB.
    pub fn to(directory: PathBuf) -> Spill {
        Spill { directory, above: 32 << 20 }
    }
}

/// A segment that is ready to be put.
#[derive(Debug)]
pub struct Encoded {
    /// Its bytes.
    pub body: Body,
    /// What its end says of it.
    pub info: SegmentInfo,
}

/// The bytes of a segment.
#[derive(Debug)]
pub enum Body {
    /// In memory.
    Memory(Bytes),
    /// In a file, which is removed when this is dropped.
    File(tempfile::TempPath),
    /// In a file of the staging directory.
    Staged(PathBuf),
}

/// The pages of an advance, each as its difference from the image that `map` describes.
pub(super) fn advance(
    database: &PinnedDatabase,
    map: &PageMap,
    advance: &Advance,
    next: &NextBatch,
    spill: &Spill,
) -> Result<Option<Batch>> {
    let page_size = database.page_size();
    let mut segment = Segment::new(page_size, map, spill);
    let mut old = vec![0; page_size.bytes()];
    let mut new = vec![0; page_size.bytes()];
    let mut known = map.pages();
    for (at, &(pgno, _)) in advance.changed.iter().enumerate() {
        // A transaction may write a page and then truncate it away.
        if pgno.get() > advance.pages {
            break;
        }
        segment.fill_up_to(pgno, &mut known)?;
        let new = database.read_new(advance, at, &mut new)?;
        let hash = PageHash::of(pgno, new);
        match map.get(pgno) {
            Some(before) if before == hash => {}
            Some(before) => {
                let old = database.read_old(pgno, &mut old)?;
                // The hash decides whether what was read is the page that readers have.
                if PageHash::of(pgno, old) == before {
                    segment.push(pgno, hash, Some(old), new)?;
                } else {
                    segment.push(pgno, hash, None, new)?;
                }
            }
            None => segment.push(pgno, hash, None, new)?,
        }
    }
    if advance.pages > known {
        segment.fill_up_to(Pgno::from_index(advance.pages), &mut known)?;
    }
    let commits = u32::try_from(advance.commits).unwrap_or(u32::MAX);
    segment.finish(advance.pages, commits, next, advance.to, advance.wal_bytes())
}

/// All pages at the pin that differ from the image that `map` describes, as images.
pub(super) fn difference(
    database: &PinnedDatabase,
    map: &PageMap,
    next: &NextBatch,
    spill: &Spill,
) -> Result<Option<Batch>> {
    let mut segment = Segment::new(database.page_size(), map, spill);
    database.scan::<Error>(|pgno, page| {
        let hash = PageHash::of(pgno, page);
        if map.get(pgno) == Some(hash) { Ok(()) } else { segment.push(pgno, hash, None, page) }
    })?;
    segment.finish(database.pages()?, 1, next, *database.position(), 0)
}

/// A segment in the making.
struct Segment<'a> {
    page_size: PageSize,
    map: &'a PageMap,
    encoder: SegmentEncoder,
    memory: Vec<u8>,
    file: Option<tempfile::NamedTempFile>,
    spill: &'a Spill,
    changes: Vec<(Pgno, PageHash)>,
    checksum: DbChecksum,
}

impl<'a> Segment<'a> {
    fn new(page_size: PageSize, map: &'a PageMap, spill: &'a Spill) -> Segment<'a> {
        Segment {
            page_size,
            map,
            encoder: SegmentEncoder::new(page_size, CompressionLevel::SHIP),
            memory: Vec::new(),
            file: None,
            spill,
            changes: Vec::new(),
            checksum: map.checksum(),
        }
    }

    /// SQLite never writes a page that a transaction allocates and frees again, so a database may grow by pages that
    /// are in no frame: they are zeros. `known` is the last page that needs no such filling.
    fn fill_up_to(&mut self, pgno: Pgno, known: &mut u32) -> Result<()> {
        let zeros = vec![0; if *known + 1 < pgno.get() { self.page_size.bytes() } else { 0 }];
        for missing in *known + 1..pgno.get() {
            let missing = Pgno::from_index(missing - 1);
            self.push(missing, PageHash::of(missing, &zeros), None, &zeros)?;
        }
        *known = (*known).max(pgno.get());
        Ok(())
    }

    fn push(&mut self, pgno: Pgno, hash: PageHash, old: Option<&[u8]>, new: &[u8]) -> Result<()> {
        if pgno == self.page_size.lock_page() {
            return Ok(());
        }
        match old {
            Some(old) => self.encoder.push_delta(pgno, old, new, hash),
            None => self.encoder.push_image(pgno, new, hash),
        }
        if let Some(before) = self.map.get(pgno) {
            self.checksum.toggle(before);
        }
        self.checksum.toggle(hash);
        self.changes.push((pgno, hash));
        self.drain(false)
    }

    /// Moves finished bytes out of the encoder, and to the spill file where they would be too many for memory.
    fn drain(&mut self, all: bool) -> Result<()> {
        let output = self.encoder.output();
        if output.len() < 1 << 20 && !all {
            return Ok(());
        }
        if let Some(file) = &mut self.file {
            file.write_all(output).map_err(Error::state(&self.spill.directory))?;
            output.clear();
            return Ok(());
        }
        self.memory.append(output);
        if self.memory.len() > self.spill.above {
            let mut file = tempfile::NamedTempFile::new_in(&self.spill.directory)
                .map_err(Error::state(&self.spill.directory))?;
            file.write_all(&self.memory).map_err(Error::state(&self.spill.directory))?;
            self.file = Some(file);
            self.memory = Vec::new();
        }
        Ok(())
    }

    fn finish(
        mut self,
        pages: u32,
        commits: u32,
        next: &NextBatch,
        wal: aquifer_sqlite::WalPosition,
        wal_bytes: u64,
    ) -> Result<Option<Batch>> {
        if self.changes.is_empty() && pages == self.map.pages() {
            return Ok(None);
        }
        for gone in pages..self.map.pages() {
            let gone = Pgno::from_index(gone);
            if let Some(hash) = self.map.get(gone).filter(|_| gone != self.page_size.lock_page()) {
                self.checksum.toggle(hash);
            }
        }
        let now = Timestamp::now().max(next.not_before);
        let meta = SegmentMeta {
            page_size: self.page_size,
            range: TxidRange::one(next.txid),
            size_before: self.map.pages(),
            size_after: pages,
            checksum_before: self.map.checksum(),
            checksum_after: self.checksum,
            commits,
            frames: next.frames,
            first_commit: now,
            last_commit: now,
            writer: next.writer,
        };
        self.drain(true)?;
        let finished = self.encoder.finish(&meta).map_err(Error::Encode)?;
        let body = match self.file {
            None => {
                self.memory.extend_from_slice(&finished.tail);
                Body::Memory(self.memory.into())
            }
            Some(mut file) => {
                file.write_all(&finished.tail).map_err(Error::state(&self.spill.directory))?;
                Body::File(file.into_temp_path())
            }
        };
        let encoded = Encoded { body, info: finished.info };
        Ok(Some(Batch { encoded, changes: self.changes, wal, wal_bytes }))
    }
}
