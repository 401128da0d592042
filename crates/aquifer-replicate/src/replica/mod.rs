//! One database's replica: captures what is committed and ships it, until told to stop.
//!
//! ```text
//!   recover ──► capture ──► queue ──► put ──► durable
//!                  ▲          │
//!                  │          └─ to disk, when the store is slow or away
//!                  └── wake-up, poll, or the end of a put
//! ```
//!
//! While a put is in flight, commits collect in the WAL and become the next batch: throughput does not fall with the
//! store's latency. Only when a put takes very long, batches are captured behind it, to disk.
//!
//! # Invariants
//! - Batches are put in the order of their txids, each only after the one before it is durable; a put is repeated with
//!   the same bytes until its outcome is known.
//! - The page map on disk never runs ahead of what is durable in the store or staged on this disk.
//! - A replica that was fenced puts nothing more.

mod adoption;
mod apply;
mod capturing;
mod gathering;
mod pause;
mod proof;
mod put;
mod recovery;
mod sleep;
mod staging;
mod syncs;
mod timing;
mod upkeep;
mod views;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use aquifer_format::segment::SegmentInfo;
use aquifer_format::{PageHash, Pgno, Revision, Txid, WriterNonce};
use aquifer_log::DatabaseStore;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use crate::budget::RequestBudget;
use crate::capture::{Body, Capture, NextBatch};
use crate::options::ReplicaOptions;
use crate::state::{Head, MapFile, StateDir};
use crate::status::{ReplicaState, ReplicaStatus};
use crate::tracker::Tracker;
use crate::watch::Watcher;
use crate::workers::Workers;
use crate::{Error, Result};
use apply::Applies;
use gathering::Gathering;
use pause::Pause;
use proof::Proof;
use put::Request;
use sleep::Fingerprint;
use syncs::Syncs;
use upkeep::Upkeep;
use views::Views;

pub use apply::{Applied, PageWrite};
pub use upkeep::UpkeepOptions;
pub use views::RevisionView;

/// A database counts as starting for this long at most.
const START_SHARE: Duration = Duration::from_secs(5);
/// Between two attempts to put a batch; doubled up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(15);
/// How long a replica that is told to stop goes on trying to read a database that cannot be read.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// What a replica shares with those of other databases.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    /// Bounds how many databases are opened for the first time at once: each takes descriptors.
    pub starting: Arc<Semaphore>,
    pub workers: Workers,
    /// For work on the log: one database's at a time.
    pub upkeep: Workers,
    pub watcher: Option<Arc<Watcher>>,
    pub budget: Option<Arc<RequestBudget>>,
    pub host: String,
    /// How many databases there are.
    pub databases: Arc<AtomicUsize>,
}

/// What a replica can be asked for.
#[derive(Debug)]
pub(crate) enum Command {
    /// Capture all that is committed, and answer when it is durable.
    Sync(oneshot::Sender<Result<Option<Revision>>>),
    /// Write pages that somebody else made.
    Apply(PageWrite, oneshot::Sender<Result<Applied>>),
    /// Hand out a view of the latest durable revision.
    View(oneshot::Sender<Result<Arc<RevisionView>>>),
    /// The same as [`Command::Sync`], and then stop.
    Stop(oneshot::Sender<Result<Option<Revision>>>),
}

/// To which batch local state must be wound back, and who wrote the next one in the store.
#[derive(Clone, Copy, Debug)]
struct Rewind {
    after: Txid,
    writer: WriterNonce,
}

/// A batch that is not durable in the store.
struct Pending {
    info: SegmentInfo,
    body: Body,
    head: Head,
    changes: Vec<(Pgno, PageHash)>,
    /// Its file in the staging directory; from then on it is in the page map's journal.
    staged: Option<PathBuf>,
    captured: Instant,
}

impl Pending {
    fn is_staged_in(&mut self, file: PathBuf) {
        self.body = Body::Staged(file.clone());
        self.changes = Vec::new();
        self.staged = Some(file);
    }
}

#[expect(clippy::struct_excessive_bools, reason = "they are independent of each other")]
pub(crate) struct Replica {
    database: DatabaseStore,
    path: PathBuf,
    options: ReplicaOptions,
    shared: Shared,
    directory: StateDir,
    map_file: MapFile,
    /// `None` while a step runs on a worker, while it is asleep, and while it is paused.
    capture: Option<Capture>,
    /// While there is no room on disk.
    paused: Option<Pause>,
    /// How long the last pause was to be, until something was captured again.
    room_wait: Option<Duration>,
    /// While it sleeps: what its files looked like.
    asleep: Option<Fingerprint>,
    /// Held until the database has come to rest for the first time, or has been at work for a while.
    starting: Option<OwnedSemaphorePermit>,
    started: Instant,
    /// What was captured last.
    head: Head,
    proof: Proof,
    queue: VecDeque<Pending>,
    upkeep: Upkeep,
    waker: Arc<Notify>,
    status: watch::Sender<ReplicaStatus>,
    /// Whether a look is due.
    dirty: bool,
    last_commit: Instant,
    last_put: Option<Instant>,
    gathering: Option<Gathering>,
    resting: bool,
    /// Whether a notification of the next write to the WAL is on its way.
    armed: bool,
    syncs: Syncs,
    views: Views,
    applies: Applies,
    tracker: Option<Arc<Tracker>>,
    stopping: bool,
}

