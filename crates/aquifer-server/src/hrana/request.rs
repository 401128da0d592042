//! What clients send, version 2 and 3 alike. Fields that say nothing to this server are ignored.
use aquifer_protocol::hrana::{Condition, MissingField};
use serde::Deserialize;

use crate::sql::{self, Session, Sql, Value, Verb};

/// The body of a pipeline request.
#[derive(Debug, Deserialize)]
pub(super) struct PipelineBody {
    #[serde(default)]
    pub(super) baton: Option<String>,
    #[serde(default)]
    pub(super) requests: Vec<Request>,
}

/// The body of a cursor request.
#[derive(Debug, Deserialize)]
pub(super) struct CursorBody {
    #[serde(default)]
    pub(super) baton: Option<String>,
    pub(super) batch: Batch,
}

/// One request of a pipeline.
#[derive(Debug, Deserialize)]
#[serde(try_from = "AnyRequest")]
pub(super) enum Request {
    Close,
    Execute { stmt: Stmt },
    Batch { batch: Batch },
    Sequence { sql: Option<String>, sql_id: Option<i32> },
    Describe { sql: Option<String>, sql_id: Option<i32> },
    StoreSql { sql_id: i32, sql: String },
    CloseSql { sql_id: i32 },
    GetAutocommit,
}

/// The fields of all requests. serde would hold back each object with all that is in it until it has seen its type, and
/// that took longer than to run it.
#[derive(Deserialize)]
struct AnyRequest {
    r#type: RequestType,
    stmt: Option<Stmt>,
    batch: Option<Batch>,
    sql: Option<String>,
    sql_id: Option<i32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum RequestType {
    Close,
    Execute,
    Batch,
    Sequence,
    Describe,
    StoreSql,
    CloseSql,
    GetAutocommit,
}

impl TryFrom<AnyRequest> for Request {
    type Error = MissingField;

    fn try_from(any: AnyRequest) -> Result<Self, MissingField> {
        let AnyRequest { r#type, stmt, batch, sql, sql_id } = any;
        Ok(match r#type {
            RequestType::Close => Self::Close,
            RequestType::Execute => Self::Execute { stmt: stmt.ok_or(MissingField("stmt"))? },
            RequestType::Batch => Self::Batch { batch: batch.ok_or(MissingField("batch"))? },
            RequestType::Sequence => Self::Sequence { sql, sql_id },
            RequestType::Describe => Self::Describe { sql, sql_id },
            RequestType::StoreSql => Self::StoreSql {
                sql_id: sql_id.ok_or(MissingField("sql_id"))?,
                sql: sql.ok_or(MissingField("sql"))?,
            },
            RequestType::CloseSql => Self::CloseSql { sql_id: sql_id.ok_or(MissingField("sql_id"))? },
            RequestType::GetAutocommit => Self::GetAutocommit,
        })
    }
}

impl Request {
    /// Whether it will probably want the write lock.
    pub(super) fn wants_lock(&self, session: &Session) -> bool {
        match self {
            Self::Execute { stmt } => stmt.wants_lock(session),
            Self::Batch { batch } => batch.steps.iter().any(|step| step.stmt.wants_lock(session)),
            // All of it would have to be looked at.
            Self::Sequence { .. } => true,
            Self::Close
            | Self::Describe { .. }
            | Self::StoreSql { .. }
            | Self::CloseSql { .. }
            | Self::GetAutocommit => false,
        }
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Batch {
    pub(super) steps: Vec<Step>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Step {
    #[serde(default)]
    condition: Option<Condition>,
    stmt: Stmt,
}

#[derive(Debug, Deserialize)]
pub(super) struct Stmt {
    #[serde(default)]
    sql: Option<String>,
    #[serde(default)]
    sql_id: Option<i32>,
    #[serde(default)]
    args: Option<Vec<Value>>,
    #[serde(default)]
    named_args: Option<Vec<NamedArg>>,
    #[serde(default)]
    want_rows: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct NamedArg {
    name: String,
    value: Value,
}

/// Why a request that could be parsed means nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a statement needs either `sql` or `sql_id`, and not both")]
pub(super) struct SqlOrId;

pub(super) fn sql(sql: Option<String>, id: Option<i32>) -> Result<Sql, SqlOrId> {
    match (sql, id) {
        (Some(text), None) => Ok(Sql::Text(text)),
        (None, Some(id)) => Ok(Sql::Stored(id)),
        _ => Err(SqlOrId),
    }
}

impl TryFrom<Stmt> for sql::Statement {
    type Error = SqlOrId;

    fn try_from(stmt: Stmt) -> Result<Self, SqlOrId> {
        Ok(Self {
            sql: sql(stmt.sql, stmt.sql_id)?,
            args: stmt.args.unwrap_or_default(),
            named_args: stmt
                .named_args
                .unwrap_or_default()
                .into_iter()
                .map(|NamedArg { name, value }| (name, value))
                .collect(),
            want_rows: stmt.want_rows.unwrap_or(true),
        })
    }
}

impl Stmt {
    fn wants_lock(&self, session: &Session) -> bool {
        let stored = self.sql_id.and_then(|id| session.stored(id));
        self.sql.as_deref().or(stored).is_some_and(|sql| Verb::of(sql).wants_lock())
    }
}

impl Batch {
    pub(super) fn into_steps(self) -> Result<Vec<sql::Step>, SqlOrId> {
        self.steps
            .into_iter()
            .map(|step| {
                Ok(sql::Step { condition: step.condition.map(Into::into), statement: step.stmt.try_into()? })
            })
            .collect()
    }
}

impl From<Condition> for sql::Condition {
    fn from(condition: Condition) -> Self {
        let all = |many: Vec<Condition>| many.into_iter().map(Into::into).collect();
        match condition {
            Condition::Ok { step } => Self::Ok(step),
            Condition::Error { step } => Self::Error(step),
            Condition::Not { cond } => Self::Not(Box::new((*cond).into())),
            Condition::And { conds } => Self::And(all(conds)),
            Condition::Or { conds } => Self::Or(all(conds)),
            Condition::IsAutocommit => Self::IsAutocommit,
        }
    }
}
