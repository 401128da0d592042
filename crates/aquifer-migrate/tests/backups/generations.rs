//! Several generations: which of them become what, and what is left out.

use aquifer_format::Timestamp;
use aquifer_log::{DatabaseStore, Retention, Store, retain};
use aquifer_migrate::{Importer, MigrateError, Origin, Target, find};
use futures::TryStreamExt as _;

use crate::bucket::{Bucket, sha256};
use crate::generator::{BEGUN, Generation, Kind, put_03_of};
use crate::import::{Import, checksum};
use crate::live::{FRAME_HEADER, Live, WAL_HEADER};
use crate::moments::compare;

/// What a store has of the imported database, visible or not.
async fn directories(of: &DatabaseStore) -> usize {
    of.generation_ids().try_collect::<Vec<_>>().await.unwrap().len()
}

fn at(seconds: i64) -> aquifer_log::Target {
    aquifer_log::Target::Timestamp(Timestamp::from_millis(seconds * 1000))
}

/// Generations of the server's, each begun with a snapshot where that is said, with the state after each.
struct Chain {
    bucket: Bucket,
    generations: Vec<Generation>,
    states: Vec<Vec<u8>>,
}

/// Each begins 100 s after the one before, and has three batches, a second apart from there.
fn chain(snapshots: &[bool]) -> Chain {
    let (bucket, live) = (Bucket::empty(), Live::new(4096));
    let (mut generations, mut states): (Vec<Generation>, _) = (Vec::new(), Vec::new());
    for (n, has_snapshot) in snapshots.iter().enumerate() {
        let generation = Generation::begun(n as i64 * 100);
        if *has_snapshot {
            generation.snapshot(&bucket, Kind::Zstd, &live.file());
        }
        if let Some(parent) = generations.last() {
            generation.parent(&bucket, parent);
        }
        for _ in 0..3 {
            live.insert(8, 700);
        }
        let wal = live.wal();
        let mut first = 1;
        for (batch, last) in wal.commits().into_iter().enumerate() {
            generation.batch(&bucket, &wal, (first, last), (n * 100 + batch + 1) as i64, Kind::Gz);
            first = last + 1;
        }
        states.push(live.image());
        generations.push(generation);
        live.checkpoint();
    }
    Chain { bucket, generations, states }
}

#[tokio::test(flavor = "multi_thread")]
async fn parents_are_part_of_the_generation_that_goes_on_from_them() {
    let Chain { bucket, generations, states } = chain(&[false, false, true, false, false]);
    assert_eq!(compare(&bucket, usize::MAX).await, (2, 16));
    let import = Import::new(&bucket, |importer| importer.all_generations(true)).await;
    let newest = &import.imported.newest;
    // The snapshot, and three batches of each of three; and before it one more, which made the table.
    assert_eq!((newest.batches, import.imported.older[0].batches), (10, 7));
    assert_eq!(newest.backup.generation(), Some(generations[4].id.to_string().as_str()));
    assert_eq!(import.imported.older[0].backup.generation(), Some(generations[1].id.to_string().as_str()));
    for (n, state) in states.iter().enumerate() {
        assert!(import.at(at(BEGUN + n as i64 * 100 + 50)).await == *state, "{n}");
    }
}

/// Another process has written to it after the newer one began. What the newer one begins with cannot be told then: SQLite is
/// asked whether it is whole.
#[tokio::test(flavor = "multi_thread")]
async fn a_parent_that_went_on_is_imported_besides() {
    let (bucket, live) = (Bucket::empty(), Live::new(4096));
    let (parent, child) = (Generation::begun(0), Generation::begun(100));
    for _ in 0..3 {
        live.insert(8, 700);
    }
    parent.batches(&bucket, &live.wal(), Kind::Gz);
    live.insert(8, 700);
    let (wal, beyond) = (live.wal(), live.image());
    let last = wal.frames().len();
    parent.batch(&bucket, &wal, (wal.commits()[wal.commits().len() - 2] + 1, last), 150, Kind::Gz);
    live.checkpoint();
    // Every page, so that it is whole on whatever it begins with.
    live.sql("DELETE FROM t WHERE k > 24; VACUUM");
    child.parent(&bucket, &parent);
    let wal = live.wal();
    child.batch(&bucket, &wal, (1, wal.frames().len()), 120, Kind::Gz);

    let (restored, file) = bucket.restore(bucket.restorer().integrity_check(false)).await.unwrap();
    assert!(restored.integrity_checked && file == live.image());
    let import = Import::new(&bucket, |importer| importer.all_generations(true)).await;
    assert!(import.at(aquifer_log::Target::Latest).await == live.image());
    assert!(import.at(at(BEGUN + 1000)).await == live.image());
    let [older] = &import.imported.older[..] else { panic!("{:?}", import.imported) };
    assert_eq!(older.backup.generation(), Some(parent.id.to_string().as_str()));
    assert!(import.of(older.revision.generation).await == beyond);
    compare(&bucket, usize::MAX).await;
}

