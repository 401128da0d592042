//! An engine against a file that plays the server.

mod apart;

use std::path::PathBuf;
use std::sync::Arc;

use aquifer_format::{PageSize, Pgno};
use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::pull::Incoming;

struct Stage {
    dir: TempDir,
    server: Connection,
    revisions: u32,
}

impl Stage {
    fn new(sql: &str) -> Stage {
        let dir = TempDir::new().unwrap();
        let server = Connection::open(dir.path().join("server.db")).unwrap();
        server.execute_batch("PRAGMA journal_mode=WAL").unwrap();
        server.execute_batch(sql).unwrap();
        Stage { dir, server, revisions: 0 }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("app.db")
    }

    fn open(&self) -> Engine {
        self.try_open().unwrap()
    }

    fn try_open(&self) -> Result<Engine> {
        match Engine::open(&self.path(), Settings { merge: true, ..Settings::default() })? {
            Opened::Ready(engine) => Ok(*engine),
            _ => panic!("there is a database"),
        }
    }

    fn engine(&self) -> Engine {
        Engine::create(&self.path(), Settings { merge: true, ..Settings::default() }).unwrap()
    }

    fn local(&self) -> Connection {
        Connection::open(self.path()).unwrap()
    }

    fn image(&self) -> Vec<u8> {
        self.server.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        std::fs::read(self.dir.path().join("server.db")).unwrap()
    }

    /// All pages of the server, as changes since what an engine has.
    fn incoming(&mut self, engine: &Engine) -> Arc<Incoming> {
        self.revisions += 1;
        let image = self.image();
        let pages = (image.len() / 4096) as u32;
        let since = engine.state().base.revision.clone();
        let mut incoming = Incoming::new(
            self.dir.path(),
            PageSize::DEFAULT,
            pages,
            format!("r{}", self.revisions),
            since,
            false,
        )
        .unwrap();
        for (index, page) in image.chunks_exact(4096).enumerate() {
            incoming.put(Pgno::from_index(index as u32), page).unwrap();
        }
        incoming.finish().unwrap();
        Arc::new(incoming)
    }

    fn pull(&mut self, engine: &mut Engine) {
        let incoming = self.incoming(engine);
        let applied = engine.apply(&incoming).unwrap();
        assert!(matches!(applied, Applied::Done { .. }), "{applied:?}");
    }

    fn dump(db: &Connection) -> Vec<String> {
        let mut tables =
            db.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY 1").unwrap();
        let names: Vec<String> =
            tables.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        let mut rows = Vec::new();
        for name in names {
            let mut statement = db.prepare(&format!("SELECT rowid, * FROM \"{name}\"")).unwrap();
            let columns = statement.column_count();
            let found = statement.query_map([], |row| {
                let values: Vec<rusqlite::types::Value> =
                    (0..columns).map(|i| row.get(i)).collect::<Result<_, _>>()?;
                Ok(format!("{name} {values:?}"))
            });
            rows.extend(found.unwrap().map(Result::unwrap));
        }
        rows
    }

    fn assert_same(&self) {
        let local = self.local();
        let check: String = local.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(check, "ok");
        assert_eq!(Stage::dump(&local), Stage::dump(&self.server));
    }
}

const TABLE: &str = "CREATE TABLE t(k INTEGER PRIMARY KEY, v)";

fn rows(n: u32) -> String {
    format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {n})
         INSERT INTO t(k, v) SELECT i, hex(randomblob(200)) FROM n;"
    )
}

#[test]
fn what_the_server_has_is_what_the_database_has_while_it_grows_and_shrinks() {
    let mut stage = Stage::new(TABLE);
    let mut engine = stage.engine();
    let reader = stage.local();
    for sql in [
        &rows(500),
        "CREATE INDEX i ON t(v)",
        "DELETE FROM t WHERE k > 20; VACUUM",
        "ALTER TABLE t ADD COLUMN more",
        &format!("DELETE FROM t; {}", rows(300)),
        "UPDATE t SET v = 1",
        "DROP INDEX i; VACUUM",
    ] {
        stage.server.execute_batch(sql).unwrap();
        stage.pull(&mut engine);
        stage.assert_same();
        assert_eq!(Stage::dump(&reader), Stage::dump(&stage.server), "a connection that was open");
        let current = engine.current().unwrap();
        assert_eq!(engine.differing(&current, &Since::Base).unwrap(), None, "after {sql}");
        drop(current);
        engine.checkpoint().unwrap();
    }
}

