//! What a comparison by pages is easily wrong about.

use std::path::PathBuf;

use aquifer_client::diff::{Diff, Error, Key, RowChange, Setting};
use aquifer_format::Pgno;
use aquifer_sqlite::btree::Value;
use rusqlite::Connection;

use crate::files::{File, all_rows, changed, diff};
use crate::random::check;

pub(crate) struct Databases {
    dir: tempfile::TempDir,
}

impl Databases {
    /// A database, and the same after some work.
    pub(crate) fn new(begin: &str, work: &str) -> Databases {
        let databases = Databases { dir: tempfile::tempdir().unwrap() };
        let run = |path: PathBuf, sql: &str| Connection::open(path).unwrap().execute_batch(sql).unwrap();
        run(databases.base(), begin);
        std::fs::copy(databases.base(), databases.current()).unwrap();
        run(databases.current(), work);
        databases
    }

    pub(crate) fn base(&self) -> PathBuf {
        self.dir.path().join("base.db")
    }

    pub(crate) fn current(&self) -> PathBuf {
        self.dir.path().join("current.db")
    }

    pub(crate) fn rows(&self) -> Vec<RowChange> {
        let diff = diff(&self.base(), &self.current());
        all_rows(&diff).into_iter().flat_map(|(_, rows)| rows).collect()
    }

    /// Everything holds for it that holds for random ones.
    fn check(&self) {
        check(&self.base(), &self.current());
    }
}

pub(crate) const ROWS: &str =
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)";

