//! Copies that are only read.

use std::time::Duration;

use aquifer_client::Replica;
use aquifer_client::remote::Remote;
use rusqlite::Connection;

use crate::server::options;
use crate::world::{World, rows};

const TABLE: &str = "CREATE TABLE t(k INTEGER PRIMARY KEY, v)";

async fn of_store(world: &World, name: &str) -> Replica {
    let remote = Remote::new(&world.url(), options()).unwrap();
    let replica = Replica::of_store(world.path(name), world.store(), "app".parse().unwrap()).await.unwrap();
    replica.writing_to(remote)
}

async fn replicas(world: &World) -> [Replica; 2] {
    world.on_server(TABLE).await;
    let of_server = Replica::of_server(world.builder("a.db")).await.unwrap();
    [of_server, of_store(world, "b.db").await]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_through_a_replica_is_read_from_it() {
    let world = World::new().await;
    for replica in replicas(&world).await {
        replica.execute_remote("DELETE FROM t", &[]).await.unwrap();
        let reader = replica.connect().unwrap();
        for n in 0..5_i64 {
            let sql = "INSERT INTO t(v) VALUES (?) RETURNING k";
            let written = replica.execute_remote(sql, &[n.into()]).await.unwrap();
            assert_eq!(written.rows.len(), 1);
            assert_eq!(rows(&reader, "SELECT max(v) FROM t"), [n.to_string()]);
        }
        assert!(reader.execute_batch("DELETE FROM t").is_err(), "it is only read");
        let error = replica.execute_remote("INSERT INTO nowhere VALUES (1)", &[]).await.unwrap_err();
        assert!(error.to_string().contains("no such table"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_reaches_what_was_written_through_another_one() {
    let world = World::new().await;
    let [one, other] = replicas(&world).await;
    one.execute_remote("INSERT INTO t(v) VALUES ('x')", &[]).await.unwrap();
    other.reach(one.written().unwrap()).await.unwrap();
    assert_eq!(rows(&other.connect().unwrap(), "SELECT v FROM t"), ["x"]);
    other.execute_remote("INSERT INTO t(v) VALUES ('y')", &[]).await.unwrap();
    one.reach(other.written().unwrap()).await.unwrap();
    assert_eq!(rows(&one.connect().unwrap(), "SELECT v FROM t ORDER BY k"), ["x", "y"]);
    assert_eq!(one.revision().await, other.revision().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_waits_for_changes_and_its_readers_keep_what_they_see() {
    let world = World::new().await;
    for replica in replicas(&world).await {
        replica.sync().await.unwrap();
        assert!(!replica.wait_changes(Duration::from_millis(50)).await.unwrap());
        let reader = replica.connect().unwrap();
        reader.execute_batch("BEGIN").unwrap();
        let before = rows(&reader, "SELECT count(*) FROM t");
        let waiting = replica.wait_changes(Duration::from_mins(1));
        let (changed, ()) = tokio::join!(waiting, world.on_server("INSERT INTO t(v) VALUES ('new')"));
        assert!(changed.unwrap());
        assert_eq!(rows(&reader, "SELECT count(*) FROM t"), before);
        reader.execute_batch("COMMIT").unwrap();
        assert_ne!(rows(&reader, "SELECT count(*) FROM t"), before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_of_a_store_needs_no_server_to_read() {
    let world = World::new().await;
    world.on_server(TABLE).await;
    world.on_server("INSERT INTO t(v) VALUES ('x')").await;
    let replica = Replica::of_store(world.path("b.db"), world.store(), "app".parse().unwrap()).await.unwrap();
    assert_eq!(rows(&replica.connect().unwrap(), "SELECT v FROM t"), ["x"]);
    let error = replica.execute_remote("DELETE FROM t", &[]).await.unwrap_err();
    assert!(matches!(error, aquifer_client::Error::NoRemote { .. }), "{error}");
    drop(replica);
    // It goes on where it was.
    world.on_server("INSERT INTO t(v) VALUES ('y')").await;
    let replica = of_store(&world, "b.db").await;
    replica.sync().await.unwrap();
    let db = Connection::open(world.path("b.db")).unwrap();
    assert_eq!(rows(&db, "SELECT v FROM t ORDER BY k"), ["x", "y"]);
}
