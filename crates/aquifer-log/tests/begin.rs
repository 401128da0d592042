//! However many begin a database at once, they begin the same generation.

#![allow(clippy::unwrap_used, reason = "tests")]

use aquifer_format::{PageSize, WriterNonce};
use aquifer_log::{DatabaseStore, GenerationRecord, LogError, Store, remove_generation};
use aquifer_testkit::fault_store::{Fault, FaultStore, Op, Rule};
use futures::TryStreamExt;

fn database(store: &Store) -> DatabaseStore {
    DatabaseStore::new(store.clone(), "app".parse().unwrap())
}

fn record() -> GenerationRecord {
    GenerationRecord::new(PageSize::DEFAULT, WriterNonce::random())
}

#[tokio::test]
async fn all_who_begin_a_database_at_once_begin_the_same_generation() {
    let dir = tempfile::tempdir().unwrap();
    let directory = Store::open(&dir.path().join("store").to_str().unwrap().parse().unwrap()).unwrap();
    let memory = Store::open(&"memory://".parse().unwrap()).unwrap();
    for store in [directory, memory] {
        let begun = (0..16).map(|_| {
            let database = database(&store);
            tokio::spawn(async move { database.begin(record()).await.unwrap() })
        });
        let begun: Vec<_> = futures::future::try_join_all(begun.collect::<Vec<_>>()).await.unwrap();
        assert!(begun.iter().all(|one| *one == begun[0]), "{begun:?}");
        assert_eq!(database(&store).latest_generation().await.unwrap().unwrap(), begun[0]);
        // Who comes later does, too; and those who lost left nothing.
        assert_eq!(database(&store).begin(record()).await.unwrap(), begun[0]);
        let ids: Vec<_> = database(&store).generation_ids().try_collect().await.unwrap();
        assert_eq!(ids, [begun[0].id]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_makes_no_second_beginning() {
    for nth in 0..2 {
        let faults = FaultStore::in_memory();
        let store = Store::from_object_store(std::sync::Arc::new(faults.clone()), "faulty");
        faults
            .inject(Rule::on(Op::Create, ["generation.json", "first.json"][nth], Fault::LoseAnswer).times(1));
        let first = database(&store).begin(record()).await.unwrap();
        assert_eq!(database(&store).begin(record()).await.unwrap(), first);
    }
}

#[tokio::test]
async fn a_first_generation_that_is_gone_is_told_and_a_removed_database_begins_anew() {
    let store = Store::open(&"memory://".parse().unwrap()).unwrap();
    let database = database(&store);
    let first = database.begin(record()).await.unwrap();
    remove_generation(&database, first.id).await.unwrap();
    assert!(matches!(database.begin(record()).await, Err(LogError::Taken { .. })));
    database.purge().await.unwrap();
    assert_ne!(database.begin(record()).await.unwrap().id, first.id);
}
