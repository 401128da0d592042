//! Networks and servers that fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aquifer_client::remote::{RemoteError, RemoteOptions, Retries};
use aquifer_sqlite::btree::Value;
use aquifer_testkit::proxy::{Proxy, ProxyFault};

use crate::scripted::{Scripted, answer};
use crate::stage::{Server, Setup, Stage, everything, options, persistent, remote, remote_with, rest, run};

/// A server behind a proxy that does this to the first `times` requests for `route`.
async fn behind(stage: &Stage, route: &'static str, fault: ProxyFault, times: usize) -> (Server, Proxy) {
    let server = stage.server("a", Setup::default()).await;
    run(&remote(server.address), "CREATE TABLE IF NOT EXISTS t(k)").await;
    let proxy = Proxy::start(server.address).await;
    let done = AtomicUsize::new(0);
    proxy.set_faults(move |path, _| {
        (path.ends_with(route) && done.fetch_add(1, Ordering::Relaxed) < times).then_some(fault)
    });
    (server, proxy)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_is_tried_again_until_it_is_answered() {
    for fault in
        [ProxyFault::Status(503), ProxyFault::Status(502), ProxyFault::Status(500), ProxyFault::DropReply]
    {
        let stage = Stage::new();
        let (_server, proxy) = behind(&stage, "/pull-updates", fault, 2).await;
        let mut pull = remote_with(proxy.address(), persistent(2)).pull(&everything()).await.unwrap();
        assert_eq!(rest(&mut pull).await.unwrap().len(), pull.pages as usize);
        assert_eq!(proxy.requests().len(), 3);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_that_is_refused_for_good_is_not_tried_again() {
    for status in [400, 401, 404, 410, 422] {
        let stage = Stage::new();
        let (_server, proxy) = behind(&stage, "/pull-updates", ProxyFault::Status(status), 1).await;
        let error =
            remote_with(proxy.address(), persistent(5)).pull(&everything()).await.map(|_| ()).unwrap_err();
        assert!(!error.passes() && error.to_string().contains("injected"), "{error}");
        assert_eq!(proxy.requests().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_cut_off_is_an_error_and_no_smaller_database() {
    let stage = Stage::new();
    let (server, proxy) = behind(&stage, "/pull-updates", ProxyFault::CutReply, 1).await;
    let direct = remote(server.address);
    run(&direct, "INSERT INTO t VALUES(randomblob(100000))").await;
    let remote = remote_with(proxy.address(), persistent(2));
    let mut pull = remote.pull(&everything()).await.unwrap();
    let error = rest(&mut pull).await.unwrap_err();
    assert!(matches!(error, RemoteError::Interrupted { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_sent_once_and_an_answer_that_got_lost_may_have_happened() {
    for fault in [ProxyFault::DropReply, ProxyFault::CutReply] {
        let stage = Stage::new();
        let (server, proxy) = behind(&stage, "/v2/pipeline", fault, 1).await;
        let error = remote_with(proxy.address(), persistent(5))
            .execute("INSERT INTO t VALUES(1)", &[])
            .await
            .unwrap_err();
        assert!(error.may_have_happened() && !error.is_offline(), "{error}");
        assert_eq!(proxy.requests().len(), 1);
        assert_eq!(run(&remote(server.address), "SELECT count(*) FROM t").await, Some(Value::Integer(1)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statuses_say_whether_a_batch_may_have_happened() {
    for (status, may_have) in
        [(429, false), (413, false), (401, false), (500, true), (503, true), (504, true)]
    {
        let stage = Stage::new();
        let (_server, proxy) = behind(&stage, "/v2/pipeline", ProxyFault::Status(status), 1).await;
        let error = remote(proxy.address()).execute("SELECT 1", &[]).await.unwrap_err();
        assert_eq!(error.may_have_happened(), may_have, "{error}");
    }
}

#[tokio::test]
async fn a_busy_server_is_asked_again_when_it_says_and_not_before_the_caller_wants_to_know() {
    let script = |_: &str, _: &[u8]| {
        answer("503 Service Unavailable", &["retry-after: 3600"], b"{\"error\":\"busy\"}")
    };
    let server = Scripted::start(script).await;
    let error = remote_with(server.address, persistent(5)).pull(&everything()).await.map(|_| ()).unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_hours(1)));
    assert_eq!(server.heads().len(), 1);
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() {
    let impatient = RemoteOptions { answer_timeout: Duration::from_millis(20), ..options() };
    let server = Scripted::start(|_, _| Vec::new()).await;
    let remote = remote_with(server.address, impatient);
    for error in [
        remote.pull(&everything()).await.map(|_| ()).unwrap_err(),
        remote.execute("SELECT 1", &[]).await.unwrap_err(),
    ] {
        assert!(matches!(error, RemoteError::Interrupted { .. }) && error.may_have_happened(), "{error}");
    }
}

#[tokio::test]
async fn an_answer_that_stops_is_given_up() {
    let impatient = RemoteOptions { idle_timeout: Duration::from_millis(20), ..options() };
    // Two sockets: one that holds the answer back, and this one that says how long it would be.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let held = tokio::spawn(async move {
        let mut sockets = Vec::new();
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::io::AsyncWriteExt::write_all(
                &mut socket,
                b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nab",
            )
            .await
            .unwrap();
            sockets.push(socket);
        }
    });
    let error = remote_with(address, impatient).execute("SELECT 1", &[]).await.unwrap_err();
    assert!(matches!(error, RemoteError::Interrupted { .. }), "{error}");
    held.abort();
}

#[tokio::test]
async fn an_answer_larger_than_agreed_is_not_read_to_its_end() {
    let server = Scripted::start(|_, _| answer("200 OK", &[], &vec![b' '; 1 << 20])).await;
    let small = RemoteOptions { answer_bytes: 1000, ..options() };
    let remote = remote_with(server.address, small);
    let error = remote.execute("SELECT 1", &[]).await.unwrap_err().to_string();
    assert!(error.contains("longer than the 1000 bytes"), "{error}");
}

#[tokio::test]
async fn offline_is_tried_again_too() {
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&tries);
    // A proxy that refuses the tunnel is a connection that does not come about.
    let proxy = Scripted::start(move |_, _| {
        counted.fetch_add(1, Ordering::Relaxed);
        answer("502 Bad Gateway", &[], b"")
    })
    .await;
    let options = RemoteOptions {
        proxy: aquifer_client::remote::Proxy::Url(format!("http://{}", proxy.address).as_str().into()),
        retries: Retries { count: 2, base: Duration::from_millis(1), ..Retries::default() },
        ..options()
    };
    let remote = aquifer_client::remote::Remote::new("https://nowhere.invalid", options).unwrap();
    let error = remote.pull(&everything()).await.map(|_| ()).unwrap_err();
    assert!(error.is_offline(), "{error}");
    assert_eq!(tries.load(Ordering::Relaxed), 3);
}
