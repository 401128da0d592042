//! A `litestream.yml` as a configuration file of ours. Source: litestream's `cmd/litestream/main.go` and docs.

use std::fmt::Write as _;

use serde::Deserialize;
use serde_yaml_ng::{Mapping, Value};

use crate::units::Length;

/// What a `litestream.yml` amounts to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Translated {
    /// Our configuration file: what has no equivalent is a comment.
    pub(crate) toml: String,
    /// How many settings have none.
    pub(crate) left_out: usize,
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    dbs: Vec<Database>,
    addr: Option<String>,
    snapshot: Option<Snapshot>,
    #[serde(flatten)]
    rest: Mapping,
}

#[derive(Deserialize)]
struct Snapshot {
    retention: Option<String>,
    #[serde(flatten)]
    rest: Mapping,
}

#[derive(Deserialize)]
struct Database {
    path: Option<String>,
    dir: Option<String>,
    pattern: Option<String>,
    replica: Option<Replica>,
    #[serde(default)]
    replicas: Vec<Replica>,
    #[serde(flatten)]
    rest: Mapping,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Replica {
    url: Option<String>,
    r#type: Option<String>,
    path: Option<String>,
    bucket: Option<String>,
    region: Option<String>,
    endpoint: Option<String>,
    force_path_style: Option<bool>,
    account_name: Option<String>,
    sync_interval: Option<String>,
    retention: Option<String>,
    #[serde(flatten)]
    rest: Mapping,
}

/// Keys whose values are secrets: ours come from the environment, and are not written down.
const SECRETS: [&str; 6] =
    ["access-key-id", "secret-access-key", "account-key", "password", "key-path", "host-key"];

/// Translates. Variables (`$NAME`, `${NAME}`) are replaced by `variable`, as Litestream does; those that are not set are empty.
pub(crate) fn translate(yaml: &str, variable: impl Fn(&str) -> Option<String>) -> Result<Translated, String> {
    let file: File = serde_yaml_ng::from_str(&expand(yaml, variable)).map_err(|e| e.to_string())?;
    let mut translation = Translation::default();
    translation.file(file)?;
    Ok(translation.finish())
}

#[derive(Default)]
struct Translation {
    store: Option<String>,
    metrics: Option<String>,
    retain: Option<String>,
    interval: Option<String>,
    entries: String,
    /// How what was backed up comes over.
    imports: Vec<String>,
    left_out: Vec<String>,
}

impl Translation {
    fn file(&mut self, file: File) -> Result<(), String> {
        if file.dbs.is_empty() {
            return Err("it has no databases (dbs)".to_owned());
        }
        self.metrics =
            file.addr.map(|addr| if addr.starts_with(':') { format!("0.0.0.0{addr}") } else { addr });
        if let Some(snapshot) = file.snapshot {
            self.retain = snapshot.retention;
            self.unknown("snapshot", &snapshot.rest);
        }
        self.unknown("", &file.rest);
        for database in file.dbs {
            self.database(database)?;
        }
        Ok(())
    }

    fn database(&mut self, database: Database) -> Result<(), String> {
        let (kind, path) = match (&database.path, &database.dir) {
            (Some(path), _) => ("database", path.clone()),
            (None, Some(dir)) => {
                let pattern = database.pattern.as_deref().unwrap_or("*");
                ("directory", format!("{}/{pattern}", dir.trim_end_matches('/')))
            }
            (None, None) => return Err("a database has neither a path nor a dir".to_owned()),
        };
        let _ = write!(self.entries, "\n[[{kind}]]\npath = {}\n", quoted(&path));
        self.unknown(&path, &database.rest);
        let mut replicas = database.replica.into_iter().chain(database.replicas);
        if let Some(replica) = replicas.next() {
            self.replica(&path, kind, replica);
        }
        for other in replicas {
            let place = other.url.or(other.path).unwrap_or_default();
            self.left_out.push(format!("{path}: a second replica ({place}): one process has one store"));
        }
        Ok(())
    }

