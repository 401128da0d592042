//! Buckets that somebody made to do harm, and stores that fail: an error, no file, and no panic.

use std::sync::Arc;

use aquifer_log::Store;
use aquifer_log::store::Patience;
use aquifer_migrate::{MigrateError, Origin, find};
use aquifer_testkit::fault_store::{Fault, FaultStore, Gate, Op, Rule};
use aquifer_testkit::s3_server::{Conditions, S3Server};
use object_store::ObjectStoreExt as _;

use crate::bucket::Bucket;
use crate::generator::{Generation, Kind, Ltx, gzip, put_03};
use crate::live::{FRAME_HEADER, Live, WAL_HEADER};

pub(crate) async fn refused(bucket: &Bucket) -> MigrateError {
    match bucket.restore(bucket.restorer().integrity_check(false)).await {
        Ok((restored, _)) => panic!("{restored:?}"),
        Err(error) => error,
    }
}

/// Names this object, as damaged or as one that says what no disk has room for.
pub(crate) fn assert_names(error: &MigrateError, key: &str) {
    let named = match error {
        MigrateError::Damaged { key, .. } | MigrateError::NoRoom { key, .. } => key.as_str(),
        _ => "",
    };
    assert!(named == key, "{key}: {error}");
}

pub(crate) fn small(page_size: usize) -> Live {
    let live = Live::new(page_size);
    for _ in 0..3 {
        live.insert(4, page_size / 2);
    }
    live
}

