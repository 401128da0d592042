//! Cases that a plain replay of statements gets wrong.

use aquifer_client::rebase::{ByDefault, Conflict, Error, Kind, Resolution, Resolver, Row};
use aquifer_sqlite::btree::Value;

use crate::stage::Stage;

/// Both sides' work on a base, what is asked, what comes out, and what is recorded.
fn assert_comes_to(base: &str, ours: &str, theirs: &str, sql: &str, result: &str, recorded: &str) {
    let rebased = Stage::new(base, ours, theirs).rebase();
    let found = (rebased.asked(sql), rebased.recorded());
    assert_eq!(
        found,
        (result.to_owned(), recorded.to_owned()),
        "{ours} / {theirs}: {:?}",
        rebased.messages()
    );
}

#[test]
fn unique_values_that_change_places_do_not_clash() {
    let base = "CREATE TABLE t(k INTEGER PRIMARY KEY, a UNIQUE, b); INSERT INTO t VALUES(1, 1, 0), (2, 2, 0), (3, 3, 0)";
    let swap = "UPDATE t SET a = -a; UPDATE t SET a = 1 + -a % 3";
    assert_comes_to(base, swap, "UPDATE t SET b = k", "SELECT * FROM t", "1 2 1, 2 3 2, 3 1 3", "");
    // A row takes the value of one that is deleted, and leaves its own to one that is new.
    let chain = "DELETE FROM t WHERE k = 1; UPDATE t SET a = 1 WHERE k = 2; INSERT INTO t VALUES(4, 2, 0)";
    assert_comes_to(
        base,
        chain,
        "UPDATE t SET b = 9",
        "SELECT * FROM t WHERE k <> 1",
        "2 1 9, 3 3 9, 4 2 0",
        "delete-update: ours",
    );
}

#[test]
fn a_chain_of_unique_values_whose_end_is_taken_is_taken_back_as_a_whole() {
    let base = "CREATE TABLE t(k INTEGER PRIMARY KEY, a UNIQUE); INSERT INTO t VALUES(1, 1), (2, 2), (3, 3)";
    let shift = "UPDATE t SET a = -a; UPDATE t SET a = 1 - a";
    let rebased = Stage::new(base, shift, "INSERT INTO t VALUES(9, 4)").rebase();
    assert_eq!(rebased.asked("SELECT * FROM t"), "1 1, 2 2, 3 3, 9 4");
    assert_eq!(rebased.recorded(), "unique: theirs, unique: theirs, unique: theirs");
    // Each says what was to be here.
    let ours =
        rebased.conflicts.iter().map(|conflict| conflict.local.as_ref().unwrap().get("A").unwrap().clone());
    let mut ours: Vec<_> = ours.map(|value| format!("{value:?}")).collect();
    ours.sort();
    assert_eq!(ours, ["Integer(2)", "Integer(3)", "Integer(4)"]);
}

#[test]
fn unique_indexes_on_expressions_and_on_some_rows_count_too() {
    let base = "CREATE TABLE t(k INTEGER PRIMARY KEY, a, b, g AS (b || '!')); CREATE UNIQUE INDEX i ON t(lower(a)) WHERE a <> '';
                CREATE UNIQUE INDEX j ON t(g); INSERT INTO t VALUES(1, 'x', 1), (2, '', 2), (3, '', 3)";
    let ours =
        "UPDATE t SET a = 'Y' WHERE k = 1; UPDATE t SET a = 'X' WHERE k = 2; UPDATE t SET b = 4 WHERE k = 3";
    let rebased = Stage::new(base, ours, "INSERT INTO t VALUES(7, 'y', 7), (8, '', 4)").rebase();
    assert_eq!(rebased.asked("SELECT k, a, b FROM t"), "1 x 1, 2  2, 3  3, 7 y 7, 8  4");
    assert_eq!(rebased.recorded(), "unique: theirs, unique: theirs, unique: theirs");
    let keys = rebased.conflicts.iter().map(|conflict| conflict.remote.as_ref().unwrap().get("k").unwrap());
    assert_eq!(
        keys.map(|key| format!("{key:?}")).collect::<Vec<_>>(),
        ["Integer(7)", "Integer(2)", "Integer(8)"]
    );
}

