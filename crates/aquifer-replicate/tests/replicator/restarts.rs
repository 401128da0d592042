//! A run goes on where the one before it ended, however that was.

use std::time::Duration;

use aquifer_replicate::ReplicaOptions;
use aquifer_testkit::fault_store::{Fault, Gate, Op, Rule};

use crate::stage::{Stage, started_again, until};

#[tokio::test]
async fn a_restart_continues_the_generation_with_what_changed() {
    let stage = Stage::new();
    for k in 0..200 {
        stage.app.put(k, 3000);
    }
    let mut shipped = Vec::new();
    for k in 0..4 {
        let replicator = stage.start();
        replicator.sync().await.unwrap();
        shipped.push(replicator.status()[0].shipped_bytes);
        replicator.shutdown().await.unwrap();
        stage.app.put(k, 10);
        if k % 2 == 1 {
            // Nobody watches: the WAL is reset.
            stage.app.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
            stage.app.put(k + 1, 10);
        }
    }
    assert!(shipped[1..].iter().all(|&bytes| bytes < shipped[0] / 20), "{shipped:?}");
    let generations: Vec<_> =
        futures::TryStreamExt::try_collect(stage.database().generation_ids()).await.unwrap();
    assert_eq!(generations.len(), 1);
}

#[tokio::test]
async fn a_put_that_took_effect_in_a_run_that_died_is_taken_over() {
    for (offline_at_start, offline_between) in [(false, false), (true, false), (false, true), (true, true)] {
        let stage = Stage::new();
        let options = ReplicaOptions { stage_after: Duration::from_hours(1), ..ReplicaOptions::default() };
        let replicator = stage.start_with(options.clone());
        replicator.sync().await.unwrap();
        let before = replicator.status()[0].durable.unwrap();
        stage.faults.inject(Rule::on(Op::Create, "/0/", Fault::LoseAnswer).times(1));
        stage.faults.inject(Rule::on(Op::Get, "/0/", Fault::Hold(Gate::new())));
        stage.app.put(1, 2000);
        // The put has taken effect when the object is there; the run does not live to know.
        let (inner, key) = (
            stage.faults.inner().clone(),
            format!("app.db/{}/0/{}.seg", before.generation, before.txid.next().to_hex()),
        );
        while object_store::ObjectStoreExt::head(&inner, &key.clone().into()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop(replicator);
        stage.faults.clear();
        // Runs that could not even ask, and put nothing, do not forget who did.
        for _ in 0..if offline_between { 2 } else { 0 } {
            stage.faults.set_offline(true);
            drop(started_again(&stage, &options).await);
        }
        stage.app.put(2, 2000);
        stage.faults.set_offline(offline_at_start);
        let replicator =
            started_again(&stage, &ReplicaOptions { stage_after: Duration::ZERO, ..options }).await;
        if offline_at_start {
            stage.app.put(3, 2000);
            until(&replicator, "staged", |s| s.staged_bytes > 0).await;
            stage.faults.set_offline(false);
        }
        replicator.sync().await.unwrap();
        let after = replicator.status()[0].durable.unwrap();
        assert_eq!(after.generation, before.generation);
        stage.assert_replica_is_the_database().await;
    }
}

#[tokio::test]
async fn a_run_that_began_in_an_outage_is_recognised_after_its_death() {
    let stage = Stage::new();
    let options = ReplicaOptions { stage_after: Duration::ZERO, ..ReplicaOptions::default() };
    let replicator = stage.start_with(options.clone());
    replicator.sync().await.unwrap();
    stage.faults.set_offline(true);
    stage.app.put(1, 2000);
    until(&replicator, "staged", |s| s.staged_bytes > 0).await;
    let before = replicator.status()[0].durable.unwrap();
    drop(replicator);
    // The second run puts what the first one staged, and then a batch of its own, whose outcome it does not live to
    // know.
    let options = ReplicaOptions { stage_after: Duration::from_hours(1), ..options };
    let replicator = started_again(&stage, &options).await;
    let own = format!("app.db/{}/0/{}.seg", before.generation, before.txid.next().next().to_hex());
    stage.faults.inject(Rule::on(Op::Create, &own, Fault::LoseAnswer));
    stage.faults.inject(Rule::on(Op::Get, &own, Fault::Hold(Gate::new())));
    stage.faults.set_offline(false);
    stage.app.put(2, 2000);
    while object_store::ObjectStoreExt::head(stage.faults.inner(), &own.clone().into()).await.is_err() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(replicator);
    stage.faults.clear();
    stage.app.put(3, 2000);
    let replicator = started_again(&stage, &options).await;
    replicator.sync().await.unwrap();
    assert_eq!(replicator.status()[0].durable.unwrap().generation, before.generation);
    stage.assert_replica_is_the_database().await;
}
