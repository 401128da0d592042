//! Which table of the image a local table is, and how its rows are found there.

use std::collections::BTreeMap;

use aquifer_sqlite::btree::Value;
use rusqlite::{Connection, params_from_iter};

use super::conflict::Row;
use super::{Error, Replay, Result};
use crate::diff::alter::{Altered, alterations};
use crate::diff::layout::{Key, Layout};
use crate::diff::schema::{Schema, quoted};
use crate::diff::virtual_table::Content;
use crate::diff::{self, Side, Table};

/// All local tables whose rows may have changed.
pub(super) struct Targets(pub(super) Vec<Target>);

/// A table of the image, for the rows of a local one.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) table: Table,
    /// Its name in the image.
    pub(super) name: String,
    /// What it was called when both sides had the same.
    pub(super) base: Option<String>,
    /// What the server calls it; `None`: it is new here.
    pub(super) remote: Option<String>,
    /// The rowid, where no column is it, and all columns: what is selected.
    pub(super) list: String,
    /// Its columns that can be written. Empty: there is no such table.
    pub(super) columns: Vec<Column>,
    /// For each local column, which one it is.
    pub(super) locals: Vec<Option<usize>>,
    /// The columns that a row is found by, if they are not NULL. Empty: there are none.
    pub(super) key: Vec<usize>,
    /// The name of the rowid, where no column is it.
    pub(super) rowid: Option<&'static str>,
    /// Whether nobody sees the rowid, so that it may be any.
    pub(super) is_hidden: bool,
    /// Whether there is a key, and not all of its columns are known here.
    pub(super) is_unreachable: bool,
}

#[derive(Debug)]
pub(super) struct Column {
    pub(super) name: String,
    /// The name as SQL has it.
    pub(super) sql: String,
    /// Which one of the local columns it is.
    pub(super) local: Option<usize>,
    /// What the server calls it.
    pub(super) remote: Option<String>,
}

/// What one row is found by.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum At {
    /// Values of [`Target::key`].
    Key(Vec<Value>),
    Rowid(i64),
}

/// A row that was found.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) at: At,
    /// The rowid, where no column is it.
    pub(super) rowid: Option<i64>,
    /// Of [`Target::columns`].
    pub(super) values: Vec<Value>,
}

impl Targets {
    pub(super) fn new(replay: &Replay<'_>) -> Result<Targets> {
        let tables = replay.local.tables().iter().filter(|table| replay.takes_part(&table.name));
        let tables: Vec<_> = tables.collect();
        if tables.is_empty() {
            return Ok(Targets(Vec::new()));
        }
        let base = Schema::of(&replay.local.open(Side::Base)?)?;
        let (remote, now) = (Schema::of(replay.remote)?, Schema::of(replay.onto)?);
        let ways = Ways {
            from_base: alterations(&base, &now),
            from_remote: alterations(&remote, &now),
            base,
            remote,
            now,
        };
        tables.into_iter().map(|table| ways.target(replay.onto, table)).collect::<Result<_>>().map(Targets)
    }

    /// The target of a local table.
    pub(super) fn of(&self, table: &str) -> Option<&Target> {
        self.0.iter().find(|target| target.table.name.eq_ignore_ascii_case(table))
    }

    /// The target that is a table of the image.
    pub(super) fn named(&self, name: &str) -> Option<&Target> {
        self.0.iter().find(|target| target.name.eq_ignore_ascii_case(name) && target.is_there())
    }
}

/// How the image's tables came to be what they are.
struct Ways {
    base: Schema,
    remote: Schema,
    now: Schema,
    from_base: BTreeMap<String, Altered>,
    from_remote: BTreeMap<String, Altered>,
}

impl Ways {
    fn target(&self, onto: &Connection, table: &Table) -> Result<Target> {
        let was = table.base();
        let base = was.as_ref().map(|(name, _)| (*name).to_owned());
        let mut target = Target {
            table: table.clone(),
            name: table.name.clone(),
            base,
            remote: None,
            list: String::new(),
            columns: Vec::new(),
            locals: vec![None; table.columns.len()],
            key: Vec::new(),
            rowid: None,
            is_hidden: false,
            is_unreachable: false,
        };
        // Altered on whatever side, it is the one that the base's became; otherwise the one of its name.
        let altered = was.as_ref().and_then(|(name, _)| {
            let name = name.to_ascii_lowercase();
            self.from_base.iter().find(|(_, altered)| altered.base == name)
        });
        let by_name = [Some(&table.name), target.base.as_ref()].into_iter().flatten();
        let by_name = by_name.map(|name| name.to_ascii_lowercase());
        let names: Vec<_> = altered.map(|(name, _)| name.clone()).into_iter().chain(by_name).collect();
        for key in names {
            if let Some(layout) = self.now.tables.get(&key) {
                self.fill(
                    &mut target,
                    layout,
                    altered.filter(|(name, _)| **name == key).map(|(_, altered)| altered),
                );
                target.find_key(onto, layout)?;
                break;
            }
            if let Some(now) = self.now.virtual_tables.get(&key) {
                target.fill_virtual(&now.name, &now.columns, matches!(now.content, Content::Nodes));
                target.remote = self.remote.virtual_tables.get(&key).map(|remote| remote.name.clone());
                if target.remote.is_some() {
                    target.columns.iter_mut().for_each(|column| column.remote = Some(column.name.clone()));
                }
                break;
            }
        }
        target.check()?;
        let columns = target.columns.iter().map(|column| column.sql.as_str());
        target.list = target.rowid.into_iter().chain(columns).collect::<Vec<_>>().join(", ");
        Ok(target)
    }

