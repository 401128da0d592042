//! Hrana over `WebSocket`: many streams over one connection, and clients that do not keep to the rules.
use std::net::TcpStream;
use std::time::Duration;

use aquifer_server::hrana::{Settings, SocketSettings};
use aquifer_server::sql::Access;
use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Error, Message, WebSocket};

use super::world::{World, until, world};

struct Socket {
    wire: WebSocket<TcpStream>,
    next_id: i32,
    /// Answers that came while another one was awaited.
    early: Vec<Value>,
}

fn connect_with(world: &World, protocols: Option<&str>) -> Result<(Socket, Option<String>), String> {
    let stream = TcpStream::connect(world.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut request = format!("ws://{}/", world.address).into_client_request().unwrap();
    if let Some(protocols) = protocols {
        request.headers_mut().insert("sec-websocket-protocol", protocols.parse().unwrap());
    }
    let (socket, response) = tungstenite::client(request, stream).map_err(|error| error.to_string())?;
    let chosen = response.headers().get("sec-websocket-protocol");
    let chosen = chosen.map(|chosen| chosen.to_str().unwrap().to_owned());
    Ok((Socket { wire: socket, next_id: 0, early: Vec::new() }, chosen))
}

/// A connection on which a hello with no token was sent.
fn connect(world: &World) -> Socket {
    let mut socket = connect_with(world, Some("hrana3")).unwrap().0;
    assert_eq!(socket.hello(None), json!({"type": "hello_ok"}));
    socket
}

impl Socket {
    fn write(&mut self, message: &Value) {
        self.wire.send(Message::text(message.to_string())).unwrap();
    }

    fn read(&mut self) -> Value {
        loop {
            match self.wire.read().unwrap() {
                Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// The close frame with which the server ends the connection, after whatever else it sends.
    fn closed(&mut self) -> (CloseCode, String) {
        loop {
            match self.wire.read() {
                Ok(Message::Close(Some(frame))) => return (frame.code, frame.reason.to_string()),
                Ok(Message::Close(None)) | Err(_) => panic!("closed without a reason"),
                Ok(_) => {}
            }
        }
    }

    fn hello(&mut self, token: Option<&str>) -> Value {
        self.write(&json!({"type": "hello", "jwt": token}));
        self.read()
    }

    /// Sends a request and leaves its answer unread.
    fn request(&mut self, request: &Value) -> i32 {
        self.next_id += 1;
        self.write(&json!({"type": "request", "request_id": self.next_id, "request": request}));
        self.next_id
    }

    /// The answer to a request, whatever others come before it.
    fn answer(&mut self, id: i32) -> Value {
        if let Some(found) = self.early.iter().position(|answer| answer["request_id"] == id) {
            return self.early.remove(found);
        }
        loop {
            let answer = self.read();
            if answer["request_id"] == id {
                return answer;
            }
            self.early.push(answer);
        }
    }

    /// The response to a request, which must be a good one.
    fn ask(&mut self, request: &Value) -> Value {
        let id = self.request(request);
        let answer = self.answer(id);
        assert_eq!(answer["type"], "response_ok", "{request}: {answer}");
        assert_eq!(answer["response"]["type"], request["type"]);
        answer["response"].clone()
    }

    /// The code of the error with which a request is answered.
    fn refused(&mut self, request: &Value) -> String {
        let id = self.request(request);
        let answer = self.answer(id);
        assert_eq!(answer["type"], "response_error", "{request}: {answer}");
        answer["error"]["code"].as_str().unwrap().to_owned()
    }

    fn open(&mut self, stream: i32) {
        self.ask(&json!({"type": "open_stream", "stream_id": stream}));
    }

    fn execute(&mut self, stream: i32, sql: &str) -> Value {
        self.ask(&execute(stream, sql))["result"].clone()
    }
}

fn execute(stream: i32, sql: &str) -> Value {
    json!({"type": "execute", "stream_id": stream, "stmt": {"sql": sql}})
}

fn settings(socket: SocketSettings) -> Settings {
    Settings { socket, ..Settings::default() }
}

#[test]
fn the_newest_protocol_that_both_know_is_spoken() {
    let world = world(Settings::default());
    let chosen = |offered| connect_with(&world, offered).map(|(_, chosen)| chosen);
    assert_eq!(chosen(Some("hrana1, hrana3-protobuf, hrana2, hrana3")).unwrap().as_deref(), Some("hrana3"));
    assert_eq!(chosen(Some("hrana1, hrana2")).unwrap().as_deref(), Some("hrana2"));
    assert_eq!(chosen(None).unwrap(), None);
    assert!(chosen(Some("hrana3-protobuf")).unwrap_err().contains("400"));
}

#[test]
fn every_request_is_answered_under_its_number() {
    let world = world(Settings::default());
    let mut socket = connect(&world);
    // Nothing waits for an answer before the next one is sent.
    let (min, max) = (i32::MIN, i32::MAX);
    for (id, request) in [
        (max, json!({"type": "open_stream", "stream_id": min})),
        (min, json!({"type": "store_sql", "sql_id": max, "sql": "INSERT INTO t VALUES (?, :v) RETURNING v"})),
        (
            0,
            json!({"type": "execute", "stream_id": min, "stmt": {"sql_id": max, "named_args": [
            {"name": "v", "value": {"type": "text", "value": "one"}}], "args": [{"type": "integer", "value": "1"}]}}),
        ),
        // What was stored when a request came is what it means.
        (-1, json!({"type": "close_sql", "sql_id": max})),
        (
            1,
            json!({"type": "batch", "stream_id": min, "batch": {"steps": [
            {"stmt": {"sql": "INSERT INTO t VALUES (1, 'again')"}},
            {"condition": {"type": "error", "step": 0}, "stmt": {"sql": "SELECT 'so'"}}]}}),
        ),
        (2, json!({"type": "sequence", "stream_id": min, "sql": "BEGIN; INSERT INTO t VALUES (2, 2)"})),
        (3, json!({"type": "get_autocommit", "stream_id": min})),
        (4, json!({"type": "describe", "stream_id": min, "sql": "SELECT v AS w FROM t WHERE id = :id"})),
        (5, json!({"type": "close_stream", "stream_id": min})),
    ] {
        socket.write(&json!({"type": "request", "request_id": id, "request": request}));
    }
    let mut response = |id| {
        let answer = socket.answer(id);
        assert_eq!(answer["type"], "response_ok", "{answer}");
        answer["response"].clone()
    };
    assert_eq!(response(max), json!({"type": "open_stream"}));
    assert_eq!(response(min), json!({"type": "store_sql"}));
    assert_eq!(response(0)["result"]["rows"], json!([[{"type": "text", "value": "one"}]]));
    assert_eq!(response(-1), json!({"type": "close_sql"}));
    let batch = response(1)["result"].clone();
    assert_eq!(batch["step_errors"][0]["code"], "SQLITE_CONSTRAINT_PRIMARYKEY");
    assert_eq!(batch["step_results"][1]["rows"][0][0]["value"], "so");
    assert_eq!(response(2), json!({"type": "sequence"}));
    assert_eq!(response(3), json!({"type": "get_autocommit", "is_autocommit": false}));
    assert_eq!(response(4)["result"]["params"], json!([{"name": ":id"}]));
    assert_eq!(response(5), json!({"type": "close_stream"}));
    until("the rollback of the stream that was closed", || world.value("SELECT count(*) FROM t") == "1");
    world.execute("INSERT INTO t VALUES (3, 3)");
}

#[test]
fn streams_of_one_connection_have_transactions_of_their_own() {
    let world = world(Settings::default());
    let mut socket = connect(&world);
    socket.open(1);
    socket.open(2);
    socket.execute(1, "BEGIN IMMEDIATE");
    socket.execute(1, "INSERT INTO t VALUES (1, 1)");
    assert_eq!(socket.execute(2, "SELECT count(*) FROM t")["rows"][0][0]["value"], "0");
    socket.execute(1, "COMMIT");
    assert_eq!(socket.execute(2, "SELECT count(*) FROM t")["rows"][0][0]["value"], "1");
}

#[test]
fn no_answer_leaves_before_what_it_could_have_seen_is_durable() {
    let world = world(Settings::default());
    let mut socket = connect(&world);
    socket.open(1);
    world.hold_durability();
    let asked = world.durability_asked();
    let write = socket.request(&execute(1, "INSERT INTO t VALUES (1, 'secret')"));
    let read = socket.request(&execute(1, "SELECT v FROM t"));
    let wrong = socket.request(&execute(1, "INSERT INTO t VALUES (1, 'twice')"));
    // The second runs while the first waits: what comes at once becomes durable at once.
    until("three questions whether it is durable", || world.durability_asked() == asked + 3);
    // This one reveals nothing, and is the first answer.
    let stored = socket.request(&json!({"type": "store_sql", "sql_id": 1, "sql": "SELECT 1"}));
    assert_eq!(socket.read()["request_id"], stored);
    world.make_durable();
    assert_eq!(socket.answer(write)["response"]["result"]["affected_row_count"], 1);
    assert_eq!(socket.answer(read)["response"]["result"]["rows"][0][0]["value"], "secret");
    assert_eq!(socket.answer(wrong)["error"]["code"], "SQLITE_CONSTRAINT_PRIMARYKEY");
}

#[test]
fn a_cursor_is_fetched_in_parts_and_its_stream_goes_on_after_it() {
    let world = world(Settings::default());
    let mut socket = connect(&world);
    socket.open(1);
    let batch = json!({"steps": [
        {"stmt": {"sql": "INSERT INTO t VALUES (1, 1)"}},
        {"stmt": {"sql": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000) \
            SELECT i, hex(zeroblob(50)) FROM n"}},
        {"stmt": {"sql": "INSERT INTO t VALUES (1, 2)"}},
    ]});
    socket.ask(&json!({"type": "open_cursor", "stream_id": 1, "cursor_id": 9, "batch": batch}));
    assert_eq!(socket.refused(&execute(1, "SELECT 1")), "CURSOR_OPEN");
    let again = json!({"type": "open_cursor", "stream_id": 1, "cursor_id": 9, "batch": batch});
    assert_eq!(socket.refused(&again), "CURSOR_ID_IN_USE");
    let mut entries = Vec::new();
    loop {
        let part = socket.ask(&json!({"type": "fetch_cursor", "cursor_id": 9, "max_count": 300}));
        let got = part["entries"].as_array().unwrap();
        assert!(got.len() <= 300);
        entries.extend(got.iter().map(|entry| entry["type"].as_str().unwrap().to_owned()));
        if part["done"] == true {
            break;
        }
    }
    assert_eq!(entries.iter().filter(|entry| *entry == "row").count(), 5000);
    assert_eq!(&entries[..3], ["step_begin", "step_end", "step_begin"]);
    assert_eq!(&entries[5003..], ["step_end", "step_begin", "step_error"]);
    let after = socket.ask(&json!({"type": "fetch_cursor", "cursor_id": 9, "max_count": 1}));
    assert_eq!((&after["entries"], &after["done"]), (&json!([]), &json!(true)));
    socket.ask(&json!({"type": "close_cursor", "cursor_id": 9}));
    assert_eq!(socket.execute(1, "SELECT count(*) FROM t")["rows"][0][0]["value"], "1");
}

#[test]
fn a_cursor_that_is_closed_early_stops_its_batch() {
    let world = world(Settings::default());
    let mut socket = connect(&world);
    socket.open(1);
    let batch = json!({"steps": [
        {"stmt": {"sql": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"}},
        {"stmt": {"sql": "INSERT INTO t VALUES (1, 'must not come to this')"}},
    ]});
    socket.ask(&json!({"type": "open_cursor", "stream_id": 1, "cursor_id": -1, "batch": batch}));
    let part = socket.ask(&json!({"type": "fetch_cursor", "cursor_id": -1, "max_count": 4_294_967_295_u32}));
    assert_eq!(part["done"], false);
    socket.ask(&json!({"type": "close_cursor", "cursor_id": -1}));
    assert_eq!(socket.execute(1, "SELECT count(*) FROM t")["rows"][0][0]["value"], "0");
    assert_eq!(
        socket.refused(&json!({"type": "fetch_cursor", "cursor_id": -1, "max_count": 1})),
        "CURSOR_CLOSED"
    );
}

#[test]
fn a_client_that_goes_away_leaves_no_transaction_and_no_statement_behind() {
    let world = world(Settings::default());
    let mut idle = connect(&world);
    idle.open(1);
    idle.execute(1, "BEGIN IMMEDIATE");
    idle.execute(1, "INSERT INTO t VALUES (1, 1)");
    let mut busy = connect(&world);
    busy.open(1);
    busy.request(&execute(
        1,
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
    ));
    until("the statement", || world.hrana.running_requests() == 1);
    drop((idle, busy));
    until("its end", || world.hrana.running_requests() == 0);
    world.execute("INSERT INTO t VALUES (2, 2)");
    assert_eq!(world.value("SELECT count(*) FROM t"), "1");
}

#[test]
fn an_idle_transaction_expires_and_an_idle_stream_does_not() {
    let world = world(Settings { stream_idle: Duration::from_millis(50), ..Settings::default() });
    let mut socket = connect(&world);
    socket.open(1);
    socket.open(2);
    socket.execute(1, "BEGIN IMMEDIATE");
    socket.execute(1, "INSERT INTO t VALUES (1, 1)");
    // The write lock is free again only when the transaction has ended.
    socket.execute(2, "INSERT INTO t VALUES (2, 2)");
    assert_eq!(socket.refused(&execute(1, "COMMIT")), "STREAM_EXPIRED");
    assert_eq!(socket.refused(&execute(1, "SELECT 1")), "STREAM_EXPIRED");
    assert_eq!(socket.execute(2, "SELECT id FROM t")["rows"], json!([[{"type": "integer", "value": "2"}]]));
}

#[test]
fn a_token_opens_what_it_is_for_and_no_more() {
    let world = world(Settings::default());
    world.let_in(&[(Some("writer"), Access::ReadWrite), (Some("reader"), Access::ReadOnly)]);
    for token in [None, Some("stranger")] {
        let mut socket = connect_with(&world, Some("hrana3")).unwrap().0;
        // Clients do not wait for the answer to their hello.
        socket.write(&json!({"type": "hello", "jwt": token}));
        socket.request(&json!({"type": "open_stream", "stream_id": 1}));
        let answer = socket.read();
        assert_eq!(
            (&answer["type"], &answer["error"]["code"]),
            (&json!("hello_error"), &json!("UNAUTHORIZED"))
        );
        assert_eq!(socket.closed().0, CloseCode::Policy);
    }
    let mut socket = connect_with(&world, Some("hrana3")).unwrap().0;
    assert_eq!(socket.hello(Some("reader"))["type"], "hello_ok");
    socket.open(1);
    assert_eq!(socket.refused(&execute(1, "INSERT INTO t VALUES (1, 1)")), "SQLITE_READONLY");
    // Another token in the same connection; the rights of a stream are those with which it was opened.
    assert_eq!(socket.hello(Some("writer"))["type"], "hello_ok");
    assert_eq!(socket.refused(&execute(1, "SELECT 1")), "STREAM_CLOSED");
    socket.open(1);
    socket.execute(1, "INSERT INTO t VALUES (1, 1)");
    assert_eq!(socket.hello(Some("stranger"))["type"], "hello_error");
    assert_eq!(socket.closed().0, CloseCode::Policy);
}

#[test]
fn a_token_that_is_no_longer_good_ends_the_connection() {
    let world = world(settings(SocketSettings { trust: Duration::ZERO, ..SocketSettings::default() }));
    let mut socket = connect(&world);
    socket.open(1);
    world.let_in(&[(None, Access::ReadOnly)]);
    socket.request(&execute(1, "INSERT INTO t VALUES (1, 1)"));
    assert_eq!(socket.closed().0, CloseCode::Again);
    world.let_in(&[]);
    let mut socket = connect_with(&world, Some("hrana3")).unwrap().0;
    assert_eq!(socket.hello(None)["type"], "hello_error");
    assert_eq!(world.value("SELECT count(*) FROM t"), "0");
}

#[test]
fn messages_that_mean_nothing_end_the_connection_with_a_reason() {
    let world = world(settings(SocketSettings { message_bytes: 1000, ..SocketSettings::default() }));
    for (message, code, reason) in [
        (Message::text("{"), CloseCode::Protocol, "not a message"),
        (Message::text("[1,2]"), CloseCode::Protocol, "not a message"),
        (Message::text(r#"{"type":"request"}"#), CloseCode::Protocol, "request_id"),
        (Message::text(r#"{"type":"request","request_id":1e99,"request":{}}"#), CloseCode::Protocol, "not a"),
        (Message::binary(vec![0, 159, 146, 150]), CloseCode::Unsupported, "text"),
        (Message::text("x".repeat(1001)), CloseCode::Protocol, "too long"),
    ] {
        let mut socket = connect(&world);
        socket.wire.send(message.clone()).unwrap();
        let (found, told) = socket.closed();
        assert!(found == code && told.contains(reason), "{message:?}: {found} {told}");
    }
    let mut socket = connect_with(&world, None).unwrap().0;
    socket.request(&json!({"type": "open_stream", "stream_id": 1}));
    let (code, told) = socket.closed();
    assert!(code == CloseCode::Protocol && told.contains("hello"), "{code} {told}");
}

#[test]
fn requests_that_mean_nothing_are_refused_and_the_connection_goes_on() {
    let world = world(settings(SocketSettings { streams: 2, ..SocketSettings::default() }));
    let mut socket = connect(&world);
    socket.open(1);
    for (request, code) in [
        (json!({"type": "dance"}), "HRANA_PROTO_ERROR"),
        (json!({"type": "open_stream", "stream_id": 2_147_483_648_u32}), "HRANA_PROTO_ERROR"),
        (json!({"type": "open_stream", "stream_id": "1"}), "HRANA_PROTO_ERROR"),
        (json!({"type": "open_stream", "stream_id": 1}), "STREAM_ID_IN_USE"),
        (execute(7, "SELECT 1"), "STREAM_CLOSED"),
        (json!({"type": "execute", "stream_id": 1, "stmt": {}}), "HRANA_PROTO_ERROR"),
        (json!({"type": "execute", "stream_id": 1, "stmt": {"sql_id": 5}}), "SQL_NOT_FOUND"),
        (json!({"type": "fetch_cursor", "cursor_id": 1, "max_count": 1}), "CURSOR_CLOSED"),
        (json!({"type": "fetch_cursor", "cursor_id": 1, "max_count": -1}), "HRANA_PROTO_ERROR"),
        (
            json!({"type": "open_cursor", "stream_id": 7, "cursor_id": 1, "batch": {"steps": []}}),
            "STREAM_CLOSED",
        ),
        (json!({"type": "store_sql", "sql_id": 1, "sql": "x".repeat(2 << 20)}), "SQL_STORE_FULL"),
    ] {
        assert_eq!(socket.refused(&request), code, "{request:.200}");
    }
    socket.open(2);
    assert_eq!(socket.refused(&json!({"type": "open_stream", "stream_id": 3})), "TOO_MANY_STREAMS");
    // Closing what is not there is no error.
    socket.ask(&json!({"type": "close_stream", "stream_id": 3}));
    socket.ask(&json!({"type": "close_cursor", "cursor_id": 3}));
    socket.ask(&json!({"type": "close_sql", "sql_id": 3}));
    socket.execute(1, "INSERT INTO t VALUES (1, 1)");
}

#[test]
fn a_client_with_too_many_open_requests_is_not_read_from() {
    let world = world(settings(SocketSettings { requests: 4, ..SocketSettings::default() }));
    let mut socket = connect(&world);
    socket.open(1);
    world.hold_durability();
    let asked = world.durability_asked();
    let ids: Vec<i32> =
        (0..20).map(|id| socket.request(&execute(1, &format!("INSERT INTO t VALUES ({id}, 0)")))).collect();
    until("as many questions as there may be open requests", || world.durability_asked() == asked + 4);
    assert_eq!(world.database_rows("t"), 4);
    world.make_durable();
    for id in ids {
        assert_eq!(socket.answer(id)["type"], "response_ok");
    }
    assert_eq!(world.value("SELECT count(*) FROM t"), "20");
}

#[test]
fn silence_ends_a_connection() {
    let quick = Duration::from_millis(100);
    let world = world(settings(SocketSettings { hello: quick, silence: quick, ..SocketSettings::default() }));
    let (code, reason) = connect_with(&world, Some("hrana3")).unwrap().0.closed();
    assert!(code == CloseCode::Policy && reason.contains("hello"), "{code} {reason}");
    // This one does not even answer pings, since it does not read; if it gets as far as to have a transaction, that
    // goes with it.
    let mut dead = connect_with(&world, Some("hrana3")).unwrap().0;
    dead.write(&json!({"type": "hello", "jwt": null}));
    dead.request(&json!({"type": "open_stream", "stream_id": 1}));
    dead.request(&execute(1, "BEGIN IMMEDIATE"));
    until("the end of the connection", || world.sockets() == 0);
    world.execute("INSERT INTO t VALUES (1, 1)");
}

#[test]
fn a_client_that_shuts_only_its_half_of_the_connection_is_gone() {
    let world = world(Settings::default());
    let mut socket = connect(&world);
    socket.open(1);
    socket.execute(1, "BEGIN IMMEDIATE");
    socket.wire.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
    world.execute("INSERT INTO t VALUES (1, 1)");
}

#[test]
fn a_server_that_ends_tells_its_clients() {
    let world = world(Settings::default());
    let mut socket = connect(&world);
    socket.open(1);
    socket.execute(1, "BEGIN IMMEDIATE");
    let reader = std::thread::spawn(move || (socket.closed(), socket.wire.read()));
    world.end_sockets();
    let ((code, reason), after) = reader.join().unwrap();
    assert!(code == CloseCode::Away && reason.contains("shutting down"), "{code} {reason}");
    assert!(matches!(after, Err(Error::ConnectionClosed | Error::Protocol(_) | Error::Io(_))), "{after:?}");
    world.execute("INSERT INTO t VALUES (1, 1)");
}
