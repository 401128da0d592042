use std::time::Duration;

use aquifer_format::Revision;
use aquifer_server::hrana::Settings;
use aquifer_server::http::{ConnectionLimits, Limits, Options};
use aquifer_testkit::fault_store::{Fault, Gate, Op, Rule};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::stage::{Answer, Server, Setup, Stage, eventually};

fn limited(limits: Limits) -> Setup {
    Setup { options: Options { limits, ..Options::default() }, ..Setup::default() }
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_with_the_size_that_is_not() {
    let stage = Stage::new();
    let settings = Settings { body_bytes: 1000, ..Settings::default() };
    let server = stage.server("a", Setup { settings, ..Setup::default() }).await;
    let answer = server.send("POST", "/v2/pipeline", &[], &" ".repeat(1001)).await;
    assert_eq!(answer.status, 413, "{answer:?}");
    assert!(answer.body.contains("1000"), "{answer:?}");
    // Without a length that would tell.
    let mut socket = TcpStream::connect(server.address).await.unwrap();
    let head =
        "POST /v2/pipeline HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
    socket.write_all(format!("{head}5dc\r\n{}\r\n", " ".repeat(1500)).as_bytes()).await.unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).await.unwrap();
    assert_eq!(Answer::parse(&text).status, 413, "{text}");
    assert_eq!(server.send("POST", "/v2/pipeline", &[], &" ".repeat(1000)).await.status, 400, "no JSON");
    let refused = server.metric("aquifer_http_refused_total{limit=\"body-size\"}").await;
    assert!((refused - 2.0).abs() < f64::EPSILON, "{refused}");
}

#[tokio::test]
async fn a_body_that_stands_still_is_given_up() {
    let stage = Stage::new();
    let limits = Limits { body_idle: Duration::from_millis(50), ..Limits::default() };
    let server = stage.server("a", limited(limits)).await;
    let mut socket = TcpStream::connect(server.address).await.unwrap();
    let head = "POST /v2/pipeline HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 100\r\n\r\n{";
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).await.unwrap();
    assert_eq!(Answer::parse(&text).status, 408, "{text}");
}

