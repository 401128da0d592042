//! The configuration file: TOML, for fleets. Secrets have no keys here: they come from the environment.

use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::keys::{keys_of, nearest};
use super::merge::ReplicateFlags;

/// A configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },

    #[error(
        "{}:{line}:{column}: unknown key '{key}'{}; known here are {}",
        path.display(),
        meant.as_ref().map_or(String::new(), |key| format!(", did you mean '{key}'?")),
        known.join(", ")
    )]
    UnknownKey {
        path: PathBuf,
        /// 1-based.
        line: usize,
        /// 1-based, in characters.
        column: usize,
        key: String,
        meant: Option<String>,
        known: Vec<String>,
    },

    #[error("{}: {message}", path.display())]
    Invalid { path: PathBuf, message: String },
}

/// What a configuration file may say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct FileConfig {
    /// URL of the store.
    pub(crate) store: Option<String>,
    /// For `replicate`.
    #[serde(default)]
    pub(crate) replicate: ReplicateFlags,
    /// Databases to replicate.
    #[serde(default)]
    pub(crate) database: Vec<DatabaseEntry>,
    /// Directories whose databases to replicate, now and when new ones appear.
    #[serde(default)]
    pub(crate) directory: Vec<DirectoryEntry>,
}

/// One database to replicate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct DatabaseEntry {
    /// Its file; relative to the configuration file.
    pub(crate) path: PathBuf,
    /// Its name in the store; else that of its file.
    pub(crate) name: Option<String>,
}

/// Databases by the pattern of their paths.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct DirectoryEntry {
    /// A directory, or a pattern whose last component has `*` or `?`; relative to the configuration file.
    pub(crate) path: PathBuf,
    /// Patterns of file names that are left out.
    #[serde(default)]
    pub(crate) exclude: Vec<String>,
}

impl FileConfig {
    /// Reads a file.
    pub(crate) fn read(path: &Path) -> Result<FileConfig, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let mut config = FileConfig::parse(path, &text)?;
        let base = path.parent().unwrap_or(Path::new(""));
        for entry in &mut config.database {
            entry.path = base.join(&entry.path);
        }
        for entry in &mut config.directory {
            entry.path = base.join(&entry.path);
        }
        if let Some(dir) = &mut config.replicate.state_dir {
            *dir = base.join(&dir);
        }
        Ok(config)
    }

    /// Reads a file's text. `path` is for messages.
    pub(crate) fn parse(path: &Path, text: &str) -> Result<FileConfig, ConfigError> {
        let invalid = |e: toml::de::Error| ConfigError::Invalid {
            path: path.to_owned(),
            message: e.to_string().trim_end().to_owned(),
        };
        let document = DeTable::parse(text).map_err(invalid)?;
        let root = document.get_ref();
        let places = Places { path, text };
        places.check::<FileConfig>(root)?;
        for (key, value) in root {
            let tables = tables(value);
            for table in tables {
                match key.get_ref().as_ref() {
                    "replicate" => places.check::<ReplicateFlags>(table)?,
                    "database" => places.check::<DatabaseEntry>(table)?,
                    "directory" => places.check::<DirectoryEntry>(table)?,
                    _ => {}
                }
            }
        }
        toml::from_str(text).map_err(invalid)
    }
}

/// The tables of a value: itself, or those of an array of tables.
fn tables<'a, 'i>(value: &'a Spanned<DeValue<'i>>) -> Vec<&'a DeTable<'i>> {
    match value.get_ref() {
        DeValue::Table(table) => vec![table],
        DeValue::Array(array) => array.iter().filter_map(|item| item.get_ref().as_table()).collect(),
        _ => Vec::new(),
    }
}

struct Places<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Places<'_> {
    /// That a table has no other keys than `T`.
    fn check<T: DeserializeOwned>(&self, table: &DeTable<'_>) -> Result<(), ConfigError> {
        let known = keys_of::<T>();
        let unknown = |key: &&Spanned<DeString<'_>>| !known.contains(&key.get_ref().as_ref());
        // The first in the file, not in the alphabet.
        let Some(key) = table.keys().filter(unknown).min_by_key(|key| key.span().start) else {
            return Ok(());
        };
        let before = &self.text[..key.span().start];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Err(ConfigError::UnknownKey {
            path: self.path.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            meant: nearest(key.get_ref(), known).map(str::to_owned),
            key: key.get_ref().to_string(),
            known: known.iter().map(|key| (*key).to_owned()).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<FileConfig, ConfigError> {
        FileConfig::parse(Path::new("fleet.toml"), text)
    }

    #[test]
    fn every_key_is_read() {
        let config = parse(
            r#"
            store = "s3://bucket/fleet"
            [replicate]
            interval = "1s"
            max-staging = "10GiB"
            wal = true
            [[database]]
            path = "app.db"
            name = "team/app"
            [[directory]]
            path = "tenants/*.db"
            exclude = ["tmp-*"]
            "#,
        )
        .unwrap();
        assert_eq!(config.store.as_deref(), Some("s3://bucket/fleet"));
        assert_eq!(config.replicate.max_staging, Some("10GiB".parse().unwrap()));
        assert_eq!(config.replicate.wal, Some(true));
        assert_eq!(config.database[0].name.as_deref(), Some("team/app"));
        assert_eq!(config.directory[0].exclude, ["tmp-*"]);
    }

    #[test]
    fn documented_example_is_valid_and_shows_every_key() {
        let docs = include_str!("../../../../docs/operations.md");
        let (_, section) = docs.split_once("## Configuration file").unwrap();
        let (example, _) = section.split_once("`aquifer config check").unwrap();
        let example: Vec<&str> = example.lines().filter_map(|line| line.strip_prefix("    ")).collect();
        let config = parse(&example.join("\n")).unwrap();
        assert_eq!(config.replicate.given().len(), keys_of::<ReplicateFlags>().len());
        assert_eq!((config.database.len(), config.directory.len()), (1, 1));
    }

    #[test]
    fn unknown_key_is_told_with_its_place_and_the_nearest_known_one() {
        let error = parse("store = \"x\"\n\n[replicate]\n  intervall = \"1s\"\n").unwrap_err().to_string();
        assert!(
            error.starts_with("fleet.toml:4:3: unknown key 'intervall', did you mean 'interval'?"),
            "{error}"
        );
        let error = parse("[[database]]\npath = 'a'\n[[database]]\npfad = 'b'\n").unwrap_err().to_string();
        assert!(error.starts_with("fleet.toml:4:1: unknown key 'pfad'"), "{error}");
        assert!(error.contains("known here are path, name"), "{error}");
        let error = parse("zzz = 1\nAAA = 2\n").unwrap_err().to_string();
        assert!(error.starts_with("fleet.toml:1:1: unknown key 'zzz'; known here are store,"), "{error}");
    }

    #[test]
    fn wrong_value_is_told_with_its_place() {
        let error = parse("[replicate]\ninterval = \"soon\"\n").unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("'soon' is no length of time"), "{error}");
        assert!(parse("[[database]]\nname = 'x'\n").unwrap_err().to_string().contains("path"));
        assert!(parse("store = \n").unwrap_err().to_string().contains("line 1"));
    }

    #[test]
    fn paths_are_relative_to_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fleet.toml");
        std::fs::write(&path, "[[database]]\npath = 'a.db'\n[[directory]]\npath = '/srv'\n").unwrap();
        let config = FileConfig::read(&path).unwrap();
        assert_eq!(config.database[0].path, dir.path().join("a.db"));
        assert_eq!(config.directory[0].path, Path::new("/srv"));
    }
}
