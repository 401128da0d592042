//! `copy`: to another store, interrupted or repeated.

use crate::world::{World, files};

#[test]
fn copy_is_the_same_objects_under_the_destinations_name() {
    let world = World::new();
    let file = world.database("app.db", 5);
    let older = world.ship("aquifer-data", "app.db", &file, 2);
    let newer = world.ship("aquifer-data", "app.db", &file, 3);
    let json = world.run(&["copy", "app.db", "backup", "--json"]).ok().json();
    assert_eq!(json["generations"][0], newer.to_string());
    assert_eq!((&json["objects"], &json["present"]), (&3.into(), &0.into()));
    let source = files(&world.path("aquifer-data/app.db").join(newer.to_string()));
    assert_eq!(files(&world.path("backup/app.db").join(newer.to_string())), source);
    assert!(!world.path("backup/app.db").join(older.to_string()).exists());
    assert_eq!(json["verified"]["txid"], 3);

    world.run(&["copy", "app.db", "backup", "-g", &older.to_string(), "--as", "old/app"]).ok();
    assert!(world.path("backup/old=2Fapp").join(older.to_string()).join("generation.json").exists());
}

#[test]
fn repeated_copy_writes_only_what_is_missing() {
    let world = World::new();
    let file = world.database("app.db", 5);
    let generation = world.ship("aquifer-data", "app.db", &file, 3).to_string();
    world.run(&["copy", "app.db", "backup"]).ok();
    let copied = files(&world.path("backup"));
    // As an interrupted copy leaves it: no record, not all segments.
    let there = world.path("backup/app.db").join(&generation);
    std::fs::remove_file(there.join("generation.json")).unwrap();
    std::fs::remove_file(there.join("0/0000000000000002.seg")).unwrap();
    let json = world.run(&["copy", "app.db", "backup", "--json"]).ok().json();
    assert_eq!((&json["objects"], &json["present"]), (&1.into(), &2.into()));
    assert_eq!(files(&world.path("backup")), copied);
}

#[test]
fn damaged_segment_is_not_copied_and_leaves_no_generation() {
    let world = World::new();
    let file = world.database("app.db", 5);
    let generation = world.ship("aquifer-data", "app.db", &file, 2).to_string();
    let segment = world.path("aquifer-data/app.db").join(&generation).join("0/0000000000000001.seg");
    let mut bytes = std::fs::read(&segment).unwrap();
    let at = bytes.len() - 20;
    bytes[at] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let ran = world.run(&["copy", "app.db", "backup"]);
    assert_eq!(ran.code, 4, "{ran:?}");
    assert!(ran.stderr.contains("0/0000000000000001.seg") && ran.stderr.contains("hint:"), "{ran:?}");
    assert!(!world.path("backup/app.db").join(generation).join("generation.json").exists());
}

#[test]
fn another_history_under_the_same_generation_is_not_overwritten() {
    let world = World::new();
    let file = world.database("app.db", 5);
    let generation = world.ship("aquifer-data", "app.db", &file, 2).to_string();
    world.run(&["copy", "app.db", "backup"]).ok();
    let theirs = world.path("backup/app.db").join(generation).join("0/0000000000000002.seg");
    std::fs::write(&theirs, b"of someone else").unwrap();
    let ran = world.run(&["copy", "app.db", "backup"]);
    assert_eq!(ran.code, 8, "{ran:?}");
    assert_eq!(std::fs::read(theirs).unwrap(), b"of someone else");
    assert_eq!(world.run(&["copy", "app.db", "aquifer-data"]).code, 2);
}
