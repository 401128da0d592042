//! Two copies of a server's database, both written to and synced; everything is killed, round after round.
//!
//! At every moment each copy has, of each application, exactly what its first n transactions leave behind: nothing
//! twice, nothing half, nothing that was deleted. In the end n is the last one that was committed.

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use aquifer_testkit::app::{AppOptions, AppProcess, Language, Mix, check_log};
use aquifer_testkit::workload::Rng;
use rusqlite::types::Value;
use rusqlite::{Connection, Transaction};

use crate::life::{Epitaph, pause};
use crate::stage::{kill_app, kills};
use crate::synced::{Cloud, Machine};

/// Longer than anything here takes on a loaded machine.
const PATIENCE: Duration = Duration::from_mins(2);

const EVENTS: [&str; 8] = [
    "a sync dies",
    "the server dies",
    "a sync and the server die",
    "an application dies",
    "a machine dies",
    "everything dies",
    "a sync is waited for",
    "a machine is lost",
];

pub(crate) fn live(seed: u64, rounds: u64) {
    let mut rng = Rng::new(seed);
    let mut cloud = Cloud::new(seed);
    let mut machines = [Machine::new(&cloud, "a"), Machine::new(&cloud, "b")];
    let mut epitaph = Epitaph { seed, rounds, round: 0, what: "at the start" };
    machines[0].found();
    for machine in &mut machines {
        eventually("the first sync", || machine.sync_now(&cloud));
    }
    for round in 0..rounds {
        let event = rng.below(EVENTS.len() as u64) as usize;
        (epitaph.round, epitaph.what) = (round, EVENTS[event]);
        let before = kills();
        for machine in &mut machines {
            machine.sync(&cloud, !rng.one_in(3));
            machine.write(rng.next_u64());
        }
        if rng.one_in(2) {
            burst(&machines[0].file, &mut rng);
        }
        pause(&mut rng);
        play(&mut cloud, &mut machines, &mut rng, event);
        check(&machines[rng.below(2) as usize].file);
        eprintln!("seed {seed}, round {round}: {}, {} killed", EVENTS[event], kills() - before);
    }
    epitaph.what = "at the end";
    end(&cloud, &mut machines);
}

/// Another application, whose transactions are large and whose schema changes, for a moment.
fn burst(file: &Path, rng: &mut Rng) {
    let options = AppOptions {
        seed: rng.next_u64(),
        mix: Mix::Hostile,
        busy_timeout_ms: 60_000,
        ..AppOptions::default()
    };
    let mut app = AppProcess::start(Language::Rust, file, &options).unwrap();
    app.run().unwrap();
    thread::sleep(Duration::from_millis(rng.range(1, 60)));
    let acknowledged = kill_app(app);
    let n = check_log(file).unwrap();
    assert!(n >= acknowledged, "the database has {n} of {acknowledged}");
}

fn play(cloud: &mut Cloud, machines: &mut [Machine; 2], rng: &mut Rng, event: usize) {
    let other_disk = rng.one_in(2);
    let machine = &mut machines[rng.below(2) as usize];
    match event {
        0 => machine.kill_sync(),
        1 => {
            cloud.kill();
            pause(rng);
            cloud.start(other_disk);
        }
        2 => {
            machine.kill_sync();
            cloud.kill();
            cloud.start(other_disk);
        }
        3 => machine.kill_writer(),
        4 => {
            machine.kill_sync();
            machine.kill_writer();
        }
        5 => {
            cloud.kill();
            for machine in machines {
                machine.kill_sync();
                machine.kill_writer();
            }
            cloud.start(other_disk);
        }
        6 => {
            machine.sync_now(cloud);
        }
        _ => {
            machine.lose();
            eventually("fetched again", || machine.sync_now(cloud));
        }
    }
}

