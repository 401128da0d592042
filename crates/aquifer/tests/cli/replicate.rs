//! `replicate`: once, for as long as it runs, and around a command.

use std::io::BufRead;

use crate::daemon::{Daemon, eventually, get};
use crate::world::{World, damage};
use aquifer_testkit::app::{AppOptions, AppProcess, JournalMode, Language, check_log};

fn restored(world: &World, name: &str) -> Option<u64> {
    let _ = std::fs::remove_file(world.path("restored.db"));
    let ran = world.run(&["restore", name, "-o", "restored.db"]);
    (ran.code == 0).then(|| check_log(&world.path("restored.db")).unwrap())
}

#[test]
fn once_ships_what_there_is_and_nothing_twice() {
    let world = World::new();
    world.database("a.db", 5);
    world.database("b.db", 7);
    let json = world.run(&["replicate", "--once", "a.db", "b.db", "--json"]).ok().json();
    let rows = json["databases"].as_array().unwrap();
    assert_eq!((rows[0]["name"].as_str(), rows[1]["name"].as_str()), (Some("a.db"), Some("b.db")));
    assert_eq!(rows[1]["revision"]["txid"], 1);
    let again = world.run(&["replicate", "--once", "a.db", "--json"]).ok().json();
    assert_eq!(again["databases"][0]["revision"], rows[0]["revision"]);
    assert_eq!(again["databases"][0]["shipped_bytes"], 0);
    assert_eq!((restored(&world, "a.db"), restored(&world, "b.db")), (Some(5), Some(7)));
}

#[test]
fn name_and_new_generation_are_as_said() {
    let world = World::new();
    world.database("app.db", 5);
    world.run(&["replicate", "--once", "app.db", "--name", "prod/app"]).ok();
    assert_eq!(world.run(&["ls"]).ok().stdout, "prod/app\n");
    world.run(&["replicate", "--once", "app.db", "--name", "prod/app", "--new-generation"]).ok();
    let json = world.run(&["ls", "prod/app", "--json"]).ok().json();
    assert_eq!(json["generations"].as_array().unwrap().len(), 2);
    assert_eq!(world.run(&["replicate", "--once", "app.db", "x.db", "--name", "y"]).code, 2);
}

