//! What stops a statement: its time is over, or nobody waits for it any more.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rusqlite::{Connection, InterruptHandle};

use super::{Limits, SqlError};

/// Virtual machine instructions between two looks at the clock: some tens of microseconds.
const INSTRUCTIONS: i32 = 2_000;
/// The longest pause between two attempts to get a lock.
const LONGEST_PAUSE: Duration = Duration::from_millis(10);

pub(super) struct Watch {
    born: Instant,
    cancelled: AtomicBool,
    /// Nanoseconds after `born` at which the running statement must be done.
    deadline: AtomicU64,
    timed_out: AtomicBool,
    /// Nanoseconds that a request has waited for its turn to write, before it could run.
    waited: AtomicU64,
    limit: Duration,
    handle: InterruptHandle,
}

impl Watch {
    /// Watches all that `connection` does from now on. Replaces its progress and busy handlers.
    pub(super) fn over(connection: &mut Connection, limits: &Limits) -> Result<Arc<Self>, SqlError> {
        let watch = Arc::new(Self {
            born: Instant::now(),
            cancelled: AtomicBool::new(false),
            deadline: AtomicU64::new(u64::MAX),
            timed_out: AtomicBool::new(false),
            waited: AtomicU64::new(0),
            limit: limits.statement_time,
            handle: connection.get_interrupt_handle(),
        });
        let progress = watch.clone();
        connection.progress_handler(INSTRUCTIONS, Some(move || progress.must_stop()))?;
        let (waiting, timeout) = (watch.clone(), limits.busy_timeout);
        let mut since = Instant::now();
        connection.busy_handler(Some(move |attempts: i32| {
            if attempts == 0 {
                since = Instant::now();
            }
            let waited = since.elapsed() + Duration::from_nanos(waiting.waited.load(Ordering::Relaxed));
            if waiting.cancelled.load(Ordering::Acquire) || waited >= timeout {
                return false;
            }
            let pause = Duration::from_millis(1 << attempts.clamp(0, 4)).min(LONGEST_PAUSE);
            std::thread::sleep(pause.min(timeout.saturating_sub(waited)));
            waiting.extend(pause);
            true
        }))?;
        Ok(watch)
    }

    /// A statement starts: its time begins.
    pub(super) fn start(&self) -> Result<(), SqlError> {
        if self.cancelled.load(Ordering::Acquire) {
            return Err(SqlError::Cancelled);
        }
        self.timed_out.store(false, Ordering::Relaxed);
        let deadline = self.born.elapsed() + self.limit;
        self.deadline.store(u64::try_from(deadline.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        Ok(())
    }

    /// The next statements have waited so long for a lock before they could run.
    pub(super) fn has_waited(&self, time: Duration) {
        self.waited.store(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Whether it was stopped for good.
    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// Gives the running statement `time` back that it spent waiting for others.
    pub(super) fn extend(&self, time: Duration) {
        self.deadline.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
    }

    /// The statement that runs is not wanted to its end, so its changes must go.
    pub(super) fn interrupt(&self) {
        self.handle.interrupt();
    }

    /// What an interrupted statement's error really means.
    pub(super) fn explain(&self, error: SqlError) -> SqlError {
        // A busy handler that gave up because the client is gone shows as SQLITE_BUSY.
        match error.primary_code() {
            Some(rusqlite::ffi::SQLITE_INTERRUPT | rusqlite::ffi::SQLITE_BUSY)
                if self.cancelled.load(Ordering::Acquire) =>
            {
                SqlError::Cancelled
            }
            Some(rusqlite::ffi::SQLITE_INTERRUPT) if self.timed_out.load(Ordering::Relaxed) => {
                SqlError::TimedOut { limit: self.limit }
            }
            _ => error,
        }
    }

    fn must_stop(&self) -> bool {
        if self.cancelled.load(Ordering::Acquire) {
            return true;
        }
        let over = self.born.elapsed().as_nanos() as u64 > self.deadline.load(Ordering::Relaxed);
        if over {
            self.timed_out.store(true, Ordering::Relaxed);
        }
        over
    }
}

/// Stops a session from another thread, for good: what runs is interrupted, what would come is refused.
#[derive(Clone)]
pub struct Interrupter(pub(super) Arc<Watch>);

impl Interrupter {
    /// Stops the session. It may be called at any time and more than once.
    pub fn interrupt(&self) {
        self.0.cancelled.store(true, Ordering::Release);
        self.0.handle.interrupt();
    }

    /// Gives the running statement `time` back that it spent waiting for a slow reader.
    pub fn extend(&self, time: Duration) {
        self.0.extend(time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_spent_waiting_for_others_is_not_the_statements() {
        let mut connection = Connection::open_in_memory().unwrap();
        let limits = Limits { statement_time: Duration::ZERO, ..Limits::default() };
        let watch = Watch::over(&mut connection, &limits).unwrap();
        watch.start().unwrap();
        assert!(watch.must_stop());
        watch.start().unwrap();
        watch.extend(Duration::from_hours(1));
        assert!(!watch.must_stop());
        Interrupter(watch.clone()).interrupt();
        assert!(watch.must_stop());
        assert_eq!(watch.start(), Err(SqlError::Cancelled));
    }
}
