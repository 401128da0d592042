//! Databases over HTTP: whichever server is asked, it knows what any of them has acknowledged.
#![allow(clippy::unwrap_used, reason = "a test that cannot set the stage should fail")]

use std::net::SocketAddr;
use std::sync::Arc;

use aquifer_log::Store;
use aquifer_server::auth::{AuthOptions, Authority};
use aquifer_server::hosted::{Create, Hosts};
use aquifer_server::hrana::Settings;
use aquifer_server::http::Service;
use aquifer_testkit::fault_store::FaultStore;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

struct Stage {
    dir: TempDir,
    faults: FaultStore,
    store: Store,
}

impl Stage {
    fn new() -> Stage {
        let faults = FaultStore::in_memory();
        let store = Store::from_object_store(Arc::new(faults.clone()), "test");
        Stage { dir: TempDir::new().unwrap(), faults, store }
    }

    /// A server that lets everybody in.
    async fn server(&self, name: &str) -> Server {
        self.server_for(name, &AuthOptions { anonymous: true, ..AuthOptions::default() }).await
    }

    async fn server_for(&self, name: &str, auth: &AuthOptions) -> Server {
        let hosts = Hosts::new(self.store.clone(), self.dir.path().join(name), Create::OnDemand).unwrap();
        let service = Service::new(hosts, Authority::new(auth).unwrap(), Settings::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = service.router();
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Server { address, service, task }
    }
}

struct Server {
    address: SocketAddr,
    service: Arc<Service>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    /// The status, and the body.
    async fn send(&self, method: &str, path: &str, token: Option<&str>, body: &str) -> (u16, String) {
        let mut socket = TcpStream::connect(self.address).await.unwrap();
        let token = token.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: aquifer\r\nconnection: close\r\n{token}content-length: {}\r\n\r\n{body}",
            body.len()
        );
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    async fn execute(&self, base: &str, token: Option<&str>, sql: &str) -> (u16, Value) {
        let body = json!({"requests": [{"type": "execute", "stmt": {"sql": sql}}, {"type": "close"}]});
        let (status, body) =
            self.send("POST", &format!("{base}/v2/pipeline"), token, &body.to_string()).await;
        (status, serde_json::from_str(&body).unwrap())
    }

    /// The values of the first column of what a statement, which must succeed, answers.
    async fn values(&self, base: &str, sql: &str) -> Vec<String> {
        let (status, answer) = self.execute(base, None, sql).await;
        assert_eq!((status, &answer["results"][0]["type"]), (200, &json!("ok")), "{answer}");
        let rows = answer["results"][0]["response"]["result"]["rows"].as_array().unwrap().clone();
        rows.iter().map(|row| row[0]["value"].as_str().unwrap().to_owned()).collect()
    }

    /// Its machine is gone.
    fn vanish(self) {
        self.task.abort();
    }
}

#[tokio::test]
async fn another_server_on_an_empty_disk_serves_what_was_acknowledged() {
    let stage = Stage::new();
    let first = stage.server("a").await;
    first.values("/db/shop", "CREATE TABLE t(k INTEGER PRIMARY KEY)").await;
    first.values("/db/shop", "INSERT INTO t VALUES(1), (2)").await;
    first.values("", "CREATE TABLE u(x)").await;
    first.vanish();
    let second = stage.server("b").await;
    assert_eq!(second.values("/db/shop", "SELECT k FROM t ORDER BY k").await, ["1", "2"]);
    // The default database is another one.
    assert_eq!(second.values("/db/main", "SELECT name FROM sqlite_schema").await, ["u"]);
    second.service.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_server_that_was_overtaken_refuses_and_then_serves_what_the_other_one_wrote() {
    let stage = Stage::new();
    let (a, b) = (stage.server("a").await, stage.server("b").await);
    a.values("/db/shop", "CREATE TABLE t(k INTEGER PRIMARY KEY)").await;
    b.values("/db/shop", "INSERT INTO t VALUES(1)").await;
    let (status, answer) = a.execute("/db/shop", None, "INSERT INTO t VALUES(100)").await;
    assert!(status >= 500 || answer["results"][0]["type"] == "error", "{status}: {answer}");
    assert_eq!(a.values("/db/shop", "SELECT k FROM t").await, ["1"]);
}

#[tokio::test]
async fn tokens_open_the_databases_that_they_are_for() {
    let stage = Stage::new();
    let tokens =
        ["token-for-all rw", "token-to-read ro", "token-for-shop rw shop"].map(str::to_owned).to_vec();
    let server = stage.server_for("a", &AuthOptions { tokens, ..AuthOptions::default() }).await;
    let create = "CREATE TABLE IF NOT EXISTS t(k)";
    for (base, token, status) in [
        ("/db/shop", None, 401),
        ("/db/shop", Some("token-guessed"), 401),
        ("/db/other", Some("token-for-shop"), 403),
        ("/db/shop", Some("token-for-shop"), 200),
        ("/db/other", Some("token-for-all"), 200),
    ] {
        let (found, answer) = server.execute(base, token, create).await;
        assert_eq!(found, status, "{base} {token:?}: {answer}");
    }
    let (status, answer) = server.execute("/db/shop", Some("token-to-read"), "SELECT count(*) FROM t").await;
    assert_eq!((status, &answer["results"][0]["type"]), (200, &json!("ok")), "{answer}");
    let (_, answer) = server.execute("/db/shop", Some("token-to-read"), "INSERT INTO t VALUES(1)").await;
    assert_eq!(answer["results"][0]["type"], "error", "{answer}");
    assert_eq!(server.send("GET", "/health", None, "").await.0, 200, "for supervisors, which have no token");
}

#[tokio::test]
async fn nothing_is_acknowledged_that_the_store_does_not_have() {
    let stage = Stage::new();
    let server = stage.server("a").await;
    assert_eq!(server.send("GET", "/health", None, "").await.0, 200);
    server.values("", "CREATE TABLE t(k)").await;
    stage.faults.set_offline(true);
    let mut write = std::pin::pin!(server.execute("", None, "INSERT INTO t VALUES(1)"));
    tokio::select! {
        answer = &mut write => panic!("acknowledged without a store: {answer:?}"),
        () = until_committed(&stage) => {}
    }
    // Nor does anybody learn of it.
    let mut read = std::pin::pin!(server.execute("", None, "SELECT k FROM t"));
    assert!(futures::poll!(read.as_mut()).is_pending());
    stage.faults.set_offline(false);
    assert_eq!(write.await.0, 200);
    assert_eq!(read.await.1["results"][0]["response"]["result"]["rows"][0][0]["value"], "1");
}

/// Until the local file has the row.
async fn until_committed(stage: &Stage) {
    let path = stage.dir.path().join("a/main/db.sqlite");
    let connection = rusqlite::Connection::open(path).unwrap();
    while connection.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0)).unwrap() == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn what_is_not_there_is_told_with_what_to_do() {
    let stage = Stage::new();
    let server = stage.server("a").await;
    let (status, body) = server.send("POST", "/db/v2/pipeline", None, "{}").await;
    assert_eq!(status, 404);
    assert!(body.contains("slash"), "{body}");
    assert_eq!(server.send("GET", "/db/shop/v3-protobuf", None, "").await.0, 404);
    assert_eq!(server.send("GET", "/db/shop/v3", None, "").await.0, 200);
    assert_eq!(server.send("POST", "/db/%00/v2/pipeline", None, "{}").await.0, 400);
    stage.faults.set_offline(true);
    let (status, body) = server.send("GET", "/health", None, "").await;
    assert_eq!(status, 503);
    assert!(body.contains("store"), "{body}");
}
