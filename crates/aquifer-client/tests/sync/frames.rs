//! What is particular to libSQL's protocol.

use aquifer_client::{Database, Error, Protocol};
use aquifer_testkit::proxy::{ProxiedRequest, ProxyFault};
use rusqlite::Connection;

use crate::world::{World, local, rows, run};

const TABLE: &str = "CREATE TABLE t(k INTEGER PRIMARY KEY, v)";
const MANY: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
                    INSERT INTO t SELECT i, hex(randomblob(300)) FROM n";

async fn stage() -> (World, Database) {
    let world = World::speaking(Protocol::Libsql).await;
    world.on_server(TABLE).await;
    let db = world.open("a.db").await;
    (world, db)
}

async fn sync(db: &Database) -> aquifer_client::Synced {
    db.sync().await.unwrap().online().unwrap()
}

fn pushes(world: &World) -> Vec<ProxiedRequest> {
    let requests = world.proxy.requests();
    requests.into_iter().filter(|request| World::is_push(&request.path, &request.body)).collect()
}

/// How often a whole file was asked for.
fn exports(world: &World) -> usize {
    world.proxy.requests().iter().filter(|request| request.path.contains("/export/")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_pushes_as_pages_others_get_also_the_schema() {
    let (world, a) = stage().await;
    let b = world.open("b.db").await;
    run(&a, MANY);
    let pushed = sync(&a).await;
    assert!(pushed.pushed > 128, "more than a request takes");
    assert!(pushes(&world).iter().all(|request| request.path.contains("/sync/")));
    assert_eq!(sync(&a).await.pushed, 0);
    run(
        &a,
        "ALTER TABLE t RENAME COLUMN v TO w; CREATE INDEX i ON t(w); CREATE VIRTUAL TABLE f USING fts5(x)",
    );
    run(&a, "INSERT INTO f VALUES ('found'); DELETE FROM t WHERE k > 50; VACUUM");
    // An open connection knows the schema as it was.
    let reader = b.connect().unwrap();
    assert_eq!(rows(&reader, "SELECT count(v) FROM t"), ["0"]);
    sync(&a).await;
    sync(&b).await;
    assert_eq!(rows(&reader, "SELECT count(w) FROM t"), ["50"]);
    assert_eq!(local(&b, "SELECT * FROM t"), local(&a, "SELECT * FROM t"));
    assert_eq!(local(&b, "SELECT rowid FROM f('found')"), ["1"]);
    world.on_server("INSERT INTO t(k, w) VALUES (1000, 'server')").await;
    assert_eq!(sync(&b).await.pushed, 0);
    assert_eq!(local(&b, "SELECT w FROM t WHERE k = 1000"), ["server"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn local_rows_go_on_top_of_what_others_have_pushed() {
    let (world, a) = stage().await;
    let b = world.open("b.db").await;
    for round in 0..5 {
        let more = format!("INSERT INTO t(k, v) VALUES ({round}, 'a{round}'), (50 + {round}, 'x')");
        run(&a, &format!("{more}; UPDATE t SET v = v || '.' WHERE k = 0"));
        run(&b, &format!("INSERT INTO t(k, v) VALUES (100 + {round}, 'b{round}')"));
        world.on_server(&format!("INSERT INTO t(k, v) VALUES (200 + {round}, 's{round}')")).await;
        sync(&b).await;
        sync(&a).await;
    }
    sync(&b).await;
    let sql = "SELECT count(*), sum(v LIKE 'a%'), sum(v LIKE 'b%'), sum(v LIKE 's%') FROM t";
    assert_eq!(local(&a, sql), ["20|5|5|5"]);
    assert_eq!(local(&b, "SELECT * FROM t"), local(&a, "SELECT * FROM t"));
    assert!(a.conflicts(0, 10).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_arrive_late_change_nothing_any_more() {
    let (world, a) = stage().await;
    let b = world.open("b.db").await;
    run(&a, "INSERT INTO t VALUES (1, 'a')");
    // A gateway has given up on the request, which is still on its way; others' frames get there first.
    world.proxy.set_faults(|path, body| World::is_push(path, body).then_some(ProxyFault::Status(504)));
    a.push().await.unwrap_err();
    assert!(a.stats().await.unwrap().is_push_open);
    let late = pushes(&world).pop().unwrap();
    world.proxy.set_faults(|_, _| None);
    run(&b, "INSERT INTO t VALUES (2, 'b')");
    sync(&b).await;
    let deliver = async || {
        let url = world.url().replace("/db/app", &late.path);
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let answer = http.post(url).body(late.body.clone()).send().await.unwrap();
        answer.text().await.unwrap()
    };
    assert!(deliver().await.contains("conflict"));
    sync(&a).await;
    assert!(deliver().await.contains("conflict"));
    sync(&b).await;
    for db in [&a, &b] {
        assert_eq!(local(db, "SELECT * FROM t"), ["1|a", "2|b"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_generation_is_followed_with_local_changes_and_without() {
    let (world, a) = stage().await;
    let b = world.open("b.db").await;
    run(&a, "INSERT INTO t VALUES (1, 'a')");
    // A server ends a generation of so many frames.
    let many = "WITH RECURSIVE n(i) AS (SELECT 100 UNION ALL SELECT i + 1 FROM n WHERE i < 10200)
                INSERT INTO t SELECT i, zeroblob(4000) FROM n";
    world.on_server(many).await;
    let generation = |revision: Option<String>| revision.unwrap().rsplit_once(':').unwrap().0.to_owned();
    let before = generation(b.revision().await);
    let fetched = exports(&world);
    sync(&b).await;
    sync(&b).await;
    assert_ne!(generation(b.revision().await), before);
    run(&b, "DELETE FROM t WHERE k >= 100");
    sync(&b).await;
    sync(&a).await;
    sync(&b).await;
    for db in [&a, &b] {
        assert_eq!(local(db, "SELECT * FROM t"), ["1|a"]);
        assert_ne!(generation(db.revision().await), before);
    }
    assert_eq!(exports(&world), fetched, "what was there before is not fetched again");
    let c = world.open("c.db").await;
    assert_eq!(local(&c, "SELECT * FROM t"), ["1|a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_another_history_is_fetched_whole_and_local_rows_stay() {
    let (world, a) = stage().await;
    world.on_server("INSERT INTO t VALUES (1, 'one')").await;
    sync(&a).await;
    run(&a, "INSERT INTO t VALUES (2, 'mine')");
    drop(a);
    let other = World::speaking(Protocol::Libsql).await;
    other.on_server(TABLE).await;
    other.on_server("INSERT INTO t VALUES (1, 'one'), (3, 'other')").await;
    let a = aquifer_client::Builder::new(world.path("a.db"))
        .remote_options(crate::server::options())
        .remote(other.url())
        .moved()
        .open()
        .await
        .unwrap();
    sync(&a).await;
    assert_eq!(local(&a, "SELECT * FROM t"), ["1|one", "2|mine", "3|other"]);
    let b = other.open("b.db").await;
    assert_eq!(local(&b, "SELECT * FROM t"), ["1|one", "2|mine", "3|other"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_protocol_is_found_out_once_and_remembered() {
    let world = World::new().await;
    world.on_server(TABLE).await;
    let db = world.open("a.db").await;
    assert!(!db.revision().await.unwrap().starts_with("libsql:"), "both are spoken: it is Turso's");
    drop(db);
    let error = world.builder("a.db").protocol(Protocol::Libsql).open().await.unwrap_err();
    assert!(matches!(error, Error::OtherProtocol { .. }), "{error}");
    // A server that knows libSQL's protocol only.
    world.proxy.set_faults(|path, _| path.ends_with("/pull-updates").then_some(ProxyFault::Status(404)));
    for deferred in [false, true] {
        let name = format!("{deferred}.db");
        let builder = world.builder(&name);
        let db = if deferred { builder.deferred() } else { builder }.open().await.unwrap();
        sync(&db).await;
        assert!(db.revision().await.unwrap().starts_with("libsql:"));
        drop(db);
        let asked = world.proxy.requests().len();
        let db = world.open(&name).await;
        run(&db, &format!("INSERT INTO t(v) VALUES ('{deferred}')"));
        sync(&db).await;
        let requests = world.proxy.requests().split_off(asked);
        assert!(requests.iter().all(|request| request.path.contains("/sync/")), "{requests:?}");
    }
    let all = world.open("all.db").await;
    assert_eq!(local(&all, "SELECT v FROM t ORDER BY v"), ["false", "true"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_pushes_pages_pushes_all_of_them() {
    let world = World::speaking(Protocol::Libsql).await;
    world.on_server(TABLE).await;
    let error = world.builder("a.db").tables_ignore(["drafts"]).open().await.unwrap_err();
    assert!(matches!(error, Error::WholeDatabase { .. }), "{error}");
}

/// What libSQL's client has when it was opened for the first time, and has written since.
async fn copy_of_libsqls_client(world: &World, sql: &str) -> Connection {
    let get = async |path: &str| {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        http.get(format!("{}{path}", world.url())).send().await.unwrap().bytes().await.unwrap()
    };
    let info: serde_json::Value = serde_json::from_slice(&get("/info").await).unwrap();
    let generation = u32::try_from(info["current_generation"].as_u64().unwrap()).unwrap();
    let file = get(&format!("/export/{generation}")).await;
    std::fs::write(world.path("a.db"), file).unwrap();
    note(world, generation, 0);
    let theirs = Connection::open(world.path("a.db")).unwrap();
    theirs.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
    theirs.execute_batch("PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0").unwrap();
    theirs.execute_batch(sql).unwrap();
    theirs
}

fn note(world: &World, generation: u32, frame: u32) {
    let words = [0, frame, generation].map(u32::to_le_bytes).concat();
    let hash = words.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg()))
    });
    let note = serde_json::json!({
        "hash": !hash, "version": 0, "durable_frame_num": frame, "generation": generation
    });
    std::fs::write(world.path("a.db-info"), note.to_string()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_libsqls_client_is_taken_over_with_what_it_has_not_pushed() {
    let world = World::new().await;
    world.on_server(&format!("{TABLE};\nCREATE TABLE log(line)")).await;
    world.on_server(MANY).await;
    let sql =
        "INSERT INTO log VALUES ('mine'); UPDATE t SET v = 'mine' WHERE k = 7; DELETE FROM t WHERE k > 1500";
    drop(copy_of_libsqls_client(&world, sql).await);
    world.on_server("INSERT INTO log VALUES ('server')").await;
    let db = world.open("a.db").await;
    assert!(!world.path("a.db-info").exists(), "its client would write old pages over new ones");
    assert!(world.path("a.db-info-adopted").exists());
    assert_eq!(local(&db, "SELECT line FROM log"), ["mine"]);
    sync(&db).await;
    drop(db);
    let db = world.open("a.db").await;
    sync(&db).await;
    let other = world.open("b.db").await;
    for db in [&db, &other] {
        assert_eq!(local(db, "SELECT line FROM log ORDER BY 1"), ["mine", "server"]);
        assert_eq!(local(db, "SELECT count(*), sum(v = 'mine') FROM t"), ["1500|1"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_libsqls_client_that_is_not_what_is_said_of_it_is_left_alone() {
    for what in ["damaged", "of later", "checkpointed", "other pages"] {
        let world = World::new().await;
        world.on_server(TABLE).await;
        world.on_server(MANY).await;
        let theirs = copy_of_libsqls_client(&world, "INSERT INTO t VALUES (9999, 'mine')").await;
        match what {
            "damaged" => {
                let note = std::fs::read_to_string(world.path("a.db-info")).unwrap();
                let note = note.replace("\"durable_frame_num\":0", "\"durable_frame_num\":1");
                std::fs::write(world.path("a.db-info"), note).unwrap();
            }
            "of later" => {
                let note = std::fs::read_to_string(world.path("a.db-info")).unwrap();
                let note: serde_json::Value = serde_json::from_str(&note).unwrap();
                let generation = u32::try_from(note["generation"].as_u64().unwrap()).unwrap();
                self::note(&world, generation, 99);
            }
            // Then nobody knows what is not pushed.
            "checkpointed" => theirs.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap(),
            _ => {
                theirs
                    .execute_batch("UPDATE t SET v = hex(zeroblob(300)); PRAGMA wal_checkpoint(TRUNCATE)")
                    .unwrap();
                theirs.execute_batch("INSERT INTO t VALUES (9998, 'mine')").unwrap();
            }
        }
        drop(theirs);
        let before = ["", "-wal", "-info"].map(|of| std::fs::read(world.path(&format!("a.db{of}"))).ok());
        let error = world.builder("a.db").open().await.unwrap_err();
        assert!(matches!(error, Error::LibsqlCopy { .. }), "{what}: {error}");
        assert!(error.to_string().contains("a.db-info"), "{error}");
        let after = ["", "-wal", "-info"].map(|of| std::fs::read(world.path(&format!("a.db{of}"))).ok());
        assert!(before == after, "{what}: something was changed");
        assert!(!world.path("a.db-aquifer").exists());
    }
}
