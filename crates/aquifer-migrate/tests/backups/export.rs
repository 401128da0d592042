//! Exports for Litestream: restored by the reader that restores what Litestream itself wrote.
//!
//! That Litestream 0.5.5 and 0.5.17 restore them was tried by hand: no registry has binaries of its makers.

use std::collections::BTreeSet;
use std::path::Path;

use aquifer_format::Txid;
use aquifer_log::{Compactor, DatabaseStore, Level, Levels, Plan, PlanError, SegmentKey, Store, snapshot_of};
use aquifer_migrate::{Exporter, Importer, MigrateError, Origin, Restorer, Target};
use aquifer_replicate::restore::RestoreError;
use futures::TryStreamExt;
use proptest::prelude::*;

use crate::bucket::{Bucket, sha256};
use crate::generator::Ltx;
use crate::histories::{Change, changes};
use crate::live::Live;

fn store(path: &Path) -> Store {
    Store::open(&path.to_str().unwrap().parse().unwrap()).unwrap()
}

async fn imported(bucket: &Bucket, dir: &Path) -> DatabaseStore {
    let to = DatabaseStore::new(store(&dir.join("store")), "app.db".parse().unwrap());
    Importer::new(bucket.store(), Origin::Auto, to.clone()).import().await.unwrap();
    to
}

async fn restored(from: Store, dir: &Path) -> Vec<u8> {
    restored_at(from, dir, Target::Latest).await.1
}

