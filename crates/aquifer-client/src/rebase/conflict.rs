//! What could not simply be put on the server's, and what became of it.

use aquifer_sqlite::btree::Value;
use serde::de::Error as _;
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A local change that met another one of the server's.
///
/// As JSON, rows are objects: numbers are numbers, integers without a point and reals with one; text is text; everything
/// else is an object: `{"blob": "00ff"}`, `{"text": "ff"}` (not UTF-8) in hexadecimal, `{"real": "inf"}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Conflict {
    /// What happened.
    pub kind: Kind,
    /// The table; of [`Kind::Schema`] the table, index, view or trigger, of [`Kind::Setting`] the pragma.
    pub table: String,
    /// The row as it was when both sides had the same, by the names that its columns have here; `None`: there was none.
    pub base: Option<Row>,
    /// The row as it is here; `None`: it was deleted.
    pub local: Option<Row>,
    /// The row of the server's that is in the way, by the names that its columns have there; `None`: there is none.
    pub remote: Option<Row>,
    /// For changes of the schema: the statement that was not applied.
    pub statement: Option<String>,
    /// What became of it.
    pub outcome: Outcome,
    /// All of it in a sentence.
    pub message: String,
}

/// What two changes have to do with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Both inserted a row of the same key.
    InsertInsert,
    /// Both gave a column other values.
    UpdateUpdate,
    /// Updated here, deleted there.
    UpdateDelete,
    /// Deleted here, updated there.
    DeleteUpdate,
    /// The row here has a unique value of another row there.
    Unique,
    /// The row here refers to one that was deleted there.
    MissingParent,
    /// Deleted or renumbered here, and a row there refers to it.
    NeededParent,
    /// The row here does not fulfil what the table demands there: CHECK, NOT NULL, STRICT.
    Constraint,
    /// The table is not there any more, or another one without the row's key.
    TableGone,
    /// A column that was written here is not there any more.
    ColumnGone,
    /// Both changed the schema.
    Schema,
    /// Both changed `user_version` or `application_id`.
    Setting,
}

/// Whose change is in the database in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The one made here; of columns that were changed by one side only, either's.
    Ours,
    /// The server's.
    Theirs,
    /// A row that the resolver gave.
    Resolved,
}

/// Decides conflicts otherwise than by default.
pub trait Resolver {
    /// What is to become of a conflict. Its outcome is the one by default.
    ///
    /// May be asked twice of the same one. Not asked of kinds that are about no row, or about rows that refer to each
    /// other.
    fn resolve(&self, conflict: &Conflict) -> Resolution;
}

/// What a [`Resolver`] decides.
#[derive(Debug, Clone, PartialEq)]
pub enum Resolution {
    /// What happens without a resolver.
    Default,
    /// Ours, where that can be: a unique value is not taken from a row of the server's.
    Ours,
    /// The server's row stays as it is.
    Theirs,
    /// The row gets these values, by names as the server has them. Columns that are not named have those that they have
    /// by default. Where it meets a constraint, the default is what happens.
    Row(Row),
}

/// Nothing but the defaults.
#[derive(Debug, Clone, Copy, Default)]
pub struct ByDefault;

impl Resolver for ByDefault {
    fn resolve(&self, _: &Conflict) -> Resolution {
        Resolution::Default
    }
}

/// Values by the names of their columns.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Row(pub Vec<(String, Value)>);

impl Row {
    /// A row of these columns.
    pub fn new<'a>(columns: impl IntoIterator<Item = &'a str>, values: &[Value]) -> Row {
        Row(columns.into_iter().map(str::to_owned).zip(values.iter().cloned()).collect())
    }

    /// The value of a column; its name's case does not matter.
    pub fn get(&self, column: &str) -> Option<&Value> {
        self.0.iter().find(|(name, _)| name.eq_ignore_ascii_case(column)).map(|(_, value)| value)
    }
}