/// Everybody has everything, once, and a copy that is made now as well.
fn end(cloud: &Cloud, machines: &mut [Machine; 2]) {
    cloud.calm();
    for machine in &mut *machines {
        machine.kill_writer();
        machine.kill_sync();
    }
    for _ in 0..2 {
        for machine in &mut *machines {
            eventually("synced", || machine.sync_now(cloud));
        }
    }
    let mut fresh = Machine::new(cloud, "fresh");
    eventually("synced", || fresh.sync_now(cloud));
    let expected = dump(&fresh.file);
    let latest = check(&fresh.file);
    for machine in machines {
        let found = dump(&machine.file);
        for (table, rows) in &expected {
            assert_eq!(found.get(table), Some(rows), "{table} in {}", machine.file.display());
        }
        assert_eq!(found.len(), expected.len());
        for author in &machine.authors {
            let n = latest.get(&author.who).copied().unwrap_or(0);
            let least = if author.is_lost { author.pushed } else { author.acknowledged };
            assert!((least..=author.acknowledged + 1).contains(&n), "{n} of {author:?}");
        }
    }
}

/// Checks that a copy has whole transactions of each application, each once. Returns the last of each.
fn check(file: &Path) -> BTreeMap<String, u64> {
    check_log(file).unwrap();
    let mut db = Connection::open(file).unwrap();
    db.busy_timeout(PATIENCE).unwrap();
    let snapshot = db.transaction().unwrap();
    let latest = rows(&snapshot, "SELECT who, n FROM latest");
    let latest: BTreeMap<String, u64> = latest
        .into_iter()
        .map(|row| match &row[..] {
            [Value::Text(who), Value::Integer(n)] => (who.clone(), *n as u64),
            other => panic!("{other:?} in latest"),
        })
        .collect();
    let mut lines = Vec::new();
    let mut recent = Vec::new();
    for (who, last) in &latest {
        let row = |n: u64| vec![Value::Text(who.clone()), Value::Integer(n as i64)];
        for n in 1..=*last {
            lines.extend((0..=n % 3).map(|part| [row(n), vec![Value::Integer(part as i64)]].concat()));
        }
        recent.extend((1.max(last.saturating_sub(4))..=*last).map(row));
    }
    let found = rows(&snapshot, "SELECT who, n, part FROM line ORDER BY 1, 2, 3");
    assert_same("line", &found, &lines);
    assert_same("recent", &rows(&snapshot, "SELECT who, n FROM recent ORDER BY 1, 2"), &recent);
    latest
}

fn assert_same(table: &str, found: &[Vec<Value>], expected: &[Vec<Value>]) {
    if found != expected {
        let lost: Vec<_> = expected.iter().filter(|row| !found.contains(row)).collect();
        let new: Vec<_> = found.iter().filter(|row| !expected.contains(row)).collect();
        let twice: Vec<_> = found.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| &pair[0]).collect();
        panic!("{table}: lost {lost:?}, twice {twice:?}, not to be there {new:?}");
    }
}

fn rows(db: &Transaction<'_>, sql: &str) -> Vec<Vec<Value>> {
    let mut statement = db.prepare(sql).unwrap();
    let columns = statement.column_count();
    let found = statement.query_map([], |row| (0..columns).map(|at| row.get(at)).collect());
    found.unwrap().map(Result::unwrap).collect()
}

/// All rows of all tables that are synced, in an order that does not depend on where they are.
fn dump(file: &Path) -> BTreeMap<String, Vec<String>> {
    let mut db = Connection::open(file).unwrap();
    let snapshot = db.transaction().unwrap();
    let schema =
        "SELECT name, type, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%' AND name <> 'aquifer_sync'";
    let mut dump = BTreeMap::new();
    for object in rows(&snapshot, schema) {
        let [Value::Text(name), Value::Text(kind), sql] = &object[..] else { panic!("{object:?}") };
        let mut content = vec![format!("{sql:?}")];
        if kind == "table" {
            content.extend(
                rows(&snapshot, &format!("SELECT * FROM \"{name}\"")).iter().map(|r| format!("{r:?}")),
            );
        }
        content.sort();
        dump.insert(name.clone(), content);
    }
    dump
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}
