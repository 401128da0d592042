//! Local work on pages of its own stays where it is, and that comes to the same as a replay of all of it.

use super::*;

const SCHEMA: &str = "
    CREATE TABLE plain(k INTEGER PRIMARY KEY, n, v);
    CREATE TABLE hidden(k, n, v);
    CREATE TABLE sorted(k PRIMARY KEY, n, v) WITHOUT ROWID;
    CREATE TABLE indexed(k INTEGER PRIMARY KEY, n UNIQUE, v);
    CREATE TABLE counted(k INTEGER PRIMARY KEY AUTOINCREMENT, n, v);
    CREATE TABLE parent(k INTEGER PRIMARY KEY, n, v);
    CREATE TABLE child(k INTEGER PRIMARY KEY, n REFERENCES parent(k), v);";
const TABLES: [&str; 7] = ["plain", "hidden", "sorted", "indexed", "counted", "parent", "child"];
const ROWS: u64 = 300;

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

/// One statement; what constraints forbid is left out. Mostly rows keep their length, and so pages their places.
fn statement(random: &mut Random, mark: &str) -> String {
    let table = TABLES[random.below(TABLES.len() as u64) as usize];
    let (k, n) = (1 + random.below(ROWS), random.below(2 * ROWS));
    match random.below(20) {
        0..=6 => format!("UPDATE OR IGNORE {table} SET v = '{mark}' || substr(v, 5) WHERE k = {k}"),
        7..=9 => format!(
            "UPDATE OR IGNORE {table} SET v = '{mark}' || substr(v, 5) WHERE k BETWEEN {k} AND {k} + 40"
        ),
        10..=11 => format!("UPDATE OR IGNORE {table} SET n = {n} WHERE k = {k}"),
        12..=13 => format!("DELETE FROM {table} WHERE k = {k}"),
        14..=15 => format!("INSERT OR IGNORE INTO {table} VALUES ({k}, {n}, printf('{mark}%.*c', 180, 'i'))"),
        16 => format!("INSERT OR IGNORE INTO {table} VALUES ({ROWS} + {n}, {n}, '{mark} new')"),
        17 => format!("UPDATE OR IGNORE {table} SET v = printf('{mark}%.*c', 9000, 'o') WHERE k = {k}"),
        18 => format!("UPDATE OR IGNORE {table} SET v = '{mark} short' WHERE k = {k}"),
        _ => format!("DELETE FROM {table} WHERE k BETWEEN {k} AND {k} + 30"),
    }
}

fn work(db: &Connection, random: &mut Random, mark: &str) {
    db.execute_batch("PRAGMA foreign_keys=ON").unwrap();
    for _ in 0..=random.below(6) {
        let _ = db.execute_batch(&statement(random, mark));
    }
}

fn content(db: &Connection) -> Vec<String> {
    let mut rows = Vec::new();
    for table in TABLES {
        let mut statement = db
            .prepare(&format!("SELECT quote(k), quote(n), quote(v) FROM {table} ORDER BY 1, 2, 3"))
            .unwrap();
        let found = statement.query_map([], |row| {
            let [k, n, v]: [String; 3] = [row.get(0)?, row.get(1)?, row.get(2)?];
            Ok(format!("{table}|{k}|{n}|{v}"))
        });
        rows.extend(found.unwrap().map(Result::unwrap));
    }
    rows
}

/// A server, and a copy of it that has pulled all.
fn stage(whole: bool) -> (Stage, Engine) {
    let mut stage = Stage::new(SCHEMA);
    for table in TABLES {
        stage
            .server
            .execute_batch(&format!(
                "WITH RECURSIVE i(k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM i WHERE k < {ROWS})
                 INSERT INTO {table} SELECT k, k, printf('0000%.*c', 180, 'v') FROM i"
            ))
            .unwrap();
    }
    let mut engine = stage.engine();
    engine.is_replaying_all = whole;
    stage.pull(&mut engine);
    (stage, engine)
}

