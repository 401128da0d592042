//! Makes batches of what a replay says.

use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aquifer_format::segment::SegmentMeta;
use aquifer_format::{DbChecksum, GenerationId, PageSize, Pgno, Timestamp, Txid, TxidRange, WriterNonce};
use aquifer_log::DatabaseStore;
use tokio::runtime::Handle;

use super::batch::Batch;
use crate::error::{MigrateError, Result};
use crate::image::{DatabaseHeader, Growth, Image, PageSet, Sink, SinkError};

/// Keeps the database as of the last batch in a file, and what was committed since beside it.
pub(super) struct Recorder<'f> {
    file: &'f tempfile::NamedTempFile,
    directory: PathBuf,
    image: Image,
    growth: Growth,
    /// Pages at the last batch.
    before: u32,
    checksum: DbChecksum,
    /// Of the transaction that is not committed yet.
    open: PageSet,
    /// Committed since the last batch, the pages after it, and how many commits.
    committed: PageSet,
    after: u32,
    commits: u32,
    txid: Txid,
    first_commit: Option<Timestamp>,
    last_commit: Timestamp,
    only_page_size: Option<PageSize>,
    to: DatabaseStore,
    generation: GenerationId,
    writer: WriterNonce,
    runtime: Handle,
}

/// What was recorded.
#[derive(Debug)]
pub(super) struct Recorded {
    pub(super) txid: Txid,
    pub(super) pages: u32,
    pub(super) page_size: PageSize,
    pub(super) first_commit: Timestamp,
    pub(super) last_commit: Timestamp,
}

impl<'f> Recorder<'f> {
    pub(super) fn new(
        file: &'f tempfile::NamedTempFile,
        to: DatabaseStore,
        generation: GenerationId,
        writer: WriterNonce,
        only_page_size: Option<PageSize>,
        runtime: Handle,
    ) -> Result<Recorder<'f>> {
        let written = file.as_file().try_clone().map_err(|e| MigrateError::io("write", file.path(), e))?;
        let directory = file.path().parent().unwrap_or(Path::new(".")).to_owned();
        Ok(Recorder {
            image: Image::scratch(Arc::new(written), file.path()),
            growth: Growth::default(),
            before: 0,
            checksum: DbChecksum::EMPTY,
            open: PageSet::new(&directory),
            committed: PageSet::new(&directory),
            after: 0,
            commits: 0,
            txid: Txid::ZERO,
            first_commit: None,
            last_commit: Timestamp::from_millis(i64::MIN),
            file,
            directory,
            only_page_size,
            to,
            generation,
            writer,
            runtime,
        })
    }

    /// Leaves the file as the newest revision; `None` if nothing was recorded.
    pub(super) fn finish(self) -> Result<Option<Recorded>> {
        let (txid, last_commit) = (self.txid, self.last_commit);
        let first_commit = self.first_commit;
        let (pages, page_size) = self.image.finish()?;
        Ok(page_size.zip(first_commit).map(|(page_size, first_commit)| Recorded {
            txid,
            pages,
            page_size,
            first_commit,
            last_commit,
        }))
    }

    fn read(&self, pgno: Pgno, size: PageSize, page: &mut [u8]) -> Result<()> {
        let read = self.file.as_file().read_exact_at(page, size.offset(pgno));
        read.map_err(|e| MigrateError::io("read", self.file.path(), e))
    }

    /// Everything in the file as the first batch.
    fn whole(&mut self, size: PageSize, at: Timestamp) -> Result<()> {
        self.image.flush().map_err(|e| MigrateError::io("write", self.file.path(), e))?;
        let mut batch = Batch::new(size, self.checksum, &self.directory)?;
        let mut page = vec![0; size.bytes()];
        for pgno in Pgno::up_to(self.after) {
            self.read(pgno, size, &mut page)?;
            batch.push(pgno, None, &page)?;
        }
        self.put(batch, size, at)
    }

    /// What was committed since as a batch, and into the file.
    fn changes(&mut self, size: PageSize, at: Timestamp) -> Result<()> {
        let mut batch = Batch::new(size, self.checksum, &self.directory)?;
        let (mut old, mut new) = (vec![0; size.bytes()], vec![0; size.bytes()]);
        let mut next = self.before + 1;
        for pgno in self.committed.numbers() {
            if pgno.get() > self.after {
                break;
            }
            let local = |e| MigrateError::io("write", self.file.path(), e);
            self.committed.read(pgno, &mut new).map_err(local)?;
            if pgno.get() <= self.before {
                self.read(pgno, size, &mut old)?;
                batch.push(pgno, Some(&old), &new)?;
            } else {
                fill(&mut batch, next, pgno.get(), size)?;
                next = pgno.get() + 1;
                batch.push(pgno, None, &new)?;
            }
            self.image.write(pgno, &new).map_err(local)?;
        }
        self.committed.clear();
        fill(&mut batch, next, self.after + 1, size)?;
        for gone in self.after..self.before {
            let gone = Pgno::from_index(gone);
            self.read(gone, size, &mut old)?;
            batch.gone(gone, &old);
        }
        // Pages that no frame has are read as zeros when the next batch changes them.
        let len = u64::from(self.after) * size.bytes() as u64;
        let written = self.image.resize(self.after).and_then(|()| self.image.flush());
        let written = written.and_then(|()| self.file.as_file().set_len(len));
        written.map_err(|e| MigrateError::io("write", self.file.path(), e))?;
        if batch.is_empty() && self.after == self.before {
            return Ok(());
        }
        self.put(batch, size, at)
    }

    fn put(&mut self, batch: Batch, size: PageSize, at: Timestamp) -> Result<()> {
        // Histories keep their times monotonic.
        let at = at.max(self.last_commit);
        let meta = SegmentMeta {
            page_size: size,
            range: TxidRange::one(self.txid.next()),
            size_before: self.before,
            size_after: self.after,
            checksum_before: self.checksum,
            checksum_after: batch.checksum,
            commits: self.commits.max(1),
            frames: 0,
            first_commit: at,
            last_commit: at,
            writer: self.writer,
        };
        batch.put(&self.to, self.generation, &meta, &self.runtime)?;
        (self.txid, self.checksum) = (meta.range.last, meta.checksum_after);
        (self.before, self.commits) = (self.after, 0);
        self.first_commit.get_or_insert(at);
        self.last_commit = at;
        Ok(())
    }
}

