//! `doctor`: stores that can be relied on, and others.

use aquifer_testkit::s3_server::{Conditions, S3Server};

use crate::world::{World, files};

#[test]
fn healthy_store_and_database_pass_and_are_left_as_they_were() {
    let world = World::new();
    let file = world.database("app.db", 5);
    world.ship("aquifer-data", "app.db", &file, 1);
    let before = files(&world.path("."));
    let ran = world.run(&["doctor", "app.db"]).ok();
    assert!(ran.stdout.contains("ok       put-if-absent: honoured"), "{ran:?}");
    assert!(ran.stdout.contains("in WAL mode, pages of 4096 bytes"), "{ran:?}");
    assert_eq!(files(&world.path(".")), before);
}

#[test]
fn store_that_is_not_there_is_not_made() {
    let world = World::new();
    let json = world.run(&["doctor", "--json"]).ok().json();
    assert_eq!(json["checks"][1]["result"], "warning");
    assert!(!world.path("aquifer-data").exists());
}

#[test]
fn file_that_is_no_database_fails() {
    let world = World::new();
    std::fs::write(world.path("notes.txt"), "x".repeat(200)).unwrap();
    let ran = world.run(&["doctor", "notes.txt", "nothing.db"]);
    assert_eq!(ran.code, 4);
    assert!(ran.stdout.contains("notes.txt: is no SQLite database"), "{ran:?}");
    assert!(ran.stdout.contains("nothing.db: does not exist"), "{ran:?}");
}

#[test]
fn store_that_overwrites_in_spite_of_conditions_fails() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let world = World::new();
    for (conditions, code) in [(Conditions::Honoured, 0), (Conditions::Ignored, 4)] {
        let server = runtime.block_on(S3Server::start(conditions));
        let environment = server.environment();
        let environment: Vec<_> = environment.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let ran = world.run_with(&["doctor", "--store", &server.url("fleet")], &environment);
        assert_eq!(ran.code, code, "{ran:?}");
        assert_eq!(ran.stdout.contains("cannot be kept apart"), code == 4, "{ran:?}");
        assert!(server.keys().is_empty());
    }
}
