//! Compaction and snapshots: whatever they do, and wherever they are stopped, every txid restores as before.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aquifer_format::{Revision, Txid};
use aquifer_log::store::{Key, Prefix};
use aquifer_log::{Compactor, Level, Levels, Plan, SegmentKey, Store, Target, Written, snapshot};
use aquifer_testkit::fault_store::{Fault, FaultStore};
use futures::TryStreamExt;

use crate::history::{History, restore, steps};
use crate::stores::each_store;

const LEVELS: Levels = Levels { fanout: 3, highest: 3 };

fn memory() -> Store {
    Store::open(&"memory://".parse().unwrap()).unwrap()
}

fn compactor(history: &History, levels: Levels) -> Compactor {
    Compactor::new(history.db.clone(), history.generation, levels)
}

/// Does all that is due.
async fn compact(history: &History, compactor: &mut Compactor) -> Vec<Written> {
    let mut all = Vec::new();
    while let Some(written) = compactor.step(Txid::new(history.head())).await.unwrap() {
        all.push(written);
    }
    all
}

async fn keys(store: &Store) -> BTreeSet<Key> {
    store.list(&Prefix::ROOT, None).map_ok(|info| info.key).try_collect().await.unwrap()
}

async fn assert_all_restore(history: &History) {
    for txid in 1..=history.head() {
        history.assert_restores(txid).await;
    }
}

#[tokio::test]
async fn blocks_are_aligned_and_every_txid_restores() {
    each_store(async |store| {
        let history = History::of(&store, 21, 60).await;
        let written = compact(&history, &mut compactor(&history, LEVELS)).await;
        let names: BTreeSet<_> = written.iter().map(|w| w.segment.to_string()).collect();
        let mut wanted = BTreeSet::new();
        for (level, block) in [(1, 3), (2, 9), (3, 27)] {
            for first in (2..).step_by(block).take_while(|first| first + block - 1 <= 60) {
                let range = [first, first + block - 1].map(|n| Txid::new(n as u64).to_hex());
                wanted.insert(format!("{level}/{}-{}.seg", range[0], range[1]));
            }
        }
        assert_eq!(names, wanted);
        assert_all_restore(&history).await;
        let latest = history.plan(Target::Latest).await.unwrap();
        // 1 | 2-28 | 29-55 | 56-58 | 59 | 60
        assert_eq!(latest.steps.len(), 6, "{}", steps(&latest));
        // Nothing is left to do, for whoever comes next as well.
        let before = keys(&store).await;
        assert!(compact(&history, &mut compactor(&history, LEVELS)).await.is_empty());
        assert_eq!(keys(&store).await, before);
    })
    .await;
}

