//! Foreign keys that hold here and on the server, but not together.
//!
//! Only what is new is taken back: a reference that led nowhere before still may. What is taken back may be referred to
//! in its turn, so this goes on until nothing is found any more. It ends: what is taken back is what the server has from
//! then on, and no change is looked at again after that ([`TakenBack`]), so there are at most as many rounds as changes.

use std::collections::BTreeMap;

use aquifer_sqlite::btree::Value;
use roaring::RoaringTreemap;
use rusqlite::{Connection, params_from_iter};

use super::changes::Write;
use super::conflict::Kind;
use super::target::{At, Target, Targets};
use super::{Replay, Result};
use crate::diff::schema::quoted;
use crate::diff::{RowChange, Side};

/// A foreign key of the image, as declared.
struct ForeignKey {
    child: String,
    parent: String,
    /// Columns of the child, and those of the parent that they refer to.
    columns: Vec<(String, String)>,
}

/// Which changes of each table were taken back, by their places among them.
#[derive(Default)]
struct TakenBack(BTreeMap<String, RoaringTreemap>);

impl TakenBack {
    fn of(&mut self, table: &str) -> &mut RoaringTreemap {
        self.0.entry(table.to_ascii_lowercase()).or_default()
    }
}

impl Replay<'_> {
    /// Takes back what violates foreign keys now.
    pub(super) fn foreign_keys(&mut self, targets: &Targets) -> Result<()> {
        let keys = declared(self.onto)?;
        if keys.is_empty() || targets.0.is_empty() {
            return Ok(());
        }
        let here = self.local.open(Side::Current)?;
        let before = declared(&here)?;
        let mut taken_back = TakenBack::default();
        loop {
            let conflicts = self.summary.conflicts;
            for key in &keys {
                let was = before.iter().find(|was| was.is_like(key));
                if let Some(child) = targets.named(&key.child) {
                    self.children(key, was, &here, child, taken_back.of(&key.child))?;
                }
                if let Some(parent) = targets.named(&key.parent) {
                    self.parents(key, was, &here, parent, taken_back.of(&key.parent))?;
                }
            }
            if self.summary.conflicts == conflicts {
                return Ok(());
            }
        }
    }

    /// Rows that were written here, and refer to one that is not there any more.
    fn children(
        &mut self,
        key: &ForeignKey,
        was: Option<&ForeignKey>,
        here: &Connection,
        child: &Target,
        taken_back: &mut RoaringTreemap,
    ) -> Result<()> {
        let local = self.local;
        let failed = |source| child.error(source);
        let columns: Vec<_> = key.columns.iter().map(|(from, _)| format!("c.{}", quoted(from))).collect();
        let columns = columns.join(", ");
        for (number, change) in (0..).zip(local.rows(&child.table)?) {
            let change = change?;
            if taken_back.contains(number) {
                continue;
            }
            let (place, old, new) = match change {
                RowChange::Delete { .. } => continue,
                RowChange::Insert { key, new } => (child.at(&key, &new), None, new),
                RowChange::Update { key, old, new } => (child.at(&key, &old), Some(old), new),
            };
            // Its own key may have changed.
            let places = [Some(place.clone()), old.as_ref().and_then(|_| child.at_now(&new))];
            for at in places.into_iter().flatten() {
                let sql = format!(
                    "SELECT {columns} FROM {} c WHERE {} AND {}",
                    quoted(&child.name),
                    child.condition(&at, 1),
                    key.is_violated(self.onto).map_err(failed)?
                );
                let Some(values) = one(self.onto, &sql, &at.params()).map_err(failed)? else { continue };
                if was.is_some_and(|was| was.parent_is_there(here, &values) == Ok(false)) {
                    continue;
                }
                let Some(found) = child.find(self.onto, &at)? else { continue };
                let theirs = self.find_remote(child, &place, old.as_ref().unwrap_or(&new))?;
                // It is the server's already: then the parent is to come back.
                if theirs.as_ref().is_some_and(|theirs| theirs.values == found.values) {
                    break;
                }
                let message = format!(
                    "a row of {} refers to one of {} that is not on the server",
                    child.name, key.parent
                );
                self.record(child.conflict(
                    Kind::MissingParent,
                    old.as_deref(),
                    Some(&new),
                    theirs.as_ref(),
                    message,
                ))?;
                self.remove(child, found.at)?;
                self.take_back(child, place.clone())?;
                taken_back.insert(number);
                break;
            }
        }
        Ok(())
    }

    fn remove(&mut self, target: &Target, at: At) -> Result<()> {
        self.write(target, &Write::Delete(at))?.map_err(|refusal| target.refused(refusal))
    }

    /// Rows of the server's that were deleted here, or had their key changed, and that another one refers to.
    fn parents(
        &mut self,
        key: &ForeignKey,
        was: Option<&ForeignKey>,
        here: &Connection,
        parent: &Target,
        taken_back: &mut RoaringTreemap,
    ) -> Result<()> {
        let local = self.local;
        let failed = |source| parent.error(source);
        let place =
            |to: &String| parent.columns.iter().position(|column| column.name.eq_ignore_ascii_case(to));
        let Some(places) = key.columns.iter().map(|(_, to)| place(to)).collect::<Option<Vec<_>>>() else {
            return Ok(());
        };
        let is_changed = |old: &[Value], new: &[Value]| {
            places
                .iter()
                .any(|&place| parent.columns[place].local.is_some_and(|local| old[local] != new[local]))
        };
        let gone = Gone::new(self.onto, key).map_err(failed)?;
        for (number, change) in (0..).zip(local.rows(&parent.table)?) {
            let (at, old) = match change? {
                RowChange::Delete { key, old } => (parent.at(&key, &old), old),
                RowChange::Update { key, old, new } if is_changed(&old, &new) => (parent.at(&key, &old), old),
                // Over one that was inserted there.
                RowChange::Insert { key, new } if !parent.key.is_empty() => (parent.at(&key, &new), new),
                _ => continue,
            };
            if let Some(theirs) = self.find_remote(parent, &at, &old)? {
                gone.add(number, places.iter().map(|&place| &theirs.values[place])).map_err(failed)?;
            }
        }
        let missed = gone.missed(key, was, here).map_err(failed)?;
        drop(gone);
        if missed.is_empty() {
            return Ok(());
        }
        for (number, change) in (0..).zip(local.rows(&parent.table)?) {
            let change = change?;
            if !missed.contains(number) || taken_back.contains(number) {
                continue;
            }
            let (at, old, new) = match change {
                RowChange::Delete { key, old } => (parent.at(&key, &old), Some(old), None),
                RowChange::Update { key, old, new } => (parent.at(&key, &old), Some(old), Some(new)),
                RowChange::Insert { key, new } => (parent.at(&key, &new), None, Some(new)),
            };
            let values = old.as_ref().or(new.as_ref()).map_or(&[][..], Vec::as_slice);
            let Some(theirs) = self.find_remote(parent, &at, values)? else { continue };
            if parent.find(self.onto, &at)?.is_some_and(|found| found.values == theirs.values) {
                continue;
            }
            let message = format!(
                "a row of {} was deleted here or its key changed, and one of {} on the server refers to it",
                parent.name, key.child
            );
            self.record(parent.conflict(
                Kind::NeededParent,
                old.as_deref(),
                new.as_deref(),
                Some(&theirs),
                message,
            ))?;
            // What was deleted is not there; another row may have come to its place.
            if let Some(new) = new {
                self.remove(parent, parent.at_now(&new).unwrap_or_else(|| at.clone()))?;
            }
            self.take_back(parent, at)?;
            taken_back.insert(number);
        }
        Ok(())
    }
}

