//! SQL over one connection, with everything that a Hrana stream needs: bounded, interruptible, and unable to reach
//! outside its database.
mod authorize;
mod batch;
mod code;
mod error;
mod execute;
mod limits;
mod observer;
mod prepared;
mod push;
mod session;
mod stored;
mod threads;
pub(crate) mod value;
mod verb;
mod watch;

pub use crate::auth::Access;
pub use batch::{Condition, Step};
pub use error::SqlError;
pub use execute::{Column, Sink, Summary};
pub use limits::Limits;
pub use observer::{Counted, Counts, Observer};
pub use push::OnPushConflict;
pub(crate) use push::{Bookkeeping, is_of_sync_client};
pub use session::{Description, Session};
pub(crate) use stored::StoredSql;
pub use threads::Threads;
pub use value::Value;
pub(crate) use verb::Verb;
pub use watch::Interrupter;

/// One statement with its arguments, as a client sends it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Statement {
    /// The SQL, or the id under which it was stored.
    pub sql: Sql,
    /// Positional arguments: the first is `?1`.
    pub args: Vec<Value>,
    /// Arguments by name, with or without the `:`, `@` or `$` in front. Names that the statement lacks are ignored.
    pub named_args: Vec<(String, Value)>,
    /// Whether rows are answered. The statement runs to its end either way.
    pub want_rows: bool,
}

/// SQL text, or the id of text that the client stored in its stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sql {
    /// The text itself.
    Text(String),
    /// What `store_sql` gave this id to.
    Stored(i32),
}

impl Default for Sql {
    fn default() -> Self {
        Self::Text(String::new())
    }
}
