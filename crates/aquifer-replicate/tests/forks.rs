//! A database that was forked from another one: restored, written to, followed, kept in shape.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use aquifer_format::Txid;
use aquifer_log::{DatabaseStore, Level, Store, Target, fork, snapshot};
use aquifer_replicate::follow::FollowBuilder;
use aquifer_replicate::restore::Restorer;
use aquifer_replicate::{Primary, ReplicaOptions, Replicator, UpkeepOptions};
use futures::TryStreamExt;
use rusqlite::Connection;
use support::{Application, connect, dump};

#[tokio::test]
async fn a_fork_is_served_followed_and_gets_a_snapshot_of_its_own_in_time() {
    let store = Store::open(&"memory://".parse().unwrap()).unwrap();
    let database = |name: &str| DatabaseStore::new(store.clone(), name.parse().unwrap());
    let upkeep = UpkeepOptions { snapshot_min_txids: 8, snapshot_share: 1, ..UpkeepOptions::default() };
    let options = ReplicaOptions { upkeep, ..ReplicaOptions::default() };
    let start =
        |options: &ReplicaOptions| Replicator::builder(store.clone()).options(options.clone()).start();
    let app = Application::new();
    let parent = start(&ReplicaOptions::default());
    parent.add(&app.path, Some("app".parse().unwrap())).unwrap();
    for k in 0..40 {
        app.put(k % 7, 3000);
        parent.sync().await.unwrap();
    }
    // What the fork begins with has a larger txid than the fork will have for a while.
    snapshot(&database("app"), None, Target::Latest).await.unwrap();
    let forked = fork(&database("app"), None, Target::Latest, &database("fork"), "host").await.unwrap();
    assert!(forked.parent.txid.get() >= 40);
    let then = app.dump();
    app.put(100, 10);
    parent.shutdown().await.unwrap();

    let file = app.dir.path().join("fork.db");
    Restorer::new(store.clone(), "fork".parse().unwrap(), &file).restore().await.unwrap();
    assert_eq!(dump(&Connection::open(&file).unwrap()), then);
    let standby = app.dir.path().join("standby.db");
    let mut follower =
        FollowBuilder::new(store.clone(), "fork".parse().unwrap(), &standby).start().await.unwrap();
    let child = start(&ReplicaOptions { primary: Primary::Store, ..options });
    child.add(&file, Some("fork".parse().unwrap())).unwrap();
    // What is written before is not what the store has.
    child.sync().await.unwrap();
    let writer = connect(&file);
    for k in 0..20 {
        writer.execute("INSERT OR REPLACE INTO t VALUES(?, randomblob(900))", [k % 9]).unwrap();
        child.sync().await.unwrap();
    }
    let now = dump(&writer);
    follower.catch_up().await.unwrap();
    assert_eq!(dump(&Connection::open(&standby).unwrap()), now);
    let (id, of) = (forked.generation.id, child.status()[0].durable.unwrap());
    assert_eq!((of.generation, of.txid), (id, Txid::new(21)), "it goes on in the fork's generation");
    child.shutdown().await.unwrap();
    drop(writer);
    // Its txids are counted from its own beginning.
    let snapshots: Vec<_> =
        database("fork").segments(id, Level::Snapshot, Txid::ZERO).try_collect().await.unwrap();
    assert!(!snapshots.is_empty());
    let again = app.dir.path().join("again.db");
    Restorer::new(store.clone(), "fork".parse().unwrap(), &again).restore().await.unwrap();
    assert_eq!(dump(&Connection::open(&again).unwrap()), now);
}
