//! Web sockets of databases that another server has.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use aquifer_format::Timestamp;
use aquifer_log::{DatabaseStore, OwnerRecord, ServerRecord};
use aquifer_server::http::{ConnectionLimits, Limits, Options};
use aquifer_testkit::fault_store::{Fault, Gate, Rule};
use serde_json::{Value, json};
use tokio::task::block_in_place;
use tungstenite::client::IntoClientRequest;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Message, WebSocket};

use crate::stage::{PATIENCE, Server, Setup, Stage, eventually};

type Closed = (CloseCode, String);

struct Client {
    wire: WebSocket<TcpStream>,
    id: i64,
}

impl Client {
    fn try_connect(address: SocketAddr, base: &str) -> Result<Client, String> {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut request = format!("ws://{address}{base}").into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", "hrana3".parse().unwrap());
        let (wire, answer) = tungstenite::client(request, stream).map_err(|e| e.to_string())?;
        assert_eq!(answer.headers()["sec-websocket-protocol"], "hrana3");
        Ok(Client { wire, id: 0 })
    }

    /// A connection to `/db/shop` on which a hello was sent, and what is said to it.
    fn greet(server: &Server, token: Option<&str>) -> (Client, Value) {
        block_in_place(|| {
            let mut client = Client::try_connect(server.address, "/db/shop").unwrap();
            client.write(&json!({"type": "hello", "jwt": token}));
            let said = client.read().unwrap();
            (client, said)
        })
    }

    /// A connection with one stream.
    fn open(server: &Server) -> Client {
        let (mut client, said) = Client::greet(server, None);
        assert_eq!(said, json!({"type": "hello_ok"}));
        client.ask(&json!({"type": "open_stream", "stream_id": 1})).unwrap();
        client
    }

    fn write(&mut self, message: &Value) {
        self.wire.send(Message::text(message.to_string())).unwrap();
    }

