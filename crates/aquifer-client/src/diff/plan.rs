//! What becomes of each table, and of what belongs to them.

use aquifer_format::Pgno;
use rusqlite::Connection;

use super::alter::{Altered, alterations};
use super::layout::{Key, Layout};
use super::rows::{Order, Place};
use super::schema::{Other, Schema, quoted};
use super::{Error, Result, SchemaChange, Sequence};

/// A table that there is now.
#[derive(Debug, Clone)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// The columns that can be written, in its order: the values of its rows are theirs.
    pub columns: Vec<String>,
    now: Layout,
    /// The table of the base that it was, and for each of its columns which one of those it was.
    base: Option<(Layout, Vec<Option<usize>>)>,
}

impl Table {
    fn new(now: &Layout, base: Option<(&Layout, &Altered)>) -> Table {
        Table {
            name: now.name.clone(),
            columns: now.writable().map(|column| now.columns[column].name.clone()).collect(),
            now: now.clone(),
            base: base.map(|(layout, altered)| (layout.clone(), altered.columns.clone())),
        }
    }

    /// The name by which SQL reaches the rowid; `None` for tables without one, and where columns have taken all its names.
    pub fn rowid(&self) -> Option<&'static str> {
        let is_free =
            |name: &&str| !self.now.columns.iter().any(|column| column.name.eq_ignore_ascii_case(name));
        matches!(self.now.key, Key::Rowid(_))
            .then(|| ["rowid", "_rowid_", "oid"].into_iter().find(is_free))?
    }

    /// Which of its columns is the rowid, 0-based.
    pub fn rowid_column(&self) -> Option<usize> {
        let Key::Rowid(Some(alias)) = self.now.key else { return None };
        self.now.writable().position(|column| column == alias)
    }

    /// Which of its columns are the primary key of a table WITHOUT ROWID, in the key's order, 0-based; empty for
    /// others.
    pub fn primary_key(&self) -> Vec<usize> {
        let Key::Primary(parts) = &self.now.key else { return Vec::new() };
        parts.iter().filter_map(|part| self.now.writable().position(|column| column == part.column)).collect()
    }

    pub(super) fn root(&self) -> Pgno {
        self.now.root
    }

    pub(super) fn base_root(&self) -> Option<Pgno> {
        self.base.as_ref().map(|(layout, _)| layout.root)
    }

    /// Whether records of equal bytes are equal rows in both images: each value has the place that it had, and columns
    /// were added behind all others only.
    pub(super) fn is_alike(&self) -> bool {
        self.base.as_ref().is_some_and(|(before, columns)| {
            let now = &self.now.stored;
            let was = |i: usize| now.get(i).and_then(|&column| columns[column]);
            (0..before.stored.len().max(now.len())).all(|i| was(i) == before.stored.get(i).copied())
        })
    }

    /// Where the values of its columns are, in records of the base and of now.
    pub(super) fn places(&self, scratch: &Connection) -> rusqlite::Result<(Vec<Place>, Vec<Place>)> {
        let now = self.now.writable().map(|column| place(&self.now, column, scratch));
        let now = now.collect::<rusqlite::Result<Vec<_>>>()?;
        let Some((before, columns)) = &self.base else { return Ok((Vec::new(), now)) };
        let before = self.now.writable().map(|column| match columns[column] {
            Some(was) => place(before, was, scratch),
            // ALTER TABLE ADD COLUMN gives it to all rows.
            None => self.now.default(scratch, column).map(Place::Missing),
        });
        Ok((before.collect::<rusqlite::Result<_>>()?, now))
    }

    pub(super) fn order(&self) -> Result<Order> {
        let Key::Primary(parts) = &self.now.key else { return Ok(Order::Rowid) };
        let parts = parts.iter().map(|part| Some((part.collation?, part.is_descending)));
        parts.collect::<Option<_>>().map(Order::Primary).ok_or_else(|| Error::Table {
            table: self.name.clone(),
            reason: "its primary key has a collation that only its application knows",
        })
    }
}

fn place(layout: &Layout, column: usize, scratch: &Connection) -> rusqlite::Result<Place> {
    if layout.key == Key::Rowid(Some(column)) {
        return Ok(Place::Rowid);
    }
    let at =
        layout.stored.iter().position(|&stored| stored == column).ok_or(rusqlite::Error::InvalidQuery)?;
    let is_real = layout.columns[column].is_real();
    Ok(Place::Stored { at, is_real, default: layout.default(scratch, column)? })
}

