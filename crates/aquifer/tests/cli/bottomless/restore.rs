//! `aquifer bottomless restore`: what was there before is kept, and what is newer stays.

use std::fs;

use rusqlite::Connection;

use super::{names, rows, run, with_fixture};
use crate::world::World;

#[test]
fn restore_puts_the_database_where_it_is_named_and_keeps_what_was_there() {
    let world = with_fixture("bottomless-frames");
    let ran = run(&world, &["restore"]).ok();
    assert_eq!((ran.stdout.as_str(), names(&world)), ("", vec!["app.db".to_owned()]), "{ran:?}");
    let database = world.path("app.db");
    assert_eq!(rows(&database), 145);
    let restored = fs::read(&database).unwrap();
    // What is here is what is there: nothing is kept twice, as the original does.
    for args in [&["restore"][..], &["restore", "-g", run(&world, &["ls"]).ok().stdout.trim()]] {
        run(&world, args).ok();
        assert_eq!(names(&world), ["app.db"]);
    }
    // Newer here: stays. Commits that have their page 1 in the WAL count.
    let here = Connection::open(&database).unwrap();
    for x in 0..9 {
        here.execute_batch(&format!("CREATE TABLE later_{x}(x); PRAGMA wal_checkpoint(TRUNCATE)")).unwrap();
    }
    drop(here);
    let newer = fs::read(&database).unwrap();
    let ran = run(&world, &["restore"]).ok();
    assert!(ran.stderr.contains("is not older than what there is"), "{ran:?}");
    assert_eq!(fs::read(&database).unwrap(), newer);
    // Unless a generation is named: what was here is kept, each time, with all that was in its WAL.
    let id = run(&world, &["ls"]).ok().stdout;
    let here = Connection::open(&database).unwrap();
    here.execute_batch("INSERT INTO t SELECT max(id) + 1, 'in the WAL' FROM t").ok();
    let locked = run(&world, &["restore", "-g", id.trim()]);
    assert_eq!(locked.code, 8, "an open database is not replaced: {locked:?}");
    drop(here);
    run(&world, &["restore", "-g", id.trim()]).ok();
    assert_eq!(fs::read(&database).unwrap(), restored);
    assert_eq!(names(&world), ["app.db", "app.db.bottomless.backup"]);
    let kept: i64 = Connection::open(world.path("app.db.bottomless.backup"))
        .unwrap()
        .query_row("SELECT count(*) FROM sqlite_master WHERE name LIKE 'later_%'", [], |row| row.get(0))
        .unwrap();
    assert_eq!(kept, 9);
    fs::copy(world.path("app.db.bottomless.backup"), &database).unwrap();
    let ran = run(&world, &["restore", "-g", id.trim()]).ok();
    assert!(ran.stderr.contains("what was there is"), "{ran:?}");
    assert_eq!(names(&world), ["app.db", "app.db.bottomless.backup", "app.db.bottomless.backup.2"]);
}

#[test]
fn older_database_is_restored_and_kept_and_a_missing_backup_is_no_failure() {
    let world = with_fixture("bottomless-frames-two-generations");
    let generations = run(&world, &["ls"]).ok().stdout;
    let oldest = generations.lines().last().unwrap();
    run(&world, &["-d", "./app.db", "restore", "-g", oldest]).ok();
    assert_eq!(rows(&world.path("app.db")), 40);
    run(&world, &["restore"]).ok();
    assert_eq!(rows(&world.path("app.db")), 80);
    assert_eq!(rows(&world.path("app.db.bottomless.backup")), 40);
    let ran = run(&world, &["-d", "nobody.db", "restore"]).ok();
    assert!(ran.stderr.contains("there is no generation of 'nobody.db'"), "{ran:?}");
    assert!(!world.path("nobody.db").exists());
}

#[test]
fn database_of_the_libsql_server_goes_where_the_server_has_it() {
    let world = with_fixture("bottomless-server-zstd");
    run(&world, &["-n", "ns-db1", "restore"]).ok();
    let file = world.path("default/dbs/db1/data");
    assert_eq!(rows(&file), 2001);
    let ran = run(&world, &["-n", "ns-db1", "-d", "default", "ls", "-v"]).ok();
    assert!(ran.stdout.starts_with("Database ns-db1:default:\n"), "{ran:?}");
    assert!(ran.stdout.contains("no main database snapshot file found"), "{ran:?}");
}

/// A database of three rows, in a store as it was with each.
fn replicated() -> World {
    let world = World::new();
    for x in 1..4 {
        commit(&world, "app.db", &format!("CREATE TABLE IF NOT EXISTS t(x); INSERT INTO t VALUES({x})"));
        fs::copy(world.path("app.db"), world.path(&format!("{x}.db"))).unwrap();
        replicate(&world);
    }
    world
}

fn replicate(world: &World) {
    world.run(&["replicate", "--once", "--store", "./bucket", "app.db"]).ok();
}

fn commit(world: &World, file: &str, sql: &str) {
    let database = Connection::open(world.path(file)).unwrap();
    database.execute_batch(&format!("PRAGMA journal_mode=WAL; {sql}")).unwrap();
}

/// What a restore says, and whether it leaves the database as it is.
fn stays(world: &World) -> (String, bool) {
    let before = fs::read(world.path("app.db")).unwrap();
    let ran = run(world, &["restore"]).ok();
    (ran.stderr, fs::read(world.path("app.db")).unwrap() == before)
}

