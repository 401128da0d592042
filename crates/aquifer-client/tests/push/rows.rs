//! What is sent of rows, and what it does not touch.

use aquifer_client::diff::RowChange;
use aquifer_client::push::{Decision, PushError, PushRow, Transform};
use aquifer_sqlite::btree::Value;

use crate::files::select;
use crate::server::{Stage, run};

#[test]
fn each_guard_sees_what_the_server_has_changed_meanwhile() {
    let table = "CREATE TABLE t(k INTEGER PRIMARY KEY, a, b); INSERT INTO t VALUES(1, 'x', 1), (2, 'y', 2)";
    let bare = "CREATE TABLE t(k, a, b); INSERT INTO t VALUES(1, 'x', 1), (2, 'y', 2)";
    let folded = "CREATE TABLE t(k TEXT COLLATE NOCASE PRIMARY KEY, a COLLATE NOCASE, b) WITHOUT ROWID;
                  INSERT INTO t VALUES('k', 'x', 1), ('l', 'y', 2)";
    let pairs = "CREATE TABLE t(k, n, a COLLATE NOCASE, b, PRIMARY KEY(k, n)) WITHOUT ROWID; INSERT INTO t VALUES(1, 1, 'x', 1), (1, 2, 'y', 2)";
    for (base, local, remote) in [
        (table, "UPDATE t SET a = 'mine' WHERE k = 1", "UPDATE t SET a = 'X' WHERE k = 1"),
        (table, "UPDATE t SET a = 'mine' WHERE k = 1", "UPDATE t SET a = NULL WHERE k = 1"),
        (table, "UPDATE t SET a = 'mine'", "UPDATE t SET a = 'X' WHERE k = 2"),
        (table, "UPDATE t SET a = 'mine'", "DELETE FROM t WHERE k = 2"),
        // Equal, but not the same.
        (table, "UPDATE t SET b = 7", "UPDATE t SET b = 1.0 WHERE k = 1"),
        (table, "UPDATE t SET b = 7", "UPDATE t SET b = '1' WHERE k = 1"),
        (table, "DELETE FROM t WHERE k = 1", "UPDATE t SET b = 1.0 WHERE k = 1"),
        (table, "DELETE FROM t WHERE k = 1", "UPDATE t SET b = x'31' WHERE k = 1"),
        (table, "DELETE FROM t", "UPDATE t SET b = NULL WHERE k = 2"),
        (table, "DELETE FROM t WHERE k = 1", "DELETE FROM t WHERE k = 1"),
        (table, "INSERT INTO t VALUES(3, 1, 1)", "INSERT INTO t VALUES(3, 1, 1)"),
        (table, "INSERT INTO t VALUES(3, 1, 1), (4, 1, 1)", "INSERT INTO t VALUES(4, NULL, NULL)"),
        (table, "UPDATE t SET k = 9 WHERE k = 1", "INSERT INTO t VALUES(9, 1, 1)"),
        // Rowids that nobody shows are others after this, and the columns in question are the same.
        (bare, "UPDATE t SET b = 3 WHERE b = 1", "UPDATE t SET a = 'X' WHERE b = 1"),
        (bare, "DELETE FROM t WHERE b = 1", "UPDATE t SET a = 'X' WHERE b = 1"),
        (bare, "INSERT INTO t VALUES(3, 3, 3)", "INSERT INTO t VALUES(4, 4, 4)"),
        // Equal by the column's collation.
        (folded, "UPDATE t SET a = 'mine' WHERE k = 'k'", "UPDATE t SET a = 'X' WHERE k = 'k'"),
        (folded, "DELETE FROM t WHERE k = 'k'", "UPDATE t SET a = 'X' WHERE k = 'k'"),
        (folded, "DELETE FROM t WHERE k = 'k'", "UPDATE t SET k = 'K' WHERE k = 'k'"),
        (folded, "INSERT INTO t VALUES('m', 1, 1)", "INSERT INTO t VALUES('M', 1, 1)"),
        (pairs, "DELETE FROM t", "UPDATE t SET b = 1.0 WHERE n = 1"),
        (pairs, "DELETE FROM t", "UPDATE t SET a = NULL WHERE n = 2"),
        (pairs, "DELETE FROM t", "UPDATE t SET a = 'X' WHERE n = 1"),
        (pairs, "UPDATE t SET a = 'mine'", "UPDATE t SET a = NULL WHERE n = 2"),
        (pairs, "UPDATE t SET n = n + 10", "UPDATE t SET n = 11 WHERE n = 2"),
        // What a table says of conflicts does not matter.
        (
            "CREATE TABLE t(k INTEGER PRIMARY KEY ON CONFLICT REPLACE, a UNIQUE ON CONFLICT IGNORE, b)",
            "INSERT INTO t VALUES(1, 1, 1)",
            "INSERT INTO t VALUES(1, 2, 2)",
        ),
        (
            "CREATE TABLE t(k INTEGER PRIMARY KEY, a UNIQUE ON CONFLICT REPLACE, b); INSERT INTO t VALUES(1, 1, 1), (2, 2, 2)",
            "UPDATE t SET a = 3 WHERE k = 1",
            "UPDATE t SET a = 3 WHERE k = 2",
        ),
    ] {
        let stage = Stage::new(base);
        stage.local(local);
        stage.remote(remote);
        stage.is_refused();
        // And alone it goes through.
        std::fs::copy(stage.path("base"), stage.path("server")).unwrap();
        stage.arrives();
    }
}

