//! Puts batch after batch, and first of all asks where the generation ends.
//!
//! A put is repeated with the same bytes until its outcome is known. While the store is away, batches wait on this disk.

use std::pin::Pin;
use std::time::{Duration, Instant};

use aquifer_format::{Moment, Revision};
use aquifer_log::{LogError, Shipped};
use futures::future::BoxFuture;

use super::proof::{End, Proof};
use super::{Pending, RETRY_MAX, RETRY_MIN, Replica, proof, staging};
use crate::capture::Body;
use crate::status::ReplicaState;
use crate::{Error, Result};

/// Segments larger than this are uploaded in parts.
const LARGE: u64 = 32 << 20;

/// A request that the store is asked one at a time.
pub(super) type Request = Pin<Box<dyn Future<Output = Result<Outcome>> + Send>>;

/// What came of it, and when it began.
pub(super) enum Outcome {
    /// The generation ends with what this replica builds on.
    Proven(Moment),
    /// The batch at the front of the queue was put, or not.
    Put(Shipped, Moment),
}

impl Replica {
    /// What the store is to be asked next.
    pub(super) fn next_request(&mut self) -> Result<Option<Request>> {
        match self.proof {
            Proof::Missing(next) => {
                let (database, head, began) = (self.database.clone(), self.head, Moment::now());
                Ok(Some(Box::pin(async move {
                    let name = || database.name().to_string();
                    match proof::end_of(&database, head.generation, next).await? {
                        End::Here => Ok(Outcome::Proven(began)),
                        End::Before(after) => {
                            Err(Error::Behind { database: name(), after, writer: head.writer })
                        }
                        End::Elsewhere(theirs) => Err(Error::Fenced {
                            database: name(),
                            generation: head.generation,
                            txid: next.txid,
                            by: theirs.writer,
                        }),
                    }
                })))
            }
            Proof::At(proven) if self.may_put() => self.start_put(proven),
            Proof::At(_) => Ok(None),
        }
    }

    fn start_put(&mut self, proven: Moment) -> Result<Option<Request>> {
        let Some(front) = self.queue.front() else { return Ok(None) };
        let txid = front.head.txid;
        let put = self.put_front(front)?;
        let (database, generation) = (self.database.clone(), self.head.generation);
        let (lasts, began) = (self.options.proof_lasts(), Moment::now());
        self.last_put = Some(Instant::now());
        Ok(Some(Box::pin(async move {
            let mut shipped = put.await?;
            if shipped.is_committed() && proven.elapsed() > lasts {
                shipped = proof::confirm(&database, generation, txid).await?;
            }
            Ok(Outcome::Put(shipped, began))
        })))
    }