impl Serialize for Row {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, &json(value))?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Row {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Row, D::Error> {
        // In the order that it has in the text.
        struct Columns;
        impl<'de> serde::de::Visitor<'de> for Columns {
            type Value = Row;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of values by column")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Row, A::Error> {
                let mut row = Row::default();
                while let Some((name, value)) = map.next_entry::<String, serde_json::Value>()? {
                    let value =
                        value_of(&value).ok_or_else(|| A::Error::custom(format!("{value} is no value")))?;
                    row.0.push((name, value));
                }
                Ok(row)
            }
        }
        deserializer.deserialize_map(Columns)
    }
}

fn json(value: &Value) -> serde_json::Value {
    use serde_json::json;
    match value {
        Value::Null => serde_json::Value::Null,
        Value::Integer(n) => json!(n),
        Value::Real(n) if n.is_finite() => json!(n),
        Value::Real(n) => json!({ "real": n.to_string() }),
        Value::Text(text) => match std::str::from_utf8(text) {
            Ok(text) => json!(text),
            Err(_) => json!({ "text": hex(text) }),
        },
        Value::Blob(bytes) => json!({ "blob": hex(bytes) }),
    }
}

fn value_of(json: &serde_json::Value) -> Option<Value> {
    use serde_json::Value as Json;
    Some(match json {
        Json::Null => Value::Null,
        Json::Number(n) if n.is_f64() => Value::Real(n.as_f64()?),
        Json::Number(n) => Value::Integer(n.as_i64()?),
        Json::String(text) => Value::Text(text.clone().into_bytes()),
        Json::Object(map) if map.len() == 1 => {
            let (kind, text) = map.iter().next()?;
            match (kind.as_str(), text.as_str()?) {
                ("blob", text) => Value::Blob(unhex(text)?),
                ("text", text) => Value::Text(unhex(text)?),
                ("real", text) => Value::Real(text.parse().ok()?),
                _ => return None,
            }
        }
        _ => return None,
    })
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let bytes = pairs.iter().map(|&[a, b]| Some((digit(a)? << 4 | digit(b)?) as u8));
    rest.is_empty().then(|| bytes.collect())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conflict_is_the_same_after_json() {
        let values = [
            Value::Null,
            Value::Integer(i64::MIN),
            Value::Integer(9_007_199_254_740_993),
            Value::Real(1.0),
            Value::Real(-0.0),
            Value::Real(0.1 + 0.2),
            Value::Real(5e-324),
            Value::Real(f64::MAX),
            Value::Real(f64::NEG_INFINITY),
            Value::Text("\"\0\u{e4}".into()),
            Value::Text(vec![b'a', 0xff]),
            Value::Blob(vec![0, 0xab, 0x10]),
            Value::Blob(Vec::new()),
        ];
        let names: Vec<_> = (0..values.len()).rev().map(|i| format!("c{i}")).collect();
        let row = Row::new(names.iter().map(String::as_str), &values);
        let conflict = Conflict {
            kind: Kind::UpdateDelete,
            table: "t".to_owned(),
            base: None,
            local: Some(row.clone()),
            remote: Some(row),
            statement: Some("ALTER".to_owned()),
            outcome: Outcome::Resolved,
            message: "m".to_owned(),
        };
        let text = serde_json::to_string(&conflict).unwrap();
        assert_eq!(serde_json::from_str::<Conflict>(&text).unwrap(), conflict, "{text}");
        // Reals far from what their digits come to by simple arithmetic.
        let mut bits = 0x0123_4567_89ab_cdef_u64;
        for _ in 0..10_000 {
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let Some(real) = Some(f64::from_bits(bits)).filter(|real| real.is_finite()) else { continue };
            let row = Row::new(["x"], &[Value::Real(real)]);
            assert_eq!(serde_json::from_str::<Row>(&serde_json::to_string(&row).unwrap()).unwrap(), row);
        }
        for bad in [
            r#"{"x":[]}"#,
            r#"{"x":{"blob":"0"}}"#,
            r#"{"x":{"blob":"zz"}}"#,
            r#"{"x":true}"#,
            r#"{"x":1e999}"#,
        ] {
            assert!(serde_json::from_str::<Row>(bad).is_err(), "{bad}");
        }
    }
}
