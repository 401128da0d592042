//! `aquifer bottomless`: bottomless-cli's commands, as its users know them, on its buckets and on Aquifer's stores.

mod bucket;
mod ls;
mod restore;
mod rm;

use std::path::PathBuf;

use aquifer_format::{GenerationId, Timestamp};
use aquifer_log::store::Patience;
use aquifer_log::{Store, StoreUrl};
use clap::{Args, Subcommand};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::config::Origin;
use crate::error::CliError;
use crate::exit::Exit;
use crate::session::{INTERACTIVE, Session};
use bucket::Bucket;

/// The bucket if nobody says.
const BUCKET: &str = "bottomless";
/// How bottomless' own variables for S3 begin. What follows is the name that S3's have.
const VARIABLES: &str = "LIBSQL_BOTTOMLESS_";

/// The commands of bottomless-cli: ls, restore, rm, on buckets of bottomless and on stores of Aquifer
///
/// Also when this program is called bottomless-cli.
#[derive(Debug, Args)]
pub(crate) struct Bottomless {
    #[command(flatten)]
    place: Place,

    #[command(subcommand)]
    verb: Verb,
}

/// Which database, and where its backups are.
#[derive(Debug, Args)]
struct Place {
    /// S3 server, where it is not Amazon's
    #[arg(short, long, global = true, env = "LIBSQL_BOTTOMLESS_ENDPOINT", value_name = "URL")]
    endpoint: Option<String>,

    /// Bucket [default: bottomless]; with a slash in it, the URL of a store or a directory
    #[arg(short, long, global = true, env = "LIBSQL_BOTTOMLESS_BUCKET")]
    bucket: Option<String>,

    /// Path of the database; its file's name is what it is called in the bucket, behind LIBSQL_BOTTOMLESS_DATABASE_ID if
    /// that is set [default: the only one in the bucket]
    #[arg(short, long, global = true)]
    database: Option<String>,

    /// Namespace of the libSQL server: the database is NAMESPACE:DATABASE in the bucket
    #[arg(short, long, global = true)]
    namespace: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List available generations
    Ls(ls::Ls),
    /// Restore the database
    Restore(restore::Restore),
    /// Remove given generation from remote storage
    Rm(rm::Rm),
}

/// A database, there and here.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Subject {
    /// In the bucket.
    name: String,
    file: PathBuf,
}

impl Bottomless {
    pub(crate) async fn run(&self, session: &Session) -> Result<Exit, CliError> {
        if let Verb::Rm(rm) = &self.verb {
            rm.check()?;
        }
        let patience = match self.verb {
            Verb::Restore(_) => Patience::BACKGROUND,
            Verb::Ls(_) | Verb::Rm(_) => INTERACTIVE,
        };
        let bucket = Bucket::open(self.place.store(session)?.with_patience(patience)).await?;
        let subject = self.place.subject(&bucket).await?;
        match &self.verb {
            Verb::Ls(ls) => ls.run(session, &bucket, &subject).await,
            Verb::Restore(restore) => restore.run(session, &bucket, &subject).await,
            Verb::Rm(rm) => rm.run(session, &bucket, &subject).await,
        }
    }
}

impl Place {
    fn store(&self, session: &Session) -> Result<Store, CliError> {
        let environment = std::env::vars_os()
            .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)));
        Ok(Store::open_with_environment(&self.url(session)?, s3_environment(environment))?)
    }

    fn url(&self, session: &Session) -> Result<StoreUrl, CliError> {
        let said = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let (endpoint, bucket) = (said(&self.endpoint), said(&self.bucket));
        let store = &session.settings.store;
        if endpoint.is_none() && bucket.is_none() && store.origin != Origin::Default {
            return Ok(store.value.clone());
        }
        let mut url = match bucket {
            Some(url) if url.contains('/') => url,
            Some(bucket) => format!("s3://{bucket}"),
            None => format!("s3://{BUCKET}"),
        };
        if let Some(endpoint) = endpoint
            && url.starts_with("s3://")
            && !url.contains('?')
        {
            url += &format!("?endpoint={}", utf8_percent_encode(&endpoint, NON_ALPHANUMERIC));
        }
        url.parse().map_err(|e| CliError::Usage(format!("--bucket and --endpoint name no bucket: {e}")))
    }

    /// The database that is meant. Unlike bottomless-cli, which takes the first of several.
    async fn subject(&self, bucket: &Bucket) -> Result<Subject, CliError> {
        let id = std::env::var(format!("{VARIABLES}DATABASE_ID")).unwrap_or_default();
        if let Some(database) = &self.database {
            return Ok(self.named(database, &id));
        }
        let prefix = self.namespace.as_ref().map_or(id, |namespace| format!("{namespace}:"));
        let mut found = bucket.databases().await?;
        found.retain(|name| name.len() > prefix.len() && name.starts_with(&prefix));
        match &found[..] {
            [] => Err(CliError::Undetected(bucket.store.url().to_owned())),
            [name] => Ok(self.named(&name[prefix.len()..], &prefix)),
            several => Err(CliError::Usage(format!(
                "{} has backups of several databases: say with --database which of {}",
                bucket.store.url(),
                several.join(", ")
            ))),
        }
    }

    /// As bottomless names them: the file as it is said, and as the libSQL server keeps it where there is a namespace.
    fn named(&self, database: &str, id: &str) -> Subject {
        if let Some(namespace) = &self.namespace {
            let directory = namespace.strip_prefix("ns-").unwrap_or(namespace);
            let file = [database, "dbs", directory, "data"].iter().collect();
            return Subject { name: format!("{namespace}:{database}"), file };
        }
        let name = database.rsplit('/').next().unwrap_or(database);
        Subject { name: format!("{id}{name}"), file: PathBuf::from(database) }
    }
}

