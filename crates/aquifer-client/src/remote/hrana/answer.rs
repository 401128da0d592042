//! What became of a batch.

use std::fmt;

use aquifer_protocol::hrana;
use aquifer_sqlite::btree::Value;
use serde::Deserialize;

use super::super::error::RemoteError;

/// What became of a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchAnswer {
    /// Step by step.
    pub steps: Vec<StepOutcome>,
    /// The revision up to which the server may have seen the database, if it tells.
    pub revision: Option<String>,
}

/// What became of a step.
#[derive(Debug, Clone, PartialEq)]
pub enum StepOutcome {
    /// It ran.
    Done(StepResult),
    /// It failed.
    Failed(SqlFailure),
    /// Its condition did not hold.
    Skipped,
}

/// What a statement came to.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StepResult {
    /// Names of the columns.
    pub columns: Vec<String>,
    /// The rows, if they were wanted.
    pub rows: Vec<Vec<Value>>,
    /// How many rows it inserted, updated or deleted.
    pub affected_row_count: u64,
}

/// Why the server did not run something.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct SqlFailure {
    /// For people.
    pub message: String,
    /// SQLite's name of the error, as in `SQLITE_CONSTRAINT_PRIMARYKEY`, where the server is one that tells.
    #[serde(default)]
    pub code: Option<String>,
}

impl fmt::Display for SqlFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.code {
            Some(code) => write!(f, "{} ({code})", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl StepOutcome {
    /// What it came to, if it ran.
    pub fn done(&self) -> Option<&StepResult> {
        match self {
            StepOutcome::Done(result) => Some(result),
            StepOutcome::Failed(_) | StepOutcome::Skipped => None,
        }
    }
}

/// The body of an answer, and what of it matters here.
#[derive(Deserialize)]
struct Body {
    baton: Option<String>,
    #[serde(default)]
    base_url: Option<String>,
    results: Vec<Outcome>,
}

#[derive(Deserialize)]
struct Outcome {
    response: Option<Response>,
    error: Option<SqlFailure>,
}

#[derive(Deserialize)]
struct Response {
    result: Option<BatchResult>,
}

#[derive(Deserialize)]
struct BatchResult {
    step_results: Vec<Option<StmtResult>>,
    step_errors: Vec<Option<SqlFailure>>,
}

#[derive(Deserialize)]
struct StmtResult {
    cols: Vec<Col>,
    rows: Vec<Vec<hrana::Value>>,
    affected_row_count: u64,
}

#[derive(Deserialize)]
struct Col {
    #[serde(default)]
    name: Option<String>,
}

/// An answer to a pipeline whose first request is a batch.
pub(super) struct Parsed {
    pub(super) baton: Option<String>,
    pub(super) base_url: Option<String>,
    pub(super) batch: Result<Vec<StepOutcome>, SqlFailure>,
}

/// Why an answer means nothing.
pub(super) fn parse(body: &[u8], steps: usize) -> Result<Parsed, String> {
    let Body { baton, base_url, results } =
        serde_json::from_slice(body).map_err(|error| format!("it is not Hrana's JSON: {error}"))?;
    let first = results.into_iter().next().ok_or("it has no result")?;
    let batch = match first {
        Outcome { error: Some(failure), .. } => Err(failure),
        Outcome { response: Some(Response { result: Some(result) }), .. } => Ok(outcomes(result, steps)?),
        _ => return Err("its first result is not that of a batch".to_owned()),
    };
    Ok(Parsed { baton, base_url, batch })
}

fn outcomes(result: BatchResult, steps: usize) -> Result<Vec<StepOutcome>, String> {
    let (results, errors) = (result.step_results, result.step_errors);
    if results.len() != steps || errors.len() != steps {
        return Err(format!("it has {} results and {} errors of {steps} steps", results.len(), errors.len()));
    }
    let outcome = |(result, error)| match (result, error) {
        (_, Some(failure)) => StepOutcome::Failed(failure),
        (Some(result), None) => StepOutcome::Done(StepResult::from(result)),
        (None, None) => StepOutcome::Skipped,
    };
    Ok(results.into_iter().zip(errors).map(outcome).collect())
}

impl From<StmtResult> for StepResult {
    fn from(result: StmtResult) -> StepResult {
        StepResult {
            columns: result.cols.into_iter().map(|col| col.name.unwrap_or_default()).collect(),
            rows: result.rows.into_iter().map(|row| row.into_iter().map(value).collect()).collect(),
            affected_row_count: result.affected_row_count,
        }
    }
}

fn value(value: hrana::Value) -> Value {
    match value {
        hrana::Value::Null => Value::Null,
        hrana::Value::Integer(integer) => Value::Integer(integer),
        hrana::Value::Float(float) => Value::Real(float),
        hrana::Value::Text(text) => Value::Text(text.into_bytes()),
        hrana::Value::Blob(blob) => Value::Blob(blob),
    }
}

/// The result of the only step.
pub(super) fn only(answer: BatchAnswer, remote: &str) -> Result<StepResult, RemoteError> {
    let remote = || remote.to_owned();
    match answer.steps.into_iter().next() {
        Some(StepOutcome::Done(result)) => Ok(result),
        Some(StepOutcome::Failed(failure)) => Err(RemoteError::Sql { remote: remote(), failure }),
        Some(StepOutcome::Skipped) | None => {
            Err(RemoteError::Protocol { remote: remote(), reason: "the statement was not run".into() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `tursodb --sync-server` 0.8.0 sent.
    #[test]
    fn a_recorded_answer_with_a_step_error_is_read() {
        let recorded = r#"{"baton":null,"base_url":null,"results":[{"type":"ok","response":{"type":"batch","result":
            {"step_results":[null],"step_errors":[{"message":"Parse error: no such table: x","code":"BATCH_STEP_ERROR"}],
            "replication_index":null}}}]}"#;
        let parsed = parse(recorded.as_bytes(), 1).unwrap();
        let failure = SqlFailure {
            message: "Parse error: no such table: x".into(),
            code: Some("BATCH_STEP_ERROR".into()),
        };
        assert_eq!(parsed.batch, Ok(vec![StepOutcome::Failed(failure)]));
        assert_eq!(parsed.baton, None);
    }

    #[test]
    fn an_answer_about_more_or_fewer_steps_than_were_sent_is_refused() {
        let answer = |results: &str, errors: &str| {
            format!(
                r#"{{"baton":"b","results":[{{"type":"ok","response":{{"type":"batch","result":{{"step_results":{results},"step_errors":{errors}}}}}}}]}}"#
            )
        };
        assert!(parse(answer("[null]", "[null]").as_bytes(), 1).is_ok());
        for (results, errors) in [("[]", "[]"), ("[null,null]", "[null,null]"), ("[null]", "[]")] {
            assert!(parse(answer(results, errors).as_bytes(), 1).is_err());
        }
        for body in
            ["", "[]", "{}", r#"{"baton":null,"results":[]}"#, r#"{"baton":null,"results":[{"type":"ok"}]}"#]
        {
            assert!(parse(body.as_bytes(), 1).is_err(), "{body}");
        }
    }
}
