use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::fallible_iterator::FallibleIterator;
use rusqlite::limits::Limit;
use rusqlite::{Connection, TransactionState};

use super::authorize::Seen;
use super::batch::{self, Outcome};
use super::execute;
use super::observer::Observer;
use super::prepared::Prepared;
use super::push::{Bookkeeping, Meaning, OnPushConflict};
use super::verb::Verb;
use super::watch::Watch;
use super::{Access, Column, Interrupter, Limits, Sink, Sql, SqlError, Statement, Step, StoredSql, Summary};

/// One client's connection: what it runs is bounded, can be stopped from elsewhere, and stays inside its database.
///
/// All its methods block: call them on a thread that may. Dropping a session rolls an open transaction back.
pub struct Session {
    connection: Connection,
    watch: Arc<Watch>,
    seen: Seen,
    stored: StoredSql,
    limits: Limits,
    observer: Observer,
    /// Why nobody may write.
    read_only: Option<String>,
}

/// What a statement is, without running it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Its parameters in order, with their names where they have one.
    pub parameters: Vec<Option<String>>,
    /// The columns of its result.
    pub columns: Vec<Column>,
    /// Whether it is an EXPLAIN.
    pub is_explain: bool,
    /// Whether it leaves the database as it is.
    pub is_readonly: bool,
}

