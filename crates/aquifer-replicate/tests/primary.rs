//! Where the store is the database and the file its cache: a file that is not what the store has is never shipped.
#![allow(clippy::unwrap_used, reason = "a test that cannot set the stage should fail")]

mod support;

use std::path::Path;

use aquifer_format::{Revision, Txid};
use aquifer_log::{DatabaseStore, Store};
use aquifer_replicate::restore::Restorer;
use aquifer_replicate::{Error, Primary, ReplicaOptions, Replicator};
use futures::TryStreamExt;
use rusqlite::Connection;
use support::{connect, dump, replica_dump};
use tempfile::TempDir;

struct Stage {
    dir: TempDir,
    store: Store,
}

impl Stage {
    fn new() -> Stage {
        Stage { dir: TempDir::new().unwrap(), store: Store::open(&"memory://".parse().unwrap()).unwrap() }
    }

    fn database(&self) -> DatabaseStore {
        DatabaseStore::new(self.store.clone(), "app".parse().unwrap())
    }

    /// A server's own directory, and its copy of the database.
    fn server(&self, name: &str) -> Server {
        let dir = self.dir.path().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        Server { path: dir.join("app.db"), store: self.store.clone() }
    }
}

struct Server {
    path: std::path::PathBuf,
    store: Store,
}

impl Server {
    fn begin(&self) -> Connection {
        let connection = connect(&self.path);
        connection.execute_batch("CREATE TABLE IF NOT EXISTS t(k INTEGER PRIMARY KEY, v BLOB)").unwrap();
        connection
    }

    async fn restore(&self) {
        let name = "app".parse().unwrap();
        Restorer::new(self.store.clone(), name, &self.path).restore().await.unwrap();
    }

    /// Serves: what is committed is durable, or the error says why not.
    async fn ship(&self) -> Result<Option<Revision>, Error> {
        let replicator = self.start();
        let shipped = replicator.sync_database(&"app".parse().unwrap()).await;
        let _ = replicator.shutdown().await;
        shipped
    }

    fn start(&self) -> Replicator {
        let options = ReplicaOptions { primary: Primary::Store, ..ReplicaOptions::default() };
        let replicator = Replicator::builder(self.store.clone()).options(options).start();
        replicator.add(&self.path, Some("app".parse().unwrap())).unwrap();
        replicator
    }
}

fn insert(connection: &Connection, k: i64) {
    connection.execute("INSERT INTO t VALUES(?, randomblob(300))", [k]).unwrap();
}

async fn generations(stage: &Stage) -> usize {
    stage.database().generation_ids().try_collect::<Vec<_>>().await.unwrap().len()
}

#[tokio::test]
async fn a_file_that_missed_what_another_server_shipped_is_refused_with_or_without_local_state() {
    let stage = Stage::new();
    let (a, b) = (stage.server("a"), stage.server("b"));
    let old = a.begin();
    insert(&old, 1);
    a.ship().await.unwrap();
    b.restore().await;
    b.ship().await.unwrap();
    let new = connect(&b.path);
    insert(&new, 2);
    assert_eq!(b.ship().await.unwrap().unwrap().txid, Txid::new(2));
    // What it has beyond the store was never acknowledged.
    insert(&old, 3);
    assert!(matches!(a.ship().await, Err(Error::Fenced { .. })));
    std::fs::remove_dir_all(a.path.parent().unwrap().join(".app.db-aquifer")).unwrap();
    assert!(matches!(a.ship().await, Err(Error::Outdated { .. })));
    assert_eq!(generations(&stage).await, 1);
    assert_eq!(replica_dump(&stage.database()).await, dump(&new));
}

#[tokio::test]
async fn another_database_of_the_same_name_hides_nothing() {
    let stage = Stage::new();
    let (a, b) = (stage.server("a"), stage.server("b"));
    insert(&a.begin(), 1);
    a.ship().await.unwrap();
    insert(&b.begin(), 2);
    assert!(matches!(b.ship().await, Err(Error::Outdated { .. })));
    // Of another page size, too.
    let c = stage.server("c");
    let other = Connection::open(&c.path).unwrap();
    other.execute_batch("PRAGMA page_size=8192; PRAGMA journal_mode=WAL; CREATE TABLE u(x)").unwrap();
    assert!(matches!(c.ship().await, Err(Error::Outdated { .. })));
    assert_eq!(generations(&stage).await, 1);
}

#[tokio::test]
async fn of_two_servers_that_create_a_database_at_once_one_acknowledges() {
    for _ in 0..8 {
        let stage = Stage::new();
        let (a, b) = (stage.server("a"), stage.server("b"));
        let (mine, theirs) = (a.begin(), b.begin());
        insert(&mine, 1);
        insert(&theirs, 2);
        let (first, second) = tokio::join!(a.ship(), b.ship());
        let (winner, loser) = if first.is_ok() { (&mine, second) } else { (&theirs, first) };
        assert!(matches!(loser, Err(Error::Fenced { .. } | Error::Outdated { .. })), "{loser:?}");
        assert_eq!(generations(&stage).await, 1);
        assert_eq!(replica_dump(&stage.database()).await, dump(winner));
    }
}

#[tokio::test]
async fn a_server_that_was_killed_goes_on_where_it_was() {
    let stage = Stage::new();
    let server = stage.server("a");
    let connection = server.begin();
    let killed = server.start();
    killed.sync().await.unwrap();
    insert(&connection, 1);
    drop(killed);
    let revision = until_unlocked(&server).await;
    assert_eq!(replica_dump(&stage.database()).await, dump(&connection));
    assert!(revision.txid >= Txid::new(2));
    assert_local_state_is_kept(&server.path);
}

/// The task of a dropped replicator ends soon, and its lock with it.
async fn until_unlocked(server: &Server) -> Revision {
    loop {
        match server.ship().await {
            Err(Error::Locked { .. }) => tokio::task::yield_now().await,
            shipped => return shipped.unwrap().unwrap(),
        }
    }
}

fn assert_local_state_is_kept(path: &Path) {
    assert!(path.parent().unwrap().join(".app.db-aquifer").exists());
}
