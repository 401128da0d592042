//! `aquifer sync`, with a server of its own process and applications that know nothing of either.

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::daemon::{Daemon, eventually};
use crate::server::Server;
use crate::world::World;

const TABLE: &str = "CREATE TABLE t(k INTEGER PRIMARY KEY, v TEXT)";

/// What an application does: it knows a file, and nothing else.
fn run(world: &World, file: &str, sql: &str) {
    let connection = Connection::open(world.path(file)).unwrap();
    connection.busy_timeout(std::time::Duration::from_secs(30)).unwrap();
    connection.execute_batch(sql).unwrap();
}

fn ask(world: &World, file: &str, sql: &str) -> String {
    let connection = Connection::open(world.path(file)).unwrap();
    connection.query_row(sql, [], |row| row.get::<_, Option<String>>(0)).unwrap().unwrap_or_default()
}

const ROWS: &str = "SELECT group_concat(k || v, ' ' ORDER BY k) FROM t";

fn remote(server: &Server) -> String {
    format!("http://{}/db/shop", server.address)
}

#[test]
fn two_files_that_are_synced_with_one_database_become_the_same() {
    let world = World::new();
    let server = Server::start(&world, "cache", &[]);
    let url = remote(&server);
    run(&world, "a.db", TABLE);
    run(&world, "a.db", "INSERT INTO t VALUES(1, 'a')");
    let ran = world.run(&["sync", "a.db", "--remote", &url, "--json"]).ok();
    assert_eq!((&ran.json()["state"], &ran.json()["remote"]), (&json!("synced"), &json!(url)));
    assert!(ran.json()["pushed"].as_u64() > Some(0), "{ran:?}");

    let fetched = world.run(&["sync", "b.db", "--remote", &url]).ok();
    assert!(fetched.stdout.starts_with("b.db: "), "{fetched:?}");
    assert_eq!(ask(&world, "b.db", ROWS), "1a");

    // Which remote database that is, is known now.
    run(&world, "b.db", "INSERT INTO t VALUES(2, 'b')");
    world.run(&["sync", "b.db"]).ok();
    world.run(&["sync", "a.db"]).ok();
    assert_eq!(ask(&world, "a.db", ROWS), "1a 2b");
    let again = world.run(&["sync", "a.db"]).ok();
    assert_eq!(again.stdout, "a.db: nothing new\n");
}

#[test]
fn a_file_may_be_synced_as_pages_beside_one_that_is_synced_as_sql() {
    let world = World::new();
    let server = Server::start(&world, "cache", &[]);
    let url = remote(&server);
    run(&world, "a.db", TABLE);
    world.run(&["sync", "a.db", "--remote", &url]).ok();
    let fetched = world.run(&["sync", "b.db", "--remote", &url, "--protocol", "libsql", "--json"]).ok();
    assert!(fetched.json()["revision"].as_str().unwrap().starts_with("libsql:"), "{fetched:?}");
    run(&world, "a.db", "INSERT INTO t VALUES(1, 'a')");
    run(&world, "b.db", "INSERT INTO t VALUES(2, 'b')");
    for file in ["a.db", "b.db", "a.db"] {
        world.run(&["sync", file]).ok();
    }
    assert_eq!(ask(&world, "a.db", ROWS), "1a 2b");
    assert_eq!(ask(&world, "b.db", ROWS), "1a 2b");
    let refused = world.run(&["sync", "b.db", "--ignore-table", "t"]);
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(refused.stderr.contains("libSQL"), "{refused:?}");
    let config = format!("[[sync]]\npath = \"c.db\"\nremote = \"{url}\"\nprotocol = \"libsql\"\n");
    std::fs::write(world.path("sync.toml"), config).unwrap();
    let fetched = world.run(&["--config", "sync.toml", "sync", "--json"]).ok();
    assert!(fetched.json()["revision"].as_str().unwrap().starts_with("libsql:"), "{fetched:?}");
}

