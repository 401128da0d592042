//! Waiting a little for those who will ask again.
//!
//! Writers that were answered together commit again at almost the same time. A put that began with the first of them would
//! leave the others to the one after it: half of all would wait for nearly two puts, always. So after a put for which
//! several waited, the next batch is held back until as many wait again, at most for a fraction of what the put took. A
//! writer that is alone never waits.

use std::time::{Duration, Instant};

/// Part of a put's time that the next batch is held back for, at most.
const FRACTION: u32 = 5;
/// However long a put takes.
const MOST: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(super) struct Gathering {
    until: Instant,
    expected: usize,
}

impl Gathering {
    /// After a put that took so long, when so many waited for it or for the next one.
    pub(super) fn after(took: Duration, waited: usize, now: Instant) -> Option<Gathering> {
        (waited > 1).then(|| Gathering { until: now + (took / FRACTION).min(MOST), expected: waited })
    }

    /// How long the next batch is still held back when so many wait; `None`: not any more.
    pub(super) fn wait(&self, waiting: usize, now: Instant) -> Option<Duration> {
        let left = self.until.saturating_duration_since(now);
        (waiting < self.expected && !left.is_zero()).then_some(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUT: Duration = Duration::from_millis(50);

    #[test]
    fn a_writer_that_is_alone_is_never_held_back() {
        assert!(Gathering::after(PUT, 1, Instant::now()).is_none());
        assert!(Gathering::after(PUT, 0, Instant::now()).is_none());
    }

    #[test]
    fn a_batch_is_held_back_until_as_many_wait_as_before_but_not_for_long() {
        let now = Instant::now();
        let gathering = Gathering::after(PUT, 64, now).unwrap();
        assert_eq!(gathering.wait(1, now), Some(PUT / 5));
        assert_eq!(gathering.wait(63, now), Some(PUT / 5));
        assert_eq!(gathering.wait(64, now), None);
        assert_eq!(gathering.wait(1, now + PUT / 5), None);
    }

    #[test]
    fn a_slow_store_does_not_make_the_wait_long() {
        let now = Instant::now();
        let gathering = Gathering::after(Duration::from_secs(3), 2, now).unwrap();
        assert_eq!(gathering.wait(1, now), Some(MOST));
    }
}
