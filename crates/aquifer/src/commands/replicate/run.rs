//! `replicate`: for as long as it runs, or its command does.

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use aquifer_format::Revision;
use aquifer_log::DatabaseName;
use aquifer_replicate::restore::{Existing, Outcome, Restorer};
use aquifer_replicate::{ReplicaState, Replicator};
use serde::Serialize;

use super::child;
use super::discovery::Discovery;
use super::health::{self, Watched};
use super::roster::Roster;
use super::verifier::{self, Verifications};
use super::{Replicate, Sources, database_name};
use crate::commands::restore::{is_no_replica, show_progress};
use crate::config::DatabaseEntry;
use crate::error::CliError;
use crate::exit::Exit;
use crate::output::Report;
use crate::session::Session;
use crate::signals::Signals;

/// How often to look for new databases, and at how the replicas do.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Shipping the rest takes so long only where the store is slow or away.
const REMARK_AFTER: Duration = Duration::from_secs(3);

/// A change of a database's state, one JSON line each.
#[derive(Debug, Serialize)]
struct Event {
    name: DatabaseName,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    revision: Option<Revision>,
}

pub(super) async fn replicate(
    command: &Replicate,
    session: &Session,
    sources: Sources,
) -> Result<Exit, CliError> {
    let mut signals = Signals::listen()?;
    if !command.command.is_empty() {
        for database in &sources.databases {
            tokio::select! {
                restored = restore_if_missing(session, database) => restored?,
                number = signals.next() => return Ok(Exit::Signal(number)),
            }
        }
    }
    let (replicator, is_over) = match start(command, session, &mut signals).await? {
        Ok(started) => started,
        Err(exit) => return Ok(exit),
    };
    let mut discovery = Discovery::new(&sources.directories, &sources.databases, |entry| {
        session.settings.of(&entry.own).wal != Some(true)
    })?;
    let roster = Roster::default();
    for database in sources.databases.iter().chain(&discovery.scan()?) {
        command.add(&replicator, &roster, session, database)?;
    }
    if is_over {
        return finish(session, &replicator, Ended::Signal, &mut signals).await;
    }
    let verifications = Verifications::default();
    let server = match session.settings.replicate.process.metrics {
        Some(address) => {
            let (replicator, roster, verifications) =
                (Arc::clone(&replicator), roster.clone(), verifications.clone());
            Some(health::serve(address, Watched { replicator, roster, verifications }).await?)
        }
        None => None,
    };
    session.remark(&format!(
        "replicating {} into {}",
        match replicator.status().as_slice() {
            [only] => format!("'{}'", only.name),
            all => format!("{} databases", all.len()),
        },
        replicator.store().url()
    ));
    let ended = {
        let verifying = verifier::run(&replicator, &roster, &verifications);
        let watching = watch(command, session, &replicator, &roster, &mut discovery);
        let watching = async {
            tokio::select! {
                stopped = watching => stopped,
                () = verifying => unreachable!("it goes on for ever"),
            }
        };
        if command.command.is_empty() {
            tokio::select! {
                stopped = watching => stopped,
                _ = signals.next() => Ok(Ended::Signal),
            }
        } else {
            let mut child = child::start(&command.command)?;
            let mut watching = std::pin::pin!(watching);
            tokio::select! {
                exit = child::wait(&mut child, &mut signals) => exit.map(Ended::Child),
                // The application is worth more than its replica: it goes on, and the log says what is wrong.
                stopped = &mut watching => {
                    let exit = child::wait(&mut child, &mut signals).await?;
                    match stopped {
                        Ok(_) => Ok(Ended::Child(exit)),
                        Err(error) => Ok(Ended::ChildUnreplicated(exit, error)),
                    }
                }
            }
        }
    }?;
    if let Some(server) = server {
        server.abort();
        // Ends with "cancelled", which it was.
        drop(server.await);
    }
    finish(session, &replicator, ended, &mut signals).await
}

/// Starts the replicator, and says whether it was told to end meanwhile: what is committed is shipped even so. Where
/// there is a command, which then is not run, or at the second signal, the process ends at once.
async fn start(
    command: &Replicate,
    session: &Session,
    signals: &mut Signals,
) -> Result<Result<(Arc<Replicator>, bool), Exit>, CliError> {
    let mut starting = std::pin::pin!(command.replicator(session));
    let mut is_over = false;
    loop {
        tokio::select! {
            replicator = &mut starting => return Ok(Ok((Arc::new(replicator?), is_over))),
            number = signals.next() => {
                if is_over || !command.command.is_empty() {
                    return Ok(Err(Exit::Signal(number)));
                }
                is_over = true;
            }
        }
    }
}

