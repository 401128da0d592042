//! `aquifer serve`: a real process that is killed, and another one on an empty disk.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::daemon::{Daemon, request, request_with};
use crate::server::Server;
use crate::world::World;

#[test]
fn a_killed_server_is_replaced_by_one_on_an_empty_disk() {
    let world = World::new();
    let first = Server::start(&world, "a", &["--lease", "500ms"]);
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
fn what_is_logged_of_requests_has_their_ids_and_neither_tokens_nor_arguments() {
    let world = World::new();
    std::fs::write(world.path("tokens"), "token-of-ann-0123 rw\ntoken-of-eve-0123 admin\n").unwrap();
    let more = ["--auth-tokens", "tokens", "--access-log", "--slow-query", "0s", "--metrics", "127.0.0.1:0"];
    let mut server = Server::start(&world, "a", &more);
    let statement = json!({"sql": "SELECT ? AS found", "args": [{"type": "text", "value": "private"}]});
    let body = json!({"requests": [{"type": "execute", "stmt": statement}, {"type": "close"}]}).to_string();
    let head = "Authorization: Bearer token-of-ann-0123\r\nX-Request-Id: ann-1";
    let path = "/db/shop/v2/pipeline?authToken=token-of-ann-0123";
    let answer = request_with(&server.address, "POST", path, head, &body);
    assert!(answer.contains("private"), "{answer}");
    let mut line = |what| -> Value {
        let line = server.daemon.wait_for_log(what);
        assert!(!line.contains("token-of-ann") && !line.contains("private"), "{line}");
        serde_json::from_str(&line).unwrap()
    };
    let slow = line("slow statement");
    assert_eq!(slow["fields"]["sql"], "SELECT ? AS found", "{slow}");
    assert_eq!((&slow["span"]["id"], &slow["span"]["database"]), (&json!("ann-1"), &json!("shop")), "{slow}");
    let answered = line("answered");
    assert_eq!(
        (&answered["fields"]["status"], &answered["fields"]["route"]),
        (&json!(200), &json!("pipeline"))
    );
    assert_eq!(answered["span"]["id"], "ann-1", "{answered}");
    // Its path without what stood behind it.
    assert_eq!(answered["fields"]["path"], "/db/shop/v2/pipeline", "{answered}");
    assert!(request(&server.address, "GET", "/metrics", "").starts_with("HTTP/1.1 401"));
}

#[test]
fn metrics_of_a_server_are_at_an_address_of_their_own_if_told() {
    let world = World::new();
    std::fs::write(world.path("tokens"), "0123456789abcdef rw\n").unwrap();
    let args = ["serve", "--listen", "127.0.0.1:0", "--store", "store", "--log-format", "json"];
    let more = ["--auth-tokens", "tokens", "--metrics", "127.0.0.1:0"];
    let mut daemon = Daemon::start(&world, &[&args[..], &more].concat());
    let metrics = daemon.address();
    let page = request(&metrics, "GET", "/metrics", "");
    assert!(page.contains("\naquifer_open_databases 0\n"), "{page}");
    assert!(request(&metrics, "GET", "/healthz", "").starts_with("HTTP/1.1 200"));
    assert!(request(&metrics, "POST", "/v2/pipeline", "{}").starts_with("HTTP/1.1 404"));
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

#[test]
fn a_transaction_that_is_open_for_too_long_is_rolled_back() {
    let world = World::new();
    let ask = |server: &Server, baton: &Value, sql: &str| -> Value {
        let body =
            json!({"baton": baton, "requests": [{"type": "execute", "stmt": {"sql": sql}}]}).to_string();
        let answer = request(&server.address, "POST", "/db/shop/v2/pipeline", &body);
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
    };
    for (limit, code) in [("0s", json!("TRANSACTION_TIMEOUT")), ("1h", Value::Null)] {
        let server = Server::start(&world, "a", &["--transaction-timeout", limit]);
        let baton = ask(&server, &Value::Null, "BEGIN")["baton"].clone();
        let told = ask(&server, &baton, "SELECT 1");
        assert_eq!(told["code"], code, "{limit}: {told}");
        server.rows("CREATE TABLE IF NOT EXISTS t(k)");
        assert_eq!(server.daemon.end_by(Signal::TERM).code, 0);
    }
}

#[test]
fn a_file_is_not_replicated_under_the_name_of_a_database_that_is_served() {
    let world = World::new();
    world.database("shop.db", 3);
    let server = Server::start(&world, "a", &["--lease", "2s"]);
    server.rows("CREATE TABLE t(k)");
    let replicate =
        |name: &str| world.run(&["replicate", "--once", "shop.db", "--name", name, "--store", "store"]);
    let refused = replicate("shop");
    assert_eq!(refused.code, 8, "{refused:?}");
    assert!(refused.stderr.contains("shop is served by a server on"), "{refused:?}");
    replicate("another").ok();
    assert!(server.rows("SELECT k FROM t").as_array().unwrap().is_empty());
    assert_eq!(server.daemon.end_by(Signal::TERM).code, 0);
}

#[test]
fn a_server_deletes_history_outside_of_its_window_and_none_if_it_has_no_window() {
    let world = World::new();
    let serve = |more: &[&str]| {
        let server =
            Server::start(&world, "a", &[&["--fanout", "2", "--snapshot-share", "0"], more].concat());
        server.rows("CREATE TABLE IF NOT EXISTS t(k)");
        for k in 0..4 {
            server.rows(&format!("INSERT INTO t VALUES({k})"));
        }
        assert_eq!(server.daemon.end_by(Signal::TERM).code, 0);
    };
    let restore_first =
        |file: &str| world.run(&["restore", "shop", "-o", file, "--txid", "1", "--store", "store"]).code;
    serve(&[]);
    world.run(&["snapshot", "shop", "--store", "store"]).ok();
    serve(&["--retain", "1h"]);
    serve(&["--retain", "1ms"]);
    assert_eq!(restore_first("first.db"), 0, "an hour of grace, if nothing is said");
    serve(&["--retain", "1ms", "--retain-grace", "0s"]);
    assert_eq!(restore_first("gone.db"), 3);
    let server = Server::start(&world, "elsewhere", &[]);
    assert_eq!(server.rows("SELECT count(*) FROM t")[0][0]["value"], "16");
}