impl Target {
    /// What a row is found by after an update, if not by its rowid.
    fn at_now(&self, new: &[Value]) -> Option<At> {
        let values = self.key.iter().map(|&column| Some(new[self.columns[column].local?].clone()));
        let values = values.collect::<Option<Vec<_>>>()?;
        (!values.is_empty() && !values.contains(&Value::Null)).then_some(At::Key(values))
    }
}

impl ForeignKey {
    fn is_like(&self, other: &ForeignKey) -> bool {
        let same = |a: &str, b: &str| a.eq_ignore_ascii_case(b);
        same(&self.child, &other.child)
            && same(&self.parent, &other.parent)
            && self.columns.len() == other.columns.len()
            && self.columns.iter().zip(&other.columns).all(|(a, b)| same(&a.0, &b.0) && same(&a.1, &b.1))
    }

    /// The condition of a row of the child (`c`) that refers to a row which is not there.
    fn is_violated(&self, db: &Connection) -> rusqlite::Result<String> {
        let set = self.columns.iter().map(|(from, _)| format!("c.{} IS NOT NULL", quoted(from)));
        let set = set.collect::<Vec<_>>().join(" AND ");
        let has_parent = db
            .prepare_cached("SELECT 1 FROM sqlite_schema WHERE name = ?1 COLLATE NOCASE")?
            .exists([&self.parent])?;
        if !has_parent {
            return Ok(set);
        }
        let same = self.columns.iter().map(|(from, to)| format!("p.{} = c.{}", quoted(to), quoted(from)));
        let same = same.collect::<Vec<_>>().join(" AND ");
        Ok(format!("{set} AND NOT EXISTS (SELECT 1 FROM {} p WHERE {same})", quoted(&self.parent)))
    }