/// The last transaction that is in it, and the file.
async fn restored_at(from: Store, dir: &Path, target: Target) -> (u64, Vec<u8>) {
    let output = dir.join("restored.db");
    let restorer = Restorer::new(from, Origin::Litestream, &output).target(target).integrity_check(true);
    let restored = restorer.restore().await.unwrap().unwrap();
    let file = std::fs::read(&output).unwrap();
    std::fs::remove_file(output).unwrap();
    (restored.position, file)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_is_a_replica_of_the_same_database() {
    for (name, expected) in [
        ("litestream-0.5", "/latest"),
        ("litestream-0.3-64k", "/latest"),
        ("bottomless-server-zstd", "/after_batch/7/restored"),
    ] {
        let (bucket, dir) = (Bucket::new(name), tempfile::tempdir().unwrap());
        let database = imported(&bucket, dir.path()).await;
        let to = store(&dir.path().join("replica"));
        let exported = Exporter::new(database, to.clone()).temp_dir(dir.path()).export().await.unwrap();
        let last = exported.revision.txid.get();
        assert_eq!(exported.key.as_str(), format!("ltx/9/0000000000000001-{last:016x}.ltx"));
        let expected = bucket.expected.pointer(expected).unwrap()["file_sha256"].as_str().unwrap();
        assert_eq!(sha256(&restored(to, dir.path()).await), expected, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_may_follow_an_older_one_and_replaces_nothing_else() {
    let (bucket, dir) = (Bucket::new("litestream-0.5"), tempfile::tempdir().unwrap());
    let database = imported(&bucket, dir.path()).await;
    let to = store(&dir.path().join("replica"));
    let export = |txid: u64| {
        let target = aquifer_log::Target::Txid(aquifer_format::Txid::new(txid));
        Exporter::new(database.clone(), to.clone()).target(target).export()
    };
    export(3).await.unwrap();
    let older = restored(to.clone(), dir.path()).await;
    for again in [3, 2] {
        let refused = export(again).await.unwrap_err();
        assert!(matches!(refused, MigrateError::Occupied { .. }), "{refused}");
    }
    assert!(older == restored(to.clone(), dir.path()).await);
    export(9).await.unwrap();
    assert!(older != restored(to, dir.path()).await);
    // Where Litestream itself ships to.
    let theirs = bucket.store();
    let refused = Exporter::new(database, theirs).export().await.unwrap_err();
    assert!(matches!(refused, MigrateError::Occupied { .. }), "{refused}");
}

/// A database with this history, one batch for each transaction, and what it is at each txid, from 1 on.
async fn lived(page_size: usize, history: &[Change], dir: &Path) -> (DatabaseStore, Vec<Vec<u8>>) {
    let (bucket, live) = (Bucket::empty(), Live::new(page_size));
    let mut states = vec![Vec::new()];
    for change in history {
        change.sql(&live);
        let state = live.image();
        if states.last() != Some(&state) {
            Ltx::between(states.last().unwrap(), &state, page_size, states.len() as u64).put(&bucket, 0);
            states.push(state);
        }
    }
    if states.len() == 1 {
        // Nothing was changed: the database without rows.
        states.push(live.image());
        Ltx::between(&[], &states[1], page_size, 1).put(&bucket, 0);
    }
    states.remove(0);
    let database = imported(&bucket, dir).await;
    for (n, state) in states.iter().enumerate() {
        assert!(at(&database, dir, n as u64 + 1).await == *state, "txid {}", n + 1);
    }
    (database, states)
}

/// What `aquifer restore` makes.
async fn at(database: &DatabaseStore, dir: &Path, txid: u64) -> Vec<u8> {
    let output = dir.join("ours.db");
    let restorer =
        aquifer_replicate::restore::Restorer::new(database.store().clone(), database.name().clone(), &output);
    restorer.target(aquifer_log::Target::Txid(Txid::new(txid))).restore().await.unwrap();
    let file = std::fs::read(&output).unwrap();
    std::fs::remove_file(output).unwrap();
    file
}

/// Merges batches into larger ones, and removes `gone` of those that were merged; before the txid `since`, of which a snapshot
/// is made, all.
async fn age(database: &DatabaseStore, gone: &BTreeSet<u64>, since: Option<u64>) {
    let generation = database.latest_generation().await.unwrap().unwrap().id;
    let head = Plan::make(database, None, aquifer_log::Target::Latest).await.unwrap().revision.txid;
    let mut compactor = Compactor::new(database.clone(), generation, Levels { fanout: 2, highest: 2 });
    while compactor.step(head).await.unwrap().is_some() {}
    if let Some(since) = since {
        let target = aquifer_log::Target::Txid(Txid::new(since));
        let plan = Plan::make(database, None, target).await.unwrap();
        snapshot_of(database, &plan).await.unwrap();
    }
    let mut merged = BTreeSet::new();
    let mut keys: Vec<SegmentKey> = Vec::new();
    for level in database.levels(generation).await.unwrap() {
        let segments = database.segments(generation, level, Txid::ZERO);
        let segments = segments.try_collect::<Vec<_>>().await.unwrap();
        for found in segments.into_iter().filter(|_| level != Level::Snapshot) {
            keys.push(found.segment);
            if level != Level::Shipped {
                merged.extend(found.segment.range.first.get()..=found.segment.range.last.get());
            }
        }
    }
    for key in keys {
        let last = key.range.last.get();
        let is_merged = key.level == Level::Shipped && gone.contains(&last) && merged.contains(&last);
        if is_merged || since.is_some_and(|since| last <= since) {
            let key = database.layout().segment(generation, key);
            database.store().delete(&key).await.unwrap();
        }
    }
}

async fn every_export_is_what_restore_makes(
    page_size: usize,
    history: &[Change],
    gone: &BTreeSet<u64>,
    (since, target): (Option<prop::sample::Index>, prop::sample::Index),
) {
    let dir = tempfile::tempdir().unwrap();
    let (database, states) = lived(page_size, history, dir.path()).await;
    let target = target.index(states.len()) as u64 + 1;
    let since = since.map(|since| since.index(target as usize) as u64 + 1);
    age(&database, gone, since).await;
    let export = |to: &Store, history: bool| {
        let exporter = Exporter::new(database.clone(), to.clone()).temp_dir(dir.path()).history(history);
        // The newest must be among those that are left.
        let target = aquifer_log::Target::Txid(Txid::new(target));
        exporter.target(target).export()
    };
    let kept = Plan::make(&database, None, aquifer_log::Target::Txid(Txid::new(target))).await;
    if kept.is_err() {
        // Merged with later ones.
        assert!(since.is_some() || !gone.is_empty());
        return;
    }

    let snapshot = store(&dir.path().join("snapshot"));
    let exported = export(&snapshot, false).await.unwrap();
    assert_eq!((exported.oldest.get(), exported.increments), (target, 0));
    let state = &states[target as usize - 1];
    assert!(restored(snapshot, dir.path()).await == *state, "a snapshot of {target}");

    let whole = store(&dir.path().join("history"));
    let exported = export(&whole, true).await.unwrap();
    assert_eq!(exported.revision.txid.get(), target);
    let oldest = exported.oldest.get();
    assert!(since.is_none_or(|since| oldest == since), "{oldest} since {since:?}");
    let mut found = BTreeSet::new();
    for txid in oldest..=target {
        let (position, file) = restored_at(whole.clone(), dir.path(), Target::Position(txid)).await;
        assert!(file == states[position as usize - 1], "{position} of a history up to {target}");
        found.insert(position);
    }
    assert_eq!(found.len() as u64, exported.increments + 1);
    if gone.is_empty() && since.is_none() {
        assert_eq!((oldest, found.len() as u64), (1, target), "each batch is a moment");
    }
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "{left:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 30, ..ProptestConfig::default() })]

    #[test]
    fn any_history_is_exported_as_restore_makes_it(
        page_size in prop::sample::select(vec![512, 1024, 4096, 16_384, 65_536]),
        history in changes(),
        gone in prop_oneof![Just(BTreeSet::new()), prop::collection::btree_set(1..9u64, 0..6)],
        since in prop::option::of(any::<prop::sample::Index>()),
        target in any::<prop::sample::Index>(),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(every_export_is_what_restore_makes(page_size, &history, &gone, (since, target)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_is_exported_to_an_empty_place_only_and_dated() {
    let (bucket, dir) = (Bucket::new("litestream-0.5"), tempfile::tempdir().unwrap());
    let database = imported(&bucket, dir.path()).await;
    let to = store(&dir.path().join("replica"));
    let export = |history: bool| Exporter::new(database.clone(), to.clone()).history(history).export();
    let exported = export(true).await.unwrap();
    assert!(exported.increments > 5, "{exported:?}");
    for history in [true, false] {
        let refused = export(history).await.unwrap_err();
        assert!(matches!(refused, MigrateError::Occupied { .. }), "{refused}");
    }
    // Litestream goes by the files' times, and our own reader by what they say.
    let mut files = Vec::new();
    crate::damage::objects(&dir.path().join("replica"), &mut files);
    assert_eq!(files.len() as u64, exported.increments + 1);
    for file in files {
        let said = i64::from_be_bytes(std::fs::read(&file).unwrap()[32..40].try_into().unwrap());
        let modified = std::fs::metadata(&file).unwrap().modified().unwrap();
        let modified = modified.duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
        assert_eq!(modified, u128::try_from(said).unwrap(), "{file:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_whose_batches_do_not_continue_each_other_is_not_exported() {
    let dir = tempfile::tempdir().unwrap();
    let insert = |rows| Change::Insert { rows, bytes: 300 };
    let (database, states) = lived(512, &[insert(20), insert(5), insert(9), insert(2)], dir.path()).await;
    assert_eq!(states.len(), 4);
    let other = tempfile::tempdir().unwrap();
    let (theirs, _) = lived(512, &[insert(20), insert(5), insert(9), insert(2)], other.path()).await;
    let path = |database: &DatabaseStore, directory: &Path, generation, txid| {
        let key = database.layout().segment(generation, SegmentKey::shipped(Txid::new(txid)));
        directory.join("store").join(key.as_str())
    };
    let of = |database: &DatabaseStore| {
        let database = database.clone();
        async move { database.latest_generation().await.unwrap().unwrap().id }
    };
    // So that the fewest segments to the newest are not these.
    age(&database, &BTreeSet::new(), None).await;
    let from = path(&theirs, other.path(), of(&theirs).await, 3);
    std::fs::copy(from, path(&database, dir.path(), of(&database).await, 3)).unwrap();
    let to = store(&dir.path().join("replica"));
    let error = Exporter::new(database, to).history(true).export().await.unwrap_err();
    let MigrateError::Target(gap) = error else { panic!("{error}") };
    assert!(gap.to_string().contains("0000000000000003"), "{gap}");
    assert!(matches!(*gap, RestoreError::Plan(PlanError::Discontinuous { .. })), "{gap}");
}
