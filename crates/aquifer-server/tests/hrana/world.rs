//! A server on loopback, a host whose durability the test holds in its hands, and a client of a few lines.
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use aquifer_format::{GenerationId, Revision, Timestamp, Txid};
use aquifer_server::hrana::{
    self, Database, Door, Entered, Hrana, Settings, SocketSettings, TurnedAway, Unavailable,
};
use aquifer_server::sql::Access;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::extract::ws::WebSocketUpgrade;
use axum::http::StatusCode;
use axum::routing::{get, post};
use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};
use tokio::sync::watch;

/// A database in a file, durable when the test says so.
pub(crate) struct File {
    path: PathBuf,
    generation: GenerationId,
    gate: watch::Sender<bool>,
    asked: AtomicUsize,
}

impl Database for File {
    fn connect(&self, access: Access) -> Result<Connection, Unavailable> {
        let flags = match access {
            Access::ReadWrite => OpenFlags::default(),
            Access::ReadOnly => OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        };
        let connection = Connection::open_with_flags(&self.path, flags)
            .map_err(|error| Unavailable { reason: error.to_string() })?;
        Ok(connection)
    }

    async fn durable(&self) -> Result<Revision, Unavailable> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let mut gate = self.gate.subscribe();
        gate.wait_for(|open| *open).await.map_err(|_| Unavailable { reason: "the test is over".into() })?;
        Ok(Revision { generation: self.generation, txid: Txid::FIRST })
    }
}

type Allowed = Vec<(Option<&'static str>, Access)>;

/// Lets in whoever the test wants.
#[derive(Clone)]
pub(crate) struct Guests {
    hrana: Arc<Hrana<File>>,
    /// What each token allows.
    allowed: Arc<Mutex<Allowed>>,
}

impl Door for Guests {
    type Database = File;

    async fn enter(&self, token: Option<&str>) -> Entered<File> {
        let allowed = self.allowed.lock();
        match allowed.iter().find(|(known, _)| *known == token) {
            Some((_, access)) => Ok((self.hrana.clone(), *access)),
            None => Err(TurnedAway { code: "UNAUTHORIZED", message: format!("{token:?} is not known") }),
        }
    }

    fn count(&self, _: Option<&str>) -> Result<(), TurnedAway> {
        Ok(())
    }

    type Turn = ();

    async fn turn(&self) -> Result<(), TurnedAway> {
        Ok(())
    }
}

pub(crate) struct World {
    pub(crate) database: Arc<File>,
    pub(crate) hrana: Arc<Hrana<File>>,
    pub(crate) address: SocketAddr,
    guests: Guests,
    ending: watch::Sender<bool>,
    /// As a host has one: without it the WAL would go with the last stream.
    _open: Mutex<Connection>,
    pub(crate) runtime: tokio::runtime::Runtime,
    _directory: tempfile::TempDir,
}

/// The request that runs one statement without arguments.
pub(crate) fn execute(sql: &str) -> Value {
    json!({"type":"execute","stmt":{"sql":sql}})
}

/// A server with these settings on a new database in WAL mode.
pub(crate) fn world(settings: Settings) -> World {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("main.db");
    let connection = Connection::open(&path).unwrap();
    connection.pragma_update(None, "journal_mode", "wal").unwrap();
    connection.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY, v)").unwrap();
    let database = Arc::new(File {
        path,
        generation: GenerationId::new(Timestamp::from_millis(0)),
        gate: watch::channel(true).0,
        asked: AtomicUsize::new(0),
    });
    let socket = settings.socket.clone();
    let hrana = Hrana::new(database.clone(), settings);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    let allowed = Arc::new(Mutex::new(vec![(None, Access::ReadWrite)]));
    let guests = Guests { hrana: hrana.clone(), allowed };
    let ending = watch::Sender::new(false);
    let app = routes(&guests, socket, &ending).layer(DefaultBodyLimit::disable());
    runtime.spawn(async move { axum::serve(listener, app).await });
    World {
        database,
        hrana,
        address,
        guests,
        ending,
        _open: Mutex::new(connection),
        runtime,
        _directory: directory,
    }
}