#[test]
fn types_matter_not_only_values() {
    let base = "CREATE TABLE t(k INTEGER PRIMARY KEY, a); INSERT INTO t VALUES(1, 1), (2, '1'), (3, x'31'), (4, 0.0)";
    let theirs =
        "UPDATE t SET a = 1.0 WHERE k = 1; UPDATE t SET a = 1 WHERE k = 2; UPDATE t SET a = '1' WHERE k = 3";
    let told = "delete-update: ours, delete-update: ours, delete-update: ours";
    assert_comes_to(base, "DELETE FROM t", theirs, "SELECT * FROM t", "", told);
}

#[test]
fn a_key_is_one_by_its_collation() {
    let base = "CREATE TABLE t(k TEXT COLLATE NOCASE PRIMARY KEY, a, b) WITHOUT ROWID; INSERT INTO t VALUES('key', 1, 1)";
    assert_comes_to(
        base,
        "UPDATE t SET k = 'KEY', a = 2",
        "UPDATE t SET k = 'Key', b = 2",
        "SELECT * FROM t",
        "KEY 2 2",
        "update-update: ours",
    );
    // Of a table whose rowid is hidden too, and that key may be NULL any number of times.
    let base =
        "CREATE TABLE t(k TEXT COLLATE NOCASE PRIMARY KEY, a); INSERT INTO t VALUES(NULL, 1), (NULL, 2)";
    assert_comes_to(
        base,
        "UPDATE t SET a = 3 WHERE a = 1; INSERT INTO t VALUES('x', 1), (NULL, 4)",
        "UPDATE t SET a = 5 WHERE a = 2; INSERT INTO t VALUES('X', 1), (NULL, 6)",
        "SELECT * FROM t ORDER BY a, k",
        "x 1, NULL 3, NULL 4, NULL 5, NULL 6",
        "insert-insert: ours",
    );
}

#[test]
fn another_row_that_came_to_the_same_hidden_rowid_is_left_alone() {
    let base = "CREATE TABLE u(name TEXT PRIMARY KEY, a); INSERT INTO u VALUES('x', 1), ('y', 2)";
    let theirs = "DELETE FROM u WHERE name = 'y'; INSERT INTO u VALUES('z', 3)";
    let sql = "SELECT * FROM u ORDER BY name";
    assert_comes_to(base, "DELETE FROM u WHERE name = 'y'", theirs, sql, "x 1, z 3", "");
    assert_comes_to(
        base,
        "UPDATE u SET a = 5 WHERE name = 'y'",
        theirs,
        sql,
        "x 1, y 5, z 3",
        "update-delete: ours",
    );
    let base = "CREATE TABLE l(line, a); INSERT INTO l VALUES('x', 1), ('y', 2)";
    let theirs = "DELETE FROM l WHERE line = 'y'; INSERT INTO l VALUES('z', 3)";
    assert_comes_to(base, "DELETE FROM l WHERE line = 'y'", theirs, "SELECT * FROM l", "x 1, z 3", "");
}

#[test]
fn rows_without_keys_are_found_after_the_server_has_vacuumed() {
    let base =
        "CREATE TABLE l(line, a); INSERT INTO l VALUES('v', 0), ('x', 1), ('y', 2), ('y', 2), ('z', 3)";
    let theirs = "DELETE FROM l WHERE line = 'v'; VACUUM";
    let ours =
        "UPDATE l SET a = 9 WHERE rowid = 3; DELETE FROM l WHERE line = 'x'; INSERT INTO l VALUES('new', 0)";
    assert_comes_to(base, ours, theirs, "SELECT * FROM l ORDER BY line, a", "new 0, y 2, y 9, z 3", "");
    // One of two alike was deleted on both sides: the other one stays.
    let delete = "DELETE FROM l WHERE rowid = 3";
    assert_comes_to(base, delete, delete, "SELECT count(*) FROM l WHERE line = 'y'", "1", "");
}

