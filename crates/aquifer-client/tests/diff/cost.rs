//! What a comparison reads.

use std::path::{Path, PathBuf};

use aquifer_client::diff::Diff;
use aquifer_sqlite::btree::Value;
use rusqlite::Connection;

use crate::files::{File, all_rows, changed, select};

/// A database with 30,000 rows in tables of both kinds, and a copy of it.
fn databases(dir: &Path) -> (PathBuf, Connection, PathBuf) {
    let (base, current) = (dir.join("base.db"), dir.join("current.db"));
    let db = Connection::open(&base).unwrap();
    db.execute_batch(
        "PRAGMA page_size=1024; PRAGMA synchronous=OFF;
         CREATE TABLE t(k INTEGER PRIMARY KEY, v TEXT, n INT); CREATE INDEX t_v ON t(v);
         CREATE TABLE w(k TEXT PRIMARY KEY, v) WITHOUT ROWID; CREATE TABLE other(x, y);
         CREATE TABLE long(k INTEGER PRIMARY KEY, v BLOB);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000)
         INSERT INTO t SELECT i, 'the value of row ' || i, i % 100 FROM n;
         INSERT INTO w SELECT 'key ' || k, v FROM t; INSERT INTO other SELECT k, v FROM t WHERE n > 50;
         INSERT INTO long SELECT k, randomblob(9000) FROM t WHERE k <= 300;",
    )
    .unwrap();
    drop(db);
    std::fs::copy(&base, &current).unwrap();
    let db = Connection::open(&current).unwrap();
    db.pragma_update(None, "synchronous", "off").unwrap();
    (base, db, current)
}

fn number(db: &Connection, sql: &str) -> usize {
    match select(db, sql)[..] {
        [ref row] => match row[..] {
            [Value::Integer(n)] => n as usize,
            _ => panic!("{row:?}"),
        },
        _ => panic!("{sql}"),
    }
}

/// Pages of both images that a comparison reads, rows that it finds, and pages that have changed.
fn compared(base: &Path, current: &Path) -> (usize, usize, usize) {
    let (base, current) = (File::open(base), File::open(current));
    let changed = changed(&base, &current);
    let count = changed.len();
    let read = [base.read.clone(), current.read.clone()];
    let diff = Diff::between(Box::new(base), Box::new(current), changed).unwrap();
    let rows = all_rows(&diff).iter().map(|(_, rows)| rows.len()).sum();
    let read = read.iter().map(|read| read.lock().unwrap().len()).sum();
    (read, rows, count)
}

#[test]
fn pages_that_are_read_follow_those_that_changed_and_interior_pages() {
    let dir = tempfile::tempdir().unwrap();
    let (base, db, current) = databases(dir.path());
    let all = number(&db, "SELECT count(*) FROM dbstat");
    let interior =
        number(&db, "SELECT count(*) FROM dbstat WHERE pagetype = 'internal' AND name NOT LIKE 't_v'");
    assert!(all > 4000 && interior < all / 10, "{interior} of {all}");
    // The schema, and the first page of each level of each tree: to know how deep it is.
    let fixed = 40;
    let mut rows = 0;
    for work in [
        "",
        "UPDATE t SET n = -1 WHERE k = 20000",
        "UPDATE w SET v = 1 WHERE k IN ('key 5', 'key 777')",
        "DELETE FROM t WHERE k = 12345",
        // Without a key of their own; these rows may cancel out with none.
        "UPDATE other SET y = y || '!' WHERE x IN (8060, 20060)",
        "INSERT INTO t SELECT -k, v, n FROM t WHERE k BETWEEN 1 AND 300",
    ] {
        rows += db.execute(work, []).unwrap_or_default();
        let (read, found, changed) = compared(&base, &current);
        assert_eq!(found, rows, "{work}");
        let most = 2 * (interior + 2 * changed) + fixed;
        assert!(
            read <= most && read < all / 2,
            "{work}: {read} pages read, {changed} changed, {most} expected"
        );
    }
}

#[test]
fn the_rows_of_overflow_pages_are_found_without_reading_all_chains() {
    for (work, differs_at) in [
        // A page in the middle of a chain is all that is written.
        ("UPDATE long SET v = ?1 WHERE k = 150", 5000..5001),
        // The leaf and all of the chain, page by page.
        ("UPDATE long SET v = ?1 WHERE k = 150", 0..9000),
        // The chain becomes free, and is overwritten.
        ("DELETE FROM long WHERE k = 150 AND v <> ?1", 0..9000),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (base, db, current) = databases(dir.path());
        db.pragma_update(None, "secure_delete", true).unwrap();
        let mut blob: Vec<u8> =
            db.query_row("SELECT v FROM long WHERE k = 150", [], |row| row.get(0)).unwrap();
        blob[differs_at].iter_mut().for_each(|byte| *byte ^= 1);
        assert_eq!(db.execute(work, [&blob]).unwrap(), 1);
        let (base, current) = (File::open(&base), File::open(&current));
        let changed = changed(&base, &current);
        let read = current.read.clone();
        let diff = Diff::between(Box::new(base), Box::new(current), changed).unwrap();
        assert_eq!(all_rows(&diff).iter().map(|(_, rows)| rows.len()).sum::<usize>(), 1, "{work}");
        let chains = select(&db, "SELECT pageno FROM dbstat WHERE name = 'long' AND pagetype = 'overflow'");
        let is_read = |row: &&Vec<Value>| match row[0] {
            Value::Integer(n) => read.lock().unwrap().iter().any(|pgno| i64::from(pgno.get()) == n),
            _ => panic!("{row:?}"),
        };
        let walked = chains.iter().filter(is_read).count();
        assert!(chains.len() > 2000 && walked < 100, "{work}: {walked} of {}", chains.len());
    }
}
