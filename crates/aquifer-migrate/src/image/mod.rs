//! The database file in the making.

mod growth;
mod page_set;
mod write_behind;

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aquifer_format::{PageSize, Pgno, Timestamp};
use aquifer_replicate::restore::{RestoreError, require_room};

use crate::error::{MigrateError, Result};
pub(crate) use growth::Growth;
pub(crate) use page_set::PageSet;
use write_behind::WriteBehind;

/// Bytes read at a time of a whole database.
const CHUNK: usize = 1 << 18;
/// What a database file may hold beyond the pages that its header counts, in bytes.
const SLACK: u64 = 64 << 20;

/// Where a backup's pages go.
pub(crate) trait Sink {
    /// A whole database, from which the pages after it go on.
    fn database(&mut self, content: &mut dyn Read) -> Result<(), SinkError>;
    /// The size of pages, if it is known.
    fn page_size(&self) -> Option<PageSize>;
    /// Sets the size of pages; false where another one is known.
    fn set_page_size(&mut self, size: PageSize) -> bool;
    /// Whether there is room for a database of so many pages, before they come. After the size of pages is known.
    fn room_for(&mut self, pages: u32) -> Result<(), SinkError>;
    /// A page of a transaction.
    fn page(&mut self, pgno: Pgno, page: &[u8]) -> Result<(), SinkError>;
    /// A page that is committed for certain: where it is read, all before it was proven, or nothing of it counts.
    fn settled(&mut self, pgno: Pgno, page: &[u8]) -> Result<(), SinkError>;
    /// The transaction is committed; the database has so many pages after it.
    fn commit(&mut self, pages: u32) -> Result<(), SinkError>;
    /// The pages since the last commit are no transaction.
    fn roll_back(&mut self);
    /// Pages at the last commit.
    fn pages(&self) -> u32;
    /// What page 1 says of the number of pages, if that is to be believed. After the first page.
    fn header_pages(&mut self) -> Result<Option<u32>, SinkError>;
    /// What was committed up to here is a moment of the history, at this time if the format tells.
    fn point(&mut self, at: Option<Timestamp>) -> Result<(), SinkError> {
        let _ = at;
        Ok(())
    }
}

/// What a sink objects to.
pub(crate) enum SinkError {
    /// The content makes no database: the object is damaged.
    Content(String),
    /// The content cannot be read on: the object is damaged, or the store failed.
    Read(io::Error),
    /// There is no room for it.
    Room(Box<RestoreError>),
    /// Of the local file.
    Local(Box<MigrateError>),
}

/// A file that becomes the database: what is committed is in it, at [`Image::flush`] at the latest.
#[derive(Debug)]
pub(crate) struct Image {
    path: PathBuf,
    page_size: Option<PageSize>,
    growth: Growth,
    /// Bytes that there was room for when that was looked at.
    room: u64,
    open: PageSet,
    committed: Committed,
}

/// The file itself.
#[derive(Debug)]
struct Committed {
    file: Arc<File>,
    pages: u32,
    writer: WriteBehind,
}

impl Image {
    /// In an empty file, which is durable at the end.
    pub(crate) fn new(file: Arc<File>, path: &Path) -> Image {
        Image::written_by(WriteBehind::durable(Arc::clone(&file)), file, path)
    }

    /// In an empty file that is wanted for as long as this process runs.
    pub(crate) fn scratch(file: Arc<File>, path: &Path) -> Image {
        Image::written_by(WriteBehind::new(Arc::clone(&file)), file, path)
    }

    fn written_by(writer: WriteBehind, file: Arc<File>, path: &Path) -> Image {
        Image {
            path: path.to_owned(),
            page_size: None,
            growth: Growth::default(),
            room: 0,
            open: PageSet::new(path.parent().unwrap_or(Path::new("."))),
            committed: Committed { file, pages: 0, writer },
        }
    }

    /// Makes the file what was committed. Its pages, and their size: nothing of a database without any.
    pub(crate) fn finish(self) -> Result<(u32, Option<PageSize>)> {
        let Committed { file, pages, mut writer } = self.committed;
        let len = self.page_size.map_or(0, |size| u64::from(pages) * size.bytes() as u64);
        let done = writer.settle().and_then(|()| file.set_len(len)).and_then(|()| writer.finish());
        done.map_err(|e| MigrateError::io("write", &self.path, e))?;
        Ok((pages, self.page_size))
    }

    fn require_room(&mut self, bytes: u64) -> Result<(), SinkError> {
        if bytes > self.room {
            require_room(&self.committed.file, &self.path, bytes)
                .map_err(|e| SinkError::Room(Box::new(e)))?;
            self.room = bytes;
        }
        Ok(())
    }

    /// Writes a page.
    pub(crate) fn write(&mut self, pgno: Pgno, page: &[u8]) -> io::Result<()> {
        self.committed.write(pgno, page)
    }

    /// Sets the number of pages.
    pub(crate) fn resize(&mut self, pages: u32) -> io::Result<()> {
        self.page_size.map_or(Ok(()), |size| self.committed.resize(pages, size))
    }

    /// Afterwards all that was written can be read in the file.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.committed.writer.settle()
    }

    pub(crate) fn local(&self, source: io::Error) -> SinkError {
        SinkError::Local(Box::new(MigrateError::io("write", &self.path, source)))
    }
}

impl Committed {
    fn write(&mut self, pgno: Pgno, page: &[u8]) -> io::Result<()> {
        self.writer.write((u64::from(pgno.get()) - 1) * page.len() as u64, page)
    }

    fn resize(&mut self, pages: u32, size: PageSize) -> io::Result<()> {
        if pages < self.pages {
            // What comes after it again begins as zeros.
            self.writer.settle()?;
            self.file.set_len(u64::from(pages) * size.bytes() as u64)?;
        }
        self.pages = pages;
        Ok(())
    }
}