#[test]
fn changes_of_other_rows_and_columns_stay() {
    let stage = Stage::new(
        "CREATE TABLE t(k INTEGER PRIMARY KEY, a, b); INSERT INTO t VALUES(1, 'x', 1), (2, 'y', 2), (3, 'z', 3)",
    );
    stage.local(
        "UPDATE t SET a = 'mine' WHERE k < 3; DELETE FROM t WHERE k = 3; INSERT INTO t VALUES(4, 4, 4)",
    );
    stage.remote("UPDATE t SET b = b * 10 WHERE k < 3; INSERT INTO t VALUES(5, 5, 5)");
    stage.push().unwrap();
    let (int, mine) = (Value::Integer, || Value::Text(b"mine".to_vec()));
    let expected = [
        vec![int(1), mine(), int(10)],
        vec![int(2), mine(), int(20)],
        vec![int(4), int(4), int(4)],
        vec![int(5), int(5), int(5)],
    ];
    assert_eq!(select(&stage.open("server"), "SELECT * FROM t ORDER BY k"), expected);
}

#[test]
fn values_of_every_kind_arrive_as_they_are() {
    for encoding in ["UTF-8", "UTF-16le"] {
        for table in
            ["(k INTEGER PRIMARY KEY, v, w)", "(k INT, v, w)", "(k INT PRIMARY KEY, v, w) WITHOUT ROWID"]
        {
            let stage = Stage::new(&format!(
                "PRAGMA encoding='{encoding}'; CREATE TABLE t{table};
                 INSERT INTO t VALUES(1, 9e999, 1), (2, -9e999, 2), (3, 'a' || char(0) || 'b', 3), (4, x'', 4), (5, '', 5), (6, 0.1, 6), (7, -0.0, 7),
                 (8, 9223372036854775807, 8), (9, -9223372036854775808, 9), (10, 9007199254740993, 10), (11, char(55357), 11), (12, CAST(x'ff41' AS TEXT), 12);
                 INSERT INTO t SELECT k + 100, v, w FROM t; INSERT INTO t SELECT k + 200, v, w FROM t WHERE k < 100;"
            ));
            stage.local("INSERT INTO t SELECT k + 1000, v, w FROM t; UPDATE t SET w = v, v = w WHERE k < 100; DELETE FROM t WHERE k BETWEEN 100 AND 199");
            stage.arrives();
            for step in stage.steps() {
                for arg in step.args {
                    match arg {
                        Value::Real(n) => assert!(n.is_finite()),
                        Value::Text(text) => assert!(std::str::from_utf8(&text).is_ok()),
                        _ => {}
                    }
                }
            }
        }
    }
}

