//! Puts what was changed locally onto what the server has.
//!
//! [`Diff`] says what was changed here since both sides had the same (its base). The changes are done once more, as
//! ordinary SQL, in an image of the server's database (an overlay). Where the server has changed the same things, there is a
//! conflict, which is decided here and nowhere else, and recorded.
//!
//! 1. `schema`: statements of the schema, as far as they suit the server's (`dropped`: rows of tables that go).
//! 2. `target`: which table and columns of the image a table and its columns are.
//! 3. `rows`: deletes, updates, inserts. An update whose unique value is still taken waits until the others are done.
//! 4. `foreign`: foreign keys that hold on both sides, but not together.
//!
//! What cannot stay is taken back (`take_back`): the row becomes what the server has.

mod changes;
mod conflict;
mod dropped;
mod foreign;
mod rows;
mod schema;
mod take_back;
mod target;

use aquifer_sqlite::btree::Value;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OptionalExtension};

use crate::diff::{self, Diff, Side};
pub use conflict::{ByDefault, Conflict, Kind, Outcome, Resolution, Resolver, Row};
use target::Targets;

/// Result of this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What keeps local changes from being put onto the server's. The image that they were put onto is then of no use.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The local changes cannot be found out.
    #[error(transparent)]
    Diff(#[from] diff::Error),

    /// SQLite cannot apply them: the disk is full, the image is damaged, a collation is missing.
    #[error("the local changes of {table} cannot be put onto the server's: {}", aquifer_sqlite::said(source))]
    Table {
        /// The table.
        table: String,
        /// What SQLite said.
        source: rusqlite::Error,
    },

    /// As above, of no table.
    #[error("the local changes cannot be put onto the server's: {}", aquifer_sqlite::said(.0))]
    Sqlite(#[from] rusqlite::Error),

    /// The rows of a table cannot be told apart by SQL.
    #[error(
        "rows of table {table} cannot be reached: its columns have taken all names of the rowid; rename one of them"
    )]
    Rowid {
        /// The table.
        table: String,
    },

    /// A conflict could not be recorded, so it must not be decided.
    #[error("a conflict cannot be recorded: {0}")]
    Record(Box<dyn std::error::Error + Send + Sync>),
}

/// Takes each conflict, in the order in which they are found.
pub type Record<'a> = &'a mut dyn FnMut(Conflict) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Local changes of rows that were looked at.
    pub rows: u64,
    /// Conflicts that were recorded.
    pub conflicts: u64,
}

/// Changes of rows between two commits: what SQLite would roll back stays small.
const CHANGES: u32 = 1000;

/// Puts local changes onto an image of the server's database.
///
/// `onto` is a connection to that image that can be written to, with no transaction open, and `remote` one to the same
/// image that is only read and stays as it is. Tables of which `tables` says no are left as the server has them.
/// Triggers do not fire and foreign keys cause nothing: what they did here is among the changes.
///
/// If there are no changes, nothing is written.
///
/// # Errors
/// After any, `onto` has some of the changes, and is of no use.
pub fn rebase(
    onto: &Connection,
    remote: &Connection,
    local: &Diff,
    tables: &dyn Fn(&str) -> bool,
    resolver: &dyn Resolver,
    record: Record<'_>,
) -> Result<Summary> {
    onto.pragma_update(None, "foreign_keys", false)?;
    onto.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    onto.set_prepared_statement_cache_capacity(64);
    remote.set_prepared_statement_cache_capacity(64);
    let mut replay =
        Replay { onto, remote, local, tables, resolver, record, summary: Summary::default(), pending: 0 };
    onto.execute_batch("BEGIN")?;
    let schema = schema::Change::begin(&mut replay)?;
    let targets = Targets::new(&replay)?;
    for target in &targets.0 {
        replay.rows(target)?;
    }
    replay.foreign_keys(&targets)?;
    schema.finish(&mut replay)?;
    replay.sequences(&targets)?;
    replay.settings()?;
    onto.execute_batch("COMMIT")?;
    Ok(replay.summary)
}

