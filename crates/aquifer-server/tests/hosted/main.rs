//! What a server acknowledged is in the store, whichever server is asked next; what it did not is nowhere.
#![allow(clippy::unwrap_used, reason = "a test that cannot set the stage should fail")]

mod beside;
mod retention;
mod set_back;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aquifer_log::{DatabaseName, Store};
use aquifer_server::cluster::ClusterOptions;
use aquifer_server::hosted::{Create, HostError, HostOptions, Hosted, Hosts};
use aquifer_testkit::fault_store::{Fault, FaultStore, Op, Rule};
use tempfile::TempDir;

/// Longer than anything here takes on a loaded machine.
const PATIENCE: Duration = Duration::from_mins(2);
/// No test waits for the end of such a lease.
const LONG: Duration = Duration::from_hours(1);
const SHORT: Duration = Duration::from_millis(150);

struct Stage {
    dir: TempDir,
    objects: FaultStore,
}

impl Stage {
    fn new() -> Stage {
        Stage { dir: TempDir::new().unwrap(), objects: FaultStore::in_memory() }
    }

    fn server(&self, name: &str) -> Hosts {
        self.server_with(name, HostOptions::default()).0
    }

    /// A server with a lease of this length, and what comes between it and the store.
    fn leased(&self, name: &str, lease: Duration) -> (Hosts, FaultStore) {
        let cluster = ClusterOptions { lease, ..ClusterOptions::default() };
        self.server_with(name, HostOptions { cluster, ..HostOptions::default() })
    }

