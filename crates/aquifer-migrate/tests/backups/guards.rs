//! What readers must refuse, or must not take for anything, and that nothing else would show.

use std::io::Write as _;

use aquifer_migrate::{MigrateError, Origin, Target, find};

use crate::bad_input::imported;
use crate::bucket::Bucket;
use crate::generated::{assert_same, restored};
use crate::generator::{Generation, Kind, Ltx, put_03};
use crate::hostile::{assert_names, every_format, refused, small};
use crate::live::{FRAME_HEADER, Live, WAL_HEADER, Wal, image};

/// A snapshot alone.
fn snapshot(kind: Kind, database: &[u8]) -> (Bucket, String) {
    let (bucket, generation) = (Bucket::empty(), Generation::begun(0));
    generation.snapshot(&bucket, kind, database);
    (bucket, generation.key(&format!("db.{}", kind.name())))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_is_no_database_is_refused() {
    let live = small(4096);
    live.checkpoint();
    let file = live.file();
    let encrypted: Vec<u8> = file.iter().map(|byte| byte ^ 0x5a).collect();
    let mut other = file.clone();
    other[..6].copy_from_slice(b"SQLCip");
    let not_whole = [&file[..], &[0; 100]].concat();
    for wrong in [&encrypted[..], &other, &not_whole, &file[..80]] {
        let (bucket, key) = snapshot(Kind::Raw, wrong);
        assert_names(&refused(&bucket).await, &key);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lies_beyond_the_pages_that_a_database_counts_is_no_part_of_it() {
    let live = small(4096);
    live.checkpoint();
    let file = live.file();
    let longer = [&file[..], &[7; 2 * 4096]].concat();
    let (bucket, _) = snapshot(Kind::Zstd, &longer);
    assert_same(&restored(&bucket, Target::Latest).await, &file, "restored");
    assert_same(&imported(&bucket).await.unwrap(), &file, "imported");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_count_that_an_old_sqlite_left_is_not_believed() {
    let live = small(4096);
    live.checkpoint();
    // Versions before 3.7.0 leave the count as it is, or 0, and the counters beside it apart.
    for (counted, is_valid) in [(1u32, false), (0, true), (0, false)] {
        let mut file = live.file();
        file[28..32].copy_from_slice(&counted.to_be_bytes());
        if !is_valid {
            file[92] ^= 1;
        }
        let (bucket, _) = snapshot(Kind::Gz, &file);
        assert_same(&restored(&bucket, Target::Latest).await, &file, &format!("{counted} {is_valid}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn page_sizes_that_differ_are_refused() {
    let (live, other) = (small(4096), small(512));
    live.checkpoint();
    let generation = Generation::begun(0);
    // A snapshot, and frames of another size.
    let bucket = Bucket::empty();
    generation.snapshot(&bucket, Kind::Zstd, &live.file());
    generation.batches(&bucket, &other.wal(), Kind::Raw);
    assert_names(&refused(&bucket).await, &generation.key("db.zstd"));
    // A parent and its child.
    let (bucket, child) = (Bucket::empty(), Generation::begun(100));
    live.insert(3, 100);
    generation.batches(&bucket, &live.wal(), Kind::Raw);
    let names = child.batches(&bucket, &other.wal(), Kind::Raw);
    child.parent(&bucket, &generation);
    assert_names(&refused(&bucket).await, &child.key(&names[0]));
    // Files of Litestream.
    let bucket = Bucket::empty();
    Ltx::between(&[], &live.image(), 4096, 1).put(&bucket, 0);
    let key = Ltx { flags: 2, ..Ltx::between(&[], &other.image(), 512, 2) }.put(&bucket, 0);
    assert_names(&refused(&bucket).await, &key);
    // A WAL.
    let bucket = Bucket::empty();
    put_03(&bucket, "snapshots/00000000.snapshot", &live.file());
    put_03(&bucket, "wal/00000000_00000000.wal", &other.wal().bytes);
    assert_names(&refused(&bucket).await, "generations/0123456789abcdef/wal/00000000_00000000.wal.lz4");
    // A page.
    let bucket = Bucket::empty();
    generation.snapshot(&bucket, Kind::Gz, &live.file());
    let names = generation.pages(&bucket, &other.wal(), &[]);
    let error = refused(&bucket).await;
    assert!(names.iter().any(|name| error.to_string().contains(name)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wal_that_was_cut_off_between_two_blocks_is_refused() {
    let live = small(4096);
    let (file, wal) = (live.file(), live.wal());
    // What follows a commit is in a block of its own, as a frame's writer may have it that flushes at each commit.
    let first = WAL_HEADER + wal.commits()[1] * (FRAME_HEADER + 4096);
    let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
    encoder.write_all(&wal.bytes[..first]).unwrap();
    encoder.flush().unwrap();
    let cut = encoder.get_ref().len();
    encoder.write_all(&wal.bytes[first..]).unwrap();
    let whole = encoder.finish().unwrap();
    let bucket = Bucket::empty();
    put_03(&bucket, "snapshots/00000000.snapshot", &file);
    let key = "generations/0123456789abcdef/wal/00000000_00000000.wal.lz4";
    bucket.put(key, &whole);
    assert_same(&restored(&bucket, Target::Latest).await, &live.image(), "whole");
    bucket.put(key, &whole[..cut]);
    assert_names(&refused(&bucket).await, key);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_that_come_back_after_the_database_shrank_begin_as_zeros() {
    let page_size = 512;
    let live = small(page_size);
    let whole = live.image();
    let pages = whole.len() / page_size;
    let shorter = whole[..whole.len() / 2].to_vec();
    let back = usize::midpoint(pages, pages / 2);
    // The last file does not have a page that was there before.
    let mut holed = whole.clone();
    holed[back * page_size..(back + 1) * page_size].fill(0);
    let mut files = vec![
        Ltx::between(&[], &whole, page_size, 1),
        Ltx::between(&whole, &shorter, page_size, 2),
        Ltx::between(&shorter, &holed, page_size, 3),
        // SQLite must find what was imported whole.
        Ltx::between(&holed, &whole, page_size, 4),
    ];
    assert!(files[2].pages.remove(&(back as u32 + 1)).is_some());
    let bucket = Bucket::empty();
    for file in &mut files {
        file.flags = 2;
        file.put(&bucket, 0);
    }
    for (txid, state) in [(1, &whole), (2, &shorter), (3, &holed), (4, &whole)] {
        let restorer = bucket.restorer().integrity_check(false).target(Target::Position(txid));
        let (_, file) = bucket.restore(restorer).await.unwrap();
        assert_same(&file, state, &format!("restored at {txid}"));
    }
    let revisions = crate::bad_input::revisions(&bucket).await.unwrap();
    assert!(revisions == [&whole[..], &shorter, &holed, &whole], "imported");

    // The same in frames that are one object, and one batch.
    let live = Live::new(page_size);
    live.insert(40, 400);
    live.sql("DELETE FROM t WHERE k > 3");
    live.sql("VACUUM");
    live.insert(2, 400);
    let mut wal = live.wal();
    grow_by_free_pages(&mut wal, &live.image(), 10);
    let free = live.image().len() + 512;
    let (bucket, generation) = (Bucket::empty(), Generation::begun(0));
    generation.batch(&bucket, &wal, (1, wal.frames().len()), 1, Kind::Zstd);
    let file = restored(&bucket, Target::Latest).await;
    // SQLite takes what these free pages were in the WAL before, which nobody reads.
    assert!(file.len() == free + 10 * 512 && file[free..].iter().all(|byte| *byte == 0));
    assert_same(&imported(&bucket).await.unwrap(), &file, "imported");
}

/// A transaction that grows the database by pages that are in no frame: a trunk of the free list, and leaves of it. SQLite need
/// not write what was allocated and freed at once.
fn grow_by_free_pages(wal: &mut Wal, image: &[u8], leaves: u32) {
    let pages = (image.len() / 512) as u32;
    let mut first = image[..512].to_vec();
    let mut trunk = vec![0; 512];
    trunk[4..8].copy_from_slice(&leaves.to_be_bytes());
    for leaf in 0..leaves {
        let at = 8 + 4 * leaf as usize;
        trunk[at..at + 4].copy_from_slice(&(pages + 2 + leaf).to_be_bytes());
    }
    let after = pages + 1 + leaves;
    for (at, value) in [(28, after), (32, pages + 1), (36, leaves + 1)] {
        first[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }
    let salts = wal.bytes[16..24].to_vec();
    for (pgno, commit, page) in [(1, 0, first), (pages + 1, after, trunk)] {
        wal.bytes.extend([u32::to_be_bytes(pgno), u32::to_be_bytes(commit)].concat());
        wal.bytes.extend([&salts[..], &[0; 8], &page].concat());
    }
    wal.sum(false);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_that_no_frame_has_are_zeros() {
    let live = Live::new(512);
    live.insert(3, 100);
    let mut wal = live.wal();
    grow_by_free_pages(&mut wal, &live.image(), 100);
    let grown = image(&live.file(), &wal.bytes);
    assert!(grown.len() / 512 > 100);
    let (bucket, generation) = (Bucket::empty(), Generation::begun(0));
    generation.batches(&bucket, &wal, Kind::Gz);
    assert_same(&restored(&bucket, Target::Latest).await, &grown, "restored");
    assert_same(&imported(&bucket).await.unwrap(), &grown, "imported");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_that_no_file_had_may_be_written_later() {
    let live = small(512);
    let whole = live.image();
    // As if the last pages had been allocated and freed before they were used.
    let kept = whole.len() - 6 * 512;
    let holed = [&whole[..kept], &[0; 6 * 512]].concat();
    let shorter = whole[..kept - 2 * 512].to_vec();
    let mut files = [
        Ltx::between(&[], &shorter, 512, 1),
        Ltx::between(&shorter, &holed, 512, 2),
        Ltx::between(&holed, &whole, 512, 3),
    ];
    files[1].pages.retain(|_, page| page.iter().any(|byte| *byte > 0));
    let bucket = Bucket::empty();
    for file in &mut files {
        file.flags = 2;
        file.put(&bucket, 0);
    }
    let revisions = crate::bad_input::revisions(&bucket).await.unwrap();
    assert!(revisions == [&shorter[..], &holed, &whole]);
}

#[tokio::test(flavor = "multi_thread")]
async fn terabytes_that_are_not_there_are_not_imported() {
    let live = small(4096);
    let (bucket, generation) = (Bucket::empty(), Generation::begun(0));
    let mut wal = live.wal();
    let last = wal.bytes.len() - 4096 - FRAME_HEADER;
    wal.bytes[last + 4..last + 8].copy_from_slice(&0xffff_fff0_u32.to_be_bytes());
    wal.sum(false);
    let names = generation.batches(&bucket, &wal, Kind::Raw);
    let error = imported(&bucket).await.unwrap_err();
    assert_names(&error, &generation.key(names.last().unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_without_the_first_page_make_no_database() {
    let live = small(4096);
    let (bucket, generation) = (Bucket::empty(), Generation::begun(0));
    let mut wal = live.wal();
    let frame_len = FRAME_HEADER + 4096;
    for frame in wal.bytes[WAL_HEADER..].chunks_exact_mut(frame_len) {
        if frame[..4] == [0, 0, 0, 1] {
            frame[..4].copy_from_slice(&[0, 0, 0, 2]);
        }
    }
    generation.pages(&bucket, &wal, &[]);
    for error in [refused(&bucket).await, imported(&bucket).await.unwrap_err()] {
        assert!(matches!(&error, MigrateError::Damaged { .. }), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn small_objects_of_another_length_are_refused() {
    let live = small(4096);
    let generation = Generation::begun(0);
    let build = || {
        let (bucket, parent) = (Bucket::empty(), Generation::begun(-100));
        parent.snapshot(&bucket, Kind::Raw, &live.file());
        generation.batches(&bucket, &live.wal(), Kind::Raw);
        generation.parent(&bucket, &parent);
        bucket
    };
    for (name, len) in [(".meta", 12), (".dep", 16)] {
        for len in [len - 1, len + 1, 4000] {
            let bucket = build();
            generation.put(&bucket, name, &vec![0; len]);
            assert_names(&refused(&bucket).await, &generation.key(name));
        }
    }
    for (name, len) in [(".dep", 16), (".consistent", 12), (".changecounter", 4)] {
        for len in [len - 1, len + 1] {
            let bucket = build();
            generation.put(&bucket, name, &vec![0; len]);
            let backups = find(&bucket.store(), Origin::Auto).await.unwrap();
            assert_names(&backups[0].survey().await.unwrap_err(), &generation.key(name));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_almost_the_name_of_a_part_is_none() {
    let (formats, whole) = every_format();
    let generation = Generation::begun(0);
    for (name, bucket) in formats {
        for key in [
            // Levels are numbers, and transactions have sixteen digits.
            "ltx/old/0000000000000001-0000000000000009.ltx",
            "ltx/00/0000000000000001-0000000000000009.ltx",
            "ltx/0/1-9.ltx",
            "ltx/0/00000000000000000001-00000000000000000009.ltx",
            "ltx/0/0000000000000000-0000000000000009.ltx",
            "ltx/0/0000000000000001-0000000000000009.ltx.tmp",
            "generations/0123456789abcdef/snapshots/7.snapshot.lz4",
            "generations/0123456789abcdef/snapshots/00000007.snapshot.lz4.tmp",
            "generations/0123456789abcdef/wal/0_0.wal.lz4",
            "generations/0123456789abcdef/wal/000000007_00000000.wal.lz4",
            "app/snapshots/20261120_10000x.sqlite.zst",
            "app/snapshots/20261120_1000000.sqlite.zst",
            "app/snapshots/99991231_235959.sqlite.zst.tmp",
            "app/wal/-1.wal.zst",
        ]
        .map(str::to_owned)
        .into_iter()
        .chain(
            [
                "00000000001-000000000001-0000000000000000",
                "000000000000-000000000001-0000000000000000",
                "000000000099-000000000001-00000000000000000",
                "000000000001-000000000001-0000000000000000-1",
                "000000000000-000000000099-1795000001.raw",
                "000000000099-000000000001-1795000001.raw",
                "000000000001-004294967295-1795000001.raw",
                "000000000001-000000000002--1.raw",
                "000000000001-000000000002-1795000001-1.raw",
                "000000000001-000000000002-1795000001.lz4",
                "db.gz.tmp",
            ]
            .map(|name| generation.key(name)),
        ) {
            let directory = key.split('/').next().unwrap();
            if bucket.path().join(directory).exists() {
                bucket.put(&key, b"x");
            }
        }
        // Directories that begin with a dot, and others that only look alike.
        for key in [
            ".trash/ltx/0/0000000000000001-0000000000000009.ltx",
            ".trash/app-e4ce79c3-7fd7-7abe-b6dc-9ffcaf8392e1x/db.gz",
            "app-e4ce79c3-7fd7-4abe-b6dc-9ffcaf8392e1/db.gz",
            "-e4ce79c3-7fd7-7abe-b6dc-9ffcaf8392e1/db.gz",
        ] {
            bucket.put(key, b"x");
        }
        let found = bucket.restore(bucket.restorer()).await;
        let (_, file) = found.unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_same(&file, &whole, name);
        let found = find(&bucket.store(), Origin::Auto).await.unwrap();
        assert_eq!(found.len(), 1, "{name}");
    }
}
