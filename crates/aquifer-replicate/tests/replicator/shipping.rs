//! What is committed is shipped: when asked for, and without.

use std::time::Duration;

use aquifer_format::Txid;
use aquifer_replicate::{ReplicaOptions, UpkeepOptions};
use aquifer_testkit::fault_store::{Fault, Gate, Op, Rule};

use crate::stage::{Stage, until};

#[tokio::test]
async fn what_is_committed_before_a_sync_is_in_the_store_after_it() {
    let stage = Stage::new();
    let replicator = stage.start();
    for k in 0..30 {
        stage.app.put(k, 3000);
        if k % 3 == 0 {
            let synced = replicator.sync().await.unwrap();
            assert_eq!(synced[0].0, stage.name);
            stage.assert_replica_is_the_database().await;
        }
    }
    replicator.shutdown().await.unwrap();
    stage.assert_replica_is_the_database().await;
}

#[tokio::test]
async fn a_sync_is_answered_when_its_commits_are_durable_not_when_all_are() {
    let stage = Stage::new();
    let replicator = stage.start();
    replicator.sync().await.unwrap();
    let gates = [2, 3, 4].map(|txid: u64| {
        let gate = Gate::new();
        stage.faults.inject(Rule::on(Op::Create, &format!("{txid:016x}.seg"), Fault::Hold(gate.clone())));
        gate
    });
    stage.app.put(1, 10);
    gates[0].arrived(1).await;
    stage.app.put(2, 10);
    let mut sync = std::pin::pin!(replicator.sync_database(&stage.name));
    // It is asked before the second batch is captured, and so for that one.
    assert!(futures::poll!(sync.as_mut()).is_pending());
    gates[0].open();
    gates[1].arrived(1).await;
    stage.app.put(3, 10);
    gates[1].open();
    // The third commit is captured and on its way, and stays there.
    let answered = tokio::time::timeout(Duration::from_mins(1), sync).await;
    let revision = answered.expect("what was asked for is durable").unwrap().unwrap();
    assert_eq!(revision.txid, Txid::new(3));
    gates[2].open();
    replicator.shutdown().await.unwrap();
    stage.assert_replica_is_the_database().await;
}

#[tokio::test]
async fn commits_are_shipped_without_being_asked_for() {
    let stage = Stage::new();
    let replicator = stage.start();
    for k in 0..5 {
        stage.app.put(k, 3000);
        until(&replicator, "durable", |s| s.durable.is_some_and(|r| r.txid.get() > k as u64)).await;
        let revision = replicator.wait_durable(&stage.name, Txid::new(k as u64 + 1)).await.unwrap();
        assert!(revision.txid.get() > k as u64);
        stage.assert_replica_is_the_database().await;
    }
}

/// The first batch is found by comparing the database as it was opened; what is committed between that and a question
/// belongs to the answer.
#[tokio::test]
async fn what_is_committed_while_a_generation_is_begun_is_in_the_answer() {
    let stage = Stage::new();
    let gate = Gate::new();
    stage.faults.inject(Rule::on(Op::Create, "generation", Fault::Hold(gate.clone())).times(1));
    let replicator = stage.start();
    gate.arrived(1).await;
    stage.app.put(1, 2000);
    // Whatever is answered is answered with no more than the first batch in the store.
    let second = Gate::new();
    stage.faults.inject(Rule::on(Op::Create, "/0/", Fault::Hold(second.clone())).after(1));
    let mut synced = Box::pin(replicator.sync());
    gate.open();
    tokio::select! {
        biased;
        answered = &mut synced => panic!("too early: {answered:?}"),
        () = second.arrived(1) => second.open(),
    }
    synced.await.unwrap();
    stage.assert_replica_is_the_database().await;
}

#[tokio::test]
async fn an_interval_makes_fewer_and_larger_batches() {
    let stage = Stage::new();
    let options = ReplicaOptions { interval: Duration::from_hours(1), ..ReplicaOptions::default() };
    let replicator = stage.start_with(options);
    until(&replicator, "started", |s| s.durable.is_some()).await;
    for k in 0..50 {
        stage.app.put(k, 1000);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    replicator.sync().await.unwrap();
    let durable = replicator.status()[0].durable.unwrap();
    assert!(durable.txid.get() <= 3, "{durable}");
    stage.assert_replica_is_the_database().await;
}

#[tokio::test]
async fn a_block_is_compacted_with_its_last_transaction() {
    use aquifer_log::{Level, Levels};
    let stage = Stage::new();
    let levels = Levels { fanout: 4, highest: 1 };
    let upkeep = UpkeepOptions { levels, ..UpkeepOptions::default() };
    let replicator = stage.start_with(ReplicaOptions { upkeep, ..ReplicaOptions::default() });
    // The first one is the whole database; the first block comes after it.
    let last = Txid::new(5);
    let durable = loop {
        stage.app.put(1, 3000);
        let durable = replicator.sync_database(&stage.name).await.unwrap().unwrap();
        if durable.txid >= last {
            break durable;
        }
    };
    assert_eq!(durable.txid, last);
    replicator.shutdown().await.unwrap();
    let database = stage.database();
    let blocks = database.segments(durable.generation, Level::number(1), Txid::ZERO);
    let blocks: Vec<_> = futures::TryStreamExt::try_collect(blocks).await.unwrap();
    assert_eq!(blocks.len(), 1, "{blocks:?}");
    assert_eq!(blocks[0].segment.range.last, last);
}

#[tokio::test]
async fn a_growing_generation_is_compacted_and_gets_snapshots() {
    use aquifer_log::Level;
    let stage = Stage::new();
    let upkeep = UpkeepOptions {
        levels: aquifer_log::Levels { fanout: 4, highest: 2 },
        snapshot_min_txids: 8,
        ..UpkeepOptions::default()
    };
    let options = ReplicaOptions { upkeep, ..ReplicaOptions::default() };
    let replicator = stage.start_with(options);
    for k in 0..60 {
        stage.app.put(k % 7, 3000);
        replicator.sync().await.unwrap();
    }
    let generation = replicator.status()[0].durable.unwrap().generation;
    replicator.shutdown().await.unwrap();
    for level in [Level::number(1), Level::number(2), Level::Snapshot] {
        let database = stage.database();
        let segments: Vec<_> =
            futures::TryStreamExt::try_collect(database.segments(generation, level, Txid::ZERO))
                .await
                .unwrap();
        assert!(segments.len() > 1, "{level}: {segments:?}");
    }
    stage.assert_replica_is_the_database().await;
}
