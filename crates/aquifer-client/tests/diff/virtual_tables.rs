//! Tables whose rows are in other tables.

use aquifer_client::diff::{Error, Key, RowChange};
use aquifer_sqlite::btree::Value;
use rusqlite::Connection;

use crate::files::{diff, select};
use crate::replay::replay;
use crate::traps::{Databases, ROWS};

/// What a database's virtual tables are asked, after the diff was applied to a copy of the base.
fn asked_of_replayed(databases: &Databases, questions: &[&str]) {
    let found = diff(&databases.base(), &databases.current());
    let copy = Connection::open(databases.base()).unwrap();
    replay(&found, &copy);
    let current = Connection::open(databases.current()).unwrap();
    for question in questions {
        let expected = select(&current, question);
        assert!(!expected.is_empty(), "{question}");
        assert_eq!(select(&copy, question), expected, "{question}");
    }
    assert_eq!(select(&copy, "PRAGMA integrity_check"), [[Value::Text(b"ok".to_vec())]]);
}

#[test]
fn full_text_tables_are_compared_by_their_texts() {
    let begin = "CREATE VIRTUAL TABLE f USING fts5(title, body UNINDEXED); CREATE TABLE f_mine(x);
                 CREATE VIRTUAL TABLE gone USING fts5(x); INSERT INTO f_mine VALUES(1);
                 INSERT INTO f(rowid, title, body) VALUES(-1, 'one two', 1), (5, 'three', 2), (7, 'four', NULL);";
    let same = Databases::new(begin, "INSERT INTO f_mine VALUES(2); INSERT INTO f(f) VALUES('optimize')");
    assert_eq!(same.rows().len(), 1, "the one beside it, whose name is like a shadow's");
    let databases = Databases::new(
        begin,
        "INSERT INTO f VALUES('three times three', x'00'); DELETE FROM f WHERE rowid = 7; DROP TABLE gone;
         UPDATE f SET title = 'two' WHERE rowid = -1; CREATE VIRTUAL TABLE new USING fts5(y); INSERT INTO new VALUES('word')",
    );
    let row = |title: &str, body| vec![Value::Text(title.as_bytes().to_vec()), body];
    let update = RowChange::Update {
        key: Key::Rowid(-1),
        old: row("one two", Value::Integer(1)),
        new: row("two", Value::Integer(1)),
    };
    assert_eq!(databases.rows()[0], update);
    asked_of_replayed(
        &databases,
        &[
            "SELECT rowid, * FROM f",
            "SELECT rowid FROM f('three') ORDER BY rowid",
            "SELECT rowid FROM f('two')",
            "SELECT * FROM new('word')",
            "SELECT count(*) FROM f('four')",
            "SELECT name FROM sqlite_schema ORDER BY name",
        ],
    );
}

#[test]
fn a_full_text_index_over_another_table_is_built_again_and_one_without_texts_is_refused() {
    let databases = Databases::new(
        "CREATE TABLE t(a); CREATE VIRTUAL TABLE f USING fts5(a, content='t'); CREATE VIRTUAL TABLE none USING fts5(a, content='');
         CREATE VIRTUAL TABLE locales USING fts5(a, locale=1);
         CREATE TRIGGER g AFTER INSERT ON t BEGIN INSERT INTO f(rowid, a) VALUES(new.rowid, new.a); END; INSERT INTO t VALUES('one')",
        "INSERT INTO t VALUES('two')",
    );
    asked_of_replayed(&databases, &["SELECT rowid FROM f('two')", "SELECT rowid FROM f('one')"]);
    // Its rows are nowhere: nothing is said of them as long as nothing has changed.
    let run = |sql| Connection::open(databases.current()).unwrap().execute_batch(sql).unwrap();
    run("INSERT INTO none(rowid, a) VALUES(1, 'x'); INSERT INTO locales VALUES('x')");
    let found = diff(&databases.base(), &databases.current());
    for name in ["none", "locales"] {
        let refused = found.tables().iter().find(|table| table.name == name).unwrap();
        assert!(matches!(found.rows(refused), Err(Error::Table { table, .. }) if table == name));
    }
}

#[test]
fn r_trees_are_compared_by_their_boxes() {
    let begin = format!(
        "CREATE VIRTUAL TABLE r USING rtree(id, x0, x1, y0, y1, +label); CREATE VIRTUAL TABLE i USING rtree_i32(id, a, b);
         {ROWS} INSERT INTO r SELECT i * 3, i, i + 0.5, -i, i, 'box ' || i FROM n; INSERT INTO i VALUES(1, 2, 3);"
    );
    let databases = Databases::new(
        &begin,
        "UPDATE r SET x0 = -7.25 WHERE id = 900; DELETE FROM r WHERE id BETWEEN 3000 AND 3060;
         INSERT INTO r VALUES(-4, 1, 2, 3, 4, NULL), (9223372036854775807, 1, 2, 3, 4, 'last'); UPDATE r SET label = 'other' WHERE id = 1500;",
    );
    assert_eq!(databases.rows().len(), 1 + 21 + 2 + 1);
    let found = diff(&databases.base(), &databases.current());
    assert_eq!(found.tables().iter().find(|table| table.name == "r").unwrap().rowid_column(), Some(0));
    asked_of_replayed(
        &databases,
        &["SELECT * FROM r ORDER BY id", "SELECT id FROM r WHERE x0 < 0 ORDER BY id"],
    );
    assert_eq!(Databases::new(&begin, "VACUUM").rows(), []);
}
