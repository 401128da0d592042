//! What tests of replication share: an application, and a reader of the log that is too simple to be wrong.
#![allow(dead_code, reason = "each test uses what it needs")]

use std::path::{Path, PathBuf};

use aquifer_format::segment::SegmentBytes;
use aquifer_format::{DbChecksum, GenerationId, PageHash, Pgno, Txid};
use aquifer_log::store::Key;
use aquifer_log::{DatabaseStore, Level};
use futures::TryStreamExt;
use rusqlite::Connection;
use tempfile::TempDir;

/// A database with a table `t(k, v)`, and the application that writes to it.
pub(crate) struct Application {
    pub(crate) dir: TempDir,
    pub(crate) path: PathBuf,
    pub(crate) connection: Connection,
}

impl Application {
    pub(crate) fn new() -> Application {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("app.db");
        let connection = connect(&path);
        connection.execute_batch("CREATE TABLE t(k INTEGER PRIMARY KEY, v BLOB)").unwrap();
        Application { dir, path, connection }
    }

    pub(crate) fn put(&self, k: i64, bytes: usize) {
        self.connection
            .execute("INSERT OR REPLACE INTO t VALUES(?, randomblob(?))", rusqlite::params![k, bytes as i64])
            .unwrap();
    }

    pub(crate) fn dump(&self) -> String {
        dump(&self.connection)
    }

    pub(crate) fn wal_len(&self) -> u64 {
        std::fs::metadata(self.path.with_extension("db-wal")).map_or(0, |m| m.len())
    }
}

pub(crate) fn connect(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection
        .execute_batch("PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; PRAGMA busy_timeout=5000")
        .unwrap();
    connection
}

pub(crate) fn dump(connection: &Connection) -> String {
    let check: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    let rows: Vec<String> = connection
        .prepare("SELECT k, hex(v) FROM t ORDER BY k")
        .unwrap()
        .query_map([], |row| Ok(format!("{}={}", row.get::<_, i64>(0)?, row.get::<_, String>(1)?)))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    format!("{check}\n{}", rows.join("\n"))
}

/// Reads level 0 of a generation from its first segment on, proving every step.
pub(crate) async fn read_log(database: &DatabaseStore, generation: GenerationId) -> (Txid, Vec<Vec<u8>>) {
    let mut pages: Vec<Vec<u8>> = Vec::new();
    let mut checksum = DbChecksum::EMPTY;
    let mut txid = Txid::ZERO;
    let mut segments = database.segments(generation, Level::Shipped, Txid::ZERO);
    while let Some(listed) = segments.try_next().await.unwrap() {
        let key: Key = database.layout().segment(generation, listed.segment);
        let bytes = database.store().get(&key).await.unwrap();
        let segment = SegmentBytes::parse(&bytes).unwrap();
        let meta = segment.info().meta();
        assert_eq!(meta.range.first, txid.next(), "no gaps");
        assert_eq!(meta.checksum_before, checksum, "the chain is continuous");
        let size = meta.page_size.bytes();
        pages.resize(meta.size_after as usize, vec![0; size]);
        let mut entries = segment.entries();
        while let Some(entry) = entries.next().unwrap() {
            let page = &mut pages[entry.pgno.index()];
            entry.apply(page);
            assert_eq!(PageHash::of(entry.pgno, page), entry.hash);
        }
        checksum = DbChecksum::EMPTY;
        for (index, page) in pages.iter().enumerate() {
            checksum.toggle(PageHash::of(Pgno::from_index(index as u32), page));
        }
        assert_eq!(checksum, meta.checksum_after);
        txid = meta.range.last;
    }
    (txid, pages)
}

/// The database as the newest generation has it.
pub(crate) async fn replica_dump(database: &DatabaseStore) -> String {
    let generation = database.latest_generation().await.unwrap().unwrap();
    let (_, pages) = read_log(database, generation.id).await;
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("replica.db");
    std::fs::write(&path, pages.concat()).unwrap();
    dump(&Connection::open(&path).unwrap())
}
