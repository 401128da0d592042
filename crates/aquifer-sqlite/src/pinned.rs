//! A database that other processes write to, held so that no committed frame can get lost before it is read.
//!
//! # The invariant
//! Between two calls, one read transaction (the *pin*) is open, and everything up to its place in the WAL has been
//! handed out. A new pin is begun *before* the old one ends, so there is no instant without one. While a pin is held,
//! SQLite's own locks leave two cases (wal.c, `walRestartLog` and `walCheckpoint`):
//!
//! - The pin is *tight*, on one of read locks 1 to 4: the WAL cannot be reset, since that needs all four exclusively.
//!   Frames up to the pin stay where they are, and those after it are not copied into the database file; so the file and
//!   the frames up to the place together are the image at the pin: the *old content* that differences need.
//! - The pin is *loose*, on read lock 0 ([`PinnedDatabase::let_go`], or an empty WAL): the file held everything when it
//!   was taken. The WAL may be reset (once or, while empty, several times), but frames written afterwards cannot be
//!   copied into the file, since that needs read lock 0 exclusively, and a WAL with frames that are not copied cannot be
//!   reset. So all that follows the pin is in the WAL that is there when one looks next, and the file alone is the image
//!   at the pin.
//!
//! In both cases what comes after the pin is complete, whatever the salts are. Where a pin was *not* held without a
//! break (the program was not running), only equal salts and an equal cumulative checksum at the remembered frame
//! prove it ([`PinnedDatabase::open`]); else [`Continuity::Broken`] says that the pages must be compared.

use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use aquifer_format::{PageSize, Pgno};
use rustc_hash::FxHashMap;

use crate::handle::{Backfill, Handle, WalLock};
use crate::position::WalPosition;
use crate::view::View;
use crate::wal::{
    Ahead, FRAME_HEADER_LEN, FrameHeader, FrameReader, HEADER_LEN, Salts, WalError, WalHeader, page_offset,
};
use crate::{Error, Result};

/// New content of pages is kept in memory up to this many bytes per advance; beyond, it is read again from the WAL.
const KEEP: usize = 8 << 20;
/// Bytes read at a time when all pages are read.
const SCAN: usize = 1 << 20;

/// Whether everything since a remembered place in the WAL can be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Continuity {
    /// The WAL still holds every frame after the remembered place.
    Proven,
    /// It cannot be proven: compare the pages.
    Broken(&'static str),
}

/// What was committed after the pin, up to another place.
#[derive(Debug)]
pub struct Advance {
    /// The place reached.
    pub to: WalPosition,
    /// Pages of the database there.
    pub pages: u32,
    /// Transactions committed in between.
    pub commits: u64,
    /// Frames read.
    pub frames: u64,
    /// The pages in those frames, ascending; each with the number of its newest frame.
    pub changed: Vec<(Pgno, u32)>,
    contents: Contents,
    ahead: RefCell<Ahead>,
    page_size: PageSize,
}

/// Contents of pages, as far as there is room.
#[derive(Debug, Default)]
struct Contents {
    /// pgno -> offset in `bytes`.
    slots: FxHashMap<u32, usize>,
    bytes: Vec<u8>,
}

impl Contents {
    fn keep(&mut self, pgno: Pgno, page: &[u8]) {
        if let Some(&offset) = self.slots.get(&pgno.get()) {
            self.bytes[offset..offset + page.len()].copy_from_slice(page);
        } else if self.bytes.len() + page.len() <= KEEP {
            self.slots.insert(pgno.get(), self.bytes.len());
            self.bytes.extend_from_slice(page);
        }
    }

    fn get(&self, pgno: Pgno, page_size: PageSize) -> Option<&[u8]> {
        let offset = *self.slots.get(&pgno.get())?;
        self.bytes.get(offset..offset + page_size.bytes())
    }
}

