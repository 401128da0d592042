//! What can be set for `replicate`: the same names on the command line and in the configuration file.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use aquifer_log::Retention;
use aquifer_replicate::UpkeepOptions;
use clap::Args;
use serde::{Deserialize, Deserializer, Serialize, de};

use crate::units::{Bytes, Length};

/// How a database is replicated. Each may have its own; what it leaves open, `[replicate]` says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(crate) struct DatabaseSettings {
    /// Switch databases that are in a rollback-journal mode to WAL, which replication needs
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) wal: Option<bool>,

    /// Ship at most this often per database, as in 1s: fewer requests, more lag [default: at once]
    #[arg(long, value_name = "LENGTH")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) interval: Option<Length>,

    /// Keep at most this much of each database on local disk while the store is away [default: 1GiB]
    #[arg(long, value_name = "SIZE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_staging: Option<Bytes>,

    /// Lag behind which /healthz calls a database unhealthy [default: 60s, or twice the interval]
    #[arg(long, value_name = "LENGTH")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lag_bound: Option<Length>,

    /// Keep the history of this long, to restore to any moment of it, and delete what is older [default: all]
    #[arg(long, value_name = "LENGTH")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) retain: Option<Length>,

    /// Keep what is older this long still, for restores that planned on it [default: 1h]
    #[arg(long, value_name = "LENGTH")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) retain_grace: Option<Length>,

    /// Prove this often that each database can be restored [default: never]
    #[arg(long, value_name = "LENGTH")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) verify_every: Option<Length>,

    /// Where replication keeps its local state [default: beside each database]
    #[arg(long, value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) state_dir: Option<PathBuf>,

    /// Segments of a level that are compacted into one of the next, at least 2 [default: 32]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "two_or_more")]
    pub(crate) fanout: Option<u32>,

    /// Make a snapshot when what came after the last one has grown to so many per cent of it; 0: none [default: 100]
    #[arg(long, value_name = "PERCENT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) snapshot_share: Option<u32>,
}

fn two_or_more<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    match u32::deserialize(deserializer)? {
        fanout @ 2.. => Ok(Some(fanout)),
        less => Err(de::Error::custom(format!("{less} segments cannot become one: write 2 or more"))),
    }
}

/// What holds for all databases together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(crate) struct ProcessSettings {
    /// Ship at most so many batches per hour, all databases together; they grow instead [default: no limit]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_requests_per_hour: Option<u32>,

    /// Serve Prometheus metrics at /metrics and health at /healthz on this address
    #[arg(long, value_name = "ADDR", value_parser = parse_address)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) metrics: Option<SocketAddr>,
}

fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let wrong =
        |_| "write an IP address and a port, as in 127.0.0.1:9464, 0.0.0.0:9464, [::1]:9464".to_owned();
    text.parse().map_err(wrong)
}

/// Both: the options of the command line, and `[replicate]` of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args, Serialize)]
pub(crate) struct ReplicateSettings {
    /// Of each database.
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) database: DatabaseSettings,
    /// Of all together.
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) process: ProcessSettings,
}

impl DatabaseSettings {
    /// These, and those of `other` where these say nothing.
    pub(crate) fn or(self, other: DatabaseSettings) -> DatabaseSettings {
        DatabaseSettings {
            wal: self.wal.or(other.wal),
            interval: self.interval.or(other.interval),
            max_staging: self.max_staging.or(other.max_staging),
            lag_bound: self.lag_bound.or(other.lag_bound),
            retain: self.retain.or(other.retain),
            retain_grace: self.retain_grace.or(other.retain_grace),
            verify_every: self.verify_every.or(other.verify_every),
            state_dir: self.state_dir.or(other.state_dir),
            fanout: self.fanout.or(other.fanout),
            snapshot_share: self.snapshot_share.or(other.snapshot_share),
        }
    }

    /// How generations are kept in shape; what is left open is as by default.
    pub(crate) fn upkeep(&self) -> UpkeepOptions {
        let mut upkeep = UpkeepOptions::default();
        if let Some(fanout) = self.fanout {
            upkeep.levels.fanout = fanout;
        }
        if let Some(share) = self.snapshot_share {
            upkeep.snapshot_share = share;
        }
        let grace = self.retain_grace.map_or(Retention::GRACE, |grace| grace.0);
        upkeep.retention = self.retain.map(|window| Retention { window: window.0, grace });
        upkeep
    }
}

impl ReplicateSettings {
    /// These, and those of `other` where these say nothing.
    pub(crate) fn or(self, other: ReplicateSettings) -> ReplicateSettings {
        ReplicateSettings {
            database: self.database.or(other.database),
            process: ProcessSettings {
                max_requests_per_hour: self
                    .process
                    .max_requests_per_hour
                    .or(other.process.max_requests_per_hour),
                metrics: self.process.metrics.or(other.process.metrics),
            },
        }
    }
}

/// The keys that have a value, and the values as they would be written.
pub(crate) fn given(settings: &impl Serialize) -> BTreeMap<String, serde_json::Value> {
    match serde_json::to_value(settings) {
        Ok(serde_json::Value::Object(map)) => map.into_iter().collect(),
        _ => BTreeMap::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::keys::keys_of;
    use super::*;

    #[test]
    fn every_key_is_merged_and_reported() {
        let database = "wal = true\ninterval = '1s'\nmax-staging = 10\nlag-bound = '1s'\nretain = '1d'\n\
                        retain-grace = '1h'\nverify-every = '1d'\nstate-dir = '/s'\nfanout = 8\n\
                        snapshot-share = 50\n";
        let process = "max-requests-per-hour = 9\nmetrics = '127.0.0.1:9090'\n";
        let full = ReplicateSettings {
            database: toml::from_str(database).unwrap(),
            process: toml::from_str(process).unwrap(),
        };
        let keys = keys_of::<DatabaseSettings>().len() + keys_of::<ProcessSettings>().len();
        assert_eq!(given(&full).len(), keys);
        assert_eq!(ReplicateSettings::default().or(full.clone()), full);
        assert!(toml::from_str::<DatabaseSettings>("fanout = 1").is_err());
    }
}
