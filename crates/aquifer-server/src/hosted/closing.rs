//! Closing: ship what is left, give the database back.

use std::sync::Arc;

use aquifer_log::DatabaseName;
use futures::StreamExt;

use super::slots::{Entry, Slots, Turn};
use super::{HostError, opening};

/// Databases that are closed at the same time.
const AT_ONCE: usize = 16;

/// Closes all databases, whoever holds them. The first error, after all are closed.
pub(super) async fn close_all(slots: &Arc<Slots>) -> Result<(), HostError> {
    let names = futures::stream::iter(slots.names());
    let closed = names.map(|name| async move { close(slots, &name).await });
    closed.buffer_unordered(AT_ONCE).collect::<Vec<_>>().await.into_iter().collect()
}

/// Closes a database, and keeps it closed for as long as the turn is held.
pub(super) async fn hold(slots: &Arc<Slots>, name: &DatabaseName) -> Turn {
    loop {
        let (turn, hosted) = match slots.enter(name) {
            Entry::Open(_) => match slots.take(name) {
                Some((turn, hosted)) => (turn, Some(hosted)),
                None => continue,
            },
            Entry::Free(turn, lost) => (turn, lost),
            Entry::Busy(outcome) => {
                drop(opening::wait(outcome).await);
                continue;
            }
        };
        if let Some(hosted) = hosted
            && let Err(error) = hosted.close().await
        {
            tracing::info!(database = %name, %error, "closed, with commits that nobody was told of");
        }
        return turn;
    }
}

/// Closes a database, whoever holds it. Whoever wants it meanwhile waits.
pub(super) async fn close(slots: &Arc<Slots>, name: &DatabaseName) -> Result<(), HostError> {
    loop {
        if let Some((_turn, hosted)) = slots.take(name) {
            return hosted.close().await;
        }
        // Somebody opens or closes it.
        match slots.find(name) {
            Some(Entry::Busy(outcome)) => drop(opening::wait(outcome).await),
            Some(_) => {}
            None => return Ok(()),
        }
    }
}
