//! What the schemas of both images say about the order of statements, and about what must be as it was.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::Connection;

use crate::diff::{self, Diff, Side, Table, quoted};

/// A trigger that stays as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trigger {
    pub(super) name: String,
    pub(super) sql: String,
}

/// The schemas of both images.
pub(super) struct Catalog {
    base: Connection,
    current: Connection,
    /// Triggers that are dropped before rows are changed.
    dropped: BTreeSet<String>,
}

/// Columns of a table that unique keys are about.
#[derive(Debug, Default)]
pub(super) struct Unique {
    columns: BTreeSet<usize>,
    /// There is one that any column may be about: of an expression, or over some rows only.
    is_any: bool,
}

impl Unique {
    pub(super) fn is_about(&self, columns: &[usize]) -> bool {
        self.is_any || columns.iter().any(|column| self.columns.contains(column))
    }
}

impl Catalog {
    pub(super) fn of(local: &Diff) -> diff::Result<Catalog> {
        let dropped = local.before_rows().iter().filter(|change| change.sql.starts_with("DROP TRIGGER "));
        Ok(Catalog {
            base: local.open(Side::Base)?,
            current: local.open(Side::Current)?,
            dropped: dropped.map(|change| change.name.to_ascii_lowercase()).collect(),
        })
    }

    /// What the base has under a name: its SQL. Triggers have names of their own.
    pub(super) fn definition(&self, name: &str, is_trigger: bool) -> diff::Result<Option<String>> {
        let sql = "SELECT sql FROM sqlite_schema WHERE name = ?1 COLLATE NOCASE AND (type = 'trigger') = ?2";
        let found = self.base.prepare_cached(sql).and_then(|mut select| {
            select.query_map((name, is_trigger), |row| row.get(0))?.next().transpose().map(Option::flatten)
        });
        found.map_err(of_base)
    }

    /// The table that an index, a trigger or a view belongs to; that of a table or a view is itself.
    pub(super) fn table_of(&self, name: &str, is_trigger: bool) -> diff::Result<Option<String>> {
        let sql =
            "SELECT tbl_name FROM sqlite_schema WHERE name = ?1 COLLATE NOCASE AND (type = 'trigger') = ?2";
        let of = |db: &Connection| {
            db.prepare_cached(sql)?.query_map((name, is_trigger), |row| row.get(0))?.next().transpose()
        };
        Ok(of(&self.base).map_err(of_base)?.or(of(&self.current).map_err(of_current)?))
    }

    /// The base's triggers on a table that nothing drops.
    pub(super) fn triggers(&self, table: &str) -> diff::Result<Vec<Trigger>> {
        let sql = "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = ?1 COLLATE NOCASE ORDER BY rowid";
        let found = self.base.prepare_cached(sql).and_then(|mut select| {
            let trigger = |row: &rusqlite::Row<'_>| Ok(Trigger { name: row.get(0)?, sql: row.get(1)? });
            select.query_map([table], trigger)?.collect::<rusqlite::Result<Vec<_>>>()
        });
        let mut found = found.map_err(of_base)?;
        found.retain(|trigger| !self.dropped.contains(&trigger.name.to_ascii_lowercase()));
        Ok(found)
    }

    pub(super) fn unique(&self, table: &Table) -> diff::Result<Unique> {
        let sql = "SELECT c.name, l.partial FROM pragma_index_list(?1) l, pragma_index_xinfo(l.name) x
                   LEFT JOIN pragma_table_xinfo(?1) c ON c.cid = x.cid AND c.hidden = 0
                   WHERE l.\"unique\" AND x.key";
        let mut unique = Unique::default();
        let found = self.current.prepare_cached(sql).and_then(|mut select| {
            let mut rows = select.query([&table.name])?;
            while let Some(row) = rows.next()? {
                let name: Option<String> = row.get(0)?;
                let column = name.and_then(|name| table.columns.iter().position(|column| *column == name));
                unique.is_any |= column.is_none() || row.get(1)?;
                unique.columns.extend(column);
            }
            Ok(())
        });
        found.map_err(of_current)?;
        Ok(unique)
    }

    /// These tables, those that others refer to first.
    pub(super) fn parents_first<'a>(&self, tables: Vec<&'a Table>) -> diff::Result<Vec<&'a Table>> {
        let sql = "SELECT lower(\"table\") FROM pragma_foreign_key_list(?1)";
        let mut parents = BTreeMap::new();
        for table in &tables {
            let found = self.current.prepare_cached(sql).and_then(|mut select| {
                select.query_map([&table.name], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()
            });
            parents.insert(table.name.to_ascii_lowercase(), found.map_err(of_current)?);
        }
        let mut order = Vec::new();
        let mut seen = BTreeSet::new();
        for name in parents.keys() {
            // Each table after its parents; in a circle some table has to be the first.
            let mut open = vec![(name.as_str(), false)];
            while let Some((name, is_done)) = open.pop() {
                if is_done {
                    order.push(name.to_owned());
                } else if let Some(above) = parents.get(name).filter(|_| seen.insert(name.to_owned())) {
                    open.push((name, true));
                    open.extend(above.iter().map(|parent| (parent.as_str(), false)));
                }
            }
        }
        let mut tables = tables;
        tables.sort_by_key(|table| order.iter().position(|name| name.eq_ignore_ascii_case(&table.name)));
        Ok(tables)
    }

    /// SQL that says what is in a table of the base, and what it says there; `None` where the rows are not the table's
    /// own.
    pub(super) fn content(&self, table: &str) -> diff::Result<Option<(String, String)>> {
        let sql = "SELECT name FROM pragma_table_xinfo(?1) WHERE hidden <> 1 ORDER BY cid";
        let columns = self.base.prepare_cached(sql).and_then(|mut select| {
            select.query_map([table], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()
        });
        let mut parts = vec!["count(*)".to_owned()];
        for column in columns.map_err(of_base)? {
            let c = quoted(&column);
            parts.push(format!(
                "coalesce(sum(CASE typeof({c}) WHEN 'null' THEN 1 WHEN 'integer' THEN 2 + {c} % 1000003 \
                 WHEN 'real' THEN 3 + CAST({c} * 1024 AS INTEGER) % 1000003 ELSE (length({c}) * 31 + \
                 coalesce(unicode({c}), 0) * 7 + coalesce(unicode(substr({c}, length({c}) / 2, 1)), 0) * 5 + \
                 coalesce(unicode(substr({c}, -1)), 0) * 3 + (typeof({c}) = 'blob')) % 1000003 END), 0)"
            ));
        }
        let sql = format!("SELECT {} FROM {}", parts.join(" || ' ' || "), quoted(table));
        // Full-text indexes without texts, for one, have nothing to say.
        Ok(self.base.query_row(&sql, [], |row| row.get(0)).ok().map(|said| (sql, said)))
    }
}

fn of_base(source: rusqlite::Error) -> diff::Error {
    diff::Error::Sqlite { side: Side::Base, source }
}

fn of_current(source: rusqlite::Error) -> diff::Error {
    diff::Error::Sqlite { side: Side::Current, source }
}
