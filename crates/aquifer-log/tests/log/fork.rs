//! Databases that begin with a revision of another one, and need it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aquifer_format::{Timestamp, Txid};
use aquifer_log::store::{Key, Prefix};
use aquifer_log::{
    DatabaseStore, ForkError, Forked, GenerationRecord, LogError, Plan, PlanError, Purged, RemoveError,
    Retained, Retention, Scope, Store, Target, branch, fork, remove_generation, retain, snapshot, verify,
};
use aquifer_testkit::fault_store::{Fault, FaultStore};
use futures::TryStreamExt;

use crate::history::{History, SIZE, WRITER, restore};
use crate::stores::each_store;

pub(crate) fn memory() -> Store {
    Store::open(&"memory://".parse().unwrap()).unwrap()
}

pub(crate) fn named(store: &Store, name: &str) -> DatabaseStore {
    DatabaseStore::new(store.clone(), name.parse().unwrap())
}

/// A fork of a history at a txid.
pub(crate) async fn fork_of(history: &History, txid: u64, to: &str) -> Result<Forked, ForkError> {
    let to = named(history.db.store(), to);
    let target = Target::Txid(Txid::new(txid));
    fork(&history.db, Some(history.generation), target, &to, "host").await
}

/// What goes on from a fork.
pub(crate) async fn child_of(history: &History, txid: u64, to: &str) -> History {
    let forked = fork_of(history, txid, to).await.unwrap();
    let db = named(history.db.store(), to);
    History::continuing(&db, forked.generation.id, 1000 + txid, history.image(txid)).await
}

pub(crate) async fn assert_restores_from(history: &History, first: u64) {
    for txid in first..=history.head() {
        history.assert_restores(txid).await;
    }
}

/// A time at which a window of no length begins, halfway between the commits of two txids.
pub(crate) fn at(history: &History, txid: u64) -> Timestamp {
    history.time(txid).after(Duration::from_secs(5))
}

/// Retains what is younger than a txid's commit, at once.
pub(crate) async fn retain_from(history: &History, txid: u64) -> Retained {
    let everything_else = Retention { window: Duration::ZERO, grace: Duration::ZERO };
    retain(&history.db, &everything_else, at(history, txid), at(history, txid)).await.unwrap()
}

/// All but the scratch that tells the time.
pub(crate) async fn keys(store: &Store) -> BTreeSet<Key> {
    let all = store.list(&Prefix::ROOT, None).map_ok(|info| info.key);
    all.try_filter(|key| std::future::ready(key.as_str() != ".aquifer/clock")).try_collect().await.unwrap()
}

#[tokio::test]
async fn a_fork_is_the_same_image_goes_its_own_way_and_copies_nothing() {
    each_store(async |store| {
        let mut parent = History::of(&store, 73, 12).await;
        let before = store.counts();
        let mut child = child_of(&parent, 9, "team/copy").await;
        let cost = store.counts() - before;
        let puts = cost.put + cost.create + cost.multipart;
        assert_eq!(puts, 4, "{cost:?}");
        assert!(cost.bytes_up < 2_000, "{cost:?}");
        child.grow(8).await;
        parent.grow(5).await;
        assert_restores_from(&child, 1).await;
        assert_restores_from(&parent, 1).await;
        let newest = Plan::make(&child.db, None, Target::Latest).await.unwrap();
        assert_eq!(newest.steps[0].database, *parent.db.name());
        let proven = verify(&child.db, None, Target::Latest, Scope::All, |_| ()).await.unwrap();
        assert_eq!(proven.segments, 9 + 1 + 8, "those of the parent are read as well");
        // Before it was forked there was no such database.
        let early = Plan::make(&child.db, None, Target::Timestamp(parent.time(5))).await;
        assert!(matches!(early, Err(PlanError::BeforeFirst { .. })), "{early:?}");
    })
    .await;
}

#[tokio::test]
async fn of_two_who_make_a_fork_of_one_name_at_once_one_is_told_that_it_is_there() {
    each_store(async |store| {
        let history = History::of(&store, 73, 12).await;
        let other = fork_of(&history, 3, "other").await.unwrap();
        let child = child_of(&history, 9, "copy").await;
        let both = tokio::join!(fork_of(&history, 9, "b"), fork_of(&history, 9, "b"));
        let ((Ok(_), Err(failed)) | (Err(failed), Ok(_))) = both else { panic!("{both:?}") };
        assert!(matches!(failed, ForkError::Taken { .. }), "{failed}");
        for taken in ["copy", "b", "app.db"] {
            let again = fork_of(&history, 9, taken).await;
            assert!(matches!(again, Err(ForkError::Taken { .. })), "{taken}: {again:?}");
        }
        // Those who were refused hold nothing.
        let mut forks: Vec<_> = history.db.forks().await.unwrap();
        forks.retain(|fork| fork.database.as_str() != "b");
        assert_eq!(forks[0].generation, child.generation);
        assert_eq!((forks[1].generation, forks.len()), (other.generation.id, 2));
        assert_eq!(history.db.forks().await.unwrap().len(), 3);
    })
    .await;
}

