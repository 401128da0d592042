//! In which order rows are pushed.

use crate::server::{Stage, run};

#[test]
fn rows_may_take_unique_values_from_each_other() {
    for table in [
        "(k INTEGER PRIMARY KEY, u UNIQUE, v)",
        "(k INT, u UNIQUE, v)",
        "(k INT PRIMARY KEY, u UNIQUE, v) WITHOUT ROWID",
        "(k INTEGER PRIMARY KEY, u, v); CREATE UNIQUE INDEX i ON t(abs(u), v)",
        "(k INTEGER PRIMARY KEY, u, v, g AS (u + 1) UNIQUE)",
        "(k INTEGER PRIMARY KEY, u, v); CREATE UNIQUE INDEX i ON t(v) WHERE u > 1",
    ] {
        let base = format!(
            "CREATE TABLE t{table}; INSERT INTO t(k, u, v) VALUES(1, 1, 'a'), (2, 2, 'b'), (3, 3, 'c')"
        );
        for work in [
            // A swap, a circle, a chain; a value that a deleted row had, and one that a new row takes.
            "UPDATE t SET u = CASE k WHEN 1 THEN -2 ELSE -1 END WHERE k < 3; UPDATE t SET u = -u WHERE u < 0",
            "UPDATE t SET u = -(u % 3 + 1); UPDATE t SET u = -u",
            "UPDATE t SET u = 9 WHERE k = 3; UPDATE t SET u = 3 WHERE k = 2; UPDATE t SET u = 2 WHERE k = 1",
            "DELETE FROM t WHERE k = 1; UPDATE t SET u = 1 WHERE k = 2; INSERT INTO t(k, u, v) VALUES(4, 2, 'd')",
            "UPDATE t SET v = 'z' WHERE k = 3; UPDATE t SET v = 'c' WHERE k = 2; UPDATE t SET v = 'b' WHERE k = 1; UPDATE t SET v = 'a' WHERE k = 3",
        ] {
            let stage = Stage::new(&base);
            stage.local(work).arrives();
            // What others changed of such a row is not lost.
            stage.open("server").execute_batch("DELETE FROM t").unwrap();
            std::fs::copy(stage.path("base"), stage.path("server")).unwrap();
            stage.remote("UPDATE t SET u = 100, v = 'other' WHERE k = 2");
            stage.is_refused();
        }
    }
}

#[test]
fn parents_come_before_their_children_and_go_after_them() {
    let stage = Stage::new(
        "CREATE TABLE a_child(k INTEGER PRIMARY KEY, p REFERENCES parent(k)); CREATE TABLE parent(k INTEGER PRIMARY KEY, q REFERENCES z_root(k));
         CREATE TABLE z_root(k INTEGER PRIMARY KEY, l REFERENCES z_root(k)); CREATE TABLE m(k INTEGER PRIMARY KEY, n REFERENCES n(k)); CREATE TABLE n(k INTEGER PRIMARY KEY, m REFERENCES m(k));
         INSERT INTO z_root VALUES(1, NULL); INSERT INTO parent VALUES(1, 1); INSERT INTO a_child VALUES(1, 1);",
    );
    stage.local(
        "DELETE FROM z_root; DELETE FROM parent; DELETE FROM a_child; INSERT INTO a_child VALUES(2, 2); INSERT INTO parent VALUES(2, 2);
         INSERT INTO z_root VALUES(2, NULL); INSERT INTO m VALUES(1, 1); INSERT INTO n VALUES(1, NULL);",
    );
    // m and n refer to each other: one of them is the first. Also where somebody looks at each statement.
    let server = stage.open("server");
    server.pragma_update(None, "foreign_keys", true).unwrap();
    run(&server, &stage.steps()).unwrap();
    assert_eq!(stage.content("server"), stage.content("current"));
}