#[test]
fn a_value_written_over_the_old_one_in_an_overflow_page_is_found() {
    for (table, vacuum) in [
        ("(k INTEGER PRIMARY KEY, v)", 0),
        ("(k INTEGER PRIMARY KEY, v)", 1),
        ("(k INT PRIMARY KEY, v) WITHOUT ROWID", 0),
    ] {
        let databases = Databases::new(
            &format!(
                "PRAGMA page_size=512; PRAGMA auto_vacuum={vacuum}; CREATE TABLE t{table}; CREATE INDEX i ON t(k);
                 {ROWS} INSERT INTO t SELECT i, hex(zeroblob(i % 700)) FROM n; DELETE FROM t WHERE k % 7 = 3;"
            ),
            "UPDATE t SET v = substr(v, 1, length(v) - 1) || '1' WHERE k IN (600, 1300)",
        );
        let (base, current) = (File::open(&databases.base()), File::open(&databases.current()));
        // That only overflow pages have changed is what this is about.
        for pgno in changed(&base, &current).into_iter().filter(|&pgno| pgno != Pgno::ONE) {
            let page = &std::fs::read(databases.current()).unwrap()[pgno.index() * 512..][..4];
            assert_eq!(page[0], 0, "{pgno}");
        }
        let keys: Vec<_> = databases
            .rows()
            .into_iter()
            .map(|row| match row {
                RowChange::Update { old, .. } => old[0].clone(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(keys, [Value::Integer(600), Value::Integer(1300)]);
        databases.check();
    }
}

#[test]
fn a_row_keeps_its_leaf_when_rows_with_long_values_come_and_go_around_it() {
    let databases = Databases::new(
        &format!(
            "PRAGMA page_size=512; CREATE TABLE t(k INTEGER PRIMARY KEY, v); {ROWS} INSERT INTO t SELECT i, zeroblob(i) FROM n;"
        ),
        "DELETE FROM t WHERE k > 1990; INSERT INTO t SELECT 3000 + k, randomblob(900) FROM t WHERE k < 20;
         UPDATE t SET v = randomblob(1000) WHERE k = 1000;",
    );
    assert_eq!(databases.rows().len(), 10 + 19 + 1);
    databases.check();
}

#[test]
fn a_vacuum_changes_nothing() {
    let databases = Databases::new(
        &format!(
            "CREATE TABLE t(k INTEGER PRIMARY KEY, v); CREATE TABLE w(k TEXT PRIMARY KEY, v) WITHOUT ROWID; CREATE INDEX i ON t(v);
             {ROWS} INSERT INTO t SELECT i, 'some text ' || i FROM n; INSERT INTO w SELECT v, k FROM t;
             DELETE FROM t WHERE k % 3 = 0; DELETE FROM w WHERE v % 5 = 0;"
        ),
        "PRAGMA page_size=1024; VACUUM; UPDATE w SET v = 'one' WHERE k = 'some text 1'",
    );
    let old = vec![Value::Text(b"some text 1".to_vec()), Value::Integer(1)];
    let new = vec![old[0].clone(), Value::Text(b"one".to_vec())];
    let update = RowChange::Update { key: Key::Primary(vec![old[0].clone()]), old, new };
    assert_eq!(databases.rows(), [update]);
    databases.check();
}

#[test]
fn a_column_that_took_the_place_of_a_dropped_one_is_not_taken_for_it() {
    // Record by record the bytes are what they were, and mean something else.
    let databases = Databases::new(
        "CREATE TABLE t(k INTEGER PRIMARY KEY, a, b); INSERT INTO t VALUES(1, 'x', 'y'), (2, 'x', 'y');",
        "ALTER TABLE t DROP COLUMN a; ALTER TABLE t ADD COLUMN c; UPDATE t SET b = 'x', c = 'y'",
    );
    let x = |s: &str| Value::Text(s.as_bytes().to_vec());
    for row in databases.rows() {
        let RowChange::Update { old, new, .. } = row else { panic!("{row:?}") };
        assert_eq!((&old[1..], &new[1..]), (&[x("y"), Value::Null][..], &[x("x"), x("y")][..]));
    }
    assert_eq!(databases.rows().len(), 2);
    databases.check();
}

#[test]
fn rows_that_are_shorter_than_their_table_have_the_defaults_of_what_was_added() {
    let databases = Databases::new(
        "CREATE TABLE t(k INTEGER PRIMARY KEY, a); INSERT INTO t VALUES(1, 1), (2, 2), (3, 3);
         CREATE TABLE s(k INTEGER PRIMARY KEY) STRICT; INSERT INTO s VALUES(1)",
        "ALTER TABLE t ADD COLUMN b TEXT DEFAULT 5; ALTER TABLE t ADD COLUMN c REAL DEFAULT 5;
         ALTER TABLE t ADD COLUMN d DEFAULT word; ALTER TABLE s ADD COLUMN x ANY DEFAULT '5'; UPDATE s SET k = 2; UPDATE t SET a = 9 WHERE k = 2; UPDATE t SET b = NULL WHERE k = 3",
    );
    let word = || Value::Text(b"word".to_vec());
    let five = || Value::Text(b"5".to_vec());
    let row = |k, a, b| vec![Value::Integer(k), Value::Integer(a), b, Value::Real(5.0), word()];
    let update = |k, old, new| RowChange::Update { key: Key::Rowid(k), old, new };
    let of_s = |k| vec![Value::Integer(k), five()];
    let expected = [
        RowChange::Delete { key: Key::Rowid(1), old: of_s(1) },
        RowChange::Insert { key: Key::Rowid(2), new: of_s(2) },
        update(2, row(2, 2, five()), row(2, 9, five())),
        update(3, row(3, 3, five()), row(3, 3, Value::Null)),
    ];
    assert_eq!(databases.rows(), expected);
    databases.check();
}

#[test]
fn the_first_contents_of_an_empty_database_are_all_new() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    std::fs::write(dir.path().join("empty.db"), b"").unwrap();
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES(1)").unwrap();
    let forth = diff(&dir.path().join("empty.db"), &path);
    assert_eq!(forth.before_rows().len(), 1);
    let new = vec![Value::Integer(1)];
    assert_eq!(all_rows(&forth), [("t".to_owned(), vec![RowChange::Insert { key: Key::Rowid(1), new }])]);
    let back = diff(&path, &dir.path().join("empty.db"));
    assert_eq!(back.before_rows()[0].sql, "DROP TABLE \"t\"");
}

#[test]
fn pages_of_another_size_have_all_changed_whatever_is_said_of_them() {
    let databases = Databases::new(
        &format!("CREATE TABLE t(k INTEGER PRIMARY KEY, v); {ROWS} INSERT INTO t SELECT i, i FROM n;"),
        "UPDATE t SET v = -1 WHERE k = 1000; PRAGMA page_size=512; VACUUM",
    );
    let (base, current) = (File::open(&databases.base()), File::open(&databases.current()));
    let diff = Diff::between(Box::new(base), Box::new(current), []).unwrap();
    let row = |v| vec![Value::Integer(1000), Value::Integer(v)];
    let update = RowChange::Update { key: Key::Rowid(1000), old: row(1000), new: row(-1) };
    assert_eq!(all_rows(&diff), [("t".to_owned(), vec![update])]);
}

#[test]
fn views_and_triggers_are_out_of_the_way_of_alterations_and_triggers_go_with_their_views() {
    Databases::new(
        "CREATE TABLE t(a, b); CREATE TABLE u(c, d); CREATE VIEW v AS SELECT c FROM u;
         CREATE TABLE w(x); CREATE TRIGGER g AFTER INSERT ON w BEGIN DELETE FROM u WHERE c = 1; END;",
        "DROP TABLE u; CREATE TABLE u(d, c, e); ALTER TABLE t RENAME COLUMN a TO z;",
    )
    .check();
    Databases::new(
        "CREATE TABLE t(a, b); CREATE VIEW v AS SELECT a FROM t;
         CREATE TRIGGER g INSTEAD OF INSERT ON v BEGIN INSERT INTO t(a) VALUES(new.a); END;",
        "DROP VIEW v; CREATE VIEW v AS SELECT a, b FROM t;
         CREATE TRIGGER g INSTEAD OF INSERT ON v BEGIN INSERT INTO t(a) VALUES(new.a); END;",
    )
    .check();
}

#[test]
fn a_chain_of_overflow_pages_in_no_order_is_followed_to_its_row() {
    let databases = Databases::new(
        &format!(
            "PRAGMA page_size=512; CREATE TABLE t(k INTEGER PRIMARY KEY, v);
             {ROWS} INSERT INTO t SELECT i, hex(zeroblob(i % 700)) FROM n;
             DELETE FROM t WHERE k % 7 = 3 AND k > 1000; INSERT INTO t SELECT 5000 + k, hex(zeroblob(2000)) FROM t WHERE k < 20;"
        ),
        "UPDATE t SET v = substr(v, 1, length(v) - 1) || '1' WHERE k BETWEEN 5003 AND 5009",
    );
    assert_eq!(databases.rows().len(), 7);
    databases.check();
}

#[test]
fn rows_that_are_out_of_order_are_an_error_and_no_differences() {
    for table in ["(k INTEGER PRIMARY KEY, v)", "(k PRIMARY KEY, v) WITHOUT ROWID"] {
        let databases =
            Databases::new(&format!("CREATE TABLE t{table}; INSERT INTO t VALUES(1, 1), (2, 2), (3, 3)"), "");
        let mut bytes = std::fs::read(databases.current()).unwrap();
        // The pointers to the first two cells of page 2.
        let at = 4096 + 8;
        bytes[at..at + 4].rotate_left(2);
        std::fs::write(databases.current(), bytes).unwrap();
        let found = diff(&databases.base(), &databases.current());
        let rows: Result<Vec<_>, _> = found.rows(&found.tables()[0]).and_then(Iterator::collect);
        assert!(matches!(rows, Err(Error::Pages { .. })), "{rows:?}");
    }
}

#[test]
fn text_of_another_encoding_is_an_error() {
    let utf16 = Databases::new("CREATE TABLE t(x)", "");
    std::fs::remove_file(utf16.current()).unwrap();
    let other = "PRAGMA encoding='UTF-16le'; CREATE TABLE t(x)";
    Connection::open(utf16.current()).unwrap().execute_batch(other).unwrap();
    let (base, current) = (File::open(&utf16.base()), File::open(&utf16.current()));
    assert!(matches!(Diff::between(Box::new(base), Box::new(current), []), Err(Error::Encodings)));
}

#[test]
fn rows_without_a_key_of_their_own_are_the_same_after_a_vacuum() {
    let begin = format!(
        "CREATE TABLE t(a, b); CREATE TABLE k(a PRIMARY KEY, b REAL); {ROWS} INSERT INTO t SELECT i % 7, hex(zeroblob(i)) FROM n;
         {ROWS} INSERT INTO k SELECT 'key ' || i, i FROM n; DELETE FROM t WHERE rowid % 5 = 0; DELETE FROM k WHERE rowid < 100;"
    );
    assert_eq!(Databases::new(&begin, "VACUUM").rows(), []);
    let of_six = Databases::new(
        "CREATE TABLE t(a); INSERT INTO t VALUES('x'), ('x'), ('x'), ('x'), ('x'), ('x'), ('y')",
        "DELETE FROM t WHERE a = 'x'; INSERT INTO t VALUES('x')",
    );
    assert_eq!(of_six.rows().len(), 5);
    // As often as they are there.
    let begin = format!("{begin} UPDATE t SET b = 'same' WHERE rowid < 1000;");
    let databases = Databases::new(
        &begin,
        "DELETE FROM t WHERE rowid IN (1, 2, 777); VACUUM; UPDATE k SET b = -b WHERE a = 'key 500'; ALTER TABLE t ADD COLUMN c;
         INSERT INTO t(a, b) VALUES(-1, 'new'); DELETE FROM k WHERE a = 'key 2000'",
    );
    let mut lines: Vec<_> = databases
        .rows()
        .iter()
        .map(|row| match row {
            RowChange::Insert { new, .. } => format!("+{:?}", new[0]),
            RowChange::Delete { old, .. } => format!("-{:?}", old[0]),
            // VACUUM leaves rows where they are in a table that has an index.
            RowChange::Update { new, .. } => format!("={:?}", new[0]),
        })
        .collect();
    lines.sort();
    let text = |text: &str| format!("{:?}", Value::Text(text.as_bytes().to_vec()));
    let mut expected: Vec<_> = [777 % 7, 1, 2].map(|n| format!("-{:?}", Value::Integer(n))).into();
    expected.push(format!("={}", text("key 500")));
    expected.extend([format!("-{}", text("key 2000")), format!("+{:?}", Value::Integer(-1))]);
    expected.sort();
    assert_eq!(lines, expected);
    databases.check();
}

#[test]
fn a_row_that_came_where_another_was_before_a_vacuum_gets_a_rowid_that_is_free_in_both() {
    let databases = Databases::new(
        "CREATE TABLE t(a); INSERT INTO t VALUES('w'), ('x'), ('y'), ('z')",
        "DELETE FROM t WHERE a = 'w'; VACUUM; INSERT INTO t VALUES('new')",
    );
    let row = |a: &str| vec![Value::Text(a.as_bytes().to_vec())];
    // Rowid 4 is now the new one's, and in the base it is that of z, which is still there.
    let expected = [
        RowChange::Delete { key: Key::Rowid(1), old: row("w") },
        RowChange::Insert { key: Key::Rowid(5), new: row("new") },
    ];
    assert_eq!(databases.rows(), expected);
    let run = |sql| Connection::open(databases.current()).unwrap().execute_batch(sql).unwrap();
    run("UPDATE t SET rowid = 9223372036854775807 WHERE a = 'z'");
    let found = diff(&databases.base(), &databases.current());
    let rows: Result<Vec<_>, _> = found.rows(&found.tables()[0]).unwrap().collect();
    assert!(matches!(rows, Err(Error::Table { .. })), "{rows:?}");
}

#[test]
fn the_application_s_numbers_in_the_header_are_compared() {
    let databases = Databases::new(
        "PRAGMA user_version = 7; PRAGMA application_id = -3; CREATE TABLE t(a)",
        "PRAGMA user_version = -2",
    );
    let found = diff(&databases.base(), &databases.current());
    assert_eq!(found.settings(), [Setting { name: "user_version", old: 7, value: -2 }]);
    let found = diff(&databases.current(), &databases.base());
    assert_eq!(found.settings(), [Setting { name: "user_version", old: -2, value: 7 }]);
    let run = |sql| Connection::open(databases.current()).unwrap().execute_batch(sql).unwrap();
    run("PRAGMA user_version = 7; PRAGMA application_id = 1952");
    let found = diff(&databases.base(), &databases.current());
    assert_eq!(found.settings(), [Setting { name: "application_id", old: -3, value: 1952 }]);
}
