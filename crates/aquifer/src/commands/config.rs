//! `aquifer config`

use std::io::{self, Write};
use std::path::PathBuf;

use aquifer_client::remote::{Remote, RemoteError, RemoteOptions};
use clap::{Args, Subcommand};
use serde::Serialize;

use crate::commands::config_import::ConfigImport;
use crate::config::{DatabaseSettings, Origin, ReplicateSettings, Setting, SyncEntry, given};
use crate::error::CliError;
use crate::exit::Exit;
use crate::output::{Columns, Report};
use crate::session::Session;

/// Look at the configuration
#[derive(Debug, Args)]
pub(crate) struct Config {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Check(Check),
    Import(ConfigImport),
}

/// Check the configuration file and print what it, the environment and the command line amount to
///
/// Takes the options of `replicate`. Of secrets it prints only whether they are set.
#[derive(Debug, Args)]
struct Check {
    #[command(flatten)]
    replicate: ReplicateSettings,
}

/// Environment variables that let one into a store, with whether their values are secret.
const CREDENTIALS: [(&str, bool); 13] = [
    ("AWS_ACCESS_KEY_ID", true),
    ("AWS_SECRET_ACCESS_KEY", true),
    ("AWS_SESSION_TOKEN", true),
    ("AWS_REGION", false),
    ("AWS_DEFAULT_REGION", false),
    ("AWS_ENDPOINT_URL", false),
    ("AWS_ENDPOINT_URL_S3", false),
    ("GOOGLE_APPLICATION_CREDENTIALS", false),
    ("GOOGLE_SERVICE_ACCOUNT", false),
    ("GOOGLE_SERVICE_ACCOUNT_KEY", true),
    ("AZURE_STORAGE_ACCOUNT_NAME", false),
    ("AZURE_STORAGE_ACCOUNT_KEY", true),
    ("AZURE_STORAGE_SAS_TOKEN", true),
];

#[derive(Debug, Serialize)]
struct Merged {
    file: Option<PathBuf>,
    store: Setting<String>,
    replicate: Vec<Entry>,
    databases: Vec<Database>,
    directories: Vec<Directory>,
    sync: Vec<SyncEntry>,
    /// Names of variables that are set; values of such as are no secrets.
    environment: Vec<Variable>,
}

#[derive(Debug, Serialize)]
struct Database {
    path: PathBuf,
    name: Option<String>,
    /// Merged: its own, and those for all.
    settings: Vec<Entry>,
}

#[derive(Debug, Serialize)]
struct Directory {
    path: PathBuf,
    exclude: Vec<String>,
    /// As those of a database.
    settings: Vec<Entry>,
}

#[derive(Debug, Serialize)]
struct Entry {
    key: String,
    #[serde(flatten)]
    setting: Setting<serde_json::Value>,
}

#[derive(Debug, Serialize)]
struct Variable {
    name: &'static str,
    /// `None` if it is a secret.
    value: Option<String>,
}

impl Config {
    /// What the command line says about replication.
    pub(crate) fn replicate_flags(&self) -> ReplicateSettings {
        match &self.action {
            Action::Check(check) => check.replicate.clone(),
            Action::Import(_) => ReplicateSettings::default(),
        }
    }

    pub(crate) fn run(&self, session: &Session) -> Result<Exit, CliError> {
        match &self.action {
            Action::Check(_) => Config::check(session),
            Action::Import(import) => import.run(session),
        }
    }

    /// Prints the merged settings: that they could be merged is the check.
    fn check(session: &Session) -> Result<Exit, CliError> {
        let settings = &session.settings;
        let replicate = given(&settings.replicate).into_iter().map(|(key, value)| {
            let origin = settings.origins.get(&key).copied().unwrap_or(Origin::Default);
            Entry { key, setting: Setting { value, origin } }
        });
        let merged = |own: &DatabaseSettings| {
            settings.told_of(own).into_iter().map(|(key, setting)| Entry { key, setting }).collect()
        };
        let databases = settings.databases.iter().map(|entry| Database {
            path: entry.path.clone(),
            name: entry.name.clone(),
            settings: merged(&entry.own),
        });
        let directories = settings.directories.iter().map(|entry| Directory {
            path: entry.path.clone(),
            exclude: entry.exclude.clone(),
            settings: merged(&entry.own),
        });
        let environment = CREDENTIALS.iter().filter_map(|(name, secret)| {
            let value = std::env::var(name).ok()?;
            Some(Variable { name, value: (!secret).then_some(value) })
        });
        session.output.print(&Merged {
            file: settings.file.clone(),
            store: Setting { value: settings.store.value.to_string(), origin: settings.store.origin },
            replicate: replicate.collect(),
            databases: databases.collect(),
            directories: directories.collect(),
            sync: synced(&settings.synced)?,
            environment: environment.collect(),
        })?;
        Ok(Exit::Ok)
    }
}

/// What is said of databases that are synced, with URLs that can be used: they hold no password.
fn synced(entries: &[SyncEntry]) -> Result<Vec<SyncEntry>, CliError> {
    for SyncEntry { path, remote, .. } in entries {
        let remote = remote.as_deref().map(|url| Remote::new(url, RemoteOptions::default()));
        let unusable =
            |error: RemoteError| CliError::Sync { path: path.clone(), source: Box::new(error.into()) };
        remote.transpose().map_err(unusable)?;
    }
    Ok(entries.to_vec())
}

fn from(origin: Origin) -> &'static str {
    match origin {
        Origin::CommandLine => "command line",
        Origin::Environment => "environment",
        Origin::File => "configuration file",
        Origin::Entry => "configuration file, for it alone",
        Origin::Default => "default",
    }
}

fn text(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

impl Report for Merged {
    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut columns = Columns::new(&["SETTING", "VALUE", "FROM"]);
        columns.row(["store", self.store.value.as_str(), from(self.store.origin)]);
        for Entry { key, setting } in &self.replicate {
            columns.row([key, &text(&setting.value), from(setting.origin)]);
        }
        // What each has for itself; the rest is as above.
        let own = |columns: &mut Columns, settings: &[Entry]| {
            for Entry { key, setting } in
                settings.iter().filter(|entry| entry.setting.origin == Origin::Entry)
            {
                columns.row([&format!("  {key}"), &text(&setting.value), from(setting.origin)]);
            }
        };
        for database in &self.databases {
            let name = database.name.as_ref().map_or(String::new(), |name| format!(" as '{name}'"));
            columns.row(["database", &format!("{}{name}", database.path.display()), from(Origin::File)]);
            own(&mut columns, &database.settings);
        }
        for directory in &self.directories {
            let mut text = directory.path.display().to_string();
            if !directory.exclude.is_empty() {
                text += &format!(" without {}", directory.exclude.join(", "));
            }
            columns.row(["directory", text.as_str(), from(Origin::File)]);
            own(&mut columns, &directory.settings);
        }
        for entry in &self.sync {
            columns.row(["sync", &entry.path.display().to_string(), from(Origin::File)]);
            // What is not given is not told.
            let told = serde_json::to_value(entry).map_err(io::Error::other)?;
            let told = told.as_object().into_iter().flatten().filter(|(key, value)| {
                *key != "path" && !value.is_null() && value.as_array().is_none_or(|list| !list.is_empty())
            });
            for (key, value) in told {
                columns.row([&format!("  {key}"), &text(value), from(Origin::Entry)]);
            }
        }
        for Variable { name, value } in &self.environment {
            columns.row([*name, value.as_deref().unwrap_or("(set, secret)"), from(Origin::Environment)]);
        }
        columns.write(out)
    }
}
