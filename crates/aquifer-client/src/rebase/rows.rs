//! The rows of one table: deletes, updates, inserts, and last the updates that had to wait.

use aquifer_sqlite::btree::Value;
use roaring::RoaringTreemap;

use super::changes::{Refusal, Write};
use super::conflict::{Conflict, Kind, Outcome, Row};
use super::target::{At, Found, Target};
use super::{Replay, Result};
use crate::diff::schema::quoted;
use crate::diff::{Key, RowChange, Side};

impl Replay<'_> {
    /// Replays the changes of a table's rows.
    pub(super) fn rows(&mut self, target: &Target) -> Result<()> {
        let local = self.local;
        if !target.is_there() || target.is_unreachable {
            return self.without_table(target);
        }
        let (mut has_updates, mut has_inserts) = (false, false);
        // Updates and inserts; `None`: they are too many, and read again.
        let (mut held, mut left) = (Some(Vec::new()), RowChange::HELD);
        for change in local.rows(&target.table)? {
            self.summary.rows += 1;
            let change = change?;
            match &change {
                RowChange::Delete { key, old } => {
                    self.delete(target, key, old)?;
                    continue;
                }
                RowChange::Update { .. } => has_updates = true,
                RowChange::Insert { .. } => has_inserts = true,
            }
            left = left.saturating_sub(change.bytes());
            held = held.filter(|_| left > 0);
            if let Some(held) = &mut held {
                held.push(change);
            }
        }
        let each = |visit: &mut dyn FnMut(u64, &RowChange) -> Result<()>| match &held {
            Some(held) => (0..).zip(held).try_for_each(|(number, change)| visit(number, change)),
            None => {
                (0..).zip(local.rows(&target.table)?).try_for_each(|(number, change)| visit(number, &change?))
            }
        };
        // Updates by their number among the changes.
        let mut waiting = RoaringTreemap::new();
        if has_updates {
            each(&mut |number, change| {
                if let RowChange::Update { key, old, new } = change
                    && !self.update(target, key, old, new)?
                {
                    waiting.insert(number);
                }
                Ok(())
            })?;
        }
        if has_inserts {
            each(&mut |_, change| match change {
                RowChange::Insert { key, new } => self.insert(target, key, new),
                _ => Ok(()),
            })?;
        }
        if !waiting.is_empty() {
            each(&mut |number, change| match change {
                RowChange::Update { key, old, new } if waiting.contains(number) => {
                    self.put_back(target, key, old, new)
                }
                _ => Ok(()),
            })?;
        }
        Ok(())
    }

    /// There is nothing that the changes could be put onto.
    fn without_table(&mut self, target: &Target) -> Result<()> {
        let name = &target.table.name;
        for change in self.local.rows(&target.table)? {
            self.summary.rows += 1;
            let (base, local) = match &change? {
                RowChange::Delete { .. } => continue,
                RowChange::Insert { new, .. } => (None, Some(target.local_row(new))),
                RowChange::Update { old, new, .. } => {
                    (Some(target.local_row(old)), Some(target.local_row(new)))
                }
            };
            self.record(Conflict {
                kind: Kind::TableGone,
                table: name.clone(),
                base,
                local,
                remote: None,
                statement: None,
                outcome: Outcome::Theirs,
                message: format!(
                    "a row was written here, and the server has no table {name} any more that it fits"
                ),
            })?;
        }
        Ok(())
    }

    fn delete(&mut self, target: &Target, key: &Key, old: &[Value]) -> Result<()> {
        let Some(found) = self.find(target, &target.at(key, old), old)? else { return Ok(()) };
        let delete = Write::Delete(found.at.clone());
        if target.is_same(&found.values, old) {
            return self.write(target, &delete)?.map_err(|refusal| target.refused(refusal));
        }
        let message = format!("a row of {} was deleted here and updated on the server", target.name);
        let conflict = target.conflict(Kind::DeleteUpdate, Some(old), None, Some(&found), message);
        let done = self.decide(target, conflict, &delete, &Write::Nothing, Some(&found))?;
        done.map_err(|refusal| target.refused(refusal))
    }

    /// False: a unique value that the row is to have is still taken. Then the row is not there any more.
    fn update(&mut self, target: &Target, key: &Key, old: &[Value], new: &[Value]) -> Result<bool> {
        let at = target.at(key, old);
        let found = self.find(target, &at, old)?;
        let (ours, conflict) = update(target, key, old, new, found.as_ref());
        let done = match conflict {
            Some(conflict) => self.decide(target, conflict, &ours, &Write::Nothing, found.as_ref())?,
            None => self.write(target, &ours)?,
        };
        match done {
            Ok(()) => self.columns_gone(target, Some(old), new, found.as_ref()).map(|()| true),
            Err(Refusal::Other(error)) => {
                let message = format!(
                    "a row of {} was updated here to what the server's table refuses: {error}",
                    target.name
                );
                let conflict =
                    target.conflict(Kind::Constraint, Some(old), Some(new), found.as_ref(), message);
                self.refused(target, conflict, &ours, found.as_ref()).map(|_| true)
            }
            Err(_) => {
                if let Some(found) = found {
                    self.write(target, &Write::Delete(found.at))?
                        .map_err(|refusal| target.refused(refusal))?;
                }
                Ok(false)
            }
        }
    }

    /// Puts a row back that was taken out, with its update.
    fn put_back(&mut self, target: &Target, key: &Key, old: &[Value], new: &[Value]) -> Result<()> {
        let at = target.at(key, old);
        let found = self.find_remote(target, &at, old)?;
        let (ours, conflict) = update(target, key, old, new, found.as_ref());
        // It is not in the image now.
        let whole = |write: Write| match (write, &found) {
            (Write::Update(_, sets), Some(found)) => {
                let mut values: Vec<_> = found.values.iter().cloned().enumerate().collect();
                for (place, value) in sets {
                    values[place].1 = value;
                }
                Write::Insert(found.rowid, values)
            }
            (write, _) => write,
        };
        let ours = whole(ours);
        let theirs =
            found.as_ref().map_or(Write::Nothing, |found| whole(Write::Update(found.at.clone(), Vec::new())));
        let done = match conflict {
            Some(conflict) => self.decide(target, conflict, &ours, &theirs, found.as_ref())?,
            None => self.write(target, &ours)?,
        };
        match done {
            Ok(()) => self.columns_gone(target, Some(old), new, found.as_ref()),
            Err(refusal) => {
                let other = self.clashing(target, &refusal, &ours)?;
                let what = refusal.error();
                let message = format!(
                    "a row of {} was updated here to what another one has on the server: {what}",
                    target.name
                );
                let conflict = target.conflict(refusal.kind(), Some(old), Some(new), other.as_ref(), message);
                if !self.refused(target, conflict, &ours, None)? {
                    self.take_back(target, at)?;
                }
                Ok(())
            }
        }
    }

    fn insert(&mut self, target: &Target, key: &Key, new: &[Value]) -> Result<()> {
        let rowid = match key {
            Key::Rowid(rowid) if target.rowid.is_some() => Some(*rowid),
            _ => None,
        };
        let mut ours = Write::Insert(rowid, target.all(new));
        let done = self.write(target, &ours)?;
        let Err(refusal) = done else { return self.columns_gone(target, None, new, None) };
        let at = target.at(key, new);
        let is_key = matches!(at, At::Key(_)) || !target.is_hidden;
        let found = if is_key { target.find(self.onto, &at)? } else { None };
        let refusal = match &found {
            Some(found) if target.is_same(&found.values, new) => {
                return self.columns_gone(target, None, new, Some(found));
            }
            Some(found) => {
                let differs = |(place, value): &(usize, Value)| found.values[*place] != *value;
                let sets = target.all(new).into_iter().filter(differs).collect();
                ours = Write::Update(found.at.clone(), sets);
                let message = format!("a row of {} was inserted here and on the server", target.name);
                let conflict = target.conflict(Kind::InsertInsert, None, Some(new), Some(found), message);
                match self.decide(target, conflict, &ours, &Write::Nothing, Some(found))? {
                    Ok(()) => return self.columns_gone(target, None, new, Some(found)),
                    Err(refusal) => refusal,
                }
            }
            None => refusal,
        };
        let other = self.clashing(target, &refusal, &ours)?;
        let message = format!(
            "a row of {} was inserted here that cannot be on the server: {}",
            target.name,
            refusal.error()
        );
        let conflict =
            target.conflict(refusal.kind(), None, Some(new), other.as_ref().or(found.as_ref()), message);
        self.refused(target, conflict, &ours, found.as_ref()).map(drop)
    }

    /// Records values that were written to columns which are not there any more.
    fn columns_gone(
        &mut self,
        target: &Target,
        old: Option<&[Value]>,
        new: &[Value],
        found: Option<&Found>,
    ) -> Result<()> {
        let is_lost = |(local, place): (usize, &Option<usize>)| {
            place.is_none() && old.map_or(&Value::Null, |old| &old[local]) != &new[local]
        };
        if !target.locals.iter().enumerate().any(is_lost) {
            return Ok(());
        }
        let message = format!(
            "a row of {} was written here with columns that the server has not any more",
            target.name
        );
        self.record(target.conflict(Kind::ColumnGone, old, Some(new), found, message))
    }

    /// The row of the image that a row of the base is now.
    fn find(&self, target: &Target, at: &At, old: &[Value]) -> Result<Option<Found>> {
        let found = target.find(self.onto, at)?;
        if !target.is_hidden
            || matches!(at, At::Key(_))
            || found.as_ref().is_some_and(|found| target.is_same(&found.values, old))
        {
            return Ok(found);
        }
        // VACUUM gives such rows other rowids, on the server too.
        if let Some(moved) = self.find_moved(target, old)? {
            return Ok(Some(moved));
        }
        // A row that has nothing of the old one is another one, which came to the same rowid.
        let has_some = |found: &Found| {
            let mut both = target
                .columns
                .iter()
                .zip(&found.values)
                .filter_map(|(column, value)| Some((value, &old[column.local?])));
            both.any(|(theirs, ours)| theirs == ours && *ours != Value::Null)
        };
        Ok(found.filter(has_some))
    }

    /// A row with these values under a rowid where the base has another one.
    fn find_moved(&self, target: &Target, old: &[Value]) -> Result<Option<Found>> {
        let (Some(rowid), Some(base)) = (target.rowid, &target.base) else { return Ok(None) };
        let both = target.columns.iter().filter_map(|column| Some((column, &old[column.local?])));
        let (conditions, values): (Vec<_>, Vec<_>) = both
            .enumerate()
            .map(|(i, (column, value))| (format!("{} IS ?{}", column.sql, i + 1), value.clone()))
            .unzip();
        let sql = format!(
            "SELECT {} FROM {} WHERE {}",
            target.list,
            quoted(&target.name),
            conditions.join(" AND ")
        );
        let candidates = target.query(self.onto, &sql, &values)?;
        let candidates = candidates.into_iter().filter(|found| target.is_same(&found.values, old));
        let mut before = None;
        for candidate in candidates {
            let before = match &mut before {
                Some(before) => before,
                none => none.insert(self.local.open(Side::Base)?),
            };
            let was = target.table.base().map(|(_, columns)| columns).unwrap_or_default();
            let same: Vec<_> = was
                .iter()
                .enumerate()
                .filter_map(|(i, was)| Some(format!("{} IS ?{}", quoted((*was)?), i + 2)))
                .collect();
            let sql = format!("SELECT 1 FROM {} WHERE {rowid} = ?1 AND {}", quoted(base), same.join(" AND "));
            let values = candidate.rowid.map(Value::Integer).into_iter().chain(old.iter().cloned());
            let mut statement = before.prepare_cached(&sql).map_err(|e| target.error(e))?;
            if !statement.exists(rusqlite::params_from_iter(values)).map_err(|e| target.error(e))? {
                return Ok(Some(candidate));
            }
        }
        Ok(None)
    }
}

