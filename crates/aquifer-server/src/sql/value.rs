pub use aquifer_protocol::hrana::Value;
use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};

use super::SqlError;

/// The value in `column` (its name, for the error).
pub(crate) fn read(value: ValueRef<'_>, column: &str) -> Result<Value, SqlError> {
    Ok(match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(integer) => Value::Integer(integer),
        ValueRef::Real(float) => Value::Float(float),
        ValueRef::Text(text) => match std::str::from_utf8(text) {
            Ok(text) => Value::Text(text.to_owned()),
            Err(_) => return Err(SqlError::InvalidUtf8 { column: column.to_owned() }),
        },
        ValueRef::Blob(blob) => Value::Blob(blob.to_vec()),
    })
}

/// About how many bytes it takes in an answer.
pub(crate) fn weight(value: &Value) -> u64 {
    const ENVELOPE: u64 = 32;
    ENVELOPE
        + match value {
            Value::Null | Value::Integer(_) | Value::Float(_) => 0,
            Value::Text(text) => text.len() as u64,
            Value::Blob(blob) => blob.len() as u64 * 4 / 3,
        }
}

/// A value that is bound to a statement's parameter.
pub(super) struct Bound<'a>(pub(super) &'a Value);

impl ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self.0 {
            Value::Null => ValueRef::Null,
            Value::Integer(integer) => ValueRef::Integer(*integer),
            Value::Float(float) => ValueRef::Real(*float),
            Value::Text(text) => ValueRef::Text(text.as_bytes()),
            Value::Blob(blob) => ValueRef::Blob(blob),
        }))
    }
}
