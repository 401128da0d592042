//! What becomes of a database when it is opened against a bottomless bucket, or an Aquifer store.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use aquifer_log::{DatabaseName, Store, StoreUrl};
use aquifer_migrate::{MigrateError, Opened, Opener, RestoreAction};
use aquifer_replicate::restore::Restorer;
use aquifer_replicate::{ReplicaOptions, Replicator};
use rusqlite::Connection;

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    /// With a bucket that an original wrote.
    fn new(fixture: &str) -> Place {
        let place = Place { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(place.path("bucket")).unwrap();
        if !fixture.is_empty() {
            let from =
                Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(fixture).join("bucket");
            copy(&from, &place.path("bucket"));
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn store(&self, name: &str) -> Store {
        Store::open(&StoreUrl::directory(self.path(name))).unwrap()
    }

    fn against_bucket(&self) -> Opener {
        Opener::new(self.path("app.db")).bottomless(self.store("bucket"), "app.db")
    }

    fn against_store(&self, file: &str) -> Opener {
        Opener::new(self.path(file)).aquifer(self.store("store"), name())
    }

    /// The database as the bucket's newest snapshot has it, without what came after.
    fn snapshot(&self) {
        let generation = fs::read_dir(self.path("bucket")).unwrap().next().unwrap().unwrap().path();
        let mut database = Vec::new();
        let object = fs::File::open(generation.join("db.gz")).unwrap();
        flate2::read::GzDecoder::new(object).read_to_end(&mut database).unwrap();
        fs::write(self.path("app.db"), database).unwrap();
    }

    /// Commits, and leaves what was committed in the WAL, as a process that was killed does.
    fn commit_and_die(&self, file: &str, sql: &str) {
        let connection = Connection::open(self.path(file)).unwrap();
        connection.execute_batch("PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0").unwrap();
        connection.execute_batch(sql).unwrap();
        let wal = format!("{file}-wal");
        fs::copy(self.path(&wal), self.path("kept-wal")).unwrap();
        fs::copy(self.path(file), self.path("kept-db")).unwrap();
        drop(connection);
        fs::rename(self.path("kept-db"), self.path(file)).unwrap();
        fs::rename(self.path("kept-wal"), self.path(&wal)).unwrap();
    }

    fn count(&self, file: &str, table: &str) -> i64 {
        let connection = Connection::open(self.path(file)).unwrap();
        connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
    }

    /// Rows in what the store has.
    async fn count_in_store(&self, table: &str) -> i64 {
        let copy = self.path("copy.db");
        Restorer::new(self.store("store"), name(), &copy).restore().await.unwrap();
        let count = self.count("copy.db", table);
        fs::remove_file(copy).unwrap();
        count
    }

    /// Everything in the directory of the databases, but for what belongs to the test.
    fn databases(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = entries.map(|name| name.into_string().unwrap()).collect();
        names.retain(|name| name.contains(".db") && !name.starts_with('.'));
        names.sort();
        names
    }

    /// Ships what another machine commits to what the store has.
    async fn elsewhere(&self, sql: &str) {
        let file = self.path("elsewhere.db");
        let _ = fs::remove_file(&file);
        let _ = fs::remove_dir_all(self.path(".elsewhere.db-aquifer"));
        Restorer::new(self.store("store"), name(), &file).restore().await.unwrap();
        let connection = Connection::open(&file).unwrap();
        let replicator = Replicator::builder(self.store("store")).start();
        replicator.add(&file, Some(name())).unwrap();
        replicator.sync_database(&name()).await.unwrap();
        connection.execute_batch(sql).unwrap();
        replicator.sync_database(&name()).await.unwrap();
        replicator.shutdown().await.unwrap();
        drop(connection);
        fs::remove_file(&file).unwrap();
        fs::remove_dir_all(self.path(".elsewhere.db-aquifer")).unwrap();
    }
}

fn name() -> DatabaseName {
    "app.db".parse().unwrap()
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn restored(opened: &Opened) -> Option<String> {
    let RestoreAction::Restored { set_aside } = &opened.action else { panic!("{opened:?}") };
    set_aside.as_ref().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
}

const TABLE: &str = "CREATE TABLE t(x); INSERT INTO t VALUES(1)";

#[tokio::test(flavor = "multi_thread")]
async fn nothing_anywhere_is_nothing_to_do() {
    let place = Place::new("");
    let opened = place.against_bucket().aquifer(place.store("store"), name()).open().await.unwrap();
    assert_eq!(opened, Opened { action: RestoreAction::NothingToDo, shipped: None });
    assert_eq!(place.databases(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_database_is_restored_from_the_bucket_and_goes_into_the_store() {
    let place = Place::new("bottomless-frames");
    assert_eq!(restored(&place.against_bucket().open().await.unwrap()), None);
    assert_eq!(place.count("app.db", "t"), 145);
    fs::remove_file(place.path("app.db")).unwrap();
    // An empty file is as good as none.
    fs::write(place.path("app.db"), b"").unwrap();
    let both = || place.against_bucket().aquifer(place.store("store"), name());
    let opened = both().open().await.unwrap();
    assert_eq!(restored(&opened), None);
    assert!(!place.databases().iter().any(|name| name.contains("backup")), "{:?}", place.databases());
    assert_eq!(place.count_in_store("t").await, 145);
    // From then on the store counts, whatever is in the bucket.
    fs::remove_dir_all(place.path("bucket")).unwrap();
    let again = both().open().await.unwrap();
    assert_eq!(again, Opened { action: RestoreAction::Reuse, shipped: opened.shipped });
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_bucket_has_is_reused() {
    // One that never committed after its snapshot.
    let place = Place::new("bottomless-frames-never-consistent");
    place.snapshot();
    let before = fs::read(place.path("app.db")).unwrap();
    let opened = place.against_bucket().open().await.unwrap();
    assert_eq!(opened, Opened { action: RestoreAction::Reuse, shipped: None });
    assert_eq!(fs::read(place.path("app.db")).unwrap(), before);
}

/// The counter that is noted in the bucket is that of the generation's beginning. bottomless goes by it, too: it would
/// begin a generation with what it has just restored.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_restored_counts_as_newer_where_commits_after_the_snapshot_raised_the_counter() {
    let place = Place::new("bottomless-frames");
    place.against_bucket().open().await.unwrap();
    let before = fs::read(place.path("app.db")).unwrap();
    let opened = place.against_bucket().open().await.unwrap();
    assert_eq!(opened, Opened { action: RestoreAction::SnapshotNeeded, shipped: None });
    assert_eq!(
        (fs::read(place.path("app.db")).unwrap(), place.databases()),
        (before, vec!["app.db".to_owned()])
    );
    // With none that did, what is there would count as newer: it is restored, and found to be what is here.
    let place = Place::new("bottomless-frames-two-generations");
    place.against_bucket().open().await.unwrap();
    let opened = place.against_bucket().open().await.unwrap();
    assert_eq!(opened, Opened { action: RestoreAction::Reuse, shipped: None });
    assert_eq!(place.databases(), ["app.db"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn wal_that_is_behind_the_bucket_is_kept_beside_what_is_restored() {
    let place = Place::new("bottomless-frames");
    place.snapshot();
    place.commit_and_die("app.db", "DELETE FROM t");
    let opened = place.against_bucket().open().await.unwrap();
    assert_eq!(restored(&opened).as_deref(), Some("app.db.bottomless.backup"));
    assert_eq!(place.count("app.db", "t"), 145);
    assert_eq!(place.count("app.db.bottomless.backup", "t"), 0, "what was in the WAL alone");
    assert!(!place.path("app.db-wal").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn wal_that_is_ahead_of_the_bucket_is_shipped() {
    let place = Place::new("bottomless-frames-never-consistent");
    place.snapshot();
    place.commit_and_die("app.db", "DELETE FROM t WHERE id > 10");
    let opened = place.against_bucket().open().await.unwrap();
    assert_eq!(opened, Opened { action: RestoreAction::SnapshotNeeded, shipped: None });
    let both = place.against_bucket().aquifer(place.store("store"), name());
    let opened = both.open().await.unwrap();
    assert!(opened.action == RestoreAction::SnapshotNeeded && opened.shipped.is_some(), "{opened:?}");
    assert_eq!((place.count("app.db", "t"), place.count_in_store("t").await), (10, 10));
    assert_eq!(place.databases(), ["app.db"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn larger_change_counter_stays_here() {
    let place = Place::new("bottomless-frames-two-generations");
    let database = Connection::open(place.path("app.db")).unwrap();
    for n in 0..20 {
        database.execute_batch(&format!("CREATE TABLE here_{n}(x)")).unwrap();
    }
    drop(database);
    let before = fs::read(place.path("app.db")).unwrap();
    let opened = place.against_bucket().open().await.unwrap();
    assert_eq!(opened.action, RestoreAction::SnapshotNeeded);
    assert_eq!(fs::read(place.path("app.db")).unwrap(), before);
    // Nothing in the bucket is of this database.
    let other = Opener::new(place.path("app.db")).bottomless(place.store("bucket"), "other.db");
    assert_eq!(other.open().await.unwrap().action, RestoreAction::SnapshotNeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn new_database_begins_a_generation_and_what_it_commits_goes_on_with_it() {
    let place = Place::new("");
    place.commit_and_die("app.db", TABLE);
    let first = place.against_store("app.db").open().await.unwrap();
    assert_eq!(first.action, RestoreAction::SnapshotNeeded);
    assert_eq!(place.count_in_store("t").await, 1);
    let same = place.against_store("app.db").open().await.unwrap();
    assert_eq!(same, Opened { action: RestoreAction::Reuse, shipped: first.shipped });
    // What the last process left in the WAL is shipped first.
    place.commit_and_die("app.db", "INSERT INTO t VALUES(2)");
    let opened = place.against_store("app.db").open().await.unwrap();
    assert_eq!(opened.action, RestoreAction::Reuse);
    let (was, is) = (first.shipped.unwrap(), opened.shipped.unwrap());
    assert!(was.generation == is.generation && was.txid < is.txid, "{was} {is}");
    assert_eq!(place.count_in_store("t").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn database_that_the_store_has_been_through_is_restored() {
    let place = Place::new("");
    place.commit_and_die("app.db", TABLE);
    place.against_store("app.db").open().await.unwrap();
    place.elsewhere("INSERT INTO t VALUES(2), (3)").await;
    // Without local state, as a copy that was taken earlier.
    fs::copy(place.path("app.db"), place.path("old.db")).unwrap();
    fs::copy(place.path("app.db-wal"), place.path("old.db-wal")).unwrap();
    for file in ["old.db", "app.db"] {
        let opened = place.against_store(file).open().await.unwrap();
        assert_eq!(restored(&opened), Some(format!("{file}.bottomless.backup")));
        assert_eq!((place.count(file, "t"), place.count(&format!("{file}.bottomless.backup"), "t")), (3, 1));
    }
    // Replication goes on from what was restored.
    place.commit_and_die("app.db", "INSERT INTO t VALUES(4)");
    let opened = place.against_store("app.db").open().await.unwrap();
    assert_eq!(place.count_in_store("t").await, 4, "{opened:?}");
    fs::remove_file(place.path("app.db")).unwrap();
    fs::remove_file(place.path("app.db-wal")).unwrap();
    assert_eq!(restored(&place.against_store("app.db").open().await.unwrap()), None);
    assert_eq!(place.count("app.db", "t"), 4);
}

/// Where the last process was killed, the WAL shows that the database goes on from what was shipped last.
#[tokio::test(flavor = "multi_thread")]
async fn history_is_not_looked_through_for_a_database_that_its_wal_proves_to_be_newer() {
    const SHIPPED: u64 = 40;
    let place = Place::new("");
    place.commit_and_die("app.db", TABLE);
    let store = place.store("store");
    let connection = Connection::open(place.path("app.db")).unwrap();
    connection.execute_batch("PRAGMA wal_autocheckpoint=0").unwrap();
    let replicator = Replicator::builder(store.clone()).start();
    replicator.add(place.path("app.db"), Some(name())).unwrap();
    for _ in 0..SHIPPED {
        connection.execute_batch("INSERT INTO t VALUES(2)").unwrap();
        replicator.sync_database(&name()).await.unwrap();
    }
    replicator.shutdown().await.unwrap();
    connection.execute_batch("INSERT INTO t VALUES(3)").unwrap();
    let before = store.counts();
    let opener = Opener::new(place.path("app.db")).aquifer(store.clone(), name());
    let opened = opener.open().await.unwrap();
    assert_eq!(opened.action, RestoreAction::Reuse);
    // What is planned, captured and shipped takes some. That one by one of the batches is looked at would be as many more.
    let taken = (store.counts() - before).total();
    assert!(taken < 2 * SHIPPED, "{taken}");
    assert_eq!(place.count_in_store("t").await, SHIPPED as i64 + 2);
}

/// A crash of the machine may take away the end of what a replica noted, but not what it shipped.
#[tokio::test(flavor = "multi_thread")]
async fn batches_that_were_shipped_and_not_noted_are_gone_on_with() {
    let place = Place::new("");
    place.commit_and_die("app.db", TABLE);
    let connection = Connection::open(place.path("app.db")).unwrap();
    let replicator = Replicator::builder(place.store("store")).start();
    replicator.add(place.path("app.db"), Some(name())).unwrap();
    let first = replicator.sync_database(&name()).await.unwrap().unwrap();
    fs::create_dir(place.path("noted")).unwrap();
    copy(&place.path(".app.db-aquifer"), &place.path("noted"));
    for n in 0..3 {
        connection.execute_batch(&format!("CREATE TABLE t{n}(x)")).unwrap();
        replicator.sync_database(&name()).await.unwrap();
    }
    replicator.shutdown().await.unwrap();
    drop(connection);
    fs::remove_dir_all(place.path(".app.db-aquifer")).unwrap();
    fs::rename(place.path("noted"), place.path(".app.db-aquifer")).unwrap();
    place.commit_and_die("app.db", "INSERT INTO t VALUES(2)");
    let opened = place.against_store("app.db").open().await.unwrap();
    assert_eq!((opened.action, opened.shipped.unwrap().generation), (RestoreAction::Reuse, first.generation));
    assert_eq!(place.count_in_store("t").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_both_went_on_the_change_counter_decides_and_both_are_kept() {
    let place = Place::new("");
    place.commit_and_die("app.db", TABLE);
    let first = place.against_store("app.db").open().await.unwrap();
    // More there than here.
    place.elsewhere("CREATE TABLE there_1(x); CREATE TABLE there_2(x); CREATE TABLE there_3(x)").await;
    place.commit_and_die("app.db", "INSERT INTO t VALUES(2)");
    let opened = place.against_store("app.db").open().await.unwrap();
    assert_eq!(restored(&opened).as_deref(), Some("app.db.bottomless.backup"));
    assert_eq!((place.count("app.db", "there_3"), place.count("app.db", "t")), (0, 1));
    assert_eq!(place.count("app.db.bottomless.backup", "t"), 2);
    // More here than there.
    place.elsewhere("INSERT INTO t VALUES(3)").await;
    let database = Connection::open(place.path("app.db")).unwrap();
    for n in 0..20 {
        database
            .execute_batch(&format!("CREATE TABLE here_{n}(x); PRAGMA wal_checkpoint(TRUNCATE)"))
            .unwrap();
    }
    drop(database);
    let opened = place.against_store("app.db").open().await.unwrap();
    assert_eq!(opened.action, RestoreAction::SnapshotNeeded);
    assert_ne!(opened.shipped.unwrap().generation, first.shipped.unwrap().generation);
    assert_eq!((place.count("app.db", "here_19"), place.count_in_store("here_19").await), (0, 0));
    let there = aquifer_log::DatabaseStore::new(place.store("store"), name());
    let ids: Vec<_> = futures::TryStreamExt::try_collect(there.generation_ids()).await.unwrap();
    assert_eq!(ids.len(), 2, "what was there is there");
}

#[tokio::test(flavor = "multi_thread")]
async fn rollback_journal_is_an_error_unless_it_may_be_switched() {
    let place = Place::new("");
    Connection::open(place.path("app.db")).unwrap().execute_batch(TABLE).unwrap();
    let error = place.against_store("app.db").open().await.unwrap_err();
    assert!(matches!(error, MigrateError::Sqlite(aquifer_sqlite::Error::NotWal(_))), "{error}");
    let options = ReplicaOptions { switch_to_wal: true, ..ReplicaOptions::default() };
    let opened = place.against_store("app.db").options(options).open().await.unwrap();
    assert!(opened.shipped.is_some(), "{opened:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bucket_that_cannot_be_read_changes_nothing() {
    let place = Place::new("bottomless-frames");
    place.snapshot();
    let before = fs::read(place.path("app.db")).unwrap();
    for generation in fs::read_dir(place.path("bucket")).unwrap() {
        let generation = generation.unwrap().path();
        for object in fs::read_dir(&generation).unwrap() {
            let object = object.unwrap().path();
            if object.file_name().unwrap().to_str().unwrap().starts_with("0000") {
                fs::write(object, b"damaged").unwrap();
            }
        }
    }
    assert!(place.against_bucket().open().await.is_err());
    assert!(!place.databases().iter().any(|name| name.contains("backup")), "{:?}", place.databases());
    let after = fs::read(place.path("app.db")).unwrap();
    let differ = before.iter().zip(&after).position(|(a, b)| a != b);
    assert_eq!((after.len(), differ), (before.len(), None));
}
