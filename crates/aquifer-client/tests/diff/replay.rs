//! A diff as SQL.

use aquifer_client::diff::{Diff, Key, RowChange, Table};
use aquifer_sqlite::btree::Value;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, params_from_iter};

use crate::files::quoted;

/// Does to a copy of the base what the diff says.
pub(crate) fn replay(diff: &Diff, db: &Connection) {
    db.pragma_update(None, "foreign_keys", false).unwrap();
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false).unwrap();
    let run = |sql: &str| db.execute_batch(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
    run("BEGIN");
    for change in diff.before_rows() {
        run(&change.sql);
    }
    for table in diff.tables() {
        let rows: Vec<_> = diff.rows(table).unwrap().collect::<Result<_, _>>().unwrap();
        // What is to go goes first: unique values may have moved from row to row.
        for row in &rows {
            if let RowChange::Delete { key, .. } | RowChange::Update { key, .. } = row {
                delete(db, table, key);
            }
        }
        for row in &rows {
            if let RowChange::Insert { key, new } | RowChange::Update { key, new, .. } = row {
                insert(db, table, key, new);
            }
        }
    }
    for sequence in diff.sequences() {
        db.execute("DELETE FROM sqlite_sequence WHERE name = ?1", [&sequence.table]).unwrap();
        if let Some(seq) = &sequence.seq {
            db.execute("INSERT INTO sqlite_sequence VALUES(?1, ?2)", (&sequence.table, seq)).unwrap();
        }
    }
    for change in diff.after_rows() {
        run(&change.sql);
    }
    run("COMMIT");
}

fn delete(db: &Connection, table: &Table, key: &Key) {
    let (condition, values) = match key {
        Key::Rowid(rowid) => (format!("{} = ?", table.rowid().unwrap()), vec![Value::Integer(*rowid)]),
        Key::Primary(values) => {
            let columns = table
                .primary_key()
                .into_iter()
                .map(|column| format!("{} = ?", quoted(&table.columns[column])));
            (columns.collect::<Vec<_>>().join(" AND "), values.clone())
        }
    };
    let sql = format!("DELETE FROM {} WHERE {condition}", quoted(&table.name));
    assert_eq!(db.execute(&sql, params_from_iter(values)).unwrap(), 1, "{sql} {key:?}");
}

fn insert(db: &Connection, table: &Table, key: &Key, values: &[Value]) {
    let mut columns: Vec<_> = table.columns.iter().map(|name| quoted(name)).collect();
    let mut values = values.to_vec();
    if let Key::Rowid(rowid) = key {
        if let Some(column) = table.rowid_column() {
            assert_eq!(values[column], Value::Integer(*rowid));
        } else {
            columns.push(table.rowid().unwrap().to_owned());
            values.push(Value::Integer(*rowid));
        }
    }
    let places = vec!["?"; columns.len()].join(", ");
    let sql = format!("INSERT INTO {}({}) VALUES({places})", quoted(&table.name), columns.join(", "));
    db.execute(&sql, params_from_iter(&values)).unwrap_or_else(|e| panic!("{sql} {values:?}: {e}"));
}
