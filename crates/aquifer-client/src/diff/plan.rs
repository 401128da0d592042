//! What becomes of each table, and of what belongs to them.

use aquifer_format::Pgno;
use rusqlite::Connection;

use super::alter::{Altered, alterations};
use super::layout::{Key, Layout};
use super::rows::{Order, Place};
use super::schema::{Other, Schema, quoted};
use super::virtual_table::{Content, VirtualTable, rebuild};
use super::{Error, Result, SchemaChange, Sequence};

/// A table that there is now.
#[derive(Debug, Clone)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// The columns that can be written, in its order: the values of its rows are theirs.
    pub columns: Vec<String>,
    pub(super) rows: Rows,
}

/// Where a table's rows are.
#[derive(Debug, Clone)]
pub(super) enum Rows {
    /// In a tree of its own.
    Tree(Tree),
    /// In a shadow table of it.
    Shadow(Tree),
    /// Only the table itself can tell; whether there was one in the base.
    Nodes { had_base: bool },
    /// Nobody can tell, and why.
    Unknown(&'static str),
}

impl Table {
    fn new(now: &Layout, base: Option<(&Layout, &Altered)>) -> Table {
        let values: Vec<_> =
            (0..now.columns.len()).filter(|&column| !now.columns[column].is_generated).collect();
        Table {
            name: now.name.clone(),
            columns: values.iter().map(|&column| now.columns[column].name.clone()).collect(),
            rows: Rows::Tree(Tree {
                now: now.clone(),
                base: base.map(|(layout, altered)| (layout.clone(), altered.columns.clone())),
                values,
            }),
        }
    }

    /// A virtual table that is the same as one of the base, or new. `None`: it has no rows of its own.
    fn of_virtual(now: &VirtualTable, base: Option<&VirtualTable>) -> Option<Table> {
        let rows = match &now.content {
            Content::Shadow(layout) => {
                let count = layout.columns.len();
                let base = base.and_then(|base| match &base.content {
                    Content::Shadow(layout) => Some((layout.clone(), (0..count).map(Some).collect())),
                    _ => None,
                });
                Rows::Shadow(Tree { now: layout.clone(), base, values: (1..count).collect() })
            }
            Content::Nodes => Rows::Nodes { had_base: base.is_some() },
            Content::Elsewhere => return None,
            Content::Unknown(reason) => Rows::Unknown(reason),
        };
        Some(Table { name: now.name.clone(), columns: now.columns.clone(), rows })
    }

    /// The name by which SQL reaches the rowid; `None` for tables without one, and where columns have taken all its names.
    pub fn rowid(&self) -> Option<&'static str> {
        let Rows::Tree(Tree { now, .. }) = &self.rows else { return Some("rowid") };
        now.rowid()
    }

    /// Whether no column shows the rowid: then VACUUM may give its rows other ones.
    pub fn has_hidden_rowid(&self) -> bool {
        matches!(&self.rows, Rows::Tree(tree) if tree.now.key == Key::Rowid(None))
    }

    /// Whether it is a virtual table.
    pub fn is_virtual(&self) -> bool {
        !matches!(self.rows, Rows::Tree(_))
    }

    /// Which of its columns is the rowid, 0-based.
    pub fn rowid_column(&self) -> Option<usize> {
        match &self.rows {
            Rows::Tree(Tree { now: Layout { key: Key::Rowid(Some(alias)), .. }, values, .. }) => {
                values.iter().position(|column| column == alias)
            }
            // An R-tree's first one.
            Rows::Nodes { .. } => Some(0),
            _ => None,
        }
    }

    /// Which of its columns are the primary key of a table WITHOUT ROWID, in the key's order, 0-based; empty for
    /// others.
    pub fn primary_key(&self) -> Vec<usize> {
        let Rows::Tree(Tree { now: Layout { key: Key::Primary(parts), .. }, values, .. }) = &self.rows else {
            return Vec::new();
        };
        parts.iter().filter_map(|part| values.iter().position(|&column| column == part.column)).collect()
    }

    /// The name that it had in the base, and those that its columns had; `None`: it is new, or made anew.
    pub(crate) fn base(&self) -> Option<(&str, Vec<Option<&str>>)> {
        match &self.rows {
            Rows::Tree(tree) => {
                let (layout, columns) = tree.base.as_ref()?;
                let was = |&column: &usize| columns[column].map(|was| layout.columns[was].name.as_str());
                Some((&layout.name, tree.values.iter().map(was).collect()))
            }
            // Virtual tables stay as they are, or are made anew.
            Rows::Shadow(Tree { base: Some(_), .. }) | Rows::Nodes { had_base: true } => {
                Some((&self.name, self.columns.iter().map(|name| Some(name.as_str())).collect()))
            }
            _ => None,
        }
    }

