//! Database files as images, and what SQL says of them.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};

use aquifer_client::diff::{Diff, Key, RowChange};
use aquifer_format::{PageSize, Pgno};
use aquifer_sqlite::ReadPages;
use aquifer_sqlite::btree::Value;
use rusqlite::Connection;

/// A database file, with a note of what is read of it.
pub(crate) struct File {
    size: PageSize,
    bytes: Vec<u8>,
    pub(crate) read: Arc<Mutex<BTreeSet<Pgno>>>,
}

impl File {
    pub(crate) fn open(path: &Path) -> File {
        File::of(std::fs::read(path).unwrap())
    }

    pub(crate) fn of(bytes: Vec<u8>) -> File {
        let size = bytes.get(16..18).map_or(4096, |b| u32::from(b[0]) << 8 | u32::from(b[1]));
        let size = PageSize::new(if size == 1 { 65_536 } else { size }).unwrap();
        File { size, bytes, read: Arc::default() }
    }

    fn page(&self, index: usize) -> Option<&[u8]> {
        self.bytes.get(index * self.size.bytes()..(index + 1) * self.size.bytes())
    }
}

impl ReadPages for File {
    fn page_size(&self) -> PageSize {
        self.size
    }

    fn pages(&self) -> u32 {
        (self.bytes.len() / self.size.bytes()) as u32
    }

    fn read(&mut self, pgno: Pgno, page: &mut [u8]) -> bool {
        self.read.lock().unwrap().insert(pgno);
        self.page(pgno.index()).is_some_and(|bytes| {
            page.copy_from_slice(bytes);
            true
        })
    }
}

/// The pages that differ.
pub(crate) fn changed(base: &File, current: &File) -> Vec<Pgno> {
    Pgno::up_to(base.pages().min(current.pages()))
        .filter(|p| base.page(p.index()) != current.page(p.index()))
        .collect()
}

pub(crate) fn diff(base: &Path, current: &Path) -> Diff {
    let (base, current) = (File::open(base), File::open(current));
    let changed = changed(&base, &current);
    Diff::between(Box::new(base), Box::new(current), changed).unwrap()
}

/// All rows of all tables that differ, by table.
pub(crate) fn all_rows(diff: &Diff) -> Vec<(String, Vec<RowChange>)> {
    let rows = |table| diff.rows(table).unwrap().collect::<Result<Vec<_>, _>>().unwrap();
    diff.tables()
        .iter()
        .map(|table| (table.name.clone(), rows(table)))
        .filter(|(_, rows)| !rows.is_empty())
        .collect()
}

pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

pub(crate) fn select(db: &Connection, sql: &str) -> Vec<Vec<Value>> {
    let mut statement = db.prepare(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
    let columns = statement.column_count();
    let rows = statement.query_map([], |row| (0..columns).map(|i| row.get(i)).collect());
    rows.unwrap().collect::<rusqlite::Result<_>>().unwrap()
}

/// A table's rows: by what each is found, and its values, in the order of the keys.
pub(crate) fn rows(db: &Connection, table: &aquifer_client::diff::Table) -> Vec<(Key, Vec<Value>)> {
    let columns: Vec<_> = table.columns.iter().map(|name| quoted(name)).collect();
    let columns = columns.join(", ");
    let name = quoted(&table.name);
    let primary = table.primary_key();
    if primary.is_empty() {
        let rowid = table.rowid().expect("no test takes all names of the rowid");
        let rows = select(db, &format!("SELECT {rowid}, {columns} FROM {name} ORDER BY {rowid}"));
        rows.into_iter()
            .map(|mut row| match row.remove(0) {
                Value::Integer(rowid) => (Key::Rowid(rowid), row),
                other => panic!("{other:?}"),
            })
            .collect()
    } else {
        let rows = select(db, &format!("SELECT {columns} FROM {name}"));
        rows.into_iter()
            .map(|row| (Key::Primary(primary.iter().map(|&column| row[column].clone()).collect()), row))
            .collect()
    }
}

/// Everything in a database that a diff is to lead to.
pub(crate) fn dump(db: &Connection) -> Vec<String> {
    let mut lines = Vec::new();
    // A rowid that no column shows is nobody's: VACUUM changes it.
    let names = "SELECT name FROM pragma_table_list WHERE type = 'table' AND schema = 'main'
                 AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY 1";
    for row in select(db, names) {
        let [Value::Text(name)] = &row[..] else { panic!("{row:?}") };
        let name = quoted(std::str::from_utf8(name).unwrap());
        lines.extend(
            select(db, &format!("SELECT * FROM {name}")).into_iter().map(|row| format!("{name}: {row:?}")),
        );
    }
    let schema = select(
        db,
        "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE sql NOT NULL AND name NOT LIKE 'sqlite%'",
    );
    let sequences = select(db, "SELECT name FROM sqlite_schema WHERE name = 'sqlite_sequence'");
    if !sequences.is_empty() {
        lines.extend(
            select(db, "SELECT name, seq FROM sqlite_sequence").into_iter().map(|row| format!("{row:?}")),
        );
    }
    lines.extend(schema.into_iter().map(|row| {
        let text = |value: &Value| match value {
            Value::Text(text) => String::from_utf8(text.clone()).unwrap(),
            _ => String::new(),
        };
        row.iter().map(text).collect::<Vec<_>>().join(" ")
    }));
    lines.sort();
    lines
}
