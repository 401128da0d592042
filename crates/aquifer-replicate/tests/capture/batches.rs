//! What a batch holds.

use std::path::Path;

use aquifer_replicate::capture::{Capture, Spill, WalLimits};
use aquifer_sqlite::Handle;
use aquifer_sqlite::wal::WalChecksum;
use rusqlite::Connection;

use crate::stage::{Reader, Stage, connect, dump, head, next, put, ship};

/// A WAL with one transaction, as SQLite would have written it.
fn write_wal(database: &Path, page_size: usize, frames: &[(u32, Vec<u8>)], pages_after: u32) {
    let mut wal = Vec::new();
    for word in [0x377f_0682u32, 3_007_000, page_size as u32, 0, 77, 99] {
        wal.extend_from_slice(&word.to_be_bytes());
    }
    let mut sum = WalChecksum::default().over(&wal, false);
    wal.extend_from_slice(&[sum.s0.to_be_bytes(), sum.s1.to_be_bytes()].concat());
    for (i, (pgno, page)) in frames.iter().enumerate() {
        let commit = if i + 1 == frames.len() { pages_after } else { 0 };
        let head = [pgno.to_be_bytes(), commit.to_be_bytes()].concat();
        sum = sum.over(&head, false).over(page, false);
        wal.extend_from_slice(&head);
        for word in [77, 99, sum.s0, sum.s1] {
            wal.extend_from_slice(&u32::to_be_bytes(word));
        }
        wal.extend_from_slice(page);
    }
    let mut path = database.as_os_str().to_owned();
    path.push("-wal");
    std::fs::write(path, wal).unwrap();
}

#[test]
fn the_first_batch_is_the_whole_database_and_later_ones_are_small() {
    let stage = Stage::new(4096);
    for k in 0..300 {
        put(&stage.application, k, 3000);
    }
    let mut capture = stage.capture(None);
    let mut reader = Reader::new(capture.page_size());
    let first = ship(&mut capture, &mut reader).unwrap();
    assert!(first.encoded.info.is_snapshot());
    assert_eq!(reader.dump(), dump(&stage.application));
    stage.application.execute("UPDATE t SET v = zeroblob(10) WHERE k = 7", []).unwrap();
    let second = ship(&mut capture, &mut reader).unwrap();
    assert!(second.changes.len() < 10);
    assert_eq!(reader.dump(), dump(&stage.application));
    assert!(ship(&mut capture, &mut reader).is_none(), "nothing was committed");
}

#[test]
fn a_commit_that_changes_no_page_makes_no_batch() {
    let stage = Stage::new(4096);
    put(&stage.application, 1, 10);
    let mut capture = stage.capture(None);
    let mut reader = Reader::new(capture.page_size());
    ship(&mut capture, &mut reader);
    stage.application.execute_batch("BEGIN; UPDATE t SET v = v WHERE k = 1; COMMIT").unwrap();
    assert!(ship(&mut capture, &mut reader).is_none());
}

#[test]
fn pages_that_are_in_no_frame_restore_as_zeros() {
    let Stage { application, path, spill, _dir } = Stage::new(512);
    application.execute_batch("PRAGMA auto_vacuum=NONE; VACUUM").unwrap();
    application.close().unwrap();
    let mut capture = Capture::open(&path, None, WalLimits::default(), Spill::to(spill.clone())).unwrap();
    let mut reader = Reader::new(capture.page_size());
    let batch = ship(&mut capture, &mut reader).unwrap();
    let known = (head(&batch, &reader), capture.map().clone());
    drop(capture);

    // Five pages more, all of them free: a freelist trunk, and four leaves that never were written.
    let n = reader.pages.len() as u32;
    let mut first = reader.pages[0].clone();
    first[28..32].copy_from_slice(&(n + 5).to_be_bytes());
    first[32..36].copy_from_slice(&(n + 1).to_be_bytes());
    first[36..40].copy_from_slice(&5u32.to_be_bytes());
    let mut trunk = vec![0; 512];
    trunk[4..8].copy_from_slice(&4u32.to_be_bytes());
    for leaf in 0..4 {
        trunk[8 + leaf * 4..12 + leaf * 4].copy_from_slice(&(n + 2 + leaf as u32).to_be_bytes());
    }
    write_wal(&path, 512, &[(1, first), (n + 1, trunk)], n + 5);

    let mut capture = Capture::open(&path, Some(known), WalLimits::default(), Spill::to(spill)).unwrap();
    while ship(&mut capture, &mut reader).is_some() {}
    assert_eq!(reader.pages.len() as u32, n + 5);
    assert!(reader.pages[n as usize + 1..].iter().flatten().all(|&b| b == 0));
    // The same again, now through frames: the next growth is read from the WAL.
    let application = connect(&path, 512);
    application.execute_batch("INSERT INTO t VALUES(1, zeroblob(20000))").unwrap();
    assert!(ship(&mut capture, &mut reader).unwrap().wal_bytes > 0);
    assert_eq!(reader.dump(), dump(&application));
}

#[test]
fn a_restart_with_the_same_wal_reads_frames_and_with_another_compares_pages() {
    let stage = Stage::new(4096);
    for k in 0..100 {
        put(&stage.application, k, 3000);
    }
    let mut capture = stage.capture(None);
    let mut reader = Reader::new(capture.page_size());
    let batch = ship(&mut capture, &mut reader).unwrap();
    let known = (head(&batch, &reader), capture.map().clone());
    drop(capture);
    put(&stage.application, 1, 10);
    let mut capture = stage.capture(Some(known));
    let batch = ship(&mut capture, &mut reader).unwrap();
    assert!(batch.wal_bytes > 0, "read from the WAL");
    let known = (head(&batch, &reader), capture.map().clone());
    drop(capture);

    stage.application.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    put(&stage.application, 2, 10);
    stage.application.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    let mut capture = stage.capture(Some(known));
    let batch = ship(&mut capture, &mut reader).unwrap();
    assert_eq!(batch.wal_bytes, 0, "found by comparing");
    assert!(batch.changes.len() < 10, "only what differs is shipped");
    assert_eq!(reader.dump(), dump(&stage.application));
}

