//! All statements of a push, in order.
//!
//! Schema, rows, schema: as [`Diff`] has it. Of the rows, those that are deleted come first, children before the
//! parents that they refer to; then updates; then those that are new, parents first. Where updates could take unique
//! values from each other, the rows are deleted and inserted again.

use std::collections::BTreeSet;
use std::sync::Arc;

use aquifer_sqlite::btree::Value;

use super::catalog::{Catalog, Trigger, Unique};
use super::exact::Reals;
use super::groups::{Groups, Kind, Statement};
use super::row::{Names, Single, is_plain, is_sampled, key_values};
use super::{Decision, PushError, PushRow, Result, Step, Summary, Transform, fail_if};
use crate::diff::{Diff, RowChange, SchemaChange, Table, quoted};

/// Gives the statements that do on a server what was done locally: between `BEGIN` and `COMMIT`, which are not among
/// them. When one fails the ones after it must not run, and the transaction must be rolled back.
///
/// `reals` says how the server reads those.
///
/// `takes_part` says of each table whether it is pushed, with all that belongs to it. Holds 16 MiB of rows at most, and
/// one row.
///
/// # Errors
/// The images cannot be read; a row cannot be addressed; the transform's row does not fit; the sink's own.
pub fn statements(
    local: &Diff,
    takes_part: &dyn Fn(&str) -> bool,
    transform: Option<&dyn Transform>,
    reals: Reals,
    sink: &mut dyn FnMut(Step) -> Result<()>,
) -> Result<Summary> {
    let catalog = Catalog::of(local)?;
    let mut push = Push {
        local,
        catalog,
        takes_part,
        transform,
        reals,
        sink,
        summary: Summary::default(),
        triggers: Vec::new(),
        altered: BTreeSet::new(),
    };
    push.before_rows()?;
    push.rows()?;
    push.after_rows()?;
    push.settings()?;
    Ok(push.summary)
}

struct Push<'a> {
    local: &'a Diff,
    catalog: Catalog,
    takes_part: &'a dyn Fn(&str) -> bool,
    transform: Option<&'a dyn Transform>,
    reals: Reals,
    sink: &'a mut dyn FnMut(Step) -> Result<()>,
    summary: Summary,
    /// Those that had to make way.
    triggers: Vec<Trigger>,
    /// Tables of the base that have another definition now, in lower case.
    altered: BTreeSet<String>,
}

/// A table with rows to push.
struct Work<'a> {
    table: &'a Table,
    about: Arc<str>,
    names: Names,
    unique: Unique,
    /// Several rows change what unique keys are about, and could change it with each other.
    is_moving: bool,
    counts: [u64; 3],
    held: Option<Vec<RowChange>>,
    is_begun: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    Delete,
    Update,
    Insert,
}

impl Work<'_> {
    /// The columns that an update changes.
    fn changed(&self, old: &[Value], new: &[Value]) -> Vec<usize> {
        (0..self.names.columns.len()).filter(|&column| old.get(column) != new.get(column)).collect()
    }

    /// Whether an updated row is deleted and inserted again.
    fn moves(&self, old: &[Value], new: &[Value]) -> bool {
        self.table.is_virtual() || self.is_moving && self.unique.is_about(&self.changed(old, new))
    }
}

