//! A replicated database that a restore took the place of: what was known of the old one is not believed of the new one,
//! and replication goes on with what is there.

use std::fs;
use std::path::Path;

use rusqlite::Connection;

use crate::bottomless::{rows, with_fixture};
use crate::world::{Ran, World};

/// A database that was replicated three times: with 10, 20 and 30 rows.
fn replicate_three_times(world: &World) {
    for round in 0..3 {
        let database = Connection::open(world.path("app.db")).unwrap();
        database
            .execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, x)")
            .unwrap();
        for id in 0..10 {
            database.execute("INSERT INTO t VALUES(?1, randomblob(900))", [10 * round + id]).unwrap();
        }
        drop(database);
        ship(world, &[]).ok();
    }
}

fn ship(world: &World, more: &[&str]) -> Ran {
    world.run(&[&["replicate", "--once", "app.db", "--json"], more].concat())
}

fn commit(file: &Path) {
    let commit = "CREATE TABLE IF NOT EXISTS later(x); INSERT INTO later VALUES(randomblob(900))";
    Connection::open(file).unwrap().execute_batch(commit).unwrap();
}

fn committed_later(file: &Path) -> i64 {
    Connection::open(file).unwrap().query_row("SELECT count(*) FROM later", [], |row| row.get(0)).unwrap()
}

fn generations(world: &World) -> usize {
    world.run(&["ls", "app.db", "--json"]).ok().json()["generations"].as_array().unwrap().len()
}

/// What is restored elsewhere is what is here, to the byte.
fn check_replica(world: &World) {
    let _ = fs::remove_file(world.path("copy.db"));
    world.run(&["restore", "app.db", "-o", "copy.db", "--verify"]).ok();
    assert!(fs::read(world.path("copy.db")).unwrap() == fs::read(world.path("app.db")).unwrap());
    world.run(&["verify", "app.db", "--all"]).ok();
}

/// A restore takes the place of the database; what it restored is replicated, as it is and with what comes then.
fn replicates_what_a_restore_put_there(
    world: &World,
    restore: &[&str],
    restored_rows: i64,
    and_then: &[&str],
) {
    world.run(restore).ok();
    assert_eq!(rows(&world.path("app.db")), restored_rows, "{restore:?}");
    ship(world, and_then).ok();
    check_replica(world);
    commit(&world.path("app.db"));
    ship(world, &[]).ok();
    check_replica(world);
    let copy = world.path("copy.db");
    assert_eq!((rows(&copy), committed_later(&copy)), (restored_rows, 1));
}

#[test]
fn database_set_back_to_an_older_moment_is_replicated_as_what_it_is_now() {
    let world = World::new();
    replicate_three_times(&world);
    let back = ["restore", "app.db", "-o", "app.db", "--force", "--txid", "1"];
    replicates_what_a_restore_put_there(&world, &back, 10, &[]);
    // What it was before can be restored, too.
    world.run(&["restore", "app.db", "-o", "before.db", "--txid", "3"]).ok();
    assert_eq!((rows(&world.path("before.db")), generations(&world)), (30, 1));
}

#[test]
fn newest_revision_put_in_place_of_commits_that_were_not_replicated_goes_on() {
    let world = World::new();
    replicate_three_times(&world);
    commit(&world.path("app.db"));
    let newest = ["restore", "app.db", "-o", "app.db", "--force"];
    replicates_what_a_restore_put_there(&world, &newest, 30, &[]);
    assert_eq!(generations(&world), 1);
}

#[test]
fn backup_of_another_program_in_place_of_a_replicated_database_is_replicated() {
    let world = with_fixture("bottomless-frames-two-generations");
    replicate_three_times(&world);
    let from = ["restore", "--from", "bottomless", "./bucket", "-o", "app.db", "--force"];
    replicates_what_a_restore_put_there(&world, &from, 80, &[]);
    // And once more, by bottomless-cli's command: the generation before that.
    let generations = world.run(&["bottomless", "-b", "./bucket", "ls"]).ok().stdout;
    let oldest = generations.lines().last().unwrap();
    let restore = ["bottomless", "-b", "./bucket", "restore", "-g", oldest];
    replicates_what_a_restore_put_there(&world, &restore, 40, &[]);
    assert_eq!(rows(&world.path("app.db.bottomless.backup")), 80);
}

#[test]
fn pages_of_another_size_begin_a_new_generation_when_told() {
    let world = with_fixture("bottomless-frames-64k");
    replicate_three_times(&world);
    let before = world.run(&["info", "app.db", "--json"]).ok().json();
    let restore = ["restore", "--from", "bottomless", "./bucket", "-o", "app.db", "--force"];
    world.run(&restore).ok();
    let refused = ship(&world, &[]);
    assert!(refused.code != 0 && refused.stderr.contains("replicate --new-generation"), "{refused:?}");
    assert_eq!(world.run(&["info", "app.db", "--json"]).ok().json()["head"], before["head"]);
    replicates_what_a_restore_put_there(&world, &restore, 1200, &["--new-generation"]);
    assert_eq!(generations(&world), 2);
}

#[test]
fn newest_revision_is_gone_on_with_here_again_after_another_machine_did() {
    let world = World::new();
    replicate_three_times(&world);
    // Another machine takes the database over, in the same history, or in one that it begins.
    fs::create_dir(world.path("there")).unwrap();
    let there = world.path("there/app.db");
    for (round, more) in [&[][..], &["--new-generation"]].into_iter().enumerate() {
        let _ = fs::remove_file(&there);
        let _ = fs::remove_dir_all(world.path("there/.app.db-aquifer"));
        world.run(&["restore", "app.db", "-o", "there/app.db"]).ok();
        world.run(&[&["replicate", "--once", "there/app.db"], more].concat()).ok();
        commit(&there);
        world.run(&["replicate", "--once", "there/app.db"]).ok();
        // What is here is another database by now, and not the one that is restored: nothing of it may be shipped.
        commit(&world.path("app.db"));
        let refused = ship(&world, &[]);
        assert_eq!(refused.code, 5, "{refused:?}");
        assert!(refused.stderr.contains("replicate --new-generation"), "{refused:?}");
        world.run(&["restore", "app.db", "-o", "newest.db", "--force"]).ok();
        assert_eq!(fs::read(&there).unwrap(), fs::read(world.path("newest.db")).unwrap());
        // Restored, it is the one that goes on.
        world.run(&["restore", "app.db", "-o", "app.db", "--force"]).ok();
        ship(&world, &[]).ok();
        check_replica(&world);
        commit(&world.path("app.db"));
        ship(&world, &[]).ok();
        check_replica(&world);
        assert_eq!((rows(&world.path("copy.db")), generations(&world)), (30, 1 + round));
        // The other one is told.
        commit(&there);
        let fenced = world.run(&["replicate", "--once", "there/app.db"]);
        assert_eq!(fenced.code, 5, "{fenced:?}");
    }
}
