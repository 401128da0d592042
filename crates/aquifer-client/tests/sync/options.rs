//! What a program may decide: tables that stay here, what becomes of rows, who wins.

use aquifer_client::diff::RowChange;
use aquifer_client::push::{Decision, PushRow, Transform};
use aquifer_client::rebase::{Conflict, Kind, Outcome, Resolution, Resolver};
use aquifer_client::{Builder, Database};
use aquifer_sqlite::btree::Value;

use crate::world::{Peer, World, local, peers, run};

const TABLE: &str = "CREATE TABLE t(k INTEGER PRIMARY KEY, v)";

async fn sync(db: &Database) {
    db.sync().await.unwrap().online().unwrap();
}

/// A server with a row, and two copies, the first of which is opened as it is told.
async fn stage(peer: Peer, how: impl FnOnce(Builder) -> Builder) -> (World, Database, Database) {
    let world = World::of(peer).await;
    world.on_server(TABLE).await;
    world.on_server("INSERT INTO t VALUES (1, 'first')").await;
    let a = how(world.builder("a.db")).open().await.unwrap();
    let b = world.open("b.db").await;
    (world, a, b)
}

#[tokio::test(flavor = "multi_thread")]
async fn ignored_tables_stay_here_through_pushes_and_pulls() {
    for peer in peers().into_iter().filter(|peer| peer.is_sql()) {
        ignored_tables_stay_here(peer).await;
    }
}

async fn ignored_tables_stay_here(peer: Peer) {
    let (world, a, b) = stage(peer, |builder| builder.tables_ignore(["Drafts"])).await;
    run(&a, "CREATE TABLE drafts(text); INSERT INTO drafts VALUES ('one'); INSERT INTO t VALUES (2, 'a')");
    sync(&a).await;
    for round in 0..3 {
        run(&b, &format!("UPDATE t SET v = 'b{round}' WHERE k = 1"));
        sync(&b).await;
        run(
            &a,
            &format!("INSERT INTO drafts VALUES ('more {round}'); UPDATE t SET v = 'a{round}' WHERE k = 2"),
        );
        // Pushed, and not back yet when the next one comes.
        a.push().await.unwrap();
        run(&a, "UPDATE drafts SET text = text || '!'");
        sync(&a).await;
    }
    sync(&b).await;
    assert_eq!(local(&a, "SELECT * FROM t"), ["1|b2", "2|a2"]);
    assert_eq!(local(&b, "SELECT * FROM t"), ["1|b2", "2|a2"]);
    assert_eq!(local(&a, "SELECT text FROM drafts"), ["one!!!", "more 0!!!", "more 1!!", "more 2!"]);
    assert_eq!(local(&b, "SELECT count(*) FROM sqlite_schema WHERE name = 'drafts'"), ["0"]);
    assert_eq!(a.stats().await.unwrap().unpushed, Some(0));
    drop(a);
    let a = world.builder("a.db").tables_ignore(["drafts"]).open().await.unwrap();
    assert_eq!(local(&a, "SELECT count(*) FROM drafts"), ["4"]);
}

struct Censor;