#[tokio::test]
async fn what_a_fork_needs_outlives_the_window_of_its_parent_until_it_has_an_image_of_its_own() {
    each_store(async |store| {
        let parent = History::of(&store, 74, 30).await;
        snapshot(&parent.db, None, Target::Txid(Txid::new(20))).await.unwrap();
        let mut child = child_of(&parent, 9, "child").await;
        child.grow(6).await;
        for deletes in [true, false] {
            assert_eq!(retain_from(&parent, 29).await.deleted > 0, deletes);
            assert_restores_from(&child, 1).await;
            parent.assert_restores(30).await;
        }
        assert!(parent.plan_txid(10).await.is_err(), "nothing needs it");
        // A snapshot alone is not enough: what is before it can still be asked for.
        snapshot(&child.db, None, Target::Txid(Txid::new(4))).await.unwrap();
        retain_from(&child, 3).await;
        retain_from(&parent, 29).await;
        assert_restores_from(&child, 3).await;
        assert_eq!(parent.db.forks().await.unwrap().len(), 1);
        let Some(first) = child.db.first_through_parent(child.generation).await.unwrap() else { panic!() };
        assert_eq!(first, Txid::FIRST);
        // From here on its window begins after it.
        retain_from(&child, 4).await;
        assert_eq!(child.db.first_through_parent(child.generation).await.unwrap(), None);
        assert!(parent.db.forks().await.unwrap().is_empty());
        retain_from(&parent, 29).await;
        assert!(parent.plan_txid(9).await.is_err(), "nothing needs it any more");
        assert_restores_from(&child, 4).await;
    })
    .await;
}

#[tokio::test]
async fn a_fork_that_nobody_writes_to_needs_its_parent_no_more_once_it_has_a_snapshot() {
    let store = memory();
    let parent = History::of(&store, 75, 5).await;
    let child = child_of(&parent, 5, "child").await;
    snapshot(&child.db, None, Target::Latest).await.unwrap();
    retain_from(&child, 1).await;
    assert!(parent.db.forks().await.unwrap().is_empty());
    assert_eq!(parent.db.purge().await.unwrap().needed_by, BTreeSet::new());
    assert_restores_from(&child, 1).await;
}

