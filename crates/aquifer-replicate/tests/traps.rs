//! What costs others data, where other processes are part of it.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aquifer_log::Store;
use aquifer_replicate::restore::{Existing, Restorer};
use aquifer_replicate::{Error, ReplicaOptions, ReplicaState, Replicator};
use aquifer_testkit::app::{AppOptions, AppProcess, AutoVacuum, Language, Mix, check_log};
use aquifer_testkit::fault_store::FaultStore;

/// Longer than anything here takes on a loaded machine.
const PATIENCE: Duration = Duration::from_mins(1);

fn memory() -> Store {
    Store::from_object_store(Arc::new(FaultStore::in_memory()), "test")
}

fn replicate(store: &Store, path: &Path, state_dir: &str) -> Replicator {
    let state_dir = Some(path.with_file_name(state_dir));
    let options = ReplicaOptions { state_dir, ..ReplicaOptions::default() };
    let replicator = Replicator::builder(store.clone()).options(options).start();
    replicator.add(path, None).unwrap();
    replicator
}

/// How many of the application's transactions are in the replica, each whole.
async fn replicated(store: &Store, path: &Path) -> u64 {
    let name = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
    let copy = path.with_file_name("copy.db");
    let restorer = Restorer::new(store.clone(), name, &copy).existing(Existing::Replace);
    restorer.restore().await.unwrap();
    check_log(&copy).unwrap()
}

fn wal(path: &Path) -> PathBuf {
    path.with_extension("db-wal")
}

/// A descriptor of our own on the database file, opened and closed, would drop SQLite's lock on it in this process
/// (sqlite.org/howtocorrupt.html, section 2.2). The last connection of the application would then take itself for the
/// only one, and delete the WAL from under us.
#[tokio::test]
async fn the_wal_outlives_the_applications_last_connection() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.db");
    let store = memory();
    let mut app = AppProcess::start(Language::Python, &path, &AppOptions::default()).unwrap();
    app.commit(3).unwrap();
    let replicator = replicate(&store, &path, "state");
    replicator.sync().await.unwrap();
    for round in 0..5 {
        app.close().unwrap();
        assert!(wal(&path).exists(), "round {round}");
        app.open().unwrap();
        let last = app.commit(3).unwrap();
        replicator.sync().await.unwrap();
        assert_eq!(replicated(&store, &path).await, last);
    }
    replicator.shutdown().await.unwrap();
    // With nobody else, SQLite deletes it: what was tested is that there was somebody.
    app.close().unwrap();
    assert!(!wal(&path).exists());
}

#[tokio::test]
async fn two_daemons_with_stores_of_their_own_do_not_disturb_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.db");
    let options = AppOptions { mix: Mix::Hostile, auto_vacuum: AutoVacuum::Full, ..AppOptions::default() };
    let mut app = AppProcess::start(Language::Rust, &path, &options).unwrap();
    app.commit(2).unwrap();
    let stores = [memory(), memory()];
    let daemons = [replicate(&stores[0], &path, "one"), replicate(&stores[1], &path, "two")];
    for _ in 0..4 {
        let last = app.commit(15).unwrap();
        for (daemon, store) in daemons.iter().zip(&stores) {
            daemon.sync().await.unwrap();
            assert_eq!(replicated(store, &path).await, last);
        }
    }
    for daemon in &daemons {
        daemon.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn of_two_daemons_that_ship_one_database_to_one_place_one_is_fenced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.db");
    let store = memory();
    let mut app = AppProcess::start(Language::Python, &path, &AppOptions::default()).unwrap();
    app.commit(3).unwrap();
    let daemons = [replicate(&store, &path, "one"), replicate(&store, &path, "two")];
    let deadline = Instant::now() + PATIENCE;
    let is_fenced = |daemon: &Replicator| {
        let status = daemon.status().remove(0);
        matches!(&status.state, ReplicaState::Stopped(why) if why.contains("taken over"))
    };
    // Both may begin a generation; who comes second goes on with that of the first, or alone.
    while !daemons.iter().any(is_fenced) && Instant::now() < deadline {
        app.commit(1).unwrap();
        for daemon in &daemons {
            let _ = daemon.sync().await;
        }
        let generations = daemons.iter().map(|d| d.status().remove(0).durable.map(|r| r.generation));
        let generations: Vec<_> = generations.collect();
        if generations[0] != generations[1] {
            break;
        }
    }
    let last = app.commit(1).unwrap();
    let mut survivors = 0;
    for daemon in &daemons {
        match daemon.sync().await {
            Ok(_) => survivors += 1,
            Err(Error::Fenced { .. } | Error::Stopped(_)) => {}
            Err(other) => panic!("{other}"),
        }
    }
    assert!(survivors >= 1);
    assert_eq!(replicated(&store, &path).await, last);
}

#[tokio::test]
async fn a_database_that_is_removed_is_waited_for_and_its_successor_shipped() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.db");
    let store = memory();
    let start = || AppProcess::start(Language::Rust, &path, &AppOptions::default()).unwrap();
    let mut app = start();
    app.commit(9).unwrap();
    let replicator = replicate(&store, &path, "state");
    replicator.sync().await.unwrap();
    app.kill();
    for file in [path.clone(), wal(&path), path.with_extension("db-shm")] {
        std::fs::remove_file(file).unwrap();
    }
    let deadline = Instant::now() + PATIENCE;
    while !matches!(replicator.status()[0].state, ReplicaState::Waiting(_)) {
        assert!(Instant::now() < deadline, "{:?}", replicator.status());
        replicator.changed(Duration::from_millis(20)).await;
    }
    assert_eq!(replicated(&store, &path).await, 9, "what was shipped stays");
    let mut app = start();
    app.commit(4).unwrap();
    replicator.sync().await.unwrap();
    assert_eq!(replicated(&store, &path).await, 4);
    replicator.shutdown().await.unwrap();
}
