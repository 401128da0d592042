//! `ls` and `info`: what is in a store.

use crate::world::World;

#[test]
fn databases_are_listed_one_per_line_and_as_json() {
    let world = World::new();
    let file = world.database("app.db", 3);
    world.ship("aquifer-data", "team/app.db", &file, 1);
    world.ship("aquifer-data", "app.db", &file, 1);
    let plain = world.run(&["ls"]).ok();
    assert_eq!((plain.stdout.as_str(), plain.stderr.as_str()), ("app.db\nteam/app.db\n", ""));
    let json = world.run(&["ls", "--json"]).ok().json();
    assert_eq!(json["databases"][1]["name"], "team/app.db");
    assert_eq!(world.run(&["ls", "-l", "1"]).ok().stdout, "app.db\n");
    let verbose = world.run(&["ls", "-v", "--json"]).ok().json();
    assert_eq!(verbose["databases"][0]["generation"]["newest"], 1);
}

#[test]
fn generations_are_listed_newest_first_with_their_range() {
    let world = World::new();
    let file = world.database("app.db", 3);
    let older = world.ship("aquifer-data", "app.db", &file, 2);
    let newer = world.ship("aquifer-data", "app.db", &file, 4);
    // By the path of the file, too.
    for name in ["app.db", "./app.db", "/srv/app.db"] {
        let json = world.run(&["ls", name, "--json"]).ok().json();
        let rows = json["generations"].as_array().unwrap();
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0]["generation"], newer.to_string());
        assert_eq!((&rows[0]["oldest"], &rows[0]["newest"]), (&1.into(), &4.into()));
        assert_eq!(rows[1]["generation"], older.to_string());
        assert_eq!(rows[1]["levels"]["0"]["segments"], 2);
    }
    let limited = world.run(&["ls", "app.db", "-l", "1", "--json"]).ok().json();
    assert_eq!(limited["generations"].as_array().unwrap().len(), 1);
    let text = world.run(&["ls", "app.db", "-v"]).ok().stdout;
    assert!(text.starts_with("GENERATION") && text.contains("1-4") && text.contains("LEVEL"), "{text}");
}

#[test]
fn age_selects_generations() {
    let world = World::new();
    let file = world.database("app.db", 1);
    world.ship("aquifer-data", "app.db", &file, 1);
    let count = |option, when| {
        let json = world.run(&["ls", "app.db", "--json", option, when]).ok().json();
        json["generations"].as_array().unwrap().len()
    };
    assert_eq!(count("--newer-than", "1h"), 1);
    assert_eq!(count("--newer-than", "2099-01-01"), 0);
    assert_eq!(count("--older-than", "1 hour ago"), 0);
    assert_eq!(count("--older-than", "2099-01-01T00:00:00Z"), 1);
}

#[test]
fn generation_without_a_record_is_shown_as_incomplete() {
    let world = World::new();
    let file = world.database("app.db", 1);
    let generation = world.ship("aquifer-data", "app.db", &file, 1);
    std::fs::remove_file(world.path(&format!("aquifer-data/app.db/{generation}/generation.json"))).unwrap();
    let json = world.run(&["ls", "app.db", "--json"]).ok().json();
    assert_eq!(json["generations"][0]["incomplete"], true);
    assert!(world.run(&["ls", "app.db"]).ok().stdout.contains("incomplete"));
    assert_eq!(world.run(&["info", "app.db"]).code, 3);
}

#[test]
fn info_tells_the_head_and_what_it_takes_in_the_store() {
    let world = World::new();
    let file = world.database("app.db", 3);
    let generation = world.ship("aquifer-data", "app.db", &file, 3);
    let json = world.run(&["info", "app.db", "--json"]).ok().json();
    let bytes = std::fs::metadata(&file).unwrap().len();
    assert_eq!(json["generation"], generation.to_string());
    assert_eq!(json["head"]["revision"]["txid"], 3);
    assert_eq!(json["head"]["database_bytes"], bytes);
    assert_eq!(json["survey"]["levels"]["0"]["segments"], 3);
    assert!(json["requests"]["list"].as_u64() > Some(0));
    let text = world.run(&["info", "app.db"]).ok().stdout;
    assert!(text.contains("restorable:") && text.contains("1-3"), "{text}");
}

#[test]
fn environment_and_option_name_the_store() {
    let world = World::new();
    let file = world.database("app.db", 1);
    world.ship("elsewhere", "app.db", &file, 1);
    assert_eq!(world.run(&["ls"]).code, 3);
    assert_eq!(world.run_with(&["ls"], &[("AQUIFER_STORE", "elsewhere")]).ok().stdout, "app.db\n");
    assert_eq!(world.run(&["ls", "--store", "elsewhere"]).ok().stdout, "app.db\n");
    assert_eq!(world.run(&["--store=elsewhere", "ls"]).ok().stdout, "app.db\n");
}