impl Transform for Censor {
    fn row(&self, row: &PushRow<'_>) -> Decision {
        match row.change {
            RowChange::Insert { new, .. } if new[1] == Value::from("secret") => Decision::Skip,
            RowChange::Insert { new, .. } => {
                Decision::Rewrite(vec![new[0].clone(), Value::from("rewritten")])
            }
            _ => Decision::Keep,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transform_skips_and_rewrites_what_is_pushed() {
    for peer in peers().into_iter().filter(|peer| peer.is_sql()) {
        a_transform_skips_and_rewrites(peer).await;
    }
}

async fn a_transform_skips_and_rewrites(peer: Peer) {
    let (_world, a, b) = stage(peer, |builder| builder.transform(Censor)).await;
    run(&a, "INSERT INTO t VALUES (2, 'x'), (3, 'secret'); UPDATE t SET v = 'kept' WHERE k = 1");
    assert_eq!(a.push().await.unwrap().pushed, 2);
    sync(&b).await;
    assert_eq!(local(&b, "SELECT * FROM t"), ["1|kept", "2|rewritten"]);
    // What is on the server is what there is.
    sync(&a).await;
    assert_eq!(local(&a, "SELECT * FROM t"), ["1|kept", "2|rewritten"]);
}

/// The server always wins.
struct Theirs;

impl Resolver for Theirs {
    fn resolve(&self, conflict: &Conflict) -> Resolution {
        assert_eq!(conflict.table, "t");
        Resolution::Theirs
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conflicts_are_recorded_and_may_be_decided_otherwise() {
    for peer in peers() {
        conflicts_are_recorded(peer).await;
    }
}

async fn conflicts_are_recorded(peer: Peer) {
    let (_world, a, b) = stage(peer, |builder| builder).await;
    run(&b, "UPDATE t SET v = 'theirs'");
    sync(&b).await;
    run(&a, "UPDATE t SET v = 'ours'");
    let synced = a.sync().await.unwrap().online().unwrap();
    assert_eq!(synced.conflicts, 1);
    let [found] = &a.conflicts(0, 10).await.unwrap()[..] else { panic!("one conflict") };
    assert_eq!((found.conflict.kind, found.conflict.outcome), (Kind::UpdateUpdate, Outcome::Ours));
    let value = |row: &Option<aquifer_client::rebase::Row>| row.as_ref().unwrap().get("v").cloned().unwrap();
    assert_eq!(value(&found.conflict.base), Value::from("first"));
    assert_eq!(value(&found.conflict.local), Value::from("ours"));
    assert_eq!(value(&found.conflict.remote), Value::from("theirs"));
    sync(&b).await;
    assert_eq!(local(&b, "SELECT v FROM t"), ["ours"]);
    assert_eq!(a.forget_conflicts(found.id).await.unwrap(), 1);
    assert!(a.conflicts(0, 10).await.unwrap().is_empty());

    let (_world, a, b) = stage(peer, |builder| builder.resolver(Theirs)).await;
    run(&b, "UPDATE t SET v = 'theirs'");
    sync(&b).await;
    run(&a, "UPDATE t SET v = 'ours'");
    sync(&a).await;
    assert_eq!(local(&a, "SELECT v FROM t"), ["theirs"]);
    assert_eq!(a.conflicts(0, 10).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_changed_on_one_side_reaches_the_other_also_the_schema() {
    for peer in peers() {
        what_is_changed_on_one_side(peer).await;
    }
}

async fn what_is_changed_on_one_side(peer: Peer) {
    let (_world, a, b) = stage(peer, |builder| builder).await;
    run(
        &a,
        "CREATE TABLE child(id INTEGER PRIMARY KEY, parent REFERENCES t(k), name TEXT COLLATE NOCASE UNIQUE);
         CREATE INDEX names ON child(name);
         CREATE TABLE history(line);
         CREATE TRIGGER keep AFTER UPDATE ON t BEGIN INSERT INTO history VALUES (old.v || ' to ' || new.v); END;
         CREATE VIEW both AS SELECT * FROM t JOIN child ON parent = k;
         INSERT INTO child VALUES (1, 1, 'Ann');
         UPDATE t SET v = 'second'",
    );
    // Turso's engine does not have these.
    let has_fts5 = peer != Peer::Tursodb;
    if has_fts5 {
        run(&a, "CREATE VIRTUAL TABLE search USING fts5(body); INSERT INTO search VALUES ('words to find')");
    }
    sync(&a).await;
    sync(&b).await;
    assert_eq!(local(&b, "SELECT v, name FROM both"), ["second|Ann"]);
    if has_fts5 {
        assert_eq!(local(&b, "SELECT rowid FROM search('words')"), ["1"]);
    }
    assert_eq!(local(&b, "SELECT * FROM history"), ["first to second"], "the trigger fired once");
    run(
        &b,
        "UPDATE t SET v = 'third'; DROP VIEW both; ALTER TABLE child ADD COLUMN age; UPDATE child SET age = 3",
    );
    run(&a, "UPDATE child SET name = 'Anne'");
    sync(&b).await;
    sync(&a).await;
    sync(&b).await;
    for db in [&a, &b] {
        assert_eq!(local(db, "SELECT * FROM child"), ["1|1|Anne|3"]);
        assert_eq!(local(db, "SELECT * FROM history"), ["first to second", "second to third"]);
    }
    let schema = "SELECT type, name, sql FROM sqlite_schema ORDER BY name";
    assert_eq!(local(&a, schema), local(&b, schema));
}
