//! Names of databases.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::layout::SERVERS;

/// Longest name in a key, escapes included: file systems allow 255 bytes.
const MAX_COMPONENT: usize = 200;

/// Starts an escape: kept as it is by object stores, file systems and shells alike.
const ESCAPE: u8 = b'=';

/// Name of a database in a store: any text without control characters, of at most 200 bytes once escaped.
///
/// In keys it is one component: bytes outside of `[A-Za-z0-9._-]` are written `=XX`, as is a leading dot.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct DatabaseName(String);

/// Not the name of a database.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DatabaseNameError {
    /// Empty.
    #[error("a database's name must not be empty")]
    Empty,
    /// Holds a control character.
    #[error("a database's name must not hold control characters: {0:?}")]
    Control(String),
    /// Too long for a key.
    #[error(
        "the database's name '{0}' is too long: {1} bytes when escaped for the store, at most 200 are allowed"
    )]
    TooLong(String, usize),
}

impl DatabaseName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As a component of keys.
    pub fn to_component(&self) -> String {
        escape(&self.0)
    }

    /// The inverse of [`DatabaseName::to_component`]. `None` for what it does not produce.
    pub fn from_component(component: &str) -> Option<DatabaseName> {
        let mut bytes = Vec::with_capacity(component.len());
        let mut rest = component.as_bytes();
        while let [first, tail @ ..] = rest {
            if *first == ESCAPE {
                let hex = std::str::from_utf8(tail.get(..2)?).ok()?;
                bytes.push(u8::from_str_radix(hex, 16).ok()?);
                rest = &tail[2..];
            } else {
                bytes.push(*first);
                rest = tail;
            }
        }
        let name: DatabaseName = String::from_utf8(bytes).ok()?.parse().ok()?;
        // One name has one component: "=41" is none, nor is a reserved word.
        (name.to_component() == component).then_some(name)
    }
}

fn escape(name: &str) -> String {
    let reserved = name == SERVERS;
    let mut escaped = String::with_capacity(name.len());
    for (at, byte) in name.bytes().enumerate() {
        let plain = byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if !plain || (at == 0 && (byte == b'.' || reserved)) {
            const HEX: &[u8; 16] = b"0123456789ABCDEF";
            escaped
                .extend([ESCAPE, HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]].map(char::from));
        } else {
            escaped.push(char::from(byte));
        }
    }
    escaped
}

impl FromStr for DatabaseName {
    type Err = DatabaseNameError;
    fn from_str(name: &str) -> Result<DatabaseName, DatabaseNameError> {
        if name.is_empty() {
            return Err(DatabaseNameError::Empty);
        }
        if name.chars().any(char::is_control) {
            return Err(DatabaseNameError::Control(name.to_owned()));
        }
        let len = escape(name).len();
        if len > MAX_COMPONENT {
            return Err(DatabaseNameError::TooLong(name.to_owned(), len));
        }
        Ok(DatabaseName(name.to_owned()))
    }
}

impl fmt::Debug for DatabaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for DatabaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl From<DatabaseName> for String {
    fn from(name: DatabaseName) -> String {
        name.0
    }
}

impl TryFrom<String> for DatabaseName {
    type Error = DatabaseNameError;
    fn try_from(name: String) -> Result<DatabaseName, DatabaseNameError> {
        name.parse()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn component(name: &str) -> String {
        name.parse::<DatabaseName>().unwrap().to_component()
    }

    #[test]
    fn ordinary_names_stay_readable() {
        assert_eq!(component("app.db"), "app.db");
        assert_eq!(component("team/app v2.db"), "team=2Fapp=20v2.db");
        assert_eq!(component("a=b"), "a=3Db");
        assert_eq!(component("é"), "=C3=A9");
    }

    #[test]
    fn no_name_collides_with_what_is_reserved() {
        assert_eq!(component("servers"), "=73ervers");
        assert_eq!(component(".aquifer"), "=2Eaquifer");
        assert_eq!(component(".."), "=2E.");
        assert_eq!(DatabaseName::from_component("servers"), None);
        assert_eq!(DatabaseName::from_component(".aquifer"), None);
    }

    #[test]
    fn impossible_names_are_refused_with_a_reason() {
        assert_eq!("".parse::<DatabaseName>(), Err(DatabaseNameError::Empty));
        assert!(matches!("a\nb".parse::<DatabaseName>(), Err(DatabaseNameError::Control(_))));
        assert!(matches!("é".repeat(34).parse::<DatabaseName>(), Err(DatabaseNameError::TooLong(_, 204))));
        assert!("x".repeat(200).parse::<DatabaseName>().is_ok());
    }

    #[test]
    fn one_name_has_one_component() {
        for other in ["=41", "=2f", "a=2", "a=", "=C3", "a b", "=0A", ""] {
            assert_eq!(DatabaseName::from_component(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn names_survive_escaping(name in "\\PC{1,16}|[./=A-Za-z]{1,8}") {
            if let Ok(name) = name.parse::<DatabaseName>() {
                let component = name.to_component();
                prop_assert!(component.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-=".contains(&b)));
                prop_assert!(!component.starts_with('.'));
                prop_assert_eq!(DatabaseName::from_component(&component), Some(name));
            }
        }

        #[test]
        fn what_parses_as_a_component_is_one(text in "[a-zA-Z0-9=._/-]{0,12}") {
            if let Some(name) = DatabaseName::from_component(&text) {
                prop_assert_eq!(name.to_component(), text);
            }
        }
    }
}
