//! Which databases are open, and whose turn it is to open or close one.
//!
//! One at a time opens, closes, or throws away the files of a database: who has the [`Turn`]. Others wait for what comes
//! of it. A database is closed only when nobody else holds it, which the lock of the table decides: whoever gets it from
//! the table does so under the lock, and whoever has it already is counted. So a request that has a database keeps it
//! open until its commits are durable.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use aquifer_log::DatabaseName;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{HostError, Hosted};

/// What came of an opening; `None` as long as it goes on.
pub(super) type Outcome = Option<Result<Arc<Hosted>, HostError>>;

#[derive(Debug)]
enum Slot {
    Open(Arc<Hosted>),
    /// Somebody has the turn. The sender goes when it ends.
    Busy(watch::Receiver<Outcome>),
}

/// The databases of a server that are open, or about to be opened or closed. Nothing is known of others.
#[derive(Debug, Default)]
pub(super) struct Slots {
    slots: Mutex<BTreeMap<DatabaseName, Slot>>,
}

/// What somebody who wants a database finds.
#[derive(Debug)]
pub(super) enum Entry {
    /// It is open.
    Open(Arc<Hosted>),
    /// Somebody else opens or closes it.
    Busy(watch::Receiver<Outcome>),
    /// It is to be opened; first to be closed, if it was open and is lost.
    Free(Turn, Option<Arc<Hosted>>),
}

/// The right to open or close a database. When dropped, the database is closed.
#[derive(Debug)]
pub(super) struct Turn {
    slots: Arc<Slots>,
    name: DatabaseName,
    outcome: watch::Sender<Outcome>,
}

impl Slots {
    /// What there is of a database.
    pub(super) fn enter(self: &Arc<Slots>, name: &DatabaseName) -> Entry {
        let mut slots = self.slots.lock();
        match slots.get(name) {
            Some(Slot::Open(hosted)) if !hosted.is_lost() => {
                hosted.touch();
                return Entry::Open(Arc::clone(hosted));
            }
            Some(Slot::Busy(outcome)) => return Entry::Busy(outcome.clone()),
            _ => {}
        }
        let (turn, busy) = self.turn(name);
        match slots.insert(name.clone(), busy) {
            Some(Slot::Open(lost)) => Entry::Free(turn, Some(lost)),
            _ => Entry::Free(turn, None),
        }
    }

    /// As [`Slots::enter`], if it is open or about to be.
    pub(super) fn find(&self, name: &DatabaseName) -> Option<Entry> {
        match self.slots.lock().get(name)? {
            Slot::Open(hosted) if hosted.is_lost() => None,
            Slot::Open(hosted) => {
                hosted.touch();
                Some(Entry::Open(Arc::clone(hosted)))
            }
            Slot::Busy(outcome) => Some(Entry::Busy(outcome.clone())),
        }
    }

    /// The turn on a database that is not open: to do something with its files.
    pub(super) fn enter_closed(self: &Arc<Slots>, name: &DatabaseName) -> Option<Turn> {
        let mut slots = self.slots.lock();
        if slots.contains_key(name) {
            return None;
        }
        let (turn, busy) = self.turn(name);
        slots.insert(name.clone(), busy);
        Some(turn)
    }

    /// Takes a database out that is to be closed, if nobody else holds it.
    pub(super) fn take_unused(self: &Arc<Slots>, name: &DatabaseName) -> Option<(Turn, Arc<Hosted>)> {
        let mut slots = self.slots.lock();
        match slots.get(name) {
            Some(Slot::Open(hosted)) if is_unused(hosted) => {}
            _ => return None,
        }
        self.replace(&mut slots, name)
    }

    /// Takes a database out that is to be closed, whoever holds it.
    pub(super) fn take(self: &Arc<Slots>, name: &DatabaseName) -> Option<(Turn, Arc<Hosted>)> {
        let mut slots = self.slots.lock();
        match slots.get(name) {
            Some(Slot::Open(_)) => self.replace(&mut slots, name),
            _ => None,
        }
    }

    fn replace(
        self: &Arc<Slots>,
        slots: &mut BTreeMap<DatabaseName, Slot>,
        name: &DatabaseName,
    ) -> Option<(Turn, Arc<Hosted>)> {
        let (turn, busy) = self.turn(name);
        match slots.insert(name.clone(), busy) {
            Some(Slot::Open(hosted)) => Some((turn, hosted)),
            _ => None,
        }
    }

    fn turn(self: &Arc<Slots>, name: &DatabaseName) -> (Turn, Slot) {
        let (outcome, watched) = watch::channel(None);
        (Turn { slots: Arc::clone(self), name: name.clone(), outcome }, Slot::Busy(watched))
    }

    /// Databases that are open or about to be opened or closed.
    pub(super) fn len(&self) -> usize {
        self.slots.lock().len()
    }

    /// Those that are open and that nobody else holds, the one that was used least recently first. Those that are held
    /// count as used now.
    pub(super) fn unused(&self) -> Vec<(Instant, DatabaseName)> {
        let slots = self.slots.lock();
        let mut unused = Vec::new();
        for (name, slot) in &*slots {
            match slot {
                Slot::Open(hosted) if is_unused(hosted) => {
                    unused.push((hosted.last_use(), name.clone()));
                }
                Slot::Open(hosted) => hosted.touch(),
                Slot::Busy(_) => {}
            }
        }
        drop(slots);
        unused.sort_unstable();
        unused
    }

    /// The names of all of them.
    pub(super) fn names(&self) -> Vec<DatabaseName> {
        self.slots.lock().keys().cloned().collect()
    }
}

/// Whether only the table has it.
fn is_unused(hosted: &Arc<Hosted>) -> bool {
    Arc::strong_count(hosted) == 1 && !hosted.is_streamed()
}

impl Turn {
    /// The database that it is about.
    pub(super) fn name(&self) -> &DatabaseName {
        &self.name
    }

    /// The database is open.
    pub(super) fn opened(self, hosted: Arc<Hosted>) {
        self.slots.slots.lock().insert(self.name.clone(), Slot::Open(Arc::clone(&hosted)));
        self.outcome.send_replace(Some(Ok(hosted)));
    }

    /// It cannot be opened.
    pub(super) fn failed(self, error: HostError) {
        self.outcome.send_replace(Some(Err(error)));
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut slots = self.slots.slots.lock();
        if matches!(slots.get(&self.name), Some(Slot::Busy(busy)) if busy.same_channel(&self.outcome.subscribe()))
        {
            slots.remove(&self.name);
        }
    }
}
