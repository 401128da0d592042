//! `export`, and `--from`: what goes out comes back, and what is damaged is told by every command, with nothing left behind.

use std::fs;

use crate::world::{World, files};

const REPLICA: &str = "ltx/9/0000000000000001-0000000000000001.ltx";

/// A database of three txids, and its replica for Litestream with all of them.
fn exported() -> World {
    let world = World::new();
    let file = world.database("app.db", 20);
    world.ship("aquifer-data", "app.db", &file, 3);
    let json = world.run(&["export", "app.db", "replica", "--format", "litestream", "--history", "--json"]);
    let json = json.ok().json();
    assert_eq!(
        (&json["oldest"], &json["increments"], &json["object"]),
        (&1.into(), &2.into(), &REPLICA.into())
    );
    world
}

#[test]
fn an_export_with_its_history_is_read_by_every_command() {
    let world = exported();
    let listed = world.run(&["ls", "--from", "auto", "replica", "--json"]).ok().json();
    assert_eq!(listed["backups"][0]["positions"], serde_json::json!([1, 3]));
    world.run(&["verify", "--from", "litestream", "replica"]).ok();
    world.run(&["restore", "app.db", "-o", "ours.db"]).ok();
    let ours = fs::read(world.path("ours.db")).unwrap();
    for txid in ["1", "2", "3"] {
        let json = world.run(&[
            "restore",
            "--from",
            "litestream",
            "replica",
            "-o",
            "theirs.db",
            "--txid",
            txid,
            "--force",
            "--json",
        ]);
        assert_eq!(json.ok().json()["position"].to_string(), txid);
        assert!(fs::read(world.path("theirs.db")).unwrap() == ours);
    }
    let json = world.run(&["import", "--from", "litestream", "replica", "back.db", "--json"]).ok().json();
    assert_eq!(json["pages"].as_u64().unwrap() as usize * 4096, ours.len());
    // A second one is not written over the first.
    let again = world.run(&["export", "app.db", "replica", "--format", "litestream", "--history"]);
    assert_eq!(again.code, 8, "{again:?}");
}

#[test]
fn damage_is_told_by_every_command_and_nothing_is_left_behind() {
    let world = exported();
    let object = world.path("replica").join(REPLICA);
    let whole = fs::read(&object).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    fs::create_dir(world.path("place")).unwrap();
    fs::create_dir(world.path("scratch")).unwrap();
    for (what, bytes) in
        [("flipped", Some(flipped)), ("cut", Some(whole[..whole.len() / 2].to_vec())), ("gone", None)]
    {
        match &bytes {
            Some(bytes) => fs::write(&object, bytes).unwrap(),
            None => fs::remove_file(&object).unwrap(),
        }
        for command in [
            &["restore", "--from", "auto", "replica", "-o", "place/restored.db"][..],
            &["verify", "--from", "auto", "replica", "--temp-dir", "scratch"],
            &["import", "--from", "auto", "replica", "back.db", "--temp-dir", "scratch"],
        ] {
            let ran = world.run(command);
            assert_eq!(ran.code, 4, "{what}: {ran:?}");
            let names = if bytes.is_some() { REPLICA } else { "transactions before 2" };
            assert!(ran.stderr.contains(names), "{what}: {ran:?}");
        }
        assert!(files(&world.path("place")).is_empty() && files(&world.path("scratch")).is_empty(), "{what}");
        // What was begun to be imported is no database.
        assert_eq!(world.run(&["ls"]).ok().stdout, "app.db\n");
    }
}