#[test]
fn killed_anywhere_a_pull_is_applied_or_not_and_no_local_row_is_lost() {
    for point in [Point::Staged, Point::Written, Point::Committed, Point::Promoted] {
        for afterwards in [
            "SELECT 1",
            "INSERT INTO t VALUES (9002, 'after')",
            "INSERT INTO t VALUES (9002, 'after'); PRAGMA wal_checkpoint(TRUNCATE)",
            "PRAGMA wal_checkpoint(TRUNCATE); UPDATE t SET v = 'after' WHERE k = 9001",
        ] {
            let mut stage = Stage::new(TABLE);
            stage.server.execute_batch(&rows(300)).unwrap();
            let mut engine = stage.engine();
            stage.pull(&mut engine);
            stage.server.execute_batch("UPDATE t SET v = 'server' WHERE k BETWEEN 100 AND 110").unwrap();
            stage.local().execute_batch("INSERT INTO t VALUES (9001, 'mine')").unwrap();
            engine.at = Some(Box::new(move |at| assert!(at != point, "killed at {at:?}")));
            let incoming = stage.incoming(&engine);
            let killed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| engine.apply(&incoming)));
            assert!(killed.is_err(), "{point:?}");
            drop(engine);
            let is_there = matches!(point, Point::Committed | Point::Promoted);
            let servers = |db: &Connection| -> bool {
                db.query_row("SELECT v = 'server' FROM t WHERE k = 105", [], |row| row.get(0)).unwrap()
            };
            assert_eq!(servers(&stage.local()), is_there, "{point:?}");
            stage.local().execute_batch(afterwards).unwrap();
            let mut engine = stage.open();
            assert!(engine.state().pull.is_none());
            let revision = engine.state().base.revision.clone();
            assert_eq!(revision.as_deref() == Some("r2"), is_there, "{point:?}, then {afterwards}");
            if engine.missing().unwrap().is_empty() {
                stage.pull(&mut engine);
                assert!(servers(&stage.local()));
                let mine: i64 = stage
                    .local()
                    .query_row("SELECT count(*) FROM t WHERE v IN ('mine', 'after')", [], |row| row.get(0))
                    .unwrap();
                let expected = if afterwards.starts_with("INSERT") { 2 } else { 1 };
                assert_eq!(mine, expected, "{point:?}, then {afterwards}");
            }
        }
    }
}

#[test]
fn what_is_committed_while_a_pull_is_prepared_stays() {
    let mut stage = Stage::new(TABLE);
    stage.server.execute_batch(&rows(300)).unwrap();
    let mut engine = stage.engine();
    stage.pull(&mut engine);
    for times in [1, 2, 5] {
        stage.server.execute_batch(&format!("UPDATE t SET v = 'server {times}' WHERE k <= 300")).unwrap();
        let (local, mut left) = (stage.local(), times);
        local.busy_timeout(std::time::Duration::ZERO).unwrap();
        engine.at = Some(Box::new(move |at| {
            // Later on, writers are kept out.
            if at == Point::Staged && left > 0 {
                left -= 1;
                let _ = local.execute("INSERT INTO t(v) VALUES (?1)", [format!("mine {times}")]);
                let _ = local.execute("UPDATE t SET v = v || '!' WHERE k > 300", []);
            }
        }));
        let before: i64 = stage.local().query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
        stage.pull(&mut engine);
        let sql = "SELECT count(*), sum(v = 'server' || substr(v, 7)) FROM t";
        let (count, servers): (i64, i64) =
            stage.local().query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        assert_eq!((count - before, servers), (times.min(3), 300), "{times}");
    }
}

