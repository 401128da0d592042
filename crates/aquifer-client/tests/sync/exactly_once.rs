//! A push happens once, whatever becomes of requests and answers.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use aquifer_client::{Database, Protocol};
use aquifer_testkit::proxy::{ProxiedRequest, ProxyFault};

use crate::world::{Peer, World, local, peers, run};

/// Rows without a key: whatever is done twice is there twice.
const TABLE: &str = "CREATE TABLE log(line)";

async fn stage() -> (World, Database) {
    stage_of(Peer::Aquifer(Protocol::Auto)).await
}

async fn stage_of(peer: Peer) -> (World, Database) {
    let world = World::of(peer).await;
    world.on_server(TABLE).await;
    let db = world.open("a.db").await;
    (world, db)
}

/// The rows, as the database and another copy of it have them.
async fn lines(world: &World, db: &Database) -> Vec<String> {
    db.sync().await.unwrap().online().unwrap();
    let other = world.open("other.db").await;
    other.sync().await.unwrap().online().unwrap();
    let sql = "SELECT line FROM log ORDER BY line";
    let lines = local(db, sql);
    assert_eq!(local(&other, sql), lines);
    lines
}

/// Does this to the requests that push, from the first to so manieth.
fn fault(world: &World, times: u32, fault: fn() -> ProxyFault) {
    let left = AtomicU32::new(times);
    world.proxy.set_faults(move |path, body| {
        let is_due = World::is_push(path, body)
            && left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok();
        is_due.then(fault)
    });
}