/// Reads as much of `content` as there is, up to the buffer's end.
pub(crate) fn fill(content: &mut (impl Read + ?Sized), buffer: &mut [u8]) -> Result<usize, SinkError> {
    let mut len = 0;
    while len < buffer.len() {
        match content.read(&mut buffer[len..]) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(SinkError::Read(e)),
        }
    }
    Ok(len)
}

/// What a database's first bytes say. Source: sqlite.org/fileformat2.html, section 1.3.
pub(crate) struct DatabaseHeader {
    pub(crate) page_size: PageSize,
    /// `None` where an old SQLite wrote last, which does not keep the count.
    pub(crate) pages: Option<u32>,
}

impl DatabaseHeader {
    pub(crate) const LEN: usize = 100;

    /// Of at least [`DatabaseHeader::LEN`] bytes.
    pub(crate) fn parse(bytes: &[u8]) -> Result<DatabaseHeader, String> {
        if !bytes.starts_with(b"SQLite format 3\0") {
            return Err("it does not begin as an SQLite database does (is it encrypted?)".to_owned());
        }
        let u16_at = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| u32::from_be_bytes(std::array::from_fn(|i| bytes[at + i]));
        // 1 stands for 65,536.
        let size = match u16_at(16) {
            1 => 65_536,
            size => u32::from(size),
        };
        let page_size = PageSize::new(size).map_err(|_| format!("its header says pages of {size} bytes"))?;
        let counted = u32_at(28);
        let pages = (counted > 0 && u32_at(24) == u32_at(92)).then_some(counted);
        Ok(DatabaseHeader { page_size, pages })
    }
}

impl Sink for Image {
    fn database(&mut self, content: &mut dyn Read) -> Result<(), SinkError> {
        let mut buffer = vec![0; CHUNK];
        let mut len = fill(content, &mut buffer)?;
        if len == 0 {
            return Ok(());
        }
        if len < DatabaseHeader::LEN {
            return Err(SinkError::Content(format!("a database of {len} bytes")));
        }
        let header = DatabaseHeader::parse(&buffer).map_err(SinkError::Content)?;
        if !self.set_page_size(header.page_size) {
            return Err(SinkError::Content(format!(
                "a database with pages of {} bytes, where others of this backup have another size",
                header.page_size
            )));
        }
        let size = header.page_size.bytes() as u64;
        let counted = header.pages.map(|pages| u64::from(pages) * size);
        let limit = counted.map_or(u64::from(u32::MAX - 1) * size, |counted| counted * 2 + SLACK);
        let mut written = 0;
        while len > 0 {
            if written + len as u64 > limit {
                return Err(SinkError::Content(format!(
                    "its database goes on after {written} bytes, where its header counts {}",
                    counted.unwrap_or(limit)
                )));
            }
            self.require_room(counted.unwrap_or(0).max(written + len as u64))?;
            self.committed.writer.write(written, &buffer[..len]).map_err(|e| self.local(e))?;
            written += len as u64;
            len = fill(content, &mut buffer)?;
        }
        if !written.is_multiple_of(size) {
            return Err(SinkError::Content(format!(
                "a database of {written} bytes, which are no whole pages"
            )));
        }
        // What lies beyond the count is no part of the database.
        let there = (written / size) as u32;
        self.growth.saw(written / size);
        self.committed.pages = header.pages.map_or(there, |counted| counted.min(there));
        if let Some(counted) = header.pages
            && counted > there
        {
            return Err(SinkError::Content(format!(
                "a database of {there} pages, whose header counts {counted}: its end is missing"
            )));
        }
        Ok(())
    }

    fn page_size(&self) -> Option<PageSize> {
        self.page_size
    }

    fn set_page_size(&mut self, size: PageSize) -> bool {
        *self.page_size.get_or_insert(size) == size
    }

    fn room_for(&mut self, pages: u32) -> Result<(), SinkError> {
        let size = self.page_size.map_or(0, PageSize::bytes);
        self.require_room(u64::from(pages) * size as u64)
    }

    fn page(&mut self, pgno: Pgno, page: &[u8]) -> Result<(), SinkError> {
        self.growth.saw(1);
        self.open.insert(pgno, page).map_err(|e| self.local(e))
    }

    fn settled(&mut self, pgno: Pgno, page: &[u8]) -> Result<(), SinkError> {
        self.growth.saw(1);
        self.write(pgno, page).map_err(|e| self.local(e))
    }

    fn commit(&mut self, pages: u32) -> Result<(), SinkError> {
        let Some(size) = self.page_size else { return Ok(()) };
        self.growth.check(size, pages)?;
        self.room_for(pages)?;
        let committed = &mut self.committed;
        let written = committed.resize(pages, size).and_then(|()| {
            // What is beyond the end was written and freed again.
            let stays = |pgno: Pgno| pgno.get() <= pages;
            self.open.drain(
                size.bytes(),
                |pgno, page| if stays(pgno) { committed.write(pgno, page) } else { Ok(()) },
            )
        });
        written.map_err(|e| self.local(e))
    }

    fn roll_back(&mut self) {
        self.open.clear();
    }

    fn pages(&self) -> u32 {
        self.committed.pages
    }

    fn header_pages(&mut self) -> Result<Option<u32>, SinkError> {
        self.flush().map_err(|e| self.local(e))?;
        let mut header = [0; DatabaseHeader::LEN];
        match self.committed.file.read_exact_at(&mut header, 0) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(SinkError::Content("page 1 is not there".to_owned()));
            }
            read => read.map_err(|e| self.local(e))?,
        }
        Ok(DatabaseHeader::parse(&header).map_err(SinkError::Content)?.pages)
    }
}
