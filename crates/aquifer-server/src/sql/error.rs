use std::time::Duration;

use super::code;

/// Why a statement failed. [`SqlError::code`] is what a client compares.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SqlError {
    /// SQLite refused it.
    #[error("{message}")]
    Sqlite {
        /// SQLite's extended result code.
        extended_code: i32,
        /// SQLite's message.
        message: String,
    },
    /// It reaches outside its database, or touches what the server itself manages.
    #[error("not authorized: {0}")]
    Refused(String),
    /// The database is not to be written at the moment.
    #[error("{0}")]
    ReadOnly(String),
    /// The result has more rows than one answer may have.
    #[error("the result has more than {limit} rows: add a LIMIT, or use a cursor (/v3/cursor)")]
    TooManyRows {
        /// Rows allowed.
        limit: u64,
    },
    /// The results of one request are larger than one answer may be.
    #[error(
        "the results of this request have more than {limit} bytes: add a LIMIT, or use a cursor (/v3/cursor)"
    )]
    ResultTooLarge {
        /// Bytes allowed.
        limit: u64,
    },
    /// It computed for longer than a statement may.
    #[error("the statement ran for more than {limit:?} and was stopped; its changes were rolled back")]
    TimedOut {
        /// The time allowed.
        limit: Duration,
    },
    /// Nobody waits for its answer any more.
    #[error("the client went away: the statement was stopped and its changes were rolled back")]
    Cancelled,
    /// There is no SQL in the text.
    #[error("the text has no statement")]
    NoStatement,
    /// `execute` and `batch` run one statement per text.
    #[error("the text has more than one statement: use a sequence, or send them one by one")]
    ManyStatements,
    /// A parameter has no argument.
    #[error("parameter {0} has no argument")]
    MissingArgument(String),
    /// There are more positional arguments than parameters.
    #[error("the statement has {parameters} parameters, but {arguments} arguments came")]
    TooManyArguments {
        /// Parameters of the statement.
        parameters: usize,
        /// Positional arguments that came.
        arguments: usize,
    },
    /// A text in the database is not UTF-8, so JSON cannot carry it unchanged.
    #[error("the text in column {column} is not valid UTF-8: read it with CAST({column} AS BLOB)")]
    InvalidUtf8 {
        /// The column's name in the result.
        column: String,
    },
    /// No text is stored under this id.
    #[error("no SQL text is stored under id {0}")]
    UnknownSqlId(i32),
    /// A text is stored under this id already.
    #[error("an SQL text is stored under id {0} already: close_sql it first")]
    SqlIdInUse(i32),
    /// The stream has stored as much SQL as it may.
    #[error("the stream has stored too much SQL: at most {texts} texts of together {bytes} bytes")]
    StoredSqlFull {
        /// Texts allowed.
        texts: usize,
        /// Bytes allowed.
        bytes: usize,
    },
    /// A batch's condition names a step that has not run when it is asked.
    #[error("the condition of step {step} asks for step {asked}, which does not come before it")]
    FutureStep {
        /// The step with the condition, 0-based.
        step: usize,
        /// The step that it names, 0-based.
        asked: usize,
    },
}

impl SqlError {
    /// The code that the wire carries: SQLite's own name of its extended code, or a name of the same kind.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Sqlite { extended_code, .. } => code::name(*extended_code),
            Self::Refused(_) => "SQLITE_AUTH",
            Self::ReadOnly(_) => "SQLITE_READONLY",
            Self::TooManyRows { .. } => "RESULT_TOO_MANY_ROWS",
            Self::ResultTooLarge { .. } => "RESPONSE_TOO_LARGE",
            Self::TimedOut { .. } | Self::Cancelled => "SQLITE_INTERRUPT",
            Self::NoStatement => "SQL_NO_STATEMENT",
            Self::ManyStatements => "SQL_MANY_STATEMENTS",
            Self::MissingArgument(_) | Self::TooManyArguments { .. } => "ARGS_INVALID",
            Self::InvalidUtf8 { .. } => "INVALID_UTF8",
            Self::UnknownSqlId(_) => "SQL_NOT_FOUND",
            Self::SqlIdInUse(_) => "SQL_ID_IN_USE",
            Self::StoredSqlFull { .. } => "SQL_STORE_FULL",
            Self::FutureStep { .. } => "BATCH_COND_BAD_STEP",
        }
    }

    /// SQLite's primary result code, when SQLite refused the statement.
    pub(crate) fn primary_code(&self) -> Option<i32> {
        match self {
            Self::Sqlite { extended_code, .. } => Some(extended_code & 0xff),
            _ => None,
        }
    }
}

impl From<rusqlite::Error> for SqlError {
    fn from(error: rusqlite::Error) -> Self {
        let (extended_code, message) = match error {
            rusqlite::Error::SqliteFailure(error, message) => {
                (error.extended_code, message.unwrap_or_else(|| error.to_string()))
            }
            rusqlite::Error::SqlInputError { error, msg, .. } => (error.extended_code, msg),
            other => (rusqlite::ffi::SQLITE_MISUSE, other.to_string()),
        };
        Self::Sqlite { extended_code, message }
    }
}