    fn replica(&mut self, path: &str, kind: &str, replica: Replica) {
        self.unknown(&format!("{path}: replica"), &replica.rest);
        let retain = replica.retention;
        self.same(path, "retention", retain, |all| &mut all.retain);
        self.same(path, "sync-interval", replica.sync_interval, |all| &mut all.interval);
        let url = replica.url.as_deref();
        let scheme = url.and_then(|url| url.split_once("://")).map(|(scheme, _)| scheme);
        let query = {
            let mut query = Vec::new();
            query.extend(replica.endpoint.as_ref().map(|endpoint| format!("endpoint={endpoint}")));
            query.extend(replica.region.as_ref().map(|region| format!("region={region}")));
            query.extend(replica.force_path_style.map(|is| format!("path-style={is}")));
            query.extend(replica.account_name.as_ref().map(|account| format!("account={account}")));
            if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) }
        };
        let (place, scheme) = match (url, replica.r#type.as_deref().or(scheme).unwrap_or("file")) {
            (Some(url), scheme @ ("s3" | "gs" | "gcs")) => {
                (without_scheme(url), if scheme == "s3" { "s3" } else { "gs" })
            }
            (None, scheme @ ("s3" | "gs" | "gcs" | "abs")) => {
                let (bucket, path) = (replica.bucket.unwrap_or_default(), replica.path.unwrap_or_default());
                let scheme = match scheme {
                    "s3" => "s3",
                    "abs" => "az",
                    _ => "gs",
                };
                (format!("{bucket}/{}", path.trim_matches('/')), scheme)
            }
            (url, "file") => (url.map(without_scheme).or(replica.path).unwrap_or_default(), "file"),
            (_, other) => {
                self.left_out.push(format!(
                    "{path}: a replica of type {other}: stores are directories, S3, Google's and Azure's"
                ));
                return;
            }
        };
        let place = place.trim_end_matches('/');
        let (store, source) = if scheme == "file" {
            let parent = place.rsplit_once('/').map_or("", |(parent, _)| parent);
            (format!("{parent}/aquifer"), place.to_owned())
        } else {
            let bucket = place.split('/').next().unwrap_or_default();
            (format!("{scheme}://{bucket}/aquifer{query}"), format!("{scheme}://{place}{query}"))
        };
        match &self.store {
            None => self.store = Some(store),
            Some(first) if *first != store => {
                self.left_out.push(format!(
                    "{path}: another place than the first ({store}): one process has one store"
                ));
            }
            Some(_) => {}
        }
        if kind == "database" {
            let name = path.rsplit('/').next().unwrap_or(path);
            self.imports.push(format!("aquifer import --from litestream '{source}' '{name}'"));
        }
    }

    /// A setting that is one for all here: the first counts.
    fn same(
        &mut self,
        path: &str,
        key: &str,
        value: Option<String>,
        all: impl Fn(&mut Translation) -> &mut Option<String>,
    ) {
        let Some(value) = value else { return };
        let there = all(self).get_or_insert_with(|| value.clone()).clone();
        if there != value {
            self.left_out
                .push(format!("{path}: {key} {value}: {there} is taken for all; it can be set for each"));
        }
    }

    fn unknown(&mut self, place: &str, rest: &Mapping) {
        for (key, value) in rest {
            let key = key.as_str().unwrap_or("?");
            let place = if place.is_empty() { String::new() } else { format!("{place}: ") };
            let shown = match value {
                _ if SECRETS.contains(&key) => "it comes from the environment".to_owned(),
                Value::Mapping(_) | Value::Sequence(_) => "there is nothing of the kind".to_owned(),
                value => match serde_yaml_ng::to_string(value) {
                    Ok(value) => format!("{} has no equivalent", value.trim_end()),
                    Err(_) => "there is nothing of the kind".to_owned(),
                },
            };
            self.left_out.push(format!("{place}{key}: {shown}"));
        }
    }

    fn finish(self) -> Translated {
        let mut toml = "# Made from a litestream.yml. Litestream's own backups stay where they are and can be restored from there.\n".to_owned();
        let mut line = |text: &str| {
            toml.push_str(text);
            toml.push('\n');
        };
        if !self.imports.is_empty() {
            line("# To take the history over, before replication begins:");
            self.imports.iter().for_each(|import| line(&format!("#   {}", on_one_line(import))));
        }
        if !self.left_out.is_empty() {
            line("# Not taken over:");
            self.left_out.iter().for_each(|left| line(&format!("#   {}", on_one_line(left))));
        }
        line("");
        match &self.store {
            Some(store) => line(&format!("store = {}", quoted(store))),
            None => line("# store = \"…\": name a directory, or a bucket"),
        }
        line("\n[replicate]");
        for (key, value) in [("retain", &self.retain), ("interval", &self.interval)] {
            match value.as_deref().map(length) {
                Some(Some(value)) => line(&format!("{key} = {}", quoted(&value))),
                Some(None) => line(&format!(
                    "# {key} = {}: no length of time",
                    quoted(value.as_deref().unwrap_or_default())
                )),
                None => {}
            }
        }
        if let Some(metrics) = &self.metrics {
            line(&format!("metrics = {}", quoted(metrics)));
        }
        toml.push_str(&self.entries);
        Translated { toml, left_out: self.left_out.len() }
    }
}

