//! One value per setting, and where it came from.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use aquifer_log::StoreUrl;
use clap::Args;
use serde::{Deserialize, Serialize};

use super::file::{ConfigError, DatabaseEntry, DirectoryEntry, FileConfig};
use crate::units::{Bytes, Length};

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

/// How `replicate` works: the same names on the command line and in the file's `[replicate]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct ReplicateFlags {
    /// Switch databases that are in a rollback-journal mode to WAL, which replication needs
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) wal: Option<bool>,

    /// Ship at most this often per database, as in 1s: fewer requests, more lag [default: at once]
    #[arg(long, value_name = "LENGTH")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) interval: Option<Length>,

    /// Ship at most so many batches per hour, all databases together; they grow instead [default: no limit]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_requests_per_hour: Option<u32>,

    /// Keep at most this much on local disk while the store is away [default: 1GiB]
    #[arg(long, value_name = "SIZE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_staging: Option<Bytes>,

    /// Serve Prometheus metrics at /metrics and health at /healthz on this address
    #[arg(long, value_name = "ADDR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) metrics: Option<SocketAddr>,

    /// Lag behind which /healthz calls a database unhealthy [default: 60s]
    #[arg(long, value_name = "LENGTH")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lag_bound: Option<Length>,

    /// Keep the history of this long, to restore to any moment of it, and delete what is older [default: all]
    #[arg(long, value_name = "LENGTH")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) retain: Option<Length>,

    /// Prove this often that each database can be restored [default: never]
    #[arg(long, value_name = "LENGTH")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) verify_every: Option<Length>,

    /// Where replication keeps its local state [default: beside each database]
    #[arg(long, value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) state_dir: Option<PathBuf>,
}

impl ReplicateFlags {
    /// These, and those of `other` where these say nothing.
    fn or(self, other: ReplicateFlags) -> ReplicateFlags {
        ReplicateFlags {
            wal: self.wal.or(other.wal),
            interval: self.interval.or(other.interval),
            max_requests_per_hour: self.max_requests_per_hour.or(other.max_requests_per_hour),
            max_staging: self.max_staging.or(other.max_staging),
            metrics: self.metrics.or(other.metrics),
            lag_bound: self.lag_bound.or(other.lag_bound),
            retain: self.retain.or(other.retain),
            verify_every: self.verify_every.or(other.verify_every),
            state_dir: self.state_dir.or(other.state_dir),
        }
    }

    /// The keys that have a value, and the values as they would be written.
    pub(crate) fn given(&self) -> BTreeMap<String, serde_json::Value> {
        match serde_json::to_value(self) {
            Ok(serde_json::Value::Object(map)) => map.into_iter().collect(),
            _ => BTreeMap::new(),
        }
    }
}

/// All settings of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The configuration file, if one was given.
    pub(crate) file: Option<PathBuf>,
    /// The store.
    pub(crate) store: Setting<StoreUrl>,
    /// How to replicate.
    pub(crate) replicate: ReplicateFlags,
    /// Where the values of `replicate` came from, by key; those without a value are not in it.
    pub(crate) origins: BTreeMap<String, Origin>,
    /// The databases that the file names.
    pub(crate) databases: Vec<DatabaseEntry>,
    /// The directories that the file names.
    pub(crate) directories: Vec<DirectoryEntry>,
}

impl Settings {
    /// Merges what the command line and the environment say with the file, if there is one.
    ///
    /// `store` is what clap took from either.
    pub(crate) fn merge(
        file: Option<&Path>,
        store: Option<Setting<StoreUrl>>,
        flags: ReplicateFlags,
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
        for (flags, origin) in [(&config.replicate, Origin::File), (&flags, Origin::CommandLine)] {
            origins.extend(flags.given().into_keys().map(|key| (key, origin)));
        }
        Ok(Settings {
            file: file.map(Path::to_owned),
            store,
            replicate: flags.or(config.replicate),
            origins,
            databases: config.database,
            directories: config.directory,
        })
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
        let flags = ReplicateFlags {
            interval: Some("1s".parse().unwrap()),
            wal: Some(false),
            ..ReplicateFlags::default()
        };
        let settings = Settings::merge(Some(&path), None, flags.clone()).unwrap();
        assert_eq!(settings.store.origin, Origin::File);
        assert_eq!(settings.replicate.interval, flags.interval);
        assert_eq!(settings.replicate.wal, Some(false));
        assert_eq!(settings.replicate.retain, Some("30d".parse().unwrap()));
        assert_eq!(settings.origins["interval"], Origin::CommandLine);
        assert_eq!(settings.origins["retain"], Origin::File);
        assert_eq!(settings.origins.get("metrics"), None);

        let given = Setting { value: StoreUrl::directory("given"), origin: Origin::Environment };
        let settings = Settings::merge(Some(&path), Some(given.clone()), flags).unwrap();
        assert_eq!(settings.store, given);
        let settings = Settings::merge(None, None, ReplicateFlags::default()).unwrap();
        assert_eq!(settings.store.value, StoreUrl::directory(DEFAULT_STORE));
    }

    #[test]
    fn every_replicate_key_is_merged_and_reported() {
        let text = "wal = true\ninterval = '1s'\nmax-requests-per-hour = 9\nmax-staging = 10\n\
                    metrics = '127.0.0.1:9090'\nlag-bound = '1s'\nretain = '1d'\nverify-every = '1d'\n\
                    state-dir = '/s'\n";
        let full: ReplicateFlags = toml::from_str(text).unwrap();
        assert_eq!(full.given().len(), super::super::keys::keys_of::<ReplicateFlags>().len());
        assert_eq!(ReplicateFlags::default().or(full.clone()), full);
    }
}