/// A database that others write to, with its WAL held.
#[derive(Debug)]
pub struct PinnedDatabase {
    path: PathBuf,
    page_size: PageSize,
    handles: [Handle; 2],
    /// Which of the handles holds the pin.
    pin: usize,
    /// Whether it was made loose, and stays so.
    let_go: bool,
    /// Place up to which everything was handed out.
    at: WalPosition,
    /// Newest frame of each page up to `at.frame`, in the WAL as it is now.
    index: FxHashMap<u32, u32>,
    /// What the last advance brought: the pages that change most often are old content soon.
    recent: Contents,
    /// Buffers for the next look: fresh memory costs more than what is done with it.
    spare: Contents,
    read_buffer: Vec<u8>,
    wal: Option<File>,
    identity: FileIdentity,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct FileIdentity {
    device: u64,
    inode: u64,
}

impl FileIdentity {
    fn of(metadata: &std::fs::Metadata) -> FileIdentity {
        FileIdentity { device: metadata.dev(), inode: metadata.ino() }
    }
}

impl PinnedDatabase {
    /// Opens and pins a database. With a place that was remembered from earlier, says whether the WAL still continues
    /// from there: if so, the first [`look`](PinnedDatabase::look) hands out what came after it.
    pub fn open(path: &Path, remembered: Option<&WalPosition>) -> Result<(PinnedDatabase, Continuity)> {
        let mut first = Handle::open(path)?;
        let second = Handle::open(path)?;
        let identity = FileIdentity::of(&metadata(path)?);
        let page_size = first.page_size()?;
        let at = first.begin_read()?;
        let mut database = PinnedDatabase {
            path: path.to_owned(),
            page_size,
            handles: [first, second],
            pin: 0,
            let_go: false,
            at,
            index: FxHashMap::default(),
            recent: Contents::default(),
            spare: Contents::default(),
            read_buffer: Vec::new(),
            wal: None,
            identity,
        };
        let continuity = database.index_existing(remembered)?;
        Ok((database, continuity))
    }

    /// Reads the WAL up to the pin, to know where each page's newest frame is.
    fn index_existing(&mut self, remembered: Option<&WalPosition>) -> Result<Continuity> {
        let Some(known) = remembered else {
            self.index_frames(self.at)?;
            return Ok(Continuity::Broken("nothing is remembered of its WAL"));
        };
        let broken = if known.salts == WalPosition::NO_WAL.salts {
            Some("there was no WAL to remember")
        } else if known.salts != self.at.salts {
            Some("its WAL was reset")
        } else if known.frame > self.at.frame {
            Some("its WAL is shorter than it was")
        } else {
            None
        };
        if let Some(reason) = broken {
            self.index_frames(self.at)?;
            return Ok(Continuity::Broken(reason));
        }
        let pinned = self.at;
        match self.index_frames(WalPosition { pages: known.pages, ..*known }) {
            Ok(()) => {
                self.at = *known;
                Ok(Continuity::Proven)
            }
            Err(Error::Wal { .. }) => {
                self.index.clear();
                self.index_frames(pinned)?;
                Ok(Continuity::Broken("its WAL holds other frames than it did"))
            }
            Err(e) => Err(e),
        }
    }

    fn index_frames(&mut self, to: WalPosition) -> Result<()> {
        self.index.clear();
        if to.frame == 0 {
            return Ok(());
        }
        let mut index = FxHashMap::default();
        let wal = open_wal(&mut self.wal, &self.path)?;
        let mut reader = start(wal, &self.path, to)?;
        while let Some(frame) = next(&mut reader, to.frame, &self.path)? {
            index.insert(frame.pgno.get(), frame.number);
        }
        prove(&reader, to, &self.path)?;
        self.index = index;
        Ok(())
    }

    /// The database file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Size of its pages.
    pub fn page_size(&self) -> PageSize {
        self.page_size
    }

    /// The place up to which everything was handed out.
    pub fn position(&self) -> &WalPosition {
        &self.at
    }

    /// Pages of the database at the pin.
    pub fn pages(&self) -> Result<u32> {
        self.pages_at(&self.at)
    }

