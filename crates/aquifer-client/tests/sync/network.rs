//! How requests travel, and how many there are.

use aquifer_client::{Builder, Protocol};

use crate::server::{Setup, Stage, options};
use crate::world::{World, local, peers, run};

const TABLE: &str = "CREATE TABLE t(k INTEGER PRIMARY KEY, v)";

#[tokio::test(flavor = "multi_thread")]
async fn with_nothing_to_do_a_sync_is_one_request() {
    for peer in peers() {
        let world = World::of(peer).await;
        world.on_server(TABLE).await;
        let db = world.open("a.db").await;
        run(&db, "INSERT INTO t VALUES (1, 'one')");
        // What was pushed as SQL is the base when it has come back.
        for _ in 0..2 {
            db.sync().await.unwrap().online().unwrap();
        }
        let before = world.proxy.requests().len();
        let synced = db.sync().await.unwrap().online().unwrap();
        assert_eq!((synced.pushed, synced.pulled, synced.requests), (0, 0, 1), "{peer:?}");
        assert_eq!(world.proxy.requests().len() - before, 1, "{peer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_has_not_the_database_sends_pulls_and_pushes_to_the_one_that_has() {
    for protocol in [Protocol::Turso, Protocol::Libsql] {
        let stage = Stage::new();
        let first = stage.server("first", Setup::default()).await;
        let other = stage.server("other", Setup { redirect: true, ..Setup::default() }).await;
        let open = async |name: &str, address| {
            let builder =
                Builder::new(stage.dir.path().join(name)).remote_options(options()).protocol(protocol);
            builder.remote(format!("http://{address}/db/app")).open().await.unwrap()
        };
        let direct = open("direct.db", first.address).await;
        run(&direct, TABLE);
        direct.sync().await.unwrap().online().unwrap();
        let through = open("through.db", other.address).await;
        // Some of the frames fit into one request only.
        run(&through, "INSERT INTO t VALUES (1, zeroblob(1000000)), (2, 'small')");
        let synced = through.sync().await.unwrap().online().unwrap();
        assert!(synced.pushed > 0, "{protocol:?}");
        direct.sync().await.unwrap().online().unwrap();
        run(&direct, "UPDATE t SET v = 'changed' WHERE k = 2");
        direct.sync().await.unwrap().online().unwrap();
        let pulled = through.sync().await.unwrap().online().unwrap();
        assert!(
            pulled.pulled > 0 && pulled.requests.is_multiple_of(2),
            "each is sent on: {protocol:?} {pulled:?}"
        );
        for db in [&direct, &through] {
            assert_eq!(local(db, "SELECT k, length(v) FROM t"), ["1|1000000", "2|7"], "{protocol:?}");
        }
    }
}
