//! A store that fails as it is told to: any implementation of `object_store`'s trait with a schedule of faults
//! before it, and a log of what was asked of it.
//!
//! ```
//! use aquifer_testkit::fault_store::{Fault, FaultStore, Op, Rule};
//!
//! let store = FaultStore::in_memory();
//! // The first answer to a create of a segment is lost; whatever was asked has been done.
//! store.inject(Rule::on(Op::Create, ".seg", Fault::LoseAnswer).times(1));
//! ```

mod objects;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use object_store::ObjectStore;
use object_store::memory::InMemory;
use tokio::sync::watch;

/// Kinds of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    /// A put that overwrites.
    Put,
    /// A put that creates if absent.
    Create,
    /// A read, whole or of a range.
    Get,
    /// A look-up.
    Head,
    /// A listing; its key is the prefix.
    List,
    /// A deletion.
    Delete,
    /// Initiation, a part, completion or abort of a multipart upload.
    Multipart,
}

/// A request as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Its kind.
    pub op: Op,
    /// The object's key, or a listing's prefix.
    pub key: String,
}

/// What goes wrong.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Not sent: the connection is refused. Nothing is done.
    Unreachable,
    /// A time-out. Nothing is done, but the client cannot know.
    Timeout,
    /// Done, and then a time-out instead of the answer.
    LoseAnswer,
    /// "Slow down": nothing is done.
    Throttle,
    /// "Forbidden": nothing is done.
    Deny,
    /// "It exists", whether it does or not: what S3 answers to creates that collide. Nothing is done.
    Conflict,
    /// A read gets only this many bytes, though the object has more; a put stores only so many and then times
    /// out, as a store does that is none.
    Torn(usize),
    /// Listings leave these objects out: they are as of before them.
    Stale(Vec<String>),
    /// Waits until the gate opens, then goes on as if nothing had been. Dropped while it waits, nothing is done.
    Hold(Gate),
}

/// Holds requests back until it is opened.
#[derive(Debug, Clone)]
pub struct Gate {
    open: Arc<watch::Sender<bool>>,
    waiting: Arc<watch::Sender<usize>>,
}

impl Default for Gate {
    fn default() -> Gate {
        Gate { open: Arc::new(watch::Sender::new(false)), waiting: Arc::new(watch::Sender::new(0)) }
    }
}

impl Gate {
    /// A closed gate.
    pub fn new() -> Gate {
        Gate::default()
    }

    /// Lets everything pass from now on.
    pub fn open(&self) {
        self.open.send_replace(true);
    }

    /// Waits until so many requests have arrived here, those that passed included.
    pub async fn arrived(&self, requests: usize) {
        let mut waiting = self.waiting.subscribe();
        // The sender lives as long as this gate.
        let _ = waiting.wait_for(|n| *n >= requests).await;
    }

    async fn pass(&self) {
        self.waiting.send_modify(|n| *n += 1);
        let mut open = self.open.subscribe();
        let _ = open.wait_for(|open| *open).await;
    }
}

/// When a fault strikes.
#[derive(Debug, Clone)]
pub struct Rule {
    op: Option<Op>,
    key_contains: String,
    skip: usize,
    times: Option<usize>,
    fault: Fault,
}

impl Rule {
    /// For each request of this kind whose key contains a text.
    pub fn on(op: Op, key_contains: &str, fault: Fault) -> Rule {
        Rule { op: Some(op), key_contains: key_contains.to_owned(), skip: 0, times: None, fault }
    }

    /// For each request whose key contains a text.
    pub fn on_any(key_contains: &str, fault: Fault) -> Rule {
        Rule { op: None, key_contains: key_contains.to_owned(), skip: 0, times: None, fault }
    }

    /// Not for the first so many that fit.
    #[must_use]
    pub fn after(mut self, skip: usize) -> Rule {
        self.skip = skip;
        self
    }

    /// Only so many times.
    #[must_use]
    pub fn times(mut self, times: usize) -> Rule {
        self.times = Some(times);
        self
    }

    fn strikes(&mut self, request: &Request) -> Option<Fault> {
        let fits =
            self.op.is_none_or(|op| op == request.op) && request.key.contains(self.key_contains.as_str());
        if !fits {
            return None;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        match &mut self.times {
            Some(0) => return None,
            Some(times) => *times -= 1,
            None => {}
        }
        Some(self.fault.clone())
    }
}

type Schedule = Box<dyn FnMut(&Request) -> Option<Fault> + Send>;

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    schedule: Option<Schedule>,
    offline: bool,
    log: Vec<Request>,
}

/// The store. Clones share the schedule, the log and the objects.
#[derive(Clone)]
pub struct FaultStore {
    inner: Arc<dyn ObjectStore>,
    state: Arc<Mutex<State>>,
}

impl FaultStore {
    /// On top of another store.
    pub fn new(inner: Arc<dyn ObjectStore>) -> FaultStore {
        FaultStore { inner, state: Arc::default() }
    }

    /// On top of a new store in memory.
    pub fn in_memory() -> FaultStore {
        FaultStore::new(Arc::new(InMemory::new()))
    }

    /// The store without the faults.
    pub fn inner(&self) -> &Arc<dyn ObjectStore> {
        &self.inner
    }

