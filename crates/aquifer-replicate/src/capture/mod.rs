//! Turns what applications commit into segments.
//!
//! A [`Capture`] follows one database through its WAL ([`aquifer_sqlite::PinnedDatabase`]) and encodes each batch of
//! commits as the difference from the image that its page map describes. Where the WAL cannot prove that nothing was
//! missed, it compares all pages with the page map instead, and encodes those that differ: a gap is never papered
//! over, and costs reading, not uploading.

mod encode;
mod wal_size;

use std::path::{Path, PathBuf};

use aquifer_format::segment::SegmentMeta;
use aquifer_format::{DbChecksum, PageHash, PageSize, Pgno, Timestamp, Txid, WriterNonce};
use aquifer_sqlite::{Continuity, PinnedDatabase, WalPosition};

use crate::state::{Head, PageMap};
use crate::{Error, Result};

pub use encode::{Body, Encoded, Spill};
pub use wal_size::{WalLimits, WalReport};

/// One or more commits, encoded as the next level-0 segment.
#[derive(Debug)]
pub struct Batch {
    /// The segment.
    pub encoded: Encoded,
    /// The pages in it, with their new hashes.
    pub changes: Vec<(Pgno, PageHash)>,
    /// Everything up to this place in the WAL is in it, or in earlier batches.
    pub wal: WalPosition,
    /// Bytes of WAL frames that it stands for; 0 where pages were compared.
    pub wal_bytes: u64,
}

impl Batch {
    /// What its trailer says.
    pub fn meta(&self) -> &SegmentMeta {
        self.encoded.info.meta()
    }
}

/// What the next batch is to be called.
#[derive(Clone, Copy, Debug)]
pub struct NextBatch {
    /// Its number.
    pub txid: Txid,
    /// Who writes it.
    pub writer: WriterNonce,
    /// WAL frames that were pushed as its first commit; 0: none were.
    pub frames: u32,
    /// Its commit time is not earlier than this: histories stay monotonic when clocks jump back.
    pub not_before: Timestamp,
}

/// Follows one database.
#[derive(Debug)]
pub struct Capture {
    path: PathBuf,
    database: PinnedDatabase,
    /// Hashes of the image that was captured last.
    map: PageMap,
    /// Why pages must be compared before frames are read again.
    compare: Option<&'static str>,
    limits: WalLimits,
    wal_state: wal_size::WalState,
    spill: Spill,
}

impl Capture {
    /// Opens a database and pins its WAL. `known` is what an earlier run captured last.
    pub fn open(
        path: &Path,
        known: Option<(Head, PageMap)>,
        limits: WalLimits,
        spill: Spill,
    ) -> Result<Capture> {
        let (head, map) = known.unzip();
        let (database, continuity) = PinnedDatabase::open(path, head.as_ref().map(|h| &h.wal))?;
        let page_size = database.page_size();
        if let Some(head) = head.filter(|h| h.page_size != page_size) {
            return Err(Error::PageSizeChanged {
                path: path.to_owned(),
                expected: head.page_size,
                found: page_size,
            });
        }
        let compare = match continuity {
            Continuity::Proven => None,
            Continuity::Broken(reason) => Some(reason),
        };
        Ok(Capture {
            path: path.to_owned(),
            database,
            map: map.unwrap_or_else(|| PageMap::empty(page_size)),
            compare,
            limits,
            wal_state: wal_size::WalState::default(),
            spill,
        })
    }

    /// Size of the database's pages.
    pub fn page_size(&self) -> PageSize {
        self.database.page_size()
    }

    /// Hashes of the image that was captured last.
    pub fn map(&self) -> &PageMap {
        &self.map
    }

    /// The place in the WAL up to which everything was captured.
    pub fn position(&self) -> &WalPosition {
        self.database.position()
    }

    pub(crate) fn database_mut(&mut self) -> &mut PinnedDatabase {
        &mut self.database
    }

