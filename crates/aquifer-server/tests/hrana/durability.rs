//! No answer leaves before what it wrote, or could have seen, is durable.
use std::io::{BufReader, ErrorKind, Read};
use std::net::TcpStream;

use aquifer_server::hrana::Settings;
use serde_json::json;

use super::world::{read, read_chunk, read_head, until, world};

/// Whether nothing has arrived on the socket yet.
fn silent(socket: &TcpStream) -> bool {
    socket.set_nonblocking(true).unwrap();
    let peeked = socket.peek(&mut [0]);
    socket.set_nonblocking(false).unwrap();
    matches!(peeked, Err(error) if error.kind() == ErrorKind::WouldBlock)
}

#[test]
fn answers_wait_until_their_commits_are_durable_and_tell_the_revision() {
    let world = world(Settings::default());
    world.hold_durability();
    for sql in ["INSERT INTO t VALUES (NULL, 1)", "SELECT * FROM t"] {
        let before = world.durability_asked();
        let body = json!({"requests":[{"type":"execute","stmt":{"sql":sql}},{"type":"close"}]});
        let mut socket = world.send("POST", "/v2/pipeline", &body.to_string());
        until("the question whether it is durable", || world.durability_asked() > before);
        assert!(silent(&socket), "{sql}");
        world.make_durable();
        let answer = read(&mut socket);
        assert!(answer.head.contains("\r\naquifer-revision: "), "{}", answer.head);
        assert!(answer.head.contains(":1\r\n"), "{}", answer.head);
        world.hold_durability();
    }
}

#[test]
fn a_cursor_tells_its_baton_at_once_and_rows_when_they_are_durable() {
    let world = world(Settings::default());
    world.hold_durability();
    let body = json!({"batch":{"steps":[{"stmt":{"sql":"INSERT INTO t VALUES (1, 'secret') RETURNING v"}}]}});
    let socket = world.send("POST", "/v3/cursor", &body.to_string());
    let mut reader = BufReader::new(&socket);
    read_head(&mut reader);
    let first = read_chunk(&mut reader).unwrap();
    assert!(first.starts_with(b"{\"baton\":\""), "{}", String::from_utf8_lossy(&first));
    until("the question whether it is durable", || world.durability_asked() == 1);
    assert!(reader.buffer().is_empty() && silent(&socket));
    world.make_durable();
    let mut rest = String::new();
    reader.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("secret") && rest.contains("step_end"), "{rest}");
}