    fn read(&mut self) -> Result<Value, Closed> {
        loop {
            match self.wire.read().unwrap() {
                Message::Text(text) => return Ok(serde_json::from_str(&text).unwrap()),
                Message::Close(Some(frame)) => return Err((frame.code, frame.reason.to_string())),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn ask(&mut self, request: &Value) -> Result<Value, Closed> {
        block_in_place(|| {
            self.id += 1;
            self.write(&json!({"type": "request", "request_id": self.id, "request": request}));
            self.read()
        })
    }

    /// The first value that a statement answers.
    fn value(&mut self, sql: &str) -> Value {
        let answer = self.ask(&json!({"type": "execute", "stream_id": 1, "stmt": {"sql": sql}})).unwrap();
        assert_eq!(answer["type"], "response_ok", "{answer}");
        answer["response"]["result"]["rows"][0][0]["value"].clone()
    }

    fn closed(&mut self) -> Closed {
        block_in_place(|| {
            loop {
                if let Err(closed) = self.read() {
                    return closed;
                }
            }
        })
    }
}

impl Server {
    async fn sockets(&self, of: &str) -> u64 {
        self.metric(&format!("aquifer_sockets{{server=\"{of}\"}}")).await as u64
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_of_a_database_that_another_server_has_is_passed_on_to_it() {
    let stage = Stage::new();
    let (a, b) = (stage.server("a", Setup::default()).await, stage.server("b", Setup::default()).await);
    a.values("/db/shop", "CREATE TABLE t(k)").await;
    let mut client = Client::open(&b);
    client.value("INSERT INTO t VALUES (zeroblob(1000000))");
    assert_eq!(client.value("SELECT printf('%1000000c', 'x')").as_str().unwrap().len(), 1_000_000);
    assert_eq!(a.values("/db/shop", "SELECT printf('%d', count(*)) FROM t").await, ["1"]);
    assert_eq!((b.sockets("others").await, a.sockets("this").await), (1, 1));
    assert!(!stage.dir.path().join("b/shop").exists(), "the one that was asked has opened it");
    // What it has open ends with it.
    client.value("BEGIN IMMEDIATE");
    drop(client);
    a.values("/db/shop", "INSERT INTO t VALUES (1)").await;
    eventually("closed", async || b.sockets("others").await + a.sockets("this").await == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_token_of_a_socket_that_is_passed_on_is_checked() {
    let stage = Stage::new();
    let setup = || Setup { tokens: vec!["token-of-the-shop rw"], ..Setup::default() };
    let (a, b) = (stage.server("a", setup()).await, stage.server("b", setup()).await);
    let head = ["authorization: Bearer token-of-the-shop"];
    assert_eq!(a.execute("/db/shop", &head, "CREATE TABLE t(k)").await.status, 200);
    let (mut refused, said) = Client::greet(&b, Some("token-guessed"));
    assert_eq!(said["type"], "hello_error");
    assert_eq!(refused.closed().0, CloseCode::Policy);
    assert_eq!(Client::greet(&b, Some("token-of-the-shop")).1, json!({"type": "hello_ok"}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_follow_are_sent_to_the_server_that_has_the_database_before_they_upgrade() {
    let stage = Stage::new();
    let options = Options { redirect: true, ..Options::default() };
    let (a, b) = (
        stage.server("a", Setup::default()).await,
        stage.server("b", Setup { options, ..Setup::default() }).await,
    );
    a.values("/db/shop", "CREATE TABLE t(k)").await;
    let head = [
        "upgrade: websocket",
        "connection: upgrade",
        "sec-websocket-version: 13",
        "sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==",
    ];
    let answer = b.get("/db/shop?x=1", &head).await;
    let place = format!("http://{}/db/shop?x=1", a.address);
    assert_eq!((answer.status, answer.header("location")), (307, Some(&place[..])));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_ends_tells_the_clients_whose_sockets_it_passes_on() {
    let stage = Stage::new();
    let (a, b) = (stage.server("a", Setup::default()).await, stage.server("b", Setup::default()).await);
    a.values("/db/shop", "CREATE TABLE t(k)").await;
    let (mut by_b, mut also) = (Client::open(&b), Client::open(&b));
    b.service.end_waits();
    let (code, reason) = by_b.closed();
    assert!(code == CloseCode::Away && reason.contains("shutting down"), "{code} {reason}");
    assert_eq!(also.closed().0, CloseCode::Away);
    // The server that has the database, too.
    let c = stage.server("c", Setup::default()).await;
    let mut by_c = Client::open(&c);
    a.service.shutdown().await.unwrap();
    let (code, reason) = by_c.closed();
    assert!(code == CloseCode::Away && reason.contains("shutting down"), "{code} {reason}");
    // It was given back: whoever is asked has it.
    let mut again = Client::open(&c);
    assert_eq!(again.value("SELECT 'here'"), "here");
    assert_eq!(c.sockets("this").await, 1);
}

/// A server that has `shop` as far as others can see, and agrees to one WebSocket.
struct Owner {
    record: ServerRecord,
    /// Drops the connection.
    hang_up: mpsc::Sender<()>,
    thread: JoinHandle<()>,
}

impl Owner {
    /// It sends these bytes, and nothing else.
    async fn start(stage: &Stage, lease: Duration, says: &'static [u8]) -> Owner {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let record = ServerRecord {
            id: uuid::Uuid::now_v7(),
            host: "elsewhere".to_owned(),
            url: Some(format!("http://{}", listener.local_addr().unwrap())),
            started: Timestamp::now(),
            beat: 7,
            lease_millis: lease.as_millis() as u64,
            secret: None,
        };
        record.announce(&stage.store).await.unwrap();
        let database = DatabaseStore::new(stage.store.clone(), "shop".parse().unwrap());
        let (server, host) = (record.id, record.host.clone());
        let claim = OwnerRecord { server, host, since: Timestamp::now(), released: false };
        assert!(database.claim(1, &claim).await.unwrap());
        let (hang_up, hung_up) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            // It is tungstenite's signature.
            #[expect(clippy::result_large_err)]
            let agree = |_: &_, mut answer: tungstenite::handshake::server::Response| {
                answer.headers_mut().insert("sec-websocket-protocol", "hrana3".parse().unwrap());
                Ok(answer)
            };
            let mut socket = tungstenite::accept_hdr(stream, agree).unwrap();
            std::io::Write::write_all(socket.get_mut(), says).unwrap();
            let _ = hung_up.recv();
        });
        Owner { record, hang_up, thread }
    }
}

/// A message of two bytes.
const MESSAGE: &[u8] = b"\x81\x02{}";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_whose_databases_server_breaks_off_is_told_so() {
    let stage = Stage::new();
    let owner = Owner::start(&stage, Duration::from_mins(1), MESSAGE).await;
    let b = stage.server("b", Setup::default()).await;
    let mut client = block_in_place(|| Client::try_connect(b.address, "/db/shop")).unwrap();
    assert_eq!(block_in_place(|| client.read()), Ok(json!({})));
    owner.hang_up.send(()).unwrap();
    let (code, reason) = client.closed();
    assert!(code == CloseCode::Again && reason.contains("broke off"), "{code} {reason}");
    owner.thread.join().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_that_broke_off_is_not_followed_by_another() {
    let stage = Stage::new();
    let owner = Owner::start(&stage, Duration::from_mins(1), b"\x81\x02{").await;
    let b = stage.server("b", Setup::default()).await;
    let mut client = block_in_place(|| Client::try_connect(b.address, "/db/shop")).unwrap();
    owner.hang_up.send(()).unwrap();
    let read = block_in_place(|| client.wire.read());
    assert!(matches!(read, Err(tungstenite::Error::Protocol(_))), "{read:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_whose_databases_server_stands_still_is_told_after_a_lease_and_served_when_it_comes_again() {
    let stage = Stage::new();
    let lease = Duration::from_millis(500);
    let owner = Owner::start(&stage, lease, MESSAGE).await;
    let b = stage.server("b", Setup { lease, ..Setup::default() }).await;
    let mut client = block_in_place(|| Client::try_connect(b.address, "/db/shop")).unwrap();
    assert_eq!(block_in_place(|| client.read()), Ok(json!({})));
    // As long as nobody asks it anything, nobody asks for it either.
    let (code, reason) = client.ask(&json!({"type": "get_autocommit", "stream_id": 1})).unwrap_err();
    assert!(code == CloseCode::Again && reason.contains("no sign of life"), "{code} {reason}");
    assert_eq!(Client::open(&b).value("SELECT 'here'"), "here");
    assert!(ServerRecord::find(&stage.store, owner.record.id).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_is_one_of_the_connections_that_there_may_be() {
    let stage = Stage::new();
    let connections = ConnectionLimits { connections: 1, ..ConnectionLimits::default() };
    let server = stage.server("a", Setup { connections, ..Setup::default() }).await;
    let client = Client::open(&server);
    let mut waiting = Box::pin(server.get("/version", &[]));
    let early = tokio::time::timeout(Duration::from_millis(300), &mut waiting).await;
    assert!(early.is_err(), "answered beside a socket: {early:?}");
    drop(client);
    assert_eq!(waiting.await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_requests_of_a_socket_are_in_work_beside_all_others() {
    let stage = Stage::new();
    let limits = Limits { requests_per_database: 1, turn: Duration::from_millis(20), ..Limits::default() };
    let options = Options { limits, ..Options::default() };
    let server = stage.server("a", Setup { options, ..Setup::default() }).await;
    server.values("/db/shop", "CREATE TABLE t(k)").await;
    let (mut client, mut other) = (Client::open(&server), Client::open(&server));
    // What is open between two requests is not in work.
    client.value("BEGIN");
    assert_eq!(server.values("/db/shop", "SELECT 'there'").await, ["there"]);
    client.value("ROLLBACK");
    let gate = Gate::new();
    stage.faults.inject(Rule::on_any("/0/", Fault::Hold(gate.clone())));
    let insert = json!({"type": "execute", "stream_id": 1, "stmt": {"sql": "INSERT INTO t VALUES (1)"}});
    block_in_place(|| client.write(&json!({"type": "request", "request_id": 0, "request": insert})));
    gate.arrived(1).await;
    let refused = server.execute("/db/shop", &[], "SELECT 1").await;
    assert!(refused.status == 503 && refused.body.contains("1 requests in work"), "{refused:?}");
    let refused = other.ask(&insert).unwrap();
    assert_eq!(refused["error"]["code"], "UNAVAILABLE", "{refused}");
    gate.open();
    assert_eq!(block_in_place(|| client.read()).unwrap()["type"], "response_ok");
    assert_eq!(other.value("SELECT printf('%d', count(*)) FROM t"), "1");
    let cursor = json!({"type": "open_cursor", "stream_id": 1, "cursor_id": 1, "batch": {"steps": [
        {"stmt": {"sql": "SELECT k FROM t"}}]}});
    assert_eq!(client.ask(&cursor).unwrap()["type"], "response_ok");
    assert_eq!(server.execute("/db/shop", &[], "SELECT 1").await.status, 503, "a cursor is in work");
    client.ask(&json!({"type": "close_cursor", "cursor_id": 1})).unwrap();
    assert_eq!(server.values("/db/shop", "SELECT 'there'").await, ["there"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_opens_nothing_by_asking_for_a_socket() {
    let stage = Stage::new();
    let server = stage.server("a", Setup { tokens: vec!["token-of-the-shop rw"], ..Setup::default() }).await;
    assert_eq!(Client::greet(&server, None).1["type"], "hello_error");
    let database = DatabaseStore::new(stage.store.clone(), "shop".parse().unwrap());
    assert!(database.owner().await.unwrap().is_none());
}
