//! Several copies that are changed at random, and synced at random, become the same.

use std::num::NonZeroU64;

use aquifer_client::{Database, Protocol};
use proptest::prelude::*;

use crate::world::{Peer, World, local, peers};

const SCHEMA: [&str; 3] =
    ["CREATE TABLE t(k INTEGER PRIMARY KEY, a, b)", "CREATE TABLE log(line)", "CREATE INDEX i ON t(b)"];
const NAMES: &str = "CREATE TABLE names(name TEXT PRIMARY KEY COLLATE NOCASE, n UNIQUE)";

#[derive(Debug, Clone)]
enum Step {
    Sync,
    Push,
    Pull,
    Reopen,
    Checkpoint,
    Insert(u8),
    UpdateA(u8),
    UpdateB(u8),
    Delete(u8),
    Name(u8, u8),
    Rename(u8, u8),
    Log,
    Many,
    Column,
    Vacuum,
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0..12_u8;
    prop_oneof![
        3 => Just(Step::Sync),
        1 => Just(Step::Push),
        1 => Just(Step::Pull),
        1 => Just(Step::Reopen),
        1 => Just(Step::Checkpoint),
        3 => key.clone().prop_map(Step::Insert),
        2 => key.clone().prop_map(Step::UpdateA),
        2 => key.clone().prop_map(Step::UpdateB),
        2 => key.clone().prop_map(Step::Delete),
        2 => (key.clone(), key.clone()).prop_map(|(a, b)| Step::Name(a, b)),
        1 => (key.clone(), key).prop_map(|(a, b)| Step::Rename(a, b)),
        3 => Just(Step::Log),
        1 => Just(Step::Many),
        1 => Just(Step::Column),
        1 => Just(Step::Vacuum),
    ]
}

async fn take(world: &World, db: &mut Database, who: usize, at: usize, step: &Step) {
    let mark = format!("{who}.{at}");
    let sql = match step {
        Step::Sync => return drop(db.sync().await.unwrap().online().unwrap()),
        Step::Push => return drop(db.push().await.unwrap()),
        Step::Pull => return drop(db.pull().await.unwrap()),
        Step::Checkpoint => return db.checkpoint().await.unwrap(),
        Step::Reopen => {
            let name = db.path().file_name().unwrap().to_str().unwrap().to_owned();
            // Only one at a time.
            *db = world.open("spare.db").await;
            *db = open(world, &name).await;
            return;
        }
        Step::Insert(k) => format!("INSERT OR IGNORE INTO t(k, a, b) VALUES ({k}, '{mark}', '{mark}')"),
        Step::UpdateA(k) => format!("UPDATE t SET a = '{mark}' WHERE k = {k}"),
        Step::UpdateB(k) => format!("UPDATE t SET b = '{mark}' WHERE k >= {k}"),
        Step::Delete(k) => format!("DELETE FROM t WHERE k = {k}"),
        Step::Name(name, n) => format!("INSERT OR IGNORE INTO names VALUES ('N{name}', {n})"),
        Step::Rename(from, to) => format!("UPDATE OR IGNORE names SET n = {to} WHERE n = {from}"),
        Step::Log => format!("INSERT INTO log VALUES ('{mark}')"),
        Step::Many => format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200)
             INSERT INTO log SELECT '{mark}.' || i FROM n"
        ),
        Step::Column => "ALTER TABLE t ADD COLUMN more DEFAULT 7".to_owned(),
        Step::Vacuum => "VACUUM".to_owned(),
    };
    // A column that is there already is none of our business.
    let _ = db.connect().unwrap().execute_batch(&sql);
}

/// The first copy pushes a few rows at a time.
async fn open(world: &World, name: &str) -> Database {
    let builder = world.builder(name);
    let is_cut = name == "0.db" && world.protocol != Protocol::Libsql;
    let builder = if is_cut { builder.push_batch_rows(NonZeroU64::new(3).unwrap()) } else { builder };
    builder.open().await.unwrap()
}

fn logged(steps: &[(usize, Step)]) -> usize {
    let lines = |step: &Step| match step {
        Step::Log => 1,
        Step::Many => 200,
        _ => 0,
    };
    steps.iter().map(|(_, step)| lines(step)).sum()
}

async fn converge(peer: Peer, steps: Vec<(usize, Step)>) {
    let world = World::of(peer).await;
    // Turso's engine has no such tables.
    let how = if peer == Peer::Tursodb { "" } else { " WITHOUT ROWID" };
    for sql in SCHEMA.into_iter().chain([format!("{NAMES}{how}").as_str()]) {
        world.on_server(sql).await;
    }
    let mut copies = Vec::new();
    for name in ["0.db", "1.db", "2.db"] {
        copies.push(open(&world, name).await);
    }
    for (at, (who, step)) in steps.iter().enumerate() {
        take(&world, &mut copies[*who], *who, at, step).await;
    }
    for _ in 0..2 {
        for db in &copies {
            db.sync().await.unwrap().online().unwrap();
        }
    }
    let last = world.open("last.db").await;
    for sql in [
        "SELECT * FROM t ORDER BY k",
        "SELECT * FROM names ORDER BY name",
        "SELECT line FROM log ORDER BY line",
        "SELECT name, sql FROM sqlite_schema ORDER BY name",
    ] {
        for db in &copies {
            assert_eq!(local(db, sql), local(&last, sql), "{sql}");
        }
    }
    // Rows without a key never meet.
    assert_eq!(
        local(&last, "SELECT count(DISTINCT line), count(*) FROM log"),
        [format!("{0}|{0}", logged(&steps))]
    );
    for db in &copies {
        assert_eq!(db.stats().await.unwrap().unpushed, Some(0));
    }
}

fn run(peer: Peer, steps: Vec<(usize, Step)>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(converge(peer, steps));
}

fn cases() -> u32 {
    std::env::var("AQUIFER_CONVERGE_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn copies_that_are_synced_become_the_same(steps in proptest::collection::vec((0..3_usize, step()), 1..60)) {
        run(Peer::Aquifer(Protocol::Turso), steps);
    }

    #[test]
    fn copies_that_are_synced_as_pages_become_the_same(steps in proptest::collection::vec((0..3_usize, step()), 1..60)) {
        run(Peer::Aquifer(Protocol::Libsql), steps);
    }

    #[test]
    fn copies_that_are_synced_with_tursos_server_become_the_same(steps in proptest::collection::vec((0..3_usize, step()), 1..60)) {
        if peers().contains(&Peer::Tursodb) {
            run(Peer::Tursodb, steps);
        }
    }
}
