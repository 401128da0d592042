//! How much a server takes on at the same time, and from whom how often. Every limit answers with what it is and what to
//! do; nothing queues without end.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aquifer_log::DatabaseName;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::answer::Refusal;

/// Callers whose rate is remembered, before those that have been quiet are forgotten.
const CALLERS: usize = 10_000;

/// How much is taken on.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Requests that are worked on at the same time. Such as only wait for something new do not count.
    pub requests: usize,
    /// Those of one database.
    pub requests_per_database: usize,
    /// How long a request waits for its turn.
    pub turn: Duration,
    /// Requests a second of one token, or of one address where there is none; a burst may have as many at once.
    pub rate: Option<u32>,
    /// How long a body may stand still.
    pub body_idle: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            requests: 1024,
            requests_per_database: 512,
            turn: Duration::from_secs(5),
            rate: None,
            body_idle: Duration::from_secs(30),
        }
    }
}

/// What refused a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    Requests,
    RequestsOfDatabase,
    Rate,
    BodySize,
    BodyTime,
}

impl Limit {
    pub(super) const ALL: [Limit; 5] =
        [Limit::Requests, Limit::RequestsOfDatabase, Limit::Rate, Limit::BodySize, Limit::BodyTime];

    pub(super) fn name(self) -> &'static str {
        match self {
            Limit::Requests => "requests",
            Limit::RequestsOfDatabase => "requests-per-database",
            Limit::Rate => "rate",
            Limit::BodySize => "body-size",
            Limit::BodyTime => "body-time",
        }
    }
}

/// Lets requests in.
#[derive(Debug)]
pub(super) struct Gate {
    limits: Limits,
    all: Arc<Semaphore>,
    /// Of databases with a request in work.
    each: Arc<Mutex<HashMap<DatabaseName, Arc<Semaphore>>>>,
    rates: Option<Rates<Caller>>,
}

/// Whose requests are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Caller {
    /// A token that was found good.
    Token(u64),
    /// Everybody at an address who has none.
    Address(Option<IpAddr>),
}

/// A request in work. Its place is free when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    _all: OwnedSemaphorePermit,
    of: Option<OwnedSemaphorePermit>,
    name: DatabaseName,
    each: Arc<Mutex<HashMap<DatabaseName, Arc<Semaphore>>>>,
}

