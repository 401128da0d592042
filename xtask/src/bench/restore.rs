//! Restore from a local store, against `cp` followed by fsync of the copy.

use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use aquifer_log::{DatabaseStore, Store, StoreUrl, Target};
use aquifer_replicate::{ReplicaOptions, Replicator, UpkeepOptions};
use aquifer_testkit::workload::{Build, Kind, build};
use rusqlite::Connection;

use super::process::{Taken, aquifer, run as run_process};
use super::table::{Limit, Table};
use super::{Result, median};

const ROUNDS: usize = 3;
const SMALL_COMMITS: usize = 10_000;

pub(super) fn run(dir: &Path, table: &mut Table) -> Result<()> {
    let aquifer = aquifer()?;
    let path = dir.join("app.db");
    build(&path, &Build::new(Kind::Orders, 1 << 30, 1))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let store = dir.join("store");
    runtime.block_on(replicate(&path, &store, 0))?;
    let (copy, restored) = compare(&aquifer, &path, &store, dir)?;
    table.limited("restore", "1 GB, of cp and fsync", restored.0 / copy, "x", Limit::AtMost(1.5));
    table.plain("restore", "1 GB: cp and fsync", copy, " s");
    table.limited(
        "restore",
        "1 GB: peak memory",
        restored.1 as f64 / f64::from(1 << 20),
        " MiB",
        Limit::AtMost(256.0),
    );

    let generation_bytes = size_of(&store)?;
    table.plain(
        "restore",
        "1 GB: bytes in the store per byte of database, level 0",
        share(generation_bytes, &path)?,
        "x",
    );
    runtime.block_on(replicate(&path, &store, SMALL_COMMITS))?;
    let many = repeat(&aquifer, &store, dir)?;
    runtime.block_on(snapshot(&store))?;
    let compacted = repeat(&aquifer, &store, dir)?;
    let what = format!("1 GB and {SMALL_COMMITS} one-row segments, of the compacted replica");
    table.limited("restore", &what, many.0 / compacted.0, "x", Limit::AtMost(1.5));
    let snapshots = size_of(&store)? - generation_bytes;
    table.plain("restore", "1 GB: the same, small segments and a snapshot", share(snapshots, &path)?, "x");
    Ok(())
}

/// Ships what there is, and then so many rows, each as a segment of its own, none of them compacted.
pub(super) async fn replicate(path: &Path, store: &Path, rows: usize) -> Result<()> {
    let upkeep =
        UpkeepOptions { levels: aquifer_log::Levels::NONE, snapshot_share: 0, ..UpkeepOptions::default() };
    let options = ReplicaOptions { upkeep, ..ReplicaOptions::default() };
    let replicator = Replicator::builder(Store::open(&StoreUrl::directory(store))?).options(options).start();
    let name = replicator.add(path, None)?;
    replicator.sync().await?;
    if rows > 0 {
        let app = Connection::open(path)?;
        app.execute_batch(
            "PRAGMA synchronous=OFF; CREATE TABLE IF NOT EXISTS one_row(k INTEGER PRIMARY KEY, v)",
        )?;
        for _ in 0..rows {
            app.execute("INSERT INTO one_row(v) VALUES(randomblob(60))", [])?;
            replicator.sync_database(&name).await?;
        }
    }
    replicator.shutdown().await?;
    Ok(())
}

async fn snapshot(store: &Path) -> Result<()> {
    let database = DatabaseStore::new(Store::open(&StoreUrl::directory(store))?, "app.db".parse()?);
    aquifer_log::snapshot(&database, None, Target::Latest).await?;
    Ok(())
}

/// Alternates copies and restores; the median wall time of each in seconds, and the peak memory of the restores.
fn compare(aquifer: &Path, path: &Path, store: &Path, dir: &Path) -> Result<(f64, (f64, u64))> {
    let (mut copies, mut restores, mut peak) = (Vec::new(), Vec::new(), 0);
    for _ in 0..ROUNDS {
        copies.push(copy(path, &dir.join("copy.db"))?.as_secs_f64());
        let taken = restore(aquifer, store, dir)?;
        restores.push(taken.wall.as_secs_f64());
        peak = peak.max(taken.peak);
    }
    Ok((median(&mut copies), (median(&mut restores), peak)))
}

fn repeat(aquifer: &Path, store: &Path, dir: &Path) -> Result<(f64, u64)> {
    let mut walls = Vec::new();
    let mut peak = 0;
    for _ in 0..ROUNDS {
        let taken = restore(aquifer, store, dir)?;
        walls.push(taken.wall.as_secs_f64());
        peak = peak.max(taken.peak);
    }
    Ok((median(&mut walls), peak))
}

fn copy(from: &Path, to: &Path) -> Result<Duration> {
    let start = Instant::now();
    std::process::Command::new("cp").arg(from).arg(to).status()?;
    File::open(to)?.sync_all()?;
    let taken = start.elapsed();
    std::fs::remove_file(to)?;
    Ok(taken)
}

fn restore(aquifer: &Path, store: &Path, dir: &Path) -> Result<Taken> {
    let to = dir.join("restored.db");
    let arguments = ["restore", "app.db", "--store"].map(OsStr::new);
    let arguments = [&arguments[..], &[store.as_os_str(), OsStr::new("-o"), to.as_os_str()]].concat();
    let taken = run_process(aquifer, &arguments)?;
    std::fs::remove_file(to)?;
    Ok(taken)
}

fn size_of(dir: &Path) -> Result<u64> {
    let mut total = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        total += if metadata.is_dir() { size_of(&entry.path())? } else { metadata.len() };
    }
    Ok(total)
}

fn share(bytes: u64, database: &Path) -> Result<f64> {
    Ok(bytes as f64 / std::fs::metadata(database)?.len() as f64)
}