/// Why replication comes to its end.
enum Ended {
    /// We were told to end.
    Signal,
    /// The command ended.
    Child(Exit),
    /// The command ended, and replication had stopped before.
    ChildUnreplicated(Exit, CliError),
}

/// Ships the rest. A second signal gives up on it: the next run ships it.
async fn finish(
    session: &Session,
    replicator: &Replicator,
    ended: Ended,
    signals: &mut Signals,
) -> Result<Exit, CliError> {
    let mut shutdown = std::pin::pin!(replicator.shutdown());
    let mut said = false;
    let shut = loop {
        tokio::select! {
            shut = &mut shutdown => break shut.map_err(CliError::from),
            _ = signals.next() => {
                session.remark("not all was shipped; the next run will do so");
                break Ok(());
            }
            () = tokio::time::sleep(REMARK_AFTER), if !said => {
                session.remark("waiting for what is committed to be shipped; interrupt once more to leave it to the next run");
                said = true;
            }
        }
    };
    match (ended, shut) {
        (Ended::Signal, shut) => shut.map(|()| Exit::Ok),
        // A command that failed is the news; one that did well whose data is not safe is not.
        (Ended::Child(Exit::Child(0)), shut) => shut.map(|()| Exit::Child(0)),
        (Ended::ChildUnreplicated(Exit::Child(0), error), _) => Err(error),
        (Ended::Child(exit) | Ended::ChildUnreplicated(exit, _), _) => Ok(exit),
    }
}

/// Adds databases as they appear, and tells of changes. Returns only when every replica has stopped.
async fn watch(
    command: &Replicate,
    session: &Session,
    replicator: &Replicator,
    roster: &Roster,
    discovery: &mut Discovery,
) -> Result<Ended, CliError> {
    let mut told: HashMap<DatabaseName, &'static str> = HashMap::new();
    let mut look = tokio::time::interval(LOOK_EVERY);
    loop {
        look.tick().await;
        if !discovery.is_empty() {
            // Reads directories: short, and of what the kernel has in memory.
            match tokio::task::block_in_place(|| discovery.scan()) {
                Ok(found) => {
                    for database in found {
                        if let Err(error) = command.add(replicator, roster, session, &database) {
                            tracing::error!(%error, "cannot replicate a new database");
                        }
                    }
                }
                Err(error) => tracing::warn!(%error, "cannot look for new databases"),
            }
        }
        let statuses = replicator.status();
        if session.output.json {
            for status in &statuses {
                let (state, reason) = health::state(&status.state);
                // Shipping comes and goes with every batch: metrics tell of that.
                if state == "shipping" || told.insert(status.name.clone(), state) == Some(state) {
                    continue;
                }
                let (name, reason) = (status.name.clone(), reason.map(str::to_owned));
                session.output.print_line(&Event { name, state, reason, revision: status.durable })?;
            }
        }
        let stopped = |state: &ReplicaState| matches!(state, ReplicaState::Stopped(_));
        if discovery.is_empty()
            && let Some(first) = statuses.first()
            && statuses.iter().all(|status| stopped(&status.state))
        {
            // The first to ask a stopped replica gets its error itself.
            replicator.sync_database(&first.name).await?;
        }
    }
}

/// Before a command starts that expects its database.
async fn restore_if_missing(session: &Session, database: &DatabaseEntry) -> Result<(), CliError> {
    let name = database_name(database)?;
    let restorer = Restorer::new(session.store()?, name.clone(), &database.path)
        .existing(Existing::Keep)
        .progress(show_progress(session, &name));
    match restorer.restore().await.map_err(CliError::from) {
        Ok(Outcome::Kept) => {}
        Ok(Outcome::Restored(restored)) => {
            session.remark(&format!(
                "restored '{name}' to {} at {}",
                database.path.display(),
                restored.revision
            ));
        }
        Err(e) if is_no_replica(&e) => session.remark(&format!("'{name}' has no replica yet")),
        Err(e) => return Err(e),
    }
    Ok(())
}

impl Report for Event {
    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "'{}' is {}", self.name, self.state)
    }
}
