//! From local changes to SQL that a server runs in one transaction, exactly once.
//!
//! - [`statements`]: a [`Diff`](crate::diff::Diff)'s changes as guarded steps, in an order that respects keys;
//! - [`Bookkeeping`]: the steps around them, which make a push happen once or not at all;
//! - [`prepare`], [`send`], [`resolve`]: keeping the steps, sending them, and asking what became of them.
//!
//! # Guards
//! Nothing is overwritten that this client has not seen. Each statement only applies to what the base has: a row that
//! is new must not be there, of a row that was updated the columns in question must have their old values, one that
//! was deleted must have all of them, and tables, indexes, views and triggers that are changed, or whose rows are, must
//! have the definitions that they had. A step that finds something else fails, and all steps after it are meant not to
//! run: then the client pulls, and decides there.
//!
//! Values longer than 64 KiB are not sent only to be compared: their type, their length and 64 samples of 64 bytes must be
//! what they were. Of a table that is dropped, or loses a column, it is the number of rows, and for each column a sum
//! over types, lengths, numbers, and the first, the middle and the last character.
//!
//! # Triggers
//! What triggers did is among the rows already. So those of tables whose rows change are dropped first, and created
//! again at the end.

mod bookkeeping;
mod catalog;
mod exact;
mod groups;
mod kept;
mod row;
mod send;
mod statements;

use std::sync::Arc;

use aquifer_sqlite::btree::Value;

use crate::diff::{self, RowChange};
use crate::remote::RemoteError;

pub use bookkeeping::{Bookkeeping, CLIENTS};
pub use exact::Reals;
pub use kept::{Kept, prepare};
pub use send::{Outcome, resolve, send};
pub use statements::statements;

/// Result of this module.
pub type Result<T, E = PushError> = std::result::Result<T, E>;

/// What keeps local changes from becoming statements.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// The changes cannot be read.
    #[error(transparent)]
    Diff(#[from] diff::Error),

    /// No SQL can name the rows of a table.
    #[error(
        "rows of table {table} cannot be pushed: its columns have taken all names of the rowid; rename one of rowid, \
         _rowid_ and oid, or leave the table out"
    )]
    NoRowid {
        /// The table.
        table: String,
    },

    /// A transform gave a row that does not fit its table.
    #[error("the transform gave {given} values for a row of table {table}, which has {columns} columns")]
    Transform {
        /// The table.
        table: String,
        /// Values that it gave.
        given: usize,
        /// Values that a row has.
        columns: usize,
    },

    /// Statements cannot be kept in a temporary file, or read back.
    #[error("the statements of a push do not go into a temporary file beside the database: {0}")]
    Sink(#[from] std::io::Error),

    /// The server was not asked, or said before it did anything that it will not.
    #[error(transparent)]
    Remote(#[from] RemoteError),
}

/// One statement of a push.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Its SQL: the same text again and again, so that a server need not prepare it each time.
    pub sql: Arc<str>,
    /// Its arguments, in order. All text is UTF-8, all reals are finite.
    pub args: Vec<Value>,
    /// The table, index, view or trigger that it is about.
    pub about: Arc<str>,
    /// Whether the push goes on when the server refuses it.
    pub is_optional: bool,
}

/// What became of local changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Rows that are pushed.
    pub rows: u64,
    /// Rows that the transform skipped.
    pub skipped: u64,
    /// Changes of the schema that are pushed.
    pub schema: u64,
    /// All steps, guards too.
    pub statements: u64,
}

impl Summary {
    /// Whether there is nothing to push.
    pub fn is_empty(&self) -> bool {
        self.statements == 0
    }
}

/// A row that is about to be pushed.
#[derive(Debug, Clone, Copy)]
pub struct PushRow<'a> {
    /// Its table.
    pub table: &'a str,
    /// The columns that the values are of.
    pub columns: &'a [String],
    /// What happened to it.
    pub change: &'a RowChange,
}

/// What becomes of a row.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// It is pushed as it is.
    Keep,
    /// It is not pushed.
    Skip,
    /// It is pushed with these values, one for each column. Of a row that was deleted there are none: it is pushed as it is.
    Rewrite(Vec<Value>),
}

/// Says of each row whether and how it is pushed. It may be asked more than once of a row, and has to say the same.
pub trait Transform: Send + Sync {
    /// Of one row.
    fn row(&self, row: &PushRow<'_>) -> Decision;
}

/// Makes a statement fail when a condition holds: in SQL only errors can end a transaction, and this is one in every
/// version: the largest negative number has no counterpart.
fn fail_if(condition: &str) -> String {
    format!("SELECT abs(-9223372036854775807 - ({condition}))")
}
