//! Records: the values of one row or index entry.

use super::Encoding;
use super::varint::varint;

/// A value as SQLite stores it, borrowed from a record. Text is in the database's encoding.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Field<'a> {
    /// NULL.
    Null,
    /// An integer.
    Integer(i64),
    /// A floating-point number.
    Real(f64),
    /// Text.
    Text(&'a [u8]),
    /// A blob.
    Blob(&'a [u8]),
}

/// A value of its own.
#[derive(Debug, Clone)]
pub enum Value {
    /// NULL.
    Null,
    /// An integer.
    Integer(i64),
    /// A floating-point number.
    Real(f64),
    /// Text in UTF-8, or what an application has stored as that: SQLite does not check.
    Text(Vec<u8>),
    /// A blob.
    Blob(Vec<u8>),
}

/// Equal are values that SQLite stores alike: 1 and 1.0 are not, nor 0.0 and -0.0.
impl PartialEq for Value {
    fn eq(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Null, Value::Null) => true,
            (Value::Integer(a), Value::Integer(b)) => a == b,
            (Value::Real(a), Value::Real(b)) => a.to_bits() == b.to_bits(),
            (Value::Text(a), Value::Text(b)) | (Value::Blob(a), Value::Blob(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for Value {}

impl From<i64> for Value {
    fn from(n: i64) -> Value {
        Value::Integer(n)
    }
}

impl From<f64> for Value {
    fn from(n: f64) -> Value {
        Value::Real(n)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(text.into())
    }
}

impl From<Vec<u8>> for Value {
    fn from(blob: Vec<u8>) -> Value {
        Value::Blob(blob)
    }
}

impl rusqlite::ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        use rusqlite::types::ValueRef;
        Ok(rusqlite::types::ToSqlOutput::Borrowed(match self {
            Value::Null => ValueRef::Null,
            Value::Integer(n) => ValueRef::Integer(*n),
            Value::Real(n) => ValueRef::Real(*n),
            Value::Text(text) => ValueRef::Text(text),
            Value::Blob(blob) => ValueRef::Blob(blob),
        }))
    }
}

impl rusqlite::types::FromSql for Value {
    fn column_result(value: rusqlite::types::ValueRef<'_>) -> rusqlite::types::FromSqlResult<Value> {
        use rusqlite::types::ValueRef;
        Ok(match value {
            ValueRef::Null => Value::Null,
            ValueRef::Integer(n) => Value::Integer(n),
            ValueRef::Real(n) => Value::Real(n),
            ValueRef::Text(text) => Value::Text(text.to_vec()),
            ValueRef::Blob(blob) => Value::Blob(blob.to_vec()),
        })
    }
}

impl Field<'_> {
    /// The value, with text in UTF-8. Halves of surrogate pairs become U+FFFD.
    pub fn to_value(self, encoding: Encoding) -> Value {
        match self {
            Field::Null => Value::Null,
            Field::Integer(n) => Value::Integer(n),
            Field::Real(n) => Value::Real(n),
            Field::Text(text) => Value::Text(encoding.utf8(text).into_owned()),
            Field::Blob(blob) => Value::Blob(blob.to_vec()),
        }
    }
}

impl Encoding {
    /// Text of this encoding in UTF-8.
    pub fn utf8(self, text: &[u8]) -> std::borrow::Cow<'_, [u8]> {
        let unit: fn([u8; 2]) -> u16 = match self {
            Encoding::Utf8 => return text.into(),
            Encoding::Utf16Le => u16::from_le_bytes,
            Encoding::Utf16Be => u16::from_be_bytes,
        };
        let units = text.as_chunks::<2>().0.iter().map(|&bytes| unit(bytes));
        let text: String =
            char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
        text.into_bytes().into()
    }
}

/// The values of one row or index entry.
#[derive(Debug, Clone)]
pub struct Record<'a> {
    /// Serial types still to be read.
    types: &'a [u8],
    /// Values still to be read.
    body: &'a [u8],
}

impl<'a> Record<'a> {
    /// The record that is all of `payload`; `None` if its header does not fit into it.
    pub fn new(payload: &'a [u8]) -> Option<Record<'a>> {
        let (header, n) = varint(payload)?;
        let header = usize::try_from(header).ok().filter(|&end| end >= n && end <= payload.len())?;
        Some(Record { types: &payload[n..header], body: &payload[header..] })
    }

    /// The next value; `Some(None)` after the last, `None` if the record is damaged.
    ///
    /// A row has fewer values than its table has columns when some were added after it was written.
    pub fn next_field(&mut self) -> Option<Option<Field<'a>>> {
        if self.types.is_empty() {
            return Some(None);
        }
        let (serial, n) = varint(self.types)?;
        self.types = &self.types[n..];
        let length = match serial {
            0 | 8 | 9 => 0,
            1..=4 => serial as usize,
            5 => 6,
            6 | 7 => 8,
            10 | 11 => return None,
            _ => usize::try_from((serial - 12) / 2).ok()?,
        };
        let (bytes, rest) = self.body.split_at_checked(length)?;
        self.body = rest;
        Some(Some(match serial {
            0 => Field::Null,
            7 => Field::Real(f64::from_be_bytes(*bytes.first_chunk()?)),
            8 => Field::Integer(0),
            9 => Field::Integer(1),
            1..=6 => {
                let sign = if bytes[0] & 0x80 == 0 { 0 } else { -1 };
                Field::Integer(bytes.iter().fold(sign, |n, &byte| n << 8 | i64::from(byte)))
            }
            _ if serial % 2 == 0 => Field::Blob(bytes),
            _ => Field::Text(bytes),
        }))
    }
}
