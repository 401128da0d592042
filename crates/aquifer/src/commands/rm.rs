//! `aquifer rm NAME`

use std::collections::BTreeSet;
use std::io::{self, Write};

use aquifer_format::{GenerationId, Timestamp};
use aquifer_log::{DatabaseName, DatabaseStore, Purged, RemoveError, remove_generation};
use clap::Args;
use futures::TryStreamExt;
use serde::Serialize;

use super::confirm::confirm;
use crate::error::CliError;
use crate::exit::Exit;
use crate::output::Report;
use crate::session::Session;
use crate::survey::Survey;
use crate::time::{parse_moment_or_age, show};
use crate::units::{Bytes, count};

/// Delete a database from the store, or some of its generations, at once and for good
///
/// Stop its replication first. To delete what is older than some time as it ages, use `replicate --retain`.
#[derive(Debug, Args)]
pub(crate) struct Rm {
    /// The database: its name, or the path of its file
    name: String,

    /// Only this generation
    #[arg(short, long, value_name = "ID", conflicts_with = "older_than")]
    generation: Option<GenerationId>,

    /// Only generations that another had taken the place of before this: a moment, or an age such as 30d
    #[arg(long, value_name = "WHEN", value_parser = parse_moment_or_age)]
    older_than: Option<Timestamp>,

    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

#[derive(Debug, Serialize)]
struct Done {
    name: DatabaseName,
    /// Those that were deleted.
    generations: Vec<GenerationId>,
    /// Those that would have been, if others did not build on them.
    kept: Vec<GenerationId>,
    /// Databases that were forked from what is kept.
    needed_by: BTreeSet<DatabaseName>,
    objects: u64,
}

impl Rm {
    pub(crate) async fn run(&self, session: &Session) -> Result<Exit, CliError> {
        let database = session.patient_database(&self.name).await?;
        let doomed = self.doomed(&database).await?;
        let mut done = Done {
            name: database.name().clone(),
            generations: Vec::new(),
            kept: Vec::new(),
            needed_by: BTreeSet::new(),
            objects: 0,
        };
        if doomed.is_empty() {
            session.output.print(&done)?;
            return Ok(Exit::Ok);
        }
        confirm("delete", &describe(&database, &doomed).await?, self.yes).await?;
        if self.is_all() {
            Purged { objects: done.objects, needed_by: done.needed_by } = database.purge().await?;
            done.kept = database.generation_ids().try_collect().await?;
            done.generations = doomed.into_iter().filter(|id| !done.kept.contains(id)).collect();
        } else {
            // Newest first, as they are: one that builds on another goes before it.
            for id in doomed {
                match remove_generation(&database, id).await {
                    Ok(objects) => {
                        done.objects += objects;
                        done.generations.push(id);
                    }
                    Err(RemoveError::HasChild { .. }) if self.generation.is_none() => done.kept.push(id),
                    Err(RemoveError::HasFork { database, .. }) if self.generation.is_none() => {
                        done.kept.push(id);
                        done.needed_by.insert(database);
                    }
                    Err(e) => return Err(e.into()),
                }
            }
        }
        session.output.print(&done)?;
        Ok(Exit::Ok)
    }

    fn is_all(&self) -> bool {
        self.generation.is_none() && self.older_than.is_none()
    }

    /// The generations to delete, newest first.
    async fn doomed(&self, database: &DatabaseStore) -> Result<Vec<GenerationId>, CliError> {
        let ids: Vec<GenerationId> = database.generation_ids().try_collect().await?;
        if let Some(id) = self.generation {
            if ids.contains(&id) {
                return Ok(vec![id]);
            }
            let store = database.store().url().to_owned();
            return Err(CliError::NoGeneration { store, name: database.name().clone(), generation: id });
        }
        let Some(limit) = self.older_than else { return Ok(ids) };
        // A generation ends where a newer one begins that has anything to restore: the newest such one never ends.
        let mut ended: Option<Timestamp> = None;
        let mut doomed = Vec::new();
        for id in ids {
            let Some(record) = database.generation_record(id).await? else { continue };
            if ended.is_some_and(|ended| ended < limit) {
                doomed.push(id);
            } else if Survey::of(database, id).await?.newest.is_some() {
                ended = Some(record.created_at);
            }
        }
        Ok(doomed)
    }
}

/// What would be deleted, for people.
async fn describe(database: &DatabaseStore, doomed: &[GenerationId]) -> Result<String, CliError> {
    let mut bytes = 0;
    for id in doomed {
        bytes += Survey::of(database, *id).await?.bytes;
    }
    let (bytes, name, store) = (Bytes(bytes), database.name(), database.store().url());
    Ok(match doomed {
        [only] => {
            format!("generation {only} ({}) of '{name}' in {store}: {bytes}", show(only.created_at()))
        }
        several => format!("{} generations of '{name}' in {store}: {bytes}", several.len()),
    })
}

impl Report for Done {
    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        match self.generations.len() {
            0 => writeln!(out, "'{}': nothing to delete", self.name)?,
            n => writeln!(
                out,
                "deleted {} of '{}', {}",
                count(n as u64, "generation"),
                self.name,
                count(self.objects, "object")
            )?,
        }
        for id in &self.kept {
            writeln!(out, "kept {id}: others build on it")?;
        }
        for name in &self.needed_by {
            writeln!(out, "what '{name}', which was forked from it, needs has stayed")?;
        }
        Ok(())
    }
}
