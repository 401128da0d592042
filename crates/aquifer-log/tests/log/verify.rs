//! Verification finds whatever is wrong, and says where.

use std::sync::Mutex;

use aquifer_format::segment::{CompressionLevel, SegmentBytes, SegmentEncoder};
use aquifer_format::{PageHash, Txid};
use aquifer_log::store::Key;
use aquifer_log::{
    Compactor, Levels, LogError, PlanError, Scope, SegmentKey, Store, Target, Verified, VerifyProgress,
    snapshot, verify,
};
use bytes::Bytes;

use crate::history::History;
use crate::stores::each_store;

fn memory() -> Store {
    Store::open(&"memory://".parse().unwrap()).unwrap()
}

async fn verify_it(history: &History, target: Target, scope: Scope) -> Result<Verified, PlanError> {
    verify(&history.db, Some(history.generation), target, scope, |_| ()).await
}

/// A history with something of everything.
async fn compacted(store: &Store, seed: u64, txids: u64) -> History {
    let history = History::of(store, seed, txids).await;
    let levels = Levels { fanout: 3, highest: 2 };
    let mut compactor = Compactor::new(history.db.clone(), history.generation, levels);
    while compactor.step(Txid::new(txids)).await.unwrap().is_some() {}
    snapshot(&history.db, None, Target::Txid(Txid::new(txids / 2))).await.unwrap();
    history
}

fn named(error: &PlanError) -> Option<&Key> {
    match error {
        PlanError::Log(
            LogError::Segment { key, .. } | LogError::WrongPage { key, .. } | LogError::Misplaced { key, .. },
        ) => Some(key),
        _ => None,
    }
}