impl Session {
    /// Takes over `connection`, which the host has set up (WAL, synchronous, page size …).
    pub fn open(mut connection: Connection, access: Access, limits: Limits) -> Result<Self, SqlError> {
        // Before the authorizer is there, which would refuse it.
        connection.pragma_update(None, "query_only", access == Access::ReadOnly)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
        connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, limits.value_bytes.min(i32::MAX as u32) as i32)?;
        connection.set_limit(Limit::SQLITE_LIMIT_SQL_LENGTH, limits.sql_bytes.min(i32::MAX as u32) as i32)?;
        connection.set_limit(Limit::SQLITE_LIMIT_WORKER_THREADS, 0)?;
        let watch = Watch::over(&mut connection, &limits)?;
        Prepared::make_room(&connection);
        let seen = Seen::default();
        connection.authorizer(Some(seen.authorizer(access)))?;
        Ok(Self {
            connection,
            watch,
            seen,
            stored: StoredSql::default(),
            limits,
            observer: Observer::default(),
            read_only: None,
        })
    }

    /// The same session, of whose statements an observer is told.
    #[must_use]
    pub fn observed_by(self, observer: Observer) -> Self {
        Self { observer, ..self }
    }

    /// The same session, which says this of writes where it is read-only.
    #[must_use]
    pub fn read_only_because(self, why: Option<String>) -> Self {
        Self { read_only: why, ..self }
    }

    /// Makes it fit for another client with the same rights, as if it were new (but for what `changes()` and
    /// `total_changes()` say before its first write). False: it cannot be made so, and is to be dropped. Does not block.
    pub(crate) fn renew(&mut self) -> bool {
        if !self.is_autocommit() || self.seen.is_marked() || self.watch.is_cancelled() {
            return false;
        }
        self.stored = StoredSql::default();
        aquifer_sqlite::forget_last_insert_rowid(&self.connection);
        true
    }

    /// What stops this session from another thread.
    pub fn interrupter(&self) -> Interrupter {
        Interrupter(self.watch.clone())
    }

    /// What one client may take.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Whether no transaction is open.
    pub fn is_autocommit(&self) -> bool {
        self.connection.is_autocommit()
    }

    /// Whether its transaction keeps others from writing.
    pub(crate) fn holds_lock(&self) -> bool {
        let main = self.connection.transaction_state(Some("main"));
        !self.is_autocommit() && main.is_ok_and(|state| state == TransactionState::Write)
    }

    /// Whether one of the steps will probably want the write lock. A guess: nothing may depend on it but speed.
    pub(crate) fn want_lock(&self, steps: &[Step]) -> bool {
        let sql = |step: &Step| self.stored.resolve(&step.statement.sql).map(Verb::of);
        steps.iter().any(|step| sql(step).is_ok_and(Verb::wants_lock))
    }

    /// The text that is stored under `id`.
    pub(crate) fn stored(&self, id: i32) -> Option<&str> {
        self.stored.get(id)
    }

    /// What runs next has waited so long for the write lock already.
    pub(crate) fn has_waited(&self, time: Duration) {
        self.watch.has_waited(time);
    }

    /// Whether the next request would see the same on a new session: no transaction, no stored SQL.
    pub fn is_idle(&self) -> bool {
        self.is_autocommit() && self.stored.is_empty()
    }

    /// Runs one statement; its result goes to `sink` as step 0, but neither its end nor its error.
    pub fn execute(&self, statement: &Statement, sink: &mut dyn Sink) -> Result<Summary, SqlError> {
        self.step(0, statement, sink)
    }

    /// Runs the steps whose conditions hold, in order, whatever became of those before.
    ///
    /// # Errors
    /// Of the batch as a whole: a condition asks for a step to come (nothing has run then), or the client is gone.
    /// A step's own error goes to `sink`.
    pub fn batch(&self, steps: &[Step], sink: &mut dyn Sink) -> Result<(), SqlError> {
        self.steps(steps, sink, |_, _, _| Ok(()))
    }

    /// Runs the push of a sync client; answers how many of its statements the database refused and were kept.
    ///
    /// # Errors
    /// As [`Session::batch`], and when what was refused could not be kept: all is rolled back then.
    pub(crate) fn push(
        &self,
        steps: &[Step],
        bookkeeping: &Bookkeeping,
        policy: OnPushConflict,
        sink: &mut dyn Sink,
    ) -> Result<u64, SqlError> {
        let mut kept = 0;
        self.steps(steps, sink, |step, statement, error| {
            // The transaction may have gone with the statement, or have never begun.
            if self.is_autocommit() {
                return Ok(());
            }
            let sql = self.stored.resolve(&statement.sql)?;
            match (Meaning::of(sql, error), policy) {
                (Meaning::Harmless, _) => Ok(()),
                (Meaning::Conflict, OnPushConflict::Keep) => {
                    kept += 1;
                    bookkeeping
                        .keep(&self.connection, step, statement, sql, error)
                        .or_else(|error| self.roll_back().and(Err(error)))
                }
                (Meaning::Conflict, OnPushConflict::Reject) | (Meaning::Circumstance, _) => self.roll_back(),
            }
        })?;
        Ok(kept)
    }

    fn steps(
        &self,
        steps: &[Step],
        sink: &mut dyn Sink,
        mut failed: impl FnMut(usize, &Statement, &SqlError) -> Result<(), SqlError>,
    ) -> Result<(), SqlError> {
        batch::check(steps)?;
        let mut outcomes = Vec::with_capacity(steps.len());
        for (index, Step { condition, statement }) in steps.iter().enumerate() {
            let runs =
                condition.as_ref().is_none_or(|condition| condition.holds(&outcomes, self.is_autocommit()));
            if !runs {
                outcomes.push(Outcome::Skipped);
                continue;
            }
            outcomes.push(match self.step(index, statement, sink) {
                Ok(summary) => {
                    sink.end(index, summary)?;
                    Outcome::Succeeded
                }
                Err(SqlError::Cancelled) => return Err(SqlError::Cancelled),
                Err(error) => {
                    failed(index, statement, &error)?;
                    sink.failed(index, error)?;
                    Outcome::Failed
                }
            });
        }
        Ok(())
    }

    /// Runs all statements in the text, in order, up to the first that fails. Rows are dropped.
    pub fn sequence(&self, sql: &Sql) -> Result<(), SqlError> {
        let sql = self.stored.resolve(sql)?;
        let mut statements = rusqlite::Batch::new(&self.connection, sql);
        let (began, changes_before) = (Instant::now(), self.connection.total_changes());
        let mut run = || -> Result<(), SqlError> {
            loop {
                self.watch.start()?;
                let Some(mut statement) = statements.next()? else { return Ok(()) };
                if statement.parameter_count() > 0 {
                    return Err(SqlError::MissingArgument("of a statement in a sequence".into()));
                }
                let mut rows = statement.raw_query();
                while rows.next()?.is_some() {}
            }
        };
        let result = run().map_err(|error| self.explain(error));
        let rows_written = self.connection.total_changes() - changes_before;
        let summary = result.clone().map(|()| Summary { rows_written, ..Summary::default() });
        self.observer.ran(sql, began.elapsed(), &summary);
        result
    }

    /// What the statement is, without running it.
    pub fn describe(&self, sql: &Sql) -> Result<Description, SqlError> {
        self.watch.start()?;
        let statement = execute::only(&self.connection, self.stored.resolve(sql)?)
            .map_err(|error| self.explain(error))?;
        Ok(Description {
            parameters: (1..=statement.parameter_count())
                .map(|index| statement.parameter_name(index).map(str::to_owned))
                .collect(),
            columns: execute::columns(&statement),
            is_explain: statement.is_explain() != 0,
            is_readonly: statement.readonly(),
        })
    }

    /// Keeps `text` under `id` for statements to come.
    pub fn store_sql(&mut self, id: i32, text: String) -> Result<(), SqlError> {
        self.stored.store(id, text, &self.limits)
    }

    /// Forgets the text under `id`, if there is one.
    pub fn close_sql(&mut self, id: i32) {
        self.stored.close(id);
    }

    /// Takes over what the client has stored elsewhere, in place of what is stored here.
    pub(crate) fn use_stored(&mut self, stored: StoredSql) {
        self.stored = stored;
    }

    /// Ends an open transaction without its changes.
    pub fn roll_back(&self) -> Result<(), SqlError> {
        if !self.is_autocommit() {
            self.connection.execute_batch("ROLLBACK")?;
        }
        Ok(())
    }

    fn step(&self, index: usize, statement: &Statement, sink: &mut dyn Sink) -> Result<Summary, SqlError> {
        let sql = self.stored.resolve(&statement.sql)?;
        let began = Instant::now();
        let result = execute::run(&self.connection, &self.watch, sql, statement, index, sink)
            .map_err(|error| self.explain(error));
        self.observer.ran(sql, began.elapsed(), &result);
        result
    }

    /// Says more than SQLite could.
    fn explain(&self, error: SqlError) -> SqlError {
        let refusal = self.seen.take_refusal();
        match (error.primary_code(), refusal) {
            (Some(rusqlite::ffi::SQLITE_AUTH), Some(why)) => SqlError::Refused(why),
            (Some(rusqlite::ffi::SQLITE_READONLY), _) if self.read_only.is_some() => {
                SqlError::ReadOnly(self.read_only.clone().unwrap_or_default())
            }
            _ => self.watch.explain(error),
        }
    }
}
