//! What a client's SQL may not do, and what it may.
use aquifer_server::hrana::Settings;
use aquifer_server::sql::{Access, Limits, Session, Sink, SqlError, Statement};
use rusqlite::{Connection, OpenFlags};

use super::world::world;

const REFUSED: &[&str] = &[
    "ATTACH 'other.db' AS other",
    "ATTACH 'file:main.db?mode=rw' AS again",
    "ATTACH 'a' || 'b' AS computed",
    "DETACH main",
    "VACUUM INTO 'copy.db'",
    "PRAGMA journal_mode = DELETE",
    "PRAGMA main.journal_mode(OFF)",
    "PRAGMA JOURNAL_MODE = MEMORY",
    "PRAGMA locking_mode = EXCLUSIVE",
    "PRAGMA wal_checkpoint",
    "PRAGMA wal_checkpoint(TRUNCATE)",
    "PRAGMA wal_autocheckpoint = 1",
    "PRAGMA page_size = 512",
    "PRAGMA synchronous = OFF",
    "PRAGMA writable_schema = ON",
    "PRAGMA temp_store_directory = '/tmp'",
    "PRAGMA data_store_directory = '/tmp'",
    "PRAGMA temp_store = 2",
    "PRAGMA schema_version = 7",
    "PRAGMA auto_vacuum = FULL",
    "PRAGMA encoding = 'UTF-16'",
    "PRAGMA busy_timeout = 0",
    "PRAGMA query_only = OFF",
    "PRAGMA mmap_size = 1000000000",
    "PRAGMA cache_size = 1000000000",
    "PRAGMA hard_heap_limit = 1",
    "PRAGMA soft_heap_limit = 1",
    "PRAGMA trusted_schema = ON",
    "PRAGMA no_such_pragma",
    "SELECT data FROM sqlite_dbpage",
    "UPDATE sqlite_dbpage SET data = zeroblob(4096) WHERE pgno = 1",
    "CREATE VIRTUAL TABLE temp.raw USING sqlite_dbpage",
    "EXPLAIN ATTACH 'other.db' AS other",
];

const ALLOWED: &[&str] = &[
    "PRAGMA table_info(t)",
    "SELECT name FROM pragma_table_info('t')",
    "PRAGMA table_list",
    "PRAGMA journal_mode",
    "PRAGMA page_size",
    "PRAGMA synchronous",
    "PRAGMA user_version",
    "PRAGMA user_version = 3",
    "PRAGMA application_id = 3",
    "PRAGMA foreign_keys = ON",
    "PRAGMA defer_foreign_keys = ON",
    "PRAGMA integrity_check",
    "PRAGMA optimize",
    "VACUUM",
    "ANALYZE",
    "REINDEX",
    "CREATE TEMP TABLE scratch (x)",
    "CREATE VIEW w AS SELECT * FROM t",
    "CREATE TRIGGER r AFTER INSERT ON t BEGIN UPDATE t SET v = 1; END",
    "ALTER TABLE t ADD COLUMN w",
    "ALTER TABLE t RENAME COLUMN w TO x",
    "SAVEPOINT s",
    "EXPLAIN QUERY PLAN SELECT * FROM t",
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 3) SELECT json_array(i) FROM n",
];

#[test]
fn statements_that_reach_outside_or_change_what_the_server_manages_are_refused() {
    let world = world(Settings::default());
    for sql in REFUSED {
        let (code, message) = world.refused(sql);
        assert_eq!(code, "SQLITE_AUTH", "{sql}");
        assert!(message.starts_with("not authorized: "), "{sql}: {message}");
    }
    assert_eq!(world.value("PRAGMA journal_mode"), "wal");
    // Not even compiled in.
    assert_eq!(world.refused("SELECT load_extension('evil')").0, "SQLITE_ERROR");
}

#[test]
fn statements_inside_the_database_are_allowed() {
    let world = world(Settings::default());
    for sql in ALLOWED {
        world.execute(sql);
    }
    assert_eq!(world.value("PRAGMA user_version"), "3");
}

#[test]
fn a_sequence_is_held_to_the_same_rules() {
    let world = world(Settings::default());
    let sequence = serde_json::json!([
        {"type":"sequence","sql":"INSERT INTO t VALUES (1, 1); -- one\n ATTACH 'x' AS x; INSERT INTO t VALUES (2, 2)"},
        {"type":"sequence","sql":"INSERT INTO t VALUES (3, 3);;"},
        {"type":"sequence","sql":""},
        {"type":"sequence","sql":"INSERT INTO t VALUES (?, 1)"},
        {"type":"close"},
    ]);
    let answer = world.pipeline(None, &sequence);
    assert_eq!(answer["results"][0]["error"]["code"], "SQLITE_AUTH");
    assert_eq!(answer["results"][1], serde_json::json!({"type":"ok","response":{"type":"sequence"}}));
    assert_eq!(answer["results"][2]["type"], "ok");
    assert_eq!(answer["results"][3]["error"]["code"], "ARGS_INVALID");
    assert_eq!(world.value("SELECT group_concat(id) FROM t"), "1,3", "up to the first that fails");
}

struct Nowhere;

impl Sink for Nowhere {
    fn begin(&mut self, _: usize, _: Vec<aquifer_server::sql::Column>) -> Result<(), SqlError> {
        Ok(())
    }
    fn row(&mut self, _: &rusqlite::Row<'_>, _: &[String]) -> Result<(), SqlError> {
        Ok(())
    }
    fn end(&mut self, _: usize, _: aquifer_server::sql::Summary) -> Result<(), SqlError> {
        Ok(())
    }
    fn failed(&mut self, _: usize, _: SqlError) -> Result<(), SqlError> {
        Ok(())
    }
}

#[test]
fn who_may_only_read_writes_nothing_whatever_the_connection_allows() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.db");
    let setup = Connection::open(&path).unwrap();
    setup.execute_batch("PRAGMA journal_mode = wal; CREATE TABLE t (v); INSERT INTO t VALUES (1)").unwrap();
    let readonly = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    for flags in [OpenFlags::default(), readonly] {
        let connection = Connection::open_with_flags(&path, flags).unwrap();
        let session = Session::open(connection, Access::ReadOnly, Limits::default()).unwrap();
        let run = |sql: &str| {
            let statement =
                Statement { sql: aquifer_server::sql::Sql::Text(sql.into()), ..Statement::default() };
            session.execute(&statement, &mut Nowhere)
        };
        run("SELECT * FROM t").unwrap();
        for sql in [
            "INSERT INTO t VALUES (2)",
            "DELETE FROM t",
            "DROP TABLE t",
            "CREATE TABLE u (x)",
            "PRAGMA user_version = 9",
            "PRAGMA query_only = 0",
            "PRAGMA optimize",
        ] {
            assert!(run(sql).is_err(), "{sql}");
        }
    }
    let left: (i64, i64) = setup
        .query_row("SELECT count(*), (SELECT user_version FROM pragma_user_version) FROM t", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .unwrap();
    assert_eq!(left, (1, 0));
}
