//! Other programs that use a database while it is synced.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use rusqlite::Connection;

use crate::world::{Peer, World, local, many, peers, rows, run};

const TABLE: &str = "CREATE TABLE t(k INTEGER PRIMARY KEY, v)";

/// Python's sqlite3, which runs a statement a line, and prints the first value of its result.
struct Python {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

const PROGRAM: &str = "
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
for line in sys.stdin:
    row = db.execute(line).fetchone()
    print('done' if row is None else row[0], flush=True)
";

impl Python {
    fn open(path: &Path) -> Python {
        let mut child = Command::new("python3")
            .args(["-c", PROGRAM])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Python { child, input, output }
    }

    fn run(&mut self, sql: &str) -> String {
        writeln!(self.input, "{}", sql.replace('\n', " ")).unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    /// Its last connection is closed: SQLite moves the WAL into the database, and deletes it.
    fn close(self) {
        let Python { mut child, input, .. } = self;
        drop(input);
        assert!(child.wait().unwrap().success());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_keep_what_they_see_and_see_all_of_it_afterwards() {
    for peer in peers() {
        readers_keep_what_they_see(peer).await;
    }
}

async fn readers_keep_what_they_see(peer: Peer) {
    let world = World::of(peer).await;
    world.on_server(TABLE).await;
    world.on_server(&many(2000, 100)).await;
    let db = world.open("a.db").await;
    let mut reader = Python::open(db.path());
    let prepared = db.connect().unwrap();
    let mut count = prepared.prepare("SELECT count(*), sum(v = 'x') FROM t").unwrap();
    let mut ask = || count.query_row([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))).unwrap();
    assert_eq!(ask(), (2000, 0));
    reader.run("BEGIN");
    assert_eq!(reader.run("SELECT count(*) FROM t"), "2000");
    world.on_server("DELETE FROM t WHERE k > 1000").await;
    world.on_server("ALTER TABLE t ADD COLUMN w").await;
    world.on_server("UPDATE t SET v = 'x'").await;
    run(&db, "INSERT INTO t(k, v) VALUES (5000, 'mine')");
    db.sync().await.unwrap().online().unwrap();
    assert_eq!(reader.run("SELECT count(*) FROM t"), "2000");
    assert_eq!(reader.run("SELECT count(*) FROM t WHERE v = 'x'"), "0");
    reader.run("COMMIT");
    assert_eq!(reader.run("SELECT count(*) FROM t WHERE w IS NULL"), "1001");
    assert_eq!(ask(), (1001, 1000));
    reader.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_checkpoints_does_not_wait_in_vain_for_a_database_that_is_kept_open() {
    let world = World::new().await;
    world.on_server(TABLE).await;
    let db = world.open("a.db").await;
    let mut other = Python::open(db.path());
    for k in 1..6 {
        other.run(&format!("INSERT INTO t VALUES ({k}, randomblob(9000))"));
        assert_eq!(other.run("PRAGMA wal_checkpoint(TRUNCATE)"), "0", "it was busy");
        if k % 2 == 0 {
            db.sync().await.unwrap().online().unwrap();
        }
    }
    other.close();
    assert_eq!(db.stats().await.unwrap().unpushed, Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_committed_before_changes_are_applied_still_counts_as_changed() {
    let world = World::new().await;
    world.on_server(TABLE).await;
    let db = world.open("a.db").await;
    for is_changed in [false, true] {
        db.sync().await.unwrap().online().unwrap();
        assert!(!db.may_have_changed().await);
        world.on_server("INSERT INTO t(v) VALUES ('theirs')").await;
        let changes = db.wait_changes(std::time::Duration::from_mins(1)).await.unwrap().unwrap();
        if is_changed {
            run(&db, "INSERT INTO t(k, v) VALUES (1000, 'mine')");
        }
        db.apply(changes).await.unwrap().unwrap();
        assert_eq!(db.may_have_changed().await, is_changed);
    }
    assert_eq!(db.sync().await.unwrap().pushed, 1);
    assert!(!db.may_have_changed().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_of_another_process_between_two_syncs_loses_nothing() {
    for peer in peers() {
        a_checkpoint_of_another_process(peer).await;
    }
}

async fn a_checkpoint_of_another_process(peer: Peer) {
    let world = World::of(peer).await;
    world.on_server(TABLE).await;
    world.on_server(&many(2000, 100)).await;
    for (at, between) in
        ["SELECT 1", "PRAGMA wal_checkpoint(TRUNCATE)", "VACUUM", "PRAGMA journal_mode=DELETE"]
            .into_iter()
            .enumerate()
    {
        let name = format!("{at}.db");
        drop(world.open(&name).await);
        let mut other = Python::open(&world.path(&name));
        other.run(&format!("UPDATE t SET v = 'mine {at}' WHERE k % 100 = {at}"));
        other.run(between);
        other.run(&format!("INSERT INTO t VALUES (10000 + {at}, 'mine')"));
        other.close();
        world.on_server(&format!("UPDATE t SET v = 'server' WHERE k = 50 + {at}")).await;
        let db = world.open(&name).await;
        let synced = db.sync().await.unwrap().online().unwrap();
        assert_eq!(synced.conflicts, 0, "{between}");
        if peer.is_sql() {
            assert_eq!(synced.pushed, 21, "{between}");
        }
        let third = world.open(&format!("{at}-copy.db")).await;
        let sql = "SELECT * FROM t ORDER BY k";
        assert_eq!(local(&db, sql), local(&third, sql), "{between}");
        assert_eq!(db.sync().await.unwrap().online().unwrap().pushed, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_go_on_while_a_push_is_on_the_wire() {
    for peer in peers().into_iter().filter(|peer| peer.is_sql()) {
        writers_go_on(peer).await;
    }
}

async fn writers_go_on(peer: Peer) {
    let world = World::of(peer).await;
    world.on_server(TABLE).await;
    let db = world.open("a.db").await;
    run(&db, "INSERT INTO t VALUES (1, 'first')");
    let path = db.path().to_owned();
    // The server's answer waits until others have written.
    world.proxy.set_faults(move |route, body| {
        if route.ends_with("/pipeline") && body.windows(15).any(|part| part == b"BEGIN IMMEDIATE") {
            let writer = Connection::open(&path).unwrap();
            writer
                .execute_batch(
                    "INSERT OR IGNORE INTO t VALUES (2, 'meanwhile'); UPDATE t SET v = 'changed' WHERE k = 1",
                )
                .unwrap();
        }
        None
    });
    db.push().await.unwrap();
    world.proxy.set_faults(|_, _| None);
    assert_eq!(db.stats().await.unwrap().unpushed, Some(2));
    assert_eq!(db.sync().await.unwrap().online().unwrap().pushed, 2);
    let other = world.open("b.db").await;
    assert_eq!(local(&other, "SELECT * FROM t"), ["1|changed", "2|meanwhile"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_writer_waits_for_a_pull_and_loses_no_row() {
    for peer in peers() {
        a_busy_writer_waits(peer).await;
    }
}

async fn a_busy_writer_waits(peer: Peer) {
    let world = World::of(peer).await;
    world.on_server(TABLE).await;
    world.on_server(&many(2000, 100)).await;
    let db = world.open("a.db").await;
    let path = db.path().to_owned();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let writer = std::thread::spawn(move || {
        let db = Connection::open(path).unwrap();
        db.busy_timeout(std::time::Duration::from_mins(1)).unwrap();
        let mut written = 0;
        while matches!(stopped.try_recv(), Err(std::sync::mpsc::TryRecvError::Empty)) {
            db.execute("INSERT INTO t(v) VALUES ('mine')", []).unwrap();
            written += 1;
            // An application, not a benchmark.
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        written
    });
    for round in 0..6 {
        world.on_server(&format!("UPDATE t SET v = 'round {round}' WHERE k <= 1500")).await;
        db.sync().await.unwrap().online().unwrap();
    }
    drop(stop);
    let written: usize = writer.join().unwrap();
    db.sync().await.unwrap().online().unwrap();
    let other = world.open("b.db").await;
    for db in [&db, &other] {
        let connection = db.connect().unwrap();
        assert_eq!(rows(&connection, "SELECT count(*) FROM t WHERE v = 'mine'"), [written.to_string()]);
        assert_eq!(rows(&connection, "SELECT count(*) FROM t WHERE v = 'round 5'"), ["1500"]);
    }
}