    fn server_with(&self, name: &str, options: HostOptions) -> (Hosts, FaultStore) {
        let link = FaultStore::new(Arc::clone(self.objects.inner()));
        let store = Store::from_object_store(Arc::new(link.clone()), "test");
        (Hosts::new(store, self.dir.path().join(name), options).unwrap(), link)
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

/// Opens a database that another server has, when that one's lease has run out.
async fn take_over(server: &Hosts) -> Arc<Hosted> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match server.open(&app()).await {
            Ok(hosted) => return hosted,
            Err(HostError::Elsewhere(..)) => assert!(Instant::now() < deadline, "never taken over"),
            Err(e) => panic!("{e}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

const TABLE: &str = "CREATE TABLE IF NOT EXISTS t(k INTEGER PRIMARY KEY)";

#[tokio::test]
async fn a_server_on_an_empty_disk_serves_all_that_was_acknowledged() {
    let stage = Stage::new();
    let (first, _) = stage.leased("a", SHORT);
    let hosted = first.open(&app()).await.unwrap();
    execute(&hosted, TABLE);
    execute(&hosted, "INSERT INTO t VALUES(1), (2)");
    let revision = hosted.durable().await.unwrap().unwrap();
    // It dies: nothing is shut down.
    std::mem::forget(hosted);
    drop(first);
    let second = stage.server("b");
    let hosted = take_over(&second).await;
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
async fn after_a_crash_a_server_does_not_wait_for_itself() {
    let stage = Stage::new();
    for k in 1..4 {
        let (server, _) = stage.leased("a", LONG);
        let hosted = server.open(&app()).await.unwrap();
        execute(&hosted, TABLE);
        execute(&hosted, &format!("INSERT INTO t VALUES({k})"));
        hosted.durable().await.unwrap();
        assert_eq!(rows(&hosted), (1..=k).collect());
        drop(hosted);
        drop(server);
    }
}

#[tokio::test]
async fn a_database_has_one_server_until_that_one_gives_it_back() {
    let stage = Stage::new();
    let ((a, _), (b, _)) = (stage.leased("a", LONG), stage.leased("b", LONG));
    let first = a.open(&app()).await.unwrap();
    execute(&first, TABLE);
    execute(&first, "INSERT INTO t VALUES(1)");
    first.durable().await.unwrap();
    assert!(matches!(b.open(&app()).await, Err(HostError::Elsewhere(..))));
    a.shutdown().await.unwrap();
    let second = b.open(&app()).await.unwrap();
    assert_eq!(rows(&second), [1].into());
    // Whoever still has the old one learns nothing from it, and changes nothing by it.
    assert!(matches!(first.connect(true), Err(HostError::TakenOver(_))));
    assert!(matches!(first.durable().await, Err(HostError::TakenOver(_))));
    assert!(matches!(a.open(&app()).await, Err(HostError::Stopping)));
}

#[tokio::test]
async fn a_server_that_was_overtaken_acknowledges_nothing_and_forgets_what_it_did_not() {
    let stage = Stage::new();
    let ((a, link), b) = (stage.leased("a", SHORT), stage.server("b"));
    let old = a.open(&app()).await.unwrap();
    execute(&old, TABLE);
    execute(&old, "INSERT INTO t VALUES(1)");
    old.durable().await.unwrap();
    // It is cut off; another one goes on.
    link.set_offline(true);
    let new = take_over(&b).await;
    execute(&new, "INSERT INTO t VALUES(2)");
    new.durable().await.unwrap();
    execute(&old, "INSERT INTO t VALUES(100)");
    link.set_offline(false);
    assert!(matches!(old.durable().await, Err(HostError::TakenOver(_))));
    assert!(old.is_lost());
    assert!(matches!(old.connect(true), Err(HostError::TakenOver(_))));
    assert!(matches!(a.open(&app()).await, Err(HostError::Elsewhere(..))));
    b.shutdown().await.unwrap();
    let again = a.open(&app()).await.unwrap();
    assert_eq!(rows(&again), [1, 2].into());
    execute(&again, "INSERT INTO t VALUES(3)");
    again.durable().await.unwrap();
}

#[tokio::test]
async fn a_server_that_was_overtaken_tells_nothing_of_what_it_last_knew() {
    let stage = Stage::new();
    let ((a, link), b) = (stage.leased("a", SHORT), stage.server("b"));
    let old = a.open(&app()).await.unwrap();
    execute(&old, TABLE);
    old.durable().await.unwrap();
    // Its signs of life do not arrive. It commits nothing, so that no put of it meets one of the other server's.
    link.inject(Rule::on(Op::Put, "servers/", Fault::Unreachable));
    let new = take_over(&b).await;
    execute(&new, "INSERT INTO t VALUES(2)");
    new.durable().await.unwrap();
    assert_eq!(rows(&old), [].into());
    assert!(old.durable().await.is_err());
    link.clear();
    assert!(matches!(old.durable().await, Err(HostError::TakenOver(_))));
}

#[tokio::test]
async fn a_server_that_was_cut_off_goes_on_where_nobody_took_over() {
    let stage = Stage::new();
    let (a, link) = stage.leased("a", SHORT);
    let hosted = a.open(&app()).await.unwrap();
    execute(&hosted, TABLE);
    hosted.durable().await.unwrap();
    link.set_offline(true);
    let deadline = Instant::now() + PATIENCE;
    while hosted.durable().await.is_ok() {
        assert!(Instant::now() < deadline, "it answers without a store");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    execute(&hosted, "INSERT INTO t VALUES(1)");
    link.set_offline(false);
    hosted.durable().await.unwrap();
    assert!(!hosted.is_lost());
    a.shutdown().await.unwrap();
    assert_eq!(rows(&stage.server("b").open(&app()).await.unwrap()), [1].into());
}

#[tokio::test]
async fn a_server_that_nobody_uses_asks_nothing_of_its_store() {
    let stage = Stage::new();
    let (a, link) = stage.leased("a", Duration::from_millis(50));
    let hosted = a.open(&app()).await.unwrap();
    execute(&hosted, TABLE);
    hosted.durable().await.unwrap();
    let store = Store::from_object_store(Arc::clone(stage.objects.inner()), "test");
    let deadline = Instant::now() + PATIENCE;
    // It says that it goes, so that nobody waits for it.
    while servers(&store).await > 0 {
        assert!(Instant::now() < deadline, "it never rests");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    link.take_log();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(link.take_log(), []);
    execute(&hosted, "INSERT INTO t VALUES(1)");
    hosted.durable().await.unwrap();
    assert_eq!(servers(&store).await, 1);
}

async fn servers(store: &Store) -> usize {
    let all = store.list(&aquifer_log::layout::servers(), None);
    futures::TryStreamExt::try_collect::<Vec<_>>(all).await.unwrap().len()
}

/// Servers whose signs of life are lost again and again take a database from each other. Whatever one of them has
/// acknowledged, all that answer later know.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_fight_for_a_database_know_every_acknowledged_commit() {
    let stage = Stage::new();
    let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));
    let mut fights = Vec::new();
    for at in 0..3_i64 {
        let (server, link) = stage.leased(&format!("server-{at}"), Duration::from_millis(60));
        let mut state = 12345 + at as u64;
        link.set_schedule(move |request| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let is_lost =
                request.op == Op::Put && request.key.starts_with("servers/") && (state >> 33) & 3 > 0;
            is_lost.then_some(Fault::Timeout)
        });
        let acknowledged = Arc::clone(&acknowledged);
        fights.push(tokio::spawn(async move {
            let mut answers = 0;
            let deadline = Instant::now() + PATIENCE;
            for n in 0.. {
                if answers == 20 {
                    break;
                }
                assert!(Instant::now() < deadline, "server {at} does not get its turn");
                tokio::time::sleep(Duration::from_millis(3)).await;
                let before = acknowledged.lock().unwrap().clone();
                let Ok(hosted) = server.open(&app()).await else { continue };
                let Ok(connection) = hosted.connect(false) else { continue };
                if connection.execute_batch(TABLE).is_err() {
                    continue;
                }
                if n % 2 == 0 {
                    let k = at * 1_000_000 + n;
                    let insert = format!("INSERT INTO t VALUES({k})");
                    if connection.execute_batch(&insert).is_ok() && hosted.durable().await.is_ok() {
                        acknowledged.lock().unwrap().insert(k);
                        answers += 1;
                    }
                } else {
                    let found = rows(&hosted);
                    if hosted.durable().await.is_ok() {
                        let unknown: Vec<_> = before.difference(&found).collect();
                        assert!(unknown.is_empty(), "server {at} does not know {unknown:?}");
                        answers += 1;
                    }
                }
                // Others get their turn when this one is slow.
                tokio::time::sleep(Duration::from_millis((n as u64 % 5) * 20)).await;
            }
            server.shutdown().await.unwrap();
        }));
    }
    for fight in fights {
        fight.await.unwrap();
    }
    let witness = stage.server("witness");
    let hosted = take_over(&witness).await;
    let found = rows(&hosted);
    let acknowledged = acknowledged.lock().unwrap().clone();
    let lost: Vec<_> = acknowledged.difference(&found).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
}

#[tokio::test]
async fn databases_are_created_as_the_policy_says() {
    let stage = Stage::new();
    let options = HostOptions { create: Create::Admin, ..HostOptions::default() };
    let (hosts, _) = stage.server_with("a", options);
    assert!(matches!(hosts.open(&app()).await, Err(HostError::NoSuchDatabase(_))));
    assert!(!hosts.exists(&app()).await.unwrap());
    hosts.create(&app()).await.unwrap();
    assert!(hosts.exists(&app()).await.unwrap());
    let name = app();
    let (one, other) = tokio::join!(hosts.open(&name), hosts.open(&name));
    assert!(Arc::ptr_eq(&one.unwrap(), &other.unwrap()));
}

/// Options with which every database is closed as soon as nobody holds it.
fn closing() -> HostOptions {
    let cluster = ClusterOptions { lease: LONG, ..ClusterOptions::default() };
    HostOptions { close_after: Duration::ZERO, cluster, ..HostOptions::default() }
}

#[tokio::test]
async fn a_database_that_nobody_holds_is_closed_and_anybodys_again() {
    let stage = Stage::new();
    let ((a, _), (b, _)) = (stage.server_with("a", closing()), stage.leased("b", LONG));
    let hosted = a.open(&app()).await.unwrap();
    execute(&hosted, TABLE);
    execute(&hosted, "INSERT INTO t VALUES(1)");
    a.close_unused().await;
    assert!(!hosted.is_lost(), "somebody holds it");
    assert!(matches!(b.open(&app()).await, Err(HostError::Elsewhere(..))));
    // Nobody waits for what was committed, and it is shipped.
    drop(hosted);
    a.close_unused().await;
    assert!(a.opened(&app()).is_none());
    assert!(stage.dir.path().join("a/app/db.sqlite").exists(), "its file is a cache");
    let hosted = b.open(&app()).await.unwrap();
    assert_eq!(rows(&hosted), [1].into());
}

#[tokio::test]
async fn no_more_databases_are_open_than_may_be() {
    let stage = Stage::new();
    let (a, _) = stage.server_with("a", HostOptions { max_open: 2, ..HostOptions::default() });
    let [one, two, three] = ["one", "two", "three"].map(|name| name.parse::<DatabaseName>().unwrap());
    let first = a.open(&one).await.unwrap();
    let second = a.open(&two).await.unwrap();
    assert!(matches!(a.open(&three).await, Err(HostError::TooManyOpen { open: 2 })));
    drop((first, second));
    // The one that was used last stays.
    drop(a.open(&one).await.unwrap());
    drop(a.open(&three).await.unwrap());
    assert!(a.opened(&two).is_none());
    assert!(a.opened(&one).is_some() && a.opened(&three).is_some());
}

#[tokio::test]
async fn files_of_closed_databases_are_thrown_away_beyond_the_size_of_the_cache() {
    let stage = Stage::new();
    let (a, _) = stage.server_with("a", HostOptions { cache_size: Some(0), ..closing() });
    let other: DatabaseName = "other".parse().unwrap();
    let held = a.open(&other).await.unwrap();
    let hosted = a.open(&app()).await.unwrap();
    execute(&hosted, TABLE);
    execute(&hosted, "INSERT INTO t VALUES(1)");
    drop(hosted);
    a.close_unused().await;
    assert!(!stage.dir.path().join("a/app").exists());
    assert!(stage.dir.path().join("a/other/db.sqlite").exists(), "it is open");
    assert_eq!(rows(&a.open(&app()).await.unwrap()), [1].into());
    drop(held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_between_closing_and_opening() {
    let stage = Stage::new();
    let (a, _) = stage.server_with("a", HostOptions { cache_size: Some(0), ..closing() });
    let a = Arc::new(a);
    let closer = tokio::spawn({
        let a = Arc::clone(&a);
        async move {
            loop {
                a.close_unused().await;
            }
        }
    });
    let writers = (0..3_i64).map(|at| {
        let a = Arc::clone(&a);
        tokio::spawn(async move {
            let mut acknowledged = Vec::new();
            for n in 0..12 {
                let hosted = a.open(&app()).await.unwrap();
                execute(&hosted, TABLE);
                // Held across a look of who closes.
                tokio::time::sleep(Duration::from_millis(40 * (n as u64 % 3))).await;
                execute(&hosted, &format!("INSERT INTO t VALUES({})", at * 1000 + n));
                hosted.durable().await.unwrap();
                acknowledged.push(at * 1000 + n);
                drop(hosted);
                tokio::time::sleep(Duration::from_millis(60 * (n as u64 % 4))).await;
            }
            acknowledged
        })
    });
    let acknowledged = futures::future::try_join_all(writers.collect::<Vec<_>>()).await.unwrap().concat();
    closer.abort();
    let found = rows(&a.open(&app()).await.unwrap());
    let lost: Vec<_> = acknowledged.iter().filter(|k| !found.contains(k)).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
}

#[tokio::test]
async fn two_servers_do_not_share_a_data_directory() {
    let stage = Stage::new();
    let first = stage.server("a");
    let store = Store::from_object_store(Arc::new(stage.objects.clone()), "test");
    let second = Hosts::new(store, stage.dir.path().join("a"), HostOptions::default());
    assert!(matches!(second, Err(HostError::DataDirInUse(_))));
    drop(first);
    stage.server("a");
}
