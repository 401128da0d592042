//! Sessions that nobody uses at this moment: to open one takes longer than most requests.
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::sql::{Access, Session, Threads};

/// Sessions that are kept of one database.
const KEPT: usize = 32;
/// Sessions that are kept of all databases.
const KEPT_OF_ALL: usize = 256;
/// For how long: each holds a connection, some hundred kilobytes. Who uses a database all the time finds one, and
/// thousands of databases that are used now and then hold none.
const IDLE: Duration = Duration::from_secs(1);

/// Room for the sessions of all databases that share it.
#[derive(Clone, Debug)]
pub struct Room(Arc<Semaphore>);

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(KEPT_OF_ALL)))
    }
}

pub(super) struct Spare {
    kept: Mutex<Kept>,
    room: Room,
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
    room: OwnedSemaphorePermit,
}

impl Spare {
    pub(super) fn new(room: Room, threads: Threads) -> Arc<Self> {
        Arc::new(Self { kept: Mutex::default(), room, threads })
    }

    /// The session with these rights that was used last: its connection's cache is the newest.
    pub(super) fn take(&self, access: Access) -> Option<Session> {
        let unused = &mut self.kept.lock().unused;
        let index = unused.iter().rposition(|unused| unused.access == access)?;
        Some(unused.remove(index).session)
    }

    /// Keeps a session for the next who needs one, while there is room. Does not block.
    pub(super) fn keep(self: &Arc<Self>, session: Session, access: Access) {
        let mut kept = self.kept.lock();
        let (oldest, room) = if kept.unused.len() >= KEPT {
            let Unused { session, room, .. } = kept.unused.remove(0);
            (Some(session), room)
        } else if let Ok(room) = Arc::clone(&self.room.0).try_acquire_owned() {
            (None, room)
        } else {
            drop(kept);
            return self.close(session);
        };
        kept.unused.push(Unused { session, access, since: Instant::now(), room });
        if !std::mem::replace(&mut kept.swept, true) {
            tokio::spawn(sweep(Arc::downgrade(self)));
        }
        drop(kept);
        if let Some(oldest) = oldest {
            self.close(oldest);
        }
    }

    /// Closes all of them.
    pub(super) fn clear(&self) {
        let all = std::mem::take(&mut self.kept.lock().unused);
        self.close(all);
    }

    /// Closes those that were not used for long enough; tells when to look again, if there are more.
    fn close_old(&self, now: Instant) -> Option<Instant> {
        let mut kept = self.kept.lock();
        let young = |unused: &Unused| now.saturating_duration_since(unused.since) < IDLE;
        let old = kept.unused.extract_if(.., |unused| !young(unused)).collect::<Vec<_>>();
        let next = kept.unused.iter().map(|unused| unused.since + IDLE).min();
        kept.swept = next.is_some();
        drop(kept);
        self.close(old);
        next
    }

    fn close<T: Send + 'static>(&self, sessions: T) {
        self.threads.spawn(move || drop(sessions));
    }
}

/// Closes what is not used, until there is nothing left.
async fn sweep(spare: Weak<Spare>) {
    let mut next = Instant::now() + IDLE;
    loop {
        tokio::time::sleep_until(next).await;
        let Some(spare) = spare.upgrade() else { return };
        match spare.close_old(Instant::now()) {
            Some(later) => next = later,
            None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;
    use crate::sql::Limits;

    fn session(access: Access) -> Session {
        Session::open(Connection::open_in_memory().unwrap(), access, Limits::default()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_is_kept_for_its_rights_and_for_its_time() {
        let spare = Spare::new(Room::default(), Threads::default());
        for round in 0..3 {
            spare.keep(session(Access::ReadOnly), Access::ReadOnly);
            assert!(spare.take(Access::ReadWrite).is_none());
            assert!(spare.take(Access::ReadOnly).is_some());
            assert!(spare.take(Access::ReadOnly).is_none());
            spare.keep(session(Access::ReadWrite), Access::ReadWrite);
            tokio::time::sleep(IDLE / 2).await;
            assert_eq!(spare.kept.lock().unused.len(), 1, "round {round}");
            tokio::time::sleep(IDLE).await;
            assert_eq!(spare.kept.lock().unused.len(), 0, "round {round}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_are_kept_than_there_is_room_for() {
        let room = Room::default();
        let one = Spare::new(room.clone(), Threads::default());
        for _ in 0..=KEPT {
            one.keep(session(Access::ReadWrite), Access::ReadWrite);
        }
        assert_eq!(one.kept.lock().unused.len(), KEPT);

        let other = Spare::new(room.clone(), Threads::default());
        let rest = room.0.forget_permits(KEPT_OF_ALL);
        assert_eq!(rest, KEPT_OF_ALL - KEPT);
        other.keep(session(Access::ReadWrite), Access::ReadWrite);
        assert!(other.take(Access::ReadWrite).is_none(), "there is no room");
        assert!(one.take(Access::ReadWrite).is_some());
        other.keep(session(Access::ReadWrite), Access::ReadWrite);
        assert!(other.take(Access::ReadWrite).is_some());
        one.clear();
        assert!(one.take(Access::ReadWrite).is_none());
    }
}
