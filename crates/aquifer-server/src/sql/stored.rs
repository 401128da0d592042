use std::collections::HashMap;
use std::sync::Arc;

use super::{Limits, Sql, SqlError};

/// SQL texts that a client has stored, so that it sends each once. A clone is what was stored at its time, and cheap.
#[derive(Clone, Debug, Default)]
pub(crate) struct StoredSql {
    texts: Arc<HashMap<i32, String>>,
    bytes: usize,
}

impl StoredSql {
    /// Stores `text` under `id`, which must be free.
    pub(crate) fn store(&mut self, id: i32, text: String, limits: &Limits) -> Result<(), SqlError> {
        if self.texts.contains_key(&id) {
            return Err(SqlError::SqlIdInUse(id));
        }
        if self.texts.len() >= limits.stored_texts || self.bytes + text.len() > limits.stored_bytes {
            return Err(SqlError::StoredSqlFull { texts: limits.stored_texts, bytes: limits.stored_bytes });
        }
        self.bytes += text.len();
        Arc::make_mut(&mut self.texts).insert(id, text);
        Ok(())
    }

    /// Forgets what is stored under `id`; nothing there is fine, as Hrana wants it.
    pub(crate) fn close(&mut self, id: i32) {
        if let Some(text) = Arc::make_mut(&mut self.texts).remove(&id) {
            self.bytes -= text.len();
        }
    }

    /// The text that `sql` means.
    pub(super) fn resolve<'a>(&'a self, sql: &'a Sql) -> Result<&'a str, SqlError> {
        match sql {
            Sql::Text(text) => Ok(text),
            Sql::Stored(id) => self.get(*id).ok_or(SqlError::UnknownSqlId(*id)),
        }
    }

    pub(super) fn get(&self, id: i32) -> Option<&str> {
        self.texts.get(&id).map(String::as_str)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }
}
