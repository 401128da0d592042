//! Imports that are given up at any write: no database, or one that has the whole newest generation.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aquifer_log::store::Patience;
use aquifer_log::{DatabaseStore, Retention, Store, Target, retain};
use aquifer_migrate::{Imported, Importer, MigrateError, Origin};
use aquifer_testkit::fault_store::{Fault, FaultStore, Gate, Op, Request, Rule};
use futures::TryStreamExt as _;

use crate::bucket::Bucket;
use crate::import::restored;

/// Where it is imported to, with faults before it.
fn target(faults: &FaultStore) -> DatabaseStore {
    let store = Store::from_object_store(Arc::new(faults.clone()), "memory");
    DatabaseStore::new(store.with_patience(Patience::ONCE), "app.db".parse().unwrap())
}

fn is_write(request: &Request) -> bool {
    matches!(request.op, Op::Put | Op::Create | Op::Multipart)
}

/// Strikes the write after so many of objects of these names.
fn strike(faults: &FaultStore, name: &'static str, after: usize, fault: Fault) {
    let writes = AtomicUsize::new(0);
    faults.set_schedule(move |request| {
        let is_one = is_write(request) && request.key.ends_with(name);
        let strikes = is_one && writes.fetch_add(1, Ordering::Relaxed) == after;
        strikes.then(|| fault.clone())
    });
}

/// Of two generations, and what the store has of them when all went well.
struct Stage {
    bucket: Bucket,
    latest: Vec<u8>,
    dir: tempfile::TempDir,
}

impl Stage {
    async fn new(name: &str) -> Stage {
        let bucket = Bucket::new(name);
        let latest = bucket.restore(bucket.restorer()).await.unwrap().1;
        Stage { bucket, latest, dir: tempfile::tempdir().unwrap() }
    }

    async fn import(&self, to: &DatabaseStore) -> Result<Imported, MigrateError> {
        let importer = Importer::new(self.bucket.store(), Origin::Auto, to.clone());
        importer.all_generations(true).temp_dir(self.dir.path()).import().await
    }

    /// Waits until the thread of an import that was dropped is done: it removes its file then.
    async fn is_over(&self) {
        let begun = std::time::Instant::now();
        while std::fs::read_dir(self.dir.path()).unwrap().count() > 0 {
            assert!(begun.elapsed().as_secs() < 60, "the import goes on");
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }

    /// What is there is the newest, if anything is, and then it is not imported again; else it is. How many generations
    /// there are in the end.
    async fn check(&self, to: &DatabaseStore, was_there: bool) -> usize {
        assert_eq!(to.latest_generation().await.unwrap().is_some(), was_there);
        match self.import(to).await {
            Ok(imported) => assert!(!was_there && imported.older.len() == 1),
            Err(MigrateError::Exists { .. }) => assert!(was_there),
            Err(error) => panic!("{error}"),
        }
        let found = restored(to, self.dir.path(), None, Target::Latest).await.unwrap();
        assert!(found == self.latest);
        // What the first one has left is swept, and nothing else.
        let (store_now, window) = (to.store().time().await.unwrap(), std::time::Duration::MAX);
        let retention = Retention { window, grace: std::time::Duration::ZERO };
        retain(to, &retention, store_now, store_now).await.unwrap();
        let ids: Vec<_> = to.generation_ids().try_collect().await.unwrap();
        for id in &ids {
            assert!(to.generation_record(*id).await.unwrap().is_some());
            restored(to, self.dir.path(), Some(*id), Target::Latest).await.unwrap();
        }
        ids.len()
    }
}

/// Imports with a fault at a write; false if there were not so many.
async fn fails(stage: &Stage, name: &'static str, after: usize, fault: Fault) -> bool {
    let faults = FaultStore::in_memory();
    let to = target(&faults);
    strike(&faults, name, after, fault);
    let imported = stage.import(&to).await;
    faults.clear();
    let latest = to.latest_generation().await.unwrap();
    match imported {
        Ok(imported) => {
            assert_eq!(imported.older.len(), 1);
            return false;
        }
        Err(MigrateError::Partly { missing, newest, .. }) => {
            assert_eq!((missing, latest.as_ref().map(|latest| latest.id)), (1, Some(newest.generation)));
        }
        // It may be there.
        Err(MigrateError::Store(error)) if error.outcome_unknown() => {}
        // Nothing of it stays.
        Err(_) => assert_eq!(to.generation_ids().try_collect::<Vec<_>>().await.unwrap(), []),
    }
    let there = stage.check(&to, latest.is_some()).await;
    assert!(there == 2 || latest.is_some(), "{after}: {there}");
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_fails_at_any_write_leaves_no_database_or_the_whole_newest() {
    let stage = Stage::new("bottomless-frames-two-generations").await;
    let mut writes = 0;
    while fails(&stage, "", writes, Fault::Deny).await {
        writes += 1;
    }
    // Two batches and a record of each.
    assert_eq!(writes, 6);
    // Others are tried again.
    for fault in [Fault::LoseAnswer, Fault::Timeout, Fault::Throttle] {
        for record in 0..2 {
            assert!(fails(&stage, "/generation.json", record, fault.clone()).await);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_is_dropped_at_any_write_leaves_no_database_or_the_whole_newest() {
    let stage = Stage::new("litestream-0.3").await;
    for after in (0..).step_by(3) {
        let faults = FaultStore::in_memory();
        let to = target(&faults);
        let gate = Gate::new();
        strike(&faults, "", after, Fault::Hold(gate.clone()));
        tokio::select! {
            imported = stage.import(&to) => {
                imported.unwrap();
                assert!(after > 10, "{after}");
                break;
            }
            () = gate.arrived(1) => {}
        }
        faults.clear();
        gate.open();
        stage.is_over().await;
        let was_there = to.latest_generation().await.unwrap().is_some();
        stage.check(&to, was_there).await;
    }
}

/// A store that gives back something else than was written there.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_again_is_never_to_be_found() {
    let stage = Stage::new("bottomless-frames-two-generations").await;
    for segment in 0..4 {
        let faults = FaultStore::in_memory();
        let to = target(&faults);
        faults.inject(Rule::on(Op::Get, ".seg", Fault::Torn(20)).after(segment).times(1));
        stage.import(&to).await.unwrap_err();
        assert!(
            !faults
                .take_log()
                .iter()
                .any(|write| write.op == Op::Create && write.key.ends_with("/generation.json"))
        );
    }
}
