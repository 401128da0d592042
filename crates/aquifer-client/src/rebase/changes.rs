//! One change of a row: what is to be written, and what SQLite says to it.

use aquifer_sqlite::btree::Value;
use rusqlite::{ErrorCode, ToSql, ffi, params_from_iter};

use super::conflict::{Conflict, Kind, Outcome, Resolution, Row};
use super::target::{At, Found, Target};
use super::{Replay, Result};
use crate::diff::schema::quoted;

/// What is to be done with a row of the image.
#[derive(Debug, Clone)]
pub(super) enum Write {
    Nothing,
    Delete(At),
    /// Columns and their new values.
    Update(At, Vec<(usize, Value)>),
    /// Under a rowid, where no column is it; if it is hidden and taken, under another one.
    Insert(Option<i64>, Vec<(usize, Value)>),
}

/// Why SQLite refuses to write a row.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Another row has a value that is to be unique.
    Unique(rusqlite::Error),
    /// Another row has the rowid, which no column is.
    Rowid(rusqlite::Error),
    /// Whatever else the table demands.
    Other(rusqlite::Error),
}

impl Write {
    /// The same, with some values of a resolver's over it. `there`: the row, if there is one.
    pub(super) fn resolved(&self, target: &Target, row: &Row, there: Option<&Found>) -> Write {
        let place = |(name, value): &(String, Value)| {
            let place = target.columns.iter().position(|column| column.name.eq_ignore_ascii_case(name))?;
            Some((place, value.clone()))
        };
        let mut values: Vec<_> = row.0.iter().filter_map(place).collect();
        let (Write::Update(_, ours) | Write::Insert(_, ours)) = self else {
            return there.map_or(Write::Nothing, |there| Write::Update(there.at.clone(), values));
        };
        let others = ours.iter().filter(|(place, _)| {
            !row.0.iter().any(|(name, _)| target.columns[*place].name.eq_ignore_ascii_case(name))
        });
        values.extend(others.cloned());
        match self {
            Write::Insert(rowid, _) => Write::Insert(*rowid, values),
            Write::Update(at, _) => Write::Update(at.clone(), values),
            _ => Write::Nothing,
        }
    }
}

impl Refusal {
    /// `None`: it is no refusal, but SQLite cannot go on.
    fn of(error: rusqlite::Error) -> Result<Refusal, rusqlite::Error> {
        let code = error.sqlite_error().map(|error| (error.code, error.extended_code));
        match code {
            Some((_, ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY)) => {
                Ok(Refusal::Unique(error))
            }
            Some((_, ffi::SQLITE_CONSTRAINT_ROWID)) => Ok(Refusal::Rowid(error)),
            Some((ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch, _)) => Ok(Refusal::Other(error)),
            _ => Err(error),
        }
    }

    pub(super) fn kind(&self) -> Kind {
        match self {
            Refusal::Unique(_) | Refusal::Rowid(_) => Kind::Unique,
            Refusal::Other(_) => Kind::Constraint,
        }
    }

    pub(super) fn error(&self) -> &rusqlite::Error {
        let (Refusal::Unique(error) | Refusal::Rowid(error) | Refusal::Other(error)) = self;
        error
    }
}

impl Replay<'_> {
    /// Writes a row.
    ///
    /// # Errors
    /// Inside, what SQLite refuses: nothing was changed.
    pub(super) fn write(&mut self, target: &Target, write: &Write) -> Result<Result<(), Refusal>> {
        let table = quoted(&target.name);
        let done = match write {
            Write::Nothing => return Ok(Ok(())),
            Write::Update(_, values) if values.is_empty() => return Ok(Ok(())),
            Write::Delete(at) => {
                self.run(&format!("DELETE FROM {table} WHERE {}", target.condition(at, 1)), &at.params())
            }
            Write::Update(at, values) => {
                let sets = values
                    .iter()
                    .enumerate()
                    .map(|(i, (place, _))| format!("{} = ?{}", target.columns[*place].sql, i + 1));
                let sets = sets.collect::<Vec<_>>().join(", ");
                let condition = target.condition(at, values.len() + 1);
                let at = at.params();
                let params = values.iter().map(|(_, value)| value).chain(&at);
                self.run(&format!("UPDATE {table} SET {sets} WHERE {condition}"), params)
            }
            Write::Insert(rowid, values) => {
                let rowid = rowid.map(Value::Integer);
                let names = rowid.iter().filter_map(|_| target.rowid);
                let names: Vec<_> = names
                    .chain(values.iter().map(|(place, _)| target.columns[*place].sql.as_str()))
                    .collect();
                let places = vec!["?"; names.len()].join(", ");
                let params = rowid.iter().chain(values.iter().map(|(_, value)| value));
                let names = names.join(", ");
                self.run(&format!("INSERT INTO {table}({names}) VALUES({places})"), params)
            }
        };
        match done {
            Ok(()) => self.count().map(Ok),
            Err(error) => match (Refusal::of(error).map_err(|error| target.error(error))?, write) {
                // Nobody sees it: any other one will do.
                (Refusal::Rowid(_), Write::Insert(Some(_), values)) if target.is_hidden => {
                    self.write(target, &Write::Insert(None, values.clone()))
                }
                (refusal, _) => Ok(Err(refusal)),
            },
        }
    }

    fn run<'v>(&self, sql: &str, params: impl IntoIterator<Item = &'v Value>) -> rusqlite::Result<()> {
        let params = params.into_iter().map(|value| value as &dyn ToSql);
        self.onto.prepare_cached(sql)?.execute(params_from_iter(params)).map(drop)
    }

    /// Decides a conflict in which ours would be, writes what follows, and records it. `there`: the server's row.
    ///
    /// # Errors
    /// Inside, what SQLite refuses; then nothing was written or recorded.
    pub(super) fn decide(
        &mut self,
        target: &Target,
        mut conflict: Conflict,
        ours: &Write,
        theirs: &Write,
        there: Option<&Found>,
    ) -> Result<Result<(), Refusal>> {
        let done = match self.resolver.resolve(&conflict) {
            Resolution::Default | Resolution::Ours => self.write(target, ours)?,
            Resolution::Theirs => {
                conflict.outcome = Outcome::Theirs;
                self.write(target, theirs)?
            }
            Resolution::Row(row) => match self.write(target, &ours.resolved(target, &row, there))? {
                Ok(()) => {
                    conflict.outcome = Outcome::Resolved;
                    Ok(())
                }
                Err(_) => self.write(target, ours)?,
            },
        };
        if done.is_ok() {
            self.record(conflict)?;
        }
        Ok(done)
    }

    /// A row that cannot be as it is to be: asks for another one, and records it; true: there is one now.
    pub(super) fn refused(
        &mut self,
        target: &Target,
        mut conflict: Conflict,
        ours: &Write,
        there: Option<&Found>,
    ) -> Result<bool> {
        if let Resolution::Row(row) = self.resolver.resolve(&conflict)
            && self.write(target, &ours.resolved(target, &row, there))?.is_ok()
        {
            conflict.outcome = Outcome::Resolved;
        }
        let is_resolved = conflict.outcome == Outcome::Resolved;
        self.record(conflict)?;
        Ok(is_resolved)
    }
}