#[tokio::test]
async fn a_connection_that_never_says_what_it_wants_is_closed() {
    let stage = Stage::new();
    let connections = ConnectionLimits { head: Duration::from_millis(50), ..ConnectionLimits::default() };
    let server = stage.server("a", Setup { connections, ..Setup::default() }).await;
    for head in ["", "POST /v2/pipeline HTTP/1.1\r\nhost: x\r\n"] {
        let mut socket = TcpStream::connect(server.address).await.unwrap();
        socket.write_all(head.as_bytes()).await.unwrap();
        // It returns, with an error status or without a word, long before hyper's own patience of 30 seconds ends.
        let mut answer = Vec::new();
        let closed = tokio::time::timeout(Duration::from_secs(20), socket.read_to_end(&mut answer)).await;
        assert!(closed.is_ok(), "{head:?}");
    }
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_their_turn() {
    let stage = Stage::new();
    let connections = ConnectionLimits { connections: 1, ..ConnectionLimits::default() };
    let server = stage.server("a", Setup { connections, ..Setup::default() }).await;
    let first = TcpStream::connect(server.address).await.unwrap();
    let mut second = std::pin::pin!(server.get("/version", &[]));
    let early = tokio::time::timeout(Duration::from_millis(50), &mut second).await;
    assert!(early.is_err(), "{early:?}");
    drop(first);
    assert_eq!(second.await.status, 200);
}

#[tokio::test]
async fn who_sends_too_often_is_told_when_to_come_back_and_nobody_else_is() {
    let stage = Stage::new();
    let limits = Limits { rate: Some(2), ..Limits::default() };
    let setup = Setup { tokens: vec!["token-of-ann rw", "token-of-bob rw"], ..limited(limits) };
    let server = stage.server("a", setup).await;
    let (ann, bob) = ("authorization: Bearer token-of-ann", "authorization: Bearer token-of-bob");
    let mut refused = None;
    for _ in 0..100 {
        let answer = server.get("/v3", &[ann]).await;
        if answer.status == 429 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("a hundred requests within a few seconds are more than two a second");
    assert_eq!(refused.header("retry-after"), Some("1"), "{refused:?}");
    assert!(refused.body.contains("2 requests a second"), "{refused:?}");
    assert_eq!(server.get("/v3", &[bob]).await.status, 200);
    // Who guesses tokens is counted by address.
    let guess =
        async |n: u32| server.get("/v3", &[&format!("authorization: Bearer guessed-token-{n}")]).await.status;
    let mut n = 0;
    eventually("too many guesses", async || {
        n += 1;
        guess(n).await == 429
    })
    .await;
}

#[tokio::test]
async fn a_database_with_too_many_requests_in_work_refuses_more_and_the_others_do_not() {
    let stage = Stage::new();
    let limits = Limits { requests_per_database: 1, turn: Duration::from_millis(20), ..Limits::default() };
    let server = stage.server("a", limited(limits)).await;
    for base in ["/db/a", "/db/b"] {
        server.values(base, "CREATE TABLE t(x)").await;
    }
    stage.faults.set_offline(true);
    let mut write = std::pin::pin!(server.execute("/db/a", &[], "INSERT INTO t VALUES(1)"));
    assert!(futures::poll!(write.as_mut()).is_pending());
    let mut refused = None;
    eventually("refused", async || {
        tokio::select! {
            early = &mut write => panic!("{early:?}"),
            answer = server.execute("/db/a", &[], "SELECT 1") => refused = Some(answer),
        }
        refused.as_ref().unwrap().status == 503
    })
    .await;
    let refused = refused.unwrap();
    assert!(refused.body.contains("1 requests in work"), "{refused:?}");
    assert_eq!(refused.header("retry-after"), Some("1"), "{refused:?}");
    stage.faults.set_offline(false);
    assert_eq!(server.values("/db/b", "SELECT 'there'").await, ["there"]);
    assert_eq!(write.await.status, 200);
    assert_eq!(server.values("/db/a", "SELECT 'again'").await, ["again"]);
}

#[tokio::test]
async fn a_request_that_waits_for_a_revision_takes_no_place_from_those_that_work() {
    let stage = Stage::new();
    let limits = Limits { requests: 1, turn: Duration::from_millis(20), ..Limits::default() };
    let server = stage.server("a", limited(limits)).await;
    server.values("/db/a", "CREATE TABLE t(x)").await;
    let seen = server.execute("/db/a", &[], "SELECT 1").await;
    let seen: Revision = seen.header("aquifer-revision").unwrap().parse().unwrap();
    let wait = format!("aquifer-wait: {}", Revision { txid: seen.txid.next(), ..seen });
    let gate = Gate::new();
    stage.faults.inject(Rule::on(Op::List, "a/", Fault::Hold(gate.clone())));
    let head = [&wait[..]];
    let mut waiting = std::pin::pin!(server.execute("/db/a", &head, "SELECT x FROM t"));
    tokio::select! {
        early = &mut waiting => panic!("{early:?}"),
        () = gate.arrived(1) => gate.open(),
    }
    let (written, waited) =
        tokio::join!(server.execute("/db/a", &[], "INSERT INTO t VALUES ('written')"), waiting);
    assert_eq!(written.status, 200, "{written:?}");
    assert!(waited.status == 200 && waited.body.contains("written"), "{waited:?}");
}

/// The status of a request from another address of this machine, with one more line in its head.
async fn from(address: &str, server: &Server, line: &str) -> u16 {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{address}:0").parse().unwrap()).unwrap();
    let mut socket = socket.connect(server.address).await.unwrap();
    let head = format!("GET /db/a/info HTTP/1.1\r\nhost: x\r\n{line}connection: close\r\n\r\n");
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    Answer::parse(&answer).status
}

#[tokio::test]
async fn clients_are_told_apart_by_their_own_address_behind_another_server_and_by_no_other() {
    let stage = Stage::new();
    let limits = Limits { rate: Some(2), ..Limits::default() };
    let (a, b) = (stage.server("a", limited(limits)).await, stage.server("b", Setup::default()).await);
    a.values("/db/a", "CREATE TABLE t(x)").await;
    eventually("too many", async || from("127.0.0.2", &b, "").await == 429).await;
    assert_eq!(from("127.0.0.3", &b, "").await, 200, "it has done nothing");
    // Whoever says so itself is not believed.
    let mut guess = 0;
    let line = |n| format!("aquifer-client: 127.1.0.{n}:80 {}\r\n", "A".repeat(43));
    eventually("too many", async || {
        guess = (guess + 1) % 250;
        from("127.0.0.4", &a, &line(guess)).await == 429
    })
    .await;
    assert_eq!(from("127.0.0.5", &b, &line(1)).await, 200);
}
