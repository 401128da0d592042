//! Upkeep as a history grows: short plans, bounded size, and nothing lost.

use std::sync::Arc;
use std::time::Duration;

use aquifer_format::{Timestamp, Txid};
use aquifer_log::store::Prefix;
use aquifer_log::{
    Done, Levels, Retention, Scope, SnapshotRule, Store, Target, Upkeep, UpkeepOptions, verify,
};
use aquifer_testkit::fault_store::{Fault, FaultStore};
use futures::TryStreamExt;

use crate::history::{Dice, History, commit_time};

/// Txids that the window covers.
const KEPT: u64 = 30;

fn options() -> UpkeepOptions {
    // Ten seconds from commit to commit.
    let window = Duration::from_secs(10 * KEPT);
    UpkeepOptions {
        levels: Levels { fanout: 4, highest: 3 },
        snapshots: Some(SnapshotRule { share: 0.5, least_bytes: 2_000 }),
        retention: Some(Retention { window, grace: Duration::from_secs(50) }),
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
    let mut upkeep = Upkeep::new(history.db.clone(), history.generation, options());
    let (mut snapshots, mut deleted, mut idle) = (0, 0, 0);
    for txid in 1..=250 {
        history.grow(1).await;
        let before = store.counts();
        let mut worked = false;
        while let Some(done) = upkeep.step(Txid::new(txid), commit_time(txid)).await.unwrap() {
            worked = true;
            match done {
                Done::Snapshot(_) => snapshots += 1,
                Done::Retained(retained) => deleted += retained.deleted,
                Done::Compacted(_) => {}
            }
        }
        if !worked && (txid - 1) % 4 != 0 {
            idle += 1;
            assert_eq!((store.counts() - before).total(), 0, "nothing is due at txid {txid}");
        }
        if txid % 25 == 0 {
            assert_window_restores(&history).await;
        }
    }
    assert!(snapshots > 5 && deleted > 150 && idle > 100, "{snapshots} {deleted} {idle}");
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
        let mut upkeep = Upkeep::new(history.db.clone(), history.generation, options());
        let mut dice = Dice::new(seed);
        let mut failed = 0;
        for txid in 1..=120 {
            history.grow(1).await;
            let mut luck = dice.clone();
            dice.below(2);
            faults.set_schedule(move |_| (luck.below(12) == 0).then_some(Fault::Deny));
            loop {
                match upkeep.step(Txid::new(txid), commit_time(txid)).await {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(_) => {
                        failed += 1;
                        // Sometimes it dies, and another goes on.
                        if dice.below(2) == 0 {
                            upkeep = Upkeep::new(history.db.clone(), history.generation, options());
                            break;
                        }
                    }
                }
            }
            faults.clear();
            if txid % 20 == 0 {
                assert_window_restores(&history).await;
            }
        }
        assert!(failed > 10, "{failed}");
        while upkeep.step(Txid::new(120), Timestamp::from_millis(0)).await.unwrap().is_some() {}
        verify(&history.db, None, Target::Latest, Scope::All, |_| ()).await.unwrap();
    }
}
