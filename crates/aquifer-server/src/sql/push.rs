//! Pushes of Turso's sync clients: a batch that writes rows, and its own change id, in one transaction.
//!
//! Such a client does not stop at a step that fails: its next steps run as long as the transaction is open, and it
//! takes the change id, when committed, as proof that all was applied. If the row that failed were simply missing
//! then, its user would lose an acknowledged local write at the next pull, without a word; if the transaction were
//! rolled back instead, the client could neither push nor pull ever again. So the rest is committed, and what was
//! refused is kept beside it, in a table that every client sees and that SQL can repair.
use rusqlite::{Connection, ffi, params};

use super::value::Bound;
use super::{Sql, SqlError, Statement, Step, Value};

/// What becomes of a push with a statement that the database refuses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnPushConflict {
    /// The rest is committed, and the statement is kept in the table `aquifer_rejected`, in the same transaction.
    #[default]
    Keep,
    /// All of it is rolled back. The client that pushed is stuck with its change until its file is thrown away.
    Reject,
}

const TABLE: &str = "turso_sync_last_change_id";

/// Whether a batch is one that a sync client sends, which never comes back to its stream.
pub(crate) fn is_of_sync_client(steps: &[Step]) -> bool {
    let forms = [
        format!("SELECT pull_gen, change_id FROM {TABLE}"),
        format!("CREATE TABLE IF NOT EXISTS {TABLE}"),
        format!("INSERT INTO {TABLE}"),
    ];
    steps.iter().any(|step| forms.iter().any(|form| starts_with(&step.statement, form)))
}

fn starts_with(statement: &Statement, form: &str) -> bool {
    match &statement.sql {
        Sql::Text(text) => {
            text.trim_start().get(..form.len()).is_some_and(|start| start.eq_ignore_ascii_case(form))
        }
        Sql::Stored(_) => false,
    }
}

/// Who pushes, and how far: what the push itself writes down.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Bookkeeping {
    client_id: Value,
    pull_gen: Value,
    change_id: Value,
}

impl Bookkeeping {
    /// That of the push in `steps`; none when they are an ordinary batch.
    pub(crate) fn of(steps: &[Step]) -> Option<Self> {
        let form = format!("INSERT INTO {TABLE}");
        let step = steps.iter().find(|step| starts_with(&step.statement, &form))?;
        let [client_id, pull_gen, change_id] = step.statement.args.as_slice() else { return None };
        Some(Self { client_id: client_id.clone(), pull_gen: pull_gen.clone(), change_id: change_id.clone() })
    }

    /// Who pushes.
    pub(crate) fn client(&self) -> Option<&str> {
        match &self.client_id {
            Value::Text(client) => Some(client),
            _ => None,
        }
    }

    /// Keeps what the database refused of this push, in the open transaction.
    pub(super) fn keep(
        &self,
        connection: &Connection,
        step: usize,
        statement: &Statement,
        sql: &str,
        error: &SqlError,
    ) -> Result<(), SqlError> {
        connection.execute_batch(
            "CREATE TABLE IF NOT EXISTS aquifer_rejected (id INTEGER PRIMARY KEY, client_id TEXT, pull_gen INTEGER, \
             change_id INTEGER, step INTEGER, sql TEXT, args TEXT, code TEXT, error TEXT, rejected_at TEXT)",
        )?;
        let args = serde_json::to_string(&statement.args)
            .map_err(|error| SqlError::Refused(format!("its arguments cannot be kept: {error}")))?;
        connection.execute(
            "INSERT INTO aquifer_rejected (client_id, pull_gen, change_id, step, sql, args, code, error, rejected_at) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, strftime('%Y-%m-%dT%H:%M:%fZ'))",
            params![
                Bound(&self.client_id),
                Bound(&self.pull_gen),
                Bound(&self.change_id),
                step as i64,
                sql,
                args,
                error.code(),
                error.to_string()
            ],
        )?;
        tracing::warn!(
            client = ?self.client_id, change = ?self.change_id, step, %error,
            "a pushed statement was refused; it is kept in aquifer_rejected"
        );
        Ok(())
    }
}

/// What a step's failure means for its push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// What it wanted is there already.
    Harmless,
    /// The database refuses it, and would again.
    Conflict,
    /// The statement is not at fault: a retry may succeed.
    Circumstance,
}

impl Meaning {
    pub(super) fn of(sql: &str, error: &SqlError) -> Self {
        const CIRCUMSTANCES: [i32; 13] = [
            ffi::SQLITE_INTERNAL,
            ffi::SQLITE_PERM,
            ffi::SQLITE_ABORT,
            ffi::SQLITE_BUSY,
            ffi::SQLITE_LOCKED,
            ffi::SQLITE_NOMEM,
            ffi::SQLITE_READONLY,
            ffi::SQLITE_INTERRUPT,
            ffi::SQLITE_IOERR,
            ffi::SQLITE_CORRUPT,
            ffi::SQLITE_FULL,
            ffi::SQLITE_CANTOPEN,
            ffi::SQLITE_PROTOCOL,
        ];
        let is = |verb: &str| {
            sql.trim_start().get(..verb.len()).is_some_and(|start| start.eq_ignore_ascii_case(verb))
        };
        match error {
            SqlError::TimedOut { .. } | SqlError::Cancelled | SqlError::ReadOnly(_) => Self::Circumstance,
            SqlError::Sqlite { extended_code, .. } if CIRCUMSTANCES.contains(&(extended_code & 0xff)) => {
                Self::Circumstance
            }
            SqlError::Sqlite { extended_code: ffi::SQLITE_ERROR, message } => {
                let exists = (is("CREATE") || is("ALTER"))
                    && (message.contains("already exists") || message.starts_with("duplicate column name"));
                let gone = is("DROP") && message.starts_with("no such ");
                if exists || gone { Self::Harmless } else { Self::Conflict }
            }
            _ => Self::Conflict,
        }
    }
}
