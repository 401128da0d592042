//! Random work on both sides: a push applies all of it, or nothing because of what the server has.

use std::collections::BTreeMap;

use aquifer_client::diff::{Key, RowChange, Table};
use aquifer_sqlite::btree::Value;
use proptest::prelude::*;
use rusqlite::Connection;

use crate::files::{diff, dump, rows, select};
use crate::server::{Stage, run};
use crate::workload::{cases, step, text};

type Rows = BTreeMap<String, Vec<Value>>;

/// A table's rows by their keys.
fn by_key(db: &Connection, table: &Table) -> Rows {
    rows(db, table).into_iter().map(|(key, row)| (key_of(&key), row)).collect()
}

fn key_of(key: &Key) -> String {
    format!("{key:?}")
}

fn definition(db: &Connection, table: &str) -> Vec<Vec<Value>> {
    let name = table.replace('\'', "''");
    select(db, &format!("SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = '{name}'"))
}

/// All objects of the schema: their SQL by type and name.
fn objects(db: &Connection) -> BTreeMap<(String, String), String> {
    let rows = select(
        db,
        "SELECT type, name, sql FROM sqlite_schema WHERE sql NOT NULL AND name NOT LIKE 'sqlite%'",
    );
    rows.iter().map(|row| ((text(&row[0]), text(&row[1])), text(&row[2]))).collect()
}

/// What two changes of a row make of it that do not know each other; an error if only one of them can be there.
fn merged(
    base: Option<&Vec<Value>>,
    ours: Option<&Vec<Value>>,
    theirs: Option<&Vec<Value>>,
) -> Result<Option<Vec<Value>>, &'static str> {
    if ours == base {
        return Ok(theirs.cloned());
    }
    if theirs == base {
        return Ok(ours.cloned());
    }
    let (Some(base), Some(ours), Some(theirs)) = (base, ours, theirs) else { return Err("one or the other") };
    let column = |i: usize| match (ours[i] == base[i], theirs[i] == base[i]) {
        (true, _) => Ok(theirs[i].clone()),
        (_, true) => Ok(ours[i].clone()),
        _ => Err("one value or the other"),
    };
    (0..base.len()).map(column).collect::<Result<_, _>>().map(Some)
}

fn counted(rows: impl IntoIterator<Item = Vec<Value>>, by: i64, count: &mut BTreeMap<String, i64>) {
    for row in rows {
        *count.entry(format!("{row:?}")).or_default() += by;
    }
}

/// Nothing of what the server had and the client did not know is gone.
fn check(stage: &Stage, server_before: &Connection) {
    let (base, current, server) = (stage.open("base"), stage.open("current"), stage.open("server"));
    let local = diff(&stage.path("base"), &stage.path("current"));
    for table in local.tables() {
        let name = &table.name;
        let all = [&base, &current, server_before, &server].map(|db| definition(db, name));
        if all[0].is_empty() || !all.iter().all(|sql| *sql == all[0]) {
            continue;
        }
        if table.has_hidden_rowid() {
            // Which row is which is known by its values only.
            let mut count = BTreeMap::new();
            counted(rows(server_before, table).into_iter().map(|row| row.1), 1, &mut count);
            for change in local.rows(table).unwrap() {
                let (old, new) = match change.unwrap() {
                    RowChange::Insert { new, .. } => (None, Some(new)),
                    RowChange::Delete { old, .. } => (Some(old), None),
                    RowChange::Update { old, new, .. } => (Some(old), Some(new)),
                };
                counted(old, -1, &mut count);
                assert!(count.values().all(|&n| n >= 0), "{name}: a row was changed that was not there");
                counted(new, 1, &mut count);
            }
            counted(rows(&server, table).into_iter().map(|row| row.1), -1, &mut count);
            assert!(count.values().all(|&n| n == 0), "{name}: {count:?}");
            continue;
        }
        let [base, ours, theirs, after] =
            [&base, &current, server_before, &server].map(|db| by_key(db, table));
        let keys = base.keys().chain(ours.keys()).chain(theirs.keys()).chain(after.keys());
        for key in keys {
            let expected = merged(base.get(key), ours.get(key), theirs.get(key));
            assert_eq!(
                Ok(after.get(key).cloned()),
                expected,
                "{name} {key}: {:?}, {:?} here, {:?} there",
                base.get(key),
                ours.get(key),
                theirs.get(key)
            );
        }
    }
    let [base, ours, theirs, after] = [&base, &current, server_before, &server].map(objects);
    if base == ours {
        assert_eq!(theirs, after);
    }
    for (object, sql) in &theirs {
        if base.get(object) != Some(sql)
            && ours.get(object) == base.get(object)
            && objects_are_apart(&base, &ours)
        {
            assert_eq!(after.get(object), Some(sql), "{object:?}");
        }
    }
}