/// What an update comes to on the server's row, if there is one.
fn update(
    target: &Target,
    key: &Key,
    old: &[Value],
    new: &[Value],
    found: Option<&Found>,
) -> (Write, Option<Conflict>) {
    let Some(found) = found else {
        let rowid = match key {
            Key::Rowid(rowid) if target.rowid.is_some() => Some(*rowid),
            _ => None,
        };
        let message = format!("a row of {} was updated here and deleted on the server", target.name);
        let conflict = target.conflict(Kind::UpdateDelete, Some(old), Some(new), None, message);
        return (Write::Insert(rowid, target.all(new)), Some(conflict));
    };
    let (mut sets, mut both) = (Vec::new(), Vec::new());
    for (place, column) in target.columns.iter().enumerate() {
        let Some(local) = column.local.filter(|&local| old[local] != new[local]) else { continue };
        let theirs = &found.values[place];
        if *theirs != new[local] {
            sets.push((place, new[local].clone()));
            if *theirs != old[local] {
                both.push(column.name.as_str());
            }
        }
    }
    let message =
        || format!("a row of {} was updated here and on the server, both {}", target.name, both.join(", "));
    let conflict = (!both.is_empty())
        .then(|| target.conflict(Kind::UpdateUpdate, Some(old), Some(new), Some(found), message()));
    (Write::Update(found.at.clone(), sets), conflict)
}