    pub(super) fn unknown(&self, reason: &'static str) -> Error {
        Error::Table { table: self.name.clone(), reason }
    }
}

/// A table's tree in both images.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    now: Layout,
    /// The table of the base that it was, and for each of its columns which one of those it was.
    base: Option<(Layout, Vec<Option<usize>>)>,
    /// Of its columns, those that are the values of its rows.
    values: Vec<usize>,
}

impl Tree {
    pub(super) fn root(&self) -> Pgno {
        self.now.root
    }

    pub(super) fn base_root(&self) -> Option<Pgno> {
        self.base_layout().map(|layout| layout.root)
    }

    pub(super) fn base_layout(&self) -> Option<&Layout> {
        self.base.as_ref().map(|(layout, _)| layout)
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.now
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
        let now = self.values.iter().map(|&column| place(&self.now, column, scratch));
        let now = now.collect::<rusqlite::Result<Vec<_>>>()?;
        let Some((before, columns)) = &self.base else { return Ok((Vec::new(), now)) };
        let before = self.values.iter().map(|&column| match columns[column] {
            Some(was) => place(before, was, scratch),
            // ALTER TABLE ADD COLUMN gives it to all rows.
            None => self.now.default(scratch, column).map(Place::Missing),
        });
        Ok((before.collect::<rusqlite::Result<_>>()?, now))
    }

    pub(super) fn order(&self) -> Order {
        let Key::Primary(parts) = &self.now.key else { return Order::Rowid };
        let known = parts.iter().map(|part| Some((part.collation?, part.is_descending)));
        known.collect::<Option<_>>().map_or(Order::Unknown(parts.len()), Order::Primary)
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
            "trigger" if is_altering => false,
            "trigger" => match before.view(&other.table) {
                // It goes with its view.
                Some(view) => now.others.contains(view),
                None => lives_on(&other.table),
            },
            _ => lives_on(&other.table),
        };
        let mut before_rows = Vec::new();
        let change = |name: &str, sql: String| SchemaChange { name: name.to_owned(), sql };
        let drop = |kind: &str, name: &str| change(name, format!("DROP {kind} {}", quoted(name)));

        // The newest first: views and triggers stand on what is older.
        for other in before.others.iter().rev().filter(|other| !now.others.contains(other) || !stays(other)) {
            before_rows.push(drop(&other.kind.to_ascii_uppercase(), &other.name));
        }
        let is_kept = |(name, table): &(&String, &VirtualTable)| {
            now.virtual_tables.get(*name).is_some_and(|now| now.sql == table.sql)
        };
        for (_, table) in before.virtual_tables.iter().filter(|table| !is_kept(table)) {
            before_rows.push(drop("TABLE", &table.name));
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
        let mut rebuilt = Vec::new();
        for (name, table) in &now.virtual_tables {
            let base = before.virtual_tables.get(name).filter(|base| base.sql == table.sql);
            let mut is_unchanged = base.is_some_and(|base| base.shadows.keys().eq(table.shadows.keys()));
            for (shadow, &root) in base.iter().flat_map(|base| &base.shadows) {
                is_unchanged = is_unchanged && is_same(root, table.shadows[shadow])?;
            }
            if base.is_none() {
                before_rows.push(change(&table.name, table.sql.clone()));
            }
            if !is_unchanged {
                match Table::of_virtual(table, base) {
                    Some(table) => tables.push(table),
                    None => rebuilt.push(change(&table.name, rebuild(&quoted(&table.name)))),
                }
            }
        }
        let new = now.others.iter().filter(|other| !before.others.contains(other) || !stays(other));
        let new = new.map(|other| change(&other.name, other.sql.clone()));
        // Before triggers are there that might be about them.
        let after_rows = rebuilt.into_iter().chain(new).collect();
        Ok(Plan { before_rows, after_rows, sequences: sequences(before, now), tables })
    }
}

fn sequences(before: &Schema, now: &Schema) -> Vec<Sequence> {
    let gone = before.sequences.keys().filter(|table| !now.sequences.contains_key(*table));
    let gone = gone.map(|table| Sequence { table: table.clone(), seq: None });
    let new = now.sequences.iter().filter(|(table, seq)| before.sequences.get(*table) != Some(*seq));
    let new = new.map(|(table, seq)| Sequence { table: table.clone(), seq: Some(seq.clone()) });
    gone.chain(new).collect()
}