/// What leads from one schema to another, and between which tables rows are compared.
pub(super) struct Plan {
    pub(super) before_rows: Vec<SchemaChange>,
    pub(super) after_rows: Vec<SchemaChange>,
    pub(super) sequences: Vec<Sequence>,
    pub(super) tables: Vec<Table>,
}

impl Plan {
    /// `is_same`: whether the trees at two roots hold the same.
    pub(super) fn new(
        before: &Schema,
        now: &Schema,
        is_same: &mut dyn FnMut(Pgno, Pgno) -> Result<bool>,
    ) -> Result<Plan> {
        let altered = alterations(before, now);
        let is_altering = altered.values().any(|altered| !altered.statements.is_empty());
        let lives_on = |table: &str| altered.values().any(|altered| altered.base == table);
        // A view or a trigger that does not fit what is there in between makes SQLite refuse to alter any table.
        let stays = |other: &Other| match other.kind.as_str() {
            "view" => !is_altering,
            "trigger" => {
                !is_altering && (lives_on(&other.table) || !before.tables.contains_key(&other.table))
            }
            _ => lives_on(&other.table),
        };
        let mut before_rows = Vec::new();
        let change = |name: &str, sql: String| SchemaChange { name: name.to_owned(), sql };
        let drop = |kind: &str, name: &str| change(name, format!("DROP {kind} {}", quoted(name)));

        // The newest first: views and triggers stand on what is older.
        for other in before.others.iter().rev().filter(|other| !now.others.contains(other) || !stays(other)) {
            before_rows.push(drop(&other.kind.to_ascii_uppercase(), &other.name));
        }
        for (name, table) in &before.virtual_tables {
            match now.virtual_tables.get(name) {
                Some(same) if same.sql == table.sql => {
                    for (shadow, &root) in &table.shadows {
                        let same = same.shadows.get(shadow).map_or(Ok(false), |&now| is_same(root, now))?;
                        if !same {
                            return Err(virtual_table(&table.name));
                        }
                    }
                }
                _ => before_rows.push(drop("TABLE", &table.name)),
            }
        }
        for (_, table) in before.tables.iter().filter(|(name, _)| !lives_on(name)) {
            before_rows.push(drop("TABLE", &table.name));
        }
        let mut alterations: Vec<_> =
            altered.values().filter(|altered| !altered.statements.is_empty()).collect();
        alterations.sort_by_key(|altered| altered.order);
        for altered in alterations {
            let name = &before.tables[&altered.base].name;
            before_rows.extend(altered.statements.iter().map(|sql| change(name, sql.clone())));
        }
        let mut tables = Vec::new();
        for (name, table) in &now.tables {
            let base = altered.get(name).map(|altered| (&before.tables[&altered.base], altered));
            if base.is_none() {
                before_rows.push(change(&table.name, table.sql.clone()));
            }
            tables.push(Table::new(table, base));
        }
        if let Some(new) = now
            .virtual_tables
            .iter()
            .find(|(name, new)| before.virtual_tables.get(*name).is_none_or(|table| table.sql != new.sql))
        {
            return Err(virtual_table(&new.1.name));
        }
        let new = now.others.iter().filter(|other| !before.others.contains(other) || !stays(other));
        let after_rows = new.map(|other| change(&other.name, other.sql.clone())).collect();
        Ok(Plan { before_rows, after_rows, sequences: sequences(before, now), tables })
    }
}

fn virtual_table(table: &str) -> Error {
    Error::Table { table: table.to_owned(), reason: "it is a virtual table" }
}

fn sequences(before: &Schema, now: &Schema) -> Vec<Sequence> {
    let gone = before.sequences.keys().filter(|table| !now.sequences.contains_key(*table));
    let gone = gone.map(|table| Sequence { table: table.clone(), seq: None });
    let new = now.sequences.iter().filter(|(table, seq)| before.sequences.get(*table) != Some(*seq));
    let new = new.map(|(table, seq)| Sequence { table: table.clone(), seq: Some(seq.clone()) });
    gone.chain(new).collect()
}