    /// Whether a database has the row that these values refer to.
    fn parent_is_there(&self, db: &Connection, values: &[Value]) -> rusqlite::Result<bool> {
        let same = self.columns.iter().enumerate().map(|(i, (_, to))| format!("{} = ?{}", quoted(to), i + 1));
        let same = same.collect::<Vec<_>>().join(" AND ");
        let sql = format!("SELECT 1 FROM {} WHERE {same}", quoted(&self.parent));
        db.prepare_cached(&sql)?.exists(params_from_iter(values))
    }

    /// Whether a database has a row that refers to these values, and no row that has them.
    fn is_violated_by(&self, db: &Connection, values: &[Value]) -> rusqlite::Result<bool> {
        let same =
            self.columns.iter().enumerate().map(|(i, (from, _))| format!("{} = ?{}", quoted(from), i + 1));
        let same = same.collect::<Vec<_>>().join(" AND ");
        let sql = format!("SELECT 1 FROM {} WHERE {same}", quoted(&self.child));
        Ok(db.prepare_cached(&sql)?.exists(params_from_iter(values))? && !self.parent_is_there(db, values)?)
    }
}

/// Keys of the server's rows that were deleted or changed here, aside: there may be many.
struct Gone<'a> {
    onto: &'a Connection,
    columns: usize,
}

impl<'a> Gone<'a> {
    fn new(onto: &'a Connection, key: &ForeignKey) -> rusqlite::Result<Gone<'a>> {
        // Of the same affinity, so that its index serves to compare.
        let sql = "SELECT type FROM pragma_table_info(?1) WHERE name = ?2 COLLATE NOCASE";
        let mut columns = String::new();
        for (i, (_, to)) in key.columns.iter().enumerate() {
            use std::fmt::Write;
            let declared: String = onto.query_row(sql, [&key.parent, to], |row| row.get(0))?;
            let _ = write!(columns, ", k{i} {declared}");
        }
        onto.execute_batch(&format!("CREATE TEMP TABLE aquifer_gone(n INTEGER PRIMARY KEY{columns})"))?;
        Ok(Gone { onto, columns: key.columns.len() })
    }

    fn add<'v>(&self, number: u64, values: impl Iterator<Item = &'v Value>) -> rusqlite::Result<()> {
        use rusqlite::ToSql;
        let number = number.cast_signed();
        let values = values.map(|value| value as &dyn ToSql);
        let sql = format!("INSERT INTO temp.aquifer_gone VALUES(?{})", ", ?".repeat(self.columns));
        self.onto
            .prepare_cached(&sql)?
            .execute(params_from_iter(std::iter::once(&number as &dyn ToSql).chain(values)))
            .map(drop)
    }

