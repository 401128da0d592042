//! Sessions that nobody uses at this moment: to open one takes longer than most requests.
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::sql::{Access, Session, Threads};

/// Sessions that are kept of one database; each holds a connection and what that has cached.
const KEPT: usize = 32;

pub(super) struct Spare {
    kept: Mutex<Kept>,
    /// How long one is kept.
    idle: Duration,
    threads: Threads,
}

#[derive(Default)]
struct Kept {
    /// The one that was used last is at the end.
    unused: Vec<Unused>,
    /// Whether somebody closes them when their time is over.
    swept: bool,
}

struct Unused {
    session: Session,
    access: Access,
    since: Instant,
}

impl Spare {
    pub(super) fn new(idle: Duration, threads: Threads) -> Arc<Self> {
        Arc::new(Self { kept: Mutex::default(), idle, threads })
    }

    /// The session with these rights that was used last: its connection's cache is the newest.
    pub(super) fn take(&self, access: Access) -> Option<Session> {
        let unused = &mut self.kept.lock().unused;
        let index = unused.iter().rposition(|unused| unused.access == access)?;
        Some(unused.remove(index).session)
    }

    /// Keeps a session for the next who needs one. Does not block.
    pub(super) fn keep(self: &Arc<Self>, session: Session, access: Access) {
        let mut kept = self.kept.lock();
        let oldest = (kept.unused.len() >= KEPT).then(|| kept.unused.remove(0));
        kept.unused.push(Unused { session, access, since: Instant::now() });
        if !std::mem::replace(&mut kept.swept, true) {
            tokio::spawn(sweep(Arc::downgrade(self), self.idle));
        }
        drop(kept);
        self.close(oldest.into_iter().collect());
    }

    /// Closes all of them.
    pub(super) fn clear(&self) {
        let all = std::mem::take(&mut self.kept.lock().unused);
        self.close(all);
    }

    /// Closes those that were not used for long enough; tells when to look again, if there are more.
    fn close_old(&self, now: Instant) -> Option<Instant> {
        let mut kept = self.kept.lock();
        let young = |unused: &Unused| now.saturating_duration_since(unused.since) < self.idle;
        let old = kept.unused.extract_if(.., |unused| !young(unused)).collect();
        let next = kept.unused.iter().map(|unused| unused.since + self.idle).min();
        kept.swept = next.is_some();
        drop(kept);
        self.close(old);
        next
    }

    fn close(&self, sessions: Vec<Unused>) {
        if !sessions.is_empty() {
            self.threads.spawn(move || drop(sessions));
        }
    }
}

/// Closes what is not used, until there is nothing left.
async fn sweep(spare: Weak<Spare>, idle: Duration) {
    let mut next = Instant::now() + idle;
    loop {
        tokio::time::sleep_until(next).await;
        let Some(spare) = spare.upgrade() else { return };
        match spare.close_old(Instant::now()) {
            Some(later) => next = later,
            None => return,
        }
    }
}