#[test]
fn the_journal_mode_may_change_while_nobody_watches() {
    let stage = Stage::new(4096);
    put(&stage.application, 1, 10);
    let mut capture = stage.capture(None);
    let mut reader = Reader::new(capture.page_size());
    let batch = ship(&mut capture, &mut reader).unwrap();
    let known = (head(&batch, &reader), capture.map().clone());
    drop(capture);
    stage.application.execute_batch("PRAGMA journal_mode=DELETE").unwrap();
    put(&stage.application, 2, 5000);
    let refused =
        Capture::open(&stage.path, Some(known.clone()), WalLimits::default(), Spill::to(stage.spill.clone()));
    assert!(refused.is_err());
    drop(stage.application);
    Handle::switch_to_wal(&stage.path).unwrap();
    let mut capture =
        Capture::open(&stage.path, Some(known), WalLimits::default(), Spill::to(stage.spill.clone()))
            .unwrap();
    ship(&mut capture, &mut reader).unwrap();
    assert_eq!(reader.dump(), dump(&Connection::open(&stage.path).unwrap()));
}

#[test]
fn a_database_replaced_by_rename_is_compared() {
    let stage = Stage::new(4096);
    put(&stage.application, 1, 10);
    let mut capture = stage.capture(None);
    let mut reader = Reader::new(capture.page_size());
    ship(&mut capture, &mut reader);
    let other = Stage::new(4096);
    put(&other.application, 5, 50_000);
    let expected = dump(&other.application);
    let Stage { application, path, .. } = &other;
    application.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    std::fs::remove_file(stage.path.with_extension("db-wal")).unwrap();
    std::fs::remove_file(stage.path.with_extension("db-shm")).unwrap();
    std::fs::rename(path, &stage.path).unwrap();
    ship(&mut capture, &mut reader).unwrap();
    assert_eq!(reader.dump(), expected);
}

#[test]
fn the_wal_stays_bounded_under_a_load_without_pauses() {
    let stage = Stage::new(4096);
    stage.application.execute_batch("PRAGMA wal_autocheckpoint=1000").unwrap();
    let mut capture = stage.capture(None);
    let mut reader = Reader::new(capture.page_size());
    ship(&mut capture, &mut reader);
    let mut resets = 0;
    for k in 0..400 {
        put(&stage.application, k % 50, 6000);
        ship(&mut capture, &mut reader);
        // A commit that comes in before every checkpoint: there never is a pause.
        put(&stage.application, k % 50 + 100, 6000);
        let before = capture.position().salts;
        let (report, batch) = capture.tend_wal(&next(&reader)).unwrap();
        if let Some(batch) = batch {
            reader.apply(&batch);
        }
        assert!(report.wal_bytes < 120_000, "{report:?}");
        put(&stage.application, k % 50 + 200, 600);
        ship(&mut capture, &mut reader);
        resets += u32::from(capture.position().salts != before);
    }
    assert!(resets > 5, "{resets}");
    assert_eq!(reader.dump(), dump(&stage.application));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 30, ..Default::default() })]

    /// Whatever the application does, whenever we look, restart or tend the WAL: every batch continues the one
    /// before, and the last is the database.
    #[test]
    fn any_schedule_is_captured(
        page_size in proptest::sample::select(vec![512u32, 1024, 4096, 65536]),
        steps in proptest::collection::vec((0u8..13, 0i64..40, 1usize..9000), 1..60)
    ) {
        let stage = Stage::new(page_size);
        let mut capture = stage.capture(None);
        let mut reader = Reader::new(capture.page_size());
        let app = &stage.application;
        // What a run that ends here leaves behind for the next.
        let mut known = None;
        for (step, k, bytes) in steps {
            match step {
                0..=3 => put(app, k, bytes),
                4 => { app.execute("DELETE FROM t WHERE k >= ?", [k]).unwrap(); }
                5 => { let _ = app.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())); }
                6 => { let _ = app.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())); }
                7 => { app.execute_batch("VACUUM").unwrap(); }
                8 => {
                    let (_, batch) = capture.tend_wal(&next(&reader)).unwrap();
                    if let Some(batch) = batch {
                        reader.apply(&batch);
                        known = Some((head(&batch, &reader), capture.map().clone()));
                    }
                }
                9 => capture.rest().unwrap(),
                10 => {
                    drop(capture);
                    put(app, k, bytes);
                    capture = stage.capture(known.clone());
                }
                11 => {
                    app.execute_batch(&format!(
                        "BEGIN; INSERT OR REPLACE INTO t VALUES(1000, zeroblob({})); DELETE FROM t WHERE k = 1000; COMMIT",
                        bytes * 10
                    )).unwrap();
                }
                _ => {
                    if let Some(batch) = ship(&mut capture, &mut reader) {
                        known = Some((head(&batch, &reader), capture.map().clone()));
                    }
                }
            }
        }
        // A comparison ships the image at the pin; what came after it is the next batch.
        while ship(&mut capture, &mut reader).is_some() {}
        proptest::prop_assert_eq!(reader.dump(), dump(app));
    }
}
