//! An application, and a reader of the batches that is too simple to be wrong.

use std::path::{Path, PathBuf};

use aquifer_format::segment::SegmentBytes;
use aquifer_format::{DbChecksum, PageHash, PageSize, Pgno, Timestamp, Txid, WriterNonce};
use aquifer_replicate::capture::{Batch, Body, Capture, NextBatch, Spill, WalLimits};
use aquifer_replicate::state::{Head, PageMap};
use rusqlite::Connection;
use tempfile::TempDir;

pub(crate) use crate::support::dump;

/// What a reader of the segments has.
pub(crate) struct Reader {
    pub(crate) page_size: PageSize,
    pub(crate) pages: Vec<Vec<u8>>,
    pub(crate) checksum: DbChecksum,
    pub(crate) txid: Txid,
    pub(crate) last_commit: Timestamp,
}

impl Reader {
    pub(crate) fn new(page_size: PageSize) -> Reader {
        Reader {
            page_size,
            pages: Vec::new(),
            checksum: DbChecksum::EMPTY,
            txid: Txid::ZERO,
            last_commit: Timestamp::default(),
        }
    }

    pub(crate) fn apply(&mut self, batch: &Batch) {
        let bytes = match &batch.encoded.body {
            Body::Memory(bytes) => bytes.to_vec(),
            Body::File(path) => std::fs::read(path).unwrap(),
            Body::Staged(path) => std::fs::read(path).unwrap(),
        };
        let segment = SegmentBytes::parse(&bytes).unwrap();
        segment.verify().unwrap();
        let meta = segment.info().meta();
        assert_eq!(meta.range.first, self.txid.next());
        assert_eq!(meta.checksum_before, self.checksum);
        assert_eq!(meta.size_before as usize, self.pages.len());
        assert!(meta.last_commit >= self.last_commit);
        self.pages.resize(meta.size_after as usize, vec![0; self.page_size.bytes()]);
        let mut entries = segment.entries();
        while let Some(entry) = entries.next().unwrap() {
            let page = &mut self.pages[entry.pgno.index()];
            entry.apply(page);
            assert_eq!(PageHash::of(entry.pgno, page), entry.hash);
        }
        let mut checksum = DbChecksum::EMPTY;
        for (index, page) in self.pages.iter().enumerate() {
            let pgno = Pgno::from_index(index as u32);
            if pgno != self.page_size.lock_page() {
                checksum.toggle(PageHash::of(pgno, page));
            }
        }
        assert_eq!(checksum, meta.checksum_after);
        self.checksum = checksum;
        self.txid = meta.range.last;
        self.last_commit = meta.last_commit;
    }

    pub(crate) fn dump(&self) -> String {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("replica.db");
        std::fs::write(&path, self.pages.concat()).unwrap();
        dump(&Connection::open(&path).unwrap())
    }
}

pub(crate) struct Stage {
    pub(crate) _dir: TempDir,
    pub(crate) path: PathBuf,
    pub(crate) spill: PathBuf,
    pub(crate) application: Connection,
}

impl Stage {
    pub(crate) fn new(page_size: u32) -> Stage {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("app.db");
        let application = connect(&path, page_size);
        application.execute_batch("CREATE TABLE t(k INTEGER PRIMARY KEY, v BLOB)").unwrap();
        Stage { spill: dir.path().to_owned(), _dir: dir, path, application }
    }

    pub(crate) fn capture(&self, known: Option<(Head, PageMap)>) -> Capture {
        let limits = WalLimits { soft: 20_000, hard: 60_000, ..WalLimits::default() };
        Capture::open(&self.path, known, limits, Spill::to(self.spill.clone())).unwrap()
    }
}

pub(crate) fn connect(path: &Path, page_size: u32) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection
        .execute_batch(&format!(
            "PRAGMA page_size={page_size}; PRAGMA auto_vacuum=FULL; PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; PRAGMA busy_timeout=0"
        ))
        .unwrap();
    connection
}

pub(crate) fn put(connection: &Connection, k: i64, bytes: usize) {
    connection
        .execute("INSERT OR REPLACE INTO t VALUES(?, randomblob(?))", rusqlite::params![k, bytes as i64])
        .unwrap();
}

pub(crate) fn next(reader: &Reader) -> NextBatch {
    NextBatch {
        txid: reader.txid.next(),
        writer: WriterNonce::from_bytes([1; 16]),
        frames: 0,
        not_before: reader.last_commit,
    }
}

pub(crate) fn ship(capture: &mut Capture, reader: &mut Reader) -> Option<Batch> {
    let batch = capture.next_batch(&next(reader)).unwrap();
    if let Some(batch) = &batch {
        reader.apply(batch);
    }
    batch
}

pub(crate) fn head(batch: &Batch, reader: &Reader) -> Head {
    Head {
        generation: aquifer_format::GenerationId::new(Timestamp::now()),
        txid: reader.txid,
        writer: WriterNonce::from_bytes([1; 16]),
        previous: None,
        page_size: reader.page_size,
        last_commit: reader.last_commit,
        wal: batch.wal,
    }
}