#[test]
fn triggers_do_not_fire_and_generated_columns_follow() {
    let base = "CREATE TABLE t(k INTEGER PRIMARY KEY, a, g AS (a * 2) STORED, h AS (a || 'h')); CREATE TABLE log(n);
                CREATE TRIGGER i AFTER INSERT ON t BEGIN INSERT INTO log VALUES(new.k); END;
                CREATE TRIGGER u AFTER UPDATE ON t BEGIN INSERT INTO log VALUES(-new.k); END; INSERT INTO t(k, a) VALUES(1, 1)";
    assert_comes_to(
        base,
        "UPDATE t SET a = 5; INSERT INTO t(k, a) VALUES(2, 2)",
        "INSERT INTO t(k, a) VALUES(3, 3)",
        "SELECT * FROM t UNION ALL SELECT group_concat(n), '', '', '' FROM (SELECT n FROM log ORDER BY n)",
        "1 5 10 5h, 2 2 4 2h, 3 3 6 3h, -1,1,2,3   ",
        "",
    );
}

#[test]
fn autoincrement_goes_on_after_the_larger_one() {
    let base = "CREATE TABLE t(k INTEGER PRIMARY KEY AUTOINCREMENT, a); INSERT INTO t VALUES(5, 0)";
    let gone = "DELETE FROM t WHERE k > 5";
    for (ours, theirs, seq) in [(20, 30, 30), (40, 30, 40)] {
        let insert = |k: i64| format!("INSERT INTO t VALUES({k}, 1); {gone}");
        assert_comes_to(
            base,
            &insert(ours),
            &insert(theirs),
            "SELECT seq FROM sqlite_sequence",
            &seq.to_string(),
            "",
        );
    }
}

#[test]
fn virtual_tables_are_merged_by_what_they_hold() {
    let base = "CREATE VIRTUAL TABLE f USING fts5(a, b); INSERT INTO f(rowid, a, b) VALUES(1, 'one', 'x'), (2, 'two', 'y');
                CREATE VIRTUAL TABLE r USING rtree(id, x0, x1); INSERT INTO r VALUES(1, 0, 1), (2, 5, 6);
                CREATE TABLE t(a); CREATE VIRTUAL TABLE e USING fts5(a, content='t'); INSERT INTO t VALUES('first');
                INSERT INTO e(rowid, a) VALUES(1, 'first')";
    let stage = Stage::new(
        base,
        "UPDATE f SET a = 'ours' WHERE rowid = 1; INSERT INTO f(rowid, a, b) VALUES(3, 'three', 'ours'); DELETE FROM f WHERE rowid = 2;
         UPDATE r SET x1 = 2.5 WHERE id = 1; INSERT INTO r VALUES(3, 7, 8); INSERT INTO t VALUES('ours'); INSERT INTO e(rowid, a) VALUES(2, 'ours')",
        "UPDATE f SET b = 'theirs' WHERE rowid = 1; INSERT INTO f(rowid, a, b) VALUES(3, 'three', 'theirs');
         DELETE FROM r WHERE id = 2; INSERT INTO r VALUES(3, 1, 8); INSERT INTO t VALUES('theirs'); INSERT INTO e(rowid, a) VALUES(2, 'theirs')",
    );
    let rebased = stage.rebase();
    assert_eq!(rebased.asked("SELECT rowid, * FROM f"), "1 ours theirs, 3 three ours");
    assert_eq!(rebased.asked("SELECT rowid FROM f('ours') ORDER BY 1"), "1, 3");
    assert_eq!(rebased.asked("SELECT * FROM r"), "1 0.0 2.5, 3 7.0 8.0");
    assert_eq!(
        rebased.asked("SELECT t.a FROM e('ours OR theirs') JOIN t ON t.rowid = e.rowid ORDER BY 1"),
        "ours, theirs"
    );
    assert_eq!(rebased.recorded(), "insert-insert: ours, insert-insert: ours");
}