    fn pages_at(&self, position: &WalPosition) -> Result<u32> {
        if position.pages > 0 {
            return Ok(position.pages);
        }
        Ok(u32::try_from(self.handles[0].file_len()? / u64::from(self.page_size.get())).unwrap_or(u32::MAX))
    }

    /// Whether the path now names another file than the one that is open: it was replaced or removed, or its WAL was.
    pub fn was_replaced(&self) -> bool {
        let same = |path: &Path, identity: FileIdentity| {
            std::fs::metadata(path).is_ok_and(|m| FileIdentity::of(&m) == identity)
        };
        if !same(&self.path, self.identity) {
            return true;
        }
        match self.wal.as_ref().map(File::metadata) {
            Some(Ok(open)) => !same(&wal_path(&self.path), FileIdentity::of(&open)),
            Some(Err(_)) => true,
            None => false,
        }
    }

    /// Whether something may have come after the pin: a frame stands behind it, or the WAL was reset. Two reads of a few
    /// bytes, without SQLite and its locks; a transaction that is being written shows already. For polling.
    pub fn may_have_changed(&mut self) -> bool {
        let Ok(wal) = open_wal(&mut self.wal, &self.path) else { return true };
        if self.at.frame == 0 {
            let mut header = [0; HEADER_LEN];
            // An empty WAL, or one whose frames are all of an earlier use, holds nothing new.
            return wal.read_exact_at(&mut header, 0).is_ok() && {
                let mut frame = [0; FRAME_HEADER_LEN];
                wal.read_exact_at(&mut frame, HEADER_LEN as u64).is_ok()
                    && WalHeader::parse(&header).is_ok_and(|h| h.salts == FrameHeader::parse(&frame).salts)
            };
        }
        let mut salts = [0; 8];
        if wal.read_exact_at(&mut salts, 16).is_err() || Salts(salts) != self.at.salts {
            return true;
        }
        let mut frame = [0; FRAME_HEADER_LEN];
        let next = page_offset(self.page_size, self.at.frame + 1) - FRAME_HEADER_LEN as u64;
        wal.read_exact_at(&mut frame, next).is_ok() && FrameHeader::parse(&frame).salts == self.at.salts
    }

    /// Looks for commits after the pin. Reads and proves their frames, and holds them with a second pin until
    /// [`accept`](PinnedDatabase::accept) or [`reject`](PinnedDatabase::reject). `None`: there are none.
    ///
    /// # Errors
    /// [`Error::Wal`] where the frames are not what SQLite's index promised: compare the pages.
    /// [`Error::Busy`]: try again later. After any error the old pin still holds.
    pub fn look(&mut self) -> Result<Option<Advance>> {
        let spare = 1 - self.pin;
        // Left open by an advance that was dropped without a word.
        self.handles[spare].end_read()?;
        let to = self.handles[spare].begin_read()?;
        if to == self.at {
            self.handles[spare].end_read()?;
            return Ok(None);
        }
        match self.read_to(to) {
            Ok(advance) => Ok(Some(advance)),
            Err(e) => {
                self.handles[spare].end_read()?;
                Err(e)
            }
        }
    }

    fn read_to(&mut self, to: WalPosition) -> Result<Advance> {
        let reset = to.salts != self.at.salts;
        if reset {
            // Then the pin is loose, and the index was cleared when it was made so.
            debug_assert!(self.index.is_empty());
            self.index.clear();
        }
        let mut advance = Advance {
            to,
            pages: 0,
            commits: 0,
            frames: 0,
            changed: Vec::new(),
            contents: std::mem::take(&mut self.spare),
            ahead: RefCell::default(),
            page_size: self.page_size,
        };
        if to.frame > 0 {
            let from = if reset { 0 } else { self.at.frame };
            let wal = open_wal(&mut self.wal, &self.path)?;
            let mut reader = if from == 0 {
                start(wal, &self.path, to)?
            } else {
                FrameReader::resume(wal, self.page_size, to.big_endian, to.salts, from, self.at.checksum)
            };
            reader.set_buffer(std::mem::take(&mut self.read_buffer));
            let mut newest: FxHashMap<u32, u32> = FxHashMap::default();
            let mut last_commit = (from, 0);
            while let Some(frame) = next(&mut reader, to.frame, &self.path)? {
                newest.insert(frame.pgno.get(), frame.number);
                advance.contents.keep(frame.pgno, frame.page);
                advance.frames += 1;
                if frame.commit > 0 {
                    advance.commits += 1;
                }
                last_commit = (frame.number, frame.commit);
            }
            prove(&reader, to, &self.path)?;
            self.read_buffer = reader.into_buffer();
            if last_commit.1 != to.pages && last_commit.0 > from {
                return Err(Error::Wal {
                    path: self.path.clone(),
                    source: WalError::Commit { frame: to.frame, expected: to.pages, found: last_commit.1 },
                });
            }
            advance.changed =
                newest.into_iter().filter_map(|(pgno, frame)| Some((Pgno::new(pgno)?, frame))).collect();
            advance.changed.sort_unstable();
        }
        advance.pages = self.pages_at(&to)?;
        Ok(advance)
    }

