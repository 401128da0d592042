//! `aquifer import`: a file becomes a database that servers serve, and is never written over one.

use aquifer_testkit::app::{AppOptions, AppProcess, Language};
use serde_json::Value;

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