#[test]
fn what_a_view_or_an_index_was_changed_to_on_the_server_stays() {
    let base = "CREATE TABLE t(k INTEGER PRIMARY KEY, a, b); CREATE VIEW v AS SELECT a FROM t; CREATE INDEX i ON t(a); CREATE INDEX j ON t(b)";
    let sql = "SELECT sql FROM sqlite_schema WHERE name IN ('v', 'i', 'j', 'n') ORDER BY name";
    let theirs = "DROP VIEW v; CREATE VIEW v AS SELECT b FROM t; DROP INDEX i; CREATE INDEX i ON t(b, a)";
    // Altering a table makes its views give way for a moment.
    assert_comes_to(
        base,
        "ALTER TABLE t ADD COLUMN c; CREATE INDEX n ON t(c); DROP INDEX j",
        theirs,
        sql,
        "CREATE INDEX i ON t(b, a), CREATE INDEX n ON t(c), CREATE VIEW v AS SELECT b FROM t",
        "",
    );
    let ours = "DROP VIEW v; CREATE VIEW v AS SELECT k FROM t; DROP INDEX i";
    assert_comes_to(
        base,
        ours,
        theirs,
        sql,
        "CREATE INDEX i ON t(b, a), CREATE INDEX j ON t(b), CREATE VIEW v AS SELECT b FROM t",
        "schema: theirs, schema: theirs",
    );
    assert_comes_to(base, theirs, theirs, "SELECT count(*) FROM sqlite_schema", "4", "");
}

#[test]
fn renames_on_both_sides_lead_to_one_table() {
    let base = "CREATE TABLE t(k INTEGER PRIMARY KEY, a, b); INSERT INTO t VALUES(1, 'a', 'b')";
    let ours = "ALTER TABLE t RENAME TO u; UPDATE u SET a = 'ours'";
    assert_comes_to(base, ours, "UPDATE t SET b = 'theirs'", "SELECT * FROM u", "1 ours theirs", "");
    assert_comes_to(
        base,
        ours,
        "ALTER TABLE t RENAME TO u; INSERT INTO u VALUES(2, 'x', 'y')",
        "SELECT * FROM u",
        "1 ours b, 2 x y",
        "",
    );
    assert_comes_to(
        base,
        ours,
        "ALTER TABLE t RENAME TO other",
        "SELECT * FROM other",
        "1 ours b",
        "schema: theirs",
    );
    let ours = "ALTER TABLE t RENAME COLUMN a TO x; UPDATE t SET x = 'ours', b = 'ours'";
    let theirs = "ALTER TABLE t RENAME COLUMN b TO y; INSERT INTO t VALUES(2, 'theirs', 'theirs')";
    assert_comes_to(base, ours, theirs, "SELECT k, x, y FROM t", "1 ours ours, 2 theirs theirs", "");
}

#[test]
fn what_was_taken_back_takes_its_references_along() {
    let base = "CREATE TABLE p(k INTEGER PRIMARY KEY); CREATE TABLE c(k INTEGER PRIMARY KEY, p REFERENCES p);
                CREATE TABLE d(k INTEGER PRIMARY KEY, c REFERENCES c(k)); INSERT INTO p VALUES(1), (2); INSERT INTO c VALUES(5, 2)";
    // Ours refers to what refers to what was deleted.
    assert_comes_to(
        base,
        "INSERT INTO c VALUES(7, 1); INSERT INTO d VALUES(8, 7)",
        "DELETE FROM p WHERE k = 1",
        "SELECT 'c', * FROM c UNION ALL SELECT 'd', * FROM d",
        "c 5 2",
        "missing-parent: theirs, missing-parent: theirs",
    );
    // What comes back needs its own parent.
    assert_comes_to(
        base,
        "DELETE FROM c; DELETE FROM p",
        "INSERT INTO d VALUES(8, 5)",
        "SELECT 'p', k, '' FROM p UNION ALL SELECT 'c', * FROM c UNION ALL SELECT 'd', * FROM d",
        "p 2 , c 5 2, d 8 5",
        "needed-parent: theirs, needed-parent: theirs",
    );
    // What was wrong here before stays as it is.
    assert_comes_to(
        base,
        "INSERT INTO c VALUES(7, 99)",
        "INSERT INTO p VALUES(3)",
        "SELECT * FROM c",
        "5 2, 7 99",
        "",
    );
}