/// The pages that the server has changed since, as what an engine pulls.
fn changes(stage: &mut Stage, engine: &Engine) -> Arc<Incoming> {
    stage.revisions += 1;
    let image = stage.image();
    let since = engine.state().base.revision.clone();
    let pages = (image.len() / 4096) as u32;
    let revision = format!("r{}", stage.revisions);
    let mut incoming =
        Incoming::new(stage.dir.path(), PageSize::DEFAULT, pages, revision, since, false).unwrap();
    let mut map = PageMap::new(engine.sidecar.db());
    for (index, page) in image.chunks_exact(4096).enumerate() {
        let pgno = Pgno::from_index(index as u32);
        if map.get(pgno).unwrap() != Some(hash_of(pgno, page)) {
            incoming.put(pgno, page).unwrap();
        }
    }
    incoming.finish().unwrap();
    Arc::new(incoming)
}

fn pull(stage: &mut Stage, engine: &mut Engine) -> u64 {
    let incoming = changes(stage, engine);
    match engine.apply(&incoming).unwrap() {
        Applied::Done { conflicts, .. } => conflicts,
        other => panic!("{other:?}"),
    }
}

/// All pages of the base are there, and are what the server has.
fn assert_base(stage: &Stage, engine: &mut Engine, what: &str) {
    assert!(engine.missing().unwrap().is_empty(), "{what}");
    let image = stage.image();
    let current = engine.current().unwrap();
    let mut base = engine.base_image(&current).unwrap();
    let mut page = vec![0; 4096];
    for (index, expected) in image.chunks_exact(4096).enumerate() {
        let pgno = Pgno::from_index(index as u32);
        assert!(base.read(pgno, &mut page), "{what}: page {pgno}");
        assert_eq!(hash_of(pgno, &page), hash_of(pgno, expected), "{what}: page {pgno}");
    }
}

fn of_pages(engine: &mut Engine, incoming: &Incoming) -> RoaringBitmap {
    let current = engine.current().unwrap();
    engine.apart(&current, &Since::Base, incoming).unwrap()
}

/// More of them: `AQUIFER_APART_CASES`.
#[test]
fn what_stays_in_its_place_is_what_a_replay_comes_to() {
    let cases = std::env::var("AQUIFER_APART_CASES").ok().map_or(12, |cases| cases.parse().unwrap());
    let mut stayed = 0;
    for seed in 0..cases {
        let (mut stages, mut engines): (Vec<_>, Vec<_>) = [false, true].map(stage).into_iter().unzip();
        for round in 0..4 {
            let what = format!("seed {seed}, round {round}");
            let mut results = Vec::new();
            for (stage, engine) in stages.iter_mut().zip(&mut engines) {
                let mut random = Random(seed * 1000 + round);
                work(&stage.server, &mut random, &format!("s{round:03}"));
                work(&stage.local(), &mut random, &format!("l{round:03}"));
                let incoming = changes(stage, engine);
                stayed += of_pages(engine, &incoming).len();
                let conflicts = pull(stage, engine);
                assert_base(stage, engine, &what);
                let local = stage.local();
                let check: String = local.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
                assert_eq!(check, "ok", "{what}");
                results.push((content(&local), conflicts, engine.unpushed().unwrap()));
            }
            assert_eq!(results[0], results[1], "{what}");
        }
    }
    assert!(stayed > cases, "{stayed}");
}

