//! Pushes to a server as `aquifer serve` runs it, also over a network that fails.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aquifer_client::push::{Bookkeeping, Kept, Outcome, Reals, prepare, resolve, send};
use aquifer_client::remote::{Remote, RemoteError};
use aquifer_sqlite::btree::Value;
use aquifer_testkit::proxy::{Proxy, ProxyFault};

use crate::files::{diff, select};
use crate::server::Stage as Databases;
use crate::stage::{self, Server, Setup, options, remote_with};

/// A server that has what the base has.
async fn server(stage: &stage::Stage, begin: &str, setup: Setup) -> (Server, Remote) {
    let server = stage.server("a", setup).await;
    let remote = stage::remote(server.address);
    for sql in begin.split(';').filter(|sql| !sql.trim().is_empty()) {
        stage::run(&remote, sql).await;
    }
    (server, remote)
}

fn kept(databases: &Databases) -> Kept {
    let local = diff(&databases.path("base"), &databases.path("current"));
    prepare(&local, &|_| true, None, Reals::Exact, databases.path("base").parent().unwrap()).unwrap()
}

fn number(change_id: i64) -> Bookkeeping {
    Bookkeeping { client_id: "a client".to_owned(), change_id }
}

async fn rows(remote: &Remote, sql: &str) -> Vec<Vec<Value>> {
    remote.execute(sql, &[]).await.unwrap().rows
}

