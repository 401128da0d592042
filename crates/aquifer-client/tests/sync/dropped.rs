//! Futures are dropped at every await: what they did is done once, and what they did not is done by the next call.

use std::future::{Future, poll_fn};
use std::num::NonZeroU64;
use std::pin::pin;
use std::task::Poll;

use aquifer_client::{Builder, Protocol};

use crate::world::{World, local, run};

const TABLES: &str = "CREATE TABLE log(line);\nCREATE TABLE t(k INTEGER PRIMARY KEY, a, b)";
const ALL: &str = "SELECT line, '' FROM log UNION ALL SELECT a, b FROM t ORDER BY 1, 2";

/// Drops a future when it has been polled so many times; `None`: it was not done by then.
async fn up_to<T>(polls: u32, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(move |context| {
        left -= 1;
        match future.as_mut().poll(context) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

async fn dropped_syncs(protocol: Protocol, with: impl Fn(Builder) -> Builder) -> u32 {
    let world = World::speaking(protocol).await;
    world.on_server(TABLES).await;
    world.on_server("INSERT INTO t VALUES (1, '', '')").await;
    let db = with(world.builder("a.db")).open().await.unwrap();
    let other = world.open("b.db").await;
    let mut expected = Vec::new();
    for polls in 1.. {
        for (db, who, column) in [(&db, "a", "a"), (&other, "b", "b")] {
            let more = (1..4).map(|i| {
                let line = format!("{who} {polls} {i}");
                expected.push(format!("{line}|"));
                format!("INSERT INTO log VALUES ('{line}');")
            });
            let more: String = more.collect();
            run(db, &format!("BEGIN; {more} UPDATE t SET {column} = {polls}; COMMIT"));
        }
        other.sync().await.unwrap().online().unwrap();
        let done = up_to(polls, db.sync()).await;
        // Not all of the next call comes to its end either.
        if polls % 3 == 0 {
            up_to(polls / 2, db.sync()).await;
        }
        db.sync().await.unwrap().online().unwrap();
        other.sync().await.unwrap().online().unwrap();
        let mut all = expected.clone();
        all.push(format!("{polls}|{polls}"));
        all.sort();
        assert_eq!(local(&db, ALL), all, "dropped after {polls} polls");
        assert_eq!(local(&other, ALL), all, "dropped after {polls} polls");
        if let Some(done) = done {
            done.unwrap().online().unwrap();
            return polls;
        }
    }
    unreachable!("it is done at some time")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_that_is_dropped_at_any_await_pushes_and_pulls_once() {
    let polls = dropped_syncs(Protocol::Turso, |builder| builder).await;
    assert!(polls > 5, "it waits for something {polls} times");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_in_several_pushes_that_is_dropped_at_any_await_pushes_and_pulls_once() {
    let polls =
        dropped_syncs(Protocol::Turso, |builder| builder.push_batch_rows(NonZeroU64::MIN.saturating_add(1)))
            .await;
    assert!(polls > 5, "it waits for something {polls} times");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_of_pages_that_is_dropped_at_any_await_pushes_and_pulls_once() {
    let polls = dropped_syncs(Protocol::Libsql, |builder| builder).await;
    assert!(polls > 5, "it waits for something {polls} times");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_fetch_that_is_dropped_at_any_await_goes_on() {
    for protocol in [Protocol::Turso, Protocol::Libsql] {
        let world = World::speaking(protocol).await;
        world.on_server(TABLES).await;
        world
            .on_server(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300)
                 INSERT INTO t SELECT i, hex(randomblob(200)), i FROM n",
            )
            .await;
        let whole = world.open("whole.db").await;
        for polls in 1.. {
            let name = format!("{polls}.db");
            let done = up_to(polls, Box::pin(world.builder(&name).open())).await.transpose().unwrap();
            let is_done = done.is_some();
            drop(done);
            let db = world.open(&name).await;
            assert_eq!(local(&db, ALL), local(&whole, ALL), "dropped after {polls} polls");
            if is_done {
                assert!(polls > 3, "it waits for something {polls} times");
                break;
            }
        }
    }
}
