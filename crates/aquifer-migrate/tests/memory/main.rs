//! What is compressed to nothing fills neither the memory nor the disk. In a program of its own, which does nothing else
//! meanwhile: both limits are the process's.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::io::Read;
use std::path::Path;

use aquifer_log::{DatabaseStore, Store};
use aquifer_migrate::{Importer, MigrateError, Origin, Restorer};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What comes out of each of these objects: more than a database may hold beyond the pages that it counts.
const BOMB: u64 = 72 << 20;
/// What a restore may hold. That is less than elsewhere: the objects are small, and none has a transaction.
const MOST: u64 = 24 << 20;

/// One test at a time.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// A key and its content.
type Object = (String, Vec<u8>);

const GENERATION: &str = "app-e4ce79c3-7fd7-7abe-b6dc-9ffcaf8392e1";

fn zeros(first: &[u8]) -> impl Read {
    std::io::Cursor::new(first.to_vec()).chain(std::io::repeat(0).take(BOMB))
}

fn gzip(first: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::copy(&mut zeros(first), &mut encoder).unwrap();
    encoder.finish().unwrap()
}

fn zstd(first: &[u8]) -> Vec<u8> {
    zstd::encode_all(zeros(first), 1).unwrap()
}

/// What can only be decompressed by who keeps all of it.
fn zstd_of_one_window(first: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(31).unwrap();
    std::io::copy(&mut zeros(first), &mut encoder).unwrap();
    encoder.finish().unwrap()
}

fn lz4(mut content: impl Read) -> Vec<u8> {
    let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
    std::io::copy(&mut content, &mut encoder).unwrap();
    encoder.finish().unwrap()
}

/// The beginning of a database of one page of 4,096 bytes.
fn database() -> Vec<u8> {
    let mut page = vec![0; 4096];
    page[..16].copy_from_slice(b"SQLite format 3\0");
    page[16..20].copy_from_slice(&[0x10, 0, 1, 1]);
    page[31] = 1;
    page
}

/// A WAL with a frame of one page after the other, from 1 on, for each of these, which commits so many pages or does not
/// (0); all checksums are right.
fn wal(frames: &[(u32, &[u8])]) -> Vec<u8> {
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<u8>>();
    let mut wal = words(&[0x377f_0682, 3_007_000, 4096, 0, 1, 2]);
    let mut sums = sum((0, 0), &wal);
    wal.extend(words(&[sums.0, sums.1]));
    for (pgno, (pages, page)) in (1..).zip(frames) {
        let header = words(&[pgno, *pages]);
        sums = sum(sum(sums, &header), page);
        wal.extend([&header[..], &words(&[1, 2, sums.0, sums.1]), page].concat());
    }
    wal
}

/// Source: sqlite.org/fileformat2.html, section 4.2.
fn sum((mut a, mut b): (u32, u32), bytes: &[u8]) -> (u32, u32) {
    for pair in bytes.chunks_exact(8) {
        let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| pair[at + i]));
        a = a.wrapping_add(word(0)).wrapping_add(b);
        b = b.wrapping_add(word(4)).wrapping_add(a);
    }
    (a, b)
}

