//! `aquifer serve`: a real process that is killed, and another one on an empty disk.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::daemon::{Daemon, request};
use crate::world::World;

struct Server {
    daemon: Daemon,
    address: String,
}

impl Server {
    fn start(world: &World, data_dir: &str, more: &[&str]) -> Server {
        let args = ["serve", "--listen", "127.0.0.1:0", "--store", "store", "--data-dir", data_dir];
        let args = ["--log-format", "json"].iter().chain(&args).chain(more).copied().collect::<Vec<_>>();
        let mut daemon = Daemon::start(world, &args);
        let address = daemon.address_in_log("serving databases");
        Server { daemon, address }
    }

    fn execute(&self, database: &str, sql: &str) -> Value {
        let body = json!({"requests": [{"type": "execute", "stmt": {"sql": sql}}, {"type": "close"}]});
        let path = format!("/db/{database}/v2/pipeline");
        let answer = request(&self.address, "POST", &path, &body.to_string());
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {answer}"))
    }

    fn rows(&self, sql: &str) -> Value {
        let answer = self.execute("shop", sql);
        assert_eq!(answer["results"][0]["type"], "ok", "{answer}");
        answer["results"][0]["response"]["result"]["rows"].clone()
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
    // Killed, not told.
    drop(first);
    let second = Server::start(&world, "b", &[]);
    assert_eq!(second.rows("SELECT count(*), max(k) FROM t")[0][0]["value"], "20");
    // It is a database of the store like any other.
    world.run(&["verify", "shop", "--deep", "--store", "store"]).ok();
    assert_eq!(second.daemon.end_by(Signal::TERM).code, 0);
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
}
