//! What is pushed beside rows.

use aquifer_sqlite::btree::Value;

use crate::files::select;
use crate::server::{Stage, run};

#[test]
fn triggers_stay_and_do_not_fire() {
    let stage = Stage::new(
        "CREATE TABLE t(k INTEGER PRIMARY KEY, a); CREATE TABLE log(x); INSERT INTO t VALUES(1, 1), (2, 2), (3, 3);
         CREATE TRIGGER ins AFTER INSERT ON t BEGIN INSERT INTO log VALUES('ins ' || new.k); END;
         CREATE TRIGGER upd AFTER UPDATE ON T BEGIN INSERT INTO log VALUES('upd ' || new.k); END;
         CREATE TRIGGER t BEFORE DELETE ON t BEGIN INSERT INTO log VALUES('del ' || old.k); END;",
    );
    stage.local(
        "INSERT INTO t VALUES(4, 4); UPDATE t SET a = 0 WHERE k = 1; DELETE FROM t WHERE k = 2; DROP TRIGGER upd;
         CREATE TRIGGER upd AFTER UPDATE ON t BEGIN INSERT INTO log VALUES('updated ' || new.k); END;",
    );
    stage.arrives();
    for remote in [
        "CREATE TRIGGER other AFTER INSERT ON t BEGIN DELETE FROM log; END",
        "DROP TRIGGER ins",
        "DROP TRIGGER ins; CREATE TRIGGER ins AFTER INSERT ON t BEGIN DELETE FROM log; END",
        "DROP TRIGGER upd; CREATE TRIGGER upd AFTER INSERT ON t BEGIN DELETE FROM log; END",
    ] {
        std::fs::copy(stage.path("base"), stage.path("server")).unwrap();
        stage.remote(remote);
        stage.is_refused();
    }
}

#[test]
fn a_schema_that_the_server_has_changed_is_not_overwritten_and_its_rows_are_not_lost() {
    let base = "CREATE TABLE t(k INTEGER PRIMARY KEY, a, b); INSERT INTO t VALUES(1, 1, 'x'), (2, 2, 'y'); CREATE INDEX i ON t(a);
                CREATE VIEW v AS SELECT a FROM t; CREATE TABLE other(x)";
    for (local, remote) in [
        ("DROP INDEX i", "DROP INDEX i; CREATE INDEX i ON t(b)"),
        ("DROP VIEW v; CREATE VIEW v AS SELECT 1", "DROP VIEW v; CREATE VIEW v AS SELECT 2"),
        ("CREATE TABLE new(x)", "CREATE TABLE new(y)"),
        ("CREATE INDEX j ON t(a)", "CREATE INDEX j ON t(b)"),
        ("ALTER TABLE t ADD COLUMN c", "ALTER TABLE t ADD COLUMN d"),
        // Rows that would go with it.
        ("DROP TABLE t", "INSERT INTO t VALUES(3, 3, 3)"),
        ("DROP TABLE t", "UPDATE t SET b = 'z' WHERE k = 1"),
        ("DROP TABLE t", "UPDATE t SET a = 5 WHERE k = 1"),
        ("DROP TABLE t", "UPDATE t SET a = 1.5 WHERE k = 1"),
        ("DROP TABLE t", "UPDATE t SET a = NULL WHERE k = 1"),
        ("DROP TABLE t", "UPDATE t SET b = x'78' WHERE k = 1"),
        ("DROP VIEW v; ALTER TABLE t DROP COLUMN b", "UPDATE t SET b = 'z' WHERE k = 1"),
        // Columns that this client does not know of.
        ("DELETE FROM t WHERE k = 1", "ALTER TABLE t ADD COLUMN c; UPDATE t SET c = 1"),
        ("INSERT INTO t VALUES(3, 3, 3)", "DROP TABLE t"),
        ("PRAGMA user_version = 5", "PRAGMA user_version = 6"),
    ] {
        let stage = Stage::new(base);
        stage.local(local).remote(remote);
        stage.is_refused();
        let stage = Stage::new(base);
        stage.local(local).arrives();
    }
}