    /// Content of a page at the pin: before the advance that [`look`](PinnedDatabase::look) found.
    ///
    /// After [`open`](PinnedDatabase::open) with an older remembered place it may be newer; whoever needs to be sure
    /// compares its hash.
    pub fn read_old<'a>(&'a self, pgno: Pgno, page: &'a mut [u8]) -> Result<&'a [u8]> {
        if let Some(content) = self.recent.get(pgno, self.page_size) {
            return Ok(content);
        }
        match self.index.get(&pgno.get()) {
            Some(&frame) => self.read_frame(frame, page)?,
            None => self.handles[self.pin].read_page(pgno, page)?,
        }
        Ok(page)
    }

    /// What the database file has of a page, whatever the WAL has: the content at some place before the pin. Beyond its
    /// end are zeros.
    pub fn read_file(&self, pgno: Pgno, page: &mut [u8]) -> Result<()> {
        self.handles[self.pin].read_page(pgno, page)
    }

    /// Frees what is held to be faster while the database is busy.
    pub fn forget_recent(&mut self) {
        self.recent = Contents::default();
        self.spare = Contents::default();
        self.read_buffer = Vec::new();
    }

    /// Hands out every page at the pin, ascending, the lock-byte page excepted. Only on a database that was opened
    /// without a proven continuity, or has accepted every advance since.
    pub fn scan<E: From<Error>>(&self, mut visit: impl FnMut(Pgno, &[u8]) -> Result<(), E>) -> Result<(), E> {
        let size = self.page_size.bytes();
        let per_read = (SCAN / size).max(1) as u32;
        let mut buffer = vec![0; per_read as usize * size];
        let mut page = vec![0; size];
        let pages = self.pages()?;
        let mut first = 0;
        while first < pages {
            let n = per_read.min(pages - first);
            let chunk = &mut buffer[..n as usize * size];
            self.handles[self.pin].read_at(chunk, u64::from(first) * size as u64)?;
            for (i, content) in chunk.chunks_exact(size).enumerate() {
                let pgno = Pgno::from_index(first + i as u32);
                if pgno == self.page_size.lock_page() {
                    continue;
                }
                match self.index.get(&pgno.get()) {
                    Some(&frame) => {
                        self.read_frame(frame, &mut page)?;
                        visit(pgno, &page)?;
                    }
                    None => visit(pgno, content)?,
                }
            }
            first += n;
        }
        Ok(())
    }

    /// Content of a page after the advance.
    pub fn read_new<'a>(&self, advance: &'a Advance, at: usize, page: &'a mut [u8]) -> Result<&'a [u8]> {
        let (pgno, frame) = advance.changed[at];
        if let Some(content) = advance.contents.get(pgno, self.page_size) {
            return Ok(content);
        }
        let (wal, mut ahead) = (self.frames(), advance.ahead.borrow_mut());
        let read = ahead.read(wal, self.page_size, frame, advance.to.frame, page);
        read.map_err(|source| Error::Io { path: wal_path(&self.path), source })?;
        Ok(page)
    }

