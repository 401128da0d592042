//! Databases that are idle, busy, or not there yet.

use std::time::Duration;

use aquifer_log::DatabaseStore;
use aquifer_replicate::{ReplicaOptions, ReplicaState, Replicator};
use aquifer_testkit::fault_store::{Fault, Gate, Op, Rule};

use crate::stage::{Stage, until};
use crate::support::{connect, dump, replica_dump};

#[tokio::test]
async fn an_idle_database_causes_no_request() {
    let stage = Stage::new();
    let options = ReplicaOptions { poll: Duration::from_millis(5), ..ReplicaOptions::default() };
    let replicator = stage.start_with(options);
    stage.app.put(1, 5000);
    replicator.sync().await.unwrap();
    until(&replicator, "idle", |s| s.state == ReplicaState::Idle).await;
    stage.faults.take_log();
    // Long enough for hundreds of polls, and for the checkpoint after a second.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let requests = stage.faults.take_log();
    assert!(requests.is_empty(), "{requests:?}");
    // Our own checkpoint let go of the WAL: the application can reset it.
    let busy: i64 =
        stage.app.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0)).unwrap();
    assert_eq!(busy, 0);
    stage.app.put(2, 5000);
    replicator.sync().await.unwrap();
    stage.assert_replica_is_the_database().await;
}

/// Another process that writes to the WAL's index, as one that recovers it does: readers find it unfinished, and its lock
/// taken.
struct Recovery(std::process::Child);

impl Recovery {
    /// Byte 122 of the index is the lock of whoever recovers it (`WAL_RECOVER_LOCK` in wal.c).
    const SCRIPT: &str = "import fcntl, sqlite3, sys\ndb = sqlite3.connect(sys.argv[1], isolation_level=None)\n\
         db.execute('BEGIN IMMEDIATE')\nshm = open(sys.argv[1] + '-shm', 'r+b', buffering=0)\n\
         fcntl.lockf(shm, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 122)\nheader = shm.read(8)\nshm.seek(0)\nshm.write(bytes(8))\nprint('begun', flush=True)\n\
         sys.stdin.readline()\nshm.seek(0)\nshm.write(header)\ndb.execute('COMMIT')\nprint('done', flush=True)\n";

    fn begin(database: &std::path::Path) -> Recovery {
        use std::process::{Command, Stdio};
        let mut command = Command::new("python3");
        let command = command.arg("-c").arg(Recovery::SCRIPT).arg(database);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        Recovery::hear(&mut child, "begun");
        Recovery(child)
    }

    fn hear(child: &mut std::process::Child, expected: &str) {
        use std::io::Read;
        let mut said = vec![0; expected.len() + 1];
        child.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
        assert_eq!(said.trim_ascii(), expected.as_bytes());
    }

    fn end(mut self) {
        use std::io::Write;
        self.0.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        Recovery::hear(&mut self.0, "done");
        self.0.wait().unwrap();
    }
}

#[tokio::test]
async fn a_database_that_is_busy_is_not_taken_for_one_without_news() {
    let stage = Stage::new();
    let options = ReplicaOptions { stage_after: Duration::from_hours(1), ..ReplicaOptions::default() };
    let replicator = stage.start_with(options);
    replicator.sync().await.unwrap();
    let gate = Gate::new();
    stage.faults.inject(Rule::on(Op::Create, "/0/", Fault::Hold(gate.clone())).times(1));
    stage.app.put(1, 2000);
    until(&replicator, "under way", |s| s.behind_txids == 1).await;
    // Committed while nothing is captured, and when it may be, the database is busy.
    stage.app.put(2, 2000);
    let recovery = Recovery::begin(&stage.app.path);
    gate.open();
    until(&replicator, "durable", |s| s.behind_txids == 0).await;
    let early = tokio::time::timeout(Duration::from_millis(300), replicator.sync()).await;
    assert!(early.is_err(), "not all that was committed is durable: {early:?}");
    recovery.end();
    replicator.sync().await.unwrap();
    stage.assert_replica_is_the_database().await;
}

#[tokio::test]
async fn a_database_that_appears_later_is_replicated_when_it_is_there() {
    let stage = Stage::new();
    let path = stage.app.dir.path().join("later.db");
    let replicator = Replicator::builder(stage.store.clone()).start();
    let name = replicator.add(&path, None).unwrap();
    until(&replicator, "waiting", |s| matches!(s.state, ReplicaState::Waiting(_))).await;
    let connection = connect(&path);
    connection
        .execute_batch("CREATE TABLE t(k INTEGER PRIMARY KEY, v BLOB); INSERT INTO t VALUES(1, x'01')")
        .unwrap();
    replicator.sync().await.unwrap();
    let database = DatabaseStore::new(stage.store.clone(), name);
    assert_eq!(replica_dump(&database).await, dump(&connection));
}

#[tokio::test]
async fn a_replica_that_waits_for_its_database_stops_cleanly() {
    let stage = Stage::new();
    let never = stage.app.dir.path().join("never.db");
    let replicator = Replicator::builder(stage.store.clone()).start();
    let name = replicator.add(&never, None).unwrap();
    until(&replicator, "waiting", |s| matches!(s.state, ReplicaState::Waiting(_))).await;
    let (synced, stopped) =
        tokio::join!(biased; replicator.sync_database(&name), async { replicator.shutdown().await });
    assert_eq!(synced.unwrap(), None, "nothing was committed");
    stopped.unwrap();
    assert!(!never.exists());
}

#[tokio::test]
async fn a_database_that_appeared_unnoticed_is_shipped_before_the_stop() {
    let stage = Stage::new();
    let path = stage.app.dir.path().join("late.db");
    let replicator = Replicator::builder(stage.store.clone()).start();
    let name = replicator.add(&path, None).unwrap();
    until(&replicator, "waiting for long", |s| matches!(s.state, ReplicaState::Waiting(_)) && s.errors > 3)
        .await;
    let connection = connect(&path);
    connection.execute_batch("CREATE TABLE t(k INTEGER PRIMARY KEY, v BLOB)").unwrap();
    replicator.shutdown().await.unwrap();
    let database = DatabaseStore::new(stage.store.clone(), name);
    assert_eq!(replica_dump(&database).await, dump(&connection));
}

#[tokio::test]
async fn where_there_are_many_databases_idle_ones_sleep_and_wake_when_written_to() {
    let stage = Stage::new();
    let replicator = stage.start();
    for n in 0..70 {
        let path = stage.app.dir.path().join(format!("{n}.db"));
        connect(&path).execute_batch("CREATE TABLE t(k INTEGER PRIMARY KEY, v BLOB)").unwrap();
        replicator.add(&path, None).unwrap();
    }
    stage.app.put(1, 3000);
    replicator.sync().await.unwrap();
    let descriptors = || {
        let name = stage.app.path.with_extension("db-wal");
        std::fs::read_dir("/proc/self/fd")
            .unwrap()
            .flatten()
            .filter(|fd| std::fs::read_link(fd.path()).is_ok_and(|file| file == name))
            .count()
    };
    let own = 1; // the application's
    let asleep = async {
        while descriptors() > own {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), asleep).await.expect("it falls asleep");
    let durable = replicator.status().iter().find(|s| s.name == stage.name).unwrap().durable.unwrap();
    stage.app.put(2, 3000);
    replicator.wait_durable(&stage.name, durable.txid.next()).await.unwrap();
    stage.assert_replica_is_the_database().await;
    replicator.shutdown().await.unwrap();
}
