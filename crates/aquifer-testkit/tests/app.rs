//! The applications that other tests stand on: what they acknowledge is there, whatever happens to them.

use aquifer_testkit::app::{AppError, AppOptions, AppProcess, JournalMode, Language, Mix, check_log};

const BOTH: [Language; 2] = [Language::Rust, Language::Python];

#[test]
fn killed_application_keeps_every_acknowledged_commit() {
    for language in BOTH {
        let dir = tempfile::tempdir().unwrap();
        let db = dir.path().join("app.db");
        for round in 0..8 {
            let options = AppOptions { seed: round, mix: Mix::Hostile, ..AppOptions::default() };
            let mut app = AppProcess::start(language, &db, &options).unwrap();
            app.run().unwrap();
            app.wait_acknowledged(app.acknowledged() + 10 + round * 3).unwrap();
            let acknowledged = app.kill();
            let found = check_log(&db).unwrap();
            assert!(
                (acknowledged..=acknowledged + 1).contains(&found),
                "{language:?}: acknowledged {acknowledged}, found {found}"
            );
        }
    }
}

#[test]
fn both_applications_share_one_database() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("app.db");
    let options = AppOptions { mix: Mix::Small, ..AppOptions::default() };
    let mut rust = AppProcess::start(Language::Rust, &db, &options).unwrap();
    let mut python = AppProcess::start(Language::Python, &db, &options).unwrap();
    assert_eq!(rust.commit(5).unwrap(), 5);
    assert_eq!(python.commit(5).unwrap(), 10);
    assert_eq!(rust.commit(1).unwrap(), 11);
    assert_eq!((rust.quit().unwrap(), python.quit().unwrap()), (11, 10));
    assert_eq!(check_log(&db).unwrap(), 11);
}

#[test]
fn commands_do_what_the_protocol_says() {
    for language in BOTH {
        let dir = tempfile::tempdir().unwrap();
        let db = dir.path().join("app.db");
        let wal = dir.path().join("app.db-wal");
        let mut app = AppProcess::start(language, &db, &AppOptions::default()).unwrap();
        assert!(wal.exists());
        assert_eq!(app.sql("PRAGMA journal_mode").unwrap(), "wal");
        assert_eq!(app.sql("SELECT 1, 'two'").unwrap(), "1\ttwo");
        assert!(matches!(app.sql("SELECT nothing"), Err(AppError::Failed(m)) if m.contains("nothing")));
        app.run().unwrap();
        app.wait_acknowledged(3).unwrap();
        let stopped = app.stop().unwrap();
        assert_eq!(check_log(&db).unwrap(), stopped);
        app.close().unwrap();
        assert!(!wal.exists(), "{language:?}: the last close deletes the WAL");
        app.open().unwrap();
        assert_eq!(app.commit(2).unwrap(), stopped + 2);
        app.quit().unwrap();
        let options = AppOptions { journal_mode: JournalMode::Delete, ..AppOptions::default() };
        let mut again = AppProcess::start(language, &db, &options).unwrap();
        assert_eq!(again.acknowledged(), stopped + 2);
        assert_eq!(again.sql("PRAGMA journal_mode").unwrap(), "delete");
    }
}

#[test]
fn lock_held_for_longer_than_the_busy_timeout_is_reported_and_survived() {
    for language in BOTH {
        let dir = tempfile::tempdir().unwrap();
        let db = dir.path().join("app.db");
        let options = AppOptions { busy_timeout_ms: 1, ..AppOptions::default() };
        let mut app = AppProcess::start(language, &db, &options).unwrap();
        let holder = rusqlite::Connection::open(&db).unwrap();
        holder.execute_batch("BEGIN IMMEDIATE").unwrap();
        app.run().unwrap();
        while app.busy() == 0 {
            std::thread::yield_now();
        }
        assert_eq!(app.acknowledged(), 0);
        holder.execute_batch("ROLLBACK").unwrap();
        assert!(app.wait_acknowledged(1).unwrap() >= 1);
    }
}
