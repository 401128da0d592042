//! What a replica decides when it starts: which generation to continue, from where, and what is still to be put.
//!
//! | local state | store | decision |
//! |---|---|---|
//! | of this store and name | its generation ends where the state does | continue |
//! | " | has batches of the run before that it did not live to note | take them over, then compare pages |
//! | " | has batches of somebody else, or a newer generation of theirs | fenced: stop |
//! | " | the same, but what they left is exactly this database: it was restored | as without local state |
//! | " | cannot be reached | continue, to disk |
//! | " | does not know the generation | begin a new one |
//! | none | newest generation is exactly this database | continue it; whoever extended it before is fenced |
//! | none | newest generation is another image, or there is none | begin a new one |
//!
//! Where the file is primary, no server may have claimed the database: it would go on beside what is begun here, and
//! neither would know. Looked for before a generation is begun, and after: a server that claims later finds the
//! generation, and in the same generation one of the two is fenced.
//!
//! Where the store is [`Primary`], local state counts only if its generation is the newest, and what would begin a
//! generation beside another one, or go on without the store, is an error: the file is restored then.

use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

use aquifer_format::{Moment, PageHash, Pgno, Revision, Txid, WriterNonce};
use aquifer_log::store::Patience;
use aquifer_log::{DatabaseStore, Level, Owner};
use aquifer_sqlite::Handle;
use futures::TryStreamExt;
use tokio::sync::{Notify, watch};

use super::adoption::{Adoption, superseding};
use super::apply::Applies;
use super::proof::{self, End, Extension, Proof};
use super::syncs::Syncs;
use super::upkeep::Upkeep;
use super::views::Views;
use super::{Pending, Replica, Rewind, Shared, staging};
use crate::capture::{Body, Capture, Spill};
use crate::options::{Primary, ReplicaOptions};
use crate::state::{Head, MapFile, PageMap, StateDir};
use crate::status::ReplicaStatus;
use crate::{Error, Result};

/// How long a start waits for the store, before it goes on without (with local state) or says that it waits.
const START: Patience = Patience { tries: 2, total: Duration::from_secs(5), attempt: Duration::from_secs(3) };