/// The state of a rebase.
struct Replay<'a> {
    onto: &'a Connection,
    remote: &'a Connection,
    local: &'a Diff,
    tables: &'a dyn Fn(&str) -> bool,
    resolver: &'a dyn Resolver,
    record: Record<'a>,
    summary: Summary,
    /// Changes since the last commit.
    pending: u32,
}

impl Replay<'_> {
    /// Whether a table takes part.
    fn takes_part(&self, table: &str) -> bool {
        (self.tables)(table)
    }

    fn record(&mut self, conflict: Conflict) -> Result<()> {
        self.summary.conflicts += 1;
        (self.record)(conflict).map_err(Error::Record)
    }

    /// Counts a change; commits now and then.
    fn count(&mut self) -> Result<()> {
        self.pending += 1;
        if self.pending >= CHANGES {
            self.onto.execute_batch("COMMIT; BEGIN")?;
            self.pending = 0;
        }
        Ok(())
    }

    /// AUTOINCREMENT goes on after the larger one of both sides' rowids.
    fn sequences(&mut self, targets: &Targets) -> Result<()> {
        let read = |db: &Connection, table: &str| -> rusqlite::Result<Option<Value>> {
            let has = "SELECT 1 FROM sqlite_schema WHERE name = 'sqlite_sequence'";
            if !db.prepare_cached(has)?.exists([])? {
                return Ok(None);
            }
            let sql = "SELECT seq FROM sqlite_sequence WHERE name = ?1";
            db.prepare_cached(sql)?.query_row([table], |row| row.get(0)).optional()
        };
        let base = self.local.open(Side::Base)?;
        for sequence in self.local.sequences() {
            let Some(target) = targets.of(&sequence.table) else { continue };
            let table = &target.name;
            let is_counting =
                self.onto.prepare("SELECT 1 FROM sqlite_schema WHERE name = 'sqlite_sequence'")?.exists([])?;
            if !is_counting {
                continue;
            }
            let before = read(&base, target.base.as_deref().unwrap_or(table))?;
            let theirs = match &target.remote {
                Some(remote) => read(self.remote, remote)?,
                None => None,
            };
            let seq = match (&sequence.seq, theirs) {
                (ours, theirs) if theirs == before => ours.clone(),
                (Some(Value::Integer(ours)), Some(Value::Integer(theirs))) => {
                    Some(Value::Integer(*ours.max(&theirs)))
                }
                (_, theirs) => theirs,
            };
            if read(self.onto, table)? != seq {
                self.onto.execute("DELETE FROM sqlite_sequence WHERE name = ?1", [table])?;
                if let Some(seq) = seq {
                    self.onto.execute("INSERT INTO sqlite_sequence VALUES(?1, ?2)", (table, seq))?;
                }
            }
        }
        Ok(())
    }

    /// `user_version` and `application_id`.
    fn settings(&mut self) -> Result<()> {
        if self.local.settings().is_empty() {
            return Ok(());
        }
        let base = self.local.open(Side::Base)?;
        for setting in self.local.settings() {
            let read =
                |db: &Connection| db.pragma_query_value(None, setting.name, |row| row.get::<_, i32>(0));
            let (before, theirs) = (read(&base)?, read(self.remote)?);
            if theirs == before {
                self.onto.pragma_update(None, setting.name, setting.value)?;
            } else if theirs != setting.value {
                let row =
                    |value: i32| Some(Row(vec![(setting.name.to_owned(), Value::Integer(value.into()))]));
                self.record(Conflict {
                    kind: Kind::Setting,
                    table: setting.name.to_owned(),
                    base: row(before),
                    local: row(setting.value),
                    remote: row(theirs),
                    statement: Some(format!("PRAGMA {} = {}", setting.name, setting.value)),
                    outcome: Outcome::Theirs,
                    message: format!(
                        "{} was set to {} here and to {theirs} on the server, where it stays",
                        setting.name, setting.value
                    ),
                })?;
            }
        }
        Ok(())
    }
}
