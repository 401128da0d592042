//! Any history, in each format: every moment of it is restored as SQLite itself had the database then.

use aquifer_migrate::{Origin, Target, find};
use proptest::prelude::*;

use crate::bucket::Bucket;
use crate::generated::{assert_same, restored};
use crate::generator::{Generation, Kind, Ltx, put_03};
use crate::live::{FRAME_HEADER, Live, WAL_HEADER, Wal, image};

/// What an application does in a transaction.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    Insert { rows: usize, bytes: usize },
    Delete { every: u32 },
    Update { every: u32 },
    Vacuum,
}

impl Change {
    pub(crate) fn sql(&self, live: &Live) {
        match self {
            Change::Insert { rows, bytes } => live.insert(*rows, *bytes),
            Change::Delete { every } => live.sql(&format!("DELETE FROM t WHERE k % {every} = 0")),
            Change::Update { every } => {
                live.sql(&format!("UPDATE t SET v = randomblob(length(v)) WHERE k % {every} = 0"));
            }
            Change::Vacuum => live.sql("VACUUM"),
        }
    }
}

pub(crate) fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change = prop_oneof![
        4 => (1..30usize, 1..3000usize).prop_map(|(rows, bytes)| Change::Insert { rows, bytes }),
        2 => (1..5u32).prop_map(|every| Change::Delete { every }),
        2 => (1..5u32).prop_map(|every| Change::Update { every }),
        1 => Just(Change::Vacuum),
    ];
    prop::collection::vec(change, 1..8)
}

/// The database at every commit since the last checkpoint, with the frame that ends it.
fn moments(live: &Live, wal: &Wal) -> Vec<(usize, Vec<u8>)> {
    let file = live.file();
    wal.commits().into_iter().map(|frame| (frame, image(&file, &wal.up_to(frame)))).collect()
}

async fn every_format_restores(page_size: usize, before: &[Change], after: &[Change]) {
    let live = Live::new(page_size);
    for change in before {
        change.sql(&live);
    }
    live.checkpoint();
    for change in after {
        change.sql(&live);
    }
    let (file, wal) = (live.file(), live.wal());
    let moments = moments(&live, &wal);
    let Some((_, last)) = moments.last() else { return };

    let (bucket, generation) = (Bucket::empty(), Generation::begun(0));
    generation.snapshot(&bucket, Kind::Zstd, &file);
    generation.batches(&bucket, &wal, Kind::Gz);
    for (frame, state) in &moments {
        let found = restored(&bucket, Target::Position(*frame as u64)).await;
        assert_same(&found, state, &format!("batches at {frame}"));
    }

    let (bucket, generation) = (Bucket::empty(), Generation::begun(0));
    generation.snapshot(&bucket, Kind::Gz, &file);
    generation.pages(&bucket, &wal, &[1 + wal.frames().len() / 2]);
    assert_same(&restored(&bucket, Target::Latest).await, last, "pages");

    let bucket = Bucket::empty();
    let mut before: &[u8] = &[];
    for (txid, state) in std::iter::once(&file).chain(moments.iter().map(|(_, state)| state)).enumerate() {
        Ltx::between(before, state, page_size, txid as u64 + 1).put(&bucket, 0);
        before = state;
    }
    for (n, (_, state)) in moments.iter().enumerate() {
        assert_same(&restored(&bucket, Target::Position(n as u64 + 2)).await, state, &format!("LTX at {n}"));
    }

    let bucket = Bucket::empty();
    put_03(&bucket, "snapshots/00000007.snapshot", &file);
    let cut = WAL_HEADER + moments[moments.len() / 2].0 * (FRAME_HEADER + page_size);
    put_03(&bucket, "wal/00000007_00000000.wal", &wal.bytes[..cut]);
    if cut < wal.bytes.len() {
        put_03(&bucket, &format!("wal/00000007_{cut:08x}.wal"), &wal.bytes[cut..]);
    }
    assert_same(&restored(&bucket, Target::Latest).await, last, "WAL files");
    assert_eq!(find(&bucket.store(), Origin::Auto).await.unwrap().len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 30, ..ProptestConfig::default() })]

    #[test]
    fn every_format_restores_every_moment_of_any_history(
        page_size in prop::sample::select(vec![512, 1024, 4096, 16_384, 65_536]),
        before in changes(),
        after in changes(),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(every_format_restores(page_size, &before, &after));
    }
}