#[test]
fn tables_that_take_no_part_stay_with_all_that_belongs_to_them() {
    let stage = Stage::new(
        "CREATE TABLE t(a); CREATE TABLE mine(a INTEGER PRIMARY KEY AUTOINCREMENT, b); INSERT INTO mine VALUES(1, 1)",
    );
    stage.local(
        "INSERT INTO t VALUES(1); INSERT INTO mine VALUES(2, 2); CREATE INDEX i ON mine(b); CREATE TRIGGER g AFTER INSERT ON mine BEGIN SELECT 1; END;
         ALTER TABLE mine ADD COLUMN c; CREATE TABLE also_mine(x); INSERT INTO also_mine VALUES(1); CREATE VIEW MINE_v AS SELECT 1",
    );
    let takes_part =
        |table: &str| !["mine", "also_mine", "mine_v"].contains(&table.to_ascii_lowercase().as_str());
    let (steps, summary) = stage.prepared(&takes_part, None).unwrap();
    assert_eq!((summary.rows, summary.schema), (1, 0));
    let expected = [stage.content("server"), vec!["\"t\": [Integer(1)]".to_owned()]].concat();
    run(&stage.open("server"), &steps).unwrap();
    let mut content = stage.content("server");
    let mut expected = expected;
    content.sort();
    expected.sort();
    assert_eq!(content, expected);
}

#[test]
fn virtual_tables_are_pushed_by_what_they_hold() {
    let base = "CREATE VIRTUAL TABLE f USING fts5(title, body); INSERT INTO f(rowid, title, body) VALUES(1, 'one', 'a'), (2, 'two', 7), (3, 'three', NULL);
                CREATE VIRTUAL TABLE r USING rtree(id, x0, x1, +label); INSERT INTO r VALUES(1, 0.1, 0.2, 'a'), (2, 3, 4, NULL);
                CREATE TABLE t(a); INSERT INTO t VALUES('x'); CREATE VIRTUAL TABLE e USING fts5(a, content='t'); INSERT INTO e(e) VALUES('rebuild')";
    let work = "UPDATE f SET title = 'uno' WHERE rowid = 1; DELETE FROM f WHERE rowid = 2; INSERT INTO f VALUES('four', 'd');
                UPDATE r SET x0 = -0.1 WHERE id = 1; DELETE FROM r WHERE id = 2; INSERT INTO r VALUES(7, 1, 2, 'new');
                INSERT INTO t VALUES('word'); INSERT INTO e(e) VALUES('rebuild'); CREATE VIRTUAL TABLE g USING fts5(z); INSERT INTO g VALUES('z')";
    let stage = Stage::new(base);
    stage.local(work);
    stage.push().unwrap();
    for question in [
        "SELECT rowid, * FROM f",
        "SELECT rowid FROM f('uno')",
        "SELECT count(*) FROM f('one')",
        "SELECT * FROM r ORDER BY id",
        "SELECT rowid FROM e('word')",
        "SELECT * FROM g('z')",
    ] {
        let expected = select(&stage.open("current"), question);
        assert!(!expected.is_empty());
        assert_eq!(select(&stage.open("server"), question), expected, "{question}");
    }
    for remote in [
        "UPDATE f SET body = 'other' WHERE rowid = 1",
        "DELETE FROM f WHERE rowid = 2",
        // Equal, but not the same.
        "UPDATE f SET body = 7.0 WHERE rowid = 2",
        "UPDATE r SET label = 'other' WHERE id = 1",
        "UPDATE r SET x1 = 7 WHERE id = 2",
    ] {
        let stage = Stage::new(base);
        stage.local(work).remote(remote);
        assert!(stage.push().is_err(), "{remote}");
    }
}

#[test]
fn counters_of_autoincrement_only_go_forward() {
    let base = "CREATE TABLE t(k INTEGER PRIMARY KEY AUTOINCREMENT, a); INSERT INTO t VALUES(5, 5)";
    let stage = Stage::new(base);
    stage.local("INSERT INTO t VALUES(50, 1); DELETE FROM t WHERE k = 50").arrives();
    let stage = Stage::new(base);
    stage.local("INSERT INTO t VALUES(50, 1); DELETE FROM t WHERE k = 50");
    stage.remote("UPDATE sqlite_sequence SET seq = 70").push().unwrap();
    let seq = select(&stage.open("server"), "SELECT seq FROM sqlite_sequence");
    assert_eq!(seq, [[Value::Integer(70)]]);
}

#[test]
fn the_application_s_numbers_are_pushed_and_may_be_refused() {
    let stage = Stage::new("CREATE TABLE t(a); PRAGMA user_version = 3");
    stage.local("PRAGMA user_version = -7; PRAGMA application_id = 9");
    let steps = stage.steps();
    assert_eq!(steps.iter().filter(|step| step.is_optional).count(), 2);
    run(&stage.open("server"), &steps).unwrap();
    let said = "SELECT user_version, application_id FROM pragma_user_version, pragma_application_id";
    assert_eq!(select(&stage.open("server"), said), [[Value::Integer(-7), Value::Integer(9)]]);
}
