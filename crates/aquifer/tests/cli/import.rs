//! `aquifer import`: a file becomes a database that servers serve, and is never written over one.

use aquifer_testkit::app::{AppOptions, AppProcess, Language};
use serde_json::Value;

use crate::bottomless::with_fixture;
use crate::world::World;

#[test]
fn a_file_in_use_is_imported_as_it_is_and_stays_so() {
    let world = World::new();
    let path = world.path("app.db");
    let mut app = AppProcess::start(Language::Rust, &path, &AppOptions::default()).unwrap();
    app.commit(20).unwrap();
    let imported = world.run(&["import", "app.db", "shop", "--store", "store", "--json"]).ok().json();
    assert_eq!((&imported["name"], &imported["page_size"]), (&Value::from("shop"), &Value::from(4096)));
    world.run(&["verify", "shop", "--deep", "--store", "store"]).ok();
    assert!(!world.path(".app.db-aquifer").exists(), "nothing is left beside it");
    // What comes later is not in it, and does not replace it.
    app.commit(1).unwrap();
    let again = world.run(&["import", "app.db", "shop", "--store", "store"]);
    assert_eq!(again.code, 8, "{again:?}");
    assert!(again.stderr.contains("already"), "{again:?}");
    app.quit().unwrap();
}

#[test]
fn what_no_client_could_use_is_refused_and_left_out_of_the_store() {
    let world = World::new();
    std::fs::write(world.path("text"), "this is no database, however long it is".repeat(10)).unwrap();
    let small = rusqlite::Connection::open(world.path("small.db")).unwrap();
    small.execute_batch("PRAGMA page_size=512; CREATE TABLE t(x)").unwrap();
    drop(small);
    for (file, code, told) in [("text", 1, "database"), ("small.db", 1, "4096"), ("missing", 3, "missing")] {
        let refused = world.run(&["import", file, "shop", "--store", "store"]);
        assert_eq!(refused.code, code, "{refused:?}");
        assert!(refused.stderr.contains(told), "{refused:?}");
    }
    assert_ne!(world.run(&["info", "shop", "--store", "store"]).code, 0);
    world.run(&["import", "small.db", "shop", "--any-page-size", "--store", "store"]).ok();
}

/// The generations of the fixture, the newest first.
const GENERATIONS: [&str; 2] =
    ["e4ce79c3-8400-76ce-bf41-4d429ca0bb0e", "e4ce79c3-84d4-794f-b757-76890d41995e"];

#[test]
fn older_generations_of_a_backup_are_imported_when_asked_for_and_told_of_else() {
    let world = with_fixture("bottomless-frames-two-generations");
    let import = |name: &str, more: &[&str]| {
        let args = ["import", "--from", "bottomless", "./bucket", name, "--store", "store"];
        world.run(&[&args, more].concat())
    };
    let newest = import("newest", &[]).ok();
    assert!(newest.stderr.contains("1 older generation") && newest.stderr.contains("--all-generations"));
    assert!(!newest.stdout.contains("older"), "{newest:?}");

    let all = import("all", &["--all-generations", "--json"]).ok();
    assert_eq!(all.stderr, "");
    let all = all.json();
    assert_eq!(
        (&all["generation"], &all["older"][0]["generation"]),
        (&GENERATIONS[0].into(), &GENERATIONS[1].into())
    );
    assert_eq!((all["left_out"].as_array().unwrap().len(), &all["not_imported"]), (0, &0.into()));
    let listed = world.run(&["ls", "all", "--store", "store", "--json"]).ok().json();
    assert_eq!(listed["generations"].as_array().unwrap().len(), 2);
    // The moment at which the older one began, by its id.
    world
        .run(&[
            "restore",
            "all",
            "-o",
            "old.db",
            "--store",
            "store",
            "--timestamp",
            "2026-11-21T23:32:28.436Z",
        ])
        .ok();
    world
        .run(&[
            "restore",
            "--from",
            "bottomless",
            "./bucket",
            "-o",
            "theirs.db",
            "--timestamp",
            "2026-11-21T23:32:28.436Z",
        ])
        .ok();
    assert_eq!(std::fs::read(world.path("old.db")).unwrap(), std::fs::read(world.path("theirs.db")).unwrap());

    std::fs::write(world.path(&format!("bucket/app.db-{}/db.gz", GENERATIONS[1])), "torn").unwrap();
    let some = import("some", &["--all-generations", "--json"]).ok();
    assert!(some.stderr.contains(GENERATIONS[1]) && some.stderr.contains("db.gz"), "{some:?}");
    let left_out = &some.json()["left_out"][0];
    assert_eq!(left_out["generation"], GENERATIONS[1]);
    assert!(left_out["reason"].as_str().unwrap().contains("damaged"), "{left_out}");

    let one = import("one", &["--all-generations", "-g", GENERATIONS[1]]);
    assert_eq!(one.code, 2, "{one:?}");
}