    fn read_frame(&self, frame: u32, page: &mut [u8]) -> Result<()> {
        let read = self.frames().read_exact_at(page, page_offset(self.page_size, frame));
        read.map_err(|source| Error::Io { path: wal_path(&self.path), source })
    }

    fn frames(&self) -> &File {
        self.wal.as_ref().expect("frames are known only after the WAL was opened")
    }

    /// The image up to the place that was handed out last, to be read by others meanwhile. `None` where something was
    /// committed after it and the image is only this pin's: after the next [`look`](PinnedDatabase::look) it is there.
    pub fn view(&mut self) -> Result<Option<View>> {
        let mut handle = Handle::open(&self.path)?;
        let lent = self.handles[0].holds(WalLock::Checkpoint);
        let mut place = handle.begin_read_as(&self.handles[self.pin], lent)?;
        if place.is_none() {
            place = Some(handle.begin_read()?);
        }
        // After an open that goes on from a remembered place, the pin may be at a later one.
        if place != Some(self.at) {
            return Ok(None);
        }
        let wal_path = wal_path(&self.path);
        let wal = match self.wal.as_ref().filter(|_| !self.index.is_empty()).map(File::try_clone) {
            Some(Ok(wal)) => Some(wal),
            Some(Err(source)) => return Err(Error::Io { path: wal_path, source }),
            None => None,
        };
        let index = self.index.clone();
        let (page_size, pages, end) = (self.page_size, self.pages()?, self.at.frame);
        Ok(Some(View { handle, wal, wal_path, index, end, ahead: Ahead::default(), page_size, pages }))
    }

    /// Moves the pin to the place that the advance reached: everything in it is now the caller's.
    pub fn accept(&mut self, advance: Advance) -> Result<()> {
        for (pgno, frame) in &advance.changed {
            self.index.insert(pgno.get(), *frame);
        }
        self.at = advance.to;
        self.spare = std::mem::replace(&mut self.recent, advance.contents);
        self.spare.slots.clear();
        self.spare.bytes.clear();
        self.handles[self.pin].end_read()?;
        self.pin = 1 - self.pin;
        self.let_go = false;
        Ok(())
    }

    /// Leaves the pin where it was.
    pub fn reject(&mut self) -> Result<()> {
        self.handles[1 - self.pin].end_read()
    }

    /// Ends the pin. The database must be [opened](PinnedDatabase::open) anew, with the place up to which all was handed
    /// out, to be looked at again.
    pub fn give_up(&mut self) -> Result<()> {
        for handle in &mut self.handles {
            handle.end_read()?;
        }
        Ok(())
    }

    /// Whether another connection is checkpointing at this moment, or waits for a reader in order to.
    pub fn is_checkpointing(&mut self) -> Result<bool> {
        if self.handles.iter().any(|handle| handle.holds(WalLock::Checkpoint)) {
            return Ok(false);
        }
        let handle = &mut self.handles[self.pin];
        let is_free = handle.try_lock(WalLock::Checkpoint)?;
        handle.unlock(WalLock::Checkpoint);
        Ok(!is_free)
    }

    /// Keeps others from checkpointing, as far as they do it without being told to (SQLite's automatic checkpoints
    /// are passive and ignore that another one is under way): then it is up to us, and costs the application nothing.
    pub fn hold_checkpoints(&mut self) -> Result<bool> {
        self.handles[0].try_lock(WalLock::Checkpoint)
    }

    /// Lets others checkpoint again.
    pub fn release_checkpoints(&mut self) {
        self.handles[0].unlock(WalLock::Checkpoint);
    }

    /// Copies frames up to the pin into the database file. Blocks nobody; returns how much is left.
    pub fn checkpoint(&mut self) -> Result<Backfill> {
        let held = self.handles[0].holds(WalLock::Checkpoint);
        let spare = 1 - self.pin;
        self.handles[spare].end_read()?;
        if held { self.handles[spare].checkpoint_with_lent_lock() } else { self.handles[spare].checkpoint() }
    }

