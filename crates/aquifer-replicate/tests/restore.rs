//! Restore: every revision comes back exactly, or an error says why and nothing is left behind.

#![allow(clippy::unwrap_used, reason = "tests")]

mod history;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::task::Poll;

use aquifer_format::{PageSize, Pgno, Txid};
use aquifer_log::store::{Store, StoreUrl};
use aquifer_log::{Plan, Target};
use aquifer_replicate::restore::{
    Existing, Installed, Outcome, Phase, Progress, RestoreError, Restored, Restorer, read_page,
};
use aquifer_testkit::s3_server::{Conditions, HttpFault, S3Server};
use history::{History, commit_time};
use rusqlite::Connection;
use tempfile::TempDir;

/// A history with growth, updates, shrinking and growth again, of a database that SQLite made.
async fn lived(store: &Store, dir: &Path) -> History {
    let mut history = History::begin(store, PageSize::DEFAULT).await;
    let path = dir.join("source.db");
    let source = Connection::open(&path).unwrap();
    source
        .execute_batch(
            "PRAGMA page_size=4096; PRAGMA auto_vacuum=FULL;
             CREATE TABLE t(id INTEGER PRIMARY KEY, body BLOB); CREATE INDEX i ON t(body);
             CREATE VIEW n(i) AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n LIMIT 400) SELECT i FROM n;",
        )
        .unwrap();
    history.commit_file(&path).await;
    for sql in [
        "INSERT INTO t(body) SELECT randomblob(500) FROM n",
        "UPDATE t SET body = randomblob(500) WHERE id % 7 = 0",
        "INSERT INTO t(body) SELECT zeroblob(20000) FROM n WHERE i < 20",
        "DELETE FROM t WHERE id > 100",
        "UPDATE t SET body = randomblob(90) WHERE id = 5",
        "INSERT INTO t(body) SELECT randomblob(2000) FROM n WHERE i < 100",
        "DROP TABLE t",
        "CREATE TABLE u(x); INSERT INTO u SELECT randomblob(3000) FROM n WHERE i < 50",
    ] {
        source.execute_batch(sql).unwrap();
        history.commit_file(&path).await;
    }
    history
}

/// Bytes that nothing compresses, the same for the same seed.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let words = std::iter::repeat_with(|| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^ (mixed >> 27)
    });
    words.flat_map(u64::to_le_bytes).take(len).collect()
}

fn directory(path: &Path) -> Store {
    Store::open(&StoreUrl::directory(path)).unwrap()
}

/// A store, and a directory to restore into.
struct Place {
    dir: TempDir,
    store: Store,
}