impl Push<'_> {
    fn step(&mut self, about: &Arc<str>, sql: impl Into<Arc<str>>, args: Vec<Value>) -> Result<()> {
        self.summary.statements += 1;
        (self.sink)(Step { sql: sql.into(), args, about: Arc::clone(about), is_optional: false })
    }

    /// A step that fails when the condition holds.
    fn guard(&mut self, about: &Arc<str>, condition: &str, args: Vec<Value>) -> Result<()> {
        self.step(about, fail_if(condition), args)
    }

    fn defined_as(&mut self, about: &Arc<str>, is_trigger: bool, sql: String) -> Result<()> {
        let condition = format!(
            "(SELECT sql FROM sqlite_schema WHERE name = ?1 COLLATE NOCASE AND (type = 'trigger') = {}) IS NOT ?2",
            i32::from(is_trigger)
        );
        self.guard(about, &condition, vec![text(about), Value::Text(sql.into_bytes())])
    }

    /// Those changes of the schema that take part.
    fn pushed<'c>(&self, changes: &'c [SchemaChange]) -> Result<Vec<&'c SchemaChange>> {
        let mut pushed = Vec::new();
        for change in changes {
            let table = self.catalog.table_of(&change.name, is_of_trigger(change))?;
            if (self.takes_part)(table.as_ref().unwrap_or(&change.name)) {
                pushed.push(change);
            }
        }
        Ok(pushed)
    }

    fn before_rows(&mut self) -> Result<()> {
        let changes = self.pushed(self.local.before_rows())?;
        let mut seen = BTreeSet::new();
        for change in &changes {
            let name = change.name.to_ascii_lowercase();
            let about = Arc::from(change.name.as_str());
            let is_trigger = is_of_trigger(change);
            if seen.insert((is_trigger, name.clone()))
                && let Some(sql) = self.catalog.definition(&change.name, is_trigger)?
            {
                self.defined_as(&about, is_trigger, sql)?;
            }
            if !is_trigger {
                self.altered.insert(name);
            }
            // Its rows or values go with it, whoever wrote them.
            let loses = change.sql.starts_with("DROP TABLE ") || change.sql.contains(" DROP COLUMN ");
            if loses && let Some((sql, said)) = self.catalog.content(&change.name)? {
                self.guard(&about, &format!("({sql}) IS NOT ?1"), vec![Value::Text(said.into_bytes())])?;
            }
        }
        self.schema(&changes)
    }

    fn schema(&mut self, changes: &[&SchemaChange]) -> Result<()> {
        for change in changes {
            self.summary.schema += 1;
            self.step(&Arc::from(change.name.as_str()), change.sql.as_str(), Vec::new())?;
        }
        Ok(())
    }

    fn rows(&mut self) -> Result<()> {
        let tables = self.local.tables().iter().filter(|table| (self.takes_part)(&table.name)).collect();
        let mut work = Vec::new();
        let mut left = RowChange::HELD;
        for table in self.catalog.parents_first(tables)? {
            work.extend(self.survey(table, &mut left)?);
        }
        for work in work.iter_mut().rev() {
            self.pass(work, Pass::Delete)?;
        }
        for pass in [Pass::Update, Pass::Insert] {
            for work in &mut work {
                self.pass(work, pass)?;
            }
        }
        Ok(())
    }

    /// What there is to do for a table; `None`: nothing. `left`: bytes of rows that may be held.
    fn survey<'t>(&mut self, table: &'t Table, left: &mut usize) -> Result<Option<Work<'t>>> {
        let mut rows = self.local.rows(table)?.peekable();
        if rows.peek().is_none() {
            return Ok(None);
        }
        let names = Names::of(table).ok_or_else(|| PushError::NoRowid { table: table.name.clone() })?;
        let mut work = Work {
            table,
            about: table.name.as_str().into(),
            names,
            unique: self.catalog.unique(table)?,
            is_moving: false,
            counts: [0; 3],
            held: Some(Vec::new()),
            is_begun: false,
        };
        let (mut about_unique, mut moved) = (0, 0);
        for change in rows {
            let Some(change) = self.transformed(table, change?)? else {
                self.summary.skipped += 1;
                continue;
            };
            match &change {
                RowChange::Delete { .. } => work.counts[Pass::Delete as usize] += 1,
                RowChange::Insert { .. } => work.counts[Pass::Insert as usize] += 1,
                RowChange::Update { old, new, .. } => {
                    work.counts[Pass::Update as usize] += 1;
                    moved += u64::from(work.table.is_virtual());
                    about_unique += u64::from(work.unique.is_about(&work.changed(old, new)));
                }
            }
            let size = change.bytes();
            match &mut work.held {
                Some(held) if size <= *left => {
                    *left -= size;
                    held.push(change);
                }
                held => {
                    // Those before it give their room back.
                    *left += held.take().iter().flatten().map(RowChange::bytes).sum::<usize>();
                }
            }
        }
        work.is_moving = about_unique > 1;
        self.summary.rows += work.counts.iter().sum::<u64>();
        if work.is_moving {
            moved += about_unique;
        }
        if moved > 0 {
            work.counts[Pass::Delete as usize] += moved;
            work.counts[Pass::Insert as usize] += moved;
        }
        Ok(Some(work).filter(|work| work.counts != [0; 3]))
    }

    /// As the transform wants it; `None`: not at all.
    fn transformed(&self, table: &Table, change: RowChange) -> Result<Option<RowChange>> {
        let Some(transform) = self.transform else { return Ok(Some(change)) };
        let row = PushRow { table: &table.name, columns: &table.columns, change: &change };
        let values = match transform.row(&row) {
            Decision::Keep => return Ok(Some(change)),
            Decision::Skip => return Ok(None),
            Decision::Rewrite(values) => values,
        };
        if values.len() != table.columns.len() {
            let (given, columns) = (values.len(), table.columns.len());
            return Err(PushError::Transform { table: table.name.clone(), given, columns });
        }
        Ok(match change {
            RowChange::Insert { key, .. } => Some(RowChange::Insert { key, new: values }),
            RowChange::Update { old, .. } if old == values => None,
            RowChange::Update { key, old, .. } => Some(RowChange::Update { key, old, new: values }),
            delete @ RowChange::Delete { .. } => Some(delete),
        })
    }

    fn pass(&mut self, work: &mut Work<'_>, pass: Pass) -> Result<()> {
        if work.counts[pass as usize] == 0 {
            return Ok(());
        }
        self.begin(work)?;
        let mut groups = Groups::new(&work.names);
        if let Some(held) = &work.held {
            for change in held {
                self.row(work, pass, &mut groups, change)?;
            }
        } else {
            for change in self.local.rows(work.table)? {
                if let Some(change) = self.transformed(work.table, change?)? {
                    self.row(work, pass, &mut groups, &change)?;
                }
            }
        }
        let rest = groups.finish();
        self.statements(work, rest)
    }

    /// What must be so before the first row of a table is touched.
    fn begin(&mut self, work: &mut Work<'_>) -> Result<()> {
        if std::mem::replace(&mut work.is_begun, true) {
            return Ok(());
        }
        let name = &work.table.name;
        if !self.altered.contains(&name.to_ascii_lowercase())
            && let Some(sql) = self.catalog.definition(name, false)?
        {
            self.defined_as(&work.about, false, sql)?;
        }
        if work.table.is_virtual() {
            return Ok(());
        }
        for trigger in self.catalog.triggers(name)? {
            let about = Arc::from(trigger.name.as_str());
            self.defined_as(&about, true, trigger.sql.clone())?;
            self.step(&about, format!("DROP TRIGGER {}", quoted(&trigger.name)), Vec::new())?;
            self.triggers.push(trigger);
        }
        let others =
            "EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = ?1 COLLATE NOCASE)";
        self.guard(&work.about, others, vec![text(&work.about)])
    }

    fn row(
        &mut self,
        work: &Work<'_>,
        pass: Pass,
        groups: &mut Groups<'_>,
        change: &RowChange,
    ) -> Result<()> {
        let names = &work.names;
        let moves = match change {
            RowChange::Update { old, new, .. } => work.moves(old, new),
            _ => false,
        };
        match (pass, change) {
            (Pass::Delete, RowChange::Delete { key, old } | RowChange::Update { key, old, .. })
                if moves || matches!(change, RowChange::Delete { .. }) =>
            {
                let mut row = key_values(key);
                let is_grouped = !work.table.is_virtual()
                    && row.iter().chain(old).all(|v| is_plain(v, self.reals) && !is_sampled(v));
                if is_grouped {
                    row.extend(names.compared().map(|column| old[column].clone()));
                    let ready = groups.add(&Kind::Delete, row);
                    return self.statements(work, ready);
                }
                let mut delete = Single::new(self.reals);
                delete.push("DELETE FROM ").push(&names.table).found_by(names, key);
                for column in names.compared() {
                    delete.guard(&names.columns[column], &old[column]);
                }
                self.single(work, delete, true)
            }
            (Pass::Update, RowChange::Update { key, old, new }) if !moves => {
                let changed = work.changed(old, new);
                let mut row = key_values(key);
                let guarded = names.guarded(&changed);
                row.extend(guarded.iter().map(|&column| old[column].clone()));
                let is_sampled = row.iter().any(is_sampled);
                row.extend(changed.iter().map(|&column| new[column].clone()));
                if !is_sampled && row.iter().all(|value| is_plain(value, self.reals)) {
                    let ready = groups.add(&Kind::Update(changed), row);
                    return self.statements(work, ready);
                }
                let mut update = Single::new(self.reals);
                update.push("UPDATE OR ABORT ").push(&names.table);
                for (i, &column) in changed.iter().enumerate() {
                    update.push(if i == 0 { " SET " } else { ", " }).push(&names.columns[column]);
                    update.push(" = ").value(&new[column]);
                }
                update.found_by(names, key);
                for &column in &guarded {
                    update.guard(&names.columns[column], &old[column]);
                }
                self.single(work, update, true)
            }
            (Pass::Insert, RowChange::Insert { key, new } | RowChange::Update { key, new, .. })
                if moves || matches!(change, RowChange::Insert { .. }) =>
            {
                let mut row = new.clone();
                if names.is_rowid_apart {
                    row.extend(key_values(key));
                }
                if row.iter().all(|value| is_plain(value, self.reals)) {
                    let ready = groups.add(&Kind::Insert, row);
                    return self.statements(work, ready);
                }
                let mut insert = Single::new(self.reals);
                let rowid = names.key.iter().filter(|_| names.is_rowid_apart);
                let columns: Vec<_> = names.columns.iter().chain(rowid).map(String::as_str).collect();
                insert.push("INSERT OR ABORT INTO ").push(&names.table).push("(").push(&columns.join(","));
                for (i, value) in row.iter().enumerate() {
                    insert.push(if i == 0 { ") VALUES (" } else { "," }).value(value);
                }
                insert.push(")");
                self.single(work, insert, false)
            }
            _ => Ok(()),
        }
    }

    fn single(&mut self, work: &Work<'_>, single: Single, is_guarded: bool) -> Result<()> {
        let Single { sql, args, .. } = single;
        self.statements(work, vec![Statement { sql: sql.into(), args, rows: 1, is_guarded }])
    }

    fn statements(&mut self, work: &Work<'_>, statements: Vec<Statement>) -> Result<()> {
        for Statement { sql, args, rows, is_guarded } in statements {
            self.step(&work.about, sql, args)?;
            if is_guarded {
                let rows = i64::try_from(rows).unwrap_or(i64::MAX);
                self.guard(&work.about, "changes() <> ?1", vec![Value::Integer(rows)])?;
            }
        }
        Ok(())
    }

    fn after_rows(&mut self) -> Result<()> {
        for sequence in self.local.sequences().iter().filter(|sequence| (self.takes_part)(&sequence.table)) {
            let about = Arc::from(sequence.table.as_str());
            let Some(seq) = &sequence.seq else {
                self.step(&about, "DELETE FROM sqlite_sequence WHERE name = ?1", vec![text(&about)])?;
                continue;
            };
            // Others may have counted further.
            let raise = "UPDATE sqlite_sequence SET seq = max(seq, ?2) WHERE name = ?1";
            self.step(&about, raise, vec![text(&about), seq.clone()])?;
            let begin = "INSERT INTO sqlite_sequence(name, seq) SELECT ?1, ?2 \
                         WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = ?1)";
            self.step(&about, begin, vec![text(&about), seq.clone()])?;
        }
        for trigger in std::mem::take(&mut self.triggers) {
            self.step(&Arc::from(trigger.name.as_str()), trigger.sql, Vec::new())?;
        }
        let changes = self.pushed(self.local.after_rows())?;
        self.schema(&changes)
    }

    fn settings(&mut self) -> Result<()> {
        for setting in self.local.settings() {
            let about = Arc::from(setting.name);
            let name = setting.name;
            let condition = format!("(SELECT {name} FROM pragma_{name}) <> ?1");
            self.guard(&about, &condition, vec![Value::Integer(setting.old.into())])?;
            self.summary.statements += 1;
            self.summary.schema += 1;
            let sql = format!("PRAGMA {name} = {}", setting.value).into();
            (self.sink)(Step { sql, args: Vec::new(), about, is_optional: true })?;
        }
        Ok(())
    }
}

fn is_of_trigger(change: &SchemaChange) -> bool {
    let mut words = change.sql.split_whitespace().skip(1).map(str::to_ascii_uppercase);
    let word = words.find(|word| word != "TEMP" && word != "TEMPORARY");
    word.is_some_and(|word| word == "TRIGGER")
}

fn text(name: &str) -> Value {
    Value::Text(name.as_bytes().to_vec())
}
