//! What the originals write and our fixtures of them do not have, made by an independent generator: restored as SQLite itself
//! has the database.

use aquifer_format::Timestamp;
use aquifer_migrate::{MigrateError, Target};

use crate::bucket::Bucket;
use crate::generator::{BEGUN, Generation, Kind, Ltx, crc64_ecma, gzip, put_03};
use crate::live::{Live, image};

pub(crate) async fn restored(bucket: &Bucket, target: Target) -> Vec<u8> {
    bucket.restore(bucket.restorer().target(target)).await.unwrap_or_else(|e| panic!("{target:?}: {e}")).1
}

async fn refused(bucket: &Bucket, target: Target) -> MigrateError {
    match bucket.restore(bucket.restorer().target(target)).await {
        Ok((restored, _)) => panic!("{target:?}: {restored:?}"),
        Err(error) => error,
    }
}

/// What a restore must come to: told without a dump of both.
pub(crate) fn assert_same(found: &[u8], expected: &[u8], what: &str) {
    assert!(found == expected, "{what}: {} bytes, expected {}", found.len(), expected.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn generations_without_snapshots_go_on_from_their_parents() {
    for (kind, page_size) in [(Kind::Raw, 4096), (Kind::Gz, 512), (Kind::Zstd, 65_536)] {
        let (bucket, live) = (Bucket::empty(), Live::new(page_size));
        let mut parent: Option<Generation> = None;
        for n in 0..3 {
            for _ in 0..3 {
                live.insert(20, 700);
            }
            let generation = Generation::begun(n * 100);
            generation.batches(&bucket, &live.wal(), kind);
            if let Some(parent) = parent.replace(generation.clone()) {
                generation.parent(&bucket, &parent);
            }
            if n < 2 {
                live.checkpoint();
            }
        }
        let file = restored(&bucket, Target::Latest).await;
        assert_same(&file, &live.image(), &format!("{kind:?} {page_size}"));
        // In the middle of the newest.
        let wal = live.wal();
        for commit in wal.commits() {
            let file = restored(&bucket, Target::Position(commit as u64)).await;
            assert_same(&file, &image(&live.file(), &wal.up_to(commit)), &format!("{kind:?} at {commit}"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_of_every_compression_are_gone_on_from() {
    for kind in Kind::ALL {
        let (bucket, live, generation) = (Bucket::empty(), Live::new(65_536), Generation::begun(0));
        live.insert(30, 9000);
        live.checkpoint();
        generation.snapshot(&bucket, kind, &live.file());
        assert_same(&restored(&bucket, Target::Latest).await, &live.image(), "a snapshot alone");
        live.insert(30, 9000);
        live.sql("DELETE FROM t WHERE k < 20");
        generation.batches(&bucket, &live.wal(), kind);
        assert_same(&restored(&bucket, Target::Latest).await, &live.image(), kind.name());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_batch_is_named_and_what_comes_before_it_can_be_had() {
    let (bucket, live, generation) = (Bucket::empty(), Live::new(4096), Generation::begun(0));
    for _ in 0..5 {
        live.insert(10, 900);
    }
    let wal = live.wal();
    let (names, commits) = (generation.batches(&bucket, &wal, Kind::Zstd), wal.commits());
    bucket.remove(&generation.key(&names[2]));
    let error = refused(&bucket, Target::Latest).await;
    let MigrateError::Missing { missing, after, last, .. } = &error else { panic!("{error}") };
    assert_eq!(*missing, format!("frames {} to {} are", commits[1] + 1, commits[2]));
    assert_eq!(*after, generation.key(&names[1]));
    let last = last.unwrap();
    assert_eq!(last, commits[1] as u64);
    assert!(error.to_string().ends_with(&format!("--txid {last}")), "{error}");
    let file = restored(&bucket, Target::Position(last)).await;
    assert_same(&file, &image(&live.file(), &wal.up_to(commits[1])), "before the gap");
    // The first: nothing can be had.
    bucket.remove(&generation.key(&names[0]));
    let error = refused(&bucket, Target::Latest).await;
    assert!(matches!(error, MigrateError::Missing { last: None, .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_that_were_uploaded_again_are_one() {
    let (bucket, live, generation) = (Bucket::empty(), Live::new(4096), Generation::begun(0));
    for _ in 0..4 {
        live.insert(10, 900);
    }
    let wal = live.wal();
    generation.batches(&bucket, &wal, Kind::Gz);
    let commits = wal.commits();
    // Long after, with another compression, and two as one.
    generation.batch(&bucket, &wal, (1, commits[0]), 50, Kind::Zstd);
    generation.batch(&bucket, &wal, (commits[1] + 1, commits[3]), 51, Kind::Raw);
    assert_same(&restored(&bucket, Target::Latest).await, &live.image(), "all");
    // What was there before the second upload of it.
    for (n, commit) in commits.iter().enumerate() {
        let moment = Timestamp::from_millis((BEGUN + n as i64 + 1) * 1000);
        let file = restored(&bucket, Target::Timestamp(moment)).await;
        assert_same(&file, &image(&live.file(), &wal.up_to(*commit)), &format!("at {moment}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_database_is_refused_and_one_that_was_made_after_it_is_not() {
    let (bucket, live, generation) = (Bucket::empty(), Live::new(4096), Generation::begun(10));
    live.insert(5, 100);
    generation.batches(&bucket, &live.wal(), Kind::Raw);
    for (deleted, is_refused) in
        [(BEGUN + 1000, true), (i64::MAX, true), (BEGUN - 1000, false), (i64::MIN, false)]
    {
        bucket.put("app.tombstone", &deleted.to_be_bytes());
        let found = bucket.restore(bucket.restorer()).await;
        match found {
            Ok(_) => assert!(!is_refused, "{deleted}"),
            Err(error) => {
                assert!(is_refused && error.to_string().contains("app.tombstone"), "{deleted}: {error}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generation_with_nothing_in_it_is_skipped_and_told() {
    let (bucket, live) = (Bucket::empty(), Live::new(4096));
    let (older, newest) = (Generation::begun(0), Generation::begun(100));
    live.insert(5, 100);
    older.batches(&bucket, &live.wal(), Kind::Raw);
    newest.put(&bucket, ".changecounter", &[0, 0, 0, 1]);
    let (told, file) = bucket.restore(bucket.restorer()).await.unwrap();
    assert_eq!(told.skipped, [newest.id.to_string()]);
    assert_eq!(told.backup.generation(), Some(older.id.to_string().as_str()));
    assert_same(&file, &live.image(), "the older");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parent_that_is_gone_is_named() {
    let (bucket, live) = (Bucket::empty(), Live::new(4096));
    let (parent, child) = (Generation::begun(0), Generation::begun(100));
    live.insert(5, 100);
    child.batches(&bucket, &live.wal(), Kind::Raw);
    child.parent(&bucket, &parent);
    let error = refused(&bucket, Target::Latest).await;
    assert!(matches!(error, MigrateError::Broken { .. }), "{error}");
    assert!(error.to_string().contains(&parent.id.to_string()), "{error}");
    // Its own parent: no end.
    child.parent(&bucket, &child);
    let error = refused(&bucket, Target::Latest).await;
    assert!(matches!(error, MigrateError::Broken { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_of_a_big_endian_machine_are_proven() {
    let (bucket, live, generation) = (Bucket::empty(), Live::new(1024), Generation::begun(0));
    live.insert(30, 100);
    let mut wal = live.wal();
    wal.sum(true);
    generation.batches(&bucket, &wal, Kind::Gz);
    assert_same(&restored(&bucket, Target::Latest).await, &live.image(), "big-endian");
    // The sums are looked at.
    let at = wal.bytes.len() - 1;
    wal.bytes[at] ^= 1;
    generation.batches(&bucket, &wal, Kind::Gz);
    let error = refused(&bucket, Target::Latest).await;
    assert!(error.to_string().contains("does not continue the checksum"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn checksums_of_pages_begin_anew_with_a_process() {
    let (bucket, live, generation) = (Bucket::empty(), Live::new(4096), Generation::begun(0));
    generation.snapshot(&bucket, Kind::Gz, &live.file());
    for _ in 0..4 {
        live.insert(10, 900);
    }
    let wal = live.wal();
    // The newest content of its page is that frame: nothing proves it later.
    let frames = wal.frames();
    let is_newest = |at: &usize| !frames[at + 1..].iter().any(|frame| frame[..4] == frames[*at][..4]);
    let begin = (1..frames.len() - 1).find(is_newest).unwrap() + 1;
    let names = generation.pages(&bucket, &wal, &[begin]);
    assert_same(&restored(&bucket, Target::Latest).await, &live.image(), "begun anew");
    // Another page in its place.
    generation.put(&bucket, &names[begin - 1], &gzip(&vec![7; 4096]));
    let error = refused(&bucket, Target::Latest).await;
    assert!(error.to_string().contains(&names[begin - 1]), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_frames_of_one_number_the_newest_counts() {
    let (bucket, live, generation) = (Bucket::empty(), Live::new(4096), Generation::begun(0));
    generation.snapshot(&bucket, Kind::Gz, &live.file());
    live.insert(10, 900);
    let wal = live.wal();
    let names = generation.pages(&bucket, &wal, &[]);
    for name in &names {
        bucket.written_at(&generation.key(name), BEGUN + 10);
    }
    // A transaction that was never committed had written the same numbers.
    let last = names.len();
    let page = vec![9; 4096];
    let other = format!("{last:012}-{:012}-{:016x}", 999, crc64_ecma(0, &page));
    generation.put(&bucket, &other, &gzip(&page));
    bucket.written_at(&generation.key(&other), BEGUN + 5);
    assert_same(&restored(&bucket, Target::Latest).await, &live.image(), "twice");
}

/// The states of a database, a transaction each.
fn states(live: &Live, count: usize) -> Vec<Vec<u8>> {
    let mut states = vec![Vec::new()];
    for _ in 0..count {
        live.insert(10, 900);
        states.push(live.image());
    }
    states
}

fn ltx(states: &[Vec<u8>]) -> Vec<Ltx> {
    (1..states.len()).map(|n| Ltx::between(&states[n - 1], &states[n], 4096, n as u64)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn checksums_of_whole_databases_are_verified() {
    let (live, other) = (Live::new(4096), Live::new(4096));
    let (ours, theirs) = (states(&live, 4), states(&other, 4));
    let bucket = Bucket::empty();
    let files = ltx(&ours);
    for file in &files {
        file.put(&bucket, 0);
    }
    for (n, state) in ours.iter().enumerate().skip(1) {
        assert_same(&restored(&bucket, Target::Position(n as u64)).await, state, &format!("at {n}"));
    }
    // A file whose pages are not what its database's checksum says.
    let mut wrong = files[2].clone();
    wrong.after ^= 1;
    let key = wrong.put(&bucket, 0);
    let error = refused(&bucket, Target::Latest).await;
    assert!(matches!(&error, MigrateError::Damaged { key: named, .. } if named.as_str() == key), "{error}");
    // One of another database, whole in itself.
    let key = ltx(&theirs)[2].put(&bucket, 0);
    let error = refused(&bucket, Target::Latest).await;
    assert!(matches!(&error, MigrateError::Damaged { key: named, .. } if named.as_str() == key), "{error}");
    assert!(error.to_string().contains("two databases"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_transactions_are_named_and_what_comes_before_them_can_be_had() {
    let live = Live::new(4096);
    let states = states(&live, 5);
    let bucket = Bucket::empty();
    let keys: Vec<String> = ltx(&states).iter().map(|file| file.put(&bucket, 0)).collect();
    bucket.remove(&keys[2]);
    let error = refused(&bucket, Target::Latest).await;
    let MigrateError::Missing { missing, after, last: Some(2), .. } = &error else { panic!("{error}") };
    assert_eq!((missing.as_str(), after), ("transactions 3 to 3 are", &keys[1]));
    assert_same(&restored(&bucket, Target::Position(2)).await, &states[2], "before the gap");
    // A compaction has it.
    let mut merged = Ltx::between(&states[1], &states[4], 4096, 2);
    merged.max = 4;
    merged.put(&bucket, 1);
    assert_same(&restored(&bucket, Target::Latest).await, &states[5], "over the gap");
    bucket.remove(&keys[0]);
    let error = refused(&bucket, Target::Latest).await;
    assert!(matches!(error, MigrateError::Missing { last: None, .. }), "{error}");
}

/// A generation of Litestream 0.3 with three WAL files, and the states after each; the WALs are of two pieces.
fn litestream_03(bucket: &Bucket, live: &Live) -> Vec<Vec<u8>> {
    put_03(bucket, "snapshots/00000000.snapshot", &live.file());
    let mut states = Vec::new();
    for index in 0..3 {
        live.insert(10, 900);
        let first = live.wal();
        live.insert(10, 900);
        let wal = live.wal();
        let cut = first.bytes.len();
        put_03(bucket, &format!("wal/{index:08x}_00000000.wal"), &wal.bytes[..cut]);
        put_03(bucket, &format!("wal/{index:08x}_{cut:08x}.wal"), &wal.bytes[cut..]);
        states.push(live.image());
        live.checkpoint();
    }
    states
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_wal_is_named_and_what_comes_before_it_can_be_had() {
    for gone in [0, 1, 2] {
        let (bucket, live) = (Bucket::empty(), Live::new(4096));
        let empty = live.image();
        live.checkpoint();
        let states = litestream_03(&bucket, &live);
        assert_same(&restored(&bucket, Target::Latest).await, &states[2], "whole");
        let directory = bucket.path().join("generations/0123456789abcdef/wal");
        for piece in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
            let name = piece.file_name().into_string().unwrap();
            if name.starts_with(&format!("{gone:08x}")) && (gone < 2 || name.contains("_00000000")) {
                std::fs::remove_file(piece.path()).unwrap();
            }
        }
        let error = refused(&bucket, Target::Latest).await;
        let MigrateError::Missing { missing, last, .. } = &error else { panic!("{error}") };
        assert!(missing.contains(&format!("WAL {gone:08x}")), "{error}");
        assert_eq!(*last, (gone > 0).then(|| gone - 1), "{error}");
        if let Some(last) = *last {
            assert_same(
                &restored(&bucket, Target::Position(last)).await,
                &states[last as usize],
                "before it",
            );
        } else {
            assert!(!states.contains(&empty));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_piece_of_a_wal_is_found() {
    let (bucket, live) = (Bucket::empty(), Live::new(4096));
    live.checkpoint();
    litestream_03(&bucket, &live);
    let directory = bucket.path().join("generations/0123456789abcdef/wal");
    let pieces = std::fs::read_dir(directory).unwrap().map(|piece| piece.unwrap().file_name());
    let mut pieces: Vec<String> = pieces.map(|name| name.into_string().unwrap()).collect();
    pieces.sort();
    // A third one, whose place is not where the second ends.
    let key = format!("wal/{}", pieces[1].replace("_0000", "_0001").trim_end_matches(".lz4"));
    put_03(&bucket, &key, b"whatever");
    let error = refused(&bucket, Target::Latest).await;
    assert!(
        matches!(&error, MigrateError::Damaged { key: named, .. } if named.as_str().contains(&key)),
        "{error}"
    );
}
