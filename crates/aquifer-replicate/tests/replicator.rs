//! What is committed becomes durable, whatever the store, the process and the clock do.
#![allow(clippy::unwrap_used, reason = "a test that cannot set the stage should fail")]

mod support;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aquifer_format::{Revision, Txid, WriterNonce};
use aquifer_log::{DatabaseName, DatabaseStore, Store};
use aquifer_replicate::capture::WalLimits;
use aquifer_replicate::{Error, ReplicaOptions, ReplicaState, Replicator, UpkeepOptions};
use aquifer_testkit::fault_store::{Fault, FaultStore, Gate, Op, Rule};
use support::{Application, read_log, replica_dump};

struct Stage {
    app: Application,
    faults: FaultStore,
    store: Store,
    name: DatabaseName,
}

impl Stage {
    fn new() -> Stage {
        let faults = FaultStore::in_memory();
        let store = Store::from_object_store(Arc::new(faults.clone()), "test");
        Stage { app: Application::new(), faults, store, name: "app.db".parse().unwrap() }
    }

    fn database(&self) -> DatabaseStore {
        DatabaseStore::new(self.store.clone(), self.name.clone())
    }

    fn start(&self) -> Replicator {
        self.start_with(ReplicaOptions::default())
    }

    fn start_with(&self, options: ReplicaOptions) -> Replicator {
        let replicator = Replicator::builder(self.store.clone()).options(options).start();
        replicator.add(&self.app.path, None).unwrap();
        replicator
    }

    async fn assert_replica_is_the_database(&self) {
        assert_eq!(replica_dump(&self.database()).await, self.app.dump());
    }
}

/// Waits until a status holds; fails after a time that no healthy machine needs.
async fn until(
    replicator: &Replicator,
    what: &str,
    holds: impl Fn(&aquifer_replicate::ReplicaStatus) -> bool,
) {
    let waited = tokio::time::timeout(Duration::from_mins(1), async {
        while !replicator.status().iter().all(&holds) {
            replicator.changed(Duration::from_millis(50)).await;
        }
    });
    assert!(waited.await.is_ok(), "never {what}: {:?}", replicator.status());
}

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

