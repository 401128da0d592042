//! Tables that are dropped here: rows that the server has written to them meanwhile go too, and are recorded.

use aquifer_sqlite::btree::Value;
use rusqlite::{Connection, OptionalExtension, params_from_iter};

use super::conflict::{Conflict, Kind, Outcome, Row};
use super::target::declared_key;
use super::{Replay, Result};
use crate::diff::layout::{Key, Layout};
use crate::diff::schema::quoted;

impl Replay<'_> {
    /// Compares a table that is the same on both sides by its definition with the base's.
    ///
    /// Of rows that have no key, only those are told that were inserted: which one of the others is which, nobody knows.
    pub(super) fn rows_of_dropped(&mut self, layout: &Layout, base: &Connection) -> Result<()> {
        let columns = layout.columns.iter().filter(|column| !column.is_generated);
        let names: Vec<_> = columns.map(|column| column.name.as_str()).collect();
        let declared = declared_key(base, &layout.name)?;
        let is_hidden = layout.key == Key::Rowid(None) && declared.is_empty();
        let key: Vec<_> = if declared.is_empty() {
            layout.rowid().map(str::to_owned).into_iter().collect()
        } else {
            declared.iter().map(|name| quoted(name)).collect()
        };
        if key.is_empty() {
            return Ok(());
        }
        let list: Vec<_> = names.iter().map(|name| quoted(name)).collect();
        let table = quoted(&layout.name);
        let all = format!("SELECT {}, {} FROM {table}", key.join(", "), list.join(", "));
        let same: Vec<_> = key.iter().map(|key| format!("{key} IS ?")).collect();
        let one = format!("SELECT {} FROM {table} WHERE {}", list.join(", "), same.join(" AND "));
        let last = if is_hidden {
            base.query_row(&format!("SELECT max({}) FROM {table}", key[0]), [], |row| row.get(0))?
        } else {
            None::<i64>
        };
        let (mut all, mut one) = (self.remote.prepare(&all)?, base.prepare(&one)?);
        let mut rows = all.query([])?;
        while let Some(row) = rows.next()? {
            let value = |i: usize| row.get::<_, Value>(i);
            let at = (0..key.len()).map(value).collect::<rusqlite::Result<Vec<_>>>()?;
            if last.is_some_and(|last| matches!(at[0], Value::Integer(rowid) if rowid <= last)) {
                continue;
            }
            let theirs =
                (key.len()..key.len() + names.len()).map(value).collect::<rusqlite::Result<Vec<_>>>()?;
            let values = |row: &rusqlite::Row<'_>| (0..names.len()).map(|i| row.get(i)).collect();
            let before: Option<Vec<Value>> = one.query_row(params_from_iter(&at), values).optional()?;
            if before.as_ref() != Some(&theirs) {
                let named = |values: &[Value]| Row::new(names.iter().copied(), values);
                self.record(Conflict {
                    kind: Kind::DeleteUpdate,
                    table: layout.name.clone(),
                    base: before.as_deref().map(named),
                    local: None,
                    remote: Some(named(&theirs)),
                    statement: None,
                    outcome: Outcome::Ours,
                    message: format!(
                        "table {} was dropped here, and a row of it was written on the server",
                        layout.name
                    ),
                })?;
            }
        }
        Ok(())
    }
}
