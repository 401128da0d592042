//! Statements that stay prepared for their next use: to prepare a small one takes longer than to run it.
use std::ops::{Deref, DerefMut};

use rusqlite::{CachedStatement, Connection, Statement};

use super::verb::Verb;
use super::{SqlError, execute};

/// Statements that a connection keeps.
const KEPT: usize = 64;
/// Bytes of the longest text that is kept.
const LONGEST: usize = 4 << 10;

/// A statement that is ready to run.
pub(super) enum Prepared<'c> {
    /// It goes back to where it is kept.
    Kept(CachedStatement<'c>),
    Once(Statement<'c>),
}

impl<'c> Prepared<'c> {
    /// Makes room for the statements of `connection`.
    pub(super) fn make_room(connection: &Connection) {
        connection.set_prepared_statement_cache_capacity(KEPT);
    }

    /// The one statement in `sql`.
    pub(super) fn of(connection: &'c Connection, sql: &str) -> Result<Self, SqlError> {
        // A pragma works while it is prepared, and schemas change seldom.
        let again =
            matches!(Verb::of(sql), Verb::Reads | Verb::Writes | Verb::BeginsWrite | Verb::Transaction);
        let keeps = again && sql.len() <= LONGEST;
        match keeps.then(|| connection.prepare_cached(sql)) {
            Some(Ok(statement)) => Ok(Self::Kept(statement)),
            // Once more, for the error that says what is wrong.
            Some(Err(_)) | None => execute::only(connection, sql).map(Self::Once),
        }
    }
}

impl<'c> Deref for Prepared<'c> {
    type Target = Statement<'c>;

    fn deref(&self) -> &Statement<'c> {
        match self {
            Self::Kept(statement) => statement,
            Self::Once(statement) => statement,
        }
    }
}

impl<'c> DerefMut for Prepared<'c> {
    fn deref_mut(&mut self) -> &mut Statement<'c> {
        match self {
            Self::Kept(statement) => statement,
            Self::Once(statement) => statement,
        }
    }
}
