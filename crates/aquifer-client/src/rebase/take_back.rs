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
    /// Puts a row of the server's where there is none in the image now. Other rows that have unique values of it only because of local changes
    /// become what they are there as well, which is recorded.
    pub(super) fn take_back(&mut self, target: &Target, at: At) -> Result<()> {
        let mut open = vec![at];
        while let Some(at) = open.pop() {
            let Some((rowid, values)) = self.remote_values(target, &at)? else { continue };
            let values =
                values.into_iter().enumerate().filter_map(|(place, value)| Some((place, value?))).collect();
            let row = Write::Insert(rowid, values);
            while let Err(refusal) = self.write(target, &row)? {
                match self.clashing(target, &refusal, &row)? {
                    Some(other) if self.displace(target, &other)? => {
                        open.extend(self.places(target, &other)?);
                    }
                    _ => return Err(target.refused(refusal)),
                }
            }
        }
        Ok(())
    }

    /// Where the server has what a row was that is not in the image any more.
    fn places(&self, target: &Target, row: &Found) -> Result<Vec<At>> {
        let key = |values: &[Value]| {
            let values: Vec<_> = target.key.iter().map(|&column| values[column].clone()).collect();
            Some(At::Key(values)).filter(|at| {
                target.is_hidden && !at.params().is_empty() && !at.params().contains(&Value::Null)
            })
        };
        let Some(own) = key(&row.values) else { return Ok(vec![row.at.clone()]) };
        // An update may have given it another key, but not another rowid.
        let was = self
            .find_remote(target, &row.at, &[])?
            .and_then(|was| key(&was.values))
            .filter(|was| *was != own);
        let mut places = vec![own];
        if let Some(was) = was
            && target.find(self.onto, &was)?.is_none()
        {
            places.push(was);
        }
        Ok(places)
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
            value.or_else(|| old.get(column.local?).cloned()).unwrap_or(Value::Null)
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

    /// The row of the image for whose unique value SQLite has just refused to insert a row.
    pub(super) fn clashing(&self, target: &Target, refusal: &Refusal, row: &Write) -> Result<Option<Found>> {
        let (Refusal::Unique(_), Write::Insert(_, values)) = (refusal, row) else { return Ok(None) };
        let Some(column) = target.columns.first() else { return Ok(None) };
        let names: Vec<_> = values.iter().map(|(place, _)| target.columns[*place].sql.as_str()).collect();
        // SQLite knows which one it is, by whatever index: it is the one that an upsert would update.
        let sql = format!(
            "INSERT INTO {}({}) VALUES({}) ON CONFLICT DO UPDATE SET {column} = {column} RETURNING {}",
            quoted(&target.name),
            names.join(", "),
            vec!["?"; names.len()].join(", "),
            target.list,
            column = column.sql,
        );
        let values: Vec<_> = values.iter().map(|(_, value)| value.clone()).collect();
        Ok(target.query(self.onto, &sql, &values)?.into_iter().next())
    }
}
