//! Statements that are run one after the other, as bytes.

use std::borrow::Cow;

use aquifer_protocol::hrana::{Condition, ValueRef};
use aquifer_sqlite::btree::Value;

/// A value that JSON has no place for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unsendable {
    /// A text that is not UTF-8.
    #[error("a text that is not UTF-8 cannot be sent as it is: send it as `sendable` says")]
    NotUtf8,
    /// Infinity or NaN.
    #[error("infinity cannot be sent as it is: send it as `sendable` says")]
    NotFinite,
}

/// How a value arrives unchanged: the SQL that stands for it, with one parameter, and the parameter's argument. For most
/// values that is `?` and the value.
///
/// ```
/// use aquifer_client::remote::sendable;
/// use aquifer_sqlite::btree::Value;
///
/// let latin = Value::Text(b"caf\xe9".to_vec());
/// let (sql, argument) = sendable(&latin);
/// assert_eq!(sql, "CAST(? AS TEXT)");
/// assert_eq!(*argument, Value::Blob(b"caf\xe9".to_vec()));
/// ```
pub fn sendable(value: &Value) -> (&'static str, Cow<'_, Value>) {
    match value {
        // SQLite takes the bytes of a blob for a text without looking at them.
        Value::Text(text) if std::str::from_utf8(text).is_err() => {
            ("CAST(? AS TEXT)", Cow::Owned(Value::Blob(text.clone())))
        }
        Value::Real(real) if real.is_infinite() => {
            let beyond = if *real > 0.0 { "9e999" } else { "-9e999" };
            ("CAST(? AS REAL)", Cow::Owned(Value::Text(beyond.into())))
        }
        // SQLite stores NaN as NULL.
        Value::Real(real) if real.is_nan() => ("?", Cow::Owned(Value::Null)),
        _ => ("?", Cow::Borrowed(value)),
    }
}

/// Statements, each with its condition and arguments, written as they will be sent.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    steps: Vec<u8>,
    count: usize,
}

impl Batch {
    /// No statement.
    pub fn new() -> Batch {
        Batch::default()
    }

    /// How many steps there are: the number of the next one.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many bytes it takes on the wire, but for some dozen around it.
    pub fn bytes(&self) -> usize {
        self.steps.len()
    }

    /// Appends a statement; which step it is (from 0). It runs when `condition` holds, or in any case without one. Its
    /// rows come back if `want_rows`. `?` and `?1` take `args` in their order.
    ///
    /// # Errors
    /// A value that cannot be sent: see [`sendable`]. The batch is then as it was.
    pub fn step<'a>(
        &mut self,
        condition: Option<&Condition>,
        sql: &str,
        args: impl IntoIterator<Item = &'a Value>,
        want_rows: bool,
    ) -> Result<usize, Unsendable> {
        let before = self.steps.len();
        let written = self.write(condition, sql, args, want_rows);
        if let Err(unsendable) = written {
            self.steps.truncate(before);
            return Err(unsendable);
        }
        self.count += 1;
        Ok(self.count - 1)
    }

    fn write<'a>(
        &mut self,
        condition: Option<&Condition>,
        sql: &str,
        args: impl IntoIterator<Item = &'a Value>,
        want_rows: bool,
    ) -> Result<(), Unsendable> {
        if self.count > 0 {
            self.steps.push(b',');
        }
        self.steps.push(b'{');
        if let Some(condition) = condition {
            self.steps.extend_from_slice(b"\"condition\":");
            json(&mut self.steps, condition);
            self.steps.push(b',');
        }
        self.steps.extend_from_slice(b"\"stmt\":{\"sql\":");
        json(&mut self.steps, sql);
        self.steps.extend_from_slice(b",\"args\":[");
        for (i, arg) in args.into_iter().enumerate() {
            if i > 0 {
                self.steps.push(b',');
            }
            json(&mut self.steps, &on_the_wire(arg)?);
        }
        self.steps.extend_from_slice(if want_rows {
            b"],\"want_rows\":true}}"
        } else {
            b"],\"want_rows\":false}}"
        });
        Ok(())
    }

    /// The body of a pipeline with this batch, after which the stream is closed or not.
    pub(super) fn body(&self, baton: Option<&str>, close: bool) -> Vec<u8> {
        let mut body = Vec::with_capacity(self.steps.len() + 256);
        body.extend_from_slice(b"{\"baton\":");
        json(&mut body, &baton);
        body.extend_from_slice(b",\"requests\":[{\"type\":\"batch\",\"batch\":{\"steps\":[");
        body.extend_from_slice(&self.steps);
        body.extend_from_slice(b"]}}");
        if close {
            body.extend_from_slice(b",{\"type\":\"close\"}");
        }
        body.extend_from_slice(b"]}");
        body
    }
}

