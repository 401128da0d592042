//! What is particular to Turso's own server: its engine is not SQLite, and it has one connection for all.

use aquifer_client::{Database, Error};
use aquifer_testkit::proxy::ProxyFault;

use crate::tursodb::Tursodb;
use crate::world::{Peer, World, local, many, run};

const TABLE: &str = "CREATE TABLE t(k INTEGER PRIMARY KEY, v)";

/// A server with a table, and two copies; `None`: it is not installed.
async fn stage() -> Option<(World, Database, Database)> {
    Tursodb::program()?;
    let world = World::of(Peer::Tursodb).await;
    world.on_server(TABLE).await;
    let (a, b) = (world.open("a.db").await, world.open("b.db").await);
    Some((world, a, b))
}

async fn sync(db: &Database) -> aquifer_client::Synced {
    db.sync().await.unwrap().online().unwrap()
}

/// All that a database has, but for what servers and clients keep in it.
fn content(db: &Database) -> Vec<String> {
    let objects = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' \
                   AND name <> 'aquifer_sync' ORDER BY name";
    let mut content =
        local(db, "SELECT type, name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%' ORDER BY name");
    content.extend(local(
        db,
        "SELECT user_version, application_id FROM pragma_user_version, pragma_application_id",
    ));
    for table in local(db, objects) {
        content.push(table.clone());
        content.extend(local(db, &format!("SELECT rowid, * FROM \"{table}\" ORDER BY rowid")));
    }
    content
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_its_engine_can_do_arrives_as_it_is() {
    let Some((_world, a, b)) = stage().await else { return };
    for sql in [
        "INSERT INTO t VALUES (1, 'one'), (2, NULL), (3, x'00ff'), (4, 9223372036854775807), (5, ''), (6, x'')",
        "UPDATE t SET v = v || '!' WHERE k < 3; DELETE FROM t WHERE k = 5",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300) INSERT INTO t SELECT 100 + i, 'row ' || i FROM n",
        "UPDATE t SET v = 'changed ' || k WHERE k > 50; DELETE FROM t WHERE k BETWEEN 120 AND 250",
        "CREATE TABLE pairs(a TEXT COLLATE NOCASE, b, c, PRIMARY KEY (a, b)); INSERT INTO pairs VALUES ('x', 1, 2.5), ('X', NULL, x'07'), (NULL, NULL, NULL)",
        "UPDATE pairs SET c = 'new'; DELETE FROM pairs WHERE a IS NULL",
        "CREATE TABLE lines(line); INSERT INTO lines VALUES ('a'), ('b'), ('a'), (NULL)",
        "UPDATE lines SET line = 'c' WHERE rowid = 3; DELETE FROM lines WHERE rowid = 1",
        "CREATE TABLE counted(k INTEGER PRIMARY KEY AUTOINCREMENT, v UNIQUE); INSERT INTO counted VALUES (50, 'x'), (60, 'y')",
        "DELETE FROM counted WHERE k = 60; UPDATE counted SET v = 'y'",
        "CREATE TABLE swapped(k INTEGER PRIMARY KEY, v UNIQUE); INSERT INTO swapped VALUES (1, 'a'), (2, 'b')",
        "UPDATE swapped SET v = v || 'x'; UPDATE swapped SET v = 'bx' || k; UPDATE swapped SET v = CASE k WHEN 1 THEN 'bx2' ELSE 'bx3' END WHERE k = 2; UPDATE swapped SET v = 'bx2' WHERE k = 1",
        "CREATE TABLE strict(k INTEGER PRIMARY KEY, n INT NOT NULL, r REAL, t TEXT) STRICT; INSERT INTO strict VALUES (1, 2, 3, '4')",
        "CREATE INDEX by_v ON t(v); CREATE UNIQUE INDEX by_line ON lines(line); CREATE INDEX part ON t(v) WHERE k > 100",
        "DROP INDEX part; CREATE VIEW both AS SELECT t.k, line FROM t JOIN lines ON line = v",
        "CREATE TABLE changes(line); CREATE TRIGGER keep AFTER UPDATE ON t BEGIN INSERT INTO changes VALUES (old.v || ' to ' || new.v); END",
        "UPDATE t SET v = 'again' WHERE k IN (1, 2, 101)",
        "DROP TRIGGER keep; DROP VIEW both",
        "ALTER TABLE t ADD COLUMN more DEFAULT 7; UPDATE t SET more = k WHERE k < 4",
        "ALTER TABLE t RENAME COLUMN more TO other; UPDATE t SET other = other + 1",
        "ALTER TABLE lines RENAME TO texts; INSERT INTO texts VALUES ('renamed')",
        "ALTER TABLE t DROP COLUMN other",
        "CREATE TABLE parents(k INTEGER PRIMARY KEY); CREATE TABLE children(k INTEGER PRIMARY KEY, parent REFERENCES parents(k)); INSERT INTO parents VALUES (1), (2); INSERT INTO children VALUES (1, 1), (2, 2)",
        "DELETE FROM children WHERE k = 1; DELETE FROM parents WHERE k = 1",
        "DROP TABLE swapped; DROP TABLE pairs; CREATE TABLE pairs(z)",
        "PRAGMA user_version = 7; PRAGMA application_id = 8",
        "CREATE TABLE \"we ird\"(\"a b\" TEXT PRIMARY KEY, \"c\"\"d\" CHECK (\"c\"\"d\" > 0)); INSERT INTO \"we ird\" VALUES ('it''s', 1)",
        "UPDATE \"we ird\" SET \"c\"\"d\" = 5",
        "INSERT INTO t(k, v) VALUES (-5, printf('%.*c', 200000, 'x')), (-6, zeroblob(100000))",
        "UPDATE t SET v = v || 'y' WHERE k = -5; UPDATE t SET v = x'01' WHERE k = -6",
        "DELETE FROM t WHERE k = -5; VACUUM",
        "INSERT INTO t(k, v) VALUES (-7, 1e999), (-8, -1e999)",
        "DELETE FROM t WHERE k IN (-7, -8)",
    ] {
        run(&a, sql);
        let before = content(&a);
        let synced = a.sync().await.unwrap_or_else(|e| panic!("{sql}: {e}"));
        assert!(synced.online().is_ok_and(|synced| synced.conflicts == 0), "{sql}");
        sync(&b).await;
        assert_eq!(content(&b), content(&a), "{sql}");
        // It writes definitions in its own way.
        let rows = |content: &[String]| {
            content.iter().filter(|line| !line.contains("CREATE")).cloned().collect::<Vec<_>>()
        };
        assert_eq!(rows(&content(&a)), rows(&before), "{sql}");
        assert_eq!(sync(&a).await.pushed, 0, "{sql}");
    }
}

