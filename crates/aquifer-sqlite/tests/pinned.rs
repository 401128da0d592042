//! A pinned database hands out every committed page, whatever the application does to its WAL.
#![allow(clippy::unwrap_used, reason = "a test that cannot set the stage should fail")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use aquifer_format::Pgno;
use aquifer_sqlite::{Continuity, Error, Handle, PinnedDatabase, View};
use rusqlite::Connection;
use tempfile::TempDir;

struct Application {
    _dir: TempDir,
    path: PathBuf,
    connection: Connection,
}

fn application() -> Application {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("app.db");
    let connection = connect(&path);
    connection.execute_batch("CREATE TABLE t(k INTEGER PRIMARY KEY, v BLOB)").unwrap();
    Application { _dir: dir, path, connection }
}

fn connect(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection
        .execute_batch("PRAGMA page_size=1024; PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA busy_timeout=0")
        .unwrap();
    connection
}

/// The image that a replica would have: pages as handed out.
#[derive(Default)]
struct Replica {
    pages: BTreeMap<u32, Vec<u8>>,
}

impl Replica {
    /// Everything at the pin.
    fn of(database: &PinnedDatabase) -> Replica {
        let mut replica = Replica::default();
        for pgno in Pgno::up_to(database.pages().unwrap()) {
            let mut page = vec![0; database.page_size().bytes()];
            let page = database.read_old(pgno, &mut page).unwrap().to_vec();
            replica.pages.insert(pgno.get(), page);
        }
        replica
    }

    /// Takes what is new, checking that what was old is still readable as it was.
    fn catch_up(&mut self, database: &mut PinnedDatabase) -> u64 {
        let Some(advance) = database.look().unwrap() else { return 0 };
        let commits = advance.commits;
        for at in 0..advance.changed.len() {
            let pgno = advance.changed[at].0;
            if let Some(old) = self.pages.get(&pgno.get()) {
                let mut page = vec![0; old.len()];
                assert_eq!(database.read_old(pgno, &mut page).unwrap(), old, "old content of page {pgno}");
            }
            let mut page = vec![0; database.page_size().bytes()];
            let new = database.read_new(&advance, at, &mut page).unwrap().to_vec();
            self.pages.insert(pgno.get(), new);
        }
        self.pages.retain(|&pgno, _| pgno <= advance.pages);
        database.accept(advance).unwrap();
        commits
    }

    fn dump(&self) -> String {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("replica.db");
        let mut bytes = Vec::new();
        for (&pgno, page) in &self.pages {
            bytes.resize((pgno as usize - 1) * page.len(), 0);
            bytes.extend_from_slice(page);
        }
        std::fs::write(&path, bytes).unwrap();
        dump(&Connection::open(&path).unwrap())
    }
}

fn dump(connection: &Connection) -> String {
    let check: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    let rows: Vec<String> = connection
        .prepare("SELECT k, hex(v) FROM t ORDER BY k")
        .unwrap()
        .query_map([], |row| Ok(format!("{}={}", row.get::<_, i64>(0)?, row.get::<_, String>(1)?)))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    format!("{check}\n{}", rows.join("\n"))
}

fn put(connection: &Connection, k: i64, bytes: usize) {
    connection
        .execute("INSERT OR REPLACE INTO t VALUES(?, randomblob(?))", rusqlite::params![k, bytes as i64])
        .unwrap();
}

#[test]
fn a_writer_cannot_reset_the_wal_under_a_pin() {
    let app = application();
    put(&app.connection, 1, 100);
    let (mut database, _) = PinnedDatabase::open(&app.path, None).unwrap();
    let mut replica = Replica::of(&database);
    for k in 0..50 {
        put(&app.connection, k, 3000);
        // What an application's own checkpoints do, at each commit; with nobody looking, the next write would
        // overwrite the frames.
        app.connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).unwrap();
    }
    assert_eq!(replica.catch_up(&mut database), 50);
    assert_eq!(replica.dump(), dump(&app.connection));
}

