//! Of two who write to one history, one stops.

use std::time::Duration;

use aquifer_format::{PageSize, Txid, WriterNonce};
use aquifer_log::GenerationRecord;
use aquifer_replicate::{Error, ReplicaOptions, ReplicaState};
use aquifer_testkit::fault_store::{Fault, Gate, Op, Rule};

use crate::stage::{Stage, foreign_segment, staged_in_an_outage, started_again, until};
use crate::support::read_log;

#[tokio::test]
async fn a_lost_answer_is_not_taken_for_another_writer() {
    let stage = Stage::new();
    let replicator = stage.start();
    replicator.sync().await.unwrap();
    stage.faults.inject(Rule::on(Op::Create, "/0/", Fault::LoseAnswer).times(3));
    for k in 0..6 {
        stage.app.put(k, 2000);
        replicator.sync().await.unwrap();
    }
    stage.assert_replica_is_the_database().await;
}

#[tokio::test]
async fn a_writer_whose_txid_is_taken_stops_and_says_so() {
    let stage = Stage::new();
    let replicator = stage.start();
    stage.app.put(1, 2000);
    replicator.sync().await.unwrap();
    let durable = replicator.status()[0].durable.unwrap();
    // Another writer extends the generation, with a segment of its own.
    let (_, pages) = read_log(&stage.database(), durable.generation).await;
    let segment = foreign_segment(durable.txid.next(), &pages);
    let key = stage.database().layout().segment(
        durable.generation,
        aquifer_log::SegmentKey {
            level: aquifer_log::Level::Shipped,
            range: aquifer_format::TxidRange::one(durable.txid.next()),
        },
    );
    assert!(stage.store.create(&key, segment).await.unwrap().is_ours());
    stage.app.put(2, 2000);
    let error = replicator.sync().await.unwrap_err();
    assert!(matches!(&error, Error::Fenced { .. }), "{error}");
    assert!(error.to_string().contains("taken over"), "{error}");
    let status = &replicator.status()[0];
    assert!(matches!(&status.state, ReplicaState::Stopped(_)), "{status:?}");
    assert_eq!(status.durable, Some(durable), "nothing is acknowledged after it");
    stage.app.put(3, 2000);
    assert!(replicator.sync().await.is_err());
}

