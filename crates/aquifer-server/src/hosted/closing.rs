//! Closing: ship what is left, give the database back. The files stay, as a cache of the store, while there is room.

use std::sync::Arc;
use std::time::Duration;

use aquifer_log::DatabaseName;
use futures::StreamExt;

use super::files::Usage;
use super::slots::{Entry, Slots, Turn};
use super::{HostError, Hosts, Shared, opening};

/// How often unused databases are looked for, at most and at least.
const LOOK_MIN: Duration = Duration::from_millis(100);
const LOOK_MAX: Duration = Duration::from_secs(15);
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

impl Hosts {
    /// Waits for a while, and closes the databases that nobody has used for as long as the options say. To be called again
    /// and again.
    pub async fn close_unused(&self) {
        let after = self.shared.options.close_after;
        tokio::time::sleep((after / 4).clamp(LOOK_MIN, LOOK_MAX)).await;
        let unused = self.shared.slots.unused().into_iter();
        let idle = unused.take_while(|(used, _)| used.elapsed() >= after).map(|(_, name)| name);
        let closed = futures::stream::iter(idle)
            .map(|name| async move { close_if_unused(&self.shared.slots, &name).await })
            .buffer_unordered(AT_ONCE);
        let closed = closed.filter(|closed| std::future::ready(*closed)).count().await;
        if closed > 0
            && let Err(error) = trim(&self.shared).await
        {
            tracing::warn!(%error, "the cache cannot be kept within its size");
        }
    }
}

/// Closes a database that nobody holds. Whether it was closed.
async fn close_if_unused(slots: &Arc<Slots>, name: &DatabaseName) -> bool {
    let Some((_turn, hosted)) = slots.take_unused(name) else { return false };
    match hosted.close().await {
        Ok(()) => tracing::debug!(database = %name, "closed: nobody uses it"),
        Err(error) => tracing::info!(database = %name, %error, "closed, with what was not acknowledged"),
    }
    true
}

/// Makes room for a database that is about to be opened: closes the one that was used least recently.
///
/// # Errors
/// [`HostError::TooManyOpen`] if all are in use.
pub(super) async fn make_room(shared: &Shared) -> Result<(), HostError> {
    let most = shared.options.max_open;
    while shared.slots.len() > most {
        let mut has_closed = false;
        for (_, name) in shared.slots.unused() {
            if close_if_unused(&shared.slots, &name).await {
                has_closed = true;
                break;
            }
        }
        if !has_closed {
            return Err(HostError::TooManyOpen { open: most });
        }
    }
    Ok(())
}

/// Throws files away of databases that are closed, those that were closed first, until the rest is within bounds. Files
/// of which it is not known that the store has everything stay.
async fn trim(shared: &Shared) -> Result<(), HostError> {
    let Some(most) = shared.options.cache_size else { return Ok(()) };
    let usage = shared.data.usage().await?;
    let mut bytes: u64 = usage.iter().map(|usage| usage.bytes).sum();
    let mut closed: Vec<Usage> = usage.into_iter().filter(|usage| usage.closed.is_some()).collect();
    closed.sort_by_key(|usage| usage.closed);
    for Usage { name, files, bytes: freed, .. } in closed {
        if bytes <= most {
            break;
        }
        // While it is open its files are no cache.
        if let Some(_turn) = shared.slots.enter_closed(&name) {
            files.discard().await?;
            bytes -= freed;
        }
    }
    Ok(())
}
