//! The same with databases that another process has written, with another build of SQLite.

use std::path::Path;
use std::process::Command;

use aquifer_client::diff::{Key, RowChange};
use aquifer_sqlite::btree::Value;

use crate::files::{all_rows, diff};
use crate::random::check;

const WORK: &str = r#"
import sqlite3, sys, shutil
base, current = sys.argv[1:]
db = sqlite3.connect(base)
db.executescript("""
    CREATE TABLE people(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT COLLATE NOCASE UNIQUE, score REAL, photo BLOB);
    CREATE TABLE tags(person INT REFERENCES people(id), tag TEXT, PRIMARY KEY(tag, person)) WITHOUT ROWID;
    CREATE TABLE log(line);
    CREATE INDEX people_score ON people(score);
    CREATE VIEW best AS SELECT name FROM people WHERE score > 50;
""")
for i in range(3000):
    db.execute("INSERT INTO people(name, score, photo) VALUES(?, ?, ?)", (f"name {i}", i / 10 if i % 3 else i, bytes(i * 3 % 9000)))
    db.execute("INSERT INTO tags VALUES(?, ?)", (i, f"tag {i % 17}"))
    db.execute("INSERT INTO log VALUES(?)", (f"line {i}" if i % 5 else None,))
db.commit()
db.execute("PRAGMA journal_mode=WAL")
db.close()
shutil.copy(base, current)
db = sqlite3.connect(current)
db.execute("UPDATE people SET score = score + 1 WHERE id % 100 = 0")
db.execute("UPDATE people SET name = upper(name) WHERE id = 77")
db.execute("UPDATE people SET photo = zeroblob(length(photo) - 1) || x'07' WHERE id = 2999")
db.execute("DELETE FROM tags WHERE person BETWEEN 100 AND 160")
db.execute("INSERT INTO tags SELECT id, 'new' FROM people WHERE id < 50")
db.execute("DELETE FROM people WHERE id > 2990 AND id <> 2999")
db.execute("ALTER TABLE log ADD COLUMN level INT DEFAULT 3")
db.execute("UPDATE log SET level = 4 WHERE rowid = 10")
db.execute("ALTER TABLE people RENAME COLUMN photo TO picture")
db.execute("CREATE TABLE notes(body)")
db.execute("INSERT INTO notes VALUES('a note')")
db.commit()
if WITH_VACUUM:
    db.execute("VACUUM")
db.close()
"#;

const COLLATED: &str = r#"
import sqlite3, sys, shutil
base, current = sys.argv[1:]
def open(path):
    db = sqlite3.connect(path)
    db.create_collation("backwards", lambda a, b: (a.lower() < b.lower()) - (a.lower() > b.lower()))
    return db
db = open(base)
db.execute("CREATE TABLE t(n, k TEXT COLLATE backwards PRIMARY KEY) WITHOUT ROWID")
db.executemany("INSERT INTO t VALUES(?, ?)", [(i, f"K{i}") for i in range(2000)])
db.commit()
db.close()
shutil.copy(base, current)
db = open(current)
db.execute("UPDATE t SET n = 0 WHERE k = 'K7'")
db.execute("UPDATE t SET k = 'k8' WHERE k = 'K8'")
db.execute("DELETE FROM t WHERE k = 'K9'")
db.commit()
"#;

fn run(program: &str, base: &Path, current: &Path) {
    assert!(Command::new("python3").arg("-c").arg(program).args([base, current]).status().unwrap().success());
}

#[test]
fn rows_in_an_order_that_only_an_application_knows_are_matched_by_their_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let (base, current) = (dir.path().join("base.db"), dir.path().join("current.db"));
    run(COLLATED, &base, &current);
    let row = |n, k: &str| vec![Value::Integer(n), Value::Text(k.as_bytes().to_vec())];
    let key = |k: &str| Key::Primary(vec![Value::Text(k.as_bytes().to_vec())]);
    let delete = |n, k| RowChange::Delete { key: key(k), old: row(n, k) };
    let insert = |n, k| RowChange::Insert { key: key(k), new: row(n, k) };
    let mut expected =
        vec![delete(7, "K7"), delete(8, "K8"), delete(9, "K9"), insert(0, "K7"), insert(8, "k8")];
    let mut found = all_rows(&diff(&base, &current)).remove(0).1;
    let text = |row: &RowChange| format!("{row:?}");
    found.sort_by_key(text);
    expected.sort_by_key(text);
    assert_eq!(found, expected);
}

#[test]
fn what_another_program_has_written_is_compared_alike_also_when_all_of_it_was_rewritten() {
    for vacuum in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (base, current) = (dir.path().join("base.db"), dir.path().join("current.db"));
        let work = WORK.replace("WITH_VACUUM", if vacuum { "True" } else { "False" });
        run(&work, &base, &current);
        check(&base, &current);
    }
}
