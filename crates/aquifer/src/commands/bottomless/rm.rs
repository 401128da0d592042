//! `aquifer bottomless rm`

use std::collections::HashSet;
use std::io::{self, Write};

use aquifer_format::GenerationId;
use aquifer_log::store::Key;
use aquifer_log::{RemoveError, remove_generation};
use clap::Args;
use futures::TryStreamExt;
use jiff::civil::Date;
use serde::Serialize;

use super::bucket::{Bucket, Generation, Kind};
use super::{Subject, date, parse_date, parse_generation};
use crate::error::CliError;
use crate::exit::Exit;
use crate::output::Report;
use crate::session::Session;

#[derive(Debug, Args)]
pub(super) struct Rm {
    /// Remove this generation
    #[arg(short, long, value_parser = parse_generation, value_name = "GENERATION")]
    generation: Option<GenerationId>,

    /// Remove generations made before this day (UTC), but for the newest that can be restored and what it needs
    #[arg(long, value_parser = parse_date, conflicts_with = "generation", value_name = "DATE")]
    older_than: Option<Date>,

    /// Print what is removed
    #[arg(short, long)]
    verbose: bool,
}

#[derive(Debug, Serialize)]
struct Done {
    database: String,
    #[serde(skip)]
    verbose: bool,
    /// Of `--older-than`: whether there were any generations.
    #[serde(skip)]
    many: Option<bool>,
    removed: Vec<Removed>,
    /// Old enough, and needed.
    kept: Vec<GenerationId>,
}

#[derive(Debug, Serialize)]
struct Removed {
    generation: GenerationId,
    objects: Vec<String>,
}

impl Rm {
    pub(super) fn check(&self) -> Result<(), CliError> {
        if self.generation.is_none() && self.older_than.is_none() {
            return Err(CliError::Usage("rm needs --generation or --older-than".to_owned()));
        }
        Ok(())
    }

    pub(super) async fn run(
        &self,
        session: &Session,
        bucket: &Bucket,
        subject: &Subject,
    ) -> Result<Exit, CliError> {
        let mut done = Done {
            database: subject.name.clone(),
            verbose: self.verbose,
            many: None,
            removed: Vec::new(),
            kept: Vec::new(),
        };
        let doomed = if let Some(id) = self.generation {
            vec![bucket.generation(subject, id).await?]
        } else {
            let found = bucket.generations(subject).await?;
            done.many = Some(!found.is_empty());
            let limit = self.older_than.unwrap_or(Date::MIN);
            let needed = needed(&found).await?;
            let old = found.into_iter().filter(|generation| date(generation.created) < limit);
            let (kept, doomed): (Vec<_>, Vec<_>) = old.partition(|old| needed.contains(&old.id));
            done.kept.extend(kept.into_iter().map(|generation| generation.id));
            doomed
        };
        // Newest first, as they are: one that builds on another goes before it.
        for generation in doomed {
            match remove(bucket, &generation).await {
                Ok(objects) => done.removed.push(Removed { generation: generation.id, objects }),
                Err(CliError::Remove(RemoveError::HasChild { .. } | RemoveError::HasFork { .. }))
                    if self.generation.is_none() =>
                {
                    done.kept.push(generation.id);
                }
                Err(error) => {
                    session.output.print(&done)?;
                    return Err(error);
                }
            }
        }
        session.output.print(&done)?;
        for id in &done.kept {
            session.remark(&format!("kept {id}: a restore of what is newest needs it"));
        }
        Ok(Exit::Ok)
    }
}

/// The newest generation that there is anything in, what is newer, and those of bottomless that they go on from.
async fn needed(found: &[Generation]) -> Result<HashSet<GenerationId>, CliError> {
    let mut needed = HashSet::new();
    let mut wanted: Option<GenerationId> = None;
    for generation in found {
        if wanted.is_some_and(|wanted| wanted != generation.id) {
            continue;
        }
        needed.insert(generation.id);
        match &generation.of {
            Kind::Bottomless(backup) => {
                let survey = backup.survey().await?;
                let parent = survey.parent.as_deref().and_then(|id| id.parse().ok());
                match (survey.snapshot, parent) {
                    (None, Some(parent)) => wanted = Some(parent),
                    (None, None) if survey.positions.is_none() => {}
                    _ => break,
                }
            }
            Kind::Aquifer(database) => {
                if crate::survey::Survey::of(database, generation.id).await?.newest.is_some() {
                    break;
                }
            }
        }
    }
    Ok(needed)
}

/// Removes a generation, and tells its objects.
async fn remove(bucket: &Bucket, generation: &Generation) -> Result<Vec<String>, CliError> {
    // All names first: deleting while listing may hide names from the listing.
    let listing = bucket.store.list(&generation.prefix(), None).map_ok(|object| object.key);
    let objects: Vec<Key> = listing.try_collect().await?;
    match &generation.of {
        Kind::Bottomless(_) => bucket.store.delete_many(&objects).await?,
        Kind::Aquifer(database) => {
            remove_generation(database, generation.id).await?;
        }
    }
    Ok(objects.iter().map(Key::to_string).collect())
}

impl Report for Done {
    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        if !self.verbose {
            return Ok(());
        }
        if self.many == Some(false) {
            return writeln!(out, "No generations found");
        }
        for Removed { generation, objects } in &self.removed {
            if self.many.is_some() {
                writeln!(out, "Removing {generation}")?;
            }
            for key in objects {
                writeln!(out, "Removing {key}")?;
            }
            // Of objects, in bottomless-cli's own words.
            writeln!(out, "Removed {} snapshot generations", objects.len())?;
        }
        match self.many {
            Some(_) => writeln!(out, "Removed {} generations", self.removed.len()),
            None => Ok(()),
        }
    }
}
