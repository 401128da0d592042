//! Random work on both sides, on few rows, so that they meet.

use std::collections::{BTreeMap, BTreeSet};

use aquifer_client::rebase::{Conflict, Row};
use aquifer_sqlite::btree::Value;
use proptest::prelude::*;
use rusqlite::Connection;

use crate::files::{dump, select};
use crate::stage::{Rebased, Stage, run};

/// Tables whose rows have keys.
const TABLES: [(&str, &str); 5] = [
    ("t", "CREATE TABLE t(k INTEGER PRIMARY KEY, a INT UNIQUE, b, c)"),
    ("u", "CREATE TABLE u(k TEXT PRIMARY KEY NOT NULL, a, b CHECK(b IS NOT 7), c INT UNIQUE)"),
    ("w", "CREATE TABLE w(j INT, a, k TEXT, b, UNIQUE(a, b), PRIMARY KEY(k, j)) WITHOUT ROWID"),
    ("p", "CREATE TABLE p(k INTEGER PRIMARY KEY, a REFERENCES p(k) ON DELETE SET NULL, b)"),
    ("c", "CREATE TABLE c(k INTEGER PRIMARY KEY, a REFERENCES p(k) ON DELETE CASCADE, b REFERENCES t(a))"),
];
const LOG: &str = "CREATE TABLE l(a, b)";

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

/// One statement. What constraints forbid is left out.
fn step(db: &Connection, kind: u8, seed: u64) {
    let random = &mut Random(seed);
    let (table, _) = TABLES[random.below(TABLES.len() as u64) as usize];
    let (x, y, z, v) = (random.below(12), random.below(12), random.below(12), random.below(12));
    let column = ["a", "b"][random.below(2) as usize];
    let how = ["", "OR REPLACE", "OR IGNORE"][random.below(3) as usize];
    let sql = match (kind, table) {
        (0..=3, "c") => format!(
            "INSERT {how} INTO c VALUES({x}, (SELECT k FROM p LIMIT 1 OFFSET {y}), (SELECT a FROM t LIMIT 1 OFFSET {z}))"
        ),
        (0..=3, "p") => format!("INSERT {how} INTO p VALUES({x}, (SELECT k FROM p LIMIT 1 OFFSET {y}), {z})"),
        (0..=3, "w") => format!("INSERT {how} INTO w VALUES({}, {y}, {x}, {z})", x % 3),
        (0..=3, _) => format!("INSERT {how} INTO {table} VALUES({x}, {y}, {z}, {v})"),
        (4..=8, "c") => format!("UPDATE c SET a = (SELECT k FROM p LIMIT 1 OFFSET {y}) WHERE k = {x}"),
        (4..=8, "p") => format!("UPDATE p SET a = (SELECT k FROM p LIMIT 1 OFFSET {y}) WHERE k = {x}"),
        (4..=8, _) => format!("UPDATE {how} {table} SET {column} = {y} WHERE k = {x}"),
        (9..=11, _) => format!("DELETE FROM {table} WHERE k = {x}"),
        // Unique values change places, which takes more than one statement.
        (12, _) => {
            "PRAGMA defer_foreign_keys=ON; UPDATE t SET a = -1 - a; UPDATE t SET a = 12 + a".to_owned()
        }
        (13, _) => "UPDATE u SET c = -1 - c; UPDATE u SET c = 12 + c".to_owned(),
        (14, _) => format!("UPDATE t SET k = {y} WHERE k = {x}"),
        (15, _) => format!("INSERT INTO l VALUES({x}, {y})"),
        (16, _) => format!("DELETE FROM l WHERE a = {x}; UPDATE l SET b = {y} WHERE a = {z}"),
        (17, _) => "VACUUM".to_owned(),
        (18, _) => format!("CREATE UNIQUE INDEX IF NOT EXISTS tb ON t({column})"),
        _ => "DROP INDEX IF EXISTS tb".to_owned(),
    };
    let _ = db.execute_batch(&format!("BEGIN; {sql}; COMMIT"));
    if !db.is_autocommit() {
        run(db, "ROLLBACK");
    }
    if kind == 17 {
        run(db, "VACUUM");
    }
}

fn work(db: &Connection, steps: &[(u8, u64)]) {
    run(db, "PRAGMA foreign_keys=ON");
    for &(kind, seed) in steps {
        step(db, kind, seed);
    }
}

type Rows = BTreeMap<Vec<String>, Vec<Value>>;

fn key_of(row: &[Value], names: &[String], table: &str) -> Vec<String> {
    let of = |name: &str| format!("{:?}", row[names.iter().position(|n| n == name).unwrap()]);
    if table == "w" { vec![of("k"), of("j")] } else { vec![of("k")] }
}

