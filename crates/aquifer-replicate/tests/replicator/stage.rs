//! An application, a store that fails as it is told to, and what a replicator does between them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aquifer_format::{Revision, Txid, WriterNonce};
use aquifer_log::{DatabaseName, DatabaseStore, Store};
use aquifer_replicate::capture::WalLimits;
use aquifer_replicate::{ReplicaOptions, ReplicaState, Replicator};
use aquifer_testkit::fault_store::FaultStore;

use crate::support::{Application, replica_dump};

pub(crate) struct Stage {
    pub(crate) app: Application,
    pub(crate) faults: FaultStore,
    pub(crate) store: Store,
    pub(crate) name: DatabaseName,
}

impl Stage {
    pub(crate) fn new() -> Stage {
        let faults = FaultStore::in_memory();
        let store = Store::from_object_store(Arc::new(faults.clone()), "test");
        Stage { app: Application::new(), faults, store, name: "app.db".parse().unwrap() }
    }

    pub(crate) fn database(&self) -> DatabaseStore {
        DatabaseStore::new(self.store.clone(), self.name.clone())
    }

    pub(crate) fn start(&self) -> Replicator {
        self.start_with(ReplicaOptions::default())
    }

    pub(crate) fn start_with(&self, options: ReplicaOptions) -> Replicator {
        let replicator = Replicator::builder(self.store.clone()).options(options).start();
        replicator.add(&self.app.path, None).unwrap();
        replicator
    }

    pub(crate) async fn assert_replica_is_the_database(&self) {
        assert_eq!(replica_dump(&self.database()).await, self.app.dump());
    }
}

/// Waits until a status holds; fails after a time that no healthy machine needs.
pub(crate) async fn until(
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

/// Starts again as soon as the run before has let go of the lock.
pub(crate) async fn started_again(stage: &Stage, options: &ReplicaOptions) -> Replicator {
    loop {
        let replicator = stage.start_with(options.clone());
        until(&replicator, "started", |s| s.state != ReplicaState::Starting).await;
        let is_locked = |s: &aquifer_replicate::ReplicaStatus| matches!(&s.state, ReplicaState::Stopped(why) if why.contains("replicated by another process"));
        if !replicator.status().iter().any(is_locked) {
            return replicator;
        }
    }
}

/// Three or more batches that wait on disk for a store that is away, as a crash leaves them; and where the store ends.
pub(crate) async fn staged_in_an_outage(stage: &Stage) -> (ReplicaOptions, Revision, Vec<PathBuf>) {
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

pub(crate) fn foreign_segment(txid: Txid, pages: &[Vec<u8>]) -> Vec<u8> {
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
