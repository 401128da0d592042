//! Databases over HTTP: whichever server is asked, it knows what any of them has acknowledged.
#![allow(clippy::unwrap_used, reason = "a test that cannot set the stage should fail")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aquifer_format::Timestamp;
use aquifer_log::{DatabaseStore, OwnerRecord, ServerRecord, Store};
use aquifer_server::auth::{AuthOptions, Authority};
use aquifer_server::cluster::ClusterOptions;
use aquifer_server::hosted::{HostOptions, Hosts};
use aquifer_server::hrana::Settings;
use aquifer_server::http::{Options, Service};
use aquifer_testkit::fault_store::FaultStore;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tungstenite::Message;
use tungstenite::client::IntoClientRequest;

/// Longer than anything here takes on a loaded machine.
const PATIENCE: Duration = Duration::from_mins(2);
const LEASE: Duration = Duration::from_millis(300);

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
        self.server_with(name, auth, Options::default()).await
    }

    async fn redirecting_server(&self, name: &str) -> Server {
        let auth = AuthOptions { anonymous: true, ..AuthOptions::default() };
        self.server_with(name, &auth, Options { redirect: true, ..Options::default() }).await
    }

    async fn server_with(&self, name: &str, auth: &AuthOptions, http: Options) -> Server {
        self.hosting_server(name, auth, http, HostOptions::default()).await
    }

    async fn hosting_server(
        &self,
        name: &str,
        auth: &AuthOptions,
        http: Options,
        options: HostOptions,
    ) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let cluster = ClusterOptions { url: Some(format!("http://{address}")), lease: LEASE };
        let options = HostOptions { cluster, ..options };
        let hosts = Hosts::new(self.store.clone(), self.dir.path().join(name), options).unwrap();
        let service = Service::with(hosts, Authority::new(auth).unwrap(), Settings::default(), http);
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
        let token = token.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
        self.send_with(method, path, &token, body).await
    }

    async fn send_with(&self, method: &str, path: &str, head: &str, body: &str) -> (u16, String) {
        let answer = self.answer(method, path, head, body).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    async fn answer(&self, method: &str, path: &str, head: &str, body: &str) -> String {
        let mut socket = TcpStream::connect(self.address).await.unwrap();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: aquifer\r\nconnection: close\r\n{head}content-length: {}\r\n\r\n{body}",
            body.len()
        );
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn execute(&self, base: &str, token: Option<&str>, sql: &str) -> (u16, Value) {
        let body = json!({"requests": [{"type": "execute", "stmt": {"sql": sql}}, {"type": "close"}]});
        let (status, body) =
            self.send("POST", &format!("{base}/v2/pipeline"), token, &body.to_string()).await;
        (status, serde_json::from_str(&body).unwrap())
    }

    /// The values of the first column of what a statement, which must succeed, answers.
    async fn values(&self, base: &str, sql: &str) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        let (mut status, mut answer) = self.execute(base, None, sql).await;
        // As clients do: another server has it, and may be gone.
        while (status == 503 || status == 502) && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
            (status, answer) = self.execute(base, None, sql).await;
        }
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
async fn a_server_that_stops_leaves_its_databases_to_others() {
    let stage = Stage::new();
    let (a, b) = (stage.server("a").await, stage.server("b").await);
    a.values("/db/shop", "CREATE TABLE t(k INTEGER PRIMARY KEY)").await;
    // Passed on.
    assert_eq!(b.execute("/db/shop", None, "INSERT INTO t VALUES(1)").await.0, 200);
    a.service.shutdown().await.unwrap();
    // It still takes connections, and says that it does not have the database.
    let (status, answer) = b.execute("/db/shop", None, "INSERT INTO t VALUES(2)").await;
    assert_eq!((status, &answer["results"][0]["type"]), (200, &json!("ok")), "{answer}");
    assert_eq!(b.values("/db/shop", "SELECT k FROM t").await, ["1", "2"]);
    assert!(stage.dir.path().join("b/shop").exists());
}

