//! How a copy comes to be.

use std::time::Duration;

use aquifer_client::{Builder, Error};
use aquifer_testkit::proxy::ProxyFault;
use rusqlite::Connection;

use crate::world::{Peer, World, local, many, peers, rows, run};

const TABLE: &str = "CREATE TABLE t(k INTEGER PRIMARY KEY, v)";

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_fetched_and_then_opened_without_a_request() {
    for peer in peers() {
        a_copy_is_fetched(peer).await;
    }
}

async fn a_copy_is_fetched(peer: Peer) {
    let world = World::of(peer).await;
    world.on_server(TABLE).await;
    world.on_server(&many(3000, 300)).await;
    let db = world.open("a.db").await;
    assert_eq!(local(&db, "SELECT count(*), min(k), max(k) FROM t"), ["3000|1|3000"]);
    let requests = world.proxy.requests().len();
    drop(db);
    let db = world.open("a.db").await;
    assert_eq!(world.proxy.requests().len(), requests);
    world.on_server("DELETE FROM t WHERE k > 10").await;
    let synced = db.sync().await.unwrap().online().unwrap();
    assert!(synced.pulled > 0 && synced.pushed == 0);
    assert_eq!(local(&db, "SELECT count(*) FROM t"), ["10"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_that_breaks_goes_on_where_it_was() {
    for peer in peers() {
        a_fetch_that_breaks(peer).await;
    }
}

async fn a_fetch_that_breaks(peer: Peer) {
    let world = World::of(peer).await;
    world.on_server(TABLE).await;
    world.on_server(&many(3000, 300)).await;
    // Each answer with pages is cut in half.
    let is_of_pages = |path: &str| path.ends_with("/pull-updates") || path.contains("/export/");
    // Turso's server refuses the first, since it does not know zstd.
    let mut is_refused = peer == Peer::Tursodb;
    world.proxy.set_faults(move |path, _| {
        let is_due = is_of_pages(path) && !is_refused;
        is_refused = false;
        is_due.then_some(ProxyFault::CutReply)
    });
    let error = world.builder("a.db").open().await.unwrap_err();
    assert!(matches!(error, Error::Remote(_)), "{error}");
    assert!(!world.path("a.db").exists(), "nothing incomplete is in its place");
    // What is written meanwhile belongs to a later revision than the one that was begun with.
    world.on_server("UPDATE t SET v = 'later' WHERE k <= 2000").await;
    world.proxy.set_faults(|_, _| None);
    let db = world.open("a.db").await;
    // libSQL's protocol has no part of an export, and frames come up to the newest.
    if peer.is_sql() {
        assert_eq!(local(&db, "SELECT count(*), sum(v = 'later') FROM t"), ["3000|0"]);
        let whole = world.open("b.db").await.stats().await.unwrap().received;
        assert!(db.stats().await.unwrap().received < whole * 3 / 4, "what had come did not come again");
    }
    db.sync().await.unwrap().online().unwrap();
    assert_eq!(local(&db, "SELECT count(*), sum(v = 'later') FROM t"), ["3000|2000"]);
    assert!(!world.path("a.db-aquifer-bootstrap").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_together_is_an_error_and_stays_as_it_is() {
    for peer in peers() {
        what_does_not_fit_together(peer).await;
    }
}

async fn what_does_not_fit_together(peer: Peer) {
    let world = World::of(peer).await;
    world.on_server(TABLE).await;
    let db = world.open("a.db").await;
    drop(db);
    // The sidecar without its database.
    std::fs::rename(world.path("a.db"), world.path("away")).unwrap();
    let error = world.builder("a.db").open().await.unwrap_err();
    assert!(matches!(error, Error::DatabaseMissing { .. }), "{error}");
    assert!(!world.path("a.db").exists());
    // The sidecar of another database.
    let other = Connection::open(world.path("a.db")).unwrap();
    other.execute_batch("CREATE TABLE other(x); INSERT INTO other VALUES (zeroblob(100000))").unwrap();
    drop(other);
    let error = world.builder("a.db").open().await.unwrap_err();
    assert!(matches!(error, Error::OtherDatabase { .. }), "{error}");
    let other = Connection::open(world.path("a.db")).unwrap();
    assert_eq!(rows(&other, "SELECT length(x) FROM other"), ["100000"]);
    drop(other);
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(world.path(&format!("a.db{suffix}")));
    }
    std::fs::rename(world.path("away"), world.path("a.db")).unwrap();
    world.open("a.db").await.sync().await.unwrap().online().unwrap();
    // A sidecar that is damaged.
    let sidecar = world.path("a.db-aquifer");
    let db = Connection::open(&sidecar).unwrap();
    db.execute_batch("UPDATE state SET json = replace(json, '\"pages\":2', '\"pages\":3')").unwrap();
    drop(db);
    let error = world.builder("a.db").open().await.unwrap_err();
    assert!(error.to_string().contains("damaged"), "{error}");
    // Another remote database.
    std::fs::remove_file(&sidecar).unwrap();
    std::fs::remove_file(world.path("a.db")).unwrap();
    drop(world.open("b.db").await);
    let error = world.builder("b.db").remote("http://127.0.0.1:9/db/other").open().await.unwrap_err();
    assert!(matches!(error, Error::OtherRemote { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_syncs_a_database_at_a_time() {
    let world = World::new().await;
    let db = world.open("a.db").await;
    let error = world.builder("a.db").open().await.unwrap_err();
    assert!(error.to_string().contains("another process"), "{error}");
    drop(db);
    world.open("a.db").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn work_done_before_there_is_a_remote_seeds_it() {
    for peer in peers() {
        work_done_before(peer).await;
    }
}

async fn work_done_before(peer: Peer) {
    let world = World::of(peer).await;
    let db = Builder::new(world.path("a.db")).open().await.unwrap();
    run(&db, TABLE);
    run(&db, &many(3000, 300));
    drop(db);
    let db = world.open("a.db").await;
    let synced = db.sync().await.unwrap().online().unwrap();
    if peer.is_sql() {
        assert_eq!(synced.pushed, 3001);
    }
    let other = world.open("b.db").await;
    assert_eq!(local(&other, "SELECT * FROM t ORDER BY k"), local(&db, "SELECT * FROM t ORDER BY k"));
    assert_eq!(db.sync().await.unwrap().online().unwrap().pushed, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_databases_with_content_are_merged_only_when_told_to() {
    for peer in peers() {
        two_databases_with_content(peer).await;
    }
}

async fn two_databases_with_content(peer: Peer) {
    let world = World::of(peer).await;
    world.on_server(TABLE).await;
    world.on_server("INSERT INTO t VALUES (1, 'server'), (2, 'both')").await;
    let mine = Connection::open(world.path("a.db")).unwrap();
    mine.execute_batch(&format!("{TABLE}; INSERT INTO t VALUES (2, 'both'), (3, 'mine')")).unwrap();
    drop(mine);
    let db = world.open("a.db").await;
    let error = db.sync().await.unwrap_err();
    assert!(matches!(error, Error::NotAttached { .. }), "{error}");
    assert_eq!(local(&db, "SELECT * FROM t"), ["2|both", "3|mine"]);
    drop(db);
    let db = world.builder("a.db").merge().open().await.unwrap();
    let synced = db.sync().await.unwrap().online().unwrap();
    assert_eq!(synced.conflicts, 0, "{:?}", db.conflicts(0, 10).await.unwrap());
    if peer.is_sql() {
        assert_eq!(synced.pushed, 1);
    }
    assert_eq!(local(&db, "SELECT * FROM t"), ["1|server", "2|both", "3|mine"]);
    assert_eq!(local(&world.open("b.db").await, "SELECT * FROM t"), ["1|server", "2|both", "3|mine"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn offline_a_database_can_be_begun_and_an_existing_one_opened() {
    for peer in peers() {
        offline_a_database_can_be_begun(peer).await;
    }
}

async fn offline_a_database_can_be_begun(peer: Peer) {
    let world = World::of(peer).await;
    world.on_server(TABLE).await;
    let elsewhere = "http://127.0.0.1:9/db/app";
    let error = world.builder("a.db").remote(elsewhere).open().await.unwrap_err();
    assert!(matches!(&error, Error::Remote(error) if error.is_offline()), "{error}");
    let db = world.builder("a.db").remote(elsewhere).deferred().open().await.unwrap();
    run(&db, "CREATE TABLE notes(id INTEGER PRIMARY KEY, text); INSERT INTO notes VALUES (1, 'offline')");
    let synced = db.sync().await.unwrap();
    assert!(synced.offline.is_some());
    assert_eq!(db.stats().await.unwrap().unpushed, Some(2));
    drop(db);
    let db = world.builder("a.db").moved().merge().open().await.unwrap();
    db.sync().await.unwrap().online().unwrap();
    assert_eq!(
        local(&db, "SELECT name FROM sqlite_schema WHERE name IN ('notes', 't') ORDER BY 1"),
        ["notes", "t"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_waits_for_a_slow_server_and_may_be_dropped() {
    for peer in peers() {
        a_fetch_waits(peer).await;
    }
}

async fn a_fetch_waits(peer: Peer) {
    let world = World::of(peer).await;
    world.on_server(TABLE).await;
    world.on_server(&many(3000, 300)).await;
    world.proxy.set_faults(|_, _| Some(ProxyFault::Delay(Duration::from_hours(1))));
    let opening = world.builder("a.db").open();
    assert!(tokio::time::timeout(Duration::from_millis(200), opening).await.is_err());
    world.proxy.set_faults(|_, _| None);
    assert_eq!(local(&world.open("a.db").await, "SELECT count(*) FROM t"), ["3000"]);
}
