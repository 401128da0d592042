//! What time it is, for those who delete by it.
//!
//! A clock that jumps forward makes everything look old. So deletion goes by the store's own clock, as it dates what is
//! written to it, and even that is not believed to have jumped before it has gone on steadily for a day. For a
//! directory the store's clock is this machine's.

use std::time::{Duration, Instant};

use aquifer_format::Timestamp;

use super::{Prefix, Store, StoreError};

/// Two measurements may disagree by so much with the time that passed between them.
const SLACK: Duration = Duration::from_mins(5);
/// After this time, whoever set the clock is taken to have meant it.
const MEANT: Duration = Duration::from_hours(24);

/// A clock that does not jump forward: told what another one says, it says how late it is at most.
#[derive(Debug, Clone, Default)]
pub struct SteadyClock {
    /// What was believed last, and when that was.
    last: Option<(Timestamp, Instant)>,
    /// Since when the other one has been ahead of it.
    ahead_since: Option<Instant>,
}

impl SteadyClock {
    /// The time, of which another clock says that it is `measured`. The first measurement is believed, and every one
    /// that is earlier than expected.
    pub fn believe(&mut self, measured: Timestamp, at: Instant) -> Timestamp {
        let Some((last, then)) = self.last else {
            self.last = Some((measured, at));
            return measured;
        };
        let expected = last.after(at.saturating_duration_since(then));
        let is_steady = measured.since(expected) <= SLACK;
        let is_meant = self.ahead_since.is_some_and(|since| at.saturating_duration_since(since) >= MEANT);
        if is_steady || is_meant {
            *self = SteadyClock { last: Some((measured, at)), ahead_since: None };
            return measured;
        }
        if self.ahead_since.is_none() {
            tracing::warn!(%measured, %expected, "a clock jumped forward; nothing is deleted by it for a day");
            self.ahead_since = Some(at);
        }
        expected
    }
}

impl Store {
    /// What time it is by the store's clock, as far as that is steady ([`SteadyClock`]). One PUT and one HEAD.
    pub async fn time(&self) -> Result<Timestamp, StoreError> {
        let scratch = Prefix::ROOT.dir(".aquifer").key("clock");
        self.put(&scratch, "written to learn the time\n").await?;
        let measured = self.head(&scratch).await?.last_modified;
        Ok(self
            .shared
            .clock
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .believe(measured, Instant::now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);
    const YEAR: Duration = Duration::from_hours(24 * 365);

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn a_jump_forward_is_believed_only_after_a_day() {
        let (start, mut clock) = (Instant::now(), SteadyClock::default());
        assert_eq!(clock.believe(at(0), start), at(0));
        assert_eq!(clock.believe(at(0).after(HOUR), start + HOUR), at(0).after(HOUR));
        for hours in 2..26 {
            let passed = HOUR * hours;
            assert_eq!(clock.believe(at(0).after(YEAR + passed), start + passed), at(0).after(passed));
        }
        let passed = HOUR * 26;
        let meant = at(0).after(YEAR + passed);
        assert_eq!(clock.believe(meant, start + passed), meant);
        assert_eq!(clock.believe(meant.after(HOUR), start + passed + HOUR), meant.after(HOUR));
    }

    #[test]
    fn a_jump_that_was_taken_back_leaves_nothing_behind() {
        let (start, mut clock) = (Instant::now(), SteadyClock::default());
        clock.believe(at(0), start);
        clock.believe(at(0).after(YEAR), start + HOUR);
        assert_eq!(clock.believe(at(0).after(HOUR * 2), start + HOUR * 2), at(0).after(HOUR * 2));
        // The next one is not taken for the same.
        let passed = HOUR * 30;
        assert_eq!(clock.believe(at(0).after(YEAR), start + passed), at(0).after(passed));
    }

    #[test]
    fn a_clock_that_is_set_back_is_believed_at_once() {
        let (start, mut clock) = (Instant::now(), SteadyClock::default());
        clock.believe(at(0).after(YEAR), start);
        assert_eq!(clock.believe(at(0), start + HOUR), at(0));
    }

    #[tokio::test]
    async fn a_store_tells_its_time() {
        let store = Store::open(&"memory://".parse().unwrap()).unwrap();
        let (before, told, after) = (Timestamp::now(), store.time().await.unwrap(), Timestamp::now());
        assert!(before.before(Duration::from_secs(1)) <= told && told <= after, "{before} {told} {after}");
    }
}
