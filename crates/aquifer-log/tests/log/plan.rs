//! The way to any revision, and what is said where there is none.

use aquifer_format::{Revision, Timestamp, Txid, TxidRange};
use aquifer_log::{DatabaseStore, Level, LogError, Plan, PlanError, SegmentKey, Store, Target};

use aquifer_testkit::s3_server::{Conditions, S3Server};

use crate::history::{Dice, History, commit_time, database, restore, restore_onto, steps};
use crate::stores::each_store;

fn memory() -> Store {
    Store::open(&"memory://".parse().unwrap()).unwrap()
}

/// Merges neighbours at random into segments of level 1 and 2, and snapshots at random.
async fn compact_at_random(history: &History, dice: &mut Dice) {
    for _ in 0..dice.below(8) {
        let first = 1 + dice.below(history.head());
        let last = first + dice.below(history.head() - first + 1);
        history.put_merged(Some(1 + dice.below(2) as u8), first, last).await;
    }
    for _ in 0..dice.below(3) {
        history.put_merged(None, 1, 1 + dice.below(history.head())).await;
    }
}

#[tokio::test]
async fn every_txid_restores_whatever_was_compacted() {
    each_store(async |store| {
        for seed in 0..4 {
            let history = History::of(&store, seed, 30).await;
            compact_at_random(&history, &mut Dice::new(seed + 100)).await;
            for txid in 1..=30 {
                history.assert_restores(txid).await;
            }
            let latest = history.plan(Target::Latest).await.unwrap();
            assert!(restore(&latest).await == *history.image(30));
        }
    })
    .await;
}

