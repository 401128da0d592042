//! `restore`: any revision of what an application wrote, into a file that is whole or not there.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use aquifer_testkit::app::{AppOptions, AppProcess, Language, check_log};

use crate::world::{World, damage, files};

/// A database of 30 transactions, replicated at 10, 20 and 30.
fn replicated() -> World {
    replicated_with(|_| {})
}

/// As [`replicated`]; something is done after each.
fn replicated_with(mut after: impl FnMut(&World)) -> World {
    let world = World::new();
    let mut app = AppProcess::start(Language::Rust, &world.path("app.db"), &AppOptions::default()).unwrap();
    for _ in 0..3 {
        app.commit(10).unwrap();
        world.run(&["replicate", "--once", "app.db"]).ok();
        after(&world);
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
    let mut moments = Vec::new();
    let world = replicated_with(|world| {
        let info = world.run(&["info", "app.db", "--json"]).ok().json();
        moments.push(info["head"]["last_commit"].as_str().unwrap().to_owned());
    });
    moments.push("now".to_owned());
    for (moment, transactions) in moments.iter().zip([10, 20, 30, 30]) {
        world.run(&["restore", "app.db", "-o", moment, "--timestamp", moment]).ok();
        assert_eq!(check_log(&world.path(moment)).unwrap(), transactions, "{moment}");
    }
    let ran = world.run(&["restore", "app.db", "-o", "a.db", "--timestamp", "2020-01-01"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.stderr.contains("before the first moment"), "{ran:?}");
    assert!(!world.path("a.db").exists());
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
    damage(&world, "app.db");
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

#[test]
fn verification_proves_a_replica_and_finds_damage() {
    let world = replicated();
    let before = files(&world.path("."));
    for args in [&["verify", "app.db", "--json"][..], &["verify", "app.db", "--all", "--deep", "--json"]] {
        let json = world.run(args).ok().json();
        assert_eq!(json["revision"]["txid"], 3);
        assert_eq!(json["integrity_checked"], args.contains(&"--deep"));
    }
    let json = world.run(&["verify", "app.db", "--txid", "1", "--json"]).ok().json();
    assert_eq!((&json["revision"]["txid"], &json["segments"]), (&1.into(), &1.into()));
    assert_eq!(files(&world.path(".")), before);
    damage(&world, "app.db");
    for args in [&["verify", "app.db"][..], &["verify", "app.db", "--deep", "--temp-dir", "."]] {
        let ran = world.run(args);
        assert_eq!(ran.code, 4, "{ran:?}");
        assert!(ran.stderr.contains("0/0000000000000001.seg"), "{ran:?}");
    }
}

#[test]
fn deep_verification_leaves_nothing_where_it_restored() {
    let world = replicated();
    std::fs::create_dir(world.path("scratch")).unwrap();
    world.run(&["verify", "app.db", "--deep", "--temp-dir", "scratch"]).ok();
    assert!(files(&world.path("scratch")).is_empty());
}

#[test]
fn standby_follows_and_goes_on_after_a_kill() {
    let world = World::new();
    let mut app = AppProcess::start(Language::Rust, &world.path("app.db"), &AppOptions::default()).unwrap();
    let mut ship = |count| {
        app.commit(count).unwrap();
        world.run(&["replicate", "--once", "app.db", "--json"]).ok().json()["databases"][0]["revision"]
            .clone()
    };
    ship(5);
    let args = ["restore", "app.db", "-o", "standby.db", "--follow", "--follow-interval", "20ms", "--json"];
    for round in 1..4 {
        // The first to start restores, the others go on where a killed one was.
        let mut child = world.command(&args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut steps = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut shipped = ship(5);
        for _ in 0..2 {
            loop {
                let line = steps.next().unwrap().unwrap();
                let step: serde_json::Value = serde_json::from_str(&line).unwrap();
                assert_eq!(step.get("restored_because"), None, "{step}");
                if step["revision"] == shipped {
                    break;
                }
            }
            shipped = ship(5);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let there = check_log(&world.path("standby.db")).unwrap();
        assert!(there >= 5 + (round - 1) * 15 + 10, "round {round}: {there}");
    }
}