impl Replica {
    pub(super) async fn recover(
        database: &DatabaseStore,
        path: &Path,
        options: &ReplicaOptions,
        shared: &Shared,
        status: &watch::Sender<ReplicaStatus>,
        rewind: Option<Rewind>,
    ) -> Result<Replica> {
        let state_path = options.state_dir.clone().unwrap_or_else(|| StateDir::beside(path));
        let state_path = state_path.join(StateDir::name_of(database.store().url(), database.name().as_str()));
        let directory = StateDir::open(&state_path)
            .map_err(Error::state(&state_path))?
            .ok_or_else(|| Error::Locked { path: path.to_owned(), state: state_path.clone() })?;
        if options.switch_to_wal {
            let path = path.to_owned();
            shared.workers.run(move || Handle::switch_to_wal(&path)).await?;
        }
        let began = Moment::now();
        let last = rewind.map_or(Txid::new(u64::MAX), |rewind| rewind.after);
        let (mut map_file, local) =
            MapFile::load_up_to(directory.path(), last).map_err(Error::state(&state_path))?;
        let mut local = local.filter(|_| !options.new_generation);
        if options.primary == Primary::Store
            && let Some((head, _)) = &local
            && database.latest_generation().await?.is_none_or(|newest| newest.id != head.generation)
        {
            return Err(outdated(database, path));
        }
        if let (Some((head, _)), Some(rewind)) = (&mut local, rewind) {
            head.writer = rewind.writer;
        }

        // With local state, work can begin without the store: it is asked, not waited for.
        let database_at_start = database.with_patience(START);
        let adoption =
            Adoption { database: &database_at_start, path, options, shared, directory: &directory };
        let found = match local {
            Some((head, map)) => match continue_local(&database_at_start, &directory, head, map).await {
                Err(taken) if taken.is_taken_over() && options.primary == Primary::File => {
                    Some(adoption.adopt_restored().await?.ok_or(taken)?)
                }
                found => found?,
            },
            None => None,
        };
        // Where there is something to put first, or no store to ask, nothing is begun: the put says whose it is.
        if found.as_ref().is_none_or(|found| found.is_settled) {
            must_not_be_served(&database_at_start, options).await?;
        }
        let start = match found {
            Some(found) => found,
            // Tried again by whoever calls, who says meanwhile what it waits for.
            None => adoption.adopt_or_begin().await?,
        };
        let Start { head, map, staged, capture, is_settled } = start;
        let capture = match capture {
            Some(capture) => Some(capture),
            None => match open_capture(path, Some((head, map.clone())), options, shared, &directory).await {
                Ok(capture) => Some(capture),
                // What was staged of it is worth as much as ever.
                Err(e) if e.is_without_database() && !staged.is_empty() => None,
                Err(e) => return Err(e),
            },
        };
        // Before the first put: a run that does not live to note its outcome is recognised by the nonce. Where the
        // store may have a batch less than we know, earlier states are kept, to be wound back to.
        if is_settled {
            map_file.rewrite(&head, &map).map_err(Error::state(&state_path))?;
        } else {
            map_file.append(&head, map.pages(), &[]).map_err(Error::state(&state_path))?;
            map_file.sync().map_err(Error::state(&state_path))?;
        }
        let queue: VecDeque<Pending> = staged;
        let proof = if is_settled {
            Proof::At(began)
        } else {
            Proof::Missing(match queue.front().map(|front| front.info.meta()) {
                Some(next) => Extension { txid: next.range.first, checksum_before: next.checksum_before },
                None => Extension { txid: head.txid.next(), checksum_before: map.checksum() },
            })
        };
        let durable = is_settled.then_some(Revision { generation: head.generation, txid: head.txid });
        status.send_modify(|s| s.durable = durable.filter(|durable| durable.txid > Txid::ZERO));
        Ok(Replica {
            database: database.clone(),
            path: path.to_owned(),
            options: options.clone(),
            shared: shared.clone(),
            directory,
            map_file,
            capture,
            asleep: None,
            starting: None,
            started: Instant::now(),
            head,
            paused: None,
            room_wait: None,
            proof,
            queue,
            upkeep: Upkeep::new(database.clone(), head.generation, options.upkeep.clone()),
            waker: std::sync::Arc::new(Notify::new()),
            status: status.clone(),
            dirty: true,
            last_commit: Instant::now(),
            last_put: None,
            gathering: None,
            resting: false,
            armed: false,
            syncs: Syncs::default(),
            views: Views::default(),
            applies: Applies::default(),
            tracker: None,
            stopping: false,
        })
    }
}

/// Fails if a server answers for the database that a file is to be replicated as.
pub(super) async fn must_not_be_served(database: &DatabaseStore, options: &ReplicaOptions) -> Result<()> {
    if options.primary == Primary::Store {
        return Ok(());
    }
    match database.served().await? {
        None => Ok(()),
        Some(Owner { record, .. }) => Err(Error::Served {
            database: database.name().to_string(),
            host: record.host,
            since: record.since,
        }),
    }
}

pub(super) struct Start {
    pub(super) head: Head,
    pub(super) map: PageMap,
    pub(super) staged: VecDeque<Pending>,
    pub(super) capture: Option<Capture>,
    pub(super) is_settled: bool,
}

pub(super) async fn open_capture(
    path: &Path,
    known: Option<(Head, PageMap)>,
    options: &ReplicaOptions,
    shared: &Shared,
    directory: &StateDir,
) -> Result<Capture> {
    let (path, limits, spill) = (path.to_owned(), options.wal, Spill::to(directory.staging()));
    shared.workers.run(move || Capture::open(&path, known, limits, spill)).await
}