#[test]
fn pushing_alone_and_pulling_alone_leave_the_other_side_as_it_is() {
    let world = World::new();
    let server = Server::start(&world, "cache", &[]);
    run(&world, "a.db", TABLE);
    world.run(&["sync", "a.db", "--remote", &remote(&server)]).ok();
    run(&world, "a.db", "INSERT INTO t VALUES(1, 'a')");
    server.rows("INSERT INTO t VALUES(2, 'server')");
    world.run(&["sync", "a.db", "--pull-only"]).ok();
    assert_eq!(ask(&world, "a.db", ROWS), "1a 2server");
    assert_eq!(server.rows("SELECT k FROM t"), json!([[{"type": "integer", "value": "2"}]]));
    server.rows("INSERT INTO t VALUES(3, 'server')");
    world.run(&["sync", "a.db", "--push-only"]).ok();
    assert_eq!(server.rows("SELECT count(*) FROM t"), json!([[{"type": "integer", "value": "3"}]]));
    assert_eq!(ask(&world, "a.db", ROWS), "1a 2server");
}

#[test]
fn a_server_that_is_away_is_told_and_a_failure_only_to_who_says_so() {
    let world = World::new();
    let server = Server::start(&world, "cache", &[]);
    run(&world, "a.db", TABLE);
    world.run(&["sync", "a.db", "--remote", &remote(&server)]).ok();
    let gone = remote(&server);
    drop(server);
    // As long as an application has the file open, nothing is overwritten that tells what was changed.
    let application = Connection::open(world.path("a.db")).unwrap();
    application.execute("INSERT INTO t VALUES(1, 'a')", []).unwrap();
    let ran = world.run(&["sync", "a.db", "--json"]).ok();
    assert_eq!(ran.json()["state"], "offline");
    assert!(ran.json()["reason"].as_str().unwrap().contains(&gone), "{ran:?}");
    assert_eq!(world.run(&["sync", "a.db", "--require-online"]).code, 6);
    assert_eq!(world.run(&["sync", "a.db", "--push-only"]).code, 0);
    // There is nothing to work with yet.
    let new = world.run(&["sync", "new.db", "--remote", &gone, "--json"]);
    assert_eq!(new.code, 6, "{new:?}");
    assert!(!world.path("new.db").exists());
    let status = world.run(&["sync", "status", "a.db", "--json"]).ok().json();
    assert_eq!(status["databases"][0]["unpushed"], 1, "{status}");
}

#[test]
fn what_makes_no_sense_is_said_before_anything_is_done() {
    let world = World::new();
    for (args, code) in [
        (&["sync"][..], 2),
        (&["sync", "a.db"], 2),
        (&["sync", "a.db", "b.db", "--remote", "http://127.0.0.1:1/db/shop"], 2),
        (&["sync", "a.db", "--remote", "example.com"], 2),
        (&["sync", "a.db", "--push-only", "--pull-only"], 2),
        (&["sync", "a.db", "--remote", "http://127.0.0.1:1", "--token-file", "missing"], 3),
        (&["sync", "status", "a.db"], 3),
        (&["conflicts", "a.db"], 3),
    ] {
        let ran = world.run(args);
        assert_eq!(ran.code, code, "{args:?}: {ran:?}");
        assert!(!world.path("a.db").exists() && !world.path("a.db-aquifer").exists(), "{args:?}");
    }
}

#[test]
fn a_file_with_content_is_added_to_a_database_with_content_only_when_told_to() {
    let world = World::new();
    let server = Server::start(&world, "cache", &[]);
    server.rows(TABLE);
    server.rows("INSERT INTO t VALUES(2, 'server')");
    run(&world, "a.db", TABLE);
    run(&world, "a.db", "INSERT INTO t VALUES(1, 'a')");
    let refused = world.run(&["sync", "a.db", "--remote", &remote(&server)]);
    assert_eq!(refused.code, 8, "{refused:?}");
    assert_eq!(ask(&world, "a.db", ROWS), "1a");
    world.run(&["sync", "a.db", "--remote", &remote(&server), "--merge"]).ok();
    assert_eq!(ask(&world, "a.db", ROWS), "1a 2server");
    assert_eq!(server.rows("SELECT count(*) FROM t"), json!([[{"type": "integer", "value": "2"}]]));
}