/// bottomless' own variables for S3 win over those of everybody.
fn s3_environment(environment: impl Iterator<Item = (String, String)>) -> Vec<(String, String)> {
    let (own, mut all): (Vec<_>, Vec<_>) = environment.partition(|(name, value)| {
        name.strip_prefix(VARIABLES).is_some_and(|name| name.starts_with("AWS_")) && !value.is_empty()
    });
    for (name, value) in own {
        let name = match &name[VARIABLES.len()..] {
            "AWS_DEFAULT_REGION" => "AWS_REGION",
            name => name,
        };
        all.retain(|(other, _)| other != name);
        all.push((name.to_owned(), value));
    }
    all
}

/// Of any UUID: both kinds of stores have such generations.
fn parse_generation(text: &str) -> Result<GenerationId, String> {
    let parsed = text.to_ascii_lowercase().parse::<GenerationId>();
    parsed.map_err(|_| format!("'{text}' is no generation: write a UUID as `ls` prints it"))
}

fn parse_date(text: &str) -> Result<Date, String> {
    text.parse().map_err(|_| format!("'{text}' is no date: write 2026-11-21"))
}

/// The day in UTC.
fn date(moment: Timestamp) -> Date {
    let moment = jiff::Timestamp::from_millisecond(moment.as_millis()).unwrap_or(jiff::Timestamp::MIN);
    moment.to_zoned(TimeZone::UTC).date()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_files_are_those_of_bottomless() {
        let place = |namespace: Option<&str>| Place {
            endpoint: None,
            bucket: None,
            database: None,
            namespace: namespace.map(str::to_owned),
        };
        let named = |namespace, database, id| {
            let subject = place(namespace).named(database, id);
            (subject.name, subject.file.to_str().unwrap().to_owned())
        };
        let both = |name: &str, file: &str| (name.to_owned(), file.to_owned());
        assert_eq!(named(None, "app.db", ""), both("app.db", "app.db"));
        assert_eq!(named(None, "/srv/app.db", "tenant7-"), both("tenant7-app.db", "/srv/app.db"));
        assert_eq!(named(Some("ns-db1"), "default", ""), both("ns-db1:default", "default/dbs/db1/data"));
    }

    #[test]
    fn bottomless_credentials_win_over_those_of_everybody() {
        let environment = [
            ("LIBSQL_BOTTOMLESS_AWS_ACCESS_KEY_ID", "own"),
            ("AWS_ACCESS_KEY_ID", "everybody's"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("LIBSQL_BOTTOMLESS_AWS_SECRET_ACCESS_KEY", ""),
            ("LIBSQL_BOTTOMLESS_AWS_DEFAULT_REGION", "eu-central-1"),
            ("LIBSQL_BOTTOMLESS_BUCKET", "b"),
        ];
        let merged = s3_environment(environment.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())));
        let value = |name: &str| {
            let values: Vec<_> = merged.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect();
            assert!(values.len() <= 1, "{values:?}");
            values.first().copied()
        };
        assert_eq!(value("AWS_ACCESS_KEY_ID"), Some("own"));
        assert_eq!(value("AWS_SECRET_ACCESS_KEY"), Some("secret"));
        assert_eq!(value("AWS_REGION"), Some("eu-central-1"));
    }
}
