//! A database beyond 1 GiB has a page that SQLite never writes: the one at its lock byte.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use aquifer_log::Store;
use aquifer_replicate::Replicator;
use aquifer_replicate::restore::Restorer;
use rusqlite::Connection;

#[tokio::test]
async fn the_lock_byte_page_stands_in_nobody_s_way() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.db");
    let application = Connection::open(&path).unwrap();
    application
        .execute_batch(
            "PRAGMA page_size=65536; PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;
             CREATE TABLE t(k INTEGER PRIMARY KEY, v BLOB);
             INSERT INTO t VALUES(1, zeroblob(536000000)); INSERT INTO t VALUES(2, zeroblob(534500000))",
        )
        .unwrap();
    // It ends a few pages before the lock byte; batches make it grow beyond.
    let before = std::fs::metadata(&path).unwrap().len();
    assert!((1u64 << 30) - (8 << 20) < before && before < 1 << 30, "{before} bytes");
    application.execute_batch("PRAGMA journal_mode=WAL").unwrap();

    let store = Store::open(&dir.path().join("store").to_str().unwrap().parse().unwrap()).unwrap();
    let replicator = Replicator::builder(store.clone()).start();
    let name = replicator.add(&path, None).unwrap();
    replicator.sync().await.unwrap();
    for sql in [
        "INSERT INTO t VALUES(3, randomblob(6000000))",
        "INSERT INTO t VALUES(4, randomblob(6000000))",
        "UPDATE t SET v = randomblob(6000000) WHERE k = 3",
        "DELETE FROM t WHERE k = 4",
    ] {
        application.execute_batch(sql).unwrap();
        replicator.sync().await.unwrap();
    }
    assert!(std::fs::metadata(&path).unwrap().len() > 1 << 30);
    replicator.shutdown().await.unwrap();
    application.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    let copy = dir.path().join("copy.db");
    Restorer::new(store, name, &copy).restore().await.unwrap();
    assert_same(&path, &copy);
}

fn assert_same(a: &Path, b: &Path) {
    let mut files = [a, b].map(|path| BufReader::with_capacity(1 << 20, File::open(path).unwrap()));
    let mut blocks = [vec![0; 1 << 20], vec![0; 1 << 20]];
    for at in 0.. {
        let [n, m] = std::array::from_fn(|i| {
            let mut read = 0;
            while read < blocks[i].len() {
                match files[i].read(&mut blocks[i][read..]).unwrap() {
                    0 => break,
                    n => read += n,
                }
            }
            read
        });
        assert_eq!(n, m, "lengths differ");
        assert!(blocks[0][..n] == blocks[1][..m], "they differ within MiB {at}");
        if n == 0 {
            return;
        }
    }
}