    /// Adds a rule. Of several that fit a request, the first added strikes.
    pub fn inject(&self, rule: Rule) {
        self.state().rules.push(rule);
    }

    /// Asks this for a fault whenever no rule strikes.
    pub fn set_schedule(&self, schedule: impl FnMut(&Request) -> Option<Fault> + Send + 'static) {
        self.state().schedule = Some(Box::new(schedule));
    }

    /// Ends all rules and the schedule.
    pub fn clear(&self) {
        let mut state = self.state();
        state.rules.clear();
        state.schedule = None;
    }

    /// Makes every request fail as unreachable, until it is set to `false` again.
    pub fn set_offline(&self, offline: bool) {
        self.state().offline = offline;
    }

    /// Every request since the start, or since the log was taken last.
    pub fn take_log(&self) -> Vec<Request> {
        std::mem::take(&mut self.state().log)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Logs a request and tells its fault. A `Hold` has been waited for, and is none any more.
    async fn arrive(&self, op: Op, key: &str) -> Option<Fault> {
        let fault = {
            let request = Request { op, key: key.to_owned() };
            let mut state = self.state();
            state.log.push(request.clone());
            if state.offline {
                return Some(Fault::Unreachable);
            }
            let struck = state.rules.iter_mut().find_map(|rule| rule.strikes(&request));
            struck.or_else(|| state.schedule.as_mut().and_then(|schedule| schedule(&request)))
        };
        if let Some(Fault::Hold(gate)) = fault {
            gate.pass().await;
            return None;
        }
        fault
    }
}

impl fmt::Debug for FaultStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultStore").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl fmt::Display for FaultStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultStore({})", self.inner)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use futures::TryStreamExt;
    use object_store::path::Path;
    use object_store::{Error, ObjectStoreExt, PutMode, PutResult, Result};

    use super::*;

    async fn put(store: &FaultStore, key: &str) -> Result<PutResult> {
        store.put_opts(&Path::from(key), "0123456789".into(), PutMode::Create.into()).await
    }

    #[tokio::test]
    async fn rules_strike_when_and_as_often_as_they_say() {
        let store = FaultStore::in_memory();
        store.inject(Rule::on(Op::Create, "b/", Fault::Timeout).after(1).times(2));
        put(&store, "a/1").await.unwrap();
        put(&store, "b/1").await.unwrap();
        put(&store, "b/2").await.unwrap_err();
        put(&store, "b/3").await.unwrap_err();
        put(&store, "b/4").await.unwrap();
        let keys: Vec<_> =
            store.inner().list(None).map_ok(|m| m.location.to_string()).try_collect().await.unwrap();
        assert_eq!(BTreeSet::from_iter(keys), ["a/1", "b/1", "b/4"].map(str::to_owned).into());
        assert_eq!(store.take_log().len(), 5);
    }

    #[tokio::test]
    async fn a_lost_answer_leaves_the_effect() {
        let store = FaultStore::in_memory();
        store.inject(Rule::on(Op::Create, "", Fault::LoseAnswer).times(1));
        put(&store, "x").await.unwrap_err();
        assert!(matches!(put(&store, "x").await, Err(Error::AlreadyExists { .. })));
    }

    #[tokio::test]
    async fn torn_reads_claim_to_be_whole() {
        let store = FaultStore::in_memory();
        put(&store, "x").await.unwrap();
        store.inject(Rule::on(Op::Get, "x", Fault::Torn(3)));
        let result = store.get(&Path::from("x")).await.unwrap();
        assert_eq!(result.range, 0..10);
        assert_eq!(result.bytes().await.unwrap(), "012");
    }

    #[tokio::test]
    async fn a_gate_holds_until_it_opens() {
        let store = FaultStore::in_memory();
        let gate = Gate::new();
        store.inject(Rule::on_any("x", Fault::Hold(gate.clone())).times(1));
        let held = tokio::spawn({
            let store = store.clone();
            async move { put(&store, "x").await }
        });
        gate.arrived(1).await;
        assert!(store.head(&Path::from("x")).await.is_err());
        gate.open();
        held.await.unwrap().unwrap();
        assert!(store.head(&Path::from("x")).await.is_ok());
    }

    #[tokio::test]
    async fn stale_listings_leave_out_what_they_are_told() {
        let store = FaultStore::in_memory();
        for key in ["a/1", "a/2", "b/1"] {
            put(&store, key).await.unwrap();
        }
        store.inject(Rule::on(Op::List, "", Fault::Stale(vec!["b/1".to_owned(), "a/2".to_owned()])));
        let keys: Vec<_> = store.list(None).map_ok(|m| m.location.to_string()).try_collect().await.unwrap();
        assert_eq!(keys, ["a/1"]);
        let dirs = store.list_with_delimiter(None).await.unwrap().common_prefixes;
        assert_eq!(dirs, [Path::from("a")]);
    }

    #[tokio::test]
    async fn nothing_passes_while_offline() {
        let store = FaultStore::in_memory();
        store.set_offline(true);
        put(&store, "x").await.unwrap_err();
        store.set_offline(false);
        put(&store, "x").await.unwrap();
    }
}
