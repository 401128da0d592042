//! A database of 1 GB: with nothing to do, with rows to push, and with pages to pull under rows of its own.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use aquifer_client::{Builder, Database};
use rusqlite::Connection;
use rustix::time::{ClockId, clock_gettime};

use super::super::process::aquifer;
use super::super::table::{Limit, Table};
use super::super::{Result, median};
use super::copy::{Copy, Synced};
use super::turso::{PACKAGE, Turso};

const BYTES: u64 = 1_000_000_000;
const CHANGED: u64 = 10_000;
const ROUNDS: usize = 3;
/// Syncs of an open database with nothing to do.
const SYNCS: u32 = 100;
const PAGE: usize = 4096;
const MEMORY: Limit = Limit::AtMost(128.0);

/// Rows that are changed: every so many, from the first on.
struct Rows {
    first: u64,
    step: u64,
}

pub(in super::super) fn run(dir: &Path, table: &mut Table) -> Result<()> {
    let copy = Copy::new(&aquifer()?, dir, BYTES)?;
    // Its connection stays open, and moves no WAL by itself: who closes the last one moves it, and forgets the base.
    let app = Connection::open(&copy.file)?;
    app.execute_batch("PRAGMA synchronous=NORMAL; PRAGMA wal_autocheckpoint=0")?;
    let rows = app.query_row("SELECT max(k) FROM kv", [], |row| row.get::<_, i64>(0))?.cast_unsigned();
    let turso = Turso::install(dir)?;
    if turso.is_none() {
        eprintln!("  {PACKAGE} cannot be installed: what it would take is left out");
    }
    idle(&copy, &app, table)?;
    let step = rows / CHANGED - 1;
    push(&copy, &app, turso.as_ref(), step, table)?;
    pull(&copy, &app, turso.as_ref(), step, dir, table)?;
    copy.server.stop()
}

fn idle(copy: &Copy, app: &Connection, table: &mut Table) -> Result<()> {
    let bench = "sync-idle";
    // The whole program, after an application has written and all was pushed.
    app.execute("UPDATE kv SET n = n + 1 WHERE k = 1", [])?;
    copy.sync(&[])?;
    copy.sync(&[])?;
    let mut walls = Vec::new();
    for _ in 0..ROUNDS {
        walls.push(copy.sync(&[])?.taken.wall.as_secs_f64() * 1000.0);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let (requests, cpu) = runtime.block_on(async {
        let database = Builder::new(&copy.file).remote(copy.url()).open().await?;
        nothing(&database).await?;
        let before = cpu();
        let mut requests = 0;
        for _ in 0..SYNCS {
            requests = requests.max(nothing(&database).await?);
        }
        Ok::<_, Box<dyn std::error::Error>>((requests, cpu().saturating_sub(before)))
    })?;
    table.limited(bench, "1 GB: requests of a sync", requests as f64, "", Limit::AtMost(2.0));
    let cpu = cpu.as_secs_f64() * 1000.0 / f64::from(SYNCS);
    table.limited(bench, "1 GB: CPU of a sync", cpu, " ms", Limit::AtMost(5.0));
    table.plain(bench, "1 GB: aquifer sync as a program, from start to end", median(&mut walls), " ms");
    Ok(())
}

/// A sync that finds nothing to do; how many requests it was.
async fn nothing(database: &Database) -> Result<u64> {
    let synced = database.sync().await?.online()?;
    if synced.pushed + synced.pulled > 0 {
        return Err(format!("there was something to do: {synced:?}").into());
    }
    Ok(synced.requests)
}

/// CPU time of this process.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.cast_unsigned(), time.tv_nsec as u32)
}

fn push(copy: &Copy, app: &Connection, turso: Option<&Turso>, step: u64, table: &mut Table) -> Result<()> {
    let bench = "sync-push";
    let mut peak = 0.0_f64;
    let mut rates = Vec::new();
    for (name, step) in [("side by side", 1), ("each on a page of its own", step)] {
        let (mut prepare, mut whole, mut send) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..ROUNDS as u64 {
            change(app, &Rows { first: 1 + round, step })?;
            let synced = copy.sync(&["--push-only"])?;
            expect(synced.count("pushed")?, CHANGED as f64, "rows pushed")?;
            prepare.push(synced.took("prepare")?);
            send.push(synced.took("send")?);
            whole.push(synced.taken.wall.as_secs_f64());
            peak = peak.max(synced.mebibytes());
            // What was pushed is the base from then on, and the WAL is moved.
            peak = peak.max(copy.sync(&[])?.mebibytes());
        }
        let what = |what| format!("{CHANGED} rows of 1 GB, {name}: {what}");
        table.limited(bench, &what("preparation"), median(&mut prepare), " ms", Limit::AtMost(1000.0));
        table.plain(bench, &what("sending, until it is durable"), median(&mut send), " ms");
        let rate = CHANGED as f64 / median(&mut whole);
        table.plain(bench, &what("end to end, with the program's start"), rate, " rows/s");
        let rate = CHANGED as f64 / push_open(copy, app, step)?;
        table.plain(bench, &what("end to end, of a database that is open"), rate, " rows/s");
        rates.push((name, step, rate));
    }
    table.limited(bench, "peak memory", peak, " MiB", MEMORY);
    let Some(turso) = turso else { return Ok(()) };
    for (name, step, ours) in rates {
        let (mut seconds, mut theirs_peak) = (Vec::new(), 0);
        for round in 0..ROUNDS as u64 {
            let (took, taken) = turso.run(&copy.url(), "push", 7 + round, step, CHANGED)?;
            seconds.push(took);
            theirs_peak = theirs_peak.max(taken.peak);
        }
        let theirs = CHANGED as f64 / median(&mut seconds);
        let what = format!("{CHANGED} rows of 1 GB, {name}: of {PACKAGE}");
        table.limited(bench, &what, ours / theirs, "x", Limit::AtLeast(2.0));
        table.plain(bench, &format!("{what}: rows"), theirs, " rows/s");
        table.plain(
            bench,
            &format!("{what}: its peak memory"),
            theirs_peak as f64 / f64::from(1 << 20),
            " MiB",
        );
    }
    copy.sync(&[])?;
    Ok(())
}

