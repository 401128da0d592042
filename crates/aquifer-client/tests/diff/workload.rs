//! Random schemas and random work on them, by stock SQLite.

use aquifer_sqlite::btree::Value;
use rusqlite::{Connection, params_from_iter};

use crate::files::{quoted, select};

/// A small generator: each step has a seed of its own, so that steps can be left out when a failure is made smaller.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn pick<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len() as u64) as usize]
    }

    fn value(&mut self) -> Value {
        match self.below(12) {
            0 => Value::Null,
            1..=3 => Value::Integer(self.below(50) as i64 - 10),
            4 => Value::Integer(self.next() as i64 >> self.below(60)),
            5 => Value::Real(self.below(1000) as f64 / 4.0),
            6 => Value::Blob(vec![self.below(4) as u8; self.below(10) as usize]),
            7 => {
                let length = self.below(4000) as usize;
                Value::Blob(vec![self.next() as u8; length])
            }
            8 => Value::Text("long text ".repeat(self.below(300) as usize).into_bytes()),
            9 => Value::Text(self.pick(&["a", "A", "a ", "ab", "Ä", "", "1", "1.0"]).as_bytes().to_vec()),
            _ => Value::Text(format!("{:x}", self.below(100_000)).into_bytes()),
        }
    }
}

const TABLES: [&str; 10] = [
    "(k INTEGER PRIMARY KEY, a TEXT, r REAL, b BLOB)",
    "(a, b, c DOUBLE)",
    "(k TEXT PRIMARY KEY, n INT UNIQUE, v)",
    "(v BLOB, k TEXT COLLATE NOCASE, n INT, r REAL, PRIMARY KEY(k, n DESC)) WITHOUT ROWID",
    "(a INTEGER PRIMARY KEY AUTOINCREMENT, b)",
    "(a INT, g AS (a * 2) STORED, h AS (a || 'x'), b TEXT)",
    "(k BLOB PRIMARY KEY, v) WITHOUT ROWID",
    "(v REAL, k TEXT COLLATE RTRIM PRIMARY KEY) WITHOUT ROWID",
    "(a REAL, k ANY, b ANY, g REAL AS (a + 1) STORED, PRIMARY KEY(b, k)) STRICT, WITHOUT ROWID",
    "(a INTEGER, b REAL, PRIMARY KEY(a DESC))",
];

fn tables(db: &Connection) -> Vec<String> {
    let tables = select(
        db,
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY name",
    );
    tables.into_iter().map(|row| text(&row[0])).collect()
}

pub(crate) fn text(value: &Value) -> String {
    let Value::Text(text) = value else { panic!("{value:?}") };
    String::from_utf8(text.clone()).unwrap()
}

/// One step. What SQLite refuses is left out: constraints, columns that are in use.
pub(crate) fn step(db: &Connection, kind: u8, seed: u64) {
    let random = &mut Random(seed);
    let tables = tables(db);
    if tables.is_empty() || kind < 2 {
        let table = random.pick(&["t", "u", "T v", "w", "x"]);
        let columns = random.pick(&TABLES);
        let _ = db.execute_batch(&format!("CREATE TABLE {}{columns}", quoted(table)));
        return;
    }
    let name = &tables[random.below(tables.len() as u64) as usize];
    let table = quoted(name);
    let info =
        format!("SELECT name, pk FROM pragma_table_xinfo('{}') WHERE hidden = 0", name.replace('\'', "''"));
    let info = select(db, &info);
    let columns: Vec<_> = info.iter().map(|row| quoted(&text(&row[0]))).collect();
    let column = &columns[random.below(columns.len() as u64) as usize];
    let wr = format!("SELECT 1 FROM pragma_table_list WHERE wr AND name = '{}'", name.replace('\'', "''"));
    let key = if select(db, &wr).is_empty() {
        "rowid".to_owned()
    } else {
        let parts = info.iter().zip(&columns).filter(|(row, _)| row[1] != Value::Integer(0));
        format!("({})", parts.map(|(_, column)| column.as_str()).collect::<Vec<_>>().join(", "))
    };
    let (offset, limit) = (random.below(200), 1 + random.below(30));
    let some = format!(
        "{key} IN (SELECT {} FROM {table} LIMIT {limit} OFFSET {offset})",
        key.trim_matches(['(', ')'])
    );
    let run = |sql: String| drop(db.execute_batch(&sql));
    match kind {
        2..=6 => {
            let how = random.pick(&["IGNORE", "REPLACE"]);
            let places = vec!["?"; columns.len()].join(", ");
            let sql = format!("INSERT OR {how} INTO {table}({}) VALUES({places})", columns.join(", "));
            let _ = db.execute_batch("BEGIN");
            for _ in 0..random.below(120) {
                let values: Vec<_> = columns.iter().map(|_| random.value()).collect();
                let _ = db.execute(&sql, params_from_iter(values));
            }
            let _ = db.execute_batch("COMMIT");
        }
        7..=9 => {
            let sql = format!("UPDATE OR IGNORE {table} SET {column} = ?1 WHERE {some}");
            let _ = db.execute(&sql, [random.value()]);
        }
        10 | 11 => run(format!("DELETE FROM {table} WHERE {some}")),
        12 | 13 => {
            // The same length, and another end: SQLite writes it over the old one.
            run(format!(
                "UPDATE {table} SET {column} = substr({column}, 1, length({column}) - 1) || 'Z'
                         WHERE typeof({column}) = 'text' AND length({column}) > 500"
            ));
            run(format!(
                "UPDATE {table} SET {column} = zeroblob(length({column})) WHERE typeof({column}) = 'blob' AND {some}"
            ));
        }
        14 => {
            let definition = random.pick(&[
                "c9 DEFAULT 7",
                "\"d (,'\" REAL DEFAULT 3",
                "e DECIMAL(4, 2) DEFAULT '5'",
                "f",
                "g2 AS (1)",
                "h INT DEFAULT (-1)",
            ]);
            run(format!("ALTER TABLE {table} ADD COLUMN {definition}"));
        }
        15 => run(format!("ALTER TABLE {table} DROP COLUMN {column}")),
        16 => run(format!("ALTER TABLE {table} RENAME COLUMN {column} TO n{}", random.below(5))),
        17 => run(format!("ALTER TABLE {table} RENAME TO {}", random.pick(&["t", "u", "y", "Z"]))),
        18 => run(format!("DROP TABLE {table}")),
        19 => {
            let sql = select(
                db,
                &format!("SELECT sql FROM sqlite_schema WHERE name = '{}'", name.replace('\'', "''")),
            );
            run(format!("DROP TABLE {table}; {}", text(&sql[0][0])));
        }
        20 => run(format!("CREATE INDEX i{} ON {table}({column})", random.below(4))),
        21 => run(format!("CREATE VIEW v{} AS SELECT {column} FROM {table}", random.below(3))),
        22 => run(format!(
            "CREATE TRIGGER g{} AFTER DELETE ON {table} BEGIN UPDATE {table} SET {column} = 1; END",
            random.below(3)
        )),
        23 => {
            let n = random.below(3);
            run(random.pick(&["DROP INDEX i", "DROP VIEW v", "DROP TRIGGER g"]).to_owned() + &n.to_string());
        }
        24 | 25 => run("VACUUM".to_owned()),
        26 => run(format!("DELETE FROM {table}")),
        _ => run("ANALYZE".to_owned()),
    }
}

/// More of them: `AQUIFER_DIFF_CASES`.
pub(crate) fn cases() -> u32 {
    std::env::var("AQUIFER_DIFF_CASES").ok().map_or(48, |cases| cases.parse().unwrap())
}
