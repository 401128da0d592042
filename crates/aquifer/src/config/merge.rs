//! One value per setting, and where it came from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use aquifer_log::StoreUrl;
use serde::Serialize;

use super::file::{ConfigError, DatabaseEntry, DirectoryEntry, FileConfig, SyncEntry};
use super::settings::{DatabaseSettings, ReplicateSettings, given};

/// Where the store is if nobody says.
pub(crate) const DEFAULT_STORE: &str = "./aquifer-data";

/// Where a setting's value came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Origin {
    /// An option of the command line.
    CommandLine,
    /// An environment variable.
    Environment,
    /// The configuration file.
    File,
    /// The configuration file, for this database or directory alone.
    Entry,
    /// Nobody said.
    Default,
}

/// A value and where it came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Setting<T> {
    /// The value.
    pub(crate) value: T,
    /// Where it came from.
    pub(crate) origin: Origin,
}

/// All settings of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The configuration file, if one was given.
    pub(crate) file: Option<PathBuf>,
    /// The store.
    pub(crate) store: Setting<StoreUrl>,
    /// How to replicate, where a database says nothing of its own.
    pub(crate) replicate: ReplicateSettings,
    /// What the command line says of it: it holds for databases with settings of their own, too.
    flags: ReplicateSettings,
    /// Where the values of `replicate` came from, by key; those without a value are not in it.
    pub(crate) origins: BTreeMap<String, Origin>,
    /// The databases that the file names.
    pub(crate) databases: Vec<DatabaseEntry>,
    /// The directories that the file names.
    pub(crate) directories: Vec<DirectoryEntry>,
    /// The databases that the file names to be synced.
    pub(crate) synced: Vec<SyncEntry>,
}

impl Settings {
    /// Merges what the command line and the environment say with the file, if there is one.
    ///
    /// `store` is what clap took from either.
    pub(crate) fn merge(
        file: Option<&Path>,
        store: Option<Setting<StoreUrl>>,
        flags: ReplicateSettings,
    ) -> Result<Settings, ConfigError> {
        let config = file.map(FileConfig::read).transpose()?.unwrap_or_default();
        let store = match (store, config.store) {
            (Some(store), _) => store,
            (None, Some(url)) => {
                let value = url.parse().map_err(|e: aquifer_log::store::ParseStoreUrlError| {
                    let path = file.unwrap_or(Path::new("")).to_owned();
                    ConfigError::Invalid { path, message: format!("store: {e}") }
                })?;
                Setting { value, origin: Origin::File }
            }
            (None, None) => Setting { value: StoreUrl::directory(DEFAULT_STORE), origin: Origin::Default },
        };
        let mut origins = BTreeMap::new();
        for (settings, origin) in [(&config.replicate, Origin::File), (&flags, Origin::CommandLine)] {
            origins.extend(given(settings).into_keys().map(|key| (key, origin)));
        }
        Ok(Settings {
            file: file.map(Path::to_owned),
            store,
            replicate: flags.clone().or(config.replicate),
            flags,
            origins,
            databases: config.database,
            directories: config.directory,
            synced: config.sync,
        })
    }

    /// The settings of a database or directory that has some of its own.
    pub(crate) fn of(&self, own: &DatabaseSettings) -> DatabaseSettings {
        self.flags.database.clone().or(own.clone()).or(self.replicate.database.clone())
    }

    /// The same by key, each with where it came from.
    pub(crate) fn told_of(&self, own: &DatabaseSettings) -> BTreeMap<String, Setting<serde_json::Value>> {
        let own_keys = given(own);
        let told = given(&self.of(own)).into_iter().map(|(key, value)| {
            let general = self.origins.get(&key).copied().unwrap_or(Origin::Default);
            let is_own = general != Origin::CommandLine && own_keys.contains_key(&key);
            (key, Setting { value, origin: if is_own { Origin::Entry } else { general } })
        });
        told.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_wins_over_file_and_file_over_default() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fleet.toml");
        std::fs::write(
            &path,
            "store = 'from-file'\n[replicate]\ninterval = '5s'\nretain = '30d'\nwal = true\nlag-bound = '1s'\n",
        )
        .unwrap();
        let database = DatabaseSettings {
            interval: Some("1s".parse().unwrap()),
            wal: Some(false),
            ..DatabaseSettings::default()
        };
        let flags = ReplicateSettings { database, ..ReplicateSettings::default() };
        let settings = Settings::merge(Some(&path), None, flags.clone()).unwrap();
        assert_eq!(settings.store.origin, Origin::File);
        assert_eq!(settings.replicate.database.interval, flags.database.interval);
        assert_eq!(settings.replicate.database.wal, Some(false));
        assert_eq!(settings.replicate.database.retain, Some("30d".parse().unwrap()));
        assert_eq!(settings.origins["interval"], Origin::CommandLine);
        assert_eq!(settings.origins["retain"], Origin::File);
        assert_eq!(settings.origins.get("metrics"), None);

        let given = Setting { value: StoreUrl::directory("given"), origin: Origin::Environment };
        let settings = Settings::merge(Some(&path), Some(given.clone()), flags).unwrap();
        assert_eq!(settings.store, given);
        let settings = Settings::merge(None, None, ReplicateSettings::default()).unwrap();
        assert_eq!(settings.store.value, StoreUrl::directory(DEFAULT_STORE));
    }

    #[test]
    fn settings_of_a_database_win_over_the_general_ones_and_the_command_line_over_both() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fleet.toml");
        std::fs::write(
            &path,
            "[replicate]\ninterval = '5s'\nretain = '30d'\n[[database]]\npath = 'a'\ninterval = '1s'\nretain = '7d'\n",
        )
        .unwrap();
        let database =
            DatabaseSettings { retain: Some("1d".parse().unwrap()), ..DatabaseSettings::default() };
        let flags = ReplicateSettings { database, ..ReplicateSettings::default() };
        let settings = Settings::merge(Some(&path), None, flags).unwrap();
        let own = &settings.databases[0].own;
        let merged = settings.of(own);
        assert_eq!(merged.interval, Some("1s".parse().unwrap()));
        assert_eq!(merged.retain, Some("1d".parse().unwrap()));
        assert_eq!(settings.replicate.database.interval, Some("5s".parse().unwrap()));
        let told = settings.told_of(own);
        assert_eq!(told["interval"].origin, Origin::Entry);
        assert_eq!(told["retain"].origin, Origin::CommandLine);
    }
}