impl Target {
    /// All values of a local row.
    fn all(&self, local: &[Value]) -> Vec<(usize, Value)> {
        let columns = self.columns.iter().enumerate();
        columns.filter_map(|(place, column)| Some((place, local[column.local?].clone()))).collect()
    }

    /// A conflict about a row: the outcome by default follows from its kind.
    pub(super) fn conflict(
        &self,
        kind: Kind,
        base: Option<&[Value]>,
        local: Option<&[Value]>,
        remote: Option<&Found>,
        message: String,
    ) -> Conflict {
        let is_ours =
            matches!(kind, Kind::InsertInsert | Kind::UpdateUpdate | Kind::UpdateDelete | Kind::DeleteUpdate);
        let row = |values: Option<&[Value]>| -> Option<Row> { values.map(|values| self.local_row(values)) };
        Conflict {
            kind,
            table: self.name.clone(),
            base: row(base),
            local: row(local),
            remote: remote.map(|found| self.row(&found.values)),
            statement: None,
            outcome: if is_ours { Outcome::Ours } else { Outcome::Theirs },
            message,
        }
    }

    /// What may always be done was refused: the image is damaged, or a virtual table cannot do it.
    pub(super) fn refused(&self, refusal: Refusal) -> super::Error {
        let (Refusal::Unique(error) | Refusal::Rowid(error) | Refusal::Other(error)) = refusal;
        self.error(error)
    }
}