/// A bucket of each format, and the database that all of them are.
pub(crate) fn every_format() -> (Vec<(&'static str, Bucket)>, Vec<u8>) {
    let live = small(4096);
    let (file, wal) = (live.file(), live.wal());
    let batches = Bucket::empty();
    Generation::begun(0).snapshot(&batches, Kind::Zstd, &file);
    Generation::begun(0).batches(&batches, &wal, Kind::Gz);
    let pages = Bucket::empty();
    Generation::begun(0).snapshot(&pages, Kind::Gz, &file);
    Generation::begun(0).pages(&pages, &wal, &[]);
    let ltx = Bucket::empty();
    Ltx::between(&[], &file, 4096, 1).put(&ltx, 0);
    Ltx::between(&file, &live.image(), 4096, 2).put(&ltx, 0);
    let litestream_03 = Bucket::empty();
    put_03(&litestream_03, "snapshots/00000000.snapshot", &file);
    put_03(&litestream_03, "wal/00000000_00000000.wal", &wal.bytes);
    let zlayer = Bucket::empty();
    zlayer.put("app/snapshots/20261120_100000.sqlite.zst", &Kind::Zstd.pack(&file));
    zlayer.put("app/wal/00000000000000000012.wal.zst", &Kind::Zstd.pack(&wal.bytes));
    let all = [
        ("batches", batches),
        ("pages", pages),
        ("LTX", ltx),
        ("Litestream 0.3", litestream_03),
        ("zlayer", zlayer),
    ];
    (all.into(), live.image())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_terabytes_that_is_not_there_is_refused() {
    let live = small(4096);
    // A commit that says so.
    for frames in [true, false] {
        let (bucket, generation) = (Bucket::empty(), Generation::begun(0));
        let mut wal = live.wal();
        let last = wal.bytes.len() - 4096 - FRAME_HEADER;
        wal.bytes[last + 4..last + 8].copy_from_slice(&0xffff_fff0_u32.to_be_bytes());
        wal.sum(false);
        let key = if frames {
            let names = generation.batches(&bucket, &wal, Kind::Raw);
            generation.key(names.last().unwrap())
        } else {
            put_03(&bucket, "snapshots/00000000.snapshot", &live.file());
            put_03(&bucket, "wal/00000000_00000000.wal", &wal.bytes);
            "generations/0123456789abcdef/wal/00000000_00000000.wal.lz4".to_owned()
        };
        let error = refused(&bucket).await;
        assert_names(&error, &key);
        assert!(error.to_string().contains("4294967280 pages"), "{error}");
    }
    // A file with one page far behind all others; the checksums of all would take 32 GiB.
    let bucket = Bucket::empty();
    let mut ltx = Ltx::between(&[], &live.image(), 4096, 1);
    ltx.commit = u32::MAX;
    ltx.pages.insert(u32::MAX - 1, vec![1; 4096]);
    let key = ltx.put(&bucket, 0);
    let error = refused(&bucket).await;
    assert_names(&error, &key);
    // A page of its own, and a page 1 that counts as many.
    let (bucket, generation) = (Bucket::empty(), Generation::begun(0));
    let mut wal = live.wal();
    let frame = wal.bytes[WAL_HEADER..].chunks_exact_mut(4096 + FRAME_HEADER).last().unwrap();
    frame[..4].copy_from_slice(&0x00ff_fff0_u32.to_be_bytes());
    generation.snapshot(&bucket, Kind::Gz, &live.file());
    generation.pages(&bucket, &wal, &[]);
    let first = {
        let mut page = live.image()[..4096].to_vec();
        page[28..32].copy_from_slice(&0x00ff_fff0_u32.to_be_bytes());
        let count = wal.frames().len() + 1;
        let crc = crate::generator::crc64_ecma(0, &page);
        generation.put(&bucket, &format!("{count:012}-000000000001-{crc:016x}"), &gzip(&page));
        count
    };
    generation.put(&bucket, ".consistent", &[&(first as u32).to_be_bytes()[..], &[0; 8]].concat());
    let error = refused(&bucket).await;
    assert!(error.to_string().contains("16777200 pages"), "{error}");
    // A snapshot whose header counts more than there is.
    let bucket = Bucket::empty();
    let mut file = live.image();
    file[28..32].copy_from_slice(&u32::MAX.to_be_bytes());
    generation.snapshot(&bucket, Kind::Gz, &file);
    assert_names(&refused(&bucket).await, &generation.key("db.gz"));
}

#[tokio::test(flavor = "multi_thread")]
async fn lengths_that_lie_are_refused() {
    let live = small(4096);
    let ltx = Ltx::between(&[], &live.image(), 4096, 1);
    let good = ltx.encode();
    // The first page's compressed length; the header's page size; its transactions.
    for (at, value) in
        [(106, [0xff; 4]), (106, [0, 0, 0, 1]), (8, [0, 0, 0x20, 0]), (8, [0xff; 4]), (20, [0xff; 4])]
    {
        let bucket = Bucket::empty();
        let key = ltx.put(&bucket, 0);
        let mut file = good.clone();
        file[at..at + 4].copy_from_slice(&value);
        bucket.put(&key, &file);
        assert_names(&refused(&bucket).await, &key);
    }
    // A snapshot that leaves pages out is one all the same: what SQLite never wrote. Page 1 is not among them.
    let bucket = Bucket::empty();
    let generation = Generation::begun(0);
    let key = generation.key(&generation.batch(&bucket, &live.wal(), (1, 2), 1, Kind::Raw));
    let longer = key.replace("000000000002", "000000000003");
    std::fs::rename(bucket.path().join(&key), bucket.path().join(&longer)).unwrap();
    assert_names(&refused(&bucket).await, &longer);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_cannot_be_are_passed_over() {
    let (formats, whole) = every_format();
    let generation = Generation::begun(0);
    let long = "9".repeat(60);
    for (name, bucket) in formats {
        for key in [
            generation.key(&format!("{long}-{long}-{}", "f".repeat(16))),
            generation.key(&format!("{long}-{long}-{long}.zstd")),
            generation.key("000000000001-000000000000-0000000000000000"),
            generation.key("000000000002-000000000001-0.raw"),
            generation.key("a\nb\u{1b}[31m"),
            format!("ltx/0/{}-{}.ltx", "0".repeat(16), "f".repeat(16)),
            "ltx/0/0000000000000009-0000000000000001.ltx".to_owned(),
            format!("ltx/{long}/x"),
            "generations/0123456789abcdef/wal/100000000_00000000.wal.lz4".to_owned(),
            format!("app/wal/{long}.wal.zst"),
            "app/snapshots/é.sqlite.zst".to_owned(),
        ] {
            // Of the format's own directories only: others would be of another backup.
            let directory = key.split('/').next().unwrap();
            if bucket.path().join(directory).exists() {
                bucket.put(&key, b"x");
            }
        }
        for key in ["\u{7}bell/x", "a\nb-e4ce79c3-7fd7-7abe-b6dc-9ffcaf8392e1/db.gz", "new\nline/ltx/0/x"] {
            bucket.put(key, b"x");
        }
        let found = bucket.restore(bucket.restorer()).await;
        let (_, file) = found.unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(file == whole, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_lead_out_of_the_bucket_are_passed_over_or_told() {
    let (formats, whole) = every_format();
    for (name, bucket) in formats {
        let mut found = Vec::new();
        crate::damage::objects(&bucket.path(), &mut found);
        let mut keys: Vec<String> = [
            "../escaped.db",
            "../../escaped.db",
            "..",
            "//db.gz",
            "..-e4ce79c3-7fd7-7abe-b6dc-9ffcaf8392e1/db.gz",
            "\u{1}-e4ce79c3-7fd7-7abe-b6dc-9ffcaf8392e1/db.gz",
        ]
        .map(str::to_owned)
        .into();
        for object in &found {
            let key = object.strip_prefix(bucket.path()).unwrap().to_str().unwrap();
            let (directory, file) = key.rsplit_once('/').unwrap();
            keys.push(format!("{directory}/../{file}"));
            keys.push(format!("{directory}/../../../../escaped.db"));
        }
        for key in keys {
            let server = S3Server::start(Conditions::Honoured).await;
            let put = |key: &str, content: Vec<u8>| server.put_object(&format!("backups/{key}"), content);
            for object in &found {
                let key = object.strip_prefix(bucket.path()).unwrap().to_str().unwrap();
                put(key, std::fs::read(object).unwrap());
            }
            put(&key, gzip(b"escaped"));
            let url = server.url("backups").parse().unwrap();
            let store = Store::open_with_environment(&url, server.environment()).unwrap();
            let restorer = bucket.restorer_of(store.clone());
            match bucket.restore(restorer).await {
                Ok((_, file)) => assert!(file == whole, "{name}: {key}"),
                // The store refuses to list such a key, and says where.
                Err(error) => {
                    assert!(error.to_string().contains("refuses to list"), "{name}: {key}: {error}");
                }
            }
            if let Ok(backups) = find(&store, Origin::Auto).await {
                let names: Vec<&str> = backups.iter().map(aquifer_migrate::Backup::database).collect();
                assert!(names.iter().all(|name| !name.contains(char::is_control)), "{names:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_number_that_there_is_overflows_nothing() {
    let live = small(4096);
    let bucket = Bucket::empty();
    put_03(&bucket, "snapshots/ffffffff.snapshot", &live.file());
    put_03(&bucket, "wal/ffffffff_00000000.wal", &live.wal().bytes);
    let (_, file) = bucket.restore(bucket.restorer()).await.unwrap();
    assert!(file == live.image());

    let bucket = Bucket::empty();
    let mut ltx = Ltx::between(&[], &live.image(), 4096, 1);
    (ltx.max, ltx.millis) = (u64::MAX, i64::MIN);
    ltx.put(&bucket, 9);
    let (told, file) = bucket.restore(bucket.restorer()).await.unwrap();
    assert!(file == live.image() && told.position == u64::MAX);

    let (bucket, generation) = (Bucket::empty(), Generation::begun(0));
    let last = live.wal().frames().len();
    let name = generation.batch(&bucket, &live.wal(), (1, last), 1, Kind::Raw);
    let far = name.split('-').next().unwrap().to_owned() + &format!("-{last:012}-{}.raw", i64::MAX);
    std::fs::rename(bucket.path().join(generation.key(&name)), bucket.path().join(generation.key(&far)))
        .unwrap();
    let (_, file) = bucket.restore(bucket.restorer()).await.unwrap();
    assert!(file == live.image());
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_another_database_are_found() {
    let (live, other) = (small(4096), small(4096));
    let (bucket, generation) = (Bucket::empty(), Generation::begun(0));
    let names = generation.batches(&bucket, &live.wal(), Kind::Gz);
    let of_other = Bucket::empty();
    let others = generation.batches(&of_other, &other.wal(), Kind::Gz);
    let copy = |name: &str| std::fs::read(of_other.path().join(generation.key(name))).unwrap();
    assert_eq!(names, others);
    generation.put(&bucket, &names[1], &copy(&names[1]));
    assert_names(&refused(&bucket).await, &generation.key(&names[1]));

    let (bucket, of_other) = (Bucket::empty(), Bucket::empty());
    generation.snapshot(&bucket, Kind::Gz, &live.file());
    let names = generation.pages(&bucket, &live.wal(), &[]);
    let others = generation.pages(&of_other, &other.wal(), &[]);
    let last = names.len() - 1;
    let content = std::fs::read(of_other.path().join(generation.key(&others[last]))).unwrap();
    generation.put(&bucket, &names[last], &content);
    assert_names(&refused(&bucket).await, &generation.key(&names[last]));

    // Both layouts in one generation.
    generation.batches(&bucket, &live.wal(), Kind::Gz);
    let error = refused(&bucket).await;
    assert!(error.to_string().contains("two databases"), "{error}");
}

fn store(faults: &FaultStore) -> Store {
    Store::from_object_store(Arc::new(faults.clone()), "memory").with_patience(Patience::ONCE)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fails_at_any_request_makes_an_error_and_no_file() {
    let (formats, whole) = every_format();
    for (name, bucket) in formats {
        let faults = bucket.in_memory().await;
        let restorer = || bucket.restorer_of(store(&faults));
        faults.take_log();
        let (_, file) = bucket.restore(restorer()).await.unwrap();
        assert!(file == whole, "{name}");
        let requests = faults.take_log().len();
        for at in 0..requests {
            for fault in [Fault::Timeout, Fault::Deny, Fault::Throttle, Fault::Unreachable, Fault::Torn(7)] {
                faults.clear();
                faults.inject(Rule::on_any("", fault.clone()).after(at).times(1));
                match bucket.restore(restorer()).await {
                    Ok((_, file)) => assert!(file == whole, "{name}: {fault:?} at {at}"),
                    Err(error) => {
                        let is_told = matches!(error, MigrateError::Store(_) | MigrateError::Damaged { .. });
                        assert!(is_told, "{name}: {fault:?} at {at}: {error}");
                    }
                }
            }
        }
        faults.clear();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_vanishes_or_changes_while_it_is_read_makes_an_error_and_no_file() {
    let (formats, whole) = every_format();
    for (name, bucket) in formats {
        let mut found = Vec::new();
        crate::damage::objects(&bucket.path(), &mut found);
        for object in found {
            let key = object.strip_prefix(bucket.path()).unwrap().to_str().unwrap();
            let is_proven = !key.contains("/.");
            if !is_proven {
                continue;
            }
            let content = std::fs::read(&object).unwrap();
            let shorter = content[..content.len() / 2].to_vec();
            let other = content.iter().rev().copied().collect();
            for change in [None, Some(shorter), Some(other)] {
                let faults = bucket.in_memory().await;
                let gate = Gate::new();
                faults.inject(Rule::on(Op::Get, key, Fault::Hold(gate.clone())));
                let changed = change.is_some();
                let (inner, path) = (faults.inner().clone(), key.into());
                let vanish = tokio::spawn(async move {
                    // The listing has it, and it was asked for.
                    gate.arrived(1).await;
                    match change {
                        None => inner.delete(&path).await.unwrap(),
                        Some(content) => drop(inner.put(&path, content.into()).await.unwrap()),
                    }
                    gate.open();
                });
                let restored = bucket.restore(bucket.restorer_of(store(&faults))).await;
                // What is not needed is not asked for.
                vanish.abort();
                match restored {
                    Ok((_, file)) => assert!(file == whole, "{name}: {key}"),
                    Err(error) => {
                        assert!(error.to_string().contains(key), "{name}: {key}, changed {changed}: {error}");
                    }
                }
            }
        }
    }
}
