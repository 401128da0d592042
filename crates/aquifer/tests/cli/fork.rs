//! Commands on a database that was forked from another one of the store.

use aquifer_log::{DatabaseStore, Store, StoreUrl, Target, fork};

use crate::world::{World, files};

/// The database `fork`, of `app.db` with three txids.
fn forked() -> World {
    let world = World::new();
    let file = world.database("app.db", 5);
    world.ship("aquifer-data", "app.db", &file, 3);
    let store = Store::open(&StoreUrl::directory(world.path("aquifer-data"))).unwrap();
    let database = |name: &str| DatabaseStore::new(store.clone(), name.parse().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (from, to) = (database("app.db"), database("fork"));
    runtime.block_on(fork(&from, None, Target::Latest, &to, "host")).unwrap();
    world
}

fn restored(world: &World, args: &[&str], file: &str) {
    world.run(&[&["restore"], args, &["--output", file]].concat()).ok();
    assert_eq!(std::fs::read(world.path(file)).unwrap(), std::fs::read(world.path("app.db")).unwrap());
}

#[test]
fn a_fork_is_listed_restored_and_verified_with_what_it_is_of() {
    let world = forked();
    restored(&world, &["fork"], "restored.db");
    assert_eq!(world.run(&["verify", "fork", "--json"]).ok().json()["segments"], 3 + 1);
    let row = world.run(&["ls", "fork", "--json"]).ok().json()["generations"][0].clone();
    assert_eq!((&row["parent"]["database"], &row["parent"]["txid"]), (&"app.db".into(), &3.into()));
    for command in ["ls", "info"] {
        let text = world.run(&[command, "fork"]).ok().stdout;
        assert!(text.contains("of 'app.db'"), "{text}");
    }
}

#[test]
fn a_copy_of_a_fork_is_whole_by_itself() {
    let world = forked();
    world.run(&["copy", "fork", "backup"]).ok();
    let copied = files(&world.path("backup"));
    world.run(&["copy", "fork", "backup"]).ok();
    assert_eq!(files(&world.path("backup")), copied, "and is not made anew");
    assert!(!world.path("backup/app.db").exists());
    restored(&world, &["fork", "--store", "backup"], "copy.db");
    world.run(&["copy", "fork", "aquifer-data", "--as", "beside"]).ok();
    world.run(&["rm", "fork", "--yes"]).ok();
    world.run(&["rm", "app.db", "--yes"]).ok();
    restored(&world, &["beside"], "beside.db");
}

#[test]
fn what_a_fork_needs_is_not_deleted_and_that_is_told() {
    let world = forked();
    let generation =
        world.run(&["ls", "app.db", "--json"]).ok().json()["generations"][0]["generation"].clone();
    let one = world.run(&["rm", "app.db", "-g", generation.as_str().unwrap(), "--yes"]);
    assert_eq!(one.code, 8, "{one:?}");
    assert!(one.stderr.contains("'fork' was forked from"), "{one:?}");
    let all = world.run(&["rm", "app.db", "--yes", "--json"]).ok().json();
    assert_eq!((&all["needed_by"][0], &all["kept"][0]), (&"fork".into(), &generation));
    restored(&world, &["fork"], "restored.db");
    world.run(&["rm", "fork", "--yes"]).ok();
    let rest = world.run(&["rm", "app.db", "--yes", "--json"]).ok().json();
    assert_eq!((&rest["needed_by"], &rest["generations"][0]), (&serde_json::json!([]), &generation));
    assert_eq!(world.run(&["ls"]).ok().stdout, "");
}

#[test]
fn a_fork_that_was_copied_without_what_it_is_of_says_so() {
    let world = forked();
    std::fs::create_dir(world.path("elsewhere")).unwrap();
    std::fs::rename(world.path("aquifer-data/fork"), world.path("elsewhere/fork")).unwrap();
    for command in [&["verify", "fork"][..], &["restore", "fork", "--output", "x.db"]] {
        let ran = world.run(&[command, &["--store", "elsewhere"]].concat());
        assert_eq!(ran.code, 3, "{ran:?}");
        assert!(ran.stderr.contains("'fork' was forked from 'app.db'"), "{ran:?}");
        assert!(ran.stderr.contains("aquifer copy"), "{ran:?}");
    }
}