/// Pages from `from` up to `to`, exclusive, that no frame has: SQLite never writes a page that a transaction allocates and
/// frees again.
fn fill(batch: &mut Batch, from: u32, to: u32, size: PageSize) -> Result<()> {
    for pgno in from..to {
        batch.push(Pgno::from_index(pgno - 1), None, size.zero_page())?;
    }
    Ok(())
}

impl Sink for Recorder<'_> {
    fn database(&mut self, content: &mut dyn Read) -> Result<(), SinkError> {
        self.image.database(content)?;
        self.after = self.image.pages();
        self.growth.saw(u64::from(self.after));
        Ok(())
    }

    fn page_size(&self) -> Option<PageSize> {
        self.image.page_size()
    }

    fn set_page_size(&mut self, size: PageSize) -> bool {
        self.image.set_page_size(size)
    }

    fn room_for(&mut self, pages: u32) -> Result<(), SinkError> {
        self.image.room_for(pages)
    }

    fn page(&mut self, pgno: Pgno, page: &[u8]) -> Result<(), SinkError> {
        self.growth.saw(1);
        self.open.insert(pgno, page).map_err(|e| self.image.local(e))
    }

    fn settled(&mut self, pgno: Pgno, page: &[u8]) -> Result<(), SinkError> {
        self.growth.saw(1);
        self.committed.insert(pgno, page).map_err(|e| self.image.local(e))
    }

    fn commit(&mut self, pages: u32) -> Result<(), SinkError> {
        let Some(size) = self.page_size() else { return Ok(()) };
        self.growth.check(size, pages)?;
        self.room_for(pages)?;
        let committed = &mut self.committed;
        let moved = self.open.drain(size.bytes(), |pgno, page| committed.insert(pgno, page));
        moved.map_err(|e| self.image.local(e))?;
        if pages < self.after {
            // What comes after it again begins as zeros.
            self.committed.truncate(pages);
        }
        self.after = pages;
        self.commits = self.commits.saturating_add(1);
        Ok(())
    }

    fn roll_back(&mut self) {
        self.open.clear();
    }

    fn pages(&self) -> u32 {
        self.after
    }

    fn header_pages(&mut self) -> Result<Option<u32>, SinkError> {
        let mut page = vec![0; self.page_size().map_or(0, PageSize::bytes)];
        if self.committed.read(Pgno::ONE, &mut page).map_err(|e| self.image.local(e))? {
            return Ok(DatabaseHeader::parse(&page).map_err(SinkError::Content)?.pages);
        }
        self.image.header_pages()
    }

    fn point(&mut self, at: Option<Timestamp>) -> Result<(), SinkError> {
        let Some(size) = self.page_size() else { return Ok(()) };
        if self.only_page_size.is_some_and(|only| only != size) {
            return Err(SinkError::Local(Box::new(MigrateError::PageSize(size.get()))));
        }
        let at = at.unwrap_or(self.last_commit);
        let recorded = if self.txid == Txid::ZERO && self.image.pages() > 0 {
            self.whole(size, at)
        } else {
            self.changes(size, at)
        };
        recorded.map_err(|e| SinkError::Local(Box::new(e)))
    }
}