/// Hrana's routes for the one database; over HTTP everybody may read and write.
fn routes(guests: &Guests, settings: SocketSettings, ending: &watch::Sender<bool>) -> Router {
    let (guests, ending) = (guests.clone(), ending.clone());
    let pipeline = |hrana: Arc<Hrana<File>>| {
        move |body: axum::body::Bytes| async move { hrana::pipeline(&hrana, Access::ReadWrite, &body).await }
    };
    let cursor = |hrana: Arc<Hrana<File>>| {
        move |body: axum::body::Bytes| async move { hrana::cursor(&hrana, Access::ReadWrite, &body).await }
    };
    Router::new()
        .route("/v2/pipeline", post(pipeline(guests.hrana.clone())))
        .route("/v3/pipeline", post(pipeline(guests.hrana.clone())))
        .route("/v3/cursor", post(cursor(guests.hrana.clone())))
        .route(
            "/",
            get(move |upgrade: WebSocketUpgrade| async move {
                if hrana::is_spoken(&upgrade) {
                    hrana::socket(upgrade, guests, settings, ending.subscribe())
                } else {
                    axum::response::IntoResponse::into_response(StatusCode::BAD_REQUEST)
                }
            }),
        )
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

impl World {
    /// Sends a request and leaves its answer unread.
    pub(crate) fn send(&self, method: &str, path: &str, body: &str) -> TcpStream {
        let mut socket = TcpStream::connect(self.address).unwrap();
        let length = body.len();
        write!(
            socket,
            "{method} {path} HTTP/1.1\r\nhost: aquifer\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        socket
    }

    /// From now on, these tokens are let in by socket, and no others.
    pub(crate) fn let_in(&self, allowed: &[(Option<&'static str>, Access)]) {
        *self.guests.allowed.lock() = allowed.to_vec();
    }

    /// Tells all sockets that the server ends, and waits until they have gone.
    pub(crate) fn end_sockets(&self) {
        self.ending.send_replace(true);
        until("the end of all sockets", || self.sockets() == 0);
    }

    /// How many sockets are open.
    pub(crate) fn sockets(&self) -> usize {
        self.ending.receiver_count()
    }

    pub(crate) fn post(&self, path: &str, body: &str) -> Answer {
        read(&mut self.send("POST", path, body))
    }

    /// The answer to these requests, which must be 200.
    pub(crate) fn pipeline(&self, baton: Option<&str>, requests: &Value) -> Value {
        let answer = self.post("/v3/pipeline", &json!({"baton": baton, "requests": requests}).to_string());
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()
    }

    /// The result of one statement that must succeed.
    pub(crate) fn execute(&self, sql: &str) -> Value {
        let answer = self.pipeline(None, &json!([{"type":"execute","stmt":{"sql":sql}},{"type":"close"}]));
        assert_eq!(answer["results"][0]["type"], "ok", "{answer}");
        answer["results"][0]["response"]["result"].clone()
    }

    /// The error of one statement that must fail: code and message.
    pub(crate) fn refused(&self, sql: &str) -> (String, String) {
        let answer = self.pipeline(None, &json!([{"type":"execute","stmt":{"sql":sql}},{"type":"close"}]));
        let error = &answer["results"][0]["error"];
        let text = |key: &str| error[key].as_str().unwrap_or_else(|| panic!("{sql}: {answer}")).to_owned();
        (text("code"), text("message"))
    }

    /// The one value that a query answers, as text.
    pub(crate) fn value(&self, sql: &str) -> String {
        self.execute(sql)["rows"][0][0]["value"].as_str().unwrap().to_owned()
    }

    /// Rows of a table, durable or not.
    pub(crate) fn database_rows(&self, table: &str) -> i64 {
        let connection = Connection::open(&self.database.path).unwrap();
        connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
    }

    /// The WAL, byte for byte.
    pub(crate) fn wal(&self) -> Vec<u8> {
        std::fs::read(self.database.path.with_extension("db-wal")).unwrap()
    }

    /// Nothing is durable from now on, until [`World::make_durable`].
    pub(crate) fn hold_durability(&self) {
        self.database.gate.send_replace(false);
    }

    pub(crate) fn make_durable(&self) {
        self.database.gate.send_replace(true);
    }

    /// How often the host was asked whether all is durable.
    pub(crate) fn durability_asked(&self) -> usize {
        self.database.asked.load(Ordering::SeqCst)
    }
}

/// The whole answer.
pub(crate) fn read(socket: &mut TcpStream) -> Answer {
    let mut reader = BufReader::new(socket);
    let head = read_head(&mut reader);
    let mut body = Vec::new();
    if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        while let Some(chunk) = read_chunk(&mut reader) {
            body.extend(chunk);
        }
    } else {
        reader.read_to_end(&mut body).unwrap();
    }
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head, body: String::from_utf8(body).unwrap() }
}

pub(crate) fn read_head(reader: &mut impl BufRead) -> String {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(reader.read_line(&mut head).unwrap(), 0, "the answer ended in its head: {head:?}");
    }
    head
}

pub(crate) fn read_chunk(reader: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut size = String::new();
    reader.read_line(&mut size).unwrap();
    let size = usize::from_str_radix(size.trim(), 16).unwrap();
    let mut chunk = vec![0; size + 2];
    reader.read_exact(&mut chunk).unwrap();
    chunk.truncate(size);
    (size > 0).then_some(chunk)
}

/// Waits until `done`, which must come within ten seconds.
pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < deadline, "{what} did not come");
        std::thread::sleep(Duration::from_millis(1));
    }
}
