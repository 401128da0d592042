//! `aquifer bottomless restore`: what was there before is kept, and what is newer stays.

use std::fs;

use rusqlite::Connection;

use super::{names, rows, run, with_fixture};

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
