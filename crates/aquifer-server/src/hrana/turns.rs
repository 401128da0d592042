//! Writers take turns.
//!
//! SQLite lets one connection write at a time, and has the others ask again and again. So requests that will write wait
//! here for the one before them, in the order in which they came, and hold no thread while they do. It is a matter of
//! speed and fairness only: SQLite's own lock still decides, and whoever comes to it without a turn waits there.
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The turns of one database.
#[derive(Debug)]
pub(super) struct Turns {
    one: Arc<Semaphore>,
    patience: Duration,
}

/// Somebody's turn, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    _permit: OwnedSemaphorePermit,
}

impl Turns {
    /// Nobody waits longer than `patience`.
    pub(super) fn new(patience: Duration) -> Self {
        Self { one: Arc::new(Semaphore::new(1)), patience }
    }

    /// Waits for a turn, and tells how long that took; without one when it took too long: the lock will be taken then,
    /// and SQLite says so. Cancel-safe.
    pub(super) async fn wait(&self) -> (Option<Turn>, Duration) {
        if let Ok(permit) = Arc::clone(&self.one).try_acquire_owned() {
            return (Some(Turn { _permit: permit }), Duration::ZERO);
        }
        let since = Instant::now();
        let permit = tokio::time::timeout(self.patience, Arc::clone(&self.one).acquire_owned()).await;
        let permit = permit.ok().and_then(Result::ok);
        (permit.map(|permit| Turn { _permit: permit }), since.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn writers_come_in_the_order_in_which_they_asked_and_nobody_waits_for_ever() {
        let turns = Arc::new(Turns::new(Duration::from_secs(5)));
        let (first, waited) = turns.wait().await;
        assert_eq!(waited, Duration::ZERO);
        let order = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let writers: Vec<_> = (0..3)
            .map(|number| {
                let (turns, order) = (Arc::clone(&turns), Arc::clone(&order));
                tokio::spawn(async move {
                    let (turn, _) = turns.wait().await;
                    order.lock().push((number, turn.is_some()));
                })
            })
            .collect();
        tokio::task::yield_now().await;
        assert_eq!(*order.lock(), []);
        drop(first);
        for writer in writers {
            writer.await.unwrap();
        }
        assert_eq!(*order.lock(), [(0, true), (1, true), (2, true)]);

        let (_held, _) = turns.wait().await;
        assert!(turns.wait().await.0.is_none());
    }
}