#[tokio::test]
async fn while_its_early_segments_wait_a_fork_keeps_what_they_are_read_on_top_of() {
    let store = memory();
    let parent = History::of(&store, 76, 20).await;
    snapshot(&parent.db, None, Target::Txid(Txid::new(15))).await.unwrap();
    let mut child = child_of(&parent, 7, "child").await;
    child.grow(10).await;
    snapshot(&child.db, None, Target::Txid(Txid::new(8))).await.unwrap();
    let grace = Retention { window: Duration::ZERO, grace: Duration::from_hours(1) };
    let now = at(&child, 9);
    assert!(retain(&child.db, &grace, now, now).await.unwrap().retired > 0);
    retain_from(&parent, 19).await;
    // Whoever had planned on it gets it.
    child.assert_restores(5).await;
    let later = now.after(Duration::from_hours(2));
    let same_window = Retention { window: Duration::from_hours(2), ..grace };
    assert!(retain(&child.db, &same_window, later, later).await.unwrap().deleted > 0);
    assert!(parent.db.forks().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_deleted_parent_leaves_what_its_forks_need_and_goes_when_they_do_not_need_it() {
    each_store(async |store| {
        let grandparent = History::of(&store, 77, 20).await;
        let mut parent = child_of(&grandparent, 12, "parent").await;
        parent.grow(15).await;
        let mut child = child_of(&parent, 9, "child").await;
        child.grow(4).await;
        let needs = |name: &str| BTreeSet::from([name.parse().unwrap()]);
        for (db, by) in [(&grandparent.db, "parent"), (&parent.db, "child")] {
            let Purged { objects, needed_by } = db.purge().await.unwrap();
            assert_eq!(needed_by, needs(by));
            assert!(objects > 4, "{objects}");
            assert_restores_from(&child, 1).await;
            // Nobody has it back, or makes anything of it or in its place.
            assert!(db.control().await.unwrap().deleted.unwrap().purged);
            assert!(!db.unmark_deleted().await.unwrap());
            let again = fork(db, None, Target::Latest, &named(&store, "late"), "host").await;
            assert!(matches!(again, Err(ForkError::Deleted { .. })), "{again:?}");
            assert!(named(&store, "late").latest_generation().await.unwrap().is_none());
            assert_eq!(db.purge().await.unwrap(), Purged { objects: 0, needed_by: needs(by) });
        }
        assert!(grandparent.plan_txid(13).await.is_err() && parent.plan_txid(10).await.is_err());
        assert!(matches!(fork_of(&child, 2, "parent").await, Err(ForkError::Taken { .. })));
        // Each goes with the last that needs it.
        assert_eq!(child.db.purge().await.unwrap().needed_by, BTreeSet::new());
        assert_eq!(aquifer_log::purge_deleted(&store).await.unwrap(), [parent.db.name().clone()]);
        assert_eq!(aquifer_log::purge_deleted(&store).await.unwrap(), [grandparent.db.name().clone()]);
        assert_eq!(keys(&store).await, BTreeSet::new());
    })
    .await;
}

#[tokio::test]
async fn a_fork_of_a_database_that_was_set_back_needs_what_that_goes_on_from() {
    let store = memory();
    let old = History::of(&store, 78, 20).await;
    snapshot(&old.db, None, Target::Txid(Txid::new(18))).await.unwrap();
    let begun = branch(&old.db, &old.plan_txid(8).await.unwrap(), "host").await.unwrap();
    let mut new = History::continuing(&old.db, begun.id, 79, old.image(8)).await;
    new.grow(10).await;
    let mut child = child_of(&new, 4, "child").await;
    child.grow(3).await;
    let mut of_the_past = child_of(&old, 15, "of the past").await;
    of_the_past.grow(3).await;
    // The new generation alone needs neither.
    snapshot(&new.db, Some(new.generation), Target::Txid(Txid::new(6))).await.unwrap();
    retain_from(&new, 10).await;
    retain_from(&new, 10).await;
    assert!(old.plan_txid(16).await.is_err() && new.plan_txid(5).await.is_err());
    assert_restores_from(&child, 1).await;
    assert_restores_from(&of_the_past, 1).await;
    for generation in [old.generation, new.generation] {
        let refused = remove_generation(&old.db, generation).await;
        let told = refused.unwrap_err();
        assert!(
            matches!(told, RemoveError::HasChild { .. } | RemoveError::HasFork { .. }),
            "{generation}: {told}"
        );
    }
    assert_restores_from(&child, 1).await;
    assert_restores_from(&of_the_past, 1).await;
    for db in [&child.db, &of_the_past.db] {
        db.purge().await.unwrap();
    }
    remove_generation(&old.db, new.generation).await.unwrap();
    remove_generation(&old.db, old.generation).await.unwrap();
}

#[tokio::test]
async fn a_moment_that_retention_has_given_up_is_not_forked() {
    let store = memory();
    let history = History::of(&store, 80, 30).await;
    snapshot(&history.db, None, Target::Txid(Txid::new(20))).await.unwrap();
    let grace = Retention { window: Duration::ZERO, grace: Duration::from_hours(1) };
    retain(&history.db, &grace, at(&history, 25), at(&history, 25)).await.unwrap();
    // It can still be restored, by who is quick.
    history.assert_restores(10).await;
    let refused = fork_of(&history, 10, "late").await.unwrap_err();
    assert!(
        matches!(&refused, ForkError::NotKept { revision, .. } if revision.txid.get() == 10),
        "{refused}"
    );
    assert!(history.db.forks().await.unwrap().is_empty(), "and is not kept for it");
    child_of(&history, 26, "in time").await;
    retain_from(&history, 25).await;
    let gone = fork_of(&history, 10, "too late").await.unwrap_err();
    assert!(matches!(gone, ForkError::Plan(PlanError::NotKept { .. })), "{gone}");
}

#[tokio::test]
async fn a_fork_without_its_parent_says_which_database_is_missing() {
    let store = memory();
    let parent = History::of(&store, 81, 6).await;
    let child = child_of(&parent, 6, "child").await;
    for key in keys(&store).await {
        if key.as_str().starts_with("app.db/") {
            store.delete(&key).await.unwrap();
        }
    }
    for told in [
        child.plan(Target::Latest).await.unwrap_err(),
        verify(&child.db, None, Target::Latest, Scope::Plan, |_| ()).await.unwrap_err(),
    ] {
        assert!(
            matches!(&told, PlanError::LostParent { parent, .. } if parent.as_str() == "app.db"),
            "{told}"
        );
        // A server must not take it for a database that is new.
        assert!(!told.is_no_replica());
        let told = told.to_string();
        assert!(told.contains("'child' was forked from 'app.db'"), "{told}");
        assert!(told.contains("no database 'app.db'"), "{told}");
    }
    // Nothing is made of what is not there.
    retain_from(&child, 1).await;
    assert!(parent.db.forks().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_fork_that_is_being_made_is_nobody_elses_to_begin() {
    let store = memory();
    let parent = History::of(&store, 82, 6).await;
    let child = child_of(&parent, 6, "child").await;
    let first = child.db.layout().segment(child.generation, aquifer_log::SegmentKey::shipped(Txid::FIRST));
    store.delete(&first).await.unwrap();
    let record = || GenerationRecord::new(SIZE, WRITER);
    let told = child.db.begin(record()).await.unwrap_err();
    assert!(matches!(told, LogError::BeingForked { .. }), "{told}");
    // The same request again finishes it; another one does not take it for its own.
    assert!(matches!(fork_of(&parent, 5, "child").await, Err(ForkError::Taken { .. })));
    let again = fork_of(&parent, 6, "child").await.unwrap();
    assert_eq!(again.generation.id, child.generation);
    let plan = Plan::make(&child.db, None, Target::Latest).await.unwrap();
    assert!(restore(&plan).await == *parent.image(6));
}

/// Refuses request number `n`, from 0, and all after it: as if the process had died there.
fn die_at(faults: &FaultStore, n: usize) {
    let seen = AtomicUsize::new(0);
    faults.set_schedule(move |_| (seen.fetch_add(1, Ordering::Relaxed) >= n).then_some(Fault::Deny));
}

#[tokio::test]
async fn interrupted_at_any_request_a_fork_is_finished_by_the_next_call_and_hurts_nobody() {
    for n in 0.. {
        let faults = FaultStore::in_memory();
        let store = Store::from_object_store(Arc::new(faults.clone()), "memory");
        let parent = History::of(&store, 83, 20).await;
        snapshot(&parent.db, None, Target::Txid(Txid::new(15))).await.unwrap();
        die_at(&faults, n);
        let first = fork_of(&parent, 9, "child").await;
        faults.clear();
        retain_from(&parent, 9).await;
        let child = match &first {
            Ok(forked) => forked.clone(),
            Err(_) => match fork_of(&parent, 9, "child").await {
                Ok(forked) => forked,
                // It was finished but for the answer.
                Err(ForkError::Taken { .. }) => {
                    let generation = named(&store, "child").latest_generation().await.unwrap().unwrap();
                    Forked { parent: parent.plan_txid(9).await.unwrap().revision, generation }
                }
                Err(e) => panic!("died at {n}: {e}"),
            },
        };
        let mut child =
            History::continuing(&named(&store, "child"), child.generation.id, 1, parent.image(9)).await;
        child.grow(2).await;
        retain_from(&parent, 19).await;
        assert_restores_from(&child, 1).await;
        // What was left of the first call goes with the fork, or a day later.
        child.db.purge().await.unwrap();
        let tomorrow = Timestamp::now().after(Duration::from_hours(25));
        let everything_else = Retention { window: Duration::ZERO, grace: Duration::ZERO };
        retain(&parent.db, &everything_else, tomorrow, tomorrow).await.unwrap();
        assert!(parent.db.forks().await.unwrap().is_empty(), "died at {n}");
        assert!(parent.plan_txid(9).await.is_err());
        if first.is_ok() {
            assert!(n > 8, "{n}");
            break;
        }
    }
}

#[tokio::test]
async fn interrupted_at_any_request_a_purge_is_finished_by_the_next_call_and_hurts_no_fork() {
    for n in 0.. {
        let faults = FaultStore::in_memory();
        let store = Store::from_object_store(Arc::new(faults.clone()), "memory");
        let parent = History::of(&store, 84, 9).await;
        let mut child = child_of(&parent, 5, "child").await;
        child.grow(2).await;
        die_at(&faults, n);
        let first = parent.db.purge().await;
        faults.clear();
        assert_restores_from(&child, 1).await;
        assert!(!parent.db.purge().await.unwrap().needed_by.is_empty());
        assert_restores_from(&child, 1).await;
        die_at(&faults, n);
        let second = child.db.purge().await;
        faults.clear();
        child.db.purge().await.unwrap();
        assert_eq!(parent.db.purge().await.unwrap().needed_by, BTreeSet::new());
        assert_eq!(keys(&store).await, BTreeSet::new());
        if first.is_ok() && second.is_ok() {
            break;
        }
    }
}

#[tokio::test]
async fn a_record_that_is_missing_is_put_back_by_the_fork() {
    let store = memory();
    let parent = History::of(&store, 85, 9).await;
    let mut child = child_of(&parent, 5, "child").await;
    child.grow(2).await;
    let record = parent.db.layout().fork(child.db.name(), child.generation);
    store.delete(&record).await.unwrap();
    retain_from(&child, 0).await;
    assert!(keys(&store).await.contains(&record));
}