    fn fill(&self, target: &mut Target, now: &Layout, from_base: Option<&Altered>) {
        now.name.clone_into(&mut target.name);
        let was = target
            .table
            .base()
            .map(|(_, columns)| columns.into_iter().map(|name| name.map(str::to_owned)).collect::<Vec<_>>());
        let key = now.name.to_ascii_lowercase();
        let from_remote = self.from_remote.get(&key);
        let remote = from_remote.map_or(&key, |altered| &altered.base);
        let remote = self.remote.tables.get(remote);
        target.remote = remote.map(|remote| remote.name.clone());
        let same = |a: &str, b: &str| a.eq_ignore_ascii_case(b);
        let base_layout = from_base.and_then(|altered| self.base.tables.get(&altered.base));
        for (place, column) in now.columns.iter().enumerate().filter(|(_, column)| !column.is_generated) {
            // By way of the base's column that both became.
            let base = from_base
                .zip(base_layout)
                .and_then(|(altered, layout)| Some(&layout.columns[altered.columns[place]?].name));
            let locals = &target.table.columns;
            let local = match (base, &was) {
                (Some(base), Some(was)) => {
                    was.iter().position(|was| was.as_ref().is_some_and(|was| same(was, base)))
                }
                // It is new on one side, or on both.
                _ => locals.iter().position(|name| same(name, &column.name)).filter(|&local| {
                    from_base.is_none() || was.as_ref().is_none_or(|was| was[local].is_none())
                }),
            };
            let local = local.or_else(|| {
                let was = was.as_ref().filter(|_| from_base.is_none())?;
                was.iter().position(|was| was.as_ref().is_some_and(|was| same(was, &column.name)))
            });
            let remote = remote.and_then(|remote| match from_remote {
                Some(altered) => Some(&remote.columns[altered.columns[place]?].name),
                None => {
                    remote.columns.iter().map(|column| &column.name).find(|name| same(name, &column.name))
                }
            });
            if let Some(local) = local {
                target.locals[local] = Some(target.columns.len());
            }
            target.columns.push(Column {
                name: column.name.clone(),
                sql: quoted(&column.name),
                local,
                remote: remote.cloned(),
            });
        }
    }
}

impl Target {
    /// Whether there is such a table.
    pub(super) fn is_there(&self) -> bool {
        !self.columns.is_empty()
    }

    fn fill_virtual(&mut self, name: &str, columns: &[String], has_key: bool) {
        name.clone_into(&mut self.name);
        for column in columns {
            let local = self.table.columns.iter().position(|name| name.eq_ignore_ascii_case(column));
            if let Some(local) = local {
                self.locals[local] = Some(self.columns.len());
            }
            self.columns.push(Column { name: column.clone(), sql: quoted(column), local, remote: None });
        }
        if has_key {
            self.key.push(0);
        } else {
            self.rowid = Some("rowid");
        }
    }

    fn find_key(&mut self, onto: &Connection, layout: &Layout) -> Result<()> {
        let place =
            |name: &str| self.columns.iter().position(|column| column.name.eq_ignore_ascii_case(name));
        let names: Vec<String> = match &layout.key {
            Key::Rowid(Some(alias)) => vec![layout.columns[*alias].name.clone()],
            Key::Primary(parts) => {
                parts.iter().map(|part| layout.columns[part.column].name.clone()).collect()
            }
            Key::Rowid(None) => declared_key(onto, &self.name)?,
        };
        let key: Vec<_> = names.iter().filter_map(|name| place(name)).collect();
        self.is_hidden = layout.key == Key::Rowid(None);
        if self.is_hidden {
            self.rowid = layout.rowid();
        }
        let is_known =
            key.len() == names.len() && key.iter().all(|&column| self.columns[column].local.is_some());
        if is_known {
            self.key = key;
        }
        self.is_unreachable = !is_known && (!self.is_hidden || self.table.rowid().is_none());
        Ok(())
    }