#[test]
fn long_values_are_compared_by_samples_and_are_not_sent_to_be_compared() {
    for (encoding, value) in [
        ("UTF-8", "randomblob(300000)"),
        ("UTF-8", "hex(randomblob(200000))"),
        ("UTF-8", "replace(hex(randomblob(200000)), 'A', 'ä')"),
        ("UTF-16le", "replace(hex(randomblob(200000)), 'A', 'ä')"),
        ("UTF-16be", "randomblob(300001)"),
    ] {
        let base = format!(
            "PRAGMA encoding='{encoding}'; CREATE TABLE t(k INTEGER PRIMARY KEY, v); CREATE TABLE h(v);
             INSERT INTO t VALUES(1, {value}), (2, {value}); INSERT INTO h SELECT v FROM t WHERE k = 1;"
        );
        let work = "DELETE FROM t WHERE k = 1; UPDATE t SET v = 1 WHERE k = 2; DELETE FROM h";
        let stage = Stage::new(&base);
        stage.local(work).arrives();
        let sent: usize = stage
            .steps()
            .iter()
            .map(|step| step.sql.len() + step.args.iter().map(length).sum::<usize>())
            .sum();
        assert!(sent < 100_000, "{sent}");
        for remote in [
            "UPDATE t SET v = substr(v, 1, length(v) - 1) WHERE k = 1",
            "UPDATE t SET v = CAST(v || ' ' AS TEXT) WHERE k = 2",
            "UPDATE t SET v = zeroblob(length(v)) WHERE k = 2",
            "UPDATE t SET v = x'00' || substr(v, 2) WHERE k = 1",
            "UPDATE t SET v = substr(v, 1, length(v) - 1) || x'00' WHERE k = 1",
            "UPDATE h SET v = NULL",
        ] {
            let stage = Stage::new(&base);
            stage.local(work).remote(remote);
            stage.is_refused();
        }
    }
}

fn length(value: &Value) -> usize {
    match value {
        Value::Text(bytes) | Value::Blob(bytes) => bytes.len(),
        _ => 8,
    }
}

#[test]
fn many_rows_are_few_statements_of_few_texts() {
    let stage = Stage::new(
        "CREATE TABLE t(k INTEGER PRIMARY KEY, a, b, c); CREATE TABLE w(k, l, v, PRIMARY KEY(k, l)) WITHOUT ROWID;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9000) INSERT INTO t SELECT i, 'a' || i, i, NULL FROM n;
         INSERT INTO w SELECT k % 10, k, a FROM t;",
    );
    stage.local(
        "UPDATE t SET b = -b WHERE k % 3 = 0; UPDATE t SET c = a WHERE k % 3 = 1; DELETE FROM t WHERE k % 9 = 2;
         INSERT INTO t SELECT k + 10000, a, b, c FROM t WHERE k % 3 = 0; DELETE FROM w WHERE k = 7; UPDATE w SET v = v || '!' WHERE k = 3",
    );
    let (steps, summary) = stage.prepared(&|_| true, None).unwrap();
    assert_eq!(summary.rows, 3000 + 3000 + 1000 + 3000 + 900 + 900);
    let texts: std::collections::BTreeSet<_> = steps.iter().map(|step| &step.sql).collect();
    assert!(steps.len() < 500, "{}", steps.len());
    assert!(texts.len() < 60, "{}", texts.len());
    // Servers do not keep longer ones prepared.
    assert!(texts.iter().all(|sql| sql.len() <= 4096), "{:?}", texts.iter().map(|sql| sql.len()).max());
    stage.arrives();
}

#[test]
fn rows_are_found_by_their_keys_not_by_a_scan() {
    let stage = Stage::new(
        "CREATE TABLE t(k INTEGER PRIMARY KEY, a); CREATE TABLE h(a, b);
         CREATE TABLE one(k TEXT COLLATE NOCASE PRIMARY KEY, v) WITHOUT ROWID; CREATE TABLE two(k, l, v, PRIMARY KEY(k, l)) WITHOUT ROWID;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) INSERT INTO t SELECT i, i FROM n;
         INSERT INTO h SELECT k, a FROM t; INSERT INTO one SELECT k, a FROM t; INSERT INTO two SELECT 1, k, a FROM t; ANALYZE;",
    );
    for table in ["t SET a", "h SET b", "one SET v", "two SET v"] {
        let (name, column) = table.split_once(" SET ").unwrap();
        stage.local(&format!(
            "UPDATE {table} = -1 WHERE {column} < 90; DELETE FROM {name} WHERE {column} > 19900"
        ));
    }
    let server = stage.open("server");
    let mut seen = 0;
    for step in stage.steps() {
        if !step.sql.starts_with("UPDATE") && !step.sql.starts_with("DELETE") {
            continue;
        }
        seen += 1;
        let plan = format!("EXPLAIN QUERY PLAN {}", step.sql);
        let mut explain = server.prepare(&plan).unwrap();
        let args = rusqlite::params_from_iter(&step.args);
        let lines = explain.query_map(args, |row| row.get::<_, String>(3)).unwrap().map(Result::unwrap);
        for line in lines {
            let is_of_values =
                line.contains("SCAN v") || line.contains("CONSTANT ROW") || line.contains("VALUES CLAUSE");
            assert!(!line.contains("SCAN") || is_of_values, "{}: {line}", step.sql);
            // By all of the key, where many rows have the first part of it.
            assert!(!step.sql.contains("\"two\"") || !line.contains("(k=?)"), "{}: {line}", step.sql);
        }
    }
    assert!(seen > 8);
}