    fn put_front(&self, front: &Pending) -> Result<BoxFuture<'static, Result<Shipped, LogError>>> {
        let (database, info, generation) = (self.database.clone(), front.info.clone(), self.head.generation);
        let file = match &front.body {
            Body::Memory(bytes) => {
                let bytes = bytes.clone();
                return Ok(Box::pin(async move { database.put_level0(generation, &info, bytes).await }));
            }
            Body::File(file) => file.to_path_buf(),
            Body::Staged(file) => file.clone(),
        };
        if info.stored_len() <= LARGE {
            let bytes = std::fs::read(&file).map_err(Error::state(&file))?;
            return Ok(Box::pin(async move { database.put_level0(generation, &info, bytes).await }));
        }
        let file = std::fs::File::open(&file).map_err(Error::state(&file))?;
        Ok(Box::pin(async move {
            database.put_level0_large(generation, &info, tokio::fs::File::from_std(file)).await
        }))
    }

    /// Takes the outcome of a request. Returns when to try again, if it failed.
    pub(super) fn put_done(
        &mut self,
        outcome: Result<Outcome>,
        retry: Option<(Instant, Duration)>,
    ) -> Result<Option<(Instant, Duration)>> {
        match outcome {
            Ok(Outcome::Proven(began)) => {
                self.proof = Proof::At(began);
                let durable = self.durable();
                self.status.send_modify(|s| s.durable = durable);
                Ok(None)
            }
            Ok(Outcome::Put(Shipped::Committed, began)) => {
                let Some(done) = self.queue.pop_front() else { return Ok(None) };
                let shipped = done.info.stored_len();
                if let Some(file) = &done.staged {
                    staging::remove(file).map_err(Error::state(file))?;
                } else {
                    let journaled = self.journal(&done);
                    self.with_room(journaled)?;
                }
                self.proof = Proof::At(began);
                // The name is taken now: whatever the run before had under way comes too late.
                self.head.previous = None;
                let revision = Revision { generation: self.head.generation, txid: done.head.txid };
                tracing::debug!(txid = %done.head.txid, bytes = shipped, "durable");
                self.status.send_modify(|s| {
                    s.durable = Some(revision);
                    s.shipped_bytes += shipped;
                });
                Ok(None)
            }
            Ok(Outcome::Put(Shipped::Fenced(theirs), _))
                if self.head.is_ours(theirs.writer)
                    && self.queue.front().is_some_and(|front| front.head.txid == theirs.range.first) =>
            {
                // The run before this one put a batch and did not live to note it, and this one could not ask the
                // store when it started, or asked too early. Take that batch over, and find by comparing what came
                // after it.
                Err(Error::Behind {
                    database: self.database.name().to_string(),
                    after: theirs.range.first.previous(),
                    writer: theirs.writer,
                })
            }
            Ok(Outcome::Put(Shipped::Fenced(theirs), _)) => Err(Error::Fenced {
                database: self.database.name().to_string(),
                generation: self.head.generation,
                txid: self.queue.front().map_or(theirs.range.first, |front| front.head.txid),
                by: theirs.writer,
            }),
            Err(e @ Error::Log(_)) if e.is_transient() => {
                let wait = retry.map_or(RETRY_MIN, |(_, wait)| (wait * 2).min(RETRY_MAX));
                tracing::warn!(error = %e, retry_in = ?wait, "cannot reach the store");
                self.status.send_modify(|s| {
                    s.state = ReplicaState::Outage(e.to_string());
                    s.errors += 1;
                });
                let staged = self.stage_all();
                self.with_room(staged)?;
                Ok(Some((Instant::now() + wait, wait)))
            }
            Err(e) => Err(e),
        }
    }

    /// Records a batch that went to the store without having been staged.
    fn journal(&mut self, done: &Pending) -> Result<()> {
        let state = Error::state(self.directory.path());
        let wants_fold = self.map_file.is_stale()
            || self
                .map_file
                .append(&done.head, done.info.meta().size_after, &done.changes)
                .map_err(Error::state(self.directory.path()))?;
        // The capture's map is that of this batch only if nothing was captured since.
        if wants_fold
            && self.queue.is_empty()
            && done.head.txid == self.head.txid
            && let Some(map) = self.map()
        {
            let head = done.head;
            self.map_file.rewrite(&head, &map.clone()).map_err(state)?;
        }
        Ok(())
    }

    /// Makes all that waits survive a crash of this machine.
    pub(super) fn stage_all(&mut self) -> Result<()> {
        let directory = self.directory.staging();
        let state = |e| Error::state(self.directory.path())(e);
        let mut unrecorded = Vec::new();
        for (at, pending) in self.queue.iter_mut().enumerate() {
            if pending.staged.is_some() {
                continue;
            }
            let file = staging::write(&directory, pending.head.txid, &pending.body)
                .map_err(Error::state(&directory))?;
            if self.map_file.is_stale() {
                unrecorded.push((at, file));
                continue;
            }
            self.map_file
                .append(&pending.head, pending.info.meta().size_after, &pending.changes)
                .map_err(state)?;
            pending.is_staged_in(file);
        }
        if let Some(map) = self.map().filter(|_| !unrecorded.is_empty()).cloned() {
            self.map_file.rewrite(&self.head, &map).map_err(state)?;
            for (at, file) in unrecorded {
                self.queue[at].is_staged_in(file);
            }
        }
        Ok(())
    }
}
