//! When to look, when to capture, and when to put.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Replica;
use super::sleep::Fingerprint;

/// After the last commit, looks are frequent for this long; then a notification is waited for.
const ALERT: Duration = Duration::from_millis(50);
/// How often to look while alert.
const ALERT_POLL: Duration = Duration::from_millis(1);
/// Looks at all idle databases together are no more frequent than one in this time.
const POLL_SHARE: Duration = Duration::from_millis(10);
/// After the last commit, the WAL is brought into the database file and let go of.
const REST_AFTER: Duration = Duration::from_secs(1);
/// The least time between two puts under constant load: a commit after a pause is shipped at once. A directory takes
/// a thousand puts a second, and their flushes would keep the application's processor from its work; an object store
/// is slower than this by itself.
const LEAST_INTERVAL: Duration = Duration::from_millis(5);

impl Replica {
    /// Whether the next batch may be captured now, or should go on collecting in the WAL.
    pub(super) fn may_capture(&mut self, putting: bool) -> bool {
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

    pub(super) fn may_put(&self) -> bool {
        if self.queue.is_empty() {
            return false;
        }
        self.is_asked()
            || self.shared.budget.as_ref().is_none_or(|budget| budget.take(Instant::now()).is_ok())
    }

    /// For how long the next batch is still held back for those who are expected to ask; `None`: it is not.
    fn wait_to_gather(&self) -> Option<Duration> {
        let gathering = self.gathering.as_ref().filter(|_| !self.stopping)?;
        gathering.wait(self.syncs.len(), Instant::now())
    }

    /// A cheap look, when a poll is due.
    pub(super) fn look(&mut self) {
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
    pub(super) fn next_look(&mut self, putting: bool, retry: Option<Instant>) -> Duration {
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
}
