//! While the store is away, nothing is lost, and nobody waits for it.

use std::time::Duration;

use aquifer_replicate::capture::WalLimits;
use aquifer_replicate::{ReplicaOptions, ReplicaState};

use crate::stage::{Stage, staged_in_an_outage, started_again, until};
use crate::support::replica_dump;

#[tokio::test]
async fn an_outage_loses_nothing_blocks_nobody_and_keeps_the_wal_small() {
    let stage = Stage::new();
    let wal = WalLimits { soft: 100_000, hard: 400_000, ..WalLimits::default() };
    let options = ReplicaOptions { stage_after: Duration::ZERO, wal, ..ReplicaOptions::default() };
    let replicator = stage.start_with(options);
    replicator.sync().await.unwrap();
    stage.faults.set_offline(true);
    for k in 0..2000 {
        stage.app.put(k % 40, 3000);
        if k % 20 == 0 {
            tokio::task::yield_now().await;
        }
        if k % 200 == 199 {
            until(&replicator, "staged", |s| s.staged_bytes > 0 && s.wal_bytes < 2_000_000).await;
        }
    }
    until(&replicator, "in an outage", |s| matches!(s.state, ReplicaState::Outage(_))).await;
    stage.faults.set_offline(false);
    replicator.sync().await.unwrap();
    stage.assert_replica_is_the_database().await;
    assert!(stage.app.wal_len() < 8_000_000, "{}", stage.app.wal_len());
}

/// A replicator has staged a row in an outage, which lasts, and is gone; with the options that it had.
async fn staged_and_crashed() -> (Stage, ReplicaOptions) {
    let stage = Stage::new();
    let options = ReplicaOptions { stage_after: Duration::ZERO, ..ReplicaOptions::default() };
    let replicator = stage.start_with(options.clone());
    replicator.sync().await.unwrap();
    stage.faults.set_offline(true);
    stage.app.put(1, 3000);
    until(&replicator, "staged", |s| s.staged_bytes > 0).await;
    drop(replicator); // as a crash would: nothing is shipped, nothing is noted
    (stage, options)
}

#[tokio::test]
async fn what_an_outage_left_on_disk_is_shipped_by_the_next_run() {
    let (stage, options) = staged_and_crashed().await;
    stage.app.put(2, 3000);
    // Still away: the next run goes on to disk.
    let replicator = started_again(&stage, &options).await;
    stage.app.put(3, 3000);
    until(&replicator, "staged more", |s| s.behind_txids > 1).await;
    drop(replicator);
    stage.faults.set_offline(false);
    let replicator = started_again(&stage, &options).await;
    replicator.sync().await.unwrap();
    stage.assert_replica_is_the_database().await;
    replicator.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_full_staging_lets_go_of_the_wal_and_catches_up_by_comparing() {
    let stage = Stage::new();
    // Behind two batches on disk, more is captured only when the WAL wants to be checkpointed.
    let wal = WalLimits { soft: 8 << 10, ..WalLimits::default() };
    let options =
        ReplicaOptions { stage_after: Duration::ZERO, max_staging: 20_000, wal, ..ReplicaOptions::default() };
    let replicator = stage.start_with(options);
    replicator.sync().await.unwrap();
    stage.faults.set_offline(true);
    for k in 0..20 {
        stage.app.put(k, 5000);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    until(&replicator, "full", |s| s.staged_bytes > 20_000).await;
    for k in 20..60 {
        stage.app.put(k, 5000);
    }
    // Nobody holds the WAL any more.
    let busy: i64 = until_checkpointed(&stage).await;
    assert_eq!(busy, 0);
    stage.app.put(61, 10);
    let staged = replicator.status()[0].staged_bytes;
    assert!(staged < 200_000, "{staged}");
    stage.faults.set_offline(false);
    replicator.sync().await.unwrap();
    stage.assert_replica_is_the_database().await;
}

async fn until_checkpointed(stage: &Stage) -> i64 {
    for _ in 0..1000 {
        let busy = stage
            .app
            .connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0))
            .unwrap();
        if busy == 0 {
            return 0;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    1
}

#[tokio::test]
async fn staged_batches_that_got_lost_on_this_disk_leave_no_gap() {
    let losses = ["first", "second is damaged", "last", "all"];
    for (lost, offline) in losses.into_iter().flat_map(|lost| [(lost, true), (lost, false)]) {
        let stage = Stage::new();
        let (options, durable, files) = staged_in_an_outage(&stage).await;
        match lost {
            "first" => std::fs::remove_file(&files[0]).unwrap(),
            "last" => std::fs::remove_file(files.last().unwrap()).unwrap(),
            "all" => files.iter().for_each(|file| std::fs::remove_file(file).unwrap()),
            _ => {
                let mut bytes = std::fs::read(&files[1]).unwrap();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                std::fs::write(&files[1], bytes).unwrap();
            }
        }
        stage.faults.set_offline(offline);
        let replicator = started_again(&stage, &options).await;
        if offline {
            // What is on this disk says nothing of the store.
            let early = tokio::time::timeout(Duration::from_millis(300), replicator.sync()).await;
            assert!(early.is_err(), "{lost}: {early:?}");
            assert_eq!(replicator.status()[0].durable, None, "{lost}");
        }
        stage.faults.set_offline(false);
        replicator.sync().await.unwrap();
        assert_eq!(replicator.status()[0].durable.unwrap().generation, durable.generation, "{lost}");
        stage.assert_replica_is_the_database().await;
    }
}

#[tokio::test]
async fn a_new_database_whose_store_is_away_is_in_an_outage() {
    let stage = Stage::new();
    stage.faults.set_offline(true);
    let replicator = stage.start();
    until(&replicator, "in an outage", |s| matches!(s.state, ReplicaState::Outage(_))).await;
    let status = replicator.status().remove(0);
    assert!(!status.is_healthy(Duration::ZERO), "nothing of it is durable: {status:?}");
    stage.faults.set_offline(false);
    replicator.shutdown().await.unwrap();
    stage.assert_replica_is_the_database().await;
}

#[tokio::test]
async fn what_was_staged_of_a_database_that_is_gone_since_is_shipped() {
    let (stage, options) = staged_and_crashed().await;
    let expected = stage.app.dump();
    for suffix in ["", "-wal", "-shm"] {
        std::fs::remove_file(stage.app.path.with_extension(format!("db{suffix}"))).unwrap();
    }
    stage.faults.set_offline(false);
    let replicator = started_again(&stage, &options).await;
    until(&replicator, "waiting", |s| matches!(s.state, ReplicaState::Waiting(_))).await;
    assert_eq!(replica_dump(&stage.database()).await, expected);
    replicator.shutdown().await.unwrap();
}