#[test]
fn pages_stay_that_nobody_else_has_to_do_with() {
    let local_and_remote = [
        ("UPDATE plain SET n = 0 WHERE k = 5", "UPDATE plain SET n = 0 WHERE k = 290", 1),
        ("UPDATE plain SET n = 0 WHERE k IN (5, 150)", "UPDATE plain SET n = 1 WHERE k = 6", 1),
        ("UPDATE plain SET n = 0 WHERE k IN (5, 150)", "UPDATE child SET v = 1 WHERE k = 6", 2),
        ("UPDATE sorted SET v = substr(v, 2) WHERE k = 5", "UPDATE plain SET n = 0 WHERE k = 5", 1),
        ("DELETE FROM hidden WHERE k = 5", "DELETE FROM hidden WHERE k = 250", 1),
        // The row and its entry.
        ("UPDATE indexed SET n = 0 WHERE k = 5", "UPDATE plain SET n = 0 WHERE k = 5", 2),
        // Rows of which the index has several on one page.
        ("UPDATE indexed SET n = 0 WHERE k = 5", "UPDATE indexed SET n = -1 WHERE k = 290", 0),
        ("UPDATE counted SET n = 0 WHERE k = 5", "UPDATE plain SET n = 0 WHERE k = 5", 0),
        ("UPDATE child SET v = 0 WHERE k = 5", "UPDATE plain SET n = 0 WHERE k = 5", 0),
        ("UPDATE parent SET v = 0 WHERE k = 5", "UPDATE plain SET n = 0 WHERE k = 5", 0),
        // Pages are taken.
        ("UPDATE plain SET v = zeroblob(9000) WHERE k = 5", "UPDATE plain SET n = 0 WHERE k = 290", 0),
        ("UPDATE plain SET n = 0 WHERE k = 5", "UPDATE plain SET v = zeroblob(9000) WHERE k = 290", 0),
        ("UPDATE plain SET n = 0 WHERE k = 5", "DELETE FROM plain WHERE k > 100", 0),
        ("UPDATE plain SET n = 0 WHERE k = 5", "CREATE VIEW w AS SELECT 1", 0),
        ("UPDATE plain SET n = 0 WHERE k = 5", "VACUUM", 0),
    ];
    for (local, remote, expected) in local_and_remote {
        let (mut stage, mut engine) = stage(false);
        stage.local().execute_batch(local).unwrap();
        stage.server.execute_batch(remote).unwrap();
        let incoming = changes(&mut stage, &engine);
        assert_eq!(of_pages(&mut engine, &incoming).len(), expected, "{local}; {remote}");
    }
}

#[test]
fn a_row_whose_other_columns_are_on_pages_of_their_own_is_merged() {
    // Such a row changes on either side without its own page.
    let (mut stage, mut engine) = stage(false);
    let long = "UPDATE plain SET v = printf('%.*c', 9000, 'a') WHERE k = 5";
    stage.server.execute_batch(long).unwrap();
    pull(&mut stage, &mut engine);
    stage
        .server
        .execute_batch("UPDATE plain SET v = printf('%.*c%.*c', 4500, 'a', 4500, 'b') WHERE k = 5")
        .unwrap();
    stage.local().execute_batch("UPDATE plain SET n = 7 WHERE k = 5").unwrap();
    let incoming = changes(&mut stage, &engine);
    assert!(of_pages(&mut engine, &incoming).is_empty());
    pull(&mut stage, &mut engine);
    let row = "SELECT n, substr(v, -1) FROM plain WHERE k = 5";
    let row = stage.local().query_row(row, [], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)));
    assert_eq!(row.unwrap(), (7, "b".to_owned()));
}

#[test]
fn what_pages_were_before_stays_with_them_however_a_pull_ends() {
    for point in [Point::Staged, Point::Written, Point::Committed, Point::Promoted] {
        let (mut stage, mut engine) = stage(false);
        stage.local().execute_batch("UPDATE plain SET n = 0 WHERE k IN (5, 150)").unwrap();
        stage.server.execute_batch("UPDATE plain SET n = 1 WHERE k = 290").unwrap();
        let incoming = changes(&mut stage, &engine);
        assert_eq!(of_pages(&mut engine, &incoming).len(), 2);
        engine.at = Some(Box::new(move |at| assert!(at != point, "killed at {at:?}")));
        let killed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| engine.apply(&incoming)));
        assert!(killed.is_err(), "{point:?}");
        drop(engine);
        let mut engine = stage.open();
        pull(&mut stage, &mut engine);
        assert_base(&stage, &mut engine, &format!("{point:?}"));
        assert_eq!(engine.unpushed().unwrap(), Some(2), "{point:?}");
        stage.server.execute_batch("UPDATE plain SET n = 0 WHERE k IN (5, 150)").unwrap();
        pull(&mut stage, &mut engine);
        assert_eq!(engine.unpushed().unwrap(), Some(0), "{point:?}");
        assert!(engine.changed.is_empty(), "{point:?}");
        assert!(engine.pre_images().pages(engine.sidecar.db()).unwrap().is_empty(), "{point:?}");
    }
}