    /// Which of them rows of the image refer to, and none did here.
    fn missed(
        &self,
        key: &ForeignKey,
        was: Option<&ForeignKey>,
        here: &Connection,
    ) -> rusqlite::Result<RoaringTreemap> {
        let names: Vec<_> = (0..self.columns).map(|i| format!("k{i}")).collect();
        let pairs = || names.iter().zip(&key.columns);
        let child: Vec<_> =
            pairs().map(|(name, (from, _))| format!("g.{name} = c.{}", quoted(from))).collect();
        let parent: Vec<_> = pairs().map(|(name, (_, to))| format!("p.{} = g.{name}", quoted(to))).collect();
        let (child, parent) = (child.join(" AND "), parent.join(" AND "));
        let sql = "SELECT 1 FROM pragma_index_list(?1) l, pragma_index_info(l.name) i
                   WHERE i.seqno = 0 AND i.name = ?2 COLLATE NOCASE";
        let is_indexed = self.onto.prepare(sql)?.exists([&key.child, &key.columns[0].0])?;
        let from = if is_indexed {
            format!("temp.aquifer_gone g CROSS JOIN {} c", quoted(&key.child))
        } else {
            // The child is read once, whatever is gone.
            self.onto.execute_batch(&format!(
                "CREATE INDEX temp.aquifer_gone_keys ON aquifer_gone({})",
                names.join(", ")
            ))?;
            format!("{} c CROSS JOIN temp.aquifer_gone g", quoted(&key.child))
        };
        let sql = format!(
            "SELECT DISTINCT g.* FROM {from} WHERE {child} AND NOT EXISTS (SELECT 1 FROM {} p WHERE {parent})",
            quoted(&key.parent)
        );
        let mut statement = self.onto.prepare(&sql)?;
        let mut rows = statement.query([])?;
        let mut missed = RoaringTreemap::new();
        while let Some(row) = rows.next()? {
            let values = (1..=self.columns).map(|i| row.get(i)).collect::<rusqlite::Result<Vec<Value>>>()?;
            if !was.is_some_and(|was| was.is_violated_by(here, &values) == Ok(true)) {
                missed.insert(row.get::<_, i64>(0)?.cast_unsigned());
            }
        }
        Ok(missed)
    }
}

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        self.onto.flush_prepared_statement_cache();
        // Where this fails, so does what comes next.
        let _ = self.onto.execute_batch("DROP TABLE temp.aquifer_gone");
    }
}

/// All foreign keys of a database.
fn declared(db: &Connection) -> Result<Vec<ForeignKey>> {
    let sql = "SELECT s.name, f.id, f.\"table\", f.\"from\", f.\"to\" FROM sqlite_schema s, pragma_foreign_key_list(s.name) f
               WHERE s.type = 'table' ORDER BY s.name, f.id, f.seq";
    let mut keys: Vec<(i64, ForeignKey)> = Vec::new();
    let mut statement = db.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (child, id, parent): (String, i64, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let column: (String, Option<String>) = (row.get(3)?, row.get(4)?);
        let is_next = |(last, key): &(i64, ForeignKey)| *last == id && key.child == child;
        if !keys.last().is_some_and(is_next) {
            keys.push((id, ForeignKey { child, parent, columns: Vec::new() }));
        }
        let Some((_, key)) = keys.last_mut() else { continue };
        // Without names they are the parent's primary key.
        let to = match column.1 {
            Some(to) => Some(to),
            None => primary_key(db, &key.parent, key.columns.len())?,
        };
        key.columns.push((column.0, to.unwrap_or_default()));
    }
    // Those that name what is not there can never hold.
    let is_sound = |key: &ForeignKey| key.columns.iter().all(|(_, to)| !to.is_empty());
    Ok(keys.into_iter().map(|(_, key)| key).filter(is_sound).collect())
}

fn primary_key(db: &Connection, table: &str, part: usize) -> rusqlite::Result<Option<String>> {
    use rusqlite::OptionalExtension;
    let sql = "SELECT name FROM pragma_table_info(?1) WHERE pk = ?2";
    db.prepare_cached(sql)?.query_row((table, part as i64 + 1), |row| row.get(0)).optional()
}

fn one(db: &Connection, sql: &str, params: &[Value]) -> rusqlite::Result<Option<Vec<Value>>> {
    let mut statement = db.prepare_cached(sql)?;
    let columns = statement.column_count();
    let mut rows = statement.query(params_from_iter(params))?;
    let Some(row) = rows.next()? else { return Ok(None) };
    (0..columns).map(|i| row.get(i)).collect::<rusqlite::Result<_>>().map(Some)
}
