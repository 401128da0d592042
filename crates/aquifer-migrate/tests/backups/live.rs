//! A database that SQLite writes, and what SQLite itself makes of it at each commit.

use std::fs;

use rusqlite::Connection;

/// Bytes of a WAL's header.
pub(crate) const WAL_HEADER: usize = 32;
/// Bytes of a frame's header.
pub(crate) const FRAME_HEADER: usize = 24;

/// In WAL mode, without checkpoints of its own.
pub(crate) struct Live {
    dir: tempfile::TempDir,
    db: Connection,
    pub(crate) page_size: usize,
}

impl Live {
    pub(crate) fn new(page_size: usize) -> Live {
        let dir = tempfile::tempdir().unwrap();
        let db = Connection::open(dir.path().join("live.db")).unwrap();
        db.execute_batch(&format!(
            "PRAGMA page_size={page_size}; PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; \
             PRAGMA synchronous=OFF; CREATE TABLE t(k INTEGER PRIMARY KEY, v BLOB)"
        ))
        .unwrap();
        Live { dir, db, page_size }
    }

    /// One that goes on from a database file.
    pub(crate) fn after(file: &[u8], page_size: usize) -> Live {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("live.db");
        fs::write(&path, file).unwrap();
        let db = Connection::open(&path).unwrap();
        db.execute_batch("PRAGMA wal_autocheckpoint=0; PRAGMA synchronous=OFF").unwrap();
        Live { dir, db, page_size }
    }

    pub(crate) fn sql(&self, sql: &str) {
        self.db.execute_batch(sql).unwrap();
    }

    /// Rows in a transaction of their own.
    pub(crate) fn insert(&self, rows: usize, bytes: usize) {
        self.sql(&format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) \
             INSERT INTO t(v) SELECT randomblob({bytes}) FROM n"
        ));
    }

    /// Copies the WAL into the database file; the next write begins the WAL anew, with other salts.
    pub(crate) fn checkpoint(&self) {
        self.sql("PRAGMA wal_checkpoint(TRUNCATE)");
    }

    /// The database file, without what is in the WAL.
    pub(crate) fn file(&self) -> Vec<u8> {
        fs::read(self.dir.path().join("live.db")).unwrap()
    }

    pub(crate) fn wal(&self) -> Wal {
        let bytes = fs::read(self.dir.path().join("live.db-wal")).unwrap_or_default();
        Wal { bytes, page_size: self.page_size }
    }

    /// The whole database as SQLite sees it now.
    pub(crate) fn image(&self) -> Vec<u8> {
        image(&self.file(), &self.wal().bytes)
    }
}

/// What SQLite makes of a database file and a WAL.
pub(crate) fn image(file: &[u8], wal: &[u8]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("copy.db");
    fs::write(&path, file).unwrap();
    fs::write(dir.path().join("copy.db-wal"), wal).unwrap();
    let db = Connection::open(&path).unwrap();
    db.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    fs::read(&path).unwrap()
}

/// A WAL file.
#[derive(Clone)]
pub(crate) struct Wal {
    pub(crate) bytes: Vec<u8>,
    page_size: usize,
}

impl Wal {
    pub(crate) fn frames(&self) -> Vec<&[u8]> {
        self.bytes.get(WAL_HEADER..).unwrap_or_default().chunks_exact(self.frame_len()).collect()
    }

    fn frame_len(&self) -> usize {
        FRAME_HEADER + self.page_size
    }

    /// Frames `first` to `last`, 1-based, both inclusive.
    pub(crate) fn run(&self, first: usize, last: usize) -> Vec<u8> {
        self.frames()[first - 1..last].concat()
    }

    /// Up to and with a frame.
    pub(crate) fn up_to(&self, frame: usize) -> Vec<u8> {
        self.bytes[..WAL_HEADER + frame * self.frame_len()].to_vec()
    }

    /// The numbers of the frames that commit.
    pub(crate) fn commits(&self) -> Vec<usize> {
        let commits = self.frames().into_iter().enumerate().filter(|(_, frame)| word(frame, 4) > 0);
        commits.map(|(at, _)| at + 1).collect()
    }

    /// Of page size and header's checksum: what bottomless keeps as `.meta`.
    pub(crate) fn meta(&self) -> Vec<u8> {
        [&self.bytes[8..12], &self.bytes[24..32]].concat()
    }

    /// Computes all checksums anew, as a machine of the other byte order would have; or after a frame was changed.
    pub(crate) fn sum(&mut self, big_endian: bool) {
        let frame_len = self.frame_len();
        self.bytes[3] = 0x82 | u8::from(big_endian);
        let mut sums = sum((0, 0), &self.bytes[..24], big_endian);
        put(&mut self.bytes[24..32], sums);
        for frame in self.bytes[WAL_HEADER..].chunks_exact_mut(frame_len) {
            sums = sum(sums, &frame[..8], big_endian);
            sums = sum(sums, &frame[FRAME_HEADER..], big_endian);
            put(&mut frame[16..24], sums);
        }
    }
}

pub(crate) fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn put(to: &mut [u8], (a, b): (u32, u32)) {
    to[..4].copy_from_slice(&a.to_be_bytes());
    to[4..].copy_from_slice(&b.to_be_bytes());
}

/// Source: sqlite.org/fileformat2.html, section 4.2.
fn sum((mut a, mut b): (u32, u32), bytes: &[u8], big_endian: bool) -> (u32, u32) {
    let word = |at: usize| {
        let bytes: [u8; 4] = bytes[at..at + 4].try_into().unwrap();
        if big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
    };
    for at in (0..bytes.len()).step_by(8) {
        a = a.wrapping_add(word(at)).wrapping_add(b);
        b = b.wrapping_add(word(at + 4)).wrapping_add(a);
    }
    (a, b)
}