#[test]
fn newer_database_than_that_of_an_aquifer_store_stays() {
    let world = replicated();
    let (said, stayed) = stays(&world);
    assert!(said.contains("app.db is what there is of 'app.db' already") && stayed, "{said}");
    // SQLite counts none of these.
    commit(&world, "app.db", "INSERT INTO t VALUES(4)");
    let (said, stayed) = stays(&world);
    assert!(said.contains("is not older than what there is of 'app.db', and stays") && stayed, "{said}");
    assert_eq!(rows(&world.path("app.db")), 4);
    assert!(!names(&world).iter().any(|name| name.contains("backup")));
    // Said by its name, the generation is restored, and the other kept.
    let newest = run(&world, &["ls"]).ok().stdout;
    run(&world, &["restore", "-g", newest.trim()]).ok();
    assert_eq!((rows(&world.path("app.db")), rows(&world.path("app.db.bottomless.backup"))), (3, 4));
}

#[test]
fn database_in_use_is_compared_with_that_of_an_aquifer_store_all_the_same() {
    let world = replicated();
    // Nobody reads the file meanwhile but through SQLite: closing it would drop the locks of this process.
    let open = Connection::open(world.path("app.db")).unwrap();
    let rows = || open.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(rows(), 3);
    assert!(run(&world, &["restore"]).ok().stderr.contains("already"));
    open.execute_batch("INSERT INTO t VALUES(4)").unwrap();
    assert!(run(&world, &["restore"]).ok().stderr.contains("and stays"));
    open.execute_batch("DELETE FROM t WHERE x > 2").unwrap();
    let newest = run(&world, &["ls"]).ok().stdout;
    assert_eq!(run(&world, &["restore", "-g", newest.trim()]).code, 8);
    assert_eq!(rows(), 2);
}

#[test]
fn older_database_than_that_of_an_aquifer_store_is_replaced_and_kept() {
    for with_state in [true, false] {
        let world = replicated();
        if !with_state {
            fs::remove_dir_all(world.path(".app.db-aquifer")).unwrap();
        }
        for (older, kept) in [("2.db", "app.db.bottomless.backup"), ("1.db", "app.db.bottomless.backup.2")] {
            fs::copy(world.path(older), world.path("app.db")).unwrap();
            let ran = run(&world, &["restore"]).ok();
            assert!(ran.stderr.contains(kept), "{ran:?}");
            assert_eq!(rows(&world.path("app.db")), 3);
            assert!(fs::read(world.path(kept)).unwrap() == fs::read(world.path(older)).unwrap());
        }
        // And replication goes on from there.
        commit(&world, "app.db", "INSERT INTO t VALUES(4)");
        replicate(&world);
        fs::remove_file(world.path("app.db")).unwrap();
        run(&world, &["restore"]).ok();
        assert_eq!(rows(&world.path("app.db")), 4);
    }
}

#[test]
fn database_that_was_set_back_and_gone_on_with_here_stays() {
    let world = replicated();
    // By its change counter it would be the older one.
    for n in 0..5 {
        commit(&world, "app.db", &format!("CREATE TABLE later_{n}(x)"));
    }
    replicate(&world);
    // Nothing that is there was shipped by the replica of this machine: it began with what it found there.
    fs::remove_dir_all(world.path(".app.db-aquifer")).unwrap();
    replicate(&world);
    let back = ["restore", "--store", "./bucket", "app.db", "-o", "app.db", "--force", "--txid", "1"];
    world.run(&back).ok();
    commit(&world, "app.db", "INSERT INTO t VALUES(4)");
    let (said, stayed) = stays(&world);
    assert!(said.contains("and stays") && stayed, "{said}");
}

#[test]
fn where_both_went_on_the_larger_change_counter_stays() {
    for (here, there, stays) in [(9, 0, true), (0, 9, false), (0, 0, true)] {
        let world = replicated();
        let grow = |file: &str, times: i32| {
            commit(&world, file, "INSERT INTO t VALUES(randomblob(9))");
            for n in 0..times {
                commit(&world, file, &format!("CREATE TABLE grown_{n}(x)"));
            }
        };
        // Another machine.
        fs::create_dir(world.path("there")).unwrap();
        fs::copy(world.path("app.db"), world.path("there/app.db")).unwrap();
        world.run(&["replicate", "--once", "--store", "./bucket", "there/app.db"]).ok();
        grow("there/app.db", there);
        world.run(&["replicate", "--once", "--store", "./bucket", "there/app.db"]).ok();
        grow("app.db", here);
        let before = fs::read(world.path("app.db")).unwrap();
        let ran = run(&world, &["restore"]).ok();
        assert_eq!(ran.stderr.contains("and stays"), stays, "{ran:?}");
        let kept = if stays { "app.db" } else { "app.db.bottomless.backup" };
        assert!(fs::read(world.path(kept)).unwrap() == before);
        if !stays {
            assert!(fs::read(world.path("app.db")).unwrap() == fs::read(world.path("there/app.db")).unwrap());
        }
    }
}

#[test]
fn database_with_a_rollback_journal_is_compared_by_its_change_counter() {
    let world = replicated();
    for (transactions, stays) in [(1, false), (30, true)] {
        fs::remove_file(world.path("app.db")).unwrap();
        let here = Connection::open(world.path("app.db")).unwrap();
        here.execute_batch("PRAGMA journal_mode=DELETE; CREATE TABLE t(x)").unwrap();
        for x in 1..transactions {
            here.execute("INSERT INTO t VALUES(?1)", [x]).unwrap();
        }
        drop(here);
        let ran = run(&world, &["restore"]).ok();
        assert_eq!(ran.stderr.contains("and stays"), stays, "{ran:?}");
        assert_eq!(rows(&world.path("app.db")), if stays { transactions - 1 } else { 3 });
    }
}
