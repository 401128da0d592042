//! When to try again.

use std::time::Duration;

use super::error::RemoteError;
use super::options::Retries;

impl Retries {
    /// How long to wait before trying again after `failed` attempts (1 or more), the last of which ended so; `None` if
    /// that is no use. `chance` is any number.
    pub(super) fn delay(&self, failed: u32, error: &RemoteError, chance: u64) -> Option<Duration> {
        if failed > self.count || !error.passes() {
            return None;
        }
        let longest = 1_u32.checked_shl(failed - 1).map_or(self.cap, |times| self.base.saturating_mul(times));
        let longest = longest.min(self.cap);
        let share = (chance >> 11) as f64 / (1_u64 << 53) as f64;
        let delay = longest.mul_f64(share);
        match error.retry_after() {
            Some(after) if after > self.cap => None,
            Some(after) => Some(after.max(delay)),
            None => Some(delay),
        }
    }
}

/// A number that nobody can foretell.
pub(super) fn chance() -> u64 {
    getrandom::u64().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RETRIES: Retries =
        Retries { count: 5, base: Duration::from_millis(100), cap: Duration::from_secs(1) };

    fn busy(retry_after: Option<u64>) -> RemoteError {
        RemoteError::Unavailable {
            remote: "http://r".into(),
            status: 503,
            retry_after: retry_after.map(Duration::from_secs),
            message: "busy".into(),
        }
    }

    #[test]
    fn waits_double_up_to_the_cap_and_are_anything_below() {
        for (failed, longest) in [(1, 100), (2, 200), (3, 400), (4, 800), (5, 1000)] {
            let longest = Duration::from_millis(longest);
            let delay = |chance| RETRIES.delay(failed, &busy(None), chance).unwrap();
            assert_eq!(delay(0), Duration::ZERO);
            assert_eq!(delay(1 << 63), longest / 2);
            assert!(delay(u64::MAX) <= longest && delay(u64::MAX) > longest * 99 / 100);
        }
        assert_eq!(RETRIES.delay(6, &busy(None), 0), None);
        let patient = Retries { count: 100, ..RETRIES };
        assert!(patient.delay(64, &busy(None), u64::MAX).unwrap() <= RETRIES.cap);
    }

    #[test]
    fn a_server_that_names_a_time_is_not_asked_before_it_and_not_waited_for_beyond_the_cap() {
        assert_eq!(RETRIES.delay(1, &busy(Some(1)), u64::MAX), Some(Duration::from_secs(1)));
        assert_eq!(RETRIES.delay(1, &busy(Some(2)), u64::MAX), None);
    }

    #[test]
    fn what_will_not_pass_is_not_tried_again() {
        let error = RemoteError::Unauthorized { remote: "http://r".into(), message: "no".into() };
        assert_eq!(RETRIES.delay(1, &error, 0), None);
    }
}