const BEGIN: &str =
    "CREATE TABLE t(k INTEGER PRIMARY KEY, v); INSERT INTO t VALUES(1, 'one'), (2, 'two'), (3, 'three')";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_arrives_once_and_one_that_clashes_not_at_all() {
    let stage = stage::Stage::new();
    let (_server, remote) = server(&stage, BEGIN, Setup::default()).await;
    let databases = Databases::new(BEGIN);
    databases.local(
        "UPDATE t SET v = CAST(x'ff' AS TEXT) WHERE k = 1; DELETE FROM t WHERE k = 2; INSERT INTO t VALUES(4, 9e999), (5, x'00ff'), (6, 9007199254740993);
         CREATE INDEX i ON t(v); CREATE TRIGGER g AFTER INSERT ON t BEGIN DELETE FROM t; END; PRAGMA user_version = 7",
    );
    let kept = kept(&databases);
    assert!(matches!(send(&remote, &number(1), &kept).await.unwrap(), Outcome::Applied));
    let all = "SELECT k, v, hex(v) FROM t ORDER BY k";
    let local = select(&databases.open("current"), all);
    assert_eq!(rows(&remote, "SELECT k, hex(v) FROM t ORDER BY k").await.len(), 5);
    let there = rows(&remote, "SELECT k, hex(v) FROM t ORDER BY k").await;
    let here: Vec<_> = local.into_iter().map(|mut row| [row.remove(0), row.remove(1)].to_vec()).collect();
    assert_eq!(there, here);
    assert_eq!(rows(&remote, "PRAGMA user_version").await, [[Value::Integer(7)]]);
    let names = rows(&remote, "SELECT name FROM sqlite_schema WHERE name IN ('i', 'g')").await;
    assert_eq!(names.len(), 2);

    assert!(matches!(send(&remote, &number(1), &kept).await.unwrap(), Outcome::Late));
    let again = send(&remote, &number(2), &kept).await.unwrap();
    let Outcome::Clashed { statement, message } = again else { panic!("{again:?}") };
    assert!(!statement.is_empty() && !message.is_empty());
    assert_eq!(
        rows(&remote, "SELECT applied, change_id FROM aquifer_sync").await,
        [[1, 1].map(Value::Integer)]
    );
    // All but the first statement could be run.
    let databases = Databases::new(BEGIN);
    databases.local("UPDATE t SET v = 'mine' WHERE k = 1; INSERT INTO t VALUES(9, 9)");
    stage::run(&remote, "DROP TRIGGER g").await;
    let clashed = send(&remote, &number(2), &self::kept(&databases)).await.unwrap();
    assert!(matches!(clashed, Outcome::Clashed { .. }), "{clashed:?}");
    assert!(rows(&remote, "SELECT * FROM t WHERE k = 9").await.is_empty());
    assert!(!resolve(&remote, &number(2)).await.unwrap());
    assert!(resolve(&remote, &number(1)).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_push_goes_in_pieces_and_is_one_transaction_all_the_same() {
    let stage = stage::Stage::new();
    let (server, remote) = server(&stage, BEGIN, Setup::default()).await;
    let proxy = Proxy::start(server.address).await;
    let through = remote_with(proxy.address(), options());
    let databases = Databases::new(BEGIN);
    databases.local(
        "WITH RECURSIVE n(i) AS (SELECT 10 UNION ALL SELECT i + 1 FROM n WHERE i < 130) INSERT INTO t SELECT i, randomblob(100000) FROM n; DELETE FROM t WHERE k = 3; PRAGMA user_version = 5",
    );
    let kept = kept(&databases);
    // Most of it is in a file.
    assert_eq!(kept.steps().unwrap().map(Result::unwrap).collect::<Vec<_>>(), databases.steps());
    assert!(kept.steps().unwrap().count() as u64 == kept.summary().statements);

    // In the first request, and in the last one.
    for (change_id, k) in [(1, 10), (2, 130)] {
        stage::run(&remote, &format!("INSERT INTO t VALUES({k}, 'there')")).await;
        let clashed = send(&through, &number(change_id), &kept).await.unwrap();
        assert!(matches!(clashed, Outcome::Clashed { .. }), "{clashed:?}");
        assert_eq!(rows(&remote, "SELECT count(*) FROM t").await, [[Value::Integer(4)]]);
        // The lock is free again at once.
        stage::run(&remote, &format!("DELETE FROM t WHERE k = {k}")).await;
    }

    let before = proxy.requests().len();
    assert!(matches!(send(&through, &number(3), &kept).await.unwrap(), Outcome::Applied));
    assert!(proxy.requests().len() - before >= 4, "{:?}", proxy.requests());
    let sum = "SELECT count(*), sum(length(v)), group_concat(hex(substr(v, 1, 9))) FROM (SELECT * FROM t ORDER BY k)";
    assert_eq!(rows(&remote, sum).await, select(&databases.open("current"), sum));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_whose_answer_is_lost_is_found_to_be_there_or_never_comes() {
    let (drop, cut) = (ProxyFault::DropReply, ProxyFault::CutReply);
    let (busy, failed) = (ProxyFault::Status(503), ProxyFault::Status(500));
    // Which requests get no answer; a large push needs several.
    for (is_large, fault, at) in [
        (false, drop, 0..1),
        (false, drop, 0..3),
        (false, cut, 0..1),
        (false, busy, 0..1),
        (false, failed, 0..2),
        (true, drop, 0..1),
        (true, drop, 1..2),
        (true, busy, 1..3),
    ] {
        let stage = stage::Stage::new();
        let mut setup = Setup::default();
        // What a lost stream leaves behind is gone soon.
        setup.settings.stream_idle = Duration::from_secs(2);
        let (server, remote) = server(&stage, BEGIN, setup).await;
        let proxy = Proxy::start(server.address).await;
        let done = AtomicUsize::new(0);
        let lost = at.clone();
        proxy.set_faults(move |_, _| lost.contains(&done.fetch_add(1, Ordering::Relaxed)).then_some(fault));
        let through = remote_with(proxy.address(), options());
        let databases = Databases::new(BEGIN);
        let rows_of = if is_large { 70 } else { 3 };
        databases.local(&format!(
                "WITH RECURSIVE n(i) AS (SELECT 10 UNION ALL SELECT i + 1 FROM n WHERE i < 9 + {rows_of}) INSERT INTO t SELECT i, randomblob(100000) FROM n"
            ));
        let kept = kept(&databases);
        let mut applied = 0;
        for change_id in 1.. {
            let push = number(change_id);
            let is_applied = match send(&through, &push, &kept).await {
                Ok(Outcome::Applied) => true,
                Ok(Outcome::Unknown(_)) | Err(_) => {
                    let is_applied = loop {
                        match resolve(&through, &push).await {
                            Ok(is_applied) => break is_applied,
                            Err(error) => assert!(error.passes(), "{error}"),
                        }
                    };
                    // However late the request comes again.
                    assert!(matches!(send(&remote, &push, &kept).await.unwrap(), Outcome::Late));
                    is_applied
                }
                other => panic!("{other:?}"),
            };
            let count = rows(&remote, "SELECT count(*) FROM t WHERE k >= 10").await;
            assert_eq!(
                count,
                [[Value::Integer(if is_applied { rows_of } else { 0 })]],
                "{fault:?} {is_large} {at:?}"
            );
            applied += i32::from(is_applied);
            if is_applied {
                break;
            }
        }
        assert_eq!(applied, 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_server_refuses_for_good_and_what_passes_are_told_apart() {
    let stage = stage::Stage::new();
    let mut setup = Setup::default();
    setup.settings.limits.busy_timeout = Duration::from_millis(50);
    setup.settings.limits.value_bytes = 50_000;
    let (_server, remote) = server(&stage, BEGIN, setup).await;
    let databases = Databases::new(BEGIN);
    databases.local("UPDATE t SET v = 1");
    let kept = kept(&databases);
    // Somebody has the lock.
    let mut other = remote.sql_stream();
    let mut begin = aquifer_client::remote::Batch::new();
    begin.step(None, "BEGIN IMMEDIATE", [], false).unwrap();
    other.batch(&begin).await.unwrap();
    let busy = send(&remote, &number(1), &kept).await.unwrap();
    let Outcome::Unknown(error) = busy else { panic!("{busy:?}") };
    assert!(error.passes(), "{error}");
    assert!(resolve(&remote, &number(1)).await.unwrap_err().passes());
    other.close().await.unwrap();
    assert!(!resolve(&remote, &number(1)).await.unwrap());
    let databases = Databases::new(BEGIN);
    databases.local("INSERT INTO t VALUES(7, randomblob(60000))");
    let kept = self::kept(&databases);
    let refused = send(&remote, &number(2), &kept).await.unwrap();
    let Outcome::Refused { statement, .. } = &refused else { panic!("{refused:?}") };
    assert!(statement.contains("INSERT OR ABORT INTO \"t\""), "{statement}");
    assert!(!resolve(&remote, &number(2)).await.unwrap());
    let nobody = Remote::new("http://127.0.0.1:9/db/shop", options()).unwrap();
    let offline = send(&nobody, &number(3), &kept).await.unwrap_err();
    assert!(
        matches!(&offline, aquifer_client::push::PushError::Remote(error) if error.is_offline()),
        "{offline}"
    );
    let _: RemoteError = resolve(&nobody, &number(3)).await.unwrap_err();
}