    /// Where the database file holds everything up to the pin and nothing came after it, makes the pin loose: the next
    /// writer may reset the WAL. False where that is not so.
    pub fn let_go(&mut self) -> Result<bool> {
        let backfill = self.backfill()?;
        if !backfill.is_complete() || backfill.frames != self.at.frame {
            return Ok(false);
        }
        // From here on the frames that the index names may be overwritten, and the file has all of them.
        self.index.clear();
        let spare = 1 - self.pin;
        self.handles[spare].end_read()?;
        if self.handles[spare].begin_read_letting_go()? != self.at {
            self.handles[spare].end_read()?;
            return Ok(false);
        }
        self.handles[self.pin].end_read()?;
        self.pin = spare;
        self.let_go = true;
        Ok(true)
    }

    /// Whether the pin is loose: it keeps nobody from resetting the WAL, but others from checkpointing what came after
    /// it.
    pub fn is_loose(&self) -> bool {
        self.let_go || self.at.frame == 0
    }

    /// How far the WAL has been copied into the database file.
    pub fn backfill(&mut self) -> Result<Backfill> {
        let spare = 1 - self.pin;
        self.handles[spare].backfill()
    }

    /// Flushes what checkpoints have written and what the WAL holds, so that the step which completes a checkpoint
    /// has little left to flush.
    pub fn sync(&mut self) -> Result<()> {
        if let Some(wal) = &self.wal {
            wal.sync_data().map_err(|source| Error::Io { path: wal_path(&self.path), source })?;
        }
        self.handles[self.pin].sync_file()
    }

    /// Keeps writers from beginning until [`thaw`](PinnedDatabase::thaw); false if one is at it.
    pub fn try_freeze(&mut self) -> Result<bool> {
        self.handles[0].try_lock(WalLock::Write)
    }

    /// Lets writers go on.
    pub fn thaw(&mut self) {
        self.handles[0].unlock(WalLock::Write);
    }
}

impl Advance {
    /// Whether nothing was written, only the WAL reset.
    pub fn is_empty(&self) -> bool {
        self.frames == 0
    }

    /// Bytes of the frames read, with their headers.
    pub fn wal_bytes(&self) -> u64 {
        self.frames * (FRAME_HEADER_LEN + self.page_size.bytes()) as u64
    }
}

/// The path of a database's WAL.
fn wal_path(database: &Path) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push("-wal");
    path.into()
}

fn metadata(path: &Path) -> Result<std::fs::Metadata> {
    std::fs::metadata(path).map_err(|source| Error::Io { path: path.to_owned(), source })
}

/// SQLite keeps no locks on the WAL file, so a descriptor of our own is harmless (see the crate's documentation).
fn open_wal<'w>(wal: &'w mut Option<File>, database: &Path) -> Result<&'w File> {
    if wal.is_none() {
        let path = wal_path(database);
        *wal = Some(File::open(&path).map_err(|source| Error::Io { path, source })?);
    }
    Ok(wal.as_ref().expect("opened above"))
}

fn start<'f>(wal: &'f File, database: &Path, to: WalPosition) -> Result<FrameReader<'f>> {
    FrameReader::from_start(wal, to.salts)
        .map_err(|source| Error::Io { path: wal_path(database), source })?
        .map_err(|source| Error::Wal { path: database.to_owned(), source })
}

/// The frames read must end with the cumulative checksum that SQLite's index promised.
fn prove(reader: &FrameReader<'_>, to: WalPosition, database: &Path) -> Result<()> {
    if reader.position() == (to.frame, to.checksum) {
        Ok(())
    } else {
        let source = WalError::FrameChecksum { frame: to.frame };
        Err(Error::Wal { path: database.to_owned(), source })
    }
}

fn next<'r>(
    reader: &'r mut FrameReader<'_>,
    last: u32,
    database: &Path,
) -> Result<Option<crate::wal::Frame<'r>>> {
    reader
        .next(last)
        .map_err(|source| Error::Io { path: wal_path(database), source })?
        .map_err(|source| Error::Wal { path: database.to_owned(), source })
}
