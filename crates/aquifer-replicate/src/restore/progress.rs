//! What a restore tells while it runs.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// Looking for the segments that are needed.
    Plan,
    /// Fetching and folding what changed after the base.
    Fold,
    /// Fetching the base, and writing the database.
    Write,
    /// Waiting for the disk.
    Sync,
    /// `PRAGMA integrity_check`.
    Check,
    /// Putting the file in its place.
    Install,
}

impl Phase {
    /// As shown to people.
    pub const fn name(self) -> &'static str {
        match self {
            Phase::Plan => "plan",
            Phase::Fold => "fold",
            Phase::Write => "write",
            Phase::Sync => "sync",
            Phase::Check => "check",
            Phase::Install => "install",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How far a restore is. Within memory bounds, `Fold` and `Write` may take turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub phase: Phase,
    /// Bytes fetched so far, of all phases.
    pub bytes_done: u64,
    /// Bytes to fetch in all; 0 until the plan is made.
    pub bytes_total: u64,
    /// Pages written.
    pub pages_done: u64,
    /// Pages to write; 0 until the plan is made.
    pub pages_total: u64,
}

pub(crate) type Listener = Arc<dyn Fn(Progress) + Send + Sync>;

/// Counts, and tells the listener.
pub(crate) struct Meter {
    listener: Option<Listener>,
    /// One call at a time, so that what the listener sees never goes back.
    phase: Mutex<Phase>,
    bytes: AtomicU64,
    bytes_total: AtomicU64,
    pages: AtomicU64,
    pages_total: AtomicU64,
}

impl Meter {
    pub(crate) fn new(listener: Option<Listener>) -> Meter {
        Meter {
            listener,
            phase: Mutex::new(Phase::Plan),
            bytes: AtomicU64::new(0),
            bytes_total: AtomicU64::new(0),
            pages: AtomicU64::new(0),
            pages_total: AtomicU64::new(0),
        }
    }

    pub(crate) fn expect(&self, bytes: u64, pages: u64) {
        self.bytes_total.store(bytes, Ordering::Relaxed);
        self.pages_total.store(pages, Ordering::Relaxed);
    }

    pub(crate) fn phase(&self, phase: Phase) {
        *self.phase.lock() = phase;
        self.tell();
    }

    pub(crate) fn fetched(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.tell();
    }

    pub(crate) fn wrote(&self, pages: u32) {
        self.pages.fetch_add(u64::from(pages), Ordering::Relaxed);
        self.tell();
    }

    /// Bytes fetched so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn tell(&self) {
        let Some(listener) = &self.listener else { return };
        let phase = self.phase.lock();
        listener(Progress {
            phase: *phase,
            bytes_done: self.bytes.load(Ordering::Relaxed),
            bytes_total: self.bytes_total.load(Ordering::Relaxed),
            pages_done: self.pages.load(Ordering::Relaxed),
            pages_total: self.pages_total.load(Ordering::Relaxed),
        });
    }
}
