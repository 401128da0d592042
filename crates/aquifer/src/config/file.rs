//! The configuration file: TOML, for fleets. Secrets have no keys here: they come from the environment.

use std::io;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use toml::de::{DeString, DeTable, DeValue, Deserializer};
use toml::{Spanned, Table};

use crate::commands::sync::Spoken;

use super::keys::{keys_of, nearest};
use super::settings::{DatabaseSettings, ProcessSettings, ReplicateSettings};

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
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FileConfig {
    /// URL of the store.
    pub(crate) store: Option<String>,
    /// For `replicate`, of every database that says nothing else.
    pub(crate) replicate: ReplicateSettings,
    /// Databases to replicate.
    pub(crate) database: Vec<DatabaseEntry>,
    /// Directories whose databases to replicate, now and when new ones appear.
    pub(crate) directory: Vec<DirectoryEntry>,
    /// Databases to sync.
    pub(crate) sync: Vec<SyncEntry>,
}

/// One database to sync with a server's.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct SyncEntry {
    /// Its file.
    pub(crate) path: PathBuf,
    /// URL of the remote database.
    pub(crate) remote: Option<String>,
    /// File whose first line is the token.
    pub(crate) token_file: Option<PathBuf>,
    /// File whose first line is the key of an encrypted remote database.
    pub(crate) encryption_key_file: Option<PathBuf>,
    /// File with certificates to trust, in PEM.
    pub(crate) certificate: Option<PathBuf>,
    /// How the server is spoken to.
    #[serde(default)]
    pub(crate) protocol: Spoken,
    /// Tables that stay here.
    #[serde(default)]
    pub(crate) ignore_tables: Vec<String>,
    /// Rows of one push, about.
    pub(crate) push_batch_rows: Option<NonZeroU64>,
}

/// One database to replicate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DatabaseEntry {
    /// Its file.
    pub(crate) path: PathBuf,
    /// Its name in the store; else that of its file.
    pub(crate) name: Option<String>,
    /// What it has for itself.
    pub(crate) own: DatabaseSettings,
}

/// Databases by the pattern of their paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DirectoryEntry {
    /// A directory, or a pattern whose last component has `*` or `?`.
    pub(crate) path: PathBuf,
    /// Patterns of file names that are left out.
    pub(crate) exclude: Vec<String>,
    /// What its databases have for themselves.
    pub(crate) own: DatabaseSettings,
}

/// The keys at the top. Tables are read by themselves, later: here they only have to be tables.
#[derive(Deserialize)]
#[expect(dead_code, reason = "known keys, of these types")]
struct Top {
    store: Option<String>,
    #[serde(default)]
    replicate: Table,
    #[serde(default)]
    database: Vec<Table>,
    #[serde(default)]
    directory: Vec<Table>,
    #[serde(default)]
    sync: Vec<Table>,
}

/// What names a database.
#[derive(Deserialize)]
struct DatabasePlace {
    path: PathBuf,
    name: Option<String>,
}

/// What names a directory.
#[derive(Deserialize)]
struct DirectoryPlace {
    path: PathBuf,
    #[serde(default)]
    exclude: Vec<String>,
}

impl FileConfig {
    /// Reads a file.
    pub(crate) fn read(path: &Path) -> Result<FileConfig, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let mut config = FileConfig::parse(path, &text)?;
        let base = path.parent().unwrap_or(Path::new(""));
        let absolute = |path: &mut PathBuf| *path = base.join(&path);
        config.replicate.database.state_dir.iter_mut().for_each(absolute);
        for entry in &mut config.database {
            absolute(&mut entry.path);
            entry.own.state_dir.iter_mut().for_each(absolute);
        }
        for entry in &mut config.sync {
            absolute(&mut entry.path);
            let files = [&mut entry.token_file, &mut entry.encryption_key_file, &mut entry.certificate];
            files.into_iter().flatten().for_each(absolute);
        }
        for entry in &mut config.directory {
            absolute(&mut entry.path);
            entry.own.state_dir.iter_mut().for_each(absolute);
        }
        Ok(config)
    }

    /// Reads a file's text. `path` is for messages.
    pub(crate) fn parse(path: &Path, text: &str) -> Result<FileConfig, ConfigError> {
        let source = Source { path, text };
        let document = DeTable::parse(text).map_err(|e| source.invalid(e))?;
        source.only(document.get_ref(), &[keys_of::<Top>()])?;
        // That what should be tables are, and how often.
        let top: Top = source.read(&document)?;
        let mut config = FileConfig { store: top.store, ..FileConfig::default() };
        let tables = |key: &str| document.get_ref().get(key).map(tables).unwrap_or_default();
        let general = keys_of::<DatabaseSettings>();
        for table in tables("replicate") {
            source.only(table.get_ref(), &[general, keys_of::<ProcessSettings>()])?;
            let (database, process) = (source.part(&table)?, source.part(&table)?);
            config.replicate = ReplicateSettings { database, process };
        }
        for table in tables("database") {
            source.only(table.get_ref(), &[keys_of::<DatabasePlace>(), general])?;
            let DatabasePlace { path, name } = source.part(&table)?;
            config.database.push(DatabaseEntry { path, name, own: source.part(&table)? });
        }
        for table in tables("directory") {
            source.only(table.get_ref(), &[keys_of::<DirectoryPlace>(), general])?;
            let DirectoryPlace { path, exclude } = source.part(&table)?;
            config.directory.push(DirectoryEntry { path, exclude, own: source.part(&table)? });
        }
        for table in tables("sync") {
            source.only(table.get_ref(), &[keys_of::<SyncEntry>()])?;
            config.sync.push(source.read(&table)?);
        }
        Ok(config)
    }
}

