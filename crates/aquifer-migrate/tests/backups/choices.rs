//! Which objects are taken, where there are several, too few, or more than are needed.

use aquifer_format::Timestamp;
use aquifer_migrate::{MigrateError, Target};

use crate::bucket::Bucket;
use crate::generated::{assert_same, restored};
use crate::generator::{BEGUN, Generation, Kind, Ltx, crc64_ecma, gzip};
use crate::hostile::{every_format, refused, small};
use crate::live::{Live, Wal, image, word};

async fn refused_at(bucket: &Bucket, target: Target) -> MigrateError {
    match bucket.restore(bucket.restorer().target(target)).await {
        Ok((restored, _)) => panic!("{target:?}: {restored:?}"),
        Err(error) => error,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn before_its_beginning_there_is_nothing_to_restore() {
    let (formats, _) = every_format();
    for (name, bucket) in formats {
        let error = refused_at(&bucket, Target::Timestamp(Timestamp::from_millis(1))).await;
        assert!(matches!(error, MigrateError::NoGeneration { .. }), "{name}: {error}");
    }
    let (bucket, live) = (Bucket::empty(), small(4096));
    Ltx { max: 5, ..Ltx::between(&[], &live.image(), 4096, 1) }.put(&bucket, 9);
    let error = refused_at(&bucket, Target::Position(4)).await;
    assert!(matches!(error, MigrateError::NoGeneration { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_snapshots_of_a_generation_the_newest_counts() {
    let live = small(4096);
    live.checkpoint();
    let older = live.image();
    live.insert(9, 500);
    live.checkpoint();
    let newer = live.image();
    let generation = Generation::begun(0);
    for kinds in
        [[Kind::Gz, Kind::Zstd], [Kind::Zstd, Kind::Gz], [Kind::Gz, Kind::Raw], [Kind::Raw, Kind::Zstd]]
    {
        let bucket = Bucket::empty();
        for (kind, state, seconds) in [(kinds[0], &older, BEGUN), (kinds[1], &newer, BEGUN + 9)] {
            generation.snapshot(&bucket, kind, state);
            bucket.written_at(&generation.key(&format!("db.{}", kind.name())), seconds);
        }
        assert_same(&restored(&bucket, Target::Latest).await, &newer, &format!("{kinds:?}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_were_never_committed_give_way_whatever_they_are_called() {
    let (bucket, live, generation) = (Bucket::empty(), Live::new(4096), Generation::begun(0));
    generation.snapshot(&bucket, Kind::Gz, &live.file());
    live.insert(10, 900);
    let wal = live.wal();
    let names = generation.pages(&bucket, &wal, &[]);
    for name in &names {
        bucket.written_at(&generation.key(name), BEGUN + 10);
    }
    let last = wal.frames().len();
    let pgno = word(wal.frames()[last - 1], 0);
    // In the listing one comes before the frame that counts, and one after it.
    for other in [1, pgno + 9] {
        let page = vec![9; 4096];
        let stale = format!("{last:012}-{other:012}-{:016x}", crc64_ecma(0, &page));
        generation.put(&bucket, &stale, &gzip(&page));
        bucket.written_at(&generation.key(&stale), BEGUN + 5);
    }
    assert!(pgno > 1);
    assert_same(&restored(&bucket, Target::Latest).await, &live.image(), "three of one number");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_know_no_moments_before_the_last_one() {
    let (bucket, live, generation) = (Bucket::empty(), small(4096), Generation::begun(0));
    generation.snapshot(&bucket, Kind::Gz, &live.file());
    generation.pages(&bucket, &live.wal(), &[]);
    let last = *live.wal().commits().last().unwrap() as u64;
    assert_same(&restored(&bucket, Target::Position(last)).await, &live.image(), "the last");
    let error = refused_at(&bucket, Target::Position(last - 1)).await;
    assert!(matches!(error, MigrateError::Unsupported { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_that_overlap_are_refused() {
    let (bucket, live, generation) = (Bucket::empty(), small(4096), Generation::begun(0));
    let wal = live.wal();
    let last = wal.frames().len();
    generation.batch(&bucket, &wal, (1, last / 2), 1, Kind::Raw);
    let name = generation.batch(&bucket, &wal, (last / 2, last), 2, Kind::Raw);
    let error = refused(&bucket).await;
    assert!(matches!(error, MigrateError::Broken { .. }) && error.to_string().contains(&name), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_clock_that_was_set_back_wrote_after_the_target_is_left_out() {
    let (bucket, live, generation) = (Bucket::empty(), small(4096), Generation::begun(0));
    let (wal, commits) = (live.wal(), live.wal().commits());
    generation.batch(&bucket, &wal, (1, commits[0]), 1, Kind::Raw);
    generation.batch(&bucket, &wal, (commits[0] + 1, commits[1]), 100, Kind::Raw);
    generation.batch(&bucket, &wal, (commits[1] + 1, commits[2]), 2, Kind::Raw);
    let file = restored(&bucket, Target::Timestamp(Timestamp::from_millis((BEGUN + 3) * 1000))).await;
    assert_same(&file, &image(&live.file(), &wal.up_to(commits[0])), "at 3");
}

/// The WALs of a database of zlayer-storage, one after each checkpoint, with the file before it and the state after it.
struct Lives(Vec<(Vec<u8>, Wal, Vec<u8>)>);

impl Lives {
    fn new(count: usize) -> Lives {
        let live = Live::new(512);
        live.sql("CREATE INDEX i ON t(v)");
        live.insert(60, 50);
        live.checkpoint();
        let lives = (0..count).map(|round| {
            let file = live.file();
            live.sql(&format!("UPDATE t SET v = randomblob(50) WHERE k = {round} * 7 + 1"));
            let lived = (file, live.wal(), live.image());
            live.checkpoint();
            lived
        });
        Lives(lives.collect())
    }

    /// A segment, as it was so many seconds after the beginning.
    fn segment(&self, bucket: &Bucket, n: usize, number: usize, after: i64) {
        let key = format!("app/wal/{number:020}.wal.zst");
        bucket.put(&key, &Kind::Zstd.pack(&self.0[n].1.bytes));
        bucket.written_at(&key, BEGUN + after);
    }

    /// The file before a WAL.
    fn snapshot(&self, bucket: &Bucket, n: usize, after: i64) {
        let key = "app/snapshots/20261120_100000.sqlite.zst";
        bucket.put(key, &Kind::Zstd.pack(&self.0[n].0));
        bucket.written_at(key, BEGUN + after);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_wal_of_zlayer_is_found_where_it_is_needed() {
    let lives = Lives::new(4);
    let resets = |n: usize| word(&lives.0[n].1.bytes, 12);
    assert!(resets(0) > 0 && (1..4).all(|n| resets(n) == resets(0) + n as u32));
    // Between two that are.
    let bucket = Bucket::empty();
    lives.snapshot(&bucket, 0, 0);
    lives.segment(&bucket, 0, 10, 1);
    lives.segment(&bucket, 2, 11, 3);
    assert!(matches!(refused(&bucket).await, MigrateError::Missing { .. }));
    lives.segment(&bucket, 1, 12, 2);
    assert_same(&restored(&bucket, Target::Latest).await, &lives.0[2].2, "all three");
    // A snapshot, where the first WAL is not the database's first.
    let bucket = Bucket::empty();
    lives.segment(&bucket, 0, 10, 1);
    assert!(matches!(refused(&bucket).await, MigrateError::Missing { .. }));
    // Before the snapshot nothing is needed.
    let bucket = Bucket::empty();
    lives.segment(&bucket, 0, 10, 1);
    lives.segment(&bucket, 2, 11, 3);
    lives.snapshot(&bucket, 3, 4);
    lives.segment(&bucket, 3, 12, 5);
    assert_same(&restored(&bucket, Target::Latest).await, &lives.0[3].2, "since the snapshot");
}

#[tokio::test(flavor = "multi_thread")]
async fn wals_from_before_the_wal_was_emptied_are_in_the_database_already() {
    let lives = Lives::new(4);
    let bucket = Bucket::empty();
    lives.snapshot(&bucket, 3, 4);
    // An emptied WAL, and one from long before that seems to be the newest by its header.
    let empty = format!("app/wal/{:020}.wal.zst", 0);
    bucket.put(&empty, &Kind::Zstd.pack(&[]));
    bucket.written_at(&empty, BEGUN + 5);
    let mut old = lives.0[0].1.clone();
    old.bytes[12..16].copy_from_slice(&900u32.to_be_bytes());
    old.sum(false);
    let key = format!("app/wal/{:020}.wal.zst", 99);
    bucket.put(&key, &Kind::Zstd.pack(&old.bytes));
    bucket.written_at(&key, BEGUN + 1);
    lives.segment(&bucket, 3, 12, 6);
    assert_same(&restored(&bucket, Target::Latest).await, &lives.0[3].2, "since it was emptied");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wal_of_zlayer_on_the_snapshot_of_another_database_is_found_without_being_asked() {
    let (ours, theirs) = (Lives::new(1), Lives::new(1));
    let bucket = Bucket::empty();
    theirs.snapshot(&bucket, 0, 0);
    ours.segment(&bucket, 0, 10, 1);
    // Without --verify.
    let error = refused(&bucket).await;
    assert!(matches!(error, MigrateError::Integrity { .. }), "{error}");
}
