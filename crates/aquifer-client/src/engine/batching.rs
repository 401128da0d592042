//! A part of the local changes, as an image of its own.
//!
//! A push is one transaction on the server. More rows than an application wants in one are pushed in several: each pushes
//! an image between the one that the server has and the database. It is made by running the first statements of the
//! whole push on an overlay, up to so many rows; then it is compared, kept, sent and counted from as any other image
//! that is pushed. The statements are in an order in which no foreign key is broken after any of them.

use std::fs::File;

use aquifer_sqlite::{Overlay, ReadPages, open_overlay};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, params_from_iter};

use crate::diff::Diff;
use crate::push::{PushError, Reals, Step, Transform, statements};

/// Statements between two commits: what SQLite would roll back stays small.
const STATEMENTS: u32 = 100;

/// The image that has about so many rows of the changes, done to `before`. `None`: it cannot be made, or has all of them.
pub(super) fn part(
    diff: &Diff,
    before: Box<dyn ReadPages>,
    takes_part: &dyn Fn(&str) -> bool,
    transform: Option<&dyn Transform>,
    rows: u64,
    spill: File,
) -> Result<Option<Overlay>, PushError> {
    let mut made = match Part::new(before, rows, spill) {
        Ok(made) => made,
        Err(error) => return Ok(not_made(&error)),
    };
    let all = statements(diff, takes_part, transform, Reals::Exact, &mut |step| made.take(&step));
    match (all, made.failure.take()) {
        (_, Some(error)) => return Ok(not_made(&error)),
        // All rows are fewer than that.
        (Ok(_), None) => return Ok(None),
        (Err(_), None) if made.is_full => {}
        (Err(error), None) => return Err(error),
    }
    match made.end() {
        Ok(overlay) => Ok(Some(overlay)),
        Err(error) => Ok(not_made(&error)),
    }
}

/// Then all of it is pushed at once: it is a question of size, not of right or wrong.
fn not_made(error: &rusqlite::Error) -> Option<Overlay> {
    tracing::debug!(%error, "the changes are pushed in one transaction");
    None
}

struct Part {
    db: Connection,
    overlay: Overlay,
    /// Triggers make way for rows, and come again at the very end.
    triggers: Vec<(String, String)>,
    rows: u64,
    done: u64,
    statements: u32,
    is_full: bool,
    failure: Option<rusqlite::Error>,
}

impl Part {
    fn new(before: Box<dyn ReadPages>, rows: u64, spill: File) -> rusqlite::Result<Part> {
        let (db, overlay) = open_overlay(before, spill)?;
        db.pragma_update(None, "foreign_keys", false)?;
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
        let triggers = triggers(&db)?;
        db.execute_batch("BEGIN")?;
        Ok(Part { db, overlay, triggers, rows, done: 0, statements: 0, is_full: false, failure: None })
    }

    /// Runs a statement; an error ends it, also when there are enough rows.
    fn take(&mut self, step: &Step) -> Result<(), PushError> {
        if self.done >= self.rows && !is_guard(step) {
            self.is_full = true;
            return Err(std::io::Error::other("enough").into());
        }
        self.run(step).map_err(|error| {
            self.failure = Some(error);
            std::io::Error::other("a statement failed").into()
        })
    }

    fn run(&mut self, step: &Step) -> rusqlite::Result<()> {
        let mut statement = self.db.prepare_cached(&step.sql)?;
        let is_select = statement.column_count() > 0;
        let mut rows = statement.query(params_from_iter(&step.args))?;
        let ran = loop {
            match rows.next() {
                Ok(Some(_)) => {}
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        drop(rows);
        drop(statement);
        match ran {
            Err(_) if step.is_optional => {}
            Err(error) => return Err(error),
            Ok(()) if !is_select => self.done += self.db.changes(),
            Ok(()) => {}
        }
        self.statements += 1;
        // Not before a guard has looked at what changed: COMMIT does not count as a change.
        if self.statements.is_multiple_of(STATEMENTS) {
            self.db.execute_batch("COMMIT; BEGIN")?;
        }
        Ok(())
    }

    fn end(self) -> rusqlite::Result<Overlay> {
        let left = triggers(&self.db)?;
        for (name, sql) in &self.triggers {
            if !left.iter().any(|(other, _)| other == name) {
                self.db.execute_batch(sql)?;
            }
        }
        self.db.execute_batch("COMMIT")?;
        Ok(self.overlay)
    }
}

/// Guards look at what the statement before them did: they belong to it.
fn is_guard(step: &Step) -> bool {
    step.sql.starts_with("SELECT")
}

fn triggers(db: &Connection) -> rusqlite::Result<Vec<(String, String)>> {
    let mut statement = db.prepare("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'")?;
    let triggers = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    triggers.collect()
}
