//! When to try again, and when to give up.
//!
//! Retries happen here and not inside `object_store`'s client, for three reasons: its retry of a create can meet
//! the client's own object without telling (a lost answer is "request not sent" to it), requests are counted
//! where they are sent, and each attempt is signed with fresh credentials.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::Duration;

use tokio::time::Instant;

use super::error::{Failure, FailureKind};

/// How long to keep trying while a store fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Attempts at most, the first included.
    pub tries: u32,
    /// No new attempt starts after this time since the first one.
    pub total: Duration,
    /// What one attempt may take before it is abandoned, on top of [`Patience::SLOWEST`] for its payload.
    pub attempt: Duration,
}

impl Patience {
    /// For work in the background: compaction, listing, restore. Rides out a restart of the store, of minutes.
    pub const BACKGROUND: Patience =
        Patience { tries: 20, total: Duration::from_mins(3), attempt: Duration::from_secs(30) };

    /// For the commit path, where a caller that waits is better told soon: it keeps the batch and tries again.
    pub const COMMIT: Patience =
        Patience { tries: 3, total: Duration::from_secs(10), attempt: Duration::from_secs(5) };

    /// For somebody who waits at a terminal: a hiccup passes unseen, a wrong URL is told soon.
    pub const INTERACTIVE: Patience =
        Patience { tries: 5, total: Duration::from_secs(15), attempt: Duration::from_secs(30) };

    /// A single attempt, for callers with a retry loop of their own.
    pub const ONCE: Patience =
        Patience { tries: 1, total: Duration::from_secs(30), attempt: Duration::from_secs(30) };

    /// Slowest transfer that is not taken for a stalled one, in bytes per second.
    pub const SLOWEST: u64 = 64 * 1024;

    /// The time limit of one attempt that moves `bytes` of payload.
    pub(crate) fn limit(&self, bytes: u64) -> Duration {
        self.attempt + Duration::from_millis(bytes.saturating_mul(1000) / Self::SLOWEST)
    }
}

const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(15);

/// The attempts of one operation so far.
#[derive(Debug)]
pub(crate) struct Attempts {
    patience: Patience,
    started: Instant,
    made: u32,
    unknown: bool,
}

impl Attempts {
    pub(crate) fn new(patience: Patience) -> Attempts {
        Attempts { patience, started: Instant::now(), made: 1, unknown: false }
    }

    /// How many were made, the current one included.
    pub(crate) fn made(&self) -> u32 {
        self.made
    }

    /// Whether an earlier attempt may have taken effect.
    pub(crate) fn outcome_unknown(&self) -> bool {
        self.unknown
    }

    /// Makes the current attempt the last one.
    pub(crate) fn exhaust(&mut self) {
        self.patience.tries = self.made;
    }

    /// After a failed attempt: waits and returns, or gives the failure back when there is no point in, or no
    /// time for, another one.
    pub(crate) async fn again(&mut self, failure: Failure) -> Result<(), Failure> {
        if failure.kind == FailureKind::Unknown {
            self.unknown = true;
        }
        let wait = backoff(self.made, RandomState::new().hash_one(self.made));
        if !failure.is_transient()
            || self.made >= self.patience.tries
            || self.started.elapsed() + wait > self.patience.total
        {
            return Err(failure);
        }
        tracing::debug!(attempt = self.made, wait_ms = wait.as_millis() as u64, %failure, "retrying");
        self.made += 1;
        tokio::time::sleep(wait).await;
        Ok(())
    }
}

/// Doubles from 0.1 s to 15 s; half of it is random, so that many clients do not come back together.
fn backoff(failed: u32, random: u64) -> Duration {
    let full = FIRST_BACKOFF.saturating_mul(1 << failed.saturating_sub(1).min(16)).min(LONGEST_BACKOFF);
    let half = full / 2;
    half + half.mul_f64((random % 1024) as f64 / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(kind: FailureKind) -> Failure {
        Failure::new(kind, "test")
    }

    #[tokio::test(start_paused = true)]
    async fn gives_up_after_the_tries_that_patience_allows() {
        let mut attempts = Attempts::new(Patience::COMMIT);
        attempts.again(failure(FailureKind::NotSent)).await.unwrap();
        attempts.again(failure(FailureKind::NotSent)).await.unwrap();
        assert!(attempts.again(failure(FailureKind::NotSent)).await.is_err());
        assert_eq!(attempts.made(), 3);
        assert!(!attempts.outcome_unknown());
    }

    #[tokio::test(start_paused = true)]
    async fn gives_up_when_time_is_over() {
        let mut attempts = Attempts::new(Patience::BACKGROUND);
        tokio::time::advance(Duration::from_secs(181)).await;
        assert!(attempts.again(failure(FailureKind::Unknown)).await.is_err());
        assert!(attempts.outcome_unknown());
    }

    #[tokio::test(start_paused = true)]
    async fn does_not_repeat_what_would_fail_again() {
        for kind in [FailureKind::NotFound, FailureKind::Denied, FailureKind::Refused, FailureKind::Exists] {
            assert!(Attempts::new(Patience::BACKGROUND).again(failure(kind)).await.is_err(), "{kind:?}");
        }
    }

    #[test]
    fn backoff_grows_within_bounds() {
        for failed in 1..40 {
            let full = 100 * 2u64.pow((failed - 1).min(8));
            let (least, most) = (backoff(failed, 0), backoff(failed, 1023));
            assert!(least.as_millis() as u64 >= full.min(15_000) / 2, "{failed}: {least:?}");
            assert!(most <= LONGEST_BACKOFF, "{failed}: {most:?}");
        }
    }
}