/// Reals that are read as others by who multiplies digits and powers of ten, and some that are not.
const REALS: &str = "(10928588.983213553), (-1.4074748205188264e113), (6.352929017207453e-183), (5e-324), \
                     (1.7976931348623157e308), (0.30000000000000004), (2.5), (-0.1), (1e22), (1e23)";

#[tokio::test(flavor = "multi_thread")]
async fn reals_arrive_to_the_last_bit_and_are_found_again() {
    let Some((world, a, b)) = stage().await else { return };
    run(
        &a,
        &format!(
            "CREATE TABLE r(x REAL PRIMARY KEY, y); INSERT INTO r(x) VALUES {REALS}; UPDATE r SET y = x"
        ),
    );
    let before = local(&a, "SELECT * FROM r");
    sync(&a).await;
    sync(&b).await;
    assert_eq!(local(&a, "SELECT * FROM r"), before);
    assert_eq!(local(&b, "SELECT * FROM r"), before);
    // Once it is known it is not asked again.
    let requests = world.proxy.requests().len();
    run(&b, "UPDATE r SET y = y * 1.1; DELETE FROM r WHERE x < 0");
    run(&a, "CREATE TABLE keyless(x, y); INSERT INTO keyless SELECT * FROM r");
    sync(&a).await;
    assert_eq!(world.proxy.requests().len() - requests, 2);
    sync(&b).await;
    sync(&a).await;
    run(&a, "UPDATE keyless SET y = 3.3 * x; DELETE FROM keyless WHERE x > 1e100");
    sync(&a).await;
    sync(&b).await;
    for sql in ["SELECT * FROM r", "SELECT * FROM keyless"] {
        assert_eq!(local(&a, sql), local(&b, sql), "{sql}");
    }
    assert_eq!(local(&a, "SELECT count(*), sum(y = x * 1.1) FROM r"), ["8|8"]);
    assert!(a.conflicts(0, 10).await.unwrap().is_empty() && b.conflicts(0, 10).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_cannot_hold_is_refused_and_everything_stays_as_it_is() {
    let Some((world, a, b)) = stage().await else { return };
    for (sql, undo, why) in [
        ("INSERT INTO t VALUES (1, CAST(x'ff41' AS TEXT))", "DELETE FROM t WHERE k = 1", "not UTF-8"),
        ("CREATE TABLE w(k TEXT PRIMARY KEY) WITHOUT ROWID", "DROP TABLE w", "WITHOUT ROWID"),
        ("CREATE VIRTUAL TABLE f USING fts5(x)", "DROP TABLE f", "fts5"),
        // More than goes into one request, and there is no transaction over several.
        (
            "INSERT INTO t VALUES (1, zeroblob(15000000)), (2, zeroblob(15000000))",
            "DELETE FROM t WHERE k < 3",
            "--push-batch-rows",
        ),
    ] {
        run(&a, &format!("INSERT OR IGNORE INTO t VALUES (10, 'beside it'); {sql}"));
        let error = a.sync().await.unwrap_err();
        assert!(matches!(&error, Error::Refused { message, .. } if message.contains(why)), "{error}");
        // Nobody's transaction is left open.
        world.on_server("BEGIN;\nCOMMIT").await;
        sync(&b).await;
        assert_eq!(local(&b, "SELECT count(*) FROM t"), ["0"]);
        run(&a, undo);
    }
    sync(&a).await;
    sync(&b).await;
    assert_eq!(local(&b, "SELECT * FROM t"), ["10|beside it"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_push_is_one_request_that_happens_once() {
    let Some((world, a, b)) = stage().await else { return };
    run(&a, &many(3000, 1000));
    let pushes = |world: &World| {
        let requests = world.proxy.requests().into_iter();
        requests.filter(|request| request.body.len() > 1 << 20).count()
    };
    // The answer to the first is lost.
    let mut is_lost = false;
    world.proxy.set_faults(move |_, body| {
        let is_due = body.len() > 1 << 20 && !std::mem::replace(&mut is_lost, body.len() > 1 << 20);
        is_due.then_some(ProxyFault::DropReply)
    });
    sync(&a).await;
    assert!((1..=2).contains(&pushes(&world)), "{} large requests", pushes(&world));
    sync(&b).await;
    assert_eq!(local(&b, "SELECT * FROM t"), local(&a, "SELECT * FROM t"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_is_found_again_and_another_history_is_noticed() {
    let Some((mut world, a, b)) = stage().await else { return };
    run(&a, "INSERT INTO t VALUES (1, 'one')");
    a.push().await.unwrap();
    run(&b, "INSERT INTO t VALUES (2, 'two')");
    world.restart("tursodb.db");
    sync(&b).await;
    sync(&a).await;
    assert_eq!(local(&a, "SELECT * FROM t"), ["1|one", "2|two"]);
    world.restart("another.db");
    run(&a, "INSERT INTO t VALUES (3, 'three')");
    for db in [&a, &b] {
        let error = db.sync().await.unwrap_err();
        assert!(matches!(error, Error::OtherHistory { .. }), "{error}");
    }
    assert_eq!(local(&a, "SELECT * FROM t"), ["1|one", "2|two", "3|three"]);
    world.restart("tursodb.db");
    sync(&a).await;
    sync(&b).await;
    assert_eq!(local(&b, "SELECT * FROM t"), ["1|one", "2|two", "3|three"]);
}
