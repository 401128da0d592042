//! Which keys a configuration file may have: found out from the types that it is read into.

use serde::de::{self, Deserialize, Deserializer, Visitor};

/// The keys that `T`, a struct, is read from.
pub(super) fn keys_of<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    let mut keys: &'static [&'static str] = &[];
    // The capture always ends in an error: nothing is read.
    drop(T::deserialize(Capture { keys: &mut keys }));
    keys
}

/// The key among `known` that is most likely meant by `given`.
pub(super) fn nearest<'a>(given: &str, known: &[&'a str]) -> Option<&'a str> {
    const SIMILAR: f64 = 0.75;
    known
        .iter()
        .map(|key| (strsim::jaro_winkler(given, key), *key))
        .filter(|(similarity, _)| *similarity >= SIMILAR)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, key)| key)
}

/// A deserializer that only listens to which fields are asked for.
struct Capture<'a> {
    keys: &'a mut &'static [&'static str],
}

impl<'de> Deserializer<'de> for Capture<'_> {
    type Error = de::value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
        Err(de::Error::custom("not a struct"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        *self.keys = fields;
        self.deserialize_any(visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}