#[tokio::test]
async fn whichever_server_is_asked_the_one_that_has_the_database_answers() {
    let stage = Stage::new();
    let tokens = AuthOptions { tokens: vec!["token-for-shop rw shop".to_owned()], ..AuthOptions::default() };
    let (a, b) = (stage.server_for("a", &tokens).await, stage.server_for("b", &tokens).await);
    let token = Some("token-for-shop");
    assert_eq!(a.execute("/db/shop", token, "CREATE TABLE t(k INTEGER PRIMARY KEY)").await.0, 200);
    // A transaction over several requests, through the other server.
    let begin = json!({"requests": [{"type": "execute", "stmt": {"sql": "BEGIN"}}]}).to_string();
    let (status, answer) = b.send("POST", "/db/shop/v2/pipeline", token, &begin).await;
    assert_eq!(status, 200, "{answer}");
    let baton = serde_json::from_str::<Value>(&answer).unwrap()["baton"].clone();
    let statement = |sql: &str| json!({"type": "execute", "stmt": {"sql": sql}});
    let rest = json!({"baton": baton, "requests": [
        statement("INSERT INTO t VALUES(1)"), statement("COMMIT"), {"type": "close"}
    ]});
    let (status, answer) = b.send("POST", "/db/shop/v2/pipeline", token, &rest.to_string()).await;
    assert!(status == 200 && !answer.contains("error"), "{answer}");
    let (_, answer) = a.execute("/db/shop", token, "SELECT k FROM t").await;
    assert_eq!(answer["results"][0]["response"]["result"]["rows"][0][0]["value"], "1", "{answer}");
    // Cursors stream through.
    let cursor = json!({"batch": {"steps": [{"stmt": {"sql": "SELECT k FROM t"}}]}}).to_string();
    let (status, answer) = b.send("POST", "/db/shop/v3/cursor", token, &cursor).await;
    assert!(status == 200 && answer.contains("step_end"), "{answer}");
    // Who may not is refused at once.
    assert_eq!(b.execute("/db/shop", Some("token-guessed"), "SELECT 1").await.0, 401);
    assert!(!stage.dir.path().join("b/shop").exists());
}

#[tokio::test]
async fn a_transaction_between_two_requests_keeps_its_database_open() {
    let stage = Stage::new();
    let auth = AuthOptions { anonymous: true, ..AuthOptions::default() };
    let options = HostOptions { close_after: Duration::ZERO, ..HostOptions::default() };
    let a = stage.hosting_server("a", &auth, Options::default(), options).await;
    let upkeep = tokio::spawn({
        let service = Arc::clone(&a.service);
        async move { service.upkeep().await }
    });
    a.values("/db/shop", "CREATE TABLE t(k)").await;
    let statement = |sql: &str| json!({"type": "execute", "stmt": {"sql": sql}});
    let begin = json!({"requests": [statement("BEGIN"), statement("INSERT INTO t VALUES('x')")]});
    let (_, answer) = a.send("POST", "/db/shop/v2/pipeline", None, &begin.to_string()).await;
    let baton = serde_json::from_str::<Value>(&answer).unwrap()["baton"].clone();
    // Another one is closed meanwhile.
    a.values("/db/other", "CREATE TABLE t(k)").await;
    let deadline = Instant::now() + PATIENCE;
    while !stage.dir.path().join("a/other/closed").exists() {
        assert!(Instant::now() < deadline, "never closed");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!stage.dir.path().join("a/shop/closed").exists());
    let rest = json!({"baton": baton, "requests": [statement("COMMIT"), {"type": "close"}]});
    let (status, answer) = a.send("POST", "/db/shop/v2/pipeline", None, &rest.to_string()).await;
    assert!(status == 200 && !answer.contains("error"), "{answer}");
    assert_eq!(a.values("/db/shop", "SELECT k FROM t").await, ["x"]);
    upkeep.abort();
}

