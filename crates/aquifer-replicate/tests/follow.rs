//! Follow: a standby goes from revision to revision under its readers, whatever happens to it.

#![allow(clippy::unwrap_used, reason = "tests")]

mod history;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aquifer_format::{PageSize, Txid};
use aquifer_log::store::{Store, StoreUrl};
use aquifer_replicate::follow::{FollowBuilder, FollowError, Followed, Follower};
use aquifer_replicate::restore::{Existing, RestoreError};
use history::History;
use rusqlite::Connection;
use tempfile::TempDir;

/// An application whose every transaction keeps two sums equal, and its history in a store.
struct Scene {
    dir: TempDir,
    store: Store,
    source: Connection,
    history: History,
}

impl Scene {
    async fn new() -> Scene {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&StoreUrl::directory(dir.path().join("store"))).unwrap();
        let source = Connection::open(dir.path().join("source.db")).unwrap();
        source
            .execute_batch(
                "PRAGMA auto_vacuum=FULL; PRAGMA journal_mode=WAL; CREATE TABLE a(n, body); CREATE TABLE b(n);
                 CREATE VIEW i(n) AS WITH RECURSIVE i(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM i LIMIT 300) SELECT n FROM i;",
            )
            .unwrap();
        let history = History::begin(&store, PageSize::DEFAULT).await;
        let mut scene = Scene { dir, store, source, history };
        scene.commit("INSERT INTO a VALUES (0, ''); INSERT INTO b VALUES (0)").await;
        scene
    }

    /// Ships what the source is after a transaction.
    async fn commit(&mut self, sql: &str) {
        self.source.execute_batch(&format!("BEGIN; {sql}; COMMIT; PRAGMA wal_checkpoint(TRUNCATE)")).unwrap();
        self.history.commit_file(&self.dir.path().join("source.db")).await;
    }

    /// Transaction `n` of a life with growth, change, shrinking and changes of the schema.
    async fn live(&mut self, n: u64) {
        let sql = match n % 6 {
            0 => "INSERT INTO a SELECT n, randomblob(700) FROM i; INSERT INTO b SELECT n FROM i".to_owned(),
            1 => "UPDATE a SET n = n + 1, body = randomblob(100) WHERE rowid % 5 = 0; DELETE FROM b; INSERT INTO b SELECT n FROM a".to_owned(),
            2 => format!("CREATE TABLE t{n}(x); INSERT INTO t{n} SELECT zeroblob(5000) FROM i WHERE n < 20"),
            3 => "DELETE FROM a WHERE rowid > 40; DELETE FROM b; INSERT INTO b SELECT n FROM a".to_owned(),
            4 => format!("DROP TABLE t{}", n - 2),
            _ => "INSERT INTO a VALUES (7, 'x'); INSERT INTO b VALUES (7)".to_owned(),
        };
        self.commit(&sql).await;
    }

    fn standby(&self) -> PathBuf {
        self.dir.path().join("standby.db")
    }

    fn builder(&self) -> FollowBuilder {
        FollowBuilder::new(self.store.clone(), History::name(), self.standby())
    }

    async fn follow(&self) -> Follower {
        self.builder().start().await.unwrap()
    }

    fn reader(&self) -> Connection {
        Connection::open(self.standby()).unwrap()
    }

    /// The standby is the history's last image, but for what SQLite counts in page 1.
    fn assert_caught_up(&self) {
        let reader = self.reader();
        reader.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        let mut file = fs::read(self.standby()).unwrap();
        let image = self.history.image(self.history.head());
        assert_eq!(file.len(), image.len());
        for at in (24..28).chain(92..100) {
            file[at] = image[at];
        }
        assert!(file == image, "the standby is not revision {}", self.history.head());
        check(&reader);
    }
}

fn check(reader: &Connection) {
    let equal = "SELECT (SELECT coalesce(sum(n), 0) FROM a) = (SELECT coalesce(sum(n), 0) FROM b)";
    assert!(reader.query_row(equal, [], |row| row.get::<_, bool>(0)).unwrap());
    let sound: String = reader.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(sound, "ok");
}

async fn step(follower: &mut Follower) -> Followed {
    follower.catch_up().await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_is_every_revision_in_turn_under_readers_that_stay() {
    let mut scene = Scene::new().await;
    let mut follower = scene.follow().await;
    assert_eq!(follower.catch_up().await.unwrap(), None);
    scene.assert_caught_up();
    let reader = scene.reader();
    for n in 0..14 {
        scene.live(n).await;
        let followed = step(&mut follower).await;
        assert_eq!((followed.revision.txid, followed.restored_because), (scene.history.head(), None));
        check(&reader);
        assert_eq!(follower.catch_up().await.unwrap(), None);
    }
    drop(reader);
    scene.assert_caught_up();
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_never_see_an_in_between_state() {
    let mut scene = Scene::new().await;
    let mut follower = scene.follow().await;
    let done = AtomicBool::new(false);
    let path = scene.standby();
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let reader = Connection::open(&path).unwrap();
            reader.busy_timeout(Duration::from_secs(5)).unwrap();
            let mut looks = 0;
            while !done.load(Ordering::Relaxed) {
                check(&reader);
                looks += 1;
            }
            looks
        });
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                for n in 0..20 {
                    scene.live(n).await;
                    step(&mut follower).await;
                }
            });
        });
        done.store(true, Ordering::Relaxed);
        assert!(reading.join().unwrap() > 0);
    });
    scene.assert_caught_up();
}

