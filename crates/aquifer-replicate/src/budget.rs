//! A budget of requests, shared by all databases of a process.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// A token bucket of puts: a minute's worth may be spent at once.
#[derive(Debug)]
pub(crate) struct RequestBudget {
    per_second: f64,
    burst: f64,
    bucket: Mutex<(f64, Instant)>,
}

impl RequestBudget {
    /// A budget of so many puts an hour.
    pub(crate) fn per_hour(requests: u32, now: Instant) -> RequestBudget {
        let per_second = f64::from(requests.max(1)) / 3600.0;
        let burst = (per_second * 60.0).max(1.0);
        RequestBudget { per_second, burst, bucket: Mutex::new((burst, now)) }
    }

    /// Takes a put from the budget, or says how long to wait for one.
    pub(crate) fn take(&self, now: Instant) -> Result<(), Duration> {
        let mut bucket = self.bucket.lock();
        let (tokens, filled) = *bucket;
        let earned = now.saturating_duration_since(filled).as_secs_f64() * self.per_second;
        let tokens = (tokens + earned).min(self.burst);
        if tokens >= 1.0 {
            *bucket = (tokens - 1.0, now);
            Ok(())
        } else {
            *bucket = (tokens, now);
            Err(Duration::from_secs_f64((1.0 - tokens) / self.per_second))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_never_costs_more_than_the_budget_and_a_burst() {
        let start = Instant::now();
        let budget = RequestBudget::per_hour(120, start);
        let mut taken = 0;
        for millis in (0..3_600_000).step_by(100) {
            taken += u32::from(budget.take(start + Duration::from_millis(millis)).is_ok());
        }
        assert!((119..=122).contains(&taken), "{taken}");
    }

    #[test]
    fn the_wait_is_as_long_as_it_says() {
        let start = Instant::now();
        let budget = RequestBudget::per_hour(60, start);
        budget.take(start).unwrap();
        let wait = budget.take(start).unwrap_err();
        assert!(budget.take(start + wait / 2).is_err());
        assert!(budget.take(start + wait + Duration::from_millis(1)).is_ok());
    }
}
