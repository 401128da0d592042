//! The schema: local statements as far as they suit what the server has.

use std::collections::BTreeMap;

use rusqlite::Connection;

use super::{Conflict, Kind, Outcome, Replay, Result};
use crate::diff::definition::Definition;
use crate::diff::layout::Layout;
use crate::diff::schema::{Schema, quoted};
use crate::diff::{Diff, Side};

/// Local changes of the schema, while rows are replayed.
pub(super) struct Change {
    /// `None`: there are none.
    schemas: Option<Schemas>,
    /// Indexes, triggers and views of the server's that had to go; in lower case, and their SQL.
    dropped: BTreeMap<String, String>,
}

/// As both sides had it, as it is here, and as the server has it.
struct Schemas {
    base: Schema,
    local: Schema,
    remote: Schema,
    /// What tables of the base are called here; both in lower case.
    names: BTreeMap<String, String>,
}

impl Change {
    /// Does what is to be done before rows are.
    pub(super) fn begin(replay: &mut Replay<'_>) -> Result<Change> {
        let mut change = Change { schemas: None, dropped: BTreeMap::new() };
        let local = replay.local;
        if local.before_rows().is_empty() && local.after_rows().is_empty() {
            return Ok(change);
        }
        let schemas = Schemas {
            base: Schema::of(&local.open(Side::Base)?)?,
            local: Schema::of(&local.open(Side::Current)?)?,
            remote: Schema::of(replay.remote)?,
            names: names(local),
        };
        // Alterations that SQLite refused, by table.
        let mut refused: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
        for statement in local.before_rows() {
            let (name, sql) = (&statement.name, &statement.sql);
            let key = name.to_ascii_lowercase();
            if !replay.takes_part(schemas.owner(name)) {
                continue;
            }
            let (before, theirs) = (definition(&schemas.base, &key), definition(&schemas.remote, &key));
            match words(sql) {
                // Made anew on both sides.
                ("DROP", "TABLE") if theirs.is_some() && theirs == definition(&schemas.local, &key) => {}
                ("DROP", "TABLE") => {
                    if theirs.is_some() && theirs != before {
                        let message = format!(
                            "table {name} was dropped here and changed on the server, where it stays"
                        );
                        replay.refuse(name, sql, message)?;
                    } else if theirs.is_some() {
                        if let Some(layout) = schemas.base.tables.get(&key) {
                            replay.rows_of_dropped(layout, &local.open(Side::Base)?)?;
                        }
                        replay.onto.execute_batch(sql)?;
                    }
                }
                ("DROP", _) => {
                    if let Some(theirs) = theirs.filter(|_| !is_table(&schemas.remote, &key)) {
                        replay.onto.execute_batch(sql)?;
                        change.dropped.insert(key, theirs.0.to_owned());
                    }
                }
                ("ALTER", _) => {
                    // The same on both sides, by its definition.
                    if theirs != before && schemas.is_done(&key) {
                        continue;
                    }
                    if let Err(error) = attempt(replay.onto, sql)? {
                        refused.entry(key).or_default().push((sql.clone(), error.to_string()));
                    }
                }
                _ if theirs == Some(Definition(sql)) => {}
                _ => {
                    if let Err(error) = attempt(replay.onto, sql)? {
                        let message =
                            format!("table {name} was created here, and cannot be on the server's: {error}");
                        replay.refuse(name, sql, message)?;
                    }
                }
            }
        }
        if !refused.is_empty() {
            let now = Schema::of(replay.onto)?;
            for (table, statements) in refused {
                if schemas.is_there(&table, &now) {
                    continue;
                }
                for (sql, error) in statements {
                    let message = format!(
                        "table {table} was altered on both sides; this alteration does not suit the server's: {error}"
                    );
                    replay.refuse(&table, &sql, message)?;
                }
            }
        }
        change.schemas = Some(schemas);
        Ok(change)
    }

    /// Does what is to be done after rows are.
    pub(super) fn finish(mut self, replay: &mut Replay<'_>) -> Result<()> {
        let Some(schemas) = self.schemas else { return Ok(()) };
        for statement in replay.local.after_rows() {
            let (name, sql) = (&statement.name, &statement.sql);
            let key = name.to_ascii_lowercase();
            if !replay.takes_part(schemas.owner(name)) {
                continue;
            }
            let (before, theirs) = (definition(&schemas.base, &key), definition(&schemas.remote, &key));
            if words(sql).0 == "INSERT" {
                // A full-text index, built again: if there is one.
                if exists(replay.onto, name)? {
                    replay.onto.execute_batch(sql)?;
                }
            } else if theirs == before {
                self.dropped.remove(&key);
                if let Err(error) = attempt(replay.onto, sql)? {
                    replay.refuse(
                        name,
                        sql,
                        format!("{name} was created here, and cannot be on the server's: {error}"),
                    )?;
                }
            } else {
                // The server's stays as it is, and is put back below if it had to make way.
                let ours = Some(Definition(sql));
                if theirs != ours && before != ours {
                    replay.refuse(
                        name,
                        sql,
                        format!("{name} was changed on both sides; the server's stays"),
                    )?;
                }
            }
        }
        for (key, theirs) in self.dropped {
            let before = definition(&schemas.base, &key);
            if before == Some(Definition(&theirs)) {
                continue;
            }
            if definition(&schemas.local, &key).is_none() {
                let drop = format!("DROP {}", quoted(&key));
                replay.refuse(
                    &key,
                    &drop,
                    format!("{key} was dropped here and changed on the server, where it stays"),
                )?;
            }
            if let Err(error) = attempt(replay.onto, &theirs)? {
                replay.refuse(
                    &key,
                    &theirs,
                    format!(
                        "the server's {key} cannot be with the tables as they were altered here: {error}"
                    ),
                )?;
            }
        }
        Ok(())
    }
}