#[test]
fn a_database_that_shrinks_here_still_has_all_of_its_base() {
    for vacuum in ["PRAGMA auto_vacuum=FULL", "PRAGMA auto_vacuum=NONE"] {
        for checkpoint in ["", "PRAGMA wal_checkpoint(TRUNCATE)"] {
            let mut stage = Stage::new("SELECT 1");
            stage
                .server
                .execute_batch(&format!("PRAGMA journal_mode=DELETE; {vacuum}; VACUUM; {TABLE}"))
                .unwrap();
            stage.server.execute_batch(&rows(3000)).unwrap();
            let mut engine = stage.engine();
            stage.pull(&mut engine);
            stage.local().execute_batch(&format!("DELETE FROM t WHERE k > 5; VACUUM; {checkpoint}")).unwrap();
            engine.track().unwrap();
            assert!(engine.missing().unwrap().is_empty(), "all is here");
            // The file is cut off now.
            engine.checkpoint().unwrap();
            stage.server.execute_batch("UPDATE t SET v = 'server' WHERE k = 3").unwrap();
            stage.pull(&mut engine);
            stage.local().execute_batch("UPDATE t SET v = 'mine' WHERE k = 4").unwrap();
            // The server deletes what is deleted here: then both are the same but for that row.
            stage
                .server
                .execute_batch("DELETE FROM t WHERE k > 5; UPDATE t SET v = 'mine' WHERE k = 4")
                .unwrap();
            stage.pull(&mut engine);
            stage.assert_same();
            assert_eq!(engine.unpushed().unwrap(), Some(0), "{vacuum} {checkpoint}");
        }
    }
}

#[test]
fn a_file_that_is_replaced_while_it_is_open_is_not_taken_for_the_same() {
    let mut stage = Stage::new(TABLE);
    let mut engine = stage.engine();
    stage.pull(&mut engine);
    std::fs::copy(stage.path(), stage.dir.path().join("other")).unwrap();
    std::fs::rename(stage.dir.path().join("other"), stage.path()).unwrap();
    let error = engine.track().unwrap_err();
    assert!(matches!(error, Error::Replaced { .. }), "{error}");
}

#[test]
fn who_checkpoints_and_waits_for_the_place_of_the_pin_gets_it_and_nothing_is_missed() {
    // The WAL is begun anew while the pin is given up, or goes on.
    for (mode, goes_on) in [("TRUNCATE", false), ("FULL", true)] {
        let mut stage = Stage::new(TABLE);
        let mut engine = stage.engine();
        stage.pull(&mut engine);
        // Readers have all places there are, so that the pin has to share one that is behind it.
        let readers: Vec<_> = (1..=4)
            .map(|k| {
                stage.local().execute_batch(&format!("INSERT INTO t VALUES ({k}, 'mine')")).unwrap();
                let reader = stage.local();
                reader.execute_batch("BEGIN; SELECT count(*) FROM t").unwrap();
                reader
            })
            .collect();
        stage.local().execute_batch("INSERT INTO t VALUES (5, 'mine')").unwrap();
        engine.track().unwrap();
        drop(readers);
        let reader = goes_on.then(|| stage.local());
        if let Some(reader) = &reader {
            reader.execute_batch("BEGIN; SELECT count(*) FROM t").unwrap();
        }
        let checkpointer = stage.local();
        checkpointer.busy_timeout(std::time::Duration::from_mins(5)).unwrap();
        let checkpointing = std::thread::spawn(move || {
            let sql = format!("PRAGMA wal_checkpoint({mode})");
            // It is refused at once where the engine is just looking whether somebody is at it.
            while checkpointer.query_row(&sql, [], |row| row.get::<_, i64>(0)).unwrap() != 0 {}
        });
        let given_up = Arc::new(std::sync::atomic::AtomicU32::new(0));
        engine.at = Some(Box::new({
            let (given_up, local) = (Arc::clone(&given_up), stage.local());
            move |at| {
                if at != Point::GivenUp {
                    return;
                }
                given_up.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                local.busy_timeout(std::time::Duration::from_mins(5)).unwrap();
                local.execute_batch("UPDATE t SET v = 'later' WHERE k = 1").unwrap();
            }
        }));
        let deadline = std::time::Instant::now() + std::time::Duration::from_mins(1);
        while !checkpointing.is_finished() {
            assert!(std::time::Instant::now() < deadline, "it still waits");
            engine.ease().unwrap();
            std::thread::yield_now();
        }
        checkpointing.join().unwrap();
        assert!(given_up.load(std::sync::atomic::Ordering::Relaxed) > 0, "there was another way");
        engine.track().unwrap();
        assert!(engine.missing().unwrap().is_empty());
        assert_eq!(engine.unpushed().unwrap(), Some(5));
        stage.server.execute_batch("INSERT INTO t VALUES (6, 'server')").unwrap();
        stage.pull(&mut engine);
        let sql = "SELECT group_concat(k || v, ' ' ORDER BY k) FROM t";
        let all: String = stage.local().query_row(sql, [], |row| row.get(0)).unwrap();
        assert_eq!(all, "1later 2mine 3mine 4mine 5mine 6server");
    }
}

