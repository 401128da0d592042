//! Rows that become what the server has.

use aquifer_sqlite::btree::Value;
use rusqlite::params_from_iter;

use super::changes::{Refusal, Write};
use super::conflict::Kind;
use super::target::{At, Found, Target};
use super::{Replay, Result};
use crate::diff::schema::quoted;

/// A rowid, where no column is it, and values; `None` of columns that the server does not have.
type Theirs = (Option<i64>, Vec<Option<Value>>);

impl Replay<'_> {
    /// Makes a row what it is on the server. Other rows that have unique values of it only because of local changes
    /// become what they are there as well, which is recorded.
    pub(super) fn take_back(&mut self, target: &Target, at: At) -> Result<()> {
        let mut open = vec![at];
        while let Some(at) = open.pop() {
            self.write(target, &Write::Delete(at.clone()))?.map_err(|refusal| target.refused(refusal))?;
            let Some((rowid, values)) = self.remote_values(target, &at)? else { continue };
            let values =
                values.into_iter().enumerate().filter_map(|(place, value)| Some((place, value?))).collect();
            let mut row = Write::Insert(rowid, values);
            let mut is_cleared = false;
            while let Err(refusal) = self.write(target, &row)? {
                match (refusal, row) {
                    (Refusal::Rowid(_), Write::Insert(Some(_), values)) if target.is_hidden => {
                        row = Write::Insert(None, values);
                    }
                    (Refusal::Unique(_), same) if !is_cleared => {
                        is_cleared = true;
                        row = same;
                        for other in self.clashing(target, &row, &at)? {
                            if self.displace(target, &other)? {
                                open.push(other.at);
                            }
                        }
                    }
                    (refusal, _) => return Err(target.refused(refusal)),
                }
            }
        }
        Ok(())
    }

    /// Takes out a row that stands where one of the server's is to be; false: it is one of the server's itself.
    fn displace(&mut self, target: &Target, other: &Found) -> Result<bool> {
        let theirs = self.remote_values(target, &other.at)?;
        let is_same = |theirs: &[Option<Value>]| {
            theirs.iter().zip(&other.values).all(|(a, b)| a.as_ref().is_none_or(|a| a == b))
        };
        if theirs.as_ref().is_some_and(|(_, theirs)| is_same(theirs)) {
            return Ok(false);
        }
        let message = format!(
            "a row of {} that was changed here has a unique value of another one on the server",
            target.name
        );
        let mut conflict = target.conflict(Kind::Unique, None, None, None, message);
        conflict.local = Some(target.row(&other.values));
        conflict.remote = theirs.map(|(_, values)| {
            let values: Vec<_> = values.into_iter().map(|value| value.unwrap_or(Value::Null)).collect();
            target.row(&values)
        });
        self.record(conflict)?;
        self.write(target, &Write::Delete(other.at.clone()))?.map_err(|refusal| target.refused(refusal))?;
        Ok(true)
    }

    /// The server's row. Columns that it does not have are as in `old`: new ones have their default there.
    pub(super) fn find_remote(&self, target: &Target, at: &At, old: &[Value]) -> Result<Option<Found>> {
        let Some((rowid, values)) = self.remote_values(target, at)? else { return Ok(None) };
        let value = |(column, value): (&super::target::Column, Option<Value>)| {
            value.or_else(|| Some(old[column.local?].clone())).unwrap_or(Value::Null)
        };
        let values: Vec<_> = target.columns.iter().zip(values).map(value).collect();
        Ok(Some(Found { at: rowid.map_or_else(|| at.clone(), At::Rowid), rowid, values }))
    }

    /// The rowid and the values of a row on the server; `None` for columns that it does not have.
    fn remote_values(&self, target: &Target, at: &At) -> Result<Option<Theirs>> {
        let Some(table) = &target.remote else { return Ok(None) };
        let condition = match at {
            At::Rowid(_) => format!("{} = ?1", target.rowid.unwrap_or("rowid")),
            At::Key(_) => {
                let names = target.key.iter().map(|&column| target.columns[column].remote.as_ref());
                let Some(names) = names.collect::<Option<Vec<_>>>() else { return Ok(None) };
                let parts =
                    names.iter().enumerate().map(|(i, name)| format!("{} = ?{}", quoted(name), i + 1));
                parts.collect::<Vec<_>>().join(" AND ")
            }
        };
        let names =
            target.columns.iter().filter_map(|column| column.remote.as_ref()).map(|name| quoted(name));
        let names: Vec<_> = target.rowid.map(str::to_owned).into_iter().chain(names).collect();
        let sql = format!("SELECT {} FROM {} WHERE {condition}", names.join(", "), quoted(table));
        let failed = |source| target.error(source);
        let mut statement = self.remote.prepare_cached(&sql).map_err(failed)?;
        let mut rows = statement.query(params_from_iter(at.params())).map_err(failed)?;
        let Some(row) = rows.next().map_err(failed)? else { return Ok(None) };
        let rowid = target.rowid.map(|_| row.get(0)).transpose().map_err(failed)?;
        let mut next = usize::from(rowid.is_some());
        let mut values = Vec::new();
        for column in &target.columns {
            let value = column.remote.as_ref().map(|_| row.get(next)).transpose().map_err(failed)?;
            next += usize::from(value.is_some());
            values.push(value);
        }
        Ok(Some((rowid, values)))
    }

    /// Other rows of the image with unique values that a row is to have. Not found are those by an index on
    /// expressions.
    pub(super) fn clashing(&self, target: &Target, row: &Write, at: &At) -> Result<Vec<Found>> {
        let (Write::Insert(_, values) | Write::Update(_, values)) = row else { return Ok(Vec::new()) };
        let failed = |source| target.error(source);
        let mut indexes = self
            .onto
            .prepare_cached("SELECT name FROM pragma_index_list(?1) WHERE \"unique\"")
            .map_err(failed)?;
        let indexes = indexes.query_map([&target.name], |row| row.get::<_, String>(0)).map_err(failed)?;
        let indexes = indexes.collect::<rusqlite::Result<Vec<_>>>().map_err(failed)?;
        let mut found: Vec<Found> = Vec::new();
        for index in indexes {
            let sql = "SELECT name, coll FROM pragma_index_xinfo(?1) WHERE key ORDER BY seqno";
            let mut columns = self.onto.prepare_cached(sql).map_err(failed)?;
            let columns = columns.query_map([index], |row| Ok((row.get(0)?, row.get(1)?))).map_err(failed)?;
            let columns =
                columns.collect::<rusqlite::Result<Vec<(Option<String>, String)>>>().map_err(failed)?;
            let part = |(i, (name, collation)): (usize, &(Option<String>, String))| {
                let name = name.as_ref()?;
                let (_, value) = values
                    .iter()
                    .find(|(place, _)| target.columns[*place].name.eq_ignore_ascii_case(name))?;
                Some((format!("{} = ?{} COLLATE {}", quoted(name), i + 1, quoted(collation)), value.clone()))
            };
            let Some(parts) = columns.iter().enumerate().map(part).collect::<Option<Vec<_>>>() else {
                continue;
            };
            let (conditions, values): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
            let sql = format!(
                "SELECT {} FROM {} WHERE {}",
                target.list,
                quoted(&target.name),
                conditions.join(" AND ")
            );
            for other in target.query(self.onto, &sql, &values)? {
                if other.at != *at && !found.iter().any(|found| found.at == other.at) {
                    found.push(other);
                }
            }
        }
        Ok(found)
    }
}