/// The tables of a value: itself, or those of an array of tables.
fn tables<'i>(value: &Spanned<DeValue<'i>>) -> Vec<Spanned<DeTable<'i>>> {
    let table =
        |value: &Spanned<DeValue<'i>>| Some(Spanned::new(value.span(), value.get_ref().as_table()?.clone()));
    match value.get_ref() {
        DeValue::Array(array) => array.iter().filter_map(table).collect(),
        _ => table(value).into_iter().collect(),
    }
}

/// A file's text, for messages that tell the place.
struct Source<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Source<'_> {
    fn invalid(&self, mut error: toml::de::Error) -> ConfigError {
        error.set_input(Some(self.text));
        ConfigError::Invalid { path: self.path.to_owned(), message: error.to_string().trim_end().to_owned() }
    }

    fn read<T: DeserializeOwned>(&self, table: &Spanned<DeTable<'_>>) -> Result<T, ConfigError> {
        T::deserialize(Deserializer::from(table.clone())).map_err(|e| self.invalid(e))
    }

    /// Reads those keys of a table that `T` knows.
    fn part<T: DeserializeOwned>(&self, table: &Spanned<DeTable<'_>>) -> Result<T, ConfigError> {
        let known = keys_of::<T>();
        let is_known = |(key, _): &(&Spanned<DeString<'_>>, _)| known.contains(&key.get_ref().as_ref());
        let part = table.get_ref().iter().filter(is_known).map(|(key, value)| (key.clone(), value.clone()));
        self.read(&Spanned::new(table.span(), part.collect()))
    }

    /// That a table has no other keys than these.
    fn only(&self, table: &DeTable<'_>, known: &[&[&'static str]]) -> Result<(), ConfigError> {
        let known = known.concat();
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
            meant: nearest(key.get_ref(), &known).map(str::to_owned),
            key: key.get_ref().to_string(),
            known: known.iter().map(|key| (*key).to_owned()).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings::given;
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
        assert_eq!(config.replicate.database.max_staging, Some("10GiB".parse().unwrap()));
        assert_eq!(config.replicate.database.wal, Some(true));
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
        let keys = keys_of::<DatabaseSettings>().len() + keys_of::<ProcessSettings>().len();
        assert_eq!(given(&config.replicate).len(), keys);
        assert_eq!((config.database.len(), config.directory.len()), (1, 1));
        assert!(given(&config.database[0].own).len() > 1);
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
        assert!(error.contains("known here are path, name, wal"), "{error}");
        let error = parse("zzz = 1\nAAA = 2\n").unwrap_err().to_string();
        assert!(error.starts_with("fleet.toml:1:1: unknown key 'zzz'; known here are store,"), "{error}");
    }

    #[test]
    fn wrong_value_is_told_with_its_place() {
        let error = parse("[replicate]\ninterval = \"soon\"\n").unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("'soon' is no length of time"), "{error}");
        assert!(parse("[[database]]\nname = 'x'\n").unwrap_err().to_string().contains("path"));
        for wrong in
            ["replicate = 1\n", "database = 'a.db'\n", "[database]\npath = 'a.db'\n", "directory = [1]\n"]
        {
            assert!(parse(wrong).unwrap_err().to_string().contains("line 1"), "{wrong}");
        }
        let error = parse("[[database]]\npath = 'a'\nfanout = 1\n").unwrap_err().to_string();
        assert!(error.contains("line 3") && error.contains("2 or more"), "{error}");
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

    proptest::proptest! {
        #[test]
        fn any_text_is_a_configuration_or_an_error_that_names_the_file(
            text in "\\PC{0,80}|(\\[{0,2}(replicate|database|directory|store)\\]{0,2}|path|name|interval|retain|max-staging)? ?(=|\n| )? ?(\"\\PC{0,8}\"|[0-9.-]{0,22}|true|\\{|\\[)?\n?"
        ) {
            if let Err(error) = parse(&text) {
                proptest::prop_assert!(error.to_string().contains("fleet.toml"), "{}", error);
            }
        }
    }
}