#[tokio::test]
async fn what_is_whole_is_proven_and_reported() {
    each_store(async |store| {
        let history = compacted(&store, 91, 30).await;
        let progress = Mutex::new(Vec::new());
        let tell = |now: VerifyProgress| progress.lock().unwrap().push(now);
        let proven = verify(&history.db, None, Target::Latest, Scope::Plan, tell).await.unwrap();
        let plan = history.plan(Target::Latest).await.unwrap();
        assert_eq!(proven.revision, plan.revision);
        assert_eq!((proven.segments, proven.bytes), (plan.steps.len() as u64, plan.stored_bytes()));
        assert_eq!(proven.pages, history.image(30).len() as u64);
        let progress = progress.into_inner().unwrap();
        let last = progress.last().unwrap();
        assert!(last.bytes_done == last.bytes_total && last.bytes_done > 0);
        assert!(progress.is_sorted_by_key(|now| now.bytes_done));

        let all = verify_it(&history, Target::Latest, Scope::All).await.unwrap();
        assert_eq!(all.segments, 30 + 9 + 3 + 1);
        assert!(all.bytes > proven.bytes && all.pages == proven.pages);
        for txid in 1..=30 {
            verify_it(&history, Target::Txid(Txid::new(txid)), Scope::Plan).await.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn hundreds_of_segments_are_verified_as_well() {
    let history = History::of(&memory(), 92, 400).await;
    let proven = verify_it(&history, Target::Latest, Scope::Plan).await.unwrap();
    assert_eq!((proven.segments, proven.pages), (400, history.image(400).len() as u64));
}

#[tokio::test]
async fn damage_to_any_byte_is_found_and_the_object_named() {
    let store = memory();
    let mut history = History::begin(&store, 93).await;
    history.grow(5).await;
    history.put_merged(None, 1, 2).await;
    history.put_merged(Some(1), 3, 4).await;
    let mut flips = 0;
    for segment in [
        SegmentKey::shipped(Txid::new(5)),
        SegmentKey::shipped(Txid::new(4)),
        SegmentKey::snapshot(Txid::new(2)).unwrap(),
        SegmentKey {
            level: aquifer_log::Level::number(1),
            ..history.plan_txid(4).await.unwrap().steps[1].handle.segment()
        },
    ] {
        let key = history.db.layout().segment(history.generation, segment);
        let object = store.get(&key).await.unwrap();
        // All of small objects, and their share of large ones.
        for at in (0..object.len()).step_by(object.len().div_ceil(700)) {
            let mut damaged = object.to_vec();
            damaged[at] ^= 1 << (at % 8);
            store.put(&key, Bytes::from(damaged)).await.unwrap();
            match verify_it(&history, Target::Latest, Scope::All).await {
                Err(error) => assert_eq!(named(&error), Some(&key), "byte {at} of {key}: {error}"),
                Ok(_) => panic!("byte {at} of {key} is wrong, and was not found"),
            }
            flips += 1;
        }
        store.put(&key, object.slice(..object.len() - 1)).await.unwrap();
        let truncated = verify_it(&history, Target::Latest, Scope::All).await.unwrap_err();
        assert_eq!(named(&truncated), Some(&key));
        store.put(&key, object).await.unwrap();
        verify_it(&history, Target::Latest, Scope::All).await.unwrap();
    }
    assert!(flips > 1_000, "{flips}");
}

#[tokio::test]
async fn a_wrong_difference_is_traced_to_the_object_that_has_it() {
    let store = memory();
    let history = History::of(&store, 94, 12).await;
    let (info, object) = &history.segments[6];
    let segment = SegmentBytes::parse(object).unwrap();
    let mut forged = SegmentEncoder::new(info.meta().page_size, CompressionLevel::SHIP);
    let mut cursor = segment.entries();
    let mut wrong = None;
    while let Some(mut entry) = cursor.next().unwrap() {
        // Of a page that nothing later repairs.
        let pgno = entry.pgno;
        let repaired = history.segments[7..].iter().any(|(later, _)| later.index().find(pgno).is_some());
        if wrong.is_none() && !repaired && pgno.get() <= history.image(12).len() as u32 {
            entry.hash = PageHash::from_u64(entry.hash.get() ^ 1);
            wrong = Some(pgno);
        }
        forged.push_entry(&entry);
    }
    let wrong = wrong.expect("a page that is changed last by txid 7; choose another seed");
    let mut bytes = std::mem::take(forged.output());
    bytes.extend(forged.finish(info.meta()).unwrap().tail);
    let seventh = SegmentKey::shipped(Txid::new(7));
    history.put(seventh, bytes.into()).await;
    match verify_it(&history, Target::Latest, Scope::Plan).await {
        Err(PlanError::Log(LogError::WrongPage { key, pgno, .. })) => {
            assert_eq!((key, pgno), (history.db.layout().segment(history.generation, seventh), wrong));
        }
        other => panic!("{other:?}"),
    }
    verify_it(&history, Target::Txid(Txid::new(6)), Scope::Plan).await.unwrap();
}

#[tokio::test]
async fn levels_that_disagree_are_found() {
    let store = memory();
    let history = compacted(&store, 95, 20).await;
    let other = History::of(&store, 96, 20).await;
    // Whole by itself, of the right txids, and of another history.
    let foreign = SegmentKey::shipped(Txid::new(6));
    history.put(foreign, other.segments[5].1.clone()).await;
    verify_it(&history, Target::Latest, Scope::Plan).await.unwrap();
    match verify_it(&history, Target::Latest, Scope::All).await {
        Err(PlanError::Discontinuous { older, newer, .. }) => {
            let key = history.db.layout().segment(history.generation, foreign);
            assert!(older == key || newer == key, "{older} {newer}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn pages_that_do_not_add_up_to_the_databases_checksum_are_found() {
    let store = memory();
    let history = History::of(&store, 97, 1).await;
    // Every page is what it says; the whole is not.
    let (info, object) = &history.segments[0];
    let segment = SegmentBytes::parse(object).unwrap();
    let mut forged = SegmentEncoder::new(info.meta().page_size, CompressionLevel::SHIP);
    let mut cursor = segment.entries();
    while let Some(entry) = cursor.next().unwrap() {
        forged.push_entry(&entry);
    }
    let mut meta = info.meta().clone();
    meta.checksum_after.toggle(PageHash::from_u64(1));
    let mut bytes = std::mem::take(forged.output());
    bytes.extend(forged.finish(&meta).unwrap().tail);
    history.put(SegmentKey::shipped(Txid::FIRST), bytes.into()).await;
    let found = verify_it(&history, Target::Latest, Scope::Plan).await;
    assert!(matches!(found, Err(PlanError::Log(LogError::NotWhole { .. }))), "{found:?}");
    let refused = snapshot(&history.db, None, Target::Latest).await;
    assert!(matches!(refused, Err(PlanError::Log(LogError::NotWhole { .. }))), "{refused:?}");
}