#[tokio::test]
async fn a_growing_history_is_compacted_as_if_all_at_once_and_costs_nothing_between_blocks() {
    let store = memory();
    let mut history = History::begin(&store, 22).await;
    let mut compactor = compactor(&history, LEVELS);
    for txid in 1..=40 {
        history.grow(1).await;
        let before = store.counts();
        let written = compact(&history, &mut compactor).await;
        let requests = (store.counts() - before).total();
        assert_eq!(written.is_empty(), (txid - 1) % 3 != 0 || txid == 1, "{txid}: {written:?}");
        assert!(!written.is_empty() || requests == 0, "{requests} requests to do nothing");
    }
    assert_eq!(compactor.compacted_to(), Txid::new(40));
    assert_all_restore(&history).await;

    let other = memory();
    let at_once = History::of(&other, 22, 40).await;
    compact(&at_once, &mut self::compactor(&at_once, LEVELS)).await;
    let names = |keys: BTreeSet<Key>| -> BTreeSet<String> {
        keys.iter().map(|key| key.as_str().splitn(3, '/').last().unwrap().to_owned()).collect()
    };
    assert_eq!(names(keys(&store).await), names(keys(&other).await));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compactors_at_the_same_time_do_the_same_work() {
    each_store(async |store| {
        let history = History::of(&store, 23, 85).await;
        let run = || async {
            let mut compactor = compactor(&history, LEVELS);
            compact(&history, &mut compactor).await
        };
        let (a, b, c) = futures::join!(run(), run(), run());
        let mut made = BTreeSet::new();
        for written in a.iter().chain(&b).chain(&c).filter(|w| w.info.is_some()) {
            assert!(made.insert(written.segment.to_string()), "{} was written twice", written.segment);
        }
        assert_eq!(made.len(), 28 + 9 + 3);
        assert_all_restore(&history).await;
    })
    .await;
}

/// Refuses request number `n`, from 0, and all after it: as if the process had died there.
fn die_at(faults: &FaultStore, n: usize) -> Arc<AtomicUsize> {
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    faults.set_schedule(move |_| (count.fetch_add(1, Ordering::Relaxed) >= n).then_some(Fault::Deny));
    seen
}

#[tokio::test]
async fn stopped_at_any_request_nothing_is_lost_and_the_next_one_finishes() {
    let mut whole = None;
    for n in 0.. {
        let faults = FaultStore::in_memory();
        let store = Store::from_object_store(Arc::new(faults.clone()), "memory");
        let history = History::of(&store, 24, 13).await;
        die_at(&faults, n);
        let mut first = compactor(&history, LEVELS);
        let done = loop {
            match first.step(Txid::new(13)).await {
                Ok(Some(_)) => {}
                Ok(None) => break true,
                Err(_) => break false,
            }
        };
        faults.clear();
        assert_all_restore(&history).await;
        // The same one goes on, or another.
        if n % 2 == 0 {
            first = compactor(&history, LEVELS);
        }
        compact(&history, &mut first).await;
        assert_all_restore(&history).await;
        let names: Vec<_> = keys(&store).await.iter().map(|k| k.file_name().to_owned()).collect();
        assert_eq!(*whole.get_or_insert(names.clone()), names, "stopped at request {n}");
        if done {
            assert!(n > 20, "{n}");
            break;
        }
    }
}

#[tokio::test]
async fn settings_may_change() {
    let store = memory();
    let mut history = History::of(&store, 25, 40).await;
    compact(&history, &mut compactor(&history, Levels { fanout: 4, highest: 2 })).await;
    history.grow(40).await;
    compact(&history, &mut compactor(&history, Levels { fanout: 5, highest: 3 })).await;
    assert_all_restore(&history).await;
    let latest = history.plan(Target::Latest).await.unwrap();
    assert!(latest.steps.len() < 25, "{}", steps(&latest));
    assert!(compact(&history, &mut compactor(&history, Levels::NONE)).await.is_empty());
}

#[tokio::test]
async fn what_retention_removed_is_passed_by() {
    let store = memory();
    let mut history = History::of(&store, 26, 50).await;
    snapshot(&history.db, None, Target::Txid(Txid::new(44))).await.unwrap();
    for txid in 1..=43 {
        history.delete(SegmentKey::shipped(Txid::new(txid))).await;
    }
    let before = store.counts();
    let mut compactor = compactor(&history, LEVELS);
    let written = compact(&history, &mut compactor).await;
    // 44-46 is the first whole block of level 1.
    assert_eq!(written.first().unwrap().segment.range.first, Txid::new(44));
    assert!((store.counts() - before).total() < 60, "{:?}", store.counts() - before);
    history.grow(30).await;
    compact(&history, &mut compactor).await;
    for txid in 44..=80 {
        history.assert_restores(txid).await;
    }
}

#[tokio::test]
async fn a_snapshot_restores_without_anything_before_it() {
    each_store(async |store| {
        for seed in 30..33 {
            let history = History::of(&store, seed, 40).await;
            compact(&history, &mut compactor(&history, LEVELS)).await;
            for txid in [1, 17, 33] {
                let target = Target::Txid(Txid::new(txid));
                let made = snapshot(&history.db, Some(history.generation), target).await.unwrap();
                assert!(made.written.unwrap().info.unwrap().is_snapshot());
                let again = snapshot(&history.db, Some(history.generation), target).await.unwrap();
                assert!(again.written.is_none());
            }
            for txid in 1..=33 {
                history.delete(SegmentKey::shipped(Txid::new(txid))).await;
            }
            for txid in 33..=40 {
                history.assert_restores(txid).await;
            }
            let plan = history.plan_txid(34).await.unwrap();
            assert_eq!(plan.steps[0].handle.segment().level, Level::Snapshot);
        }
    })
    .await;
}

#[tokio::test]
async fn a_snapshot_of_hundreds_of_small_segments_needs_no_compaction() {
    let store = memory();
    let history = History::of(&store, 34, 700).await;
    let made = snapshot(&history.db, None, Target::Latest).await.unwrap();
    assert_eq!(made.revision.txid.get(), 700);
    let plan = history.plan(Target::Latest).await.unwrap();
    assert_eq!(plan.steps.len(), 1);
    assert!(restore(&plan).await == *history.image(700));
}

#[tokio::test]
async fn a_fork_gets_a_snapshot_of_its_own() {
    let store = memory();
    let parent = History::of(&store, 35, 9).await;
    let fork = Revision { generation: parent.generation, txid: Txid::new(6) };
    let mut child = History::begin_from(&store, 36, Some(fork), parent.image(6).clone()).await;
    child.grow(15).await;
    compact(&child, &mut compactor(&child, LEVELS)).await;
    for txid in 1..=15 {
        child.assert_restores(txid).await;
    }
    snapshot(&child.db, None, Target::Txid(Txid::new(5))).await.unwrap();
    for key in keys(&store).await {
        if key.as_str().contains(&parent.generation.to_string()) {
            store.delete(&key).await.unwrap();
        }
    }
    for txid in 5..=15 {
        child.assert_restores(txid).await;
    }
    assert!(matches!(
        Plan::make(&child.db, Some(child.generation), Target::Txid(Txid::new(4))).await,
        Err(aquifer_log::PlanError::NoSuchGeneration { generation, .. }) if generation == parent.generation
    ));
}

#[tokio::test]
async fn a_snapshot_that_would_not_restore_is_not_written() {
    use aquifer_format::segment::{CompressionLevel, SegmentBytes, SegmentEncoder};
    let store = memory();
    let history = History::of(&store, 37, 3).await;
    // A writer that says the wrong hash of what it writes, in a segment that is whole by all its checksums.
    let (info, object) = &history.segments[2];
    let segment = SegmentBytes::parse(object).unwrap();
    let mut forged = SegmentEncoder::new(info.meta().page_size, CompressionLevel::SHIP);
    let mut cursor = segment.entries();
    let mut first = true;
    while let Some(mut entry) = cursor.next().unwrap() {
        if std::mem::take(&mut first) {
            entry.hash = aquifer_format::PageHash::from_u64(entry.hash.get() ^ 1);
        }
        forged.push_entry(&entry);
    }
    let mut bytes = std::mem::take(forged.output());
    bytes.extend(forged.finish(info.meta()).unwrap().tail);
    history.put(SegmentKey::shipped(Txid::new(3)), bytes.into()).await;

    let before = keys(&store).await;
    let refused = snapshot(&history.db, None, Target::Latest).await;
    assert!(
        matches!(refused, Err(aquifer_log::PlanError::Log(aquifer_log::LogError::PageMismatch { .. }))),
        "{refused:?}"
    );
    assert_eq!(keys(&store).await, before);
}