#[tokio::test]
async fn after_a_restart_only_what_is_new_is_fetched() {
    let mut scene = Scene::new().await;
    scene.live(0).await;
    scene.follow().await;
    for n in 1..4 {
        scene.live(n).await;
    }
    let mut follower = scene.follow().await;
    assert_eq!(follower.revision().txid, Txid::new(2));
    let followed = step(&mut follower).await;
    assert_eq!((followed.revision.txid.get(), followed.restored_because), (5, None));
    scene.assert_caught_up();
    // An idle poll is one LIST.
    follower.catch_up().await.unwrap();
    let before = scene.store.counts();
    follower.catch_up().await.unwrap();
    let idle = scene.store.counts() - before;
    assert_eq!((idle.total(), idle.list), (1, 1));
}

#[tokio::test]
async fn a_newer_generation_replaces_the_standby_under_its_readers() {
    let mut scene = Scene::new().await;
    scene.live(0).await;
    let mut follower = scene.follow().await;
    let reader = scene.reader();
    check(&reader);
    scene.history = History::begin(&scene.store, PageSize::DEFAULT).await;
    // It has no data yet: the old one stands.
    assert_eq!(follower.catch_up().await.unwrap(), None);
    scene.live(3).await;
    let mut followed = None;
    for _ in 0..20 {
        followed = followed.or(follower.catch_up().await.unwrap());
    }
    let followed = followed.unwrap();
    assert_eq!(followed.revision.generation, scene.history.generation);
    assert!(followed.restored_because.unwrap().contains("superseded"));
    check(&reader);
    drop(reader);
    scene.assert_caught_up();
    scene.live(5).await;
    assert_eq!(step(&mut follower).await.restored_because, None);
    scene.assert_caught_up();
}

#[tokio::test]
async fn a_standby_that_someone_wrote_to_is_put_right() {
    let mut scene = Scene::new().await;
    scene.live(0).await;
    let mut follower = scene.follow().await;
    scene.reader().execute_batch("UPDATE a SET n = n + 1, body = randomblob(300)").unwrap();
    scene.live(1).await;
    let followed = step(&mut follower).await;
    assert!(followed.restored_because.unwrap().contains("someone else wrote"));
    scene.assert_caught_up();
}

#[tokio::test]
async fn a_step_larger_than_the_memory_limit_is_still_one_transaction() {
    let mut scene = Scene::new().await;
    // Raised to 16 MiB, half of which is for changes.
    let mut follower = scene.builder().memory_limit(0).start().await.unwrap();
    let reader = scene.reader();
    check(&reader);
    scene.commit("INSERT INTO a SELECT n, randomblob(40000) FROM i; INSERT INTO b SELECT n FROM i").await;
    let followed = step(&mut follower).await;
    assert!(followed.pages_written > 2900 && followed.restored_because.is_none(), "{followed:?}");
    check(&reader);
    drop(reader);
    scene.assert_caught_up();
}

#[tokio::test]
async fn where_the_way_is_gone_the_standby_is_restored() {
    let mut scene = Scene::new().await;
    let mut follower = scene.follow().await;
    for n in 0..4 {
        scene.live(n).await;
    }
    let head = scene.history.head();
    scene.history.snapshot(head).await;
    for txid in 1..head.get() {
        let key = aquifer_log::SegmentKey::shipped(Txid::new(txid));
        let key = scene.history.database.layout().segment(scene.history.generation, key);
        scene.store.delete(&key).await.unwrap();
    }
    let followed = step(&mut follower).await;
    assert_eq!(followed.revision.txid, head);
    assert!(followed.restored_because.is_some());
    scene.assert_caught_up();
}

#[tokio::test]
async fn a_file_that_no_follower_made_is_refused_and_so_is_a_second_follower() {
    let scene = Scene::new().await;
    fs::write(scene.standby(), "mine").unwrap();
    match scene.builder().start().await.unwrap_err() {
        FollowError::Restore(error) => assert!(matches!(*error, RestoreError::TargetExists(_)), "{error}"),
        other => panic!("{other}"),
    }
    assert_eq!(fs::read(scene.standby()).unwrap(), b"mine");
    let follower = scene.builder().existing(Existing::Replace).start().await.unwrap();
    let error = scene.builder().start().await.unwrap_err();
    assert!(matches!(error, FollowError::Followed(_)), "{error}");
    drop(follower);
    scene.follow().await;
    scene.assert_caught_up();
}

#[tokio::test]
async fn a_killed_follower_leaves_a_standby_that_goes_on() {
    let mut scene = Scene::new().await;
    let program = history::example("follow");
    for n in 0..40 {
        scene.live(n).await;
        let mut follower = Command::new(&program)
            .arg(scene.dir.path().join("store"))
            .arg("app.db")
            .arg(scene.standby())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Any moment will do: no outcome is waited for.
        std::thread::sleep(Duration::from_millis(n * 7 % 60));
        follower.kill().unwrap();
        follower.wait().unwrap();
        if scene.standby().exists() {
            check(&scene.reader());
        }
    }
    let mut follower = scene.follow().await;
    while let Some(followed) = follower.catch_up().await.unwrap() {
        assert_eq!(followed.restored_because, None);
    }
    assert_eq!(follower.revision().txid, scene.history.head());
    scene.assert_caught_up();
    let ours = ["source.db", "standby.db", ".standby.db-aquifer-follow", "store"];
    for entry in fs::read_dir(scene.dir.path()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(ours.iter().any(|ours| name.starts_with(ours)), "{name} was left");
    }
}
