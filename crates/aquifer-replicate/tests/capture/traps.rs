//! What costs others data: each test fails without the handling of one trap.

use aquifer_format::Timestamp;
use aquifer_replicate::capture::{Body, Capture, NextBatch, Spill, WalLimits};
use rusqlite::Connection;

use crate::stage::{Reader, Stage, connect, dump, head, next, put, ship};

#[test]
fn a_transaction_larger_than_memory_goes_through_a_file() {
    let stage = Stage::new(4096);
    put(&stage.application, 0, 10);
    let spill = Spill { above: 100_000, ..Spill::to(stage.spill.clone()) };
    let mut capture = Capture::open(&stage.path, None, WalLimits::default(), spill).unwrap();
    let mut reader = Reader::new(capture.page_size());
    let files = || {
        let here = std::fs::read_dir(&stage.spill).unwrap();
        here.filter(|f| !f.as_ref().unwrap().file_name().to_string_lossy().starts_with("app.db")).count()
    };
    ship(&mut capture, &mut reader).unwrap();
    // Frames of a transaction that is larger than SQLite's page cache are in the WAL before it commits.
    stage.application.execute_batch("PRAGMA cache_size=10; BEGIN").unwrap();
    for k in 0..100 {
        put(&stage.application, k, 30_000);
    }
    assert!(ship(&mut capture, &mut reader).is_none(), "not committed yet");
    stage.application.execute_batch("COMMIT").unwrap();
    for how in ["frames", "comparing"] {
        let batch = ship(&mut capture, &mut reader).unwrap();
        assert!(matches!(&batch.encoded.body, Body::File(_)), "{how}: {:?}", batch.encoded.body);
        assert_eq!(files(), 1);
        assert_eq!(reader.dump(), dump(&stage.application));
        let known = (head(&batch, &reader), capture.map().clone());
        drop(batch);
        assert_eq!(files(), 0, "what was put leaves nothing behind");
        drop(capture);
        stage.application.execute("UPDATE t SET v = randomblob(30001)", []).unwrap();
        stage.application.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        let spill = Spill { above: 100_000, ..Spill::to(stage.spill.clone()) };
        capture = Capture::open(&stage.path, Some(known), WalLimits::default(), spill).unwrap();
    }
}

#[test]
fn frames_of_a_transaction_that_was_rolled_back_are_not_shipped_and_may_be_overwritten() {
    let stage = Stage::new(4096);
    put(&stage.application, 0, 10);
    let mut capture = stage.capture(None);
    let mut reader = Reader::new(capture.page_size());
    ship(&mut capture, &mut reader).unwrap();
    stage.application.execute_batch("PRAGMA cache_size=10").unwrap();
    for round in 0..3 {
        stage.application.execute_batch("BEGIN").unwrap();
        for k in 0..30 {
            put(&stage.application, k, 30_000);
        }
        // They are in the file, with the salts of the WAL and checksums that fit.
        assert!(capture.may_have_changed());
        assert!(ship(&mut capture, &mut reader).is_none());
        stage.application.execute_batch("ROLLBACK").unwrap();
        assert!(ship(&mut capture, &mut reader).is_none());
        // Another transaction takes their place.
        put(&stage.application, round, 50_000);
        assert!(ship(&mut capture, &mut reader).unwrap().wal_bytes > 0);
        assert_eq!(reader.dump(), dump(&stage.application));
    }
}

#[test]
fn what_is_committed_while_the_first_image_is_read_is_the_next_batch() {
    let stage = Stage::new(4096);
    for k in 0..50 {
        put(&stage.application, k, 3000);
    }
    let mut capture = stage.capture(None);
    let at_the_pin = dump(&stage.application);
    stage.application.execute("UPDATE t SET v = randomblob(2999)", []).unwrap();
    let _ = stage.application.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    let mut reader = Reader::new(capture.page_size());
    ship(&mut capture, &mut reader).unwrap();
    assert_eq!(reader.dump(), at_the_pin, "a batch ends where its place in the WAL says");
    ship(&mut capture, &mut reader).unwrap();
    assert_eq!(reader.dump(), dump(&stage.application));
}

#[test]
fn stale_frames_behind_the_end_of_a_restarted_wal_are_no_news() {
    let stage = Stage::new(4096);
    let mut capture = stage.capture(None);
    let mut reader = Reader::new(capture.page_size());
    for k in 0..40 {
        put(&stage.application, k, 3000);
    }
    while ship(&mut capture, &mut reader).is_some() {}
    let before = capture.position().salts;
    capture.rest().unwrap();
    put(&stage.application, 1, 10);
    ship(&mut capture, &mut reader).unwrap();
    assert_ne!(capture.position().salts, before, "it was restarted");
    let frames = std::fs::metadata(capture.wal_path()).unwrap().len() / (4096 + 24);
    assert!(frames > u64::from(capture.position().frame) + 10, "old frames are still behind its end");
    assert!(!capture.may_have_changed());
    assert!(ship(&mut capture, &mut reader).is_none());
    put(&stage.application, 2, 10);
    assert!(capture.may_have_changed());
    ship(&mut capture, &mut reader).unwrap();
    assert_eq!(reader.dump(), dump(&stage.application));
}

#[test]
fn checkpoints_of_ours_cause_no_batch() {
    let stage = Stage::new(4096);
    let mut capture = stage.capture(None);
    let mut reader = Reader::new(capture.page_size());
    for k in 0..40 {
        put(&stage.application, k, 3000);
    }
    while ship(&mut capture, &mut reader).is_some() {}
    for _ in 0..5 {
        assert!(capture.tend_wal(&next(&reader)).unwrap().1.is_none());
        capture.rest().unwrap();
        assert!(!capture.may_have_changed());
        assert!(ship(&mut capture, &mut reader).is_none());
    }
}

