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

mod apply;
mod gathering;
mod pause;
mod proof;
mod put;
mod recovery;
mod sleep;
mod staging;
mod syncs;
mod upkeep;
mod views;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use aquifer_format::segment::SegmentInfo;
use aquifer_format::{PageHash, Pgno, Revision, Txid, WriterNonce};
use aquifer_log::DatabaseStore;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use crate::budget::RequestBudget;
use crate::capture::{Batch, Body, Capture, NextBatch};
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

/// After the last commit, looks are frequent for this long; then a notification is waited for.
const ALERT: Duration = Duration::from_millis(50);
/// How often to look while alert.
const ALERT_POLL: Duration = Duration::from_millis(1);
/// A database counts as starting for this long at most.
const START_SHARE: Duration = Duration::from_secs(5);
/// Looks at all idle databases together are no more frequent than one in this time.
const POLL_SHARE: Duration = Duration::from_millis(10);
/// After the last commit, the WAL is brought into the database file and let go of.
const REST_AFTER: Duration = Duration::from_secs(1);
/// The least time between two puts under constant load: a commit after a pause is shipped at once. A directory takes
/// a thousand puts a second, and their flushes would keep the application's processor from its work; an object store
/// is slower than this by itself.
const LEAST_INTERVAL: Duration = Duration::from_millis(5);
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

    /// For how long the next batch is still held back for those who are expected to ask; `None`: it is not.
    fn wait_to_gather(&self) -> Option<Duration> {
        let gathering = self.gathering.as_ref().filter(|_| !self.stopping)?;
        gathering.wait(self.syncs.len(), Instant::now())
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

    /// Whether the next batch may be captured now, or should go on collecting in the WAL.
    fn may_capture(&mut self, putting: bool) -> bool {
        let staged: u64 = self.queue.iter().map(|p| p.info.stored_len()).sum();
        if staged > self.options.max_staging {
            if self.capture.is_some() {
                self.pause(format!("the staging is full ({staged} bytes)"));
            }
            return false;
        }
        if self.capture.is_none() {
            return self.may_resume();
        }
        if self.queue.is_empty() && !putting {
            return self.wait_to_put().is_none() && self.wait_to_gather().is_none();
        }
        let waits = self.queue.front().map_or(Duration::ZERO, |front| front.captured.elapsed());
        // One batch behind a slow put is enough until the WAL wants to be checkpointed.
        waits > self.options.stage_after && (self.queue.len() < 2 || self.is_wal_large())
    }

    fn is_wal_large(&self) -> bool {
        self.capture.as_ref().is_some_and(|c| c.uncaptured_bytes() > self.options.wal.soft)
    }

    /// How long the next put must wait for the interval; `None`: not at all.
    fn wait_to_put(&self) -> Option<Duration> {
        if self.is_asked() || self.is_wal_large() {
            return None;
        }
        self.options
            .interval
            .max(LEAST_INTERVAL)
            .checked_sub(self.last_put?.elapsed())
            .filter(|wait| !wait.is_zero())
    }

    fn may_put(&self) -> bool {
        if self.queue.is_empty() {
            return false;
        }
        self.is_asked()
            || self.shared.budget.as_ref().is_none_or(|budget| budget.take(Instant::now()).is_ok())
    }

    /// Captures one batch, and tends the WAL.
    async fn step(&mut self) -> Result<()> {
        self.asleep = None;
        let mut capture = match self.capture.take() {
            Some(capture) => capture,
            None => self.resume_capture().await?,
        };
        let next = self.next_batch();
        let (capture, step) = self
            .shared
            .workers
            .run(move || {
                let step = capture_step(&mut capture, next);
                (capture, step)
            })
            .await;
        let found = !step.batches.is_empty();
        self.views.were_looked_for();
        self.capture = Some(capture);
        self.take_batches(step.batches)?;
        let wal_bytes = match step.wal_bytes {
            Ok(wal_bytes) => wal_bytes,
            Err(e) if e.is_full() => {
                self.with_room(Err(e))?;
                0
            }
            // The database was removed. What was captured of it is still to be shipped.
            Err(e) if e.is_without_database() && !self.queue.is_empty() => {
                self.pause(e.to_string());
                0
            }
            Err(e) if e.is_transient() && !e.is_without_database() => {
                // Another process recovers its WAL, say. The pin holds. It stays dirty: nobody may be told that all is
                // durable, and the next look is soon.
                self.last_commit = Instant::now();
                return Ok(());
            }
            Err(e) => return Err(e),
        };
        // After a batch there may be more: commits that came in while it was encoded. Where the next batch has to wait,
        // that is found out now, since nothing to ship is no lag. And what was not captured for want of room is still to
        // be.
        let is_held = !self.options.interval.is_zero() && !self.is_asked();
        let may_be_more = found && (!is_held || self.capture.as_mut().is_none_or(Capture::may_have_changed));
        self.dirty = may_be_more || self.paused.is_some();
        if self.paused.is_none() {
            self.syncs.are_captured(self.head.txid);
        }
        if wal_bytes > self.options.wal.viewed {
            self.views.give_up();
        }
        self.status.send_modify(|s| s.wal_bytes = wal_bytes);
        Ok(())
    }

    fn next_batch(&self) -> NextBatch {
        NextBatch {
            txid: self.head.txid.next(),
            writer: self.head.writer,
            frames: 0,
            not_before: self.head.last_commit,
        }
    }

    /// Takes over what was captured, to be put.
    fn take_batches(&mut self, batches: Vec<Batch>) -> Result<()> {
        if batches.is_empty() {
            return Ok(());
        }
        for batch in batches {
            self.enqueue(batch);
        }
        self.room_wait = None;
        self.last_commit = Instant::now();
        self.resting = false;
        if self.queue.len() > 1 {
            let staged = self.stage_all();
            self.with_room(staged)?;
        }
        Ok(())
    }

    fn enqueue(&mut self, batch: Batch) {
        let meta = batch.meta();
        self.head = Head {
            txid: meta.range.last,
            last_commit: meta.last_commit,
            wal: batch.wal,
            page_size: meta.page_size,
            ..self.head
        };
        self.status.send_modify(|s| s.captured_bytes += batch.wal_bytes);
        if let Some(tracker) = &self.tracker {
            tracker.captured(meta, batch.changes.iter().map(|change| change.0));
        }
        self.queue.push_back(Pending {
            info: batch.encoded.info,
            body: batch.encoded.body,
            head: self.head,
            changes: batch.changes,
            staged: None,
            captured: Instant::now(),
        });
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

    /// A cheap look, when a poll is due.
    fn look(&mut self) {
        if !self.dirty {
            let changed = match (&self.asleep, &mut self.capture) {
                (Some(before), _) => Fingerprint::of(&self.path) != *before,
                (None, Some(capture)) => capture.may_have_changed(),
                (None, None) => true,
            };
            if changed {
                self.armed = false;
                self.dirty = true;
                self.last_commit = Instant::now();
            } else if !self.resting && self.last_commit.elapsed() > REST_AFTER {
                self.rest();
            }
        }
    }

    /// Nothing is committed any more: leaves the database as if nobody watched, and waits to be woken.
    fn rest(&mut self) {
        self.resting = true;
        if let Some(capture) = &mut self.capture
            && let Err(e) = capture.rest()
        {
            tracing::debug!(error = %e, "cannot checkpoint an idle database");
        }
        self.fall_asleep();
        self.starting = None;
    }

    /// How long to sleep at most. Arms the notification where that is long.
    fn next_look(&mut self, putting: bool, retry: Option<Instant>) -> Duration {
        if self.dirty {
            // What is due is held back by a put in flight, the interval, the budget, or an outage.
            let until_retry = retry.map(|at| at.saturating_duration_since(Instant::now()));
            return [self.wait_to_put(), self.wait_to_gather(), until_retry.filter(|_| !putting)]
                .into_iter()
                .flatten()
                .chain([Duration::from_millis(if putting { 50 } else { 20 })])
                .min()
                .unwrap_or(ALERT_POLL);
        }
        let quiet = self.last_commit.elapsed();
        if quiet < ALERT {
            return ALERT_POLL;
        }
        let mut sleep = if self.resting { self.poll() } else { REST_AFTER.saturating_sub(quiet) };
        if let Some(at) = retry {
            sleep = sleep.min(at.saturating_duration_since(Instant::now()));
        }
        if !self.queue.is_empty() && !putting {
            sleep = sleep.min(Duration::from_millis(50));
        }
        if self.asleep.is_some() {
            return self.arm_asleep(sleep);
        }
        if let (Some(watcher), Some(capture), false) = (&self.shared.watcher, &mut self.capture, self.armed) {
            if let Err(e) = watcher.arm(&capture.wal_path(), &self.waker) {
                tracing::debug!(error = %e, "no notifications; polling");
                return sleep.min(Duration::from_millis(100));
            }
            self.armed = true;
            // What came between the last look and the arming caused no notification.
            if capture.may_have_changed() {
                return Duration::ZERO;
            }
        }
        sleep.max(ALERT_POLL)
    }

    /// How often to look while nothing happens: notifications wake earlier, so that very many databases may be looked at
    /// less often.
    fn poll(&self) -> Duration {
        let databases = self.shared.databases.load(Ordering::Relaxed);
        self.options.poll.max(POLL_SHARE * u32::try_from(databases).unwrap_or(u32::MAX))
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

struct Step {
    batches: Vec<Batch>,
    /// Bytes of frames in the WAL, or why there are not more batches.
    wal_bytes: Result<u64>,
}

/// Captures everything that is committed. What was captured before an error is in `batches`, and stays captured.
fn capture_all(capture: &mut Capture, next: &mut NextBatch, batches: &mut Vec<Batch>) -> Result<()> {
    // Comparing sees the database as it was when it was opened, which may be a while ago.
    let looks = if capture.is_comparing() { 2 } else { 1 };
    for _ in 0..looks {
        if let Some(batch) = capture.next_batch(next)? {
            next.txid = next.txid.next();
            next.not_before = batch.meta().last_commit;
            batches.push(batch);
        }
    }
    Ok(())
}

fn capture_step(capture: &mut Capture, mut next: NextBatch) -> Step {
    let mut batches = Vec::new();
    let wal_bytes = (|| {
        capture_all(capture, &mut next, &mut batches)?;
        match capture.tend_wal(&next) {
            Ok((report, batch)) => {
                batches.extend(batch);
                Ok(report.wal_bytes)
            }
            // The batch is captured; the WAL can wait.
            Err(e) if e.is_transient() || e.is_full() => Ok(0),
            Err(e) => Err(e),
        }
    })();
    Step { batches, wal_bytes }
}
