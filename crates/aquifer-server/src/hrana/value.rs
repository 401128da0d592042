//! Values as Hrana's JSON has them: integers as decimal strings, blobs as base64.
use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::de::{Error as _, Unexpected};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::sql::Value;

/// Written without padding, read with or without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Wire {
    Null,
    Integer { value: Integer },
    Float { value: f64 },
    Text { value: String },
    Blob { base64: String },
}

/// A decimal string; some clients send a JSON number.
#[derive(Deserialize)]
#[serde(untagged)]
enum Integer {
    Number(i64),
    Text(String),
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match Wire::deserialize(deserializer)? {
            Wire::Null => Self::Null,
            Wire::Integer { value: Integer::Number(integer) } => Self::Integer(integer),
            Wire::Integer { value: Integer::Text(text) } => Self::Integer(text.parse().map_err(|_| {
                D::Error::invalid_value(Unexpected::Str(&text), &"a 64-bit integer as a decimal string")
            })?),
            Wire::Float { value } => Self::Float(value),
            Wire::Text { value } => Self::Text(value),
            Wire::Blob { base64 } => Self::Blob(decode(base64).map_err(D::Error::custom)?),
        })
    }
}

fn decode(base64: String) -> Result<Vec<u8>, String> {
    let standard =
        if base64.contains(['-', '_']) { base64.replace('-', "+").replace('_', "/") } else { base64 };
    BASE64.decode(standard).map_err(|error| format!("a blob's base64 cannot be read: {error}"))
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        match self {
            Self::Null => map.serialize_entry("type", "null")?,
            Self::Integer(integer) => {
                map.serialize_entry("type", "integer")?;
                map.serialize_entry("value", &integer.to_string())?;
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
                map.serialize_entry("base64", &BASE64.encode(blob))?;
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
