//! Running one prepared statement to its end.
use std::time::{Duration, Instant};

use rusqlite::fallible_iterator::FallibleIterator;
use rusqlite::{Batch, Connection, Row, StatementStatus};

use super::prepared::Prepared;

use super::value::Bound;
use super::watch::Watch;
use super::{SqlError, Statement, Value};

/// A column of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// The type that the table declares, when the column is one of a table's.
    pub decltype: Option<String>,
}

/// What a statement did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Summary {
    /// Rows that it inserted, updated or deleted itself (what triggers did is not in it).
    pub affected_row_count: u64,
    /// The connection's last inserted rowid, after a statement that can write.
    pub last_insert_rowid: Option<i64>,
    /// Rows that it stepped over in full scans, or answered, whichever is more: stock SQLite does not count others.
    pub rows_read: u64,
    /// Rows that it and its triggers wrote.
    pub rows_written: u64,
    /// How long it ran.
    pub duration: Duration,
}

/// Where results go, row by row. An error stops the statement and rolls its changes back; `SqlError::Cancelled` stops
/// the whole batch.
pub trait Sink {
    /// Step `step` starts, with these columns.
    fn begin(&mut self, step: usize, columns: Vec<Column>) -> Result<(), SqlError>;
    /// Its next row.
    fn row(&mut self, row: &Row<'_>, columns: &[String]) -> Result<(), SqlError>;
    /// It succeeded.
    fn end(&mut self, step: usize, summary: Summary) -> Result<(), SqlError>;
    /// It failed: also after `begin` and rows.
    fn failed(&mut self, step: usize, error: SqlError) -> Result<(), SqlError>;
}

/// Runs the one statement in `sql` to its end.
pub(super) fn run(
    connection: &Connection,
    watch: &Watch,
    sql: &str,
    arguments: &Statement,
    step: usize,
    sink: &mut dyn Sink,
) -> Result<Summary, SqlError> {
    watch.start()?;
    let started = Instant::now();
    let mut statement = Prepared::of(connection, sql)?;
    bind(&mut statement, arguments)?;
    let columns = if arguments.want_rows { columns(&statement) } else { Vec::new() };
    let names: Vec<String> = columns.iter().map(|column| column.name.clone()).collect();
    sink.begin(step, columns)?;

    let changes_before = connection.total_changes();
    let readonly = statement.readonly();
    let mut answered = 0;
    let mut rows = statement.raw_query();
    while let Some(row) = rows.next()? {
        if !arguments.want_rows {
            continue;
        }
        answered += 1;
        if let Err(error) = sink.row(row, &names) {
            if !readonly {
                // A write has made its changes before its first row, and a reset would keep them: only an
                // interrupted one rolls back.
                watch.interrupt();
                let interrupted = rows.next();
                debug_assert!(interrupted.is_err());
            }
            return Err(error);
        }
    }
    drop(rows);

    let rows_written = connection.total_changes() - changes_before;
    Ok(Summary {
        affected_row_count: if rows_written == 0 { 0 } else { connection.changes() },
        last_insert_rowid: (!readonly).then(|| connection.last_insert_rowid()),
        // It may have run before, for somebody else.
        rows_read: (statement.reset_status(StatementStatus::FullscanStep) as u64).max(answered),
        rows_written,
        duration: started.elapsed(),
    })
}

/// Prepares the one statement in `sql`.
pub(super) fn only<'c>(connection: &'c Connection, sql: &str) -> Result<rusqlite::Statement<'c>, SqlError> {
    let mut statements = Batch::new(connection, sql);
    let first = statements.next()?.ok_or(SqlError::NoStatement)?;
    match statements.next() {
        Ok(None) => Ok(first),
        // Also when the rest cannot be prepared: it is there.
        Ok(Some(_)) | Err(_) => Err(SqlError::ManyStatements),
    }
}

/// The columns of its result, none when it has none.
pub(super) fn columns(statement: &rusqlite::Statement<'_>) -> Vec<Column> {
    statement
        .columns()
        .map(|column| Column {
            name: column.name().to_owned(),
            decltype: column.decl_type().map(str::to_owned),
        })
        .collect()
}

fn bind(statement: &mut rusqlite::Statement<'_>, arguments: &Statement) -> Result<(), SqlError> {
    let parameters = statement.parameter_count();
    if arguments.args.len() > parameters {
        return Err(SqlError::TooManyArguments { parameters, arguments: arguments.args.len() });
    }
    for index in 1..=parameters {
        let name = statement.parameter_name(index);
        let value = match (name, arguments.args.get(index - 1)) {
            (Some(name), positional) => named(name, &arguments.named_args).or(positional),
            (None, positional) => positional,
        };
        let Some(value) = value else {
            let name = name.map_or_else(|| format!("?{index}"), str::to_owned);
            return Err(SqlError::MissingArgument(name));
        };
        statement.raw_bind_parameter(index, Bound(value))?;
    }
    Ok(())
}

/// The argument for the parameter `name`, which has its prefix.
fn named<'a>(name: &str, arguments: &'a [(String, Value)]) -> Option<&'a Value> {
    let bare = name.trim_start_matches([':', '@', '$', '?']);
    arguments.iter().find(|(argument, _)| argument == name || argument == bare).map(|(_, value)| value)
}