/// Seconds that a push takes where the database is open already: what Turso's client is measured by. The rows are changed
/// right before, so that looking for them is a part of it.
fn push_open(copy: &Copy, app: &Connection, step: u64) -> Result<f64> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let database = Builder::new(&copy.file).remote(copy.url()).open().await?;
        let mut seconds = Vec::new();
        for round in 0..ROUNDS as u64 {
            change(app, &Rows { first: 11 + round, step })?;
            let begun = Instant::now();
            let synced = database.push().await?;
            seconds.push(begun.elapsed().as_secs_f64());
            expect(synced.pushed as f64, CHANGED as f64, "rows pushed")?;
            database.sync().await?.online()?;
        }
        Ok(median(&mut seconds))
    })
}

fn pull(
    copy: &Copy,
    app: &Connection,
    turso: Option<&Turso>,
    step: u64,
    dir: &Path,
    table: &mut Table,
) -> Result<()> {
    let bench = "sync-pull";
    let mut peak = 0.0_f64;
    let mut copied = copies(dir)?;
    let copied = median(&mut copied) * 1000.0;
    table.plain(bench, &format!("{CHANGED} pages: writing them to a file, with fsync"), copied, " ms");
    for (name, local) in [("no", None), ("side by side", Some(1)), ("each on a page of its own", Some(step))]
    {
        let (mut apply, mut fetch) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS as u64 {
            change_there(copy, &Rows { first: step / 2 + round, step })?;
            if let Some(step) = local {
                change(app, &Rows { first: 1 + round, step })?;
            }
            let synced = copy.sync(&["--pull-only"])?;
            // Rows at the end of a page share it with the next one now and then.
            expect(synced.count("pulled_pages")?, CHANGED as f64 * 0.95, "pages pulled")?;
            apply.push(synced.took("apply")?);
            fetch.push(synced.took("fetch")?);
            peak = peak.max(synced.mebibytes());
            pushed(copy)?;
        }
        let what = match local {
            None => format!("{CHANGED} remote pages, no local rows"),
            Some(_) => format!("{CHANGED} remote pages, {CHANGED} local rows {name}"),
        };
        table.plain(bench, &format!("{what}: fetching"), median(&mut fetch), " ms");
        let apply = median(&mut apply);
        table.plain(bench, &format!("{what}: rebase and apply"), apply, " ms");
        let what = format!("{what}: rebase and apply, of writing the pages");
        match local {
            None => table.plain(bench, &what, apply / copied, "x"),
            Some(_) => table.limited(bench, &what, apply / copied, "x", Limit::AtMost(3.0)),
        }
    }
    table.limited(bench, "peak memory", peak, " MiB", MEMORY);
    let Some(turso) = turso else { return Ok(()) };
    turso.run(&copy.url(), "pull", 7, 1, 1)?;
    change_there(copy, &Rows { first: step / 2 + 7, step })?;
    let (seconds, taken) = turso.run(&copy.url(), "pull", 9, step, CHANGED)?;
    let what = format!(
        "{CHANGED} remote pages, {CHANGED} local rows each on a page of its own: {PACKAGE}, with fetching"
    );
    table.plain(bench, &what, seconds * 1000.0, " ms");
    table.plain(bench, &format!("{what}: its peak memory"), taken.peak as f64 / f64::from(1 << 20), " MiB");
    Ok(())
}

/// Pushes what was rebased, so that the next round begins with a database that has nothing of its own.
fn pushed(copy: &Copy) -> Result<Synced> {
    copy.sync(&[])?;
    copy.sync(&[])
}

/// An application changes rows, in one transaction.
fn change(app: &Connection, rows: &Rows) -> Result<()> {
    let changed = app.execute(&statement(rows), [])?;
    expect(changed as f64, CHANGED as f64, "rows changed")
}

/// Another client changes rows.
fn change_there(copy: &Copy, rows: &Rows) -> Result<()> {
    copy.execute(&statement(rows))
}

fn statement(Rows { first, step }: &Rows) -> String {
    format!(
        "WITH RECURSIVE chosen(k) AS (SELECT {first} UNION ALL SELECT k + {step} FROM chosen LIMIT {CHANGED}) \
         UPDATE kv SET n = n + 1 WHERE k IN chosen"
    )
}

fn expect(found: f64, at_least: f64, what: &str) -> Result<()> {
    if found < at_least { Err(format!("{found} {what} instead of {at_least}").into()) } else { Ok(()) }
}

/// Seconds to write as many bytes as the pages have, and to flush them.
fn copies(dir: &Path) -> Result<Vec<f64>> {
    let (path, page) = (dir.join("pages"), vec![0xa5; PAGE]);
    let mut times = Vec::new();
    for _ in 0..5 {
        let started = Instant::now();
        let mut file = File::create(&path)?;
        for _ in 0..CHANGED {
            file.write_all(&page)?;
        }
        file.sync_all()?;
        times.push(started.elapsed().as_secs_f64());
        std::fs::remove_file(&path)?;
    }
    Ok(times)
}