fn json<T: serde::Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(out, value).expect("what is sent has a form in JSON, and memory can be written to");
}

fn on_the_wire(value: &Value) -> Result<ValueRef<'_>, Unsendable> {
    Ok(match value {
        Value::Null => ValueRef::Null,
        Value::Integer(integer) => ValueRef::Integer(*integer),
        Value::Real(real) if !real.is_finite() => return Err(Unsendable::NotFinite),
        Value::Real(real) => ValueRef::Float(*real),
        Value::Text(text) => ValueRef::Text(std::str::from_utf8(text).map_err(|_| Unsendable::NotUtf8)?),
        Value::Blob(blob) => ValueRef::Blob(blob),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_what_servers_read() {
        let mut batch = Batch::new();
        assert_eq!(batch.step(None, "BEGIN IMMEDIATE", [], false), Ok(0));
        let open = Condition::Not { cond: Box::new(Condition::IsAutocommit) };
        let args = [
            Value::Null,
            Value::Integer(i64::MIN),
            Value::Real(-0.5),
            Value::Text(b"a\"\n\0".to_vec()),
            Value::Blob(vec![255, 239]),
        ];
        assert_eq!(batch.step(Some(&open), "INSERT \"t\"", &args, true), Ok(1));
        let body = String::from_utf8(batch.body(None, true)).unwrap();
        assert_eq!(
            body,
            concat!(
                r#"{"baton":null,"requests":[{"type":"batch","batch":{"steps":["#,
                r#"{"stmt":{"sql":"BEGIN IMMEDIATE","args":[],"want_rows":false}},"#,
                r#"{"condition":{"type":"not","cond":{"type":"is_autocommit"}},"stmt":{"sql":"INSERT \"t\"","args":["#,
                r#"{"type":"null"},{"type":"integer","value":"-9223372036854775808"},{"type":"float","value":-0.5},"#,
                r#"{"type":"text","value":"a\"\n\u0000"},{"type":"blob","base64":"/+8"}],"want_rows":true}}"#,
                r#"]}},{"type":"close"}]}"#
            )
        );
        let body = String::from_utf8(batch.body(Some("b\"1"), false)).unwrap();
        assert!(body.starts_with(r#"{"baton":"b\"1","#) && body.ends_with("]}}]}"), "{body}");
    }

    #[test]
    fn a_value_that_cannot_be_sent_leaves_the_batch_as_it_was() {
        let mut batch = Batch::new();
        batch.step(None, "SELECT 1", [], true).unwrap();
        let before = batch.body(None, false);
        for (value, expected) in [
            (Value::Text(vec![0xff]), Unsendable::NotUtf8),
            (Value::Real(f64::INFINITY), Unsendable::NotFinite),
            (Value::Real(f64::NAN), Unsendable::NotFinite),
        ] {
            assert_eq!(batch.step(None, "SELECT ?, ?", [&Value::Null, &value], true), Err(expected));
            assert_eq!((batch.body(None, false), batch.len()), (before.clone(), 1));
            let (_, argument) = sendable(&value);
            assert!(on_the_wire(&argument).is_ok());
        }
    }
}