    /// A table whose rowid SQL does not reach needs a key.
    fn check(&self) -> Result<()> {
        if self.is_hidden && self.rowid.is_none() {
            return Err(Error::Rowid { table: self.table.name.clone() });
        }
        Ok(())
    }

    /// What a row of these local values is found by.
    pub(super) fn at(&self, key: &diff::Key, local: &[Value]) -> At {
        let values: Vec<_> =
            self.key.iter().filter_map(|&column| Some(local[self.columns[column].local?].clone())).collect();
        match key {
            // Rows of a table may have NULL in its declared key, any number of them.
            diff::Key::Rowid(rowid)
                if self.rowid.is_some() && (values.is_empty() || values.contains(&Value::Null)) =>
            {
                At::Rowid(*rowid)
            }
            _ => At::Key(values),
        }
    }

    /// What a row that was found in the image is found by.
    fn at_found(&self, rowid: Option<i64>, values: &[Value]) -> At {
        match rowid {
            Some(rowid) => At::Rowid(rowid),
            None => At::Key(self.key.iter().map(|&column| values[column].clone()).collect()),
        }
    }

    /// The row that is there in the image.
    pub(super) fn find(&self, onto: &Connection, at: &At) -> Result<Option<Found>> {
        let sql = format!("SELECT {} FROM {} WHERE {}", self.list, quoted(&self.name), self.condition(at, 1));
        self.query(onto, &sql, &at.params()).map(|found| found.into_iter().next())
    }

    /// Rows of a query for the rowid, where no column is it, and all columns.
    pub(super) fn query(&self, db: &Connection, sql: &str, params: &[Value]) -> Result<Vec<Found>> {
        let mut statement = db.prepare_cached(sql).map_err(|e| self.error(e))?;
        let mut rows = statement.query(params_from_iter(params)).map_err(|e| self.error(e))?;
        let mut found = Vec::new();
        while let Some(row) = rows.next().map_err(|e| self.error(e))? {
            let first = usize::from(self.rowid.is_some());
            let values = (first..first + self.columns.len()).map(|i| row.get(i));
            let values = values.collect::<rusqlite::Result<Vec<_>>>().map_err(|e| self.error(e))?;
            let rowid = self.rowid.map(|_| row.get(0)).transpose().map_err(|e| self.error(e))?;
            found.push(Found { at: self.at_found(rowid, &values), rowid, values });
        }
        Ok(found)
    }

    /// The condition of a row's place; its parameters begin with this one.
    pub(super) fn condition(&self, at: &At, first: usize) -> String {
        match at {
            At::Rowid(_) => format!("{} = ?{first}", self.rowid.unwrap_or("rowid")),
            At::Key(_) => {
                let columns = self.key.iter().enumerate();
                let parts =
                    columns.map(|(i, &column)| format!("{} = ?{}", self.columns[column].sql, first + i));
                parts.collect::<Vec<_>>().join(" AND ")
            }
        }
    }

    /// A row as both sides had it or as it is here, by the names here.
    pub(super) fn local_row(&self, values: &[Value]) -> Row {
        Row::new(self.table.columns.iter().map(String::as_str), values)
    }

    /// A row of the image, by its names.
    pub(super) fn row(&self, values: &[Value]) -> Row {
        Row::new(self.columns.iter().map(|column| column.name.as_str()), values)
    }

    /// Whether a row of the image has these local values, in all columns that both have.
    pub(super) fn is_same(&self, found: &[Value], local: &[Value]) -> bool {
        let mut both =
            self.columns.iter().zip(found).filter_map(|(column, value)| Some((value, &local[column.local?])));
        both.all(|(theirs, ours)| theirs == ours)
    }

    pub(super) fn error(&self, source: rusqlite::Error) -> Error {
        Error::Table { table: self.name.clone(), source }
    }
}

impl At {
    pub(super) fn params(&self) -> Vec<Value> {
        match self {
            At::Key(values) => values.clone(),
            At::Rowid(rowid) => vec![Value::Integer(*rowid)],
        }
    }
}

/// The columns of a table's PRIMARY KEY, whatever SQLite makes of it.
pub(super) fn declared_key(db: &Connection, table: &str) -> rusqlite::Result<Vec<String>> {
    let mut statement = db.prepare_cached("SELECT name FROM pragma_table_info(?1) WHERE pk ORDER BY pk")?;
    statement.query_map([table], |row| row.get(0))?.collect()
}
