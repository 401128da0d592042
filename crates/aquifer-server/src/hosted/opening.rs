//! Opening: claim the database, restore its file where that is not what the store has, begin to ship.
//!
//! Replicators of files take no part in claims, and begin generations, which hide those before. They do so only where no
//! server has claimed the database, and look for that before and after. A server claims first, here and after its term
//! lapsed, and looks then which generation is the newest. So one of the two sees the other.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use aquifer_format::Revision;
use aquifer_log::{ControlRecord, DatabaseStore, Plan, Target, branch};
use aquifer_replicate::Tracker;
use aquifer_replicate::restore::{RestoreError, Restorer};
use tokio::sync::{oneshot, watch};

use super::admin::host;
use super::files::Files;
use super::older::Older;
use super::pages::Pages;
use super::slots::{Outcome, Turn};
use super::{Durability, HostError, Hosted, Shared, closing};
use crate::cluster::Claim;

/// How often a file is restored that others outdate, before the database is left to them.
const ATTEMPTS: usize = 3;

/// Waits until a turn ends: what came of an opening, or `None` if it was something else.
pub(super) async fn wait(mut outcome: watch::Receiver<Outcome>) -> Outcome {
    let ended = outcome.wait_for(Option::is_some).await;
    ended.ok().and_then(|outcome| outcome.clone())
}

/// Opens a database, whether or not somebody waits for it: what is begun is claimed, and others would be sent here.
pub(super) async fn open(
    shared: Arc<Shared>,
    turn: Turn,
    lost: Option<Arc<Hosted>>,
    create: bool,
) -> Result<Arc<Hosted>, HostError> {
    let (answer, answered) = oneshot::channel();
    tokio::spawn(async move {
        if let Some(lost) = lost {
            let _ = shared.replicator.remove(lost.name()).await;
        }
        let started = start(&shared, &turn, create).await;
        let _ = answer.send(started.clone());
        match started {
            Ok(hosted) => turn.opened(hosted),
            Err(error) => turn.failed(error),
        }
    });
    // The task ends without an answer only with its runtime.
    answered.await.unwrap_or(Err(HostError::Stopping))
}

async fn start(shared: &Arc<Shared>, turn: &Turn, create: bool) -> Result<Arc<Hosted>, HostError> {
    // Whoever closes all databases waits for this turn, or finds what it has opened.
    if shared.stopping.load(Ordering::Acquire) {
        return Err(HostError::Stopping);
    }
    closing::make_room(shared).await?;
    let database = DatabaseStore::new(shared.store.clone(), turn.name().clone());
    let claim = shared.cluster.claim(&database).await?;
    match serve(shared, &database, &claim, create).await {
        Ok(hosted) => Ok(hosted),
        Err(error) => {
            give_back(shared, &database, &claim).await;
            Err(error)
        }
    }
}

/// Nothing was acknowledged of it under this claim.
async fn give_back(shared: &Shared, database: &DatabaseStore, claim: &Claim) {
    if let Err(error) = shared.cluster.release(database, claim).await {
        tracing::debug!(database = %database.name(), %error, "others find out when this server has stopped");
    }
}

async fn serve(
    shared: &Shared,
    database: &DatabaseStore,
    claim: &Claim,
    create: bool,
) -> Result<Arc<Hosted>, HostError> {
    let (replicator, name) = (&shared.replicator, database.name());
    let files = shared.data.files(name);
    // Before anything is fetched for nothing.
    allowed(database, None).await?;
    let durability = shared.options.durability;
    // A file that turns out to be outdated is restored, and is not outdated then unless somebody has just shipped
    // something: the server before this one, with its last breath.
    for _ in 0..ATTEMPTS {
        fetch(shared, database, &files, create).await?;
        let tracker = Tracker::new();
        replicator.add_tracked(files.database(), name, Arc::clone(&tracker))?;
        match replicator.sync_database(name).await {
            Ok(revision) => {
                // Not sooner: what is said from now on comes with a seal on what was just found.
                let is_frozen = match allowed(database, revision).await {
                    Ok(control) => control.frozen.is_some(),
                    Err(e) => {
                        let _ = replicator.remove(name).await;
                        return Err(e);
                    }
                };
                if let Some(at) = revision
                    && !is_in_sight(database, at).await?
                {
                    // All that it has is in the store.
                    let _ = replicator.remove(name).await;
                    files.discard().await?;
                    continue;
                }
                let (replicator, older) = (Arc::clone(replicator), Older::new(files.older()));
                let pages = Pages::new(database.clone(), Arc::clone(&replicator), tracker, older);
                let (database, cluster, claim) = (database.clone(), shared.cluster.clone(), claim.clone());
                return Ok(Hosted::new(
                    database, files, replicator, pages, is_frozen, durability, cluster, claim,
                ));
            }
            Err(e) if e.is_taken_over() => {
                tracing::info!(database = %name, reason = %e, "the local file is outdated; restoring it");
                let _ = replicator.remove(name).await;
                match durability {
                    Durability::Store => files.discard().await?,
                    // It may have what was acknowledged, and is nowhere else.
                    Durability::Local => files.set_aside().await?,
                }
            }
            Err(e) => {
                let _ = replicator.remove(name).await;
                return Err(e.into());
            }
        }
    }
    Err(HostError::Contended(name.clone()))
}

/// Whether a revision is of the newest generation. If that one has no segment, a newer one is begun that goes on from
/// the revision: whoever began the empty one is gone, or is about to put something there that would hide what is
/// committed here. False: the database is to be opened anew.
async fn is_in_sight(database: &DatabaseStore, at: Revision) -> Result<bool, HostError> {
    let Some(newest) = database.latest_generation().await? else { return Ok(true) };
    if newest.id == at.generation {
        return Ok(true);
    }
    let plan = Plan::make(database, None, Target::Latest).await?;
    if plan.generation != newest.id {
        let begun = branch(database, &plan, &host()).await?;
        tracing::info!(database = %database.name(), hidden_by = %newest.id, generation = %begun.id, "going on");
    }
    Ok(false)
}

/// What an administrator has said, unless it is that nobody may open the database at this revision.
async fn allowed(database: &DatabaseStore, at: Option<Revision>) -> Result<ControlRecord, HostError> {
    let control = database.control().await?;
    if let Some(deletion) = control.deleted {
        return Err(HostError::deleted(database.name(), deletion));
    }
    match at {
        Some(at) if control.left == Some(at.generation) => Err(HostError::Left(database.name().clone())),
        _ => Ok(control),
    }
}

/// Makes sure that there is a local file: restores it, or makes an empty one.
async fn fetch(
    shared: &Shared,
    database: &DatabaseStore,
    files: &Files,
    create: bool,
) -> Result<(), HostError> {
    if files.exist().await? {
        return Ok(());
    }
    let name = database.name();
    match Restorer::new(shared.store.clone(), name.clone(), files.database()).restore().await {
        Ok(_) => Ok(()),
        Err(RestoreError::Plan(e)) if e.is_no_replica() && create => files.make_empty().await,
        Err(RestoreError::Plan(e)) if e.is_no_replica() => Err(HostError::NoSuchDatabase(name.clone())),
        Err(e) => Err(e.into()),
    }
}