#[test]
fn a_pin_on_a_fully_copied_wal_lets_it_be_reset_and_still_sees_everything() {
    let app = application();
    put(&app.connection, 1, 9000);
    let (mut database, _) = PinnedDatabase::open(&app.path, None).unwrap();
    let mut replica = Replica::of(&database);
    let before = *database.position();
    assert!(database.checkpoint().unwrap().is_complete());
    assert!(database.let_go().unwrap());
    for k in 0..20 {
        put(&app.connection, k, 5000);
        app.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    }
    assert_eq!(replica.catch_up(&mut database), 20);
    assert_ne!(database.position().salts, before.salts, "the WAL was reset, or this test shows nothing");
    assert_eq!(replica.dump(), dump(&app.connection));
}

#[test]
fn a_truncate_checkpoint_succeeds_between_two_looks() {
    let app = application();
    let (mut database, _) = PinnedDatabase::open(&app.path, None).unwrap();
    let mut replica = Replica::of(&database);
    for k in 0..10 {
        put(&app.connection, k, 2000);
        replica.catch_up(&mut database);
        database.checkpoint().unwrap();
        assert!(database.let_go().unwrap());
        let busy: i64 =
            app.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0)).unwrap();
        assert_eq!(busy, 0);
    }
    replica.catch_up(&mut database);
    assert_eq!(replica.dump(), dump(&app.connection));
}

#[test]
fn vacuum_and_shrinking_are_followed() {
    let app = application();
    for k in 0..200 {
        put(&app.connection, k, 2000);
    }
    let (mut database, _) = PinnedDatabase::open(&app.path, None).unwrap();
    let mut replica = Replica::of(&database);
    app.connection.execute_batch("DELETE FROM t WHERE k % 3 != 0").unwrap();
    replica.catch_up(&mut database);
    let before = replica.pages.len();
    app.connection.execute_batch("VACUUM").unwrap();
    replica.catch_up(&mut database);
    assert!(replica.pages.len() < before);
    assert_eq!(replica.dump(), dump(&app.connection));
}

#[test]
fn holding_checkpoints_makes_automatic_ones_free_and_explicit_ones_busy_at_once() {
    let app = application();
    app.connection.execute_batch("PRAGMA wal_autocheckpoint=1").unwrap();
    let (mut database, _) = PinnedDatabase::open(&app.path, None).unwrap();
    let mut replica = Replica::of(&database);
    assert!(database.hold_checkpoints().unwrap());
    for k in 0..20 {
        put(&app.connection, k, 2000);
        replica.catch_up(&mut database);
    }
    let backfill = database.backfill().unwrap();
    assert_eq!(backfill.backfilled, 0, "the application's automatic checkpoints did nothing");
    let busy: i64 = app.connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get(0)).unwrap();
    assert_eq!(busy, 1);
    // Ours works, and keeps the hold.
    assert!(database.checkpoint().unwrap().is_complete());
    let busy: i64 = app.connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get(0)).unwrap();
    assert_eq!(busy, 1);
    database.release_checkpoints();
    let busy: i64 = app.connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get(0)).unwrap();
    assert_eq!(busy, 0);
}

#[test]
fn a_checkpoint_of_ours_leaves_no_gap_in_which_another_gets_in() {
    let app = application();
    let (mut database, _) = PinnedDatabase::open(&app.path, None).unwrap();
    put(&app.connection, 1, 10);
    let mut replica = Replica::of(&database);
    replica.catch_up(&mut database);
    assert!(database.hold_checkpoints().unwrap());
    let done = AtomicBool::new(false);
    let passive = |connection: &Connection| -> i64 {
        connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get(0)).unwrap()
    };
    std::thread::scope(|scope| {
        let (path, done) = (&app.path, &done);
        let attempts = scope.spawn(move || {
            let other = connect(path);
            let mut attempts = 0;
            while !done.load(Ordering::Relaxed) || attempts == 0 {
                assert_eq!(passive(&other), 1, "another connection checkpointed, in attempt {attempts}");
                attempts += 1;
            }
            attempts
        });
        for k in 0..300 {
            put(&app.connection, k, 2000);
            replica.catch_up(&mut database);
            assert!(database.checkpoint().unwrap().is_complete());
        }
        done.store(true, Ordering::Relaxed);
        assert!(attempts.join().unwrap() > 0);
    });
    database.release_checkpoints();
    assert_eq!(passive(&connect(&app.path)), 0, "given back");
}