#[test]
fn what_cannot_be_replicated_is_told_with_what_to_do() {
    let world = World::new();
    assert_eq!(world.run(&["replicate"]).code, 2);
    assert_eq!(world.run(&["replicate", "--once", "missing.db"]).code, 3);
    let options = AppOptions { journal_mode: JournalMode::Delete, ..AppOptions::default() };
    let mut app = AppProcess::start(Language::Python, &world.path("app.db"), &options).unwrap();
    app.commit(3).unwrap();
    app.quit().unwrap();
    let ran = world.run(&["replicate", "--once", "app.db"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains("--wal"), "{ran:?}");
    world.run(&["replicate", "--once", "--wal", "app.db"]).ok();
    assert_eq!(restored(&world, "app.db"), Some(3));
}

#[test]
fn daemon_ships_commits_and_the_rest_when_it_is_told_to_end() {
    let world = World::new();
    let mut app = AppProcess::start(Language::Python, &world.path("app.db"), &AppOptions::default()).unwrap();
    app.commit(3).unwrap();
    let mut daemon = Daemon::start(&world, &["replicate", "app.db", "--json"]);
    daemon.wait_for("app.db", "idle");
    app.commit(20).unwrap();
    let ran = daemon.end().ok();
    assert!(ran.stderr.contains("replicating 'app.db'"), "{ran:?}");
    assert_eq!(restored(&world, "app.db"), Some(23));
}

#[test]
fn new_databases_of_a_directory_are_replicated_as_they_appear() {
    let world = World::new();
    world.database("tenants/one.db", 3);
    world.database("tenants/tmp-x.db", 3);
    let mut daemon = Daemon::start(
        &world,
        &["replicate", "tenants", "--exclude", "tmp-*", "--json", "--state-dir", "state"],
    );
    daemon.wait_for("one.db", "idle");
    world.database("tenants/two.db", 4);
    daemon.wait_for("two.db", "idle");
    daemon.end().ok();
    assert_eq!(world.run(&["ls"]).ok().stdout, "one.db\ntwo.db\n");
    assert_eq!(restored(&world, "two.db"), Some(4));
    assert!(world.path("state/one.db").is_dir() && !world.path("tenants/.one.db-aquifer").exists());
}

#[test]
fn database_of_a_directory_is_waited_for_until_it_is_in_wal_mode() {
    let world = World::new();
    std::fs::create_dir(world.path("tenants")).unwrap();
    let options = AppOptions { journal_mode: JournalMode::Delete, ..AppOptions::default() };
    let path = world.path("tenants/app.db");
    let mut app = AppProcess::start(Language::Rust, &path, &options).unwrap();
    app.commit(3).unwrap();
    let ran = world.run(&["replicate", "--once", "tenants"]);
    assert!(ran.code == 1 && ran.stderr.contains("--wal"), "{ran:?}");
    let mut daemon = Daemon::start(&world, &["replicate", "tenants", "--json"]);
    daemon.wait_for_log("journal_mode=WAL");
    app.sql("PRAGMA journal_mode=WAL").unwrap();
    daemon.wait_for("app.db", "idle");
    daemon.end().ok();
    assert_eq!(restored(&world, "app.db"), Some(3));
}

#[test]
fn command_gets_its_database_back_and_its_code_is_passed_on() {
    let world = World::new();
    world.database("app.db", 9);
    world.run(&["replicate", "--once", "app.db"]).ok();
    for file in ["app.db", "app.db-wal", "app.db-shm"] {
        let _ = std::fs::remove_file(world.path(file));
    }
    std::fs::remove_dir_all(world.path(".app.db-aquifer")).unwrap();
    let ran = world.run(&["replicate", "app.db", "--", "sh", "-c", "test -s app.db && exit 42"]);
    assert_eq!(ran.code, 42, "{ran:?}");
    assert_eq!(check_log(&world.path("app.db")).unwrap(), 9);
    assert_eq!(world.run(&["replicate", "app.db", "--", "sh", "-c", "kill -9 $$"]).code, 137);
    assert_eq!(world.run(&["replicate", "app.db", "--", "no-such-program"]).code, 3);
}

#[test]
fn what_the_command_wrote_is_shipped_when_it_ends() {
    let world = World::new();
    let script = "import sqlite3\ndb = sqlite3.connect('new.db')\ndb.execute('PRAGMA journal_mode=WAL')\n\
                  db.execute('CREATE TABLE t(x)')\ndb.execute('INSERT INTO t VALUES(7)')\ndb.commit()\n";
    world.run(&["replicate", "new.db", "--", "python3", "-c", script]).ok();
    world.run(&["restore", "new.db", "-o", "restored.db"]).ok();
    let mut app =
        AppProcess::start(Language::Python, &world.path("restored.db"), &AppOptions::default()).unwrap();
    assert_eq!(app.sql("SELECT x FROM t").unwrap(), "7");
}

#[test]
fn signal_reaches_the_command() {
    let world = World::new();
    world.database("app.db", 1);
    let script = "trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done";
    let mut daemon = Daemon::start(&world, &["replicate", "app.db", "--", "sh", "-c", script]);
    let mut line = String::new();
    daemon.stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    assert_eq!(daemon.end().code, 7);
}

#[test]
fn metrics_and_health_are_served() {
    let world = World::new();
    world.database("app.db", 3);
    let mut daemon = Daemon::start(
        &world,
        &["replicate", "app.db", "--json", "--metrics", "127.0.0.1:0", "--log-format", "json"],
    );
    daemon.wait_for("app.db", "idle");
    let address = daemon.address();
    let get = |page: &str| get(&address, page);
    let metrics = get("/metrics");
    assert!(metrics.contains("aquifer_durable_txid{database=\"app.db\"} 1\n"), "{metrics}");
    assert!(metrics.contains("aquifer_fencing 1\n") && metrics.contains("kind=\"create\""), "{metrics}");
    let docs = include_str!("../../../../docs/operations.md");
    for line in metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let name = line.split(' ').next().unwrap();
        assert!(docs.contains(name), "docs/operations.md lacks {name}");
    }
    let health = get("/healthz");
    assert!(health.starts_with("HTTP/1.1 200") && health.contains("\"healthy\":true"), "{health}");
    // The generation is taken over by another writer: this one must stop, and say so.
    let json = world.run(&["ls", "app.db", "--json"]).ok().json();
    let generation = json["generations"][0]["generation"].as_str().unwrap().to_owned();
    let level = world.path("aquifer-data/app.db").join(generation).join("0");
    std::fs::copy(level.join("0000000000000001.seg"), level.join("0000000000000002.seg")).unwrap();
    let mut app = AppProcess::start(Language::Rust, &world.path("app.db"), &AppOptions::default()).unwrap();
    app.commit(1).unwrap();
    let mut code = None;
    eventually("the fenced daemon ends", || {
        code = daemon.child.try_wait().unwrap();
        code.is_some()
    });
    assert_eq!(code.unwrap().code(), Some(5));
}

#[test]
fn replica_that_cannot_be_restored_makes_the_daemon_unhealthy() {
    let world = World::new();
    world.database("app.db", 3);
    let args = [
        "replicate",
        "app.db",
        "--json",
        "--metrics",
        "127.0.0.1:0",
        "--log-format",
        "json",
        "--verify-every",
        "100ms",
    ];
    let mut daemon = Daemon::start(&world, &args);
    daemon.wait_for("app.db", "idle");
    let address = daemon.address();
    let get = |page: &str| get(&address, page);
    daemon.wait_for_log("it can be restored");
    assert!(get("/healthz").starts_with("HTTP/1.1 200"));
    assert!(get("/metrics").contains("aquifer_last_verified_timestamp_seconds{database=\"app.db\"} 1"));
    damage(&world, "app.db");
    daemon.wait_for_log("VERIFICATION FAILED");
    let health = get("/healthz");
    assert!(health.starts_with("HTTP/1.1 503") && health.contains("0000000000000001.seg"), "{health}");
    assert!(get("/metrics").contains("aquifer_verification_failed{database=\"app.db\"} 1"));
}

#[test]
fn configured_databases_are_replicated() {
    let world = World::new();
    world.database("a.db", 2);
    world.database("more/b.db", 3);
    std::fs::write(
        world.path("fleet.toml"),
        "store = \"fleet\"\n[[database]]\npath = \"a.db\"\nname = \"first\"\n[[directory]]\npath = \"more/*.db\"\n",
    )
    .unwrap();
    world.run(&["replicate", "--once", "--config", "fleet.toml"]).ok();
    assert_eq!(world.run(&["ls", "--store", "fleet"]).ok().stdout, "b.db\nfirst\n");
}

#[test]
fn two_daemons_cannot_replicate_one_database() {
    let world = World::new();
    world.database("app.db", 2);
    let mut daemon = Daemon::start(&world, &["replicate", "app.db", "--json"]);
    daemon.wait_for("app.db", "idle");
    let ran = world.run(&["replicate", "app.db"]);
    assert_ne!(ran.code, 0, "{ran:?}");
    assert!(ran.stderr.contains("another process"), "{ran:?}");
    daemon.end().ok();
}