/// Continues from local state. `None`: the store does not know its generation.
///
/// What waits for the store is put before anybody asks whether there is a newer generation: it may be nowhere else.
async fn continue_local(
    database: &DatabaseStore,
    directory: &StateDir,
    mut head: Head,
    mut map: PageMap,
) -> Result<Option<Start>> {
    let staged = staging::load(&directory.staging(), head.txid).map_err(Error::state(directory.staging()))?;
    let mut queue = VecDeque::new();
    for (txid, file, info) in staged {
        let meta = info.meta();
        let pending = Head { txid, last_commit: meta.last_commit, ..head };
        queue.push_back(Pending {
            body: Body::Staged(file.clone()),
            head: pending,
            changes: Vec::new(),
            staged: Some(file),
            captured: Instant::now(),
            info,
        });
    }
    let mut is_settled = true;
    match database.generation_record(head.generation).await {
        Ok(Some(_)) if queue.is_empty() => {
            if !roll_forward(database, &mut head, &mut map).await? {
                return Ok(None);
            }
            if let Some(newest) = superseding(database, head.generation).await? {
                let (database, generation) = (database.name().to_string(), head.generation);
                return Err(Error::Superseded { database, generation, newest });
            }
        }
        Ok(Some(_)) => is_settled = false,
        Ok(None) => {
            tracing::warn!(
                generation = %head.generation,
                "the store has no such generation any more; beginning a new one"
            );
            return Ok(None);
        }
        Err(e) if e.is_transient() => {
            tracing::warn!(error = %e, "the store cannot be reached; going on to disk");
            is_settled = false;
        }
        Err(e) => return Err(e.into()),
    }
    // Where it is unknown what came of the last put, its writer stays known; so a run that put nothing leaves its nonce
    // to the next.
    if is_settled || head.previous.is_none() {
        head.previous = Some(std::mem::replace(&mut head.writer, WriterNonce::random()));
    }
    Ok(Some(Start { head, map, staged: queue, capture: None, is_settled }))
}

/// Takes over batches that the run before put and did not live to note. False: local state is not what they build on.
async fn roll_forward(database: &DatabaseStore, head: &mut Head, map: &mut PageMap) -> Result<bool> {
    let next = Extension { txid: head.txid.next(), checksum_before: map.checksum() };
    match proof::end_of(database, head.generation, next).await? {
        End::Here => {}
        End::Before(after) => {
            tracing::warn!(%after, "the store has less than was noted here");
            let database = database.name().to_string();
            return Err(Error::Behind { database, after, writer: head.writer });
        }
        End::Elsewhere(theirs) => {
            return Err(Error::Fenced {
                database: database.name().to_string(),
                generation: head.generation,
                txid: next.txid,
                by: theirs.writer,
            });
        }
    }
    let mut segments = database.segments(head.generation, Level::Shipped, head.txid);
    while let Some(listed) = segments.try_next().await.map_err(aquifer_log::LogError::from)? {
        let handle = database.open_segment(head.generation, listed.segment).await?;
        let meta = handle.info().meta().clone();
        if meta.range.first != head.txid.next() || !head.is_ours(meta.writer) {
            return Err(Error::Fenced {
                database: database.name().to_string(),
                generation: head.generation,
                txid: meta.range.first,
                by: meta.writer,
            });
        }
        let mut changes: Vec<(Pgno, PageHash)> = Vec::new();
        handle.for_each_page(4 << 20, |pgno, hash| changes.push((pgno, hash))).await?;
        map.apply(meta.size_after, changes);
        if map.checksum() != meta.checksum_after {
            tracing::warn!("local state is damaged; it is made anew");
            return Ok(false);
        }
        tracing::info!(txid = %meta.range.last, "taken over from the run before");
        head.txid = meta.range.last;
        head.last_commit = meta.last_commit;
        // The place in the WAL that belongs to this txid was not noted; that of the batch before is as good, since
        // pages whose hash is known are not shipped again.
    }
    Ok(true)
}

pub(super) fn outdated(database: &DatabaseStore, path: &Path) -> Error {
    Error::Outdated { database: database.name().to_string(), path: path.to_owned() }
}
