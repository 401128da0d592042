//! `aquifer serve`: a real process that is killed, and another one on an empty disk.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};

use serde_json::{Value, json};

use crate::world::World;

struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(world: &World, data_dir: &str, more: &[&str]) -> Server {
        let args = ["serve", "--listen", "127.0.0.1:0", "--store", "store", "--data-dir", data_dir];
        let args = ["--log-format", "json"].iter().chain(&args).chain(more).copied().collect::<Vec<_>>();
        let mut child = world.command(&args).stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut seen = String::new();
        let address = loop {
            let mut line = String::new();
            assert_ne!(log.read_line(&mut line).unwrap(), 0, "it ended: {seen}");
            let event: Value = serde_json::from_str(&line).unwrap_or_default();
            if let Some(address) = event["fields"]["address"].as_str() {
                break address.to_owned();
            }
            seen += &line;
        };
        // Whoever logs must not wait for a reader.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Server { child, address }
    }

    fn execute(&self, database: &str, sql: &str) -> Value {
        let body =
            json!({"requests": [{"type": "execute", "stmt": {"sql": sql}}, {"type": "close"}]}).to_string();
        let mut socket = TcpStream::connect(&self.address).unwrap();
        write!(
            socket,
            "POST /db/{database}/v2/pipeline HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {answer}"))
    }

    fn rows(&self, sql: &str) -> Value {
        let answer = self.execute("shop", sql);
        assert_eq!(answer["results"][0]["type"], "ok", "{answer}");
        answer["results"][0]["response"]["result"]["rows"].clone()
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[test]
fn a_killed_server_is_replaced_by_one_on_an_empty_disk() {
    let world = World::new();
    let first = Server::start(&world, "a", &[]);
    first.rows("CREATE TABLE t(k INTEGER PRIMARY KEY)");
    for k in 1..=20 {
        first.rows(&format!("INSERT INTO t VALUES({k})"));
    }
    first.kill();
    let second = Server::start(&world, "b", &[]);
    assert_eq!(second.rows("SELECT count(*), max(k) FROM t")[0][0]["value"], "20");
    // It is a database of the store like any other.
    world.run(&["verify", "shop", "--deep", "--store", "store"]).ok();
    let mut second = second;
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&second.child),
        rustix::process::Signal::TERM,
    )
    .unwrap();
    assert_eq!(second.child.wait().unwrap().code(), Some(0));
}

#[test]
fn everybody_is_let_in_on_loopback_only_unless_told() {
    let world = World::new();
    let refused = world.run(&["serve", "--listen", "0.0.0.0:0", "--store", "store"]);
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(refused.stderr.contains("--allow-anonymous"), "{refused:?}");
    std::fs::write(world.path("tokens"), "0123456789abcdef rw shop\n").unwrap();
    let server = Server::start(&world, "a", &["--auth-tokens", "tokens"]);
    assert!(server.execute("shop", "SELECT 1")["error"].as_str().unwrap().contains("token"));
    server.kill();
}