#[tokio::test]
async fn a_request_that_was_passed_on_is_not_passed_on_again() {
    let stage = Stage::new();
    let (a, b) = (stage.server("a").await, stage.server("b").await);
    a.values("/db/shop", "CREATE TABLE t(k)").await;
    for database in ["shop", "nobodys"] {
        let path = format!("/db/{database}/v2/pipeline");
        let (status, answer) =
            b.send_with("POST", &path, "aquifer-forwarded: 1\r\n", r#"{"requests":[]}"#).await;
        assert_eq!(status, 421, "{answer}");
    }
}

#[tokio::test]
async fn clients_that_follow_are_sent_to_the_server_that_has_the_database() {
    let stage = Stage::new();
    let a = stage.server("a").await;
    let b = stage.redirecting_server("b").await;
    a.values("/db/shop", "CREATE TABLE t(k)").await;
    let answer = b.answer("POST", "/db/shop/v2/pipeline?x=1", "", r#"{"requests":[]}"#).await;
    assert!(answer.starts_with("HTTP/1.1 307"), "{answer}");
    assert!(
        answer.contains(&format!("location: http://{}/db/shop/v2/pipeline?x=1\r\n", a.address)),
        "{answer}"
    );
}

#[tokio::test]
async fn a_server_that_answers_nothing_keeps_a_database_for_a_lease_and_no_longer() {
    let stage = Stage::new();
    // It accepts connections, as a process that was stopped does, and gives no sign of life.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = ServerRecord {
        id: uuid::Uuid::now_v7(),
        host: "elsewhere".to_owned(),
        url: Some(format!("http://{}", silent.local_addr().unwrap())),
        started: Timestamp::now(),
        beat: 7,
        lease_millis: 500,
        secret: None,
    };
    server.announce(&stage.store).await.unwrap();
    let database = DatabaseStore::new(stage.store.clone(), "shop".parse().unwrap());
    let record =
        OwnerRecord { server: server.id, host: server.host, since: Timestamp::now(), released: false };
    assert!(database.claim(1, &record).await.unwrap());
    let b = stage.server("b").await;
    let (status, answer) = b.execute("/db/shop", None, "CREATE TABLE t(k)").await;
    assert_eq!(status, 502, "{answer}");
    assert!(answer["error"].as_str().unwrap().contains("not known"), "{answer}");
    assert_eq!(b.execute("/db/shop", None, "CREATE TABLE t(k)").await.0, 200);
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
    assert_eq!(server.send("GET", "/v2", None, "").await.0, 200);
    let (status, body) = server.send("GET", "/db/shop/", None, "").await;
    assert_eq!(status, 400);
    assert!(body.contains("WebSocket"), "{body}");
    stage.faults.set_offline(true);
    let (status, body) = server.send("GET", "/health", None, "").await;
    assert_eq!(status, 503);
    assert!(body.contains("store"), "{body}");
}

/// The answer to a hello with this token, on a socket that a page of `origin` opens.
async fn hello(address: SocketAddr, path: &str, origin: Option<String>, token: Option<&str>) -> Value {
    let (path, hello) = (path.to_owned(), json!({"type": "hello", "jwt": token}).to_string());
    let talk = move || {
        let mut request = format!("ws://{address}{path}").into_client_request().unwrap();
        if let Some(origin) = origin {
            request.headers_mut().insert("origin", origin.parse().unwrap());
        }
        let stream = std::net::TcpStream::connect(address).unwrap();
        let mut socket = tungstenite::client(request, stream).unwrap().0;
        socket.send(Message::text(hello)).unwrap();
        serde_json::from_str(socket.read().unwrap().to_text().unwrap()).unwrap()
    };
    tokio::task::spawn_blocking(talk).await.unwrap()
}

#[tokio::test]
async fn sockets_are_let_in_by_the_token_of_their_hello() {
    let stage = Stage::new();
    let tokens = vec!["token-for-shop rw shop".to_owned()];
    let server = stage.server_for("a", &AuthOptions { tokens, ..AuthOptions::default() }).await;
    for (path, token, code) in [
        ("/db/shop/", Some("token-for-shop"), Value::Null),
        ("/db/shop", Some("token-for-shop"), Value::Null),
        ("/", Some("token-for-shop"), json!("FORBIDDEN")),
        ("/db/shop/", Some("token-guessed"), json!("UNAUTHORIZED")),
        ("/db/shop/", None, json!("UNAUTHORIZED")),
    ] {
        let answer = hello(server.address, path, None, token).await;
        assert_eq!(answer["error"]["code"], code, "{path} {token:?}: {answer}");
    }
    assert!(!stage.dir.path().join("a/main").exists(), "nothing is opened for strangers");
}

#[tokio::test]
async fn pages_of_other_sites_do_not_reach_a_server_that_lets_everybody_in() {
    let stage = Stage::new();
    let server = stage.server("a").await;
    for (origin, code) in [
        (None, Value::Null),
        (Some(format!("http://{}", server.address)), Value::Null),
        (Some("https://elsewhere.example".to_owned()), json!("FORBIDDEN")),
        (Some("null".to_owned()), json!("FORBIDDEN")),
    ] {
        let answer = hello(server.address, "/", origin.clone(), None).await;
        assert_eq!(answer["error"]["code"], code, "{origin:?}: {answer}");
    }
}
