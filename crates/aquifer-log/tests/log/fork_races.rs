//! Forks that are made while others delete: held still at each request in turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aquifer_format::Txid;
use aquifer_log::{ForkError, Forked, Retention, Store, Target, remove_generation, retain, snapshot};
use aquifer_testkit::fault_store::{Fault, FaultStore, Gate, Op, Rule};

use crate::fork::{at, fork_of, named};
use crate::history::{History, restore};

const HOUR: Duration = Duration::from_hours(1);

/// What deletes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deleting {
    /// Retention, for which the moment has been unneeded for longer than the grace time.
    LongRetired,
    /// Retention, which finds now that the moment is not needed; and its next run, when the grace time is over.
    JustRetired,
    /// A deletion for good.
    Purge,
    /// The removal of the generation.
    Removal,
}

const ALL: [Deleting; 4] = [Deleting::LongRetired, Deleting::JustRetired, Deleting::Purge, Deleting::Removal];

impl Deleting {
    pub(crate) async fn before(self, parent: &History) {
        if self == Deleting::LongRetired {
            retain_at(parent, 0).await;
        }
    }

    pub(crate) async fn run(self, parent: &History) {
        match self {
            Deleting::LongRetired => retain_at(parent, 2).await,
            Deleting::JustRetired => retain_at(parent, 0).await,
            Deleting::Purge => drop(parent.db.purge().await.unwrap()),
            Deleting::Removal => drop(remove_generation(&parent.db, parent.generation).await),
        }
    }

    pub(crate) async fn after(self, parent: &History) {
        match self {
            Deleting::LongRetired | Deleting::JustRetired => retain_at(parent, 2).await,
            Deleting::Purge => drop(parent.db.purge().await.unwrap()),
            Deleting::Removal => {}
        }
    }
}

/// Keeps what is after txid 25, with an hour of grace; so many hours after that txid.
pub(crate) async fn retain_at(parent: &History, hours: u32) {
    let now = at(parent, 25).after(HOUR * hours);
    retain(&parent.db, &Retention { window: HOUR * hours, grace: HOUR }, now, now).await.unwrap();
}

/// Holds the n-th request of the first of two back until the second is done. False if the first makes fewer.
pub(crate) async fn hold_first_at<A: Send + 'static, B>(
    faults: &FaultStore,
    n: usize,
    first: impl Future<Output = A> + Send + 'static,
    second: impl Future<Output = B>,
) -> (A, B, bool) {
    let gate = Gate::new();
    let (seen, held) = (AtomicUsize::new(0), gate.clone());
    faults.set_schedule(move |_| {
        (seen.fetch_add(1, Ordering::Relaxed) == n).then(|| Fault::Hold(held.clone()))
    });
    let first = tokio::spawn(first);
    let finished = async {
        while !first.is_finished() {
            tokio::task::yield_now().await;
        }
    };
    let was_held = tokio::select! {
        () = gate.arrived(1) => true,
        () = finished => false,
    };
    // One is held, and never one of the second.
    faults.clear();
    let second = second.await;
    gate.open();
    let first = first.await.unwrap();
    (first, second, was_held)
}

pub(crate) async fn stage() -> (FaultStore, Store, Arc<History>) {
    let faults = FaultStore::in_memory();
    let store = Store::from_object_store(Arc::new(faults.clone()), "memory");
    let parent = History::of(&store, 90, 30).await;
    snapshot(&parent.db, None, Target::Txid(Txid::new(20))).await.unwrap();
    (faults, store, Arc::new(parent))
}

/// A fork that was made is whole; one that was refused has left nothing.
async fn check(store: &Store, parent: &History, forked: Result<Forked, ForkError>, told: &str) -> bool {
    let child = named(store, "child");
    match forked {
        Ok(forked) => {
            let history = History::continuing(&child, forked.generation.id, 1, parent.image(10)).await;
            let plan = history.plan_txid(1).await.unwrap_or_else(|e| panic!("{told}: {e}"));
            assert!(restore(&plan).await == *parent.image(10), "{told}");
            true
        }
        Err(error) => {
            assert!(!matches!(error, ForkError::Taken { .. }), "{told}: {error}");
            assert!(child.latest_generation().await.unwrap().is_none(), "{told}: {error}");
            false
        }
    }
}

#[tokio::test]
async fn a_fork_made_while_a_deletion_stands_still_anywhere_is_whole_or_refused() {
    for deleting in ALL {
        let mut made = 0;
        for n in 0.. {
            let (faults, store, parent) = stage().await;
            deleting.before(&parent).await;
            let run = {
                let parent = Arc::clone(&parent);
                async move { deleting.run(&parent).await }
            };
            let ((), forked, was_held) = hold_first_at(&faults, n, run, fork_of(&parent, 10, "child")).await;
            deleting.after(&parent).await;
            let told = format!("{deleting:?} held at request {n}");
            made += usize::from(check(&store, &parent, forked, &told).await);
            if !was_held {
                assert!(n > 8, "{told}");
                break;
            }
        }
        // Not by refusing everything; but for what was given up before it began.
        assert_eq!(made == 0, deleting == Deleting::LongRetired, "{deleting:?}");
    }
}

#[tokio::test]
async fn a_fork_that_stands_still_anywhere_while_others_delete_is_whole_or_refused() {
    for deleting in ALL {
        let mut made = 0;
        for n in 0.. {
            let (faults, store, parent) = stage().await;
            deleting.before(&parent).await;
            let forking = {
                let parent = Arc::clone(&parent);
                async move { fork_of(&parent, 10, "child").await }
            };
            let delete = async {
                deleting.run(&parent).await;
                deleting.after(&parent).await;
            };
            let (forked, (), was_held) = hold_first_at(&faults, n, forking, delete).await;
            deleting.after(&parent).await;
            let told = format!("{deleting:?} while held at request {n}");
            made += usize::from(check(&store, &parent, forked, &told).await);
            if !was_held {
                assert!(n > 8, "{told}");
                break;
            }
        }
        // Retention that sees the record takes what it had given up back.
        assert!(made > 0, "{deleting:?}");
    }
}

/// Does something between a run of retention that is slow to write down what it retires, and the next, which finds that
/// and deletes it at once.
pub(crate) async fn between_runs<A>(
    faults: &FaultStore,
    parent: &Arc<History>,
    act: impl Future<Output = A>,
) -> A {
    let (writes, reads) = (Gate::new(), Gate::new());
    faults.inject(Rule::on(Op::Put, "retired.json", Fault::Hold(writes.clone())).times(1));
    let retain = |hours| {
        let parent = Arc::clone(parent);
        tokio::spawn(async move { retain_at(&parent, hours).await })
    };
    let slow = retain(0);
    writes.arrived(1).await;
    faults.inject(Rule::on(Op::Get, "retired.json", Fault::Hold(reads.clone())).times(1));
    let next = retain(2);
    reads.arrived(1).await;
    let done = act.await;
    writes.open();
    slow.await.unwrap();
    reads.open();
    next.await.unwrap();
    done
}

#[tokio::test]
async fn a_fork_made_between_a_slow_run_of_retention_and_the_next_stays_whole() {
    let (faults, store, parent) = stage().await;
    let forked = between_runs(&faults, &parent, fork_of(&parent, 10, "child")).await;
    assert!(check(&store, &parent, forked, "made in between").await);
}
