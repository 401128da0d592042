//! `replicate --once`: ships what there is, and ends.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use aquifer_format::Revision;
use aquifer_log::DatabaseName;
use aquifer_replicate::{ReplicaState, ReplicaStatus, Replicator};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use serde::Serialize;

use super::discovery::Discovery;
use super::roster::Roster;
use super::{Replicate, Sources};
use crate::error::{CliError, Told};
use crate::exit::Exit;
use crate::output::Report;
use crate::session::Session;
use crate::units::Bytes;

/// How often to look whether a database is stuck.
const LOOK_EVERY: Duration = Duration::from_millis(250);

#[derive(Debug, Serialize)]
struct Shipped {
    store: String,
    databases: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    name: DatabaseName,
    path: PathBuf,
    /// What is durable now; `None` if the database is empty, or could not be shipped.
    revision: Option<Revision>,
    /// Of segments that were shipped now.
    shipped_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Ships all databases. Those that fail do not keep the others from it; the first failure decides the exit code.
pub(super) async fn ship(
    command: &Replicate,
    session: &Session,
    sources: &Sources,
) -> Result<Exit, CliError> {
    for database in &sources.databases {
        // A replica waits for a file that is missing; here nobody would make it.
        std::fs::metadata(&database.path).map_err(|source| CliError::File {
            action: "read",
            path: database.path.clone(),
            source,
        })?;
    }
    let replicator = command.replicator(session).await?;
    let found = Discovery::new(&sources.directories, &sources.databases, |_| false)?.scan()?;
    let roster = Roster::default();
    let mut names = Vec::new();
    for database in sources.databases.iter().chain(&found) {
        names.push(command.add(&replicator, &roster, session, database)?);
    }
    let mut results = sync_all(&replicator, &names, command.give_up_after.0).await;
    let mut failure = None;
    let mut databases = Vec::new();
    for ReplicaStatus { name, path, shipped_bytes, .. } in replicator.status() {
        let (revision, error) = match results.remove(&name) {
            Some(Ok(revision)) => (revision, None),
            Some(Err(e)) => {
                let told = e.to_string();
                failure.get_or_insert(e);
                (None, Some(told))
            }
            None => (None, None),
        };
        databases.push(Row { name, path, revision, shipped_bytes, error });
    }
    let store = replicator.store().url().to_owned();
    if failure.is_none() {
        replicator.shutdown().await?;
    }
    match failure {
        // One database is the usual case: its error is the command's.
        Some(error) if databases.len() == 1 => Err(error),
        Some(error) => {
            session.output.print(&Shipped { store, databases })?;
            tracing::debug!(error = %Told::of(&error).text(), "the first failure");
            Ok(error.exit())
        }
        None => {
            session.output.print(&Shipped { store, databases })?;
            Ok(Exit::Ok)
        }
    }
}

/// What came of each database. Gives up when all that is left is stuck: the store is away, or files are.
async fn sync_all(
    replicator: &Replicator,
    names: &[DatabaseName],
    give_up_after: Duration,
) -> BTreeMap<DatabaseName, Result<Option<Revision>, CliError>> {
    let mut results = BTreeMap::new();
    let mut syncing: FuturesUnordered<_> = names
        .iter()
        .map(|name| async move { (name.clone(), replicator.sync_database(name).await) })
        .collect();
    let mut look = tokio::time::interval(LOOK_EVERY);
    let mut stuck_since = None;
    loop {
        tokio::select! {
            done = syncing.next() => match done {
                Some((name, result)) => {
                    results.insert(name, result.map_err(CliError::from));
                    stuck_since = None;
                }
                None => return results,
            },
            _ = look.tick() => {
                let left = replicator.status().into_iter().filter(|status| !results.contains_key(&status.name));
                let Some(stuck) = left.map(|status| Some((status.name.clone(), stuck(status)?))).collect::<Option<Vec<_>>>()
                else {
                    stuck_since = None;
                    continue;
                };
                if stuck_since.get_or_insert_with(Instant::now).elapsed() >= give_up_after {
                    results.extend(stuck.into_iter().map(|(name, error)| (name, Err(error))));
                    return results;
                }
            }
        }
    }
}

/// Why a database makes no progress, if it does not.
fn stuck(status: ReplicaStatus) -> Option<CliError> {
    let ReplicaStatus { name, path, state, .. } = status;
    match state {
        ReplicaState::Outage(reason) => Some(CliError::Outage { name, reason }),
        ReplicaState::Waiting(reason) => Some(CliError::Unreadable { path, reason }),
        _ => None,
    }
}

impl Report for Shipped {
    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        for row in &self.databases {
            match (&row.error, row.revision) {
                (Some(error), _) => writeln!(out, "'{}' FAILED: {error}", row.name)?,
                (None, Some(revision)) => writeln!(
                    out,
                    "'{}' is in {} at txid {} of generation {} ({} shipped)",
                    row.name,
                    self.store,
                    revision.txid,
                    revision.generation,
                    Bytes(row.shipped_bytes)
                )?,
                (None, None) => writeln!(out, "'{}' is empty: nothing to ship", row.name)?,
            }
        }
        Ok(())
    }
}