/// No table was renamed, or a column: these change what others say of it.
fn objects_are_apart(
    base: &BTreeMap<(String, String), String>,
    ours: &BTreeMap<(String, String), String>,
) -> bool {
    base.iter().all(|(object, sql)| object.0 != "table" || ours.get(object) == Some(sql))
}

/// How far AUTOINCREMENT tables have counted. A table that was dropped and made anew begins again, and is the same
/// table all the same: on the server it only counts on.
fn counters(db: &Connection) -> BTreeMap<String, i64> {
    if select(db, "SELECT 1 FROM sqlite_schema WHERE name = 'sqlite_sequence'").is_empty() {
        return BTreeMap::new();
    }
    let rows = select(db, "SELECT name, seq FROM sqlite_sequence");
    let count = |row: &Vec<Value>| match row[1] {
        Value::Integer(count) => (text(&row[0]), count),
        _ => panic!("{row:?}"),
    };
    rows.iter().map(count).collect()
}

/// The lines of a dump that are not about counters.
fn without_counters(lines: Vec<String>) -> Vec<String> {
    lines.into_iter().filter(|line| !line.starts_with('[')).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases()) })]
    #[test]
    fn a_push_is_applied_as_it_is_or_not_at_all_and_overwrites_nothing_unseen(
        encoding in prop::sample::select(vec!["UTF-8", "UTF-8", "UTF-16le"]),
        first in prop::collection::vec((0_u8..28, any::<u64>()), 1..30),
        here in prop::collection::vec((0_u8..28, any::<u64>()), 0..10),
        there in prop::collection::vec((0_u8..28, any::<u64>()), 0..5),
    ) {
        let stage = Stage::empty();
        let db = stage.open("base");
        db.execute_batch(&format!("PRAGMA page_size=1024; PRAGMA encoding='{encoding}'; CREATE TABLE first(k INTEGER PRIMARY KEY, x)")).unwrap();
        let work = |db: &Connection, work: &[(u8, u64)]| work.iter().for_each(|&(kind, seed)| step(db, kind, seed));
        work(&db, &first);
        drop(db);
        stage.begin();
        work(&stage.open("current"), &here);
        // Nobody else was there.
        let steps = stage.steps();
        if let Err(failed) = run(&stage.open("server"), &steps) {
            panic!("{failed:?}");
        }
        let (server, current) = (stage.content("server"), stage.content("current"));
        prop_assert_eq!(without_counters(server), without_counters(current));
        let (server, current) = (counters(&stage.open("server")), counters(&stage.open("current")));
        for (table, count) in &current {
            prop_assert!(server.get(table) >= Some(count), "{}: {:?} < {}", table, server.get(table), count);
        }
        // Somebody else was.
        std::fs::copy(stage.path("base"), stage.path("server")).unwrap();
        work(&stage.open("server"), &there);
        std::fs::copy(stage.path("server"), stage.path("before")).unwrap();
        let before = stage.open("before");
        let is_applied = run(&stage.open("server"), &steps).is_ok();
        if is_applied {
            check(&stage, &before);
        } else {
            prop_assert_eq!(stage.content("server"), dump(&before));
        }
    }
}