#[test]
fn taking_back_what_refers_to_nothing_ends() {
    // A row that is the server's again does not look like it: it has a column more, with another value than was meant here.
    assert_comes_to(
        "CREATE TABLE p(k INTEGER PRIMARY KEY); CREATE TABLE c(k INTEGER PRIMARY KEY, p REFERENCES p, v);
         INSERT INTO p VALUES(1)",
        "ALTER TABLE c ADD COLUMN stars; INSERT INTO c VALUES(7, 1, 'ours', 4)",
        "INSERT INTO c VALUES(7, 1, 'theirs'); DELETE FROM p",
        "SELECT * FROM c",
        "7 1 theirs NULL",
        "insert-insert: ours, missing-parent: theirs",
    );
    // A chain that is found link by link.
    let base = "CREATE TABLE t(k INTEGER PRIMARY KEY, next REFERENCES t); INSERT INTO t VALUES(100, NULL), (101, NULL)";
    let ours = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 99)
                INSERT INTO t SELECT i, i + 1 FROM n";
    let rebased = Stage::new(base, ours, "DELETE FROM t WHERE k = 100").rebase();
    assert_eq!(rebased.asked("SELECT * FROM t"), "101 NULL");
    assert_eq!(rebased.conflicts.len(), 99);
}

#[test]
fn a_parent_that_comes_back_leaves_rows_that_are_new_here_alone() {
    let base = "CREATE TABLE p(name TEXT PRIMARY KEY, a); INSERT INTO p VALUES('x', 1), ('y', 2);
                CREATE TABLE c(k INTEGER PRIMARY KEY, p REFERENCES p(name))";
    let ours = "DELETE FROM p WHERE name = 'x'; INSERT INTO p VALUES('new', 3)";
    let sql = "SELECT * FROM p ORDER BY a";
    assert_comes_to(
        base,
        ours,
        "INSERT INTO c VALUES(1, 'x')",
        sql,
        "x 1, y 2, new 3",
        "needed-parent: theirs",
    );
    let ours = "UPDATE p SET name = 'z' WHERE name = 'y'; INSERT INTO p VALUES('new', 3)";
    assert_comes_to(
        base,
        ours,
        "INSERT INTO c VALUES(1, 'y')",
        sql,
        "x 1, y 2, new 3",
        "needed-parent: theirs",
    );
}

struct By(fn(&Conflict) -> Resolution);

impl Resolver for By {
    fn resolve(&self, conflict: &Conflict) -> Resolution {
        (self.0)(conflict)
    }
}

#[test]
fn a_resolver_decides_and_what_it_may_not_decide_is_by_default() {
    let base = "CREATE TABLE t(k INTEGER PRIMARY KEY, a UNIQUE, n); INSERT INTO t VALUES(1, 'a', 10), (2, 'b', 10), (3, 'c', 10), (4, 'd', 10)";
    let ours = "UPDATE t SET n = n + 1; DELETE FROM t WHERE k = 3; INSERT INTO t VALUES(7, 'same', 0)";
    let theirs =
        "UPDATE t SET n = n + 5 WHERE k < 4; DELETE FROM t WHERE k = 4; INSERT INTO t VALUES(8, 'same', 0)";
    let stage = Stage::new(base, ours, theirs);
    let sql = "SELECT * FROM t";
    let rebased = stage.rebase_by(&By(|_| Resolution::Theirs));
    assert_eq!(rebased.asked(sql), "1 a 15, 2 b 15, 3 c 15, 8 same 0");
    assert!(
        rebased
            .conflicts
            .iter()
            .all(|conflict| rebased.recorded().contains("theirs") && conflict.kind != Kind::Schema)
    );
    assert_eq!(rebased.conflicts.len(), 5);
    // A counter: what both have added.
    let add = By(|conflict| {
        let value = |row: &Option<Row>| match row.as_ref()?.get("n")? {
            Value::Integer(n) => Some(*n),
            _ => None,
        };
        let sum = || Some(value(&conflict.local)? + value(&conflict.remote)? - value(&conflict.base)?);
        match (conflict.kind, sum()) {
            (Kind::UpdateUpdate, Some(sum)) => {
                Resolution::Row(Row(vec![("n".to_owned(), Value::Integer(sum))]))
            }
            (Kind::Unique, _) => {
                Resolution::Row(Row(vec![("a".to_owned(), Value::Text(b"renamed".to_vec()))]))
            }
            // Not possible: another row has it.
            (Kind::UpdateDelete, _) => {
                Resolution::Row(Row(vec![("a".to_owned(), Value::Text(b"a".to_vec()))]))
            }
            _ => Resolution::Ours,
        }
    });
    let rebased = stage.rebase_by(&add);
    assert_eq!(rebased.asked(sql), "1 a 16, 2 b 16, 4 d 11, 7 renamed 0, 8 same 0");
    assert_eq!(
        rebased.recorded(),
        "delete-update: ours, update-update: resolved, update-update: resolved, update-delete: ours, unique: resolved"
    );
}

