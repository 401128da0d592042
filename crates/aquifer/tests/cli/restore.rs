//! `restore`: any revision of what an application wrote, into a file that is whole or not there.

use aquifer_testkit::app::{AppOptions, AppProcess, Language, check_log};

use crate::world::World;

/// A database of 30 transactions, replicated at 10, 20 and 30.
fn replicated() -> World {
    let world = World::new();
    let mut app = AppProcess::start(Language::Rust, &world.path("app.db"), &AppOptions::default()).unwrap();
    for _ in 0..3 {
        app.commit(10).unwrap();
        world.run(&["replicate", "--once", "app.db"]).ok();
    }
    app.quit().unwrap();
    world
}

#[test]
fn latest_and_every_txid_restore_what_was_committed_then() {
    let world = replicated();
    let json = world.run(&["restore", "app.db", "-o", "copy.db", "--verify", "--json"]).ok().json();
    assert_eq!((&json["outcome"], &json["revision"]["txid"]), (&"restored".into(), &3.into()));
    assert_eq!(check_log(&world.path("copy.db")).unwrap(), 30);
    for (txid, transactions) in [("1", 10), ("2", 20), ("3", 30)] {
        world.run(&["restore", "./app.db", "-o", txid, "--txid", txid]).ok();
        assert_eq!(check_log(&world.path(txid)).unwrap(), transactions);
    }
}

#[test]
fn moment_restores_what_was_committed_until_then() {
    let world = replicated();
    let json = world.run(&["ls", "app.db", "--json"]).ok().json();
    let created = json["generations"][0]["created_at"].as_str().unwrap();
    let ran = world.run(&["restore", "app.db", "-o", "a.db", "--timestamp", "2020-01-01"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.stderr.contains("before the first moment"), "{ran:?}");
    assert!(!world.path("a.db").exists());
    world.run(&["restore", "app.db", "-o", "b.db", "--timestamp", "now"]).ok();
    assert_eq!(check_log(&world.path("b.db")).unwrap(), 30);
    assert!(created.ends_with('Z'), "{created}");
}

#[test]
fn existing_file_is_replaced_only_by_force() {
    let world = replicated();
    std::fs::write(world.path("copy.db"), "precious").unwrap();
    let ran = world.run(&["restore", "app.db", "-o", "copy.db"]);
    assert_eq!(ran.code, 8, "{ran:?}");
    assert!(ran.stderr.contains("--force"), "{ran:?}");
    let json = world.run(&["restore", "app.db", "-o", "copy.db", "--if-not-exists", "--json"]).ok().json();
    assert_eq!(json["outcome"], "kept");
    assert_eq!(std::fs::read(world.path("copy.db")).unwrap(), b"precious");
    world.run(&["restore", "app.db", "-o", "app.db", "--force"]).ok();
    assert_eq!(check_log(&world.path("app.db")).unwrap(), 30);
}

#[test]
fn missing_replica_is_an_error_unless_said_otherwise() {
    let world = World::new();
    let ran = world.run(&["restore", "app.db", "-o", "copy.db"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    let args = ["restore", "app.db", "-o", "copy.db", "--if-replica-exists", "--json"];
    assert_eq!(world.run(&args).ok().json()["outcome"], "no-replica");
    let other = world.database("other.db", 1);
    world.run(&["replicate", "--once", other.to_str().unwrap()]).ok();
    assert_eq!(world.run(&args).ok().json()["outcome"], "no-replica");
    let exact = ["restore", "/x/y.db", "--name", "app.db", "-o", "copy.db", "--if-replica-exists", "--json"];
    assert_eq!(world.run(&exact).ok().json()["outcome"], "no-replica");
    assert!(!world.path("copy.db").exists());
}

#[test]
fn damage_is_an_error_that_names_the_object_and_leaves_no_file() {
    let world = replicated();
    let json = world.run(&["ls", "app.db", "--json"]).ok().json();
    let generation = json["generations"][0]["generation"].as_str().unwrap().to_owned();
    let segment = world.path("aquifer-data/app.db").join(generation).join("0/0000000000000001.seg");
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[200] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let ran = world.run(&["restore", "app.db", "-o", "copy.db"]);
    assert_eq!(ran.code, 4, "{ran:?}");
    assert!(ran.stderr.contains("0/0000000000000001.seg"), "{ran:?}");
    assert!(!world.path("copy.db").exists());
}

#[test]
fn snapshot_and_compaction_restore_the_same() {
    let world = replicated();
    let json = world.run(&["snapshot", "app.db", "--txid", "2", "--json"]).ok().json();
    assert_eq!((&json["created"], &json["revision"]["txid"]), (&true.into(), &2.into()));
    assert_eq!(world.run(&["snapshot", "app.db", "--txid", "2", "--json"]).ok().json()["created"], false);
    let json = world.run(&["compact", "app.db", "--fanout", "2", "--json"]).ok().json();
    assert_eq!(json["segments"][0]["txids"], serde_json::json!({"first": 2, "last": 3}), "{json}");
    assert!(world.run(&["compact", "app.db", "--fanout", "2"]).ok().stdout.contains("nothing is due"));
    let info = world.run(&["info", "app.db", "--json"]).ok().json();
    assert_eq!(info["survey"]["levels"]["snapshot"]["segments"], 1);
    for (txid, transactions) in [("1", 10), ("2", 20), ("3", 30)] {
        world.run(&["restore", "app.db", "-o", txid, "--txid", txid]).ok();
        assert_eq!(check_log(&world.path(txid)).unwrap(), transactions);
    }
}

#[test]
fn copied_generation_restores_from_its_new_store() {
    let world = replicated();
    world.run(&["copy", "app.db", "backup", "--as", "moved"]).ok();
    std::fs::remove_dir_all(world.path("aquifer-data")).unwrap();
    world.run(&["restore", "moved", "--store", "backup", "-o", "copy.db"]).ok();
    assert_eq!(check_log(&world.path("copy.db")).unwrap(), 30);
}
