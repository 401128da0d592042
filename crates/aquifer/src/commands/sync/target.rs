//! Which databases are synced with what: the command line over the configuration file over what was recorded.

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use aquifer_client::Protocol;
use aquifer_client::remote::{RemoteOptions, Secret};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::config::SyncEntry;
use crate::error::CliError;
use crate::token::{read_secret, token};

/// The remote database, and how one gets to it.
#[derive(Debug, Args)]
pub(super) struct Remote {
    /// URL of the remote database, as in `https://example.com/db/app`; not needed any more once FILE was synced with it
    #[arg(long = "remote", value_name = "URL")]
    url: Option<String>,

    /// File whose first line is the token; else the environment variable AQUIFER_TOKEN
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// File whose first line is the key, in base64, of a remote database that is encrypted
    #[arg(long, value_name = "FILE")]
    encryption_key_file: Option<PathBuf>,

    /// File with certificates (PEM) to trust beside the system's
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,

    /// How the server is spoken to: in Turso's protocol (changes go as SQL), or in libSQL's (whole pages go)
    #[arg(long, value_name = "NAME", default_value = "auto")]
    protocol: Spoken,

    /// A table that stays here: it is not pushed; may be repeated
    #[arg(long = "ignore-table", value_name = "NAME")]
    ignore_tables: Vec<String>,

    /// Push more rows than this in several transactions, cut where no foreign key is broken; else all is one
    #[arg(long, value_name = "ROWS")]
    push_batch_rows: Option<NonZeroU64>,
}

/// How a server is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Spoken {
    /// As it turns out to speak; Turso's where it speaks both
    #[default]
    Auto,
    /// Turso's
    Turso,
    /// libSQL's offline sync
    Libsql,
}

impl From<Spoken> for Protocol {
    fn from(spoken: Spoken) -> Protocol {
        match spoken {
            Spoken::Auto => Protocol::Auto,
            Spoken::Turso => Protocol::Turso,
            Spoken::Libsql => Protocol::Libsql,
        }
    }
}

/// A database that is to be synced.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) path: PathBuf,
    pub(super) remote: String,
    pub(super) ignore_tables: Vec<String>,
    pub(super) push_batch_rows: Option<NonZeroU64>,
    pub(super) protocol: Protocol,
    token_file: Option<PathBuf>,
    encryption_key_file: Option<PathBuf>,
    certificate: Option<PathBuf>,
}

/// Those that were named, or those of the configuration file.
pub(super) fn files(named: Vec<PathBuf>, entries: &[SyncEntry]) -> Result<Vec<PathBuf>, CliError> {
    let files =
        if named.is_empty() { entries.iter().map(|entry| entry.path.clone()).collect() } else { named };
    if files.is_empty() {
        return Err(CliError::Usage(
            "no FILE is named, and no configuration file has a table [[sync]] (--config names one)".into(),
        ));
    }
    Ok(files)
}

impl Remote {
    pub(super) fn targets(
        &self,
        files: Vec<PathBuf>,
        entries: &[SyncEntry],
    ) -> Result<Vec<Target>, CliError> {
        if self.url.is_some() && files.len() > 1 {
            return Err(CliError::Usage(
                "--remote names one database: say which FILE is a copy of it".into(),
            ));
        }
        files.into_iter().map(|path| self.target(path, entries)).collect()
    }

    fn target(&self, path: PathBuf, entries: &[SyncEntry]) -> Result<Target, CliError> {
        let entry = entries.iter().find(|entry| is_same(&entry.path, &path));
        let own = |file: &Option<PathBuf>, of: fn(&SyncEntry) -> &Option<PathBuf>| {
            file.clone().or_else(|| entry.and_then(|entry| of(entry).clone()))
        };
        let remote = match self.url.clone().or_else(|| entry.and_then(|entry| entry.remote.clone())) {
            Some(remote) => remote,
            None => recorded(&path)?,
        };
        let mut ignore_tables = self.ignore_tables.clone();
        ignore_tables.extend(entry.iter().flat_map(|entry| entry.ignore_tables.iter().cloned()));
        let named = Some(self.protocol).filter(|named| *named != Spoken::Auto);
        let protocol = named.or(entry.map(|entry| entry.protocol)).unwrap_or_default();
        Ok(Target {
            remote,
            ignore_tables,
            push_batch_rows: self.push_batch_rows.or_else(|| entry.and_then(|entry| entry.push_batch_rows)),
            protocol: protocol.into(),
            token_file: own(&self.token_file, |entry| &entry.token_file),
            encryption_key_file: own(&self.encryption_key_file, |entry| &entry.encryption_key_file),
            certificate: own(&self.certificate, |entry| &entry.certificate),
            path,
        })
    }
}

/// The remote database that this one was synced with before.
fn recorded(path: &Path) -> Result<String, CliError> {
    let stats = aquifer_client::recorded_stats(path).map_err(failed(path))?;
    let remote = stats.and_then(|stats| stats.remote);
    remote.ok_or_else(|| failed(path)(aquifer_client::Error::NoRemote { path: path.to_owned() }))
}

/// Whether two paths name one file, as far as their spelling tells.
fn is_same(one: &Path, other: &Path) -> bool {
    let absolute = |path| std::path::absolute(path).ok();
    one == other || (absolute(one).is_some() && absolute(one) == absolute(other))
}

/// An error of the library, as one of this program.
pub(super) fn failed(path: &Path) -> impl Fn(aquifer_client::Error) -> CliError {
    let path = path.to_owned();
    move |source| CliError::Sync { path: path.clone(), source: Box::new(source) }
}

impl Target {
    pub(super) fn failed(&self) -> impl Fn(aquifer_client::Error) -> CliError {
        failed(&self.path)
    }

    /// Reads the files with secrets anew each time: they may have been renewed.
    pub(super) fn options(&self) -> Result<RemoteOptions, CliError> {
        let key = self.encryption_key_file.as_deref();
        let certificate = self.certificate.as_deref().map(|path| {
            std::fs::read(path).map_err(|source| CliError::File {
                action: "read",
                path: path.to_owned(),
                source,
            })
        });
        Ok(RemoteOptions {
            auth_token: token(self.token_file.as_deref())?.map(Secret::from),
            encryption_key: key.map(|path| read_secret(path, "key")).transpose()?.map(Secret::from),
            certificates: certificate.transpose()?.into_iter().collect(),
            ..RemoteOptions::default()
        })
    }
}