impl Place {
    fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("out")).unwrap();
        let store = directory(&dir.path().join("store"));
        Place { dir, store }
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    fn target(&self) -> PathBuf {
        self.out().join("copy.db")
    }

    fn restorer(&self) -> Restorer {
        Restorer::new(self.store.clone(), History::name(), self.target())
    }

    /// Names in the directory of the target, sorted.
    fn files(&self) -> Vec<String> {
        names(&self.out())
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

async fn restored(restorer: Restorer) -> Restored {
    restorer.restore().await.unwrap().restored().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_txid_restores_byte_for_byte() {
    let place = Place::new();
    let history = lived(&place.store, place.dir.path()).await;
    // With level 0 alone, then also with compactions and snapshots to choose from.
    for round in 0..2 {
        if round == 1 {
            history.compact(Txid::new(2), Txid::new(4)).await;
            history.compact(Txid::new(5), Txid::new(8)).await;
            history.snapshot(Txid::new(3)).await;
        }
        for txid in 1..=history.head().get() {
            let txid = Txid::new(txid);
            let restorer = place.restorer().target(Target::Txid(txid)).existing(Existing::Replace);
            let result = restored(restorer.integrity_check(true)).await;
            assert_eq!(result.revision.txid, txid);
            assert_eq!(result.last_commit, commit_time(txid));
            assert!(fs::read(place.target()).unwrap() == history.image(txid), "{txid}");
            assert_eq!(place.files(), ["copy.db"]);
        }
    }
    let latest = restored(place.restorer().existing(Existing::Replace)).await;
    assert_eq!(latest.revision.txid, history.head());
    let moment = Target::Timestamp(commit_time(Txid::new(4)));
    let then = restored(place.restorer().existing(Existing::Replace).target(moment)).await;
    assert_eq!(then.revision.txid, Txid::new(4));
}

#[tokio::test(flavor = "multi_thread")]
async fn any_page_of_any_txid_is_read_by_itself() {
    let place = Place::new();
    let history = lived(&place.store, place.dir.path()).await;
    history.compact(Txid::new(2), Txid::new(4)).await;
    history.snapshot(Txid::new(3)).await;
    for txid in (1..=history.head().get()).map(Txid::new) {
        let plan = Plan::make(&history.database, None, Target::Txid(txid)).await.unwrap();
        let image = history.image(txid).chunks_exact(4096);
        let last = Pgno::new(image.len() as u32 + 1).unwrap();
        for (pgno, page) in Pgno::up_to(last.get()).zip(image.map(Some).chain([None])) {
            let read = read_page(&place.store, &plan, pgno).await.unwrap();
            assert!(read.as_deref() == page, "page {pgno} of txid {txid}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_fails_now_and_then_restores_all_the_same() {
    let place = Place::new();
    let server = S3Server::start(Conditions::Honoured).await;
    let url = server.url("some/prefix").parse().unwrap();
    let store = Store::open_with_environment(&url, server.environment()).unwrap();
    let mut history = History::begin(&store, PageSize::DEFAULT).await;
    history.commit(noise(1, 2000 * 4096)).await;
    for n in 0..6 {
        let mut image = history.image(history.head()).to_vec();
        image[n * 999_983..][..300].copy_from_slice(&noise(n as u64, 300));
        history.commit(image).await;
    }
    let mut requests = 0;
    server.set_faults(move |_| {
        requests += 1;
        (requests % 5 == 0).then_some(HttpFault::Answer(503, "SlowDown"))
    });
    let result = restored(Restorer::new(store.clone(), History::name(), place.target())).await;
    assert!(store.counts().retries > 0);
    assert!(fs::read(place.target()).unwrap() == history.image(history.head()));
    assert!(result.requests < 60, "{}", result.requests);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_larger_than_the_memory_limit_are_restored_window_by_window() {
    let place = Place::new();
    let mut history = History::begin(&place.store, PageSize::DEFAULT).await;
    let len = 3000 * 4096;
    history.commit(noise(1, len)).await;
    // The last half of every page changes, then all of some pages while the database grows, then it shrinks.
    let mut image = noise(1, len);
    for (page, half) in image.chunks_exact_mut(4096).zip(noise(2, len / 2).chunks_exact(2048)) {
        page[2048..].copy_from_slice(half);
    }
    history.commit(image.clone()).await;
    image.extend(noise(3, 1000 * 4096));
    image[..len / 3].copy_from_slice(&noise(4, len / 3));
    history.commit(image.clone()).await;
    image.truncate(len);
    history.commit(image.clone()).await;

    // Raised to 16 MiB, of which half is for the 10 MiB of changes.
    let folds = Arc::new(Mutex::new(Vec::new()));
    let listener = Arc::clone(&folds);
    let restorer = place.restorer().memory_limit(0).progress(move |progress| {
        let mut phases = listener.lock().unwrap();
        if phases.last() != Some(&progress.phase) {
            phases.push(progress.phase);
        }
    });
    let result = restored(restorer).await;
    assert!(fs::read(place.target()).unwrap() == image);
    let windows = folds.lock().unwrap().iter().filter(|phase| **phase == Phase::Fold).count();
    assert!(windows > 1, "one window");
    let once = restored(place.restorer().existing(Existing::Replace)).await.bytes_fetched;
    assert!(result.bytes_fetched < once * 3 / 2, "{} instead of {once}", result.bytes_fetched);
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_anywhere_is_an_error_that_names_the_object_and_leaves_nothing() {
    let place = Place::new();
    let history = lived(&place.store, place.dir.path()).await;
    let segments = place.dir.path().join("store/app.db").join(history.generation.to_string()).join("0");
    for name in names(&segments) {
        let path = segments.join(&name);
        // Of a later revision, damaged parts may be what nobody needs any more.
        let txid = Target::Txid(Txid::from_hex(&name[..16]).unwrap());
        let whole = fs::read(&path).unwrap();
        // The start of the object (a reader of ranges need not look at it), the first group, the middle, the end.
        for at in [20, 60, whole.len() / 2, whole.len() - 100, whole.len() - 1] {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x40;
            fs::write(&path, &damaged).unwrap();
            let result = place.restorer().target(txid).restore().await;
            let Err(error) = result else { panic!("byte {at} of {} in {name}", whole.len()) };
            assert!(error.to_string().contains(&name), "byte {at} of {name}: {error}");
            assert_eq!(place.files(), Vec::<String>::new());
        }
        fs::remove_file(&path).unwrap();
        place.restorer().target(txid).restore().await.unwrap_err();
        assert_eq!(place.files(), Vec::<String>::new());
        fs::write(&path, &whole).unwrap();
    }
    restored(place.restorer()).await;
}

#[tokio::test]
async fn an_existing_target_is_kept_or_refused_as_asked() {
    let place = Place::new();
    lived(&place.store, place.dir.path()).await;
    fs::write(place.target(), "mine").unwrap();
    let error = place.restorer().restore().await.unwrap_err();
    assert!(matches!(error, RestoreError::TargetExists(_)), "{error}");
    assert!(error.to_string().contains("--force") && error.to_string().contains("--if-not-exists"));
    let requests = place.store.counts().total();
    assert_eq!(place.restorer().existing(Existing::Keep).restore().await.unwrap(), Outcome::Kept);
    assert_eq!(place.store.counts().total(), requests, "looking at the target needs no request");
    assert_eq!(fs::read(place.target()).unwrap(), b"mine");
    assert_eq!(place.files(), ["copy.db"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_at_the_target_is_set_aside_each_time_unless_it_is_the_same() {
    let place = Place::new();
    let history = lived(&place.store, place.dir.path()).await;
    let at = |txid: u64| {
        place.restorer().target(Target::Txid(Txid::new(txid))).existing(Existing::SetAside(".old"))
    };
    assert_eq!(restored(at(2)).await.installed, Installed::New);
    assert_eq!(restored(at(2)).await.installed, Installed::Same);
    assert_eq!(place.files(), ["copy.db"]);
    let aside = |number: &str| place.out().join(format!("copy.db.old{number}"));
    assert_eq!(restored(at(3)).await.installed, Installed::SetAside(aside("")));
    assert_eq!(restored(at(2)).await.installed, Installed::SetAside(aside(".2")));
    assert_eq!(place.files(), ["copy.db", "copy.db.old", "copy.db.old.2"]);
    let is = |path: PathBuf, txid: u64| fs::read(path).unwrap() == history.image(Txid::new(txid));
    assert!(is(place.target(), 2) && is(aside(""), 2) && is(aside(".2"), 3));
}

#[tokio::test]
async fn an_impossible_target_is_refused_before_anything_is_fetched() {
    let place = Place::new();
    lived(&place.store, place.dir.path()).await;
    let requests = place.store.counts().total();
    for path in [place.out(), place.out().join("none/copy.db"), PathBuf::from("/")] {
        let restorer = Restorer::new(place.store.clone(), History::name(), &path);
        let error = restorer.existing(Existing::Replace).restore().await.unwrap_err();
        assert!(matches!(error, RestoreError::BadTarget { .. }), "{error}");
    }
    assert_eq!(place.store.counts().total(), requests);
}

/// An old database whose last commit is only in its WAL, as after a kill.
fn killed_database(path: &Path) {
    let dir = tempfile::tempdir().unwrap();
    let old = dir.path().join("old.db");
    let connection = Connection::open(&old).unwrap();
    connection
        .execute_batch(
            "PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; CREATE TABLE old(x);
             INSERT INTO old VALUES (randomblob(9000)); PRAGMA wal_checkpoint; INSERT INTO old VALUES (1);",
        )
        .unwrap();
    fs::copy(&old, path).unwrap();
    for suffix in ["-wal", "-shm"] {
        let name = |path: &Path| PathBuf::from(format!("{}{suffix}", path.display()));
        fs::copy(name(&old), name(path)).unwrap();
    }
}

#[tokio::test]
async fn the_wal_of_what_was_replaced_is_never_played_into_the_new_file() {
    let place = Place::new();
    let history = lived(&place.store, place.dir.path()).await;
    killed_database(&place.target());
    restored(place.restorer().existing(Existing::Replace)).await;
    assert!(fs::read(place.target()).unwrap() == history.image(history.head()));
    assert_eq!(place.files(), ["copy.db"]);

    // The database was deleted by hand, and its WAL was left.
    killed_database(&place.target());
    fs::remove_file(place.target()).unwrap();
    fs::write(place.out().join("copy.db-journal"), "stale").unwrap();
    restored(place.restorer()).await;
    assert_eq!(place.files(), ["copy.db"]);
    let connection = Connection::open(place.target()).unwrap();
    assert_eq!(connection.query_row("SELECT count(*) FROM u", [], |r| r.get::<_, i64>(0)).unwrap(), 49);
}

#[tokio::test]
async fn a_restore_that_fails_leaves_the_old_database_with_all_its_commits() {
    let place = Place::new();
    let history = lived(&place.store, place.dir.path()).await;
    let key =
        history.database.layout().segment(history.generation, aquifer_log::SegmentKey::shipped(Txid::new(7)));
    killed_database(&place.target());
    place.store.put(&key, "damaged").await.unwrap();
    place.restorer().existing(Existing::Replace).restore().await.unwrap_err();
    let old = Connection::open(place.target()).unwrap();
    assert_eq!(old.query_row("SELECT count(*) FROM old", [], |r| r.get::<_, i64>(0)).unwrap(), 2);
}

#[tokio::test]
async fn a_target_in_use_is_not_replaced() {
    let place = Place::new();
    lived(&place.store, place.dir.path()).await;
    killed_database(&place.target());
    let user = Connection::open(place.target()).unwrap();
    let count = || user.query_row("SELECT count(*) FROM old", [], |r| r.get::<_, i64>(0)).unwrap();
    assert_eq!(count(), 2);
    let error = place.restorer().existing(Existing::Replace).restore().await.unwrap_err();
    assert!(matches!(error, RestoreError::TargetInUse { .. }), "{error}");
    assert_eq!(count(), 2);
}

#[tokio::test]
async fn a_link_is_followed_and_permissions_are_kept() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    let history = lived(&place.store, place.dir.path()).await;
    let real = place.dir.path().join("real.db");
    fs::write(&real, "").unwrap();
    fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::symlink(&real, place.target()).unwrap();
    restored(place.restorer().existing(Existing::Replace)).await;
    assert!(fs::symlink_metadata(place.target()).unwrap().is_symlink());
    assert!(fs::read(&real).unwrap() == history.image(history.head()));
    assert_eq!(fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o640);
}

#[tokio::test]
async fn what_a_killed_restore_left_is_swept_and_what_runs_is_not() {
    let place = Place::new();
    lived(&place.store, place.dir.path()).await;
    let left = |n: u8| place.out().join(format!(".copy.db-aquifer-restore-{n:032x}"));
    fs::write(left(1), "of a killed one").unwrap();
    fs::write(left(2), "of a running one").unwrap();
    let running = fs::File::open(left(2)).unwrap();
    running.try_lock().unwrap();
    fs::write(place.out().join(".copy.db-aquifer-restore-notes"), "not ours").unwrap();
    restored(place.restorer()).await;
    let running = left(2).file_name().unwrap().to_str().unwrap().to_owned();
    assert_eq!(place.files(), [running.as_str(), ".copy.db-aquifer-restore-notes", "copy.db"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_goes_forward_through_the_phases_to_the_end() {
    let place = Place::new();
    let history = lived(&place.store, place.dir.path()).await;
    let seen: Arc<Mutex<Vec<Progress>>> = Arc::default();
    let listener = Arc::clone(&seen);
    let restorer = place.restorer().integrity_check(true);
    let result = restored(restorer.progress(move |progress| listener.lock().unwrap().push(progress))).await;
    let seen = seen.lock().unwrap();
    assert!(seen.is_sorted_by_key(|p| (p.phase, p.bytes_done, p.pages_done)), "{seen:?}");
    let phases: Vec<_> = seen.chunk_by(|a, b| a.phase == b.phase).map(|same| same[0].phase).collect();
    let all = [Phase::Plan, Phase::Fold, Phase::Write, Phase::Sync, Phase::Check, Phase::Install];
    assert_eq!(phases, all);
    let last = seen.last().unwrap();
    let pages = history.image(history.head()).len() as u64 / 4096;
    assert_eq!((last.pages_done, last.pages_total), (pages, pages));
    assert!(
        last.bytes_done > 0 && last.bytes_done == result.bytes_fetched && last.bytes_done <= last.bytes_total
    );
    assert!(result.requests > 0);
}

#[test]
fn a_dropped_restore_leaves_nothing() {
    let place = Place::new();
    let mut polls = 0;
    // Dropped at each await in turn, until it gets to its end.
    loop {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let ended = runtime.block_on(async {
            if polls == 0 {
                lived(&place.store, place.dir.path()).await;
            }
            let mut restore = std::pin::pin!(place.restorer().existing(Existing::Replace).restore());
            let mut left = polls;
            std::future::poll_fn(|cx| match restore.as_mut().poll(cx) {
                Poll::Ready(result) => Poll::Ready(Some(result)),
                Poll::Pending if left == 0 => Poll::Ready(None),
                Poll::Pending => {
                    left -= 1;
                    Poll::Pending
                }
            })
            .await
        });
        polls += 1;
        // Waits for what threads were doing.
        drop(runtime);
        if let Some(result) = ended {
            result.unwrap();
            break;
        }
        assert!(place.files().iter().all(|name| name == "copy.db"), "{:?}", place.files());
    }
    assert!(polls > 3, "{polls}");
    assert_eq!(place.files(), ["copy.db"]);
}

#[tokio::test]
async fn a_killed_restore_leaves_the_old_database_or_the_new_one_whole() {
    let place = Place::new();
    let history = lived(&place.store, place.dir.path()).await;
    let new = history.image(history.head());
    killed_database(&place.target());
    let start = || {
        std::process::Command::new(history::example("restore"))
            .arg(place.dir.path().join("store"))
            .arg("app.db")
            .arg(place.target())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap()
    };
    // How long a whole one takes. Kills come later and later until one is too late, then again from earlier on: they
    // fall into all of it, and often around the switch.
    let began = std::time::Instant::now();
    assert!(start().wait().unwrap().success());
    let whole = began.elapsed();
    let (mut kept, mut replaced) = (0, 0);
    let mut delay = std::time::Duration::ZERO;
    for _ in 0..60 {
        for file in place.files().iter().filter(|name| name.starts_with("copy.db")) {
            fs::remove_file(place.out().join(file)).unwrap();
        }
        killed_database(&place.target());
        let mut restore = start();
        std::thread::sleep(delay);
        restore.kill().unwrap();
        restore.wait().unwrap();
        if fs::read(place.target()).unwrap() == new {
            replaced += 1;
            delay = delay * 3 / 4;
            assert!(
                !place.out().join("copy.db-wal").exists(),
                "a WAL of the old database beside the new one"
            );
        } else {
            kept += 1;
            delay += whole / 16;
            let old = Connection::open(place.target()).unwrap();
            assert_eq!(old.query_row("SELECT count(*) FROM old", [], |r| r.get::<_, i64>(0)).unwrap(), 2);
        }
    }
    assert!(kept > 0 && replaced > 0, "{kept} kept, {replaced} replaced: the kills miss what they are for");
    assert!(start().wait().unwrap().success());
    assert_eq!(place.files(), ["copy.db"]);
}