impl Replica {
    /// Runs until it is told to stop, or cannot go on; the status says why.
    pub(crate) async fn run(
        database: DatabaseStore,
        path: PathBuf,
        options: ReplicaOptions,
        tracker: Option<Arc<Tracker>>,
        shared: Shared,
        mut commands: mpsc::Receiver<Command>,
        status: watch::Sender<ReplicaStatus>,
    ) {
        let mut retry = RETRY_MIN;
        let mut waiting = Vec::new();
        let mut stopping: Option<Instant> = None;
        let mut rewind = None;
        let failure = loop {
            let starting = Arc::clone(&shared.starting).acquire_owned().await.ok();
            let start = Self::recover(&database, &path, &options, &shared, &status, rewind).await;
            let error = match start {
                Ok(mut replica) => {
                    rewind = None;
                    replica.starting = starting;
                    replica.is_tracked_by(tracker.clone());
                    replica.syncs.append(&mut waiting);
                    replica.stopping = stopping.is_some();
                    match replica.run_until_stopped(&mut commands).await {
                        Ok(()) => return,
                        Err(e) => {
                            waiting.append(&mut replica.syncs.take());
                            if replica.stopping {
                                stopping.get_or_insert_with(Instant::now);
                            }
                            e
                        }
                    }
                }
                Err(e) => e,
            };
            if let Error::Behind { after, writer, .. } = error {
                rewind = Some(Rewind { after, writer });
                continue;
            }
            if !error.is_transient() {
                break error;
            }
            if stopping.is_some() && error.is_without_database() {
                // Looked at after the request to stop: there is nothing to ship.
                for answer in waiting {
                    let _ = answer.send(Ok(status.borrow().durable));
                }
                return;
            }
            // The store is waited for: whoever stops a replica decides for how long.
            let is_store = matches!(error, Error::Log(_));
            if !is_store && stopping.is_some_and(|since| since.elapsed() > STOP_PATIENCE) {
                break error;
            }
            tracing::warn!(error = %error, "cannot replicate at the moment; trying again");
            status.send_modify(|s| {
                s.state = match &error {
                    Error::Log(e) => ReplicaState::Outage(e.to_string()),
                    e => ReplicaState::Waiting(e.to_string()),
                };
                s.errors += 1;
                if !error.is_without_database() {
                    s.behind_since.get_or_insert_with(Instant::now);
                }
            });
            tokio::select! {
                () = tokio::time::sleep(retry) => {}
                command = commands.recv() => match command {
                    Some(Command::Sync(answer)) => waiting.push(answer),
                    Some(Command::View(asked)) => refuse(asked, &error.to_string()),
                    Some(Command::Apply(_, asked)) => refuse(asked, &error.to_string()),
                    Some(Command::Stop(answer)) => {
                        stopping = Some(Instant::now());
                        retry = RETRY_MIN;
                        waiting.push(answer);
                    }
                    None => return,
                },
            }
            retry = (retry * 2).min(RETRY_MAX);
        };
        tracing::error!(error = %failure, "replication stopped");
        let message = failure.to_string();
        status.send_modify(|s| s.state = ReplicaState::Stopped(message.clone()));
        let mut failure = Some(failure);
        for answer in waiting {
            let _ = answer.send(Err(failure.take().unwrap_or_else(|| Error::Stopped(message.clone()))));
        }
        while let Some(command) = commands.recv().await {
            match command {
                Command::View(asked) => refuse(asked, &message),
                Command::Apply(_, asked) => refuse(asked, &message),
                Command::Sync(answer) | Command::Stop(answer) => {
                    let _ =
                        answer.send(Err(failure.take().unwrap_or_else(|| Error::Stopped(message.clone()))));
                }
            }
        }
    }

