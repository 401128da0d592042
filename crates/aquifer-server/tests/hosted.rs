//! What a server acknowledged is in the store, whichever server is asked next; what it did not is nowhere.
#![allow(clippy::unwrap_used, reason = "a test that cannot set the stage should fail")]

use std::collections::BTreeSet;
use std::sync::Arc;

use aquifer_log::{DatabaseName, Store};
use aquifer_server::hosted::{Create, HostError, Hosted, Hosts};
use tempfile::TempDir;

struct Stage {
    dir: TempDir,
    store: Store,
}

impl Stage {
    fn new() -> Stage {
        Stage { dir: TempDir::new().unwrap(), store: Store::open(&"memory://".parse().unwrap()).unwrap() }
    }

    fn server(&self, name: &str) -> Hosts {
        Hosts::new(self.store.clone(), self.dir.path().join(name), Create::OnDemand).unwrap()
    }
}

fn app() -> DatabaseName {
    "app".parse().unwrap()
}

fn execute(hosted: &Hosted, sql: &str) {
    hosted.connect(false).unwrap().execute_batch(sql).unwrap();
}

fn rows(hosted: &Hosted) -> BTreeSet<i64> {
    let connection = hosted.connect(true).unwrap();
    let mut rows = connection.prepare("SELECT k FROM t").unwrap();
    rows.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

const TABLE: &str = "CREATE TABLE IF NOT EXISTS t(k INTEGER PRIMARY KEY)";

#[tokio::test]
async fn a_server_on_an_empty_disk_serves_all_that_was_acknowledged() {
    let stage = Stage::new();
    let first = stage.server("a");
    let hosted = first.open(&app()).await.unwrap();
    execute(&hosted, TABLE);
    execute(&hosted, "INSERT INTO t VALUES(1), (2)");
    let revision = hosted.durable().await.unwrap().unwrap();
    // It dies: nothing is shut down.
    std::mem::forget(hosted);
    drop(first);
    let second = stage.server("b");
    let hosted = second.open(&app()).await.unwrap();
    assert_eq!(rows(&hosted), [1, 2].into());
    assert_eq!(hosted.durable().await.unwrap().unwrap(), revision);
    execute(&hosted, "INSERT INTO t VALUES(3)");
    hosted.durable().await.unwrap();
    second.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_restart_continues_the_local_file() {
    let stage = Stage::new();
    for k in 1..4 {
        let server = stage.server("a");
        let hosted = server.open(&app()).await.unwrap();
        execute(&hosted, TABLE);
        execute(&hosted, &format!("INSERT INTO t VALUES({k})"));
        hosted.durable().await.unwrap();
        assert_eq!(rows(&hosted), (1..=k).collect());
        server.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn a_server_that_was_overtaken_acknowledges_nothing_and_forgets_what_it_did_not() {
    let stage = Stage::new();
    let (a, b) = (stage.server("a"), stage.server("b"));
    let old = a.open(&app()).await.unwrap();
    execute(&old, TABLE);
    execute(&old, "INSERT INTO t VALUES(1)");
    old.durable().await.unwrap();
    // It pauses; another one goes on.
    let new = b.open(&app()).await.unwrap();
    execute(&new, "INSERT INTO t VALUES(2)");
    new.durable().await.unwrap();
    execute(&old, "INSERT INTO t VALUES(100)");
    assert!(matches!(old.durable().await, Err(HostError::TakenOver(_))));
    assert!(old.is_lost());
    assert!(matches!(old.connect(true), Err(HostError::TakenOver(_))));
    // Opened anew, it has what the other one acknowledged, and may go on from there.
    let again = a.open(&app()).await.unwrap();
    assert_eq!(rows(&again), [1, 2].into());
    execute(&again, "INSERT INTO t VALUES(3)");
    again.durable().await.unwrap();
    execute(&new, "INSERT INTO t VALUES(200)");
    assert!(matches!(new.durable().await, Err(HostError::TakenOver(_))));
    assert_eq!(rows(&b.open(&app()).await.unwrap()), [1, 2, 3].into());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_fight_for_a_database_lose_no_acknowledged_commit() {
    let stage = Stage::new();
    let servers = [stage.server("a"), stage.server("b"), stage.server("c")].map(Arc::new);
    let fights = servers.iter().enumerate().map(|(at, server)| {
        let server = Arc::clone(server);
        tokio::spawn(async move {
            let mut acknowledged = Vec::new();
            for n in 0..20 {
                let k = at as i64 * 1000 + n;
                let Ok(hosted) = server.open(&app()).await else { continue };
                let Ok(connection) = hosted.connect(false) else { continue };
                let insert = format!("{TABLE}; INSERT INTO t VALUES({k})");
                if connection.execute_batch(&insert).is_ok() && hosted.durable().await.is_ok() {
                    acknowledged.push(k);
                }
            }
            acknowledged
        })
    });
    let acknowledged = futures::future::try_join_all(fights.collect::<Vec<_>>()).await.unwrap().concat();
    assert!(!acknowledged.is_empty());
    let witness = stage.server("witness");
    let found = rows(&witness.open(&app()).await.unwrap());
    let lost: Vec<_> = acknowledged.iter().filter(|k| !found.contains(k)).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
}

#[tokio::test]
async fn databases_are_created_as_the_policy_says() {
    let stage = Stage::new();
    let hosts = Hosts::new(stage.store.clone(), stage.dir.path().join("a"), Create::Admin).unwrap();
    assert!(matches!(hosts.open(&app()).await, Err(HostError::NoSuchDatabase(_))));
    assert!(!hosts.exists(&app()).await.unwrap());
    hosts.create(&app()).await.unwrap();
    assert!(hosts.exists(&app()).await.unwrap());
    let name = app();
    let (one, other) = tokio::join!(hosts.open(&name), hosts.open(&name));
    assert!(Arc::ptr_eq(&one.unwrap(), &other.unwrap()));
}

#[tokio::test]
async fn two_servers_do_not_share_a_data_directory() {
    let stage = Stage::new();
    let first = stage.server("a");
    let second = Hosts::new(stage.store.clone(), stage.dir.path().join("a"), Create::OnDemand);
    assert!(matches!(second, Err(HostError::DataDirInUse(_))));
    drop(first);
    stage.server("a");
}
