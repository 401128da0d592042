//! Compaction, snapshots and retention together, as a history grows: short plans, bounded size, nothing lost.

use std::sync::Arc;
use std::time::Duration;

use aquifer_format::{Timestamp, Txid};
use aquifer_log::store::Prefix;
use aquifer_log::{Compactor, Levels, PlanError, Retention, Scope, Store, Target, retain, snapshot, verify};
use aquifer_testkit::fault_store::{Fault, FaultStore};
use futures::TryStreamExt;

use crate::history::{Dice, History, commit_time};

/// Txids that the window covers.
const KEPT: u64 = 30;

struct Upkeep {
    compactor: Compactor,
    snapshots: u64,
    deleted: u64,
}

impl Upkeep {
    fn of(history: &History) -> Upkeep {
        let levels = Levels { fanout: 4, highest: 3 };
        let compactor = Compactor::new(history.db.clone(), history.generation, levels);
        Upkeep { compactor, snapshots: 0, deleted: 0 }
    }

    /// What is due at a txid, and at the time of its commit.
    async fn work(&mut self, history: &History, now: Timestamp) -> Result<(), PlanError> {
        let head = Txid::new(history.head());
        while self.compactor.step(head).await?.is_some() {}
        if head.get().is_multiple_of(24) {
            // Not of the head: another plan than the next restore's.
            let txid = self.compactor.compacted_to();
            let made = snapshot(&history.db, Some(history.generation), Target::Txid(txid)).await?;
            self.snapshots += u64::from(made.written.is_some());
        }
        if head.get().is_multiple_of(8) {
            // Ten seconds from commit to commit.
            let window = Duration::from_secs(10 * KEPT);
            let retention = Retention { window, grace: Duration::from_secs(50) };
            self.deleted += retain(&history.db, &retention, now, now).await?.deleted;
        }
        Ok(())
    }
}

async fn assert_window_restores(history: &History) {
    for txid in history.head().saturating_sub(KEPT).max(1)..=history.head() {
        history.assert_restores(txid).await;
    }
}

#[tokio::test]
async fn a_growing_history_stays_short_and_bounded() {
    let store = Store::open(&"memory://".parse().unwrap()).unwrap();
    let mut history = History::begin(&store, 101).await;
    let mut upkeep = Upkeep::of(&history);
    for txid in 1..=250 {
        history.grow(1).await;
        upkeep.work(&history, commit_time(txid)).await.unwrap();
        if txid % 25 == 0 {
            assert_window_restores(&history).await;
        }
    }
    assert!(upkeep.snapshots > 5 && upkeep.deleted > 200, "{} {}", upkeep.snapshots, upkeep.deleted);
    let plan = history.plan(Target::Latest).await.unwrap();
    assert!(plan.steps.len() <= 1 + 3 * 2 * 3, "{}", plan.steps.len());
    let objects: Vec<_> = store.list(&Prefix::ROOT, None).try_collect().await.unwrap();
    assert!(objects.len() < 130, "{}", objects.len());
    verify(&history.db, None, Target::Latest, Scope::All, |_| ()).await.unwrap();
}

#[tokio::test]
async fn failures_at_random_requests_lose_nothing() {
    for seed in 0..4 {
        let faults = FaultStore::in_memory();
        let store = Store::from_object_store(Arc::new(faults.clone()), "memory");
        let mut history = History::begin(&store, 110 + seed).await;
        let mut upkeep = Upkeep::of(&history);
        let mut dice = Dice::new(seed);
        let mut failed = 0;
        for txid in 1..=120 {
            history.grow(1).await;
            let mut luck = Dice::new(dice.below(1 << 40));
            faults.set_schedule(move |_| (luck.below(12) == 0).then_some(Fault::Deny));
            for _ in 0..3 {
                if upkeep.work(&history, commit_time(txid)).await.is_ok() {
                    break;
                }
                failed += 1;
                // Sometimes it dies, and another goes on.
                if dice.below(2) == 0 {
                    upkeep = Upkeep::of(&history);
                }
            }
            faults.clear();
            if txid % 20 == 0 {
                assert_window_restores(&history).await;
            }
        }
        assert!(failed > 10, "{failed}");
        upkeep.work(&history, commit_time(120)).await.unwrap();
        verify(&history.db, None, Target::Latest, Scope::All, |_| ()).await.unwrap();
    }
}
