//! Futures that are dropped.

use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use aquifer_client::remote::{Batch, RemoteError};
use aquifer_server::hrana::Settings;
use aquifer_sqlite::btree::Value;
use futures::poll;

use crate::stage::{Setup, Stage, everything, remote, run};

/// Polls a future this often, and drops it unless it is done by then.
async fn polled<T>(future: impl Future<Output = T>, times: usize) -> Option<T> {
    let mut future = pin!(future);
    for _ in 0..times {
        if let Poll::Ready(done) = poll!(&mut future) {
            return Some(done);
        }
        tokio::task::yield_now().await;
    }
    None
}

#[tokio::test]
async fn a_page_that_was_not_waited_for_comes_later() {
    let stage = Stage::new();
    let server = stage.server("a", Setup::default()).await;
    let remote = remote(server.address);
    run(&remote, "CREATE TABLE t(v)").await;
    run(&remote, "INSERT INTO t VALUES(randomblob(3000000))").await;
    let mut pull = remote.pull(&everything()).await.unwrap();
    let (mut pages, mut given_up) = (Vec::new(), 0);
    loop {
        match polled(pull.next_page(), 1).await {
            None => given_up += 1,
            Some(page) => match page.unwrap() {
                Some((pgno, _)) => pages.push(pgno.get()),
                None => break,
            },
        }
    }
    assert!(given_up > 0, "no wait was ever given up");
    pages.sort_unstable();
    assert!(pages.into_iter().eq(1..=pull.pages));
}

#[tokio::test]
async fn a_pull_may_be_dropped_wherever_it_waits() {
    let stage = Stage::new();
    let server = stage.server("a", Setup::default()).await;
    let remote = remote(server.address);
    run(&remote, "CREATE TABLE t(v)").await;
    let mut polls = 0;
    while polled(remote.pull(&everything()), polls).await.is_none() {
        polls += 1;
    }
    assert!(polls > 1, "it never waited");
}

#[tokio::test]
async fn a_batch_that_was_given_up_ends_its_stream_and_its_transaction() {
    let stage = Stage::new();
    // Streams that nobody names any more keep nobody waiting for long.
    let settings = Settings { stream_idle: Duration::from_millis(200), ..Settings::default() };
    let server = stage.server("a", Setup { settings, ..Setup::default() }).await;
    let remote = remote(server.address);
    run(&remote, "CREATE TABLE t(v)").await;
    let batch = |sql: &str| {
        let mut batch = Batch::new();
        batch.step(None, sql, [], false).unwrap();
        batch
    };
    for polls in 1..5 {
        let mut stream = remote.sql_stream();
        stream.batch(&batch("BEGIN IMMEDIATE")).await.unwrap();
        let done = polled(stream.batch(&batch("INSERT INTO t VALUES(1)")), polls).await.is_some();
        if done {
            break;
        }
        let error = stream.batch(&batch("COMMIT")).await.unwrap_err();
        assert!(matches!(error, RemoteError::StreamLost { .. }), "{error}");
        stream.close().await.unwrap();
    }
    assert_eq!(run(&remote, "SELECT count(*) FROM t").await, Some(Value::Integer(0)));
}