#[test]
fn tables_that_take_no_part_are_as_the_server_has_them() {
    let base = "CREATE TABLE t(a); CREATE TABLE mine(a)";
    let ours = "INSERT INTO t VALUES('ours'); INSERT INTO mine VALUES('ours'); CREATE INDEX i ON mine(a); CREATE TABLE mine_too(a)";
    let stage = Stage::new(base, ours, "INSERT INTO mine VALUES('theirs')");
    let rebased = stage.rebase_of(&|table| !table.starts_with("mine"), &ByDefault).unwrap();
    assert_eq!(rebased.asked("SELECT * FROM t UNION ALL SELECT * FROM mine"), "ours, theirs");
    assert_eq!(rebased.asked("SELECT name FROM sqlite_schema ORDER BY 1"), "mine, t");
}

#[test]
fn a_conflict_that_cannot_be_recorded_is_an_error() {
    let base = "CREATE TABLE t(k INTEGER PRIMARY KEY, a); INSERT INTO t VALUES(1, 1)";
    let stage = Stage::new(base, "UPDATE t SET a = 2", "UPDATE t SET a = 3");
    let mut full = |_| Err("the disk is full".into());
    assert!(matches!(stage.rebase_into(&|_| true, &ByDefault, &mut full), Err(Error::Record(_))));
}

#[test]
fn rows_that_the_server_wrote_to_a_table_that_is_dropped_here_are_recorded() {
    for table in [
        "t(k INTEGER PRIMARY KEY, a)",
        "t(k TEXT PRIMARY KEY, a) WITHOUT ROWID",
        "t(k TEXT PRIMARY KEY, a)",
        "t(k, a)",
    ] {
        let base = format!("CREATE TABLE {table}; INSERT INTO t VALUES(1, 1), (2, 2), (3, 3)");
        let theirs =
            "INSERT INTO t VALUES(4, 4); DELETE FROM t WHERE k = 3; UPDATE t SET a = 'x' WHERE k = 2";
        let rebased = Stage::new(&base, "DROP TABLE t", theirs).rebase();
        assert_eq!(rebased.asked("SELECT count(*) FROM sqlite_schema"), "0");
        let told = if table.contains("PRIMARY KEY") { 2 } else { 1 };
        assert_eq!(rebased.recorded(), vec!["delete-update: ours"; told].join(", "), "{table}");
        assert!(
            rebased.conflicts.iter().any(|conflict| conflict.base.is_none() && conflict.remote.is_some())
        );
    }
    // Made anew here: the same.
    let base = "CREATE TABLE t(k INTEGER PRIMARY KEY, a); INSERT INTO t VALUES(1, 1)";
    let ours = "DROP TABLE t; CREATE TABLE t(a TEXT, k INTEGER PRIMARY KEY)";
    let rebased = Stage::new(base, ours, "UPDATE t SET a = 5").rebase();
    assert_eq!(rebased.recorded(), "delete-update: ours");
}