#[tokio::test]
async fn a_moment_is_the_last_txid_committed_by_then() {
    for seed in 0..6 {
        let store = memory();
        let history = History::of(&store, seed, 25).await;
        compact_at_random(&history, &mut Dice::new(seed)).await;
        for txid in 1..=25 {
            for later in [0, 1, 9_999] {
                let moment = Timestamp::from_millis(commit_time(txid).as_millis() + later);
                let plan = history.plan(Target::Timestamp(moment)).await.unwrap();
                assert_eq!(plan.revision.txid.get(), txid, "{moment} by {}", steps(&plan));
            }
        }
        let end_of_time = Timestamp::from_millis(i64::MAX);
        assert_eq!(history.plan(Target::Timestamp(end_of_time)).await.unwrap().revision.txid.get(), 25);
        let before = Timestamp::from_millis(commit_time(1).as_millis() - 1);
        match history.plan(Target::Timestamp(before)).await {
            Err(PlanError::BeforeFirst { asked, first, .. }) => {
                assert_eq!((asked, first), (before, commit_time(1)));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn the_plan_starts_at_the_newest_snapshot_and_takes_the_largest_steps() {
    let store = memory();
    let history = History::of(&store, 1, 70).await;
    history.put_merged(None, 1, 20).await;
    history.put_merged(None, 1, 40).await;
    for first in (1..=64).step_by(4) {
        history.put_merged(Some(1), first, first + 3).await;
    }
    history.put_merged(Some(2), 41, 56).await;
    let latest = steps(&history.plan(Target::Latest).await.unwrap());
    let hex = |n: u64| Txid::new(n).to_hex();
    let wanted = [
        format!("snapshot/{}.seg", hex(40)),
        format!("2/{}-{}.seg", hex(41), hex(56)),
        format!("1/{}-{}.seg", hex(57), hex(60)),
        format!("1/{}-{}.seg", hex(61), hex(64)),
    ];
    let shipped = (65..=70).map(|n| format!("0/{}.seg", hex(n)));
    assert_eq!(latest, wanted.into_iter().chain(shipped).collect::<Vec<_>>().join(" "));
    assert_eq!(steps(&history.plan_txid(40).await.unwrap()), format!("snapshot/{}.seg", hex(40)));
    assert_eq!(history.plan_txid(39).await.unwrap().steps.len(), 1 + 4 + 3);
}

#[tokio::test]
async fn segments_that_larger_ones_cover_are_not_even_listed() {
    // A store that lists a thousand names with each request.
    let server = S3Server::start(Conditions::Honoured).await;
    let url = server.url("").parse().unwrap();
    let store = Store::open_with_environment(&url, server.environment()).unwrap();
    let mut history = History::of(&store, 2, 1_200).await;
    for first in (1..=1_200).step_by(240) {
        history.put_merged(Some(1), first, first + 239).await;
    }
    let before = store.counts();
    let plan = history.plan(Target::Latest).await.unwrap();
    assert_eq!(plan.steps.len(), 5);
    assert_eq!((store.counts() - before).list, 3, "which levels there are, and each of them once");
    history.grow(1).await;
    assert_eq!(history.plan(Target::Latest).await.unwrap().steps.len(), 6);
}

#[tokio::test]
async fn a_hole_in_a_level_is_bypassed_by_another() {
    let store = memory();
    let history = History::of(&store, 3, 12).await;
    history.put_merged(Some(1), 1, 8).await;
    history.put_merged(Some(2), 1, 4).await;
    history.put_merged(Some(2), 9, 12).await;
    history.put_merged(Some(2), 5, 6).await;
    // Level 2 leads to 6, from where level 0 no longer goes on.
    for txid in 1..=12 {
        history.delete(SegmentKey::shipped(Txid::new(txid))).await;
    }
    let plan = history.plan(Target::Latest).await.unwrap();
    assert_eq!(plan.revision.txid.get(), 12);
    assert!(restore(&plan).await == *history.image(12));
    history.assert_restores(6).await;
    match history.plan_txid(7).await {
        Err(PlanError::NotKept { asked, before, after, .. }) => {
            assert_eq!((asked.get(), before.map(Txid::get), after.map(Txid::get)), (7, Some(6), Some(8)));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_gap_is_named_and_never_papered_over() {
    each_store(async |store| {
        let history = History::of(&store, 4, 10).await;
        for txid in [5, 6] {
            history.delete(SegmentKey::shipped(Txid::new(txid))).await;
        }
        for target in [Target::Latest, Target::Txid(Txid::new(9)), Target::Txid(Txid::new(5))] {
            match history.plan(target).await {
                Err(PlanError::Gap { missing, before, after, .. }) => {
                    assert_eq!(missing, TxidRange::new(Txid::new(5), Txid::new(6)).unwrap());
                    assert!(before.unwrap().as_str().ends_with("0/0000000000000004.seg"));
                    assert!(after.as_str().ends_with("0/0000000000000007.seg"));
                }
                other => panic!("{target:?}: {other:?}"),
            }
        }
        history.assert_restores(4).await;
        history.put_merged(None, 1, 8).await;
        history.assert_restores(10).await;
    })
    .await;
}

#[tokio::test]
async fn what_is_not_there_is_said_with_what_is() {
    each_store(async |store| {
        let mut history = History::begin(&store, 5).await;
        let missing = DatabaseStore::new(store.clone(), "ap.db".parse().unwrap());
        match Plan::make(&missing, None, Target::Latest).await {
            Err(PlanError::NoSuchDatabase { nearest, .. }) => {
                assert_eq!(nearest, ["app.db".parse().unwrap()]);
            }
            other => panic!("{other:?}"),
        }
        for generation in [None, Some(history.generation)] {
            let empty = Plan::make(&history.db, generation, Target::Latest).await;
            assert!(matches!(empty, Err(PlanError::Empty { .. })), "{empty:?}");
        }
        history.grow(3).await;
        match history.plan_txid(4).await {
            Err(PlanError::BeyondHead { asked, head, .. }) => assert_eq!((asked.get(), head.get()), (4, 3)),
            other => panic!("{other:?}"),
        }
        let other = aquifer_format::GenerationId::new(Timestamp::from_millis(1));
        let unknown = Plan::make(&history.db, Some(other), Target::Latest).await;
        assert!(
            matches!(unknown, Err(PlanError::NoSuchGeneration { generation, .. }) if generation == other)
        );
    })
    .await;
}

#[tokio::test]
async fn what_retention_removed_is_told_from_what_was_never_there() {
    let history = History::of(&memory(), 6, 20).await;
    history.put_merged(None, 1, 10).await;
    for txid in 1..=10 {
        history.delete(SegmentKey::shipped(Txid::new(txid))).await;
    }
    match history.plan_txid(3).await {
        Err(PlanError::NotKept { asked, before: None, after, .. }) => {
            assert_eq!((asked.get(), after), (3, Some(Txid::new(10))));
        }
        other => panic!("{other:?}"),
    }
    match history.plan(Target::Timestamp(commit_time(9))).await {
        Err(PlanError::BeforeFirst { first, .. }) => assert_eq!(first, commit_time(10)),
        other => panic!("{other:?}"),
    }
    history.assert_restores(10).await;
}

#[tokio::test]
async fn a_damaged_or_foreign_segment_is_named() {
    let store = memory();
    let history = History::of(&store, 7, 6).await;
    let object = |txid: u64| history.segments[txid as usize - 1].1.clone();
    let mut damaged = object(4).to_vec();
    let last = damaged.len() - 20;
    damaged[last] ^= 1;
    let fourth = SegmentKey::shipped(Txid::new(4));
    history.put(fourth, damaged.into()).await;
    match history.plan(Target::Latest).await {
        Err(PlanError::Log(LogError::Segment { key, .. })) => {
            assert_eq!(key, history.db.layout().segment(history.generation, fourth));
        }
        other => panic!("{other:?}"),
    }
    history.put(fourth, object(5)).await;
    assert!(matches!(
        history.plan(Target::Latest).await,
        Err(PlanError::Log(LogError::Misplaced { found, .. })) if found.first.get() == 5
    ));
    // A segment of the same txid, of another history.
    let other = History::of(&store, 8, 4).await;
    history.put(fourth, other.segments[3].1.clone()).await;
    match history.plan(Target::Latest).await {
        Err(PlanError::Discontinuous { older, newer, .. }) => {
            assert!(older.as_str().ends_with("03.seg") && newer.as_str().ends_with("04.seg"));
        }
        other => panic!("{other:?}"),
    }
    // Differences under the name of a snapshot.
    let range = TxidRange::new(Txid::FIRST, Txid::new(3)).unwrap();
    let first_of_fork = History::begin_from(&store, 7, None, other.image(2).clone()).await;
    history.put(SegmentKey { level: Level::Snapshot, range }, other.merged(2, 3)).await;
    assert!(matches!(history.plan_txid(3).await, Err(PlanError::Log(LogError::Misplaced { .. }))));
    let mut no_base = first_of_fork;
    no_base.grow(2).await;
    let orphan = no_base.plan(Target::Latest).await;
    assert!(matches!(orphan, Err(PlanError::NotABase { .. })), "{orphan:?}");
}

#[tokio::test]
async fn a_fork_restores_through_its_parent() {
    each_store(async |store| {
        let mut parent = History::of(&store, 9, 12).await;
        parent.put_merged(None, 1, 5).await;
        parent.put_merged(Some(1), 6, 9).await;
        let fork = Revision { generation: parent.generation, txid: Txid::new(9) };
        let mut child = History::begin_from(&store, 10, Some(fork), parent.image(9).clone()).await;
        // Nothing durable yet: the parent is what there is, and that is said.
        let latest = Plan::make(&child.db, None, Target::Latest).await.unwrap();
        assert_eq!((latest.generation, &latest.skipped), (parent.generation, &vec![child.generation]));
        assert_eq!(latest.revision.txid.get(), 12);

        child.grow(6).await;
        parent.grow(2).await;
        for txid in 1..=6 {
            child.assert_restores(txid).await;
        }
        parent.assert_restores(14).await;
        let latest = Plan::make(&child.db, None, Target::Latest).await.unwrap();
        assert_eq!(latest.revision, Revision { generation: child.generation, txid: Txid::new(6) });
        assert!(latest.skipped.is_empty());
        assert_eq!(latest.steps[0].generation, parent.generation);
        assert_eq!(latest.steps.len(), 1 + 1 + 6);
    })
    .await;
}

#[tokio::test]
async fn a_follower_gets_only_what_is_new() {
    let store = memory();
    let mut history = History::of(&store, 11, 9).await;
    history.put_merged(Some(1), 5, 8).await;
    let at = |txid| Revision { generation: history.generation, txid: Txid::new(txid) };
    let (third, ninth) = (at(3), at(9));
    let plan = Plan::since(&history.db, third, Target::Latest).await.unwrap().unwrap();
    assert_eq!(plan.steps.len(), 3);
    assert!(restore_onto(&plan, history.image(3).clone()).await == *history.image(9));

    let before = store.counts();
    assert!(Plan::since(&history.db, ninth, Target::Latest).await.unwrap().is_none());
    assert_eq!((store.counts() - before).total(), 1, "to find nothing new costs one request");
    history.grow(1).await;
    let plan = Plan::since(&history.db, ninth, Target::Latest).await.unwrap().unwrap();
    assert_eq!(plan.revision.txid.get(), 10);

    history.delete(SegmentKey::shipped(Txid::new(4))).await;
    let gone = Plan::since(&history.db, third, Target::Latest).await;
    assert!(matches!(gone, Err(PlanError::Gap { .. })), "{gone:?}");
}

#[tokio::test]
async fn a_moment_before_a_generation_is_looked_for_in_the_one_before() {
    let store = memory();
    let first = History::of(&store, 12, 3).await;
    let mut second = History::begin(&store, 13).await;
    second.grow(8).await;
    for txid in 1..=7 {
        // The times of both start alike: take the beginning away from the second.
        second.delete(SegmentKey::shipped(Txid::new(txid))).await;
    }
    second.put_merged(None, 1, 7).await;
    let db = database(&store);
    let plan = Plan::make(&db, None, Target::Timestamp(commit_time(5))).await.unwrap();
    assert_eq!((plan.generation, plan.revision.txid.get()), (first.generation, 3));
    let plan = Plan::make(&db, None, Target::Timestamp(commit_time(7))).await.unwrap();
    assert_eq!((plan.generation, plan.revision.txid.get()), (second.generation, 7));
}