#[test]
fn a_dropped_handle_leaves_no_lock_behind() {
    let app = application();
    let (mut database, _) = PinnedDatabase::open(&app.path, None).unwrap();
    assert!(database.hold_checkpoints().unwrap());
    assert!(database.try_freeze().unwrap());
    assert!(app.connection.execute("DELETE FROM t", []).is_err(), "writers are kept out");
    drop(database);
    put(&app.connection, 1, 10);
    let busy: i64 =
        app.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0)).unwrap();
    assert_eq!(busy, 0);
}

#[test]
fn the_wal_can_be_reset_under_a_writer_that_never_pauses() {
    let app = application();
    let (mut database, _) = PinnedDatabase::open(&app.path, None).unwrap();
    let mut replica = Replica::of(&database);
    for k in 0..50 {
        put(&app.connection, k, 2000);
        replica.catch_up(&mut database);
    }
    let salts = database.position().salts;
    database.checkpoint().unwrap();
    // A commit that comes in while we checkpoint.
    put(&app.connection, 51, 2000);
    database.sync().unwrap();
    assert!(database.try_freeze().unwrap());
    replica.catch_up(&mut database);
    assert!(database.checkpoint().unwrap().is_complete());
    assert!(database.let_go().unwrap());
    database.thaw();
    put(&app.connection, 52, 2000);
    assert_eq!(replica.catch_up(&mut database), 1);
    assert_ne!(database.position().salts, salts);
    assert!(database.position().frame < 10);
    assert_eq!(replica.dump(), dump(&app.connection));
}

#[test]
fn continuity_is_proven_only_where_the_same_frames_are_still_there() {
    let app = application();
    put(&app.connection, 1, 2000);
    let (database, continuity) = PinnedDatabase::open(&app.path, None).unwrap();
    assert!(matches!(continuity, Continuity::Broken(_)));
    let mut replica = Replica::of(&database);
    let remembered = *database.position();
    drop(database);

    put(&app.connection, 2, 2000);
    let (mut database, continuity) = PinnedDatabase::open(&app.path, Some(&remembered)).unwrap();
    assert_eq!(continuity, Continuity::Proven);
    assert_eq!(replica.catch_up(&mut database), 1);
    assert_eq!(replica.dump(), dump(&app.connection));
    let remembered = *database.position();
    drop(database);

    app.connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())).unwrap();
    put(&app.connection, 3, 2000);
    let (_, continuity) = PinnedDatabase::open(&app.path, Some(&remembered)).unwrap();
    assert!(matches!(continuity, Continuity::Broken(_)), "{continuity:?}");
}

#[test]
fn a_forged_place_in_the_same_wal_is_not_believed() {
    let app = application();
    put(&app.connection, 1, 2000);
    put(&app.connection, 2, 2000);
    let (database, _) = PinnedDatabase::open(&app.path, None).unwrap();
    let mut remembered = *database.position();
    drop(database);
    remembered.checksum.s0 ^= 1;
    let (_, continuity) = PinnedDatabase::open(&app.path, Some(&remembered)).unwrap();
    assert!(matches!(continuity, Continuity::Broken(_)), "{continuity:?}");
}

#[test]
fn a_rollback_journal_database_is_refused_until_switched() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("app.db");
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE t(k)").unwrap();
    let error = PinnedDatabase::open(&path, None).unwrap_err();
    assert!(matches!(error, Error::NotWal(_)), "{error}");
    assert!(error.to_string().contains("--wal"));
    Handle::switch_to_wal(&path).unwrap();
    PinnedDatabase::open(&path, None).unwrap();
}

#[test]
fn a_replaced_database_is_noticed() {
    let app = application();
    put(&app.connection, 1, 2000);
    let (database, _) = PinnedDatabase::open(&app.path, None).unwrap();
    assert!(!database.was_replaced());
    let other = app.path.with_extension("new");
    connect(&other).execute_batch("CREATE TABLE t(k)").unwrap();
    std::fs::rename(&other, &app.path).unwrap();
    assert!(database.was_replaced());
}

