//! What clients get, version 2 and 3 alike.
use std::time::Duration;

use rusqlite::Row;
use serde::Serialize;

use crate::sql::{Column, Description, Sink, SqlError, Summary, Value, value};

/// The result of one request of a pipeline.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Outcome {
    Ok { response: Response },
    Error { error: WireError },
}

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Response {
    Close,
    Execute { result: StmtResult },
    Batch { result: BatchResult },
    Sequence,
    Describe { result: DescribeResult },
    StoreSql,
    CloseSql,
    GetAutocommit { is_autocommit: bool },
}

/// An error as clients read it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct WireError {
    pub(super) message: String,
    pub(super) code: &'static str,
}

impl From<SqlError> for WireError {
    fn from(error: SqlError) -> Self {
        Self { message: error.to_string(), code: error.code() }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Col {
    name: String,
    decltype: Option<String>,
}

impl From<Column> for Col {
    fn from(Column { name, decltype }: Column) -> Self {
        Self { name, decltype }
    }
}

#[derive(Debug, Default, Serialize)]
pub(super) struct StmtResult {
    cols: Vec<Col>,
    rows: Vec<Vec<Value>>,
    affected_row_count: u64,
    last_insert_rowid: Option<String>,
    /// Of libSQL's replication; there is none behind this server.
    replication_index: Option<u64>,
    rows_read: u64,
    rows_written: u64,
    query_duration_ms: f64,
}

#[derive(Debug, Serialize)]
pub(super) struct BatchResult {
    pub(super) step_results: Vec<Option<StmtResult>>,
    pub(super) step_errors: Vec<Option<WireError>>,
    pub(super) replication_index: Option<u64>,
}

#[derive(Debug, Serialize)]
pub(super) struct DescribeResult {
    params: Vec<Param>,
    cols: Vec<Col>,
    is_explain: bool,
    is_readonly: bool,
}

#[derive(Debug, Serialize)]
struct Param {
    name: Option<String>,
}

impl From<Description> for DescribeResult {
    fn from(description: Description) -> Self {
        Self {
            params: description.parameters.into_iter().map(|name| Param { name }).collect(),
            cols: description.columns.into_iter().map(Into::into).collect(),
            is_explain: description.is_explain,
            is_readonly: description.is_readonly,
        }
    }
}

pub(super) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// Bytes of values that one answer may still take.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) rows: u64,
    pub(super) bytes: u64,
    left: u64,
}

impl Room {
    pub(super) fn new(rows: u64, bytes: u64) -> Self {
        Self { rows, bytes, left: bytes }
    }
}

/// Collects the results of a batch in memory, no more than there is room for.
pub(super) struct Collector<'a> {
    room: &'a mut Room,
    running: StmtResult,
    pub(super) results: BatchResult,
}

impl<'a> Collector<'a> {
    pub(super) fn new(steps: usize, room: &'a mut Room) -> Self {
        let mut results =
            BatchResult { step_results: Vec::new(), step_errors: Vec::new(), replication_index: None };
        results.step_results.resize_with(steps, || None);
        results.step_errors.resize_with(steps, || None);
        Self { room, running: StmtResult::default(), results }
    }

    /// The result of the statement that ran last.
    pub(super) fn finish(&mut self, summary: Summary) -> StmtResult {
        StmtResult {
            affected_row_count: summary.affected_row_count,
            last_insert_rowid: summary.last_insert_rowid.map(|rowid| rowid.to_string()),
            rows_read: summary.rows_read,
            rows_written: summary.rows_written,
            query_duration_ms: milliseconds(summary.duration),
            ..std::mem::take(&mut self.running)
        }
    }
}

/// The values of a row.
pub(super) fn values(row: &Row<'_>, columns: &[String]) -> Result<Vec<Value>, SqlError> {
    columns.iter().enumerate().map(|(index, name)| value::read(row.get_ref(index)?, name)).collect()
}

impl Sink for Collector<'_> {
    fn begin(&mut self, _step: usize, columns: Vec<Column>) -> Result<(), SqlError> {
        self.running =
            StmtResult { cols: columns.into_iter().map(Into::into).collect(), ..StmtResult::default() };
        Ok(())
    }

    fn row(&mut self, row: &Row<'_>, columns: &[String]) -> Result<(), SqlError> {
        if self.running.rows.len() as u64 >= self.room.rows {
            return Err(SqlError::TooManyRows { limit: self.room.rows });
        }
        let values = values(row, columns)?;
        let weight = values.iter().map(value::weight).sum();
        match self.room.left.checked_sub(weight) {
            Some(left) => self.room.left = left,
            None => return Err(SqlError::ResultTooLarge { limit: self.room.bytes }),
        }
        self.running.rows.push(values);
        Ok(())
    }

    fn end(&mut self, step: usize, summary: Summary) -> Result<(), SqlError> {
        let result = self.finish(summary);
        self.results.step_results[step] = Some(result);
        Ok(())
    }

    fn failed(&mut self, step: usize, error: SqlError) -> Result<(), SqlError> {
        self.running = StmtResult::default();
        self.results.step_errors[step] = Some(error.into());
        Ok(())
    }
}