    /// Takes the database as it is for what was captured last, if it has this many pages and this checksum.
    pub fn adopt_if(&mut self, pages: u32, checksum: DbChecksum) -> Result<bool> {
        if self.database.pages()? != pages {
            return Ok(false);
        }
        let map = self.hash_pages()?;
        if map.checksum() != checksum {
            return Ok(false);
        }
        self.map = map;
        self.compare = None;
        Ok(true)
    }

    /// Whether something may have been committed since the last batch: a cheap look, for polling.
    pub fn may_have_changed(&mut self) -> bool {
        self.compare.is_some() || self.database.may_have_changed() || self.database.was_replaced()
    }

    /// Whether the next batch is found by comparing pages, as of when the database was opened.
    pub fn is_comparing(&self) -> bool {
        self.compare.is_some()
    }

    /// Bytes of WAL behind the last batch, at most: an uncommitted transaction counts as well.
    pub fn uncaptured_bytes(&self) -> u64 {
        let frame = (self.page_size().bytes() + aquifer_sqlite::wal::FRAME_HEADER_LEN) as u64;
        let captured = u64::from(self.database.position().frame) * frame;
        std::fs::metadata(self.wal_path()).map_or(0, |m| m.len()).saturating_sub(captured)
    }

    /// The database's WAL.
    pub fn wal_path(&self) -> PathBuf {
        let mut path = self.path.as_os_str().to_owned();
        path.push("-wal");
        path.into()
    }

    /// Hashes of all pages at the pin.
    fn hash_pages(&mut self) -> Result<PageMap> {
        let mut hashes = vec![0; self.database.pages()? as usize];
        self.database.scan::<Error>(|pgno, page| {
            hashes[pgno.index()] = PageHash::of(pgno, page).get();
            Ok(())
        })?;
        Ok(PageMap::from_hashes(self.page_size(), hashes))
    }

    /// Everything committed since the last batch, as the next one; `None` if nothing changed.
    pub fn next_batch(&mut self, next: &NextBatch) -> Result<Option<Batch>> {
        if self.database.was_replaced() {
            self.reopen("another file is in its place")?;
        }
        if let Some(reason) = self.compare {
            return self.batch_by_comparing(next, reason);
        }
        match self.database.look() {
            Ok(None) => Ok(None),
            Ok(Some(advance)) => {
                let encoded = encode::advance(&self.database, &self.map, &advance, next, &self.spill);
                match encoded {
                    Ok(batch) => {
                        self.database.accept(advance)?;
                        if let Some(batch) = &batch {
                            self.map.apply(batch.meta().size_after, batch.changes.iter().copied());
                        }
                        Ok(batch)
                    }
                    Err(e) => {
                        self.database.reject()?;
                        Err(e)
                    }
                }
            }
            Err(aquifer_sqlite::Error::Wal { source, .. }) => {
                tracing::warn!(path = %self.path.display(), problem = %source, "the WAL has a gap; comparing pages");
                self.reopen("its WAL has a gap")?;
                self.batch_by_comparing(next, "its WAL has a gap")
            }
            Err(e) => Err(e.into()),
        }
    }

    fn batch_by_comparing(&mut self, next: &NextBatch, reason: &'static str) -> Result<Option<Batch>> {
        if self.map.pages() > 0 {
            tracing::info!(path = %self.path.display(), reason, "comparing all pages with those of the replica");
        }
        let batch = encode::difference(&self.database, &self.map, next, &self.spill)?;
        if let Some(batch) = &batch {
            self.map.apply(batch.meta().size_after, batch.changes.iter().copied());
        }
        self.compare = None;
        Ok(batch)
    }

    /// Gives up the pin and takes a new one: what was committed in between is found by comparing.
    fn reopen(&mut self, reason: &'static str) -> Result<()> {
        // Whatever comes after the new pin must not be taken for a continuation if opening fails halfway.
        self.compare = Some(reason);
        let (database, _) = PinnedDatabase::open(&self.path, None)?;
        if database.page_size() != self.page_size() {
            return Err(Error::PageSizeChanged {
                path: self.path.clone(),
                expected: self.page_size(),
                found: database.page_size(),
            });
        }
        self.database = database;
        self.wal_state = wal_size::WalState::default();
        Ok(())
    }
}