#[tokio::test]
async fn what_an_outage_left_on_disk_is_shipped_by_the_next_run() {
    let stage = Stage::new();
    let options = ReplicaOptions { stage_after: Duration::ZERO, ..ReplicaOptions::default() };
    let replicator = stage.start_with(options.clone());
    replicator.sync().await.unwrap();
    stage.faults.set_offline(true);
    stage.app.put(1, 3000);
    until(&replicator, "staged", |s| s.staged_bytes > 0).await;
    drop(replicator); // as a crash would: nothing is shipped, nothing is noted
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

/// Starts again as soon as the run before has let go of the lock.
async fn started_again(stage: &Stage, options: &ReplicaOptions) -> Replicator {
    loop {
        let replicator = stage.start_with(options.clone());
        until(&replicator, "started", |s| s.state != ReplicaState::Starting).await;
        let is_locked = |s: &aquifer_replicate::ReplicaStatus| matches!(&s.state, ReplicaState::Stopped(why) if why.contains("replicated by another process"));
        if !replicator.status().iter().any(is_locked) {
            return replicator;
        }
    }
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
async fn a_put_that_took_effect_in_a_run_that_died_is_taken_over() {
    for (offline_at_start, offline_between) in [(false, false), (true, false), (false, true), (true, true)] {
        let stage = Stage::new();
        let options = ReplicaOptions { stage_after: Duration::from_hours(1), ..ReplicaOptions::default() };
        let replicator = stage.start_with(options.clone());
        replicator.sync().await.unwrap();
        let before = replicator.status()[0].durable.unwrap();
        stage.faults.inject(Rule::on(Op::Create, "/0/", Fault::LoseAnswer).times(1));
        stage.faults.inject(Rule::on(Op::Get, "/0/", Fault::Hold(aquifer_testkit::fault_store::Gate::new())));
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
    stage.faults.inject(Rule::on(Op::Get, &own, Fault::Hold(aquifer_testkit::fault_store::Gate::new())));
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
    use aquifer_testkit::fault_store::Gate;
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

/// Three or more batches that wait on disk for a store that is away, as a crash leaves them; and where the store ends.
async fn staged_in_an_outage(stage: &Stage) -> (ReplicaOptions, Revision, Vec<PathBuf>) {
    let state_dir = stage.app.dir.path().join("state");
    let options = ReplicaOptions {
        stage_after: Duration::ZERO,
        state_dir: Some(state_dir.clone()),
        wal: WalLimits { soft: 50_000, ..WalLimits::default() },
        ..ReplicaOptions::default()
    };
    let replicator = stage.start_with(options.clone());
    replicator.sync().await.unwrap();
    let durable = replicator.status()[0].durable.unwrap();
    stage.faults.set_offline(true);
    // More than two batches are staged only for a WAL that is large.
    let deadline = std::time::Instant::now() + Duration::from_mins(1);
    while replicator.status()[0].behind_txids < 3 && std::time::Instant::now() < deadline {
        stage.app.put(1, 30_000);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    until(&replicator, "staged", |s| s.behind_txids > 2 && s.staged_bytes > 0).await;
    drop(replicator);
    let staging = state_dir.read_dir().unwrap().next().unwrap().unwrap().path().join("staging");
    let mut files: Vec<_> = staging.read_dir().unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 3, "{files:?}");
    (options, durable, files)
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

fn foreign_segment(txid: Txid, pages: &[Vec<u8>]) -> Vec<u8> {
    use aquifer_format::segment::{CompressionLevel, SegmentEncoder, SegmentMeta};
    use aquifer_format::{DbChecksum, PageHash, PageSize, Pgno, Timestamp, TxidRange};
    let page_size = PageSize::new(pages[0].len() as u32).unwrap();
    let mut checksum = DbChecksum::EMPTY;
    for (index, page) in pages.iter().enumerate() {
        checksum.toggle(PageHash::of(Pgno::from_index(index as u32), page));
    }
    let mut after = checksum;
    let mut new = pages[1].clone();
    new[100] ^= 1;
    let pgno = Pgno::from_index(1);
    after.replace(PageHash::of(pgno, &pages[1]), PageHash::of(pgno, &new));
    let mut encoder = SegmentEncoder::new(page_size, CompressionLevel::SHIP);
    encoder.push_delta(pgno, &pages[1], &new, PageHash::of(pgno, &new));
    let mut object = std::mem::take(encoder.output());
    let meta = SegmentMeta {
        page_size,
        range: TxidRange::one(txid),
        size_before: pages.len() as u32,
        size_after: pages.len() as u32,
        checksum_before: checksum,
        checksum_after: after,
        commits: 1,
        frames: 0,
        first_commit: Timestamp::now(),
        last_commit: Timestamp::now(),
        writer: WriterNonce::random(),
    };
    object.extend_from_slice(&encoder.finish(&meta).unwrap().tail);
    object
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

#[tokio::test]
async fn an_idle_database_causes_no_request() {
    let stage = Stage::new();
    let options = ReplicaOptions { poll: Duration::from_millis(5), ..ReplicaOptions::default() };
    let replicator = stage.start_with(options);
    stage.app.put(1, 5000);
    replicator.sync().await.unwrap();
    until(&replicator, "idle", |s| s.state == ReplicaState::Idle).await;
    stage.faults.take_log();
    // Long enough for hundreds of polls, and for the checkpoint after a second.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let requests = stage.faults.take_log();
    assert!(requests.is_empty(), "{requests:?}");
    // Our own checkpoint let go of the WAL: the application can reset it.
    let busy: i64 =
        stage.app.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0)).unwrap();
    assert_eq!(busy, 0);
    stage.app.put(2, 5000);
    replicator.sync().await.unwrap();
    stage.assert_replica_is_the_database().await;
}

/// Another process that writes to the WAL's index, as one that recovers it does: readers find it unfinished, and its lock
/// taken.
struct Recovery(std::process::Child);

impl Recovery {
    /// Byte 122 of the index is the lock of whoever recovers it (`WAL_RECOVER_LOCK` in wal.c).
    const SCRIPT: &str = "import fcntl, sqlite3, sys\ndb = sqlite3.connect(sys.argv[1], isolation_level=None)\n\
         db.execute('BEGIN IMMEDIATE')\nshm = open(sys.argv[1] + '-shm', 'r+b', buffering=0)\n\
         fcntl.lockf(shm, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 122)\nheader = shm.read(8)\nshm.seek(0)\nshm.write(bytes(8))\nprint('begun', flush=True)\n\
         sys.stdin.readline()\nshm.seek(0)\nshm.write(header)\ndb.execute('COMMIT')\nprint('done', flush=True)\n";

    fn begin(database: &std::path::Path) -> Recovery {
        use std::process::{Command, Stdio};
        let mut command = Command::new("python3");
        let command = command.arg("-c").arg(Recovery::SCRIPT).arg(database);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        Recovery::hear(&mut child, "begun");
        Recovery(child)
    }

    fn hear(child: &mut std::process::Child, expected: &str) {
        use std::io::Read;
        let mut said = vec![0; expected.len() + 1];
        child.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
        assert_eq!(said.trim_ascii(), expected.as_bytes());
    }

    fn end(mut self) {
        use std::io::Write;
        self.0.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        Recovery::hear(&mut self.0, "done");
        self.0.wait().unwrap();
    }
}

#[tokio::test]
async fn a_database_that_is_busy_is_not_taken_for_one_without_news() {
    use aquifer_testkit::fault_store::Gate;
    let stage = Stage::new();
    let options = ReplicaOptions { stage_after: Duration::from_hours(1), ..ReplicaOptions::default() };
    let replicator = stage.start_with(options);
    replicator.sync().await.unwrap();
    let gate = Gate::new();
    stage.faults.inject(Rule::on(Op::Create, "/0/", Fault::Hold(gate.clone())).times(1));
    stage.app.put(1, 2000);
    until(&replicator, "under way", |s| s.behind_txids == 1).await;
    // Committed while nothing is captured, and when it may be, the database is busy.
    stage.app.put(2, 2000);
    let recovery = Recovery::begin(&stage.app.path);
    gate.open();
    until(&replicator, "durable", |s| s.behind_txids == 0).await;
    let early = tokio::time::timeout(Duration::from_millis(300), replicator.sync()).await;
    assert!(early.is_err(), "not all that was committed is durable: {early:?}");
    recovery.end();
    replicator.sync().await.unwrap();
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
async fn a_database_that_appears_later_is_replicated_when_it_is_there() {
    let stage = Stage::new();
    let path = stage.app.dir.path().join("later.db");
    let replicator = Replicator::builder(stage.store.clone()).start();
    let name = replicator.add(&path, None).unwrap();
    until(&replicator, "waiting", |s| matches!(s.state, ReplicaState::Waiting(_))).await;
    let connection = support::connect(&path);
    connection
        .execute_batch("CREATE TABLE t(k INTEGER PRIMARY KEY, v BLOB); INSERT INTO t VALUES(1, x'01')")
        .unwrap();
    replicator.sync().await.unwrap();
    let database = DatabaseStore::new(stage.store.clone(), name);
    assert_eq!(replica_dump(&database).await, support::dump(&connection));
}

#[tokio::test]
async fn a_replica_that_waits_for_its_database_stops_cleanly() {
    let stage = Stage::new();
    let never = stage.app.dir.path().join("never.db");
    let replicator = Replicator::builder(stage.store.clone()).start();
    let name = replicator.add(&never, None).unwrap();
    until(&replicator, "waiting", |s| matches!(s.state, ReplicaState::Waiting(_))).await;
    let (synced, stopped) =
        tokio::join!(biased; replicator.sync_database(&name), async { replicator.shutdown().await });
    assert_eq!(synced.unwrap(), None, "nothing was committed");
    stopped.unwrap();
    assert!(!never.exists());
}

#[tokio::test]
async fn a_database_that_appeared_unnoticed_is_shipped_before_the_stop() {
    let stage = Stage::new();
    let path = stage.app.dir.path().join("late.db");
    let replicator = Replicator::builder(stage.store.clone()).start();
    let name = replicator.add(&path, None).unwrap();
    until(&replicator, "waiting for long", |s| matches!(s.state, ReplicaState::Waiting(_)) && s.errors > 3)
        .await;
    let connection = support::connect(&path);
    connection.execute_batch("CREATE TABLE t(k INTEGER PRIMARY KEY, v BLOB)").unwrap();
    replicator.shutdown().await.unwrap();
    let database = DatabaseStore::new(stage.store.clone(), name);
    assert_eq!(replica_dump(&database).await, support::dump(&connection));
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
    let stage = Stage::new();
    let options = ReplicaOptions { stage_after: Duration::ZERO, ..ReplicaOptions::default() };
    let replicator = stage.start_with(options.clone());
    replicator.sync().await.unwrap();
    stage.faults.set_offline(true);
    stage.app.put(1, 3000);
    until(&replicator, "staged", |s| s.staged_bytes > 0).await;
    drop(replicator);
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

#[tokio::test]
async fn where_there_are_many_databases_idle_ones_sleep_and_wake_when_written_to() {
    let stage = Stage::new();
    let replicator = stage.start();
    for n in 0..70 {
        let path = stage.app.dir.path().join(format!("{n}.db"));
        support::connect(&path).execute_batch("CREATE TABLE t(k INTEGER PRIMARY KEY, v BLOB)").unwrap();
        replicator.add(&path, None).unwrap();
    }
    stage.app.put(1, 3000);
    replicator.sync().await.unwrap();
    let descriptors = || {
        let name = stage.app.path.with_extension("db-wal");
        std::fs::read_dir("/proc/self/fd")
            .unwrap()
            .flatten()
            .filter(|fd| std::fs::read_link(fd.path()).is_ok_and(|file| file == name))
            .count()
    };
    let own = 1; // the application's
    let asleep = async {
        while descriptors() > own {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), asleep).await.expect("it falls asleep");
    let durable = replicator.status().iter().find(|s| s.name == stage.name).unwrap().durable.unwrap();
    stage.app.put(2, 3000);
    replicator.wait_durable(&stage.name, durable.txid.next()).await.unwrap();
    stage.assert_replica_is_the_database().await;
    replicator.shutdown().await.unwrap();
}
