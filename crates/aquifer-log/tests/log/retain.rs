//! Retention and removal: what must be restorable stays so, whoever is interrupted wherever.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aquifer_format::{GenerationId, Revision, Timestamp, Txid};
use aquifer_log::store::{Key, Prefix};
use aquifer_log::{
    Compactor, Levels, Plan, PlanError, RemoveError, Retained, Retention, SegmentKey, Store, Target,
    remove_generation, retain, snapshot,
};
use aquifer_testkit::fault_store::{Fault, FaultStore};
use futures::TryStreamExt;

use crate::history::{Dice, History, commit_time, database, restore};
use crate::stores::each_store;

const LEVELS: Levels = Levels { fanout: 3, highest: 3 };
const GRACE: Duration = Duration::from_hours(1);

fn memory() -> Store {
    Store::open(&"memory://".parse().unwrap()).unwrap()
}

async fn compact(history: &History) {
    let mut compactor = Compactor::new(history.db.clone(), history.generation, LEVELS);
    while compactor.step(Txid::new(history.head())).await.unwrap().is_some() {}
}

async fn make_snapshot(history: &History, txid: u64) {
    snapshot(&history.db, Some(history.generation), Target::Txid(Txid::new(txid))).await.unwrap();
}

async fn keys(store: &Store) -> BTreeSet<Key> {
    store.list(&Prefix::ROOT, None).map_ok(|info| info.key).try_collect().await.unwrap()
}

/// Retains what is younger than the commit of txid `n` and half a step, as if it were that time plus the window.
async fn retain_from(history: &History, n: u64, window: Duration, grace: Duration) -> Retained {
    retain(&history.db, &Retention { window, grace }, now_for(n, window), now_for(n, window)).await.unwrap()
}

/// The time at which the window begins halfway between the commits of txids `n` and `n + 1`.
fn now_for(n: u64, window: Duration) -> Timestamp {
    Timestamp::from_millis(commit_time(n).as_millis() + 5_000 + window.as_millis() as i64)
}

const WINDOW: Duration = Duration::from_secs(1_000_000);

async fn assert_restores_from(history: &History, first: u64) {
    for txid in first..=history.head() {
        history.assert_restores(txid).await;
    }
}

#[tokio::test]
async fn every_txid_of_the_window_restores_and_what_lies_before_goes() {
    each_store(async |store| {
        for (seed, kept) in [(41, 37), (42, 20), (43, 55), (44, 60), (45, 1)] {
            let history = History::of(&store, seed, 60).await;
            let mut dice = Dice::new(seed);
            compact(&history).await;
            for _ in 0..3 {
                make_snapshot(&history, 1 + dice.below(60)).await;
            }
            let before = keys(&store).await;
            let first = retain_from(&history, kept, WINDOW, Duration::ZERO).await;
            assert_eq!(first.oldest.unwrap().txid.get(), kept);
            assert_eq!(first.deleted as usize, before.len() - keys(&store).await.len());
            assert_restores_from(&history, kept).await;
            assert!(kept == 1 || first.deleted > 0, "{first:?}");
            // What is left is needed.
            let again = retain_from(&history, kept, WINDOW, Duration::ZERO).await;
            assert_eq!((again.deleted, again.waiting), (0, 0));
            history.db.purge().await.unwrap();
            assert!(crate::fork::keys(&store).await.is_empty());
        }
    })
    .await;
}

#[tokio::test]
async fn a_window_that_moves_on_with_a_history_that_grows() {
    let store = memory();
    let mut history = History::begin(&store, 46).await;
    let mut dice = Dice::new(46);
    let mut kept = 0;
    while history.head() < 150 {
        history.grow(1 + dice.below(9)).await;
        compact(&history).await;
        if dice.below(3) == 0 {
            make_snapshot(&history, history.head()).await;
        }
        kept = kept.max(1 + dice.below(history.head()));
        retain_from(&history, kept, WINDOW, Duration::ZERO).await;
        assert_restores_from(&history, kept).await;
    }
    assert!(keys(&store).await.len() < 100, "{}", keys(&store).await.len());
}