fn is_push(request: &ProxiedRequest) -> bool {
    request.body.windows(15).any(|part| part == b"BEGIN IMMEDIATE")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_whose_answer_is_lost_happens_once() {
    for (lost, peer) in (1..=3).flat_map(|lost| peers().into_iter().map(move |peer| (lost, peer))) {
        let faults: [fn() -> ProxyFault; 3] =
            [|| ProxyFault::DropReply, || ProxyFault::CutReply, || ProxyFault::Status(503)];
        for what in faults {
            let (world, db) = stage_of(peer).await;
            run(&db, "INSERT INTO log VALUES ('one')");
            fault(&world, lost, what);
            // Whether it was found out about at once or not.
            let _ = db.push().await;
            run(&db, "INSERT INTO log VALUES ('two')");
            let _ = db.push().await;
            world.proxy.set_faults(|_, _| None);
            assert_eq!(lines(&world, &db).await, ["one", "two"], "{lost} answers lost, {peer:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_is_cancelled_or_whose_process_ends_happens_once() {
    for (peer, reopen) in peers().into_iter().flat_map(|peer| [false, true].map(|reopen| (peer, reopen))) {
        let (world, mut db) = stage_of(peer).await;
        run(&db, "INSERT INTO log VALUES ('one')");
        // The request arrives, but its answer does not in time.
        fault(&world, 1, || ProxyFault::Delay(Duration::from_hours(1)));
        assert!(tokio::time::timeout(Duration::from_millis(300), db.push()).await.is_err());
        assert!(db.stats().await.unwrap().is_push_open);
        run(&db, "INSERT INTO log VALUES ('two')");
        if reopen {
            drop(db);
            db = world.open("a.db").await;
        }
        assert_eq!(lines(&world, &db).await, ["one", "two"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_arrives_late_changes_nothing_any_more() {
    for peer in peers().into_iter().filter(|peer| peer.is_sql()) {
        a_request_that_arrives_late(peer).await;
    }
}

async fn a_request_that_arrives_late(peer: Peer) {
    let (world, db) = stage_of(peer).await;
    // From now on it is known what the server can read.
    run(&db, "INSERT INTO log VALUES ('zero')");
    db.push().await.unwrap();
    let before = world.proxy.requests().len();
    run(&db, "INSERT INTO log VALUES ('one')");
    // A gateway has given up on the request, which is still on its way.
    fault(&world, 1, || ProxyFault::Status(504));
    let _ = db.push().await;
    let late = world.proxy.requests().into_iter().skip(before).find(is_push).unwrap();
    run(&db, "INSERT INTO log VALUES ('two')");
    db.push().await.unwrap();
    let url = format!("http://{}{}", world.proxy.address(), late.path);
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = http.post(url).body(late.body).send().await.unwrap();
    assert!(answer.status().is_success());
    assert!(answer.text().await.unwrap().contains("NOT NULL constraint failed"), "it is refused");
    assert_eq!(lines(&world, &db).await, ["one", "two", "zero"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_pushed_and_is_not_back_yet_is_not_pushed_again() {
    for peer in peers().into_iter().filter(|peer| peer.is_sql()) {
        what_was_pushed_and_is_not_back_yet(peer).await;
    }
}

async fn what_was_pushed_and_is_not_back_yet(peer: Peer) {
    let (world, db) = stage_of(peer).await;
    run(&db, "INSERT INTO log VALUES ('one')");
    assert_eq!(db.push().await.unwrap().pushed, 1);
    assert_eq!(db.stats().await.unwrap().unpushed, Some(0));
    assert_eq!(db.push().await.unwrap().pushed, 0);
    drop(db);
    let db = world.open("a.db").await;
    run(&db, "INSERT INTO log VALUES ('two')");
    assert_eq!(db.push().await.unwrap().pushed, 1);
    run(&db, "INSERT INTO log VALUES ('three')");
    // Another client deletes what was pushed, before it has come back.
    world.on_server("DELETE FROM log WHERE line = 'one'").await;
    db.pull().await.unwrap();
    assert_eq!(local(&db, "SELECT line FROM log ORDER BY rowid"), ["two", "three"]);
    assert_eq!(lines(&world, &db).await, ["three", "two"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_copies_of_one_file_and_its_sidecar_are_two_clients() {
    for peer in peers() {
        two_copies(peer).await;
    }
}

async fn two_copies(peer: Peer) {
    let (world, db) = stage_of(peer).await;
    run(&db, "INSERT INTO log VALUES ('common')");
    db.sync().await.unwrap().online().unwrap();
    db.checkpoint().await.unwrap();
    drop(db);
    for suffix in ["", "-aquifer", "-wal", "-aquifer-wal"] {
        let from = world.path(&format!("a.db{suffix}"));
        if from.exists() {
            std::fs::copy(from, world.path(&format!("b.db{suffix}"))).unwrap();
        }
    }
    let (a, b) = (world.open("a.db").await, world.open("b.db").await);
    run(&a, "INSERT INTO log VALUES ('of a')");
    run(&b, "INSERT INTO log VALUES ('of b')");
    for db in [&a, &b, &a, &b] {
        db.sync().await.unwrap().online().unwrap();
    }
    assert_eq!(lines(&world, &a).await, ["common", "of a", "of b"]);
    assert_eq!(lines(&world, &b).await, ["common", "of a", "of b"]);
}

/// As after the snapshot of a virtual machine: nothing tells the copies apart.
#[tokio::test(flavor = "multi_thread")]
async fn two_clients_of_one_name_lose_nothing() {
    let (world, a) = stage().await;
    let b = world.open("b.db").await;
    let name = a.stats().await.unwrap().client_id;
    let other = b.stats().await.unwrap().client_id;
    drop(b);
    let sidecar = rusqlite::Connection::open(world.path("b.db-aquifer")).unwrap();
    let json: String = sidecar.query_row("SELECT json FROM state", [], |row| row.get(0)).unwrap();
    let json = json.replace(&other, &name);
    let checksum = xxhash_rust::xxh3::xxh3_64(json.as_bytes()).cast_signed();
    sidecar.execute("UPDATE state SET json = ?1, checksum = ?2", (json, checksum)).unwrap();
    drop(sidecar);
    let b = world.open("b.db").await;
    assert_eq!(b.stats().await.unwrap().client_id, name);
    let mut expected = Vec::new();
    for round in 0..6 {
        for (db, who) in [(&a, "a"), (&b, "b")] {
            run(db, &format!("INSERT INTO log VALUES ('{who}{round}')"));
            expected.push(format!("{who}{round}"));
            if round == 3 {
                fault(&world, 1, || ProxyFault::DropReply);
            }
            let _ = db.push().await;
        }
    }
    expected.sort();
    world.proxy.set_faults(|_, _| None);
    b.sync().await.unwrap().online().unwrap();
    assert_eq!(lines(&world, &a).await, expected);
    assert_eq!(lines(&world, &b).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_in_several_transactions_happens_once_whatever_is_lost() {
    for peer in peers().into_iter().filter(|peer| peer.is_sql()) {
        a_push_in_several_transactions(peer).await;
    }
}

async fn a_push_in_several_transactions(peer: Peer) {
    for lost in 0..4 {
        let world = World::of(peer).await;
        world.on_server(TABLE).await;
        let db = world.builder("a.db").push_batch_rows(std::num::NonZeroU64::new(50).unwrap());
        let mut db = db.open().await.unwrap();
        run(
            &db,
            "CREATE TABLE parent(id INTEGER PRIMARY KEY, name UNIQUE);
             CREATE TABLE child(id INTEGER PRIMARY KEY, parent NOT NULL REFERENCES parent);
             CREATE TABLE changes(line);
             CREATE TRIGGER t AFTER INSERT ON child BEGIN INSERT INTO changes VALUES (new.id); END;
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 120)
             INSERT INTO parent SELECT i, 'n' || i FROM n;
             INSERT INTO child SELECT id, id FROM parent;
             INSERT INTO log SELECT name FROM parent",
        );
        // The answer to this one of the pushes is lost, and those after it find no server.
        let pushes = AtomicU32::new(0);
        world.proxy.set_faults(move |path, _| {
            let at = if path.ends_with("/pipeline") { pushes.fetch_add(1, Ordering::Relaxed) } else { 0 };
            match at.cmp(&lost) {
                std::cmp::Ordering::Less => None,
                std::cmp::Ordering::Equal if lost > 0 => Some(ProxyFault::DropReply),
                _ if lost > 0 && path.ends_with("/pipeline") => Some(ProxyFault::Status(503)),
                _ => None,
            }
        });
        let pushed = db.push().await;
        assert_eq!(pushed.is_ok(), lost == 0);
        if lost == 0 {
            let pushes = world.proxy.requests().iter().filter(|request| is_push(request)).count();
            // Turso's server writes definitions in its own way: who has not seen that pulls and pushes again. And it is
            // found out once what it cannot read.
            let more = if peer == Peer::Tursodb { 2 } else { 0 };
            assert!((7..=9 + more).contains(&pushes), "480 rows, 50 at a time, in {pushes} pushes");
        }
        world.proxy.set_faults(|_, _| None);
        if lost > 0 {
            drop(db);
            db = world.open("a.db").await;
        }
        run(&db, "INSERT INTO parent VALUES (1000, 'late')");
        db.sync().await.unwrap().online().unwrap();
        let other = world.open("b.db").await;
        for sql in [
            "SELECT * FROM parent ORDER BY id",
            "SELECT * FROM child ORDER BY id",
            "SELECT line FROM changes ORDER BY line",
            "SELECT line FROM log ORDER BY line",
            "SELECT sql FROM sqlite_schema WHERE name NOT LIKE 'aquifer%' ORDER BY name",
        ] {
            assert_eq!(local(&other, sql), local(&db, sql), "{sql}");
        }
        assert_eq!(local(&other, "SELECT count(*) FROM parent JOIN child ON parent = parent.id"), ["120"]);
        assert_eq!(local(&other, "SELECT count(*), count(DISTINCT line) FROM log"), ["120|120"]);
        assert_eq!(local(&other, "PRAGMA foreign_key_check"), [""; 0]);
    }
}