impl Gate {
    pub(super) fn new(limits: Limits) -> Gate {
        let all = Arc::new(Semaphore::new(limits.requests.min(Semaphore::MAX_PERMITS)));
        let rates = limits.rate.map(Rates::new);
        Gate { limits, all, each: Arc::default(), rates }
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Counts a request of a caller.
    pub(super) fn check_rate(&self, caller: Caller, now: Instant) -> Result<(), Refusal> {
        let Some(rates) = &self.rates else { return Ok(()) };
        rates.take(caller, now).map_err(|wait| {
            let reason = format!(
                "more than {} requests a second: wait {:.1} seconds, or have the rate limit raised",
                rates.per_second,
                wait.as_secs_f64()
            );
            Refusal::too_many(Limit::Rate, reason, wait)
        })
    }

    /// Waits for a place. Cancel-safe.
    pub(super) async fn enter(&self, name: &DatabaseName) -> Result<Place, Refusal> {
        let turn = self.limits.turn;
        let busy =
            |limit, what: String| Refusal::busy(limit, format!("{what}: try again"), Duration::from_secs(1));
        let of = Arc::clone(self.each.lock().entry(name.clone()).or_insert_with(|| {
            Arc::new(Semaphore::new(self.limits.requests_per_database.min(Semaphore::MAX_PERMITS)))
        }));
        let entered = tokio::time::timeout(turn, async {
            // The database's first: a crowd before one database takes no place from the others.
            let of = Arc::clone(&of).acquire_owned().await.ok();
            let all = Arc::clone(&self.all).acquire_owned().await.ok();
            (of, all)
        });
        let entered = entered.await;
        match entered {
            Ok((Some(of), Some(all))) => {
                Ok(Place { _all: all, of: Some(of), name: name.clone(), each: Arc::clone(&self.each) })
            }
            _ if of.available_permits() == 0 => Err(busy(
                Limit::RequestsOfDatabase,
                format!(
                    "'{name}' has had {} requests in work for {turn:?}",
                    self.limits.requests_per_database
                ),
            )),
            _ => Err(busy(
                Limit::Requests,
                format!("the server has had {} requests in work for {turn:?}", self.limits.requests),
            )),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut each = self.each.lock();
        self.of = None;
        // The last one out: names take no memory for ever. Others hold it while they wait.
        if each.get(&self.name).is_some_and(|of| Arc::strong_count(of) == 1) {
            each.remove(&self.name);
        }
    }
}

/// Token buckets: each caller may have a second's worth at once.
#[derive(Debug)]
struct Rates<C> {
    per_second: u32,
    buckets: Mutex<HashMap<C, Bucket>>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl<C: Eq + Hash> Rates<C> {
    fn new(per_second: u32) -> Rates<C> {
        Rates { per_second: per_second.max(1), buckets: Mutex::default() }
    }

    /// Fails with how long to wait.
    fn take(&self, caller: C, now: Instant) -> Result<(), Duration> {
        let rate = f64::from(self.per_second);
        let left = |bucket: &Bucket| {
            let since = now.saturating_duration_since(bucket.at).as_secs_f64();
            (bucket.left + since * rate).min(rate)
        };
        let mut buckets = self.buckets.lock();
        if buckets.len() >= CALLERS && !buckets.contains_key(&caller) {
            // A full bucket is as good as none.
            buckets.retain(|_, bucket| left(bucket) < rate);
        }
        let bucket = buckets.entry(caller).or_insert(Bucket { left: rate, at: now });
        let has = left(bucket);
        if has < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - has) / rate));
        }
        *bucket = Bucket { left: has - 1.0, at: now };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_has_its_rate_and_a_burst_of_a_second_and_takes_nothing_from_others() {
        let rates = Rates::new(10);
        let start = Instant::now();
        let taken = |caller, at| (0..100).take_while(|_| rates.take(caller, at).is_ok()).count();
        assert_eq!(taken('a', start), 10);
        assert_eq!(rates.take('a', start), Err(Duration::from_millis(100)));
        assert_eq!(taken('b', start), 10);
        assert_eq!(taken('a', start + Duration::from_millis(500)), 5);
        assert_eq!(taken('a', start + Duration::from_hours(1)), 10, "it does not save up");
    }

    #[test]
    fn callers_that_are_quiet_are_forgotten() {
        let rates = Rates::new(1);
        let start = Instant::now();
        for caller in 0..CALLERS {
            rates.take(caller, start).unwrap();
        }
        rates.take(CALLERS, start + Duration::from_secs(2)).unwrap();
        assert_eq!(rates.buckets.lock().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowd_before_one_database_takes_no_place_from_the_others() {
        let limits = Limits { requests: 3, requests_per_database: 2, ..Limits::default() };
        let gate = Gate::new(limits);
        let [a, b]: [DatabaseName; 2] = ["a", "b"].map(|name| name.parse().unwrap());
        let held = (gate.enter(&a).await.unwrap(), gate.enter(&a).await.unwrap());
        let refused = format!("{:?}", gate.enter(&a).await.unwrap_err());
        assert!(refused.contains("'a'"), "{refused}");
        let third = gate.enter(&b).await.unwrap();
        let refused = format!("{:?}", gate.enter(&b).await.unwrap_err());
        assert!(refused.contains("the server"), "{refused}");
        drop(held);
        gate.enter(&b).await.unwrap();
        drop(third);
        assert!(gate.each.lock().is_empty(), "names take no memory");
    }
}
