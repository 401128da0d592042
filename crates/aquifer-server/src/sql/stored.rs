use std::collections::HashMap;

use super::{Limits, Sql, SqlError};

/// The SQL texts that a stream has stored, so that the client sends each once.
#[derive(Debug, Default)]
pub(super) struct StoredSql {
    texts: HashMap<i32, String>,
    bytes: usize,
}

impl StoredSql {
    /// Stores `text` under `id`, which must be free.
    pub(super) fn store(&mut self, id: i32, text: String, limits: &Limits) -> Result<(), SqlError> {
        if self.texts.contains_key(&id) {
            return Err(SqlError::SqlIdInUse(id));
        }
        if self.texts.len() >= limits.stored_texts || self.bytes + text.len() > limits.stored_bytes {
            return Err(SqlError::StoredSqlFull { texts: limits.stored_texts, bytes: limits.stored_bytes });
        }
        self.bytes += text.len();
        self.texts.insert(id, text);
        Ok(())
    }

    /// Forgets what is stored under `id`; nothing there is fine, as Hrana wants it.
    pub(super) fn close(&mut self, id: i32) {
        if let Some(text) = self.texts.remove(&id) {
            self.bytes -= text.len();
        }
    }

    /// The text that `sql` means.
    pub(super) fn resolve<'a>(&'a self, sql: &'a Sql) -> Result<&'a str, SqlError> {
        match sql {
            Sql::Text(text) => Ok(text),
            Sql::Stored(id) => self.texts.get(id).map(String::as_str).ok_or(SqlError::UnknownSqlId(*id)),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }
}