/// What others do between the end of a program and the next one that syncs must not hide whether a pull was applied.
#[test]
fn it_is_known_whether_a_pull_was_applied_whatever_was_written_since() {
    let mut rng = aquifer_testkit::workload::Rng::new(7);
    for round in 0..60 {
        let mut stage = Stage::new(TABLE);
        stage.server.execute_batch(&rows(40)).unwrap();
        let mut engine = stage.engine();
        stage.pull(&mut engine);
        let point = if rng.one_in(2) { Point::Staged } else { Point::Committed };
        let work = |rng: &mut aquifer_testkit::workload::Rng, who: &str| {
            let statements = (0..rng.range(1, 6)).map(|_| {
                let key = rng.below(60);
                match rng.below(7) {
                    0 => "VACUUM".to_owned(),
                    1 => format!("DELETE FROM t WHERE k > {key}"),
                    2 => format!("UPDATE t SET v = '{who}' WHERE k >= {key}"),
                    3 => format!("CREATE TABLE IF NOT EXISTS {who}{key}(x)"),
                    4 => "PRAGMA wal_checkpoint(TRUNCATE)".to_owned(),
                    5 => format!("DROP TABLE IF EXISTS {who}{}", key / 2),
                    _ => format!("INSERT OR REPLACE INTO t VALUES ({key}, '{who}')"),
                }
            });
            statements.collect::<Vec<_>>().join(";")
        };
        stage.server.execute_batch(&work(&mut rng, "server")).unwrap();
        stage.server.execute_batch("CREATE TABLE mark(x)").unwrap();
        // Who checkpoints would wait for the pin.
        let local = stage.local();
        local.busy_timeout(std::time::Duration::ZERO).unwrap();
        local.execute_batch(&work(&mut rng, "mine")).unwrap();
        drop(local);
        engine.track().unwrap();
        let incoming = stage.incoming(&engine);
        engine.at = Some(Box::new(move |at| assert!(at != point, "killed at {at:?}")));
        let killed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| engine.apply(&incoming)));
        assert!(killed.is_err(), "{point:?}");
        drop(engine);
        let is_applied = point == Point::Committed;
        let afterwards = work(&mut rng, "later");
        stage.local().execute_batch(&afterwards).unwrap();
        let told = stage.try_open().map(|engine| engine.state().base.revision.as_deref() == Some("r2"));
        assert!(
            matches!(told, Ok(told) if told == is_applied),
            "round {round}, {point:?}: {told:?} after {afterwards}"
        );
    }
}

#[test]
fn what_is_committed_while_no_sync_runs_is_in_the_wal_if_the_file_is_what_it_was() {
    for afterwards in ["SELECT 1", "PRAGMA wal_checkpoint(PASSIVE)", "PRAGMA wal_checkpoint(TRUNCATE)"] {
        for commits in [1, 2] {
            let mut stage = Stage::new(TABLE);
            stage.server.execute_batch(&rows(300)).unwrap();
            let mut engine = stage.engine();
            stage.pull(&mut engine);
            let local = stage.local();
            local.execute_batch("PRAGMA wal_autocheckpoint=0; UPDATE t SET v = 'one' WHERE k = 5").unwrap();
            // The next one who writes begins the WAL anew.
            engine.checkpoint().unwrap();
            assert!(engine.pinned.is_loose());
            drop(engine);
            for _ in 0..commits {
                local.execute_batch("UPDATE t SET v = v || 'two' WHERE k IN (5, 200)").unwrap();
            }
            local.execute_batch(afterwards).unwrap();
            let mut engine = stage.open();
            // Where pages are compared they are not counted.
            let is_read = afterwards == "SELECT 1";
            assert_eq!(engine.commits, if is_read { commits } else { 2 }, "{afterwards}");
            if !is_read {
                // What pages were is gone: the server is asked for it.
                assert_eq!(engine.unpushed().unwrap(), None, "{afterwards}");
                continue;
            }
            assert_eq!(engine.unpushed().unwrap(), Some(2), "{afterwards}");
            stage.server.execute_batch("UPDATE t SET v = 'server' WHERE k = 100").unwrap();
            stage.pull(&mut engine);
            let sql = "SELECT sum(k) FROM t WHERE v IN ('onetwo', 'onetwotwo', 'server') OR v LIKE '%two'";
            let sum: i64 = local.query_row(sql, [], |row| row.get(0)).unwrap();
            assert_eq!(sum, 305, "{afterwards}");
        }
    }
}