impl Schemas {
    /// The table that something belongs to, which may be itself.
    fn owner<'a>(&'a self, name: &'a str) -> &'a str {
        let others = self.local.others.iter().chain(&self.base.others);
        let mut owners = others.filter(|other| other.name.eq_ignore_ascii_case(name));
        owners.next().map_or(name, |other| &other.table)
    }

    /// What a table of the base is here.
    fn now(&self, table: &str) -> Option<&Layout> {
        self.local.tables.get(self.names.get(table)?)
    }

    /// Whether the server has a table of the base as it is here.
    fn is_done(&self, table: &str) -> bool {
        let (ours, name) = (self.now(table), self.names.get(table));
        let theirs = name.and_then(|name| self.remote.tables.get(name));
        ours.zip(theirs).is_some_and(|(ours, theirs)| Definition(&ours.sql) == Definition(&theirs.sql))
    }

    /// Whether what the alterations of a table were to lead to is there.
    fn is_there(&self, table: &str, now: &Schema) -> bool {
        let now = self.names.get(table).and_then(|name| now.tables.get(name));
        let (Some(ours), Some(now)) = (self.now(table), now) else { return false };
        let gone = self.base.tables.get(table).into_iter().flat_map(|base| &base.columns);
        let mut gone = gone.filter(|column| !ours.columns.iter().any(|ours| ours.name == column.name));
        ours.columns.iter().all(|column| now.columns.contains(column))
            && !gone.any(|gone| now.columns.iter().any(|column| column.name == gone.name))
    }
}

impl Replay<'_> {
    /// Records that a statement is not applied.
    fn refuse(&mut self, name: &str, sql: &str, message: String) -> Result<()> {
        self.record(Conflict {
            kind: Kind::Schema,
            table: name.to_owned(),
            base: None,
            local: None,
            remote: None,
            statement: Some(sql.to_owned()),
            outcome: Outcome::Theirs,
            message,
        })
    }
}

fn names(local: &Diff) -> BTreeMap<String, String> {
    let names = local.tables().iter().filter_map(|table| {
        let (base, _) = table.base()?;
        Some((base.to_ascii_lowercase(), table.name.to_ascii_lowercase()))
    });
    names.collect()
}

fn is_table(schema: &Schema, key: &str) -> bool {
    schema.tables.contains_key(key) || schema.virtual_tables.contains_key(key)
}

/// The SQL of something, by its name in lower case.
fn definition<'a>(schema: &'a Schema, key: &str) -> Option<Definition<'a>> {
    let table = schema.tables.get(key).map(|table| &table.sql);
    let table = table.or_else(|| schema.virtual_tables.get(key).map(|table| &table.sql));
    let found = table.or_else(|| {
        schema.others.iter().find(|other| other.name.eq_ignore_ascii_case(key)).map(|other| &other.sql)
    });
    found.map(|sql| Definition(sql))
}

/// The first two words of a statement that the diff has made, and the first of others.
fn words(sql: &str) -> (&str, &str) {
    let mut words = sql.split_ascii_whitespace();
    (words.next().unwrap_or_default(), words.next().unwrap_or_default())
}

/// Runs a statement. What SQLite says against it leaves everything as it was.
///
/// # Errors
/// Those of the disk.
fn attempt(db: &Connection, sql: &str) -> Result<Result<(), rusqlite::Error>> {
    db.execute_batch("SAVEPOINT statement")?;
    let done = db.execute_batch(sql);
    if done.is_err() {
        db.execute_batch("ROLLBACK TO statement")?;
    }
    db.execute_batch("RELEASE statement")?;
    match done {
        Err(error) if !is_refusal(&error) => Err(error.into()),
        done => Ok(done),
    }
}

/// Whether SQLite says that a statement cannot be, rather than that it cannot work.
fn is_refusal(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode;
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::Unknown | ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch)
    ) || matches!(error, rusqlite::Error::SqlInputError { .. })
}

fn exists(db: &Connection, table: &str) -> rusqlite::Result<bool> {
    db.prepare_cached("SELECT 1 FROM sqlite_schema WHERE name = ?1 COLLATE NOCASE")?.exists([table])
}