#[test]
fn what_lost_is_told_until_it_is_forgotten() {
    let world = World::new();
    let server = Server::start(&world, "cache", &[]);
    run(&world, "a.db", TABLE);
    run(&world, "a.db", "INSERT INTO t VALUES(1, 'both')");
    world.run(&["sync", "a.db", "--remote", &remote(&server)]).ok();
    assert_eq!(world.run(&["conflicts", "a.db"]).ok().stdout, "no conflicts\n");
    server.rows("UPDATE t SET v = 'theirs'");
    run(&world, "a.db", "UPDATE t SET v = 'ours'");
    let synced = world.run(&["sync", "a.db", "--json"]).ok().json();
    assert_eq!(synced["conflicts"], 1, "{synced}");
    let told = world.run(&["conflicts", "a.db", "--json"]).ok().json();
    let conflict = &told["conflicts"][0];
    assert_eq!((&conflict["kind"], &conflict["outcome"]), (&json!("update-update"), &json!("ours")));
    assert_eq!(conflict["remote"]["v"], "theirs", "{conflict}");
    let text = world.run(&["conflicts", "a.db"]).ok().stdout;
    assert!(text.contains(r#"theirs  {"k":1,"v":"theirs"}"#), "{text}");
    let id = conflict["id"].as_i64().unwrap().to_string();
    assert_eq!(world.run(&["conflicts", "a.db", "--after", &id]).ok().stdout, "no conflicts\n");
    world.run(&["conflicts", "a.db", "--forget", &id]).ok();
    assert_eq!(world.run(&["conflicts", "a.db"]).ok().stdout, "no conflicts\n");
}

#[test]
fn databases_of_the_configuration_file_are_synced_each_for_itself() {
    let world = World::new();
    let token = world.path("token");
    std::fs::write(&token, "token-of-tests rw\n").unwrap();
    let server = Server::start(&world, "cache", &["--auth-tokens", token.to_str().unwrap()]);
    let url = |name: &str| format!("http://{}/db/{name}", server.address);
    let entry = |path: &str, more: &str| {
        format!("[[sync]]\npath = \"{path}\"\nremote = \"{}\"\n{more}\n", url("shop"))
    };
    let file = entry("a.db", "token_file = \"token\"") + &entry("b.db", "");
    std::fs::write(world.path("fleet.toml"), file).unwrap();
    run(&world, "a.db", TABLE);
    run(&world, "b.db", TABLE);
    let ran = world.run(&["sync", "--config", "fleet.toml", "--json"]);
    assert_eq!(ran.code, 7, "{ran:?}");
    let error: Value = serde_json::from_str(ran.stderr.lines().next().unwrap()).unwrap();
    assert!(error["error"]["message"].as_str().unwrap().contains("b.db"), "{error}");
    assert_eq!(ran.json()["state"], "synced");
    let with_token = world.run_with(
        &["sync", "b.db", "--merge", "--config", "fleet.toml"],
        &[("AQUIFER_TOKEN", "token-of-tests")],
    );
    with_token.ok();
}

#[test]
fn a_watched_file_and_the_server_follow_each_other() {
    let world = World::new();
    let server = Server::start(&world, "cache", &[]);
    run(&world, "a.db", TABLE);
    let url = remote(&server);
    let mut daemon = Daemon::start(&world, &["sync", "a.db", "--remote", &url, "--watch", "--json"]);
    let mut line = String::new();
    std::io::BufRead::read_line(&mut daemon.stdout, &mut line).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&line).unwrap()["state"], "synced", "{line}");
    run(&world, "a.db", "INSERT INTO t VALUES(1, 'a')");
    eventually("what was committed is on the server", || {
        server.rows("SELECT k FROM t") == json!([[{"type": "integer", "value": "1"}]])
    });
    server.rows("INSERT INTO t VALUES(2, 'server')");
    eventually("what the server has is in the file", || ask(&world, "a.db", ROWS) == "1a 2server");

    let status = world.run(&["sync", "status", "a.db", "--json"]).ok().json();
    assert_eq!(status["databases"][0]["busy"], true, "{status}");
    assert_eq!(world.run(&["conflicts", "a.db"]).ok().stdout, "no conflicts\n");
    let second = world.run(&["sync", "a.db"]);
    assert_ne!(second.code, 0, "two processes sync one file: {second:?}");
    let ended = daemon.end();
    assert_eq!(ended.code, 0, "{ended:?}");
    world.run(&["sync", "a.db"]).ok();
}