fn rows(db: &Connection, table: &str) -> (Vec<String>, Rows) {
    let names = db.prepare(&format!("SELECT * FROM {table}")).unwrap();
    let names: Vec<String> = names.column_names().map(str::to_owned).collect();
    let rows = select(db, &format!("SELECT * FROM {table}"));
    let rows = rows.into_iter().map(|row| (key_of(&row, &names, table), row)).collect();
    (names, rows)
}

/// Keys of rows that something was recorded of.
fn recorded(conflicts: &[Conflict], table: &str) -> BTreeSet<Vec<String>> {
    let key = |row: &Row| {
        let (names, values): (Vec<_>, Vec<_>) = row.0.iter().cloned().unzip();
        key_of(&values, &names, table)
    };
    let of = conflicts.iter().filter(|conflict| conflict.table == table);
    of.flat_map(|conflict| conflict.base.iter().chain(&conflict.local)).map(key).collect()
}

fn check(stage: &Stage, rebased: &Rebased) {
    let [base, ours, theirs] = ["base", "ours", "theirs"].map(|side| stage.open(side));
    for (table, _) in TABLES {
        let (names, before) = rows(&base, table);
        let [(_, ours), (_, theirs), (_, now)] = [&ours, &theirs, &rebased.db].map(|db| rows(db, table));
        let told = recorded(&rebased.conflicts, table);
        let keys: BTreeSet<_> =
            before.keys().chain(ours.keys()).chain(theirs.keys()).chain(now.keys()).collect();
        for key in keys {
            let [b, o, t, n] = [&before, &ours, &theirs, &now].map(|rows| rows.get(key));
            let what = format!(
                "{table} {key:?} of {names:?}: base {b:?} ours {o:?} theirs {t:?} now {n:?}: {:?}",
                rebased.messages()
            );
            if told.contains(key) {
                continue;
            }
            if o == b {
                assert_eq!(n, t, "what was not touched here stays: {what}");
            } else if t == b {
                assert_eq!(n, o, "what was not touched there is ours: {what}");
            } else if let (Some(b), Some(o), Some(t)) = (b, o, t) {
                let merged: Vec<_> = (0..b.len()).map(|i| if o[i] == b[i] { &t[i] } else { &o[i] }).collect();
                assert_eq!(n.map(|n| n.iter().collect()), Some(merged), "columns are merged: {what}");
                assert!(
                    (0..b.len()).all(|i| o[i] == b[i] || t[i] == b[i] || o[i] == t[i]),
                    "same column: {what}"
                );
            } else {
                // REPLACE gives a row another rowid: it was deleted and another one inserted.
                assert!(n == o && (o == t || table == "u" && t.is_none()), "recorded: {what}");
            }
        }
    }
    // Nobody sees which rows of the log are which.
    let count = |db: &Connection| match select(db, "SELECT count(*) FROM l")[0][0] {
        Value::Integer(n) => n,
        _ => unreachable!(),
    };
    if rebased.conflicts.iter().all(|conflict| conflict.table != "l") {
        let inserted_and_deleted = count(&ours) - count(&base);
        assert!(
            count(&rebased.db) >= count(&theirs) + inserted_and_deleted.min(0),
            "{:?}",
            rebased.messages()
        );
    }
    let violations = select(&rebased.db, "PRAGMA foreign_key_check");
    assert!(violations.is_empty(), "{violations:?} {:?}", rebased.messages());
}

/// More of them: `AQUIFER_REBASE_CASES`.
fn cases() -> u32 {
    std::env::var("AQUIFER_REBASE_CASES").ok().map_or(64, |cases| cases.parse().unwrap())
}

fn steps(length: std::ops::Range<usize>) -> impl Strategy<Value = Vec<(u8, u64)>> {
    prop::collection::vec((0_u8..20, any::<u64>()), length)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases()) })]
    #[test]
    fn every_row_is_as_its_side_left_it_or_recorded(
        first in steps(0..80), ours in steps(0..30), theirs in steps(0..30),
    ) {
        let stage = Stage::of(|db| {
            for sql in TABLES.iter().map(|table| table.1).chain([LOG]) {
                run(db, sql);
            }
            work(db, &first);
        });
        stage.ours(|db| work(db, &ours));
        // Nothing happened on the server.
        let alone = stage.rebase();
        prop_assert_eq!(alone.recorded(), "");
        prop_assert_eq!(dump(&alone.db), dump(&stage.open("ours")));
        stage.theirs(|db| work(db, &theirs));
        check(&stage, &stage.rebase());
        // Nothing happened here.
        let other = Stage::of(|_| ());
        for side in ["base", "ours"] {
            std::fs::copy(stage.path("base"), other.path(side)).unwrap();
        }
        std::fs::copy(stage.path("theirs"), other.path("theirs")).unwrap();
        let nothing = other.rebase();
        prop_assert!(nothing.conflicts.is_empty() && nothing.overlay.written().is_empty());
    }
}