/// Two that begin with the same one: what is older than the newer of them is there once with its own moments.
#[tokio::test(flavor = "multi_thread")]
async fn moments_between_a_generation_and_its_parent_are_of_what_is_between() {
    let (bucket, live) = (Bucket::empty(), Live::new(4096));
    let (parent, between, newest) = (Generation::begun(0), Generation::begun(100), Generation::begun(200));
    live.insert(8, 700);
    live.insert(8, 700);
    parent.batches(&bucket, &live.wal(), Kind::Gz);
    live.checkpoint();
    let file = live.file();
    live.insert(8, 700);
    newest.parent(&bucket, &parent);
    let wal = live.wal();
    newest.batch(&bucket, &wal, (1, wal.frames().len()), 201, Kind::Raw);
    let other = Live::new(4096);
    other.insert(3, 100);
    other.checkpoint();
    between.snapshot(&bucket, Kind::Gz, &other.file());

    let import = Import::new(&bucket, |importer| importer.all_generations(true)).await;
    assert_eq!(import.imported.older.len(), 2);
    assert!(import.at(at(BEGUN + 50)).await == file);
    assert!(import.at(at(BEGUN + 150)).await == other.file());
    assert!(import.at(at(BEGUN + 201)).await == live.image());
    compare(&bucket, usize::MAX).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_were_uploaded_again_keep_the_time_that_they_were_first_there() {
    let Chain { bucket, generations, .. } = chain(&[false]);
    let live = Live::new(4096);
    for _ in 0..3 {
        live.insert(8, 700);
    }
    let wal = live.wal();
    let begun = Generation::begun(500);
    begun.snapshot(&bucket, Kind::Gz, &live.file());
    for (n, last) in wal.commits().into_iter().enumerate() {
        let first = if n == 0 { 1 } else { wal.commits()[n - 1] + 1 };
        begun.batch(&bucket, &wal, (first, last), 510 + 10 * n as i64, Kind::Gz);
    }
    begun.batch(&bucket, &wal, (1, wal.commits()[0]), 700, Kind::Zstd);
    let states = compare(&bucket, usize::MAX).await.1;
    assert_eq!(states, 3 + 1 + wal.commits().len(), "{generations:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_from_before_their_generation_are_of_its_beginning() {
    let (bucket, live, generation) = (Bucket::empty(), Live::new(4096), Generation::begun(100));
    live.insert(8, 700);
    let wal = live.wal();
    for name in generation.pages(&bucket, &wal, &[]) {
        bucket.written_at(&generation.key(&name), BEGUN + 50);
    }
    assert_eq!(compare(&bucket, usize::MAX).await, (1, 1));
    let (bucket, generation) = (Bucket::empty(), Generation::begun(100));
    generation.batch(&bucket, &wal, (1, wal.frames().len()), 50, Kind::Raw);
    assert_eq!(compare(&bucket, usize::MAX).await, (1, 1));
}

/// Of 0.1 nothing but its beginning and its end is known of a generation.
#[tokio::test(flavor = "multi_thread")]
async fn single_pages_are_not_there_before_all_of_them_are() {
    let (bucket, live, generation) = (Bucket::empty(), Live::new(4096), Generation::begun(100));
    generation.snapshot(&bucket, Kind::Gz, &live.file());
    live.insert(30, 700);
    let names = generation.pages(&bucket, &live.wal(), &[]);
    for (n, name) in names.iter().enumerate() {
        bucket.written_at(&generation.key(name), BEGUN + 200 + n as i64);
    }
    let restored = async |seconds: usize| {
        let moment = Timestamp::from_millis((BEGUN + seconds as i64) * 1000);
        bucket.restore(bucket.restorer().target(Target::Timestamp(moment))).await.unwrap().1
    };
    assert!(restored(200 + names.len() - 2).await == live.file());
    assert!(restored(200 + names.len() - 1).await == live.image());
}

/// What is left out, and how many others there are.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_generation_that_is_damaged_is_left_out_and_told() {
    for (name, harm) in [
        ("bottomless-frames-two-generations", "app.db-e4ce79c3-84d4-794f-b757-76890d41995e/db.gz"),
        ("litestream-0.3", "generations/5041788a71a5218c/wal/00000001_00003068.wal.lz4"),
    ] {
        let bucket = Bucket::new(name);
        let path = bucket.path().join(harm);
        let (content, modified) =
            (std::fs::read(&path).unwrap(), std::fs::metadata(&path).unwrap().modified().unwrap());
        for cut in [content.len() / 2, 0] {
            bucket.put(harm, &content[..cut]);
            std::fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
            let import = Import::new(&bucket, |importer| importer.all_generations(true)).await;
            let [left_out] = &import.imported.left_out[..] else { panic!("{:?}", import.imported) };
            let MigrateError::Damaged { key, .. } = &left_out.reason else { panic!("{}", left_out.reason) };
            assert_eq!(key.as_str(), harm);
            assert!(harm.contains(left_out.generation.as_deref().unwrap()));
            let latest = bucket.restore(bucket.restorer()).await.unwrap().1;
            assert!(import.at(aquifer_log::Target::Latest).await == latest);
            // Nothing of it stays.
            assert_eq!(directories(&import.to).await, 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn between_generations_that_are_whole_any_may_be_left_out() {
    let Chain { bucket, generations, states } = chain(&[false, true, true, true]);
    let harmed = generations[1].key("db.zstd");
    bucket.put(&harmed, b"torn");
    let import = Import::new(&bucket, |importer| importer.all_generations(true)).await;
    assert_eq!((import.imported.older.len(), import.imported.left_out.len()), (2, 1));
    // What there is from before.
    for (seconds, state) in [(99, 0), (150, 0), (250, 2), (1000, 3)] {
        assert!(import.at(at(BEGUN + seconds)).await == states[state], "{seconds}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newest_generation_that_is_damaged_is_an_error_and_leaves_nothing() {
    let Chain { bucket, generations, .. } = chain(&[false, true, true]);
    let wal = std::fs::read_dir(bucket.path().join(generations[2].key(""))).unwrap();
    let names: Vec<String> = wal.map(|object| object.unwrap().file_name().into_string().unwrap()).collect();
    let last = names.iter().filter(|name| name.starts_with("0000")).max().unwrap();
    bucket.put(&generations[2].key(last), b"torn");
    let (dir, to) = target();
    let importer = Importer::new(bucket.store(), Origin::Auto, to.clone());
    let error = importer.all_generations(true).import().await.unwrap_err();
    assert!(matches!(&error, MigrateError::Damaged { key, .. } if key.as_str().ends_with(last)), "{error}");
    assert_eq!(directories(&to).await, 0);
    drop(dir);
}

fn target() -> (tempfile::TempDir, DatabaseStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store").to_str().unwrap().parse().unwrap()).unwrap();
    (dir, DatabaseStore::new(store, "app.db".parse().unwrap()))
}

/// Its frames are proven, and SQLite does not even begin to read what they make.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_generation_that_is_no_database_is_left_out() {
    let (bucket, live, older, newest) =
        (Bucket::empty(), Live::new(4096), Generation::begun(0), Generation::begun(100));
    live.insert(5, 100);
    let mut wal = live.wal();
    wal.bytes[WAL_HEADER + FRAME_HEADER..].fill(0x55);
    let (frame, pages) = (&mut wal.bytes[WAL_HEADER..], 3u32.to_be_bytes());
    frame[..FRAME_HEADER].copy_from_slice(&live.wal().bytes[WAL_HEADER..][..FRAME_HEADER]);
    frame[..4].copy_from_slice(&1u32.to_be_bytes());
    frame[4..8].copy_from_slice(&pages);
    wal.bytes.truncate(WAL_HEADER + FRAME_HEADER + 4096);
    wal.sum(false);
    older.batch(&bucket, &wal, (1, 1), 1, Kind::Raw);
    live.checkpoint();
    newest.snapshot(&bucket, Kind::Gz, &live.file());
    let import = Import::new(&bucket, |importer| importer.all_generations(true)).await;
    let [left_out] = &import.imported.left_out[..] else { panic!("{:?}", import.imported) };
    assert!(matches!(left_out.reason, MigrateError::Integrity { .. }), "{}", left_out.reason);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_another_size_are_left_out_and_are_none_of_the_others_business() {
    let (bucket, small, live) = (Bucket::empty(), Live::new(1024), Live::new(4096));
    for (n, live) in [(0, &small), (100, &live)] {
        live.insert(5, 100);
        live.checkpoint();
        Generation::begun(n).snapshot(&bucket, Kind::Gz, &live.file());
    }
    let only = |importer: Importer| importer.only_page_size(aquifer_format::PageSize::DEFAULT);
    let import = Import::new(&bucket, |importer| only(importer.all_generations(true))).await;
    assert!(matches!(import.imported.left_out[0].reason, MigrateError::PageSize(1024)));
    assert_eq!(compare(&bucket, usize::MAX).await, (2, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_being_asked_for_older_generations_are_counted_and_not_imported() {
    for (name, others) in
        [("bottomless-frames-two-generations", 1), ("litestream-0.3", 1), ("bottomless-server-zstd", 0)]
    {
        let import = Import::new(&Bucket::new(name), |importer| importer).await;
        assert_eq!((import.imported.not_imported, import.imported.older.len()), (others, 0), "{name}");
        assert_eq!(directories(&import.to).await, 1, "{name}");
    }
    // Those that the newest goes on from are imported.
    let import = Import::new(&chain(&[true, false, false]).bucket, |importer| importer).await;
    assert_eq!((import.imported.not_imported, import.imported.newest.batches), (0, 11));
}

/// Who has changed from 0.3 to 0.5 has both in one place.
#[tokio::test(flavor = "multi_thread")]
async fn generations_from_before_an_upgrade_of_litestream_are_older_ones() {
    let bucket = Bucket::new("litestream-0.5");
    let live = Live::new(4096);
    live.insert(5, 100);
    live.checkpoint();
    let backups = find(&bucket.store(), Origin::Auto).await.unwrap();
    let place = backups[0].prefix().strip_suffix("ltx/").unwrap().to_owned();
    let key = put_03_of(&bucket, "0123456789abcdef", "snapshots/00000000.snapshot", &live.file());
    let moved = format!("{place}{key}");
    let content = std::fs::read(bucket.path().join(&key)).unwrap();
    std::fs::remove_dir_all(bucket.path().join("generations")).unwrap();
    bucket.put(&moved, &content);
    bucket.written_at(&moved, BEGUN);
    assert_eq!(compare(&bucket, usize::MAX).await, (2, 16));
}

/// As the docs say: what no moment within the window needs goes, the newest never.
#[tokio::test(flavor = "multi_thread")]
async fn retention_counts_imported_moments_as_any_others() {
    let Chain { bucket, states, .. } = chain(&[false, true, true]);
    let import = Import::new(&bucket, |importer| importer.all_generations(true)).await;
    let moment = |seconds: i64| Timestamp::from_millis((BEGUN + seconds) * 1000);
    let keep = async |from: i64| {
        let window = std::time::Duration::from_secs(1000);
        let retention = Retention { window, grace: std::time::Duration::ZERO };
        retain(&import.to, &retention, moment(from + 1000), moment(from + 1000)).await.unwrap().removed.len()
    };
    // All of it, and then from within the second generation on.
    assert_eq!(keep(-10).await, 0);
    assert_eq!(keep(150).await, 1);
    assert_eq!(import.try_at(at(BEGUN + 50)).await, None);
    assert!(import.at(at(BEGUN + 150)).await == states[1]);
    assert_eq!(keep(5000).await, 1);
    assert_eq!(import.try_at(at(BEGUN + 150)).await, None);
    assert!(import.at(at(BEGUN + 10_000)).await == states[2]);
}

/// A generation of Litestream 0.3 whose beginning cannot be read goes on from its next snapshot, and that is told.
#[tokio::test(flavor = "multi_thread")]
async fn a_generation_without_its_beginning_begins_later_and_that_is_told() {
    let bucket = Bucket::new("litestream-0.3");
    bucket.remove("generations/5041788a71a5218c/wal/00000000_00000000.wal.lz4");
    let import = Import::new(&bucket, |importer| importer.all_generations(true)).await;
    let [left_out] = &import.imported.left_out[..] else { panic!("{:?}", import.imported) };
    assert_eq!(left_out.generation.as_deref(), Some("5041788a71a5218c"));
    assert!(matches!(left_out.reason, MigrateError::Missing { .. }), "{}", left_out.reason);
    let expected = bucket.expected["by_timestamp"].as_array().unwrap();
    let point = expected.iter().find(|point| point["point"] == "a5").unwrap();
    let moment: Timestamp = serde_json::from_value(point["timestamp"].clone()).unwrap();
    let file = import.at(aquifer_log::Target::Timestamp(moment)).await;
    assert_eq!(sha256(&file), checksum(&point["restored"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generation_that_was_listed_to_be_found_is_not_listed_again() {
    let bucket = Bucket::new("litestream-0.3");
    let store = bucket.store();
    let [newest, older] = &find(&store, Origin::Auto).await.unwrap()[..] else { panic!("two") };
    let before = store.counts().list;
    for backup in [newest, older] {
        backup.survey().await.unwrap();
    }
    assert_eq!(store.counts().list, before);
    assert!(before > 0);
}
