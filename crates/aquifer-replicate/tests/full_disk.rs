//! A disk without room for local state loses nothing, and blocks nobody.
//!
//! A test binary of its own: the largest size of a file, by which the disk is made full, is the process's. The
//! application is another process.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use aquifer_log::{DatabaseStore, Store};
use aquifer_replicate::capture::WalLimits;
use aquifer_replicate::restore::{RestoreError, Restorer};
use aquifer_replicate::{ReplicaOptions, ReplicaState, ReplicaStatus, Replicator};
use aquifer_testkit::app::{AppOptions, AppProcess, Language};
use aquifer_testkit::fault_store::FaultStore;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::replica_dump;

/// Longer than anything here takes on a loaded machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// No file of this process grows beyond so many bytes; `None`: the disk has room again.
fn limit_files(bytes: Option<u64>) {
    let maximum = getrlimit(Resource::Fsize).maximum;
    setrlimit(Resource::Fsize, Rlimit { current: bytes.or(maximum), maximum }).unwrap();
}

async fn until(replicator: &Replicator, what: &str, holds: impl Fn(&ReplicaStatus) -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !replicator.status().iter().all(&holds) {
            replicator.changed(Duration::from_millis(50)).await;
        }
    });
    assert!(waited.await.is_ok(), "never {what}: {:?}", replicator.status());
}

/// What the application did must be what the replica has.
async fn assert_replica_is(database: &DatabaseStore, app: &mut AppProcess) {
    // Reading it needs room.
    let limit = getrlimit(Resource::Fsize).current;
    limit_files(None);
    let replica = replica_dump(database).await;
    limit_files(limit);
    let rows: Vec<&str> = replica.lines().collect();
    assert_eq!(rows[0], "ok");
    let expected = app.sql("SELECT count(*) FROM t").unwrap();
    assert_eq!((rows.len() - 1).to_string(), expected);
    let sum = app.sql("SELECT sum(length(v)) FROM t").unwrap();
    let lengths: usize = rows[1..].iter().map(|row| row.split_once('=').unwrap().1.len() / 2).sum();
    assert_eq!(lengths.to_string(), sum);
}

/// The limit is the process's: one test at a time.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// With a handler, the kernel answers EFBIG instead of killing the process.
fn survive_the_limit() -> tokio::signal::unix::Signal {
    let xfsz = tokio::signal::unix::SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw());
    tokio::signal::unix::signal(xfsz).unwrap()
}

#[tokio::test]
async fn a_restore_without_room_is_told_before_anything_is_written() {
    let _alone = ALONE.lock().await;
    let _handler = survive_the_limit();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.db");
    let options = AppOptions { autocheckpoint: 0, ..AppOptions::default() };
    let mut app = AppProcess::start(Language::Python, &path, &options).unwrap();
    app.sql("CREATE TABLE t(k INTEGER PRIMARY KEY, v BLOB)").unwrap();
    app.sql("INSERT INTO t(v) VALUES(randomblob(3000000))").unwrap();
    let faults = FaultStore::in_memory();
    let store = Store::from_object_store(Arc::new(faults.clone()), "test");
    let replicator = Replicator::builder(store.clone()).start();
    replicator.add(&path, None).unwrap();
    replicator.sync().await.unwrap();
    replicator.shutdown().await.unwrap();

    let to = tempfile::tempdir().unwrap();
    let output = to.path().join("restored.db");
    let restorer = || Restorer::new(store.clone(), "app.db".parse().unwrap(), &output);
    limit_files(Some(2_000_000));
    let error = restorer().restore().await.unwrap_err();
    limit_files(None);
    let RestoreError::NoRoom { path, most, .. } = &error else { panic!("{error}") };
    assert_eq!((path.as_path(), *most), (to.path(), 2_000_000), "{error}");
    assert_eq!(std::fs::read_dir(to.path()).unwrap().count(), 0, "left behind");
    restorer().restore().await.unwrap();
}

#[tokio::test]
async fn without_room_on_disk_nothing_is_lost_and_nobody_blocked() {
    let _alone = ALONE.lock().await;
    let _handler = survive_the_limit();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.db");
    let options = AppOptions { autocheckpoint: 0, ..AppOptions::default() };
    let mut app = AppProcess::start(Language::Python, &path, &options).unwrap();
    app.sql("CREATE TABLE t(k INTEGER PRIMARY KEY, v BLOB)").unwrap();
    let faults = FaultStore::in_memory();
    let store = Store::from_object_store(Arc::new(faults.clone()), "test");
    let database = DatabaseStore::new(store.clone(), "app.db".parse().unwrap());
    // No checkpoint of ours: it would grow the database file, in this process.
    let wal = WalLimits { soft: 1 << 40, hard: 1 << 40, ..WalLimits::default() };
    let options = ReplicaOptions { stage_after: Duration::ZERO, wal, ..ReplicaOptions::default() };
    let start = || {
        let replicator = Replicator::builder(store.clone()).options(options.clone()).start();
        replicator.add(&path, None).unwrap();
        replicator
    };
    let replicator = start();
    replicator.sync().await.unwrap();
    let generation = replicator.status()[0].durable.unwrap().generation;

    // The store is away, and what should wait for it finds no room.
    limit_files(Some(40_000));
    faults.set_offline(true);
    app.sql("INSERT INTO t(v) VALUES(randomblob(200000))").unwrap();
    until(&replicator, "in an outage", |s| matches!(s.state, ReplicaState::Outage(_)) && s.errors > 1).await;
    for _ in 0..5 {
        app.sql("INSERT INTO t(v) VALUES(randomblob(100000))").unwrap();
    }
    // The WAL is not held: the application can have it reset.
    let deadline = std::time::Instant::now() + PATIENCE;
    while app.sql("PRAGMA wal_checkpoint(TRUNCATE)").unwrap().split('\t').next() != Some("0") {
        assert!(std::time::Instant::now() < deadline, "the WAL is held");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    app.sql("INSERT INTO t(v) VALUES(randomblob(100000))").unwrap();
    // The store is back, the disk is still full: shipping needs no room.
    faults.set_offline(false);
    replicator.sync().await.unwrap();
    assert_replica_is(&database, &mut app).await;

    // Not even for the page map.
    limit_files(Some(0));
    for _ in 0..3 {
        app.sql("INSERT INTO t(v) VALUES(randomblob(50000))").unwrap();
        replicator.sync().await.unwrap();
    }
    assert_replica_is(&database, &mut app).await;

    // With room again, what was not noted is noted as well, not only what comes next.
    limit_files(None);
    app.sql("INSERT INTO t(v) VALUES(randomblob(50000))").unwrap();
    replicator.sync().await.unwrap();
    limit_files(Some(0));
    app.sql("UPDATE t SET v = randomblob(60000) WHERE k = 1").unwrap();
    replicator.sync().await.unwrap();

    // The last batch was never noted on disk. The next run finds it in the store, once it can keep state.
    drop(replicator);
    app.sql("INSERT INTO t(v) VALUES(randomblob(50000))").unwrap();
    let is_waiting = |s: &ReplicaStatus| matches!(s.state, ReplicaState::Waiting(_));
    let replicator = loop {
        let replicator = start();
        // The run before lets go of its lock when its task has ended.
        until(&replicator, "tried", |s| s.state != ReplicaState::Starting).await;
        if replicator.status().iter().all(is_waiting) {
            break replicator;
        }
    };
    limit_files(None);
    replicator.sync().await.unwrap();
    assert_eq!(replicator.status()[0].durable.unwrap().generation, generation);
    assert_replica_is(&database, &mut app).await;
    replicator.shutdown().await.unwrap();
}