    async fn run_until_stopped(&mut self, commands: &mut mpsc::Receiver<Command>) -> Result<()> {
        let mut put: Option<Request> = None;
        let mut retry: Option<(Instant, Duration)> = None;
        loop {
            // One look answers all who ask at the same time.
            while let Ok(command) = commands.try_recv() {
                self.take_command(command);
            }
            if self.started.elapsed() > START_SHARE {
                self.starting = None;
            }
            if self.dirty && self.may_capture(put.is_some()) {
                self.step().await?;
            }
            if self.applies.are_asked() && self.capture.is_some() && self.paused.is_none() {
                self.apply().await?;
            }
            if self.views.are_due() {
                self.take_view().await?;
            }
            if put.is_none() && retry.is_none_or(|(at, _)| at <= Instant::now()) {
                put = self.next_request()?;
            }
            self.tell_durable();
            let is_all_durable = self.queue.is_empty() && matches!(self.proof, Proof::At(_));
            if self.stopping && put.is_none() && is_all_durable && !self.dirty {
                self.upkeep.finish().await;
                return Ok(());
            }
            self.publish(put.is_some());
            let next_look = self.next_look(put.is_some(), retry.map(|(at, _)| at));
            tokio::select! {
                done = async { put.as_mut().expect("checked by the condition").await }, if put.is_some() => {
                    put = None;
                    let was_put = matches!(done, Ok(put::Outcome::Put(..)));
                    retry = self.put_done(done, retry)?;
                    if was_put && retry.is_none() {
                        self.answer_and_gather();
                    }
                    if let Some(durable) = self.durable().filter(|_| retry.is_none()) {
                        self.upkeep.consider(durable.txid, &self.shared.upkeep).await;
                    }
                }
                () = self.waker.notified(), if !self.dirty => {
                    self.armed = false;
                    self.dirty = true;
                    self.last_commit = Instant::now();
                }
                () = tokio::time::sleep(next_look) => self.look(),
                command = commands.recv() => match command {
                    Some(command) => self.take_command(command),
                    None => return Ok(()),
                },
            }
        }
    }

    /// After a put: answers those who waited for it before anything else is begun, and expects them to ask again.
    fn answer_and_gather(&mut self) {
        let waited = self.syncs.len();
        self.tell_durable();
        self.gathering =
            self.last_put.and_then(|began| Gathering::after(began.elapsed(), waited, Instant::now()));
    }

    fn take_command(&mut self, command: Command) {
        self.stopping |= matches!(command, Command::Stop(_));
        match command {
            Command::View(asked) => self.views.ask(asked),
            Command::Apply(write, asked) => {
                // A database that sleeps is woken by a look.
                self.dirty = true;
                self.applies.ask(write, asked);
            }
            Command::Sync(answer) | Command::Stop(answer) => {
                self.dirty = true;
                self.syncs.ask(answer);
            }
        }
    }

    fn is_tracked_by(&mut self, tracker: Option<Arc<Tracker>>) {
        if let (Some(tracker), Some(map)) = (&tracker, self.map()) {
            tracker.begin(self.head.generation, self.head.txid, map.pages());
        }
        self.tracker = tracker;
    }

    fn is_asked(&self) -> bool {
        self.stopping || !self.syncs.is_empty()
    }

    /// What is known to be in the store.
    fn durable(&self) -> Option<Revision> {
        let txid = self.behind_queue();
        let is_known = matches!(self.proof, Proof::At(_)) && txid > Txid::ZERO;
        is_known.then_some(Revision { generation: self.head.generation, txid })
    }

    /// The last batch that does not wait for the store.
    fn behind_queue(&self) -> Txid {
        self.queue.front().map_or(self.head.txid, |front| front.head.txid.previous())
    }

    fn publish(&self, putting: bool) {
        let behind = self.queue.len() as u64;
        let staged = self.queue.iter().filter(|p| p.staged.is_some()).map(|p| p.info.stored_len()).sum();
        let pending = self.dirty || behind > 0;
        let paused = self.paused.as_ref().map(|paused| paused.reason.clone());
        self.status.send_if_modified(|s| {
            let before = (s.behind_txids, s.behind_since.is_some(), s.staged_bytes);
            s.behind_txids = behind;
            s.staged_bytes = staged;
            s.behind_since = pending.then(|| s.behind_since.unwrap_or_else(Instant::now));
            let state = match (&s.state, pending) {
                (ReplicaState::Outage(_), true) if !putting => s.state.clone(),
                (_, true) if paused.is_some() => ReplicaState::Waiting(paused.unwrap_or_default()),
                (_, true) => ReplicaState::Shipping,
                (_, false) => ReplicaState::Idle,
            };
            let changed = state != s.state || before != (behind, pending, staged);
            s.state = state;
            changed
        });
    }
}

/// Answers somebody who asks a replica that cannot do it.
fn refuse<T>(asked: oneshot::Sender<Result<T>>, why: &str) {
    let _ = asked.send(Err(Error::Stopped(why.to_owned())));
}