#[test]
fn something_that_is_no_database_is_named() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("app.db");
    assert!(matches!(PinnedDatabase::open(&path, None).unwrap_err(), Error::Missing(_)));
    std::fs::write(&path, b"").unwrap();
    assert!(matches!(PinnedDatabase::open(&path, None).unwrap_err(), Error::Empty(_)));
    std::fs::write(&path, vec![7; 8192]).unwrap();
    assert!(matches!(PinnedDatabase::open(&path, None).unwrap_err(), Error::NotADatabase(_)));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 100, ..Default::default() })]

    /// Whatever the application does, and whenever we look, the pages handed out are the database.
    #[test]
    fn any_schedule_of_writes_checkpoints_and_looks_hands_out_everything(
        steps in proptest::collection::vec((0u8..13, 0i64..40, 1usize..4000), 1..80)
    ) {
        let app = application();
        let (mut database, _) = PinnedDatabase::open(&app.path, None).unwrap();
        let mut replica = Replica::of(&database);
        for (step, k, bytes) in steps {
            match step {
                0..=3 => put(&app.connection, k, bytes),
                4 => { app.connection.execute("DELETE FROM t WHERE k >= ?", [k]).unwrap(); }
                5 => { let _ = app.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())); }
                6 => { let _ = app.connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())); }
                7 => { let _ = database.checkpoint().unwrap(); }
                10 => { let _ = database.let_go().unwrap(); }
                11 => { let _ = app.connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())); }
                12 => {
                    // The image at the pin can be read at any time.
                    let now = Replica::of(&database);
                    proptest::prop_assert_eq!(&now.pages, &replica.pages);
                }
                8 => { let _ = app.connection.execute_batch("VACUUM"); }
                _ => { replica.catch_up(&mut database); }
            }
        }
        replica.catch_up(&mut database);
        proptest::prop_assert_eq!(replica.dump(), dump(&app.connection));
    }
}

/// Views are what was handed out when they were taken, through everything that the application, capture and checkpoints
/// do afterwards.
#[test]
fn a_view_stays_what_it_was() {
    let mut taken = 0;
    for seed in 1..=40u64 {
        let app = application();
        let (mut database, _) = PinnedDatabase::open(&app.path, None).unwrap();
        let mut replica = Replica::of(&database);
        let mut views: Vec<(View, BTreeMap<u32, Vec<u8>>)> = Vec::new();
        let mut random = seed;
        for _ in 0..120 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (what, which) = ((random >> 33) % 12, (random >> 45) % 40);
            match what {
                0..=2 => put(&app.connection, which as i64, 1500),
                3 => drop(app.connection.execute("DELETE FROM t WHERE k < ?", [which as i64]).unwrap()),
                4 => drop(app.connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")),
                5 => drop(app.connection.execute_batch("VACUUM")),
                6 | 7 => drop(replica.catch_up(&mut database)),
                8 => drop(database.checkpoint()),
                9 => drop(database.let_go().unwrap()),
                10 if !views.is_empty() => drop(views.remove(which as usize % views.len())),
                _ if views.len() < 4 => {
                    let view = database.view().unwrap().or_else(|| {
                        // Only where something came after the pin; then it is there after a look.
                        assert!(replica.catch_up(&mut database) > 0 || database.position().frame == 0);
                        database.view().unwrap()
                    });
                    let view = view.expect("nobody has written since the look");
                    taken += 1;
                    views.push((view, replica.pages.clone()));
                }
                _ => {}
            }
            for (view, expected) in &mut views {
                assert_eq!(view.pages() as usize, expected.len(), "seed {seed}");
                let mut page = vec![0; view.page_size().bytes()];
                for (pgno, content) in expected {
                    view.read(Pgno::new(*pgno).unwrap(), &mut page).unwrap();
                    assert!(page == *content, "seed {seed}, page {pgno}");
                }
            }
        }
    }
    assert!(taken > 200, "{taken}");
}
