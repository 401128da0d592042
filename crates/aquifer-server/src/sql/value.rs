use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};

use super::SqlError;

/// A value of SQLite's five storage classes, unchanged: no number passes through a type that could round it.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// NULL.
    Null,
    /// A 64-bit integer.
    Integer(i64),
    /// A float. SQLite has no NaN (it stores NULL), but it has infinities.
    Float(f64),
    /// A text that is valid UTF-8.
    Text(String),
    /// Bytes.
    Blob(Vec<u8>),
}

impl Value {
    /// The value in `column` (its name, for the error).
    pub(crate) fn read(value: ValueRef<'_>, column: &str) -> Result<Self, SqlError> {
        Ok(match value {
            ValueRef::Null => Self::Null,
            ValueRef::Integer(integer) => Self::Integer(integer),
            ValueRef::Real(float) => Self::Float(float),
            ValueRef::Text(text) => match std::str::from_utf8(text) {
                Ok(text) => Self::Text(text.to_owned()),
                Err(_) => return Err(SqlError::InvalidUtf8 { column: column.to_owned() }),
            },
            ValueRef::Blob(blob) => Self::Blob(blob.to_vec()),
        })
    }

    /// About how many bytes it takes in an answer.
    pub(crate) fn weight(&self) -> u64 {
        const ENVELOPE: u64 = 32;
        ENVELOPE
            + match self {
                Self::Null | Self::Integer(_) | Self::Float(_) => 0,
                Self::Text(text) => text.len() as u64,
                Self::Blob(blob) => blob.len() as u64 * 4 / 3,
            }
    }
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Integer(integer) => ValueRef::Integer(*integer),
            Self::Float(float) => ValueRef::Real(*float),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Blob(blob) => ValueRef::Blob(blob),
        }))
    }
}