struct Hook(fn(&PushRow<'_>) -> Decision);

impl Transform for Hook {
    fn row(&self, row: &PushRow<'_>) -> Decision {
        (self.0)(row)
    }
}

#[test]
fn a_transform_keeps_skips_and_rewrites_rows() {
    let stage =
        Stage::new("CREATE TABLE t(k INTEGER PRIMARY KEY, a); INSERT INTO t VALUES(1, 1), (2, 2), (3, 3)");
    stage.local("UPDATE t SET a = -a; DELETE FROM t WHERE k = 3; INSERT INTO t VALUES(4, 4), (5, 5)");
    let hook = Hook(|row| match row.change {
        RowChange::Update { old, .. } if old[0] == Value::Integer(1) => Decision::Skip,
        // As it was: there is nothing to push. Of a row that is gone there is nothing else to say.
        RowChange::Update { old, .. } | RowChange::Delete { old, .. } => Decision::Rewrite(old.clone()),
        RowChange::Insert { new, .. } if new[0] == Value::Integer(4) => {
            assert_eq!((row.table, row.columns), ("t", &["k".to_owned(), "a".to_owned()][..]));
            Decision::Rewrite(vec![Value::Integer(40), Value::Null])
        }
        RowChange::Insert { .. } => Decision::Keep,
    });
    let (steps, summary) = stage.prepared(&|_| true, Some(&hook)).unwrap();
    assert_eq!((summary.rows, summary.skipped), (3, 2));
    run(&stage.open("server"), &steps).unwrap();
    let int = Value::Integer;
    let expected = [[int(1), int(1)], [int(2), int(2)], [int(5), int(5)], [int(40), Value::Null]]
        .map(|row| row.to_vec());
    assert_eq!(select(&stage.open("server"), "SELECT * FROM t ORDER BY k"), expected);
    let short = Hook(|_| Decision::Rewrite(Vec::new()));
    let refused = stage.prepared(&|_| true, Some(&short));
    assert!(matches!(refused, Err(PushError::Transform { given: 0, columns: 2, .. })), "{refused:?}");
}

#[test]
fn rows_that_are_too_large_to_be_held_are_read_again() {
    let stage = Stage::new(
        "CREATE TABLE t(k INTEGER PRIMARY KEY, a, b); INSERT INTO t VALUES(1, 1, 1), (2, 2, 2), (3, 3, 3)",
    );
    stage.local(
        "WITH RECURSIVE n(i) AS (SELECT 10 UNION ALL SELECT i + 1 FROM n WHERE i < 30) INSERT INTO t SELECT i, randomblob(1700000), i FROM n;
         UPDATE t SET b = -b WHERE k < 3; DELETE FROM t WHERE k = 3",
    );
    stage.arrives();
    let hook = Hook(|row| match row.change {
        RowChange::Insert { new, .. } if new[0] == Value::Integer(20) => Decision::Skip,
        _ => Decision::Keep,
    });
    let (steps, summary) = stage.prepared(&|_| true, Some(&hook)).unwrap();
    assert_eq!((summary.rows, summary.skipped), (3 + 20, 1));
    let inserted = steps.iter().filter(|step| step.sql.starts_with("INSERT"));
    assert!(inserted.map(|step| &step.args[0]).all(|k| *k != Value::Integer(20)));
}

#[test]
fn a_table_whose_rows_no_sql_can_name_is_an_error() {
    let stage = Stage::new("CREATE TABLE t(rowid TEXT, oid TEXT, _rowid_ TEXT)");
    stage.local("INSERT INTO t VALUES(1, 2, 3)");
    let refused = stage.prepared(&|_| true, None);
    assert!(matches!(&refused, Err(PushError::NoRowid { table }) if table == "t"), "{refused:?}");
    assert!(stage.prepared(&|table| table != "t", None).unwrap().1.is_empty());
}