#[tokio::test]
async fn nothing_is_deleted_before_its_grace_time_and_a_plan_made_in_it_restores() {
    each_store(async |store| {
        let history = History::of(&store, 47, 30).await;
        compact(&history).await;
        let (old_plan, latest) =
            (history.plan_txid(5).await.unwrap(), history.plan(Target::Latest).await.unwrap());
        make_snapshot(&history, 20).await;
        let now = now_for(25, WINDOW);
        let retention = Retention { window: WINDOW, grace: GRACE };
        let first = retain(&history.db, &retention, now, now).await.unwrap();
        assert!(first.retired > 10 && first.deleted == 0 && first.waiting == first.retired, "{first:?}");
        // Time goes on, and the window begins where it began.
        let later = async |by: Duration| {
            let retention = Retention { window: WINDOW + by, grace: GRACE };
            let now = Timestamp::from_millis(now.as_millis() + by.as_millis() as i64);
            retain(&history.db, &retention, now, now).await.unwrap()
        };
        let just_before = later(GRACE.checked_sub(Duration::from_millis(1)).unwrap()).await;
        assert_eq!((just_before.deleted, just_before.retired), (0, 0));
        assert!(restore(&old_plan).await == *history.image(5));
        assert!(restore(&latest).await == *history.image(30));
        let after = later(GRACE).await;
        assert_eq!((after.deleted, after.waiting), (first.retired, 0));
        assert!(matches!(history.plan_txid(5).await, Err(PlanError::NotKept { .. })));
        assert_restores_from(&history, 25).await;
        // The record is gone when nothing waits.
        assert!(!keys(&store).await.contains(&history.db.layout().retired_record(history.generation)));
        history.db.purge().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_clock_that_jumps_forward_deletes_nothing() {
    let store = memory();
    let history = History::of(&store, 61, 30).await;
    compact(&history).await;
    make_snapshot(&history, 20).await;
    let retention = Retention { window: WINDOW, grace: GRACE };
    // By the store's clock, all of it is within the window.
    let store_now = now_for(0, WINDOW);
    let jumped = store_now.after(Duration::from_hours(24 * 365));
    for _ in 0..2 {
        let retained = retain(&history.db, &retention, jumped, store_now).await.unwrap();
        assert_eq!((retained.deleted, retained.retired), (0, 0));
    }
    assert_restores_from(&history, 1).await;
    // Nor is the grace time over because a clock says so: it goes by the store's.
    let store_now = now_for(25, WINDOW);
    let first = retain(&history.db, &retention, store_now, store_now).await.unwrap();
    assert!(first.retired > 10 && first.deleted == 0, "{first:?}");
    let again = retain(&history.db, &retention, jumped, store_now).await.unwrap();
    assert_eq!(again.deleted, 0);
    let over = retain(&history.db, &retention, store_now, store_now.after(GRACE)).await.unwrap();
    assert_eq!(over.deleted, first.retired);
    assert_restores_from(&history, 25).await;
}

#[tokio::test]
async fn plans_never_prefer_what_is_retired() {
    for seed in 60..80 {
        let store = memory();
        let history = History::of(&store, seed, 40).await;
        let mut dice = Dice::new(seed);
        for _ in 0..12 {
            let first = 1 + dice.below(40);
            let last = first + dice.below(41 - first);
            history.put_merged(Some(1 + dice.below(3) as u8), first, last).await;
        }
        history.put_merged(None, 1, 1 + dice.below(40)).await;
        let kept = 1 + dice.below(40);
        let mut plans = Vec::new();
        for txid in kept..=40 {
            plans.push(history.plan_txid(txid).await.unwrap());
        }
        retain_from(&history, kept, WINDOW, Duration::ZERO).await;
        let left = keys(&store).await;
        for plan in plans {
            for step in &plan.steps {
                assert!(left.contains(step.handle.key()), "{seed}: {} was deleted", step.handle.key());
            }
        }
    }
}

#[tokio::test]
async fn an_idle_database_keeps_its_last_revision_and_the_last_txid_its_name() {
    let store = memory();
    let history = History::of(&store, 48, 31).await;
    compact(&history).await;
    make_snapshot(&history, 31).await;
    retain_from(&history, 1_000, WINDOW, Duration::ZERO).await;
    history.assert_restores(31).await;
    let left = keys(&store).await;
    let layout = history.db.layout();
    // The snapshot, the record, and the segment by which a writer sees where to go on.
    assert!(left.contains(&layout.segment(history.generation, SegmentKey::shipped(Txid::new(31)))));
    assert_eq!(left.len(), 3, "{left:?}");
}

#[tokio::test]
async fn generations_outside_the_window_go_and_what_a_fork_builds_on_stays() {
    let store = memory();
    let db = database(&store);
    let oldest = History::of(&store, 49, 9).await;
    let parent = History::of(&store, 50, 20).await;
    let fork = Revision { generation: parent.generation, txid: Txid::new(12) };
    let mut child = History::begin_from(&store, 51, Some(fork), parent.image(12).clone()).await;
    child.grow(30).await;
    compact(&child).await;
    // All three have commits before the window: only the child serves it, through its parent.
    let retention = Retention { window: WINDOW, grace: GRACE };
    let now = now_for(25, WINDOW);
    let first = retain(&db, &retention, now, now).await.unwrap();
    assert!(first.deleted == 0 && first.removed.is_empty(), "{first:?}");
    for txid in 1..=9 {
        oldest.assert_restores(txid).await;
    }
    // Time goes on, and the window begins where it began.
    let almost = GRACE.checked_sub(Duration::from_millis(1)).unwrap();
    let just_before = Timestamp::from_millis(now.as_millis() + almost.as_millis() as i64);
    let waiting = retain(&db, &Retention { window: WINDOW + almost, grace: GRACE }, just_before, just_before)
        .await
        .unwrap();
    assert!(waiting.deleted == 0 && waiting.removed.is_empty(), "{waiting:?}");
    oldest.assert_restores(9).await;
    let later = Timestamp::from_millis(now.as_millis() + GRACE.as_millis() as i64);
    let second =
        retain(&db, &Retention { window: WINDOW + GRACE, grace: GRACE }, later, later).await.unwrap();
    assert_eq!(second.removed, [oldest.generation]);
    assert!(db.generation_record(oldest.generation).await.unwrap().is_none());
    assert_restores_from(&child, 25).await;
    parent.assert_restores(12).await;
    assert!(parent.plan_txid(13).await.is_err(), "nothing needs it");

    match remove_generation(&db, parent.generation).await {
        Err(RemoveError::HasChild { child: id, .. }) => assert_eq!(id, child.generation),
        other => panic!("{other:?}"),
    }
    make_snapshot(&child, 25).await;
    retain_from(&child, 25, WINDOW, Duration::ZERO).await;
    let third = retain_from(&child, 25, WINDOW, Duration::ZERO).await;
    assert!(third.removed.is_empty());
    assert!(db.generation_record(parent.generation).await.unwrap().is_none());
    assert_restores_from(&child, 25).await;
}

#[tokio::test]
async fn an_older_generation_stays_while_the_window_reaches_back_to_it() {
    let store = memory();
    let old = History::of(&store, 52, 40).await;
    let mut new = History::begin(&store, 53).await;
    new.grow(50).await;
    for txid in 1..=29 {
        new.delete(SegmentKey::shipped(Txid::new(txid))).await;
    }
    // As if it had begun with the commit of txid 30.
    let base = new.merged(1, 30);
    new.put(SegmentKey::snapshot(Txid::new(30)).unwrap(), base).await;
    retain_from(&new, 25, WINDOW, Duration::ZERO).await;
    assert_restores_from(&old, 25).await;
    assert_restores_from(&new, 30).await;
    let plan = Plan::make(&new.db, None, Target::Timestamp(commit_time(27))).await.unwrap();
    assert_eq!((plan.generation, plan.revision.txid.get()), (old.generation, 27));

    retain_from(&new, 45, WINDOW, Duration::ZERO).await;
    assert!(old.db.generation_record(old.generation).await.unwrap().is_none());
    assert_restores_from(&new, 45).await;
}

#[tokio::test]
async fn the_last_revision_of_an_older_generation_stays_while_the_window_begins_after_it() {
    let store = memory();
    let old = History::of(&store, 59, 10).await;
    let new = History::of(&store, 60, 40).await;
    for txid in 1..=30 {
        new.delete(SegmentKey::shipped(Txid::new(txid))).await;
    }
    // As if it had begun with the commit of txid 30.
    new.put(SegmentKey::snapshot(Txid::new(30)).unwrap(), new.merged(1, 30)).await;
    let retained = retain_from(&new, 25, WINDOW, Duration::ZERO).await;
    assert!(retained.removed.is_empty());
    // At the beginning of the window the database was this.
    old.assert_restores(10).await;
    let plan = Plan::make(&new.db, None, Target::Timestamp(commit_time(27))).await.unwrap();
    assert_eq!((plan.generation, plan.revision.txid.get()), (old.generation, 10));

    let retained = retain_from(&new, 35, WINDOW, Duration::ZERO).await;
    assert_eq!(retained.removed, [old.generation]);
    assert_restores_from(&new, 35).await;
}

/// Refuses request number `n`, from 0, and all after it: as if the process had died there.
fn die_at(faults: &FaultStore, n: usize) {
    let seen = AtomicUsize::new(0);
    faults.set_schedule(move |_| (seen.fetch_add(1, Ordering::Relaxed) >= n).then_some(Fault::Deny));
}

#[tokio::test]
async fn interrupted_at_any_request_retention_is_finished_by_the_next() {
    let mut finished = None;
    for n in 0.. {
        let faults = FaultStore::in_memory();
        let store = Store::from_object_store(Arc::new(faults.clone()), "memory");
        let old = History::of(&store, 54, 5).await;
        let history = History::of(&store, 55, 30).await;
        compact(&history).await;
        make_snapshot(&history, 14).await;
        let retention = Retention { window: WINDOW, grace: Duration::ZERO };
        let now = now_for(20, WINDOW);
        die_at(&faults, n);
        let first = retain(&history.db, &retention, now, now).await;
        faults.clear();
        assert_restores_from(&history, 20).await;
        let latest = Plan::make(&history.db, None, Target::Latest).await.unwrap();
        assert_eq!(latest.revision.txid.get(), 30);
        retain(&history.db, &retention, now, now).await.unwrap();
        assert_restores_from(&history, 20).await;
        assert!(old.db.generation_record(old.generation).await.unwrap().is_none());
        let left = keys(&store).await.iter().map(|k| k.file_name().to_owned()).collect::<Vec<_>>();
        assert_eq!(*finished.get_or_insert(left.clone()), left, "interrupted at request {n}");
        if first.is_ok() {
            assert!(n > 15, "{n}");
            break;
        }
    }
}

#[tokio::test]
async fn an_interrupted_removal_is_no_generation_any_more_and_can_be_finished() {
    for n in 0.. {
        let faults = FaultStore::in_memory();
        let store = Store::from_object_store(Arc::new(faults.clone()), "memory");
        let older = History::of(&store, 56, 3).await;
        let history = History::of(&store, 57, 8).await;
        make_snapshot(&history, 6).await;
        die_at(&faults, n);
        let first = remove_generation(&history.db, history.generation).await;
        faults.clear();
        let all = keys(&store).await;
        let of_it = all.iter().filter(|k| k.as_str().contains(&history.generation.to_string())).count();
        match (&first, Plan::make(&history.db, None, Target::Latest).await.unwrap().generation) {
            (Ok(_), now) => assert_eq!((now, of_it), (older.generation, 0)),
            // It may say already that it is on its way out.
            (Err(_), now) if now == history.generation => {
                assert!([10, 11].contains(&of_it), "half a generation");
            }
            (Err(_), now) => assert_eq!(now, older.generation),
        }
        if first.is_ok() {
            break;
        }
        // What is left is listed, and goes with the same command, or by itself.
        if of_it > 0 {
            let ids: Vec<GenerationId> = history.db.generation_ids().try_collect().await.unwrap();
            assert!(ids.contains(&history.generation));
        }
        let has_record = history.db.generation_record(history.generation).await.unwrap().is_some();
        if n % 2 == 0 || has_record {
            if of_it > 0 {
                remove_generation(&history.db, history.generation).await.unwrap();
            }
        } else {
            retain(&history.db, &Retention::of(WINDOW), Timestamp::from_millis(0), Timestamp::from_millis(0))
                .await
                .unwrap();
        }
        let all = keys(&store).await;
        assert!(!all.iter().any(|k| k.as_str().contains(&history.generation.to_string())));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retainers_at_the_same_time_delete_no_more_than_one() {
    for seed in 81..85 {
        let store = memory();
        let history = History::of(&store, seed, 40).await;
        compact(&history).await;
        make_snapshot(&history, 22).await;
        let run = || retain_from(&history, 30, WINDOW, Duration::ZERO);
        futures::join!(run(), run(), compact(&history), run());
        assert_restores_from(&history, 30).await;
    }
}

#[tokio::test]
async fn groups_that_nobody_refers_to_are_swept_when_they_are_old() {
    let store = memory();
    let history = History::of(&store, 58, 4).await;
    let layout = history.db.layout();
    let orphan = layout.companion(
        history.generation,
        SegmentKey::shipped(Txid::new(5)),
        aquifer_format::WriterNonce::random(),
    );
    store.put(&orphan, "groups of a writer that gave up").await.unwrap();
    let retention = Retention { window: WINDOW, grace: Duration::ZERO };
    let soon = Timestamp::now();
    retain(&history.db, &retention, soon, soon).await.unwrap();
    assert!(keys(&store).await.contains(&orphan), "its segment may be on its way");
    let next_week = Timestamp::from_millis(soon.as_millis() + 7 * 86_400_000);
    retain(&history.db, &Retention { window: WINDOW * 1_000, ..retention }, next_week, next_week)
        .await
        .unwrap();
    assert!(!keys(&store).await.contains(&orphan));
    assert_restores_from(&history, 1).await;
}

/// Whoever counts frames needs every batch since the span began, and the image that it began with; for a while after the
/// span was last renewed.
#[tokio::test]
async fn the_batches_of_a_span_stay_while_it_is_in_use() {
    each_store(async |store| {
        let history = History::of(&store, 48, 40).await;
        compact(&history).await;
        make_snapshot(&history, 38).await;
        let span = history.db.begin_span(history.generation, 77, Txid::new(20)).await.unwrap();
        let again = history.db.begin_span(history.generation, 77, Txid::new(30)).await.unwrap();
        assert_eq!((again.start, again.number), (Txid::new(20), 77), "it has begun already");
        let shipped = async || -> Vec<u64> {
            let segments = history.db.segments(history.generation, aquifer_log::Level::Shipped, Txid::ZERO);
            segments.map_ok(|s| s.segment.range.first.get()).try_collect().await.unwrap()
        };
        let now = Timestamp::now();
        let retention = Retention { window: Duration::ZERO, grace: Duration::ZERO };
        retain(&history.db, &retention, now, now).await.unwrap();
        let kept = shipped().await;
        assert!(kept.ends_with(&(21..=40).collect::<Vec<_>>()), "{kept:?}");
        history.assert_restores(20).await;
        // Nobody has renewed it for longer than spans are held.
        let later = Timestamp::from_millis(span.renewed.as_millis() + 8 * 24 * 3_600_000);
        retain(&history.db, &retention, later, later).await.unwrap();
        assert_eq!(shipped().await, [39, 40], "what leads on from the snapshot");
        assert_eq!(history.db.spans(history.generation).await.unwrap().len(), 1);
        history.db.remove_span(history.generation, 77).await.unwrap();
        assert!(history.db.spans(history.generation).await.unwrap().is_empty());
    })
    .await;
}