/// A writer stands still while its create is on its way; another takes the generation over, and retention deletes what it
/// wrote under the very txid that the first is about to create.
#[tokio::test]
async fn a_writer_that_stood_still_for_longer_than_retention_keeps_is_fenced() {
    for was_paused_for_long in [true, false] {
        let stage = Stage::new();
        let proof_lasts = if was_paused_for_long { Duration::ZERO } else { Duration::from_hours(1) };
        let replicator = stage.start_with(ReplicaOptions { proof_lasts, ..ReplicaOptions::default() });
        replicator.sync().await.unwrap();
        let durable = replicator.status()[0].durable.unwrap();
        let gate = Gate::new();
        stage.faults.inject(Rule::on(Op::Create, "/0/", Fault::Hold(gate.clone())).times(1));
        stage.app.put(1, 2000);
        until(&replicator, "under way", |s| s.behind_txids == 1).await;
        // Only the last segment of the other is left.
        let (_, pages) = read_log(&stage.database(), durable.generation).await;
        let last = Txid::new(durable.txid.get() + 40);
        let key =
            stage.database().layout().segment(durable.generation, aquifer_log::SegmentKey::shipped(last));
        assert!(stage.store.create(&key, foreign_segment(last, &pages)).await.unwrap().is_ours());
        gate.open();
        if was_paused_for_long {
            let error = replicator.sync().await.unwrap_err();
            assert!(matches!(&error, Error::Fenced { txid, .. } if *txid == durable.txid.next()), "{error}");
            assert_eq!(replicator.status()[0].durable, Some(durable), "nothing is acknowledged");
        } else {
            // What this would do without the look: it believes the store.
            replicator.sync().await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_generation_that_was_removed_meanwhile_is_not_extended() {
    let stage = Stage::new();
    let options = ReplicaOptions { proof_lasts: Duration::ZERO, ..ReplicaOptions::default() };
    let replicator = stage.start_with(options);
    replicator.sync().await.unwrap();
    let durable = replicator.status()[0].durable.unwrap();
    aquifer_log::remove_generation(&stage.database(), durable.generation).await.unwrap();
    stage.app.put(1, 2000);
    replicator.sync().await.unwrap();
    assert_ne!(replicator.status()[0].durable.unwrap().generation, durable.generation);
    stage.assert_replica_is_the_database().await;
}

/// What was staged builds on a batch that got lost here, and in the store another writer's is in its place.
#[tokio::test]
async fn staged_batches_do_not_go_on_from_another_writers_batch() {
    for lost in ["first", "all"] {
        let stage = Stage::new();
        let (options, durable, files) = staged_in_an_outage(&stage).await;
        let lost = if lost == "all" { &files[..] } else { &files[..1] };
        for file in lost {
            std::fs::remove_file(file).unwrap();
        }
        stage.faults.set_offline(false);
        let (_, pages) = read_log(&stage.database(), durable.generation).await;
        for taken in 1..=lost.len() as u64 {
            let txid = Txid::new(durable.txid.get() + taken);
            let key =
                stage.database().layout().segment(durable.generation, aquifer_log::SegmentKey::shipped(txid));
            assert!(stage.store.create(&key, foreign_segment(txid, &pages)).await.unwrap().is_ours());
        }
        let replicator = started_again(&stage, &options).await;
        let error = replicator.sync().await.unwrap_err();
        assert!(matches!(&error, Error::Fenced { .. }), "{} lost: {error}", lost.len());
    }
}

/// A machine that was away comes back, and another has begun a history of its own meanwhile. What would be shipped into the
/// older one, no restore would find.
#[tokio::test]
async fn a_writer_that_comes_back_after_another_began_anew_stops_before_it_ships() {
    let stage = Stage::new();
    let state_dir = stage.app.dir.path().join("state");
    let options = ReplicaOptions { state_dir: Some(state_dir), ..ReplicaOptions::default() };
    let replicator = stage.start_with(options.clone());
    replicator.sync().await.unwrap();
    let durable = replicator.status()[0].durable.unwrap();
    replicator.shutdown().await.unwrap();
    // One that was begun, and in which nothing became durable, takes nobody over.
    let nothing = GenerationRecord::new(PageSize::DEFAULT, WriterNonce::random());
    stage.database().create_generation(nothing).await.unwrap();
    stage.app.put(1, 2000);
    let replicator = started_again(&stage, &options).await;
    replicator.sync().await.unwrap();
    let after = replicator.status()[0].durable.unwrap();
    assert_eq!((after.generation, after.txid), (durable.generation, durable.txid.next()));
    replicator.shutdown().await.unwrap();
    let elsewhere = ReplicaOptions {
        state_dir: Some(stage.app.dir.path().join("elsewhere")),
        new_generation: true,
        ..ReplicaOptions::default()
    };
    let other = stage.start_with(elsewhere);
    other.sync().await.unwrap();
    other.shutdown().await.unwrap();
    stage.app.put(2, 2000);
    stage.faults.take_log();
    let error = started_again(&stage, &options).await.sync().await.unwrap_err();
    assert!(
        matches!(&error, Error::Superseded { generation, .. } if *generation == durable.generation),
        "{error}"
    );
    let is_read = |op| matches!(op, Op::Get | Op::Head | Op::List);
    assert!(stage.faults.take_log().iter().all(|request| is_read(request.op)));
    // As it says.
    let replicator = started_again(&stage, &ReplicaOptions { new_generation: true, ..options }).await;
    replicator.sync().await.unwrap();
    stage.assert_replica_is_the_database().await;
}

#[tokio::test]
async fn two_replicators_of_one_database_do_not_share_its_state() {
    let stage = Stage::new();
    let first = stage.start();
    first.sync().await.unwrap();
    let second = stage.start();
    let error = second.sync().await.unwrap_err();
    assert!(matches!(error, Error::Locked { .. }), "{error}");
    stage.app.put(1, 10);
    first.sync().await.unwrap();
    stage.assert_replica_is_the_database().await;
}