#[test]
fn a_clock_that_goes_back_does_not_take_the_history_with_it() {
    let stage = Stage::new(4096);
    let mut capture = stage.capture(None);
    let mut reader = Reader::new(capture.page_size());
    ship(&mut capture, &mut reader).unwrap();
    // The last commit was dated by a clock that was ahead.
    let ahead = Timestamp::now().after(std::time::Duration::from_hours(1));
    reader.last_commit = ahead;
    for k in 0..3 {
        put(&stage.application, k, 10);
        let batch = capture.next_batch(&NextBatch { not_before: ahead, ..next(&reader) }).unwrap().unwrap();
        reader.apply(&batch);
        assert_eq!(batch.meta().last_commit, ahead);
    }
}

#[test]
fn a_wal_that_was_deleted_at_the_last_close_while_nobody_watched_is_a_gap() {
    let mut stage = Stage::new(4096);
    let mut capture = stage.capture(None);
    let mut reader = Reader::new(capture.page_size());
    put(&stage.application, 1, 5000);
    while ship(&mut capture, &mut reader).is_some() {}
    let batch = {
        put(&stage.application, 2, 5000);
        ship(&mut capture, &mut reader).unwrap()
    };
    let known = (head(&batch, &reader), capture.map().clone());
    let wal = capture.wal_path();
    drop(capture);
    for k in 3..6 {
        put(&stage.application, k, 3000);
        let closed = std::mem::replace(&mut stage.application, Connection::open_in_memory().unwrap());
        closed.close().unwrap();
        assert!(!wal.exists(), "SQLite deletes it");
        stage.application = connect(&stage.path, 4096);
    }
    let mut capture = stage.capture(Some(known));
    let batch = ship(&mut capture, &mut reader).unwrap();
    assert_eq!(batch.wal_bytes, 0, "found by comparing");
    assert_eq!(reader.dump(), dump(&stage.application));
}

#[test]
fn an_application_cannot_leave_wal_mode_unnoticed() {
    let stage = Stage::new(4096);
    let mut capture = stage.capture(None);
    let mut reader = Reader::new(capture.page_size());
    put(&stage.application, 1, 5000);
    // While the database is held, SQLite refuses: there is another connection.
    let refused =
        stage.application.query_row("PRAGMA journal_mode=DELETE", [], |row| row.get::<_, String>(0));
    assert!(refused.is_err() || refused.unwrap() == "wal");
    put(&stage.application, 2, 5000);
    while ship(&mut capture, &mut reader).is_some() {}
    assert_eq!(reader.dump(), dump(&stage.application));
}

#[test]
fn a_database_that_shrinks_and_grows_again_is_followed() {
    let stage = Stage::new(4096); // auto_vacuum=FULL
    let mut capture = stage.capture(None);
    let mut reader = Reader::new(capture.page_size());
    let mut sizes = Vec::new();
    for round in 0..4 {
        for k in 0..60 {
            put(&stage.application, k, 4000);
        }
        ship(&mut capture, &mut reader).unwrap();
        sizes.push(reader.pages.len());
        // Pages that vanish and come back within one batch.
        stage.application.execute("DELETE FROM t WHERE k > 5", []).unwrap();
        if round % 2 == 0 {
            for k in 100..140 {
                put(&stage.application, k, 4000);
            }
        }
        ship(&mut capture, &mut reader).unwrap();
        sizes.push(reader.pages.len());
        assert_eq!(reader.dump(), dump(&stage.application));
        if round == 2 {
            stage.application.execute_batch("VACUUM").unwrap();
            ship(&mut capture, &mut reader);
            assert_eq!(reader.dump(), dump(&stage.application));
        }
    }
    assert!(sizes.windows(2).any(|pair| pair[1] * 2 < pair[0]), "{sizes:?}");
}

#[test]
fn a_long_reader_delays_the_reset_of_the_wal_and_no_more() {
    let stage = Stage::new(4096);
    let mut capture = stage.capture(None);
    let mut reader = Reader::new(capture.page_size());
    let mut write = |k: i64| {
        put(&stage.application, k % 50, 6000);
        ship(&mut capture, &mut reader);
        // A commit that comes in before every checkpoint: there never is a pause.
        put(&stage.application, k % 50 + 100, 6000);
        if let (_, Some(batch)) = capture.tend_wal(&next(&reader)).unwrap() {
            reader.apply(&batch);
        }
        std::fs::metadata(capture.wal_path()).unwrap().len()
    };
    let bounded = (0..50).map(&mut write).max().unwrap();
    for _ in 0..3 {
        let other = connect(&stage.path, 4096);
        other.execute_batch("BEGIN; SELECT count(*) FROM t").unwrap();
        let held = (0..50).map(&mut write).max().unwrap();
        assert!(held > bounded, "its snapshot is kept");
        other.execute_batch("COMMIT").unwrap();
        // SQLite never makes the file shorter: it is written from the start again.
        let after = (0..50).map(&mut write).max().unwrap();
        assert!(after <= held + bounded, "{after} {held} {bounded}");
        stage.application.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).unwrap();
    }
    while ship(&mut capture, &mut reader).is_some() {}
    assert_eq!(reader.dump(), dump(&stage.application));
}
