//! `rm`: what was named, and only when it is meant.

use crate::world::{World, files};

#[test]
fn nothing_is_deleted_without_a_yes_where_nobody_can_be_asked() {
    let world = World::new();
    let file = world.database("app.db", 1);
    world.ship("aquifer-data", "app.db", &file, 2);
    let before = files(&world.path("aquifer-data"));
    let ran = world.run(&["rm", "app.db"]);
    assert_eq!(ran.code, 8, "{ran:?}");
    assert!(ran.stderr.contains("say --yes") && ran.stderr.contains("'app.db'"), "{ran:?}");
    assert_eq!(files(&world.path("aquifer-data")), before);
}

#[test]
fn database_is_deleted_with_all_its_generations_and_no_other_is() {
    let world = World::new();
    let file = world.database("app.db", 1);
    world.ship("aquifer-data", "app.db", &file, 2);
    world.ship("aquifer-data", "app.db", &file, 1);
    world.ship("aquifer-data", "app.db2", &file, 1);
    let json = world.run(&["rm", "app.db", "--yes", "--json"]).ok().json();
    assert_eq!((&json["generations"].as_array().unwrap().len(), &json["objects"]), (&2, &5.into()));
    assert_eq!(world.run(&["ls"]).ok().stdout, "app.db2\n");
    assert_eq!(world.run(&["rm", "app.db", "--yes"]).code, 3);
}

#[test]
fn one_generation_is_deleted_by_its_id() {
    let world = World::new();
    let file = world.database("app.db", 1);
    let older = world.ship("aquifer-data", "app.db", &file, 2);
    let newer = world.ship("aquifer-data", "app.db", &file, 1);
    world.run(&["rm", "app.db", "-g", &newer.to_string(), "-y"]).ok();
    let json = world.run(&["ls", "app.db", "--json"]).ok().json();
    assert_eq!(json["generations"].as_array().unwrap().len(), 1);
    assert_eq!(json["generations"][0]["generation"], older.to_string());
    assert_eq!(world.run(&["rm", "app.db", "-g", &newer.to_string(), "-y"]).code, 3);
}

#[test]
fn age_deletes_what_was_superseded_before_and_never_the_newest() {
    let world = World::new();
    let file = world.database("app.db", 1);
    let oldest = world.ship("aquifer-data", "app.db", &file, 1);
    let older = world.ship("aquifer-data", "app.db", &file, 1);
    let newest = world.ship("aquifer-data", "app.db", &file, 1);
    // An attempt of which nothing became durable takes nobody's place.
    let empty = world.ship("aquifer-data", "app.db", &file, 0);
    assert!(
        world.run(&["rm", "app.db", "--older-than", "1h", "--yes"]).ok().stdout.contains("nothing to delete")
    );
    let json = world.run(&["rm", "app.db", "--older-than", "2099-01-01", "--yes", "--json"]).ok().json();
    assert_eq!(json["generations"], serde_json::json!([older, oldest]));
    let left = world.run(&["ls", "app.db", "--json"]).ok().json();
    let left: Vec<_> =
        left["generations"].as_array().unwrap().iter().map(|row| row["generation"].clone()).collect();
    assert_eq!(left, [empty.to_string(), newest.to_string()]);
}

#[test]
fn interrupted_removal_is_finished_by_the_next() {
    let world = World::new();
    let file = world.database("app.db", 1);
    let generation = world.ship("aquifer-data", "app.db", &file, 2);
    std::fs::remove_file(world.path(&format!("aquifer-data/app.db/{generation}/generation.json"))).unwrap();
    world.run(&["rm", "app.db", "-g", &generation.to_string(), "--yes"]).ok();
    assert!(files(&world.path("aquifer-data")).is_empty());
}