/// A length as Go writes it (`1h30m0s`), which ours reads as well where it is no fraction.
fn length(text: &str) -> Option<String> {
    text.parse::<Length>().ok().map(String::from)
}

fn without_scheme(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split('?').next().unwrap_or(rest).to_owned()
}

/// Nothing that is told in a comment ends it.
fn on_one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() })
        .collect()
}

/// As a string of TOML.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// Replaces `$NAME` and `${NAME}`.
fn expand(text: &str, variable: impl Fn(&str) -> Option<String>) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let (name, after) = match rest.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
            Some(braced) => braced,
            None => rest.split_at(rest.find(|c| !is_name(c)).unwrap_or(rest.len())),
        };
        if name.is_empty() {
            expanded.push('$');
        } else {
            expanded.push_str(&variable(name).unwrap_or_default());
        }
        rest = after;
    }
    expanded + rest
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::file::FileConfig;
    use super::*;

    fn translated(yaml: &str) -> (FileConfig, Translated) {
        let variable = |name: &str| (name == "BUCKET").then(|| "backups".to_owned());
        let translated = translate(yaml, variable).unwrap();
        let config = FileConfig::parse(Path::new("aquifer.toml"), &translated.toml);
        (config.unwrap_or_else(|e| panic!("{e}\n{}", translated.toml)), translated)
    }

    #[test]
    fn what_has_an_equivalent_is_taken_over_and_the_rest_told() {
        let (config, translated) = translated(
            "addr: ':9090'\naccess-key-id: AKIAXXX\nlevels:\n  - interval: 2s\nsnapshot:\n  interval: 1h\n  retention: 168h\n\
             dbs:\n  - path: /srv/app.db\n    monitor-interval: 1s\n    replica:\n      type: s3\n      bucket: ${BUCKET}\n      \
             path: app\n      region: eu-west-1\n      endpoint: http://minio:9000\n      force-path-style: true\n      \
             sync-interval: 10s\n      secret-access-key: hush\n  - dir: /srv/tenants\n    pattern: '*.db'\n    replica:\n      \
             url: s3://other/tenants\n",
        );
        assert_eq!(
            config.store.as_deref(),
            Some("s3://backups/aquifer?endpoint=http://minio:9000&region=eu-west-1&path-style=true")
        );
        assert_eq!(config.database[0].path, Path::new("/srv/app.db"));
        assert_eq!(config.directory[0].path, Path::new("/srv/tenants/*.db"));
        let given = super::super::given(&config.replicate);
        assert_eq!(given["retain"], "7d");
        assert_eq!(given["interval"], "10s");
        assert_eq!(given["metrics"], "0.0.0.0:9090");
        let toml = &translated.toml;
        let import = "aquifer import --from litestream \
                      's3://backups/app?endpoint=http://minio:9000&region=eu-west-1&path-style=true' 'app.db'";
        assert!(toml.contains(import), "{toml}");
        for told in
            ["levels", "monitor-interval", "access-key-id", "s3://other/aquifer", "snapshot: interval"]
        {
            assert!(toml.contains(told), "{told}: {toml}");
        }
        for secret in ["hush", "AKIAXXX"] {
            assert!(!toml.contains(secret), "{toml}");
        }
        assert_eq!(translated.left_out, 6);
    }

    #[test]
    fn a_directory_of_replicas_has_the_store_beside_it() {
        let (config, _) = translated(
            "dbs:\n - path: /srv/a.db\n   replicas:\n    - path: /mnt/backup/a\n    - url: s3://x/y\n",
        );
        assert_eq!(config.store.as_deref(), Some("/mnt/backup/aquifer"));
    }

    #[test]
    fn nonsense_is_an_error_and_nothing_breaks_the_comments() {
        for yaml in ["", "dbs: 3", "dbs: []", "- a", "dbs:\n - replica: {}", "a: &a [*a, *a]"] {
            assert!(translate(yaml, |_| None).is_err(), "{yaml}");
        }
        let yaml = "\"x\\nstore = 'mine'\": 1\ndbs:\n - path: \"/srv/a\\\"\\nb.db\"\n   replica: {url: \"sftp://h/p\"}\n";
        let (config, _) = translated(yaml);
        assert_eq!(config.store, None);
        assert_eq!(config.database[0].path, Path::new("/srv/a\"\nb.db"));
    }
}
