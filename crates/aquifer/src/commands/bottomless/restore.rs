//! `aquifer bottomless restore`

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use aquifer_format::{GenerationId, Timestamp};
use aquifer_migrate::{Origin, Standing, compare, compare_with_store};
use aquifer_replicate::restore::{Existing, Installed};
use clap::Args;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::Serialize;

use super::bucket::{Bucket, Kind};
use super::{Subject, parse_generation};
use crate::error::CliError;
use crate::exit::Exit;
use crate::output::Report;
use crate::session::Session;

/// What is behind the name of a database that a restore took the place of.
const ASIDE: &str = ".bottomless.backup";

#[derive(Debug, Args)]
pub(super) struct Restore {
    /// Generation to restore from, whatever is here [default: the newest, if what is here is not newer]
    #[arg(short, long, value_parser = parse_generation, value_name = "GENERATION")]
    generation: Option<GenerationId>,

    /// Restore what was committed up to this moment (UTC), as 2026-11-21T14:00:00, whatever is here
    #[arg(short, long, value_parser = parse_utc, conflicts_with = "generation", value_name = "TIME")]
    utc_time: Option<Timestamp>,
}

fn parse_utc(text: &str) -> Result<Timestamp, String> {
    let time: DateTime =
        text.parse().map_err(|_| format!("'{text}' is no time: write 2026-11-21T14:00:00"))?;
    let zoned = time.to_zoned(TimeZone::UTC).map_err(|e| e.to_string())?;
    Ok(Timestamp::from_millis(zoned.timestamp().as_millisecond()))
}

#[derive(Debug, Serialize)]
struct Done {
    outcome: &'static str,
    database: String,
    file: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<String>,
    /// Where the database is that was there before.
    #[serde(skip_serializing_if = "Option::is_none")]
    set_aside: Option<PathBuf>,
}

impl Restore {
    pub(super) async fn run(
        &self,
        session: &Session,
        bucket: &Bucket,
        subject: &Subject,
    ) -> Result<Exit, CliError> {
        let done = self.restore(session, bucket, subject).await?;
        if session.output.json {
            session.output.print(&done)?;
        } else {
            // bottomless-cli says nothing, and scripts may rely on it.
            session.remark(&done.told());
        }
        Ok(Exit::Ok)
    }

    async fn restore(&self, session: &Session, bucket: &Bucket, subject: &Subject) -> Result<Done, CliError> {
        let mut done = Done {
            outcome: "restored",
            database: subject.name.clone(),
            file: subject.file.clone(),
            generation: None,
            set_aside: None,
        };
        let of = if let Some(id) = self.generation {
            bucket.generation(subject, id).await?.of
        } else {
            let found = bucket.generations(subject).await?;
            let found = found
                .into_iter()
                .find(|generation| self.utc_time.is_none_or(|moment| generation.created <= moment));
            match found {
                Some(generation) => generation.of,
                // A program that is started for the first time has no backup yet.
                None if self.utc_time.is_none() => return Ok(Done { outcome: "no-backup", ..done }),
                None => return Err(CliError::NothingSoOld { database: subject.name.clone() }),
            }
        };
        if self.generation.is_none() && self.utc_time.is_none() {
            let standing = match &of {
                Kind::Bottomless(_) => compare(&subject.file, &bucket.store, &subject.name).await?,
                Kind::Aquifer(database) => {
                    let state_dir = session.settings.replicate.database.state_dir.as_ref();
                    let state_dir = state_dir.map(|parent| parent.join(database.name().to_component()));
                    compare_with_store(&subject.file, database, state_dir.as_deref()).await?
                }
            };
            match standing {
                Some(Standing::Newer) => return Ok(Done { outcome: "newer-here", ..done }),
                Some(Standing::Same) => return Ok(Done { outcome: "same", ..done }),
                Some(Standing::Missing | Standing::Older) | None => {}
            }
        }
        make_directory(&subject.file)?;
        let progress = session.progress(&format!("restore {}", subject.name));
        let (generation, installed) = match of {
            Kind::Bottomless(_) => self.of_bottomless(bucket, subject).await?,
            Kind::Aquifer(database) => {
                let mut restorer = aquifer_replicate::restore::Restorer::new(
                    bucket.store.clone(),
                    database.name().clone(),
                    &subject.file,
                )
                .existing(Existing::SetAside(ASIDE))
                .integrity_check(true);
                if let Some(id) = self.generation {
                    restorer = restorer.generation(id);
                }
                if let Some(moment) = self.utc_time {
                    restorer = restorer.target(aquifer_log::Target::Timestamp(moment));
                }
                let Some(restored) = restorer.restore().await?.restored() else {
                    unreachable!("nothing is kept in its place")
                };
                (Some(restored.revision.generation.to_string()), restored.installed)
            }
        };
        progress.finish();
        done.generation = generation;
        match installed {
            Installed::SetAside(path) => done.set_aside = Some(path),
            Installed::Same => done.outcome = "same",
            Installed::New | Installed::Replaced => {}
        }
        Ok(done)
    }

    async fn of_bottomless(
        &self,
        bucket: &Bucket,
        subject: &Subject,
    ) -> Result<(Option<String>, Installed), CliError> {
        let restorer =
            aquifer_migrate::Restorer::new(bucket.store.clone(), Origin::Bottomless, &subject.file);
        let mut restorer =
            restorer.database(&subject.name).existing(Existing::SetAside(ASIDE)).integrity_check(true);
        if let Some(id) = self.generation {
            restorer = restorer.generation(id.to_string());
        }
        if let Some(moment) = self.utc_time {
            restorer = restorer.target(aquifer_migrate::Target::Timestamp(moment));
        }
        let Some(restored) = restorer.restore().await? else { unreachable!("nothing is kept in its place") };
        Ok((restored.backup.generation().map(str::to_owned), restored.installed))
    }
}

/// The libSQL server's namespaces are directories, which a new machine does not have.
fn make_directory(file: &Path) -> Result<(), CliError> {
    let Some(directory) = file.parent().filter(|directory| !directory.as_os_str().is_empty()) else {
        return Ok(());
    };
    std::fs::create_dir_all(directory).map_err(|source| CliError::File {
        action: "create",
        path: directory.to_owned(),
        source,
    })
}

impl Done {
    fn told(&self) -> String {
        let (file, name) = (self.file.display(), &self.database);
        match self.outcome {
            "no-backup" => format!("there is no generation of '{name}': nothing was restored"),
            "newer-here" => {
                format!(
                    "{file} is not older than what there is of '{name}', and stays; --generation restores all the same"
                )
            }
            "same" => format!("{file} is what there is of '{name}' already"),
            _ => {
                let generation = self.generation.as_deref().unwrap_or("-");
                let mut told = format!("restored generation {generation} of '{name}' to {file}");
                if let Some(aside) = &self.set_aside {
                    told += &format!("; what was there is {} now", aside.display());
                }
                told
            }
        }
    }
}

impl Report for Done {
    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}", self.told())
    }
}
