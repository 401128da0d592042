//! Comparisons of random databases, held against SQL.

use std::path::Path;

use aquifer_client::diff::RowChange;
use aquifer_sqlite::btree::Value;
use proptest::prelude::*;
use rusqlite::Connection;

use crate::files::{all_rows, diff, dump, rows, select};
use crate::replay::replay;
use crate::workload::{cases, step};

/// For tables of one definition in both: what a comparison of all their rows says.
fn compared(base: &Connection, current: &Connection, table: &aquifer_client::diff::Table) -> Vec<RowChange> {
    let (mut before, mut found) = (rows(base, table), Vec::new());
    for (key, new) in rows(current, table) {
        let at = before.iter().position(|(was, _)| *was == key);
        match at.map(|at| before.remove(at)) {
            None => found.push(RowChange::Insert { key, new }),
            Some((_, old)) if old != new => {
                found.push(RowChange::Update { key, old, new });
            }
            Some(_) => {}
        }
    }
    found.extend(before.into_iter().map(|(key, old)| RowChange::Delete { key, old }));
    found
}

/// Keys that differ and are equal by their collation are two rows to a comparison of bytes, and one that changed to SQL.
fn as_bytes(change: RowChange, table: &aquifer_client::diff::Table) -> Vec<RowChange> {
    if let RowChange::Update { key, old, new } = &change {
        let primary = table.primary_key();
        if primary.iter().any(|&column| old[column] != new[column]) {
            let now = aquifer_client::diff::Key::Primary(
                primary.iter().map(|&column| new[column].clone()).collect(),
            );
            return vec![
                RowChange::Delete { key: key.clone(), old: old.clone() },
                RowChange::Insert { key: now, new: new.clone() },
            ];
        }
    }
    vec![change]
}

/// What rows were, and what they are: `-` and `+`, with the values.
fn sides(changes: &[RowChange]) -> impl Iterator<Item = (char, String)> {
    changes.iter().flat_map(|change| {
        let (old, new) = match change {
            RowChange::Insert { new, .. } => (None, Some(new)),
            RowChange::Delete { old, .. } => (Some(old), None),
            RowChange::Update { old, new, .. } => (Some(old), Some(new)),
        };
        let line = |sign| move |row: &Vec<Value>| (sign, format!("{row:?}"));
        old.map(line('-')).into_iter().chain(new.map(line('+')))
    })
}

/// The same without rows that are there on both sides, as often as they are.
fn net(changes: &[RowChange]) -> Vec<(char, String)> {
    let (mut gone, came): (Vec<_>, Vec<_>) = sides(changes).partition(|(sign, _)| *sign == '-');
    let mut net = Vec::new();
    for (sign, row) in came {
        match gone.iter().position(|(_, old)| *old == row) {
            Some(at) => drop(gone.swap_remove(at)),
            None => net.push((sign, row)),
        }
    }
    net.extend(gone);
    net.sort();
    net
}

fn sorted(changes: Vec<RowChange>) -> Vec<String> {
    let mut lines: Vec<_> = changes.into_iter().map(|change| format!("{change:?}")).collect();
    lines.sort();
    lines
}

pub(crate) fn check(base: &Path, current: &Path) {
    let found = diff(base, current);
    let (before, now) = (Connection::open(base).unwrap(), Connection::open(current).unwrap());
    let definition = |db: &Connection, name: &str| {
        select(
            db,
            &format!(
                "SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = '{}'",
                name.replace('\'', "''")
            ),
        )
    };
    for table in found.tables() {
        if definition(&before, &table.name) == definition(&now, &table.name) {
            let rows: Vec<_> = found.rows(table).unwrap().collect::<Result<_, _>>().unwrap();
            let rows = rows.into_iter().flat_map(|change| as_bytes(change, table)).collect::<Vec<_>>();
            let expected = compared(&before, &now, table);
            let net = net(&expected);
            if table.has_hidden_rowid() && net.len() < sides(&expected).count() {
                assert_eq!(self::net(&rows), net, "{}", table.name);
                assert_eq!(sides(&rows).count(), net.len(), "rows that only have another rowid: {rows:?}");
            } else {
                assert_eq!(sorted(rows), sorted(expected), "{}", table.name);
            }
        }
    }
    let copy = base.with_extension("copy");
    std::fs::copy(base, &copy).unwrap();
    let copied = Connection::open(&copy).unwrap();
    replay(&found, &copied);
    assert_eq!(dump(&copied), dump(&now), "{:?} {:?}", found.before_rows(), found.after_rows());
    drop(copied);
    // And what is the same is found to be the same, however it is laid out.
    let again = diff(&copy, current);
    assert_eq!((again.before_rows(), again.after_rows(), again.sequences()), (&[][..], &[][..], &[][..]));
    assert_eq!(all_rows(&again), []);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases()) })]
    #[test]
    fn the_rows_that_differ_are_those_that_sql_finds_and_lead_to_the_same_content(
        log2 in 9_u32..13,
        vacuum in 0_u8..3,
        encoding in prop::sample::select(vec!["UTF-8", "UTF-8", "UTF-16le", "UTF-16be"]),
        first in prop::collection::vec((0_u8..28, any::<u64>()), 1..30),
        then in prop::collection::vec((0_u8..28, any::<u64>()), 0..14),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (base, current) = (dir.path().join("base.db"), dir.path().join("current.db"));
        let db = Connection::open(&base).unwrap();
        db.execute_batch(&format!(
            "PRAGMA page_size={}; PRAGMA auto_vacuum={vacuum}; PRAGMA encoding='{encoding}'; PRAGMA synchronous=OFF;
             PRAGMA foreign_keys=OFF; CREATE TABLE first(k INTEGER PRIMARY KEY, x)", 1 << log2
        )).unwrap();
        for (kind, seed) in first {
            step(&db, kind, seed);
        }
        drop(db);
        std::fs::copy(&base, &current).unwrap();
        let db = Connection::open(&current).unwrap();
        db.pragma_update(None, "synchronous", "off").unwrap();
        for (kind, seed) in then {
            step(&db, kind, seed);
        }
        drop(db);
        check(&base, &current);
    }
}
