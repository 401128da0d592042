//! Names of objects inside a store.

use std::fmt;

/// Name of an object, relative to the store's root: components separated by single slashes.
///
/// Keys that this program makes use only `[A-Za-z0-9._=-]`; a key that came from a listing may hold anything,
/// because a store may hold objects of others.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

/// The "directory" of keys that start with it: empty (the whole store), or ends with a slash.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix(String);

/// Cannot be an object's name: it is empty, or has an empty, `.` or `..` component, or a control character.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{}' cannot be the name of an object", .0.escape_debug())]
pub struct InvalidKey(String);

impl Key {
    /// Checks a name.
    pub fn parse(name: impl Into<String>) -> Result<Key, InvalidKey> {
        let name = name.into();
        if is_valid(&name) { Ok(Key(name)) } else { Err(InvalidKey(name)) }
    }

    /// The name, without a leading slash.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part after the last slash.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }
}

impl Prefix {
    /// Every object of the store.
    pub const ROOT: Prefix = Prefix(String::new());

    /// The prefix below this one.
    ///
    /// # Panics
    /// If `component` cannot be a component of a key: callers pass names that they made.
    #[must_use]
    pub fn dir(&self, component: &str) -> Prefix {
        assert!(!component.contains('/') && is_valid(component), "no component of a key: {component:?}");
        Prefix(format!("{}{component}/", self.0))
    }

    /// The object of this name directly below.
    ///
    /// # Panics
    /// As [`Prefix::dir`].
    pub fn key(&self, component: &str) -> Key {
        assert!(!component.contains('/') && is_valid(component), "no component of a key: {component:?}");
        Key(format!("{}{component}", self.0))
    }

    /// The rest of `key` after this prefix, or `None` where it lies elsewhere.
    pub fn strip<'a>(&self, key: &'a Key) -> Option<&'a str> {
        key.0.strip_prefix(&self.0)
    }

    /// The prefix as text: empty, or with a slash at its end.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_valid(name: &str) -> bool {
    name.split('/').all(|part| !matches!(part, "" | "." | "..")) && !name.chars().any(char::is_control)
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_escape_the_root_are_refused() {
        for bad in ["", "/a", "a/", "a//b", "a/../b", "..", ".", "a/./b", "a\nb"] {
            assert_eq!(Key::parse(bad), Err(InvalidKey(bad.to_owned())), "{bad:?}");
        }
        assert_eq!(Key::parse("a/b.seg").unwrap().file_name(), "b.seg");
    }

    #[test]
    fn prefixes_join_and_strip() {
        let level = Prefix::ROOT.dir("db").dir("0");
        let key = level.key("x.seg");
        assert_eq!(key.as_str(), "db/0/x.seg");
        assert_eq!(level.strip(&key), Some("x.seg"));
        assert_eq!(Prefix::ROOT.dir("d").strip(&key), None);
    }
}
