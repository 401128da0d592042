//! Staying in sync: what is committed here is pushed at once, what is new on the server is waited for.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use crate::database::{Database, Synced};
use crate::{Error, Result};

/// How often is looked whether something was committed here: two reads of some bytes.
const LOOK: Duration = Duration::from_millis(100);
/// Pushes of a busy database are no closer together than this: what is committed meanwhile goes with the next one.
const APART: Duration = Duration::from_millis(250);
/// How long the server is asked to wait for something new.
const LONG_POLL: Duration = Duration::from_mins(1);
/// Time between two questions to a server that does not wait.
const POLL: Duration = Duration::from_secs(2);
/// Time between two tries while the server cannot be reached: at first, and at the longest.
const OFFLINE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// What happens while a database is kept in sync.
#[derive(Debug)]
#[non_exhaustive]
pub enum WatchEvent<'a> {
    /// Something was pushed or pulled; or, the first time, it was found that there is nothing to do.
    Synced(&'a Synced),
    /// The server cannot be reached, or cannot do what it is asked for now. It is tried again after this time, and when
    /// something is committed.
    Waiting(&'a Error, Duration),
}

impl Database {
    /// Keeps the database in sync until this is dropped, or something is wrong that does not pass by itself.
    ///
    /// Cancel-safe, as all of [`Database`] is.
    pub async fn watch(&self, mut tell: impl FnMut(WatchEvent<'_>)) -> Result<Infallible> {
        let mut offline = OFFLINE.0;
        let mut is_first = true;
        let mut has_work = true;
        loop {
            let begun = Instant::now();
            let failure = if has_work { self.step(&mut tell, is_first).await? } else { None };
            is_first = false;
            if let Some(error) = failure {
                tell(WatchEvent::Waiting(&error, offline));
                self.forget_commits().await?;
                tokio::time::sleep(APART).await;
                let _ = tokio::time::timeout(offline, self.committed()).await;
                offline = (offline * 2).min(OFFLINE.1);
                has_work = true;
                continue;
            }
            offline = OFFLINE.0;
            tokio::time::sleep(APART.saturating_sub(begun.elapsed())).await;
            let asked = Instant::now();
            has_work = tokio::select! {
                () = self.committed() => true,
                changes = self.wait_changes(LONG_POLL) => match changes {
                    Ok(Some(changes)) => {
                        match self.apply(changes).await {
                            Ok(Some(synced)) => tell(WatchEvent::Synced(&synced)),
                            // Something else was pulled meanwhile.
                            Ok(None) => {}
                            Err(error) if error.passes() => {}
                            Err(error) => return Err(error),
                        }
                        self.may_have_changed().await
                    }
                    Ok(None) => {
                        // Some servers answer at once.
                        if asked.elapsed() < POLL {
                            let _ = tokio::time::timeout(POLL, self.committed()).await;
                        }
                        self.may_have_changed().await
                    }
                    // The next step finds out.
                    Err(_) => true,
                },
            };
        }
    }

    /// One sync; what keeps it from being done for now.
    async fn step(&self, tell: &mut impl FnMut(WatchEvent<'_>), is_first: bool) -> Result<Option<Error>> {
        match self.sync().await {
            Ok(Synced { offline: Some(error), .. }) => Ok(Some(error)),
            Ok(synced) => {
                if is_first || synced.pushed + synced.pulled + synced.conflicts > 0 {
                    tell(WatchEvent::Synced(&synced));
                }
                Ok(None)
            }
            Err(error) if error.passes() => Ok(Some(error)),
            Err(error) => Err(error),
        }
    }

    /// Returns when something was committed here.
    async fn committed(&self) {
        while !self.may_have_changed().await {
            tokio::time::sleep(LOOK).await;
        }
    }
}
