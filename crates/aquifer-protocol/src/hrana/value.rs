//! Values as Hrana's JSON has them: integers as decimal strings, blobs as base64.

use std::borrow::Cow;

use base64::Engine;
use base64::alphabet;
use base64::display::Base64Display;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::de::{Error as _, Unexpected, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

/// Written without padding, read with or without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

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

/// The fields of all values: read in one go, whatever their order.
#[derive(Deserialize)]
struct Wire<'a> {
    r#type: Type,
    #[serde(default, borrow)]
    value: Option<Scalar<'a>>,
    base64: Option<String>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Type {
    Null,
    Integer,
    Float,
    Text,
    Blob,
}

/// What stands behind `value`.
enum Scalar<'a> {
    Integer(i64),
    /// A number that is no 64-bit integer.
    Float(f64),
    Text(Cow<'a, str>),
}

impl<'de: 'a, 'a> Deserialize<'de> for Scalar<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Scalar<'de>;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a number or a string")
    }

    fn visit_i64<E>(self, number: i64) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Integer(number))
    }

    #[expect(clippy::cast_precision_loss, reason = "an integer beyond 64 bits is read as a float")]
    fn visit_u64<E>(self, number: u64) -> Result<Scalar<'de>, E> {
        Ok(i64::try_from(number).map_or(Scalar::Float(number as f64), Scalar::Integer))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Float(number))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_string<E>(self, text: String) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Text(Cow::Owned(text)))
    }
}

impl<'de> Deserialize<'de> for Value {
    #[expect(clippy::cast_precision_loss, reason = "a float may be written without a point")]
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Wire { r#type, value, base64 } = Wire::deserialize(deserializer)?;
        let wrong = |found: &Scalar<'_>, expected: &str| match found {
            Scalar::Integer(number) => D::Error::invalid_value(Unexpected::Signed(*number), &expected),
            Scalar::Float(number) => D::Error::invalid_value(Unexpected::Float(*number), &expected),
            Scalar::Text(text) => D::Error::invalid_value(Unexpected::Str(text), &expected),
        };
        let value = || value.ok_or_else(|| D::Error::missing_field("value"));
        Ok(match r#type {
            Type::Null => Self::Null,
            Type::Integer => match value()? {
                // Some clients send a JSON number.
                Scalar::Integer(integer) => Self::Integer(integer),
                other => {
                    let Scalar::Text(text) = &other else { return Err(wrong(&other, INTEGER)) };
                    Self::Integer(text.parse().map_err(|_| wrong(&other, INTEGER))?)
                }
            },
            Type::Float => match value()? {
                Scalar::Float(float) => Self::Float(float),
                Scalar::Integer(integer) => Self::Float(integer as f64),
                other @ Scalar::Text(_) => return Err(wrong(&other, "a number")),
            },
            Type::Text => match value()? {
                Scalar::Text(text) => Self::Text(text.into_owned()),
                other => return Err(wrong(&other, "a string")),
            },
            Type::Blob => {
                let base64 = base64.ok_or_else(|| D::Error::missing_field("base64"))?;
                Self::Blob(decode(base64).map_err(D::Error::custom)?)
            }
        })
    }
}

const INTEGER: &str = "a 64-bit integer as a decimal string";

fn decode(base64: String) -> Result<Vec<u8>, String> {
    let standard =
        if base64.contains(['-', '_']) { base64.replace('-', "+").replace('_', "/") } else { base64 };
    BASE64.decode(standard).map_err(|error| format!("a blob's base64 cannot be read: {error}"))
}

/// A [`Value`] that lies elsewhere, to be written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ValueRef<'a> {
    /// NULL.
    Null,
    /// A 64-bit integer.
    Integer(i64),
    /// A float.
    Float(f64),
    /// A text.
    Text(&'a str),
    /// Bytes.
    Blob(&'a [u8]),
}

impl Value {
    /// The value, where it lies.
    pub fn borrowed(&self) -> ValueRef<'_> {
        match self {
            Self::Null => ValueRef::Null,
            Self::Integer(integer) => ValueRef::Integer(*integer),
            Self::Float(float) => ValueRef::Float(*float),
            Self::Text(text) => ValueRef::Text(text),
            Self::Blob(blob) => ValueRef::Blob(blob),
        }
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.borrowed().serialize(serializer)
    }
}

impl Serialize for ValueRef<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        match self {
            Self::Null => map.serialize_entry("type", "null")?,
            Self::Integer(integer) => {
                map.serialize_entry("type", "integer")?;
                map.serialize_entry("value", &format_args!("{integer}"))?;
            }
            Self::Float(float) => {
                map.serialize_entry("type", "float")?;
                if float.is_finite() {
                    map.serialize_entry("value", float)?;
                } else {
                    // JSON has no infinity; JavaScript and Python read a number out of range as one, and who
                    // cannot fails loudly, where serde_json's null would become a zero.
                    let beyond = if *float > 0.0 { "1e999" } else { "-1e999" };
                    let raw = RawValue::from_string(beyond.into()).map_err(serde::ser::Error::custom)?;
                    map.serialize_entry("value", &raw)?;
                }
            }
            Self::Text(text) => {
                map.serialize_entry("type", "text")?;
                map.serialize_entry("value", text)?;
            }
            Self::Blob(blob) => {
                map.serialize_entry("type", "blob")?;
                map.serialize_entry("base64", &format_args!("{}", Base64Display::new(blob, &BASE64)))?;
            }
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(json: &str) -> Value {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn blobs_are_read_with_and_without_padding_in_both_alphabets() {
        for json in ["AP8Q", "/+8", "/+8=", "_-8", "_-8=", ""] {
            let Value::Blob(blob) = read(&format!(r#"{{"type":"blob","base64":"{json}"}}"#)) else {
                panic!()
            };
            match json {
                "AP8Q" => assert_eq!(blob, [0, 255, 16]),
                "" => assert_eq!(blob, [0; 0]),
                _ => assert_eq!(blob, [255, 239]),
            }
        }
        assert_eq!(
            serde_json::to_string(&Value::Blob(vec![255, 239])).unwrap(),
            r#"{"type":"blob","base64":"/+8"}"#
        );
    }

    #[test]
    fn numbers_are_read_as_clients_write_them() {
        assert_eq!(
            read(r#"{"type":"integer","value":"9007199254740993"}"#),
            Value::Integer(9_007_199_254_740_993)
        );
        assert_eq!(read(r#"{"type":"integer","value":7}"#), Value::Integer(7));
        assert_eq!(read(r#"{"type":"float","value":21}"#), Value::Float(21.0));
        assert!(
            serde_json::from_str::<Value>(r#"{"type":"integer","value":"9223372036854775808"}"#).is_err()
        );
        assert!(serde_json::from_str::<Value>(r#"{"type":"integer","value":"1.0"}"#).is_err());
    }

    #[test]
    fn infinity_is_a_number_beyond_the_range_of_floats() {
        assert_eq!(
            serde_json::to_string(&Value::Float(f64::NEG_INFINITY)).unwrap(),
            r#"{"type":"float","value":-1e999}"#
        );
    }

    proptest! {
        #[test]
        fn every_value_survives_the_wire(value in prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::Integer),
            proptest::num::f64::NORMAL.prop_map(Value::Float),
            any::<String>().prop_map(Value::Text),
            any::<Vec<u8>>().prop_map(Value::Blob),
        ]) {
            let json = serde_json::to_string(&value).unwrap();
            prop_assert_eq!(read(&json), value);
        }
    }
}