/// A field of this process's status in bytes.
fn memory(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

fn put(bucket: &Path, objects: Vec<Object>) {
    for (key, content) in objects {
        let path = bucket.join(key);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}

/// No file of this process grows beyond so many bytes; `None`: the disk has room again.
fn limit_files(bytes: Option<u64>) {
    let maximum = getrlimit(Resource::Fsize).maximum;
    setrlimit(Resource::Fsize, Rlimit { current: bytes.or(maximum), maximum }).unwrap();
}

/// Restores, and tells how much memory that took at most.
async fn restore(bucket: &Path, output: &Path) -> (Result<(), MigrateError>, u64) {
    let store = Store::open(&bucket.to_str().unwrap().parse().unwrap()).unwrap();
    // Forgets the highest it was so far.
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = memory("VmRSS:");
    let restored = Restorer::new(store, Origin::Auto, output).restore().await;
    (restored.map(drop), memory("VmHWM:").saturating_sub(before))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_compressed_to_nothing_is_an_error_and_takes_no_memory() {
    let _alone = ALONE.lock().await;
    let page = |n| format!("{GENERATION}/{n:012}-{n:012}-0000000000000000");
    let meta = [&4096u32.to_be_bytes()[..], &[0; 8]].concat();
    let consistent = [&1u32.to_be_bytes()[..], &[0; 8]].concat();
    let bombs: Vec<(&str, Vec<Object>)> = vec![
        ("a snapshot, gzip", vec![(format!("{GENERATION}/db.gz"), gzip(&database()))]),
        ("a snapshot, zstd", vec![(format!("{GENERATION}/db.zstd"), zstd(&database()))]),
        (
            "a snapshot, LZ4",
            vec![(
                "generations/0123456789abcdef/snapshots/00000000.snapshot.lz4".to_owned(),
                lz4(zeros(&database())),
            )],
        ),
        ("a page", vec![(page(1), gzip(&[])), (format!("{GENERATION}/.consistent"), consistent)]),
        (
            "frames",
            vec![
                (format!("{GENERATION}/000000000001-000000000001-1.zstd"), zstd(&[])),
                (format!("{GENERATION}/.meta"), meta),
            ],
        ),
        (
            "a WAL, LZ4",
            vec![
                (
                    "generations/0123456789abcdef/snapshots/00000000.snapshot.lz4".to_owned(),
                    lz4(zeros(&database())),
                ),
                (
                    "generations/0123456789abcdef/wal/00000000_00000000.wal.lz4".to_owned(),
                    lz4(zeros(&wal(&[]))),
                ),
            ],
        ),
        ("a WAL, zstd", vec![("wal/00000000000000000001.wal.zst".to_owned(), zstd(&wal(&[])))]),
        ("a window of 2 GiB", vec![(format!("{GENERATION}/db.zstd"), zstd_of_one_window(&database()))]),
    ];
    for (what, objects) in bombs {
        let dir = tempfile::tempdir().unwrap();
        let bucket = dir.path().join("bucket");
        put(&bucket, objects);
        let output = dir.path().join("restored.db");
        let (restored, most) = restore(&bucket, &output).await;
        assert!(most < MOST, "{what}: {} MiB", most >> 20);
        // zlayer's segments may have anything behind their last frame: here there is no frame at all.
        let may_be_empty = what == "a WAL, zstd" && restored.is_ok();
        if !may_be_empty {
            let error = restored.unwrap_err();
            assert!(matches!(error, MigrateError::Damaged { .. }), "{what}: {error}");
            let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
            assert_eq!(left, ["bucket"], "{what}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_zeros_stops_where_there_is_no_room_and_leaves_it_free() {
    let _alone = ALONE.lock().await;
    // With a handler, the kernel answers EFBIG instead of killing the process.
    let xfsz = tokio::signal::unix::SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw());
    let _handler = tokio::signal::unix::signal(xfsz).unwrap();
    let pages = (1 + BOMB / 4096) as u32;
    let mut counted = database();
    counted[28..32].copy_from_slice(&pages.to_be_bytes());
    // Of an SQLite before 3.7.0, which counts no pages: how large it is shows at its end.
    let mut uncounted = counted.clone();
    uncounted[27] = 1;
    // A transaction that says so, as if all others were free pages, which are in no frame.
    let transaction = zstd::encode_all(&wal(&[(1000, &counted[..])])[..], 1).unwrap();
    for (what, objects, limit) in [
        ("counted", vec![(format!("{GENERATION}/db.gz"), gzip(&counted))], BOMB / 2),
        ("uncounted", vec![(format!("{GENERATION}/db.gz"), gzip(&uncounted))], BOMB / 2),
        ("committed", vec![("wal/00000000000000000001.wal.zst".to_owned(), transaction)], 1 << 20),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (bucket, place) = (dir.path().join("bucket"), dir.path().join("place"));
        put(&bucket, objects);
        fs::create_dir(&place).unwrap();
        let store = || Store::open(&bucket.to_str().unwrap().parse().unwrap()).unwrap();
        let to = Store::open(&dir.path().join("store").to_str().unwrap().parse().unwrap()).unwrap();
        let to = DatabaseStore::new(to, "app.db".parse().unwrap());
        let importer = Importer::new(store(), Origin::Auto, to).temp_dir(&place);
        limit_files(Some(limit));
        let restored = Restorer::new(store(), Origin::Auto, place.join("restored.db")).restore().await;
        let imported = importer.import().await;
        limit_files(None);
        for error in [restored.unwrap_err(), imported.unwrap_err()] {
            assert!(matches!(error, MigrateError::NoRoom { .. }), "{what}: {error}");
        }
        assert_eq!(fs::read_dir(&place).unwrap().count(), 0, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_larger_than_what_is_kept_of_it_takes_no_more_memory() {
    let _alone = ALONE.lock().await;
    let pages = BOMB / 4096;
    let (mut first, page) = (database(), vec![7; 4096]);
    first[28..32].copy_from_slice(&(pages as u32).to_be_bytes());
    let mut frames = vec![(0, &page[..]); pages as usize];
    frames[0].1 = &first;
    frames[pages as usize - 1].0 = pages as u32;
    let dir = tempfile::tempdir().unwrap();
    let (bucket, output) = (dir.path().join("bucket"), dir.path().join("restored.db"));
    let snapshot = "generations/0123456789abcdef/snapshots/00000000.snapshot.lz4";
    let segment = "generations/0123456789abcdef/wal/00000000_00000000.wal.lz4";
    put(
        &bucket,
        vec![(snapshot.to_owned(), lz4(&database()[..])), (segment.to_owned(), lz4(&wal(&frames)[..]))],
    );
    drop(frames);
    let (restored, most) = restore(&bucket, &output).await;
    restored.unwrap();
    assert_eq!(fs::metadata(&output).unwrap().len(), BOMB);
    // Pages of a transaction are kept up to 32 MiB.
    assert!(most < MOST + (32 << 20), "{} MiB", most >> 20);
}
